package app

import (
	"bytes"
	"context"
	"maps"
	"slices"

	"github.com/ebb-dmp/ebb/lookalike"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/fold"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/tagserver/api"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
)

// Preview says what other definitions would make of what is known: it builds all
// audiences under both, on one view, and asks the deliverer whom each destination
// would hold. If taxonomies or rules change, the view for the others is as the
// re-fold will make it (R18), so the numbers are those after it. Nothing is kept.
func (a *App) Preview(ctx context.Context, next *defs.Snapshot) (*api.Reach, error) {
	now := a.catalog.Load()
	then, err := a.definitionsOf(next)
	if err != nil {
		return nil, err
	}
	if then.ruleText, err = textOf(next); err != nil {
		return nil, err
	}
	c, err := compileText(now.classifier.Version()+1, then.ruleText)
	if err != nil {
		return nil, err
	}
	then.classifier = c.(ruleSet).Classifier

	v := a.fold.View()
	folded, reach, err := a.refoldedView(ctx, v, now, then)
	if err != nil {
		return nil, err
	}
	r := &api.Reach{AsOf: v.Clock(), Position: v.Position().Clone()}
	before, err := a.buildUnder(ctx, v, now)
	if err != nil {
		return nil, err
	}
	after, err := a.buildUnder(ctx, folded, then)
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
		d, err := a.heldUnder(ctx, id, under{now, v, before}, under{then, folded, after})
		if err != nil {
			return nil, err
		}
		r.Destinations = append(r.Destinations, d)
	}
	r.Refold = refolded(then, reach)
	return r, nil
}

// under is a build under definitions.
type under struct {
	c    *catalog
	view *fold.View
	b    *audience.Built
}

// refoldedView returns the view as it is once what is defined then is in force, and
// what differs. Rules whose coming into force was cancelled stay out of force until
// rules or taxonomies change again.
func (a *App) refoldedView(ctx context.Context, v *fold.View, now, then *catalog) (*fold.View, *rules.Reach, error) {
	s, _, err := a.refoldSetting()
	if err != nil {
		return nil, nil, err
	}
	ch := fold.Change{To: then.newest()}
	changed := !bytes.Equal(now.ruleText, then.ruleText)
	if s.Cancelled == now.classifier.Version() && !changed {
		return v, &ch.Reach, nil
	}
	for _, g := range a.fold.list {
		old, ok := g.fold.Load().InForce().(ruleSet)
		if !ok {
			old = now.newest()
		}
		if changed = !bytes.Equal(old.text, then.ruleText); changed {
			ch.Reach = ch.Reach.And(old.Change(then.classifier))
		}
	}
	if ch.Reach.Empty() {
		folded, err := v.Shadow(ctx, fold.Shadow{Change: ch, Events: a.store.Events()})
		return folded, &ch.Reach, err
	}
	ctx, progress, end, err := a.beginCount(ctx, v.RuleVersion(), ch.To.Version(), len(ch.Reach.Traits)+len(ch.Reach.Prefixes))
	if err != nil {
		return nil, nil, err
	}
	folded, err := v.Shadow(ctx, fold.Shadow{Change: ch, Events: a.store.Events(), Progress: progress})
	end(err)
	return folded, &ch.Reach, err
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
func (a *App) heldUnder(ctx context.Context, id taxonomy.DestinationID, before, after under) (api.DestinationReach, error) {
	r := api.DestinationReach{ID: id}
	var sets [2]map[taxonomy.AudienceID]index.Set
	for i, of := range []under{before, after} {
		v := of.view
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
		x := difference(sets[0], sets[1], id, before.view.Shards())
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
	keys := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(keys)
	return slices.Compact(keys)
}

// refolded returns the audiences whose members change only when a re-fold of a reach
// is over: those that name a column of it, and whatever names them.
func refolded(then *catalog, reach *rules.Reach) (ids []taxonomy.AudienceID) {
	if reach.Empty() {
		return nil
	}
	for _, d := range then.audiences.All() {
		e, ok := then.audiences.Audience(d.ID)
		if ok && e != nil && namesOneOf(e, reach) || d.Lookalike != nil { // which is learnt from all columns
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
