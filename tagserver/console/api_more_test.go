package console

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// more are the routes of the pages beside the builder.
func (w *world) more(m *http.ServeMux, answer func(http.ResponseWriter, int, any), list func(http.ResponseWriter, ...any), missing func(http.ResponseWriter), invalid func(http.ResponseWriter, error)) {
	note := func(r *http.Request, what string) {
		w.asked = append(w.asked, r.Method+" "+r.URL.Path+" by "+tagserver.PrincipalOf(r.Context()).ID+": "+what)
	}
	m.HandleFunc("GET /api/v1/taxonomies/{id}", func(rw http.ResponseWriter, r *http.Request) {
		for _, t := range w.taxonomies {
			if t.ID == r.PathValue("id") {
				rw.Header().Set("ETag", `"1"`)
				answer(rw, 200, t)
				return
			}
		}
		missing(rw)
	})
	m.HandleFunc("POST /api/v1/taxonomies", func(rw http.ResponseWriter, r *http.Request) {
		var t tree.Taxonomy
		_ = json.NewDecoder(r.Body).Decode(&t)
		if err := t.Validate(); err != nil {
			invalid(rw, err)
			return
		}
		note(r, t.ID)
		answer(rw, 201, t)
	})
	m.HandleFunc("PUT /api/v1/taxonomies/{id}/categories/{category}", func(rw http.ResponseWriter, r *http.Request) {
		var k tree.Category
		_ = json.NewDecoder(r.Body).Decode(&k)
		for _, t := range w.taxonomies {
			if t.ID != r.PathValue("id") {
				continue
			}
			t.Categories = append([]tree.Category{}, t.Categories...)
			at := len(t.Categories)
			for i := range t.Categories {
				if t.Categories[i].ID == k.ID {
					at = i
				}
			}
			if at < len(t.Categories) {
				t.Categories[at] = k
			} else {
				t.Categories = append(t.Categories, k)
			}
			if err := t.Validate(); err != nil {
				invalid(rw, taxonomy.Invalid("title", "%v", err))
				return
			}
			b, _ := json.Marshal(k)
			note(r, r.Header.Get("If-Match")+r.Header.Get("If-None-Match")+" "+string(b))
			answer(rw, 200, k)
			return
		}
		missing(rw)
	})
	for _, do := range []string{"archive", "restore", "merge"} {
		m.HandleFunc("POST /api/v1/taxonomies/{id}/categories/{category}/"+do, func(rw http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			note(r, r.Header.Get("If-Match")+" "+strings.TrimSpace(string(body)))
			answer(rw, 200, map[string]any{})
		})
	}
	m.HandleFunc("DELETE /api/v1/taxonomies/{id}/categories/{category}", func(rw http.ResponseWriter, r *http.Request) {
		p := tagserver.NewProblem(409, "in_use", "the category is in use")
		answer(rw, 409, p.At("rules/grocery", "names it"))
	})
	m.HandleFunc("GET /api/v1/rules", func(rw http.ResponseWriter, r *http.Request) {
		var items []any
		for _, x := range w.rules {
			items = append(items, map[string]any{"id": x.ID, "version": 1, "definition": x})
		}
		list(rw, items...)
	})
	m.HandleFunc("GET /api/v1/rules/{id}", func(rw http.ResponseWriter, r *http.Request) {
		for _, x := range w.rules {
			if x.ID == r.PathValue("id") {
				rw.Header().Set("ETag", `"1"`)
				answer(rw, 200, x)
				return
			}
		}
		missing(rw)
	})
	keep := func(rw http.ResponseWriter, r *http.Request) {
		var x rules.Rule
		_ = json.NewDecoder(r.Body).Decode(&x)
		if err := x.Validate(w.forest()); err != nil {
			invalid(rw, err)
			return
		}
		b, _ := json.Marshal(x)
		note(r, string(b))
		rw.Header().Set("Operation-Location", "/api/v1/operations/refold-1")
		answer(rw, 201, x)
	}
	m.HandleFunc("POST /api/v1/rules", keep)
	m.HandleFunc("PUT /api/v1/rules/{id}", keep)
	m.HandleFunc("POST /api/v1/rules/{id}/dry-run", func(rw http.ResponseWriter, r *http.Request) {
		answer(rw, 200, map[string]any{"events": 120000, "columns": []string{"c:products/wine"}, "prefixes": []string{"k:brand="}, "evaluate_only": []string{"gclid"}, "audiences": []string{"wine"}})
	})
	m.HandleFunc("GET /api/v1/keys", func(rw http.ResponseWriter, r *http.Request) {
		var items []any
		for _, k := range w.keys {
			items = append(items, map[string]any{"id": k.ID, "version": 1, "definition": k})
		}
		list(rw, items...)
	})
	m.HandleFunc("GET /api/v1/keys/{id}", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("ETag", `"4"`)
		answer(rw, 200, keyDoc{ID: r.PathValue("id")})
	})
	m.HandleFunc("POST /api/v1/keys", func(rw http.ResponseWriter, r *http.Request) {
		var k keyDoc
		_ = json.NewDecoder(r.Body).Decode(&k)
		if err := taxonomy.CheckSlug("id", k.ID); err != nil {
			invalid(rw, taxonomy.Invalid("id", "%v", err))
			return
		}
		b, _ := json.Marshal(k)
		note(r, string(b))
		k.Key = "ebba_shown-once"
		answer(rw, 201, k)
	})
	m.HandleFunc("DELETE /api/v1/keys/{id}", func(rw http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") == "admin" {
			p := tagserver.NewProblem(409, "in_use", "it is the last that gives keys")
			answer(rw, 409, p)
			return
		}
		note(r, r.Header.Get("If-Match"))
		rw.WriteHeader(204)
	})
	m.HandleFunc("GET /api/v1/audit", func(rw http.ResponseWriter, r *http.Request) {
		var items []any
		for _, l := range w.trail {
			items = append(items, l)
		}
		answer(rw, 200, map[string]any{"items": append([]any{}, items...), "next": map[bool]string{true: "c"}[len(items) > 0 && r.URL.Query().Get("cursor") == ""]})
	})
	m.HandleFunc("GET /api/v1/audit/verification", func(rw http.ResponseWriter, r *http.Request) {
		answer(rw, 200, map[string]any{"entries": len(w.trail), "last": len(w.trail), "hash": strings.Repeat("ab", 32), "faults": w.broken})
	})
	m.HandleFunc("GET /api/v1/destinations/{id}", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("ETag", `"7"`)
		answer(rw, 200, map[string]any{"id": r.PathValue("id"), "audiences": []string{"lapsed"}, "floor": 100, "later": "kept"})
	})
	m.HandleFunc("PUT /api/v1/destinations/{id}", func(rw http.ResponseWriter, r *http.Request) {
		var d map[string]any
		_ = json.NewDecoder(r.Body).Decode(&d)
		b, _ := json.Marshal(d)
		note(r, r.Header.Get("If-Match")+" "+string(b))
		answer(rw, 200, d)
	})
	m.HandleFunc("POST /api/v1/destinations/{id}/deliveries", func(rw http.ResponseWriter, r *http.Request) {
		if len(w.gens) == 0 || r.PathValue("id") == "north" {
			answer(rw, 409, tagserver.NewProblem(409, "conflict", "no generation to deliver; build one first"))
			return
		}
		note(r, "")
		answer(rw, 201, struct{}{})
	})
	m.HandleFunc("POST /api/v1/destinations/{id}/deliveries/dry-run", func(rw http.ResponseWriter, r *http.Request) {
		note(r, "")
		answer(rw, 200, map[string]any{"destination": r.PathValue("id"), "generation": 7, "at": "2026-11-25T12:00:00.000Z", "result": "delta", "rows": 5000, "adds": 4990, "removes": 10, "bytes": 70000, "chunks": 3, "held": 60000, "allowed": 90000,
			"visitors": []any{map[string]any{"id": "1111111111", "audience": "wine", "segment": "77", "minutes": 43200}, map[string]any{"id": "2222222222", "audience": "wine", "segment": "77", "remove": true}},
			"files":    []any{map[string]any{"media_type": "text/plain", "text": "1111111111;<77>"}, map[string]any{"media_type": "application/octet-stream", "base64": "AP8="}}})
	})
	m.HandleFunc("GET /api/v1/{kind}/{id}/versions", func(rw http.ResponseWriter, r *http.Request) {
		old := json.RawMessage(`{"id":"x","kind":"rule","title":"x","rule":{"any":true}}`)
		now := json.RawMessage(`{"id":"x","kind":"rule","title":"x","rule":{"list":"crm"}}`)
		list(rw, versionDoc{3, w.now.Time(), now}, versionDoc{2, (w.now - taxonomy.OneDay).Time(), old})
	})
	m.HandleFunc("GET /api/v1/{kind}/{id}/diff", func(rw http.ResponseWriter, r *http.Request) {
		to := r.URL.Query().Get("to")
		answer(rw, 200, map[string]any{"from": map[string]int{"3": 2, "2": 0}[to], "to": 3, "fields": []any{map[string]any{"field": "rule.any", "before": true}, map[string]any{"field": "rule.list", "after": "crm <b>"}}})
	})
	m.HandleFunc("POST /api/v1/{kind}/{id}/rollback", func(rw http.ResponseWriter, r *http.Request) {
		var in struct{ Version uint64 }
		_ = json.NewDecoder(r.Body).Decode(&in)
		note(r, r.Header.Get("If-Match")+" "+number(in.Version))
		answer(rw, 200, struct{}{})
	})
	w.draftRoutes(m, answer, list, missing, note)
	ops := []operationDoc{{ID: "plan-2", Kind: "plan", State: "running", Progress: 0.4, Read: 48_000, Total: 120_000, Columns: 12}, {ID: "plan-1", Kind: "plan", State: "done", Progress: 1},
		{ID: "refold-2", Kind: "refold", State: "running", Progress: 0.4, Read: 48_000, Total: 120_000, Columns: 12}, {ID: "refold-1", Kind: "refold", State: "done", Progress: 1, Read: 9, Total: 9, Columns: 1}}
	m.HandleFunc("GET /api/v1/operations", func(rw http.ResponseWriter, r *http.Request) {
		if len(w.rules) == 0 {
			list(rw)
			return
		}
		list(rw, ops[0], ops[1], ops[2], ops[3])
	})
	m.HandleFunc("GET /api/v1/operations/{id}", func(rw http.ResponseWriter, r *http.Request) {
		for _, o := range ops {
			if o.ID == r.PathValue("id") {
				answer(rw, 200, o)
				return
			}
		}
		missing(rw)
	})
	m.HandleFunc("POST /api/v1/operations/{id}/cancel", func(rw http.ResponseWriter, r *http.Request) {
		note(r, "")
		answer(rw, 200, ops[2])
	})
}

