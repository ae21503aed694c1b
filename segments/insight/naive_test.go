package insight_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/insight"
	"github.com/ebb-dmp/ebb/segments/query/querytest"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

const today = taxonomy.Day(20700)

var forest = func() *tree.Forest {
	f, err := tree.New(
		tree.Taxonomy{ID: "p", Title: "P", Categories: []tree.Category{{ID: "a", Title: "A"}, {ID: "b", Title: "B", Parents: []string{"a"}},
			{ID: "s", Title: "S", Sensitive: true}, {ID: "t", Title: "T", Parents: []string{"s", "a"}}, {ID: "nobody", Title: "Nobody"}}},
		tree.Taxonomy{ID: "q", Title: "Q", Categories: []tree.Category{{ID: "c", Title: "C", Archived: taxonomy.Moment((today - 9).Start())}}})
	if err != nil {
		panic(err)
	}
	return f
}()

var had = []taxonomy.Trait{"c:p/a", "c:p/b", "c:p/s", "c:p/t", "c:q/c"}

// model is the world as a person would look at it: one visitor after the other, by
// the facts alone. It knows nothing of plans, blocks and sets of visitors.
type model struct {
	*querytest.World
	of    map[int][]querytest.Fact // by visitor
	day   taxonomy.Day             // at whose end it is looked at
	inUse []taxonomy.SourceID
}

// seen reports whether a visitor had a trait on one of the last days.
func (m *model) seen(visitor int, t taxonomy.Trait, days int) bool {
	for _, f := range m.of[visitor] {
		if f.Column.Trait == t && f.Day <= m.day && f.Day > m.day-taxonomy.Day(days) && f.Day > today-90 && slices.Contains(m.inUse, f.Column.Source) {
			return true
		}
	}
	return false
}

// inBase: may be profiled and counted in insights, and is no bot, not erased and not
// held out, by what is known today.
func (m *model) inBase(visitor int) bool {
	now := *m
	now.day = today
	return slices.Contains(m.Sets[index.SetProfile], visitor) && slices.Contains(m.Sets[index.SetInsight], visitor) &&
		!now.seen(visitor, taxonomy.TraitBot, 90) && !slices.Contains(m.Sets[index.SetGone], visitor) && !slices.Contains(m.Sets[index.SetHoldout], visitor)
}

// rule is an audience's rule, and what it means of one visitor.
type rule struct {
	text string
	is   func(m *model, visitor int) bool
}

func drawRule(t *rapid.T, depth int) rule {
	switch k := rapid.IntRange(0, 5).Draw(t, "rule"); {
	case depth > 0 && k == 0:
		a, b := drawRule(t, depth-1), drawRule(t, depth-1)
		return rule{"(" + a.text + ") and (" + b.text + ")", func(m *model, v int) bool { return a.is(m, v) && b.is(m, v) }}
	case depth > 0 && k == 1:
		a, b := drawRule(t, depth-1), drawRule(t, depth-1)
		return rule{"(" + a.text + ") or (" + b.text + ")", func(m *model, v int) bool { return a.is(m, v) || b.is(m, v) }}
	case depth > 0 && k == 2:
		a := drawRule(t, depth-1)
		return rule{"not (" + a.text + ")", func(m *model, v int) bool { return m.seen(v, taxonomy.TraitAny, 90) && !a.is(m, v) }}
	}
	trait, days := rapid.SampledFrom(had).Draw(t, "trait"), rapid.SampledFrom([]int{1, 7, 30, 90}).Draw(t, "days")
	return rule{fmt.Sprintf("%s in %dd", trait, days), func(m *model, v int) bool { return m.seen(v, trait, days) }}
}

const visitors = 24

