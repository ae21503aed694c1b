package tagserver

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// adversarialCases are what an adversary, or chance, does to identity, personal
// data, addresses, agents and caches, each with the tests that hold it. Those of
// consent strings (1 to 32) are in the folder consent, each named there.
var adversarialCases = []struct {
	n     int
	what  string
	tests []string // name, or folder/name
}{
	{33, "a bit of the cookie flipped", []string{"TestACookieThatDoesNotVerifyIsReplacedNeverAdopted", "taxonomy/keys/TestEveryChangeOfACookieIsRefused"}},
	{34, "a retired key's cookie, an unknown key's", []string{"TestACookieOfARetiredKeyIsSignedAnew"}},
	{35, "a value under another cookie's name", []string{"TestACookieReplayedUnderAnotherNameIsRefused", "TestAPartitionedIDIsNoOtherID"}},
	{36, "two cookies of the name, thousands, odd ones", []string{"TestSeveralCookiesOfTheName", "TestManyAndOddCookies", "FuzzCookies"}},
	{37, "an ID in the query or the body", []string{"TestAnIDNeverComesFromTheRequestItself"}},
	{38, "every Set-Cookie is as its prefix demands", []string{"TestEverySetCookieKeepsTheRulesOfItsPrefix"}},
	{39, "no ID before consent, whatever the signals", []string{"TestNoIDWithoutConsentWhateverTheSignals", "TestEveryRouteThatTouchesAVisitorDecides"}},
	{40, "a request under way at an opt-out", []string{"TestARequestUnderWayDoesNotUndoAnOptOut", "TestAnErasureThatIsNotTakenKeepsTheCookie"}},
	{41, "issue days in the future and at the end; a clock set back", []string{"TestIssueDaysAtTheirEnds"}},
	{42, "spoofed forwarding headers", []string{"TestTheClientsAddressComesFromTrustedProxiesOnly"}},
	{43, "a foreign Host in front of a redirect", []string{"TestRedirectsLeadNowhereElse"}},
	{44, "a loop of bounces", []string{"TestRedirectsLeadNowhereElse"}}, // there is no bounce: who does not return is provisional (R11)
	{45, "sync targets", []string{"TestSyncTemplatesAreHTTPSAndWhole", "TestSyncLeadsToTheTemplateOrNowhere"}},
	{46, "conditional requests, HEAD, OPTIONS", []string{"TestNothingPersonalIsCachedOrTold", "TestEveryAnswerHasTheHeaders"}},
	{47, "CORS: null, unlisted origins", []string{"TestCORS"}},
	{48, "a prefetch", []string{"TestAPrefetchIsNoVisit"}},
	{49, "a flood of agents", []string{"TestAFloodOfAgentsCostsNothingMore"}},
	{50, "e-mail addresses in every dress", []string{"TestAnEmailIsFoundInEveryDress", "TestTheFirewallsRates", "TestNoPIIIsKeptFromAnyField"}},
	{51, "telephone numbers, and what only looks like them", []string{"TestPIIIsFound", "TestWhatIsNoPIIPasses", "TestTheFirewallsRates"}},
	{52, "hashed addresses", []string{"TestTheFirewallsRates", "TestURLsAreCleaned", "TestWhatTheLeakTestFoundIsRefused"}},
	{53, "tokens, click IDs, sessions", []string{"TestURLsAreCleaned", "TestPIIIsFound"}},
	{54, "personal data in names, keys, referrers, headers", []string{"TestNoPIIIsKeptFromAnyField", "cmd/ebb/app/simtest/TestNothingPersonalIsEverWritten"}},
	{55, "broken bytes, escapes, thousands of parameters", []string{"FuzzPII", "FuzzQuery", "FuzzCollect", "FuzzBatch"}},
	{56, "planted values in whatever is written", []string{"cmd/ebb/app/simtest/TestNothingPersonalIsEverWritten"}},
	{69, "another site asks what is known", []string{"TestAnotherSiteLearnsNothingOfAVisitor"}},
}

