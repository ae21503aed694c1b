package api

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// give makes a key and returns it.
func (s *stage) key(body string) string {
	s.t.Helper()
	var k struct{ Key string }
	s.must(201, "POST", "/keys", body).into(s.t, &k)
	if !strings.HasPrefix(k.Key, KeyPrefix) {
		s.t.Fatalf("the key of %s is %q", body, k.Key)
	}
	return "Authorization: Bearer " + k.Key
}

var ownImport, theirImport = strings.Repeat("aa", 16), strings.Repeat("bb", 16)

// foreign makes what the restricted key must not meet, beside what furnish made.
func (s *stage) foreign() {
	s.t.Helper()
	for _, d := range []struct{ path, body string }{
		{"/sources", `{"id":"theirs","party":2,"agreement":{"uses":["store","profile"]}}`},
		{"/sites", `{"id":"their-shop","title":"Their shop","origins":["https://theirs.example"],"source":"theirs","consent":"opt-in"}`},
		{"/rules", `{"id":"their-rule","sites":["their-shop"],"when":[{"field":"path","op":"prefix","value":"/b"}],"then":["c:mine/b"]}`},
		{"/rules", `{"id":"everywhere","when":[{"field":"path","op":"prefix","value":"/b"}],"then":["c:mine/b"]}`},
		{"/audiences", `{"id":"their-bees","title":"Theirs","kind":"rule","rule":{"trait":"c:mine/b","sources":["theirs"]}}`},
		{"/lookalikes", `{"id":"like-theirs","title":"Like theirs","lookalike":{"seed":"their-bees","size":1000}}`},
		{"/destinations", `{"id":"their-dsp","title":"Another DSP","audiences":["their-bees"]}`},
	} {
		s.must(201, http.MethodPost, d.path, d.body)
	}
	s.imported = func(q ImportRequest) (ImportReceipt, error) {
		return ImportReceipt{Import: map[taxonomy.SourceID]string{"own": ownImport, "theirs": theirImport}[q.Source], Source: q.Source}, nil
	}
	for _, source := range []string{"own", "theirs"} {
		a := s.give(formPart{"source", source}, formPart{"mapping", mapping}, formPart{"file", file})
		if a.code != 201 {
			s.t.Fatalf("import into %s: %d %s", source, a.code, a.body)
		}
	}
}

// objects are, by the list they stand in, one that the restricted key is for and
// one that it is not for.
var objects = map[string]struct{ own, foreign string }{
	"sites": {"shop", "their-shop"}, "sources": {"own", "theirs"}, "rules": {"r1", "their-rule"}, "audiences": {"not-bees", "their-bees"},
	"destinations": {"dsp", "their-dsp"}, "imports": {ownImport, theirImport}, "lookalikes": {"", "like-theirs"},
}

type operation struct {
	method, path string
	right        tagserver.Right
}

// operations reads what is described.
func (s *stage) operations() (all []operation) {
	s.t.Helper()
	var doc struct {
		Paths map[string]map[string]struct {
			Scope tagserver.Scope `json:"x-ebb-scope"`
			Reach string          `json:"x-ebb-reach"`
		}
	}
	if err := json.Unmarshal(s.description(), &doc); err != nil {
		s.t.Fatal(err)
	}
	for path, ops := range doc.Paths {
		for method, op := range ops {
			reach := tagserver.Reach(slices.Index([]string{"", "all", "common", "own"}, op.Reach))
			all = append(all, operation{strings.ToUpper(method), strings.TrimPrefix(path, base), tagserver.Right{Scope: op.Scope, Reach: reach}})
		}
	}
	return all
}

// at fills a path's parameters.
func (o *operation) at(id string) string {
	return strings.NewReplacer("{id}", id, "{receipt}", "00ff", "{category}", "b", "{version}", "1", "{file}", "one").Replace(o.path)
}

func (o *operation) list() string {
	list, _, _ := strings.Cut(o.path[1:], "/")
	return list
}

