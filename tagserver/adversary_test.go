package tagserver

import (
	"net/http"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

// After a rotation of keys a cookie is accepted, and signed anew: the same ID
// and day under the new key, for what is left of its life. One of an unknown key
// is refused.
func TestACookieOfARetiredKeyIsSignedAnew(t *testing.T) {
	ring, err := keys.Generate(seeded(1), storetest.Start.Day())
	if err != nil {
		t.Fatal(err)
	}
	e := newEdge(t, func(o *Options) { o.Keys = func() *keys.Ring { return ring } })
	b := e.browser()
	b.yes()
	before, visitor := b.cookies[CookieID], e.last(taxonomy.RecordEvent).Visitor
	e.clock.Advance(10 * taxonomy.OneDay)
	today := e.clock.Now().Day()
	if w := b.yes(); w.Header().Get("Set-Cookie") != "" {
		t.Errorf("a cookie of the current key is set again: %s", w.Header().Get("Set-Cookie"))
	}
	if ring, err = ring.Rotate(seeded(9), today); err != nil {
		t.Fatal(err)
	}
	w := b.yes()
	after := b.cookies[CookieID]
	if after == before || !strings.Contains(w.Header().Get("Set-Cookie"), "Max-Age=6912000;") { // 80 days
		t.Errorf("Set-Cookie %q", w.Header().Get("Set-Cookie"))
	}
	if r := e.last(taxonomy.RecordEvent); r.Visitor != visitor || !r.Returning {
		t.Error("the visitor is another")
	}
	was, day, _ := ring.VerifyCookie(CookieID, before, today)
	if is, d, ok := ring.VerifyCookie(CookieID, after, today); !ok || is != was || d != day {
		t.Error("the new cookie has another ID or day")
	}
	if w := b.yes(); w.Header().Get("Set-Cookie") != "" {
		t.Error("signed anew twice")
	}
	if w := b.do("GET", "/v1/seg?site=shop&consent=1", "", "Cookie", CookieID+"="+before); w.Header().Get("Set-Cookie") != "" {
		t.Error("a question sets a cookie")
	}
	other, err := keys.Generate(seeded(5), storetest.Start.Day())
	if err != nil {
		t.Fatal(err)
	}
	foreign := e.browser()
	foreign.cookies[CookieID] = other.SignCookie(CookieID, was, day)
	foreign.yes()
	if r := e.last(taxonomy.RecordEvent); r.Visitor == visitor || r.Returning {
		t.Error("a cookie of an unknown key is adopted")
	}
}

// A value that was signed under another cookie's name is not ours.
func TestACookieReplayedUnderAnotherNameIsRefused(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	b.cookies[CookieID] = e.o.Keys().SignCookie("__Host-ebbp", [16]byte{1, 2, 3}, storetest.Start.Day())
	b.yes()
	if r := e.last(taxonomy.RecordEvent); r.Returning {
		t.Error("adopted")
	}
}

// Every cookie that is ever set is one that browsers keep to this host.
func TestEverySetCookieKeepsTheRulesOfItsPrefix(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	check := func(h http.Header) {
		t.Helper()
		seen := map[string]bool{}
		for _, c := range (&http.Response{Header: h}).Cookies() {
			raw := c.Raw
			if !strings.HasPrefix(c.Name, "__Host-") || !c.Secure || !c.HttpOnly || c.Path != "/" || c.Domain != "" || c.MaxAge > 34_560_000 || c.SameSite != http.SameSiteLaxMode || seen[c.Name] {
				t.Errorf("Set-Cookie %s", raw)
			}
			seen[c.Name] = true
		}
	}
	check(b.yes().Header())
	check(b.post("shop", 0, `{"site":"shop","consent":{"granted":false},"events":[]}`).Header())
	check(b.yes().Header())
	check(b.do("POST", "/v1/optout", "").Header())
	check(b.yes().Header()) // the opt-out cookie begins anew
	check(b.do("POST", "/v1/optin", "").Header())
}

// After an opt-out a request that was under way with the old cookie changes
// nothing: what it brings belongs to an erased visitor, or to an opt-out.
func TestARequestUnderWayDoesNotUndoAnOptOut(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	b.yes()
	old, visitor := b.cookies[CookieID], e.last(taxonomy.RecordEvent).Visitor
	b.do("POST", "/v1/optout", "")
	e.erased[visitor] = true
	n := len(e.records())
	late := e.browser()
	late.cookies[CookieID], late.cookies[CookieOptOut] = old, "1"
	late.yes()
	for _, r := range e.records()[n:] {
		if r.Kind == taxonomy.RecordEvent {
			t.Error("an event of who opted out is in the log")
		}
	}
}

// Answers with something personal have no validators, and a conditional request
// changes nothing; questions that browsers ask by themselves set no cookie.
func TestNothingPersonalIsCachedOrTold(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	b.yes()
	for _, path := range []string{"/v1/seg?site=shop&consent=1", "/privacy", "/privacy/status"} {
		plain := b.do("GET", path, "")
		again := b.do("GET", path, "", "If-None-Match", "*", "If-Modified-Since", "Wed, 25 Nov 2026 10:00:00 GMT")
		h := plain.Header()
		if again.Code != plain.Code || again.Body.String() != plain.Body.String() || h.Get("ETag") != "" || h.Get("Last-Modified") != "" || h.Get("Cache-Control") != "private, no-store" {
			t.Errorf("%s: %d then %d, %v", path, plain.Code, again.Code, h)
		}
	}
	for _, method := range []string{"HEAD", "OPTIONS"} {
		for _, path := range []string{"/v1/e", "/v1/seg", "/v1/optout", "/privacy"} {
			w := e.browser().do(method, path, "", "Origin", "https://evil.example")
			if w.Header().Get("Set-Cookie") != "" || w.Header().Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s %s: %v", method, path, w.Header())
			}
		}
	}
}
