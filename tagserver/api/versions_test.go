package api

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestADefinitionGoesBackToAFormerVersion(t *testing.T) {
	s := newStage(t)
	s.furnish()
	s.must(200, "PUT", "/audiences/bees", `{"title":"Bees!","kind":"rule","rule":{"trait":"c:mine/a","window":"30d"},"page":true}`, `If-Match: "1"`)
	s.must(200, "PUT", "/audiences/bees", `{"title":"Bees?","kind":"rule","rule":{"trait":"c:mine/a","window":"30d"}}`, `If-Match: "2"`)
	var list page[versionItem[struct{ Title string }]]
	s.must(200, "GET", "/audiences/bees/versions?limit=2", "").into(t, &list)
	if len(list.Items) != 2 || list.Items[0].Version != 3 || list.Items[1].Definition.Title != "Bees!" || list.Next == "" {
		t.Errorf("%+v", list)
	}
	s.must(200, "GET", "/audiences/bees/versions?limit=2&cursor="+list.Next, "").into(t, &list)
	if len(list.Items) != 1 || list.Items[0].Definition.Title != "Bees" {
		t.Errorf("%+v", list)
	}
	s.must(200, "GET", "/audiences/bees/versions/1", "")
	s.must(404, "GET", "/audiences/bees/versions/9", "")
	s.must(404, "GET", "/audiences/nobody/versions", "")

	for query, want := range map[string]string{
		"":             `{"from":2,"to":3,"fields":[{"field":"page","before":true},{"field":"title","before":"Bees!","after":"Bees?"}]}`,
		"?from=1&to=3": `{"from":1,"to":3,"fields":[{"field":"rule.sources","before":["own"]},{"field":"rule.trait","before":"c:mine/b","after":"c:mine/a"},{"field":"rule.window","after":"30d"},{"field":"title","before":"Bees","after":"Bees?"}]}`,
		"?from=3&to=3": `{"from":3,"to":3,"fields":[]}`,
	} {
		if got := strings.TrimSpace(string(s.must(200, "GET", "/audiences/bees/diff"+query, "").body)); got != want {
			t.Errorf("%s: %s\nwant %s", query, got, want)
		}
	}
	if got := string(s.must(200, "GET", "/audiences/bees/diff?to=1", "").body); !strings.Contains(got, `"from":0`) || !strings.Contains(got, `{"field":"id","after":"bees"}`) {
		t.Errorf("of the first: %s", got)
	}
	s.must(404, "GET", "/audiences/bees/diff?from=7", "")

	s.must(428, "POST", "/audiences/bees/rollback", `{"version":1}`)
	s.must(412, "POST", "/audiences/bees/rollback", `{"version":1}`, `If-Match: "2"`)
	s.must(404, "POST", "/audiences/bees/rollback", `{"version":8}`, `If-Match: "3"`)
	s.must(422, "POST", "/audiences/bees/rollback", `{}`, `If-Match: "3"`)
	a := s.must(200, "POST", "/audiences/bees/rollback", `{"version":1}`, `If-Match: "3"`)
	if a.head.Get("ETag") != `"4"` || !strings.Contains(string(a.body), `"title":"Bees"`) {
		t.Errorf("%v %s", a.head, a.body)
	}
	// What it names may be gone by now.
	s.must(200, "PUT", "/sites/shop", `{"origins":["https://shop.example"],"source":"bare","consent":"opt-in"}`, "If-Match: *")
	s.must(200, "PUT", "/audiences/bees", `{"title":"B","kind":"rule","rule":{"trait":"c:mine/b"}}`, "If-Match: *")
	s.must(204, "DELETE", "/sources/own", "", "If-Match: *")
	p := s.must(422, "POST", "/sites/shop/rollback", `{"version":1}`, "If-Match: *").problem(t)
	if !slices.Contains(places(p), "body.source") {
		t.Errorf("%+v", p)
	}
	// A destination's key stays what it is.
	before, _ := s.defs.Snapshot().Get("destination", "dsp")
	s.must(200, "POST", "/destinations/dsp/key", "")
	s.must(200, "POST", "/destinations/dsp/rollback", `{"version":1}`, "If-Match: *")
	after, _ := s.defs.Snapshot().Get("destination", "dsp")
	var x, y struct {
		KeyHash string `json:"key_hash"`
	}
	_ = json.Unmarshal(before.Body, &x)
	_ = json.Unmarshal(after.Body, &y)
	if x.KeyHash == y.KeyHash || y.KeyHash == "" {
		t.Error("the old key is back")
	}
	if a := s.must(200, "GET", "/destinations/dsp/versions", ""); strings.Contains(string(a.body), "key_hash") {
		t.Errorf("%s", a.body)
	}
}

// What usage lists is what refuses the deletion.
func TestUsageIsWhatRefusesTheDeletion(t *testing.T) {
	s := newStage(t)
	s.furnish()
	s.key(`{"id":"agency","role":"viewer","sources":["own"],"destinations":["dsp"]}`)
	for path, want := range map[string]string{
		"/sites/shop":                   "rules/r1",
		"/sources/own":                  "sites/shop audiences/bees keys/agency",
		"/taxonomies/mine":              "rules/r1 audiences/bees",
		"/taxonomies/mine/categories/b": "rules/r1 audiences/bees",
		"/taxonomies/mine/categories/a": "categories/b",
		"/rules/r1":                     "",
		"/audiences/bees":               "audiences/like-bees audiences/not-bees",
		"/audiences/not-bees":           "destinations/dsp",
		"/destinations/dsp":             "keys/agency",
		"/sources/bare":                 "",
	} {
		var u usageView
		s.must(200, "GET", path+"/usage", "").into(t, &u)
		var got []string
		for _, x := range u.Users {
			got = append(got, x.Kind+"/"+x.ID)
		}
		if g := strings.Join(got, " "); g != want {
			t.Errorf("%s: %s, want %s", path, g, want)
		}
		if want != "" {
			a := s.call("DELETE", path, "", "If-Match: *")
			if a.code != 409 && a.code != 422 {
				t.Errorf("%s is deleted: %d", path, a.code)
			}
			for _, name := range got {
				name = name[strings.LastIndexByte(name, '/')+1:]
				if !strings.Contains(string(a.body), name) {
					t.Errorf("%s: the refusal does not name %s: %s", path, name, a.body)
				}
			}
		}
	}
	s.must(404, "GET", "/sites/nowhere/usage", "")
	s.must(404, "GET", "/taxonomies/mine/categories/zebra/usage", "")
}
