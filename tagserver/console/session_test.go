package console

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

func post(path string, form url.Values, head ...string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "http://localhost:8082"+path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(head); i += 2 {
		r.Header.Set(head[i], head[i+1])
	}
	return r
}

const ours = "http://localhost:8082"

func session(t testing.TB, res *http.Response) *http.Cookie {
	t.Helper()
	for _, k := range res.Cookies() {
		if k.Name == CookieName {
			return k
		}
	}
	t.Fatalf("status %d and no session", res.StatusCode)
	return nil
}

// No page without login: every route of the table but the login itself and the
// style sheet sends a browser to the login, and shows nothing.
func TestNoPageWithoutLogin(t *testing.T) {
	w := normal()
	s := serve(t, w)
	open := map[string]bool{"GET /console/login": true, "POST /console/login": true, "POST /console/logout": true, "GET /console/assets/:name": true,
		// These check the session themselves; see TestTheTestPageIsNobodyElses.
		"GET /console/sites/:id/try/v1/:call": true, "POST /console/sites/:id/try/v1/:call": true}
	for _, r := range s.c.Routes() {
		if open[r.Method+" "+r.Path] || r.Method == http.MethodPost && r.Auth == tagserver.AuthOrigin { // see TestFormsAreTakenFromOurPagesOnly
			continue
		}
		if r.Auth != tagserver.AuthAdmin || r.Method != http.MethodGet {
			t.Errorf("%s %s has auth %q", r.Method, r.Path, r.Auth)
		}
	}
	for _, p := range w.paths() {
		for _, cookie := range []string{"", "x", "AAAA", strings.Repeat("A", 75)} {
			r := httptest.NewRequest(http.MethodGet, p, nil)
			if cookie != "" {
				r.AddCookie(&http.Cookie{Name: CookieName, Value: cookie})
			}
			r.Header.Set("Authorization", "Bearer ebba_wrong")
			res := s.do(r)
			b, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != http.StatusSeeOther || len(b) > 0 || res.Header.Get("Location") != base+"/login?next="+url.QueryEscape(p) {
				t.Errorf("%s: status %d, %d bytes, to %q", p, res.StatusCode, len(b), res.Header.Get("Location"))
			}
			if res.Header.Get("Content-Security-Policy") != policy {
				t.Errorf("%s: without a policy", p)
			}
		}
	}
}

func TestTheAdminKeyOpensPagesForScriptsToo(t *testing.T) {
	s := serve(t, normal())
	r := httptest.NewRequest(http.MethodGet, base, nil)
	r.Header.Set("Authorization", "Bearer "+adminKey)
	if res := s.do(r); res.StatusCode != http.StatusOK {
		t.Errorf("status %d", res.StatusCode)
	}
}

// The guard is the whole listener's: to it a session reads and never changes. Our own
// forms ask for more; see TestFormsAreTakenFromOurPagesOnly.
func TestASessionIsNeverEnoughToChangeSomething(t *testing.T) {
	s := serve(t, normal())
	value, err := s.c.sessions.make(adminKey)
	if err != nil {
		t.Fatal(err)
	}
	reached := func(c echo.Context) error { return c.NoContent(http.StatusNoContent) }
	for _, c := range []struct {
		method, bearer string
		cookie         bool
		want           int
	}{
		{http.MethodGet, "", true, 204}, {http.MethodHead, "", true, 204},
		{http.MethodPost, "", true, 401}, {http.MethodPut, "", true, 401}, {http.MethodDelete, "", true, 401},
		{http.MethodPost, adminKey, false, 204}, {http.MethodGet, "", false, 401}, {http.MethodGet, "ebba_wrong", false, 401},
		{http.MethodDelete, "ebba_wrong", true, 401},
	} {
		r := httptest.NewRequest(c.method, "/api/v1/sites", nil)
		if c.cookie {
			r.AddCookie(&http.Cookie{Name: CookieName, Value: value})
		}
		if c.bearer != "" {
			r.Header.Set("Authorization", "Bearer "+c.bearer)
		}
		rec := httptest.NewRecorder()
		err := s.c.Guard()(reached)(s.e.NewContext(r, rec))
		got := rec.Code
		if p, ok := err.(*tagserver.Problem); ok {
			got = p.Status
		}
		if got != c.want {
			t.Errorf("%s, cookie %v, bearer %q: %d, want %d", c.method, c.cookie, c.bearer, got, c.want)
		}
	}
}

