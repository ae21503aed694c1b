package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/cassandra"
	"github.com/ebb-dmp/ebb/retention/forget"
	wal "github.com/ebb-dmp/ebb/retention/log"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// cluster is what a node has besides when data is in Cassandra: nodes share
// nothing but that.
type cluster struct {
	store   sharedStore
	openLog func(*App, openLocalLog) (sharedLog, error)
	log     sharedLog
	erased  erasedSet
	// delivers is set while this node holds the lease of deliveries.
	delivers atomic.Pointer[tenure]
	// took is when this node last took over a group, in ms.
	took atomic.Int64
	// own is, by group, of whom this node's log has records that the followed
	// checkpoint lacks.
	own []atomic.Pointer[ownRecords]
	// notice is what readyz says, from the last look.
	notice atomic.Pointer[clusterNotice]
	// withdrawn: pages were built with a source that may not be used any more, so
	// lists of other nodes do not count until the next generation.
	withdrawn atomic.Bool
	// read are the last lists for pages that other nodes were heard to have written.
	read heardLists
}

// sharedStore is the store that all nodes of a cluster have: an engine, and what
// only they need. It is Cassandra; tests have one in memory.
type sharedStore interface {
	engine
	PutErasures(context.Context, []cassandra.Erasure) error
	Erasures(ctx context.Context, from taxonomy.Millis, fn func(cassandra.Erasure)) error
	Problems(context.Context) ([]cassandra.Problem, error)
	Audit(context.Context, cassandra.AuditOptions) (cassandra.AuditReport, error)
	Buckets() int
}

// sharedLog is a node's log together with those of the others.
type sharedLog interface {
	retention.Log
	Writer() taxonomy.WriterID
	// Confirm returns when nobody can close this node's log below what is read of
	// it here.
	Confirm(context.Context) error
	Holes(context.Context, taxonomy.Group, retention.Position) ([]cassandra.Hole, error)
	Close(context.Context) error
}

// openLocalLog opens this node's part of the log for a new writer.
type openLocalLog func(taxonomy.WriterID) (*wal.Log, error)

// shared is a cluster to join.
type shared struct {
	store sharedStore
	log   func(*App, openLocalLog) (sharedLog, error)
}

// mayTake reports whether this node may try to take over a group: one a second, so
// that several nodes share what another leaves. failed gives the turn back.
func (c *cluster) mayTake(now time.Time) (failed func(), ok bool) {
	at, before := now.UnixMilli(), c.took.Load()
	if at-before < lookEvery.Milliseconds() || !c.took.CompareAndSwap(before, at) {
		return nil, false
	}
	return func() { c.took.CompareAndSwap(at, before) }, true
}

// clusterEngine is the cluster's store as an engine.
type clusterEngine struct{ *cassandra.Store }

func (clusterEngine) Failed() <-chan struct{} { return nil }

var errNodeInUse = errors.New("the data directory is in use")

// CassandraOptions are the settings as the store takes them, for commands that
// need no App.
func CassandraOptions(c *config.Config, env Env, log *slog.Logger) (cassandra.Options, error) {
	k := &c.Cassandra
	o := cassandra.Options{Hosts: k.Hosts, DataCenter: k.DataCenter, Keyspace: k.Keyspace, User: k.User, Password: k.Password,
		Now: env.millis, After: env.After, Rand: env.Rand, Buckets: k.Buckets, Logger: log,
		Mortal: []string{pageSpace.Name, forget.QueueSpace.Name}}
	var err error
	if o.Replication, err = k.Copies(); err != nil {
		return o, fmt.Errorf("cassandra.replication: %w", err)
	}
	if k.CA == "" {
		return o, nil
	}
	f, err := env.FS.Open(k.CA)
	if err != nil {
		return o, fmt.Errorf("read cassandra.ca: %w", err)
	}
	defer f.Close()
	pem, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return o, fmt.Errorf("read cassandra.ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return o, fmt.Errorf("read cassandra.ca: %s holds no certificate in PEM", k.CA)
	}
	o.TLS = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return o, nil
}

