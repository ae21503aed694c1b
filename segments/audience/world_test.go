package audience_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query/querytest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

var _ audience.View = (*querytest.View)(nil)

const today = taxonomy.Day(20700)

func column(trait string) taxonomy.Column {
	return taxonomy.Column{Source: "shop", Trait: taxonomy.Trait(trait)}
}

// world: visitors 0 to n-1 have an event today and may be profiled; those that
// 2 divides had c:p/two, those that 3 divides c:p/three, 5 days ago.
func world(n int) *querytest.World {
	w := &querytest.World{Shards: 2, Now: today.Start() + 5*taxonomy.Hour, Sets: map[string][]int{}, Version: 7}
	for v := range n {
		w.Facts = append(w.Facts, querytest.Fact{Visitor: v, Day: today, Column: column("any")})
		if v%2 == 0 {
			w.Facts = append(w.Facts, querytest.Fact{Visitor: v, Day: today - 5, Column: column("c:p/two")})
		}
		if v%3 == 0 {
			w.Facts = append(w.Facts, querytest.Fact{Visitor: v, Day: today - 5, Column: column("c:p/three")})
		}
		w.Sets[index.SetProfile] = append(w.Sets[index.SetProfile], v)
	}
	return w
}

func rule(id, expr string) audience.Versioned {
	return audience.Versioned{Version: 1, Definition: audience.Definition{
		ID: taxonomy.AudienceID(id), Title: id, Kind: audience.KindRule, Rule: []byte(expr)}}
}

func lookalike(id, seed string, size uint64) audience.Versioned {
	return audience.Versioned{Version: 1, Definition: audience.Definition{
		ID: taxonomy.AudienceID(id), Title: id, Kind: audience.KindLookalike, Lookalike: &audience.LookalikeSpec{Seed: taxonomy.AudienceID(seed), Size: size}}}
}

func catalog() *audience.Catalog {
	return audience.NewCatalog([]audience.Versioned{
		rule("two", `{"trait":"c:p/two"}`),
		rule("three", `{"trait":"c:p/three"}`),
		rule("neither", `{"not":{"or":[{"audience":"two"},{"audience":"three"}]}}`),
	})
}

// bench is a store, its clock, and builds over it.
type bench struct {
	t     testing.TB
	clock *storetest.Clock
	model *storetest.Model
	gens  *audience.Generations
	build audience.Builder
	term  uint64
	epoch uint64
}

func newBench(t testing.TB) *bench {
	b := &bench{t: t, clock: storetest.NewClock(today.Start() + 6*taxonomy.Hour), term: 1}
	b.model = storetest.NewModel(b.clock.Now)
	b.open(b.model)
	return b
}

func (b *bench) open(m *storetest.Model) {
	b.gens = audience.NewGenerations(m.Blobs(), m.Keyed(), audience.Options{Now: b.clock.Now})
	b.build = audience.Builder{Generations: b.gens, Now: b.clock.Now, Scorer: tail{}}
}

func (b *bench) job(w *querytest.World, c *audience.Catalog) audience.Job {
	return audience.Job{View: w.View(), Catalog: c, Sources: w.Sources(), Epoch: b.epoch, Term: b.term}
}

func (b *bench) run(w *querytest.World, c *audience.Catalog) *audience.Built {
	b.t.Helper()
	out, err := b.build.Run(context.Background(), b.job(w, c))
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

// members returns the visitors of an audience in the current generation.
func (b *bench) members(w *querytest.World, id taxonomy.AudienceID) []int {
	b.t.Helper()
	gen, err := b.gens.Current(context.Background())
	if err != nil {
		b.t.Fatal(err)
	}
	set, err := b.gens.Load(context.Background(), gen, id)
	if err != nil {
		b.t.Fatal(err)
	}
	return w.View().Visitors(set)
}

func (b *bench) want(w *querytest.World, id taxonomy.AudienceID, want ...int) {
	b.t.Helper()
	if got := b.members(w, id); !slices.Equal(got, want) {
		b.t.Errorf("%s: %v, want %v", id, got, want)
	}
}

// files returns the names of all blobs.
func (b *bench) files() (names []string) {
	all, err := b.model.Blobs().List(context.Background(), "generations")
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range all {
		names = append(names, f.Name)
	}
	return names
}

// tail is a scorer that takes the last visitors by place, seed or not, whether
// or not they may be in an audience.
type tail struct{}

func (tail) Extend(_ context.Context, view audience.View, seed index.Set, spec audience.LookalikeSpec) (index.Set, audience.Evidence, error) {
	if seed.Count() < 2 {
		return nil, audience.Evidence{}, fmt.Errorf("%d members: %w", seed.Count(), audience.ErrUnfit)
	}
	if spec.Size == 666 {
		return nil, audience.Evidence{}, errors.New("disk")
	}
	out, n := index.NewSet(view.Shards()), spec.Size
	for s := range out {
		for o := uint32(view.Blocks(s) * index.BlockSize); o > 0 && n > 0; o-- {
			if _, ok := view.Key(s, o-1); ok && !seed.Contains(s, o-1) {
				out[s].Add(o - 1)
				n--
			}
		}
	}
	return out, audience.Evidence{Seed: seed.Count(), AUC: 0.75}, nil
}
