package cassandra

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/gocql/gocql"
)

// Options of a store. Hosts, DataCenter, Keyspace, Now, After and Rand must be
// given.
type Options struct {
	Hosts      []string // host or host:port; the others are learnt from them
	DataCenter string   // the one this node belongs to, as Cassandra calls it
	Keyspace   string
	User       string
	Password   string
	TLS        *tls.Config

	Now   func() taxonomy.Millis
	After func(time.Duration) <-chan time.Time
	Rand  io.Reader // of names that must not meet: crypto/rand, or a seeded source

	// Replication of a keyspace that Up makes, by data centre; empty: Up does not
	// make one. Buckets is into how many parts Up splits each week of events
	// (1,024): see the README for the arithmetic. It is fixed from then on.
	Replication map[string]int
	Buckets     int

	// Mortal names the plain keyed spaces whose items live at most 90 days.
	Mortal []string
	// Parallel bounds how many statements of one call are under way (32).
	Parallel int

	Logger *slog.Logger

	// AnyClock leaves the clock unchecked: for tests of a world whose clock is not
	// the server's.
	AnyClock bool

	// dial opens connections instead of the driver, for tests that break them. The
	// driver does not bound how long it takes.
	dial dialer
	// slack is added to every TTL in tests whose clock is not the server's.
	slack time.Duration
	// shared is the session of several stores of a test, which none closes.
	shared *session
}