func TestLoginGoesWhereTheVisitorWanted(t *testing.T) {
	s := serve(t, normal())
	res := s.do(post(base+"/login", url.Values{"key": {" " + adminKey + "\n"}, "next": {base + "/audiences/wine"}}, "Origin", ours))
	k := session(t, res)
	if res.StatusCode != http.StatusSeeOther || !k.HttpOnly || !k.Secure || k.SameSite != http.SameSiteStrictMode || k.Path != "/" || k.Domain != "" || k.MaxAge != 12*3600 {
		t.Errorf("status %d, cookie %+v", res.StatusCode, k)
	}
	// The way back is by a page that sees whether the browser kept the cookie.
	r := httptest.NewRequest(http.MethodGet, res.Header.Get("Location"), nil)
	r.AddCookie(k)
	if res := s.do(r); res.Header.Get("Location") != base+"/audiences/wine" {
		t.Errorf("to %q", res.Header.Get("Location"))
	}
	contains(t, s.anonymous(t, res.Header.Get("Location")), "did not keep the session", "the login without its cookie")
	if strings.Contains(res.Header.Get("Location"), "ebba_") || strings.Contains(k.Value, "ebba_") {
		t.Error("the key goes back out")
	}
}

func TestLoginIsRefused(t *testing.T) {
	form := url.Values{"key": {adminKey}}
	for name, c := range map[string]struct {
		r    *http.Request
		want int
	}{
		"wrong key":              {post(base+"/login", url.Values{"key": {"ebba_wrong"}}, "Origin", ours), 401},
		"no key":                 {post(base+"/login", nil, "Origin", ours), 401},
		"foreign origin":         {post(base+"/login", form, "Origin", "https://evil.example"), 403},
		"no origin":              {post(base+"/login", form), 403},
		"origin null":            {post(base+"/login", form, "Origin", "null"), 403},
		"other port":             {post(base+"/login", form, "Origin", "http://localhost:8080"), 403},
		"cross-site by metadata": {post(base+"/login", form, "Origin", ours, "Sec-Fetch-Site", "cross-site"), 403},
		"same-site by metadata":  {post(base+"/login", form, "Origin", ours, "Sec-Fetch-Site", "same-site"), 403},
		"key in the address":     {post(base+"/login?key="+adminKey, nil, "Origin", ours), 401},
		"too large":              {post(base+"/login", url.Values{"key": {strings.Repeat("x", 8<<10)}}, "Origin", ours), 400},
	} {
		s := serve(t, normal())
		res := s.do(c.r)
		if res.StatusCode != c.want || len(res.Cookies()) > 0 {
			t.Errorf("%s: status %d and %d cookies, want %d and none", name, res.StatusCode, len(res.Cookies()), c.want)
		}
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), adminKey) || strings.Contains(string(b), "ebba_wrong") {
			t.Errorf("%s: the page has the key", name)
		}
	}
	if res := serve(t, normal()).do(post(base+"/login", form, "Sec-Fetch-Site", "same-origin")); res.StatusCode != http.StatusSeeOther {
		t.Errorf("same-origin by metadata: %d", res.StatusCode)
	}
}

func TestSessionsEnd(t *testing.T) {
	w := normal()
	s := serve(t, w)
	k := session(t, s.do(post(base+"/login", url.Values{"key": {adminKey}}, "Origin", ours)))
	ask := func(k *http.Cookie) int {
		r := httptest.NewRequest(http.MethodGet, base, nil)
		r.AddCookie(k)
		return s.do(r).StatusCode
	}
	w.now += SessionLife - 1
	if got := ask(k); got != 200 {
		t.Errorf("a moment before its end: %d", got)
	}
	w.now++
	if got := ask(k); got != 303 {
		t.Errorf("at its end: %d", got)
	}
	k = session(t, s.do(post(base+"/login", url.Values{"key": {adminKey}}, "Origin", ours)))
	other := session(t, s.do(post(base+"/login", url.Values{"key": {adminKey}}, "Origin", ours)))
	bad := post(base+"/logout", nil, "Origin", "https://evil.example")
	bad.AddCookie(k)
	if res := s.do(bad); res.StatusCode != 403 || ask(k) != 200 {
		t.Error("a foreign page signed the visitor out")
	}
	out := post(base+"/logout", nil, "Origin", ours)
	out.AddCookie(k)
	res := s.do(out)
	if gone := session(t, res); gone.MaxAge >= 0 || gone.Value != "" {
		t.Errorf("cookie after logout: %+v", gone)
	}
	if ask(k) != 303 {
		t.Error("the cookie still works after logout")
	}
	if ask(other) != 200 {
		t.Error("another session ended too")
	}
	// A restart, whose key is another, ends all.
	o := w.options()
	o.Rand = strings.NewReader(strings.Repeat("another key", 20))
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, base, nil)
	r.AddCookie(other)
	if c.SignedIn(r) {
		t.Error("a session outlived the process")
	}
}

