package api

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

func p64(n uint64) *uint64 { return &n }

// P7
func TestCountsBelowTheFloorAreNotShown(t *testing.T) {
	s := newStage(t)
	s.furnish()
	clauses := func() []query.Clause {
		return []query.Clause{
			{Path: ".", What: "all of", Count: 0},
			{Path: "and[0]", What: "c:mine/a", Count: 777, Kept: p64(777)},
			{Path: "and[1]", What: "not", Count: 9876, Kept: p64(765)},
			{Path: "and[1].not", What: "c:mine/b", Count: 31, Kept: nil},
		}
	}
	for _, c := range []struct {
		count  uint64
		shown  string
		hidden []string // must not stand in the answer
		there  []string
	}{
		{49, `"<50"`, []string{"777", "9876", "765", "31,", "49", "4321"}, []string{`"shown":"≥50"`}},
		{0, `"<50"`, []string{"777", "9876", "765", "4321"}, nil},
		{50, `"50"`, []string{"9876", "\"31\""}, []string{`"count":777`, `"count":765`, `"count":4321`, `"count":50`}},
		{1234567, `"1234567"`, []string{"9876"}, []string{`"count":1234567`}},
	} {
		s.estimate = func(query.Expr) (*audience.Estimate, error) {
			e := &audience.Estimate{AsOf: now, Position: map[taxonomy.WriterID]uint64{{1}: 5}}
			e.Count, e.Eligible, e.Clauses = c.count, 4321, clauses()
			e.Clauses[0].Count = c.count
			if c.count == 0 {
				e.WhyEmpty = []query.Reason{{Path: "and[1]", Code: query.NoOverlap, Why: "765 visitors match this part, but none of the 777"}, {Path: ".", Code: query.NotEligible, Why: "765 visitors"}}
			}
			return e, nil
		}
		a := s.must(200, "POST", "/estimates", `{"rule":{"any":true}}`)
		b := string(a.body)
		if !strings.HasPrefix(b, `{"shown":`+c.shown) || !strings.Contains(b, `"as_of":"2024-10-04T12:00:00Z"`) || !strings.Contains(b, `01000000000000000000000000000000":5`) {
			t.Errorf("%d: %s", c.count, b)
		}
		b = strings.Replace(b, `"2024-10-04T12:00:00Z"`, "", 1)
		for _, h := range c.hidden {
			if strings.Contains(b, h) {
				t.Errorf("%d: %q is shown in %s", c.count, h, b)
			}
		}
		for _, h := range c.there {
			if !strings.Contains(b, h) {
				t.Errorf("%d: %q is not shown in %s", c.count, h, b)
			}
		}
	}
}

// P7, whatever the numbers: an answer holds no exact count below the floor.
func TestNoEstimateHoldsACountBelowTheFloor(t *testing.T) {
	n := rapid.Custom(func(t *rapid.T) uint64 { return rapid.Uint64Range(0, 120).Draw(t, "n") })
	rapid.Check(t, func(rt *rapid.T) {
		e := &audience.Estimate{}
		e.Count, e.Eligible = n.Draw(rt, "count"), n.Draw(rt, "eligible")
		for range rapid.IntRange(0, 5).Draw(rt, "clauses") {
			c := query.Clause{Path: "and[0]", Count: n.Draw(rt, "c")}
			if rapid.Bool().Draw(rt, "kept?") {
				c.Kept = p64(n.Draw(rt, "kept"))
			}
			e.Clauses = append(e.Clauses, c)
		}
		b, err := json.Marshal(showEstimate(e))
		if err != nil {
			rt.Fatal(err)
		}
		var all any
		if err := json.Unmarshal(b, &all); err != nil {
			rt.Fatal(err)
		}
		var walk func(any)
		walk = func(v any) {
			switch v := v.(type) {
			case map[string]any:
				if count, ok := v["count"].(float64); ok && (count < audience.ShownFloor || e.Count < audience.ShownFloor) {
					rt.Fatalf("%v of an estimate of %d in %s", count, e.Count, b)
				}
				for _, k := range v {
					walk(k)
				}
			case []any:
				for _, k := range v {
					walk(k)
				}
			}
		}
		walk(all)
	})
}

