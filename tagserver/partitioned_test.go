package tagserver

import (
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// crossSite is a browser on a page of another site than the edge's host.
func (e *edge) crossSite() *browser {
	b := e.browser()
	b.header.Set("Sec-Fetch-Site", "cross-site")
	return b
}

// Off, a page of another site sets no cookie that the browser would keep for it;
// on, it gets one of its own, which rotates, is signed anew, erased and opted out
// of as the other is.
func TestThirdPartyModeIsOffUntilItIsSwitchedOn(t *testing.T) {
	e := newEdge(t)
	b := e.crossSite()
	b.yes()
	if b.cookies[CookiePartitioned] != "" || b.cookies[CookieID] == "" {
		t.Errorf("off: cookies %v", b.cookies)
	}
	e = newEdge(t, func(o *Options) { o.Partitioned = true })
	b = e.crossSite()
	b.yes()
	if b.cookies[CookiePartitioned] == "" || len(b.cookies) != 1 {
		t.Fatalf("on: cookies %v", b.cookies)
	}
	b.yes()
	visitor := e.last(taxonomy.RecordEvent)
	if !visitor.Returning {
		t.Error("the partitioned cookie does not return")
	}
	same := e.browser()
	same.yes()
	if same.cookies[CookieID] == "" || same.cookies[CookiePartitioned] != "" {
		t.Errorf("the same site: %v", same.cookies)
	}
	// R27, in its own jar.
	e.clock.Advance(89 * taxonomy.OneDay)
	before := b.cookies[CookiePartitioned]
	b.yes()
	if s := e.last(taxonomy.RecordSucceeds); b.cookies[CookiePartitioned] == before || s.Succeeds != visitor.Visitor || len(b.cookies) != 1 {
		t.Errorf("no new ID after 89 days: %v", b.cookies)
	}
	if w := b.do("POST", "/v1/optout", ""); w.Code != 200 || b.cookies[CookiePartitioned] != "" || b.cookies[CookieOptOut] != "1" {
		t.Errorf("opt-out: %d, cookies %v", w.Code, b.cookies)
	}
	if r := b.yes(); reply(t, r).Stored != 0 || b.cookies[CookiePartitioned] != "" {
		t.Error("stored after the opt-out")
	}
	if b.do("POST", "/v1/optin", ""); b.cookies[CookieOptOut] != "" {
		t.Errorf("opt-in: %v", b.cookies)
	}
}

// Neither kind of ID is taken for the other, whichever name it comes under.
func TestAPartitionedIDIsNoOtherID(t *testing.T) {
	e := newEdge(t, func(o *Options) { o.Partitioned = true })
	third, own := e.crossSite(), e.browser()
	third.yes()
	a := e.last(taxonomy.RecordEvent).Visitor
	own.yes()
	b := e.last(taxonomy.RecordEvent).Visitor
	for _, c := range []struct {
		who           string
		on            *browser
		name, carried string
	}{
		{"the partitioned value as first-party", e.browser(), CookieID, third.cookies[CookiePartitioned]},
		{"the first-party value as partitioned", e.crossSite(), CookiePartitioned, own.cookies[CookieID]},
		{"the first-party cookie on another site", e.crossSite(), CookieID, own.cookies[CookieID]},
		{"the partitioned cookie on the same site", e.browser(), CookiePartitioned, third.cookies[CookiePartitioned]},
	} {
		c.on.cookies[c.name] = c.carried
		c.on.yes()
		if r := e.last(taxonomy.RecordEvent); r.Returning || r.Visitor == a || r.Visitor == b {
			t.Errorf("%s: adopted", c.who)
		}
	}
	w := e.crossSite().do("GET", "/v1/sync/dsp?consent=1&site=shop", "", "Cookie", CookieID+"="+own.cookies[CookieID])
	if strings.Contains(w.Header().Get("Location"), "id=") {
		t.Error("a first-party ID is synced from another site")
	}
}
