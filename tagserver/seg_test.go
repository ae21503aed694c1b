package tagserver

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/consent"
)

func TestSegAnswersForTheCookiesVisitor(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	b.yes()
	key := e.last(taxonomy.RecordEvent).Visitor
	e.page = func(v taxonomy.VisitorKey) (PageAnswer, error) {
		if v != key {
			t.Error("asked for another visitor")
		}
		return PageAnswer{Audiences: []PageAudience{{ID: "suv", Slug: "suv-buyers"}}, AsOf: 42, Stale: true}, nil
	}
	w := b.do("GET", "/v1/seg?site=shop&consent=1", "", "Origin", shop)
	if got, want := w.Body.String(), `{"audiences":[{"id":"suv","slug":"suv-buyers"}],"as_of":42,"stale":true}`; w.Code != 200 || got != want {
		t.Errorf("%d %s, want %s", w.Code, got, want)
	}
	h := w.Header()
	if h.Get("Access-Control-Allow-Origin") != shop || h.Get("Cache-Control") != "private, no-store" || h.Get("Cross-Origin-Resource-Policy") != "same-origin" {
		t.Errorf("%v", h)
	}
	e.page = func(taxonomy.VisitorKey) (PageAnswer, error) {
		t.Error("audiences were asked for")
		return PageAnswer{}, errors.New("x")
	}
	n := len(e.records())
	for _, c := range []struct{ path, cookie, reason string }{
		{"/v1/seg?site=shop", "", "consent; code=no_consent"}, // R33: nothing means no
		{"/v1/seg?site=shop&consent=1", CookieID + "=forged", "no_visitor"},
		{"/v1/seg?site=shop&consent=1", "x=y", "no_visitor"},
	} {
		var extra []string
		if c.cookie != "" {
			extra = []string{"Cookie", c.cookie}
		}
		w := b.do("GET", c.path, "", extra...)
		if w.Code != 200 || !strings.HasPrefix(w.Body.String(), `{"audiences":[],`) || !strings.HasPrefix(w.Header().Get("X-Ebb-Reason"), c.reason) || len(w.Header()["Set-Cookie"]) != 0 {
			t.Errorf("%s: %d %s %v", c.path, w.Code, w.Body, w.Header())
		}
	}
	for _, c := range []struct {
		path, origin string
		status       int
		code         string
	}{
		{"/v1/seg?consent=1", shop, 404, "unknown_site"}, {"/v1/seg?site=nope&consent=1", shop, 404, "unknown_site"},
		{"/v1/seg?site=ended&consent=1", shop, 410, "source_ended"}, {"/v1/seg?site=gone&consent=1", shop, 410, "source_ended"},
		{"/v1/seg?site=shop&consent=1", "https://news.example", 403, "wrong_origin"}, {"/v1/seg?site=shop&consent=1", "null", 403, "wrong_origin"},
	} {
		w := b.do("GET", c.path, "", "Origin", c.origin)
		if p := problem(t, w); w.Code != c.status || p.Code != c.code {
			t.Errorf("%s from %s: %d %s", c.path, c.origin, w.Code, w.Body)
		}
	}
	if len(e.records()) != n {
		t.Errorf("asking wrote records: %v", e.kinds())
	}
	e.page = func(taxonomy.VisitorKey) (PageAnswer, error) { return PageAnswer{}, errors.New("index is gone") }
	if w := b.do("GET", "/v1/seg?site=shop&consent=1", ""); w.Code != 503 || strings.Contains(w.Body.String(), "index") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	// R23: a withdrawal is an erasure, whatever the route.
	w = b.do("GET", "/v1/seg?site=shop&consent=0", "")
	if w.Code != 200 || b.cookies[CookieID] != "" || e.last(taxonomy.RecordErasure).Visitor != key {
		t.Errorf("withdrawal: %d %s", w.Code, w.Body)
	}
}

