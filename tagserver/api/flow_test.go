package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/delivery"
)

// samples are a good document of every kind, and a changed one, in a stage that
// was furnished.
var samples = []struct {
	path, id, one, two string
	kind               defs.Kind
}{
	{"/sites", "x", `{"id":"x","title":"One","origins":["https://x.example"],"source":"own","consent":"opt-in"}`, `{"id":"x","title":"Two","origins":["https://x.example"],"source":"own","consent":"by-country"}`, defs.Site},
	{"/sources", "x", `{"id":"x","title":"One","party":1}`, `{"id":"x","title":"Two","party":1,"withdrawn":true}`, defs.Source},
	{"/taxonomies", "x", `{"id":"x","title":"One","categories":[{"id":"a","title":"A"}]}`, `{"id":"x","title":"Two","categories":[{"id":"a","title":"A"}]}`, defs.Taxonomy},
	{"/rules", "x", `{"id":"x","title":"One","then":["c:mine/a"]}`, `{"id":"x","title":"Two","then":["c:mine/a"]}`, defs.Rule},
	{"/audiences", "x", `{"id":"x","title":"One","kind":"rule","rule":{"any":true}}`, `{"id":"x","title":"Two","kind":"rule","rule":{"any":true}}`, defs.Audience},
	{"/lookalikes", "x", `{"id":"x","title":"One","kind":"lookalike","lookalike":{"seed":"bees","share":0.05}}`, `{"id":"x","title":"Two","kind":"lookalike","lookalike":{"seed":"bees","share":0.06}}`, defs.Audience},
	{"/destinations", "x", `{"id":"x","title":"One","ids":"pseudonym","audiences":[],"floor":1000,"format":"tsv","transport":"pull","every":"1h0m0s","full_every":"24h0m0s"}`,
		`{"id":"x","title":"Two","ids":"pseudonym","audiences":["bees"],"floor":1000,"format":"tsv","transport":"pull","every":"1h0m0s","full_every":"24h0m0s"}`, defs.Destination},
}

func same2(t *testing.T, what string, got, want []byte) {
	t.Helper()
	var g, w map[string]any
	if json.Unmarshal(got, &g) != nil || json.Unmarshal(want, &w) != nil {
		t.Fatalf("%s: %s is no JSON", what, got)
	}
	delete(g, "key")
	if !reflect.DeepEqual(g, w) {
		t.Errorf("%s: got %s, want %s", what, got, want)
	}
}

func TestAChangeNeedsTheVersionThatItWasMadeFrom(t *testing.T) {
	for _, c := range samples {
		t.Run(strings.TrimPrefix(c.path, "/"), func(t *testing.T) {
			s := newStage(t)
			s.furnish()
			at := c.path + "/" + c.id

			s.must(404, "GET", at, "")
			s.must(428, "PUT", at, c.one)
			s.must(404, "PUT", at, c.one, `If-Match: "1"`)
			s.must(404, "PUT", at, c.one, `If-Match: *`)
			s.must(400, "PUT", at, c.one, `If-None-Match: "1"`)
			s.must(400, "PUT", at, c.one, `If-None-Match: *`, `If-Match: "1"`)
			made := s.must(201, "PUT", at, c.one, `If-None-Match: *`)
			if made.head.Get("ETag") != `"1"` || made.head.Get("Location") != base+at {
				t.Errorf("made: ETag %s, Location %s", made.head.Get("ETag"), made.head.Get("Location"))
			}
			same2(t, "made", made.body, []byte(c.one))
			s.must(412, "PUT", at, c.one, `If-None-Match: *`)
			s.must(409, "POST", c.path, c.one)

			got := s.must(200, "GET", at, "")
			same2(t, "got", got.body, []byte(c.one))
			if got.head.Get("ETag") != `"1"` {
				t.Errorf("ETag %s", got.head.Get("ETag"))
			}
			if a := s.must(304, "GET", at, "", `If-None-Match: "7", W/"1"`); len(a.body) > 0 || a.head.Get("ETag") != `"1"` {
				t.Errorf("not modified: %s %s", a.head, a.body)
			}
			s.must(200, "GET", at, "", `If-None-Match: "2"`)

			s.must(428, "PUT", at, c.two)
			s.must(400, "PUT", at, c.two, `If-Match: 1`)
			s.must(412, "PUT", at, c.two, `If-Match: "2"`)
			s.must(412, "PUT", at, c.two, `If-Match: W/"1"`)
			changed := s.must(200, "PUT", at, c.two, `If-Match: "9", "1"`)
			if changed.head.Get("ETag") != `"2"` {
				t.Errorf("changed: ETag %s", changed.head.Get("ETag"))
			}
			same2(t, "changed", changed.body, []byte(c.two))
			s.must(412, "PUT", at, c.one, `If-Match: "1"`)
			// What is read can be put, as it is: nothing is lost on the way.
			read := s.must(200, "GET", at, "")
			s.must(200, "PUT", at, string(read.body), "If-Match: "+read.head.Get("ETag"))
			same2(t, "put back", s.must(200, "GET", at, "").body, []byte(c.two))

			s.must(428, "DELETE", at, "")
			s.must(412, "DELETE", at, "", `If-Match: "1"`)
			s.must(204, "DELETE", at, "", `If-Match: "3"`)
			s.must(404, "GET", at, "")
			s.must(404, "DELETE", at, "", `If-Match: "3"`)
			// Versions go on, so an ETag from before never fits again.
			again := s.must(201, "POST", c.path, c.one)
			if tag := again.head.Get("ETag"); tag == `"1"` || tag == `"2"` || tag == `"3"` {
				t.Errorf("made again with the ETag %s of before", tag)
			}
		})
	}
}

