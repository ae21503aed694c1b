package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// What named a category that is merged names the other: rules, audiences, what lies
// below it; the rest stays. The stricter life and mark stay too.
func TestAMergeTakesEverythingThatNamedTheCategory(t *testing.T) {
	s := newStage(t)
	s.furnish()
	s.must(200, "PUT", "/taxonomies/mine", `{"title":"Mine","categories":[{"id":"a","title":"A"},
		{"id":"b","title":"B","parents":["a"],"life":30,"sensitive":true,"merged":["old-b"]},{"id":"c","title":"C","parents":["b"]},{"id":"d","title":"D","parents":["b","free"]},{"id":"free","title":"Free","life":60}]}`, `If-Match: "1"`)
	s.must(201, "POST", "/audiences", `{"id":"both","title":"Both","kind":"rule","rule_text":"c:mine/b in 30d and c:mine/free"}`)
	s.must(201, "POST", "/lookalikes", `{"id":"like-2","title":"Like","lookalike":{"seed":"bees","size":1000,"exclude":["c:mine/b","c:mine/free"]}}`)
	s.must(201, "POST", "/rules", `{"id":"two","then":["c:mine/free","c:mine/b","k:x=y"]}`)

	const path = "/taxonomies/mine/categories/b/merge"
	var v planView
	s.must(200, "POST", path+"/dry-run", `{"into":"free"}`).into(t, &v)
	want := []string{"change taxonomy mine", "change rule r1", "change rule two", "change audience bees", "change audience both", "change audience like-2"}
	if got := v.says(); !slices.Equal(got, want) {
		t.Errorf("the dry run: %v", got)
	}
	s.must(428, "POST", path, `{"into":"free"}`)
	s.must(412, "POST", path, `{"into":"free"}`, `If-Match: "1"`)
	s.must(404, "POST", "/taxonomies/mine/categories/nothing/merge", `{"into":"free"}`, `If-Match: "2"`)
	for _, into := range []string{"", "b", "c", "nothing"} {
		s.must(422, "POST", path, `{"into":"`+into+`"}`, `If-Match: "2"`)
	}
	a := s.must(200, "POST", path, `{"into":"free"}`, `If-Match: "2"`)
	var m mergedView
	a.into(t, &m)
	if a.head.Get("ETag") != `"3"` || len(m.Changes) != len(want) || m.Changes[0].Version != 3 {
		t.Errorf("%v %+v", a.head, m)
	}
	var is tree.Taxonomy
	s.must(200, "GET", "/taxonomies/mine", "").into(t, &is)
	free := is.Categories[slices.IndexFunc(is.Categories, func(c tree.Category) bool { return c.ID == "free" })]
	if len(is.Categories) != 4 || free.Life != 30 || !free.Sensitive || !slices.Equal(free.Merged, []string{"b", "old-b"}) {
		t.Errorf("%+v", is.Categories)
	}
	for _, c := range is.Categories {
		if c.ID == "c" || c.ID == "d" {
			if !slices.Equal(c.Parents, []string{"free"}) {
				t.Errorf("%s lies below %v", c.ID, c.Parents)
			}
		}
	}
	for path, want := range map[string]string{
		"/rules/r1": `"then":["c:mine/free"]`, "/rules/two": `"then":["c:mine/free","k:x=y"]`, "/audiences/bees": `"trait":"c:mine/free"`, "/lookalikes/like-2": `"exclude":["c:mine/free"]`,
	} {
		if got := string(s.must(200, "GET", path, "").body); !strings.Contains(got, want) || strings.Contains(got, "c:mine/b") {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	if got := string(s.must(200, "GET", "/audiences/both", "").body); strings.Contains(got, "c:mine/b") || strings.Count(got, "c:mine/free") != 2 {
		t.Errorf("both: %s", got)
	}
	n := 0
	for _, l := range s.trail() {
		if strings.HasPrefix(l.Detail, "plan ") && l.What == "change" {
			n++
		}
	}
	if n != len(want) {
		t.Errorf("the audit log has %d changes, want %d", n, len(want))
	}
	// What goes on by the old name means the new one.
	s.must(201, "POST", "/rules", `{"id":"late","then":["c:mine/b"]}`)
	s.must(403, "POST", "/taxonomies/iab/categories/1/merge", `{"into":"2"}`, "If-Match: *")
}

// An archived category has no users, and gets none; it can be restored.
func TestNothingUsesAnArchivedCategory(t *testing.T) {
	s := newStage(t)
	s.furnish()
	archive := func(id string) string { return "/taxonomies/mine/categories/" + id + "/archive" }
	p := s.must(409, "POST", archive("a"), `{}`, `If-Match: "1"`).problem(t)
	if !slices.Contains(places(p), "taxonomies/mine/categories/b") {
		t.Errorf("what is below it: %+v", p)
	}
	p = s.must(409, "POST", archive("b"), `{}`, `If-Match: "1"`).problem(t)
	for _, user := range []string{"rules/r1", "audiences/bees"} {
		if !slices.Contains(places(p), user) {
			t.Errorf("%s is not among %v", user, places(p))
		}
	}
	// Neither by the taxonomy as a whole, nor by files.
	s.must(409, "PUT", "/taxonomies/mine", `{"title":"Mine","categories":[{"id":"a","title":"A"},{"id":"b","title":"B","parents":["a"],"archived":"2026-11-01"},{"id":"free","title":"Free"}]}`, `If-Match: "1"`)
	s.must(422, "POST", "/plan", sent{}.with("taxonomy", `{"id":"mine","title":"Mine","categories":[{"id":"a","title":"A"},{"id":"b","title":"B","parents":["a"],"archived":"2026-11-01"},{"id":"free","title":"Free"}]}`).body())

	s.must(428, "POST", archive("free"), `{}`)
	s.must(422, "POST", archive("free"), `{"at":"yesterday"}`, `If-Match: "1"`)
	a := s.must(200, "POST", archive("free"), `{}`, `If-Match: "1"`)
	if a.head.Get("ETag") != `"2"` || !strings.Contains(string(a.body), `"archived":"`) {
		t.Errorf("%v %s", a.head, a.body)
	}
	s.must(422, "POST", "/rules", `{"id":"r9","then":["c:mine/free"]}`)
	s.must(422, "POST", "/audiences", `{"id":"frees","title":"F","kind":"rule","rule_text":"c:mine/free in 30d"}`)
	s.must(422, "POST", "/taxonomies/mine/categories/b/merge", `{"into":"free"}`, `If-Match: "2"`)
	s.must(200, "POST", "/estimates", `{"rule_text":"c:mine/free"}`) // its counts are there
	s.must(200, "POST", "/taxonomies/mine/categories/free/restore", `{}`, `If-Match: "2"`)
	s.must(201, "POST", "/rules", `{"id":"r9","then":["c:mine/free"]}`)
}

func TestMovingACategoryCanBeTried(t *testing.T) {
	s := newStage(t)
	s.furnish()
	var v planView
	s.must(200, "POST", "/taxonomies/mine/categories/b/dry-run", `{"title":"B","parents":["free"]}`).into(t, &v)
	if got := v.says(); !slices.Equal(got, []string{"change taxonomy mine"}) || s.defs.Version() == 0 {
		t.Errorf("%v", got)
	}
	s.must(422, "POST", "/taxonomies/mine/categories/b/dry-run", `{"title":"B","parents":["b"]}`)
	s.must(200, "POST", "/taxonomies/mine/categories/new/dry-run", `{"title":"New","life":7}`)
	s.must(422, "POST", "/taxonomies/mine/categories/new/dry-run", `{"title":"New","life":91}`)
	if doc, _ := s.defs.Snapshot().Get("taxonomy", "mine"); doc.Version != 1 {
		t.Error("a dry run changed something")
	}
}

// A deletion that begins a re-fold says where it is told of, as publishing does.
func TestADeletionSaysWhatFollows(t *testing.T) {
	s := newStage(t)
	s.furnish()
	s.works.list = []Operation{{ID: "refold-7", Kind: KindRefold, State: OperationRunning}}
	const want = base + "/operations/refold-7"
	if a := s.must(204, "DELETE", "/rules/r1", "", `If-Match: "1"`); a.head.Get("Operation-Location") != want {
		t.Errorf("a rule: %v", a.head)
	}
	if a := s.must(204, "DELETE", "/taxonomies/mine/categories/free", "", `If-Match: "1"`); a.head.Get("Operation-Location") != want {
		t.Errorf("a category: %v", a.head)
	}
	if a := s.must(204, "DELETE", "/destinations/dsp", "", "If-Match: *"); a.head.Get("Operation-Location") != "" {
		t.Errorf("a destination: %v", a.head)
	}
}

func TestADraftIsInNobodysCountsUntilItIsPublished(t *testing.T) {
	s := newStage(t)
	s.furnish()
	const draft = "/rules/r1/draft"
	s.must(404, "GET", draft, "")
	s.must(428, "PUT", draft, `{"then":["c:mine/none"]}`)
	a := s.must(201, "PUT", draft, `{"sites":["shop"],"then":["c:mine/none"]}`, "If-None-Match: *")
	var d struct {
		Version, Base, Published uint64
		Stands                   string
		Faults                   []struct{ Location string }
	}
	a.into(t, &d)
	if d.Base != 1 || d.Published != 1 || len(d.Faults) != 1 || d.Faults[0].Location != "definition.then[0]" {
		t.Errorf("one that is not right yet: %s", a.body)
	}
	s.must(412, "PUT", draft, `{"then":["c:mine/a"]}`, "If-None-Match: *")
	s.must(422, "PUT", draft, `{"nothing":1}`, `If-Match: "1"`)
	s.must(422, "POST", draft+"/publish", "", `If-Match: "1"`)
	s.must(200, "PUT", draft, `{"sites":["shop"],"then":["c:mine/a"]}`, `If-Match: "1"`)
	if got := string(s.must(200, "GET", draft+"/diff", "").body); !strings.Contains(got, `{"field":"then[0]","before":"c:mine/b","after":"c:mine/a"}`) || !strings.Contains(got, `"from":1,"to":2`) {
		t.Errorf("the difference: %s", got)
	}
	if got := string(s.must(200, "GET", "/rules/r1", "").body); !strings.Contains(got, "c:mine/b") {
		t.Errorf("published is %s", got)
	}
	s.must(201, "PUT", "/taxonomies/new/draft", `{"title":"New","categories":[{"id":"x","title":"X"}]}`, "If-None-Match: *")
	var list page[draftItem]
	s.must(200, "GET", "/drafts", "").into(t, &list)
	if len(list.Items) != 2 || list.Items[0].Kind != "rules" || list.Items[0].Version != 2 || list.Items[1].Stands != "new" || list.Items[1].ID != "new" || list.Items[1].Published != 0 {
		t.Errorf("%+v", list.Items)
	}
	// Somebody publishes meanwhile: the draft says so, and takes that version's place only.
	s.must(200, "PUT", "/rules/r1", `{"sites":["shop"],"title":"Other","then":["c:mine/b"]}`, `If-Match: "1"`)
	s.must(200, "GET", draft, "").into(t, &d)
	if d.Base != 1 || d.Published != 2 || d.Stands != "of version 1; version 2 was published since" {
		t.Errorf("%+v", d)
	}
	s.must(428, "POST", draft+"/publish", "")
	s.must(412, "POST", draft+"/publish", "", `If-Match: "1"`)
	// And somebody saves the draft: what was looked at is what is published, or nothing is.
	s.must(412, "POST", fmt.Sprintf("%s/publish?draft=%d", draft, d.Version-1), "", `If-Match: "2"`)
	s.must(422, "POST", draft+"/publish?draft=new", "", `If-Match: "2"`)
	if a := s.must(200, "POST", fmt.Sprintf("%s/publish?draft=%d", draft, d.Version), "", `If-Match: "2"`); a.head.Get("ETag") != `"3"` || !strings.Contains(string(a.body), "c:mine/a") {
		t.Errorf("published: %v %s", a.head, a.body)
	}
	s.must(404, "GET", draft, "")
	s.must(400, "POST", "/taxonomies/new/draft/publish", "", `If-None-Match: *`, `If-Match: "1"`)
	s.must(200, "POST", "/taxonomies/new/draft/publish", "", `If-None-Match: *`)
	s.must(200, "GET", "/taxonomies/new", "")

	s.must(201, "PUT", draft, `{"then":["c:mine/a"]}`, "If-None-Match: *")
	s.must(428, "DELETE", draft, "")
	s.must(204, "DELETE", draft, "", `If-Match: *`)
	s.must(404, "GET", draft, "")
	var says []string
	for _, l := range s.trail() {
		if l.Object == "r1" {
			says = append(says, l.What+" "+l.Kind+" "+l.Detail)
		}
	}
	for _, want := range []string{"make draft-rule ", "change draft-rule ", "change rule from a draft", "delete draft-rule "} {
		if !slices.Contains(says, want) {
			t.Errorf("the audit log lacks %q: %q", want, says)
		}
	}
}
