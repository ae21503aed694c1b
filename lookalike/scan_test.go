package lookalike

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/segments/query/querytest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

func col(s taxonomy.SourceID, t taxonomy.Trait) taxonomy.Column {
	return taxonomy.Column{Source: s, Trait: t}
}

// town is a small world with everything in it: two sources and one that must not
// be learnt from, an attribute, permits, bots, the gone and the holdout, over
// shards and several blocks. members are the seed.
func town(n, shards int, stride uint32, r *rand.Rand) (w *querytest.World, members []int) {
	w = &querytest.World{Shards: shards, Stride: stride, Now: today.Start() + taxonomy.Hour, Sets: map[string][]int{}}
	for v := range n {
		fact := func(s taxonomy.SourceID, t string, back int) {
			w.Facts = append(w.Facts, querytest.Fact{Visitor: v, Day: today - taxonomy.Day(back), Column: col(s, taxonomy.Trait(t))})
		}
		likes := r.IntN(3)
		fact("shop", "any", r.IntN(90))
		for j := range 10 {
			if r.IntN(10) < 2+3*cmp.Compare(likes, 1)*(j%2) {
				fact([]taxonomy.SourceID{"shop", "press"}[r.IntN(2)], fmt.Sprintf("c:t/%d", j), r.IntN(95)) // some too old
			}
		}
		if r.IntN(2) == 0 {
			fact("bought", fmt.Sprintf("c:t/secret%d", likes), r.IntN(90))
		}
		if r.IntN(3) > 0 {
			w.Stated = append(w.Stated, querytest.Statement{Visitor: v, Day: today - 40, Column: col("shop", "a:age=old")})
			if likes > 0 {
				w.Stated = append(w.Stated, querytest.Statement{Visitor: v, Day: today - 4, Column: col("shop", "a:age=young")})
			}
		}
		if r.IntN(20) == 0 {
			fact("shop", "bot", r.IntN(90))
		}
		in := func(set string, one int) {
			if r.IntN(one) == 0 {
				w.Sets[set] = append(w.Sets[set], v)
			}
		}
		if r.IntN(10) > 0 {
			w.Sets[index.SetProfile] = append(w.Sets[index.SetProfile], v)
		}
		if r.IntN(10) > 1 {
			w.Sets[index.SetTraining] = append(w.Sets[index.SetTraining], v)
		}
		in(index.SetGone, 25)
		in(index.SetHoldout, 25)
		if likes == 2 && r.IntN(3) > 0 || r.IntN(9) == 0 {
			members = append(members, v)
		}
	}
	return w, members
}

func townOptions() Options {
	o := options()
	o.Profiling = []taxonomy.SourceID{"shop", "press", "bought"}
	o.Training = []taxonomy.SourceID{"press", "shop"}
	return o
}

// Everything about a scan, against loops over the visitors one by one.
func TestTheScanTakesWhomANaiveScorerTakes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		w, members := town(800, rapid.IntRange(1, 3).Draw(t, "shards"), rapid.SampledFrom([]uint32{1, 311}).Draw(t, "stride"), r)
		view := w.View()
		spec := audience.LookalikeSpec{Seed: seedID, Size: uint64(rapid.IntRange(1, 600).Draw(t, "size")), WithSeed: rapid.Bool().Draw(t, "with seed")}
		run, err := New(townOptions()).run(t.Context(), view, view.Set(members...), spec)
		if err != nil {
			t.Fatal(err)
		}

		// Who may be in an audience is what the planner says.
		res, err := query.NewIndexResolver(view, today, w.Sources(), nil)
		if err != nil {
			t.Fatal(err)
		}
		plan := query.NewPlan(today, res)
		everyone := plan.AddEligible()
		out, err := plan.Run(t.Context(), view, query.RunOptions{Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		eligible := view.Visitors(out.Sets[everyone])

		type one struct {
			visitor int
			score   float32
			hash    uint64
		}
		had := map[taxonomy.Trait]map[int]bool{}
		for _, f := range w.Facts {
			if had[f.Column.Trait] == nil {
				had[f.Column.Trait] = map[int]bool{}
			}
			if f.Day >= today-89 && f.Day <= today && f.Column.Source != "bought" {
				had[f.Column.Trait][f.Visitor] = true
			}
		}
		var all []one
		var seed []int
		for _, v := range eligible {
			if slices.Contains(members, v) {
				seed = append(seed, v)
				continue
			}
			var sum float32
			n := 0
			facts := view.Facts(v)
			for j, f := range run.learnt {
				has := had[f.trait][v]
				if key, ok := f.trait.Statement(); ok {
					c, said := facts.Statement([]taxonomy.Column{col("shop", taxonomy.Trait(key+"=old")), col("shop", taxonomy.Trait(key+"=young"))}, today)
					has = said && c.Trait == f.trait
				}
				if has {
					sum += float32(run.weights[j])
					n++
				}
			}
			if n == 0 {
				continue
			}
			times := float32(1)
			if run.form.normal {
				times = float32(1 / math.Sqrt(float64(n)))
			}
			g := 0
			for _, b := range bounds {
				if n >= b {
					g++
				}
			}
			x := sum*times + float32(run.weights[len(run.learnt)+g]+run.weights[len(run.weights)-1])
			shard, ordinal, _ := view.Place(v)
			all = append(all, one{v, x, mix(saltTie, shard, ordinal)})
		}
		slices.SortFunc(all, func(a, b one) int { return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.hash, b.hash)) })
		want := []int{}
		for _, x := range all[:min(len(all), int(spec.Size))] {
			want = append(want, x.visitor)
		}
		if spec.WithSeed {
			want = append(want, seed...)
		}
		slices.Sort(want)
		if got := view.Visitors(run.set); !slices.Equal(got, want) {
			t.Errorf("took %d, want %d; %v and %v", len(got), len(want), got, want)
		}
		if got := run.candidates; got != uint64(len(all)) {
			t.Errorf("%d candidates, want %d", got, len(all))
		}
		if run.pool != uint64(len(eligible)-len(seed)) {
			t.Errorf("a pool of %d, want %d", run.pool, len(eligible)-len(seed))
		}

		// Nothing of a source that is not among those to learn from was asked for,
		// whether it does not permit training or is withdrawn (R19).
		for key := range view.Asked() {
			if containsAny(key, `"c:t/secret0"@"bought"`, `"c:t/secret1"@"bought"`, `"c:t/secret2"@"bought"`) {
				t.Errorf("read %s", key)
			}
		}
	})
}

