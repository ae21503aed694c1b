package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

// LogEngine is a fresh log under test, as its first writer.
type LogEngine struct {
	Log retention.Log
	// Restart ends the writer as kill -9 would, so that what is not durable may
	// be gone, and returns the log as the next writer has it.
	Restart func(t rapid.TB) retention.Log
	// Close ends the log, also after Restart. It may be nil.
	Close func(t rapid.TB)
}

// LogOpener opens a fresh, empty log whose clock is now.
type LogOpener func(t rapid.TB, now func() taxonomy.Millis) LogEngine

type logBench struct {
	t     rapid.TB
	ctx   context.Context
	clock *Clock
	e     LogEngine
	log   retention.Log
	seq   int // so that no two records are alike
}

func (o LogOpener) open(t rapid.TB) *logBench {
	b := &logBench{t: t, ctx: context.Background(), clock: NewClock(Start)}
	b.e = o(t, b.clock.Now)
	b.log = b.e.Log
	return b
}

func (b *logBench) close() {
	if b.e.Close != nil {
		b.e.Close(b.t)
	}
}

func (b *logBench) check(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatalf("unexpected error: %v", err)
	}
}

// records makes n records of several kinds, none like another.
func (b *logBench) records(n int) []taxonomy.Record {
	rs := make([]taxonomy.Record, n)
	for i := range rs {
		b.seq++
		e := eventAt(Visitor(b.seq%7), b.clock.Now(), b.clock.Now(), b.seq, b.seq)
		rs[i] = e.Record
		switch b.seq % 5 {
		case 1:
			rs[i].Site = "news"
		case 2:
			rs[i] = taxonomy.Record{Kind: taxonomy.RecordCounts, Received: b.clock.Now(), Counts: []taxonomy.Count{
				{Site: "shop", Outcome: taxonomy.Rejected, Reason: taxonomy.ReasonTooOld, N: uint64(b.seq)},
				{Outcome: taxonomy.Rejected, Reason: taxonomy.ReasonUnknownSite, N: 2}}}
		case 3:
			rs[i] = taxonomy.Record{Kind: taxonomy.RecordErasure, Received: b.clock.Now(), Space: taxonomy.SpaceCookie, Visitor: Visitor(b.seq)}
		}
	}
	return rs
}

func (b *logBench) append(group taxonomy.Group, rs []taxonomy.Record, ack retention.Ack) taxonomy.Ref {
	b.t.Helper()
	ref, reached, err := b.log.Append(b.ctx, group, rs, ack)
	b.check(err)
	if reached > ack || ack >= retention.AckLocal && reached < retention.AckLocal {
		b.t.Fatalf("asked for %s, reached %s", ack, reached)
	}
	return ref
}

// follow returns all frames beyond from, asking for few bytes at a time, and
// checks what every frame promises.
func (b *logBench) follow(group taxonomy.Group, from retention.Position) []retention.Frame {
	b.t.Helper()
	var all []retention.Frame
	at := from.Clone()
	times := map[taxonomy.WriterID]taxonomy.Millis{}
	for {
		frames, err := b.log.Follow(b.ctx, group, at, 200)
		b.check(err)
		if len(frames) == 0 {
			return all
		}
		for i := range frames {
			f := &frames[i]
			switch {
			case f.Group != group:
				b.t.Fatalf("a frame of group %d came when following %d", f.Group, group)
			case f.N < 1 || len(f.Records) != f.N || f.Lost:
				b.t.Fatalf("frame of %d to %d: %d records, lost %t", f.First, f.Last(), len(f.Records), f.Lost)
			case f.First > at[f.Writer]+1 || f.Last() <= at[f.Writer]:
				b.t.Fatalf("frame of %d to %d came after %d", f.First, f.Last(), at[f.Writer])
			case f.Time < times[f.Writer]:
				b.t.Fatalf("frame times went back from %s to %s", times[f.Writer], f.Time) // R7
			case !sameCounts(f.Counts, retention.CountSites(f.Records)):
				b.t.Fatalf("frame counts %v, its records %v", f.Counts, retention.CountSites(f.Records))
			}
			times[f.Writer], at[f.Writer] = f.Time, f.Last()
		}
		all = append(all, frames...)
	}
}

func sameCounts(a, b []retention.SiteCount) bool {
	m := map[taxonomy.SiteID]uint64{}
	for _, c := range a {
		m[c.Site] += c.N
	}
	for _, c := range b {
		m[c.Site] -= c.N
	}
	for _, n := range m {
		if n != 0 {
			return false
		}
	}
	return true
}

