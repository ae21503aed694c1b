package tagserver

import (
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/consent"
)

// unaskedStrings reads "unasked" as a sound string of a banner that leaves us
// out, and anything else as one that says yes.
func unaskedStrings(out []consent.Statement, t Strings, _ taxonomy.Day) []consent.Statement {
	st := consent.Statement{Signal: taxonomy.SignalTCF, Regime: taxonomy.RegimeOptIn, Purposes: taxonomy.MayAll}
	if t.TCF == "unasked" {
		st.Purposes, st.Unasked, st.Reason = 0, true, consent.Reason{Code: "tcf_not_disclosed", Why: "w", Mend: "m"}
	}
	return append(out, st)
}

// R23: a banner that leaves us out is no visitor's no. On every route its
// visitors are used for nothing from now on, and nobody is forgotten.
func TestABannerThatLeavesUsOutSuspendsAndErasesNobody(t *testing.T) {
	e := newEdge(t, func(o *Options) { o.Strings = unaskedStrings })
	value, key := e.cookie(1, e.clock.Now().Day())
	for name, ask := range map[string]func(b *browser) string{
		"collect": func(b *browser) string {
			return b.post("shop", 1, `{"site":"shop","consent":{"tcf":"unasked"},"events":[{}]}`).Header().Get(headerReason)
		},
		"pixel": func(b *browser) string {
			return b.get("shop", "/v1/n/shop?gdpr_consent=unasked").Header().Get(headerReason)
		},
		"seg": func(b *browser) string {
			return b.do("GET", "/v1/seg?site=shop&gdpr_consent=unasked", "").Header().Get(headerReason)
		},
		"sync": func(b *browser) string {
			return b.do("GET", "/v1/sync/dsp?site=shop&gdpr_consent=unasked", "").Header().Get(headerReason)
		},
	} {
		for _, known := range []bool{true, false} {
			before := len(e.records())
			b := e.browser()
			if known {
				b.cookies[CookieID] = value
			}
			if got := ask(b); got != "consent; code=tcf_not_disclosed; w; m" {
				t.Errorf("%s: reason %q", name, got)
			}
			if (b.cookies[CookieID] == value) != known || b.cookies[CookieID] != "" && !known {
				t.Errorf("%s: the cookie was touched: %v", name, b.cookies)
			}
			var added []taxonomy.Record
			for _, r := range e.records()[before:] {
				if r.Kind != taxonomy.RecordCounts {
					added = append(added, r)
				}
			}
			if known && (len(added) != 1 || added[0].Kind != taxonomy.RecordConsent || added[0].Visitor != key || added[0].Consent.Purposes != 0) {
				t.Errorf("%s: want one statement that nothing is allowed, got %+v", name, added)
			}
			if !known && len(added) != 0 {
				t.Errorf("%s: records of nobody: %+v", name, added)
			}
		}
	}
	// Who is erased already is not spoken of again.
	e.erased[key] = true
	before := len(e.kinds())
	b := e.browser()
	b.cookies[CookieID] = value
	b.post("shop", 1, `{"site":"shop","consent":{"tcf":"unasked"},"events":[{}]}`)
	if len(e.kinds()) != before {
		t.Error("a record of who is erased")
	}
}

// R23: a malformed US Privacy string is no yes, and no withdrawal: neither the
// cookie nor what is kept is touched. (Nobody reads strings here, so each is one
// that nobody can read.)
func TestAStringThatNobodyCanReadTouchesNoCookie(t *testing.T) {
	e := newEdge(t)
	value, _ := e.cookie(1, e.clock.Now().Day())
	b := e.browser()
	b.cookies[CookieID] = value
	b.post("shop", 1, `{"site":"shop","consent":{"granted":true,"usp":"1YN"},"events":[{}]}`)
	b.get("shop", "/v1/n/shop?consent=1&us_privacy=1YN")
	if len(e.kinds()) != 0 || b.cookies[CookieID] != value {
		t.Errorf("records %v, cookie kept %v", e.kinds(), b.cookies[CookieID] == value)
	}
}
