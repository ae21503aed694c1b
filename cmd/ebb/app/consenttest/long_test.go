package consenttest

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/evanw/esbuild/pkg/api"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// missing skips the test with the line that helps; in CI it fails.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("no %s here; `deploy/test tools` gets it", what)
	}
	t.Skipf("no %s here; `deploy/test tools` gets it", what)
}

// platform bundles the consent platform with the IAB's libraries, which
// deploy/test fetches from npm into the git-ignored cache.
func platform(t *testing.T) string {
	t.Helper()
	source, err := os.ReadFile("testdata/cmp.js")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.Abs("../../../../.cache/cmp")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + "/node_modules/@iabgpp/cmpapi"); err != nil {
		missing(t, "IAB libraries")
	}
	r := api.Build(api.BuildOptions{
		Stdin:  &api.StdinOptions{Contents: string(source), ResolveDir: dir},
		Bundle: true, Format: api.FormatIIFE, Target: api.ES2020, Outfile: "cmp.js", LogLevel: api.LogLevelSilent,
	})
	for _, m := range r.Errors {
		t.Fatal(m.Text)
	}
	return string(r.OutputFiles[0].Contents)
}

// chromium starts one browser.
func chromium(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		missing(t, "chromium")
	}
	alloc, cancel := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true))...)
	t.Cleanup(cancel)
	ctx, _ := chromedp.NewContext(alloc)
	t.Cleanup(func() { _ = chromedp.Cancel(ctx) })
	if err := chromedp.Run(ctx); err != nil {
		t.Fatal(err)
	}
	return ctx
}

// shop is a page with a consent platform and the tag, the App behind it, and
// destinations a and b, of vendors 21 and 22.
type shop struct {
	*world
	tab context.Context
	url string
	// gpc: the browser sends Sec-GPC: 1. No Chromium has that built in, and a header
	// that the debugger adds makes requests that ask for leave first, so the proxy
	// before the edge adds it, as it adds the visitor's address.
	gpc atomic.Bool
}

// newShop serves a page on which window.cmpStart is start. Its site goes by the
// mode; the visitor is at an address of the country.
func newShop(t *testing.T, browser context.Context, cmp, start string, mode taxonomy.ConsentMode, address string) *shop {
	t.Helper()
	countries, err := os.ReadFile("../../../../tagserver/geo/testdata/GeoLite2-Country-Test.mmdb")
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{}
	var edge string
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/cmp.js" {
			w.Header().Set("Content-Type", "text/javascript")
			fmt.Fprint(w, cmp)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, `<!doctype html><title>shop</title><script>window.cmpStart=%s;window.ebb=window.ebb||function(){(ebb.q=ebb.q||[]).push(arguments)}</script>`+
			`<script src="/cmp.js"></script><script src="%s/t/1/ebb.js" data-site="shop"></script>`, start, edge)
	}))
	t.Cleanup(site.Close)
	s.url = strings.Replace(site.URL, "127.0.0.1", "localhost", 1)
	s.world = newWorld(t, time.Time{}, vendorList(t, ours(5), dsp(21), dsp(22)), map[string]string{
		"consent.role": "vendor", "consent.gvl_id": "5", "consent.gvl": "gvl.json", "geo.file": "geo.mmdb", "trusted_proxies": "127.0.0.0/8",
	}, file{"geo.mmdb", countries})
	s.site(taxonomy.Site{ID: "shop", Origins: []string{s.url}, Consent: mode})
	s.destination("a", 21, "tea")
	s.destination("b", 22, "tea")
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = "http", s.server.Address(tagserver.Public)
		r.Out.Host = r.In.Host
		r.Out.Header.Set("X-Forwarded-For", address)
		if s.gpc.Load() {
			r.Out.Header.Set("Sec-GPC", "1")
		}
	}})
	t.Cleanup(proxy.Close)
	edge = strings.Replace(proxy.URL, "127.0.0.1", "localhost", 1)

	tab, cancel := chromedp.NewContext(browser)
	t.Cleanup(cancel)
	tab, cancel = context.WithTimeout(tab, 4*time.Minute)
	t.Cleanup(cancel)
	s.tab = tab
	s.run(network.Enable(), network.ClearBrowserCookies(), emulation.SetFocusEmulationEnabled(true))
	s.run(chromedp.Navigate(s.url + "/a"))
	return s
}

func (s *shop) run(actions ...chromedp.Action) {
	s.t.Helper()
	if err := chromedp.Run(s.tab, actions...); err != nil {
		s.t.Fatal(err)
	}
}

// js runs a script, waits for a promise, and returns the value as JSON.
func (s *shop) js(script string) string {
	s.t.Helper()
	var out []byte
	s.run(chromedp.Evaluate(`Promise.resolve(`+script+`).then(v=>v===undefined?null:v)`, &out, func(p *runtime.EvaluateParams) *runtime.EvaluateParams {
		return p.WithAwaitPromise(true).WithReturnByValue(true)
	}))
	return string(out)
}

// buys has the page say that the visitor bought tea.
func (s *shop) buys() { s.t.Helper(); s.js(`(ebb('track','buy',{what:'tea'}),ebb('flush'))`) }