// recordsOf returns the bytes of the records that frames hold, by writer and
// number.
func recordsOf(frames []retention.Frame) map[taxonomy.Ref][]byte {
	m := map[taxonomy.Ref][]byte{}
	for i := range frames {
		for j := range frames[i].Records {
			m[taxonomy.Ref{Writer: frames[i].Writer, Seq: frames[i].First + uint64(j)}] = taxonomy.AppendRecord(nil, &frames[i].Records[j])
		}
	}
	return m
}

// written is what a test has appended: the bytes of each record by its place.
type written map[taxonomy.Ref][]byte

func (w written) add(ref taxonomy.Ref, rs []taxonomy.Record) {
	for i := range rs {
		w[taxonomy.Ref{Writer: ref.Writer, Seq: ref.Seq + uint64(i)}] = taxonomy.AppendRecord(nil, &rs[i])
	}
}

func (w written) diff(got map[taxonomy.Ref][]byte) error {
	for ref, b := range w {
		if !bytes.Equal(got[ref], b) {
			return fmt.Errorf("record %d of writer %s: got %d bytes, want %d", ref.Seq, ref.Writer, len(got[ref]), len(b))
		}
	}
	if len(got) != len(w) {
		return fmt.Errorf("got %d records, want %d", len(got), len(w))
	}
	return nil
}

