package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
	"golang.org/x/sync/semaphore"
)

// Options say where and how a store keeps its data.
type Options struct {
	// FS is the file system; all of the store's files are reached through it.
	FS vfs.FS
	// Dir is the data directory. The store uses FORMAT, LOCK, db and blobs in it
	// and leaves everything else alone.
	Dir string
	// Now is the store's only clock.
	Now func() taxonomy.Millis
	// Compress turns compression on. Without it every byte of a value lies on
	// disk as it is, and keys are whole: for tests that search the disk.
	Compress bool
	// Logger may be nil. Neither keys nor values are ever written to it.
	Logger *slog.Logger
	// CacheBytes bounds the cache of Pebble's blocks; 0 means 64 MiB.
	CacheBytes int64
	// MemTableBytes bounds a table in memory, of which there are two or three;
	// 0 means 16 MiB.
	MemTableBytes uint64
}

// Store is an open data directory. Its contracts are safe for concurrent use.
type Store struct {
	o   Options
	fs  fencedFS // over o.FS
	log *slog.Logger

	lock       io.Closer // of the data directory
	unlockOnce sync.Once

	// gate is held with weight 1 by everything that uses db, and whole by
	// whoever opens db anew. It is a semaphore and not an RWMutex so that waiting
	// honours a context. Callers' functions are never called under it, so a
	// callback may use the store.
	gate *semaphore.Weighted
	db   *pebble.DB // nil once closed

	// failed is closed when Pebble has met an error that it cannot go on from:
	// the store then refuses everything, since what it would say may be false.
	failed     chan struct{}
	failOnce   sync.Once
	failReason atomic.Pointer[string]
	// background has the last error of a flush or compaction, if nobody took it.
	background chan error

	events *events
	keyed  *keyed
	blobs  *blobs
	leases *leases
}

// ErrInUse: the data directory could not be locked, mostly because another
// process has it open.
var ErrInUse = errors.New("the data directory is in use")

// users is the weight of the whole gate.
const users = 1 << 20

