package demo_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/demo"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// chromium starts a browser, or skips, or fails in CI, where it must be there.
func chromium(t *testing.T) context.Context {
	t.Helper()
	return chromiumFor(t, 4*time.Minute)
}

func chromiumFor(t *testing.T, life time.Duration) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("no chromium here; deploy/test installs it")
		}
		t.Skip("no chromium here; get it with: apt-get install chromium")
	}
	alloc, cancel := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true))...)
	t.Cleanup(cancel)
	ctx, _ := chromedp.NewContext(alloc)
	// Waits until the browser is gone, so that nobody writes into a folder that is
	// being removed.
	t.Cleanup(func() { _ = chromedp.Cancel(ctx) })
	ctx, cancel = context.WithTimeout(ctx, life)
	t.Cleanup(cancel)
	return ctx
}

// partner is a DSP of this test: it pulls what it is shown.
type partner struct {
	t         *testing.T
	base, key string
}

func (p partner) get(path string) (int, []byte) {
	p.t.Helper()
	req, err := http.NewRequest(http.MethodGet, p.base+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, b
}

func (p partner) manifest(id taxonomy.DestinationID) (m delivery.Manifest) {
	p.t.Helper()
	code, b := p.get(delivery.FilesPath(id))
	if code != http.StatusOK {
		p.t.Fatalf("manifest: %d %s", code, b)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		p.t.Fatal(err)
	}
	return m
}

func (p partner) lines(f delivery.ManifestFile) []string {
	p.t.Helper()
	code, b := p.get(f.URL)
	if code != http.StatusOK {
		p.t.Fatalf("file %s: %d", f.Name, code)
	}
	z, err := gzip.NewReader(strings.NewReader(string(b)))
	if err != nil {
		p.t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.FieldsFunc(string(text), func(r rune) bool { return r == '\n' })
}

// The walk of a visitor through all of Ebb, in a real browser: a page with the
// tag, consent, a second page, an audience, a line in a segment file; then the
// opt-out, and the line is gone and the old file answers 410.
func TestLongAVisitorInARealBrowser(t *testing.T) {
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
	key, hash, err := delivery.NewKey(app.System().Rand)
	if err != nil {
		t.Fatal(err)
	}
	const dsp = taxonomy.DestinationID("walk-dsp")
	if err := d.Define(ctx, defs.Destination, string(dsp), delivery.Destination{ID: dsp, Title: "A DSP that takes a single visitor",
		Audiences: []taxonomy.AudienceID{"wine-readers"}, Floor: 1, KeyHash: hash}); err != nil {
		t.Fatal(err)
	}
	publish := func() {
		t.Helper()
		if _, err := d.Build(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Deliver(ctx, dsp); err != nil {
			t.Fatal(err)
		}
	}
	publish()
	p := partner{t, d.Info.Partner, key}
	if m := p.manifest(dsp); len(m.Files) != 1 || m.Files[0].Rows != 0 {
		t.Fatalf("before anybody came: %+v", m.Files)
	}

	stored := func() uint64 {
		accounts, err := d.Accounts(ctx)
		if err != nil {
			t.Fatal(err)
		}
		a := accounts[d.Info.Site]
		if !a.Balanced() {
			t.Fatalf("P2: %+v", a)
		}
		return a.Stored
	}
	var said string
	if err := chromedp.Run(browser,
		chromedp.Navigate(d.Info.Page),
		chromedp.WaitVisible("#agree"),
		chromedp.Sleep(300*time.Millisecond), // long enough for a tag that does not wait to have sent something
	); err != nil {
		t.Fatal(err)
	}
	if n := stored(); n != 0 {
		t.Fatalf("before the visitor agreed %d events were stored", n)
	}
	if err := chromedp.Run(browser, chromedp.Click("#agree")); err != nil {
		t.Fatal(err)
	}
	wait(t, "the first page view is in the log", func() bool {
		a, err := d.Accounts(ctx)
		return err == nil && a[d.Info.Site].Received > 0
	})
	if err := chromedp.Run(browser, chromedp.Click("#wine"), chromedp.WaitVisible("#ask")); err != nil {
		t.Fatal(err)
	}
	// R11, R33: the cookie came back, so both page views count, and the page is
	// told within a second.
	wait(t, "both page views are stored", func() bool { return stored() >= 2 })
	wait(t, "the page is told its audience", func() bool {
		if err := chromedp.Run(browser, chromedp.Click("#ask"), chromedp.Sleep(100*time.Millisecond), chromedp.Text("#audiences", &said)); err != nil {
			t.Fatal(err)
		}
		return said == "wine-readers"
	})
	publish()
	m := p.manifest(dsp)
	last := m.Files[len(m.Files)-1]
	lines := p.lines(last)
	if len(lines) != 1 || !strings.Contains(lines[0], "\twine-readers\t+\t") {
		t.Fatalf("the segment file has %q", lines)
	}

	// R23–R26: the opt-out erases; the next file takes the line back, and what
	// held it is withdrawn by the night.
	if err := chromedp.Run(browser, chromedp.Click("#forget")); err != nil {
		t.Fatal(err)
	}
	wait(t, "the erasure is in the eraser's queue", func() bool {
		for _, place := range d.Audit(ctx).Places {
			if place.Name == "eraser's queue" && place.Oldest != nil {
				return true
			}
		}
		return false
	})
	if err := d.Nightly(ctx); err != nil {
		t.Fatal(err)
	}
	if code, _ := p.get(last.URL); code != http.StatusGone {
		t.Errorf("the old file answers %d, want 410", code)
	}
	for _, f := range p.manifest(dsp).Files {
		for _, l := range p.lines(f) {
			if strings.Contains(l, "\t+\t") {
				t.Errorf("file %s still holds %q", f.Name, l)
			}
		}
	}
	if err := chromedp.Run(browser, chromedp.Navigate(d.Info.Page+"/wine"), chromedp.WaitVisible("#ask"), chromedp.Click("#ask"),
		chromedp.Sleep(300*time.Millisecond), chromedp.Text("#audiences", &said)); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(said, "wine") {
		t.Errorf("after the opt-out the page is told %q", said)
	}
}

// wait polls until something is so. Ninety seconds are an end, not a bound to be
// met.
func wait(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if so() {
			return
		}
	}
	t.Fatalf("in vain: %s", what)
}

func TestTheDemoIsReadyAndSaysWhereToLook(t *testing.T) {
	ctx := context.Background()
	d, err := demo.Start(ctx, demo.Options{Env: app.System(), Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	if d.Receipt.Stored != 18_638 || d.Info.Counts.Visitors != 2_039 || d.Info.Counts.Audiences != 9 {
		t.Errorf("receipt %+v, counts %+v", d.Receipt, d.Info.Counts)
	}
	p := partner{t, d.Info.Partner, d.Info.PartnerKey}
	m := p.manifest(d.Info.Destination)
	if len(m.Files) == 0 || len(p.lines(m.Files[0])) == 0 {
		t.Errorf("the destination's files hold nothing: %+v", m.Files)
	}
	for _, f := range d.Partners {
		if err := f.Pull(ctx); err != nil || f.Holds() == 0 {
			t.Errorf("%s holds %d rows: %v", f.Destination, f.Holds(), err)
		}
	}
}
