package tagserver

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/gziptest"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

var update = flag.Bool("update", false, "write golden files anew")

// A new route is a visible line in review.
func TestTheTableOfRoutes(t *testing.T) {
	var b strings.Builder
	for _, r := range newEdge(t).Routes() {
		fmt.Fprintf(&b, "%-8s %-8s %-26s %s\n", r.Listener, r.Method, r.Path, r.Auth)
	}
	if *update {
		if err := os.WriteFile("testdata/routes.golden", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/routes.golden")
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("the table is not testdata/routes.golden; if it should be, run with -update. Got:\n%s", b.String())
	}
}

func TestARouteIsGuardedOrRefused(t *testing.T) {
	row := Route{http.MethodGet, "/x", Private, AuthAdmin, func(c echo.Context) error { return c.NoContent(204) }, May("sites:read", OfAll)}
	o := newEdge(t).o
	o.Metrics = nil
	for name, routes := range map[string][]Route{
		"nothing guards auth": {row},
		"twice":               {{http.MethodPost, "/v1/e", Public, AuthOpen, row.Handler, Right{}}},
		"declares no right":   {{http.MethodGet, "/x", Private, AuthAdmin, row.Handler, Right{}}},
		"declares a right":    {{http.MethodGet, "/x", Private, AuthOpen, row.Handler, row.Right}},
		"no handler":          {{http.MethodGet, "/y", Public, AuthOpen, nil, Right{}}},
	} {
		o.Routes = routes
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	o.Routes = []Route{row}
	asked := 0
	o.Guards = map[Auth]echo.MiddlewareFunc{AuthAdmin: func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if asked++; asked == 1 {
				return NewProblem(http.StatusUnauthorized, "unauthorized", "send an admin key")
			}
			return Enter(c, Everything("admin"), next)
		}
	}}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	get := func(l Listener) int {
		w := newRecorder()
		s.Handler(l).ServeHTTP(w, newRequest("GET", "/x"))
		return w.Code
	}
	if a, b := get(Private), get(Private); a != 401 || b != 204 {
		t.Errorf("guarded: %d, then %d", a, b)
	}
	// One door does not open another.
	if a, b := get(Public), get(Partner); a != 404 || b != 404 {
		t.Errorf("a private route answers elsewhere: %d %d", a, b)
	}
}

func TestMissingOptionsAreNamed(t *testing.T) {
	o := newEdge(t).o
	o.Metrics = nil
	o.Erased = nil
	if _, err := New(o); err == nil || !strings.Contains(err.Error(), "Erased") {
		t.Errorf("%v", err)
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	for _, c := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "/", 404, "not_found"}, {"GET", "/v1/n/", 404, "not_found"}, {"GET", "/jane@example.com", 404, "not_found"},
		{"GET", "/v1/e", 405, "method_not_allowed"}, {"POST", "/v1/n/shop", 405, "method_not_allowed"}, {"HEAD", "/v1/n/shop", 405, "method_not_allowed"},
		{"GET", "/v1/optout", 405, "method_not_allowed"}, {"JANE", "/v1/e", 405, "method_not_allowed"},
	} {
		w := b.do(c.method, c.path, "")
		if w.Code != c.status || w.Header().Get("X-Ebb-Reason") != c.code || len(w.Header()["Set-Cookie"]) != 0 {
			t.Errorf("%s %s: %d %s", c.method, c.path, w.Code, w.Body)
		}
		if c.method != "HEAD" {
			if p := problem(t, w); p.Code != c.code || strings.Contains(strings.ToLower(w.Body.String()), "jane") {
				t.Errorf("%s %s: %s", c.method, c.path, w.Body)
			}
		}
	}
	if text := e.metricsText(); strings.Contains(text, "jane") {
		t.Error("a path became a label")
	}
}