// Every operation that is described, for every role: who lacks the scope is
// refused, who has it is not. A route that declares no right, or another than is
// described, is found here.
func TestEveryRouteAsksEveryRoleForItsRight(t *testing.T) {
	s := newStage(t)
	s.furnish()
	s.foreign()
	declared := map[string]tagserver.Right{}
	for _, r := range s.api.Routes() {
		declared[r.Method+" "+strings.TrimPrefix(r.Path, base)] = r.Right
	}
	keys := map[tagserver.Role]string{}
	for _, r := range tagserver.Roles {
		keys[r] = s.key(`{"id":"an-` + string(r) + `","role":"` + string(r) + `"}`)
	}
	ended := s.key(`{"id":"ended","role":"admin","ends":"` + now.Day().String() + `"}`)
	revoked := s.key(`{"id":"revoked","role":"admin"}`)
	s.must(204, "DELETE", "/keys/revoked", "", "If-Match: *")

	ops := s.operations()
	if len(ops) < 60 {
		t.Fatalf("%d operations are described", len(ops))
	}
	for _, o := range ops {
		name := o.method + " " + o.path
		row := declared[o.method+" "+strings.NewReplacer("{", ":", "}", "").Replace(o.path)]
		if o.right.Scope == "" || o.right.Reach < tagserver.OfAll || row != o.right {
			t.Errorf("%s: described with %v, the table has %v", name, o.right, row)
			continue
		}
		if writes := strings.HasSuffix(string(o.right.Scope), ":write"); !writes && o.method != "GET" && !changesNothing[name] {
			t.Errorf("%s changes something for the scope %s", name, o.right.Scope)
		}
		path := o.at(cmp.Or(objects[o.list()].own, "x"))
		for header, value := range map[string]string{"no key": "Authorization: ", "a wrong key": "Authorization: Bearer ebba_x", "an ended key": ended, "a revoked key": revoked} {
			if a := s.call(o.method, path, "", value); a.code != 401 {
				t.Errorf("%s with %s: %d", name, header, a.code)
			}
		}
		for _, r := range tagserver.Roles {
			has := slices.Contains(r.Scopes(), o.right.Scope)
			if has && o.method == "POST" {
				continue // it would be done; the other tests do it
			}
			a := s.call(o.method, path, "", keys[r])
			switch {
			case !has && (a.code != 403 || a.problem(t).Code != codeForbidden):
				t.Errorf("%s as %s, who has no %s: %d %s", name, r, o.right.Scope, a.code, a.body)
			case has && (a.code == 401 || a.code == 403 || a.code >= 500):
				t.Errorf("%s as %s, who has %s: %d %s", name, r, o.right.Scope, a.code, a.body)
			}
		}
	}
}

// Every operation that is described, for a key that may do everything to one
// source and one destination: what is another's is not there, in no list and
// under no path, and what is about the whole is refused.
func TestARestrictedKeyMeetsItsOwnAlone(t *testing.T) {
	s := newStage(t)
	s.furnish()
	s.foreign()
	s.must(201, "POST", "/generations", "")
	const restricted = `{"id":"agency","role":"admin","sources":["own"],"destinations":["dsp"]}`
	key := s.key(restricted)
	foreign := []string{"their-shop", `"theirs"`, "their-rule", "everywhere", "their-bees", "like-theirs", "their-dsp", "import.theirs"}
	for _, o := range s.operations() {
		name := o.method + " " + o.path
		if o.right.Reach == tagserver.OfAll {
			if a := s.call(o.method, o.at("x"), "", key); a.code != 403 {
				t.Errorf("%s is about the whole: %d %s", name, a.code, a.body)
			}
			continue
		}
		if !strings.Contains(o.path, "{id}") {
			if o.method != "GET" {
				continue // the object is in the body: TestARestrictedKeyMakesNothingOfOthers
			}
			a := s.call("GET", o.path, "", key)
			if a.code != 200 {
				t.Errorf("%s: %d %s", name, a.code, a.body)
			}
			for _, f := range foreign {
				if strings.Contains(string(a.body), f) && o.path != "/openapi.json" {
					t.Errorf("%s shows %s: %s", name, f, a.body)
				}
			}
			continue
		}
		if o.right.Reach == tagserver.OfCommon {
			if a := s.call(o.method, o.at("mine"), "", key); a.code != 200 {
				t.Errorf("%s: %d %s", name, a.code, a.body)
			}
			continue
		}
		obj, ok := objects[o.list()]
		if !ok {
			t.Errorf("%s is about an object of its own: say in objects which one is another's", name)
			continue
		}
		a := s.call(o.method, o.at(obj.foreign), o.body(), key, "If-Match: *")
		if a.code != 404 || a.problem(t).Code != codeNotFound {
			t.Errorf("%s of another's: %d %s", name, a.code, a.body)
		}
		nowhere := s.call(o.method, o.at("nowhere"), o.body(), key, "If-Match: *")
		if got, want := strings.ReplaceAll(string(a.body), obj.foreign, "ID"), strings.ReplaceAll(string(nowhere.body), "nowhere", "ID"); got != want {
			t.Errorf("%s tells another's from what is not there: %s, %s", name, got, want)
		}
		if obj.own != "" && o.method == "GET" {
			if a := s.call(o.method, o.at(obj.own), "", key); a.code != 200 {
				t.Errorf("%s of its own: %d %s", name, a.code, a.body)
			}
		}
	}
}

