package main

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// A page of each kind of mistake, and what is said of it.
func TestTheTagOfAPageIsVerified(t *testing.T) {
	const ours = "__Host-ebb=1.k.v; Path=/; Max-Age=7776000; Secure; HttpOnly; SameSite=Lax"
	type page struct{ attrs, query, policy, edge, cookie, wrong string }
	for name, c := range map[string]page{
		"good":                      {attrs: `data-site="shop"`},
		"settings in the address":   {attrs: ` `, query: "?site=shop&amp;layer=dataLayer"},
		"no tag":                    {wrong: "tag"},
		"no site":                   {attrs: ` `, wrong: "site"},
		"unknown site":              {attrs: `data-site="other"`, wrong: "edge, cookie"},
		"policy forbids the script": {attrs: `data-site="shop"`, policy: "default-src 'none'; connect-src *", wrong: "policy script-src"},
		"policy forbids to connect": {attrs: `data-site="shop"`, policy: "script-src *; connect-src 'none'", wrong: "policy connect-src"},
		"policy of other things":    {attrs: `data-site="shop"`, policy: "frame-ancestors 'none'"},
		"nobody is asked":           {attrs: `data-site="shop" data-consent="none"`, wrong: "consent"},
		"a proxy drops the cookie":  {attrs: `data-site="shop"`, cookie: "other=1", wrong: "cookie"},
		"a proxy changes it":        {attrs: `data-site="shop"`, cookie: "__Host-ebb=1.k.v; Path=/; Max-Age=7776000; HttpOnly", wrong: "cookie"},
		"another domain":            {attrs: `data-site="shop"`, edge: "localhost", wrong: "first party"},
		"another domain, third-party mode": {attrs: `data-site="shop"`, edge: "localhost",
			cookie: "__Host-ebbp=1.k.v; Path=/; Max-Age=7776000; Secure; HttpOnly; SameSite=None; Partitioned"},
	} {
		t.Run(name, func(t *testing.T) {
			edge := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				if r.URL.Path == "/v1/seg" && r.URL.Query().Get("site") != "shop" || len(body) > 0 && !strings.Contains(string(body), `"shop"`) {
					http.Error(w, `{"code":"unknown_site"}`, 404)
					return
				}
				if r.URL.Path == "/v1/e" {
					w.Header().Set("Set-Cookie", cmp.Or(c.cookie, ours))
				}
				w.Header().Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
			}))
			defer edge.Close()
			site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if c.policy != "" {
					w.Header().Set("Content-Security-Policy", c.policy)
				}
				if c.attrs != "" {
					at := strings.Replace(edge.URL, "127.0.0.1", cmp.Or(c.edge, "127.0.0.1"), 1)
					fmt.Fprintf(w, `<script async src="%s/t/1/ebb.js%s" %s></script>`, at, c.query, c.attrs)
				}
			}))
			defer site.Close()
			page, err := url.Parse(site.URL)
			if err != nil {
				t.Fatal(err)
			}
			var wrong []string
			for _, f := range verifyTag(t.Context(), &http.Client{}, page) {
				if !f.OK {
					wrong = append(wrong, f.What)
				}
			}
			if got := strings.Join(wrong, ", "); got != c.wrong {
				t.Errorf("wrong: %q, want %q", got, c.wrong)
			}
		})
	}
}
