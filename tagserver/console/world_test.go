package console

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/lookalike"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

const adminKey = "ebba_test-key-of-the-admin"

// world is everything that the console shows, as plain values, behind the real
// routes and the console's own guard.
type world struct {
	now          taxonomy.Millis
	sites        []taxonomy.Site
	sources      []taxonomy.Source
	audiences    []audience.Versioned
	destinations []delivery.Destination
	gens         []*audience.Generation // newest first
	runs         map[taxonomy.DestinationID][]delivery.Delivery
	manifests    map[taxonomy.DestinationID]delivery.Manifest
	accounts     map[taxonomy.SiteID]Account
	refusals     map[taxonomy.SiteID][]tagserver.Refusal
	report       forget.Report
	receipts     map[string]forget.Receipt
	problems     []Problem
	working      []Work
	nights       []Night
	visitors     uint64
	version      string
	titles       map[taxonomy.Trait]string
	taxonomies   []tree.Taxonomy
	rules        []rules.Rule
	drafts       []*fakeDraft
	keys         []keyDoc
	trail        []entryDoc
	broken       []map[string]any
	asked        []string // of the API, what changes something
	fail         error    // of everything that may fail
}

func (w *world) Sites() []taxonomy.Site               { return w.sites }
func (w *world) Sources() []taxonomy.Source           { return w.sources }
func (w *world) Audiences() *audience.Catalog         { return audience.NewCatalog(w.audiences) }
func (w *world) Destinations() []delivery.Destination { return w.destinations }

func (w *world) List(context.Context) ([]audience.Ref, error) {
	var refs []audience.Ref
	for _, g := range w.gens {
		refs = append(refs, audience.Ref{Epoch: g.Epoch, Number: g.Number, SHA256: fmt.Sprint(g.Number)})
	}
	return refs, w.fail
}

func (w *world) Open(_ context.Context, r audience.Ref) (*audience.Generation, error) {
	for _, g := range w.gens {
		if g.Number == r.Number {
			return g, w.fail
		}
	}
	return nil, retention.ErrNotFound
}

func (w *world) Deliveries(_ context.Context, d taxonomy.DestinationID) ([]delivery.Delivery, error) {
	return w.runs[d], w.fail
}

func (w *world) Standing(context.Context, taxonomy.DestinationID) (delivery.Standing, error) {
	return delivery.Standing{Hold: &delivery.Hold{At: w.now, Generation: 41, Changed: 4_000, Of: 10_000}, Backlog: 2, Removals: 3, Letters: []delivery.Letter{{At: w.now, Name: "part-7", Rows: 900, Fault: "the receiver answered 400"}}, Kept: []string{"000040-0-403-delta.tsv.gz"}}, nil
}
func (w *world) Manifest(_ context.Context, d taxonomy.DestinationID) (delivery.Manifest, error) {
	return w.manifests[d], w.fail
}

// source is a reader of bytes that repeat with the test.
type source struct{ r *rand.ChaCha8 }

func (s source) Read(b []byte) (int, error) { return s.r.Read(b) }

func seeded() io.Reader { return source{rand.NewChaCha8([32]byte{1})} }

func (w *world) options() Options {
	return Options{
		Now: func() taxonomy.Millis { return w.now }, Rand: seeded(),
		Who:         whoIs,
		Definitions: w, Generations: w, Deliveries: w,
		Accounts: func(context.Context) (map[taxonomy.SiteID]Account, error) { return w.accounts, w.fail },
		Refusals: func(id taxonomy.SiteID) []tagserver.Refusal { return w.refusals[id] },
		Explain:  w.explain, Permits: w.permits, Signals: w.signalled,
		Inspect: w.inspect, Waterfall: w.fallen,
		Rehearse: func() tagserver.Rehearsal { return w.rehearse },
		Audit:    func(context.Context) forget.Report { return w.report },
		Receipt: func(_ context.Context, id string) (forget.Receipt, error) {
			r, ok := w.receipts[id]
			if !ok {
				return r, fmt.Errorf("get: %w", retention.ErrNotFound)
			}
			return r, nil
		},
		Public:   func() string { return "http://localhost:8080" },
		Partner:  func() string { return "http://127.0.0.1:8081" },
		Visitors: func() uint64 { return w.visitors },
		Problems: func(context.Context) []Problem { return w.problems },
		Nights:   func(context.Context) []Night { return w.nights },
		Working:  func(context.Context) []Work { return w.working },
		API:      func() http.Handler { return w.api() },
		Reach:    w.reach, Forest: w.forest,
		Title:   func(t taxonomy.Trait) string { return w.titles[t] },
		Version: w.version,
	}
}

