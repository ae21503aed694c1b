package api

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/tagserver"
)

func places(p tagserver.Problem) (at []string) {
	for _, e := range p.Errors {
		at = append(at, e.Location)
	}
	return at
}

func TestEveryFaultOfADefinitionIsNamedWithItsPlace(t *testing.T) {
	s := newStage(t)
	s.furnish()
	for _, c := range []struct {
		name, path, body string
		status           int
		code             string
		want             []string // places, in order
		says             string   // in one of the messages or the detail
	}{
		{"nothing", "/sites", ``, 415, codeType, nil, "application/json"},
		{"no object", "/sites", `[]`, 422, codeInvalid, []string{"body"}, "want an object, got an array"},
		{"bad JSON", "/sites", "{\n  \"id\": ,}", 422, codeInvalid, []string{"body: line 2, column 9"}, "is no JSON"},
		{"two values", "/sites", `{} {}`, 422, codeInvalid, []string{"body: line 1, column 4"}, "is no JSON"},
		{"not UTF-8", "/sites", "{\"id\":\"\xff\"}", 422, codeInvalid, []string{"body"}, "UTF-8"},
		{"null", "/sites", `{"id":null}`, 422, codeInvalid, []string{"body.id"}, "must not be null"},
		{"no ID", "/sites", `{"title":"x"}`, 422, codeInvalid, []string{"body.id"}, "must not be empty"},
		{"misspelt", "/sites", `{"id":"x","orgins":[]}`, 422, codeInvalid, []string{"body.orgins"}, `did you mean "origins"?`},
		{"in capitals", "/sites", `{"ID":"x"}`, 422, codeInvalid, []string{"body.ID"}, `did you mean "id"?`},
		{"unheard of", "/sites", `{"id":"x","zzzzzzzzzzzzz":1}`, 422, codeInvalid, []string{"body.zzzzzzzzzzzzz"}, "known here: id, title, origins"},
		{"twice", "/sites", `{"id":"x","id":"y"}`, 422, codeInvalid, []string{"body.id"}, "stands twice"},
		{"a wrong type, deep", "/sites", `{"id":"x","origins":["https://x.example",7]}`, 422, codeInvalid, []string{"body.origins[1]"}, "want a string, got 7"},
		{"a bad day", "/sites", `{"id":"x","ends":"tomorrow"}`, 422, codeInvalid, []string{"body.ends"}, "YYYY-MM-DD"},
		{"all faults of a site at once", "/sites", `{"id":"X","origins":["https://x.example","https://x.example/path"],"source":"nobody","consent":"maybe","query_keys":["ok","a b"]}`,
			422, codeInvalid, []string{"body.id", "body.consent", "body.origins[1]", "body.query_keys[1]", "body.source"}, `there is no source "nobody"`},
		{"a site in the name of imports", "/sites", `{"id":"import.x","origins":["https://x.example"],"source":"own","consent":"opt-in"}`, 422, codeInvalid, []string{"body.id"}, "import."},
		{"there already", "/sites", `{"id":"shop","origins":["https://x.example"],"source":"own","consent":"opt-in"}`, 409, codeExists, nil, "version 1"},

		{"a party that is none", "/sources", `{"id":"x","party":4,"agreement":{"uses":["sell"],"destinations":["D"]}}`, 422, codeInvalid, []string{"body.party", "body.agreement.uses", "body.agreement.destinations[0]"}, "sell"},
		{"an agreement's misspelt field", "/sources", `{"id":"x","party":1,"agreement":{"usses":[]}}`, 422, codeInvalid, []string{"body.agreement.usses"}, `did you mean "uses"?`},
		{"no agreement, said", "/sources", `{"id":"x","party":1,"agreement":null}`, 422, codeInvalid, []string{"body.agreement"}, "must not be null"},
		{"a fraction", "/sources", `{"id":"x","party":1.5}`, 422, codeInvalid, []string{"body.party"}, "want a whole number"},

		{"a cycle of categories", "/taxonomies", `{"id":"x","title":"X","categories":[{"id":"a","title":"A","parents":["b"]},{"id":"b","title":"B","parents":["a"]}]}`, 422, codeInvalid, []string{"body.categories[0].parents"}, "a cycle: a → b → a"},
		{"a parent that is not there", "/taxonomies", `{"id":"x","title":"X","categories":[{"id":"a","title":"A","parents":["c"]}]}`, 422, codeInvalid, []string{"body.categories[0].parents[0]"}, "not a category"},
		{"a built-in taxonomy", "/taxonomies", `{"id":"iab","title":"Mine now"}`, 403, codeBuiltIn, nil, "built in"},

		{"a rule of no category", "/rules", `{"id":"x","then":["c:mine/zebra","c:nope/a"],"sites":["shop","nowhere","import.own","import.nobody"],"when":[{"field":"colour","op":"eq","value":"red"}]}`,
			422, codeInvalid, []string{"body.when[0].field", "body.then[0]", "body.then[1]", "body.sites[1]", "body.sites[3]"}, "there is no such category"},
		{"a rule's condition with a misspelt field", "/rules", `{"id":"x","then":["c:mine/a"],"when":[{"field":"path","op":"eq","vaule":"/x"}]}`, 422, codeInvalid, []string{"body.when[0].vaule"}, `did you mean "value"?`},

		{"an audience of no rule", "/audiences", `{"id":"x","title":"X","kind":"rule"}`, 422, codeInvalid, []string{"body.rule"}, "is missing"},
		{"an audience's rule, deep", "/audiences", `{"id":"x","title":"X","kind":"rule","rule":{"and":[{"any":true},{"trait":"c:mine/a","windw":"30d"}]}}`, 422, codeInvalid, []string{"body.rule.and[1].windw"}, `did you mean "window"?`},
		{"an audience of one that is not there", "/audiences", `{"id":"x","title":"X","kind":"rule","rule":{"audience":"zebras"}}`, 422, codeInvalid, []string{"body.rule.audience"}, "zebras"},
		{"an audience of itself", "/audiences", `{"id":"x","title":"X","kind":"rule","rule":{"not":{"audience":"x"}}}`, 422, codeInvalid, []string{"body.rule.not.audience"}, ""},
		{"a slug that is taken", "/audiences", `{"id":"x","slug":"bees","title":"X","kind":"rule","rule":{"any":true}}`, 422, codeInvalid, []string{"body.slug"}, `audience "bees"`},
		{"a kind that is none", "/audiences", `{"id":"x","title":"X","kind":"magic"}`, 422, codeInvalid, []string{"body.kind"}, "rule, lookalike, upload"},
		{"a lookalike of nobody", "/lookalikes", `{"id":"x","title":"X","lookalike":{"seed":"zebras","size":10}}`, 422, codeInvalid, []string{"body.lookalike.seed"}, "zebras"},
		{"a lookalike of a lookalike", "/lookalikes", `{"id":"x","title":"X","lookalike":{"seed":"like-bees","size":10}}`, 422, codeInvalid, []string{"body.lookalike.seed"}, "bees"},
		{"a lookalike that is a rule", "/lookalikes", `{"id":"x","title":"X","kind":"rule","rule":{"any":true}}`, 422, codeInvalid, []string{"body.kind"}, "/api/v1/audiences"},

		{"all faults of a destination", "/destinations", `{"id":"x","audiences":["bees","zebras","bees"],"format":"xml","sync_url":"http://x.example/?id=${EBB_ID}","every":"1m"}`,
			422, codeInvalid, []string{"body.title", "body.audiences[2]", "body.sync_url", "body.every", "body.format", "body.audiences[1]"}, `there is no audience "zebras"`},
		{"a key of one's own", "/destinations", `{"id":"x","title":"X","key_hash":"00"}`, 422, codeInvalid, []string{"body.key_hash"}, "/key"},
		{"a period that is a number", "/destinations", `{"id":"x","title":"X","every":60}`, 422, codeInvalid, []string{"body.every"}, "want a string"},
		{"pseudonyms of a later epoch", "/destinations", `{"id":"x","title":"X","pseudonym_epoch":2}`, 422, codeInvalid, []string{"body.pseudonym_epoch"}, "by command only"},

		{"an estimate of nothing", "/estimates", `{}`, 422, codeInvalid, []string{"body.rule"}, "is missing"},
		{"an estimate of a bad rule", "/estimates", `{"rule":{"or":[{"trait":"c:mine/a","window":"91d"}]}}`, 422, codeInvalid, []string{"body.rule.or[0].window"}, "90d"},
		{"an estimate of a bad root", "/estimates", `{"rule":7}`, 422, codeInvalid, []string{"body.rule"}, "want an object"},
		{"an erasure of a cookie", "/erasures", `{"space":"cookie","id":"x"}`, 422, codeInvalid, []string{"body.space"}, "/v1/optout"},
		{"an erasure of nobody", "/erasures", `{"space":"own:crm","id":""}`, 422, codeInvalid, []string{"body.id"}, "1 to 256"},
		{"an erasure of no space", "/erasures", `{"space":"own","id":"x"}`, 422, codeInvalid, []string{"body.space"}, "own:<name>"},
	} {
		a := s.call(http.MethodPost, c.path, c.body)
		p := a.problem(t)
		if a.code != c.status || p.Code != c.code || !slices.Equal(places(p), c.want) || !strings.Contains(string(unescaped(a.body)), c.says) {
			t.Errorf("%s: %d %s at %q\n%s\nwant %d %s at %q and %q", c.name, a.code, p.Code, places(p), a.body, c.status, c.code, c.want, c.says)
		}
	}
	if len(s.erased) > 0 {
		t.Errorf("erased %q", s.erased)
	}
	if n := len(s.defs.List("site")) + len(s.defs.List("destination")) + len(s.defs.List("audience")); n != 5 {
		t.Errorf("%d documents after refusals only, want the 5 from before", n)
	}
}

