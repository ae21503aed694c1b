package demo_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/demo"
	"github.com/ebb-dmp/ebb/segments/query"
)

// What a new ad-ops person does from the demo, in a real browser and by the console
// alone: a category, a rule that is applied to the last 90 days, an audience with its
// live count, a lookalike with its evidence, a delivery. The help page "Your first
// audience" has the same steps. `go test -artifacts -outputdir DIR` keeps a picture of
// each; every page on the way is held to axe-core in light, dark and 320 px.
func TestLongANewAdOpsPersonsFirstAudience(t *testing.T) {
	if os.Getenv("EBB_LONG") == "" {
		t.Skip("long; EBB_LONG=1 runs it")
	}
	tab := chromiumFor(t, 5*time.Minute)
	axe, err := os.ReadFile(filepath.FromSlash("../../../.cache/axe-core/axe.min.js"))
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("axe-core is missing; get it with: deploy/test tools")
		}
		t.Skip("axe-core is missing; get it with: deploy/test tools")
	}
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
	w := &walk{t: t, tab: tab, axe: string(axe), pictures: t.ArtifactDir()}
	at := func(path string) string {
		return strings.Replace(d.Info.Private, "127.0.0.1", "localhost", 1) + "/console" + path
	}
	begin := time.Now()

	w.do("sign in", chromedp.Navigate(at("")), chromedp.SendKeys("#key", d.Info.AdminKey+"\r"), chromedp.WaitVisible(".top nav"))

	// 1. A category.
	w.click("Taxonomies")
	w.click("Products of the demo")
	w.do("name the category", chromedp.SetValue("#title", "Snacks"), chromedp.SendKeys("#note", "Crisps, nuts and what goes with a film."))
	w.press("Add the category")
	w.shows("c:products/snacks", "What was bought")
	w.look("1-category")

	// 2. A rule that gives it, with what it would do, then published.
	w.click("A rule that gives it")
	w.do("the condition", chromedp.SetValue("#title", "Bought snacks"), w.set("field.0", "prop.product_category"), w.set("op.0", "contains"),
		w.set("values.0", "SNACK\nCANDY\nCOOKIE\nSOFT DRINK\nCHEESE\nBREAD\nMILK\nYOGURT"), w.changed("values.0"))
	w.until("the text follows the fields", `document.getElementById("text").value.includes("SOFT DRINK")`)
	// As long as the new category is not in force, all that the tree gives may change.
	for there := false; !there; {
		w.press("What would change?")
		w.shows("stored events")
		w.do("read it", chromedp.Evaluate(`document.body.innerText.includes("c:products/snacks")`, &there))
	}
	w.look("2-rule")
	w.press("Publish")
	w.until("the re-fold is done", `document.body.innerText.includes("The new rules are in force")`)
	w.look("3-published")

	// 3. An audience with its live count: as text, then by a block.
	w.do("a new audience", chromedp.Navigate(at("/builder?trait=c:products/snacks")))
	w.do("as text", w.set("text", "c:products/snacks in 60d"), w.changed("text"))
	w.shows("Visitors who had “Snacks” (c:products/snacks) in the last 60 days.") // and with it the count, by itself
	wide := w.number(".answer .figure strong")
	w.do("a block changes", w.set("min.0", "2"), w.set("unit.0", "days"), w.changed("unit.0"))
	w.until("the text follows the block", `document.getElementById("text").value == "c:products/snacks in 60d on 2+ days"`)
	w.shows("Visitors who had “Snacks” (c:products/snacks) in the last 60 days, on at least 2 days.")
	narrow := w.number(".answer .figure strong")
	if !(narrow < wide && narrow >= 50) {
		t.Errorf("%d bought snacks, %d of them on two days", wide, narrow)
	}
	e, err := d.Estimate(ctx, parse(t, "c:products/snacks in 60d on 2+ days"))
	if err != nil || e.Count != uint64(narrow) {
		t.Errorf("the page says %d, the estimate %d, %v", narrow, e.Count, err)
	}
	w.press("And…")
	w.do("a second part", w.set("kind.2", "audience"), w.changed("kind.2"))
	w.until("it asks for an audience", `!!document.getElementById("audience.2")`)
	w.do("which", w.set("audience.2", "grocery-regulars"), w.changed("audience.2"))
	w.until("what each part keeps", `document.querySelectorAll(".clauses tbody tr").length >= 3 && document.getElementById("text").value.includes("audience grocery-regulars")`)
	w.look("4-audience")
	w.do("name it", chromedp.SetValue("#title", "Snacks twice"))
	w.press("Save the audience")
	w.shows("snacks-twice")

	// What it has in common with others, and what its members are like.
	w.click("Overlap with others")
	w.do("choose others", chromedp.Click(`input[name="of"][value="grocery-regulars"]`), chromedp.Click(`input[name="of"][value="produce-30d"]`))
	w.press("Count the overlap")
	w.shows("Each combination", "Each pair", "visitors who may be profiled and counted in insights")
	w.look("overlap")
	w.do("back", chromedp.Navigate(at("/audiences/snacks-twice")))
	w.click("Profile: what they are like")
	w.shows("By category", "When they were seen last", "members in the base")
	w.look("profile")
	w.do("back", chromedp.Navigate(at("/audiences/snacks-twice")))

	// 4. A lookalike of it, built, with its evidence.
	w.click("Extend it: a lookalike")
	w.look("5-lookalike")
	w.do("how far", chromedp.SetValue("#size", "10"))
	w.press("Make the lookalike")
	w.shows("like-snacks-twice")
	w.press("Build all audiences now")
	w.shows("How good the lookalike is", "held-out AUC")
	w.look("6-evidence")

	// 5. Both to a destination.
	w.click("Destinations")
	w.click("Fake DSP one")
	for _, a := range []string{"snacks-twice", "like-snacks-twice"} {
		w.do("choose "+a, chromedp.SetValue("#audience", a))
		w.press("Deliver it too")
		w.until(a+" is in the list", fmt.Sprintf(`!!document.querySelector('main a[href="/console/audiences/%s"]')`, a))
	}
	w.press("Deliver now")
	w.look("7-delivered")
	t.Logf("%d clicks and fields, %s by a machine", w.steps, time.Since(begin).Round(time.Second))

	p := partner{t, d.Info.Partner, d.Info.PartnerKey}
	for _, id := range []string{"snacks-twice", "like-snacks-twice"} {
		found := false
		for _, f := range p.manifest(d.Info.Destination).Files {
			for _, l := range p.lines(f) {
				found = found || strings.Contains(l, "\t"+id+"\t+\t")
			}
		}
		if !found {
			t.Errorf("the destination was not sent %s", id)
		}
	}
	// Who did it stands in the audit log, which holds.
	w.do("the audit log", chromedp.Navigate(at("/audit")))
	w.shows("entries fit together", "snacks-twice", "deliver")
	w.look("8-audit")
}