// drawWorld: up to 24 visitors in two shards, spread over several blocks.
func drawWorld(t *rapid.T) (*model, []rule, audience.Basis) {
	m := &model{World: &querytest.World{Shards: 2, Stride: 30_000, Now: today.Start() + 5*taxonomy.Hour, Sets: map[string][]int{}}, of: map[int][]querytest.Fact{}, day: today, inUse: []taxonomy.SourceID{"shop", "crm"}}
	for v := range visitors {
		for _, set := range []string{index.SetProfile, index.SetInsight, index.SetGone, index.SetHoldout} {
			odds := 9
			if set == index.SetGone || set == index.SetHoldout {
				odds = 0
			}
			if rapid.IntRange(0, 10).Draw(t, "in") <= odds {
				m.Sets[set] = append(m.Sets[set], v)
			}
		}
		for range rapid.IntRange(0, 4).Draw(t, "facts") {
			day := today - taxonomy.Day(rapid.OneOf(rapid.IntRange(0, 95), rapid.SampledFrom([]int{0, 6, 7, 13, 14, 29, 30, 59, 60, 89, 90})).Draw(t, "back"))
			source := rapid.SampledFrom([]taxonomy.SourceID{"shop", "crm", "withdrawn"}).Draw(t, "source")
			traits := []taxonomy.Trait{taxonomy.TraitAny}
			switch trait := rapid.SampledFrom(append([]taxonomy.Trait{taxonomy.TraitBot}, slices.Concat(had, had, had)...)).Draw(t, "had"); trait {
			case "c:p/b":
				traits = append(traits, trait, "c:p/a")
			case "c:p/t":
				traits = append(traits, trait, "c:p/a", "c:p/s")
			default:
				traits = append(traits, trait)
			}
			for _, trait := range traits {
				m.Facts = append(m.Facts, querytest.Fact{Visitor: v, Day: day, Column: taxonomy.Column{Source: source, Trait: trait}})
			}
		}
	}
	for _, f := range m.Facts {
		m.of[f.Visitor] = append(m.of[f.Visitor], f)
	}
	// A lookalike's members are those of the last generation, whoever they are.
	var like []int
	for v := range visitors {
		if rapid.Bool().Draw(t, "alike") {
			like = append(like, v)
		}
	}
	m.Sets[index.SetAudience+"like"] = like
	rules := make([]rule, 5)
	defs := make([]audience.Versioned, 5)
	for i := range rules {
		rules[i] = drawRule(t, 2)
		d := audience.Definition{ID: taxonomy.AudienceID(fmt.Sprint("r", i)), Title: "R", Kind: audience.KindRule, RuleText: rules[i].text}
		if err := d.ReadText(); err != nil {
			t.Fatal(err)
		}
		defs[i] = audience.Versioned{Version: 1, Definition: d}
	}
	defs = append(defs, audience.Versioned{Version: 1, Definition: audience.Definition{ID: "like", Title: "L", Kind: audience.KindLookalike, Lookalike: &audience.LookalikeSpec{Seed: "r0", Size: 5}}})
	view := m.View()
	b := audience.Basis{View: view, Catalog: audience.NewCatalog(defs), Sources: m.inUse, Workers: 1}
	b.Members = func(context.Context, taxonomy.AudienceID) (index.Set, error) { return view.Set(like...), nil }
	return m, rules, b
}