func TestFailedLoginsAreSlowedDown(t *testing.T) {
	w := normal()
	s := serve(t, w)
	try := func(key string) *http.Response {
		return s.do(post(base+"/login", url.Values{"key": {key}}, "Origin", ours))
	}
	for i := range failBurst {
		if res := try("ebba_wrong"); res.StatusCode != 401 {
			t.Fatalf("try %d: %d", i, res.StatusCode)
		}
	}
	res := try(adminKey)
	if res.StatusCode != 429 || res.Header.Get("Retry-After") == "" {
		t.Errorf("after %d failures: %d, retry after %q", failBurst, res.StatusCode, res.Header.Get("Retry-After"))
	}
	// A foreign page that posts is refused before it counts.
	for range 100 {
		s.do(post(base+"/login", url.Values{"key": {"x"}}, "Origin", "https://evil.example"))
	}
	w.now += taxonomy.Millis(failEvery.Milliseconds())
	if res := try(adminKey); res.StatusCode != 303 {
		t.Errorf("after a while: %d", res.StatusCode)
	}
}

// No value that we did not make is a session: not one bit of one may differ.
func TestOnlyOurSessionsCount(t *testing.T) {
	s := serve(t, normal())
	value, err := s.c.sessions.make(adminKey)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		b := []byte(value)
		i := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		b[i] = rapid.Byte().Draw(t, "byte")
		if _, _, _, ok := s.c.sessions.parse(string(b)); ok != (string(b) == value) {
			t.Fatalf("%q counts: %v", b, ok)
		}
	})
}

func FuzzSession(f *testing.F) {
	s := serve(f, normal())
	value, err := s.c.sessions.make(adminKey)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("")
	f.Add(value[:70])
	f.Add(value + "A")
	f.Fuzz(func(t *testing.T, v string) {
		if _, _, _, ok := s.c.sessions.parse(v); ok && v != value {
			t.Errorf("%q counts", v)
		}
		s.c.sessions.end(v)
	})
}

// Whatever the form asks for, a login leads to a page of the console.
func FuzzNextStaysHere(f *testing.F) {
	for _, s := range []string{"", "/console", "/console/audiences?x=1", "//evil.example/console", "https://evil.example/console", "/console/../api", `/console\evil`, "/console//evil.example", "/consolex", "javascript:alert(1)//console", "/console/%2e%2e/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, next string) {
		got := target(next)
		u, err := url.Parse(got)
		if err != nil || u.Scheme != "" || u.Host != "" || !below(u.Path) || strings.Contains(u.Path, "..") && strings.Contains(u.Path, "/../") || strings.ContainsAny(got, "\\\r\n") {
			t.Errorf("%q leads to %q", next, got)
		}
	})
}

func TestAssetsAreKeptAndPagesAreNot(t *testing.T) {
	s := serve(t, normal())
	for name := range s.c.assets {
		res := s.do(httptest.NewRequest(http.MethodGet, base+"/assets/"+name, nil))
		if res.StatusCode != 200 || !strings.Contains(res.Header.Get("Cache-Control"), "immutable") || res.Header.Get("Content-Security-Policy") != policy {
			t.Errorf("%s: %d %v", name, res.StatusCode, res.Header)
		}
	}
	if res := s.do(httptest.NewRequest(http.MethodGet, base+"/assets/other.css", nil)); res.StatusCode != 404 {
		t.Errorf("an asset that is not: %d", res.StatusCode)
	}
	res := s.do(httptest.NewRequest(http.MethodGet, base+"/login", nil))
	if res.Header.Get("Cache-Control") != "private, no-store" || res.Header.Get("Referrer-Policy") != "same-origin" {
		t.Errorf("login: %v", res.Header)
	}
	r := httptest.NewRequest(http.MethodGet, base+"/", nil)
	r.Header.Set("Authorization", "Bearer "+adminKey)
	if res := s.do(r); res.Header.Get("Location") != base {
		t.Errorf("with a slash: to %q", res.Header.Get("Location"))
	}
}

func TestOptionsMustBeSet(t *testing.T) {
	if _, err := New(Options{}); err == nil || !strings.Contains(err.Error(), "option Now is not set") {
		t.Errorf("error %v", err)
	}
	o := normal().options()
	o.Public, o.Partner, o.Visitors, o.Problems, o.Nights, o.Title = nil, nil, nil, nil, nil, nil
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	s := &served{c, nil}
	_ = s
}
