package query_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

func TestParseReadsWhatTheLanguageSays(t *testing.T) {
	from, _ := taxonomy.ParseDay("2026-09-01")
	to, _ := taxonomy.ParseDay("2026-09-30")
	for _, c := range []struct {
		in   string
		want query.Expr
	}{
		{`{"trait":"c:products/grocery"}`, query.Trait{Trait: "c:products/grocery", Window: query.LastDays(90), Min: 1}},
		{`{"trait":"c:products/grocery","window":"30d","min":3,"max":10,"unit":"days","sources":["shop","bought"]}`,
			query.Trait{Trait: "c:products/grocery", Window: query.LastDays(30), Min: 3, Max: 10, Unit: index.DistinctDays, Sources: []taxonomy.SourceID{"bought", "shop"}}},
		{`{"window":{"to":"2026-09-30","from":"2026-09-01"},"trait":"k:size=l","min":0,"max":2,"unit":"events"}`,
			query.Trait{Trait: "k:size=l", Window: query.Window{From: from, To: to}, Max: 2}},
		{`{"trait":"any","last_seen":{"min_days":3,"max_days":30}}`, query.Trait{Trait: "any", Window: query.LastDays(90), Min: 1, LastSeen: &query.Recency{Min: 3, Max: 30}}},
		{`{"trait":"any","last_seen":{"min_days":7}}`, query.Trait{Trait: "any", Window: query.LastDays(90), Min: 1, LastSeen: &query.Recency{Min: 7, Max: 89}}},
		{`{"attribute":"age","min":18,"below":30.5}`, query.Attribute{Key: "age", Range: &query.Range{Low: query.Bound{Set: true, Value: 18}, High: query.Bound{Set: true, Value: 30.5, Open: true}}}},
		{`{"sequence":[{"trait":"c:a/b","sources":["web","shop"]},{"trait":"any"},{"within_days":7,"trait":"c:a/c"}],"window":"30d"}`,
			query.Sequence{Steps: []query.Step{{Trait: "c:a/b", Sources: []taxonomy.SourceID{"shop", "web"}}, {Trait: "any", Within: 89}, {Trait: "c:a/c", Within: 7}}, Window: query.LastDays(30)}},
		{`{"as_of":"2026-09-01","of":{"as_of":{"days_ago":3},"of":{"any":true}}}`, query.AsOf{Day: from, Of: query.AsOf{Ago: 3, Of: query.Any{}}}},
		{`{"attribute":"age","in":["25-34","18-24"]}`, query.Attribute{Key: "age", In: []string{"18-24", "25-34"}}},
		{` {"and":[{"list":"crm"},{"not":{"audience":"x"}},{"or":[{"any":true}]}]} `,
			query.And{Of: []query.Expr{query.List{List: "crm"}, query.Not{Of: query.Audience{ID: "x"}}, query.Or{Of: []query.Expr{query.Any{}}}}}},
	} {
		got, err := query.Parse([]byte(c.in))
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\ngot  %#v, %v\nwant %#v", c.in, got, err, c.want)
		}
	}
}

// fields returns the path of every fault in err.
func fields(err error) []string {
	var out []string
	var visit func(error)
	visit = func(err error) {
		var f *taxonomy.FieldError
		if m, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range m.Unwrap() {
				visit(e)
			}
		} else if errors.As(err, &f) {
			out = append(out, f.Field)
		}
	}
	visit(err)
	return out
}