// openCluster takes the data directory, which holds this node's log, and opens
// the store.
func (a *App) openCluster(ctx context.Context, o Options) error {
	fs, dir := o.Env.FS, o.Config.Data
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	lock, err := fs.Lock(fs.PathJoin(dir, "LOCK"))
	if err != nil {
		return fmt.Errorf("lock %s: %w: %w; another process uses this data directory: stop it, or go through its API", dir, errNodeInUse, err)
	}
	a.life.onStop("data directory", func(context.Context) error { return lock.Close() })
	to := o.shared
	if to == nil {
		if to, err = a.onCassandra(ctx, o); err != nil {
			return err
		}
	}
	a.cluster = &cluster{store: to.store, openLog: to.log}
	a.store = to.store
	a.life.onStop("store", func(context.Context) error { return to.store.Close() })
	return nil
}

// onCassandra opens the cluster that the settings name.
func (a *App) onCassandra(ctx context.Context, o Options) (*shared, error) {
	co, err := CassandraOptions(&a.cfg, a.env, o.Logger)
	if err != nil {
		return nil, err
	}
	co.AnyClock = o.AnyClock
	st, err := cassandra.Open(ctx, co)
	if err != nil {
		return nil, err
	}
	return &shared{clusterEngine{st}, func(a *App, open openLocalLog) (sharedLog, error) { return a.copiedLog(st, open) }}, nil
}

