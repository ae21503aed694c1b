package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/retention/embedded"
	"github.com/ebb-dmp/ebb/retention/forget"
	wal "github.com/ebb-dmp/ebb/retention/log"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver/api"
	"github.com/ebb-dmp/ebb/tagserver/console"
	"github.com/ebb-dmp/ebb/tagserver/geo"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

// Options is what an App is made of.
type Options struct {
	Config config.Config
	Env    Env
	Keys   *keys.Ring
	// SaveKeys changes the file of keys and returns what stands there then; nil
	// if it may not be changed.
	SaveKeys func(func(*keys.Ring) (*keys.Ring, error)) (*keys.Ring, error)
	Logger   *slog.Logger
	// Init makes the installation in a cluster, which nothing else does: a data
	// directory of the embedded store is made when it is empty.
	Init bool
	// AnyClock leaves the clock unchecked against the cluster's: for tests of a
	// world that has its own.
	AnyClock bool
	// newEpoch: the data was restored from a backup (R29).
	newEpoch bool
	// moving: this carries another installation over, so that what the definitions
	// say is not looked at until all of them are there.
	moving bool
	// shared is the cluster to join instead of the one that the settings name: for
	// tests.
	shared *shared
}

// App is a running Ebb without its listeners: the stores, the fold, audiences
// and deliveries. Serve adds what listens; commands that find no server work on
// an App of their own.
type App struct {
	cfg  config.Config
	env  Env
	log  *slog.Logger
	life *lifecycle
	keys atomic.Pointer[keys.Ring]
	// saveKeys changes the file of keys; nil if it may not be changed.
	saveKeys func(func(*keys.Ring) (*keys.Ring, error)) (*keys.Ring, error)

	store    engine
	embedded *embedded.Store // nil in a cluster
	cluster  *cluster        // nil with the embedded store
	wal      retention.Log
	localLog atomic.Pointer[wal.Log]
	defs     *defs.Store
	install  installation
	callers  *api.Callers
	trail    *defs.Trail

	refreshing sync.Mutex // held by whoever makes the next catalog
	rules      ruleVersion
	lists      lists
	countries  *geo.Live // nil: unknown
	catalog    atomic.Pointer[catalog]

	suppression suppression
	plans       plans

	fold        *groups
	generations *audience.Generations
	builder     *audience.Builder
	current     atomic.Pointer[audience.Generation]
	seg         *audience.Seg
	nextDue     atomic.Int64 // when the generation after the one behind seg is due, in ms
	deliverer   *delivery.Deliverer
	dues        dues
	building    sync.Mutex
	refolding   sync.Mutex // held for a piece of a re-fold
	swapping    sync.Mutex
	importing   sync.Mutex
	backing     sync.Mutex
	spooled     atomic.Uint64 // files that were made in the spool

	journal *forget.Journal
	eraser  *forget.Eraser
	sweeper *forget.Sweeper
	holders []forget.Holder

	registry *prometheus.Registry

	nightsMu sync.Mutex
	nights   []console.Night // the newest first
}

// installation is what is fixed when a data directory is made, and by restores.
type installation struct {
	Shards  int             `json:"shards"`
	Groups  int             `json:"groups"`
	Epoch   uint64          `json:"epoch"` // number of restores (R29)
	Created taxonomy.Millis `json:"created"`
	// Keys are the IDs of the keys that it was made with; every node has them.
	Keys []string `json:"keys,omitempty"`
	// AdminKey is the hash of the first API key, until that is kept as all others
	// are.
	AdminKey string `json:"admin_key,omitempty"`
	// Moving is set while another installation is carried over: only `ebb move`
	// opens this one.
	Moving *moving `json:"moving,omitempty"`
}

const installationID = "installation"

// embeddedLeaseLife is the life of the lease of who folds, builds and delivers
// with the embedded store, where the data directory's lock stands behind it.
const embeddedLeaseLife = 30 * time.Second

