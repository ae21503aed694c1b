package lookalike

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

var _ Tree = (*tree.Forest)(nil)

func c(id string) taxonomy.Trait { return taxonomy.CategoryTrait("t", id) }

// shop is a crowd of which half a seed's definition is one trait, "tennis", with
// a parent, a child, a trait that another system gives to the same visitors, and
// others that go with it only a little.
func shop() (v *crowd, members []int) {
	names := []taxonomy.Trait{c("balls"), c("other"), c("sports"), c("tennis"), "k:crm=tennis"}
	for j := range 12 {
		names = append(names, taxonomy.Trait(fmt.Sprintf("k:x%02d=1", j)))
	}
	slices.Sort(names)
	v = newCrowd(6000, names)
	r := rand.New(rand.NewPCG(8, 8))
	for i := range v.n {
		give := func(t taxonomy.Trait) { v.add(i, v.number[t]) }
		sporty := r.Float64()
		tennis := r.Float64() < 0.2*sporty
		if tennis {
			members = append(members, i)
			give(c("tennis"))
		}
		if tennis || r.Float64() < 0.2 {
			give(c("sports"))
		}
		if tennis && r.IntN(3) == 0 {
			give(c("balls"))
		}
		if tennis != (r.IntN(100) == 0) {
			give("k:crm=tennis")
		}
		if r.IntN(4) == 0 {
			give(c("other"))
		}
		for j := range 12 {
			if r.Float64() < 0.1+0.7*sporty*float64(j%2) {
				give(taxonomy.Trait(fmt.Sprintf("k:x%02d=1", j)))
			}
		}
	}
	return v, members
}

