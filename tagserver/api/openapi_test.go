package api

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/onboard"
)

var update = flag.Bool("update", false, "write openapi.json anew")

// description is the API's description of itself.
func (s *stage) description() []byte {
	s.t.Helper()
	b, err := s.api.openapi()
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func TestTheCommittedDescriptionIsTheOneServed(t *testing.T) {
	s := newStage(t)
	got := s.must(200, "GET", "/openapi.json", "")
	if ct := got.head.Get("Content-Type"); ct != "application/openapi+json" {
		t.Errorf("its type is %q", ct)
	}
	if *update {
		if err := os.WriteFile("openapi.json", got.body, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.body, want) {
		t.Error("openapi.json is not what the API serves: see what changed for callers, then run `go generate ./tagserver/api`")
	}
}

// TestTheDescriptionIsSound checks what a generator of clients relies on.
func TestTheDescriptionIsSound(t *testing.T) {
	s := newStage(t)
	var doc struct {
		OpenAPI    string
		Info       struct{ Title, Version string }
		Paths      map[string]map[string]json.RawMessage
		Components struct {
			Schemas         map[string]json.RawMessage
			SecuritySchemes map[string]struct{ Type, Scheme string }
		}
		Security []map[string][]string
	}
	if err := json.Unmarshal(s.description(), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.OpenAPI != "3.1.0" || doc.Info.Title == "" || doc.Info.Version == "" || doc.Components.SecuritySchemes["key"].Scheme != "bearer" || len(doc.Security) != 1 {
		t.Errorf("its head: %+v", doc)
	}
	for _, m := range regexp.MustCompile(`"\$ref": ?"([^"]*)"`).FindAllSubmatch(s.description(), -1) {
		name, ok := strings.CutPrefix(string(m[1]), "#/components/schemas/")
		if _, is := doc.Components.Schemas[name]; !ok || !is {
			t.Errorf("nothing is at %s", m[1])
		}
	}
	for name := range doc.Components.Schemas {
		if !bytes.Contains(s.description(), []byte(`"#/components/schemas/`+name+`"`)) {
			t.Errorf("nothing uses the schema %s", name)
		}
		if name[0] < 'A' || name[0] > 'Z' {
			t.Errorf("the schema %q has a Go name", name)
		}
	}
	ids := map[string]bool{}
	described := map[string]bool{}
	parameter := regexp.MustCompile(`\{(\w+)\}`)
	for path, ops := range doc.Paths {
		for method, raw := range ops {
			described[strings.ToUpper(method)+" "+path] = true
			var op struct {
				OperationID string `json:"operationId"`
				Summary     string
				Tags        []string
				Parameters  []struct {
					Name, In string
					Required bool
				}
				RequestBody *struct {
					Content map[string]struct{ Schema map[string]any }
				}
				Responses map[string]struct {
					Description string
					Content     map[string]struct{ Schema map[string]any }
				}
			}
			if err := json.Unmarshal(raw, &op); err != nil {
				t.Fatal(err)
			}
			at := strings.ToUpper(method) + " " + path
			if op.OperationID == "" || ids[op.OperationID] || op.Summary == "" || len(op.Tags) != 1 {
				t.Errorf("%s: operationId %q, summary %q, tags %q", at, op.OperationID, op.Summary, op.Tags)
			}
			ids[op.OperationID] = true
			var want, got []string
			for _, m := range parameter.FindAllStringSubmatch(path, -1) {
				want = append(want, m[1])
			}
			for _, p := range op.Parameters {
				if p.In == "path" {
					got = append(got, p.Name)
					if !p.Required {
						t.Errorf("%s: the parameter %s of the path is not required", at, p.Name)
					}
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: parameters of the path %q, want %q", at, got, want)
			}
			if op.Responses["401"].Content["application/problem+json"].Schema == nil {
				t.Errorf("%s does not say 401", at)
			}
			success := 0
			for code, r := range op.Responses {
				if r.Description == "" {
					t.Errorf("%s: %s has no description", at, code)
				}
				if code[0] == '2' {
					success++
					if code != "204" && r.Content["application/json"].Schema == nil && r.Content["application/x-tar"].Schema == nil && r.Content[matchType].Schema == nil {
						t.Errorf("%s: %s has no schema", at, code)
					}
				}
			}
			if success == 0 {
				t.Errorf("%s has no success", at)
			}
			if op.RequestBody != nil {
				for ct, c := range op.RequestBody.Content {
					if c.Schema == nil || ct != "application/json" && ct != "multipart/form-data" && ct != "application/octet-stream" {
						t.Errorf("%s: body of type %s with schema %v", at, ct, c.Schema)
					}
				}
			}
		}
	}
	// The table and the description are of the same routes.
	form := regexp.MustCompile(`:(\w+)`)
	for _, r := range s.api.Routes() {
		name := r.Method + " " + form.ReplaceAllString(r.Path, "{$1}")
		if name == http.MethodGet+" "+base+"/openapi.json" {
			continue
		}
		if !described[name] {
			t.Errorf("%s stands in the table and is not described", name)
		}
		delete(described, name)
	}
	for name := range described {
		t.Errorf("%s is described and stands in no table", name)
	}
}

func TestANewAPINamesTheOptionThatIsMissing(t *testing.T) {
	if _, err := New(Options{}); err == nil || !strings.Contains(err.Error(), "option Defs is not set") {
		t.Errorf("got %v", err)
	}
}

// TestAnswersAreAsDescribed reads the answers with the schemas: a field that is
// not described, or of another type, is not there for who generates a client.
func TestAnswersAreAsDescribed(t *testing.T) {
	s := newStage(t)
	s.furnish()
	s.must(201, "POST", "/generations", "")
	s.generations[0].Audiences = append(s.generations[0].Audiences, audience.Entry{ID: "bees", Count: 60, Fault: "a", Evidence: &audience.Evidence{Seed: 60, Detail: []byte(`{}`)}})
	s.estimate = func(query.Expr) (*audience.Estimate, error) {
		e := &audience.Estimate{Position: map[taxonomy.WriterID]uint64{{1}: 1}}
		e.Count, e.Clauses, e.WhyEmpty = 70, []query.Clause{{Path: ".", Count: 70, Kept: p64(70)}}, []query.Reason{{Path: "."}}
		return e, nil
	}
	s.imported = func(q ImportRequest) (ImportReceipt, error) {
		q.Bad(onboard.Fault{Row: 1, Column: "c"})
		return ImportReceipt{Import: "00", Report: onboard.Report{Rejected: map[taxonomy.Reason]uint64{"import": 1}, Ahead: 1, Refused: 1, Unjoined: 1}}, nil
	}
	imported := s.give(formPart{"source", "own"}, formPart{"mapping", mapping}, formPart{"file", file})

	var doc struct {
		Paths map[string]map[string]struct {
			Responses map[string]struct {
				Content map[string]struct{ Schema *schema }
			}
		}
		Components struct{ Schemas map[string]*schema }
	}
	if err := json.Unmarshal(s.description(), &doc); err != nil {
		t.Fatal(err)
	}
	described := func(method, path string, a *answer) {
		t.Helper()
		for code, r := range doc.Paths[base+path][strings.ToLower(method)].Responses {
			if code != strconv.Itoa(a.code) {
				continue
			}
			for ct, c := range r.Content {
				if ct != a.head.Get("Content-Type") {
					continue
				}
				var v any
				if err := json.Unmarshal(a.body, &v); err != nil {
					t.Fatal(err)
				}
				c.Schema.check(t, doc.Components.Schemas, method+" "+path, v)
				return
			}
		}
		t.Errorf("%s %s: %d of type %s is not described", method, path, a.code, a.head.Get("Content-Type"))
	}
	described("POST", "/imports", imported)
	for _, c := range []struct{ method, path, id, body, header string }{
		{"GET", "/sites", "", "", ""}, {"GET", "/sites/{id}", "shop", "", ""}, {"GET", "/sites/{id}", "nowhere", "", ""}, {"GET", "/sites/{id}/refusals", "shop", "", ""},
		{"PUT", "/sites/{id}", "shop", `{"origins":["x"]}`, "If-Match: *"}, {"PUT", "/sites/{id}", "shop", `{}`, "If-Match: \"7\""},
		{"GET", "/sources", "", "", ""}, {"GET", "/sources/{id}", "own", "", ""}, {"GET", "/taxonomies", "", "", ""}, {"GET", "/taxonomies/{id}", "mine", "", ""},
		{"GET", "/taxonomies/{id}/categories", "mine", "", ""}, {"GET", "/rules", "", "", ""}, {"GET", "/rules/{id}", "r1", "", ""},
		{"GET", "/audiences", "", "", ""}, {"GET", "/audiences/{id}", "bees", "", ""}, {"GET", "/audiences/{id}/generations", "bees", "", ""},
		{"GET", "/lookalikes", "", "", ""}, {"GET", "/lookalikes/{id}", "like-bees", "", ""}, {"GET", "/destinations", "", "", ""}, {"GET", "/destinations/{id}", "dsp", "", ""},
		{"POST", "/destinations", "", `{"id":"new","title":"New"}`, ""}, {"POST", "/destinations/{id}/key", "dsp", "", ""}, {"POST", "/destinations/{id}/deliveries", "dsp", "", ""},
		{"GET", "/destinations/{id}/deliveries", "dsp", "", ""}, {"POST", "/estimates", "", `{"rule":{"any":true}}`, ""}, {"POST", "/reports/overlap", "", `{"of":[{"audience":"bees"},{"trait":"c:mine/free"},{"trait":"c:mine/a"}]}`, ""}, {"POST", "/reports/profile", "", `{"audience":"bees"}`, ""}, {"GET", "/generations", "", "", ""}, {"POST", "/generations", "", "", ""},
		{"GET", "/imports", "", "", ""}, {"GET", "/imports/{id}", "00", "", ""}, {"GET", "/accounts", "", "", ""}, {"GET", "/retention", "", "", ""}, {"GET", "/audit", "", "", ""}, {"GET", "/audit/verification", "", "", ""}, {"GET", "/keys", "", "", ""}, {"GET", "/keys/{id}", "admin", "", ""}, {"POST", "/plan", "", `{"definitions":[{"kind":"source","definition":{"id":"own","party":2}}]}`, ""}, {"POST", "/apply", "", `{"definitions":[]}`, ""}, {"POST", "/keys", "", `{"id":"k","role":"viewer"}`, ""}, {"POST", "/nightly-passes", "", "", ""},
		{"POST", "/erasures", "", `{"space":"own:crm","id":"x"}`, ""}, {"GET", "/erasures/{receipt}", "00ff", "", ""}, {"DELETE", "/audiences/{id}", "bees", "", "If-Match: *"},
	} {
		path := strings.NewReplacer("{id}", c.id, "{receipt}", c.id).Replace(c.path)
		described(c.method, c.path, s.call(c.method, path, c.body, c.header))
	}
}

type schema struct {
	Ref        string `json:"$ref"`
	Type       any
	Properties map[string]*schema
	Items      *schema
	More       any `json:"additionalProperties"`
	Required   []string
}

func (s *schema) check(t *testing.T, all map[string]*schema, at string, v any) {
	t.Helper()
	if s.Ref != "" {
		s = all[strings.TrimPrefix(s.Ref, "#/components/schemas/")]
	}
	is := ""
	switch v := v.(type) {
	case nil:
		is = "null"
	case bool:
		is = "boolean"
	case string:
		is = "string"
	case float64:
		is = "number"
		if list, _ := s.Type.(string); list == "integer" && v == float64(int64(v)) {
			is = "integer"
		}
	case []any:
		is = "array"
		for _, e := range v {
			if s.Items != nil {
				s.Items.check(t, all, at+"[]", e)
			}
		}
	case map[string]any:
		is = "object"
		for _, r := range s.Required {
			if _, ok := v[r]; !ok {
				t.Errorf("%s.%s is required and not there", at, r)
			}
		}
		for k, e := range v {
			if p := s.Properties[k]; p != nil {
				p.check(t, all, at+"."+k, e)
			} else if s.Type != nil && s.More == nil {
				t.Errorf("%s.%s is not described", at, k)
			}
		}
	}
	switch want := s.Type.(type) {
	case string:
		if want != is {
			t.Errorf("%s is of type %s, described as %s", at, is, want)
		}
	case []any:
		if !slices.Contains(want, any(is)) {
			t.Errorf("%s is of type %s, described as %v", at, is, want)
		}
	}
}
