package app

import (
	"context"
	"fmt"
	"slices"

	"github.com/ebb-dmp/ebb/lookalike"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/tagserver/api"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
)

// Preview says what other definitions would make of what is known: it builds all
// audiences under both, on one view, and asks the deliverer whom each destination
// would hold. Nothing is kept.
func (a *App) Preview(ctx context.Context, next *defs.Snapshot) (*api.Reach, error) {
	now := a.catalog.Load()
	then, err := a.definitionsOf(next)
	if err != nil {
		return nil, err
	}
	forest, err := Forest(next)
	if err != nil {
		return nil, err
	}
	list, err := defs.LoadAll[rules.Rule](next, defs.Rule)
	if err != nil {
		return nil, err
	}
	if then.classifier, err = rules.Compile(now.classifier.Version(), forest, list); err != nil {
		return nil, fmt.Errorf("compile the rules: %w", err)
	}

	v := a.fold.View()
	r := &api.Reach{AsOf: v.Clock(), Position: v.Position().Clone()}
	before, err := a.buildUnder(ctx, v, now)
	if err != nil {
		return nil, err
	}
	after, err := a.buildUnder(ctx, v, then)
	if err != nil {
		return nil, err
	}
	for _, id := range union(before.Sets, after.Sets) {
		x := difference(before.Sets, after.Sets, id, v.Shards())
		if err := after.Faults[id]; err != nil && before.Faults[id] == nil {
			x.Fault = err.Error()
		}
		r.Audiences = append(r.Audiences, x)
	}
	for _, id := range union(now.destinations, then.destinations) {
		d, err := a.heldUnder(ctx, v, id, now, then, before, after)
		if err != nil {
			return nil, err
		}
		r.Destinations = append(r.Destinations, d)
	}
	r.Refold = refolded(now, then)
	return r, nil
}

// buildUnder builds all audiences under definitions, on their own: a rule that
// names a lookalike takes its members in the published generation, as in a build.
func (a *App) buildUnder(ctx context.Context, v audience.View, c *catalog) (*audience.Built, error) {
	return audience.Build(ctx, audience.Input{View: v, Catalog: c.audiences, Sources: c.inUse, Epoch: a.install.Epoch, Built: a.env.millis(),
		Previous: a.current.Load(), Members: a.generations.Members, Scorer: a.scorer(c)})
}

// scorer extends seeds under definitions.
func (a *App) scorer(c *catalog) audience.Scorer {
	return lookalike.New(lookalike.Options{Profiling: c.inUse, Training: c.training, Audience: c.audiences.Audience, Tree: c.classifier.Forest()})
}

// heldUnder says whom a destination would hold under both.
func (a *App) heldUnder(ctx context.Context, v audience.View, id taxonomy.DestinationID, now, then *catalog, before, after *audience.Built) (api.DestinationReach, error) {
	r := api.DestinationReach{ID: id}
	var sets [2]map[taxonomy.AudienceID]index.Set
	for i, of := range []struct {
		c *catalog
		b *audience.Built
	}{{now, before}, {then, after}} {
		sets[i] = map[taxonomy.AudienceID]index.Set{}
		d, ok := of.c.destinations[id]
		if !ok {
			continue
		}
		if i == 0 {
			r.Was = true
		} else {
			r.Is = true
		}
		if d.Floor == 0 {
			d.Floor = uint64(a.cfg.ExportFloor)
		}
		src := delivery.Source{Generation: of.b.Generation, View: v, Withhold: of.c.withhold(&d, a.env.millis().Day()), Suppressed: a.suppressedUnder(v, of.c, &d),
			Members: func(_ context.Context, e audience.Entry) (index.Set, error) { return of.b.Sets[e.ID], nil }}
		held, err := a.deliverer.Preview(ctx, d, src)
		if err != nil {
			return r, err
		}
		for id, h := range held.Held {
			set := index.NewSet(v.Shards())
			for s := range set {
				set[s] = h.After(s, 0)
			}
			sets[i][id] = set
		}
	}
	for _, id := range union(sets[0], sets[1]) {
		x := difference(sets[0], sets[1], id, v.Shards())
		r.Audiences = append(r.Audiences, x)
	}
	return r, nil
}

func difference(before, after map[taxonomy.AudienceID]index.Set, id taxonomy.AudienceID, shards int) api.AudienceReach {
	x := api.AudienceReach{ID: id}
	var was, is index.Set
	was, x.Was = before[id]
	is, x.Is = after[id]
	for s := range shards {
		var both uint64
		if s < len(was) && was[s] != nil {
			x.Before += was[s].GetCardinality()
			if s < len(is) && is[s] != nil {
				both = was[s].AndCardinality(is[s])
			}
		}
		if s < len(is) && is[s] != nil {
			x.After += is[s].GetCardinality()
			x.Added += is[s].GetCardinality() - both
		}
		x.Removed -= both
	}
	x.Removed += x.Before
	return x
}

// union returns the keys of both maps, in order.
func union[K ~string, V, W any](a map[K]V, b map[K]W) []K {
	var keys []K
	for k := range a {
		keys = append(keys, k)
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// refolded returns the audiences of the next definitions whose members change when
// the changed rules and categories have been folded again (R18).
func refolded(now, then *catalog) (ids []taxonomy.AudienceID) {
	reach := now.classifier.Change(then.classifier)
	if reach.Empty() {
		return nil
	}
	for _, d := range then.audiences.All() {
		e, ok := then.audiences.Audience(d.ID)
		if ok && e != nil && namesOneOf(e, &reach) || d.Lookalike != nil { // which is learnt from all columns
			ids = append(ids, d.ID)
		}
	}
	for i := 0; i < len(ids); i++ { // it grows
		for _, id := range then.audiences.Dependents(ids[i]) {
			if !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	slices.Sort(ids)
	return ids
}

func namesOneOf(e query.Expr, reach *rules.Reach) bool {
	return slices.ContainsFunc(query.Traits(e), reach.Has)
}
