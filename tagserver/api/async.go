package api

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/ebb-dmp/ebb/tagserver"
)

// A plan takes as long as reading the stored 90 days again takes. Who prefers not to
// hold the request open says so (RFC 7240), and gets an operation, whose result is
// the plan.

const (
	// keptPlans and keptPlanBytes bound the results that are kept, the last first.
	keptPlans     = 20
	keptPlanBytes = 32 << 20
	// maxPlanWait bounds how long an answer waits for a plan to be there.
	maxPlanWait = time.Minute
)

// planOut is a plan, or the operation that counts it.
type planOut struct {
	Status    int
	Applied   string `header:"Preference-Applied" doc:"What of Prefer was done."`
	Operation string `header:"Operation-Location" doc:"With respond-async: the operation that counts, or counted. Its plan is at /result below it."`
	Body      any
}

// plans are those that are counted, or were, in the background.
type plans struct {
	mu      sync.Mutex
	running int
	list    []*counted // the newest first
}

// counted is a plan that is counted in the background.
type counted struct {
	id    string
	who   string // the ID of who asked
	right tagserver.Right
	done  chan struct{} // closed once the rest stands
	body  json.RawMessage
	err   error
}

// over reports whether it was counted.
func (c *counted) over() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// answerPlan counts and answers; or, if that is preferred, begins to count and
// answers with the operation, unless the plan is there within the time to wait.
func (a *API) answerPlan(ctx context.Context, prefer string, right tagserver.Right, count func(context.Context) (*planView, error)) (*planOut, error) {
	async, wait := preferences(prefer)
	if !async {
		v, err := count(ctx)
		if err != nil {
			return nil, err
		}
		return &planOut{Status: http.StatusOK, Body: v}, nil
	}
	c, err := a.beginPlan(ctx, right, count)
	if err != nil {
		return nil, err
	}
	out := &planOut{Status: http.StatusAccepted, Applied: "respond-async", Operation: base + "/operations/" + url.PathEscape(c.id)}
	if wait > 0 && a.o.After != nil {
		select {
		case <-c.done:
			if c.err != nil {
				return nil, a.fail("plan", c.err)
			}
			out.Status, out.Applied, out.Body = http.StatusOK, out.Applied+", wait="+strconv.Itoa(int(wait/time.Second)), c.body
			return out, nil
		case <-a.o.After(wait):
		case <-ctx.Done():
			return nil, a.fail("wait for a plan", ctx.Err())
		}
	}
	o, err := a.oneOperation(ctx, c.id)
	if err != nil {
		return nil, err
	}
	out.Body = o.Body
	return out, nil
}

func (a *API) beginPlan(ctx context.Context, right tagserver.Right, count func(context.Context) (*planView, error)) (*counted, error) {
	p := &a.plans
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running >= a.o.Limits.Plans {
		q := newProblem(http.StatusServiceUnavailable, codeFull, "%d plans are being counted, which is the most at a time; come again when one is over, or cancel one of the operations", p.running)
		q.RetryAfter = 10
		return nil, q
	}
	c := &counted{who: callerOf(ctx).ID, right: right, done: make(chan struct{})}
	o, err := a.o.Operations.BeginPlan(func(ctx context.Context) error {
		v, err := count(ctx)
		if err == nil {
			c.body, err = encode(v)
		} else if ctx.Err() != nil {
			err = ctx.Err() // whatever it was that met it
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.running--
		c.err = err
		close(c.done)
		p.trim()
		return err
	})
	if err != nil {
		return nil, a.fail("begin to plan", err)
	}
	p.running++
	c.id = o.ID
	p.list = append([]*counted{c}, p.list...)
	return c, nil
}

// trim forgets the oldest that are over. p.mu is held.
func (p *plans) trim() {
	n, size := 0, 0
	p.list = slices.DeleteFunc(p.list, func(c *counted) bool {
		if !c.over() {
			return false
		}
		n++
		size += len(c.body)
		return n > keptPlans || n > 1 && size > keptPlanBytes
	})
}

// planResult answers who asked for a plan with what it says. For anybody else there
// is none: it has numbers of all audiences.
func (a *API) planResult(ctx context.Context, in *operationIn) (*planOut, error) {
	caller := callerOf(ctx)
	a.plans.mu.Lock()
	i := slices.IndexFunc(a.plans.list, func(c *counted) bool { return c.id == in.ID && c.who == caller.ID && caller.May(c.right) })
	var c *counted
	if i >= 0 {
		c = a.plans.list[i]
	}
	a.plans.mu.Unlock()
	switch {
	case c == nil:
		return nil, newProblem(http.StatusNotFound, codeNotFound, "operation %q has no result, or has it for another key, or on another node", cut(in.ID))
	case !c.over():
		return nil, newProblem(http.StatusConflict, codeConflict, "operation %q is not over; ask for its result once it is done", cut(in.ID))
	case errors.Is(c.err, context.Canceled):
		return nil, newProblem(http.StatusConflict, codeConflict, "operation %q was cancelled; plan again", cut(in.ID))
	case c.err != nil:
		return nil, a.fail("plan", c.err)
	}
	return &planOut{Status: http.StatusOK, Body: c.body}, nil
}

// preferences reads of Prefer what is done here: respond-async, and for how many
// seconds to wait before. What is not known is passed over, as it must be.
func preferences(prefer string) (async bool, wait time.Duration) {
	for p := range strings.SplitSeq(prefer, ",") {
		p, _, _ = strings.Cut(p, ";") // parameters
		name, value, _ := strings.Cut(p, "=")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "respond-async":
			async = true
		case "wait":
			if n, err := strconv.Atoi(strings.Trim(strings.TrimSpace(value), `"`)); err == nil && n > 0 && wait == 0 {
				wait = min(time.Duration(min(n, 1<<20))*time.Second, maxPlanWait)
			}
		}
	}
	return async, wait
}

// operatePlan registers an operation that answers with a plan, or with the operation
// that counts it.
func operatePlan[I any](a *API, o op, h func(context.Context, *I) (*planOut, error)) {
	operate(a, o, h)
	a.planIs(o.method, base+o.path)
	responses := a.operation(o.method, base+o.path).Responses
	accepted := *responses["200"]
	accepted.Description = "Accepted: it is counted in the background"
	accepted.Content = a.content(reflect.TypeFor[Operation]())
	accepted.Headers = maps.Clone(accepted.Headers)
	responses["202"] = &accepted
}

// planIs says that an answer is a plan: its Go type does not, since it may be bytes
// that are kept.
func (a *API) planIs(method, path string) {
	a.operation(method, path).Responses["200"].Content = a.content(reflect.TypeFor[planView]())
}

func (a *API) content(t reflect.Type) map[string]*huma.MediaType {
	return map[string]*huma.MediaType{"application/json": {Schema: a.huma.OpenAPI().Components.Schemas.Schema(t, true, "")}}
}
