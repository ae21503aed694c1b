package tagserver

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// from makes every address one of a country.
func from(country string) func(*Options) {
	return func(o *Options) { o.Country = func(netip.Addr) string { return country } }
}

// news posts an event to the site that goes by country, with consent as the body
// has it, and returns the code of what refused it, "" if it is stored.
func (b *browser) news(consent string, header ...string) string {
	b.origin = "https://news.example"
	return codeOf(b.post("news", 1, `{"site":"news","consent":`+consent+`,"events":[{}]}`, header...).Header().Get(headerReason))
}

func codeOf(reason string) string {
	_, code, _ := strings.Cut(reason, "code=")
	code, _, _ = strings.Cut(code, ";")
	return code
}

func (e *edge) change(id taxonomy.SiteID, f func(*taxonomy.Site)) {
	s := e.sites[id]
	f(&s)
	e.sites[id] = s
}

// Case 22, row B8: gdpr=0 does not open a country that asks for a yes, unless the
// site's owner has said that it does; gdpr=0 beside a signal of the GDPR is none.
func TestGDPRZeroDoesNotBeatAStrictCountryUnlessTheSiteTrustsIt(t *testing.T) { // B8, B9
	for country, strict := range map[string]string{"DE": "country_strict", "": "country_unknown"} {
		e := newEdge(t, from(country))
		pixel := func(q string) string {
			b := e.browser()
			b.origin = "https://news.example"
			return codeOf(b.get("news", "/v1/n/news?"+q).Header().Get(headerReason))
		}
		for _, body := range []string{`{"gdpr":0}`, `{"gdpr":"0"}`, `{}`} {
			if got := e.browser().news(body); got != strict {
				t.Errorf("%q, %s: %q", country, body, got)
			}
		}
		if got := pixel("gdpr=0"); got != strict {
			t.Errorf("%q, gdpr=0: %q", country, got)
		}
		e.change("news", func(s *taxonomy.Site) { s.TrustGDPRZero = true })
		for _, body := range []string{`{"gdpr":0}`, `{"gdpr":"0"}`} {
			if got := e.browser().news(body); got != "" {
				t.Errorf("%q, trusted, %s: %q", country, body, got)
			}
		}
		if got := pixel("gdpr=0"); got != "" {
			t.Errorf("%q, trusted, gdpr=0: %q", country, got)
		}
		for _, q := range []string{"", "gdpr=1", "gdpr=0&gdpr=1", "gdpr=00", "gdpr=", "gdpr=0&gpp_sid=2", "gdpr=0&gdpr_consent=x", "gdpr=${GDPR}"} {
			if pixel(q) == "" {
				t.Errorf("%q, trusted: %q opens it", country, q)
			}
		}
		for _, body := range []string{`{"gdpr":1}`, `{"gdpr":true}`, `{"gdpr":"${GDPR}"}`, `{"gdpr":""}`, `{"gdpr":0.0}`, `{"gdpr":[]}`} {
			if e.browser().news(body) == "" {
				t.Errorf("%q, trusted: %s opens it", country, body)
			}
		}
	}
}

// Rows D1 and D2: a country that no law of ours knows is strict until the site's
// owner says otherwise, and Europe stays strict whatever is said.
func TestACountryIsOpenOnlyWhereItsLawOrTheOwnerSaysSo(t *testing.T) {
	for _, c := range []struct {
		country string
		open    []string
		want    string
	}{
		{"US", nil, ""}, {"CA", nil, "country_strict"}, {"CA", []string{"CA", "BR"}, ""}, {"BR", []string{"CA"}, "country_strict"},
		{"DE", []string{"DE"}, "country_strict"}, {"GB", []string{"GB"}, "country_strict"}, {"", []string{""}, "country_unknown"},
	} {
		e := newEdge(t, from(c.country))
		e.change("news", func(s *taxonomy.Site) { s.OptOutCountries = c.open })
		if got := e.browser().news(`{}`); got != c.want {
			t.Errorf("%q, open %v: %q, want %q", c.country, c.open, got, c.want)
		}
	}
}