// served is a console behind a router as the edge builds it.
type served struct {
	c *Console
	e *echo.Echo
}

func serve(t testing.TB, w *world) *served {
	t.Helper()
	c, err := New(w.options())
	if err != nil {
		t.Fatal(err)
	}
	e := echo.New()
	e.HTTPErrorHandler = func(err error, ctx echo.Context) {
		p, ok := err.(*tagserver.Problem)
		if !ok {
			p = tagserver.NewProblem(http.StatusInternalServerError, "internal", err.Error())
			if he, ok := err.(*echo.HTTPError); ok {
				p = tagserver.NewProblem(he.Code, "echo", "")
			}
		}
		_ = ctx.JSON(p.Status, p)
	}
	guard := c.Guard()
	for _, r := range c.Routes() {
		if r.Listener != tagserver.Private {
			t.Fatalf("%s %s is not on the private listener", r.Method, r.Path)
		}
		h := r.Handler
		if r.Auth == tagserver.AuthAdmin {
			h = guard(h)
		}
		e.Add(r.Method, r.Path, h)
	}
	return &served{c, e}
}

func (s *served) do(r *http.Request) *http.Response {
	rec := httptest.NewRecorder()
	s.e.ServeHTTP(rec, r)
	return rec.Result()
}

// get asks for a page as who is signed in.
func (s *served) get(t testing.TB, path string) (int, string) {
	t.Helper()
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
	if got := res.Header.Get("Content-Security-Policy"); got != policyOf(path) {
		t.Errorf("%s: policy %q", path, got)
	}
	return res.StatusCode, string(b)
}