// walk is a person at the console.
type walk struct {
	t             *testing.T
	tab           context.Context
	axe, pictures string
	steps         int
}

func (w *walk) do(what string, actions ...chromedp.Action) {
	w.t.Helper()
	w.steps += len(actions)
	if err := chromedp.Run(w.tab, actions...); err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
}

// click follows the link of these words, press the button, and both wait for the page
// that comes.
func (w *walk) click(words string) {
	w.t.Helper()
	w.leave(words, "a")
}

func (w *walk) press(words string) {
	w.t.Helper()
	w.leave(words, "button")
}

func (w *walk) leave(words, element string) {
	w.t.Helper()
	w.steps++
	quoted, _ := json.Marshal(words)
	var found bool
	// The page that is left is marked, so that the next one can be told from it; a
	// part that is taken over by htmx loses the mark as well.
	js := fmt.Sprintf(`(() => { const e = [...document.querySelectorAll("%s")].find(e => e.innerText.trim().startsWith(%s)); if (!e) return false;
		document.documentElement.dataset.left = "yes"; const work = document.getElementById("work");
		if (e.hasAttribute("hx-post")) { document.addEventListener("htmx:after:swap", () => delete document.documentElement.dataset.left, {once: true}) }
		e.scrollIntoView({block: "center"}); e.click(); return true })()`, element, quoted)
	if err := chromedp.Run(w.tab, chromedp.Evaluate(js, &found)); err != nil || !found {
		w.t.Fatalf("there is no %s %q: %v", element, words, err)
	}
	w.until(words+" leads somewhere", `document.readyState == "complete" && !document.documentElement.dataset.left`)
}

