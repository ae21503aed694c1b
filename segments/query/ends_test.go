package query_test

import (
	"testing"

	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/segments/query/querytest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// R16: a statement with a life of its own is over when it says; what was stated
// before it does not come back, and a newer one takes its place.
func TestAStatementHoldsNoLongerThanItSays(t *testing.T) {
	const day = taxonomy.Day(20800)
	young, old := taxonomy.Column{Source: "shop", Trait: "a:age=18-24"}, taxonomy.Column{Source: "shop", Trait: "a:age=25-34"}
	ends := taxonomy.Column{Source: "shop", Trait: young.Trait.Ending(day + 7)}
	stated := []querytest.Statement{{Visitor: 1, Day: day - 20, Column: old}, {Visitor: 1, Day: day, Column: ends}}
	again := append(stated, querytest.Statement{Visitor: 1, Day: day + 3, Column: young})
	for _, c := range []struct {
		stated     []querytest.Statement
		today      taxonomy.Day
		young, old bool
	}{
		{stated, day - 1, false, true}, {stated, day, true, false}, {stated, day + 6, true, false}, {stated, day + 7, false, false}, {stated, day + 60, false, false},
		{again, day + 7, true, false}, {again, day + 92, true, false}, {again, day + 93, false, false},
	} {
		w := &querytest.World{Now: c.today.Start(), Stated: c.stated, Sets: map[string][]int{"permit:profile": {1}}}
		v := w.View()
		r, err := query.NewIndexResolver(v, c.today, []taxonomy.SourceID{"shop"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for value, want := range map[string]bool{"18-24": c.young, "25-34": c.old} {
			e := query.Attribute{Key: "age", In: []string{value}}
			one, err := query.EvalVisitor(e, r, v.Facts(1), c.today)
			if err != nil {
				t.Fatal(err)
			}
			p := query.NewPlan(c.today, r)
			if _, err := p.Add(e); err != nil {
				t.Fatal(err)
			}
			res, err := p.Run(t.Context(), v, query.RunOptions{CountsOnly: true})
			if err != nil || one != want || (res.Counts[0] == 1) != want {
				t.Errorf("%d days later, age %s: %t alone, %d in blocks, want %t (%v)", c.today-day, value, one, res.Counts[0], want, err)
			}
		}
	}
}
