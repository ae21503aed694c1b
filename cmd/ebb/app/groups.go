package app

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/fold"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// groups are all shards, as this node knows them: of each group the fold, if
// this node builds it, and else what follows its checkpoints. It answers as one
// fold would; the embedded store has one group, which is always built here.
type groups struct {
	list []*group

	mu    sync.Mutex // guards joins
	joins []join     // the last views, the newest first
}

// join is a view and those of the groups that it is made of.
type join struct {
	view  *fold.View
	parts []*fold.View
}

// keptJoins is how many views are remembered for Built: a build's, and those
// that were made while it ran.
const keptJoins = 8

// group is one group of shards.
type group struct {
	n      taxonomy.Group
	fold   atomic.Pointer[fold.Fold]
	tenure atomic.Pointer[tenure] // nil: another node builds it, or nobody
	// changing is held while fold and tenure are replaced.
	changing sync.Mutex
}

// tenure is the time for which this node holds a group's lease.
type tenure struct {
	lease retention.Lease
	// renewed is when the lease was last renewed, before it was asked for.
	renewed atomic.Int64
	lists   *pageLists // that other nodes read; nil with the embedded store
}

// builds reports whether this node builds a group.
func (g *group) builds() bool { return g.tenure.Load() != nil }

func (gs *groups) of(k taxonomy.VisitorKey, shards int) *group {
	return gs.list[taxonomy.GroupOf(k.Shard(shards), len(gs.list))]
}

// built are the groups that this node builds.
func (gs *groups) built() (out []*group) {
	for _, g := range gs.list {
		if g.builds() {
			out = append(out, g)
		}
	}
	return out
}

// View is that of the last committed checkpoints, never nil.
func (gs *groups) View() *fold.View {
	if len(gs.list) == 1 {
		return gs.list[0].fold.Load().View()
	}
	parts := make([]*fold.View, len(gs.list))
	for i, g := range gs.list {
		parts[i] = g.fold.Load().View()
	}
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if len(gs.joins) > 0 && same2(gs.joins[0].parts, parts) {
		return gs.joins[0].view
	}
	j := join{fold.Join(parts), parts}
	gs.joins = append([]join{j}, gs.joins[:min(len(gs.joins), keptJoins-1)]...)
	return j.view
}

func same2(a, b []*fold.View) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// Clock is the least of the groups'.
func (gs *groups) Clock() (least taxonomy.Millis) {
	for i, g := range gs.list {
		if c := g.fold.Load().Clock(); i == 0 || c < least {
			least = c
		}
	}
	return least
}

// Due reports whether a group that is built here should make a checkpoint.
func (gs *groups) Due() bool {
	for _, g := range gs.built() {
		if g.fold.Load().Due() {
			return true
		}
	}
	return false
}

// Changed reports whether anything was folded here since the last checkpoint.
func (gs *groups) Changed() bool {
	for _, g := range gs.built() {
		if g.fold.Load().Changed() {
			return true
		}
	}
	return false
}

// Checkpoint commits one of each group that is built here and returns the view.
func (gs *groups) Checkpoint(ctx context.Context) (*fold.View, error) {
	return gs.save(func(f *fold.Fold) error { _, err := f.Checkpoint(ctx); return err })
}

// Rewrite is Checkpoint that leaves nothing of what was removed.
func (gs *groups) Rewrite(ctx context.Context) (*fold.View, error) {
	return gs.save(func(f *fold.Fold) error { _, err := f.Rewrite(ctx); return err })
}

