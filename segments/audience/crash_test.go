package audience_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query/querytest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// dying is the model's stores within a process that is killed at a write: just
// before it takes effect, or just after, before anybody hears of it. From then
// on nothing is done.
type dying struct {
	*storetest.Model
	left  int // writes until the last
	after bool
	dead  bool
}

var errKilled = errors.New("killed")

func (d *dying) write(do func() error) error {
	if d.dead {
		return errKilled
	}
	if d.left--; d.left >= 0 {
		return do()
	}
	d.dead = true
	if d.after {
		_ = do()
	}
	return errKilled
}

type dyingBlobs struct {
	retention.Blobs
	d *dying
}

func (b dyingBlobs) Put(ctx context.Context, name string, over taxonomy.Millis, content io.Reader) (r retention.Blob, err error) {
	err = b.d.write(func() error { r, err = b.Blobs.Put(ctx, name, over, content); return err })
	return r, err
}

// Delete removes one at a time, so that a kill can come between any two.
func (b dyingBlobs) Delete(ctx context.Context, names []string) error {
	for i := range names {
		if err := b.d.write(func() error { return b.Blobs.Delete(ctx, names[i:i+1]) }); err != nil {
			return err
		}
	}
	return nil
}

type dyingKeyed struct {
	retention.Keyed
	d *dying
}

func (k dyingKeyed) Swap(ctx context.Context, s retention.KeyedSpace, it retention.Item) (v uint64, err error) {
	err = k.d.write(func() error { v, err = k.Keyed.Swap(ctx, s, it); return err })
	return v, err
}

// P8, P10: whatever is done to generations, killed at any write, leaves the old
// generation or the new one, whole; and doing it again ends as if nothing had
// happened.
func TestAKillBetweenAnyTwoWritesLeavesAWholeGeneration(t *testing.T) {
	erased := []taxonomy.VisitorKey{querytest.Key(6)}
	for _, op := range []struct {
		name string
		do   func(b *bench, g *audience.Generations, w *querytest.World) error
		want map[taxonomy.AudienceID][]int
	}{
		{"build", func(b *bench, g *audience.Generations, w *querytest.World) error {
			build := audience.Builder{Generations: g, Now: b.clock.Now}
			_, err := build.Run(context.Background(), b.job(w, catalog()))
			return err
		}, map[taxonomy.AudienceID][]int{"two": {0, 2, 4, 8, 10}, "three": {0, 1, 3, 9}, "neither": {5, 7, 11}}},
		{"erase", func(b *bench, g *audience.Generations, w *querytest.World) error {
			return g.Holder(func() (audience.View, error) { return w.View(), nil }, func() uint64 { return 1 }).Erase(context.Background(), erased)
		}, map[taxonomy.AudienceID][]int{"two": {0, 2, 4, 8, 10}, "three": {0, 3, 9}, "neither": {1, 5, 7, 11}}},
	} {
		t.Run(op.name, func(t *testing.T) {
			for after, n := false, 0; ; {
				b := newBench(t)
				old := world(12)
				for range 9 { // so that one falls out
					b.run(old, catalog())
					b.clock.Advance(taxonomy.Minute)
				}
				b.run(old, catalog())
				w := world(12)
				w.Facts = append(w.Facts, querytest.Fact{Visitor: 1, Day: today, Column: column("c:p/three")})
				w.Sets[index.SetGone] = []int{6}
				was := map[taxonomy.AudienceID][]int{}
				for id := range op.want {
					was[id] = b.members(old, id)
				}

				d := &dying{Model: b.model, left: n, after: after}
				g := audience.NewGenerations(dyingBlobs{b.model.Blobs(), d}, dyingKeyed{b.model.Keyed(), d}, audience.Options{Now: b.clock.Now})
				err := op.do(b, g, w)
				if !d.dead {
					if err != nil {
						t.Fatal(err)
					}
					if !after {
						after, n = true, 0
						continue
					}
					if n < 6 {
						t.Fatalf("only %d writes: the test kills nothing", n)
					}
					return
				}
				b.open(b.model) // a new process
				fresh := 0
				for id, want := range op.want {
					got := b.members(w, id)
					if slices.Equal(got, want) && !slices.Equal(want, was[id]) {
						fresh++
					} else if !slices.Equal(got, was[id]) {
						t.Fatalf("killed at write %d: %s is %v, neither %v nor %v", n, id, got, was[id], want)
					}
				}
				if changed := len(op.want); op.name == "build" && fresh != 0 && fresh != changed {
					t.Fatalf("killed at write %d: %d of %d audiences are new", n, fresh, changed)
				}
				if err := op.do(b, b.gens, w); err != nil {
					t.Fatalf("again after a kill at write %d: %v", n, err)
				}
				for id, want := range op.want {
					b.want(w, id, want...)
				}
				b.onlyNamedFiles()
				n++
			}
		})
	}
}

// onlyNamedFiles fails the test if a file is there that no kept generation
// names, or one is named and not there.
func (b *bench) onlyNamedFiles() {
	b.t.Helper()
	var named []string
	refs, err := b.gens.List(context.Background())
	if err != nil {
		b.t.Fatal(err)
	}
	for _, r := range refs {
		named = append(named, r.Manifest)
		gen, err := b.gens.Open(context.Background(), r)
		if err != nil {
			b.t.Fatal(err)
		}
		for _, e := range gen.Audiences {
			if !r.Withdrawn {
				named = append(named, e.Blob)
			}
		}
	}
	slices.Sort(named)
	if got, want := b.files(), slices.Compact(named); !slices.Equal(got, want) {
		b.t.Fatalf("files\n%v\nwant\n%v", got, want)
	}
}

// A publication whose outcome is unknown is repeated, and counts once.
func TestPublishingAgainChangesNothing(t *testing.T) {
	b, w := newBench(t), world(12)
	out, err := audience.Build(t.Context(), audience.Input{View: w.View(), Catalog: catalog(), Sources: w.Sources(), Number: 1, Term: 1, Built: b.clock.Now()})
	if err != nil {
		t.Fatal(err)
	}
	first, err := b.gens.Publish(t.Context(), out)
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.gens.Publish(t.Context(), out)
	if err != nil || again.Audiences[0].Blob != first.Audiences[0].Blob {
		t.Fatalf("%v, %v", again, err)
	}
	if refs, _ := b.gens.List(t.Context()); len(refs) != 1 {
		t.Errorf("published twice: %v", refs)
	}
	w.Sets[index.SetProfile] = nil
	other, err := audience.Build(t.Context(), audience.Input{View: w.View(), Catalog: catalog(), Sources: w.Sources(), Number: 1, Term: 1, Built: b.clock.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.gens.Publish(t.Context(), other); !errors.Is(err, audience.ErrStale) {
		t.Errorf("another generation of the same number: %v", err)
	}
}
