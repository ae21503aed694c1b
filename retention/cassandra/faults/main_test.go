// Package faults breaks a cluster of three real nodes under the whole write
// path, and counts what is left: edges and builders are processes of their own,
// which are killed and frozen as nodes of Cassandra are.
package faults

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/retention/cassandra"
	"github.com/ebb-dmp/ebb/retention/log"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/gocql/gocql"
)

// What a process of the test is told by its environment.
const (
	envRole     = "EBB_FAULTS_ROLE" // edge or builder; absent: the test itself
	envName     = "EBB_FAULTS_NAME"
	envDir      = "EBB_FAULTS_DIR"
	envKeyspace = "EBB_FAULTS_KEYSPACE"
	envFreeze   = "EBB_FAULTS_FREEZE" // builder: the space before whose swap it stops itself
	envFrom     = "EBB_FAULTS_FROM"   // edge: the number of its first event
	envHost     = "EBB_TEST_CASSANDRA"
)

const (
	dataCenter = "dc1"
	// writerLife and leaseLife are short, so that takings-over can be seen.
	writerLife = 5 * time.Second
	leaseLife  = 8 * time.Second
)

func TestMain(m *testing.M) {
	switch os.Getenv(envRole) {
	case "edge":
		os.Exit(end(edge(context.Background())))
	case "builder":
		os.Exit(end(builder(context.Background())))
	}
	os.Exit(m.Run())
}

func end(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func now() taxonomy.Millis { return taxonomy.MillisOf(time.Now()) }

func options(keyspace string) cassandra.Options {
	return cassandra.Options{Hosts: []string{os.Getenv(envHost)}, DataCenter: dataCenter, Keyspace: keyspace,
		Now: now, After: time.After, Rand: rand.Reader, Buckets: 4}
}

func openLog(st *cassandra.Store, dir, name string) (*cassandra.Log, error) {
	return cassandra.OpenLog(st, cassandra.LogOptions{Node: name, Life: writerLife, OpenLocal: func(w taxonomy.WriterID) (cassandra.LocalLog, error) {
		return log.Open(log.Options{FS: vfs.Default, Dir: dir, Writer: w, Now: now, After: time.After, Ticks: true})
	}})
}

// cass runs deploy/cassandra's command on the cluster under test: CASS_BASE and
// CASS_NET are those with which it was started.
func cass(t testing.TB, args ...string) string {
	t.Helper()
	out, err := tryCass(args...)
	if err != nil {
		t.Fatalf("cass %v: %v: %s", args, err, out)
	}
	return out
}

func tryCass(args ...string) (string, error) {
	cmd := exec.Command(filepath.FromSlash("../../../deploy/cassandra/cass"), args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return stderr.String(), err
	}
	return string(out), nil
}

// needThree skips where there is no cluster of three nodes, and fails in CI.
func needThree(t *testing.T) {
	t.Helper()
	const how = "needs three nodes: deploy/test faults, or EBB_TEST_CASSANDRA=$(CASS_HEAP=384m deploy/cassandra/cass up 3)"
	if host := os.Getenv(envHost); host != "" {
		nodes := 0
		for line := range strings.Lines(cass(t, "status")) {
			if strings.Contains(line, "runs") {
				nodes++
			}
		}
		if nodes == 3 {
			return
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal(how)
	}
	t.Skip(how)
}

// makeKeyspace makes an empty one and drops it at the end of the test, unless the
// test failed: then it is there to be looked at.
func makeKeyspace(t *testing.T) string {
	t.Helper()
	var name [5]byte
	if _, err := rand.Read(name[:]); err != nil {
		t.Fatal(err)
	}
	o := options("ebb_faults_" + hex.EncodeToString(name[:]))
	o.Replication = map[string]int{dataCenter: 3}
	if _, err := cassandra.Up(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("keyspace %s is kept", o.Keyspace)
			return
		}
		s, err := plain("")
		if err != nil {
			t.Error(err)
			return
		}
		defer s.Close()
		if err := s.Query("DROP KEYSPACE " + o.Keyspace).Exec(); err != nil {
			t.Error(err)
		}
	})
	return o.Keyspace
}

// beside waits until the test of short lives, which runs in another process on
// the same cluster, has made its tables: no schema changes while nodes are down.
func beside(t *testing.T) {
	t.Helper()
	if os.Getenv("EBB_FAULTS_BESIDE") == "" {
		return
	}
	s, err := plain("")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for end := time.Now().Add(slower * 3 * time.Minute); time.Now().Before(end); <-time.After(200 * time.Millisecond) {
		it := s.Query(`SELECT table_name, gc_grace_seconds FROM system_schema.tables`).Iter()
		var name string
		var grace int
		for it.Scan(&name, &grace) {
			if name == "visitor_events" && grace == 10 {
				_ = it.Close()
				return
			}
		}
		if err := it.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("the test of short lives does not begin")
}

// plain opens a session of the driver that has nothing of Ebb's engine.
func plain(keyspace string) (*gocql.Session, error) {
	c := gocql.NewCluster(os.Getenv(envHost))
	c.Keyspace, c.ProtoVersion, c.Timeout, c.Consistency = keyspace, 4, 20*time.Second, gocql.LocalQuorum
	c.ConnectTimeout = 10 * time.Second
	return c.CreateSession()
}