func TestSyncLeadsToTheTemplateOrNowhere(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	b.yes()
	v := e.last(taxonomy.RecordEvent).Visitor
	want := "https://sync.dsp.example/in?id=" + e.Server.o.Keys().Pseudonym("dsp", 3, v) + "&p=ebb"
	for _, path := range []string{"/v1/sync/dsp?consent=1", "/v1/sync/dsp?consent=1&site=shop", "/v1/sync/dsp?consent=1&u=https://evil.example&url=//evil.example&EBB_ID=x"} {
		w := b.do("GET", path, "")
		if w.Code != 302 || w.Header().Get("Location") != want {
			t.Errorf("%s: %d %s, want %s", path, w.Code, w.Header().Get("Location"), want)
		}
		if strings.Contains(w.Header().Get("Location"), b.cookies[CookieID][:20]) {
			t.Error("the cookie leaves")
		}
	}
	for _, c := range []struct{ path, cookie, reason string }{
		{"/v1/sync/dsp", "", "consent; code=no_consent"},
		{"/v1/sync/dsp?consent=1", CookieID + "=forged", "no_visitor"},
		{"/v1/sync/dsp?consent=1", "x=y", "no_visitor"},
		{"/v1/sync/nowhere?consent=1", "", "unknown_destination"},
		{"/v1/sync/%2F%2Fevil.example?consent=1", "", "unknown_destination"},
		{"/v1/sync/nosync?consent=1", "", "no_sync"},
		{"/v1/sync/dsp?consent=1&gdpr_consent=x", "", "consent; code=string_unread"},
		{"/v1/sync/dsp?consent=1&site=nope", "", "unknown_site"},
		{"/v1/sync/dsp?consent=1&site=news", "", "wrong_origin"},
	} {
		var extra []string
		if c.cookie != "" {
			extra = []string{"Cookie", c.cookie}
		}
		w := b.do("GET", c.path, "", extra...)
		if w.Code != 200 || w.Body.Len() != 43 || w.Header().Get("Location") != "" || !strings.HasPrefix(w.Header().Get("X-Ebb-Reason"), c.reason) || len(w.Header()["Set-Cookie"]) != 0 {
			t.Errorf("%s: %d %v", c.path, w.Code, w.Header())
		}
	}
	// A link elsewhere would bring the cookie along; an image elsewhere would not.
	for _, h := range [][]string{{"Referer", "https://evil.example/"}, {"Referer", "", "Sec-Fetch-Site", "cross-site"}, {"Origin", "null"}} {
		if w := b.do("GET", "/v1/sync/dsp?consent=1", "", h...); w.Header().Get("X-Ebb-Reason") != "wrong_origin" || w.Header().Get("Location") != "" {
			t.Errorf("%v: %d %v", h, w.Code, w.Header())
		}
	}
	e.erased[v] = true // R25
	if w := b.do("GET", "/v1/sync/dsp?consent=1", ""); w.Header().Get("Location") != "" {
		t.Error("an erased visitor is synced")
	}
	delete(e.erased, v)
	b.header.Set("Sec-GPC", "1")
	if w := b.do("GET", "/v1/sync/dsp?consent=1", ""); w.Header().Get("Location") != "" || e.last(taxonomy.RecordErasure).Visitor != v {
		t.Error("GPC does not stop a sync, or does not erase")
	}
}

func TestSyncTemplatesAreHTTPSAndWhole(t *testing.T) {
	for _, ok := range []string{"https://a.example/?i=${EBB_ID}", "https://a.example:8443/${EBB_ID}/x?y=1"} {
		if err := CheckSyncTemplate(ok); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
		u, err := url.Parse(strings.ReplaceAll(ok, idMacro, "00"))
		if err != nil || u.Scheme != "https" || u.User != nil {
			t.Errorf("%s: the library reads %v", ok, u)
		}
	}
	for _, bad := range []string{
		"", "https://a.example/", "http://a.example/${EBB_ID}", "//a.example/${EBB_ID}", `https:\\a.example/${EBB_ID}`, "https:a.example/${EBB_ID}", "https://a@b.example/${EBB_ID}",
		"https://${EBB_ID}.example/", "https://${EBB_ID}.example/${EBB_ID}", "javascript:alert('${EBB_ID}')", "https://a.example/${EBB_ID}\r\nSet-Cookie: x=y", "https://a.example/ ${EBB_ID}", "https:///${EBB_ID}",
		"https://a.example/#${EBB_ID}", "https://a%2eexample/${EBB_ID}", "https://ä.example/${EBB_ID}", "https://a.example/${EBB_ID}" + strings.Repeat("x", 3000),
	} {
		if CheckSyncTemplate(bad) == nil {
			t.Errorf("%.80q is taken", bad)
		}
	}
}

// R23, R24
func TestOptOutErasesAndOptInBeginsAnew(t *testing.T) {
	for _, kind := range []string{"", "application/json", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded"} {
		e := newEdge(t)
		b := e.browser()
		b.yes()
		old, id := e.last(taxonomy.RecordEvent).Visitor, b.cookies[CookieID]
		w := b.do("POST", "/v1/optout", `{"site":"shop"}`, "Content-Type", kind)
		if w.Code != 200 {
			t.Fatalf("%q: %d %s", kind, w.Code, w.Body)
		}
		if form := strings.Contains(kind, "form"); form != strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") ||
			!form && !strings.HasPrefix(w.Body.String(), `{"opted_out":true,"erased":true,"durable":"local","receipt":"ey`) {
			t.Errorf("%q: %s", kind, w.Body)
		}
		er := e.last(taxonomy.RecordErasure)
		if er.Visitor != old || er.Space != taxonomy.SpaceCookie || er.Consent.Signal != taxonomy.SignalOptOut || er.Consent.Purposes != 0 {
			t.Errorf("%q: %+v", kind, er)
		}
		if b.cookies[CookieID] != "" || b.cookies[CookieOptOut] != "1" {
			t.Errorf("%q: cookies %v", kind, b.cookies)
		}
		// Opted out, whatever is said, also with the old cookie in flight.
		b.cookies[CookieID] = id
		if r := reply(t, b.yes()); r.Stored != 0 {
			t.Errorf("%q: stored after an opt-out", kind)
		}
		// Again is fine, and without an ID nothing is erased.
		n := len(e.kinds())
		if w := b.do("POST", "/v1/optout", "", "Content-Type", kind); w.Code != 200 || len(e.kinds()) != n {
			t.Errorf("%q: again: %d", kind, w.Code)
		}
		w = b.do("POST", "/v1/optin", "", "Content-Type", kind)
		if w.Code != 200 || b.cookies[CookieOptOut] != "" || b.cookies[CookieID] != "" {
			t.Errorf("%q: opt-in: %d %v", kind, w.Code, b.cookies)
		}
		b.yes()
		if r := e.last(taxonomy.RecordEvent); r.Visitor == old || r.Returning {
			t.Errorf("%q: the old visitor is back", kind)
		}
	}
}