// body is one that can be read, so that what is refused is the object.
func (o *operation) body() string {
	switch {
	case o.method == "GET" || o.method == "DELETE":
		return ""
	case strings.HasSuffix(o.path, "/rollback"):
		return `{"version":1}`
	}
	return "{}"
}

func TestARestrictedKeyMakesNothingOfOthers(t *testing.T) {
	s := newStage(t)
	s.furnish()
	s.foreign()
	key := s.key(`{"id":"agency","role":"admin","sources":["own"],"destinations":["dsp"]}`)
	before := s.defs.Version()
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		at                       string
	}{
		{"a site of another's source", "POST", "/sites", `{"id":"x","origins":["https://x.example"],"source":"theirs","consent":"opt-in"}`, 422, "body.source"},
		{"its site to another's source", "PUT", "/sites/shop", `{"origins":["https://shop.example"],"source":"theirs","consent":"opt-in"}`, 422, "body.source"},
		{"a source", "POST", "/sources", `{"id":"x","party":1}`, 403, ""},
		{"a destination", "POST", "/destinations", `{"id":"x","title":"X"}`, 403, ""},
		{"its destination to another's audience", "PUT", "/destinations/dsp", `{"title":"A DSP","audiences":["not-bees","their-bees"]}`, 422, "body.audiences[1]"},
		{"a rule for all sites", "POST", "/rules", `{"id":"x","when":[{"field":"path","op":"prefix","value":"/b"}],"then":["c:mine/b"]}`, 403, ""},
		{"a rule for another's site", "POST", "/rules", `{"id":"x","sites":["shop","their-shop"],"when":[{"field":"path","op":"prefix","value":"/b"}],"then":["c:mine/b"]}`, 422, "body.sites[1]"},
		{"its rule to another's imports", "PUT", "/rules/r1", `{"sites":["import.theirs"],"when":[{"field":"path","op":"prefix","value":"/b"}],"then":["c:mine/b"]}`, 422, "body.sites[0]"},
		{"an audience", "POST", "/audiences", `{"id":"x","title":"X","kind":"rule","rule":{"any":true}}`, 403, ""},
		{"a key", "POST", "/keys", `{"id":"x","role":"admin"}`, 403, ""},
	} {
		a := s.call(c.method, c.path, c.body, key, "If-Match: *")
		if p := a.problem(t); a.code != c.status || c.at != "" && !slices.Contains(places(p), c.at) {
			t.Errorf("%s: %d %s", c.name, a.code, a.body)
		}
	}
	if s.defs.Version() != before {
		t.Error("something was kept")
	}
	if a := s.give(formPart{"source", "theirs"}, formPart{"mapping", mapping}, formPart{"file", file}); a.code != 201 {
		t.Fatalf("the admin: %d", a.code)
	}
	taken := len(s.received)
	if a := s.giveAs(key, formPart{"source", "theirs"}, formPart{"mapping", mapping}, formPart{"file", file}); a.code != 422 || len(s.received) != taken {
		t.Errorf("another's import: %d %s", a.code, a.body)
	}
	// Who is in the way of a deletion is not named.
	a := s.call("DELETE", "/sources/own", "", key, "If-Match: *")
	if a.code != 409 || strings.Contains(string(a.body), "bees") {
		t.Errorf("delete: %d %s", a.code, a.body)
	}
	// What it may, it does.
	s.must(201, "POST", "/sites", `{"id":"own-2","origins":["https://own2.example"],"source":"own","consent":"opt-in"}`, key)
	s.must(201, "POST", "/generations", "")
	s.must(200, "POST", "/destinations/dsp/deliveries", "", key)
}