// copiedLog is this node's log, and what copies it to Cassandra.
func (a *App) copiedLog(st *cassandra.Store, open openLocalLog) (sharedLog, error) {
	l, err := cassandra.OpenLog(st, cassandra.LogOptions{
		OpenLocal: func(id taxonomy.WriterID) (cassandra.LocalLog, error) {
			l, err := open(id)
			if err != nil {
				return nil, err
			}
			return l, nil
		},
		Node: a.cfg.Node, Groups: a.install.Groups, Life: a.cfg.Cassandra.Lease,
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// openClusterLog opens this node's log together with those of the others.
func (a *App) openClusterLog(open openLocalLog) (err error) {
	c := a.cluster
	if c.log, err = c.openLog(a, open); err != nil {
		return err
	}
	a.wal = tellingLog{c.log, a}
	c.own = make([]atomic.Pointer[ownRecords], a.install.Groups)
	a.life.onStop("log", c.log.Close)
	return nil
}

// leaseLife is how long a builder may be silent.
func (a *App) leaseLife() time.Duration {
	if a.cluster == nil {
		return embeddedLeaseLife
	}
	return a.cfg.Cassandra.Lease
}

// ownLog is this node's part of the log, as a follower reads it.
type ownLog struct {
	retention.Log // what a follower does not call
	a             *App
}

func (l ownLog) Follow(ctx context.Context, g taxonomy.Group, from retention.Position, maxBytes int) ([]retention.Frame, error) {
	return l.a.local().Follow(ctx, g, from, maxBytes)
}

func (l ownLog) End(ctx context.Context, g taxonomy.Group, from retention.Position) ([]retention.WriterEnd, error) {
	return l.a.local().End(ctx, g, from)
}

// tellingLog tells all nodes of an erasure before it is answered (R24).
type tellingLog struct {
	sharedLog
	a *App
}

// tellWithin is how long an answer to a visitor waits for the cluster.
const tellWithin = time.Second

// Append is retention.Log's. Erasures are asked for at quorum, whatever ack says,
// and are reached as far as the cluster knows of them both by their record and by
// their row, within a second.
func (l tellingLog) Append(ctx context.Context, g taxonomy.Group, records []taxonomy.Record, ack retention.Ack) (taxonomy.Ref, retention.Ack, error) {
	var list []cassandra.Erasure
	for i := range records {
		if r := &records[i]; r.Kind == taxonomy.RecordErasure {
			list = append(list, cassandra.Erasure{Hash: l.a.keys.Load().Erasure(r.Visitor), Space: r.Space, Asked: r.Received})
		}
	}
	if len(list) == 0 {
		return l.sharedLog.Append(ctx, g, records, ack)
	}
	told := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, tellWithin)
		defer cancel()
		told <- l.a.cluster.store.PutErasures(ctx, list)
	}()
	ref, reached, err := l.sharedLog.Append(ctx, g, records, max(ack, retention.AckQuorum))
	if terr := <-told; terr != nil {
		reached = min(reached, retention.AckLocal)
	}
	if err == nil {
		l.a.cluster.erased.add(list)
	}
	return ref, reached, err
}

// erasedSet is the erasures that this node has followed and that the folds it has
// do not know yet.
type erasedSet struct {
	mu  sync.RWMutex
	at  map[[16]byte]taxonomy.Millis // asked
	any atomic.Bool
}

// add returns those that were not known.
func (s *erasedSet) add(list []cassandra.Erasure) (fresh []cassandra.Erasure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil {
		s.at = map[[16]byte]taxonomy.Millis{}
	}
	for _, e := range list {
		if have, ok := s.at[e.Hash]; !ok || have < e.Asked {
			s.at[e.Hash] = e.Asked
			fresh = append(fresh, e)
		}
	}
	s.any.Store(len(s.at) > 0)
	return fresh
}

func (s *erasedSet) asked(h [16]byte) (taxonomy.Millis, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	at, ok := s.at[h]
	return at, ok
}

// erasedNow reports whether a visitor is erased, as far as this node knows.
func (a *App) erasedNow(k taxonomy.VisitorKey) bool {
	f := a.fold.of(k, a.install.Shards).fold.Load()
	if f.Erased(k, a.env.millis()) {
		return true
	}
	if a.cluster == nil || !a.cluster.erased.any.Load() {
		return false
	}
	h := a.keys.Load().Erasure(k)
	asked, ok := a.cluster.erased.asked(h)
	// What the fold knows it can tell better: an opt-in may have come since.
	return ok && !f.Knows(h, asked)
}

const (
	// followErasuresEvery and how far back each look goes: clocks differ by
	// seconds, and a write may take some.
	followErasuresEvery = time.Second
	erasureOverlap      = 2 * taxonomy.Minute
	// Each so often everything young is looked at again.
	erasureSweepEvery = 5 * taxonomy.Minute
	erasureSweep      = 8 * taxonomy.OneDay
	erasureLife       = 100 * taxonomy.OneDay
)

// followErasures takes in the erasures that any node has written since.
func (a *App) followErasures(ctx context.Context, from taxonomy.Millis) error {
	var list []cassandra.Erasure
	if err := a.cluster.store.Erasures(ctx, from, func(e cassandra.Erasure) { list = append(list, e) }); err != nil {
		return err
	}
	fresh := a.cluster.erased.add(list)
	if len(fresh) == 0 {
		return nil
	}
	entries := make([]forget.Entry, len(fresh))
	for i, e := range fresh {
		entries[i] = forget.Entry{Hash: e.Hash, Space: e.Space, At: e.Asked}
	}
	return a.journal.Append(ctx, entries)
}

func (a *App) followErasuresLoop(ctx context.Context) error {
	swept := a.env.millis()
	next := swept - erasureOverlap
	return a.every(ctx, followErasuresEvery, "follow erasures", func(ctx context.Context) error {
		now, from := a.env.millis(), next
		sweep := now-swept >= erasureSweepEvery
		if sweep {
			from = now - erasureSweep
		}
		if err := a.followErasures(ctx, from); err != nil {
			return err
		}
		next = now - erasureOverlap
		if sweep {
			swept = now
		}
		return nil
	})
}

// tellErasures writes the rows of erasures that a fold met and the edge that took
// them could not write.
func (a *App) tellErasures(ctx context.Context, list []forget.Entry) error {
	var rows []cassandra.Erasure
	for _, e := range list {
		if asked, ok := a.cluster.erased.asked(e.Hash); !ok || asked < e.At {
			rows = append(rows, cassandra.Erasure{Hash: e.Hash, Space: e.Space, Asked: e.At})
		}
	}
	if len(rows) == 0 {
		return nil
	}
	if err := a.cluster.store.PutErasures(ctx, rows); err != nil {
		return err
	}
	a.cluster.erased.add(rows)
	return nil
}
