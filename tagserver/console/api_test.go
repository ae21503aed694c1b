package console

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// api answers as the API does, from the world's plain values, and remembers what was
// asked of it. The real one behind the console is walked in cmd/ebb/demo.
func (w *world) api() http.Handler {
	m := http.NewServeMux()
	answer := func(rw http.ResponseWriter, status int, v any) {
		rw.WriteHeader(status)
		_ = json.NewEncoder(rw).Encode(v)
	}
	list := func(rw http.ResponseWriter, items ...any) {
		answer(rw, 200, map[string]any{"items": append([]any{}, items...)})
	}
	missing := func(rw http.ResponseWriter) {
		answer(rw, 404, tagserver.NewProblem(404, "not_found", "there is nothing"))
	}
	invalid := func(rw http.ResponseWriter, err error) {
		p := tagserver.NewProblem(422, "invalid", "it is not valid; see errors")
		for _, f := range taxonomy.Faults(err) {
			p.At("body."+f.Field, f.Err.Error())
		}
		answer(rw, 422, p)
	}
	m.HandleFunc("GET /api/v1/taxonomies", func(rw http.ResponseWriter, r *http.Request) {
		var items []any
		for _, t := range w.taxonomies {
			v := t
			v.Categories = nil
			items = append(items, map[string]any{"id": t.ID, "version": 1, "definition": v})
		}
		list(rw, items...)
	})
	find := func(id string) *tree.Taxonomy {
		for i := range w.taxonomies {
			if w.taxonomies[i].ID == id {
				return &w.taxonomies[i]
			}
		}
		return nil
	}
	m.HandleFunc("GET /api/v1/taxonomies/{id}/categories", func(rw http.ResponseWriter, r *http.Request) {
		t := find(r.PathValue("id"))
		if t == nil {
			missing(rw)
			return
		}
		var items []any
		for _, k := range t.Categories {
			items = append(items, categoryDoc{Category: k, Trait: taxonomy.CategoryTrait(t.ID, k.ID)})
		}
		rw.Header().Set("ETag", `"1"`)
		list(rw, items...)
	})
	m.HandleFunc("GET /api/v1/audiences/{id}", func(rw http.ResponseWriter, r *http.Request) {
		for _, a := range w.audiences {
			if string(a.ID) == r.PathValue("id") {
				rw.Header().Set("ETag", fmt.Sprintf(`"%d"`, a.Version))
				answer(rw, 200, a.Definition)
				return
			}
		}
		missing(rw)
	})
	keep := func(rw http.ResponseWriter, r *http.Request) {
		var d audience.Definition
		if err := json.NewDecoder(r.Body).Decode(&d); err != nil {
			invalid(rw, err)
			return
		}
		if err := d.Validate(); err != nil {
			invalid(rw, err)
			return
		}
		if tag := r.Header.Get("If-Match"); r.Method == http.MethodPut && tag != `"3"` {
			answer(rw, 412, tagserver.NewProblem(412, "changed", "of another version"))
			return
		}
		w.asked = append(w.asked, r.Method+" "+r.URL.Path+" by "+tagserver.PrincipalOf(r.Context()).ID+": "+string(d.Kind)+" "+string(d.ID)+" "+string(d.Rule))
		answer(rw, 201, d)
	}
	m.HandleFunc("POST /api/v1/audiences", keep)
	m.HandleFunc("PUT /api/v1/audiences/{id}", keep)
	m.HandleFunc("POST /api/v1/lookalikes", keep)
	m.HandleFunc("POST /api/v1/audiences/{id}/dry-run", func(rw http.ResponseWriter, r *http.Request) {
		answer(rw, 200, map[string]any{"before": shownAs(4210), "after": shownAs(5020), "added": shownAs(1000), "removed": shownAs(190), "audiences": []string{"like-regulars"}, "destinations": []string{"acme"}})
	})
	m.HandleFunc("POST /api/v1/generations", func(rw http.ResponseWriter, r *http.Request) {
		w.asked = append(w.asked, "build")
		answer(rw, 201, struct{}{})
	})
	m.HandleFunc("POST /api/v1/estimates", func(rw http.ResponseWriter, r *http.Request) {
		var in struct{ Rule json.RawMessage }
		err := json.NewDecoder(r.Body).Decode(&in)
		var e query.Expr
		if err == nil {
			e, err = query.ParseAt("rule", in.Rule)
		}
		if err != nil {
			invalid(rw, err)
			return
		}
		n := uint64(9000)
		var clauses []any
		var walk func(b *block)
		walk = func(b *block) {
			v := map[string]any{"path": b.Path, "what": query.Describe(b.expression()), "shown": number(n), "count": n}
			if b.Path == "" {
				v["path"] = "."
			}
			if strings.HasSuffix(b.Path, "]") {
				v["kept"] = shownAs(n / 2)
			}
			clauses = append(clauses, v)
			for _, k := range b.Of {
				n -= n / 5
				walk(k)
			}
		}
		root := blockOf(e)
		root.number()
		walk(root)
		v := map[string]any{"shown": "4,210", "count": 4210, "eligible": shownAs(180000), "as_of": w.now.Time(), "clauses": clauses}
		if strings.Contains(string(in.Rule), "nobody") {
			v["shown"], v["count"], v["why_empty"] = "<50", nil, []query.Reason{{Path: ".", Code: query.UnknownTrait, Why: "no visitor had it"}}
		}
		answer(rw, 200, v)
	})
	w.reports(m, answer, invalid)
	w.more(m, answer, list, missing, invalid)
	return m
}

