package realdata

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/app/clustertest"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/tagserver/api"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// node is who is in a column: on any of the 90 days at least so many times, or on
// one day.
type node struct {
	column taxonomy.Column
	what   string
}

// nodes reads every column of the view: visitors by their numbers, and how often.
func (w *world) nodes() map[node][]int {
	w.t.Helper()
	v := w.View()
	out := map[node][]int{}
	ask := func(c taxonomy.Column, what string, op index.Operand) {
		op.Columns = []taxonomy.Column{c}
		var who []int
		for s := range v.Shards() {
			for b := range v.Blocks(s) {
				var words index.Words
				if _, err := v.Leaf(s, b, &op, &words); err != nil {
					w.t.Fatal(err)
				}
				for o := range uint32(index.BlockSize) {
					if words[o/64]&(1<<(o%64)) == 0 {
						continue
					}
					if k, ok := v.Key(s, uint32(b)*index.BlockSize+o); ok {
						who = append(who, w.number[k])
					}
				}
			}
		}
		if len(who) > 0 {
			slices.Sort(who)
			out[node{c, what}] = who
		}
	}
	err := v.Columns(today.Oldest(), today, func(c taxonomy.Column, visitorDays uint64) {
		out[node{c, fmt.Sprintf("%d visitor days", visitorDays)}] = nil
		if _, statement := c.Trait.Statement(); statement {
			return
		}
		for _, n := range []uint8{1, 2, 5, 20} {
			ask(c, fmt.Sprintf("at least %d events", n), index.Operand{Kind: index.OpCount, From: today.Oldest(), To: today, Min: n})
			ask(c, fmt.Sprintf("at least %d days", n), index.Operand{Kind: index.OpCount, From: today.Oldest(), To: today, Min: n, Unit: index.DistinctDays})
		}
		for d := today - 2; d <= today; d++ {
			ask(c, "on "+d.String(), index.Operand{Kind: index.OpCount, From: d, To: d, Min: 1})
		}
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// defineOthers defines, before the files come, no tree above the departments,
// another idea of what is large, and no brands.
func (j *journey) defineOthers(products tree.Taxonomy) {
	j.t.Helper()
	flat := tree.Taxonomy{ID: "products", Title: "Products"}
	for _, c := range products.Categories {
		c.Parents = nil
		flat.Categories = append(flat.Categories, c)
	}
	j.define(defs.Taxonomy, "products", flat)
	five := 5.0
	j.define(defs.Rule, "products", rules.Rule{ID: "products", When: []rules.Condition{{Field: "name", Op: "eq", Value: "purchase"}}, Then: []string{"c:products/{department}"}})
	j.define(defs.Rule, "large", rules.Rule{ID: "large", When: []rules.Condition{{Field: "prop.sales_value", Op: "range", Min: &five}}, Then: []string{"k:size=large"}})
	j.define(defs.Rule, "gone", rules.Rule{ID: "gone", Then: []string{"k:gone=tomorrow"}})
}

// R18, R14: rules that are published, and a tree that is changed, after all was
// imported give at every node what they give if they were there before.
func TestLongARulePublishedTodayEqualsHavingHadItAllAlong(t *testing.T) {
	publishedToday(t, newJourneyWith(t, (*journey).defineOthers))
}

// R18 on the other store.
func TestCassandraARulePublishedTodayEqualsHavingHadItAllAlong(t *testing.T) {
	cassandra := clustertest.Keyspace(t)
	cassandra["shards"] = "1" // more write as many times the files
	ring, err := keys.Generate(app.System().Rand, today)
	if err == nil {
		ring, err = ring.WithSpace(app.System().Rand, household)
	}
	if err != nil {
		t.Fatal(err)
	}
	publishedToday(t, newJourneyIn(t, newWorldIn(t, noon(today), ring, cassandra), (*journey).defineOthers))
}

// publishedToday defines on later, where everything was imported, what an embedded
// store had from the start, and compares every node.
func publishedToday(t *testing.T, later *journey) {
	t.Helper()
	always := newJourney(t)
	want := always.build()
	nodes := always.nodes()
	if before := later.build(); cmp.Equal(before, want) {
		t.Fatal("the rules before give what those after do: nothing is tested")
	}
	later.defineRules(later.tree)
	later.define(defs.Rule, "gone", rules.Rule{ID: "gone", When: []rules.Condition{{Field: "name", Op: "eq", Value: "nothing"}}, Then: []string{"k:gone=tomorrow"}})

	got := later.nodes()
	if diff := cmp.Diff(keysOf(nodes), keysOf(got)); diff != "" {
		t.Errorf("other nodes (-always +later):\n%.2000s", diff)
	}
	for n, who := range nodes {
		if !slices.Equal(who, got[n]) {
			t.Errorf("%v: %d households, want %d", n, len(got[n]), len(who))
		}
	}
	if got := later.build(); !cmp.Equal(want, got) {
		t.Error("audiences differ")
	}
	later.balanced()

	done := 0
	all, err := later.Operations(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all {
		if o.State != api.OperationDone {
			t.Errorf("%+v", o)
		}
		if o.Read >= 18_638 {
			done++
		}
	}
	if done != 4 {
		t.Errorf("%d re-folds read all purchases, want 4: %+v", done, all)
	}
	t.Logf("%d columns and counts of them are equal", len(nodes))
}

func keysOf(m map[node][]int) map[string]int {
	out := map[string]int{}
	for n, who := range m {
		out[fmt.Sprint(n)] = len(who)
	}
	return out
}
