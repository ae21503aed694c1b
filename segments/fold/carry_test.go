package fold

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// house is an installation: its stores and the folds of its groups.
type house struct {
	w     *world
	log   *lagLog
	folds []*Fold
}

// newHouse opens an empty one whose log has a writer of its own.
func newHouse(t *rapid.T, writer byte, shards, groups int, now taxonomy.Millis) *house {
	log := &lagLog{writers: map[taxonomy.WriterID]*lagWriter{{writer}: {}}, order: []taxonomy.WriterID{{writer}}}
	h := &house{w: newWorld(log, now), log: log}
	h.w.cfg.Shards, h.w.cfg.Groups = shards, groups
	h.open(t)
	return h
}

func (h *house) open(t *rapid.T) {
	h.folds = nil
	for g := range taxonomy.Group(h.w.cfg.Groups) {
		h.w.cfg.Group = g
		h.folds = append(h.folds, h.w.open(t))
	}
}

// live folds a part of a history.
func (h *house) live(t *rapid.T, part history, until taxonomy.Millis) {
	for i := range part {
		h.log.append(h.log.order[0], part[i].Received, part[i])
	}
	h.log.append(h.log.order[0], until, taxonomy.Record{Kind: taxonomy.RecordTick, Received: until})
	h.log.showAll()
	h.w.clock.Set(until)
	for _, f := range h.folds {
		drainAll(t, f)
		checkpoint(t, f)
	}
}

// moveFrom carries another house over. The power may go at any write; then all of
// it is carried again.
func (h *house) moveFrom(t *rapid.T, from *house) {
	ctx := context.Background()
	var events []retention.StoredEvent
	if err := from.w.model.Events().Scan(ctx, 0, 1, 0, lastDay, func(e *retention.StoredEvent) error {
		events = append(events, *e)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := h.w.model.Events().Put(ctx, events); err != nil {
		t.Fatal(err)
	}
	for done := false; !done; {
		n, err := Renumber(from.folds, h.w.cfg.Shards)
		if err != nil {
			t.Fatal(err)
		}
		h.w.fail = rapid.IntRange(-1, 12).Draw(t, "writes left")
		done = true
		for _, f := range h.folds {
			if _, err := f.Carry(ctx, from.folds, n); errors.Is(err, errPower) {
				done = false
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if h.w.fail = -1; !done {
			h.open(t)
		}
	}
	had, err := TakeCensus(from.folds)
	if err != nil {
		t.Fatal(err)
	}
	has, err := TakeCensus(h.folds)
	if err != nil {
		t.Fatal(err)
	}
	if had != has {
		t.Fatalf("it had %+v, and has %+v", had, has)
	}
}

// A history whose first part was folded in one installation and whose rest in
// another, with other shards, to which it was carried, perhaps by way of several
// groups, gives what the rules say of the whole (R8).
func TestACarriedFoldGoesOnAsIfItHadBeenThereAlways(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := drawHistory(t)
		cut := rapid.IntRange(0, len(h)).Draw(t, "moved after")
		at := h[:cut].end()
		old := newHouse(t, 1, rapid.IntRange(1, 3).Draw(t, "shards"), 1, start)
		old.live(t, h[:cut], at)
		from := old
		if rapid.Bool().Draw(t, "by way of groups") {
			groups := rapid.IntRange(2, 3).Draw(t, "groups")
			from = newHouse(t, 2, rapid.IntRange(groups, 5).Draw(t, "shards"), groups, at)
			from.moveFrom(t, old)
		}
		now := newHouse(t, 3, rapid.IntRange(1, 5).Draw(t, "shards"), 1, at)
		now.moveFrom(t, from)
		if rapid.Bool().Draw(t, "started again") {
			now.open(t)
		}
		now.live(t, h[cut:], h.end())
		want := naive(h, byName{})
		if got := read(t, now.w, now.folds[0], now.folds[0].View()); !cmp.Equal(want, got) {
			t.Fatalf("differs from the naive model (-want +got):\n%s", cmp.Diff(want, got))
		}
		now.open(t)
		if got := read(t, now.w, now.folds[0], now.folds[0].View()); !cmp.Equal(want, got) {
			t.Fatalf("after a restart (-want +got):\n%s", cmp.Diff(want, got))
		}
	})
}

// What is folded and in no checkpoint is not carried, and nothing is.
func TestCarryingRefusesAFoldThatDoesNotRest(t *testing.T) {
	s := story(t)
	s.say(start, event(1, start, 1, true))
	if _, err := Renumber([]*Fold{s.f}, 2); err == nil {
		t.Error("a fold with an event in no checkpoint was numbered")
	}
	s.save()
	n, err := Renumber([]*Fold{s.f}, 2)
	if err != nil {
		t.Fatal(err)
	}
	s.say(start+1, event(2, start+1, 2, true))
	to := newWorld(newLagLog(1), start).open(t)
	if _, err := to.Carry(t.Context(), []*Fold{s.f}, n); err == nil {
		t.Error("it was carried")
	}
	if to.View().Blocks(0) != 0 {
		t.Error("there is something of it")
	}
}

// Erased visitors stay gone, those too whose key is forgotten: their ordinals keep
// a place, by which the files of deliveries name them.
func TestTheForgottenKeepAPlaceWithoutAKey(t *testing.T) {
	s := story(t)
	s.say(start, event(1, start, 1, true), event(2, start, 2, true))
	s.save()
	shard, o, _ := s.f.View().Ordinal(visitorKey(1))
	s.say(start+1, taxonomy.Record{Kind: taxonomy.RecordErasure, Received: start + 1, Space: taxonomy.SpaceCookie, Visitor: visitorKey(1)})
	s.save()
	s.f.Forget([]taxonomy.VisitorKey{visitorKey(1)})
	s.save()
	n, err := Renumber([]*Fold{s.f}, 3)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(newLagLog(1), start)
	w.cfg.Shards = 3
	to := w.open(t)
	v, err := to.Carry(t.Context(), []*Fold{s.f}, n)
	if err != nil {
		t.Fatal(err)
	}
	p, ok := n.Of(shard, o)
	if !ok || !v.shards[p.Shard].gone.Contains(p.Ordinal) {
		t.Errorf("who was forgotten has no place among the gone: %v, %t", p, ok)
	}
	if _, ok := v.Key(int(p.Shard), p.Ordinal); ok {
		t.Error("who was forgotten has a key again")
	}
	if got := len(contents(v)); got != len(contents(s.f.View())) || got == 0 {
		t.Errorf("%d facts", got)
	}
}

// Whoever adds a table to the state says here that takeTables carries it.
func TestEveryTableIsCarried(t *testing.T) {
	const carried = "cwesmitxh"
	for _, x := range NewState(Config{Shards: 1, Groups: 1}).tables() {
		if !strings.ContainsRune(carried, rune(x.first())) {
			t.Errorf("table %q is not carried by a move: State.takeTables", x.first())
		}
	}
}