func TestFaultsFoundWhileEstimatingHaveTheirPlaceInTheRule(t *testing.T) {
	s := newStage(t)
	s.estimate = func(query.Expr) (*audience.Estimate, error) {
		return nil, taxonomy.Invalid("and[1].audience", "there is no audience %q", "zebras")
	}
	p := s.must(422, "POST", "/estimates", `{"rule":{"and":[{"any":true},{"audience":"zebras"}]}}`).problem(t)
	if len(p.Errors) != 1 || p.Errors[0].Location != "body.rule.and[1].audience" {
		t.Errorf("%+v", p)
	}
	s.estimate = func(query.Expr) (*audience.Estimate, error) { return nil, errBoom }
	s.must(500, "POST", "/estimates", `{"rule":{"any":true}}`)
}

func TestGenerationsAreListedBuiltAndShownByAudience(t *testing.T) {
	s := newStage(t)
	s.furnish()
	var none page[json.RawMessage]
	s.must(200, "GET", "/generations", "").into(t, &none)
	s.must(200, "GET", "/audiences/bees/generations", "").into(t, &none)
	if none.Items == nil || len(none.Items) != 0 {
		t.Errorf("before the first: %v", none.Items)
	}
	pos := map[taxonomy.WriterID]uint64{{1}: 9}
	s.generations = []*audience.Generation{
		{Epoch: 1, Number: 4, Built: now, Clock: now, Position: pos, Audiences: []audience.Entry{{ID: "bees", Version: 3, Count: 60, Added: 13, Removed: 2}}},
		nil, // cannot be read
		{Epoch: 1, Number: 2, Audiences: []audience.Entry{{ID: "bees", Count: 49, Added: 7, Fault: "a fault"}}},
		{Epoch: 1, Number: 1},
	}
	var got page[audienceGeneration]
	a := s.must(200, "GET", "/audiences/bees/generations", "")
	a.into(t, &got)
	if len(got.Items) != 3 {
		t.Fatalf("%s", a.body)
	}
	top, lost, small := got.Items[0], got.Items[1], got.Items[2]
	if top.Number != 4 || *top.Count != 60 || *top.Added != 13 || *top.Removed != 2 || top.Position[taxonomy.WriterID{1}] != 9 || top.Version != 3 {
		t.Errorf("the newest: %s", a.body)
	}
	if lost.Number != 3 || lost.Fault == "" || lost.Count != nil {
		t.Errorf("one that cannot be read: %s", a.body)
	}
	if small.Shown != "<50" || small.Count != nil || small.Added != nil || small.Fault != "a fault" {
		t.Errorf("one below the floor: %s", a.body)
	}
	s.generations = nil
	var built generationView
	s.must(201, "POST", "/generations", "").into(t, &built)
	if built.Number != 1 || built.Audiences[0].Shown != "<50" || built.Audiences[0].Count != nil || built.Audiences[1].Shown != "50" {
		t.Errorf("built %+v", built)
	}
	var refs page[GenerationRef]
	s.must(200, "GET", "/generations", "").into(t, &refs)
	if len(refs.Items) != 1 || refs.Items[0].Number != 1 {
		t.Errorf("listed %+v", refs)
	}
	var d deliveryView
	s.must(200, "POST", "/destinations/dsp/deliveries", "").into(t, &d)
	if d.Generation != 3 || !d.At.Equal(now.Time()) || d.Rows != 1234 {
		t.Errorf("delivered %+v", d)
	}
	var ds page[deliveryView]
	s.must(200, "GET", "/destinations/dsp/deliveries", "").into(t, &ds)
	if len(ds.Items) != 2 || ds.Items[0].Generation != 3 {
		t.Errorf("deliveries %+v", ds)
	}
}

