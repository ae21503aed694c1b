package console

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// fakeDraft is a draft as the API has it.
type fakeDraft struct {
	draftItem
	Definition json.RawMessage          `json:"definition"`
	Faults     []tagserver.ProblemError `json:"faults"`
}

func asJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// someDrafts are those of a usual day: of a rule, of one that is new and not right
// yet, and of a tree that somebody else published meanwhile.
func (w *world) someDrafts() []*fakeDraft {
	wine := w.rules[0]
	wine.Title, wine.Then = "Wine and beer", []string{"c:products/wine", "c:products/food"}
	food := w.taxonomies[0]
	food.Categories = append(slices.Clone(food.Categories), tree.Category{ID: "tea", Title: "Tea", Parents: []string{"food"}})
	item := func(kind, id, stands string, version, base, published uint64, authors ...string) draftItem {
		return draftItem{kind, id, version, base, published, stands, w.now.Time(), authors}
	}
	return []*fakeDraft{
		{item("rules", "wine", "of version 1", 3, 1, 1, "ann", "admin"), asJSON(wine), nil},
		{item("rules", "tea", "new", 1, 0, 0, "ann"), asJSON(rules.Rule{ID: "tea", Then: []string{"c:products/none"}}), []tagserver.ProblemError{{Location: "definition.then[0]", Message: "no such category"}}},
		{item("taxonomies", "products", "of version 1; version 2 was published since", 2, 1, 2, "ann"), asJSON(food), nil},
	}
}

func (w *world) draftNow(kind, id string) *fakeDraft {
	for _, d := range w.drafts {
		if d.Kind == kind && d.ID == id {
			return d
		}
	}
	return nil
}

