package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// A page of each kind of mistake, and what is said of it.
func TestTheTagOfAPageIsVerified(t *testing.T) {
	for name, c := range map[string]struct {
		attrs, policy, status string
		tag                   bool
		wrong                 string
	}{
		"good":                      {`data-site="shop"`, "", "", true, ""},
		"no tag":                    {"", "", "", false, "tag"},
		"no site":                   {"", "", "", true, "site"},
		"unknown site":              {`data-site="other"`, "", "", true, "edge"},
		"policy forbids the script": {`data-site="shop"`, "default-src 'none'; connect-src *", "", true, "policy script-src"},
		"policy forbids to connect": {`data-site="shop"`, "script-src *; connect-src 'none'", "", true, "policy connect-src"},
		"policy of other things":    {`data-site="shop"`, "frame-ancestors 'none'", "", true, ""},
		"nobody is asked":           {`data-site="shop" data-consent="none"`, "", "", true, "consent"},
	} {
		t.Run(name, func(t *testing.T) {
			edge := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v1/seg" && r.URL.Query().Get("site") != "shop" {
					http.Error(w, `{"code":"unknown_site"}`, 404)
					return
				}
				w.Header().Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
			}))
			defer edge.Close()
			site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if c.policy != "" {
					w.Header().Set("Content-Security-Policy", c.policy)
				}
				if c.tag {
					fmt.Fprintf(w, `<script async src="%s/t/1/ebb.js" %s></script>`, edge.URL, c.attrs)
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
