package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
)

// works is what the stage's API finds behind Operations.
type works struct {
	list  []Operation
	plan  RefoldPlan
	asked []string

	mu    sync.Mutex
	plans int
	stop  map[string]context.CancelFunc
}

func (w *works) Operations(context.Context) ([]Operation, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.list), nil
}
func (w *works) CancelOperation(_ context.Context, id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if stop := w.stop[id]; stop != nil {
		stop()
	}
	return w.turn(id, OperationRunning, OperationCancelled)
}
func (w *works) ResumeOperation(_ context.Context, id string) error {
	return w.turn(id, OperationCancelled, OperationWaiting)
}
func (w *works) PlanRules(_ context.Context, all []rules.Rule) (RefoldPlan, error) {
	for _, r := range all {
		w.asked = append(w.asked, r.ID)
	}
	return w.plan, nil
}

func (w *works) BeginPlan(count func(context.Context) error) (Operation, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.plans++
	o := Operation{ID: fmt.Sprint("plan-", w.plans), Kind: KindPlan, State: OperationRunning}
	w.list = append([]Operation{o}, w.list...)
	ctx, cancel := context.WithCancel(context.Background())
	if w.stop == nil {
		w.stop = map[string]context.CancelFunc{}
	}
	w.stop[o.ID] = cancel
	go func() {
		err := count(ctx)
		w.mu.Lock()
		defer w.mu.Unlock()
		for i := range w.list {
			if w.list[i].ID == o.ID && w.list[i].State == OperationRunning {
				w.list[i].State = map[bool]string{true: OperationDone, false: OperationFailed}[err == nil]
			}
		}
	}()
	return o, nil
}

func (w *works) turn(id, from, to string) error {
	for i := range w.list {
		if w.list[i].ID != id {
			continue
		}
		if w.list[i].State != from {
			return fmt.Errorf("%w: it is %s", ErrRefused, w.list[i].State)
		}
		w.list[i].State = to
		return nil
	}
	return retention.ErrNotFound
}

func TestAnOperationIsSeenCancelledAndResumed(t *testing.T) {
	s := newStage(t)
	s.works.list = []Operation{{ID: "refold-7", Kind: KindRefold, State: OperationRunning, Progress: 0.5, Read: 50, Total: 100, Columns: 3, From: 4, To: 7}}
	var o Operation
	for _, step := range []struct {
		method, path string
		code         int
		state        string
	}{
		{"GET", "/operations/refold-7", 200, OperationRunning},
		{"POST", "/operations/refold-7/resume", 409, ""},
		{"POST", "/operations/refold-7/cancel", 200, OperationCancelled},
		{"POST", "/operations/refold-7/cancel", 409, ""},
		{"POST", "/operations/refold-7/resume", 200, OperationWaiting},
		{"POST", "/operations/refold-8/cancel", 404, ""},
		{"GET", "/operations/refold-8", 404, ""},
	} {
		a := s.call(step.method, step.path, "")
		if a.code != step.code {
			t.Fatalf("%s %s: %d, want %d: %s", step.method, step.path, a.code, step.code, a.body)
		}
		if step.state != "" {
			if err := json.Unmarshal(a.body, &o); err != nil || o.State != step.state || o.Total != 100 {
				t.Errorf("%s %s: %+v, %v", step.method, step.path, o, err)
			}
		}
	}
}

func TestAChangedRuleSaysWithWhichOperationItComesIntoForce(t *testing.T) { // R18
	s := newStage(t)
	s.works.list = []Operation{{ID: "refold-7", Kind: KindRefold, State: OperationRunning}, {ID: "refold-6", Kind: KindRefold, State: OperationDone}}
	s.must(http.StatusCreated, "POST", "/taxonomies", `{"id":"mine","title":"Mine","categories":[{"id":"a","title":"A"}]}`)
	a := s.call("POST", "/rules", `{"id":"x","then":["c:mine/a"]}`)
	if got := a.head.Get("Operation-Location"); a.code != 201 || got != "/api/v1/operations/refold-7" {
		t.Errorf("%d, Operation-Location %q: %s", a.code, got, a.body)
	}
	s.works.list = s.works.list[1:]
	if a := s.call("POST", "/rules", `{"id":"y","then":["c:mine/a"]}`); a.head.Get("Operation-Location") != "" {
		t.Errorf("nothing runs, and it says %q", a.head.Get("Operation-Location"))
	}
}

func TestADryRunOfARuleSaysWhatWouldBeReadAndWhatPastEventsLack(t *testing.T) { // R18
	s := newStage(t)
	s.must(http.StatusCreated, "POST", "/sources", `{"id":"own","title":"Own","party":1}`)
	s.must(http.StatusCreated, "POST", "/sites", `{"id":"shop","title":"Shop","source":"own","consent":"opt-in","origins":["https://shop.example"],"query_keys":["q"]}`)
	s.must(http.StatusCreated, "POST", "/taxonomies", `{"id":"mine","title":"Mine","categories":[{"id":"a","title":"A"}]}`)
	s.must(http.StatusCreated, "POST", "/rules", `{"id":"x","then":["c:mine/a"]}`)
	s.must(http.StatusCreated, "POST", "/audiences", `{"id":"aa","title":"A","kind":"rule","rule":{"trait":"c:mine/a","window":"30d"}}`)
	s.works.plan = RefoldPlan{Events: 1234, Reach: rules.Reach{Traits: []taxonomy.Trait{"c:mine/a"}}}
	a := s.call("POST", "/rules/x/dry-run", `{"when":[{"field":"query.q","op":"exists"},{"field":"query.gclid","op":"exists"},{"field":"prop.p_plan","op":"eq","value":"gold"},{"field":"prop.plan","op":"exists"}],"then":["c:mine/a"]}`)
	var v ruleDryRunView
	if err := json.Unmarshal(a.body, &v); err != nil || a.code != 200 {
		t.Fatalf("%d: %s", a.code, a.body)
	}
	if v.New || v.Events != 1234 || !slices.Equal(v.Columns, []taxonomy.Trait{"c:mine/a"}) || !slices.Equal(v.EvaluateOnly, []string{"gclid", "p_plan"}) || !slices.Equal(v.Audiences, []taxonomy.AudienceID{"aa"}) {
		t.Errorf("%s", a.body)
	}
	if !slices.Equal(s.works.asked, []string{"x"}) {
		t.Errorf("it was asked about rules %v", s.works.asked)
	}
	if a := s.call("GET", "/rules/x", ""); a.code != 200 || len(a.body) > 60 {
		t.Errorf("the dry run changed it: %s", a.body)
	}
}