var keyspaceName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,47}$`)

func (o *Options) complete() error {
	switch {
	case len(o.Hosts) == 0:
		return errors.New("no hosts are given")
	case o.DataCenter == "":
		return errors.New("no data centre is given; `nodetool status` names it (\"datacenter1\" unless somebody chose another)")
	case !keyspaceName.MatchString(o.Keyspace):
		return fmt.Errorf("keyspace %q: want 1 to 48 of a-z, 0-9 and '_', beginning with a letter", o.Keyspace)
	case o.Now == nil || o.After == nil || o.Rand == nil:
		return errors.New("a clock, timers and a random source (Now, After, Rand) must be given")
	}
	if o.Buckets == 0 {
		o.Buckets = 1024
	}
	if o.Buckets < 1 || o.Buckets > 1<<16 {
		return fmt.Errorf("buckets: %d, want 1 to 65536", o.Buckets)
	}
	if o.Parallel <= 0 {
		o.Parallel = 32
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Store is an engine in a Cassandra keyspace. It is safe for concurrent use.
type Store struct {
	o      Options
	s      *session
	logger *slog.Logger

	events *events
	keyed  *keyed
	blobs  *blobs
	leases *leases

	random sync.Mutex // of o.Rand
}

// Open connects, checks what Ebb depends on, and returns a store. What is wrong
// and must be mended first is an error that says how; what only weakens a
// promise is logged, and told by Problems.
func Open(ctx context.Context, o Options) (*Store, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("open cassandra: %w", err)
	}
	st := &Store{o: o, s: o.shared, logger: o.Logger.With("component", "cassandra")}
	if st.s == nil {
		var err error
		if st.s, err = connect(o, o.Keyspace); err != nil {
			return nil, fmt.Errorf("open cassandra: %w", err)
		}
		if err := st.check(ctx); err != nil {
			st.s.close()
			return nil, fmt.Errorf("open cassandra: %w", err)
		}
	}
	if err := st.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open cassandra: %w", err), st.Close())
	}
	return st, nil
}

// connect opens a session, or finds out why it cannot.
func connect(o Options, keyspace string) (*session, error) {
	s, err := dial(o, keyspace, false)
	if err == nil {
		return s, nil
	}
	// The driver says much the same of all that can be wrong: look without a
	// keyspace, and at whatever data centre answers.
	bare, e := dial(o, "", true)
	if e != nil {
		return nil, fmt.Errorf("no node of %q answers: %w; is the cluster up, and are the ports open?", o.Hosts, err)
	}
	defer bare.close()
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	if err := checkDataCenter(ctx, bare, o.DataCenter); err != nil {
		return nil, err
	}
	if keyspace != "" {
		var name string
		err := bare.one(ctx, `SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?`, []any{keyspace}, &name)
		if errors.Is(err, retention.ErrNotFound) {
			return nil, fmt.Errorf("there is no keyspace %s; run `ebb migrate up`", keyspace)
		}
	}
	if strings.Contains(err.Error(), "filtered") { // by our own filter
		return nil, fmt.Errorf("none of %q is in data centre %q; give hosts that are, as `nodetool status` shows them", o.Hosts, o.DataCenter)
	}
	return nil, fmt.Errorf("connect to %q: %w; look into Cassandra's log", o.Hosts, err)
}

// check refuses what must be mended first, and sees how many nodes there are.
func (st *Store) check(ctx context.Context) error {
	problems, err := st.Problems(ctx)
	if err != nil {
		return err
	}
	var fatal []error
	for _, p := range problems {
		if p.Fatal {
			fatal = append(fatal, errors.New(p.String()))
		} else {
			st.logger.Warn(p.What, "do", p.Do)
		}
	}
	if len(fatal) > 0 {
		return errors.Join(fatal...)
	}
	hosts, err := st.s.hosts(ctx)
	if err != nil {
		return err
	}
	if hosts > 1 {
		// With one node the second attempt finds none and ends at once in an
		// error, while the first is under way.
		st.s.hedge = &gocql.SimpleSpeculativeExecution{NumAttempts: 1, TimeoutDelay: hedgeAfter}
	}
	return nil
}

func (st *Store) start(ctx context.Context) (err error) {
	st.keyed = newKeyed(st)
	st.blobs = &blobs{st}
	st.leases = &leases{st: st, seen: map[string]*seenLease{}}
	st.events, err = openEvents(ctx, st)
	return err
}

// hosts returns how many nodes of our data centre there are.
func (s *session) hosts(ctx context.Context) (int, error) {
	var own string
	if err := s.one(ctx, `SELECT data_center FROM system.local`, nil, &own); err != nil {
		return 0, err
	}
	n := 1
	err := s.rows(ctx, func() { n = 1 }, func(scan func(...any) error) error {
		var dc string
		if err := scan(&dc); err != nil {
			return err
		}
		if dc == own {
			n++
		}
		return nil
	}, `SELECT data_center FROM system.peers`)
	return n, err
}

// Close ends the connections.
func (st *Store) Close() error {
	if st.o.shared == nil {
		st.s.close()
	}
	return nil
}

// Events returns the store's retention.Events.
func (st *Store) Events() retention.Events { return st.events }

// Buckets is into how many parts each week of events is divided.
func (st *Store) Buckets() int { return st.events.buckets }

// Keyed returns the store's retention.Keyed.
func (st *Store) Keyed() retention.Keyed { return st.keyed }

// Blobs returns the store's retention.Blobs.
func (st *Store) Blobs() retention.Blobs { return st.blobs }

// Leases returns the store's retention.Leases.
func (st *Store) Leases() retention.Leases { return st.leases }

// draw fills b with random bytes.
func (st *Store) draw(b []byte) error {
	st.random.Lock()
	defer st.random.Unlock()
	if _, err := io.ReadFull(st.o.Rand, b); err != nil {
		return fmt.Errorf("draw a random name: %w", err)
	}
	return nil
}

// ttl returns the seconds from now until over, rounded up so that a row is
// never gone before its end, and at least 1: 0 would mean for ever. The caller
// has seen that over has not come. What is over is dropped by readers, by our
// clock and to the millisecond; the TTL removes the bytes.
func (st *Store) ttl(over, now taxonomy.Millis) int {
	left := over - now + taxonomy.Millis(st.o.slack/time.Millisecond)
	return int(max(1, (left+taxonomy.Second-1)/taxonomy.Second))
}

// each runs do for 0 to n-1, at most Parallel at a time, and returns the first
// error. If any outcome is unknown, so is the whole.
func (st *Store) each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	if n == 1 {
		return do(ctx, 0)
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
		next  int
	)
	for range min(n, st.o.Parallel) {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				stop := first != nil
				mu.Unlock()
				if i >= n || stop {
					return
				}
				if err := do(ctx, i); err != nil {
					mu.Lock()
					if first == nil || errors.Is(err, retention.ErrUnknown) && !errors.Is(first, retention.ErrUnknown) {
						first = err
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return first
}
