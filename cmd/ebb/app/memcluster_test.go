package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/cassandra"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/retention/forget"
	wal "github.com/ebb-dmp/ebb/retention/log"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

// memCluster is a cluster in memory: the obvious model in the place of Cassandra,
// a clock that the test holds, and nodes whose timers never fire, so that
// everything happens when the test says so. Each node is cut off from the others
// as long as it is silent.
type memCluster struct {
	t       *testing.T
	clock   *storetest.Clock
	ring    *keys.Ring
	model   *storetest.Model
	mu      sync.Mutex
	nodes   []*memNode
	erasure []cassandra.Erasure
	closed  map[taxonomy.WriterID]bool
}

// memNode is a node. It is the store that it sees, and with memLog its log.
type memNode struct {
	*App
	c       *memCluster
	name    string
	silent  atomic.Bool // Cassandra does not answer this node
	gone    atomic.Bool // it runs no more; whoever builds closes its writer
	local   atomic.Pointer[wal.Log]
	tending map[taxonomy.Group]*tending
}

func newMemCluster(t *testing.T, start taxonomy.Millis) *memCluster {
	t.Helper()
	c := &memCluster{t: t, clock: storetest.NewClock(start), closed: map[taxonomy.WriterID]bool{}}
	c.model = storetest.NewModel(c.clock.Now)
	ring, err := keys.Generate(System().Rand, start.Day())
	if err != nil {
		t.Fatal(err)
	}
	c.ring = ring
	return c
}

// node opens a node; the first one makes the installation.
func (c *memCluster) node(name string, settings map[string]string) *memNode {
	c.t.Helper()
	all := map[string]string{"store": "cassandra", "cassandra.hosts": "nowhere", "cassandra.data_center": "dc1", "node": name, "data": "data",
		"shards": "4", "new_ids_per_minute": "1000000"}
	maps.Copy(all, settings)
	r, err := config.Load(config.Input{CheckSchedule: CheckSchedule, Flags: all})
	if err != nil {
		c.t.Fatal(err)
	}
	env := System()
	env.FS = vfs.NewMem()
	env.Now = func() time.Time { return c.clock.Now().Time() }
	env.After = func(time.Duration) <-chan time.Time { return nil }
	n := &memNode{c: c, name: name, tending: map[taxonomy.Group]*tending{}}
	a, _, err := Open(c.t.Context(), Options{Config: r.Config, Env: env, Keys: c.ring, Logger: slog.New(slog.DiscardHandler), Init: len(c.nodes) == 0,
		shared: &shared{memStore{n}, func(_ *App, open openLocalLog) (sharedLog, error) { return n.openLog(open) }}})
	if err != nil {
		c.t.Fatalf("open %s: %v", name, err)
	}
	n.App = a
	c.t.Cleanup(func() {
		n.silent.Store(false)
		if err := a.Close(context.Background()); err != nil {
			c.t.Errorf("close %s: %v", name, err)
		}
	})
	for _, g := range a.fold.list {
		n.tending[g.n] = &tending{a: a, g: g, saved: env.Now(), done: make(chan error, 1)}
	}
	return n
}

// step does on a node what its loops do: it renews what it holds, says that it is
// there, folds or follows to the end, and takes in definitions, generations and
// erasures. What cannot be done now is tried again with the next step.
func (n *memNode) step() {
	n.c.t.Helper()
	ctx := n.c.t.Context()
	for g := range n.tending {
		if _, _, err := n.wal.Append(ctx, g, []taxonomy.Record{{Kind: taxonomy.RecordTick}}, retention.AckLocal); err != nil {
			n.c.t.Fatal(err)
		}
	}
	errs := []error{n.renewLeases(ctx)}
	if _, err := n.defs.Refresh(ctx); err == nil {
		errs = append(errs, n.refresh(ctx))
	}
	for _, d := range n.tending {
		for range 20 {
			pause, err := d.step(ctx)
			if errs = append(errs, err); err != nil || pause > 0 {
				break
			}
		}
		d.saving.Wait()
	}
	errs = append(errs, n.followErasures(ctx, n.env.millis()-erasureOverlap), n.followGenerations(ctx))
	if err := errors.Join(errs...); err != nil && !n.silent.Load() {
		n.c.t.Fatalf("step of %s: %v", n.name, err)
	}
}

// steps lets time go on, and all nodes with it.
func (c *memCluster) steps(of time.Duration, nodes ...*memNode) {
	c.t.Helper()
	c.clock.Advance(taxonomy.Millis(of.Milliseconds()))
	for range 2 {
		for _, n := range nodes {
			n.step()
		}
	}
}

func (n *memNode) define(kind defs.Kind, id string, body any) {
	n.c.t.Helper()
	if err := n.Define(n.c.t.Context(), kind, id, body); err != nil {
		n.c.t.Fatal(err)
	}
}

// memStore is the store that a node sees.
type memStore struct{ n *memNode }

// answers waits, if the node is cut off, as long as the caller does.
func (n *memNode) answers(ctx context.Context) error {
	if !n.silent.Load() {
		return ctx.Err()
	}
	if _, ok := ctx.Deadline(); ok {
		<-ctx.Done()
		return ctx.Err()
	}
	return fmt.Errorf("nobody answers: %w", retention.ErrUnknown)
}

