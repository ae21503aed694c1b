package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/fold"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const (
	// clusterPoll is how often the log of the cluster and heads are looked at.
	clusterPoll = 200 * time.Millisecond
	// ownPoll is how often a node that follows a group looks at its own log.
	ownPoll = 50 * time.Millisecond
	// lookEvery is how often a node looks for a newer checkpoint or generation, and
	// for a lease that is free.
	lookEvery = time.Second
	// troublePause is how long a loop waits that met an error.
	troublePause = time.Second
)

// lives reports whether a tenure may be relied on: it was renewed less than half
// its life ago, by our own clock. Whoever was frozen finds that it may not.
func (a *App) lives(t *tenure) bool {
	since := a.env.millis() - taxonomy.Millis(t.renewed.Load())
	return since >= 0 && since < taxonomy.Millis(a.leaseLife()/2/time.Millisecond)
}

// leads reports whether this node may build generations: it has the lease of
// group 0. With the embedded store it always does.
func (a *App) leads() bool {
	t := a.fold.list[0].tenure.Load()
	return t != nil && (a.cluster == nil || a.lives(t))
}

// mustLead is leads for commands: a lease that was not renewed in time, since this
// node or its clock stood still, is renewed first, if it is still ours.
func (a *App) mustLead(ctx context.Context, what string) error {
	if a.leads() {
		return nil
	}
	if a.fold.list[0].builds() {
		if err := a.renewLeases(ctx); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if a.leads() {
			return nil
		}
	}
	return fmt.Errorf("%s: %w; it builds by its schedule", what, errNotBuilder)
}

var errNotBuilder = errors.New("another node of the cluster holds the builder's lease")

// renewLeases renews what this node holds. What another has taken is given up.
func (a *App) renewLeases(ctx context.Context) error {
	var errs []error
	for _, g := range a.fold.list {
		t := g.tenure.Load()
		if t == nil {
			continue
		}
		err := a.renew(ctx, t)
		if err == nil {
			continue
		}
		if a.cluster != nil && errors.Is(err, retention.ErrHeld) {
			err = a.lose(ctx, g, t, err)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// renew renews the lease of a tenure.
func (a *App) renew(ctx context.Context, t *tenure) error {
	asked := a.env.millis()
	err := a.store.Leases().Renew(ctx, t.lease)
	if err == nil {
		t.renewed.Store(int64(asked))
	}
	return err
}

// lose ends a tenure: from here on the group is followed.
func (a *App) lose(ctx context.Context, g *group, t *tenure, why error) error {
	if !g.tenure.CompareAndSwap(t, nil) {
		return nil // it was lost already
	}
	a.log.Warn("another node builds from here on", "group", g.n, "why", why)
	return a.follow(ctx, g)
}

// follow replaces what this node knows of a group by the last checkpoint, and
// what its own log has beyond it.
func (a *App) follow(ctx context.Context, g *group) error {
	g.changing.Lock()
	defer g.changing.Unlock()
	if g.builds() {
		return nil // it took the lease meanwhile, and has the last checkpoint by that
	}
	own := &ownRecords{last: map[taxonomy.VisitorKey]taxonomy.Ref{}}
	o := a.foldOptions(g.n, 0)
	o.OnErased = nil
	o.Log = ownLog{a.wal, a}
	o.OnFolded = own.folded
	for tries := 1; ; tries++ {
		before := g.fold.Load()
		f, err := fold.Follow(ctx, o, before)
		if errors.Is(err, retention.ErrNotFound) && tries < 5 {
			continue // a newer one replaced it meanwhile
		}
		if err != nil {
			return err
		}
		g.fold.Store(f)
		a.cluster.own[g.n].Store(own)
		if before != nil {
			err = before.Close()
		}
		// This node's files keep what no checkpoint covers.
		return errors.Join(err, a.wal.Trim(ctx, g.n, f.View().Position()))
	}
}

// newestView is the view of the last committed checkpoints, whoever made them. In a
// cluster a node may be behind: it stood still, or has not looked yet. What is
// decided by an older view, a delivery for one, may send whom the builder has dealt
// with already.
func (a *App) newestView(ctx context.Context) (*fold.View, error) {
	if a.cluster != nil {
		for _, g := range a.fold.list {
			if err := a.readLatest(ctx, g); err != nil {
				return nil, fmt.Errorf("look for the last checkpoint of group %d: %w", g.n, err)
			}
		}
	}
	return a.fold.View(), nil
}

// readLatest takes in the last committed checkpoint of a group, unless this node has it.
func (a *App) readLatest(ctx context.Context, g *group) error {
	for range 20 {
		number, err := fold.Latest(ctx, a.store.Keyed(), g.n)
		if err != nil || number <= g.fold.Load().View().Number() {
			return err
		}
		if !g.builds() {
			if err := a.follow(ctx, g); err != nil {
				return err
			}
			return a.swapSeg(ctx)
		}
		// Its own, which is about to be known here; or another's, and this node is
		// about to find that it has lost the lease.
		if !a.wait(ctx, ownPoll) {
			return ctx.Err()
		}
	}
	return errNotBuilder
}

// ownRecords is the last record of each visitor in this node's log, of those
// beyond the followed checkpoint.
type ownRecords struct {
	mu   sync.RWMutex
	last map[taxonomy.VisitorKey]taxonomy.Ref
}

func (o *ownRecords) folded(_ context.Context, about []fold.Folded) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, f := range about {
		o.last[f.Visitor] = f.Last
	}
	return nil
}

// upTo reports whether any of them is of a writer, and not behind seq.
func (o *ownRecords) upTo(w taxonomy.WriterID, seq uint64) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	for _, r := range o.last {
		if r.Writer == w && r.Seq <= seq {
			return true
		}
	}
	return false
}

func (o *ownRecords) of(k taxonomy.VisitorKey) (taxonomy.Ref, bool) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	r, ok := o.last[k]
	return r, ok
}