func (w *world) forest() *tree.Forest {
	f, err := tree.New(w.taxonomies...)
	if err != nil {
		panic(err)
	}
	return f
}

// reach says numbers that a test can tell apart.
func (w *world) reach(_ context.Context, ts []taxonomy.Trait) (*audience.Reach, error) {
	r := &audience.Reach{AsOf: w.now}
	for i, t := range ts {
		c := query.Course{Trait: t, Visitors: uint64(1000*i + 12)}
		for d := range c.Days {
			c.Days[d] = uint64(60 + 10*i + d*d%37)
		}
		r.Courses = append(r.Courses, c)
	}
	return r, w.fail
}

func TestTheTreeShowsReachAndUsers(t *testing.T) {
	s := serve(t, normal())
	_, body := s.get(t, base+"/taxonomies/products")
	for _, want := range []string{"Wine &amp; spirits", `class="in1"`, "90 days: from", "&lt;50", "1,012", "1 rule", "1 audience", "5 categories"} {
		contains(t, body, want, "the tree")
	}
	_, body = s.get(t, base+"/taxonomies/products/wine")
	for _, want := range []string{"c:products/wine", "Wine by the path", "Wine, five times or more", "What the law calls alcohol.", "sensitive", "by <code>c:products/{department}</code>"} {
		contains(t, body, want, "a category")
	}
}

