package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/lookalike"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/fold"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Fold folds all that is in the log when it is called. What comes meanwhile is
// left to the fold's loop, or a busy log would keep the caller for ever.
func (a *App) Fold(ctx context.Context) error {
	for _, g := range a.fold.list {
		if err := a.foldGroup(ctx, g); err != nil {
			return err
		}
	}
	return nil
}

// Build folds what is in the log, commits a checkpoint, builds a generation on
// it and publishes it.
func (a *App) Build(ctx context.Context) (*audience.Built, error) {
	a.building.Lock()
	defer a.building.Unlock()
	if err := a.mustLead(ctx, "build"); err != nil {
		return nil, err
	}
	if err := a.Fold(ctx); err != nil {
		return nil, err
	}
	v := a.fold.View()
	if a.fold.Changed() || v.Clock() != a.fold.Clock() {
		var err error
		if v, err = a.fold.Checkpoint(ctx); err != nil {
			return nil, err
		}
	}
	return a.build(ctx, v)
}

// job is a build of a view by the catalog in force, for which it readies the
// builder.
func (a *App) job(v *fold.View) audience.Job {
	c := a.catalog.Load()
	a.builder.Scorer = lookalike.New(lookalike.Options{Profiling: c.inUse, Training: c.training, Audience: c.audiences.Audience, Tree: c.classifier.Forest()})
	return audience.Job{View: v, Catalog: c.audiences, Sources: c.inUse, Epoch: a.install.Epoch, Term: a.term()}
}

// buildTries is how often a build begins anew because the eraser was quicker.
const buildTries = 5

func (a *App) build(ctx context.Context, v *fold.View) (*audience.Built, error) {
	job := a.job(v)
	built, err := a.builder.Run(ctx, job)
	for tries := 1; errors.Is(err, audience.ErrStale) && tries < buildTries; tries++ {
		// The eraser publishes too, a generation without who was erased (R25), and
		// was quicker. Of a later term, this fails again.
		built, err = a.builder.Run(ctx, job)
	}
	if built == nil {
		return nil, err
	}
	if err != nil {
		a.log.Error("sweep generations", "error", err)
	}
	for id, fault := range built.Faults {
		a.log.Warn("audience could not be built and is empty", "audience", id, "error", fault)
	}
	a.newer(built.Generation)
	if err := a.swapSeg(ctx); err != nil {
		return built, err
	}
	// Only now: as long as pages answer with the generation before, what came
	// since must still correct them.
	a.fold.Built(v)
	return built, nil
}

