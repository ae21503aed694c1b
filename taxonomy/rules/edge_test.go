package rules

import (
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// R18: rules over keys that are never stored are asked by the edge, and only there.
func TestKeysThatAreNeverStoredAreAskedAtTheEdgeOnly(t *testing.T) {
	f, err := tree.New(tree.Taxonomy{ID: "t", Title: "T", Categories: []tree.Category{
		{ID: "tea", Title: "Tea"}, {ID: "green", Title: "Green", Parents: []string{"tea"}}, {ID: "cake", Title: "Cake"}}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := Compile(1, f, []Rule{
		{ID: "gold", When: []Condition{{Field: "prop.p_plan", Op: "eq", Value: "gold"}}, Then: []string{"c:t/green", "k:plan=paid"}},
		{ID: "not-gold", Sites: []taxonomy.SiteID{"shop"}, When: []Condition{{Field: "prop.p_plan", Op: "eq", Value: "gold", Not: true}}, Then: []string{"k:plan=free"}},
		{ID: "search", When: []Condition{{Field: "query.q", Op: "eq", Value: "cake"}}, Then: []string{"c:t/cake"}},
		{ID: "by-value", When: []Condition{{Field: "prop.p_what", Op: "exists"}}, Then: []string{"c:t/{p_what}"}},
		{ID: "kept", When: []Condition{{Field: "path", Op: "prefix", Value: "/tea"}}, Then: []string{"c:t/tea"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	kept := taxonomy.Event{URL: "https://x.example/tea"}
	full := taxonomy.Event{URL: "https://x.example/tea?q=cake", Props: []taxonomy.Prop{{Key: "p_plan", Value: "gold"}, {Key: "p_what", Value: "cake"}}}
	// Tea itself is what the kept event says; green's ancestors are left out.
	if got := c.Evaluate("shop", &full, &kept, nil); !slices.Equal(got, []taxonomy.Trait{"c:t/cake", "c:t/green", "k:plan=paid"}) {
		t.Errorf("the edge decides %v", got)
	}
	if got := c.Classify("shop", &kept, nil); !slices.Equal(got, []taxonomy.Trait{"c:t/tea"}) {
		t.Errorf("a stored event gives %v: a \"not\" of what was never stored holds of nothing", got)
	}
	kept.Traits = c.Evaluate("shop", &full, &kept, nil)
	if got := c.Classify("shop", &kept, nil); !slices.Equal(got, []taxonomy.Trait{"c:t/cake", "c:t/green", "c:t/tea", "k:plan=paid"}) {
		t.Errorf("with what the edge decided a stored event gives %v", got)
	}
	if got := c.QueryKeys("news"); !slices.Equal(got, []string{"q"}) {
		t.Errorf("keys of the query: %v", got)
	}
	_, err = Compile(1, f, []Rule{{ID: "leak", When: []Condition{{Field: "name", Op: "exists"}}, Then: []string{"k:plan={p_plan}"}}})
	if err == nil || !strings.Contains(err.Error(), "rules[0].then[0]") || !strings.Contains(err.Error(), "never stored") {
		t.Errorf("a rule that would store the value: %v", err)
	}
}