func TestATreeIsChangedByForms(t *testing.T) {
	w := normal()
	s := serve(t, w)
	at := base + "/taxonomies/products"
	status, _, h := s.post(t, at+"/food", url.Values{"do": {"add"}, "title": {"Cheese & more"}, "parents": {"food"}, "sensitive": {"yes"}})
	if status != 303 || h.Get("Location") != at+"/cheese-more" {
		t.Fatalf("added: %d to %q", status, h.Get("Location"))
	}
	status, _, _ = s.post(t, at+"/pastry", url.Values{"do": {"save"}, "tag": {`"1"`}, "title": {"Cakes"}, "parents": {"food, pets"}})
	if status != 303 {
		t.Fatalf("moved: %d", status)
	}
	want := []string{`PUT /api/v1/taxonomies/products/categories/cheese-more by admin: * {"id":"cheese-more","title":"Cheese \u0026 more","parents":["food"],"sensitive":true}`,
		`PUT /api/v1/taxonomies/products/categories/pastry by admin: "1" {"id":"pastry","title":"Cakes","parents":["food","pets"],"merged":["cakes"]}`}
	if strings.Join(w.asked, "\n") != strings.Join(want, "\n") {
		t.Errorf("asked\n%s\nwant\n%s", strings.Join(w.asked, "\n"), strings.Join(want, "\n"))
	}
	w.asked = nil
	for do, home := range map[string]string{"archive": at + "/pastry", "restore": at + "/pastry", "merge": at + "/food"} {
		if status, _, h := s.post(t, at+"/pastry", url.Values{"do": {do}, "tag": {`"1"`}, "into": {"food"}}); status != 303 || h.Get("Location") != home {
			t.Errorf("%s: %d to %q", do, status, h.Get("Location"))
		}
	}
	slices.Sort(w.asked)
	const pastry = "POST /api/v1/taxonomies/products/categories/pastry/"
	if want := []string{pastry + `archive by admin: "1" {}`, pastry + `merge by admin: "1" {"into":"food"}`, pastry + `restore by admin: "1" {}`}; !slices.Equal(w.asked, want) {
		t.Errorf("asked\n%s\nwant\n%s", strings.Join(w.asked, "\n"), strings.Join(want, "\n"))
	}
	// What is refused says why, at the field or with its users, and what was typed stays.
	status, body, _ := s.post(t, at+"/pastry", url.Values{"do": {"save"}, "tag": {`"1"`}, "title": {"Cakes"}, "parents": {"nowhere"}})
	if status != 422 || !strings.Contains(body, `value="nowhere"`) || !strings.Contains(body, "new-title-fault") {
		t.Errorf("a parent that is not there: %d", status)
	}
	if status, body, _ = s.post(t, at+"/wine", url.Values{"do": {"delete"}, "tag": {`"1"`}}); status != 409 || !strings.Contains(body, "rules/grocery") {
		t.Errorf("in use: %d", status)
	}
	if status, _, h = s.post(t, base+"/taxonomies", url.Values{"title": {"My things"}}); status != 303 || h.Get("Location") != base+"/taxonomies/my-things" {
		t.Errorf("a new one: %d to %q", status, h.Get("Location"))
	}
}

