package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/insight"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy/onboard"
)

//go:generate go test -run TestTheCommittedDescriptionIsTheOneServed -update .

// schemaName names a type in the description: the word of the design where Go's
// name leans on its package.
func schemaName(t reflect.Type, hint string) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t {
	case reflect.TypeFor[audience.Definition]():
		return "Audience"
	case reflect.TypeFor[insight.OverlapQuery]():
		return "OverlapRequest"
	case reflect.TypeFor[insight.Group]():
		return "ReportGroup"
	case reflect.TypeFor[onboard.Fault]():
		return "RefusedRow"
	case reflect.TypeFor[huma.ErrorModel]():
		return "Problem"
	case reflect.TypeFor[huma.ErrorDetail]():
		return "Fault"
	}
	name := huma.DefaultSchemaNamer(t, hint)
	for _, ending := range []string{"View", "Body"} {
		if short, ok := strings.CutSuffix(name, ending); ok && short != "" {
			return short + map[string]string{"View": "Shown", "Body": "Request"}[ending]
		}
	}
	return name
}

// operationID is "get-sites-id" and the like: stable, since clients are
// generated from it.
func operationID(method, path string) string {
	path = strings.NewReplacer("/{", "-by-", "}", "", "/", "-").Replace(path)
	return strings.ToLower(method) + path
}

// bodyIs says what an operation's body is. huma is given the bytes, since
// decode is stricter than a schema can be, and so does not know.
func (a *API) bodyIs(method, path string, v any) {
	s := a.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeOf(v), true, "")
	a.operation(method, path).RequestBody.Content = map[string]*huma.MediaType{"application/json": {Schema: s}}
}

func (a *API) operation(method, path string) *huma.Operation {
	p := a.huma.OpenAPI().Paths[path]
	switch method {
	case http.MethodGet:
		return p.Get
	case http.MethodPut:
		return p.Put
	case http.MethodPost:
		return p.Post
	case http.MethodDelete:
		return p.Delete
	}
	return nil
}

// required is what a document must have, by the name of its schema. A test sends
// each document without each of them, and without nothing else.
var required = map[string][]string{
	"Site":            {"origins", "source", "consent"},
	"Source":          {"party"},
	"Taxonomy":        {"title"},
	"Category":        {"title"},
	"Rule":            {"then"},
	"Audience":        {"title", "kind"},
	"Destination":     {"title"},
	"ErasureRequest":  {"space", "id"},
	"AccessKey":       {"role"},
	"PlanRequest":     {"definitions"},
	"RollbackRequest": {"version"},
	"OverlapRequest":  {"of"},
	"ProfileRequest":  {"audience"},
	"MergeRequest":    {"into"},
	"PlanDefinition":  {"kind", "definition"},
}

// hidden are fields that are kept and neither sent nor shown.
var hidden = map[string][]string{"Destination": {"key_hash"}, "AccessKey": {"key_hash"}}

// describe completes the description and makes the row that serves it. It is
// printed when it is first asked for: every command that finds no server makes an
// API, and printing was a third of what starting costs.
func (a *API) describe() error {
	doc := a.huma.OpenAPI()
	schemas := doc.Components.Schemas.Map()
	for name, fields := range hidden {
		for _, f := range fields {
			if schemas[name] == nil || schemas[name].Properties[f] == nil {
				return fmt.Errorf("the description has no %s.%s to hide", name, f)
			}
			delete(schemas[name].Properties, f)
		}
	}
	for name, fields := range required {
		if schemas[name] == nil {
			return fmt.Errorf("the description has no %s", name)
		}
		schemas[name].Required = fields
	}
	for _, s := range schemas {
		loosen(s)
	}
	problemSchema(schemas)
	for _, p := range doc.Paths {
		// A PUT that makes a document answers 201.
		if p.Put != nil {
			ok := *p.Put.Responses["200"]
			ok.Description = "Created"
			p.Put.Responses["201"] = &ok
		}
	}
	a.openapi = sync.OnceValues(func() ([]byte, error) {
		b, err := json.MarshalIndent(doc, "", " ")
		if err != nil {
			return nil, fmt.Errorf("print the description: %w", err)
		}
		return append(b, '\n'), nil
	})
	a.row(http.MethodGet, base+"/openapi.json", tagserver.May("taxonomies:read", tagserver.OfCommon), func(c echo.Context) error {
		b, err := a.openapi()
		if err != nil {
			return err
		}
		return c.Blob(http.StatusOK, "application/openapi+json", b)
	})
	return nil
}

// loosen takes out what huma supposes and is not so: that lists may be null, and
// that an answer never gets another field. That unknown fields are refused in
// what is sent stands in the description.
func loosen(s *huma.Schema) {
	if s == nil {
		return
	}
	if s.Type == huma.TypeArray {
		s.Nullable = false
	}
	if s.AdditionalProperties == false {
		s.AdditionalProperties = nil
	}
	if values, ok := s.AdditionalProperties.(*huma.Schema); ok {
		loosen(values)
	}
	loosen(s.Items)
	for _, p := range s.Properties {
		loosen(p)
	}
}

// problemSchema describes errors as they are answered: a tagserver.Problem, which
// is not of huma's form.
func problemSchema(schemas map[string]*huma.Schema) {
	text := func(doc string) *huma.Schema { return &huma.Schema{Type: huma.TypeString, Description: doc} }
	schemas["Problem"] = &huma.Schema{Type: huma.TypeObject, Required: []string{"type", "title", "status", "code"}, Properties: map[string]*huma.Schema{
		"type":   text("about:blank: the code tells problems apart."),
		"title":  text("The status in words."),
		"status": {Type: huma.TypeInteger},
		"code":   text("Stable, to decide by."),
		"detail": text("What was attempted, what is wrong, and what to do."),
		"errors": {Type: huma.TypeArray, Items: &huma.Schema{Ref: "#/components/schemas/Fault"}},
	}}
	schemas["Fault"] = &huma.Schema{Type: huma.TypeObject, Required: []string{"location", "message"}, Properties: map[string]*huma.Schema{
		"location": text("The place: body.origins[1]."),
		"message":  text("What is wrong there."),
	}}
}