// id is whether the browser has the ID cookie.
func (s *shop) id() (has bool) {
	s.t.Helper()
	s.run(chromedp.ActionFunc(func(ctx context.Context) error {
		cookies, err := network.GetCookies().WithURLs([]string{"https://localhost/"}).Do(ctx)
		for _, c := range cookies {
			has = has || c.Name == tagserver.CookieID
		}
		return err
	}))
	return has
}

// until polls; ninety seconds are an end, not a bound.
func (s *shop) until(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(90 * time.Second); !ok(); time.Sleep(30 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("never: %s", what)
		}
	}
}

// known has the visitor buy, get its cookie, and come back with it.
func (s *shop) known() {
	s.t.Helper()
	s.buys()
	s.until("a cookie after a yes", s.id)
	s.buys()
	s.wants("a b", "a 1 b 1")
}

// quiet holds that nothing was kept, and nothing is kept of what the page says.
func (s *shop) quiet(when string) {
	s.t.Helper()
	s.buys()
	s.js(`new Promise(r=>setTimeout(r,700))`) // time to do something wrong
	accounts, err := s.server.Accounts(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	if a := accounts["shop"]; s.id() || a.Stored+a.Queued > 0 {
		s.t.Errorf("%s: cookie %v, account %+v", when, s.id(), a)
	}
}

// gone holds that the visitor is forgotten, here and at both partners.
func (s *shop) gone(when string) {
	s.t.Helper()
	s.until(when+": the cookie goes", func() bool { return !s.id() })
	s.wants("a b", "a 0 b 0")
	if got := s.js(`new Promise(r=>ebb('audiences',r))`); got != "[]" {
		s.t.Errorf("%s: the page is told %s", when, got)
	}
}

// The addresses of the test database's countries.
const (
	german   = "2001:218::1" // not in it as German: unknown, and so strict
	american = "216.160.83.56"
)

// Must show 5: in Chromium, with the IAB's libraries behind the interfaces, what
// a visitor grants, narrows and withdraws is what two partners of different
// vendors hold.
func TestLongConsentFromTheBrowserToTheSegmentFile(t *testing.T) {
	long(t)
	cmp, browser := platform(t), chromium(t)
	const all, some, none = `{purposes:[1,3,4,9,10],vendors:[5,21,22]}`, `{purposes:[1,3,4,9,10],vendors:[5,21]}`, `{purposes:[],vendors:[]}`

	t.Run("TCF", func(t *testing.T) {
		s := newShop(t, browser, cmp, `{tcf:true}`, taxonomy.ModeOptIn, german)
		s.quiet("the banner is open")
		s.js(`cmp.tcf(` + all + `)`)
		s.known()
		s.js(`cmp.tcf(` + some + `)`)
		s.buys()
		s.wants("a b", "a 1 b 0")
		s.js(`cmp.tcf(` + none + `)`)
		s.gone("withdrawn")
	})
	t.Run("GPP with a TC string", func(t *testing.T) {
		s := newShop(t, browser, cmp, `{tcf:true,gpp:[2]}`, taxonomy.ModeOptIn, german)
		s.quiet("the banner is open")
		s.js(`cmp.both(` + all + `)`)
		s.known()
		s.js(`cmp.both(` + some + `)`)
		s.buys()
		s.wants("a b", "a 1 b 0")
		s.js(`cmp.both(` + none + `)`)
		s.gone("withdrawn")
	})
	t.Run("GPP of the United States", func(t *testing.T) {
		s := newShop(t, browser, cmp, `{gpp:[7]}`, taxonomy.ModeByCountry, american)
		s.quiet("nothing was answered")
		s.js(`cmp.usnat({})`)
		s.known()
		s.js(`cmp.usnat({SaleOptOut:1})`)
		s.gone("opted out of sale")
	})
	t.Run("US Privacy", func(t *testing.T) {
		s := newShop(t, browser, cmp, `{usp:sessionStorage.usp||'1YNN'}`, taxonomy.ModeByCountry, american)
		s.known()
		s.js(`sessionStorage.usp='1YYN'`) // the interface tells it once, so on the next page
		s.run(chromedp.Navigate(s.url + "/b"))
		s.gone("opted out of sale")
	})
	t.Run("Global Privacy Control", func(t *testing.T) {
		s := newShop(t, browser, cmp, `{tcf:true}`, taxonomy.ModeOptIn, german)
		s.js(`cmp.tcf(` + all + `)`)
		s.known()
		// The header alone: the page goes on saying yes, and the edge refuses.
		s.gpc.Store(true)
		s.buys()
		s.until("the cookie goes", func() bool { return !s.id() })
		s.wants("a b", "a 0 b 0")
		// The property as well: the tag says nothing any more.
		s.run(chromedp.ActionFunc(func(ctx context.Context) error {
			_, err := page.AddScriptToEvaluateOnNewDocument(`Object.defineProperty(navigator,'globalPrivacyControl',{value:true})`).Do(ctx)
			return err
		}), chromedp.Navigate(s.url+"/b"))
		s.js(`cmp.tcf(` + all + `)`)
		s.gone("GPC")
	})
}