// swapSeg puts the current generation and definitions behind /v1/seg. One at a
// time: a build and a change of definitions, which meet at every midnight, would
// else put an older generation over a newer one.
func (a *App) swapSeg(ctx context.Context) error {
	a.swapping.Lock()
	defer a.swapping.Unlock()
	g := a.current.Load()
	if g == nil || a.fold == nil {
		return nil
	}
	c, v := a.catalog.Load(), a.fold.View()
	pages, err := a.pagesOf(ctx, g, c.audiences)
	if errors.Is(err, retention.ErrCorrupt) || errors.Is(err, retention.ErrNotFound) {
		a.log.Error("the members of the current generation cannot be read; pages keep the last ones until the next build", "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	r, err := query.NewIndexResolver(v, v.Clock().Day(), c.inUse, c.audiences.Audience)
	if err != nil {
		return err
	}
	st := &audience.PageState{Pages: pages, Ordinals: v, Catalog: c.audiences, Resolver: r}
	st.Prepare()
	due, err := a.dueAfter(g.Clock)
	if err != nil {
		return err
	}
	if a.cluster != nil {
		a.cluster.withdrawn.Store(slices.ContainsFunc(g.Sources, func(id taxonomy.SourceID) bool { return !slices.Contains(c.inUse, id) }))
	}
	a.nextDue.Store(int64(due))
	a.seg.Swap(st)
	return nil
}

// dueAfter is when the generation after one as of a time is due: by the schedule,
// and at midnight (R21).
func (a *App) dueAfter(clock taxonomy.Millis) (taxonomy.Millis, error) {
	midnight := (clock.Day() + 1).Start()
	s, err := ParseSchedule(a.cfg.Build.Schedule)
	if err != nil {
		return 0, fmt.Errorf("build.schedule: %w", err)
	}
	if next := s.Next(clock.Time()); !next.IsZero() {
		return min(midnight, taxonomy.MillisOf(next)), nil
	}
	return midnight, nil
}

// pagesOf turns a generation round, or returns the pages in force if they are of
// the same and of the same definitions.
func (a *App) pagesOf(ctx context.Context, g *audience.Generation, c *audience.Catalog) (*audience.Pages, error) {
	if st := a.seg.State(); st != nil && st.Catalog == c && st.Pages.Generation() == g {
		return st.Pages, nil
	}
	return audience.NewPages(ctx, g, c, a.generations.Members)
}

// overlay is what the fold knows beyond the generation.
type overlay struct{ a *App }

func (o overlay) Touched(k taxonomy.VisitorKey) ([]taxonomy.Column, query.Facts, bool) {
	return o.a.fold.touched(k, o.a.install.Shards)
}

// Deliver delivers the current generation to a destination. In a cluster any node
// may: one that does not hold the lease gives way to whoever takes it meanwhile.
func (a *App) Deliver(ctx context.Context, id taxonomy.DestinationID) (delivery.Delivery, error) {
	term, _ := a.mayDeliver()
	return a.deliver(ctx, id, term)
}

func (a *App) deliver(ctx context.Context, id taxonomy.DestinationID, term uint64) (delivery.Delivery, error) {
	c := a.catalog.Load()
	d, ok := c.destinations[id]
	if !ok {
		return delivery.Delivery{}, fmt.Errorf("destination %q: %w", id, retention.ErrNotFound)
	}
	if d.Floor == 0 {
		d.Floor = uint64(a.cfg.ExportFloor)
	}
	g := a.current.Load()
	if g == nil {
		return delivery.Delivery{}, fmt.Errorf("deliver to %s: there is no generation yet; build one first", id)
	}
	src, err := a.source(ctx, c, &d, g)
	if err != nil {
		return delivery.Delivery{}, fmt.Errorf("deliver to %s: %w", id, err)
	}
	src.Term = term
	return a.deliverer.Run(ctx, d, src)
}

// source is a generation as a destination gets it.
func (a *App) source(ctx context.Context, c *catalog, d *delivery.Destination, g *audience.Generation) (delivery.Source, error) {
	v, err := a.newestView(ctx)
	if err != nil {
		return delivery.Source{}, err
	}
	return delivery.Source{
		Generation: g, View: v, Members: a.generations.Members, Withhold: c.withhold(d, a.env.millis().Day()), Suppressed: a.suppressed(d),
		Info: func(id taxonomy.AudienceID) delivery.AudienceInfo {
			info := delivery.AudienceInfo{ID: id, Slug: string(id)}
			if d, ok := c.audiences.Get(id); ok {
				info.Slug, info.Title, info.Segtax = d.PublicSlug(), d.Title, d.Segtax
			}
			return info
		},
	}, nil
}

// DeliverAll delivers to every destination, due or not; one that fails does not
// stop the others.
func (a *App) DeliverAll(ctx context.Context) error {
	term, _ := a.mayDeliver()
	return a.deliverWhere(ctx, term, func(context.Context, *delivery.Destination) (bool, error) { return true, nil })
}

func (a *App) deliverWhere(ctx context.Context, term uint64, due func(context.Context, *delivery.Destination) (bool, error)) error {
	var errs []error
	for id, d := range a.catalog.Load().destinations {
		if ok, err := due(ctx, &d); err != nil || !ok {
			errs = append(errs, err)
			continue
		}
		done, err := a.deliver(ctx, id, term)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if done.Result == delivery.ResultWaiting && done.Fault != "" {
			a.log.Warn("a receiver does not take what it is sent; it is asked again", "destination", id, "generation", done.Generation,
				"chunks", done.Chunks, "acknowledged", done.Acknowledged, "refused", done.Refused, "fault", done.Fault, "next", done.Next.Time())
			continue
		}
		if done.Unsuppressed != "" {
			a.log.Error("whom a destination suppresses could not be found; it got nobody new", "destination", id, "fault", done.Unsuppressed)
		}
		if h := done.Hold; h != nil {
			a.log.Warn("a change is too large to go out by itself; `ebb deliver approve` lets it", "destination", id, "generation", done.Generation, "percent", h.Percent())
		}
		if done.Fault != "" {
			a.log.Warn("a delivery met damage and made a full", "destination", id, "fault", done.Fault)
		}
		if done.Result != delivery.ResultSame && done.Result != delivery.ResultDelivered {
			a.log.Info("delivered", "destination", id, "generation", done.Generation, "result", done.Result, "rows", done.Rows, "removes", done.Removes)
		}
	}
	return errors.Join(errs...)
}

// pollEvery is how often the log is looked at; an event is in /v1/seg within a
// second of it.
const pollEvery = 50 * time.Millisecond

// Start starts the loops: the fold, checkpoints, and what runs on schedules.
func (a *App) Start() error {
	build, err := ParseSchedule(a.cfg.Build.Schedule)
	if err != nil {
		return fmt.Errorf("build.schedule: %w", err)
	}
	deliver, err := ParseSchedule(a.cfg.Deliver.Schedule)
	if err != nil {
		return fmt.Errorf("deliver.schedule: %w", err)
	}
	nightly, err := ParseSchedule(a.cfg.Retention.Schedule)
	if err != nil {
		return fmt.Errorf("retention.schedule: %w", err)
	}
	midnight, err := ParseSchedule("0 0 * * *")
	if err != nil {
		return err
	}
	a.life.run("definitions' loop", func(ctx context.Context) error {
		return a.every(ctx, time.Second, "read definitions", func(ctx context.Context) error {
			if _, err := a.defs.Refresh(ctx); err != nil {
				return err
			}
			return a.refresh(ctx)
		})
	})
	if a.cluster == nil {
		a.life.run("fold's loop", a.foldLoop)
		a.life.run("lease's loop", func(ctx context.Context) error {
			return a.every(ctx, a.leaseLife()/3, "renew the builder's lease", a.renewLeases)
		})
	} else {
		a.startCluster()
		a.life.run("node's nightly pass", func(ctx context.Context) error { return a.onSchedule(ctx, nightly, "node's nightly pass", a.nodeNight) })
	}
	if a.cfg.Has(config.RoleBuilder) {
		a.startBuilding(build, midnight, nightly)
	}
	if a.cfg.Has(config.RoleDeliver) {
		a.startDelivering(deliver)
	}
	return nil
}

// startBuilding starts what the node does that leads: others wait for their turn.
func (a *App) startBuilding(build, midnight, nightly Schedule) {
	ifLeading := func(fn func(context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error {
			if !a.leads() {
				return nil
			}
			return fn(ctx)
		}
	}
	buildOnce := ifLeading(func(ctx context.Context) error { _, err := a.Build(ctx); return err })
	a.life.run("builder", func(ctx context.Context) error { return a.onSchedule(ctx, build, "build", buildOnce) })
	a.life.run("midnight's build", func(ctx context.Context) error { // R21
		return a.onSchedule(ctx, midnight, "build at midnight", buildOnce)
	})
	a.life.run("nightly pass", func(ctx context.Context) error {
		return a.onSchedule(ctx, nightly, "nightly pass", ifLeading(a.Nightly))
	})
	a.life.run("re-folds", a.refoldLoop)
	a.life.run("eraser", func(ctx context.Context) error { return a.every(ctx, 10*time.Second, "erase", ifLeading(a.eraseSoon)) })
}

// startDelivering starts deliveries by the schedule, of which one node of a
// cluster makes each.
func (a *App) startDelivering(deliver Schedule) {
	if a.cluster != nil {
		a.life.run("deliverer's lease", func(ctx context.Context) error {
			return a.every(ctx, a.leaseLife()/4, "keep the deliverer's lease", a.tendDeliveries)
		})
	}
	a.life.run("suppressions", a.suppressLoop)
	a.life.run("deliverer", func(ctx context.Context) error {
		return a.onSchedule(ctx, deliver, "deliver", func(ctx context.Context) error {
			term, ok := a.mayDeliver()
			if !ok {
				return nil
			}
			return a.deliverWhere(ctx, term, a.isDue)
		})
	})
}

// foldLoop follows the log of the embedded store and makes checkpoints when they
// are due (R6).
func (a *App) foldLoop(ctx context.Context) error {
	last := a.env.Now()
	f := a.fold.list[0].fold.Load()
	for {
		n, err := f.Poll(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
		now := a.env.Now()
		if a.fold.Due() || a.fold.Changed() && now.Sub(last) >= a.cfg.Checkpoint.Interval {
			if _, err := a.fold.Checkpoint(ctx); err != nil && ctx.Err() == nil {
				// What is not in a checkpoint is in the log: nothing is lost, and
				// it is tried again.
				a.log.Error("checkpoint", "error", err)
			}
			last = now
		}
		if n > 0 {
			continue
		}
		if !a.wait(ctx, pollEvery) {
			return ctx.Err()
		}
	}
}

// wait waits, and reports whether the context still runs.
func (a *App) wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-a.env.After(d):
		return true
	}
}

// every does something at a distance. An error is logged, and it is tried again.
func (a *App) every(ctx context.Context, d time.Duration, what string, fn func(context.Context) error) error {
	for a.wait(ctx, d) {
		a.attempt(ctx, what, fn)
	}
	return ctx.Err()
}

// onSchedule does something when it is due. It never runs twice at once, and
// what was missed while it ran is not made up for.
func (a *App) onSchedule(ctx context.Context, s Schedule, what string, fn func(context.Context) error) error {
	for {
		now := a.env.Now()
		if !a.wait(ctx, s.Next(now).Sub(now)) {
			return ctx.Err()
		}
		a.attempt(ctx, what, fn)
	}
}

func (a *App) attempt(ctx context.Context, what string, fn func(context.Context) error) {
	defer func() {
		if r := recover(); r != nil {
			// The value may hold data of visitors; its type says enough to begin with.
			a.log.Error(what+" panicked and goes on", "type", fmt.Sprintf("%T", r))
		}
	}()
	if err := fn(ctx); err != nil && ctx.Err() == nil {
		a.log.Error(what, "error", err)
	}
}