func shownAs(n uint64) map[string]any { return map[string]any{"shown": number(n), "count": n} }

// expression is of a block that is known to be a rule.
func (b *block) expression() query.Expr {
	if e := b.clone().expr(); e != nil {
		return e
	}
	panic(errors.New("no rule"))
}

// clone copies, since expr numbers anew from its root.
func (b *block) clone() *block {
	k := *b
	k.Of, k.Faults = nil, nil
	for _, o := range b.Of {
		k.Of = append(k.Of, o.clone())
	}
	return &k
}

// post sends a form as who is signed in, from a page of ours.
func (s *served) post(t testing.TB, path string, form url.Values) (int, string, http.Header) {
	t.Helper()
	value, err := s.c.sessions.make(adminKey)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	r.AddCookie(&http.Cookie{Name: CookieName, Value: value})
	rec := httptest.NewRecorder()
	s.e.ServeHTTP(rec, r)
	return rec.Code, rec.Body.String(), rec.Result().Header
}

func TestTheBuilderMakesAnAudience(t *testing.T) {
	w := normal()
	s := serve(t, w)
	form := url.Values{"text": {"c:products/grocery in 30d on 3+ days and not in list crm"}, "was": {""}}
	status, body, _ := s.post(t, base+"/builder", form)
	if status != 200 {
		t.Fatalf("status %d", status)
	}
	for _, want := range []string{"Visitors who had “Grocery” (c:products/grocery) in the last 30 days, on at least 3 days, and are not on the list crm.",
		"<strong>4,210</strong>", `name="kind.0"`, `name="list.3" value="crm"`, "What each part keeps", "Grocery, 30d, at least 3 days"} {
		contains(t, body, want, "the builder")
	}
	// Without a title it is not kept, and says so at the field; the text is still there.
	form.Set("do", "save")
	if status, body, _ = s.post(t, base+"/builder", form); status != 422 || len(w.asked) > 0 {
		t.Errorf("without a title: %d, asked %v", status, w.asked)
	}
	contains(t, body, `id="title-fault"`, "without a title")
	contains(t, body, "c:products/grocery in 30d on 3&#43; days and not in list crm</textarea>", "without a title")
	form.Set("title", "Often here!")
	status, _, h := s.post(t, base+"/builder", form)
	if status != 303 || h.Get("Location") != base+"/audiences/often-here" {
		t.Fatalf("saved: %d to %q", status, h.Get("Location"))
	}
	if len(w.asked) != 1 || !strings.HasPrefix(w.asked[0], "POST /api/v1/audiences by admin: rule often-here {\"and\":") {
		t.Errorf("asked %q", w.asked)
	}
}

