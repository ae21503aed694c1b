package console

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/consent"
)

// policyOf is the policy of a page: those that follow what happens run scripts
// of ours, all others none.
func policyOf(path string) string {
	path, query, _ := strings.Cut(path, "?")
	for _, live := range []string{"/builder", "/editor", "/operations/", "/drafts/"} {
		if strings.HasPrefix(path, base+live) {
			return livePolicy
		}
	}
	if !strings.HasPrefix(path, base+"/sites/") {
		return policy
	}
	if strings.HasSuffix(path, "/inspector") && query == "" || strings.HasSuffix(path, "/try") {
		return livePolicy
	}
	return policy
}

// inspect is a site's last minutes, in the words of the world: of a hostile one,
// its payload.
func (w *world) inspect(id taxonomy.SiteID) tagserver.Inspection {
	in := tagserver.Inspection{At: w.now}
	if id != "shop" {
		return in
	}
	word := func(s string) string {
		if w.version == "0.1.0" {
			return s
		}
		return w.version
	}
	say := func(s taxonomy.Signal, v string) tagserver.SignalSeen {
		return tagserver.SignalSeen{Signal: s, Verdict: word(v)}
	}
	prop := func(k, v string) taxonomy.Prop { return taxonomy.Prop{Key: word(k), Value: word(v)} }
	pii := tagserver.Refusal{Code: word("pii"), Where: word("props.note"), Why: word("props.note: looks like it holds personal data (email); send none, or a coarser value"), Sample: word("aaaa.aaa@aaaaaaa.aaa")}
	in.Sightings = []tagserver.Sighting{
		{At: w.now - 2*taxonomy.Second, Route: word("/v1/e"), Test: true, Cookie: word("new"), May: taxonomy.MayAll, N: 12, Signals: []tagserver.SignalSeen{{Signal: taxonomy.SignalExplicit, Verdict: "yes"}, say(taxonomy.SignalTCF, "unreadable")},
			Reasons: []consent.Reason{{Signal: taxonomy.SignalExplicit, Code: "explicit_yes", Why: word("the page said that the visitor agreed (granted: true)")}},
			Events: []tagserver.EventSeen{
				{Outcome: "stored", Event: taxonomy.Event{Kind: taxonomy.EventPage, URL: "https://" + word("www.shop.example/Shoes/red?q=blue"), Props: nil}},
				{Outcome: "stored", Event: taxonomy.Event{Kind: taxonomy.EventTrack, Name: word("add_to_cart"), URL: "https://" + word("www.shop.example/shoes"), Props: []taxonomy.Prop{prop("brand", "ACME"), prop("price", "59"), prop("sku", "a-1")}}},
				{Outcome: "duplicate"},
				{Outcome: "rejected", Refusal: pii}}},
		{At: w.now - 9*taxonomy.Second, Route: word("/v1/e"), Cookie: "none", N: 3, Signals: []tagserver.SignalSeen{say(taxonomy.SignalNone, "nothing said")},
			Reasons: []consent.Reason{{Code: word("no_consent"), Why: word("nobody said yes, and the site's consent mode is opt-in"), Mend: word("have the page send the visitor's answer: consent.granted, or a TCF string")}}},
		{At: w.now - 20*taxonomy.Second, Route: word("/v1/n/:site"), Cookie: "taken away", Signals: []tagserver.SignalSeen{say(taxonomy.SignalGPC, "no")},
			Reasons: []consent.Reason{{Signal: taxonomy.SignalGPC, Code: word("gpc"), Why: word("the browser sends Sec-GPC: 1")}}, N: 1},
		{At: w.now - taxonomy.Minute, Route: word("/v1/e"), Cookie: "not read", N: 1, Refused: &tagserver.Refusal{Code: word("wrong_origin"), Where: word("header.Origin"), Why: word("this page's origin is not one of the site's; add it to the site's origins if it should be")}},
		{At: w.now - 2*taxonomy.Minute, Route: word("/v1/e"), Cookie: "returning", May: taxonomy.MayAll, Signals: []tagserver.SignalSeen{{Signal: taxonomy.SignalTCF, Verdict: "yes"}}, Reasons: []consent.Reason{{Code: "string_yes"}}},
	}
	in.Sights = [][]tagserver.Sight{{
		{Near: []tagserver.NearMiss{{Rule: word("shoes"), Wants: word("path begins with “/shoes”"), Case: true}}, Unused: []string{word("query.q")}},
		{Rules: []string{word("shoes"), word("brand")}, Traits: []taxonomy.Trait{"c:products/wine", taxonomy.Trait(word("k:brand=acme"))}, Near: []tagserver.NearMiss{{Rule: word("dear"), Wants: word("prop.price is a number at least 100")}}, Unused: []string{word("prop.sku")}},
		{}, {}}, nil, nil, nil, nil}
	in.Findings = []tagserver.Finding{
		{Code: word("consent/no_consent"), N: 3, Last: w.now, Where: word("none"), Why: word("nobody said yes, and the site's consent mode is opt-in"), Mend: word("have the page send the visitor's answer")},
		{Code: word("pii"), N: 1, Last: w.now, Where: word("props.note"), Why: word("looks personal")},
		{Code: word("wrong_origin"), N: 1, Last: w.now, Why: word("this page's origin is not one of the site's")}}
	in.Signals = []tagserver.SignalCount{{SignalSeen: say(taxonomy.SignalNone, "nothing said"), N: 1}, {SignalSeen: tagserver.SignalSeen{Signal: taxonomy.SignalTCF, Verdict: "yes"}, N: 1}, {SignalSeen: say(taxonomy.SignalGPC, "no"), N: 1}}
	in.Unused = []tagserver.KeyCount{{Key: word("prop.sku"), N: 7}, {Key: word("query.q"), N: 1}}
	return in
}