// P7, TCF purpose 9: on random worlds every number of an overlap and a profile is what
// one finds who asks each visitor in turn.
func TestReportsAreWhatTheNaiveModelCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, rules, b := drawWorld(t)
		var day taxonomy.Day
		if rapid.Bool().Draw(t, "earlier") {
			day = today - taxonomy.Day(rapid.IntRange(0, 89).Draw(t, "days ago"))
			m.day = day
		}
		type group struct {
			insight.Group
			is func(int) bool
		}
		var all []group
		for i, r := range rules {
			all = append(all, group{insight.Group{Audience: taxonomy.AudienceID(fmt.Sprint("r", i))}, func(v int) bool { return r.is(m, v) }})
		}
		for _, trait := range append([]taxonomy.Trait{"c:p/nobody"}, had...) {
			all = append(all, group{insight.Group{Trait: trait}, func(v int) bool { return m.seen(v, trait, 90) }})
		}
		if m.day == today { // of another day nobody knows
			all = append(all, group{insight.Group{Audience: "like"}, func(v int) bool { return slices.Contains(m.Sets[index.SetAudience+"like"], v) }})
		}
		all = rapid.Permutation(all).Draw(t, "order")
		some := all[:rapid.IntRange(2, insight.MaxGroups).Draw(t, "groups")]
		q := insight.OverlapQuery{Day: day}
		for _, g := range some {
			q.Of = append(q.Of, g.Group)
		}
		o, err := insight.NewOverlap(t.Context(), b, q)
		if err != nil {
			t.Fatal(err)
		}
		count := func(is func(v int) bool) (n uint64) {
			for v := range visitors {
				if m.inBase(v) && is(v) {
					n++
				}
			}
			return n
		}
		if want := count(func(int) bool { return true }); o.Base != want || o.Day != m.day || o.AsOf != m.Now {
			t.Fatalf("base %d of %s, want %d of %s", o.Base, o.Day, want, m.day)
		}
		for i := range some {
			for j := range i + 1 {
				if got, want := o.Together(insight.Of(i, j)), count(func(v int) bool { return some[i].is(v) && some[j].is(v) }); got != want {
					t.Fatalf("%s and %s: %d, want %d", some[i].Group, some[j].Group, got, want)
				}
			}
		}
		cells := o.Exclusive()
		if (cells != nil) != (len(some) <= insight.MaxExclusive) {
			t.Fatalf("%d groups have %d combinations", len(some), len(cells))
		}
		for c, got := range cells {
			want := count(func(v int) bool {
				for i := range some {
					if some[i].is(v) != insight.Combination(c).Has(i) {
						return false
					}
				}
				return true
			})
			if got != want {
				t.Fatalf("only in %b: %d, want %d", c, got, want)
			}
		}

		pq := insight.ProfileQuery{Audience: "r1", Day: day, Sensitive: rapid.Bool().Draw(t, "sensitive"), Taxonomy: rapid.SampledFrom([]string{"", "p", "q"}).Draw(t, "taxonomy")}
		p, err := insight.NewProfile(t.Context(), b, forest, pq)
		if err != nil {
			t.Fatal(err)
		}
		in := func(v int) bool { return rules[1].is(m, v) }
		if want := count(in); p.Members != want || p.Base != o.Base {
			t.Fatalf("%d members of %d, want %d of %d", p.Members, p.Base, want, o.Base)
		}
		rows := map[taxonomy.Trait]insight.Category{}
		for _, k := range p.Categories {
			rows[k.Trait] = k
		}
		chosen, secret := 0, 0
		for _, trait := range append([]taxonomy.Trait{"c:p/nobody"}, had...) {
			sensitive := trait == "c:p/s" || trait == "c:p/t" // the latter by the former
			if !strings.HasPrefix(string(trait), "c:"+pq.Taxonomy) {
				continue
			}
			known := slices.ContainsFunc(m.Facts, func(f querytest.Fact) bool {
				return f.Column.Trait == trait && f.Day > today-90 && slices.Contains(m.inUse, f.Column.Source)
			})
			if sensitive && !pq.Sensitive && known {
				secret++
				continue
			}
			chosen++
			has := func(v int) bool { return m.seen(v, trait, 90) }
			got, want := rows[trait], insight.Category{Trait: trait, Sensitive: sensitive, Archived: trait == "c:q/c",
				Base: count(has), Members: count(func(v int) bool { return in(v) && has(v) })}
			if !known {
				want = insight.Category{} // no row
			}
			if got != want {
				t.Fatalf("%+v, want %+v", got, want)
			}
		}
		if len(p.Categories)+p.Nobody != chosen || p.LeftOut != secret {
			t.Fatalf("%d categories and %d of nobody, %d left out; want %d together, %d left out", len(p.Categories), p.Nobody, p.LeftOut, chosen, secret)
		}
		from := 0
		for i := range p.Seen {
			age := func(v int) int {
				for d := range 90 {
					if m.seen(v, taxonomy.TraitAny, d+1) {
						return d
					}
				}
				return math.MaxInt
			}
			to := math.MaxInt
			if i < len(insight.LastSeen) {
				to = insight.LastSeen[i]
			}
			is := func(v int) bool { a := age(v); return from <= a && a <= to }
			if got, want := p.Seen[i], count(func(v int) bool { return in(v) && is(v) }); got != want {
				t.Fatalf("%d members last seen %d to %d days ago, want %d", got, from, to, want)
			}
			if got, want := p.SeenBase[i], count(is); got != want {
				t.Fatalf("%d of all last seen %d to %d days ago, want %d", got, from, to, want)
			}
			from = to + 1
		}
	})
}