// set fills a field by its id, which may have dots; changed says so to the page, as a
// person who goes on to the next field does.
func (w *walk) set(id, value string) chromedp.Action {
	v, _ := json.Marshal(value)
	return chromedp.Evaluate(fmt.Sprintf(`document.getElementById(%q).value = %s; 0`, id, v), nil)
}

func (w *walk) changed(id string) chromedp.Action {
	return chromedp.Evaluate(fmt.Sprintf(`document.getElementById(%q).dispatchEvent(new Event("change", {bubbles: true})); 0`, id), nil)
}

// until polls until the page is so.
func (w *walk) until(what, js string) {
	w.t.Helper()
	for end := time.Now().Add(90 * time.Second); ; {
		var so bool
		err := chromedp.Run(w.tab, chromedp.Evaluate(js, &so))
		if err == nil && so {
			return
		}
		_ = chromedp.Run(w.tab, chromedp.Sleep(50*time.Millisecond)) // what fails here fails above
		if time.Now().After(end) {
			var at, text string
			_ = chromedp.Run(w.tab, chromedp.Location(&at), chromedp.Evaluate(`document.body.innerText`, &text))
			w.t.Fatalf("%s: it is not so, %v, at %s:\n%s", what, err, at, text)
		}
	}
}

func (w *walk) shows(words ...string) {
	w.t.Helper()
	for _, s := range words {
		quoted, _ := json.Marshal(s)
		w.until(s, fmt.Sprintf(`document.body.innerText.includes(%s)`, quoted))
	}
}

func (w *walk) number(selector string) (n int) {
	w.t.Helper()
	var text string
	if err := chromedp.Run(w.tab, chromedp.Evaluate(fmt.Sprintf(`document.querySelector(%q)?.innerText || ""`, selector), &text)); err != nil {
		w.t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.ReplaceAll(text, ",", ""))
	if err != nil {
		w.until("a number at "+selector+", which says "+text, "false")
	}
	return n
}

// look takes a picture of the page and holds it to axe-core, in light, dark and 320 px.
func (w *walk) look(name string) {
	w.t.Helper()
	for _, l := range []struct {
		scheme string
		width  int64
	}{{"light", 1280}, {"dark", 1280}, {"light", 320}, {"dark", 320}} {
		var found string
		var wide bool
		var shot []byte
		err := chromedp.Run(w.tab, chromedp.EmulateViewport(l.width, 900),
			emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: l.scheme}}),
			chromedp.Evaluate(w.axe+`;0`, nil),
			chromedp.Evaluate(`document.documentElement.scrollWidth > window.innerWidth`, &wide),
			chromedp.Evaluate(`axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations.map(v => v.id + ": " + v.nodes.map(n => n.target.join(" ")).join(", ")).join("; "))`, &found, awaitPromise),
			chromedp.ActionFunc(func(ctx context.Context) (err error) {
				shot, err = cdppage.CaptureScreenshot().WithCaptureBeyondViewport(true).Do(ctx)
				return err
			}))
		where := fmt.Sprintf("%s-%s-%d", name, l.scheme, l.width)
		if err != nil {
			w.t.Fatalf("%s: %v", where, err)
		}
		if found != "" || wide {
			w.t.Errorf("%s: %s; sideways: %v", where, found, wide)
		}
		if err := os.WriteFile(filepath.Join(w.pictures, where+".png"), shot, 0o644); err != nil {
			w.t.Error(err)
		}
	}
	if err := chromedp.Run(w.tab, chromedp.EmulateViewport(1280, 900)); err != nil {
		w.t.Fatal(err)
	}
}

func parse(t *testing.T, text string) query.Expr {
	t.Helper()
	e, err := query.ParseText(text)
	if err != nil {
		t.Fatal(err)
	}
	return e
}