func TestAPanicIsAnsweredAndHidesWhatItHeld(t *testing.T) {
	for _, v := range []any{"jane@example.com", errors.New("jane@example.com")} {
		e := newEdge(t, func(o *Options) { o.Keys = func() *keys.Ring { panic(v) } })
		e.canaries = []string{"jane"}
		w := e.browser().do("POST", "/v1/e", yesBody)
		if p := problem(t, w); w.Code != 500 || p.Code != "internal" || strings.Contains(w.Body.String(), "jane") {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if w := e.browser().do("GET", "/v1/n/shop?consent=1", ""); w.Code != 200 || w.Body.Len() != 43 || w.Header().Get("X-Ebb-Reason") != "internal" {
			t.Errorf("pixel: %d %s", w.Code, w.Body)
		}
		if e.metric("panics_total") != 2 || !strings.Contains(e.lines.b.String(), "handler panicked") {
			t.Errorf("not counted or not logged: %s", e.lines.b.String())
		}
		ring, err := keys.Generate(seeded(1), e.clock.Now().Day())
		if err != nil {
			t.Fatal(err)
		}
		e.Server.o.Keys = func() *keys.Ring { return ring } // for the check at the end
	}
}

func TestEveryAnswerHasTheHeaders(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	for _, r := range e.Routes() {
		path := strings.NewReplacer(":site", "shop", ":destination", "dsp").Replace(r.Path)
		if r.Path == "/v1/n/:site" {
			e.sent["shop"]++
		}
		if r.Path == "/v1/e" && r.Method == "POST" {
			e.sent[""]++
		}
		h := b.do(r.Method, path, "").Header()
		referrer := "no-referrer"
		if r.Path == "/privacy" {
			referrer = "same-origin" // else its forms would have no origin
		}
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != referrer {
			t.Errorf("%s %s: %v", r.Method, path, h)
		}
		cached := strings.HasPrefix(r.Path, "/t/") || strings.HasPrefix(r.Path, "/.well-known")
		if (h.Get("Cache-Control") == "private, no-store") == cached {
			t.Errorf("%s %s: Cache-Control %q", r.Method, path, h.Get("Cache-Control"))
		}
		if !strings.HasPrefix(r.Path, "/t/") && (h.Get("ETag") != "" || h.Get("Last-Modified") != "") {
			t.Errorf("%s %s: could track by cache: %v", r.Method, path, h)
		}
	}
}

func TestTheHTTPServerHasLimitsAndLogsNoAddress(t *testing.T) {
	e := newEdge(t)
	s := e.HTTP(Public)
	if s.ReadHeaderTimeout == 0 || s.ReadTimeout == 0 || s.WriteTimeout == 0 || s.IdleTimeout == 0 || s.MaxHeaderBytes != 16<<10 {
		t.Errorf("limits: %+v", s)
	}
	s.ErrorLog.Printf("http: TLS handshake error from %s: EOF", canaryAddr)
	if e.lines.b.Len() != 0 || e.metric("connection_errors_total") != 1 {
		t.Error("net/http's own lines are logged, or not counted")
	}
}

func TestTheTagIsServed(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	const hour, ever = "public, max-age=3600, stale-while-revalidate=86400", "public, max-age=31536000, immutable"
	for path, cache := range map[string]string{"/t/1/ebb.js": hour, "/t/" + TagVersion + "/ebb.js": ever, "/t/1/ads.js": hour, "/t/" + TagVersion + "/ads.js": ever} {
		w := b.do("GET", path, "")
		h := w.Header()
		want := tagSource(path[strings.LastIndexByte(path, '/')+1:])
		if w.Code != 200 || len(want) == 0 || !bytes.Equal(w.Body.Bytes(), want) || h.Get("Cache-Control") != cache || !strings.HasPrefix(h.Get("Content-Type"), "text/javascript") ||
			h.Get("Vary") != "Accept-Encoding" || h.Get("Access-Control-Allow-Origin") != "*" || h.Get("Cross-Origin-Resource-Policy") != "cross-origin" {
			t.Errorf("%s: %d %v", path, w.Code, h)
		}
		again := b.do("GET", path, "", "If-None-Match", `"x", W/`+h.Get("ETag"))
		if again.Code != 304 || again.Body.Len() != 0 {
			t.Errorf("%s: revalidation: %d", path, again.Code)
		}
		z := b.do("GET", path, "", "Accept-Encoding", "br, gzip;q=0.8")
		if z.Header().Get("Content-Encoding") != "gzip" || z.Header().Get("ETag") == h.Get("ETag") || !bytes.Equal(gziptest.Plain(t, z.Body.Bytes()), want) {
			t.Errorf("%s: gzip: %v", path, z.Header())
		}
		if z := b.do("GET", path, "", "Accept-Encoding", "gzip;q=0"); z.Header().Get("Content-Encoding") != "" {
			t.Errorf("%s: gzip though refused", path)
		}
	}
	if !strings.Contains(string(tagSource("ebb.js")), `"`+TagVersion+`"`) {
		t.Errorf("the tag does not say version %s", TagVersion)
	}
	if s := Snippet("https://data.example", "shop"); !strings.Contains(s, `src="https://data.example/t/1/ebb.js" data-site="shop"`) {
		t.Errorf("snippet %s", s)
	}
	if len(TagStub) > 91 {
		t.Errorf("the stub has %d bytes", len(TagStub))
	}
}

func TestGPCSupportIsDeclared(t *testing.T) {
	w := newEdge(t).browser().do("GET", "/.well-known/gpc.json", "")
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" || w.Body.String() != `{"gpc":true,"lastUpdate":"2026-11-25"}`+"\n" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}

func TestTheReasonsAreCountedByTheirTerm(t *testing.T) {
	for r, want := range map[taxonomy.Reason]taxonomy.Outcome{
		"": taxonomy.Duplicate, taxonomy.ReasonMalformed: taxonomy.Rejected, taxonomy.ReasonUnknownSite: taxonomy.Rejected, taxonomy.ReasonTooOld: taxonomy.Rejected,
		taxonomy.ReasonPII: taxonomy.Rejected, taxonomy.ReasonConsent: taxonomy.Dropped, taxonomy.ReasonRateLimit: taxonomy.Dropped, taxonomy.ReasonSource: taxonomy.Dropped,
	} {
		if got := outcomeOf(r); got != want {
			t.Errorf("%q: %v, want %v", r, got, want)
		}
	}
}