func TestWhatCannotBeReportedIsNamed(t *testing.T) {
	w := &querytest.World{Now: today.Start(), Sets: map[string][]int{}}
	d := func(id, text string) audience.Versioned {
		def := audience.Definition{ID: taxonomy.AudienceID(id), Title: id, Kind: audience.KindRule, RuleText: text}
		if err := def.ReadText(); err != nil {
			t.Fatal(err)
		}
		return audience.Versioned{Version: 1, Definition: def}
	}
	like := audience.Versioned{Version: 1, Definition: audience.Definition{ID: "like", Title: "L", Kind: audience.KindLookalike, Lookalike: &audience.LookalikeSpec{Seed: "a", Size: 5}}}
	b := audience.Basis{View: w.View(), Catalog: audience.NewCatalog([]audience.Versioned{d("a", "c:p/a"), d("b", "c:p/b"), d("lost", "audience gone"), like})}
	g := func(ids ...string) (of []insight.Group) {
		for _, id := range ids {
			of = append(of, insight.Group{Audience: taxonomy.AudienceID(id)})
		}
		return of
	}
	for _, c := range []struct {
		q  insight.OverlapQuery
		at string
	}{
		{insight.OverlapQuery{Of: g("a")}, "of"},
		{insight.OverlapQuery{Of: g(slices.Repeat([]string{"a"}, 11)...)}, "of"},
		{insight.OverlapQuery{Of: g("a", "b", "a")}, "of[2]"},
		{insight.OverlapQuery{Of: g("a", "nobody")}, "of[1].audience"},
		{insight.OverlapQuery{Of: g("lost", "a")}, "of[0].audience"},
		{insight.OverlapQuery{Of: append(g("a"), insight.Group{})}, "of[1].audience"},
		{insight.OverlapQuery{Of: append(g("a"), insight.Group{Audience: "b", Trait: "c:p/b"})}, "of[1].trait"},
		{insight.OverlapQuery{Of: append(g("a"), insight.Group{Trait: "shoes"})}, "of[1]"},
		{insight.OverlapQuery{Of: g("a", "b"), Day: today + 1}, "day"},
		{insight.OverlapQuery{Of: g("a", "b"), Day: today - 90}, "day"},
		{insight.OverlapQuery{Of: g("a", "like"), Day: today - 3}, "of[1]"},
	} {
		_, err := insight.NewOverlap(t.Context(), b, c.q)
		var f *taxonomy.FieldError
		if !errors.As(err, &f) || f.Field != c.at {
			t.Errorf("%+v: %v, want a fault at %q", c.q, err, c.at)
		}
	}
	for _, c := range []struct {
		q  insight.ProfileQuery
		at string
	}{
		{insight.ProfileQuery{}, "audience"},
		{insight.ProfileQuery{Audience: "nobody"}, "audience"},
		{insight.ProfileQuery{Audience: "a", Taxonomy: "nothing"}, "taxonomy"},
		{insight.ProfileQuery{Audience: "a", Day: today + 1}, "day"},
		{insight.ProfileQuery{Audience: "like", Day: today - 1}, "audience"},
	} {
		_, err := insight.NewProfile(t.Context(), b, forest, c.q)
		var f *taxonomy.FieldError
		if !errors.As(err, &f) || f.Field != c.at {
			t.Errorf("%+v: %v, want a fault at %q", c.q, err, c.at)
		}
	}
}
