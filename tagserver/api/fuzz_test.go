package api

import (
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
)

// FuzzNoBodyBreaksTheAPI sends any bytes to every route that takes a body: the
// answer is never ours to be ashamed of, and a refusal names what is wrong.
func FuzzNoBodyBreaksTheAPI(f *testing.F) {
	for _, c := range samples {
		f.Add(c.one)
		f.Add(c.two)
	}
	for _, body := range []string{
		``, `{}`, `[]`, `null`, `{"rule":{"any":true}}`, `{"rule":{"and":[{"trait":"c:mine/a","window":"30d","min":2}]}}`, `{"space":"own:crm","id":"x"}`,
		`{"id":"x","title":"X","categories":[{"id":"a","title":"A","parents":["b"]},{"id":"b","title":"B"}]}`,
		`{"id":"x","when":[{"field":"prop.a","op":"range","min":1e308}],"then":["c:mine/{a}"]}`, `{"id":"\u0000"}`, `{"a":1,"a":2}`,
		strings.Repeat(`{"not":`, 100) + `1` + strings.Repeat(`}`, 100), strings.Repeat("[", 20_000),
	} {
		f.Add(body)
	}
	s := newStage(f)
	f.Fuzz(func(t *testing.T, body string) {
		s.t = t
		s.empty()
		s.furnish()
		for _, c := range []struct{ method, path, header string }{
			{"POST", "/sites", ""}, {"POST", "/sources", ""}, {"POST", "/taxonomies", ""}, {"POST", "/rules", ""}, {"POST", "/audiences", ""},
			{"POST", "/lookalikes", ""}, {"POST", "/destinations", ""}, {"POST", "/estimates", ""}, {"POST", "/erasures", ""},
			{"PUT", "/sites/shop", "If-Match: *"}, {"PUT", "/taxonomies/mine", "If-Match: *"}, {"PUT", "/audiences/bees", "If-Match: *"},
			{"PUT", "/destinations/dsp", "If-Match: *"}, {"PUT", "/taxonomies/mine/categories/a", "If-Match: *"},
		} {
			a := s.call(c.method, c.path, body, "Content-Type: application/json", c.header)
			if a.code >= 500 {
				t.Errorf("%s %s: %d %s", c.method, c.path, a.code, a.body)
			}
			if a.code >= 400 {
				a.problem(t)
			} else if !json.Valid(a.body) {
				t.Errorf("%s %s: %s", c.method, c.path, a.body)
			}
		}
		// What was let in does not stop the next list or change.
		for _, path := range []string{"/sites", "/sources", "/taxonomies", "/rules", "/audiences", "/lookalikes", "/destinations"} {
			s.must(200, http.MethodGet, path, "")
		}
		s.must(201, "PUT", "/audiences/after", `{"title":"After","kind":"rule","rule":{"any":true}}`, "If-None-Match: *")
	})
}

// FuzzDecodeIsStricterThanTheLibrary: what decode takes, encoding/json takes with
// unknown fields refused, and reads the same.
func FuzzDecodeIsStricterThanTheLibrary(f *testing.F) {
	for _, c := range samples {
		f.Add([]byte(c.one))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		check(t, body, new(rules.Rule), new(rules.Rule))
		check(t, body, new(audience.Definition), new(audience.Definition))
	})
}

func check(t *testing.T, body []byte, got, want any) {
	if len(decode("body", body, got, nil)) > 0 {
		return
	}
	dec := json.NewDecoder(strings.NewReader(string(body)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(want); err != nil {
		t.Fatalf("%s was taken, and the library says %v", body, err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s: got %+v, the library reads %+v", body, got, want)
	}
}

// What encoding/json writes, decode reads back.
func TestDecodeReadsWhatTheLibraryWrites(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.StringN(0, 8, -1)
		number := rapid.Float64Range(-1e9, 1e9)
		r := rules.Rule{ID: text.Draw(rt, "id"), Title: text.Draw(rt, "title"), Then: rapid.SliceOfN(text, 0, 3).Draw(rt, "then")}
		for range rapid.IntRange(0, 3).Draw(rt, "conditions") {
			c := rules.Condition{Field: text.Draw(rt, "field"), Op: text.Draw(rt, "op")}
			if rapid.Bool().Draw(rt, "bound") {
				n := number.Draw(rt, "min")
				c.Min = &n
			}
			r.When = append(r.When, c)
		}
		if r.Then == nil {
			r.Then = []string{}
		}
		b, err := json.Marshal(r)
		if err != nil {
			rt.Fatal(err)
		}
		var back rules.Rule
		if faults := decode("body", b, &back, nil); len(faults) > 0 || !reflect.DeepEqual(back, r) {
			rt.Fatalf("%s: %+v, read as %+v", b, faults, back)
		}
	})
}
