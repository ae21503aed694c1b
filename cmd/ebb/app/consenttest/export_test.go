package consenttest

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// Strings of the IAB's encoder, and some by hand, of March 2026.
const (
	// Everything for vendors 1 to 20, who are disclosed.
	everyone = "CQgYw8AQgYw8AAKABBENCWEgAP___wAAAAYgAKP__8AAAAQIACAAwEABAAaA.IAKP__8A"
	// Everything for vendor 5 alone; 1 to 20 are disclosed.
	onlyFive = "CQgYw8AQgYw8AAKABBENCWEgAP___wAAAAYgAKQAYACgAKAAAAAA.IAKP__8A"
	// No purpose for anybody.
	nothing = "CQg2bYAQg2bYAAfAHBENCWFgAAAAAAAAAAYgAAAAAAAA.IIrwAQIrgAAA.YAAAAAAAAAAA"
	// Purposes 1, 3 and 4 with vendor 1111, who is not disclosed.
	leftOut = "CQg2bYAQg2bYAAfAHBENCWFgALAAAAAAAAYgIrwAQIrgAAAA.IABM.YAAAAAAAAAAA"
	// For vendor 1111: every purpose; purposes 1, 3 and 4 only.
	full1111     = "CQg2bYAQg2bYAAfAHBENCWFgAP_gAEPgAAYgIrwAQIrgivABAiuAAAAA.IIrwAQIrgAAA.YAAAAAAAAAAA"
	purposes134  = "CQg2bYAQg2bYAAfAHBENCWFgALAAAACAAAYgIrwAQIrgivABAiuACSgAgRXA.IIrwAQIrgAAA.YAAAAAAAAAAA"
	withoutThree = "CQg2bYAQg2bYAAfAHBENCWFgAIAAAAAAAAYgIrwAQIrgAAAA.IIrwAQIrgAAA.YAAAAAAAAAAA"
)

const three = "seven eight nobodys"

var march = time.Date(2026, 3, 15, 12, 0, 0, 0, time.UTC)

func tcf(s string) string { return `{"tcf":"` + s + `"}` }

// asVendor is a world that reads strings as vendor 5, with destinations of
// vendors 7 and 8, who were consented to, and one of no vendor.
func asVendor(t *testing.T, list []byte) *world {
	w := newWorld(t, march, list, map[string]string{"consent.role": "vendor", "consent.gvl_id": "5", "consent.gvl": "gvl.json"})
	w.site(taxonomy.Site{ID: "shop", Origins: []string{origin}, Consent: taxonomy.ModeOptIn})
	w.destination("seven", 7, "tea")
	w.destination("eight", 8, "tea")
	w.destination("nobodys", 0, "tea")
	return w
}

// buyers are visitors that come back, so that what they do counts.
func (w *world) buyers(n int, what, consent string) (vs []*visitor) {
	w.t.Helper()
	for range n {
		v := w.visitor()
		for range 2 {
			if why := v.buys(what, consent); why != "" {
				w.t.Fatalf("refused: %s", why)
			}
		}
		vs = append(vs, v)
	}
	return vs
}

// R22, R23: the strings of each visitor decide which partner gets it. A narrower
// string takes it from one partner with the next delivery; a withdrawal from all,
// and from /v1/seg at once.
func TestWithdrawalIsObeyedByTheNextDeliveryAndAtOnceOnThePage(t *testing.T) {
	w := asVendor(t, vendorList(t, ours(5), dsp(7), dsp(8)))
	vs := w.buyers(3, "tea", tcf(everyone))
	w.wants(three, "seven 3 eight 3 nobodys 0")
	query := "gdpr_consent=" + everyone
	if got := vs[0].audiences(query); got != "tea" {
		t.Errorf("the page is told %q", got)
	}

	// Narrowed: a consent record, no erasure.
	if why := vs[0].buys("cake", tcf(onlyFive)); why != "" {
		t.Errorf("refused: %s", why)
	}
	w.wants(three, "seven 2 eight 2 nobodys 0")
	if got := vs[0].audiences("gdpr_consent=" + onlyFive); got != "tea" {
		t.Errorf("the page of a narrowed visitor is told %q", got)
	}

	// Withdrawn: the cookie goes, and the visitor with it.
	if why := vs[1].buys("cake", tcf(nothing)); why != "tcf_not_disclosed" || len(vs[1].cookies) != 0 {
		t.Errorf("reason %q, cookies %v", why, vs[1].cookies)
	}
	if got := vs[1].audiences(query); got != "" {
		t.Errorf("the page of one who withdrew is told %q", got)
	}
	w.wants(three, "seven 1 eight 1 nobodys 0")

	// A yes again is one again, of a new visitor.
	if why := vs[1].buys("tea", tcf(everyone)); why != "" || len(vs[1].cookies) != 1 {
		t.Errorf("reason %q, cookies %v", why, vs[1].cookies)
	}
}