func forest(t *testing.T) *tree.Forest {
	t.Helper()
	f, err := tree.New(tree.Taxonomy{ID: "t", Title: "T", Categories: []tree.Category{
		{ID: "sports", Title: "Sports"}, {ID: "tennis", Title: "Tennis", Parents: []string{"sports"}},
		{ID: "balls", Title: "Balls", Parents: []string{"tennis"}}, {ID: "other", Title: "Other", Sensitive: true}}})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func learnt(r run) (names []string) {
	for _, f := range r.learnt {
		names = append(names, string(f.trait))
	}
	return names
}

func why(d Detail) map[taxonomy.Trait]string {
	m := map[taxonomy.Trait]string{}
	for _, e := range d.Excluded {
		m[e.Trait] = e.Why
	}
	return m
}

// A seed's own definition, what lies above and below it, and copies of it under
// other names are not learnt from. If they were, the figure would be perfect
// and say nothing.
func TestWhatDefinesTheSeedIsNotLearntFrom(t *testing.T) {
	v, members := shop()
	seed := setOf(members...)
	byRule := options()
	byRule.Tree = forest(t)
	byRule.Audience = func(id taxonomy.AudienceID) (query.Expr, bool) {
		switch id {
		case seedID:
			return query.Audience{ID: "inner"}, true
		case "inner":
			return query.Trait{Trait: c("tennis"), Window: query.Window{Days: 30}, Min: 1}, true
		}
		return nil, false
	}
	r := mustRun(t, byRule, v, seed, audience.LookalikeSpec{Size: 100, Exclude: []taxonomy.Trait{"k:x00=1"}})
	d := r.report()
	for trait, want := range map[taxonomy.Trait]string{c("tennis"): whyDefines, c("sports"): whyKin, c("balls"): whyKin, c("other"): whySensitive, "k:crm=tennis": whyCopy, "k:x00=1": whyAsked} {
		if got := why(d)[trait]; got != want {
			t.Errorf("%s: excluded because %q, want %q", trait, got, want)
		}
	}
	if got := learnt(r); len(got) != 11 || got[0] != "k:x01=1" {
		t.Errorf("learnt from %v", got)
	}

	// The same seed as an upload, without a tree: found by the counts alone.
	byCounts := mustRun(t, options(), v, seed, audience.LookalikeSpec{Size: 100, Exclude: []taxonomy.Trait{"k:x00=1", c("other")}})
	for trait, want := range map[taxonomy.Trait]string{c("tennis"): whyCopy, c("sports"): whyAround, c("balls"): whyInside, "k:crm=tennis": whyCopy} {
		if got := why(byCounts.report())[trait]; got != want {
			t.Errorf("upload: %s: excluded because %q, want %q", trait, got, want)
		}
	}
	if !slices.Equal(learnt(byCounts), learnt(r)) || byCounts.quality.auc != r.quality.auc {
		t.Errorf("learnt from %v, and by rule from %v", learnt(byCounts), learnt(r))
	}
	if r.quality.auc < 0.55 || r.quality.auc > 0.8 {
		t.Errorf("AUC %.4f, want that of a weak signal", r.quality.auc)
	}

	// And with each of them left in, the figure would be too good to be true.
	p := r.population
	for _, leak := range []taxonomy.Trait{c("tennis"), "k:crm=tennis", c("sports")} {
		rows, err := p.gather(t.Context(), byCounts.features)
		if err != nil {
			t.Fatal(err)
		}
		var chosen []int
		all := slices.Clone(byCounts.features)
		for j, f := range all {
			if f.trait == leak || slices.Contains(learnt(r), string(f.trait)) {
				chosen = append(chosen, j)
			}
		}
		rows.keep(chosen)
		m, err := learn(t.Context(), rows, chosen, all, 1)
		if err != nil {
			t.Fatal(err)
		}
		if m.quality.auc < r.quality.auc+0.2 || leak == c("tennis") && m.quality.auc < 0.99 {
			t.Errorf("with %s left in the AUC is %.4f, without %.4f: the test shows nothing", leak, m.quality.auc, r.quality.auc)
		}
	}
}

// A key of the seed's rule takes all its values with it.
func TestAnAttributeOfTheSeedsRuleIsOutWithAllItsValues(t *testing.T) {
	w, _ := town(2000, 1, 1, rand.New(rand.NewPCG(4, 1)))
	o := townOptions()
	o.Audience = func(taxonomy.AudienceID) (query.Expr, bool) {
		return query.Attribute{Key: "age", In: []string{"young"}}, true
	}
	v := w.View()
	var members []int
	for n := range 2000 {
		if x, ok := v.Facts(n).Statement([]taxonomy.Column{col("shop", "a:age=old"), col("shop", "a:age=young")}, today); ok && x.Trait == "a:age=young" {
			members = append(members, n)
		}
	}
	r := mustRun(t, o, v, v.Set(members...), audience.LookalikeSpec{Size: 100})
	if got := why(r.report()); got["a:age=young"] != whyDefines || got["a:age=old"] != whyDefines {
		t.Errorf("excluded: %v", got)
	}
	for _, name := range learnt(r) {
		if strings.HasPrefix(name, "a:age") || name == "any" || name == "bot" {
			t.Errorf("learnt from %s", name)
		}
	}
}

func TestTheSameSetAndEvidenceWithAnyNumberOfWorkers(t *testing.T) {
	p := plant(100_000, 100, -6)
	seed, _, _ := p.split(2000, rand.New(rand.NewPCG(5, 6)))
	was := seed[0].Clone()
	o := options()
	o.Sample = 5000 // so that rows are sampled
	var first index.Set
	var text string
	for _, o.Workers = range []int{1, 2, 5, 0} {
		set, ev, _ := mustExtend(t, o, p, seed, audience.LookalikeSpec{Size: 5000})
		if set.Count() != 5000 {
			t.Errorf("%d workers: %d visitors, want 5000", o.Workers, set.Count())
		}
		if first == nil {
			first, text = set, fmt.Sprintf("%+v %s", ev, ev.Detail)
			continue
		}
		if !set[0].Equals(first[0]) {
			t.Errorf("%d workers: another set", o.Workers)
		}
		if got := fmt.Sprintf("%+v %s", ev, ev.Detail); got != text {
			t.Errorf("%d workers:\n%s\nwant\n%s", o.Workers, got, text)
		}
	}
	if !seed[0].Equals(was) {
		t.Error("the seed was changed")
	}
	if first[0].Intersects(seed[0]) {
		t.Error("members of the seed are in the result")
	}
}

// A sample gives nearly what all visitors give.
func TestASampleIsEnough(t *testing.T) {
	p := plant(30_000, 200, -4)
	seed, shown, hidden := p.split(1500, rand.New(rand.NewPCG(5, 6)))
	o := options()
	all := mustRun(t, o, p, seed, audience.LookalikeSpec{Size: 100})
	o.Sample = 3000
	some := mustRun(t, o, p, seed, audience.LookalikeSpec{Size: 100})
	if some.sampled < 2800 || some.sampled > 3200 || some.seeds != all.seeds {
		t.Errorf("%d sampled, %d of the seed; want about 3000 and all %d", some.sampled, some.seeds, all.seeds)
	}
	a, b := auc(scoresOf(all, p.n), shown, hidden), auc(scoresOf(some, p.n), shown, hidden)
	t.Logf("AUC %.4f from all, %.4f from a tenth", a, b)
	if b < a-0.02 {
		t.Errorf("AUC %.4f from all, %.4f from a tenth", a, b)
	}
}

func TestAnUnfitSeedIsRefusedWithWhatHelps(t *testing.T) {
	v, members := shop()
	extend := func(o Options, v audience.View, seed index.Set, want string) {
		t.Helper()
		_, _, err := New(o).Extend(t.Context(), v, seed, audience.LookalikeSpec{Seed: seedID, Size: 10})
		if !errors.Is(err, audience.ErrUnfit) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want ErrUnfit with %q", err, want)
		}
	}
	extend(options(), v, setOf(), "no members")
	extend(options(), v, setOf(members[:99]...), "has 99 members to learn from, at least 100 are needed; widen")
	extend(options(), v, setOf(members[:20]...), "has fewer than 50 members")
	everyone := setOf()
	everyone[0].AddRange(0, uint64(v.n-50))
	extend(options(), v, everyone, "nearly everyone")
	o := options()
	o.Training = nil
	extend(o, v, setOf(members...), "no trait is left to learn from")
	if _, _, err := New(options()).Extend(t.Context(), v, setOf(members[:100]...), audience.LookalikeSpec{Seed: seedID, Size: 10}); err != nil {
		t.Errorf("100 members: %v", err)
	}

	w, in := town(1500, 1, 1, rand.New(rand.NewPCG(1, 1)))
	w.Sets[index.SetTraining] = nil
	extend(townOptions(), w.View(), w.View().Set(in...), "ask for consent to training")
}