func TestAChangeIsInForceBeforeItIsAnswered(t *testing.T) {
	s := newStage(t)
	s.furnish()
	for _, c := range samples {
		s.must(201, "POST", c.path, strings.ReplaceAll(c.one, `"x"`, `"y"`))
		if s.inForce != s.defs.Version() {
			t.Errorf("%s: version %d of the definitions is in force, %d is kept", c.path, s.inForce, s.defs.Version())
		}
		s.must(204, "DELETE", c.path+"/y", "", "If-Match: *")
		if s.inForce != s.defs.Version() {
			t.Errorf("%s deleted: version %d of the definitions is in force, %d is kept", c.path, s.inForce, s.defs.Version())
		}
	}
	s.changed = errBoom
	a := s.must(503, "POST", "/sources", `{"id":"late","party":1}`)
	if p := a.problem(t); strings.Contains(string(a.body), "boom") || !strings.Contains(p.Detail, "kept") || a.head.Get("Retry-After") == "" {
		t.Errorf("not in force: %s", a.body)
	}
}

func TestWhatIsUsedIsNotDeleted(t *testing.T) {
	s := newStage(t)
	s.furnish()
	s.must(201, "POST", "/rules", `{"id":"r2","sites":["import.own"],"then":["k:plan=pro"]}`)
	for _, c := range []struct {
		path string
		want []string
	}{
		{"/sources/own", []string{"sites/shop", "rules/r2", "audiences/bees"}},
		{"/sites/shop", []string{"rules/r1"}},
		{"/taxonomies/mine", []string{"rules/r1.then[0]", "audiences/bees"}},
		{"/taxonomies/mine/categories/b", []string{"rules/r1.then[0]", "audiences/bees"}},
		{"/taxonomies/mine/categories/a", []string{"taxonomies/mine/categories/b"}},
		{"/audiences/bees", []string{"audiences/like-bees", "audiences/not-bees"}},
		{"/audiences/not-bees", []string{"destinations/dsp"}},
	} {
		p := s.must(409, "DELETE", c.path, "", "If-Match: *").problem(t)
		if p.Code != codeInUse || !slices.Equal(places(p), c.want) {
			t.Errorf("DELETE %s: %s, users %q, want %q", c.path, p.Code, places(p), c.want)
		}
	}
	// A change that takes a used category away is refused like its deletion.
	p := s.must(409, "PUT", "/taxonomies/mine", `{"title":"Mine","categories":[{"id":"a","title":"A"}]}`, "If-Match: *").problem(t)
	if !slices.Equal(places(p), []string{"rules/r1.then[0]", "audiences/bees"}) {
		t.Errorf("a taxonomy without a used category: %q", places(p))
	}
	for _, path := range []string{"/destinations/dsp", "/audiences/not-bees", "/lookalikes/like-bees", "/audiences/bees", "/rules/r1", "/rules/r2", "/taxonomies/mine", "/sites/shop", "/sources/own"} {
		s.must(204, "DELETE", path, "", "If-Match: *")
	}
	if len(s.dropped) != 1 || s.dropped[0] != "dsp" {
		t.Errorf("dropped %q: the partner's ledger and files go with the destination", s.dropped)
	}
}

