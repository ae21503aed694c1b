package fold

import (
	"maps"
	"math"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

func visitOf(n byte, at taxonomy.Millis, id byte, name string) taxonomy.Record {
	return taxonomy.Record{Kind: taxonomy.RecordEvent, Received: at, Site: "shop", Source: "web", Space: taxonomy.SpaceCookie, Returning: true,
		Visitor: taxonomy.VisitorKey{n, n, n, n, n}, Consent: taxonomy.Consent{Day: at.Day(), Purposes: taxonomy.MayAll},
		Event: &taxonomy.Event{ID: taxonomy.EventID{id}, Time: at, Kind: taxonomy.EventPage, Name: name}}
}

// R33: another node answers as of the builder's checkpoint, and knows beyond it
// what its own log has; it writes nothing and follows to the next checkpoint.
func TestAFollowerKnowsTheCheckpointAndItsOwnLog(t *testing.T) {
	now := storetest.Start
	log := newLagLog(2)
	builders, own := log.order[0], log.order[1]
	w := newWorld(log, now)
	w.hook = func(o *Options) { o.Parallel = 4 } // files of days side by side
	b := w.open(t)
	log.append(builders, now, visitOf(1, now, 1, "a"), visitOf(2, now, 2, "a"))
	log.showAll()
	drainAll(t, b)
	checkpoint(t, b)

	o := Options{Config: w.cfg, Keyed: failingKeyed{w.model.Keyed(), w}, Blobs: failingBlobs{w.model.Blobs(), w}, Rules: func() Classifier { return byName{} }, Parallel: 4}
	mine := newLagLog(2)
	o.Log = mine
	w.fail = 0 // whatever writes from now on fails
	f, err := Follow(t.Context(), o, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := contents(f.View()), contents(b.View()); !maps.Equal(got, want) || len(got) == 0 {
		t.Fatalf("the follower has %v, the builder %v", got, want)
	}
	if _, _, touched := f.Touched(taxonomy.VisitorKey{1, 1, 1, 1, 1}); touched {
		t.Error("a visitor without own events is touched")
	}
	mine.append(own, now, visitOf(1, now, 3, "b"))
	mine.showAll()
	drainAll(t, f)
	columns, facts, touched := f.Touched(taxonomy.VisitorKey{1, 1, 1, 1, 1})
	if !touched || len(columns) == 0 {
		t.Fatalf("an own event touched %v, %t", columns, touched)
	}
	day := now.Day()
	for name, want := range map[string]int{"a": 1, "b": 1, "root": 2} {
		if n := facts.Count(taxonomy.Column{Source: "web", Trait: taxonomy.CategoryTrait("t", name)}, day); n != want {
			t.Errorf("%s: %d events, want %d", name, n, want)
		}
	}
	if _, err := f.Checkpoint(t.Context()); err == nil {
		t.Error("a follower made a checkpoint")
	}

	w.fail = -1
	log.append(own, now, visitOf(1, now, 3, "b"))
	log.showAll()
	drainAll(t, b)
	checkpoint(t, b)
	if n, err := Latest(t.Context(), w.model.Keyed(), 0); err != nil || n != 2 {
		t.Fatalf("the latest checkpoint is %d, %v", n, err)
	}
	next, err := Follow(t.Context(), o, f)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := next.Poll(t.Context()); n != 0 || err != nil {
		t.Errorf("an event that the checkpoint covers was taken in again: %d, %v", n, err)
	}
	if got, want := contents(next.View()), contents(b.View()); !maps.Equal(got, want) {
		t.Errorf("the follower has %v, the builder %v", got, want)
	}
	if next.View().Position()[own] != 1 || next.opt.Term != math.MaxUint64 {
		t.Errorf("position %v", next.View().Position())
	}
}

// Joined views are the shards of each group, and a position from which each
// group's can be told.
func TestViewsOfGroupsJoin(t *testing.T) {
	now := storetest.Start
	var views []*View
	want := map[fact]int{}
	var positions []retention.Position
	for g := range taxonomy.Group(2) {
		log := newLagLog(1)
		w := newWorld(log, now)
		w.cfg.Groups, w.cfg.Group = 2, g
		f := w.open(t)
		for n := byte(1); n <= 20; n++ {
			r := visitOf(n, now, n, "a")
			if taxonomy.GroupOf(r.Visitor.Shard(2), 2) == g {
				log.append(log.order[0], now, r)
			}
		}
		log.showAll()
		drainAll(t, f)
		v := checkpoint(t, f)
		views = append(views, v)
		positions = append(positions, v.Position())
		maps.Copy(want, contents(v))
	}
	v := Join(views)
	if got := contents(v); !maps.Equal(got, want) || len(got) < 20 {
		t.Errorf("joined %d facts, want %d", len(got), len(want))
	}
	for n := byte(1); n <= 20; n++ {
		k := taxonomy.VisitorKey{n, n, n, n, n}
		s, o, ok := v.Ordinal(k)
		if back, _ := v.Key(s, o); !ok || back != k {
			t.Errorf("visitor %d: %d, %d, %t", n, s, o, ok)
		}
		if c, ok := v.Consent(s, o); !ok || c.Purposes != taxonomy.MayAll {
			t.Errorf("visitor %d has consent %v", n, c)
		}
	}
	if p := v.Position(); len(p) != 2 || p[taxonomy.WriterID{1}] != positions[0][taxonomy.WriterID{1}] {
		t.Errorf("the joined position is %v", p)
	}
}