// rehearse stands for the edge.
func (w *world) rehearse(e echo.Context, site taxonomy.SiteID, call, prefix string) error {
	return e.String(http.StatusOK, string(site)+" "+call+" "+prefix)
}

func TestTheInspectorSaysWhatCameAndWhy(t *testing.T) {
	s := serve(t, normal())
	_, body := s.get(t, base+"/sites/shop/inspector")
	for _, what := range []string{
		"2 events stored, 1 refused", "add_to_cart", "www.shop.example/Shoes/red", "brand=ACME", "Wine &amp; spirits", // what came
		"Nearly: rule <code>shoes</code>, but for: path begins with “/shoes”, and that only by capital letters or spaces",
		"aaaa.aaa@aaaaaaa.aaa", "Nothing is allowed: nobody said yes", "the page: yes", "TCF: unreadable", "test page", "And 8 events more",
		"Global Privacy Control", "No rule asks for <code>prop.sku</code>", "No rule holds for it",
		`{&#34;id&#34;:&#34;sku&#34;,&#34;when&#34;:[{&#34;field&#34;:&#34;prop.sku&#34;,&#34;op&#34;:&#34;exists&#34;}],&#34;then&#34;:[&#34;k:sku={sku}&#34;]}`,
		`hx-trigger="every 2s"`, "?live=0",
	} {
		contains(t, body, what, "the inspector")
	}
	_, still := s.get(t, base+"/sites/shop/inspector?live=0")
	if strings.Contains(still, "hx-") || strings.Contains(still, "<script") {
		t.Error("what holds still runs a script")
	}
	_, quiet := s.get(t, base+"/sites/magazine/inspector")
	contains(t, quiet, "Nothing came in the last ten minutes", "the inspector of a quiet site")
	if status, _ := s.status(t, base+"/sites/nowhere/inspector"); status != http.StatusNotFound {
		t.Errorf("of no site: %d", status)
	}
}

// Only who is signed in, from a page of ours, can send a test.
func TestTheTestPageIsNobodyElses(t *testing.T) {
	s := serve(t, normal())
	login := httptest.NewRequest(http.MethodPost, base+"/login", strings.NewReader("key="+adminKey))
	login.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	login.Header.Set("Sec-Fetch-Site", "same-origin")
	cookies := s.do(login).Cookies()
	if len(cookies) != 1 {
		t.Fatalf("the login gave %d cookies", len(cookies))
	}
	for _, c := range []struct {
		method, path, fetch, origin string
		signedIn                    bool
		want                        int
	}{
		{"POST", "shop/try/v1/e", "same-origin", "http://console.example", true, 200},
		{"POST", "shop/try/v1/e", "", "http://example.com", true, 200},
		{"GET", "shop/try/v1/seg", "same-origin", "", true, 200},
		{"POST", "shop/try/v1/e", "same-origin", "http://console.example", false, 401},
		{"POST", "shop/try/v1/e", "cross-site", "https://evil.example", true, 403},
		{"POST", "shop/try/v1/e", "same-site", "https://evil.example", true, 403},
		{"POST", "shop/try/v1/e", "", "https://evil.example", true, 403},
		{"POST", "shop/try/v1/e", "", "", true, 403},
		{"GET", "shop/try/v1/seg", "cross-site", "", true, 403},
		{"POST", "shop/try/v1/seg", "same-origin", "", true, 405},
		{"GET", "shop/try/v1/e", "same-origin", "", true, 405},
		{"POST", "nowhere/try/v1/e", "same-origin", "", true, 404},
	} {
		r := httptest.NewRequest(c.method, base+"/sites/"+c.path, strings.NewReader("{}"))
		for k, v := range map[string]string{"Sec-Fetch-Site": c.fetch, "Origin": c.origin} {
			if v != "" {
				r.Header.Set(k, v)
			}
		}
		if c.signedIn {
			r.AddCookie(cookies[0])
		}
		res := s.do(r)
		b, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != c.want {
			t.Errorf("%+v: %d %s %v", c, res.StatusCode, b, err)
		}
		if c.want == 200 && c.method == "POST" && string(b) != "shop e "+c.origin+"/console/sites/shop/try" {
			t.Errorf("%+v: passed on as %s", c, b)
		}
	}
}