func containsAny(s string, parts ...string) bool {
	return slices.ContainsFunc(parts, func(p string) bool {
		for i := 0; i+len(p) <= len(s); i++ {
			if s[i:i+len(p)] == p {
				return true
			}
		}
		return false
	})
}

// R22: who does not permit training is not learnt from, though it may be found.
func TestOnlyThoseWhoPermitTrainingAreLearntFrom(t *testing.T) {
	w, members := town(3000, 2, 1, rand.New(rand.NewPCG(1, 1)))
	before := w.View()
	first := mustRun(t, townOptions(), before, before.Set(members...), audience.LookalikeSpec{Size: 300})

	// What the others did is changed altogether.
	permit := map[int]bool{}
	for _, v := range w.Sets[index.SetTraining] {
		permit[v] = true
	}
	found := 0
	for _, v := range before.Visitors(first.set) {
		if !permit[v] {
			found++
		}
	}
	if found == 0 {
		t.Error("nobody without a permit for training was found")
	}
	for i := range w.Facts {
		if f := &w.Facts[i]; !permit[f.Visitor] && f.Column.Trait != taxonomy.TraitBot {
			f.Column.Trait, f.Day = "c:t/1", today
		}
	}
	after := w.View()
	second := mustRun(t, townOptions(), after, after.Set(members...), audience.LookalikeSpec{Size: 300})
	if !slices.Equal(first.weights, second.weights) {
		t.Error("the weights depend on visitors who do not permit training")
	}
}

// A share is of those who may be in an audience and are not in the seed.
func TestAShareIsOfThoseWhoMayBeFound(t *testing.T) {
	w, members := town(2000, 2, 1, rand.New(rand.NewPCG(2, 1)))
	v := w.View()
	r := mustRun(t, townOptions(), v, v.Set(members...), audience.LookalikeSpec{Share: 0.1})
	if want := uint64(math.Round(0.1 * float64(r.pool))); r.set.Count() != want || want == 0 {
		t.Errorf("%d of %d, want %d", r.set.Count(), r.pool, want)
	}
}

// Taking by bins is taking the first of a sorted list, also among ties, zeros of
// both signs, and numbers that differ in the last bit.
func TestTakingByBinsIsTakingTheFirstOfASortedList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.OneOf(rapid.SampledFrom([]float32{0, 1, 1.0000001, -1, -1.0000001, 0.5}), rapid.Float32Range(-3, 3))
		p := &population{view: newCrowd(3*index.BlockSize, nil), units: []unit{{0, 0}, {0, 2}}}
		s := &scores{of: make([][]float32, 2), bins: make([]uint64, binCount)}
		type one struct {
			o uint32
			x float32
		}
		var all []one
		for i := range s.of {
			for v, x := range rapid.SliceOfN(number, 0, 60).Draw(t, "scores") {
				if rapid.IntRange(0, 5).Draw(t, "candidate") == 0 {
					x = float32(math.NaN())
				} else {
					all = append(all, one{uint32(p.units[i].block*index.BlockSize + v), x})
					s.bins[rank(x)>>16]++
					s.candidates++
				}
				s.of[i] = append(s.of[i], x)
			}
		}
		s.wanted = uint64(rapid.IntRange(0, len(all)+3).Draw(t, "wanted"))
		got, err := s.take(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(all, func(a, b one) int {
			return cmp.Or(cmp.Compare(rank(b.x), rank(a.x)), cmp.Compare(mix(saltTie, 0, a.o), mix(saltTie, 0, b.o)))
		})
		want := index.NewSet(1)
		for _, x := range all[:min(int(s.wanted), len(all))] {
			want[0].Add(x.o)
		}
		if !got[0].Equals(want[0]) {
			t.Errorf("took %v, want %v", got[0].ToArray(), want[0].ToArray())
		}
	})
}

func TestRankIsInTheOrderOfTheNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Float32().Draw(t, "a"), rapid.Float32().Draw(t, "b")
		if a < b && rank(a) >= rank(b) || unrank(rank(a)) != a {
			t.Errorf("%v and %v: %x, %x; back %v", a, b, rank(a), rank(b), unrank(rank(a)))
		}
	})
}