func TestARuleIsTriedOnLiveTrafficAndPublished(t *testing.T) {
	w := normal()
	s := serve(t, w)
	form := url.Values{"was": {""}, "text": {""}, "title": {"Checkout pages"}, "then": {"k:step=checkout\n"}, "sites": {"shop"},
		"field.0": {"kind"}, "op.0": {"eq"}, "values.0": {"page"}, "do": {"dry"}}
	status, body, _ := s.post(t, base+"/editor", form)
	if status != 200 {
		t.Fatalf("status %d", status)
	}
	for _, want := range []string{"stored event", "about 120,000 stored events", "query.gclid", `&#34;op&#34;: &#34;eq&#34;`, `<a href="/console/audiences/wine">wine</a>`} {
		contains(t, body, want, "the editor")
	}
	// The text leads if it is what was changed.
	text := `{"id":"x","when":[{"field":"path","op":"prefix","value":"/sale"}],"then":["k:sale=yes"]}`
	form.Set("text", text)
	form.Del("do")
	_, body, _ = s.post(t, base+"/editor", form)
	contains(t, body, "/sale</textarea>", "a changed text")
	contains(t, body, "The fields had been changed too", "a changed text")
	// What is wrong stands at its place.
	form = url.Values{"was": {""}, "text": {""}, "then": {"c:products/nothing"}, "field.0": {"path"}, "op.0": {"matches"}, "values.0": {"("}, "do": {"save"}, "id": {"x"}}
	status, body, _ = s.post(t, base+"/editor", form)
	if status != 422 || len(w.asked) > 0 {
		t.Fatalf("status %d, asked %v", status, w.asked)
	}
	contains(t, body, `id="values.0-fault"`, "a faulty expression")
	contains(t, body, `id="then-fault"`, "an unknown category")
	form.Set("then", "c:products/wine")
	form.Set("values.0", "^/wein")
	status, _, h := s.post(t, base+"/editor", form)
	if status != 303 || h.Get("Location") != base+"/operations/refold-1" || len(w.asked) != 1 {
		t.Errorf("published: %d to %q, asked %v", status, h.Get("Location"), w.asked)
	}
	if status, _, _ = s.post(t, base+"/operations/refold-2", url.Values{"do": {"cancel"}}); status != 303 || !strings.HasPrefix(w.asked[1], "POST /api/v1/operations/refold-2/cancel") {
		t.Errorf("cancelled: %d, asked %v", status, w.asked)
	}
	// The inspector's unused signals become rules in one step.
	_, body = s.get(t, base+"/sites/shop/inspector")
	contains(t, body, `href="/console/editor?json=`, "the inspector")
}

