package cassandra

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

// cluster is the keyspace of this run of the tests, made when it is first asked
// for and dropped at the end.
var cluster struct {
	host, keyspace, dc string
	nodes              int
}

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	cluster.host = os.Getenv("EBB_TEST_CASSANDRA")
	if cluster.host == "" {
		return m.Run()
	}
	if err := makeKeyspace(); err != nil {
		fmt.Fprintln(os.Stderr, "make a keyspace for the tests:", err)
		return 1
	}
	defer dropKeyspace()
	defer func() {
		if shared.s != nil {
			shared.s.close()
		}
	}()
	return m.Run()
}

// realNow is the clock of the machine, which is the server's too.
func realNow() taxonomy.Millis { return taxonomy.MillisOf(time.Now()) }

func testOptions(now func() taxonomy.Millis) Options {
	return Options{Hosts: []string{cluster.host}, DataCenter: cluster.dc, Keyspace: cluster.keyspace,
		Now: now, After: time.After, Rand: rand.Reader, Buckets: 4, Mortal: []string{"match"}}
}

func makeKeyspace() error {
	ctx := context.Background()
	var name [6]byte
	if _, err := rand.Read(name[:]); err != nil {
		return err
	}
	cluster.keyspace = "ebb_test_" + hex.EncodeToString(name[:])
	o := testOptions(realNow)
	s, err := dial(o, "", true)
	if err != nil {
		return fmt.Errorf("%w\n\tEBB_TEST_CASSANDRA=%s: get one with `deploy/cassandra/cass up 1`", err, cluster.host)
	}
	defer s.close()
	if err := s.one(ctx, `SELECT data_center FROM system.local`, nil, &cluster.dc); err != nil {
		return err
	}
	own, err := connect(testOptions(realNow), "")
	if err != nil {
		return err
	}
	defer own.close()
	if cluster.nodes, err = own.hosts(ctx); err != nil {
		return err
	}
	o = testOptions(realNow)
	o.Replication = map[string]int{cluster.dc: min(3, cluster.nodes)}
	_, err = Up(ctx, o)
	return err
}

func dropKeyspace() {
	if err := drop(testOptions(realNow)); err != nil {
		fmt.Fprintln(os.Stderr, "drop the keyspace of the tests:", err)
	}
}

// drop leaves the keyspace of a cluster that another test breaks meanwhile: it may
// be down now, no schema changes while nodes are, and all goes with the cluster.
func drop(o Options) error {
	if os.Getenv("EBB_FAULTS_BESIDE") != "" {
		return nil
	}
	return Drop(context.Background(), o)
}

// needCluster skips a test where there is no cluster, and fails it in CI.
func needCluster(t testing.TB) {
	t.Helper()
	if cluster.host != "" {
		return
	}
	unmet(t, "no Cassandra: export EBB_TEST_CASSANDRA=$(deploy/cassandra/cass up 1)")
}

// unmet ends a test that lacks a part, saying how to get it: in CI it has failed.
func unmet(t testing.TB, how string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(how)
	}
	t.Skip(how)
}

var shared struct {
	once sync.Once
	s    *session
	err  error
}

// sharedSession is one for all stores of the suite, which opens hundreds.
func sharedSession(t rapid.TB) *session {
	shared.once.Do(func() { shared.s, shared.err = connect(testOptions(realNow), cluster.keyspace) })
	if shared.err != nil {
		t.Fatalf("connect: %v", shared.err)
	}
	return shared.s
}

// openStore opens a store whose clock is now, which may be far from the
// server's: then TTLs are so long that only readers drop what is over.
func openStore(t rapid.TB, now func() taxonomy.Millis) *Store {
	t.Helper()
	o := testOptions(now)
	o.slack, o.AnyClock, o.shared = time.Hour, true, sharedSession(t)
	s, err := Open(context.Background(), o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return s
}

// tables are all tables and their partition keys, so that tests can begin with
// nothing in them. To truncate takes a second; a test leaves a few rows.
var tables = []struct {
	name, keys string
	serial     bool // touched by transactions only
}{
	{"visitor_events", "week, bucket", false}, {"keyed_lasting", "space, partition", false}, {"keyed_mortal", "space, partition", false},
	{"keyed_swapped", "space, partition, item", true}, {"blob_head", "root, name", true}, {"blob_gone", "id", false},
	{"lease", "name", true}, {"event_log", "writer, grp, chunk", false}, {"log_writer", "writer", true},
	{"erasure", "day", false},
}

// empty removes all rows of the tables, and what was set as expired.
func empty(t rapid.TB, s *Store, only ...string) {
	t.Helper()
	ctx := context.Background()
	for _, tab := range tables {
		wanted := len(only) == 0
		for _, o := range only {
			wanted = wanted || o == tab.name
		}
		if !wanted {
			continue
		}
		distinct := "DISTINCT "
		if tab.serial {
			distinct = ""
		}
		it := s.s.cql.Query("SELECT " + distinct + tab.keys + " FROM " + tab.name).Iter()
		rows, err := it.SliceMap()
		if err != nil {
			t.Fatalf("empty %s: %v", tab.name, err)
		}
		for _, r := range rows {
			var where []string
			var args []any
			for k := range strings.SplitSeq(tab.keys, ", ") {
				where, args = append(where, k+" = ?"), append(args, r[k])
			}
			cql := "DELETE FROM " + tab.name + " WHERE " + strings.Join(where, " AND ")
			if tab.serial {
				_, err = s.s.swap(ctx, cql+" IF EXISTS", args...)
			} else {
				err = s.s.rewrite(ctx, cql, args...)
			}
			if err != nil {
				t.Fatalf("empty %s: %v", tab.name, err)
			}
		}
	}
	if _, err := s.s.swap(ctx, `DELETE FROM setting WHERE name = 'floor' IF EXISTS`); err != nil {
		t.Fatalf("empty setting: %v", err)
	}
}

// opener opens stores for the suite, each over tables that are empty.
func opener[C any](pick func(*Store) C, tables ...string) storetest.Opener[C] {
	return func(t rapid.TB, now func() taxonomy.Millis) storetest.Engine[C] {
		s := openStore(t, now)
		empty(t, s, tables...)
		if err := s.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
		s = openStore(t, now)
		shut := func(t rapid.TB) {
			if err := s.Close(); err != nil {
				t.Fatalf("close: %v", err)
			}
		}
		return storetest.Engine[C]{
			Contract: pick(s),
			Reopen:   func(t rapid.TB) C { shut(t); s = openStore(t, now); return pick(s) },
			Close:    shut,
		}
	}
}

func TestEvents(t *testing.T) {
	needCluster(t)
	storetest.Events(t, opener(func(s *Store) retention.Events { return s.Events() }, "visitor_events"))
}

func TestKeyed(t *testing.T) {
	needCluster(t)
	storetest.Keyed(t, opener(func(s *Store) retention.Keyed { return s.Keyed() }, "keyed_lasting", "keyed_swapped"))
}

func TestBlobs(t *testing.T) {
	needCluster(t)
	storetest.Blobs(t, opener(func(s *Store) retention.Blobs { return s.Blobs() }, "blob_head", "blob_gone"))
}

func TestLeases(t *testing.T) {
	needCluster(t)
	storetest.Leases(t, opener(func(s *Store) retention.Leases { return s.Leases() }, "lease"))
}