func TestADestinationsKeyIsShownOnceAndKeptAsAHash(t *testing.T) {
	s := newStage(t)
	s.furnish()
	var made, other struct {
		Key     string `json:"key"`
		KeyHash string `json:"key_hash"`
	}
	hash := func() string {
		d, _, err := defs.Load[delivery.Destination](s.defs, defs.Destination, "x")
		if err != nil {
			t.Fatal(err)
		}
		return d.KeyHash
	}
	s.must(201, "POST", "/destinations", `{"id":"x","title":"X"}`).into(t, &made)
	if !delivery.CheckKey(hash(), made.Key) || made.KeyHash != "" {
		t.Fatalf("the key %q is not the one that is kept, or its hash is shown: %q", made.Key, made.KeyHash)
	}
	for _, path := range []string{"/destinations", "/destinations/x"} {
		if a := s.must(200, "GET", path, ""); strings.Contains(string(a.body), "key") {
			t.Errorf("GET %s tells of the key: %s", path, a.body)
		}
	}
	s.must(200, "PUT", "/destinations/x", `{"title":"Y"}`, `If-Match: "1"`)
	if !delivery.CheckKey(hash(), made.Key) {
		t.Error("a change of the title made the key void")
	}
	a := s.must(200, "POST", "/destinations/x/key", "")
	a.into(t, &other)
	if a.head.Get("ETag") != `"3"` || other.Key == made.Key || !delivery.CheckKey(hash(), other.Key) || delivery.CheckKey(hash(), made.Key) {
		t.Errorf("a new key: %s %s", a.head.Get("ETag"), a.body)
	}
}

func TestBuiltInTaxonomiesAreReadOnly(t *testing.T) {
	s := newStage(t)
	s.furnish()
	var list page[item[taxonomyView]]
	s.must(200, "GET", "/taxonomies", "").into(t, &list)
	if len(list.Items) != 2 || list.Items[0].ID != "iab" || list.Items[0].Version != 0 || list.Items[1].Definition.Categories != nil {
		t.Errorf("list %+v", list)
	}
	var got taxonomyView
	s.must(200, "GET", "/taxonomies/iab", "").into(t, &got)
	if len(got.Categories) != 3 {
		t.Errorf("got %+v", got)
	}
	for _, c := range [][2]string{{"PUT", "/taxonomies/iab"}, {"DELETE", "/taxonomies/iab"}, {"PUT", "/taxonomies/iab/categories/1"}, {"DELETE", "/taxonomies/iab/categories/1"}} {
		if p := s.must(403, c[0], c[1], `{"title":"x"}`, "If-Match: *").problem(t); p.Code != codeBuiltIn {
			t.Errorf("%s %s: %s", c[0], c[1], p.Code)
		}
	}
}

func TestACategoryIsChangedUnderItsTaxonomysVersion(t *testing.T) {
	s := newStage(t)
	s.furnish()
	const at = "/taxonomies/mine/categories/"
	s.must(428, "PUT", at+"c", `{"title":"C"}`)
	if a := s.must(201, "PUT", at+"c", `{"title":"C","parents":["b"],"sensitive":true}`, "If-None-Match: *"); a.head.Get("ETag") != `"2"` {
		t.Errorf("added: %s", a.head.Get("ETag"))
	}
	s.must(412, "PUT", at+"c", `{"title":"C"}`, "If-None-Match: *")
	s.must(412, "PUT", at+"c", `{"title":"C"}`, `If-Match: "1"`)
	s.must(200, "PUT", at+"c", `{"title":"See","parents":["b"],"sensitive":true}`, `If-Match: "2"`)
	s.must(201, "PUT", at+"d", `{"title":"D","parents":["c"]}`, `If-Match: "3"`)
	for _, c := range []struct{ id, body, want string }{
		{"e", `{"title":"E","parents":["zebra"]}`, "body.parents[0]"},
		{"e", `{"id":"f","title":"E"}`, "body.id"},
		{"e", `{"titel":"E"}`, "body.titel"},
		{"e", `{}`, "body.title"},
		{"b", `{"title":"B","parents":["d"]}`, "body.parents"},
		{"!", `{"title":"E"}`, "body.id"},
	} {
		if p := s.must(422, "PUT", at+c.id, c.body, "If-Match: *").problem(t); !slices.Equal(places(p), []string{c.want}) {
			t.Errorf("PUT %s %s: faults at %q, want %s", c.id, c.body, places(p), c.want)
		}
	}
	var list page[categoryView]
	s.must(200, "GET", "/taxonomies/mine/categories", "").into(t, &list)
	d := list.Items[3]
	if len(list.Items) != 5 || d.Trait != "c:mine/d" || !d.Sensitive || fmt.Sprint(d.Ancestors) != "[c:mine/a c:mine/b c:mine/c]" {
		t.Errorf("listed %+v", list.Items)
	}
	s.must(404, "DELETE", at+"zebra", "", "If-Match: *")
	s.must(428, "DELETE", at+"d", "")
	if a := s.must(204, "DELETE", at+"d", "", `If-Match: "4"`); a.head.Get("ETag") != `"5"` {
		t.Errorf("deleted: ETag %s", a.head.Get("ETag"))
	}
}

