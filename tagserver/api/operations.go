package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
)

// Operation is work that goes on after the request that asked for it was
// answered.
type Operation struct {
	ID    string `json:"id"`
	Kind  string `json:"kind" doc:"refold: changed taxonomies and rules are folded again over the stored 90 days. plan: what definitions would change is counted; nothing is changed."`
	State string `json:"state" doc:"waiting, running, done, cancelled, failed"`
	// Progress is 0 to 1.
	Progress float64    `json:"progress"`
	Read     uint64     `json:"events_read" doc:"Stored events read so far."`
	Total    uint64     `json:"events_total" doc:"About how many there are to read."`
	Columns  int        `json:"columns" doc:"Categories and key=values that may change."`
	From     uint32     `json:"from" doc:"The version of the rules in force when it began."`
	To       uint32     `json:"to" doc:"The version of the definitions that come into force with it."`
	Started  *time.Time `json:"started,omitempty"`
	Ended    *time.Time `json:"ended,omitempty"`
}

// Kinds and states of operations.
const (
	KindRefold = "refold"
	KindPlan   = "plan" // counts under other rules; nothing is changed

	OperationWaiting   = "waiting"
	OperationRunning   = "running"
	OperationDone      = "done"
	OperationCancelled = "cancelled"
	OperationFailed    = "failed" // of plans: why, says its result
)

// Operations is what runs them.
type Operations interface {
	// Operations lists those that wait or run, and then the last that are over, the
	// newest first.
	Operations(context.Context) ([]Operation, error)
	// CancelOperation ends one: what is in force stays. retention.ErrNotFound;
	// ErrRefused if it is over, or can be stopped no more.
	CancelOperation(ctx context.Context, id string) error
	// ResumeOperation begins one again that was cancelled. retention.ErrNotFound;
	// ErrRefused if it was not, or if the definitions changed since.
	ResumeOperation(ctx context.Context, id string) error
	// BeginPlan counts in the background, as an operation of kind plan, and returns
	// that at once. The context of count ends when the operation is cancelled or the
	// process stops; a Preview under it tells the operation's progress, and what
	// count returns is how the operation ended.
	BeginPlan(count func(context.Context) error) (Operation, error)
	// PlanRules returns what a re-fold would do if these were the rules.
	PlanRules(ctx context.Context, all []rules.Rule) (RefoldPlan, error)
}

// RefoldPlan is what a change of rules makes necessary.
type RefoldPlan struct {
	Reach  rules.Reach
	Events uint64 // about how many are to be read; 0 if no column changes
}

type (
	operationIn struct {
		ID string `path:"id" maxLength:"64"`
	}
	ruleDryRunView struct {
		Rule   rules.Rule `json:"rule" doc:"As it would be kept."`
		New    bool       `json:"new" doc:"There is no rule of this ID yet."`
		Events uint64     `json:"events" doc:"About how many stored events would be read again; 0 if no column changes."`
		// Columns and Prefixes are the reach of the change.
		Columns  []taxonomy.Trait `json:"columns" doc:"Traits whose counts may change, the first 100."`
		Prefixes []string         `json:"prefixes" doc:"All key=values that begin so may change."`
		// EvaluateOnly are keys that stored events do not have.
		EvaluateOnly []string              `json:"evaluate_only" doc:"Keys that the rule asks for and that are not kept with events: in the stored events they are not there, so of these the rule holds from publication on."`
		Audiences    []taxonomy.AudienceID `json:"audiences" doc:"Audiences whose rules name a trait that may change."`
	}
)

// maxShownColumns bounds how many traits a dry run names.
const maxShownColumns = 100

func (a *API) operations() {
	read, write := tagserver.May("operation:read", tagserver.OfCommon), tagserver.May("taxonomies:write", tagserver.OfAll)
	operate(a, op{method: http.MethodGet, path: "/operations", tag: "operations", right: read, ok: 200, errors: []int{400, 503}, summary: "List what runs, and what ran last"},
		func(ctx context.Context, in *listIn) (*listOut[Operation], error) {
			all, err := a.o.Operations.Operations(ctx)
			if err != nil {
				return nil, a.fail("list operations", err)
			}
			return pagedBy("/operations", in, append([]Operation{}, all...), func(o *Operation) string { return o.ID })
		})
	operate(a, op{method: http.MethodGet, path: "/operations/{id}", tag: "operations", right: read, ok: 200, errors: []int{404, 503}, summary: "Get an operation"},
		func(ctx context.Context, in *operationIn) (*bodyOut[Operation], error) {
			return a.oneOperation(ctx, in.ID)
		})
	operate(a, op{method: http.MethodGet, path: "/operations/{id}/result", tag: "operations", right: tagserver.May("operation:read", tagserver.OfAll), ok: 200, errors: []int{404, 409, 503},
		summary: "Get what an operation of the kind plan counted: for who asked for it, on the node that counted, among the last 20"}, a.planResult)
	a.planIs(http.MethodGet, base+"/operations/{id}/result")
	for _, verb := range []struct {
		path, what string
		do         func(context.Context, string) error
	}{
		{"cancel", "cancel", a.o.Operations.CancelOperation},
		{"resume", "resume", a.o.Operations.ResumeOperation},
	} {
		operate(a, op{method: http.MethodPost, path: "/operations/{id}/" + verb.path, tag: "operations", right: write, ok: 200, errors: []int{404, 409, 503}, slow: true,
			summary: map[string]string{"cancel": "Cancel an operation: what is in force stays", "resume": "Begin a cancelled operation again"}[verb.what]},
			func(ctx context.Context, in *operationIn) (*bodyOut[Operation], error) {
				if _, err := a.oneOperation(ctx, in.ID); err != nil {
					return nil, err
				}
				err := a.audited(ctx, defs.Entry{What: verb.what, Kind: "operation", Object: in.ID}, func() error { return verb.do(detached(ctx), in.ID) })
				if errors.Is(err, ErrRefused) {
					return nil, newProblem(http.StatusConflict, codeConflict, "%s", err)
				}
				if err != nil {
					return nil, a.fail(verb.what+" operation "+cut(in.ID), err)
				}
				return a.oneOperation(ctx, in.ID)
			})
	}
	operate(a, op{method: http.MethodPost, path: "/rules/{id}/dry-run", tag: "rules", right: tagserver.May("taxonomies:write", tagserver.OfAll), ok: 200, errors: []int{413, 415, 422, 503}, body: rules.Rule{}, slow: true,
		summary: "Say what a change of a rule would do, without making it"}, a.dryRunRule)
}