// R23: the page's own banner drops us. Nothing lets us keep what we have, so the
// visitor is forgotten; mended, it is another one.
func TestABannerThatDropsUsLeavesNothing(t *testing.T) {
	w := newWorld(t, march, vendorList(t, ours(1111)), map[string]string{"consent.role": "vendor", "consent.gvl_id": "1111", "consent.gvl": "gvl.json"})
	w.site(taxonomy.Site{ID: "shop", Origins: []string{origin}, Consent: taxonomy.ModeOptIn})
	w.destination("self", 1111, "tea")
	v := w.buyers(1, "tea", tcf(full1111))[0]
	w.wants("self", "self 1")
	if why := v.buys("cake", tcf(leftOut)); why != "tcf_not_disclosed" || len(v.cookies) != 0 {
		t.Errorf("reason %q, cookies %v", why, v.cookies)
	}
	w.wants("self", "self 0")
	w.later(time.Minute)
	if why := v.buys("cake", tcf(full1111)); why != "" {
		t.Errorf("mended: %s", why)
	}
	w.wants("self", "self 0") // the tea was another's
}

// R31, F1: what a partner holds ends when the summary is 30 days old, and a
// vendor that the list deletes gets nothing from then on.
func TestTheDecisionIsRepeatedAtExport(t *testing.T) {
	w := asVendor(t, vendorList(t, ours(5), dsp(7), dsp(8)))
	vs := w.buyers(4, "tea", tcf(everyone))
	w.wants(three, "seven 4 eight 4 nobodys 0")

	// The IAB deletes vendor 7 and vendor 8 no longer declares purpose 4. What was
	// stored allowed both.
	w.again(vendorList(t, ours(5), deletedDSP(7), undeclared(8)))
	w.wants(three, "seven 4 eight 0 nobodys 0") // deleted as of 20 March only
	w.later(5 * 24 * time.Hour)
	w.wants(three, "seven 0 eight 0 nobodys 0")
	w.again(vendorList(t, ours(5), dsp(7), dsp(8)))
	w.wants(three, "seven 4 eight 4 nobodys 0")

	// 29 days after the last string three are sent on their last day; the one who
	// came back stays.
	w.later(23 * 24 * time.Hour)
	if why := vs[0].buys("cake", tcf(everyone)); why != "" {
		t.Fatalf("refused: %s", why)
	}
	w.later(24 * time.Hour)
	w.wants(three, "seven 4 eight 4 nobodys 0")
	w.later(24 * time.Hour)
	w.wants(three, "seven 1 eight 1 nobodys 0")
}

