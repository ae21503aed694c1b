package consenttest

import (
	"testing"

	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
)

// R18: a rule over keys that are never stored holds from its publication on, from
// the page to the partner; what came before it is not read again, since it is gone.
func TestARuleOverKeysThatAreNeverStoredHoldsFromPublicationOn(t *testing.T) {
	w := newWorld(t, march, vendorList(t, ours(5)), nil)
	w.site(taxonomy.Site{ID: "shop", Origins: []string{origin}, Consent: taxonomy.ModeOptIn})
	w.define(defs.Audience, "cake", audience.Definition{ID: "cake", Title: "Cake", Kind: audience.KindRule, Rule: []byte(`{"trait":"c:shop/cake"}`)})
	w.destination("d", 0, "tea", "cake")
	visit := func(n int) {
		t.Helper()
		for range n {
			v := w.visitor()
			for range 2 {
				rec := v.do("POST", "/v1/e", `{"site":"shop","consent":{"granted":true},"events":[{"url":"https://shop.example/?from=spring","props":{"p_plan":"gold"}}]}`)
				if rec.Code != 200 {
					t.Fatalf("%d %s", rec.Code, rec.Body)
				}
			}
		}
	}
	visit(1)
	w.define(defs.Rule, "private", rules.Rule{ID: "private", When: []rules.Condition{{Field: "prop.p_plan", Op: "eq", Value: "gold"}}, Then: []string{"c:shop/tea"}})
	w.define(defs.Rule, "campaign", rules.Rule{ID: "campaign", When: []rules.Condition{{Field: "query.from", Op: "eq", Value: "spring"}}, Then: []string{"c:shop/cake"}})
	visit(2)
	w.wants("d", "d 2")
	if got := w.counts("cake", "d"); got != "d 2" {
		t.Errorf("by a key of the query that is not kept: %s", got)
	}
}
