package storetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

// Engine is a fresh engine under test.
type Engine[C any] struct {
	// Contract is the engine's Events, Keyed, Blobs or Leases.
	Contract C
	// Reopen closes the engine, opens it again over what it has kept and returns
	// the contract. It is nil where nothing outlives the closing.
	Reopen func(t rapid.TB) C
	// Close ends the engine, also after Reopen. It may be nil.
	Close func(t rapid.TB)
}

// Opener opens a fresh, empty engine whose only clock is now. The suite opens
// one for each statement and for each run of random operations.
type Opener[C any] func(t rapid.TB, now func() taxonomy.Millis) Engine[C]

// bench is one open engine, its clock, and the model to compare it with.
type bench[C any] struct {
	t     rapid.TB
	ctx   context.Context
	clock *Clock
	e     Engine[C]
	got   C // the engine
	want  *Model
}

func (o Opener[C]) open(t rapid.TB) *bench[C] {
	t.Helper()
	b := &bench[C]{t: t, ctx: context.Background(), clock: NewClock(Start)}
	b.e = o(t, b.clock.Now)
	b.got = b.e.Contract
	b.want = NewModel(b.clock.Now)
	return b
}

// reopen closes the engine and opens it again, if it can.
func (b *bench[C]) reopen() {
	if b.e.Reopen != nil {
		b.got = b.e.Reopen(b.t)
	}
}

func (b *bench[C]) close() {
	if b.e.Close != nil {
		b.e.Close(b.t)
	}
}

// check fails the test if err is not nil.
func (b *bench[C]) check(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatalf("unexpected error: %v", err)
	}
}

// statement runs fn on a fresh engine, as a subtest named after what it states.
func statement[C any](t *testing.T, open Opener[C], name string, fn func(b *bench[C])) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		b := open.open(t)
		defer b.close()
		fn(b)
	})
}

// sameErr says whether the engine and the model ended alike: both well, or both
// with the same of the contracts' errors, or both with another error.
func sameErr(got, want error, sentinels ...error) error {
	if (got == nil) != (want == nil) {
		return fmt.Errorf("got error %v, want %v", got, want)
	}
	for _, s := range sentinels {
		if errIs(got, s) != errIs(want, s) {
			return fmt.Errorf("got error %v, want one like %v", got, want)
		}
	}
	return nil
}

// eventBytes is all of an event, in one form, so that events can be compared.
func eventBytes(e *retention.StoredEvent) []byte {
	b := taxonomy.AppendRecord(nil, &e.Record)
	b = append(b, e.Ref.Writer[:]...)
	b = binary.BigEndian.AppendUint64(b, e.Ref.Seq)
	return binary.BigEndian.AppendUint32(b, e.RuleVersion)
}

// cloneEvent returns a copy that shares nothing with e.
func cloneEvent(e *retention.StoredEvent) retention.StoredEvent {
	r, rest, err := taxonomy.DecodeRecord(taxonomy.AppendRecord(nil, &e.Record))
	if err != nil || len(rest) != 0 {
		panic(fmt.Sprintf("a record does not survive its own bytes: %v", err))
	}
	return retention.StoredEvent{Record: r, Ref: e.Ref, RuleVersion: e.RuleVersion}
}

// compareEvents orders by day, visitor, ref.
func compareEvents(a, b retention.StoredEvent) int {
	if a.Day() != b.Day() {
		return cmpInt(a.Day(), b.Day())
	}
	if c := bytes.Compare(a.Record.Visitor[:], b.Record.Visitor[:]); c != 0 {
		return c
	}
	return a.Ref.Compare(b.Ref)
}

// diffEvents says where two lists first differ, or nil.
func diffEvents(got, want []retention.StoredEvent) error {
	for i := range min(len(got), len(want)) {
		if !bytes.Equal(eventBytes(&got[i]), eventBytes(&want[i])) {
			return fmt.Errorf("event %d: got %s, want %s", i, showEvent(&got[i]), showEvent(&want[i]))
		}
	}
	switch {
	case len(got) > len(want):
		return fmt.Errorf("got %d events, want %d; one too many: %s", len(got), len(want), showEvent(&got[len(want)]))
	case len(got) < len(want):
		return fmt.Errorf("got %d events, want %d; missing: %s", len(got), len(want), showEvent(&want[len(got)]))
	}
	return nil
}

func showEvent(e *retention.StoredEvent) string {
	return fmt.Sprintf("{visitor %x… site %s id %x… day %s received %s ref %x…/%d rule %d %+v}", e.Record.Visitor[:3], e.Record.Site,
		e.Record.Event.ID[:3], e.Day(), e.Record.Received, e.Ref.Writer[:2], e.Ref.Seq, e.RuleVersion, *e.Record.Event)
}