// Log tests an engine of retention.Log.
func Log(t *testing.T, open LogOpener) {
	state := func(name string, fn func(b *logBench)) {
		t.Run(name, func(t *testing.T) {
			b := open.open(t)
			defer b.close()
			fn(b)
		})
	}
	t.Run("RandomAppendsRestartsAndTrimsLoseNothingDurable", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) { randomLog(t, open) })
	})
	state("RecordsAreNumberedFromOneWithoutHoles", func(b *logBench) { // R1
		want := written{}
		next := uint64(1)
		for n := 1; n < 8; n++ {
			rs := b.records(n)
			ref := b.append(0, rs, retention.AckLocal)
			if ref.Seq != next {
				b.t.Fatalf("got first number %d, want %d", ref.Seq, next)
			}
			next += uint64(n)
			want.add(ref, rs)
		}
		if err := want.diff(recordsOf(b.follow(0, nil))); err != nil {
			b.t.Fatal(err)
		}
	})
	state("ABatchStandsInOneFrame", func(b *logBench) {
		batches := map[uint64]int{}
		for n := 1; n < 8; n++ {
			batches[b.append(0, b.records(n), retention.AckLocal).Seq] = n
		}
		for _, f := range b.follow(0, nil) {
			for first, n := range batches {
				if f.First <= first && first <= f.Last() && first+uint64(n)-1 > f.Last() {
					b.t.Fatalf("the batch of %d from %d is split by the frame of %d to %d", n, first, f.First, f.Last())
				}
			}
		}
	})
	state("GroupsAreNumberedApart", func(b *logBench) {
		if a, c := b.append(0, b.records(3), retention.AckLocal), b.append(5, b.records(2), retention.AckLocal); a.Seq != 1 || c.Seq != 1 || a.Writer != c.Writer {
			b.t.Fatalf("got %v and %v, want number 1 of one writer in both groups", a, c)
		}
		if got := recordsOf(b.follow(5, nil)); len(got) != 2 {
			b.t.Fatalf("group 5 has %d records, want 2", len(got))
		}
	})
	state("WhatIsDurableOutlivesAKillAndTheNextWriterIsAnother", func(b *logBench) { // P1, R1
		want := written{}
		rs := b.records(3)
		first := b.append(0, rs, retention.AckLocal)
		want.add(first, rs)
		b.log = b.e.Restart(b.t)
		rs = b.records(2)
		second := b.append(0, rs, retention.AckLocal)
		want.add(second, rs)
		if second.Writer == first.Writer || second.Seq != 1 {
			b.t.Fatalf("got %v after a restart, want number 1 of a new writer, not %s", second, first.Writer)
		}
		if err := want.diff(recordsOf(b.follow(0, nil))); err != nil {
			b.t.Fatal(err)
		}
	})
	state("ADurableAppendCarriesAllBeforeIt", func(b *logBench) {
		rs := append(b.records(2), b.records(1)...)
		b.append(0, rs[:2], retention.AckNone)
		b.append(0, rs[2:], retention.AckLocal)
		b.log = b.e.Restart(b.t)
		if got := recordsOf(b.follow(0, nil)); len(got) != 3 {
			b.t.Fatalf("got %d records, want 3", len(got))
		}
	})
	state("FollowingFromAPositionGivesExactlyTheRest", func(b *logBench) {
		w := b.append(0, b.records(3), retention.AckLocal).Writer
		for range 4 {
			b.append(0, b.records(3), retention.AckLocal)
		}
		frames := b.follow(0, nil)
		at := retention.Position{}
		for _, f := range frames {
			at[w] = f.Last()
			if got := recordsOf(b.follow(0, at)); len(got) != 15-int(f.Last()) {
				b.t.Fatalf("beyond %d there are %d records, want %d", f.Last(), len(got), 15-f.Last())
			}
		}
	})
	state("TheLogKeepsNoReferenceAndGivesNone", func(b *logBench) {
		rs := b.records(1)
		want := written{}
		ref := b.append(0, rs, retention.AckNone)
		want.add(ref, rs)
		rs[0].Event, rs[0].Site = nil, "changed"
		b.append(0, b.records(1), retention.AckLocal)
		f := b.follow(0, nil)
		if got := recordsOf(f)[ref]; !bytes.Equal(got, want[ref]) {
			b.t.Fatal("the record changed with the caller's slice")
		}
		f[0].Records[0].Site = "changed"
		if got := recordsOf(b.follow(0, nil))[ref]; !bytes.Equal(got, want[ref]) {
			b.t.Fatal("the record changed with a frame that was given away")
		}
	})
	state("EndSaysHowFarEachWriterIs", func(b *logBench) { // R7, R12
		rs := b.records(6)
		first := b.append(0, rs, retention.AckLocal)
		b.clock.Advance(5 * taxonomy.Second)
		more := b.records(4)
		b.append(0, more, retention.AckLocal)
		e := b.end(0, nil, first.Writer)
		if e.Last != 10 || !e.Open || e.Time != b.clock.Now() || e.Oldest != Start || !sameCounts(e.Unfolded, retention.CountSites(append(slices.Clone(rs), more...))) {
			b.t.Fatalf("got %+v", e)
		}
		at := retention.Position{first.Writer: 6}
		if frames := b.follow(0, nil); frames[0].Last() == 6 {
			if e := b.end(0, at, first.Writer); e.Last != 10 || e.Oldest != b.clock.Now() || !sameCounts(e.Unfolded, retention.CountSites(more)) {
				b.t.Fatalf("beyond 6: got %+v", e)
			}
		}
		at[first.Writer] = 10
		if e := b.end(0, at, first.Writer); e.Last != 10 || e.Oldest != 0 || len(e.Unfolded) != 0 {
			b.t.Fatalf("beyond 10: got %+v", e)
		}
	})
	state("TimesNeverGoBack", func(b *logBench) { // R7: nobody trusts clocks
		w := b.append(0, b.records(1), retention.AckLocal).Writer
		b.clock.Advance(-taxonomy.Hour)
		b.append(0, b.records(1), retention.AckLocal)
		b.follow(0, nil)
		if e := b.end(0, nil, w); e.Time != Start {
			b.t.Fatalf("the clock stepped back and the writer's time with it, to %s", e.Time)
		}
	})
	state("TrimmingIsWholeFramesAndMayBeRepeated", func(b *logBench) { // R5
		w := b.append(0, b.records(3), retention.AckLocal).Writer
		b.append(0, b.records(3), retention.AckLocal)
		for _, to := range []uint64{3, 3, 1} {
			b.check(b.log.Trim(b.ctx, 0, retention.Position{w: to}))
			rest := recordsOf(b.follow(0, retention.Position{w: 3}))
			if len(rest) != 3 {
				b.t.Fatalf("trimmed to %d: %d records beyond 3, want 3", to, len(rest))
			}
		}
		b.log = b.e.Restart(b.t)
		if rest := recordsOf(b.follow(0, retention.Position{w: 3})); len(rest) != 3 {
			b.t.Fatalf("after a restart: %d records beyond 3, want 3", len(rest))
		}
	})
	state("NumbersGoOnAfterTrimming", func(b *logBench) {
		w := b.append(0, b.records(3), retention.AckLocal).Writer
		b.check(b.log.Trim(b.ctx, 0, retention.Position{w: 3}))
		if ref := b.append(0, b.records(1), retention.AckLocal); ref.Seq != 4 {
			b.t.Fatalf("got number %d, want 4", ref.Seq)
		}
		if e := b.end(0, retention.Position{w: 3}, w); e.Last != 4 || !e.Open {
			b.t.Fatalf("got %+v", e)
		}
	})
	state("ClosingADeadWriterFixesItsEnd", func(b *logBench) { // R4
		dead := b.append(0, b.records(3), retention.AckLocal).Writer
		b.log = b.e.Restart(b.t)
		own := b.append(0, b.records(1), retention.AckLocal).Writer
		for range 2 {
			end, err := b.log.CloseWriter(b.ctx, 0, dead)
			b.check(err)
			if end != 3 {
				b.t.Fatalf("got end %d, want 3", end)
			}
		}
		if e := b.end(0, nil, dead); e.Open || e.Last != 3 {
			b.t.Fatalf("a closed writer: got %+v", e)
		}
		if _, err := b.log.CloseWriter(b.ctx, 0, own); err == nil {
			b.t.Fatal("the log closed its own writer")
		}
		if got := recordsOf(b.follow(0, nil)); len(got) != 4 {
			b.t.Fatalf("got %d records, want 4", len(got))
		}
	})
	state("AnEmptyBatchIsAnError", func(b *logBench) {
		if _, _, err := b.log.Append(b.ctx, 0, nil, retention.AckLocal); err == nil {
			b.t.Fatal("an empty batch was appended")
		}
	})
	state("ManyMayAppendAtOnce", func(b *logBench) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		want := written{}
		batches := make([][]taxonomy.Record, 40)
		for i := range batches {
			batches[i] = b.records(1 + i%3)
		}
		errs := make([]error, 8)
		for g := range errs {
			wg.Go(func() {
				for i := g; i < len(batches); i += len(errs) {
					ack := retention.AckLocal
					if i%3 == 0 && i+len(errs) < len(batches) {
						ack = retention.AckNone
					}
					ref, _, err := b.log.Append(b.ctx, 0, batches[i], ack)
					if err != nil {
						errs[g] = errors.Join(errs[g], err)
						continue
					}
					mu.Lock()
					want.add(ref, batches[i])
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		b.check(errors.Join(errs...))
		last := b.records(1)
		want.add(b.append(0, last, retention.AckLocal), last)
		if err := want.diff(recordsOf(b.follow(0, nil))); err != nil {
			b.t.Fatal(err)
		}
	})
}

// end returns what End says of a writer.
func (b *logBench) end(group taxonomy.Group, from retention.Position, w taxonomy.WriterID) retention.WriterEnd {
	b.t.Helper()
	ends, err := b.log.End(b.ctx, group, from)
	b.check(err)
	for _, e := range ends {
		if e.Writer == w {
			return e
		}
	}
	b.t.Fatalf("End does not know the writer; it has %d others", len(ends))
	return retention.WriterEnd{}
}

// randomLog appends, kills, follows and trims at random, and checks that what
// was durable and is not trimmed is there, unchanged, and nothing else but what
// was appended with AckNone.
func randomLog(t *rapid.T, open LogOpener) {
	b := open.open(t)
	defer b.close()
	must, may := written{}, written{} // durable; appended, perhaps gone
	trimmed := retention.Position{}
	for range rapid.IntRange(1, 25).Draw(t, "steps") {
		switch rapid.SampledFrom([]string{"append", "append", "append", "none", "restart", "trim", "time", "read"}).Draw(t, "op") {
		case "append", "none":
			ack := rapid.SampledFrom([]retention.Ack{retention.AckNone, retention.AckLocal}).Draw(t, "ack")
			rs := b.records(rapid.IntRange(1, 6).Draw(t, "n"))
			ref := b.append(0, rs, ack)
			may.add(ref, rs)
			if ack == retention.AckLocal { // and all of the writer's before it
				for r, bytes := range may {
					if r.Writer == ref.Writer {
						must[r] = bytes
					}
				}
			}
		case "restart":
			b.log = b.e.Restart(t)
		case "trim":
			frames := b.follow(0, trimmed)
			if len(frames) == 0 {
				break
			}
			f := frames[rapid.IntRange(0, len(frames)-1).Draw(t, "frame")]
			trimmed[f.Writer] = max(trimmed[f.Writer], f.Last())
			b.check(b.log.Trim(b.ctx, 0, trimmed.Clone()))
		case "time":
			b.clock.Advance(taxonomy.Millis(rapid.Int64Range(-50, 5000).Draw(t, "ms")))
		}
		got := recordsOf(b.follow(0, trimmed))
		for ref, bytes := range must {
			if ref.Seq > trimmed[ref.Writer] && string(got[ref]) != string(bytes) {
				t.Fatalf("record %d of writer %s was durable and is gone or changed", ref.Seq, ref.Writer)
			}
		}
		for ref, bytes := range got {
			if string(may[ref]) != string(bytes) {
				t.Fatalf("record %d of writer %s is not what was appended", ref.Seq, ref.Writer)
			}
		}
	}
}