func TestBlocksOfAFormChangeTheText(t *testing.T) {
	s := serve(t, normal())
	form := url.Values{"text": {"c:products/grocery"}, "was": {"c:products/grocery"}}
	b := blockOf(query.Had("c:products/grocery"))
	b.Min, b.Window = "4", "14d"
	b.encode(form)
	_, body, _ := s.post(t, base+"/builder", form)
	contains(t, body, "c:products/grocery in 14d 4&#43; times</textarea>", "a changed block")
	form.Set("do", "or:0")
	_, body, _ = s.post(t, base+"/builder", form)
	contains(t, body, `<option value="or" selected>`, "Or…")
	contains(t, body, `value="c:products/grocery"`, "Or…")
	// A field that is wrong keeps what was typed, beside its fault.
	form.Del("do")
	form.Set("window.0", "120d")
	_, body, _ = s.post(t, base+"/builder", form)
	contains(t, body, `value="120d"`, "a wrong window")
	contains(t, body, `id="window.0-fault"`, "a wrong window")
	contains(t, body, "c:products/grocery</textarea>", "a wrong window")
}

func TestAChangeBySomebodyElseIsShownNotOverwritten(t *testing.T) {
	w := normal()
	s := serve(t, w)
	form := url.Values{"text": {"anyone"}, "was": {""}, "title": {"Regulars"}, "tag": {`"2"`}, "do": {"save"}}
	status, body, _ := s.post(t, base+"/builder/grocery-regulars", form)
	if status != 412 || len(w.asked) > 0 {
		t.Fatalf("status %d, asked %v", status, w.asked)
	}
	contains(t, body, "Somebody changed this audience", "a conflict")
	contains(t, body, "They kept: <code>c:products/grocery", "a conflict")
	contains(t, body, `name="tag" value="&#34;3&#34;"`, "a conflict")
	contains(t, body, "anyone</textarea>", "a conflict")
	form.Set("tag", `"3"`)
	if status, _, _ = s.post(t, base+"/builder/grocery-regulars", form); status != 303 {
		t.Errorf("again: %d", status)
	}
}

// A form changes something only from a page of ours, with a session that is not over.
func TestFormsAreTakenFromOurPagesOnly(t *testing.T) {
	w := normal()
	s := serve(t, w)
	value, err := s.c.sessions.make(adminKey)
	if err != nil {
		t.Fatal(err)
	}
	paths := 0
	for _, row := range s.c.Routes() {
		if row.Method != http.MethodPost || strings.HasPrefix(row.Path, base+"/log") || strings.Contains(row.Path, "/try/") {
			continue
		}
		paths++
		for _, c := range []struct {
			site, origin string
			cookie       bool
			want         int
		}{{"cross-site", "https://evil.example", true, 403}, {"same-site", "", true, 403}, {"", "https://evil.example", true, 403}, {"", "", true, 403}, {"none", "", true, 403}, {"same-origin", "http://example.com", false, 401}} {
			r := httptest.NewRequest(http.MethodPost, strings.ReplaceAll(row.Path, ":id", "grocery-regulars"), strings.NewReader("do=save&title=x&text=anyone"))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			if c.site != "" {
				r.Header.Set("Sec-Fetch-Site", c.site)
			}
			if c.origin != "" {
				r.Header.Set("Origin", c.origin)
			}
			if c.cookie {
				r.AddCookie(&http.Cookie{Name: CookieName, Value: value})
			}
			if res := s.do(r); res.StatusCode != c.want {
				t.Errorf("%s from %q %q, cookie %v: %d, want %d", row.Path, c.site, c.origin, c.cookie, res.StatusCode, c.want)
			}
		}
	}
	if paths < 4 || len(w.asked) > 0 {
		t.Errorf("%d forms, asked %v", paths, w.asked)
	}
}