// startCluster starts the loops that the nodes of a cluster have.
func (a *App) startCluster() {
	for _, g := range a.fold.list {
		a.life.run(fmt.Sprintf("loop of group %d", g.n), func(ctx context.Context) error { return a.tend(ctx, g) })
	}
	a.life.run("generations' loop", func(ctx context.Context) error {
		return a.every(ctx, lookEvery, "look for a newer generation", a.followGenerations)
	})
	a.life.run("erasures' loop", a.followErasuresLoop)
	a.life.run("watch", func(ctx context.Context) error {
		return a.every(ctx, watchEvery, "watch the cluster", a.watch)
	})
}

// tend is the life of a group on this node: it folds it while it holds the lease,
// and else follows it, ready to take the lease when it is free.
func (a *App) tend(ctx context.Context, g *group) error {
	d := tending{a: a, g: g, saved: a.env.Now(), done: make(chan error, 1)}
	defer d.saving.Wait()
	failing := false
	for ctx.Err() == nil {
		pause, err := d.step(ctx)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			if !failing {
				a.log.Error("a group stands still; it is tried again", "group", g.n, "error", err)
			}
			pause = troublePause
		} else if failing {
			a.log.Info("the group goes on", "group", g.n)
		}
		failing = err != nil
		if pause > 0 && !a.wait(ctx, pause) {
			break
		}
	}
	return ctx.Err()
}

// tending is what tend remembers of one group.
type tending struct {
	a      *App
	g      *group
	saved  time.Time // when the last checkpoint was begun
	looked time.Time // for a checkpoint, or for writers that are gone

	// A checkpoint is made beside the fold, which does not stop for it (R6).
	saving sync.WaitGroup
	busy   bool
	of     *fold.Fold
	done   chan error
}

// save begins a checkpoint, unless one is under way, and returns what the last
// came to.
func (d *tending) save(ctx context.Context, f *fold.Fold) error {
	var err error
	if d.busy {
		select {
		case err = <-d.done:
			d.busy = false
			if d.of != f { // of an earlier tenure
				err = nil
			}
		default:
		}
	}
	now := d.a.env.Now()
	if d.busy || err != nil || !f.Due() && !(f.Changed() && now.Sub(d.saved) >= d.a.cfg.Checkpoint.Interval) {
		return err
	}
	d.saved, d.busy, d.of = now, true, f
	d.saving.Go(func() {
		_, err := f.Checkpoint(ctx)
		d.done <- err
	})
	return nil
}

// step does what is next and returns how long to wait after it.
func (d *tending) step(ctx context.Context) (time.Duration, error) {
	if t := d.g.tenure.Load(); t != nil {
		return d.build(ctx, t)
	}
	return d.follow(ctx)
}

