package api

import (
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/query"
)

func TestADryRunSaysWhatAChangeDoesAndKeepsNothing(t *testing.T) {
	s := newStage(t)
	s.furnish()
	s.must(201, "PUT", "/audiences/tried", `{"title":"T","kind":"rule","rule_text":"c:mine/a"}`, `If-None-Match: *`)
	s.must(201, "PUT", "/audiences/above", `{"title":"A","kind":"rule","rule_text":"audience tried"}`, `If-None-Match: *`)
	s.must(201, "PUT", "/audiences/far", `{"title":"F","kind":"rule","rule_text":"not audience above"}`, `If-None-Match: *`)
	s.must(201, "PUT", "/destinations/gets-far", `{"title":"D","audiences":["far"]}`, `If-None-Match: *`)
	counts := map[string]uint64{}
	s.estimate = func(e query.Expr) (*audience.Estimate, error) {
		n, ok := counts[query.Text(e)]
		if !ok {
			t.Errorf("asked for %s", query.Text(e))
		}
		est := &audience.Estimate{AsOf: now}
		est.Count = n
		return est, nil
	}
	const body = `{"title":"T","kind":"rule","rule_text":"c:mine/b"}`
	for _, c := range []struct {
		before, after, both uint64
		want                string
	}{
		{1000, 700, 600, `"before":{"shown":"1000","count":1000},"after":{"shown":"700","count":700},"added":{"shown":"100","count":100},"removed":{"shown":"400","count":400}`},
		{1000, 1200, 1000, `"after":{"shown":"1200","count":1200},"added":{"shown":"200","count":200},"removed":{"shown":"<50"}`},
		// A small change beside two totals: neither is told (P7).
		{1000, 700, 670, `"added":{"shown":"<50"},"removed":{"shown":"≥50"}`},
		{1000, 30, 30, `"after":{"shown":"<50"},"added":{"shown":"<50"},"removed":{"shown":"≥50"}`},
	} {
		counts = map[string]uint64{"c:mine/a": c.before, "c:mine/b": c.after, "c:mine/a and c:mine/b": c.both}
		b := string(s.must(200, "POST", "/audiences/tried/dry-run", body).body)
		for _, want := range []string{c.want, `"new":false`, `"audiences":["above","far"]`, `"destinations":["gets-far"]`, `"rule":{"trait":"c:mine/b"}`} {
			if !strings.Contains(b, want) {
				t.Errorf("%+v: %s\nwant %s", c, b, want)
			}
		}
	}
	if b := string(s.must(200, "GET", "/audiences/tried", "").body); !strings.Contains(b, "c:mine/a") {
		t.Errorf("kept: %s", b)
	}
	counts = map[string]uint64{"c:mine/b": 80}
	b := string(s.must(200, "POST", "/audiences/fresh/dry-run", body).body)
	if !strings.Contains(b, `"new":true`) || strings.Contains(b, `"before"`) || !strings.Contains(b, `"added":{"shown":"80","count":80}`) {
		t.Errorf("a new one: %s", b)
	}
	s.must(404, "GET", "/audiences/fresh", "")
	for body, at := range map[string]string{
		`{"title":"T","kind":"rule","rule_text":"audience nobody"}`:                 `body.rule`,
		`{"title":"T","kind":"rule","rule_text":"audience above"}`:                  `body.rule`, // a ring
		`{"title":"T","kind":"lookalike","lookalike":{"seed":"above","share":0.1}}`: `body.kind`,
		`{"id":"other","title":"T","kind":"rule","rule_text":"anyone"}`:             `body.id`,
	} {
		if b := string(s.must(422, "POST", "/audiences/tried/dry-run", body).body); !strings.Contains(b, `"`+at) {
			t.Errorf("%s: %s", body, b)
		}
	}

	// Each rule alone may be as large as rules may be.
	s.estimate = func(e query.Expr) (*audience.Estimate, error) {
		return &audience.Estimate{AsOf: now}, query.Check(e)
	}
	deep := `{"title":"T","kind":"rule","rule_text":"` + strings.Repeat("not ", 15) + `anyone"}`
	if b := string(s.must(422, "POST", "/audiences/tried/dry-run", deep).body); !strings.Contains(b, "nested deeper") {
		t.Errorf("%s", b)
	}
}