// F1: an audience that tells of something sensitive is delivered empty, whatever
// the visitors agreed to.
func TestASensitiveAudienceIsNotSent(t *testing.T) {
	w := asVendor(t, vendorList(t, ours(5), dsp(7), dsp(8)))
	define := func(id taxonomy.AudienceID, rule string) {
		w.define(defs.Audience, string(id), audience.Definition{ID: id, Title: string(id), Kind: audience.KindRule, Rule: []byte(rule)})
	}
	define("ill", `{"trait":"c:shop/health"}`)
	define("tea-or-ill", `{"or":[{"trait":"c:shop/tea"},{"trait":"c:shop/health"}]}`)
	define("nested", `{"and":[{"audience":"ill"},{"trait":"c:shop/tea"}]}`)
	define("not-ill", `{"and":[{"trait":"c:shop/tea"},{"not":{"trait":"c:shop/health"}}]}`)
	w.destination("seven", 7, "tea", "ill", "tea-or-ill", "nested", "not-ill")
	for _, v := range w.buyers(2, "tea", tcf(everyone)) {
		v.buys("health", tcf(everyone))
	}
	w.deliver()
	held := w.held("seven")
	if len(held["tea"]) != 2 || len(held["ill"])+len(held["tea-or-ill"])+len(held["nested"])+len(held["not-ill"]) != 0 {
		t.Errorf("held %v", held)
	}
	done, err := w.server.Build(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if e, _ := done.Generation.Entry("ill"); e.Count != 2 {
		t.Errorf("built with %d members", e.Count)
	}
	rec := w.ask(tagserver.Private, "GET", "/api/v1/destinations/seven/deliveries", "", http.Header{"Authorization": {"Bearer " + w.key}})
	var list struct {
		Items []struct{ Withheld []delivery.Withheld }
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &list); err != nil || len(list.Items) == 0 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	var why []string
	for _, x := range list.Items[0].Withheld {
		why = append(why, string(x.Audience)+": "+x.Why)
	}
	if got := strings.Join(why, "; "); len(why) != 4 || !strings.Contains(got, "ill: it tells of c:shop/health, which is sensitive") {
		t.Errorf("withheld: %s", got)
	}
}

// F1: pages are told of no audience that tells of something sensitive, not even one
// that is marked for them and was defined before its category was marked: neither
// from the generation nor by what was folded since, nor in what bidders are told.
func TestASensitiveAudienceIsToldToNoPage(t *testing.T) {
	w := asVendor(t, vendorList(t, ours(5), dsp(7), dsp(8)))
	define := func(id taxonomy.AudienceID, rule string) {
		w.define(defs.Audience, string(id), audience.Definition{ID: id, Title: string(id), Kind: audience.KindRule, Rule: []byte(rule), Page: true})
	}
	define("ill", `{"trait":"c:shop/health"}`)
	define("nested", `{"and":[{"audience":"ill"},{"trait":"c:shop/tea"}]}`)
	define("cakes", `{"trait":"c:shop/cake"}`)
	w.define(defs.Destination, "seven", delivery.Destination{ID: "seven", Title: "seven", GVLID: 7, Bidder: "sevenbid", Audiences: []taxonomy.AudienceID{"tea", "cakes", "ill", "nested"}, Floor: 1, KeyHash: delivery.HashKey(partnerKey("seven"))})
	v := w.buyers(1, "tea", tcf(everyone))[0]
	v.buys("health", tcf(everyone))
	v.buys("cake", tcf(everyone))
	const consent = "gdpr=1&gdpr_consent=" + everyone
	wants := func(when, want string) {
		t.Helper()
		if got := v.audiences(consent); got != want {
			t.Errorf("%s the page is told of %q, want %q", when, got, want)
		}
		bids := v.do("GET", "/v1/seg?site=shop&as=ortb2&"+consent, "").Body.String()
		for _, id := range strings.Fields(want) {
			if !strings.Contains(bids, `"`+id+`"`) {
				t.Errorf("%s bidders are not told of %s: %s", when, id, bids)
			}
		}
		if strings.Contains(bids, `"ill"`) || strings.Contains(bids, `"nested"`) {
			t.Errorf("%s bidders are told %s", when, bids)
		}
	}
	w.deliver()
	wants("by a generation", "cakes tea")
	v.buys("health", tcf(everyone))
	v.buys("cake", tcf(everyone))
	wants("by what was folded since", "cakes tea")
	// The category is marked when pages read the audience already.
	w.define(defs.Taxonomy, "shop", tree.Taxonomy{ID: "shop", Title: "Shop", Categories: []tree.Category{{ID: "tea", Title: "Tea"}, {ID: "cake", Title: "Cake", Sensitive: true}, {ID: "health", Title: "Health", Sensitive: true}}})
	wants("once its category is marked", "tea")
	w.deliver()
	wants("by the next generation", "tea")
}

// Purposes 9 and 10 (B6): who did not agree to them is in the audience and sent,
// and neither counted in the reach of categories nor learnt from.
func TestPurposesNineAndTenGateInsightsAndTraining(t *testing.T) {
	w := newWorld(t, march, vendorList(t, ours(1111)), map[string]string{"consent.role": "vendor", "consent.gvl_id": "1111", "consent.gvl": "gvl.json"})
	w.site(taxonomy.Site{ID: "shop", Origins: []string{origin}, Consent: taxonomy.ModeOptIn})
	w.destination("self", 1111, "tea")
	w.define(defs.Audience, "like-tea", audience.Definition{ID: "like-tea", Title: "Like tea", Kind: audience.KindLookalike, Lookalike: &audience.LookalikeSpec{Seed: "tea", Size: 40}})
	const n = 110 // a seed has 100 at least
	teas := w.buyers(n, "tea", tcf(purposes134))
	w.buyers(n, "cake", tcf(full1111))
	state := func(reachOfTea, wantInsight, wantTraining uint64, learns bool) {
		t.Helper()
		built, err := w.server.Build(ctx)
		if err != nil {
			t.Fatal(err)
		}
		p, err := w.server.Permits(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		if p.Insight != wantInsight || p.Training != wantTraining || p.Profile != 2*n {
			t.Errorf("%+v", p)
		}
		r, err := w.server.Reach(ctx, []taxonomy.Trait{"c:shop/tea", "c:shop/cake"})
		if err != nil {
			t.Fatal(err)
		}
		days := r.Courses[0].Days
		if r.Courses[0].Visitors != reachOfTea || days[len(days)-1] != reachOfTea || r.Courses[1].Visitors != n {
			t.Errorf("reach of tea %d, today %d, of cake %d", r.Courses[0].Visitors, days[len(days)-1], r.Courses[1].Visitors)
		}
		if e, _ := built.Generation.Entry("tea"); e.Count != n {
			t.Errorf("%d in the audience", e.Count)
		}
		e, _ := built.Generation.Entry("like-tea")
		if (e.Fault == "" && e.Count > 0) != learns {
			t.Errorf("lookalike: %d members, %q", e.Count, e.Fault)
		}
		w.deliver()
		if got := len(w.held("self")["tea"]); got != n {
			t.Errorf("%d sent", got)
		}
	}
	state(0, n, n, false) // its whole seed said no to training
	w.later(time.Minute)
	for _, v := range teas {
		v.buys("tea", tcf(full1111))
	}
	state(n, 2*n, 2*n, true)
}

// B3: without purpose 3 there is neither a cookie nor an event, and who has one
// is forgotten; GPC beats a full consent, and the status page says so (case 32).
func TestGPCBeatsAFullConsent(t *testing.T) {
	w := asVendor(t, vendorList(t, ours(5), dsp(7), dsp(8)))
	v := w.buyers(1, "tea", tcf(everyone))[0]
	w.wants(three, "seven 1 eight 1 nobodys 0")
	v.header.Set("Sec-GPC", "1")
	if why := v.buys("tea", tcf(everyone)); why != "gpc" || len(v.cookies) != 0 {
		t.Errorf("reason %q, cookies %v", why, v.cookies)
	}
	if rec := v.do("GET", "/privacy/status", ""); !strings.Contains(rec.Body.String(), `"gpc":true`) {
		t.Errorf("status %s", rec.Body)
	}
	w.wants(three, "seven 0 eight 0 nobodys 0")
	n := w.visitor()
	if why := n.buys("tea", tcf(withoutThree)); why == "" || len(n.cookies) != 0 {
		t.Errorf("reason %q, cookies %v", why, n.cookies)
	}
}