// build folds what is new, and commits what is due.
func (d *tending) build(ctx context.Context, t *tenure) (time.Duration, error) {
	a, g := d.a, d.g
	if !a.lives(t) {
		// Not renewed for half its life: the renewals know whether it is lost. Until
		// then nothing is done under it.
		return clusterPoll, nil
	}
	f := g.fold.Load()
	n, err := f.Poll(ctx)
	if errors.Is(err, fold.ErrStopped) {
		return 0, errors.Join(err, a.giveUp(ctx, g, t, err))
	}
	if err != nil {
		return 0, err
	}
	err = d.save(ctx, f)
	if errors.Is(err, retention.ErrConflict) {
		return 0, a.lose(ctx, g, t, err)
	}
	if err != nil {
		return 0, err
	}
	now := a.env.Now()
	if now.Sub(d.looked) >= a.leaseLife()/4 {
		d.looked = now
		if err := a.closeDead(ctx, g); err != nil {
			return 0, err
		}
	}
	if n > 0 {
		return 0, nil
	}
	return clusterPoll, nil
}

// giveUp gives a lease back, so that a fold that can only be opened anew is, here
// or on another node.
func (a *App) giveUp(ctx context.Context, g *group, t *tenure, why error) error {
	return errors.Join(a.lose(ctx, g, t, why), a.store.Leases().Release(ctx, t.lease))
}

// closeDead closes the writers of nodes that have been silent for longer than a
// lease's life, so that the fold's clock does not wait for them (R4, R7).
func (a *App) closeDead(ctx context.Context, g *group) error {
	ends, err := a.wal.End(ctx, g.n, g.fold.Load().Position())
	if err != nil {
		return fmt.Errorf("look for writers that are gone: %w", err)
	}
	own, old := a.cluster.log.Writer(), a.env.millis()-taxonomy.Millis(a.leaseLife()/time.Millisecond)
	for _, e := range ends {
		if !e.Open || e.Writer == own || e.Time > old {
			continue
		}
		end, err := a.wal.CloseWriter(ctx, g.n, e.Writer)
		switch {
		case errors.Is(err, retention.ErrHeld):
		case err != nil:
			return err
		default:
			a.log.Info("closed the log of a node that is gone", "writer", e.Writer, "group", g.n, "end", end)
		}
	}
	return nil
}

// follow takes in what this node's log has, looks for a newer checkpoint, and
// takes the lease if it is free.
func (d *tending) follow(ctx context.Context) (time.Duration, error) {
	a, g := d.a, d.g
	f := g.fold.Load()
	if now := a.env.Now(); now.Sub(d.looked) >= lookEvery || !f.Following() {
		d.looked = now
		taken := false
		if failed, ok := a.cluster.mayTake(now); ok {
			var err error
			if taken, err = a.take(ctx, g); !taken {
				failed()
			}
			if err != nil && !errors.Is(err, retention.ErrHeld) {
				return 0, err
			}
		}
		if taken {
			a.log.Info("this node builds from here on", "group", g.n)
			d.saved = now
			return 0, a.swapSeg(ctx)
		}
		number, err := fold.Latest(ctx, a.store.Keyed(), g.n)
		if err != nil {
			return 0, err
		}
		if !f.Following() || number > f.View().Number() {
			if err := a.follow(ctx, g); err != nil {
				return 0, err
			}
			return 0, a.swapSeg(ctx)
		}
	}
	n, err := f.Poll(ctx)
	if errors.Is(err, fold.ErrStopped) {
		// Its own log and the checkpoint do not fit; the builder's lists hold until
		// the next.
		return lookEvery, errors.Join(err, a.follow(ctx, g))
	}
	if err != nil || n > 0 {
		return 0, err
	}
	return ownPoll, nil
}

