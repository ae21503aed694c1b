package console

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// parsePage parses a page as a browser does.
func parsePage(t testing.TB, body string) *html.Node {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func each(n *html.Node, fn func(*html.Node)) {
	for d := range n.Descendants() {
		if d.Type == html.ElementNode {
			fn(d)
		}
	}
}

func attr(n *html.Node, key string) (string, bool) {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val, true
		}
	}
	return "", false
}

func worlds() map[string]*world {
	return map[string]*world{"empty": empty(), "normal": normal(), "hostile": hostile(`"><script>alert(1)</script>`)}
}

func TestEveryPageRendersWhateverItShows(t *testing.T) {
	for name, w := range worlds() {
		s := serve(t, w)
		for _, p := range w.paths() {
			status, body := s.get(t, p)
			want := http.StatusOK
			if strings.HasSuffix(p, "/nothing/here") {
				want = http.StatusNotFound
			}
			if status != want {
				t.Errorf("%s: %s: status %d, want %d", name, p, status, want)
				continue
			}
			contains(t, body, `<html lang="en">`, name+" "+p)
			contains(t, body, "Skip to the page", name+" "+p)
			for _, bad := range []string{"<no value>", "%!", "ZgotmplZ"} {
				if strings.Contains(body, bad) && name != "hostile" {
					t.Errorf("%s: %s: has %q", name, p, bad)
				}
			}
		}
	}
}

// What is structure of the pages: headings, tables with captions, labels,
// nothing inline.
func TestPagesHoldTheRulesOfTheHouse(t *testing.T) {
	for name, w := range worlds() {
		s := serve(t, w)
		paths := append(w.paths(), base+"/login")
		for _, p := range paths {
			_, body := s.get(t, p)
			if p == base+"/login" {
				body = s.anonymous(t, p)
			}
			where := name + " " + p
			ids, level, h1 := map[string]bool{}, 0, 0
			each(parsePage(t, body), func(n *html.Node) {
				switch n.Data {
				case "script":
					if src, _ := attr(n, "src"); !strings.HasPrefix(src, base+"/assets/") || n.FirstChild != nil {
						t.Errorf("%s: a script that is not a file of ours", where)
					}
				case "style", "iframe", "object", "embed", "base":
					t.Errorf("%s: has an element %s", where, n.Data)
				case "table":
					if n.FirstChild == nil || !slices.ContainsFunc(children(n), func(c *html.Node) bool { return c.Data == "caption" }) {
						if !strings.HasPrefix(p, base+"/help/") {
							t.Errorf("%s: a table without a caption", where)
						}
					}
				case "th":
					if _, ok := attr(n, "scope"); !ok {
						t.Errorf("%s: a heading of a table without scope", where)
					}
				case "h1", "h2", "h3", "h4":
					l := int(n.Data[1] - '0')
					if l > level+1 {
						t.Errorf("%s: %s after h%d", where, n.Data, level)
					}
					level = l
					if l == 1 {
						h1++
					}
				case "a":
					href, _ := attr(n, "href")
					if strings.Contains(href, "//") || href == "" {
						t.Errorf("%s: a link to %q", where, href)
					}
				}
				for _, a := range n.Attr {
					if strings.HasPrefix(a.Key, "on") || a.Key == "style" || a.Key == "srcdoc" {
						t.Errorf("%s: %s has %s", where, n.Data, a.Key)
					}
					if a.Key == "id" {
						if ids[a.Val] {
							t.Errorf("%s: id %q twice", where, a.Val)
						}
						ids[a.Val] = true
					}
				}
			})
			if h1 != 1 {
				t.Errorf("%s: %d headings of the first level", where, h1)
			}
		}
	}
}

func children(n *html.Node) (out []*html.Node) {
	for c := range n.ChildNodes() {
		out = append(out, c)
	}
	return out
}

