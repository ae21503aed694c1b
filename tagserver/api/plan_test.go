package api

import (
	"context"
	"encoding/json"

	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
)

// sent is a set as it is sent.
type sent struct {
	Definitions []planDefinition `json:"definitions"`
	Prune       bool             `json:"prune,omitempty"`
	Hash        string           `json:"hash,omitempty"`
}

func (s sent) with(kind, definition string) sent {
	s.Definitions = append(slices.Clone(s.Definitions), planDefinition{kind, json.RawMessage(definition)})
	return s
}

func (s sent) body() string {
	if s.Definitions == nil {
		s.Definitions = []planDefinition{}
	}
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func (s *stage) planned(set sent) (v planView) {
	s.t.Helper()
	s.must(200, "POST", "/plan", set.body()).into(s.t, &v)
	return v
}

func (s *stage) applied(set sent) (v applyView) {
	s.t.Helper()
	set.Hash = s.planned(set).Hash
	s.must(200, "POST", "/apply", set.body()).into(s.t, &v)
	return v
}

// exported is every definition as the API shows it.
func (s *stage) exported() (set sent) {
	s.t.Helper()
	for _, k := range []struct{ list, kind string }{{"sources", "source"}, {"sites", "site"}, {"taxonomies", "taxonomy"}, {"rules", "rule"}, {"audiences", "audience"}, {"destinations", "destination"}} {
		var p page[item[json.RawMessage]]
		s.must(200, "GET", "/"+k.list+"?limit=1000", "").into(s.t, &p)
		for _, it := range p.Items {
			if it.Version == 0 {
				continue
			}
			set = set.with(k.kind, string(s.must(200, "GET", "/"+k.list+"/"+it.ID, "").body))
		}
	}
	return set
}

func (v *planView) says() (all []string) {
	for _, c := range v.Changes {
		all = append(all, c.What+" "+c.Kind+" "+c.ID)
	}
	return all
}

func TestASetIsPlannedAndAppliedAsOne(t *testing.T) {
	s := newStage(t)
	s.furnish()
	if v := s.planned(s.exported()); len(v.Changes) != 0 || v.Same != 9 {
		t.Errorf("what is there already: %+v", v)
	}
	// Each names what only the set brings, in whatever order.
	set := sent{}.
		with("destination", `{"id":"dsp","title":"A DSP","audiences":["not-bees","wasps"]}`).
		with("audience", `{"id":"wasps","title":"Wasps","kind":"rule","rule_text":"c:insects/wasp in 30d and not audience bees"}`).
		with("rule", `{"id":"r1","sites":["garden"],"when":[{"field":"path","op":"prefix","value":"/w"}],"then":["c:insects/wasp"]}`).
		with("site", `{"id":"garden","origins":["https://garden.example"],"source":"own","consent":"opt-in"}`).
		with("taxonomy", `{"id":"insects","title":"Insects","categories":[{"id":"wasp","title":"Wasps"}]}`).
		with("destination", `{"id":"new","title":"New","audiences":["wasps"]}`)
	v := s.planned(set)
	want := []string{"change destination dsp", "make audience wasps", "change rule r1", "make site garden", "make taxonomy insects", "make destination new"}
	if got := v.says(); !slices.Equal(got, want) || !slices.Equal(v.Changes[0].Fields, []string{"audiences"}) || !slices.Equal(v.Changes[2].Fields, []string{"sites", "then", "when"}) {
		t.Errorf("planned %+v", v)
	}
	before := s.defs.Version()
	if s.planned(set).Hash != v.Hash || s.defs.Version() != before {
		t.Error("a plan is not the same twice, or keeps something")
	}
	a := s.applied(set)
	if a.Hash != v.Hash || len(a.Keys) != 1 || a.Keys[0].Destination != "new" || !strings.HasPrefix(a.Keys[0].Key, "ebbp_") || a.Changes[0].Version != 2 || a.Changes[1].Version != 1 {
		t.Errorf("applied %+v", a)
	}
	if s.inForce != s.defs.Version() {
		t.Error("it is not in force")
	}
	if v := s.planned(set); len(v.Changes) != 0 {
		t.Errorf("once more: %v", v.says())
	}
	if v := s.planned(s.exported()); len(v.Changes) != 0 {
		t.Errorf("what is exported: %v", v.says())
	}
	if a := s.applied(set); len(a.Changes) != 0 || len(a.Keys) != 0 {
		t.Errorf("applied once more: %+v", a)
	}
}

func TestApplyDoesWhatWasPlannedOrRefuses(t *testing.T) {
	s := newStage(t)
	s.furnish()
	set := sent{}.with("source", `{"id":"own","title":"Ours, changed","party":1,"agreement":{"uses":["store","profile"]}}`)
	s.must(422, "POST", "/apply", set.body()) // without a plan
	set.Hash = s.planned(set).Hash
	// Somebody changes another definition, on which what the plan said may rest.
	s.must(200, "PUT", "/audiences/bees", `{"title":"Bees!","kind":"rule","rule":{"trait":"c:mine/b"}}`, "If-Match: *")
	if a := s.must(409, "POST", "/apply", set.body()); a.problem(t).Code != codeChanged {
		t.Errorf("%s", a.body)
	}
	set.Hash = ""
	set.Hash = s.planned(set).Hash
	other := set.with("source", `{"id":"more","party":2}`)
	s.must(409, "POST", "/apply", other.body())
	s.must(200, "POST", "/apply", set.body())
	var src struct{ Title string }
	s.must(200, "GET", "/sources/own", "").into(t, &src)
	if src.Title != "Ours, changed" {
		t.Errorf("%+v", src)
	}
	s.must(422, "POST", "/plan", set.body()) // a hash is for apply
}

func TestNothingIsDeletedWithoutPrune(t *testing.T) {
	s := newStage(t)
	s.furnish()
	all := s.exported()
	some := sent{}
	for _, d := range all.Definitions {
		if !strings.Contains(string(d.Definition), `"id":"like-bees"`) && !strings.Contains(string(d.Definition), `"id":"dsp"`) {
			some.Definitions = append(some.Definitions, d)
		}
	}
	if v := s.planned(some); len(v.Changes) != 0 {
		t.Errorf("%v", v.says())
	}
	some.Prune = true
	if v := s.planned(some); !slices.Equal(v.says(), []string{"delete audience like-bees", "delete destination dsp"}) {
		t.Errorf("%v", v.says())
	}
	s.applied(some)
	s.must(404, "GET", "/destinations/dsp", "")
	s.must(404, "GET", "/audiences/like-bees", "")
	if !slices.Contains(s.dropped, "dsp") {
		t.Error("the destination's files stay")
	}
	// Who is in use is not deleted, unless its users go or change with it.
	none := sent{Prune: true}.with("rule", `{"id":"r1","sites":["shop"],"when":[{"field":"path","op":"prefix","value":"/b"}],"then":["c:mine/b"]}`)
	p := s.must(422, "POST", "/plan", none.body()).problem(t)
	if at := places(p); !slices.Contains(at, "body.definitions[0].definition.sites[0]") || !slices.Contains(at, "body.definitions[0].definition.then[0]") {
		t.Errorf("%+v", p)
	}
	s.applied(sent{Prune: true})
	for _, k := range []string{"/sources", "/sites", "/rules", "/audiences", "/destinations"} {
		var p page[item[json.RawMessage]]
		if s.must(200, "GET", k, "").into(t, &p); len(p.Items) != 0 {
			t.Errorf("%s: %d", k, len(p.Items))
		}
	}
	s.must(200, "GET", "/keys/admin", "") // no definition of a folder
}

func TestEveryFaultOfASetIsNamedWithItsPlace(t *testing.T) {
	s := newStage(t)
	s.furnish()
	for _, c := range []struct {
		name string
		set  sent
		at   []string
	}{
		{"a kind that is none", sent{}.with("sit", `{}`), []string{"body.definitions[0].kind"}},
		{"two of one ID", sent{}.with("source", `{"id":"x","party":1}`).with("source", `{"id":"x","party":2}`), []string{"body.definitions[1].definition.id"}},
		{"a misspelt field", sent{}.with("source", `{"id":"x","party":1}`).with("site", `{"id":"y","sauce":"x"}`), []string{"body.definitions[1].definition.sauce"}},
		{"no ID", sent{}.with("source", `{"party":1}`), []string{"body.definitions[0].definition.id"}},
		{"what is built in", sent{}.with("taxonomy", `{"id":"iab","title":"Mine"}`), []string{"body.definitions[0]"}},
		{"names that are not there", sent{}.with("site", `{"id":"y","origins":["https://y.example"],"source":"x","consent":"opt-in"}`).with("destination", `{"id":"z","title":"Z","audiences":["nobody"]}`),
			[]string{"body.definitions[0].definition.source", "body.definitions[1].definition.audiences[0]"}},
		{"a rule text", sent{}.with("audience", `{"id":"y","title":"Y","kind":"rule","rule_text":"c:mine/b in"}`), []string{"body.definitions[0].definition.rule_text"}},
		{"audiences in a circle", sent{}.with("audience", `{"id":"x","title":"X","kind":"rule","rule":{"audience":"y"}}`).with("audience", `{"id":"y","title":"Y","kind":"rule","rule":{"audience":"x"}}`),
			[]string{"body.definitions[0].definition.rule.audience"}},
		{"a category that others name", sent{}.with("taxonomy", `{"id":"mine","title":"Mine","categories":[{"id":"a","title":"A"}]}`), []string{"rules/r1.then[0]"}},
		{"a source in use", sent{Prune: true}.with("site", `{"id":"shop","origins":["https://shop.example"],"source":"own","consent":"opt-in"}`), []string{"body.definitions[0].definition.source"}},
	} {
		a := s.call("POST", "/plan", c.set.body())
		if a.code != 422 {
			t.Errorf("%s: %d %s", c.name, a.code, a.body)
			continue
		}
		got := places(a.problem(t))
		for _, at := range c.at {
			if !slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, at) }) {
				t.Errorf("%s: at %q, want %q: %s", c.name, got, at, a.body)
			}
		}
	}
}