func TestKeysAreGivenAndRevoked(t *testing.T) {
	w := normal()
	s := serve(t, w)
	status, body, _ := s.post(t, base+"/access", url.Values{"title": {"CI of the shop"}, "role": {"operator"}, "scopes": {"audiences:read", "deliveries:write"}, "sources": {"web, crm"}, "ends": {"2027-03-01"}})
	if status != 200 || len(w.asked) != 1 || w.asked[0] != `POST /api/v1/keys by admin: {"id":"ci-of-the-shop","title":"CI of the shop","role":"operator","scopes":["audiences:read","deliveries:write"],"sources":["web","crm"],"ends":"2027-03-01"}` {
		t.Errorf("status %d, asked %q", status, w.asked)
	}
	contains(t, body, "ebba_shown-once", "a new key")
	if _, body = s.get(t, base+"/access"); strings.Contains(body, "ebba_shown") {
		t.Error("the key is shown twice")
	}
	status, body, _ = s.post(t, base+"/access", url.Values{"title": {"x"}, "id": {"No slug"}, "role": {"admin"}, "scopes": {"keys:read"}})
	if status != 422 {
		t.Errorf("a faulty ID: status %d", status)
	}
	for _, want := range []string{`id="id-fault"`, `value="No slug"`, `value="admin" checked`, `value="keys:read" checked`} {
		contains(t, body, want, "a faulty ID")
	}
	if status, _, _ = s.post(t, base+"/access/ci", nil); status != 303 || w.asked[len(w.asked)-1] != `DELETE /api/v1/keys/ci by admin: "4"` {
		t.Errorf("revoked: %d, asked %q", status, w.asked)
	}
	if status, body, _ = s.post(t, base+"/access/admin", nil); status != 409 || !strings.Contains(body, "the last that gives keys") {
		t.Errorf("the last: %d", status)
	}
}

func TestTheAuditLogIsShownWithItsChain(t *testing.T) {
	w := normal()
	s := serve(t, w)
	_, body := s.get(t, base+"/audit")
	for _, want := range []string{"All 3 entries fit together", "grocery-regulars</a>", "2 → 3", `href="/console/audit?cursor=c"`, "failed"} {
		contains(t, body, want, "the log")
	}
	w.broken = []map[string]any{{"seq": 2, "fault": "the hash does not fit"}}
	_, body = s.get(t, base+"/audit")
	contains(t, body, "The chain is broken", "a broken chain")
	contains(t, body, "Entry 2: the hash does not fit", "a broken chain")
}

