package deploy

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/ebb-dmp/ebb/tagserver"
)

// A new site's owner follows the README in a real browser: two calls, the lines
// of HTML, the calls of the tag; and sees the events on the site's page in the
// console, each request in its inspector, and those of the test page as they
// happen.
func TestLongTheReadmePutsTheTagOnAPage(t *testing.T) {
	browser, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("no chromium here; deploy/test installs it")
		}
		t.Skip("no chromium here; get it with: apt-get install chromium")
	}
	b, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := string(b)
	block := func(language string) string {
		t.Helper()
		m := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindStringSubmatch(readme)
		if m == nil {
			t.Fatalf("the README has no %s", language)
		}
		return m[1]
	}

	s, admin := started(t)
	port := func(address string) string {
		_, p, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}

	page := ""
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, page)
	}))
	t.Cleanup(site.Close)
	here := "localhost:" + port(strings.TrimPrefix(site.URL, "http://"))
	places := strings.NewReplacer("localhost:3000", here, "localhost:8080", "localhost:"+port(s.Address(tagserver.Public)), "127.0.0.1:8082", s.Address(tagserver.Private))
	for _, call := range regexp.MustCompile(`(?m)^    api http.*(?:\n      .*)*`).FindAllString(readme, -1)[:2] {
		cmd := exec.Command("bash", "-c", `api() { curl -sS --fail-with-body -H "Authorization: Bearer $ADMIN" -H 'Content-Type: application/json' "$@"; }
`+places.Replace(call))
		cmd.Env = append(os.Environ(), "ADMIN="+admin)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s\n%v: %s", call, err, out)
		}
	}
	page = `<!doctype html><html lang="en"><title>shop</title>` + places.Replace(block("html")) + `<h1>Shop</h1><script>` + block("js") + `</script>`

	alloc, cancel := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(browser), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true))...)
	t.Cleanup(cancel)
	tab, _ := chromedp.NewContext(alloc)
	t.Cleanup(func() { _ = chromedp.Cancel(tab) })
	tab, cancel = context.WithTimeout(tab, 4*time.Minute)
	t.Cleanup(cancel)
	run := func(actions ...chromedp.Action) {
		t.Helper()
		if err := chromedp.Run(tab, actions...); err != nil {
			t.Fatal(err)
		}
	}
	received := func() uint64 {
		accounts, err := s.Accounts(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return accounts["shop"].Received
	}
	for view := range uint64(2) { // the second brings the cookie back
		run(chromedp.Navigate("http://" + here + "/shoes"))
		for received() < 2*(view+1) {
			run(chromedp.Sleep(50 * time.Millisecond)) // ends with the tab's time
		}
	}
	console := "http://localhost:" + port(s.Address(tagserver.Private)) + "/console/sites/shop"
	var text string
	run(chromedp.Navigate(console), chromedp.SendKeys("#key", admin), chromedp.Submit("#key"), chromedp.WaitVisible("#account"))
	for !regexp.MustCompile(`(?i)stored\s+4\b|\b4\s+stored`).MatchString(text) {
		run(chromedp.Navigate(console), chromedp.Text("main", &text), chromedp.Sleep(100*time.Millisecond))
	}
	sees := func(where string, words ...string) {
		t.Helper()
		for _, w := range words {
			if !strings.Contains(text, w) {
				t.Errorf("%s does not say %q: %s", where, w, text)
			}
		}
	}
	// What came is there at once, without loading again and again.
	run(chromedp.Click(`a[href$="/inspector"]`), chromedp.WaitVisible("#inspection"), chromedp.Text("main", &text))
	sees("the inspector", "Nothing of the last ten minutes was refused", "page "+here+"/shoes", "track add_to_cart", "sku=a-1", "Consent: the page: yes", "Cookie: returning", "No rule asks for prop.sku")
	// The test page carries the tag; what is pressed there comes up below it.
	run(chromedp.Click(`a[href$="/try"]`), chromedp.WaitVisible(`[data-act="agree"]`), chromedp.Poll(`!!(window.ebb&&ebb.v)`, nil),
		chromedp.Click(`[data-act="agree"]`), chromedp.SetValue("#at", "/shoes/red"), chromedp.Click(`#walk button`), chromedp.Click(`[data-act="order"]`))
	for !strings.Contains(text, "conversion order") || !strings.Contains(text, here+"/shoes/red") {
		run(chromedp.Sleep(50*time.Millisecond), chromedp.Text("#inspection", &text)) // ends with the tab's time
	}
	sees("the list below the test page", "test page", "value=59")
	if shots := os.Getenv("EBB_TEST_SCREENSHOTS"); shots != "" {
		var png []byte
		run(chromedp.FullScreenshot(&png, 100))
		if err := os.WriteFile(shots+"/try.png", png, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