// Export, then plan, changes nothing, whatever the definitions; and from nothing
// the export makes the same again.
func TestExportThenApplyIsNoChange(t *testing.T) {
	s := newStage(t)
	rapid.Check(t, func(r *rapid.T) {
		s.empty()
		set := randomSet(r)
		s.applied(set)
		out := s.exported()
		if len(out.Definitions) != len(set.Definitions) {
			r.Fatalf("%d definitions of %d come out", len(out.Definitions), len(set.Definitions))
		}
		out.Prune = rapid.Bool().Draw(r, "prune")
		if v := s.planned(out); len(v.Changes) != 0 || v.Same != len(set.Definitions) {
			r.Fatalf("what is exported would change %+v", v.Changes)
		}
		if v := s.planned(set); len(v.Changes) != 0 {
			r.Fatalf("what was applied would change %+v", v.Changes)
		}
		s.empty()
		s.applied(out)
		again := s.exported()
		if a, b := again.body(), (sent{Definitions: out.Definitions}).body(); a != b {
			r.Fatalf("from nothing comes\n%s, was\n%s", a, b)
		}
	})
}

// randomSet is a sound set of definitions, in any order.
func randomSet(r *rapid.T) (set sent) {
	pick := func(label string, n int) int { return rapid.IntRange(0, n-1).Draw(r, label) }
	maybe := func(label, s string) string {
		if rapid.Bool().Draw(r, label) {
			return s
		}
		return ""
	}
	word := func(label string) string {
		return rapid.StringMatching(`[A-Za-z0-9äöü"<&\\ :#-]{1,12}`).Draw(r, label)
	}
	quote := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	n := 1 + pick("sources", 3)
	for i := range n {
		set = set.with("source", fmt.Sprintf(`{"id":"s%d","party":%d%s%s}`, i, 1+pick("party", 3), maybe("title", `,"title":`+quote(word("t"))),
			maybe("agreement", `,"agreement":{"uses":["store","profile","export"]`+maybe("ends", `,"ends":"2030-01-02"`)+`}`)))
	}
	sites := pick("sites", 3)
	for i := range sites {
		set = set.with("site", fmt.Sprintf(`{"id":"w%d","title":%s,"origins":["https://w%d.example"%s],"source":"s%d","consent":%q%s}`, i, quote(word("t")), i,
			maybe("origin", fmt.Sprintf(`,"https://v%d.example:8443"`, i)), pick("of", n), []string{"opt-in", "by-country"}[pick("mode", 2)], maybe("keys", `,"query_keys":["q","utm"]`)))
	}
	cats := 1 + pick("categories", 5)
	list := make([]string, cats)
	for i := range cats {
		parents := ""
		if i > 0 && rapid.Bool().Draw(r, "child") {
			parents = fmt.Sprintf(`,"parents":["c%d"]`, pick("parent", i))
		}
		list[i] = fmt.Sprintf(`{"id":"c%d","title":%s%s%s}`, i, quote(word("t")), parents, maybe("sensitive", `,"sensitive":true`))
	}
	page := `,"page":true`
	if strings.Contains(strings.Join(list, ""), `"sensitive":true`) {
		page = "" // no page is told of what is sensitive
	}
	set = set.with("taxonomy", `{"id":"t","title":"T","categories":[`+strings.Join(list, ",")+`]}`)
	if sites > 0 {
		for i := range pick("rules", 3) {
			set = set.with("rule", fmt.Sprintf(`{"id":"r%d"%s,"when":[{"field":"path","op":"prefix","value":%s}],"then":["c:t/c%d"]}`, i, maybe("for", fmt.Sprintf(`,"sites":["w%d"]`, pick("site", sites))),
				quote("/"+strings.Map(func(c rune) rune {
					if c > 0x7e || c < 0x21 {
						return 'x'
					}
					return c
				}, word("path"))), pick("category", cats)))
		}
	}
	audiences := 1 + pick("audiences", 4)
	for i := range audiences {
		rule := fmt.Sprintf(`c:t/c%d in %dd`, pick("category", cats), 1+pick("days", 90))
		switch pick("form", 4) {
		case 0:
			rule += " and not " + fmt.Sprintf("c:t/c%d", pick("category", cats))
		case 1:
			if i > 0 {
				rule = fmt.Sprintf("audience a%d or %s", pick("nested", i), rule)
			}
		case 2:
			rule = "not (" + rule + ") or list crm"
		}
		how := `"rule_text":` + quote(rule)
		set = set.with("audience", fmt.Sprintf(`{"id":"a%d","title":%s,"kind":"rule",%s%s}`, i, quote(word("t")), how, maybe("page", page)))
	}
	if rapid.Bool().Draw(r, "lookalike") {
		set = set.with("audience", fmt.Sprintf(`{"id":"like","title":"L","kind":"lookalike","lookalike":{"seed":"a%d","size":%d}}`, pick("seed", audiences), 1000+pick("size", 1000)))
	}
	for i := range pick("destinations", 3) {
		set = set.with("destination", fmt.Sprintf(`{"id":"d%d","title":%s,"audiences":["a%d"]%s%s}`, i, quote(word("t")), pick("gets", audiences), maybe("floor", `,"floor":5000`), maybe("every", `,"every":"2h"`)))
	}
	set.Definitions = rapid.Permutation(set.Definitions).Draw(r, "order")
	return set
}