// draftRoutes answer as the API does.
func (w *world) draftRoutes(m *http.ServeMux, answer func(http.ResponseWriter, int, any), list func(http.ResponseWriter, ...any), missing func(http.ResponseWriter), note func(*http.Request, string)) {
	m.HandleFunc("GET /api/v1/drafts", func(rw http.ResponseWriter, r *http.Request) {
		var items []any
		for _, d := range w.drafts {
			items = append(items, d.draftItem)
		}
		list(rw, items...)
	})
	changed := func(rw http.ResponseWriter) {
		answer(rw, 412, tagserver.NewProblem(412, "changed", "of another version"))
	}
	found := func(h func(http.ResponseWriter, *http.Request, *fakeDraft)) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			d := w.draftNow(r.PathValue("kind"), r.PathValue("id"))
			if d == nil {
				missing(rw)
				return
			}
			h(rw, r, d)
		}
	}
	const at = " /api/v1/{kind}/{id}/draft"
	m.HandleFunc("GET"+at, found(func(rw http.ResponseWriter, r *http.Request, d *fakeDraft) {
		rw.Header().Set("ETag", fmt.Sprintf(`"%d"`, d.Version))
		answer(rw, 200, d)
	}))
	m.HandleFunc("PUT"+at, func(rw http.ResponseWriter, r *http.Request) {
		kind, id := r.PathValue("kind"), r.PathValue("id")
		d := w.draftNow(kind, id)
		match := r.Header.Get("If-Match")
		switch {
		case match == "" && d != nil || match != "" && d != nil && match != fmt.Sprintf(`"%d"`, d.Version):
			changed(rw)
			return
		case match != "" && d == nil:
			missing(rw)
			return
		case d == nil:
			d = &fakeDraft{draftItem: draftItem{Kind: kind, ID: id}}
			w.drafts = append(w.drafts, d)
		}
		d.Version++
		d.Definition, _ = io.ReadAll(r.Body)
		note(r, match+r.Header.Get("If-None-Match")+" "+strings.TrimSpace(string(d.Definition)))
		answer(rw, 200, d)
	})
	m.HandleFunc("DELETE"+at, found(func(rw http.ResponseWriter, r *http.Request, d *fakeDraft) {
		if r.Header.Get("If-Match") != fmt.Sprintf(`"%d"`, d.Version) {
			changed(rw)
			return
		}
		note(r, r.Header.Get("If-Match"))
		w.drafts = slices.DeleteFunc(w.drafts, func(x *fakeDraft) bool { return x == d })
		rw.WriteHeader(204)
	}))
	m.HandleFunc("GET"+at+"/diff", found(func(rw http.ResponseWriter, r *http.Request, d *fakeDraft) {
		answer(rw, 200, map[string]any{"from": 1, "to": d.Version, "says": []string{"Its title was “Wine by the path” and is “Wine & beer”."}, "fields": []any{map[string]any{"field": "title", "before": "Wine by the path", "after": "Wine & beer"}}})
	}))
	m.HandleFunc("POST"+at+"/publish/dry-run", found(func(rw http.ResponseWriter, r *http.Request, d *fakeDraft) {
		if len(d.Faults) > 0 {
			p := tagserver.NewProblem(422, "invalid", "the set of definitions is not valid; see errors")
			answer(rw, 422, p.At("definition.then[0]", "no such category"))
			return
		}
		note(r, r.Header.Get("Prefer"))
		rw.Header().Set("Operation-Location", "/api/v1/operations/plan-2")
		answer(rw, 202, operationDoc{ID: "plan-2", Kind: "plan", State: "running"})
	}))
	m.HandleFunc("POST"+at+"/publish", found(func(rw http.ResponseWriter, r *http.Request, d *fakeDraft) {
		is := r.Header.Get("If-Match") + r.Header.Get("If-None-Match")
		if want := fmt.Sprintf(`"%d"`, d.Published); r.URL.Query().Get("draft") != fmt.Sprint(d.Version) || is != want && !(is == "*" && d.Published == 0) {
			changed(rw)
			return
		}
		note(r, is)
		rw.Header().Set("Operation-Location", "/api/v1/operations/refold-2")
		answer(rw, 200, struct{}{})
	}))
	m.HandleFunc("GET /api/v1/operations/{id}/result", func(rw http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") != "plan-1" {
			answer(rw, 409, tagserver.NewProblem(409, "conflict", "it was cancelled; plan again"))
			return
		}
		row := func(id string, before, after, added, removed uint64) map[string]any {
			return map[string]any{"id": id, "before": shownAs(before), "after": shownAs(after), "added": shownAs(added), "removed": shownAs(removed), "refold": true}
		}
		wine := row("wine", 2480, 2960, 500, 20)
		answer(rw, 200, map[string]any{"changes": []any{map[string]any{"kind": "rule", "id": "wine", "what": "change", "fields": []string{"then"}}},
			"reach": map[string]any{"as_of": w.now.Time(), "unchanged": 6, "audiences": []any{wine, row("grocery-regulars", 4210, 4200, 0, 10)}, "destinations": []any{map[string]any{"id": "acme", "audiences": []any{wine}}}}})
	})
}

// draftPages are the pages of drafts that a world has.
func (w *world) draftPages() (out []string) {
	for i, d := range w.drafts {
		p := base + "/drafts/" + d.Kind + "/" + url.PathEscape(d.ID)
		out = append(out, p)
		switch {
		case i == 0: // what is counted looks the same for all
			out = append(out, p+"?plan=plan-1&of=3", p+"?plan=plan-2&of=1", d.Edit())
		case d.Kind == "taxonomies":
			out = append(out, d.Edit(), pathOf("taxonomies", d.ID)+"/food?draft=1")
		}
	}
	if len(w.drafts) > 0 {
		out = append(out, base+"/operations/plan-1")
	}
	return out
}