func (s memStore) Events() retention.Events                              { return s.n.c.model.Events() }
func (s memStore) Keyed() retention.Keyed                                { return memKeyed{s.n.c.model.Keyed(), s.n} }
func (s memStore) Blobs() retention.Blobs                                { return s.n.c.model.Blobs() }
func (s memStore) Leases() retention.Leases                              { return memLeases{s.n.c.model.Leases(), s.n} }
func (s memStore) Holders() []forget.Holder                              { return nil }
func (s memStore) Failed() <-chan struct{}                               { return nil }
func (s memStore) Close() error                                          { return nil }
func (s memStore) Buckets() int                                          { return 1 }
func (s memStore) Problems(context.Context) ([]cassandra.Problem, error) { return nil, nil }
func (s memStore) Audit(context.Context, cassandra.AuditOptions) (cassandra.AuditReport, error) {
	return cassandra.AuditReport{}, nil
}

func (s memStore) PutErasures(ctx context.Context, list []cassandra.Erasure) error {
	if err := s.n.answers(ctx); err != nil {
		return err
	}
	s.n.c.mu.Lock()
	defer s.n.c.mu.Unlock()
	s.n.c.erasure = append(s.n.c.erasure, list...)
	return nil
}

func (s memStore) Erasures(ctx context.Context, from taxonomy.Millis, fn func(cassandra.Erasure)) error {
	if err := s.n.answers(ctx); err != nil {
		return err
	}
	s.n.c.mu.Lock()
	defer s.n.c.mu.Unlock()
	for _, e := range s.n.c.erasure {
		if e.Asked >= from {
			fn(e)
		}
	}
	return nil
}

type memKeyed struct {
	retention.Keyed
	n *memNode
}

func (k memKeyed) Get(ctx context.Context, s retention.KeyedSpace, key retention.Key) (retention.Item, error) {
	if err := k.n.answers(ctx); err != nil {
		return retention.Item{}, err
	}
	return k.Keyed.Get(ctx, s, key)
}

func (k memKeyed) Put(ctx context.Context, s retention.KeyedSpace, items []retention.Item) error {
	if err := k.n.answers(ctx); err != nil {
		return err
	}
	return k.Keyed.Put(ctx, s, items)
}

func (k memKeyed) Swap(ctx context.Context, s retention.KeyedSpace, it retention.Item) (uint64, error) {
	if err := k.n.answers(ctx); err != nil {
		return 0, err
	}
	return k.Keyed.Swap(ctx, s, it)
}

type memLeases struct {
	retention.Leases
	n *memNode
}

func (l memLeases) Take(ctx context.Context, name, owner string, life time.Duration) (retention.Lease, error) {
	if err := l.n.answers(ctx); err != nil {
		return retention.Lease{}, err
	}
	return l.Leases.Take(ctx, name, owner, life)
}

func (l memLeases) Renew(ctx context.Context, lease retention.Lease) error {
	if err := l.n.answers(ctx); err != nil {
		return err
	}
	return l.Leases.Renew(ctx, lease)
}

// memLog is a node's own log and what it sees of the others': all that they have,
// unless it or they are cut off.
type memLog struct {
	*wal.Log
	n  *memNode
	id taxonomy.WriterID
}

func (n *memNode) openLog(open openLocalLog) (sharedLog, error) {
	var id taxonomy.WriterID
	if _, err := System().Rand.Read(id[:]); err != nil {
		return nil, err
	}
	l, err := open(id)
	if err != nil {
		return nil, err
	}
	n.local.Store(l)
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	n.c.nodes = append(n.c.nodes, n)
	return memLog{l, n, id}, nil
}

func (l memLog) others() (out []*wal.Log) {
	l.n.c.mu.Lock()
	defer l.n.c.mu.Unlock()
	for _, o := range l.n.c.nodes {
		if o != l.n && !o.silent.Load() && !l.n.silent.Load() {
			out = append(out, o.local.Load())
		}
	}
	return out
}

func (l memLog) Writer() taxonomy.WriterID         { return l.id }
func (l memLog) Confirm(ctx context.Context) error { return l.n.answers(ctx) }
func (l memLog) Holes(context.Context, taxonomy.Group, retention.Position) ([]cassandra.Hole, error) {
	return nil, nil
}

func (l memLog) CloseWriter(ctx context.Context, g taxonomy.Group, id taxonomy.WriterID) (uint64, error) {
	l.n.c.mu.Lock()
	defer l.n.c.mu.Unlock()
	for _, o := range l.n.c.nodes {
		if o.cluster.log.Writer() == id && o.gone.Load() {
			l.n.c.closed[id] = true
			return 0, nil
		}
	}
	return 0, fmt.Errorf("close a writer: %w", retention.ErrHeld)
}

func (l memLog) Follow(ctx context.Context, g taxonomy.Group, from retention.Position, maxBytes int) ([]retention.Frame, error) {
	all, err := l.Log.Follow(ctx, g, from, maxBytes)
	for _, o := range l.others() {
		frames, oerr := o.Follow(ctx, g, from, maxBytes)
		all, err = append(all, frames...), errors.Join(err, oerr)
	}
	return all, err
}

func (l memLog) End(ctx context.Context, g taxonomy.Group, from retention.Position) ([]retention.WriterEnd, error) {
	all, err := l.Log.End(ctx, g, from)
	for _, o := range l.others() {
		ends, oerr := o.End(ctx, g, from)
		all, err = append(all, ends...), errors.Join(err, oerr)
	}
	l.n.c.mu.Lock()
	defer l.n.c.mu.Unlock()
	for i := range all {
		all[i].Open = all[i].Open && !l.n.c.closed[all[i].Writer]
	}
	return all, err
}