func (gs *groups) save(fn func(*fold.Fold) error) (*fold.View, error) {
	var errs []error
	for _, g := range gs.built() {
		if err := fn(g.fold.Load()); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return gs.View(), nil
}

// Forget removes what is left of erased visitors from the groups built here.
func (gs *groups) Forget(visitors []taxonomy.VisitorKey) {
	for _, g := range gs.built() {
		g.fold.Load().Forget(visitors)
	}
}

// Restore tells the groups built here of erasures and returns whom they know.
func (gs *groups) Restore(list []fold.Erasure) (known []taxonomy.VisitorKey) {
	for _, g := range gs.built() {
		known = append(known, g.fold.Load().Restore(list)...)
	}
	return known
}

// Built says that a generation was built from a view of View.
func (gs *groups) Built(v *fold.View) {
	if len(gs.list) == 1 {
		gs.list[0].fold.Load().Built(v)
		return
	}
	gs.mu.Lock()
	var parts []*fold.View
	for _, j := range gs.joins {
		if j.view == v {
			parts = j.parts
		}
	}
	gs.mu.Unlock()
	for i, p := range parts {
		if g := gs.list[i]; g.builds() {
			g.fold.Load().Built(p)
		}
	}
}

// Still calls fn while nothing is folded here and no checkpoint is made.
func (gs *groups) Still(fn func() error) error {
	for _, g := range gs.list {
		inner, f := fn, g.fold.Load()
		fn = func() error { return f.Still(inner) }
	}
	return fn()
}

// Tallies returns what became of each site's events.
func (gs *groups) Tallies() map[taxonomy.SiteID]fold.Tally {
	sum := map[taxonomy.SiteID]fold.Tally{}
	for _, g := range gs.list {
		for site, t := range g.fold.Load().Tallies() {
			sum[site] = addTally(sum[site], t)
		}
	}
	return sum
}

func addTally(a, b fold.Tally) fold.Tally {
	a.Received += b.Received
	a.Stored += b.Stored
	a.Duplicate += b.Duplicate
	a.Waiting += b.Waiting
	a.Rejected = addReasons(a.Rejected, b.Rejected)
	a.Dropped = addReasons(a.Dropped, b.Dropped)
	return a
}

func addReasons(a, b map[taxonomy.Reason]uint64) map[taxonomy.Reason]uint64 {
	if a == nil {
		a = map[taxonomy.Reason]uint64{}
	}
	for why, n := range b {
		a[why] += n
	}
	return a
}

// touched is the part of a fold that knows what is beyond the generation.
func (gs *groups) touched(k taxonomy.VisitorKey, shards int) ([]taxonomy.Column, query.Facts, bool) {
	cols, facts, ok := gs.of(k, shards).fold.Load().Touched(k)
	if !ok {
		return nil, nil, false
	}
	return cols, facts, true
}

// Close closes what the folds have open.
func (gs *groups) Close() error {
	var errs []error
	for _, g := range gs.list {
		if f := g.fold.Load(); f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// foldOptions are what a fold of this App is made of.
func (a *App) foldOptions(n taxonomy.Group, term uint64) fold.Options {
	o := fold.Options{
		Config: fold.Config{Shards: a.install.Shards, Groups: a.install.Groups, Group: n, Erasure: func(k taxonomy.VisitorKey) [16]byte { return a.keys.Load().Erasure(k) }},
		Log:    a.wal, Events: a.store.Events(), Keyed: a.store.Keyed(), Blobs: a.store.Blobs(),
		Rules:           func() fold.Classifier { return a.catalog.Load().newest() },
		Compile:         compileText,
		Part:            partOf,
		Pace:            a.pace(),
		Above:           a.above,
		OnErased:        a.onErased,
		Epoch:           a.install.Epoch,
		Term:            term,
		Logger:          a.log,
		CheckpointBytes: int64(a.cfg.Checkpoint.Bytes),
	}
	if a.cluster != nil {
		o.Parallel = 16
	} else {
		o.DaysBehind = true // a cluster's other nodes go on meanwhile
	}
	return o
}

// openGroups takes the groups that are free, if this node builds, and follows
// the others. The embedded store has one, and it must be free.
func (a *App) openGroups(ctx context.Context) error {
	gs := &groups{}
	for n := range taxonomy.Group(a.install.Groups) {
		gs.list = append(gs.list, &group{n: n})
	}
	a.life.onStop("fold", func(context.Context) error { return gs.Close() })
	a.life.onStop("leases", func(ctx context.Context) error {
		var errs []error
		for _, g := range gs.list {
			if t := g.tenure.Load(); t != nil {
				errs = append(errs, a.store.Leases().Release(ctx, t.lease))
			}
		}
		return errors.Join(errs...)
	})
	for _, g := range gs.list {
		if err := a.openGroup(ctx, g); err != nil {
			return err
		}
	}
	a.fold = gs
	return nil
}

func (a *App) openGroup(ctx context.Context, g *group) error {
	taken, err := a.take(ctx, g)
	if err != nil && (a.cluster == nil || !errors.Is(err, retention.ErrHeld)) {
		return err
	}
	if taken {
		return nil
	}
	return a.follow(ctx, g)
}

func leaseOf(n taxonomy.Group) string { return fmt.Sprintf("builder.%d", n) }

// take takes the lease of a group and opens its fold from the last checkpoint.
// retention.ErrHeld: another node has it. It takes nothing on a node that does
// not build.
func (a *App) take(ctx context.Context, g *group) (bool, error) {
	if a.cluster != nil && !a.cfg.Has("builder") {
		return false, nil
	}
	g.changing.Lock()
	defer g.changing.Unlock()
	asked := a.env.millis()
	lease, err := a.store.Leases().Take(ctx, leaseOf(g.n), a.cfg.Node, a.leaseLife())
	if err != nil {
		return false, fmt.Errorf("take the builder's lease: %w", err)
	}
	t := &tenure{lease: lease}
	t.renewed.Store(int64(asked))
	fail := func(err error) (bool, error) {
		return false, errors.Join(err, a.store.Leases().Release(context.WithoutCancel(ctx), lease))
	}
	if a.cluster != nil {
		// Nobody can end this node's log below what is folded of it from here on.
		if err := a.cluster.log.Confirm(ctx); err != nil {
			return fail(err)
		}
	}
	o := a.foldOptions(g.n, lease.Term)
	if a.cluster != nil {
		t.lists = newPageLists(a, g)
		o.OnFolded = t.lists.folded
	}
	o.Before = g.fold.Load()
	// It may take longer than the lease lives.
	renewing, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = a.every(renewing, a.leaseLife()/4, "renew a lease", func(ctx context.Context) error { return a.renew(ctx, t) })
	}()
	f, err := fold.Open(ctx, o)
	stop()
	<-done
	if err != nil {
		return fail(err)
	}
	if g.n == 0 && a.cluster != nil {
		// Whoever held the lease before publishes no generation from here on.
		if err := a.generations.Claim(ctx, lease.Term); err != nil {
			return fail(errors.Join(err, f.Close()))
		}
	}
	old := g.fold.Swap(f)
	g.tenure.Store(t)
	if old != nil {
		return true, old.Close()
	}
	return true, nil
}

// term is that of the lease of group 0, under which generations are published;
// 0 without it.
func (a *App) term() uint64 {
	if a.fold == nil {
		return 0
	}
	if t := a.fold.list[0].tenure.Load(); t != nil {
		return t.lease.Term
	}
	return 0
}

// Erased reports whether a visitor is erased, as far as the folds know.
func (gs *groups) Erased(k taxonomy.VisitorKey, now taxonomy.Millis) bool {
	for _, g := range gs.list {
		if g.fold.Load().Erased(k, now) {
			return true
		}
	}
	return false
}

// Provisional counts who waits for the cookie to come back, by source.
func (gs *groups) Provisional() map[taxonomy.SourceID]fold.Provisional {
	if len(gs.list) == 1 {
		return gs.list[0].fold.Load().Provisional()
	}
	sum := map[taxonomy.SourceID]fold.Provisional{}
	for _, g := range gs.list {
		for source, p := range g.fold.Load().Provisional() {
			s := sum[source]
			if s.Layers == nil {
				s.Layers = map[taxonomy.Trait]uint64{}
			}
			s.Visitors += p.Visitors
			s.Bots += p.Bots
			for t, n := range p.Layers {
				s.Layers[t] += n
			}
			sum[source] = s
		}
	}
	return sum
}