func unescaped(b []byte) []byte {
	r := strings.NewReplacer(`\"`, `"`, `\u003c`, "<", `\u003e`, ">")
	return []byte(r.Replace(string(b)))
}

func TestRequestsOfTheWrongFormAreRefused(t *testing.T) {
	s := newStage(t)
	s.furnish()
	site := `{"id":"x","origins":["https://x.example"],"source":"own","consent":"opt-in"}`
	for _, c := range []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		at                       string
	}{
		{"text", "POST", "/sites", site, []string{"Content-Type: text/plain"}, 415, ""},
		{"a form", "POST", "/sites", "id=x", []string{"Content-Type: application/x-www-form-urlencoded"}, 415, ""},
		{"another path's ID", "PUT", "/sites/y", site, []string{"If-None-Match: *"}, 422, "body.id"},
		{"a body of a mebibyte", "POST", "/sites", `{"id":"` + strings.Repeat("x", 1<<20) + `"}`, nil, 413, ""},
		{"a body that is too large as kept", "POST", "/taxonomies", `{"id":"x","title":"X","categories":[{"id":"a","title":"A","note":"` + strings.Repeat("n", 1<<20-200) + `"}]}`, nil, 413, ""},
		{"an unknown parameter", "GET", "/sites?page=2", "", nil, 400, "query.page"},
		{"a limit of none", "GET", "/sites?limit=0", "", nil, 400, "query.limit"},
		{"a limit that is no number", "GET", "/sites?limit=many", "", nil, 400, "query.limit"},
		{"a cursor from nowhere", "GET", "/sites?cursor=AAAA", "", nil, 400, "query.cursor"},
		{"a method that is none", "PATCH", "/sites/shop", "{}", nil, 405, ""},
		{"a path that is none", "GET", "/zebras", "", nil, 404, ""},
		{"an unknown site", "GET", "/sites/nowhere", "", nil, 404, ""},
		{"an unknown site's refusals", "GET", "/sites/nowhere/refusals", "", nil, 404, ""},
		{"an unknown audience's generations", "GET", "/audiences/zebras/generations", "", nil, 404, ""},
		{"an unknown destination's deliveries", "GET", "/destinations/nobody/deliveries", "", nil, 404, ""},
		{"delivering to nobody", "POST", "/destinations/nobody/deliveries", "", nil, 404, ""},
		{"delivering nothing", "POST", "/destinations/dsp/deliveries", "", nil, 409, ""},
		{"a key for nobody", "POST", "/destinations/nobody/key", "", nil, 404, ""},
		{"an unknown receipt", "GET", "/erasures/beef", "", nil, 404, ""},
		{"an unknown import", "GET", "/imports/beef", "", nil, 404, ""},
		{"the categories of nothing", "GET", "/taxonomies/nope/categories", "", nil, 404, ""},
		{"a rule audience as a lookalike", "GET", "/lookalikes/bees", "", nil, 404, ""},
	} {
		a := s.call(c.method, c.path, c.body, c.headers...)
		p := a.problem(t)
		if a.code != c.status || c.at != "" && !slices.Equal(places(p), []string{c.at}) {
			t.Errorf("%s: %d %s, want %d at %q", c.name, a.code, a.body, c.status, c.at)
		}
	}
}