func TestEveryAdversarialCaseHasItsTest(t *testing.T) {
	found := map[string]bool{}
	for _, dir := range []string{"", "taxonomy/keys", "cmd/ebb/app/simtest"} {
		at := "."
		if dir != "" {
			at = filepath.Join("..", filepath.FromSlash(dir))
		}
		files, err := filepath.Glob(filepath.Join(at, "*_test.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", dir, err)
		}
		for _, name := range files {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			f, err := parser.ParseFile(token.NewFileSet(), name, b, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
					found[strings.TrimPrefix(dir+"/"+fn.Name.Name, "/")] = true
				}
			}
		}
	}
	for _, c := range adversarialCases {
		for _, test := range c.tests {
			if !found[test] {
				t.Errorf("case %d (%s): there is no %s", c.n, c.what, test)
			}
		}
	}
}

// Case 39: of all combinations of signals, an ID is set only where the page says
// yes and nobody says no.
func TestNoIDWithoutConsentWhateverTheSignals(t *testing.T) {
	e := newEdge(t, func(o *Options) { o.Limits.NewIDs = -1 })
	rapid.Check(t, func(rt *rapid.T) {
		b := e.browser()
		pick := func(what string, of ...string) string { return rapid.SampledFrom(of).Draw(rt, what) }
		granted, gpc, optout := pick("granted", "", "true", "false"), pick("gpc", "", "1", "0", "true"), pick("optout", "", "1", "x")
		tcf, gdpr := pick("tcf", "", "CPgarbage", "null"), pick("gdpr", "", "1", "0", "x")
		cookie := pick("cookie", "", "forged", "1.a.b")
		if gpc != "" {
			b.header.Set("Sec-Gpc", gpc)
		}
		if optout != "" {
			b.cookies[CookieOptOut] = optout
		}
		if cookie != "" {
			b.cookies[CookieID] = cookie
		}
		if rapid.Bool().Draw(rt, "pixel") {
			q := url.Values{}
			for k, v := range map[string]string{"consent": strings.NewReplacer("true", "1", "false", "0").Replace(granted), "gdpr": gdpr, "gdpr_consent": tcf} {
				if v != "" {
					q.Set(k, v)
				}
			}
			b.get("shop", "/v1/n/shop?"+q.Encode())
		} else {
			var parts []string
			if granted != "" {
				parts = append(parts, `"granted":`+granted)
			}
			if tcf != "" {
				parts = append(parts, fmt.Sprintf(`"tcf":%q`, tcf))
			}
			b.post("shop", 1, `{"site":"shop","consent":{`+strings.Join(parts, ",")+`},"events":[{}]}`)
		}
		got := b.cookies[CookieID] != "" && b.cookies[CookieID] != cookie
		if want := granted == "true" && gpc != "1" && optout == "" && tcf == ""; got && !want {
			rt.Fatalf("an ID is set without consent")
		} else if want && gdpr != "x" && !got {
			rt.Fatalf("no ID is set with consent")
		}
	})
}

// Case 41: an ID from tomorrow is not ours, or our clock was set back; one of 90
// days ends, one of 91 has ended; no cookie gets a life that is over or endless.
func TestIssueDaysAtTheirEnds(t *testing.T) {
	for _, c := range []struct {
		age     int
		returns bool
	}{{-2, false}, {0, true}, {1, true}, {75, true}, {89, true}, {90, true}, {91, false}, {200, false}} {
		e := newEdge(t)
		b := e.browser()
		today := e.clock.Now().Day()
		if c.age < 0 {
			today -= taxonomy.Day(c.age)
		}
		b.cookies[CookieID] = e.o.Keys().SignCookie(CookieID, [16]byte{9, 8, 7}, today)
		e.clock.Advance(taxonomy.Millis(max(c.age, 0)) * taxonomy.OneDay)
		w := b.yes()
		if r := e.last(taxonomy.RecordEvent); r.Returning != c.returns {
			t.Errorf("issued %d days ago: returning %v", c.age, r.Returning)
		}
		for _, ck := range w.Result().Cookies() {
			if ck.MaxAge <= 0 || ck.MaxAge > 90*24*3600 {
				t.Errorf("issued %d days ago: a life of %d s", c.age, ck.MaxAge)
			}
		}
	}
}