func TestADraftIsSeenOpenedCountedAndPublished(t *testing.T) {
	w := normal()
	s := serve(t, w)
	_, body := s.get(t, base+"/rules")
	for _, want := range []string{`<a class="tag" href="/console/drafts/rules/wine">draft`, "ann and admin", "of version 1", `href="/console/drafts/rules/tea"`} {
		contains(t, body, want, "the rules")
	}
	_, body = s.get(t, base+"/editor/wine")
	contains(t, body, "There is a draft with changes by ann and admin.", "the editor")
	contains(t, body, "Wine by the path", "the editor of what is published")
	_, body = s.get(t, base+"/editor/wine?draft=1")
	for _, want := range []string{`value="Wine and beer"`, `name="draft" value="&#34;3&#34;"`, "Save the draft", `action="/console/editor/wine?draft=1"`} {
		contains(t, body, want, "the draft's editor")
	}
	at := base + "/drafts/rules/wine"
	_, body = s.get(t, at)
	for _, want := range []string{"Draft of Wine and beer", "Saved by ann and admin", "Its title was “Wine by the path” and is “Wine &amp; beer”.", "Count it"} {
		contains(t, body, want, "the draft")
	}
	status, _, h := s.post(t, at, url.Values{"do": {"plan"}, "draft": {"3"}, "tag": {`"1"`}})
	if status != 303 || h.Get("Location") != at+"?plan=plan-2&of=3" || w.asked[0] != "POST /api/v1/rules/wine/draft/publish/dry-run by admin: respond-async, wait=2" {
		t.Errorf("counted: %d to %q, asked %q", status, h.Get("Location"), w.asked)
	}
	_, body = s.get(t, at+"?plan=plan-2&of=3")
	for _, want := range []string{`hx-get="/console/drafts/rules/wine?plan=plan-2&amp;of=3"`, "40 %", "48,000 of about 120,000 stored events", "Cancel counting"} {
		contains(t, body, want, "a count that runs")
	}
	_, body = s.get(t, at+"?plan=plan-1&of=3")
	for _, want := range []string{"2 audiences would have other members; 6 would keep theirs", "2,480", "2,960", "What <a href=\"/console/destinations/acme\">acme</a> would hold", "once the 90 days are folded again"} {
		contains(t, body, want, "what was counted")
	}
	if strings.Contains(body, "saved again after") {
		t.Error("it says that the count is of another draft")
	}
	_, body = s.get(t, at+"?plan=plan-1&of=2")
	contains(t, body, "The draft was saved again after this was counted.", "a count of before")
	_, body = s.get(t, at+"?plan=plan-9&of=3")
	contains(t, body, "Count again.", "a count that is gone")
	status, _, h = s.post(t, at, url.Values{"do": {"publish"}, "draft": {"3"}, "tag": {`"1"`}})
	if status != 303 || h.Get("Location") != base+"/operations/refold-2" || w.asked[1] != `POST /api/v1/rules/wine/draft/publish by admin: "1"` {
		t.Errorf("published: %d to %q, asked %q", status, h.Get("Location"), w.asked)
	}
	// What is wrong with it is said, not counted.
	status, body, _ = s.post(t, base+"/drafts/rules/tea", url.Values{"do": {"plan"}, "draft": {"1"}})
	if status != 422 || !strings.Contains(body, "no such category") {
		t.Errorf("a faulty one: %d", status)
	}
	if status, _, h = s.post(t, base+"/drafts/rules/tea", url.Values{"do": {"discard"}, "draft": {"1"}}); status != 303 || h.Get("Location") != base+"/rules" || w.draftNow("rules", "tea") != nil {
		t.Errorf("discarded: %d to %q", status, h.Get("Location"))
	}
	if status, _ = s.status(t, base+"/drafts/rules/tea"); status != 404 {
		t.Errorf("then: %d", status)
	}
	if status, _ = s.status(t, base+"/drafts/audiences/wine"); status != 404 {
		t.Errorf("of a kind without: %d", status)
	}
}

