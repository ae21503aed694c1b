package delivery_test

import (
	"fmt"
	"testing"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const today taxonomy.Day = 20_000

// held is one audience of one shard: days until which ordinals hold.
func held(days map[taxonomy.Day][]uint32) map[taxonomy.AudienceID]delivery.Held {
	h := delivery.NewHeld(1)
	for d, os := range days {
		for _, o := range os {
			h.Add(0, o, d)
		}
	}
	return map[taxonomy.AudienceID]delivery.Held{"cars": h}
}

func byOrdinal(_ int, o uint32) (string, bool) { return fmt.Sprint("id", o), o < 90 }

// R31: a row is sent again when the partner's copy would end more than 7 days
// before ours, when it would outlive ours, and on its last evening.
func TestARowIsSentAgainOnlyWhenItMustBe(t *testing.T) {
	for _, c := range []struct {
		copyEnds, oursEnds taxonomy.Day
		sent               bool
	}{
		{today + 20, today + 20, false},
		{today + 20, today + 27, false},
		{today + 20, today + 28, true},
		{today + 20, today + 19, true}, // shorter: it must not outlive ours
		{today + 1, today + 1, false},
		{today + 1, today + 2, true}, // it would end tonight
		{today, today + 3, true},     // it has ended
		{today - 1, today + 3, true},
	} {
		l := &delivery.Ledger{Held: held(map[taxonomy.Day][]uint32{c.copyEnds: {1}})}
		next, e := delivery.Plan(l, &delivery.Input{
			Today: today, Shards: 1, Target: held(map[taxonomy.Day][]uint32{c.oursEnds: {1}}), Name: byOrdinal,
		})
		if got := e.Adds["cars"].Count() == 1; got != c.sent || len(e.Removes) != 0 {
			t.Errorf("copy to %d, ours to %d: sent %v, want %v; %d removals", c.copyEnds-today, c.oursEnds-today, got, c.sent, len(e.Removes))
		}
		ends := c.copyEnds
		if c.sent {
			ends = c.oursEnds
		}
		if n := next.Held["cars"].After(0, ends-1).GetCardinality(); n != 1 || next.Held["cars"].Count() != 1 {
			t.Errorf("copy to %d, ours to %d: the ledger does not say %d", c.copyEnds-today, c.oursEnds-today, ends-today)
		}
	}
}

func TestWhatHasEndedForThePartnerNeedsNoRemoval(t *testing.T) {
	l := &delivery.Ledger{
		Held:   held(map[taxonomy.Day][]uint32{today: {1}, today + 1: {2}}),
		Outbox: []delivery.Removal{{Audience: "cars", ID: "old", Until: today}, {Audience: "cars", ID: "owed", Until: today + 1}},
	}
	next, e := delivery.Plan(l, &delivery.Input{Today: today, Shards: 1, Name: byOrdinal})
	if got := fmt.Sprint(e.Removes); len(e.Removes) != 2 || e.Removes[0].ID != "id2" || e.Removes[1].ID != "owed" {
		t.Fatalf("removals are %s, want id2 and owed", got)
	}
	if len(next.Held) != 0 || len(next.Outbox) != 0 {
		t.Fatalf("something is still held or owed: %v", next)
	}
}

// R25: who is gone and cannot be named stays owed until the eraser names it.
func TestARemovalThatCannotBeNamedIsNotForgotten(t *testing.T) {
	l := &delivery.Ledger{Held: held(map[taxonomy.Day][]uint32{today + 30: {99}})}
	next, e := delivery.Plan(l, &delivery.Input{Today: today, Shards: 1, Name: byOrdinal})
	if e.Owed != 1 || !e.Empty() || next.Held["cars"].Count() != 1 {
		t.Fatalf("owed %d, held %d", e.Owed, next.Held["cars"].Count())
	}
	if !next.Forget(0, 99, "id99", today) || next.Forget(0, 99, "id99", today) {
		t.Fatal("forgetting is not done once and for all")
	}
	next, e = delivery.Plan(next, &delivery.Input{Today: today, Shards: 1, Name: byOrdinal})
	if len(e.Removes) != 1 || e.Removes[0].ID != "id99" || len(next.Held) != 0 {
		t.Fatalf("removals are %v", e.Removes)
	}
}

// R24, R25: an erased key that was let in again is not removed by what the
// eraser left for its first life.
func TestAnOutboxRowDoesNotRemoveWhoCameBack(t *testing.T) {
	l := delivery.NewLedger()
	l.Outbox = []delivery.Removal{{Audience: "boats", ID: "id5", Until: today + 9}, {Audience: "cars", ID: "id5", Until: today + 9}}
	_, e := delivery.Plan(l, &delivery.Input{
		Today: today, Shards: 1, Target: held(map[taxonomy.Day][]uint32{today + 9: {5}}), Name: byOrdinal,
	})
	if len(e.Removes) != 1 || e.Removes[0].Audience != "boats" || e.Adds["cars"].Count() != 1 {
		t.Fatalf("removals are %v", e.Removes)
	}
}

// R32: an outbox row under an ID that is now another's sends that row again
// rather than taking it away.
func TestAnOutboxRowDoesNotRemoveTheNewOwnerOfAnID(t *testing.T) {
	l := &delivery.Ledger{
		Held:   held(map[taxonomy.Day][]uint32{today + 30: {2}}),
		IDs:    delivery.MatchedOf(map[uint32]string{2: "x"}),
		Outbox: []delivery.Removal{{Audience: "cars", ID: "x", Until: today + 9}},
	}
	_, e := delivery.Plan(l, &delivery.Input{
		Today: today, Shards: 1, Target: held(map[taxonomy.Day][]uint32{today + 30: {2}}), IDs: delivery.MatchedOf(map[uint32]string{2: "x"}),
	})
	if len(e.Removes) != 0 || e.Adds["cars"].Count() != 1 {
		t.Fatalf("removals %v, adds %d", e.Removes, e.Adds["cars"].Count())
	}
}

// id is the partner's ID of a visitor of the first shard.
func id(l *delivery.Ledger, ordinal uint32) string {
	id, _ := l.IDs.ID(0, ordinal)
	return id
}

// R32: a changed match is a removal of the old ID and an add of the new, in
// each audience, and two visitors may change theirs with each other.
func TestAChangedMatchRemovesTheOldIDAndAddsTheNew(t *testing.T) {
	target := held(map[taxonomy.Day][]uint32{today + 30: {1, 2, 3}})
	l := &delivery.Ledger{Held: target, IDs: delivery.MatchedOf(map[uint32]string{1: "a", 2: "b", 3: "c"})}
	next, e := delivery.Plan(l, &delivery.Input{
		Today: today, Shards: 1, Target: target, IDs: delivery.MatchedOf(map[uint32]string{1: "b", 2: "a", 3: "d"}),
	})
	if len(e.Removes) != 1 || e.Removes[0].ID != "c" || e.Adds["cars"].Count() != 3 || id(next, 3) != "d" {
		t.Fatalf("removals %v, adds %d, IDs %v", e.Removes, e.Adds["cars"].Count(), id(next, 3))
	}
}

func TestBelowTheFloorAnAudienceIsDeliveredEmpty(t *testing.T) {
	l := &delivery.Ledger{Held: held(map[taxonomy.Day][]uint32{today + 30: {1, 2, 3}})}
	in := delivery.Input{Today: today, Shards: 1, Floor: 3, Target: held(map[taxonomy.Day][]uint32{today + 30: {1, 2, 3}}), Name: byOrdinal}
	if _, e := delivery.Plan(l, &in); !e.Empty() {
		t.Fatal("three of three are not below the floor")
	}
	in.Target = held(map[taxonomy.Day][]uint32{today + 30: {1, 2}})
	if _, e := delivery.Plan(l, &in); len(e.Removes) != 3 || len(e.Floored) != 1 {
		t.Fatalf("removals %v, floored %v", e.Removes, e.Floored)
	}
}