func (s *served) anonymous(t testing.TB, path string) string {
	t.Helper()
	res := s.do(httptest.NewRequest(http.MethodGet, path, nil))
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A hundred payloads in every field that people fill in: not one element or
// attribute more than with a harmless word, and no link that runs.
func TestPayloadsStayText(t *testing.T) {
	all := payloads()
	if len(all) < 100 {
		t.Fatalf("%d payloads, want 100", len(all))
	}
	// Elements with their attributes, sorted: rows are in the order of their
	// words, which differ.
	shape := func(body string) string {
		var all []string
		each(parsePage(t, body), func(n *html.Node) {
			b := n.Data
			for _, a := range n.Attr {
				if a.Key == "href" || a.Key == "src" || a.Key == "action" {
					u, err := url.Parse(a.Val)
					if err != nil || u.Scheme != "" || u.Host != "" {
						t.Errorf("%s=%q", a.Key, a.Val)
					}
				}
				b += " " + a.Key
			}
			all = append(all, b)
		})
		slices.Sort(all)
		return strings.Join(all, "\n")
	}
	// By order: the names of the paths differ with the payload.
	kinds := func(w *world) []string {
		ps := []string{base, base + "/sites", base + "/sites/shop", base + "/sites/shop/inspector", base + "/sites/shop/try", base + "/audiences", base + "/audiences/wine", base + "/audiences/like-regulars",
			base + "/destinations", base + "/destinations/acme", base + "/retention", base + "/retention?receipt=0123456789abcdef0123456789abcdef", base + "/rules", base + "/drafts/rules/wine", base + "/taxonomies/products?draft=1"}
		return append(ps, base+"/retention?receipt="+url.QueryEscape(w.version), base+"/login?next="+url.QueryEscape(w.version))
	}
	w := hostile("harmless")
	s := serve(t, w)
	var want []string
	for _, p := range kinds(w) {
		want = append(want, shape(s.page(t, p)))
	}
	for _, payload := range all {
		*w = *hostile(payload)
		s.c.o.Version = payload
		s.c.kept.m = nil
		for i, p := range kinds(w) {
			body := s.page(t, p)
			if got := shape(body); got != want[i] {
				t.Errorf("payload %q changes the structure of %s", payload, kinds(hostile("P"))[i])
			}
		}
		if t.Failed() {
			return
		}
	}
}

func (s *served) page(t testing.TB, p string) string {
	if strings.HasPrefix(p, base+"/login") {
		return s.anonymous(t, p)
	}
	status, body := s.get(t, p)
	if status != http.StatusOK {
		t.Errorf("%s: status %d", p, status)
	}
	return body
}

func TestLinksLeadSomewhere(t *testing.T) {
	w := normal()
	s := serve(t, w)
	seen := map[string]bool{}
	for _, p := range w.paths() {
		_, body := s.get(t, p)
		each(parsePage(t, body), func(n *html.Node) {
			for _, key := range []string{"href", "src", "action"} {
				target, ok := attr(n, key)
				if !ok || strings.HasPrefix(target, base+"/logout") || seen[p+target] {
					continue
				}
				seen[p+target] = true
				if m, _ := attr(n, "method"); m == "post" {
					ctx := s.e.NewContext(nil, nil)
					if s.e.Router().Find(http.MethodPost, target, ctx); ctx.Path() == "" || strings.HasSuffix(ctx.Path(), "*") {
						t.Errorf("%s has a form for %s, which nobody takes", p, target)
					}
					continue
				}
				u, err := url.Parse(target)
				if err != nil {
					t.Errorf("%s: %s=%q: %v", p, key, target, err)
					continue
				}
				there := body
				if _, is := attr(n, "download"); is && strings.HasPrefix(u.Path, "/api/v1/") {
					continue // the API's, which is not here
				}
				if u.Path != "" {
					var status int
					at := u.Path
					if u.Query().Has("draft") { // the draft's page, of what need not be published
						at += "?" + u.RawQuery
					}
					if status, there = s.status(t, at); status != http.StatusOK && !(u.Path == base+"/audiences/gone") {
						t.Errorf("%s links to %s, which answers %d", p, target, status)
					}
				}
				if u.Fragment != "" && !strings.Contains(there, `id="`+u.Fragment+`"`) {
					t.Errorf("%s links to %s, and there is no such place", p, target)
				}
			}
		})
	}
	if len(seen) < 100 {
		t.Errorf("only %d links were looked at", len(seen))
	}
}

func (s *served) status(t testing.TB, path string) (int, string) {
	value, err := s.c.sessions.make(adminKey)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.AddCookie(&http.Cookie{Name: CookieName, Value: value})
	res := s.do(r)
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// Below the floor no number can be told from a page, not even from changes (P7).
func TestSmallAudiencesAreShownAsFewerThanFifty(t *testing.T) {
	for _, c := range []struct {
		count, added, removed     uint64
		shown, addShown, remShown string
	}{
		{50, 10, 5, "50", hidden, hidden}, // was 45
		{50, 0, 0, "50", "+0", "−0"},
		{49, 0, 10, "<50", hidden, hidden},
		{0, 0, 0, "<50", hidden, hidden},
		{1200, 1200, 0, "1,200", "+1,200", "−0"}, // the first generation
		{1200, 30, 12, "1,200", "+30", "−12"},
	} {
		v := newEntryView(&audience.Generation{}, audience.Entry{Count: c.count, Added: c.added, Removed: c.removed})
		if v.Shown != c.shown || v.Added != c.addShown || v.Removed != c.remShown {
			t.Errorf("%d +%d −%d: shown as %q %q %q, want %q %q %q", c.count, c.added, c.removed, v.Shown, v.Added, v.Removed, c.shown, c.addShown, c.remShown)
		}
	}
	w := normal()
	s := serve(t, w)
	for _, p := range []string{base, base + "/audiences", base + "/audiences/tiny", base + "/destinations/acme"} {
		_, body := s.get(t, p)
		contains(t, body, "&lt;50", p)
		if regexp.MustCompile(`>1[3-7]<`).MatchString(body) {
			t.Errorf("%s tells the size of an audience of 17", p)
		}
	}
	if a, b := newSpark([]uint64{3, 900}), newSpark([]uint64{40, 900}); a.Line != b.Line {
		t.Error("the line of an audience below the floor tells its size")
	}
}

// With a low floor a delivery's numbers would be the size of an audience.
func TestFewMembershipsAreNotTold(t *testing.T) {
	for _, c := range []struct {
		held, allowed, adds, removes uint64
		holds, share, plus           string
	}{
		{49, 49, 49, 0, "<50", hidden, hidden},
		{60, 60, 15, 0, "60", "100 %", hidden}, // held 45 before
		{60, 80, 60, 0, "60", "75.0 %", "60"},  // a first full
		{60, 80, 3, 5, "60", "75.0 %", "3"},
	} {
		r := newRunRow(delivery.Delivery{Held: c.held, Allowed: c.allowed, Rows: c.adds + c.removes, Adds: c.adds, Removes: c.removes})
		if r.Holds != c.holds || r.Share != c.share || r.Plus != c.plus {
			t.Errorf("%+v: %q %q %q", c, r.Holds, r.Share, r.Plus)
		}
	}
	w := normal()
	for i := range w.runs["acme"] {
		d := &w.runs["acme"][i]
		d.Held, d.Allowed, d.Rows, d.Adds, d.Removes = 37, 37, 37, 37, 37
	}
	m := w.manifests["acme"]
	for i := range m.Files {
		m.Files[i].Rows = 37
	}
	s := serve(t, w)
	for _, p := range []string{base + "/destinations", base + "/destinations/acme"} {
		if _, body := s.get(t, p); strings.Contains(body, ">37<") {
			t.Errorf("%s tells how many of an audience of 37", p)
		}
	}
}

func TestOverviewPutsWhatIsWrongFirst(t *testing.T) {
	w := normal()
	a := w.accounts["magazine"]
	a.Stored++
	w.accounts["magazine"] = a
	w.nights[0].Error = "sweep events: no room"
	s := serve(t, w)
	_, body := s.get(t, base)
	for _, want := range []string{
		"12 records of the log are damaged", "Audience broken could not be built and is empty", "Accounts do not add up", "Of magazine:",
		"Something in keyed is older than it may be", "97 days ago; the bound is 90 days", "Destination north has no key", "The last nightly pass did not do everything",
	} {
		contains(t, body, want, "the overview")
	}
	if strings.Index(body, "things to look at") > strings.Index(body, "Events stored") {
		t.Error("the problems do not come first")
	}
	w = empty()
	_, body = serve(t, w).get(t, base)
	if strings.Contains(body, "to look at") {
		t.Error("an empty installation has problems")
	}
	w = normal()
	w.now += 2 * taxonomy.OneDay
	_, body = serve(t, w).get(t, base)
	contains(t, body, "Audiences were last built 2 days ago", "the overview")
}

// A part that cannot be read is a problem on the overview, and an error page
// elsewhere, which tells nobody outside what the error was.
func TestOverviewSurvivesWhatFails(t *testing.T) {
	w := normal()
	w.fail = errors.New("disk of the secret host is on fire")
	s := serve(t, w)
	status, body := s.get(t, base)
	if status != http.StatusOK {
		t.Errorf("status %d", status)
	}
	for _, want := range []string{"The generations could not be read", "The accounts could not be read", "The deliveries could not be read"} {
		contains(t, body, want, "the overview")
	}
	for _, p := range []string{base, base + "/sites", base + "/audiences", base + "/destinations"} {
		status, body := s.get(t, p)
		if strings.Contains(body, "secret") {
			t.Errorf("%s tells the error", p)
		}
		if p != base && status != http.StatusInternalServerError {
			t.Errorf("%s: status %d", p, status)
		}
	}
}

// A generation that is damaged is left out of the line; the newest is not.
func TestDamagedOldGenerationIsLeftOut(t *testing.T) {
	w := normal()
	s := serve(t, w)
	full := s.c.o.Generations
	s.c.o.Generations = damaged{full, 410}
	if status, _ := s.get(t, base+"/audiences"); status != http.StatusOK {
		t.Errorf("an old damaged generation: status %d", status)
	}
	s = serve(t, w)
	s.c.o.Generations = damaged{full, 414}
	if status, _ := s.get(t, base+"/audiences"); status != http.StatusInternalServerError {
		t.Errorf("the newest generation is damaged: status %d", status)
	}
}

type damaged struct {
	Generations
	number uint64
}

func (d damaged) Open(ctx ctx, r audience.Ref) (*audience.Generation, error) {
	if r.Number == d.number {
		return nil, fmt.Errorf("read: %w", retention.ErrCorrupt)
	}
	return d.Generations.Open(ctx, r)
}

func TestRulesReadAsSentences(t *testing.T) {
	s := serve(t, normal())
	say := func(c clause) string {
		var f func(c clause) string
		f = func(c clause) string {
			out := strings.Join(strings.Fields(c.Lead+" "+c.Title+" "+c.Code+" "+c.Rest), " ")
			if len(c.Of) > 0 {
				var of []string
				for _, k := range c.Of {
					of = append(of, f(k))
				}
				out += " (" + strings.Join(of, "; ") + ")"
			}
			return out
		}
		return f(c)
	}
	for in, want := range map[string]string{
		`{"any":true}`:                                                       "had any event in the last 90 days",
		`{"trait":"c:products/pets"}`:                                        "had Pets c:products/pets in the last 90 days",
		`{"trait":"c:a/b","window":"1d","min":2}`:                            "had c:a/b today, at least 2 times",
		`{"trait":"c:a/b","min":2,"max":2}`:                                  "had c:a/b in the last 90 days, exactly 2 times",
		`{"trait":"c:a/b","min":0,"max":3}`:                                  "had c:a/b in the last 90 days, at most 3 times",
		`{"trait":"c:a/b","min":1,"max":1}`:                                  "had c:a/b in the last 90 days, exactly once",
		`{"trait":"c:a/b","min":2,"max":5}`:                                  "had c:a/b in the last 90 days, 2 to 5 times",
		`{"trait":"c:a/b","min":3,"unit":"days"}`:                            "had c:a/b in the last 90 days, on at least 3 days",
		`{"trait":"c:a/b","min":1,"unit":"days"}`:                            "had c:a/b in the last 90 days, on at least 1 day",
		`{"trait":"c:a/b","sources":["x","y"]}`:                              "had c:a/b in the last 90 days, counting only x or y",
		`{"attribute":"age","in":["18-24","25-34"]}`:                         "has age 18-24 or 25-34",
		`{"list":"crm"}`:                                                     "is on the list crm",
		`{"audience":"x"}`:                                                   "is in the audience x",
		`{"or":[{"list":"a"},{"not":{"list":"b"}}]}`:                         "matches at least one of these (is on the list a; does not match (is on the list b))",
		`{"and":[{"list":"a"},{"list":"b"}]}`:                                "matches all of these (is on the list a; is on the list b)",
		`{"trait":"c:a/b","last_seen":{"min_days":3,"max_days":9}}`:          "had c:a/b in the last 90 days, last seen 3 to 9 days ago",
		`{"trait":"c:a/b","last_seen":{"min_days":0,"max_days":0}}`:          "had c:a/b in the last 90 days, last seen today",
		`{"trait":"c:a/b","window":{"from":"2026-10-01","to":"2026-10-31"}}`: "had c:a/b from 2026-10-01 to 2026-10-31",
	} {
		e, err := query.Parse([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got := say(s.c.explain(e)); got != want {
			t.Errorf("%s\n  says %q\n  want %q", in, got, want)
		}
	}
}

func TestNumbersReadWell(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{number(0), "0"}, {number(999), "999"}, {number(1000), "1,000"}, {number(uint64(1234567)), "1,234,567"}, {number(-1234), "−1,234"},
		{shown(49), "<50"}, {shown(50), "50"}, {size(0), "0 B"}, {size(999), "999 B"}, {size(1000), "1 kB"}, {size(12345), "12.3 kB"}, {size(999_600), "1 MB"},
		{percent(0, 0), "–"}, {percent(0, 10), "0.0 %"}, {percent(1, 1_000_000), "<0.1 %"}, {percent(999_999, 1_000_000), ">99.9 %"}, {percent(5, 5), "100 %"}, {percent(1, 8), "12.5 %"},
		{period(delivery.Period(time.Hour)), "1h"}, {period(delivery.Period(90 * time.Minute)), "1h30m"}, {period(delivery.Period(10 * time.Minute)), "10m"}, {period(delivery.Period(90 * time.Second)), "1m30s"},
		{plural(1, "day"), "1 day"}, {plural(2, "day"), "2 days"}, {plural(3, "category"), "3 categories"}, {plural(0, "thing"), "0 things"},
		{ago(100_000, 99_999), "just now"}, {ago(taxonomy.Hour, 0), "1 hour ago"}, {ago(3*taxonomy.OneDay+5, 0), "3 days ago"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

// The parts of a bar fill it, and none that is there is too small to see.
func TestBarShowsEveryPart(t *testing.T) {
	b := newBar(barPart{Name: "many", N: 1 << 40}, barPart{Name: "one", N: 1}, barPart{Name: "none"})
	var end float64
	for i, p := range b.Parts {
		var x, w float64
		if _, err := fmt.Sscan(p.X, &x); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscan(p.W, &w); err != nil {
			t.Fatal(err)
		}
		if x != end || (p.N > 0) != (w >= barLeast) {
			t.Errorf("part %d: x %v, w %v", i, x, w)
		}
		end += w
	}
	if end < barWide-0.2 || end > barWide+0.2 {
		t.Errorf("the parts end at %v of %v", end, barWide)
	}
	if b.Label != "1,099,511,627,776 many, 1 one" {
		t.Errorf("label %q", b.Label)
	}
}

func TestReceiptsAreLookedUp(t *testing.T) {
	s := serve(t, normal())
	for q, want := range map[string]string{
		"0123456789abcdef0123456789abcdef":      "No byte after",
		"%20 0123456789ABCDEF0123456789abcdef ": "No byte after",
		"ffffffffffffffffffffffffffffffff":      "There is no such receipt",
		"hello":                                 "A receipt has 32 digits",
	} {
		status, body := s.get(t, base+"/retention?receipt="+strings.ReplaceAll(q, " ", "%20"))
		if status != http.StatusOK {
			t.Errorf("%q: status %d", q, status)
		}
		contains(t, body, want, q)
	}
}

// The structure of the pages, element by element with classes: a change of it is
// a visible line. `go test -run Structure -update` writes it anew.
func TestStructureOfPages(t *testing.T) {
	s := serve(t, normal())
	var b strings.Builder
	for _, p := range []string{base, base + "/sites", base + "/sites/shop", base + "/audiences", base + "/audiences/like-regulars", base + "/destinations", base + "/destinations/acme", base + "/retention", base + "/help"} {
		_, body := s.get(t, p)
		fmt.Fprintf(&b, "%s\n", p)
		each(parsePage(t, body), func(n *html.Node) {
			switch n.Data {
			case "h1", "h2", "h3", "caption":
				fmt.Fprintf(&b, "  %s %s\n", n.Data, words(n))
			}
		})
	}
	const golden = "testdata/structure.golden"
	if *update {
		if err := os.WriteFile(filepath.FromSlash(golden), []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(filepath.FromSlash(golden))
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("the structure changed; if it was meant, run again with -update. Got:\n%s", b.String())
	}
}

func words(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}