func TestOperatorsSeeAccountsAuditRefusalsAndReceipts(t *testing.T) {
	s := newStage(t)
	s.furnish()
	for _, c := range []struct{ path, want string }{
		{"/accounts", `{"items":[{"site":"","received":0,"stored":0,"duplicate":0,"queued":0},{"site":"shop","received":5,"stored":3,"duplicate":0,"rejected":{"too_old":2},"queued":0}]}`},
		{"/retention", `{"at":"2024-10-04T12:00:00Z","ok":true,"places":[{"name":"events","oldest":null,"age":0,"bound":91,"ok":true}]}`},
		{"/sites/shop/refusals", `{"items":[{"at":"2024-10-04T12:00:00Z","code":"pii","where":"props.mail","why":"looks like an e-mail address","sample":"aaa@aaa.aa"}]}`},
		{"/erasures/00ff", `{"id":"00ff","space":"own:crm","at":"2024-10-04T12:00:00Z","soon":"2024-10-04T12:00:00.001Z","nights":[],"done":false,"places":["delivery"],"bound":"2024-10-08"}`},
	} {
		if a := s.must(200, "GET", c.path, ""); strings.TrimSpace(string(a.body)) != c.want {
			t.Errorf("%s: %s\nwant %s", c.path, a.body, c.want)
		}
	}
	a := s.must(202, "POST", "/erasures", `{"space":"own:crm","id":"customer-77"}`)
	if a.head.Get("Location") != base+"/erasures/00ff" || strings.Contains(string(a.body), "customer") || len(s.erased) != 1 || s.erased[0] != "own:crm customer-77" {
		t.Errorf("erased %q: %s %s", s.erased, a.head.Get("Location"), a.body)
	}
}

func TestARuleMayComeAsText(t *testing.T) {
	s := newStage(t)
	s.furnish()
	var asked query.Expr
	s.estimate = func(e query.Expr) (*audience.Estimate, error) { asked = e; return &audience.Estimate{AsOf: now}, nil }
	const text = `c:mine/a in 30d and not in list crm`
	want, err := query.ParseText(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{`{"rule_text":"` + text + `"}`, `{"rule":` + string(query.Print(want)) + `}`} {
		var got struct {
			Rule json.RawMessage `json:"rule"`
			Text string          `json:"rule_text"`
		}
		if err := json.Unmarshal(s.must(200, "POST", "/estimates", body).body, &got); err != nil {
			t.Fatal(err)
		}
		if string(query.Print(asked)) != string(query.Print(want)) || string(got.Rule) != string(query.Print(want)) || got.Text != text {
			t.Errorf("%s: asked %s, answered %s and %q", body, query.Print(asked), got.Rule, got.Text)
		}
	}
	for body, at := range map[string]string{
		`{"rule_text":"c:mine/a in 30 or c:mine/b last seen x"}`: `"body.rule_text: line 1, column 13"`,
		`{"rule_text":"anyone","rule":{"any":true}}`:             `"body.rule_text"`,
		`{}`: `"body.rule"`,
	} {
		if b := string(s.must(422, "POST", "/estimates", body).body); !strings.Contains(b, at) {
			t.Errorf("%s: %s, want %s", body, b, at)
		}
	}

	// An audience is kept with its rule in JSON.
	s.must(201, "PUT", "/audiences/texted", `{"title":"T","kind":"rule","rule_text":"`+text+`"}`, "If-None-Match: *")
	b := string(s.must(200, "GET", "/audiences/texted", "").body)
	if !strings.Contains(b, `"rule":`+string(query.Print(want))) || strings.Contains(b, "rule_text") {
		t.Errorf("kept as %s", b)
	}
	b = string(s.must(422, "PUT", "/audiences/faulty", `{"title":"T","kind":"rule","rule_text":"anyone\nand nobody"}`, "If-None-Match: *").body)
	if !strings.Contains(b, `"body.rule_text: line 2, column 5"`) {
		t.Errorf("faults: %s", b)
	}
}