func TestParseNamesEveryFaultWithItsPlace(t *testing.T) {
	deep := strings.Repeat(`{"not":`, 16) + `{"any":true}` + strings.Repeat(`}`, 16)
	for _, c := range []struct {
		in     string
		fields string // of all faults, in order
		says   string
	}{
		{``, ".", "ends too early"},
		{`{"any":true`, ".", "ends too early"},
		{`{"any":true}{}`, ".", "more follows"},
		{`{"any":tru}`, ".", "at byte"},
		{`[]`, ".", "want an object"},
		{`{}`, ".", "is empty"},
		{`{"nad":[]}`, "nad", `did you mean "and"?`},
		{`{"any":true,"list":"x"}`, ".", "has both"},
		{`{"any":false}`, "any", "want true"},
		{`{"any":true,"any":true}`, "any", "stands twice"},
		{`{"and":[]}`, "and", "at least one"},
		{`{"and":{"any":true}}`, "and", "want an array"},
		{`{"attribute":"age","min":18,"above":18}`, "above", "has both"},
		{`{"attribute":"age","min":18,"in":["x"]}`, "in", "both values and a range"},
		{`{"attribute":"age","above":18,"max":18}`, "max", "no number lies between"},
		{`{"attribute":"age","min":"18"}`, "min", "want a number"},
		{`{"sequence":[{"trait":"c:a/b"}]}`, "sequence", "has 1 steps"},
		{`{"sequence":[{"trait":"c:a/b"},{"trait":"c:a","within_days":95},7]}`, "sequence[2]", "want a step"},
		{`{"sequence":[{"trait":"c:a/b"},{"trait":"c:a/","within_days":95}],"window":"1"}`, "window", "not a window"},
		{`{"sequence":[{"trait":"c:a/b"},{"trait":"c:a/","within_days":95}]}`, "sequence[1].trait sequence[1].within_days", "not within 1"},
		{`{"as_of":"yesterday","of":{"any":true}}`, "as_of", "not a day"},
		{`{"as_of":{"days_ago":90},"of":{"any":true}}`, "as_of", "1 to 89"},
		{`{"as_of":{"days_ago":9}}`, "of", "is missing"},
		{`{"and":[{"any":true},{"trait":"c:a/b","window":"30"}]}`, "and[1].window", `"30" is not a window`},
		{`{"or":[{"trait":"c:a/b","windw":"30d"},{"trait":"c:a/b","window":"91d"},{"trait":"c:a/b","min":"3"}]}`,
			"or[0].windw or[1].window or[2].min", `did you mean "window"?`},
		{`{"trait":"c:a/b","window":"030d"}`, "window", "is not a window"},
		{`{"trait":"c:a/b","window":{"from":"2026-09-31"}}`, "window.from window.to", "is not a day"},
		{`{"trait":"c:a/b","window":{"from":"2026-09-30","to":"2026-09-01"}}`, "window", "ends (2026-09-01) before it begins"},
		{`{"trait":"c:a/b","window":{"from":"2026-01-01","to":"2026-04-01"}}`, "window", "91 days long"},
		{`{"trait":"c:a/b","min":256}`, "min", "0 to 255"},
		{`{"trait":"c:a/b","max":255}`, "max", "1 to 254"}, // R14
		{`{"trait":"c:a/b","max":0}`, "max", `{"not"`},
		{`{"trait":"c:a/b","min":0}`, "min", "without a max"},
		{`{"trait":"c:a/b","min":3,"max":2}`, "max", "less than min"},
		{`{"trait":"c:a/b","min":1.5}`, "min", "whole number, got 1.5"},
		{`{"trait":"c:a/b","unit":"visits"}`, "unit", "not one of events, days"},
		{`{"trait":"c:a/b","sources":[]}`, "sources", "at least one"},
		{`{"trait":"c:a/b","sources":["a","A b","a"]}`, "sources[2]", "repeated"},
		{`{"trait":"c:a/b","sources":["Shop"]}`, "sources[0]", "character 'S'"},
		{`{"trait":"c:a/b","last_seen":{"min_days":5,"max_days":3}}`, "last_seen.max_days", "less than min_days"},
		{`{"trait":"c:a/b","last_seen":{"max_days":90}}`, "last_seen.max_days", "to 89"},
		{`{"trait":"c:a/b","last_seen":{"maxdays":9}}`, "last_seen.maxdays", "did you mean"},
		{`{"trait":"a:age=18-24"}`, "trait", `use {"attribute"`},
		{`{"trait":"bot"}`, "trait", "bots are never"},
		{`{"trait":"grocery"}`, "trait", "is not a trait"},
		{`{"trait":["c:a/b"]}`, "trait", "want a string, got an array"},
		{`{"attribute":"age"}`, "in", "at least one value"},
		{`{"attribute":"a=b","in":["x","x"]}`, "in[1]", "repeated"},
		{`{"list":"CRM"}`, "list", "character 'C'"},
		{`{"audience":""}`, "audience", "must not be empty"},
		{`{"not":{"not":7}}`, "not.not", "got a number"},
		{deep, strings.Repeat("not.", 15) + "not", "nested deeper than 16"},
		{`{"or":[` + strings.Repeat(`{"any":true},`, 499) + `{"any":true}]}`, "or[499]", "more than 500 nodes"},
		{`{"any":true` + strings.Repeat(`,"x":1`, 40) + `}`, ".", "has 41 keys"},
		{`{"attribute":"age","in":["x"` + strings.Repeat(`,"y"`, 500) + `]}`, "in", "has 501 entries"},
		{strings.Repeat(`[`, 50), ".", "nested deeper"},
	} {
		e, err := query.Parse([]byte(c.in))
		if err == nil || e != nil {
			t.Errorf("%.80s: parsed as %v", c.in, e)
			continue
		}
		if got := strings.Join(fields(err), " "); got != c.fields {
			t.Errorf("%.80s: faults at %q, want %q (%v)", c.in, got, c.fields, err)
		}
		if !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.80s: %v\nwant it to say %q", c.in, err, c.says)
		}
	}
	_, err := query.ParseAt("rule", []byte(`{"and":[{"any":1}]}`))
	if got := fields(err); !slices.Equal(got, []string{"rule.and[0].any"}) {
		t.Errorf("within a document: %v", got)
	}
}

func TestPrintAndParseRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := genExpr(t, endOfDays, 4, true)
		printed := query.Print(e)
		if !json.Valid(printed) {
			t.Fatalf("not JSON: %s", printed)
		}
		got, err := query.Parse(printed)
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Fatalf("%s\nparsed %#v, %v\nwant   %#v", printed, got, err, e)
		}
		var indented bytes.Buffer
		if err := json.Indent(&indented, printed, "", "\t"); err != nil {
			t.Fatal(err)
		}
		if again, err := query.Parse(indented.Bytes()); err != nil || !bytes.Equal(query.Print(again), printed) {
			t.Fatalf("indented: %v", err)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"any":true}`, `{"and":[{"trait":"c:a/b","window":"30d","min":0,"max":3},{"not":{"attribute":"age","in":["x"]}}]}`,
		`{"trait":"k:\u0000=\ud800","sources":["a"],"last_seen":{"min_days":1}}`, `{"trait":"c:a/b","window":{"from":"0000-01-01","to":"0000-01-02"}}`, `{"or":[null]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := query.Parse(b)
		if err != nil {
			if e != nil || len(fields(err)) == 0 {
				t.Fatalf("%q: %v with %v", b, e, err)
			}
			return
		}
		if err := query.Check(e); err != nil {
			t.Fatalf("%q parsed, but: %v", b, err)
		}
		got, err := query.Parse(query.Print(e))
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Fatalf("%q printed as %s: %v", b, query.Print(e), err)
		}
	})
}