// Row A3: on a site that keeps such visitors to itself, GPC lets them be known
// and sent nowhere. DNT is obeyed alike, unless the operator ignores it.
func TestGPCAndDNTAsTheSiteHasThem(t *testing.T) {
	for _, h := range []string{"Sec-GPC", "DNT"} {
		for _, share := range []bool{false, true} {
			for _, ignored := range []bool{false, true} {
				e := newEdge(t, func(o *Options) { o.IgnoreDNT = ignored })
				if share {
					e.change("shop", func(s *taxonomy.Site) { s.GPCMode = taxonomy.GPCShareOnly })
				}
				b := e.browser()
				b.yes()
				b.header.Set(h, "1")
				n := len(e.records())
				w := b.yes()
				obeyed := h == "Sec-GPC" || !ignored
				at := fmt.Sprintf("%s, share only %v, ignored %v", h, share, ignored)
				switch {
				case obeyed && !share:
					if reply(t, w).Stored != 0 || b.cookies[CookieID] != "" || e.last(taxonomy.RecordErasure).Visitor.IsZero() {
						t.Errorf("%s: %s", at, w.Body)
					}
				default:
					r := e.records()[n:]
					if reply(t, w).Stored != 1 || b.cookies[CookieID] == "" || r[0].Consent.Purposes.Has(taxonomy.MayExport) != !obeyed || !r[0].Consent.Purposes.Has(taxonomy.MayTrain) {
						t.Errorf("%s: %s %+v", at, w.Body, r)
					}
					w := b.do("GET", "/v1/sync/dsp?site=shop&consent=1", "")
					if (w.Code == http.StatusFound) != !obeyed {
						t.Errorf("%s: sync answers %d", at, w.Code)
					}
				}
			}
		}
	}
}

// Row A4: nothing of children is kept, and who is known is forgotten.
func TestNothingOfChildrenIsKept(t *testing.T) {
	for name, ask := range map[string]func(*edge, *browser) string{
		"body": func(e *edge, b *browser) string {
			return codeOf(b.post("shop", 1, `{"site":"shop","consent":{"granted":true,"coppa":1},"events":[{}]}`).Header().Get(headerReason))
		},
		"query": func(e *edge, b *browser) string {
			return codeOf(b.get("shop", "/v1/n/shop?consent=1&coppa=1").Header().Get(headerReason))
		},
		"site": func(e *edge, b *browser) string {
			e.change("shop", func(s *taxonomy.Site) { s.ChildDirected = true })
			return codeOf(b.yes().Header().Get(headerReason))
		},
	} {
		e := newEdge(t)
		b := e.browser()
		b.yes()
		if got := ask(e, b); got != "child" || b.cookies[CookieID] != "" || e.last(taxonomy.RecordErasure).Visitor.IsZero() {
			t.Errorf("%s: %q, cookies %v", name, got, b.cookies)
		}
	}
	e := newEdge(t)
	b := e.browser()
	if got := codeOf(b.get("shop", "/v1/n/shop?consent=1&coppa=0").Header().Get(headerReason)); got != "" {
		t.Errorf("coppa=0: %q", got)
	}
	if got := codeOf(b.get("shop", "/v1/n/shop?consent=1&coppa=yes").Header().Get(headerReason)); got != "signals_conflict" || b.cookies[CookieID] == "" {
		t.Errorf("coppa=yes: %q", got)
	}
}

// Case 31: exactly "1" in any line, over HTTP/2 as well, and never in a trailer.
// (What is not exactly "1" is in TestGPCIsExactlyOne.)
func TestGPCOverHTTP2AndNotInATrailer(t *testing.T) {
	e := newEdge(t)
	server := httptest.NewUnstartedServer(e.Handler(Public))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	client := server.Client()
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: client.Transport.(*http.Transport).TLSClientConfig.RootCAs}
	for _, c := range []struct {
		lines   []string
		trailer string
		on      bool
	}{{[]string{"1"}, "", true}, {[]string{"0", "1"}, "", true}, {nil, "1", false}, {nil, "", false}} {
		body := `{"site":"shop","consent":{"granted":true},"events":[{}]}`
		r, err := http.NewRequest("POST", server.URL+"/v1/e", io.NopCloser(strings.NewReader(body))) // of unknown length, so that trailers may follow
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Origin", shop)
		r.Header.Set("Content-Type", "text/plain")
		r.Header["sec-gpc"] = c.lines
		if c.trailer != "" {
			r.Trailer = http.Header{"Sec-Gpc": {c.trailer}}
		}
		e.sent["shop"]++
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if got := codeOf(res.Header.Get(headerReason)) == "gpc"; got != c.on || res.ProtoMajor != 2 || res.StatusCode != 200 {
			t.Errorf("%v, trailer %q over %s: %d, on %v", c.lines, c.trailer, res.Proto, res.StatusCode, got)
		}
	}
}

// Case 32: GPC beats a full consent, and the status says that it was seen.
func TestTheStatusSaysThatGPCWasSeen(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	b.yes()
	b.header.Set("Sec-GPC", "1")
	if w := b.yes(); codeOf(w.Header().Get(headerReason)) != "gpc" {
		t.Errorf("%s", w.Header().Get(headerReason))
	}
	if w := b.do("GET", "/v1/sync/dsp?site=shop&consent=1", ""); w.Code == http.StatusFound {
		t.Error("synced")
	}
	if w := b.do("GET", "/privacy/status", ""); !strings.Contains(w.Body.String(), `"gpc":true`) {
		t.Errorf("status %s", w.Body)
	}
}