func TestWhatFailsInsideIsNotToldOutside(t *testing.T) {
	s := newStage(t)
	s.furnish()
	s.eraseErr = errBoom
	a := s.must(500, "POST", "/erasures", `{"space":"own:crm","id":"customer-77"}`)
	if b := string(a.body); strings.Contains(b, "boom") || strings.Contains(b, "customer-77") {
		t.Errorf("told: %s", b)
	}
	for _, body := range []string{`{"space":"own:crm","id":4917600000}`, `{"space":"cookie","id":"customer-77"}`, `{"space":"own:crm","id":"customer-77`, `{"space":"own:crm","id":"` + strings.Repeat("customer-77", 30) + `"}`} {
		if a := s.must(422, "POST", "/erasures", body); strings.Contains(string(a.body), "customer") || strings.Contains(string(a.body), "49176") {
			t.Errorf("an ID comes back: %s", a.body)
		}
	}
}

func TestAnswersAreNotCached(t *testing.T) {
	s := newStage(t)
	s.furnish()
	for _, path := range []string{"/sites", "/sites/shop", "/openapi.json", "/accounts"} {
		a := s.must(200, "GET", path, "")
		if c := a.head.Get("Cache-Control"); !strings.Contains(c, "no-store") {
			t.Errorf("%s: Cache-Control %q", path, c)
		}
	}
}