// Open opens the data directory, making it if it is empty, and starts the fold.
// The caller ends it with Close. firstKey is the admin key if this made it.
func Open(ctx context.Context, o Options) (a *App, firstKey string, err error) {
	a = &App{cfg: o.Config, env: o.Env, log: o.Logger, life: newLifecycle(o.Logger), saveKeys: o.SaveKeys,
		registry: prometheus.NewRegistry()}
	a.keys.Store(o.Keys)
	if firstKey, err = a.open(ctx, o); err != nil {
		return nil, "", errors.Join(err, a.life.stop(context.WithoutCancel(ctx)))
	}
	return a, firstKey, nil
}

// open starts one thing after the other; what fails leaves the others to be
// stopped by the caller.
func (a *App) open(ctx context.Context, o Options) (firstKey string, err error) {
	if a.countries, err = readCountries(o.Env.FS, a.cfg.Geo.File); err != nil {
		return "", err
	}
	if a.lists, err = readLists(o.Env.FS, &a.cfg.Consent); err != nil {
		return "", err
	}
	dir := o.Config.Data
	if err = finished(o.Env.FS, dir); err != nil {
		return "", err
	}
	if err = a.openEngine(ctx, o); err != nil {
		return "", err
	}
	if a.defs, err = defs.Open(ctx, a.store.Keyed(), a.env.millis); err != nil {
		return "", err
	}
	if firstKey, err = a.installed(ctx, &o); err != nil {
		return "", err
	}
	if err = a.openAccess(ctx); err != nil {
		return "", err
	}
	if err = a.openLog(o); err != nil {
		return "", err
	}

	if a.journal, err = forget.OpenJournal(o.Env.FS, a.journalPaths()...); err != nil {
		return "", err
	}
	a.life.onStop("journal", func(context.Context) error { return a.journal.Close() })

	if err = a.refreshRulesFirst(ctx, o.moving); err != nil {
		return "", err
	}
	a.generations = audience.NewGenerations(a.store.Blobs(), a.store.Keyed(), audience.Options{Now: a.env.millis, Keep: 14})
	if err = a.openGroups(ctx); err != nil {
		return "", err
	}
	if err = a.emptySpool(); err != nil {
		return "", err
	}
	a.builder = &audience.Builder{Generations: a.generations, Now: a.env.millis}
	a.seg = audience.NewSeg(overlay{a})
	a.deliverer, err = delivery.New(delivery.Options{
		Keyed: a.store.Keyed(), Blobs: a.store.Blobs(),
		Pseudonym: func(d taxonomy.DestinationID, epoch uint32, k taxonomy.VisitorKey) string {
			return a.keys.Load().Pseudonym(d, epoch, k)
		},
		View:       func(ctx context.Context) (audience.View, error) { return a.newestView(ctx) },
		Formats:    formats(),
		Transports: a.transports(),
		Now:        a.env.millis, After: a.env.After, Rand: a.env.Rand, Spool: a.deliverySpool,
	})
	if err != nil {
		return "", err
	}
	if err = a.forgetting(ctx); err != nil {
		return "", err
	}
	if err = a.remember(ctx); err != nil {
		return "", err
	}
	g, err := a.generations.Current(ctx)
	if errors.Is(err, retention.ErrCorrupt) {
		// It is made of what the fold knows: the next build makes another, and
		// until then there is none.
		o.Logger.Error("the current generation cannot be read; there is none until the next build", "error", err)
		g, err = nil, nil
	}
	if err != nil && !errors.Is(err, retention.ErrNotFound) {
		return "", err
	}
	a.current.Store(g)
	if err = a.swapSeg(ctx); err != nil {
		return "", err
	}
	a.measure()
	a.life.onStop("plans", a.plans.stopAll)
	if a.cluster != nil {
		if err = a.joinCluster(ctx); err != nil {
			return "", err
		}
		if o.Init {
			// A log with a record is known again at the next start; without one it
			// would count as another node's until its lease is over.
			if err = a.catchUp(ctx); err != nil {
				return "", err
			}
		}
	}
	return firstKey, nil
}

// Close ends the App in the reverse order of its start. What was folded and is
// not in a checkpoint stays in the log.
func (a *App) Close(ctx context.Context) error { return a.life.stop(ctx) }

