package tag

import (
	"strings"
	"testing"
)

// A bid request of the real Prebid.js carries the visitor's audiences, beside
// the page's own data, and no longer after a withdrawal.
func TestLongABidRequestCarriesTheAudiences(t *testing.T) {
	source := prebid(t)
	browser := chromium(t)
	sale := newAuctions(t)
	e, s := newEdge(t), newSite(t)
	e.audiences = `[{"id":"wine","slug":"wine"},{"id":"shoes","slug":"shoes"}]`
	s.put("/prebid.js", source)
	s.put("/a", e.page("", "", `<script src="`+e.URL+`/t/1/ads.js" data-site="shop" data-prebid="*"></script><script>`+sale.script("")+
		`ebb('consent',true)</script><script src="/prebid.js"></script><div id="div-1"></div>`))
	b := newTab(t, browser).open(s.URL + "/a")
	eventually(t, func() string {
		return unless(strings.Contains(b.js(`pbjs.getConfig('ortb2')`), `"wine"`), "the audiences are not in Prebid's configuration")
	})
	host := strings.TrimPrefix(e.URL, "http://")
	if got, want := sale.data(t, b), `[`+own+`,{"name":"`+host+`","ext":{},"segment":[{"id":"wine"},{"id":"shoes"}]}]`; got != want {
		t.Errorf("user.data is %s\nwant %s", got, want)
	}
	b.js(`ebb('consent',false)`)
	if got := sale.data(t, b); got != `[`+own+`]` {
		t.Errorf("after the withdrawal user.data is %s", got)
	}
	t.Logf("Prebid.js %s", b.js(`pbjs.version`))
}