// A set that meets another's change is not made in part.
func TestASetThatMeetsAnotherChangeIsNotMade(t *testing.T) {
	s := newStage(t, func(o *Options) { o.Defs = racing{o.Defs} })
	s.furnish()
	set := sent{}.with("source", `{"id":"n1","party":1}`).with("source", `{"id":"n2","party":1}`)
	set.Hash = s.planned(set).Hash
	if a := s.must(409, "POST", "/apply", set.body()); a.problem(t).Code != codeChanged {
		t.Errorf("%s", a.body)
	}
	s.must(404, "GET", "/sources/n1", "")
	links := s.trail()
	if len(links) < 4 || links[0].What != "failed" || links[1].What != "failed" {
		t.Errorf("%+v", links[:4])
	}
}

// racing changes nothing in a set, since somebody else was first.
type racing struct{ Definitions }

func (racing) Apply(_ context.Context, _ string, _ []defs.Change) error {
	return fmt.Errorf("apply: %w", retention.ErrConflict)
}

func TestADryRunOfAnyDefinitionChangesNothing(t *testing.T) {
	s := newStage(t)
	s.furnish()
	var seen *defs.Snapshot
	s.preview = func(next *defs.Snapshot) (*Reach, error) {
		seen = next
		return &Reach{AsOf: now, Audiences: []AudienceReach{{ID: "bees", Was: true, Is: true, Difference: Difference{Before: 1000, After: 400, Removed: 600}}, {ID: "not-bees", Was: true, Is: true}}}, nil
	}
	before := s.defs.Version()
	var v planView
	s.must(200, "POST", "/sources/own/dry-run", `{"party":1,"withdrawn":true}`).into(t, &v)
	if !slices.Equal(v.says(), []string{"change source own"}) || len(v.Reach.Audiences) != 1 || v.Reach.Audiences[0].Removed.Shown != "600" || v.Reach.Unchanged != 1 {
		t.Errorf("%+v", v)
	}
	if d, _ := seen.Get(defs.Source, "own"); !strings.Contains(string(d.Body), `"withdrawn":true`) {
		t.Errorf("counted under %s", d.Body)
	}
	s.must(200, "POST", "/destinations/another/dry-run", `{"title":"Another","audiences":["bees"]}`).into(t, &v)
	if !slices.Equal(v.says(), []string{"make destination another"}) {
		t.Errorf("%v", v.says())
	}
	s.must(200, "POST", "/audiences/like-bees/deletion/dry-run", "").into(t, &v)
	if _, is := seen.Get(defs.Audience, "like-bees"); is || !slices.Equal(v.says(), []string{"delete audience like-bees"}) {
		t.Errorf("%v", v.says())
	}
	for _, path := range []string{"/taxonomies/mine/deletion/dry-run", "/audiences/bees/deletion/dry-run", "/sources/own/deletion/dry-run"} {
		s.must(422, "POST", path, "") // in use
	}
	s.must(422, "POST", "/taxonomies/mine/dry-run", `{"title":"Mine","categories":[]}`)
	s.must(422, "POST", "/sources/own/dry-run", `{"id":"other","party":1}`)
	s.must(403, "POST", "/taxonomies/iab/deletion/dry-run", "")
	s.must(404, "POST", "/rules/nobody/deletion/dry-run", "")
	if s.defs.Version() != before {
		t.Error("something was kept")
	}
}
