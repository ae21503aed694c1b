package tagserver

import (
	"bytes"
	"encoding/hex"
	imagegif "image/gif"
	"net/url"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

func TestTheImageIs43BytesThatDecode(t *testing.T) {
	const want = "4749463839610100010080000000000" + "0ffffff21f90401000000002c00000000010001000002024401003b"
	if got := hex.EncodeToString(gif); got != want || len(gif) != 43 {
		t.Errorf("%d bytes %s", len(gif), got)
	}
	img, err := imagegif.Decode(bytes.NewReader(gif))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, a := img.At(0, 0).RGBA(); a != 0 || img.Bounds().Dx() != 1 || img.Bounds().Dy() != 1 {
		t.Errorf("not one transparent dot: %v alpha %d", img.Bounds(), a)
	}
}

func TestThePixelRecords(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	q := url.Values{"consent": {"1"}, "u": {"https://shop.example/p?cat=1&x=2"}, "n": {"seen"}, "k": {"impression"}, "id": {"i-1"}, "r": {"https://a.example/b"}, "cb": {"99"}}
	w := b.get("shop", "/v1/n/shop?"+q.Encode())
	if r := w.Header().Get("X-Ebb-Reason"); r != "" {
		t.Fatalf("X-Ebb-Reason %q", r)
	}
	r := e.last(taxonomy.RecordEvent)
	ev := r.Event
	if ev.URL != "https://shop.example/p?cat=1" || ev.Name != "seen" || ev.Kind != taxonomy.EventImpression || ev.Ref != "https://a.example" || ev.Time != e.clock.Now() || r.Returning {
		t.Errorf("%+v %+v", r, ev)
	}
	// The page's address from the Referer, the visitor from the cookie.
	b.get("shop", "/v1/n/shop?consent=1", "Referer", "https://shop.example/page?x=1")
	r2 := e.last(taxonomy.RecordEvent)
	if r2.Event.URL != "https://shop.example/page" || r2.Event.Kind != taxonomy.EventPage || !r2.Returning || r2.Visitor != r.Visitor {
		t.Errorf("%+v %+v", r2, r2.Event)
	}
	h := w.Header()
	if h.Get("Content-Type") != "image/gif" || h.Get("Content-Length") != "43" || h.Get("Cross-Origin-Resource-Policy") != "cross-origin" {
		t.Errorf("%v", h)
	}
	if e.metric("events_total", "outcome", "stored") != 2 {
		t.Error("not counted")
	}
}

// P1: the image promises nothing.
func TestThePixelDoesNotWaitForTheDisk(t *testing.T) {
	var l *appendLog
	e := newEdge(t, func(o *Options) { l = &appendLog{Log: o.Log}; o.Log = l })
	e.browser().get("shop", "/v1/n/shop?consent=1")
	if len(l.acks) != 1 || l.acks[0] != retention.AckNone {
		t.Errorf("asked for %v", l.acks)
	}
}

func TestThePixelSaysWhyNot(t *testing.T) {
	for _, c := range []struct {
		path, referer string
		site          taxonomy.SiteID
		reason        string
	}{
		{"/v1/n/nowhere?consent=1", shop, "", "unknown_site"},
		{"/v1/n/Jane%40example.com?consent=1", shop, "", "unknown_site"},
		{"/v1/n/ended?consent=1", shop, "ended", "source_ended"},
		{"/v1/n/gone?consent=1", shop, "gone", "source_ended"},
		{"/v1/n/shop?consent=1", "https://evil.example/", "shop", "wrong_origin"},
		{"/v1/n/shop?consent=1", "null", "shop", "wrong_origin"},
		{"/v1/n/shop", shop, "shop", "consent; code=no_consent"},
		{"/v1/n/shop?consent=", shop, "shop", "consent; code=no_consent"},
		{"/v1/n/shop?consent=yes", shop, "shop", "consent; code=signals_conflict"},
		{"/v1/n/shop?consent=0", shop, "shop", "consent; code=explicit_no"},
		{"/v1/n/shop?consent=1&consent=0", shop, "shop", "consent; code=explicit_no"},
		{"/v1/n/shop?consent=0&consent=1", shop, "shop", "consent; code=explicit_no"},
		{"/v1/n/shop?CONSENT=1", shop, "shop", "consent; code=no_consent"},
		{"/v1/n/shop?consent=1&gdpr_consent=x", shop, "shop", "consent; code=string_unread"},
		{"/v1/n/shop?consent=1&gpp=x", shop, "shop", "consent; code=string_unread"},
		{"/v1/n/shop?consent=1&gpp_sid=7", shop, "shop", "consent; code=string_unread"},
		{"/v1/n/shop?consent=1&us_privacy=1YNN", shop, "shop", "consent; code=string_unread"},
		{"/v1/n/shop?consent=1&gdpr=1&gdpr=0", shop, "shop", "consent; code=signals_conflict"},
		{"/v1/n/shop?consent=1&gdpr=%zz", shop, "shop", "consent; code=signals_conflict"},
		{"/v1/n/shop?consent=1&gdpr_consent=" + strings.Repeat("x", 5000), shop, "shop", "consent; code=signals_conflict"},
		{"/v1/n/shop?consent=1&cb=" + strings.Repeat("x", 13_000), shop, "shop", "consent; code=signals_conflict"},
		{"/v1/n/shop?consent=1&k=fact", shop, "shop", "malformed"},
		{"/v1/n/shop?consent=1&u=%zz", shop, "shop", "malformed"},
		{"/v1/n/shop?consent=1&n=a&n=b", shop, "shop", "malformed"},
		{"/v1/n/shop?consent=1&n=%FF", shop, "shop", "malformed"},
		{"/v1/n/shop?consent=1&n=a%0Ab", shop, "shop", "malformed"},
		{"/v1/n/shop?consent=1&n=jane%40example.com", shop, "shop", "pii"},
	} {
		e := newEdge(t)
		e.canaries = []string{"jane"}
		b := e.browser()
		w := b.get(c.site, c.path, "Referer", c.referer)
		got := w.Header().Get("X-Ebb-Reason")
		if got != c.reason && !strings.HasPrefix(got, c.reason+";") {
			t.Errorf("%.60s: X-Ebb-Reason %q, want %q", c.path, got, c.reason)
		}
		for _, k := range e.kinds() {
			if k == taxonomy.RecordEvent {
				t.Errorf("%.60s: recorded", c.path)
			}
		}
		if known := b.cookies[CookieID] != ""; known != (c.reason == "malformed" || c.reason == "pii") {
			t.Errorf("%.60s: cookie set: %v", c.path, known)
		}
	}
	// Without any page that it could be of, it is no browser: the site's server.
	e := newEdge(t)
	b := e.browser()
	b.origin = ""
	if got := b.get("shop", "/v1/n/shop?consent=0", "Sec-Fetch-Site", "cross-site").Header().Get("X-Ebb-Reason"); got != "wrong_origin" {
		t.Errorf("a link elsewhere: %q", got)
	}
	if got := b.get("shop", "/v1/n/shop?consent=1").Header().Get("X-Ebb-Reason"); got != "" {
		t.Errorf("without Origin and Referer: %q", got)
	}
}

// A page that says that the GDPR applies is not overruled by the country.
func TestGDPRAppliesWhateverTheCountry(t *testing.T) {
	for q, want := range map[string]bool{"": true, "gdpr=0": true, "gdpr=1": false, "gdpr=01": false, "gdpr=true": false, "gdpr=${GDPR}": false, "gdpr=%24%7BGDPR%7D": false, "gdpr=": false} {
		e := newEdge(t, func(o *Options) { o.Country = func(netipAddr) string { return "US" } })
		b := e.browser()
		b.origin = "https://news.example"
		if got := b.get("news", "/v1/n/news?"+q).Header().Get("X-Ebb-Reason") == ""; got != want {
			t.Errorf("%q in a country of opt-out: recorded %v, want %v", q, got, want)
		}
	}
}