func TestEveryRequiredFieldIsRequiredAndNoOther(t *testing.T) {
	s := newStage(t)
	s.furnish()
	var doc struct {
		Paths map[string]map[string]struct {
			RequestBody *struct {
				Content map[string]struct {
					Schema struct {
						Ref string `json:"$ref"`
					}
				}
			}
		}
		Components struct {
			Schemas map[string]struct{ Required []string }
		}
	}
	if err := json.Unmarshal(s.description(), &doc); err != nil {
		t.Fatal(err)
	}
	minimal := map[string]string{
		"/sites": `{"origins":["https://m.example"],"source":"own","consent":"opt-in"}`, "/sources": `{"party":1}`, "/taxonomies": `{"title":"M"}`,
		"/rules": `{"then":["k:a=b"]}`, "/audiences": `{"title":"M","kind":"upload","list":"l"}`, "/destinations": `{"title":"M"}`,
		"/taxonomies/mine/categories": `{"title":"M"}`,
	}
	for path, body := range minimal {
		ref := doc.Paths[base+strings.Replace(path, "mine", "{id}", 1)+"/{id}"]["put"].RequestBody
		if strings.HasSuffix(path, "categories") {
			ref = doc.Paths[base+"/taxonomies/{id}/categories/{category}"]["put"].RequestBody
		}
		name := strings.TrimPrefix(ref.Content["application/json"].Schema.Ref, "#/components/schemas/")
		want := doc.Components.Schemas[name].Required
		if len(want) == 0 {
			t.Errorf("%s: the schema %q requires nothing", path, name)
		}
		for _, field := range want {
			var m map[string]json.RawMessage
			if err := json.Unmarshal([]byte(body), &m); err != nil {
				t.Fatal(err)
			}
			delete(m, field)
			b, _ := json.Marshal(m)
			if p := s.must(422, "PUT", path+"/m", string(b), "If-None-Match: *").problem(t); !slices.Contains(places(p), "body."+field) {
				t.Errorf("%s without %s: %q", path, field, places(p))
			}
		}
		s.must(201, "PUT", path+"/m", body, "If-None-Match: *")
	}
}

func TestPagesHaveEveryEntryOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ids := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z0-9]{1,4}`), 0, 30, rapid.ID[string]).Draw(rt, "ids")
		limit := rapid.IntRange(1, 12).Draw(rt, "limit")
		slices.Sort(ids)
		in := listIn{Limit: limit}
		var got []string
		for range len(ids) + 2 {
			out, err := paged("/x", &in, ids, func(s *string) string { return *s })
			if err != nil {
				rt.Fatal(err)
			}
			got = append(got, out.Body.Items...)
			if (out.Body.Next == "") != (out.Link == "") {
				rt.Fatalf("next %q, Link %q", out.Body.Next, out.Link)
			}
			if out.Body.Next == "" {
				break
			}
			in.Cursor = out.Body.Next
			// An entry that goes between two pages takes no other along.
			if gone := rapid.Bool().Draw(rt, "goes"); gone && len(got) > 0 {
				last := got[len(got)-1]
				ids = slices.DeleteFunc(slices.Clone(ids), func(s string) bool { return s == last })
			}
		}
		seen := map[string]bool{}
		for _, id := range got {
			if seen[id] {
				rt.Fatalf("%s came twice in %q", id, got)
			}
			seen[id] = true
		}
		for _, id := range ids {
			if !seen[id] {
				rt.Fatalf("%s did not come in %q", id, got)
			}
		}
	})
}

func TestListsGoOnAtTheirCursor(t *testing.T) {
	s := newStage(t)
	for i := range 7 {
		s.must(201, "POST", "/sources", fmt.Sprintf(`{"id":"s%d","party":1}`, i))
	}
	var got []string
	path := "/sources?limit=3"
	for path != "" {
		a := s.must(200, http.MethodGet, path, "")
		var list page[item[json.RawMessage]]
		a.into(t, &list)
		for _, it := range list.Items {
			got = append(got, it.ID)
		}
		path = ""
		if link := a.head.Get("Link"); link != "" {
			path = strings.TrimPrefix(strings.TrimSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`), base)
			s.must(400, http.MethodGet, strings.Replace(path, "sources", "sites", 1), "")
		}
	}
	if fmt.Sprint(got) != "[s0 s1 s2 s3 s4 s5 s6]" {
		t.Errorf("listed %v", got)
	}
}