// paths are all pages that a world has.
func (w *world) paths() []string {
	out := []string{base, base + "/sites", base + "/audiences", base + "/destinations", base + "/consent", base + "/consent?string=" + url.QueryEscape(fullConsent) + "&audience=regulars", base + "/retention", base + "/help", base + "/nothing/here"}
	seg := func(s string) string { return url.PathEscape(s) }
	for _, s := range w.sites {
		own := base + "/sites/" + seg(string(s.ID))
		out = append(out, own, own+"/inspector")
		if s.ID == "shop" {
			out = append(out, own+"/try")
		}
	}
	for _, id := range slices.Sorted(maps.Keys(w.accounts)) {
		if p := base + "/sites/" + seg(string(id)); id != "" && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	out = append(out, base+"/builder", base+"/taxonomies", base+"/rules", base+"/editor", base+"/operations", base+"/access", base+"/audit")
	for _, t := range w.taxonomies {
		out = append(out, base+"/taxonomies/"+seg(t.ID))
		for _, k := range t.Categories[:min(2, len(t.Categories))] {
			out = append(out, base+"/taxonomies/"+seg(t.ID)+"/"+seg(k.ID))
		}
	}
	for i, a := range w.audiences {
		if i < 2 {
			out = append(out, base+"/versions/audiences/"+seg(string(a.ID)))
		}
	}
	out = append(out, base+"/overlap")
	if len(w.audiences) > 2 {
		q := url.Values{"of": {string(w.audiences[0].ID), string(w.audiences[2].ID)}, "categories": {"c:products/wine"}, "day": {"2026-11-20"}}
		out = append(out, base+"/overlap?"+q.Encode())
	}
	for _, r := range w.rules {
		out = append(out, base+"/editor/"+seg(r.ID))
	}
	if len(w.rules) > 0 {
		out = append(out, base+"/operations/refold-2", base+"/operations/refold-1")
	}
	out = append(out, w.draftPages()...)
	for i, a := range w.audiences {
		out = append(out, base+"/audiences/"+seg(string(a.ID)))
		if i >= 2 {
			continue // the forms are the same for all
		}
		out = append(out, base+"/audiences/"+seg(string(a.ID))+"/profile")
		out = append(out, base+"/extend/"+seg(string(a.ID)))
		if a.Kind == audience.KindRule {
			out = append(out, base+"/builder/"+seg(string(a.ID)))
		}
	}
	for _, d := range w.destinations {
		out = append(out, base+"/destinations/"+seg(string(d.ID)))
	}
	for id := range w.receipts {
		out = append(out, base+"/retention?receipt="+id)
	}
	for _, h := range helpOrder {
		out = append(out, base+"/help/"+h)
	}
	return out
}

func empty() *world {
	now := taxonomy.MillisOf(time.Date(2026, 11, 25, 12, 7, 30, 0, time.UTC))
	return &world{now: now, report: forget.Report{At: now, OK: true, Places: []forget.Place{}}}
}

func rule(s string) json.RawMessage { return json.RawMessage(s) }

// normal is an installation on a usual day, with a little of everything, also of
// what is wrong.
func normal() *world {
	w := empty()
	today := w.now.Day()
	day := func(back int) *taxonomy.Day { d := today - taxonomy.Day(back); return &d }
	w.version, w.visitors = "0.1.0", 182_340
	w.sources = []taxonomy.Source{{ID: "web", Title: "Our sites", Party: 1}, {ID: "crm", Title: "CRM", Party: 1, Agreement: &taxonomy.Agreement{Uses: []string{"store", "profile"}}}}
	w.sites = []taxonomy.Site{
		{ID: "shop", Title: "Shop", Source: "web", Consent: taxonomy.ModeOptIn, Origins: []string{"https://www.shop.example", "https://m.shop.example"}, QueryKeys: []string{"utm_source", "q"}},
		{ID: "magazine", Title: "Magazine", Source: "web", Consent: taxonomy.ModeByCountry, Origins: []string{"https://magazine.example"}},
	}
	w.accounts = map[taxonomy.SiteID]Account{
		"shop": {Received: 1_284_031, Stored: 1_170_322, Duplicate: 18_204, Queued: 5_301,
			Rejected: map[taxonomy.Reason]uint64{taxonomy.ReasonMalformed: 112, taxonomy.ReasonTooOld: 1_530, taxonomy.ReasonPII: 42, taxonomy.ReasonWrongOrigin: 10},
			Dropped:  map[taxonomy.Reason]uint64{taxonomy.ReasonConsent: 76_311, taxonomy.ReasonNotAdopted: 12_199}},
		"magazine":   {Received: 402_118, Stored: 401_000, Duplicate: 1_100, Queued: 18},
		"import.crm": {Received: 75_000, Stored: 18_638, Rejected: map[taxonomy.Reason]uint64{taxonomy.ReasonTooOld: 56_362}},
		"":           {Received: 31, Rejected: map[taxonomy.Reason]uint64{taxonomy.ReasonUnknownSite: 29, taxonomy.ReasonMalformed: 2}},
	}
	w.refusals = map[taxonomy.SiteID][]tagserver.Refusal{
		"shop": {
			{At: w.now - 90*taxonomy.Second, Code: "pii", Where: "body.events[0].url", Why: "looks like an e-mail address; leave it out", Sample: "aaaa.aaaaaa@aaaaaaa.aaaaaaa"},
			{At: w.now - 7*taxonomy.Minute, Code: "consent", Where: "header.Sec-GPC", Why: "the browser sends Global Privacy Control"},
			{At: w.now - 11*taxonomy.Minute, Code: "malformed", Where: "body.events[2].t", Why: "is no number of milliseconds", Sample: "0000-00-00"},
		},
		"": {{At: w.now - taxonomy.Hour, Code: "unknown_site", Where: "body.site", Why: "there is no such site", Sample: "aaaa-aaaa"}},
	}
	w.taxonomies = []tree.Taxonomy{{ID: "products", Title: "Products", Categories: []tree.Category{
		{ID: "food", Title: "Food"}, {ID: "grocery", Title: "Grocery", Parents: []string{"food"}}, {ID: "pastry", Title: "Pastry", Parents: []string{"food"}, Merged: []string{"cakes"}},
		{ID: "wine", Title: "Wine & spirits", Parents: []string{"food"}, Sensitive: true, Note: "What the law calls alcohol."}, {ID: "pets", Title: "Pets"}}}}
	w.keys = []keyDoc{{ID: "admin", Role: "admin", Used: "2026-11-25"}, {ID: "ci", Title: "CI", Role: "operator", Scopes: []string{"audiences:read"}, Sources: []string{"web"}, Destinations: []string{"acme"}, Ends: "2027-01-01"}}
	link := func(seq uint64, what, kind, object string, before, after, of uint64) entryDoc {
		return entryDoc{Seq: seq, At: w.now.Time(), Who: "admin", What: what, Kind: kind, Object: object, Before: before, After: after, Of: of, Hash: strings.Repeat("4c1d", 16)}
	}
	w.trail = []entryDoc{link(3, "failed", "destination", "acme", 0, 0, 2), link(2, "deliver", "destination", "acme", 0, 0, 0), link(1, "change", "audience", "grocery-regulars", 2, 3, 0)}
	least := 20.0
	defer func() { w.drafts = w.someDrafts() }()
	w.rules = []rules.Rule{{ID: "wine", Title: "Wine by the path", When: []rules.Condition{{Field: "path", Op: "prefix", Values: []string{"/wine", "/wein"}}, {Field: "prop.price", Op: "range", Min: &least}}, Then: []string{"c:products/wine", "k:brand={brand}"}},
		{ID: "departments", Sites: []taxonomy.SiteID{"shop"}, Then: []string{"c:products/{department}"}}}
	w.titles = map[taxonomy.Trait]string{"c:products/grocery": "Grocery", "c:products/pastry": "Pastry", "c:products/wine": "Wine & spirits", "c:products/pets": "Pets"}
	add := func(id, title, r string, page bool) {
		w.audiences = append(w.audiences, audience.Versioned{Version: 3, Definition: audience.Definition{ID: taxonomy.AudienceID(id), Title: title, Kind: audience.KindRule, Rule: rule(r), Page: page}})
	}
	add("grocery-regulars", "Grocery regulars", `{"and":[{"trait":"c:products/grocery","window":"30d","min":3,"unit":"days","last_seen":{"min_days":0,"max_days":6}},{"or":[{"trait":"c:products/pastry"},{"trait":"c:products/wine","window":{"from":"2026-10-01","to":"2026-10-31"},"min":1,"max":4}]},{"not":{"attribute":"age","in":["18-24","25-34"]}},{"not":{"audience":"pet-owners"}}]}`, true)
	w.audiences[0].Description = "Came for groceries on three days or more of the last month, and this week."
	add("lapsed", "Lapsed customers", `{"and":[{"any":true},{"not":{"trait":"c:products/grocery","window":"14d"}}]}`, false)
	add("pet-owners", "Pet owners", `{"trait":"c:products/pets","window":"60d","min":2}`, true)
	add("wine", "Wine, five times or more", `{"trait":"c:products/wine","min":5,"sources":["web"]}`, false)
	add("tiny", "Truffle buyers", `{"trait":"c:products/pastry","min":200}`, false)
	add("broken", "Winter sale", `{"list":"sale"}`, false)
	w.audiences = append(w.audiences,
		audience.Versioned{Version: 1, Definition: audience.Definition{ID: "vip", Title: "VIP list", Kind: audience.KindUpload, List: "vip"}},
		audience.Versioned{Version: 2, Definition: audience.Definition{ID: "like-regulars", Title: "Like grocery regulars", Kind: audience.KindLookalike,
			Lookalike: &audience.LookalikeSpec{Seed: "grocery-regulars", Size: 20_000, Exclude: []taxonomy.Trait{"c:products/grocery"}}}})
	detail, err := json.Marshal(lookalike.Detail{Verdict: "usable", Says: "Its best hundredth has six times as many members as chance.",
		AUC: 0.781, AUCLow: 0.752, AUCHigh: 0.81, ActivityAUC: 0.641, Seed: 4_210, Learnt: 4_100, Population: 180_000, Traits: 312,
		Curve: []lookalike.Reach{{Size: 1_800, Share: 0.01, Recall: 0.061, Lift: 6.1, LiftLow: 5.2, LiftHigh: 7}, {Size: 9_000, Share: 0.05, Recall: 0.204, Lift: 4.1, LiftLow: 3.8, LiftHigh: 4.4}, {Size: 18_000, Share: 0.1, Recall: 0.331, Lift: 3.3, LiftLow: 3.1, LiftHigh: 3.5}},
		For: []lookalike.Driver{{Trait: "c:products/pastry", Weight: 0.8, Part: 0.41, Seed: 0.62, All: 0.2, Index: 310, Says: "three times"},
			{Trait: "c:products/wine", Weight: 0.4, Part: 0.22, Seed: 0.31, All: 0.17, Index: 182.4, Says: "twice"}},
		Against: []lookalike.Driver{{Trait: "c:products/pets", Weight: -0.2, Part: 0.3, Seed: 0.04, All: 0.12, Index: 33.3, Says: "a third"}}})
	if err != nil {
		panic(err)
	}
	base := map[taxonomy.AudienceID]float64{"grocery-regulars": 4_210, "lapsed": 61_233, "pet-owners": 9_120, "wine": 2_480, "tiny": 17, "broken": 0, "vip": 1_208, "like-regulars": 20_000}
	r := rand.New(rand.NewPCG(3, 4))
	counts := map[taxonomy.AudienceID]float64{}
	for i := range 14 {
		g := &audience.Generation{Number: uint64(401 + i), Term: 1, Built: w.now - taxonomy.Millis(13-i)*taxonomy.Hour - 4*taxonomy.Minute, Shards: 1,
			Position: retention.Position{{1}: uint64(100 * i)}}
		g.Clock = g.Built - 3*taxonomy.Second
		for _, a := range w.audiences {
			was := counts[a.ID]
			is := base[a.ID] * (0.8 + 0.2*float64(i)/13 + 0.03*r.Float64())
			if a.Kind == audience.KindLookalike {
				is = base[a.ID]
			}
			counts[a.ID] = is
			churn := uint64(is / 100)
			e := audience.Entry{ID: a.ID, Version: a.Version, Count: uint64(is), Removed: churn, Added: churn + uint64(is) - min(uint64(is), uint64(was))}
			if uint64(is) < uint64(was) {
				e.Added, e.Removed = churn, churn+uint64(was)-uint64(is)
			}
			switch a.ID {
			case "like-regulars":
				e.Evidence = &audience.Evidence{Seed: 4_100, AUC: 0.781, Detail: detail}
			case "broken":
				e.Fault = `list "sale" has never been stated`
			}
			g.Audiences = append(g.Audiences, e)
		}
		w.gens = append([]*audience.Generation{g}, w.gens...)
	}
	hash := strings.Repeat("3fa91c07be", 7)[:64]
	w.destinations = []delivery.Destination{
		{ID: "acme", Title: "Acme DSP", Audiences: []taxonomy.AudienceID{"grocery-regulars", "like-regulars", "tiny", "gone"}, Floor: 100, KeyHash: hash, SyncURL: "https://acme.example/sync?id=${EBB_ID}"},
		{ID: "north", Title: "North", IDs: delivery.ByMatch, Audiences: []taxonomy.AudienceID{"lapsed"}},
	}
	w.runs, w.manifests = map[taxonomy.DestinationID][]delivery.Delivery{}, map[taxonomy.DestinationID]delivery.Manifest{}
	for i := range 12 {
		d := delivery.Delivery{Destination: "acme", Generation: uint64(403 + i), At: w.now - taxonomy.Millis(11-i)*taxonomy.Hour - 2*taxonomy.Minute, Result: delivery.ResultDelta,
			File: fmt.Sprintf("%06d-0-%d-delta.tsv.gz", 40+i, 403+i), Rows: uint64(180 + 7*i), Adds: uint64(120 + 5*i), Removes: uint64(60 + 2*i), Bytes: int64(9_120 + 400*i), SHA256: hash,
			Held: 20_408, Allowed: 24_210, Floored: []taxonomy.AudienceID{"tiny"}}
		switch i {
		case 4:
			d.Result, d.Why, d.Rows, d.Adds, d.Removes, d.Bytes = delivery.ResultFull, "a file was withdrawn", 20_408, 20_408, 0, 812_334
		case 7:
			d.Result, d.File, d.SHA256, d.Rows, d.Adds, d.Removes, d.Bytes = delivery.ResultSame, "", "", 0, 0, 0, 0
		}
		w.runs["acme"] = append(w.runs["acme"], d)
	}
	w.manifests["acme"] = delivery.Manifest{Destination: "acme", Generation: 414, AsOf: w.now.Time(), Files: []delivery.ManifestFile{
		{Name: "000044-0-407-full.tsv.gz", Kind: delivery.Full, Generation: 407, Rows: 20_408, Bytes: 812_334, SHA256: hash, Created: (w.now - 7*taxonomy.Hour).Time(), Expires: (w.now + 13*taxonomy.OneDay).Time()},
		{Name: "000045-0-408-delta.tsv.gz", Kind: delivery.Delta, Base: 407, Generation: 408, Rows: 215, Bytes: 11_120, SHA256: hash, Created: (w.now - 6*taxonomy.Hour).Time(), Expires: (w.now + 13*taxonomy.OneDay).Time()},
	}}
	w.report.Places = []forget.Place{
		{Name: "delivery", Oldest: day(13), Age: 13, Bound: 104, OK: true}, {Name: "generations", Oldest: day(88), Age: 88, Bound: 105, OK: true},
		{Name: "fold", Oldest: day(89), Age: 89, Bound: 92, OK: true}, {Name: "log", Oldest: day(0), Age: 0, Bound: 8, OK: true},
		{Name: "events", Oldest: day(89), Age: 89, Bound: 90, OK: true}, {Name: "eraser's queue", Bound: 5, OK: true},
		{Name: "keyed", Oldest: day(97), Age: 97, Bound: 90},
	}
	w.report.OK = false
	w.problems = []Problem{{At: w.now - 5*taxonomy.Hour, Title: "12 records of the log are damaged", Detail: "Of site shop; put aside as quarantine/0007.", Next: "Look at the disk. The rest goes on."}}
	w.nights = []Night{{At: today.Start() + 3*taxonomy.Hour, Took: 1800, Erased: 4}, {At: today.Start() - 21*taxonomy.Hour, Took: 2300, Erased: 1}}
	w.receipts = map[string]forget.Receipt{"0123456789abcdef0123456789abcdef": {ID: "0123456789abcdef0123456789abcdef", Space: "cookie", At: w.now - 30*taxonomy.Hour,
		Soon: w.now - 30*taxonomy.Hour + 900, Nights: []taxonomy.Millis{today.Start() + 3*taxonomy.Hour}, Places: []string{"delivery", "generations", "fold", "events", "keyed"}, Bound: today + 3}}
	return w
}

// payloads are a hundred ways to bring script into a page.
func payloads() []string {
	out := []string{
		`<script>alert(1)</script>`, `"><script>alert(1)</script>`, `'><script>alert(1)</script>`, `</title><script>alert(1)</script>`, `</textarea><script>alert(1)</script>`,
		`</style><script>alert(1)</script>`, `--><script>alert(1)</script>`, `]]><script>alert(1)</script>`, `</svg><script>alert(1)</script>`, `</code></pre><script>alert(1)</script>`,
		`<ScRiPt>alert(1)</sCrIpT>`, `<script/x>alert(1)</script>`, `<script src=//x.example></script>`, `<scr<script>ipt>alert(1)</script>`, "<script\n>alert(1)</script>",
		`<img src=x onerror=alert(1)>`, `"><img src=x onerror=alert(1)>`, `'><img src=x onerror=alert(1)>`, `<svg onload=alert(1)>`, `<svg/onload=alert(1)>`,
		`<body onload=alert(1)>`, `<iframe src=javascript:alert(1)>`, `<iframe srcdoc="<script>alert(1)</script>">`, `<object data=javascript:alert(1)>`, `<embed src=javascript:alert(1)>`,
		`<math><mtext></form><form><mglyph><svg><mtext><style><path id="</style><img onerror=alert(1) src>">`, `<link rel=stylesheet href=//x.example/x.css>`, `<meta http-equiv=refresh content="0;url=//x.example">`, `<base href=//x.example>`, `<form action=//x.example><input type=submit>`,
	}
	for _, event := range []string{"onclick", "onfocus", "onmouseover", "onerror", "onload", "onanimationstart", "ontoggle", "onpointerenter", "onbeforeinput", "onwheel"} {
		out = append(out, `" `+event+`=alert(1) x="`, `' `+event+`=alert(1) x='`, `x `+event+`=alert(1) `, "` "+event+"=alert(1) ")
	}
	for _, scheme := range []string{"javascript:alert(1)", "JaVaScRiPt:alert(1)", " javascript:alert(1)", "java\tscript:alert(1)", "javascript&colon;alert(1)", "vbscript:msgbox(1)", "data:text/html,<script>alert(1)</script>", "data:text/html;base64,PHNjcmlwdD4=", "//x.example/x", "\\\\x.example\\x"} {
		out = append(out, scheme, `<a href="`+scheme+`">x</a>`)
	}
	out = append(out, "{{.}}", "{{template \"layout\" .}}", "<!--", "&lt;script&gt;alert(1)&lt;/script&gt;", "\u003cscript\u003e", "%3Cscript%3Ealert(1)%3C/script%3E", "\xff<script>alert(1)</script>", "\x00<script>alert(1)</script>", "+ADw-script+AD4-", "<\u2028script>alert(1)</script>")
	return out
}

// hostile is a world in which every word that somebody typed is a payload.
func hostile(p string) *world {
	w := normal()
	w.version = p
	for i := range w.sites {
		w.sites[i].Title, w.sites[i].Origins, w.sites[i].QueryKeys, w.sites[i].Consent = p, []string{p}, []string{p}, taxonomy.ConsentMode(p)
	}
	for i := range w.sources {
		w.sources[i].Title, w.sources[i].Owner = p, p
	}
	q, err := json.Marshal(p)
	if err != nil {
		panic(err)
	}
	for i := range w.audiences {
		a := &w.audiences[i]
		a.Title, a.Description, a.Slug = p, p, p
		if a.Kind == audience.KindRule {
			a.Rule = rule(`{"or":[{"attribute":"x","in":[` + string(q) + `]},{"trait":` + string(q) + `}]}`)
		}
		if a.Lookalike != nil {
			a.Lookalike.Seed, a.Lookalike.Exclude = taxonomy.AudienceID(p), []taxonomy.Trait{taxonomy.Trait(p)}
		}
	}
	w.audiences = append(w.audiences, audience.Versioned{Definition: audience.Definition{ID: taxonomy.AudienceID(p), Kind: audience.Kind(p)}})
	for _, g := range w.gens {
		for i := range g.Audiences {
			g.Audiences[i].Fault = p
			if g.Audiences[i].Evidence != nil {
				d, err := json.Marshal(lookalike.Detail{Verdict: p, Says: p, For: []lookalike.Driver{{Trait: taxonomy.Trait(p), Says: p}}})
				if err != nil {
					panic(err)
				}
				g.Audiences[i].Evidence.Detail = d
			}
		}
	}
	for t := range w.titles {
		w.titles[t] = p
	}
	w.titles[taxonomy.Trait(p)] = p
	for i := range w.destinations {
		d := &w.destinations[i]
		d.Title, d.SyncURL, d.Format, d.Transport = p, p, p, p
		d.Audiences = append(d.Audiences, taxonomy.AudienceID(p))
	}
	for id := range w.runs {
		for i := range w.runs[id] {
			w.runs[id][i].Result, w.runs[id][i].Why, w.runs[id][i].SHA256 = p, p, p
		}
		m := w.manifests[id]
		for i := range m.Files {
			m.Files[i].Name, m.Files[i].SHA256, m.Files[i].Kind = p, p, delivery.Kind(p)
		}
	}
	for id := range w.refusals {
		for i := range w.refusals[id] {
			w.refusals[id][i] = tagserver.Refusal{At: w.now, Code: p, Where: p, Why: p, Sample: p}
		}
	}
	w.accounts[taxonomy.SiteID(p)] = Account{Received: 1, Rejected: map[taxonomy.Reason]uint64{taxonomy.Reason(p): 1}}
	w.accounts["shop"].Rejected[taxonomy.Reason(p)] = 1
	for i := range w.report.Places {
		w.report.Places[i].Name, w.report.Places[i].Error = p, p
	}
	for _, d := range w.drafts {
		d.Authors = []string{p}
	}
	w.problems = []Problem{{Title: p, Detail: p, Next: p}}
	w.nights = []Night{{At: w.now, Error: p}}
	for id, r := range w.receipts {
		r.Space, r.Places = taxonomy.Space(p), []string{p}
		w.receipts[id] = r
	}
	return w
}

func contains(t testing.TB, body, what, where string) {
	t.Helper()
	if !strings.Contains(body, what) {
		t.Errorf("%s does not say %q", where, what)
	}
}

// whoIs knows the admin key alone.
func whoIs(keyHash string) *tagserver.Principal {
	if keyHash == delivery.HashKey(adminKey) {
		return tagserver.Everything("admin")
	}
	return nil
}