func TestAKeyThatNamesSourcesMeetsNoDestination(t *testing.T) {
	s := newStage(t)
	s.furnish()
	key := s.key(`{"id":"crm","role":"viewer","sources":["own"]}`)
	s.must(200, "GET", "/sites/shop", "", key)
	s.must(404, "GET", "/destinations/dsp", "", key)
	s.must(404, "GET", "/audiences/not-bees", "", key)
	other := s.key(`{"id":"dsp","role":"viewer","destinations":["dsp"]}`)
	s.must(404, "GET", "/sites/shop", "", other)
	s.must(200, "GET", "/destinations/dsp", "", other)
	s.must(200, "GET", "/audiences/not-bees", "", other)
	s.must(404, "GET", "/audiences/bees", "", other)
}

func TestAKeyIsShownOnceAndKeptHashed(t *testing.T) {
	s := newStage(t)
	s.furnish()
	header := s.key(`{"id":"ci","title":"For CI","role":"operator","scopes":["audiences:read","deliveries:write"]}`)
	key := strings.TrimPrefix(header, "Authorization: Bearer ")
	d, _ := s.defs.Snapshot().Get("apikey", "ci")
	if strings.Contains(string(d.Body), key) || !strings.Contains(string(d.Body), delivery.HashKey(key)) {
		t.Errorf("kept: %s", d.Body)
	}
	for _, path := range []string{"/keys", "/keys/ci"} {
		if a := s.must(200, "GET", path, ""); strings.Contains(string(a.body), key) || strings.Contains(string(a.body), delivery.HashKey(key)) || strings.Contains(string(a.body), "key_hash") {
			t.Errorf("%s: %s", path, a.body)
		}
	}
	s.must(200, "GET", "/audiences", "", header)
	s.must(403, "GET", "/sites", "", header) // of its role, and not of its scopes
	var k struct {
		Used *taxonomy.Day
		Role string
	}
	s.must(200, "GET", "/keys/ci", "").into(t, &k)
	if k.Used == nil || *k.Used != now.Day() {
		t.Errorf("last used %v", k.Used)
	}
	// A change leaves the key itself.
	s.must(200, "PUT", "/keys/ci", `{"role":"viewer"}`, "If-Match: *")
	s.must(200, "GET", "/sites", "", header)
	for body, at := range map[string]string{
		`{"id":"x"}`:                 "body.role",
		`{"id":"x","role":"root"}`:   "body.role",
		`{"id":"X","role":"viewer"}`: "body.id",
		`{"id":"x","role":"viewer","scopes":["keys:write"]}`:     "body.scopes[0]",
		`{"id":"x","role":"viewer","scopes":[]}`:                 "body.scopes",
		`{"id":"x","role":"viewer","sources":[]}`:                "body.sources",
		`{"id":"x","role":"viewer","sources":["nobody"]}`:        "body.sources[0]",
		`{"id":"x","role":"viewer","destinations":["nobody"]}`:   "body.destinations[0]",
		`{"id":"x","role":"viewer","key_hash":"00"}`:             "body.key_hash",
		`{"id":"x","role":"viewer","key":"ebba_of-my-choosing"}`: "body.key",
	} {
		if a := s.call("POST", "/keys", body); a.code != 422 || !slices.Contains(places(a.problem(t)), at) {
			t.Errorf("%s: %d %s", body, a.code, a.body)
		}
	}
}

func TestTheLastKeyThatGivesKeysStays(t *testing.T) {
	s := newStage(t)
	s.must(409, "DELETE", "/keys/admin", "", "If-Match: *")
	s.must(422, "PUT", "/keys/admin", `{"role":"viewer"}`, "If-Match: *")
	s.must(422, "PUT", "/keys/admin", `{"role":"admin","ends":"2030-01-01"}`, "If-Match: *")
	other := s.key(`{"id":"second","role":"admin"}`)
	s.must(204, "DELETE", "/keys/admin", "", "If-Match: *")
	s.must(401, "GET", "/keys", "")
	s.must(200, "GET", "/keys", "", other)
}