// Open opens the data directory, making it if it is not there, and locks it.
// Errors: the directory is in use, is of a newer format, or holds bytes that do
// not match their checksums (retention.ErrCorrupt).
func Open(o Options) (_ *Store, err error) {
	if o.FS == nil || o.Now == nil || o.Dir == "" {
		return nil, errors.New("open store: FS, Dir and Now must be set")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 64 << 20
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = 16 << 20
	}
	s := &Store{
		o:      o,
		fs:     fencedFS{o.FS, new(fence)},
		log:    o.Logger.With("component", "store"),
		gate:   semaphore.NewWeighted(users),
		failed: make(chan struct{}),

		background: make(chan error, 1),
	}
	if err := makeDir(s.fs, o.Dir); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if s.lock, err = o.FS.Lock(s.fs.PathJoin(o.Dir, lockName)); err != nil {
		return nil, fmt.Errorf("open store: lock %s: %w: %w; another process uses this data directory: stop it, or go through its API", o.Dir, ErrInUse, err)
	}
	defer func() {
		if err != nil {
			s.fs.fence.shut()
			_ = s.unlock()
		}
	}()
	if err := checkFormat(s.fs, o.Dir); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := removeSnapshot(s.fs, o.Dir); err != nil {
		return nil, fmt.Errorf("open store: remove a snapshot that was not finished: %w", err)
	}
	if err := makeDir(s.fs, s.dbDir()); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s.events, s.keyed, s.leases = &events{s: s}, &keyed{s: s}, &leases{s: s, held: map[string]*heldLease{}}
	if s.blobs, err = openBlobs(s); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if s.db, err = s.openPebble(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, nil
}

// Events returns the store's Events.
func (s *Store) Events() retention.Events { return s.events }

// Keyed returns the store's Keyed.
func (s *Store) Keyed() retention.Keyed { return s.keyed }

// Blobs returns the store's Blobs.
func (s *Store) Blobs() retention.Blobs { return s.blobs }

// Leases returns the store's Leases. They live as long as this process holds the
// data directory; their terms are kept and grow across restarts.
func (s *Store) Leases() retention.Leases { return s.leases }

// Failed is closed when the store has met an error from which it cannot go on,
// such as a failed fsync. Everything then returns retention.ErrClosed, what was
// acknowledged is safe, and the process should end and be started again.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Close waits for the calls under way, closes the store and frees the lock.
// Whatever is called later returns retention.ErrClosed. Closing again is fine.
func (s *Store) Close() error {
	release, err := s.acquireAll(context.Background())
	switch {
	case s.isFailed():
		// Pebble may wait for its own locks for ever now: leave it behind the
		// fence, its files as a crash would leave them.
		if release != nil {
			release()
		}
		s.fs.fence.shut()
		return s.unlock()
	case err != nil:
		return nil // closed already
	}
	defer release()
	// Flushed, the log files are empty at the next start. A damaged end of one
	// looks like what a power failure leaves half-written, and would be cut
	// without a word though it was synced.
	err = errors.Join(s.guard(s.db.Flush), s.guard(s.db.Close))
	s.db = nil
	s.fs.fence.shut()
	return errors.Join(err, s.unlock())
}

// unlock frees the data directory, once.
func (s *Store) unlock() (err error) {
	s.unlockOnce.Do(func() { err = s.lock.Close() })
	return err
}

func (s *Store) dbDir() string { return s.fs.PathJoin(s.o.Dir, "db") }

// acquire lets the caller use db until it calls release.
func (s *Store) acquire(ctx context.Context) (release func(), err error) {
	return s.acquireN(ctx, 1)
}

// acquireAll waits until nobody uses db.
func (s *Store) acquireAll(ctx context.Context) (release func(), err error) {
	return s.acquireN(ctx, users)
}

func (s *Store) acquireN(ctx context.Context, n int64) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !s.gate.TryAcquire(n) {
		// Whoever fails with the store may never release: do not wait for them.
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		done := make(chan struct{})
		defer close(done)
		go func() {
			select {
			case <-s.failed:
				cancel()
			case <-done:
			}
		}()
		if err := s.gate.Acquire(ctx, n); err != nil {
			if s.isFailed() {
				return nil, s.failure()
			}
			return nil, err
		}
	}
	switch {
	case s.isFailed():
		s.gate.Release(n)
		return nil, s.failure()
	case s.db == nil:
		s.gate.Release(n)
		return nil, fmt.Errorf("store %s: %w", s.o.Dir, retention.ErrClosed)
	}
	return func() { s.gate.Release(n) }, nil
}

// fail marks the store as failed. reason must hold no key and no value.
func (s *Store) fail(reason string) {
	s.failOnce.Do(func() {
		s.failReason.Store(&reason)
		s.fs.fence.down.Store(true)
		s.log.Error("the store cannot go on", "reason", reason)
		close(s.failed)
	})
}

func (s *Store) isFailed() bool {
	select {
	case <-s.failed:
		return true
	default:
		return false
	}
}

func (s *Store) failure() error {
	return fmt.Errorf("store %s has failed (%s): %w; restart the process", s.o.Dir, *s.failReason.Load(), retention.ErrClosed)
}

// commit applies a batch durably. The caller holds the gate and gives up the
// batch. It does not return before the outcome is known, unless the store fails.
func (s *Store) commit(b *pebble.Batch) error {
	if b.Empty() {
		return b.Close()
	}
	done := make(chan error, 1)
	go func() {
		// Pebble panics where it cannot make a new log file.
		defer func() {
			if r := recover(); r != nil {
				s.fail(redacted("%v", r))
				done <- s.failure()
			}
		}()
		err := b.Commit(pebble.Sync)
		_ = b.Close()
		done <- err
	}()
	var err error
	select {
	case err = <-done:
	case <-s.failed:
	}
	// A failed write is told to the logger, not to the caller.
	if s.isFailed() {
		return fmt.Errorf("%w: %w", retention.ErrUnknown, s.failure())
	}
	if err != nil {
		return fmt.Errorf("%w: %w", retention.ErrUnknown, s.wrap(err))
	}
	return nil
}