// Who saves or publishes what somebody else changed meanwhile is told so in words, and
// what was typed stays.
func TestADraftThatSomebodyElseChangedIsNotOverwritten(t *testing.T) {
	w := normal()
	s := serve(t, w)
	form := url.Values{"was": {""}, "text": {""}, "title": {"Mine"}, "then": {"c:products/wine"}, "do": {"draft"}, "draft": {`"2"`}}
	status, body, _ := s.post(t, base+"/editor/wine?draft=1", form)
	if status != 412 || len(w.asked) > 0 {
		t.Fatalf("%d, asked %q", status, w.asked)
	}
	for _, want := range []string{"admin saved this draft since you opened it. Save again to put yours in its place.", "Wine and beer", `value="Mine"`, `name="draft" value="&#34;3&#34;"`} {
		contains(t, body, want, "a conflict")
	}
	form.Set("draft", `"3"`)
	if status, _, h := s.post(t, base+"/editor/wine?draft=1", form); status != 303 || h.Get("Location") != base+"/drafts/rules/wine" || !strings.HasPrefix(w.asked[0], `PUT /api/v1/rules/wine/draft by admin: "3" {"id":"wine","title":"Mine"`) {
		t.Errorf("again: %d, asked %q", status, w.asked)
	}
	// From what is published, where there is a draft already.
	form.Set("draft", "")
	if status, body, _ = s.post(t, base+"/editor/wine", form); status != 412 || !strings.Contains(body, "admin has saved a draft of this rule already.") {
		t.Errorf("a second one: %d", status)
	}
	// Of one that is gone.
	w.drafts = w.drafts[1:]
	form.Set("draft", `"4"`)
	if status, body, _ = s.post(t, base+"/editor/wine?draft=1", form); !strings.Contains(body, "was published or discarded since you opened it") || !strings.Contains(body, `name="draft" value=""`) {
		t.Errorf("one that is gone: %d", status)
	}
	// A new rule begins as a draft.
	form = url.Values{"was": {""}, "text": {""}, "title": {"Green tea"}, "then": {"c:products/food"}, "do": {"draft"}, "draft": {""}}
	if status, _, h := s.post(t, base+"/editor", form); status != 303 || h.Get("Location") != base+"/drafts/rules/green-tea" {
		t.Errorf("a new one: %d", status)
	}
	// The draft, or what is published, changed after it was looked at.
	at := base + "/drafts/taxonomies/products"
	n := len(w.asked)
	if status, body, _ = s.post(t, at, url.Values{"do": {"publish"}, "draft": {"1"}, "tag": {`"2"`}}); status != 412 || !strings.Contains(body, "ann saved this draft since you looked at it.") {
		t.Errorf("another draft: %d", status)
	}
	if status, body, _ = s.post(t, at, url.Values{"do": {"publish"}, "draft": {"2"}, "tag": {`"1"`}}); status != 412 || !strings.Contains(body, "Somebody published or deleted this taxonomy since you looked at it.") || !strings.Contains(body, `name="tag" value="&#34;2&#34;"`) {
		t.Errorf("another version: %d", status)
	}
	contains(t, body, "Version 2 was published after this draft was begun.", "a draft that is behind")
	if len(w.asked) != n {
		t.Errorf("asked %q", w.asked[n:])
	}
}

