package api

import (
	"slices"
	"strings"
	"testing"
)

// F1: no page is told of an audience that tells of something sensitive. Where it
// can be known it is refused when it is defined: by itself, by an audience that it
// names, as the seed of a lookalike, and by a change behind one that is for pages.
func TestASensitiveAudienceIsNotForPages(t *testing.T) {
	s := newStage(t)
	s.furnish()
	s.must(201, "PUT", "/taxonomies/mine/categories/ill", `{"title":"Ill","sensitive":true}`, "If-None-Match: *")
	s.must(201, "PUT", "/taxonomies/mine/categories/cold", `{"title":"Cold","parents":["ill"]}`, "If-Match: *")
	refused := func(what, method, path, body, place string) {
		t.Helper()
		which := "If-Match: *"
		if strings.HasSuffix(path, "/x") {
			which = "If-None-Match: *"
		}
		p := s.must(422, method, path, body, which).problem(t)
		if !slices.Equal(places(p), []string{place}) || !strings.Contains(p.Errors[0].Message, "sensitive") {
			t.Errorf("%s: %+v", what, p.Errors)
		}
	}
	audience := func(id, rule, page string) string {
		return `{"id":"` + id + `","title":"T","kind":"rule","rule_text":"` + rule + `"` + page + `}`
	}
	const page = `,"page":true`
	for _, rule := range []string{"c:mine/ill", "c:mine/cold in 30d", "any and not c:mine/cold", "c:mine/a then c:mine/ill within 7d"} {
		refused(rule, "PUT", "/audiences/x", audience("x", rule, page), "body.page")
	}
	s.must(201, "PUT", "/audiences/ills", audience("ills", "c:mine/ill", ""), "If-None-Match: *") // in the house it may be
	refused("by name", "PUT", "/audiences/x", audience("x", "audience ills and c:mine/a", page), "body.page")
	refused("as a seed", "PUT", "/lookalikes/x", `{"id":"x","title":"T","lookalike":{"seed":"ills","share":0.1},"page":true}`, "body.page")

	s.must(201, "PUT", "/audiences/behind", audience("behind", "c:mine/a", ""), "If-None-Match: *")
	s.must(201, "PUT", "/audiences/before", audience("before", "audience behind", ""), "If-None-Match: *")
	s.must(201, "PUT", "/audiences/told", audience("told", "audience before", page), "If-None-Match: *")
	refused("a change behind", "PUT", "/audiences/behind", audience("behind", "c:mine/a or c:mine/cold", ""), "body.id")
	s.must(200, "PUT", "/audiences/behind", audience("behind", "c:mine/a in 7d", ""), "If-Match: *")

	// Marking is never refused, and makes no fault of what has nothing to do with it.
	s.must(200, "PUT", "/taxonomies/mine/categories/a", `{"title":"A","sensitive":true}`, "If-Match: *")
	s.must(200, "PUT", "/audiences/behind", audience("behind", "c:mine/a in 6d", ""), "If-Match: *")
	refused("kept as it was", "PUT", "/audiences/told", audience("told", "audience before", page), "body.page")
	s.must(200, "PUT", "/audiences/told", audience("told", "audience before", ""), "If-Match: *")

	// A set of definitions is checked as it would be.
	p := s.must(422, "POST", "/plan", `{"definitions":[{"kind":"audience","definition":`+audience("y", "c:mine/a", page)+`}]}`).problem(t)
	if !slices.Equal(places(p), []string{"body.definitions[0].definition.page"}) {
		t.Errorf("planned: %+v", p.Errors)
	}
}