func TestDestinationsAreGivenAudiencesAndDeliveredTo(t *testing.T) {
	w := normal()
	s := serve(t, w)
	at := base + "/destinations/acme"
	for _, c := range []struct{ form, want string }{
		{"do=add&audience=wine", `PUT /api/v1/destinations/acme by admin: "7" {"audiences":["lapsed","wine"],"floor":100,"id":"acme","later":"kept"}`},
		{"do=drop&audience=lapsed", `PUT /api/v1/destinations/acme by admin: "7" {"audiences":[],"floor":100,"id":"acme","later":"kept"}`},
		{"do=suppress&audience=wine", `PUT /api/v1/destinations/acme by admin: "7" {"audiences":["lapsed"],"floor":100,"id":"acme","later":"kept","suppress":["wine"]}`},
		{"do=unsuppress&audience=wine", `PUT /api/v1/destinations/acme by admin: "7" {"audiences":["lapsed"],"floor":100,"id":"acme","later":"kept","suppress":[]}`},
		{"do=deliver", `POST /api/v1/destinations/acme/deliveries by admin: `},
	} {
		form, _ := url.ParseQuery(c.form)
		if status, _, h := s.post(t, at, form); status != 303 || h.Get("Location") != at || w.asked[len(w.asked)-1] != c.want {
			t.Errorf("%s: %d to %q, asked %q", c.form, status, h.Get("Location"), w.asked)
		}
	}
	if status, body, _ := s.post(t, base+"/destinations/north", url.Values{"do": {"deliver"}}); status != 409 || !strings.Contains(body, "build one first") {
		t.Errorf("nothing to deliver: %d", status)
	}
}

func TestADeliveryIsTriedBeforeItIsMade(t *testing.T) {
	w := normal()
	s := serve(t, w)
	status, body, _ := s.post(t, base+"/destinations/acme", url.Values{"do": {"try"}})
	if status != 200 || len(w.asked) != 1 || w.asked[0] != "POST /api/v1/destinations/acme/deliveries/dry-run by admin: " {
		t.Fatalf("%d, asked %q", status, w.asked)
	}
	for _, want := range []string{"5,000: 4,990 that come, 10 that leave", "3 chunks", "60,000 memberships", "1111111111;&lt;77&gt;", "AP8=", "43,200", "<code>2222222222</code>", "leaves", "what changed was said"} {
		contains(t, body, want, "a delivery tried")
	}
}

func TestASiteShowsItsConsentSettings(t *testing.T) {
	w := normal()
	w.sites[1].GPCMode, w.sites[1].TrustGDPRZero, w.sites[1].OptOutCountries, w.sites[1].ChildDirected = "share_only", true, []string{"BR", "JP"}, true
	s := serve(t, w)
	_, shop := s.get(t, base+"/sites/shop")
	_, magazine := s.get(t, base+"/sites/magazine")
	for _, c := range []struct{ usual, changed string }{
		{"refuses everything", "refuses that the visitor is sent to anybody"}, {"the country of the address counts", "is believed: the GDPR does not apply"},
		{"<dd>no <code>child_directed", "nothing is kept of anybody"}, {"", "<code>BR</code> <code>JP</code>"},
	} {
		contains(t, shop, c.usual, "the shop")
		contains(t, magazine, c.changed, "the magazine")
		if strings.Contains(shop, c.changed) {
			t.Errorf("the shop says %q", c.changed)
		}
	}
}

func TestVersionsAreComparedAndBroughtBack(t *testing.T) {
	w := normal()
	s := serve(t, w)
	_, body := s.get(t, base+"/versions/audiences/wine")
	for _, want := range []string{"From version 2 to 3", "Visitors who had any event in the last 90 days.", "Visitors who are on the list crm.", "<code>rule.list</code>", "crm &lt;b&gt;"} {
		contains(t, body, want, "the versions")
	}
	_, body = s.get(t, base+"/versions/audiences/wine?to=2")
	contains(t, body, "Version 2, the first", "the first version")
	status, _, h := s.post(t, base+"/versions/audiences/wine", url.Values{"version": {"2"}, "tag": {`"3"`}})
	if status != 303 || h.Get("Location") != base+"/audiences/wine" || len(w.asked) != 1 || w.asked[0] != `POST /api/v1/audiences/wine/rollback by admin: "3" 2` {
		t.Errorf("status %d to %q, asked %q", status, h.Get("Location"), w.asked)
	}
	if status, _ = s.status(t, base+"/versions/nothing/wine"); status != 404 {
		t.Errorf("of another kind: %d", status)
	}
}
