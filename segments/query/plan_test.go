package query_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/segments/query/querytest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const today = taxonomy.Day(20700)

func column(trait string) taxonomy.Column {
	return taxonomy.Column{Source: "shop", Trait: taxonomy.Trait(trait)}
}

func parse(t testing.TB, s string) query.Expr {
	t.Helper()
	e, err := query.Parse([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// world: visitors 0 to 9 have an event today, and may be profiled; even ones
// had c:p/even 5 days ago, visitor 3 had c:p/rare 40 days ago, 4 times.
func world() *querytest.World {
	w := &querytest.World{Now: today.Start(), Sets: map[string][]int{}}
	for v := range 10 {
		w.Facts = append(w.Facts, querytest.Fact{Visitor: v, Day: today, Column: column("any")})
		if v%2 == 0 {
			w.Facts = append(w.Facts, querytest.Fact{Visitor: v, Day: today - 5, Column: column("c:p/even")})
		}
		w.Sets[index.SetProfile] = append(w.Sets[index.SetProfile], v)
	}
	w.Facts = append(w.Facts, querytest.Fact{Visitor: 3, Day: today - 40, Column: column("c:p/rare"), N: 4})
	return w
}

func resolver(t testing.TB, v index.Leaves, audiences map[taxonomy.AudienceID]query.Expr) query.Resolver {
	t.Helper()
	r, err := query.NewIndexResolver(v, today, []taxonomy.SourceID{"shop"}, func(id taxonomy.AudienceID) (query.Expr, bool) {
		e, ok := audiences[id]
		return e, ok
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestEachLeafIsReadOnceForAllAudiences(t *testing.T) {
	v := world().View()
	p := query.NewPlan(today, resolver(t, v, nil))
	for _, s := range []string{
		`{"trait":"c:p/even"}`,
		`{"and":[{"trait":"c:p/even"},{"trait":"any","window":"7d"}]}`,
		`{"or":[{"not":{"trait":"c:p/even"}},{"trait":"c:p/even","unit":"days"}]}`,
		`{"trait":"c:p/even","max":3}`,
	} {
		if _, err := p.Add(parse(t, s)); err != nil {
			t.Fatal(err)
		}
	}
	res, err := p.Run(t.Context(), v, query.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if want := []uint64{5, 5, 10, 5}; !slices.Equal(res.Counts, want) {
		t.Errorf("counts %v, want %v", res.Counts, want)
	}
	for key, blocks := range v.Asked() {
		if n := blocks[[2]int{0, 0}]; n != 1 {
			t.Errorf("%s read %d times", key, n)
		}
	}
	// c:p/even ≥ 1, ≥ 4; any 7d, 90d; the sets profile, gone and holdout.
	if len(v.Asked()) != 7 || p.Leaves() != 7 {
		t.Errorf("%d leaves read of %d, want 7", len(v.Asked()), p.Leaves())
	}
}

func TestAnEmptyConjunctionStopsAtTheRarestLeaf(t *testing.T) {
	v := world().View()
	p := query.NewPlan(today, resolver(t, v, nil))
	// The rare one is empty in its window, though it stands last; nothing else
	// of the conjunction may be read.
	e := parse(t, `{"and":[{"trait":"c:p/even"},{"trait":"any","window":"9d"},{"not":{"trait":"any","window":"3d"}},{"trait":"c:p/rare","window":"30d"}]}`)
	if _, err := p.Add(e); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Run(t.Context(), v, query.RunOptions{}); err != nil {
		t.Fatal(err)
	}
	for key := range v.Asked() {
		if strings.Contains(key, "c:p/even") || strings.Contains(key, fmt.Sprintf("count %d..", today-8)) || strings.Contains(key, fmt.Sprintf("count %d..", today-2)) {
			t.Errorf("%s was read", key)
		}
	}
}

func TestNothingIsReadWhereNobodyIsEligible(t *testing.T) {
	w := world()
	w.Sets[index.SetProfile] = nil
	v := w.View()
	p := query.NewPlan(today, resolver(t, v, nil))
	if _, err := p.Add(parse(t, `{"trait":"c:p/even"}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Run(t.Context(), v, query.RunOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(v.Asked()) != 1 {
		t.Errorf("read %v, want only the permits", v.Asked())
	}
}

func TestNestedAudiencesAreRefusedInRings(t *testing.T) {
	v := world().View()
	deep := map[taxonomy.AudienceID]query.Expr{}
	for i := range 20 {
		deep[taxonomy.AudienceID(fmt.Sprint("d", i))] = query.Not{Of: query.Audience{ID: taxonomy.AudienceID(fmt.Sprint("d", i+1))}}
	}
	wide := make([]query.Expr, 30)
	for i := range wide {
		wide[i] = query.Any{}
	}
	deep["wide"] = query.Or{Of: wide}
	deep["a"], deep["b"] = parse(t, `{"and":[{"any":true},{"audience":"b"}]}`), parse(t, `{"not":{"audience":"a"}}`)
	r := resolver(t, v, deep)
	many := make([]query.Expr, 20)
	for i := range many {
		many[i] = query.Audience{ID: "wide"}
	}
	for _, c := range []struct {
		e           query.Expr
		field, says string
	}{
		{query.Audience{ID: "a"}, "audience.and[1].audience.not.audience", `a → b → a`},
		{query.Not{Of: query.Audience{ID: "nobody"}}, "not.audience", `no audience "nobody"`},
		{query.Audience{ID: "d0"}, "", "nested deeper than 16"},
		{query.And{Of: many}, "", "more than 500 nodes"},
	} {
		_, err := query.NewPlan(today, r).Add(c.e)
		if err == nil || !strings.Contains(err.Error(), c.says) || c.field != "" && fields(err)[0] != c.field {
			t.Errorf("%s: %v (at %v)", query.Print(c.e), err, fields(err))
		}
	}
}

func TestPositiveColumnsDecideRemainingLife(t *testing.T) { // R31
	w := world()
	w.Stated = []querytest.Statement{{Visitor: 1, Day: today, Column: column("a:age=18-24")}, {Visitor: 2, Day: today, Column: column("a:age=25-34")}, {Visitor: 2, Day: today, Column: column("l:crm=in")}}
	v := w.View()
	r := resolver(t, v, map[taxonomy.AudienceID]query.Expr{"rare": parse(t, `{"trait":"c:p/rare"}`), "look": nil})
	for _, c := range []struct{ in, want string }{
		{`{"trait":"c:p/even"}`, "c:p/even"},
		{`{"trait":"c:p/even","max":3}`, "c:p/even"},
		{`{"trait":"c:p/even","sources":["other"]}`, ""},
		{`{"not":{"trait":"c:p/even"}}`, ""},
		{`{"not":{"not":{"trait":"c:p/even"}}}`, "c:p/even"},
		{`{"trait":"c:p/even","min":0,"max":3}`, ""},
		{`{"not":{"trait":"c:p/even","min":0,"max":3}}`, "c:p/even"},
		{`{"and":[{"any":true},{"trait":"any","window":"7d"},{"audience":"rare"},{"audience":"look"},{"not":{"trait":"c:p/even"}}]}`, "any c:p/rare"},
		{`{"or":[{"attribute":"age","in":["18-24"]},{"list":"crm"}]}`, "a:age=18-24 l:crm=in"},
	} {
		var got []string
		for _, col := range query.Positive(parse(t, c.in), r) {
			got = append(got, string(col.Trait))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", c.in, got, c.want)
		}
	}
}

func TestExplainSaysWhyNobodyIsIn(t *testing.T) {
	w := world()
	w.Sets[index.SetProfile] = []int{0, 1, 2, 3, 4, 5, 6, 7, 8}
	w.Facts = append(w.Facts,
		querytest.Fact{Visitor: 9, Day: today, Column: column("c:p/nine")},
		querytest.Fact{Visitor: 1, Day: today, Column: taxonomy.Column{Source: "withdrawn", Trait: "c:p/old"}})
	w.Stated = []querytest.Statement{{Visitor: 1, Day: today, Column: column("a:age=18-24")}}
	v := w.View()
	r := resolver(t, v, map[taxonomy.AudienceID]query.Expr{"look": nil, "none": parse(t, `{"trait":"c:p/none"}`)})
	for _, c := range []struct {
		in   string
		want string // path:code
	}{
		{`{"trait":"c:p/even"}`, ""},
		{`{"trait":"c:p/none"}`, ".:unknown_trait"},
		{`{"trait":"c:p/old"}`, ".:source_not_in_use"},
		{`{"trait":"c:p/even","sources":["withdrawn"]}`, ".:source_not_in_use"},
		{`{"trait":"c:p/even","window":{"from":"2020-01-01","to":"2020-01-31"}}`, ".:outside_retention"},
		{`{"trait":"c:p/even","window":{"from":"` + (today - 60).String() + `","to":"` + (today - 50).String() + `"}}`, ".:before_first_data"},
		{`{"trait":"c:p/even","window":"3d"}`, ".:not_in_window"},
		{`{"trait":"c:p/even","min":2}`, ".:out_of_bounds"},
		{`{"trait":"c:p/even","last_seen":{"max_days":4}}`, ".:out_of_bounds"},
		{`{"trait":"c:p/nine"}`, ".:not_eligible"},
		{`{"not":{"any":true}}`, ".:all_excluded"},
		{`{"attribute":"age","in":["65+"]}`, ".:unknown_value"},
		{`{"attribute":"eyes","in":["blue"]}`, ".:unknown_attribute"},
		{`{"audience":"look"}`, ".:empty_audience"},
		{`{"audience":"none"}`, "audience:unknown_trait"},
		{`{"and":[{"trait":"c:p/even"},{"or":[{"trait":"c:p/x"},{"trait":"c:p/nine"}]}]}`, "and[1].or[0]:unknown_trait and[1].or[1]:not_eligible"},
		{`{"and":[{"any":true},{"trait":"c:p/even"},{"trait":"c:p/rare"}]}`, "and[2]:no_overlap"},
	} {
		x, err := query.Explain(t.Context(), v, today, r, parse(t, c.in), query.RunOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, why := range x.WhyEmpty {
			got = append(got, why.Path+":"+string(why.Code))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", c.in, x.WhyEmpty, c.want)
		}
	}
	w.Sets[index.SetProfile] = nil
	x, err := query.Explain(t.Context(), w.View(), today, r, parse(t, `{"any":true}`), query.RunOptions{})
	if err != nil || len(x.WhyEmpty) != 1 || x.WhyEmpty[0].Code != query.NobodyEligible {
		t.Errorf("without permits: %v, %v", x, err)
	}
}

// broken fails on every leaf but sets.
type broken struct{ *querytest.View }

var errDisk = errors.New("disk")

func (b broken) Leaf(shard, block int, op *index.Operand, dst *index.Words) (int, error) {
	if op.Kind == index.OpSet {
		return b.View.Leaf(shard, block, op, dst)
	}
	return 0, errDisk
}

func TestAFailedLeafGivesNoResult(t *testing.T) {
	v := world().View()
	p := query.NewPlan(today, resolver(t, v, nil))
	if _, err := p.Add(parse(t, `{"trait":"c:p/even"}`)); err != nil {
		t.Fatal(err)
	}
	if res, err := p.Run(t.Context(), broken{v}, query.RunOptions{}); res != nil || !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "shard 0, block 0") {
		t.Errorf("%v, %v", res, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if res, err := p.Run(ctx, v, query.RunOptions{}); res != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v, %v", res, err)
	}
}

// R14, R15, P5: the edges of windows, bounds and life, one by one.
func TestEdges(t *testing.T) {
	w := &querytest.World{Now: today.Start() + taxonomy.OneDay - 1, Sets: map[string][]int{index.SetProfile: {0, 1, 2, 3, 4, 5, 6, 7}}}
	add := func(visitor int, trait string, n int, ages ...int) {
		for _, a := range ages {
			w.Facts = append(w.Facts, querytest.Fact{Visitor: visitor, Day: today - taxonomy.Day(a), Column: column(trait), N: n})
		}
	}
	add(0, "c:p/x", 1, 0)
	add(1, "c:p/x", 1, 89)
	add(2, "c:p/x", 1, 90) // over
	add(3, "c:p/x", 1, -1) // another node's clock is ahead
	add(4, "c:p/x", 1, 0, 1, 2)
	add(5, "c:p/x", 254, 3)
	add(6, "c:p/x", 255, 3)
	add(7, "c:p/x", 200, 3, 4)
	for v := range 8 {
		add(v, "any", 1, 89)
	}
	v := w.View()
	r := resolver(t, v, nil)
	day := func(age int) string { return (today - taxonomy.Day(age)).String() }
	for _, c := range []struct {
		in   string
		want []int
	}{
		{`{"trait":"c:p/x"}`, []int{0, 1, 4, 5, 6, 7}},
		{`{"trait":"c:p/x","window":"89d"}`, []int{0, 4, 5, 6, 7}},
		{`{"trait":"c:p/x","window":"1d"}`, []int{0, 4}},
		{`{"trait":"c:p/x","window":{"from":"` + day(100) + `","to":"` + day(89) + `"}}`, []int{1}},
		{`{"trait":"c:p/x","window":{"from":"` + day(2) + `","to":"` + day(-5) + `"}}`, []int{0, 4}},
		{`{"trait":"c:p/x","window":"3d","min":3,"unit":"days"}`, []int{4}},
		{`{"trait":"c:p/x","window":"2d","min":3,"unit":"days"}`, []int{}},
		{`{"trait":"c:p/x","min":254,"max":254}`, []int{5}},
		{`{"trait":"c:p/x","min":255}`, []int{6, 7}},
		{`{"trait":"c:p/x","min":2,"unit":"days"}`, []int{4, 7}},
		{`{"trait":"c:p/x","min":0,"max":254}`, []int{0, 1, 2, 3, 4, 5}},
		{`{"trait":"c:p/x","last_seen":{"min_days":89}}`, []int{1}},
		{`{"trait":"c:p/x","last_seen":{"min_days":1,"max_days":3}}`, []int{5, 6, 7}},
		{`{"trait":"c:p/x","window":"4d","last_seen":{"max_days":0}}`, []int{0, 4}},
		{`{"not":{"trait":"c:p/x"}}`, []int{2, 3}},
	} {
		p := query.NewPlan(today, r)
		if _, err := p.Add(parse(t, c.in)); err != nil {
			t.Fatal(err)
		}
		res, err := p.Run(t.Context(), v, query.RunOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := v.Visitors(res.Sets[0]); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.in, got, c.want)
		}
	}
}
