package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention/defs"
)

// held is a preview that counts until it is let go.
func (s *stage) held() (let chan error) {
	let = make(chan error)
	s.slowly = func(ctx context.Context, _ *defs.Snapshot) (*Reach, error) {
		select {
		case err := <-let:
			return &Reach{AsOf: now, Audiences: []AudienceReach{{ID: "bees", Was: true, Is: true, Difference: Difference{Before: 100, After: 160, Added: 60}}}}, err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return let
}

// over waits for the plan of an operation.
func (s *stage) over(id string) {
	s.t.Helper()
	s.api.plans.mu.Lock()
	i := slices.IndexFunc(s.api.plans.list, func(c *counted) bool { return c.id == id })
	if i < 0 {
		s.t.Fatalf("there is no %s", id)
	}
	c := s.api.plans.list[i]
	s.api.plans.mu.Unlock()
	<-c.done
}

const changesBees = `{"definitions":[{"kind":"audience","definition":{"id":"bees","title":"Bees","kind":"rule","rule":{"trait":"c:mine/a"}}}]}`

func TestAPlanIsCountedInTheBackground(t *testing.T) {
	s := newStage(t)
	s.furnish()
	other, analyst := s.key(`{"id":"other","role":"admin"}`), s.key(`{"id":"analyst","role":"analyst"}`)
	let := s.held()
	a := s.must(202, "POST", "/plan", changesBees, "Prefer: foo=1, Respond-Async; x=y")
	var o Operation
	a.into(t, &o)
	const at = "/operations/plan-1"
	if a.head.Get("Operation-Location") != base+at || a.head.Get("Preference-Applied") != "respond-async" || o.ID != "plan-1" || o.Kind != KindPlan || o.State != OperationRunning {
		t.Errorf("%v %s", a.head, a.body)
	}
	if p := s.must(409, "GET", at+"/result", "").problem(t); p.Code != codeConflict {
		t.Errorf("before it is over: %+v", p)
	}
	let <- nil
	s.over("plan-1")
	var v planView
	s.must(200, "GET", at+"/result", "").into(t, &v)
	if !slices.Equal(v.says(), []string{"change audience bees"}) || len(v.Reach.Audiences) != 1 || v.Reach.Audiences[0].Added.Shown != "60" {
		t.Errorf("%+v", v)
	}
	// It is what the request that waits is answered with, so its hash is applied.
	s.slowly = nil
	var same planView
	s.must(200, "POST", "/plan", changesBees).into(t, &same)
	if same.Hash != v.Hash || v.Hash == "" {
		t.Errorf("%s and %s", v.Hash, same.Hash)
	}
	// It has numbers of everything: it is for who asked, and for who still may.
	s.must(404, "GET", at+"/result", "", other)
	s.must(404, "GET", at+"/result", "", analyst)
	s.must(404, "GET", "/operations/mine/result", "")
	s.must(200, "PUT", "/keys/other", `{"role":"admin"}`, "If-Match: *")
	s.must(202, "POST", "/plan", changesBees, "Prefer: respond-async", other)
	s.over("plan-2")
	s.must(200, "GET", "/operations/plan-2/result", "", other)
	s.must(404, "GET", "/operations/plan-2/result", "")
	s.must(200, "PUT", "/keys/other", `{"role":"viewer"}`, "If-Match: *")
	s.must(404, "GET", "/operations/plan-2/result", "", other)
}

func TestWhatIsWrongIsSaidAtOnce(t *testing.T) {
	s := newStage(t)
	s.furnish()
	s.held()
	s.must(422, "POST", "/plan", strings.Replace(changesBees, "audience", "audence", 1), "Prefer: respond-async")
	s.must(404, "POST", "/rules/r1/draft/publish/dry-run", "", "Prefer: respond-async")
	if s.works.plans != 0 {
		t.Errorf("%d operations", s.works.plans)
	}
}

func TestWhoCanWaitGetsThePlanIfItIsThereInTime(t *testing.T) {
	tick := make(chan time.Time)
	var waited []time.Duration
	s := newStage(t, func(o *Options) {
		o.After = func(d time.Duration) <-chan time.Time {
			waited = append(waited, d)
			return tick
		}
	})
	s.furnish()
	let := s.held()
	go func() { let <- nil }()
	a := s.must(200, "POST", "/plan", changesBees, `Prefer: respond-async, wait="5"`)
	var v planView
	if a.into(t, &v); len(v.Changes) != 1 || a.head.Get("Operation-Location") != base+"/operations/plan-1" || a.head.Get("Preference-Applied") != "respond-async, wait=5" {
		t.Errorf("%v %s", a.head, a.body)
	}
	go func() { tick <- time.Time{} }()
	s.must(202, "POST", "/plan", changesBees, "Prefer: respond-async, wait=100000")
	s.must(200, "POST", "/operations/plan-2/cancel", "")
	s.over("plan-2")
	go func() { let <- errBoom }()
	if a := s.must(500, "POST", "/plan", changesBees, "Prefer: wait=9, respond-async"); strings.Contains(string(a.body), "boom") {
		t.Errorf("%s", a.body)
	}
	if !slices.Equal(waited, []time.Duration{5 * time.Second, maxPlanWait, 9 * time.Second}) {
		t.Errorf("waited %v", waited)
	}
}

func TestAPlanThatFailsOrIsCancelledSaysSo(t *testing.T) {
	s := newStage(t)
	s.furnish()
	let := s.held()
	s.must(202, "POST", "/plan", changesBees, "Prefer: respond-async")
	let <- fmt.Errorf("%w: it is too large", ErrRefused)
	s.over("plan-1")
	if p := s.must(422, "GET", "/operations/plan-1/result", "").problem(t); !strings.Contains(p.Detail, "it is too large") {
		t.Errorf("%+v", p)
	}
	s.must(202, "POST", "/plan", changesBees, "Prefer: respond-async")
	s.must(200, "POST", "/operations/plan-2/cancel", "")
	s.over("plan-2")
	if p := s.must(409, "GET", "/operations/plan-2/result", "").problem(t); !strings.Contains(p.Detail, "cancelled") {
		t.Errorf("%+v", p)
	}
}

func TestPlansInTheBackgroundAreBounded(t *testing.T) {
	s := newStage(t)
	s.furnish()
	let := s.held()
	for range 2 {
		s.must(202, "POST", "/plan", changesBees, "Prefer: respond-async")
	}
	if a := s.must(503, "POST", "/plan", changesBees, "Prefer: respond-async"); a.problem(t).Code != codeFull || a.head.Get("Retry-After") == "" {
		t.Errorf("%v %s", a.head, a.body)
	}
	let <- nil
	let <- nil
	s.over("plan-1")
	s.over("plan-2")
	s.slowly = nil
	for i := range keptPlans {
		s.must(202, "POST", "/plan", changesBees, "Prefer: respond-async")
		s.over(fmt.Sprint("plan-", i+3))
	}
	s.api.plans.mu.Lock()
	n := len(s.api.plans.list)
	s.api.plans.mu.Unlock()
	if n != keptPlans {
		t.Errorf("%d are kept", n)
	}
	s.must(404, "GET", "/operations/plan-2/result", "")
	s.must(200, "GET", "/operations/plan-3/result", "")
}

// A draft says who saved it, what differs in words, and what publishing it changes.
func TestADraftSaysWhoseItIsAndWhatItWouldChange(t *testing.T) {
	s := newStage(t)
	s.furnish()
	ann := s.key(`{"id":"ann","role":"analyst"}`)
	const draft = "/rules/r1/draft"
	s.must(201, "PUT", draft, `{"title":"Bees","sites":["shop"],"then":["c:mine/none"]}`, "If-None-Match: *", ann)
	s.must(422, "POST", draft+"/publish/dry-run", "", ann)
	s.must(200, "PUT", draft, `{"title":"Bees","sites":["shop"],"then":["c:mine/a"]}`, "If-Match: *")
	s.must(200, "PUT", draft, `{"title":"Bees","sites":["shop"],"then":["c:mine/a"]}`, "If-Match: *", ann)
	var d struct{ Authors []string }
	s.must(200, "GET", draft, "").into(t, &d)
	var list page[draftItem]
	s.must(200, "GET", "/drafts", "").into(t, &list)
	if want := []string{"admin", "ann"}; !slices.Equal(d.Authors, want) || !slices.Equal(list.Items[0].Authors, want) {
		t.Errorf("%v, %+v", d.Authors, list.Items)
	}
	var diff diffView
	s.must(200, "GET", draft+"/diff", "").into(t, &diff)
	if want := []string{"Its title is “Bees”.", "It no longer asks that path begins with “/b”.", "It gives c:mine/a.", "It no longer gives c:mine/b."}; !slices.Equal(diff.Says, want) {
		t.Errorf("%q", diff.Says)
	}
	var counted *defs.Snapshot
	s.preview = func(next *defs.Snapshot) (*Reach, error) { counted = next; return &Reach{AsOf: now}, nil }
	var v planView
	s.must(200, "POST", draft+"/publish/dry-run", "", ann).into(t, &v)
	if !slices.Equal(v.says(), []string{"change rule r1"}) {
		t.Errorf("%v", v.says())
	}
	if doc, _ := counted.Get(defs.Rule, "r1"); !strings.Contains(string(doc.Body), "c:mine/a") {
		t.Errorf("counted under %s", doc.Body)
	}
	if doc, _ := s.defs.Snapshot().Get(defs.Rule, "r1"); doc.Version != 1 {
		t.Error("a plan published it")
	}
	s.must(202, "POST", draft+"/publish/dry-run", "", ann, "Prefer: respond-async")
	s.over("plan-1")
	s.must(200, "GET", "/operations/plan-1/result", "", ann)
	// Versions are told in words too.
	s.must(200, "POST", draft+"/publish", "", `If-Match: "1"`)
	s.must(200, "GET", "/rules/r1/diff", "").into(t, &diff)
	if len(diff.Says) != 4 {
		t.Errorf("%q", diff.Says)
	}
	s.must(201, "PUT", "/taxonomies/new/draft", `{"title":"New","categories":[{"id":"x","title":"X"}]}`, "If-None-Match: *")
	s.must(200, "GET", "/taxonomies/new/draft/diff", "").into(t, &diff)
	if !slices.Equal(diff.Says, []string{"It is new.", "“X” (x) is new, at the top."}) {
		t.Errorf("%q", diff.Says)
	}
	// A draft of before there were authors.
	b, _ := json.Marshal(draftDoc{Base: 0, Definition: json.RawMessage(`{"id":"old","then":["c:mine/a"]}`)})
	if _, err := s.defs.Put(t.Context(), defs.DraftRule, "old", b, 0); err != nil {
		t.Fatal(err)
	}
	if got := string(s.must(http.StatusOK, "GET", "/rules/old/draft", "").body); !strings.Contains(got, `"authors":[]`) {
		t.Errorf("%s", got)
	}
}

func TestAnyPreferenceIsRead(t *testing.T) {
	for s, want := range map[string]struct {
		async bool
		wait  time.Duration
	}{
		"": {}, "respond-async": {true, 0}, " RESPOND-ASYNC ": {true, 0}, "wait=3": {false, 3 * time.Second}, "respond-async,wait=-1": {true, 0}, "respond-async;wait=3": {true, 0},
		"return=minimal,respond-async , wait = 7": {true, 7 * time.Second}, "wait=99999999999999999999,respond-async": {true, 0}, ",,;=,": {}, "wait=2,wait=9,respond-async": {true, 2 * time.Second},
	} {
		if async, wait := preferences(s); async != want.async || wait != want.wait {
			t.Errorf("%q: %v %v", s, async, wait)
		}
	}
}