// Case 36: whatever number of cookies and however odd, none but a whole value
// under the exact name is read.
func TestManyAndOddCookies(t *testing.T) {
	e := newEdge(t, func(o *Options) { o.Limits.NewIDs = -1 })
	b := e.browser()
	b.yes()
	good := b.cookies[CookieID]
	for _, c := range []struct {
		line    string
		returns bool
	}{
		{strings.Repeat("a=b; ", 5000) + CookieID + "=" + good, true},
		{CookieID + "=" + good + strings.Repeat("; c=d", 5000), true},
		{"\t" + CookieID + "=" + good + " ", true},
		{"__host-ebb=" + good, false},
		{CookieID + `="` + good + `"`, false},
		{CookieID + "= " + good, false},
		{CookieID + "=" + good + "x", false},
		{CookieID + "=" + good[:len(good)-1], false},
		{CookieID + ";" + good, false},
		{"x" + CookieID + "=" + good, false},
		{CookieID + "=" + strings.Repeat("a", 100_000), false},
	} {
		e.browser().post("shop", 1, `{"site":"shop","consent":{"granted":true},"events":[{}]}`, "Cookie", c.line)
		if r := e.last(taxonomy.RecordEvent); r.Returning != c.returns {
			t.Errorf("%.60q: returning %v", c.line, r.Returning)
		}
	}
}

// Cases 43 and 44: no header makes a redirect lead away from this host, and there
// is none from which a visitor would come back to itself.
func TestRedirectsLeadNowhereElse(t *testing.T) {
	e := newEdge(t)
	for _, h := range [][]string{{"X-Forwarded-Host", "evil.example"}, {"Forwarded", "host=evil.example"}, {"X-Original-Url", "//evil.example"}, {"X-Forwarded-Proto", "javascript"}} {
		for _, path := range []string{"/v1/optout", "/v1/optin", "/privacy/erase", "/privacy/category"} {
			body := ""
			if path == "/privacy/category" {
				body = "category=a/b&off=1"
			}
			w := e.browser().do("POST", path, body, append(h, "Content-Type", "application/x-www-form-urlencoded", "Origin", "https://edge.example", "Referer", "https://edge.example/privacy")...)
			if to := w.Header().Get("Location"); w.Code != 303 || !strings.HasPrefix(to, "/privacy?receipt=ey") || strings.ContainsAny(to, "\\\r\n ") {
				t.Errorf("%s with %v: %d to %q", path, h, w.Code, to)
			}
		}
	}
	b := e.browser()
	for range 3 { // no answer without an ID asks the browser to come again
		delete(b.cookies, CookieID)
		if w := b.get("shop", "/v1/n/shop?consent=1&n3pc=true&n3pc=1"); w.Header().Get("Location") != "" {
			t.Errorf("bounced to %q", w.Header().Get("Location"))
		}
	}
	if w := e.browser().do("GET", "/privacy//evil.example", ""); w.Header().Get("Location") != "" {
		t.Errorf("a path is led to %q", w.Header().Get("Location"))
	}
}

// Case 48: what a browser fetches ahead of a visit that may never come is none.
func TestAPrefetchIsNoVisit(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	for _, purpose := range []string{"prefetch", "prefetch;prerender", "prefetch;anonymous-client-ip", "PREFETCH"} {
		w := b.do("GET", "/v1/n/shop?consent=1", "", "Sec-Purpose", purpose)
		if w.Code != 200 || w.Body.Len() != 43 || w.Header().Get("X-Ebb-Reason") != "prefetch" || w.Header().Get("Set-Cookie") != "" {
			t.Errorf("%s: %d %v", purpose, w.Code, w.Header())
		}
	}
	if n := len(e.records()); n != 0 {
		t.Errorf("%d records", n)
	}
	if b.get("shop", "/v1/n/shop?consent=1"); b.cookies[CookieID] == "" {
		t.Error("the visit itself is none")
	}
}

// Case 49: agents that never repeat find no table to fill and no pattern to run:
// each costs its bytes, and nothing of it is kept.
func TestAFloodOfAgentsCostsNothingMore(t *testing.T) {
	agents := make([]string, 1000)
	for i := range agents {
		agents[i] = fmt.Sprintf("Mozilla/5.0 (%x) Rare/%d.%d %s", i*7919, i, i%97, strings.Repeat("z", i%900))
	}
	i := 0
	if n := testing.AllocsPerRun(5000, func() { isBot(agents[i%len(agents)]); i++ }); n != 0 {
		t.Errorf("an agent costs %v allocations", n)
	}
	e := newEdge(t, func(o *Options) { o.Limits.NewIDs = -1 })
	b := e.browser()
	for _, a := range agents[:200] {
		b.header.Set("User-Agent", a)
		b.yes()
	}
	for _, r := range e.records() {
		if strings.Contains(fmt.Sprintf("%+v", r), "Rare/") {
			t.Fatal("an agent is kept")
		}
	}
}