func TestAnOptInWithAnOldIDDropsIt(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	b.yes()
	b.cookies[CookieOptOut] = "1"
	b.do("POST", "/v1/optin", "")
	if len(b.cookies) != 0 {
		t.Errorf("cookies %v", b.cookies)
	}
	// Nobody who is not opted out loses an ID by opting in.
	b.yes()
	id := b.cookies[CookieID]
	b.do("POST", "/v1/optin", "")
	if b.cookies[CookieID] != id {
		t.Error("an ID is lost")
	}
}

func TestOnlyOwnPagesPostAChoice(t *testing.T) {
	for _, path := range []string{"/v1/optout", "/v1/optin"} {
		for _, c := range []struct {
			header []string
			ok     bool
		}{
			{[]string{"Origin", shop}, true},
			{[]string{"Origin", "https://news.example"}, true},
			{[]string{"Origin", "https://edge.example"}, true}, // our own privacy page
			{[]string{"Origin", "http://edge.example"}, true},
			{[]string{"Origin", "https://evil.example"}, false},
			{[]string{"Origin", "https://edge.example.evil.example"}, false},
			{[]string{"Origin", "null"}, false},
			{[]string{"Origin", "", "Sec-Fetch-Site", "cross-site"}, false},
			{[]string{"Origin", "", "Sec-Fetch-Site", "same-origin"}, true},
			{[]string{"Origin", "", "Referer", "https://evil.example/x"}, false},
			{[]string{"Origin", "", "Referer", shop + "/x"}, true},
			{[]string{"Origin", ""}, true}, // no browser
		} {
			e := newEdge(t)
			b := e.browser()
			b.yes()
			id := b.cookies[CookieID]
			w := b.do("POST", path, "", c.header...)
			if (w.Code == 200) != c.ok {
				t.Errorf("%s %v: %d", path, c.header, w.Code)
			}
			if !c.ok && (b.cookies[CookieID] != id || len(w.Header()["Set-Cookie"]) != 0 || problem(t, w).Code != "wrong_origin") {
				t.Errorf("%s %v: something was done", path, c.header)
			}
		}
		e := newEdge(t)
		if w := e.browser().do("POST", path, "<x/>", "Content-Type", "application/xml"); w.Code != 415 {
			t.Errorf("%s: XML: %d", path, w.Code)
		}
		if w := e.browser().do("POST", path, strings.Repeat("x", 70_000)); w.Code != 413 {
			t.Errorf("%s: oversize: %d", path, w.Code)
		}
	}
}

// A visitor's string may let one destination have it and not another.
func TestASyncNeedsLeaveForItsDestination(t *testing.T) {
	var allow []taxonomy.DestinationID
	e := newEdge(t, func(o *Options) {
		o.Strings = func(_ []consent.Statement, s Strings, day taxonomy.Day) []consent.Statement {
			if s != (Strings{TCF: "CP", GPP: "DB", GPPSID: "7", USP: "1YNN"}) {
				t.Errorf("strings %+v", s)
			}
			return []consent.Statement{{Signal: taxonomy.SignalTCF, Regime: taxonomy.RegimeOptIn, Purposes: taxonomy.MayAll, Destinations: allow}}
		}
	})
	b := e.browser()
	b.yes()
	const q = "gdpr_consent=CP&gpp=DB&gpp_sid=7&us_privacy=1YNN"
	for _, c := range []struct {
		allow []taxonomy.DestinationID
		code  int
	}{{nil, 302}, {[]taxonomy.DestinationID{"dsp"}, 302}, {[]taxonomy.DestinationID{"other"}, 200}, {[]taxonomy.DestinationID{}, 200}} {
		allow = c.allow
		w := b.do("GET", "/v1/sync/dsp?"+q, "")
		if w.Code != c.code || c.code == 200 && !strings.HasPrefix(w.Header().Get("X-Ebb-Reason"), "consent; code=no_export") {
			t.Errorf("allowed %v: %d %v", c.allow, w.Code, w.Header())
		}
		// R22: the record says whom.
		b.post("shop", 1, `{"site":"shop","consent":{"tcf":"CP","gpp":"DB","gpp_sid":"7","usp":"1YNN"},"events":[{}]}`)
		if r := e.last(taxonomy.RecordEvent); r.Consent.Allows("dsp") != (c.code == 302) || r.Consent.Signal != taxonomy.SignalTCF {
			t.Errorf("allowed %v: recorded %+v", c.allow, r.Consent)
		}
	}
}