// failing is a view whose bytes cannot be read.
type failing struct{ *crowd }

var errBytes = errors.New("bad bytes")

func (f failing) Leaf(s, b int, op *index.Operand, dst *index.Words) (int, error) {
	if op.Kind == index.OpCount && len(op.Columns) > 0 {
		return 0, errBytes
	}
	return f.crowd.Leaf(s, b, op, dst)
}

func TestAFaultOfTheViewOrAnEndIsNoVerdictOnTheSeed(t *testing.T) {
	v, members := shop()
	spec := audience.LookalikeSpec{Seed: seedID, Size: 10}
	if _, _, err := New(options()).Extend(t.Context(), failing{v}, setOf(members...), spec); !errors.Is(err, errBytes) || errors.Is(err, audience.ErrUnfit) {
		t.Errorf("bytes that cannot be read: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, _, err := New(options()).Extend(ctx, v, setOf(members...), spec); !errors.Is(err, context.Canceled) || errors.Is(err, audience.ErrUnfit) {
		t.Errorf("after the end: %v", err)
	}
}

// People are shown why, in words, and nothing about few of them.
func TestTheEvidenceSaysWhyInWords(t *testing.T) {
	p := plant(40_000, 300, -4)
	// A trait that 40 visitors have, nearly all of them members.
	seed, _, _ := p.split(1500, rand.New(rand.NewPCG(5, 6)))
	rare := len(p.traits)
	p.traits = append(p.traits, "k:z=rare")
	p.number["k:z=rare"] = rare
	p.places = append(p.places, make([][]uint16, p.Blocks(0)))
	for i, v := range membersOf(seed)[:45] {
		if i >= 9 {
			p.add(v, rare)
		} else {
			p.add(v+1, rare)
		}
	}
	slices.Sort(p.places[rare][0])
	_, ev, d := mustExtend(t, options(), p, seed, audience.LookalikeSpec{Size: 400})
	n := seed.Count()
	if ev.AUC != d.AUC || ev.Seed != n || d.Seed != n || d.Learnt != n || d.Population != 40_000 {
		t.Errorf("AUC %v and %v; seed %d, %d, learnt %d, want %d; of %d", ev.AUC, d.AUC, ev.Seed, d.Seed, d.Learnt, n, d.Population)
	}
	if len(d.For) < 10 || len(d.Against) == 0 {
		t.Fatalf("%d traits for, %d against", len(d.For), len(d.Against))
	}
	for _, x := range slices.Concat(d.For, d.Against) {
		if x.Trait == "k:z=rare" {
			t.Error("names a trait that fewer than 50 visitors have")
		}
	}
	if x := d.For[0]; x.Weight <= 0 || x.Part <= 0 || x.Index <= 100 || !strings.Contains(x.Says, "times as common among the seed as among all (") {
		t.Errorf("%+v", x)
	}
	if x := d.Against[0]; x.Weight >= 0 || x.Index >= 100 || !strings.Contains(x.Says, "rarer among the seed") {
		t.Errorf("%+v", x)
	}
	if d.Asked.Size != 400 || d.Asked.Share != round(400/float64(40_000-n)) || d.Says == "" || d.Verdict != "strong" {
		t.Errorf("%s %s %+v", d.Verdict, d.Says, d.Asked)
	}
	t.Logf("%s: %s AUC %v (%v to %v), activity %v; %s", d.Verdict, d.Says, d.AUC, d.AUCLow, d.AUCHigh, d.ActivityAUC, d.For[0].Says)
}

// A share of nobody, and a world where nobody else has a trait, are empty and
// still have evidence that can be written down.
func TestAnEmptyExtensionHasEvidence(t *testing.T) {
	v, members := shop()
	set, ev, d := mustExtend(t, options(), v, setOf(members...), audience.LookalikeSpec{Share: 1e-6})
	if set.Count() != 0 || ev.AUC == 0 || d.Asked != (Reach{}) || len(d.Curve) == 0 {
		t.Errorf("%d visitors, %+v", set.Count(), d.Asked)
	}

	c := newCrowd(1000, []taxonomy.Trait{"k:x=1", "k:y=1"})
	members = nil
	for i := range 300 {
		members = append(members, i)
		if i%3 > 0 {
			c.add(i, i%3-1)
		}
	}
	_, _, err := New(options()).Extend(t.Context(), c, setOf(members...), audience.LookalikeSpec{Seed: seedID, Size: 10})
	if !errors.Is(err, audience.ErrUnfit) {
		t.Errorf("traits that only members have: %v", err)
	}
}

// More traits than can be counted: the build goes on with the most common.
func TestTraitsWithoutEndDoNotEndTheBuild(t *testing.T) {
	var names []taxonomy.Trait
	for j := range 200 {
		names = append(names, taxonomy.Trait(fmt.Sprintf("k:x%03d=1", j)))
	}
	v := newCrowd(4000, names)
	r := rand.New(rand.NewPCG(1, 8))
	for i := range v.n {
		for j := range names {
			if r.IntN(1000) < 10+j {
				v.add(i, j)
			}
		}
	}
	o := options()
	o.Columns = 10
	x := mustRun(t, o, v, setOf(r.Perm(v.n)[:300]...), audience.LookalikeSpec{Size: 10})
	if len(x.features) != 40 || len(x.learnt) != 10 {
		t.Errorf("counted %d, learnt from %d; want 40 and 10", len(x.features), len(x.learnt))
	}
	for _, f := range x.learnt {
		if f.trait < "k:x150=1" {
			t.Errorf("learnt from %s, which is rare", f.trait)
		}
	}
}