func TestATreeIsChangedInItsDraft(t *testing.T) {
	w := normal()
	s := serve(t, w)
	_, body := s.get(t, base+"/taxonomies/products")
	contains(t, body, "There is a draft with changes by ann.", "the tree")
	if strings.Contains(body, "/tea") {
		t.Error("what is published has what the draft adds")
	}
	_, body = s.get(t, base+"/taxonomies/products?draft=1")
	for _, want := range []string{"This is the draft, saved by ann", `href="/console/taxonomies/products/tea?draft=1"`, "6 categories", `action="/console/taxonomies/products?draft=1"`} {
		contains(t, body, want, "the draft's tree")
	}
	at := base + "/taxonomies/products/"
	for i, c := range []struct {
		path   string
		form   url.Values
		to     string
		has    string
		hasNot string
	}{
		{at + "food?draft=1", url.Values{"do": {"add"}, "title": {"Coffee"}, "parents": {"food"}}, at + "coffee?draft=1", `{"id":"coffee","title":"Coffee","parents":["food"]}`, "!"},
		{at + "tea?draft=1", url.Values{"do": {"save"}, "title": {"Teas"}, "life": {"30"}, "tag": {`"3"`}}, at + "tea?draft=1", `{"id":"tea","title":"Teas","life":30}`, `"Tea"`},
		{at + "tea?draft=1", url.Values{"do": {"archive"}, "tag": {`"4"`}}, at + "tea?draft=1", `"archived":"2026-11-25T`, "!"},
		{at + "tea?draft=1", url.Values{"do": {"restore"}, "tag": {`"5"`}}, at + "tea?draft=1", `"Teas"`, "archived"},
		{at + "coffee?draft=1", url.Values{"do": {"delete"}, "tag": {`"6"`}}, base + "/taxonomies/products?draft=1", `"Teas"`, "coffee"},
	} {
		status, _, h := s.post(t, c.path, c.form)
		if kept := string(w.draftNow("taxonomies", "products").Definition); status != 303 || h.Get("Location") != c.to || len(w.asked) != i+1 || !strings.Contains(kept, c.has) || strings.Contains(kept, c.hasNot) {
			t.Errorf("%v: %d to %q, kept %s", c.form, status, h.Get("Location"), kept)
		}
	}
	for _, asked := range w.asked {
		if !strings.HasPrefix(asked, "PUT /api/v1/taxonomies/products/draft by admin: ") {
			t.Errorf("asked %q", asked)
		}
	}
	n := len(w.asked)
	for _, c := range []struct {
		path, says string
		form       url.Values
	}{
		{at + "food?draft=1", "is below it; move or delete that first", url.Values{"do": {"delete"}, "tag": {`"7"`}}},
		{at + "food?draft=1", "there is a category &#34;tea&#34; already", url.Values{"do": {"add"}, "id": {"tea"}, "title": {"T"}}},
		{at + "tea?draft=1", "ann saved this draft since you opened it.", url.Values{"do": {"save"}, "title": {"Mine"}, "tag": {`"3"`}}},
	} {
		if status, body, _ := s.post(t, c.path, c.form); status < 400 || !strings.Contains(body, c.says) {
			t.Errorf("%v: %d", c.form, status)
		}
	}
	if len(w.asked) != n {
		t.Errorf("asked %q", w.asked[n:])
	}
	// A tree that is not right yet is shown with what is wrong.
	d := w.draftNow("taxonomies", "products")
	d.Definition, d.Faults = json.RawMessage(`{"id":"products","title":"P","categories":[{"id":"a","title":"A","parents":["b"]},{"id":"b","title":"B","parents":["a"]},{"id":"c","title":"C"}]}`), []tagserver.ProblemError{{Location: "definition.categories[0].parents", Message: "a circle"}}
	if status, body := s.get(t, base+"/taxonomies/products?draft=1"); status != 200 || !strings.Contains(body, "a circle") {
		t.Errorf("a faulty one: %d", status)
	}
	// A draft is begun from what is published; where there is one, that is shown.
	if status, _, h := s.post(t, base+"/drafts/taxonomies/products", url.Values{"do": {"begin"}}); status != 303 || h.Get("Location") != base+"/drafts/taxonomies/products" {
		t.Errorf("a second one: %d", status)
	}
	w.drafts = nil
	if status, _, h := s.post(t, base+"/drafts/taxonomies/products", url.Values{"do": {"begin"}}); status != 303 || h.Get("Location") != base+"/taxonomies/products?draft=1" || !strings.Contains(w.asked[n], `PUT /api/v1/taxonomies/products/draft by admin: * {"id":"products"`) {
		t.Errorf("begun: %d, asked %q", status, w.asked[n:])
	}
}
