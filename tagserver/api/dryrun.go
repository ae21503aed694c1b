package api

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

type (
	dryRunIn struct {
		ID      string `path:"id" maxLength:"64"`
		RawBody []byte `contentType:"application/json"`
	}
	// dryRunView is what a change of an audience would do, kept nowhere.
	dryRunView struct {
		Definition audience.Definition `json:"definition" doc:"As it would be kept."`
		New        bool                `json:"new" doc:"There is no audience of this ID yet."`
		Before     *ShownCount         `json:"before,omitempty" doc:"Whom the rule that is kept is true of now."`
		After      ShownCount          `json:"after" doc:"Whom the new rule is true of now."`
		Added      ShownCount          `json:"added" doc:"Who would come."`
		Removed    ShownCount          `json:"removed" doc:"Who would leave."`
		AsOf       time.Time           `json:"as_of"`
		Position   retention.Position  `json:"position" doc:"Of the count after the change."`
		// Audiences change with it, since their rules or seeds lead to it.
		Audiences []taxonomy.AudienceID `json:"audiences" doc:"Other audiences that change with it."`
		// Destinations get it, or one of these.
		Destinations []taxonomy.DestinationID `json:"destinations" doc:"Destinations that get it or one of these."`
	}
)

func (a *API) dryRuns() {
	operate(a, op{method: http.MethodPost, path: "/audiences/{id}/dry-run", tag: "audiences", right: tagserver.May("audiences:write", tagserver.OfAll), ok: 200, errors: []int{413, 415, 422, 503}, body: audience.Definition{}, slow: true,
		summary: "Say what a change of an audience would do, without making it"}, a.dryRun)
}

// dryRun is of audiences that have a rule or a list: how large a lookalike
// becomes is known only once it is built.
func (a *API) dryRun(ctx context.Context, in *dryRunIn) (*bodyOut[dryRunView], error) {
	r := a.audiences("audiences", "audience", nil)
	d, faults := r.decode(in.RawBody)
	if d.ID == "" {
		d.ID = taxonomy.AudienceID(in.ID)
	} else if len(faults) == 0 && string(d.ID) != in.ID {
		faults = append(faults, fault("body.id", "%q is not the ID in the path, %q", cut(string(d.ID)), in.ID))
	}
	if len(faults) > 0 {
		return nil, invalid("the audience", faults)
	}
	w, err := a.world(ctx)
	if err != nil {
		return nil, a.fail("try "+r.name(in.ID), err)
	}
	var old *audience.Definition
	if doc, ok := w.snap.Get(r.kind, in.ID); ok {
		if old, err = r.read(&doc); err != nil {
			return nil, a.fail("try "+r.name(in.ID), err)
		}
	}
	if err := r.check(w, d, old); err != nil {
		if f, ok := faultsOf("body", err); ok {
			return nil, invalid("the audience", f)
		}
		return nil, a.fail("try "+r.name(in.ID), err)
	}
	if d.Kind == audience.KindLookalike || old != nil && old.Kind == audience.KindLookalike {
		return nil, invalid("the audience", []tagserver.ProblemError{fault("body.kind", "how large a lookalike becomes is known only once it is built")})
	}
	v, err := a.radius(ctx, w, d, old)
	if err != nil {
		// Such as two rules that are too large together.
		if f, ok := faultsOf("body.rule", err); ok {
			return nil, invalid("the audience", f)
		}
		return nil, a.fail("try "+r.name(in.ID), err)
	}
	return &bodyOut[dryRunView]{*v}, nil
}

// radius counts what a change would do. Who stays is counted by "and" alone:
// "and not" would be against visitors with an event only (R15), and so would
// miss members that a list alone brought in.
func (a *API) radius(ctx context.Context, w *world, d, old *audience.Definition) (*dryRunView, error) {
	e, err := d.Expr()
	if err != nil {
		return nil, err
	}
	after, err := a.o.Estimate(ctx, e)
	if err != nil {
		return nil, err
	}
	v := &dryRunView{Definition: *d, New: old == nil, AsOf: after.AsOf.Time(), Position: after.Position.Clone(),
		Audiences: []taxonomy.AudienceID{}, Destinations: []taxonomy.DestinationID{}}
	var before, both uint64
	if old != nil {
		was, err := old.Expr()
		if err != nil {
			return nil, err
		}
		counts := [2]uint64{}
		for i, x := range []query.Expr{was, query.And{Of: []query.Expr{was, e}}} {
			est, err := a.o.Estimate(ctx, x)
			if err != nil {
				return nil, err
			}
			counts[i] = est.Count
		}
		// The log goes on between the three counts; none can be below the others.
		before, both = counts[0], min(counts[1], counts[0], after.Count)
		shown := show(before)
		v.Before = &shown
	}
	v.After = show(after.Count)
	v.Added, v.Removed = showDifference(old != nil, before, after.Count, after.Count-both, before-both)

	c, err := w.audiences()
	if err != nil {
		return nil, err
	}
	reached := []taxonomy.AudienceID{d.ID}
	for i := 0; i < len(reached); i++ { // it grows
		for _, id := range c.Dependents(reached[i]) {
			if !slices.Contains(reached, id) {
				reached = append(reached, id)
			}
		}
	}
	v.Audiences = append(v.Audiences, reached[1:]...)
	slices.Sort(v.Audiences)
	all, err := load[delivery.Destination](w, defs.Destination)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if slices.ContainsFunc(reached, all[i].Names) {
			v.Destinations = append(v.Destinations, all[i].ID)
		}
	}
	return v, nil
}

// showDifference says how many come and go. With both totals shown, one difference
// tells the other: a small one hides both.
func showDifference(was bool, before, after, added, removed uint64) (a, r ShownCount) {
	part := show
	if was && (min(before, after) < audience.ShownFloor || 0 < min(added, removed) && min(added, removed) < audience.ShownFloor) {
		part = showPart
	}
	return part(added), part(removed)
}
