package fold

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// builderOf opens the fold of the holder of a term.
func builderOf(t *testing.T, w *world, term uint64) *Fold {
	t.Helper()
	w.hook = func(o *Options) { o.Term = term }
	return w.open(t)
}

// A builder that was frozen at any moment of its checkpoint, and goes on when
// another has its lease, commits nothing and takes nothing away.
func TestABuilderFrozenPastItsLeaseCommitsNothing(t *testing.T) {
	for begun := range 2 { // before there was any checkpoint, and after
		for freeze := 1; ; freeze++ {
			l := newLagLog(1)
			w := newWorld(l, start)
			say := func(n int) {
				l.append(taxonomy.WriterID{1}, start+taxonomy.Millis(n), event(n, start+taxonomy.Millis(n), byte(n), true))
				l.showAll()
			}
			a := builderOf(t, w, 1)
			if begun == 1 {
				say(1)
				drainAll(t, a)
				checkpoint(t, a)
			}
			say(2)
			drainAll(t, a)

			// The others' turn comes at a's n-th write.
			var b *Fold
			w.pause = &pause{at: freeze, do: func() {
				b = builderOf(t, w, 2)
				say(3)
				drainAll(t, b)
				checkpoint(t, b)
			}}
			_, err := a.Checkpoint(context.Background())
			met := w.pause.at <= 0
			w.pause = nil
			if !met {
				if err != nil {
					t.Fatal(err)
				}
				break // a's checkpoint has fewer writes than that
			}
			what := fmt.Sprintf("begun %d, frozen at write %d", begun, freeze)
			if a.View().Number() > uint64(begun) && err != nil {
				t.Errorf("%s: it published a view and failed: %v", what, err)
			}
			if _, err := a.Checkpoint(context.Background()); err == nil {
				t.Errorf("%s: the builder whose lease is over committed", what)
			}
			say(4)
			drainAll(t, b)
			checkpoint(t, b)
			c := builderOf(t, w, 3)
			drainAll(t, c)
			v := checkpoint(t, c)
			if got := c.Tallies()["shop"]; got.Stored != uint64(3+begun) || got.Received != uint64(3+begun) {
				t.Errorf("%s: after three builders: %+v", what, got)
			}
			if n := len(contents(v)); n == 0 {
				t.Errorf("%s: the index is empty", what)
			}
			if _, err := b.Checkpoint(context.Background()); !errors.Is(err, retention.ErrConflict) {
				t.Errorf("%s: the second builder committed after the third began: %v", what, err)
			}
		}
	}
}

func TestATermThatIsOverOpensNothing(t *testing.T) {
	w := newWorld(newLagLog(1), start)
	builderOf(t, w, 7)
	w.hook = func(o *Options) { o.Term = 6 }
	o := Options{Config: w.cfg, Log: w.log, Events: w.model.Events(), Keyed: w.model.Keyed(), Blobs: w.model.Blobs(), Term: 6}
	if _, err := Open(t.Context(), o); !errors.Is(err, retention.ErrHeld) {
		t.Errorf("term 6 after term 7: %v", err)
	}
}