func (a *API) oneOperation(ctx context.Context, id string) (*bodyOut[Operation], error) {
	all, err := a.o.Operations.Operations(ctx)
	if err != nil {
		return nil, a.fail("find operation "+cut(id), err)
	}
	for _, o := range all {
		if o.ID == id {
			return &bodyOut[Operation]{o}, nil
		}
	}
	return nil, a.fail(fmt.Sprintf("find operation %q", cut(id)), retention.ErrNotFound)
}

// follows returns where to look for when a change of a definition is in force, and
// nothing if it is already, or if no re-fold is needed.
func (a *API) follows(ctx context.Context, kind defs.Kind) string {
	if kind != defs.Rule && kind != defs.Taxonomy {
		return ""
	}
	all, err := a.o.Operations.Operations(ctx)
	if err != nil {
		a.log.Error("list operations", "error", err)
		return ""
	}
	for _, o := range all { // the newest that waits or runs
		if o.Kind == KindRefold && (o.State == OperationWaiting || o.State == OperationRunning) {
			return base + "/operations/" + url.PathEscape(o.ID)
		}
	}
	return ""
}

func (a *API) dryRunRule(ctx context.Context, in *dryRunIn) (*bodyOut[ruleDryRunView], error) {
	r := classifierRules()
	d, faults := r.decode(in.RawBody)
	if d.ID == "" {
		d.ID = in.ID
	} else if len(faults) == 0 && d.ID != in.ID {
		faults = append(faults, fault("body.id", "%q is not the ID in the path, %q", cut(d.ID), in.ID))
	}
	if len(faults) > 0 {
		return nil, invalid("the rule", faults)
	}
	what := "try " + r.name(in.ID)
	w, err := a.world(ctx)
	if err != nil {
		return nil, a.fail(what, err)
	}
	if err := r.check(w, d, nil); err != nil {
		if f, ok := faultsOf("body", err); ok {
			return nil, invalid("the rule", f)
		}
		return nil, a.fail(what, err)
	}
	all, err := load[rules.Rule](w, defs.Rule)
	if err != nil {
		return nil, a.fail(what, err)
	}
	before := len(all)
	all = slices.DeleteFunc(all, func(o rules.Rule) bool { return o.ID == d.ID })
	v := ruleDryRunView{Rule: *d, New: len(all) == before, Columns: []taxonomy.Trait{}, Prefixes: []string{}, Audiences: []taxonomy.AudienceID{}}
	plan, err := a.o.Operations.PlanRules(ctx, append(all, *d))
	if err != nil {
		return nil, a.fail(what, err)
	}
	v.Events = plan.Events
	v.Columns = append(v.Columns, plan.Reach.Traits[:min(len(plan.Reach.Traits), maxShownColumns)]...)
	v.Prefixes = append(v.Prefixes, plan.Reach.Prefixes...)
	if v.EvaluateOnly, err = w.evaluateOnly(d); err != nil {
		return nil, a.fail(what, err)
	}
	c, err := w.audiences()
	if err != nil {
		return nil, a.fail(what, err)
	}
	for _, d := range c.All() {
		if slices.ContainsFunc(traitsOf(c, d.ID), func(t query.Step) bool { return plan.Reach.Has(t.Trait) }) {
			v.Audiences = append(v.Audiences, d.ID)
		}
	}
	return &bodyOut[ruleDryRunView]{v}, nil
}

// evaluateOnly returns the properties that a rule asks for and that are never
// stored, and the keys of the URL's query that none of its sites keeps.
func (w *world) evaluateOnly(r *rules.Rule) ([]string, error) {
	all, err := load[taxonomy.Site](w, defs.Site)
	if err != nil {
		return nil, err
	}
	keys := []string{}
	for _, c := range r.When {
		if prop, ok := strings.CutPrefix(c.Field, "prop."); ok && taxonomy.NeverStored(prop) && !slices.Contains(keys, prop) {
			keys = append(keys, prop)
		}
		key, ok := cutQuery(c.Field)
		if !ok || slices.Contains(keys, key) {
			continue
		}
		kept := slices.ContainsFunc(all, func(s taxonomy.Site) bool {
			return (len(r.Sites) == 0 || slices.Contains(r.Sites, s.ID)) && slices.Contains(s.QueryKeys, key)
		})
		if !kept {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

func cutQuery(field string) (string, bool) {
	const prefix = "query."
	if len(field) > len(prefix) && field[:len(prefix)] == prefix {
		return field[len(prefix):], true
	}
	return "", false
}