// foldGroup folds all that the log of a group has when it is called, or waits
// until the node that builds it has folded what this node's log has.
func (a *App) foldGroup(ctx context.Context, g *group) error {
	if !g.builds() {
		return a.awaitGroup(ctx, g)
	}
	target := retention.Position{}
	ends, err := a.wal.End(ctx, g.n, nil)
	if err != nil {
		return fmt.Errorf("read the log's ends: %w", err)
	}
	for _, e := range ends {
		target[e.Writer] = max(target[e.Writer], e.Last)
	}
	f := g.fold.Load()
	for !f.Position().Covers(target) {
		n, err := f.Poll(ctx)
		if err != nil || n == 0 {
			return err
		}
		if f.Due() {
			if _, err := f.Checkpoint(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// awaitGroup waits until a checkpoint of the builder covers what this node's log
// has now.
func (a *App) awaitGroup(ctx context.Context, g *group) error {
	own := a.cluster.log.Writer()
	ends, err := a.local().End(ctx, g.n, nil)
	if err != nil {
		return fmt.Errorf("read the log's ends: %w", err)
	}
	last := uint64(0)
	for _, e := range ends {
		if e.Writer == own {
			last = e.Last
		}
	}
	for {
		if g.builds() {
			return a.foldGroup(ctx, g)
		}
		f := g.fold.Load()
		if n, err := f.Poll(ctx); err != nil {
			return err
		} else if n > 0 {
			continue
		}
		// Of ticks alone nobody makes a checkpoint: what counts is whether a record
		// about a visitor is still beyond it.
		if f.View().Position()[own] >= last || !a.cluster.own[g.n].Load().upTo(own, last) {
			return nil
		}
		number, err := fold.Latest(ctx, a.store.Keyed(), g.n)
		if err != nil {
			return err
		}
		if number > f.View().Number() {
			if err := a.follow(ctx, g); err != nil {
				return err
			}
			continue
		}
		if !a.wait(ctx, clusterPoll) {
			return fmt.Errorf("wait for the builder of group %d: %w", g.n, ctx.Err())
		}
	}
}

// followGenerations takes in the newest published generation.
func (a *App) followGenerations(ctx context.Context) error {
	refs, err := a.generations.List(ctx)
	if err != nil || len(refs) == 0 {
		return err
	}
	if g := a.current.Load(); g != nil && (refs[0].Epoch < g.Epoch || refs[0].Epoch == g.Epoch && refs[0].Number <= g.Number) {
		return nil
	}
	g, err := a.generations.Open(ctx, refs[0])
	if err != nil {
		return err
	}
	a.newer(g)
	return a.swapSeg(ctx)
}

// newer makes g the current generation, unless a later one is.
func (a *App) newer(g *audience.Generation) {
	for {
		old := a.current.Load()
		if old != nil && (old.Epoch > g.Epoch || old.Epoch == g.Epoch && old.Number >= g.Number) {
			return
		}
		if a.current.CompareAndSwap(old, g) {
			return
		}
	}
}

// tendDeliveries keeps the lease under which one node delivers by the schedule.
func (a *App) tendDeliveries(ctx context.Context) error {
	c := a.cluster
	asked := a.env.millis()
	if t := c.delivers.Load(); t != nil {
		err := a.store.Leases().Renew(ctx, t.lease)
		switch {
		case err == nil:
			t.renewed.Store(int64(asked))
		case errors.Is(err, retention.ErrHeld):
			c.delivers.Store(nil)
		}
		return err
	}
	lease, err := a.store.Leases().Take(ctx, deliverLease, a.cfg.Node, a.leaseLife())
	if errors.Is(err, retention.ErrHeld) {
		return nil
	}
	if err != nil {
		return err
	}
	// Whoever held the lease before publishes and sends nothing from here on.
	if err := a.deliverer.Claim(ctx, lease.Term, slices.Collect(maps.Keys(a.catalog.Load().destinations))); err != nil {
		return errors.Join(err, a.store.Leases().Release(context.WithoutCancel(ctx), lease))
	}
	t := &tenure{lease: lease}
	t.renewed.Store(int64(asked))
	if !a.lives(t) { // claiming took long
		err := a.renew(ctx, t)
		if errors.Is(err, retention.ErrHeld) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	c.delivers.Store(t)
	return nil
}

const deliverLease = "deliverer"

// mayDeliver reports whether this node delivers by the schedule, and under which
// term; 0 with the embedded store.
func (a *App) mayDeliver() (term uint64, ok bool) {
	if a.cluster == nil {
		return 0, true
	}
	t := a.cluster.delivers.Load()
	if t == nil || !a.lives(t) {
		return 0, false
	}
	return t.lease.Term, true
}

// joinCluster takes in what other nodes have told, and begins to renew.
func (a *App) joinCluster(ctx context.Context) error {
	if err := a.followErasures(ctx, a.env.millis()-erasureLife); err != nil {
		return err
	}
	if err := a.watch(ctx); err != nil {
		return err
	}
	a.life.run("leases' loop", func(ctx context.Context) error {
		return a.every(ctx, a.leaseLife()/4, "renew what this node builds", a.renewLeases)
	})
	return nil
}

// Builds returns the groups that this node builds now.
func (a *App) Builds() (out []taxonomy.Group) {
	for _, g := range a.fold.list {
		if t := g.tenure.Load(); t != nil && (a.cluster == nil || a.lives(t)) {
			out = append(out, g.n)
		}
	}
	return out
}
