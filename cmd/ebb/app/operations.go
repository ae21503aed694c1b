package app

import (
	"cmp"
	"context"
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/tagserver/api"
	"github.com/ebb-dmp/ebb/tagserver/console"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
)

// Operations is api.Operations: re-folds that run here, the one that waits for
// them, and the last that are over.
func (a *App) Operations(context.Context) ([]api.Operation, error) {
	s, _, err := a.refoldSetting()
	if err != nil {
		return nil, err
	}
	c := a.catalog.Load()
	var live []api.Operation
	for _, g := range a.fold.list {
		change, text := c.classifier.Version(), c.ruleText
		if p, ok := g.fold.Load().Refolding(); ok {
			try := s.Groups[g.n]
			if try.Attempt != p.Version {
				try = refoldAttempt{Attempt: p.Version, Change: p.Version, Begun: p.Started}
			}
			o := operationOf(try, g.n, len(a.fold.list))
			o.State, o.Read, o.Total = api.OperationRunning, p.Read, p.Total
			if p.Total > 0 {
				o.Progress = float64(p.Read) / float64(p.Total)
			}
			live = append(live, o)
			if try.Change == change {
				continue
			}
		}
		if change == s.Cancelled {
			continue // it is among the past
		}
		if now, ok := g.fold.Load().InForce().(ruleSet); ok && string(now.text) != string(text) {
			o := operationOf(refoldAttempt{Change: change}, g.n, len(a.fold.list))
			o.State = api.OperationWaiting
			live = append([]api.Operation{o}, live...)
		}
	}
	counting, counted := a.plans.all()
	live = append(live, counting...)
	for _, o := range append(counted, s.Past...) {
		again := false
		for i := range live {
			again = again || live[i].ID == o.ID
		}
		if !again {
			live = append(live, o)
		}
	}
	return live, nil
}

func (a *App) findOperation(ctx context.Context, id string) (api.Operation, error) {
	all, err := a.Operations(ctx)
	if err != nil {
		return api.Operation{}, err
	}
	for _, o := range all {
		if o.ID == id {
			return o, nil
		}
	}
	return api.Operation{}, fmt.Errorf("operation %q: %w", id, retention.ErrNotFound)
}

// CancelOperation is api.Operations. In a cluster whoever builds sees within a
// second that it is cancelled.
func (a *App) CancelOperation(ctx context.Context, id string) error {
	o, err := a.findOperation(ctx, id)
	if err != nil {
		return err
	}
	if o.Kind == api.KindPlan && a.plans.stop(id) {
		return nil
	}
	if o.State != api.OperationRunning && o.State != api.OperationWaiting {
		return fmt.Errorf("%w: operation %s is %s", api.ErrRefused, id, o.State)
	}
	for _, g := range a.fold.list {
		if p, ok := g.fold.Load().Refolding(); ok && p.Switching && o.State == api.OperationRunning {
			return fmt.Errorf("%w: operation %s has read everything, and its columns are taking their place; to go back, change the rules back", api.ErrRefused, id)
		}
	}
	at := a.env.millis().Time()
	err = a.setRefold(ctx, func(s *refoldSetting) {
		s.Cancelled = max(s.Cancelled, o.To)
		if o.State == api.OperationWaiting {
			o.State, o.Ended = api.OperationCancelled, &at
			s.Past = append([]api.Operation{o}, s.Past[:min(len(s.Past), keptOperations-1)]...)
		}
	})
	if err != nil {
		return err
	}
	return a.Settle(ctx)
}

// ResumeOperation is api.Operations.
func (a *App) ResumeOperation(ctx context.Context, id string) error {
	o, err := a.findOperation(ctx, id)
	if err != nil {
		return err
	}
	now := a.catalog.Load().classifier.Version()
	switch {
	case o.Kind == api.KindPlan:
		return fmt.Errorf("%w: operation %s is a plan; plan again", api.ErrRefused, id)
	case o.State != api.OperationCancelled:
		return fmt.Errorf("%w: operation %s is %s", api.ErrRefused, id, o.State)
	case o.To != now:
		return fmt.Errorf("%w: the definitions changed after operation %s; what they say now comes into force with operation %s", api.ErrRefused, id, operationID(now, 0, len(a.fold.list)))
	}
	return a.setRefold(ctx, func(s *refoldSetting) { s.Cancelled = 0 })
}

// PlanRules is api.Operations.
func (a *App) PlanRules(_ context.Context, all []rules.Rule) (p api.RefoldPlan, err error) {
	c := a.catalog.Load()
	to, err := rules.Compile(c.classifier.Version(), c.classifier.Forest(), all)
	if err != nil {
		return p, err
	}
	now, ok := a.fold.list[0].fold.Load().InForce().(ruleSet)
	if !ok {
		now = c.newest()
	}
	if p.Reach = now.Change(to); !p.Reach.Empty() {
		p.Events = a.fold.View().EventsKept()
	}
	return p, nil
}

// refoldProgress is what /metrics and the console show: how many re-folds run or
// wait, and the progress of the one that runs.
func (a *App) refoldProgress() (n int, first api.Operation) {
	all, err := a.Operations(context.Background())
	if err != nil {
		return 0, first
	}
	for _, o := range all {
		if o.Kind == api.KindRefold && (o.State == api.OperationRunning || o.State == api.OperationWaiting) {
			n++
			if cmp.Or(first.ID, o.ID) == o.ID || o.State == api.OperationRunning {
				first = o
			}
		}
	}
	return n, first
}

// versionInForce is the least version of the rules that answers are made by.
func (a *App) versionInForce() (least uint32) {
	for i, g := range a.fold.list {
		if c := g.fold.Load().InForce(); c != nil && (i == 0 || c.Version() < least) {
			least = c.Version()
		}
	}
	return least
}

var _ api.Operations = (*App)(nil)

// working tells the console of the re-fold under way.
func (a *App) working(context.Context) []console.Work {
	n, o := a.refoldProgress()
	if n == 0 {
		return nil
	}
	return []console.Work{{Title: "Changed rules are being applied to the last 90 days", Progress: o.Progress,
		Next: "Until then every count is by the rules before. ebb operations cancel " + o.ID + " stops it."}}
}
