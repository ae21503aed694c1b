package console

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// axeFile is the checker of accessibility; deploy/test fetches it.
const axeFile = "../../.cache/axe-core/axe.min.js"

// need returns what the test cannot do without, or skips it with the line that
// helps; in CI it fails.
func need(t *testing.T) (chromium, axe string) {
	t.Helper()
	missing := func(what string) {
		line := what + " is missing; get it with: deploy/test tools"
		if os.Getenv("CI") == "true" {
			t.Fatal(line)
		}
		t.Skip(line)
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			chromium = p
			break
		}
	}
	if chromium == "" {
		missing("Chromium")
	}
	b, err := os.ReadFile(filepath.FromSlash(axeFile))
	if err != nil {
		missing("axe-core")
	}
	return chromium, string(b)
}

// browser starts Chromium and returns a context for its one tab.
func browser(t *testing.T, chromium string) context.Context {
	t.Helper()
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("no-first-run", true),
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true))
	alloc, stop := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), opts...)
	t.Cleanup(stop)
	tab, closeTab := chromedp.NewContext(alloc)
	t.Cleanup(func() {
		if err := chromedp.Cancel(tab); err != nil {
			t.Log("close the browser:", err)
		}
		closeTab()
	})
	return tab
}

// Every page, in light and dark, wide and 320 px: axe-core finds nothing, the
// page does not scroll sideways, and the policy refuses nothing that it holds.
// `go test -artifacts -outputdir DIR` keeps a picture of each.
func TestLongPagesAreAccessible(t *testing.T) {
	if os.Getenv("EBB_LONG") == "" {
		t.Skip("long; EBB_LONG=1 runs it")
	}
	chromium, axe := need(t)
	tab := browser(t, chromium)
	var mu sync.Mutex
	var complaints []string
	chromedp.ListenTarget(tab, func(ev any) {
		if e, ok := ev.(*log.EventEntryAdded); ok && (e.Entry.Source == log.SourceSecurity || strings.Contains(e.Entry.Text, "Content Security Policy")) {
			mu.Lock()
			complaints = append(complaints, e.Entry.Text)
			mu.Unlock()
		}
	})
	pictures := t.ArtifactDir()
	for name, w := range worlds() {
		s := serve(t, w)
		server := httptest.NewServer(s.e)
		t.Cleanup(server.Close)
		check := func(p, label string) {
			if err := chromedp.Run(tab, chromedp.Navigate(server.URL+p), chromedp.Evaluate(axe+`;0`, nil)); err != nil {
				t.Fatalf("%s: %v", p, err)
			}
			for _, l := range looks[name] {
				inspect(t, tab, l, fmt.Sprintf("%s-%s-%s-%d", name, label, l.scheme, l.width), pictures)
			}
		}
		check("/console", "login") // leads to the login
		if err := chromedp.Run(tab, chromedp.SendKeys("#key", adminKey+"\r"), chromedp.WaitVisible(".top nav")); err != nil {
			t.Fatalf("%s: sign in: %v", name, err)
		}
		for i, p := range w.paths() {
			if name != "normal" && strings.HasPrefix(p, base+"/help/") {
				continue // the same everywhere
			}
			check(p, fmt.Sprintf("%02d-%s", i, strings.Trim(strings.Map(func(r rune) rune {
				if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
					return r
				}
				return '-'
			}, strings.TrimPrefix(p, base)), "-")))
		}
		if err := chromedp.Run(tab, network.ClearBrowserCookies()); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range complaints {
		t.Errorf("the policy refused something: %s", c)
	}
}

// look is how a page is looked at: colours, and width in CSS pixels.
type look struct {
	scheme string
	width  int64
}

// looks are how the pages of each world are looked at. What is shown changes
// the structure little, so all four are for the normal one.
var looks = map[string][]look{
	"normal":  {{"light", 1280}, {"dark", 1280}, {"light", 320}, {"dark", 320}},
	"empty":   {{"light", 1280}, {"dark", 320}},
	"hostile": {{"dark", 320}},
}

// inspect looks at the page that is open, into which axe-core was brought.
func inspect(t *testing.T, tab context.Context, l look, where, pictures string) {
	t.Helper()
	var result string
	var wide bool
	var shot []byte
	err := chromedp.Run(tab,
		chromedp.EmulateViewport(l.width, 900),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: l.scheme}}),
		chromedp.Evaluate(`document.documentElement.scrollWidth > window.innerWidth`, &wide),
		chromedp.Evaluate(`axe.run(document, {resultTypes: ["violations"]}).then(r => JSON.stringify({passes: r.passes.length, violations: r.violations.map(v => [v.id, v.nodes.map(n => n.target.join(" ") + ": " + n.failureSummary)])}))`,
			&result, awaitPromise),
		chromedp.ActionFunc(func(ctx context.Context) (err error) {
			shot, err = cdppage.CaptureScreenshot().WithCaptureBeyondViewport(true).Do(ctx)
			return err
		}),
	)
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	var r struct {
		Passes     int
		Violations []json.RawMessage
	}
	if err := json.Unmarshal([]byte(result), &r); err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	if r.Passes < 5 {
		t.Errorf("%s: axe-core passed %d rules only, so it saw no page", where, r.Passes)
	}
	for _, v := range r.Violations {
		t.Errorf("%s: %s", where, v)
	}
	if wide {
		t.Errorf("%s: the page scrolls sideways", where)
	}
	if err := os.WriteFile(filepath.Join(pictures, where+".png"), shot, 0o644); err != nil {
		t.Error(err)
	}
}

func awaitPromise(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }

// The keyboard alone signs in, skips to the page, reads and signs out; and where
// the browser gives no cookie back, the form says why.
func TestLongKeyboardAloneIsEnough(t *testing.T) {
	if os.Getenv("EBB_LONG") == "" {
		t.Skip("long; EBB_LONG=1 runs it")
	}
	chromium, _ := need(t)
	tab := browser(t, chromium)
	s := serve(t, normal())
	server := httptest.NewServer(s.e)
	defer server.Close()
	origin := strings.Replace(server.URL, "127.0.0.1", "localhost", 1)
	var at, focus string
	where := chromedp.Location(&at)
	focused := chromedp.Evaluate(`document.activeElement.id || document.activeElement.textContent.trim()`, &focus)
	step := func(want string, got *string, actions ...chromedp.Action) {
		t.Helper()
		if err := chromedp.Run(tab, actions...); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(*got, want) {
			t.Fatalf("got %q, want %q", *got, want)
		}
	}
	press := func(keys string) chromedp.Action { return chromedp.KeyEvent(keys) }
	step("Skip to the page", &focus, chromedp.Navigate(origin+base+"/audiences"), press("\t"), focused)
	step("key", &focus, press("\t"), press("\t"), focused)
	step(base+"/audiences", &at, press(adminKey), press("\r"), chromedp.WaitVisible(".top nav"), where)
	step("main", &focus, press("\t"), focused, press("\r"), chromedp.Poll(`document.activeElement.id == "main"`, nil), focused)
	// Back to the top, over the navigation, to the button at its end.
	step("Sign out", &focus, chromedp.Navigate(origin+base), press(strings.Repeat("\t", 2+len(nav)+1)), focused)
	step(base+"/login", &at, press("\r"), chromedp.WaitVisible("#key"), where)
	step(base+"/login?next=%2Fconsole%2Fsites", &at, chromedp.Navigate(origin+base+"/sites"), where)
}
