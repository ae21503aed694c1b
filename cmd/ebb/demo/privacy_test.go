package demo_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/demo"
)

// A visitor opens its own page in a real browser, sees what it did and the
// groups it is in, erases, opts out and opts in again, all by plain forms; each
// state of the page has no fault of accessibility.
func TestLongAVisitorSeesItsOwnPage(t *testing.T) {
	axe, err := os.ReadFile(filepath.FromSlash("../../../.cache/axe-core/axe.min.js"))
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("no axe-core here; `deploy/test tools` fetches it")
		}
		t.Skip("no axe-core here; `deploy/test tools` fetches it")
	}
	browser := chromium(t)
	ctx := context.Background()
	d, err := demo.Start(ctx, demo.Options{Env: app.System(), Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler), Quiet: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	run := func(actions ...chromedp.Action) {
		t.Helper()
		if err := chromedp.Run(browser, actions...); err != nil {
			t.Fatal(err)
		}
	}
	var text string
	read := chromedp.Text("main", &text)
	clean := func(state string) {
		t.Helper()
		var out string
		run(chromedp.Evaluate(string(axe)+";0", nil),
			chromedp.Evaluate(`axe.run().then(function(r){return JSON.stringify(r.violations.map(function(v){return v.id+': '+v.nodes[0].html}))})`, &out, awaitPromise))
		var faults []string
		if err := json.Unmarshal([]byte(out), &faults); err != nil || len(faults) > 0 {
			t.Errorf("%s: %s %v", state, out, err)
		}
	}
	own := d.Info.Public + "/privacy"
	run(chromedp.Navigate(own), read)
	if !strings.Contains(text, "Nothing.") {
		t.Errorf("at first the page says %q", text)
	}
	clean("nothing known")
	run(chromedp.Navigate(d.Info.Page), chromedp.WaitVisible("#agree"), chromedp.Click("#agree"))
	wait(t, "the first page view is in the log", func() bool {
		a, err := d.Accounts(ctx)
		return err == nil && a[d.Info.Site].Received > 0
	})
	run(chromedp.Click("#wine"), chromedp.WaitVisible("#ask"))
	wait(t, "both page views are on the visitor's page", func() bool {
		run(chromedp.Navigate(own), read)
		return strings.Contains(text, "/wine") && strings.Contains(text, "Groups it is counted in")
	})
	clean("known")
	shot := func(name string) {
		t.Helper()
		file := os.Getenv("EBB_TEST_SCREENSHOTS")
		if file == "" {
			return
		}
		var png []byte
		run(chromedp.FullScreenshot(&png, 100))
		if err := os.WriteFile(filepath.Join(file, name), png, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	shot("privacy.png")
	press := func(label, want string) {
		t.Helper()
		run(chromedp.Click(`//button[text()="`+label+`"]`, chromedp.BySearch))
		wait(t, "after "+label+" the page says "+want, func() bool {
			// A page that is being replaced has no text to give.
			return chromedp.Run(browser, chromedp.WaitVisible("main"), read) == nil && strings.Contains(text, want)
		})
	}
	// count is how many switches say so; while the page changes, none is said.
	count := func(label string) (n int) {
		if err := chromedp.Run(browser, chromedp.Evaluate(`document.readyState=='complete'?document.querySelectorAll('button[aria-label^="`+label+`"]').length:-1`, &n)); err != nil {
			return -1
		}
		return n
	}
	flip := func(label string) {
		t.Helper()
		n := count(label)
		run(chromedp.Click(`button[aria-label^="`+label+`"]`, chromedp.ByQuery))
		wait(t, "one less to "+label, func() bool { return count(label) == n-1 })
	}
	if count("Switch off") == 0 {
		t.Fatal("the page has no category")
	}
	flip("Switch off")
	run(read)
	if !strings.Contains(text, "Your receipt") {
		t.Error("a switch gives no receipt")
	}
	clean("a category off, with its receipt")
	shot("privacy-off.png")
	for count("Switch off") > 0 {
		flip("Switch off")
	}
	wait(t, "with every category off there is no group", func() bool {
		run(chromedp.Navigate(own), read)
		return !strings.Contains(text, "Groups it is counted in")
	})
	flip("Switch on")
	press("Only erase", "Nothing.")
	press("Opt out, and erase everything", "opted out")
	clean("opted out")
	press("Opt in again", "Nothing.")
}
