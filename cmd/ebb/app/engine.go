package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/embedded"
	"github.com/ebb-dmp/ebb/retention/forget"
	wal "github.com/ebb-dmp/ebb/retention/log"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// engine is where all but this node's own log is kept.
type engine interface {
	Events() retention.Events
	Keyed() retention.Keyed
	Blobs() retention.Blobs
	Leases() retention.Leases
	Holders() []forget.Holder
	// Failed is closed when the engine cannot go on; nil if that never happens.
	Failed() <-chan struct{}
	Close() error
}

// openEngine opens the store that the settings name: the only place that knows
// which there are.
func (a *App) openEngine(ctx context.Context, o Options) error {
	if o.Config.Cluster() {
		return a.openCluster(ctx, o)
	}
	store, err := embedded.Open(embedded.Options{FS: o.Env.FS, Dir: o.Config.Data, Now: a.env.millis, Compress: o.Config.Compress, Logger: o.Logger})
	if err != nil {
		return err
	}
	a.store, a.embedded = store, store
	a.life.onStop("store", func(context.Context) error { return store.Close() })
	return nil
}

// openLog opens the log of this node, and in a cluster what copies it.
func (a *App) openLog(o Options) error {
	open := func(id taxonomy.WriterID) (*wal.Log, error) {
		l, err := wal.Open(wal.Options{FS: o.Env.FS, Dir: o.Env.FS.PathJoin(o.Config.Data, "log"), Writer: id, Now: a.env.millis, After: o.Env.After,
			Groups: a.install.Groups, MaxBytes: int64(o.Config.Log.MaxBytes), SegmentBytes: int64(o.Config.Log.SegmentBytes),
			NoCompression: !o.Config.Compress, Ticks: true, Logger: o.Logger})
		if err == nil {
			a.localLog.Store(l)
		}
		return l, err
	}
	if a.cluster != nil {
		return a.openClusterLog(open)
	}
	var id taxonomy.WriterID
	if _, err := a.env.Rand.Read(id[:]); err != nil {
		return fmt.Errorf("name the writer: %w", err)
	}
	l, err := open(id)
	if err != nil {
		return err
	}
	a.wal = l
	a.life.onStop("log", l.Close)
	return nil
}

// local is this node's log: all of the log with the embedded store, and what is
// copied to the cluster otherwise.
func (a *App) local() *wal.Log { return a.localLog.Load() }

// ErrInstalled: the store has an installation, so none is made.
var ErrInstalled = errors.New("has an installation already; nothing was changed")

// errNotHere says that a command needs the embedded store.
func (a *App) needEmbedded(what, instead string) error {
	if a.embedded != nil {
		return nil
	}
	return fmt.Errorf("%s: the data is in Cassandra, not in this node's data directory; %s", what, instead)
}

// InUse reports whether an App could not be opened because another process holds
// the data directory.
func InUse(err error) bool { return errors.Is(err, embedded.ErrInUse) || errors.Is(err, errNodeInUse) }