// Go runs a loop of the caller's that ends with the App: Close waits for it. Its
// error, other than that of its context, ends the program.
func (a *App) Go(name string, loop func(context.Context) error) { a.life.run(name, loop) }

// installed reads what the data directory or the keyspace was made with, or
// makes it.
func (a *App) installed(ctx context.Context, o *Options) (firstKey string, err error) {
	doc, ok := a.defs.Snapshot().Get(defs.Setting, installationID)
	if ok {
		if o.Init {
			return "", fmt.Errorf("keyspace %s %w", a.cfg.Cassandra.Keyspace, ErrInstalled)
		}
		if err := json.Unmarshal(doc.Body, &a.install); err != nil {
			return "", fmt.Errorf("read the installation: %w", err)
		}
		if missing := a.keys.Load().Missing(a.install.Keys, a.env.millis().Day()); len(missing) > 0 {
			return "", fmt.Errorf("%s is not the file of keys that this installation was made with: it lacks %s; copy the file from a node that has it", a.cfg.KeysFile(), missing)
		}
		if err := a.fixed(); err != nil {
			return "", err
		}
		if err := a.movingOnly(o.moving); err != nil {
			return "", err
		}
		if o.newEpoch {
			a.install.Epoch++
			return "", a.putInstallation(ctx, doc.Version)
		}
		return "", nil
	}
	if a.cluster != nil && !o.Init {
		return "", fmt.Errorf("keyspace %s has no installation yet; run `ebb init` once, on one node", a.cfg.Cassandra.Keyspace)
	}
	a.install = installation{Shards: a.cfg.Parts(), Groups: a.cfg.Groups, Created: a.env.millis()}
	if a.cluster != nil {
		// Without those of spaces other than cookie, which come and are retired.
		a.install.Keys = slices.DeleteFunc(a.keys.Load().KeyIDs(), func(id string) bool {
			return strings.HasPrefix(id, "store/") && !strings.HasPrefix(id, "store/cookie/")
		})
	}
	if firstKey, a.install.AdminKey, err = api.NewKey(a.env.Rand); err != nil {
		return "", err
	}
	return firstKey, a.putInstallation(ctx, 0)
}

// fixed refuses settings that ask for another division than the one that stands.
func (a *App) fixed() error {
	if n := a.cfg.Shards; n > 0 && n != a.install.Shards {
		return fmt.Errorf("shards is %d, and the installation was made with %d, which is fixed; remove the line, or make a new installation with `ebb init`", n, a.install.Shards)
	}
	if n := a.cfg.Groups; n > 1 && n != a.install.Groups {
		return fmt.Errorf("groups is %d, and the installation was made with %d, which is fixed; remove the line, or make a new installation with `ebb init`", n, a.install.Groups)
	}
	return nil
}

func (a *App) putInstallation(ctx context.Context, version uint64) error {
	body, err := json.Marshal(a.install)
	if err == nil {
		_, err = a.defs.Put(ctx, defs.Setting, installationID, body, version)
	}
	if err != nil {
		return fmt.Errorf("keep the installation: %w", err)
	}
	return nil
}

// refreshRulesFirst makes the first catalog, which the fold's first step needs. A
// move begins with one of no definitions: a part of them may not hold.
func (a *App) refreshRulesFirst(ctx context.Context, moving bool) error {
	snap := a.defs.Snapshot()
	if moving {
		snap = &defs.Snapshot{}
	}
	c, err := a.compile(ctx, snap)
	if err == nil {
		a.catalog.Store(c)
	}
	return err
}

func (a *App) journalPaths() []string {
	paths := []string{filepath.Join(a.cfg.Data, journalName)}
	if a.cfg.ErasuresJournal != "" {
		paths = append(paths, a.cfg.ErasuresJournal)
	}
	return paths
}

// Used reports whether a data directory has anything in it.
func Used(env Env, dir string) (bool, error) {
	if _, err := env.FS.Stat(dir); err != nil {
		return false, nil // not there
	}
	names, err := env.FS.List(dir)
	if err != nil {
		return false, fmt.Errorf("look at the data directory: %w", err)
	}
	return len(names) > 0, nil
}
