package deploy

import (
	"crypto/rand"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/cassandra"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// command runs cassandra/cass with a cluster of its own and returns what it
// prints and says.
type command struct {
	t       *testing.T
	environ []string
}

func ownCluster(t *testing.T, net string) command {
	t.Helper()
	if os.Getenv("EBB_TEST_FAULTS") != "all" {
		t.Skip("set EBB_TEST_FAULTS=all, as .ci/run faults does: it starts real nodes of Cassandra")
	}
	c := command{t, append(os.Environ(), "CASS_BASE="+t.TempDir(), "CASS_NET="+net, "CASS_HEAP=320m", "CASS_SYNC=group")}
	t.Cleanup(func() { c.may("wipe") })
	return c
}

func (c command) may(args ...string) (out string, err error) {
	cmd := exec.Command("cassandra/cass", args...)
	cmd.Env = c.environ
	b, err := cmd.CombinedOutput()
	return string(b), err
}

func (c command) must(args ...string) string {
	c.t.Helper()
	out, err := c.may(args...)
	if err != nil {
		c.t.Fatalf("cass %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// says fails unless the command prints a text.
func (c command) says(text string, args ...string) {
	c.t.Helper()
	if out := c.must(args...); !strings.Contains(out, text) {
		c.t.Errorf("cass %s does not say %q: %s", strings.Join(args, " "), text, out)
	}
}

// refuses fails unless the command fails and says why.
func (c command) refuses(text string, args ...string) {
	c.t.Helper()
	if out, err := c.may(args...); err == nil || !strings.Contains(out, text) {
		c.t.Errorf("cass %s: want a refusal with %q, got %v: %s", strings.Join(args, " "), text, err, out)
	}
}

// Every command of cass on two nodes in two data centres; and one data centre
// goes on while the other is dead, which has everything when it is back.
func TestLongTwoDataCentres(t *testing.T) {
	c := ownCluster(t, "127.0.5")
	c.refuses("which node", "start")
	c.refuses("want 1 to 4", "up", "5")
	c.refuses("more data centres than nodes", "up", "1", "2")
	c.says("127.0.5.1:9042", "up", "2", "2")
	c.refuses("wipe", "up", "3")
	c.says("node 2: 127.0.5.2:9042, runs", "status")
	c.says("Datacenter: dc2", "nodetool", "1", "status")

	now := func() taxonomy.Millis { return taxonomy.MillisOf(time.Now()) }
	options := func(node, dc string) cassandra.Options {
		return cassandra.Options{Hosts: []string{node}, DataCenter: dc, Keyspace: "ebb", Replication: map[string]int{"dc1": 1, "dc2": 1},
			Now: now, After: time.After, Rand: rand.Reader, Buckets: 2}
	}
	one := options("127.0.5.1", "dc1")
	if _, err := cassandra.Up(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	st, err := cassandra.Open(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	put := func(from, n int) {
		t.Helper()
		for i := from; i < from+n; i++ {
			err := st.Events().Put(t.Context(), []retention.StoredEvent{{Ref: taxonomy.Ref{Writer: taxonomy.WriterID{5}, Seq: uint64(i)}, Record: taxonomy.Record{
				Kind: taxonomy.RecordEvent, Received: now(), Site: "shop", Visitor: storetest.Visitor(i),
				Event: &taxonomy.Event{ID: taxonomy.EventID{byte(i), byte(i >> 8)}, Time: now(), Kind: taxonomy.EventPage}}}})
			if err != nil {
				t.Fatalf("event %d: %v", i, err)
			}
		}
	}
	put(1, 50)
	c.must("pause", "2")
	c.says("frozen", "status")
	put(51, 20)
	c.must("resume", "2")
	c.must("kill", "2")
	c.says("node 2: 127.0.5.2:9042, stopped", "status")
	c.refuses("does not run", "kill", "2")
	put(71, 50)
	if _, err := st.Leases().Take(t.Context(), "builder", "one", time.Minute); err != nil {
		t.Errorf("a lease in one data centre while the other is dead: %v", err)
	}
	c.must("start", "2")
	c.refuses("runs already", "start", "2")
	two, err := cassandra.Open(t.Context(), options("127.0.5.2", "dc2"))
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close()
	for end := time.Now().Add(2 * time.Minute); ; <-time.After(time.Second) {
		n := 0
		err := two.Events().Scan(t.Context(), 0, 1, 0, now().Day()+1, func(*retention.StoredEvent) error { n++; return nil })
		if err == nil && n == 120 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the data centre that was dead has %d of 120 events, %v", n, err)
		}
	}
	if _, err := cassandra.Open(t.Context(), options("127.0.5.2", "dc1")); err == nil || !strings.Contains(err.Error(), "data centre") {
		t.Errorf("a node of another data centre is taken: %v", err)
	}

	// The tools on files.
	c.must("nodetool", "1", "flush", "ebb")
	files := strings.Fields(c.must("files", "1", "ebb", "visitor_events"))
	if len(files) == 0 {
		t.Fatal("there are no files")
	}
	c.says("partition", "sstabledump", "1", files[0])
	c.says("Maximum timestamp", "sstablemetadata", "1", files[0])
	c.must("sstableexpiredblockers", "1", "ebb", "visitor_events")
	c.must("stop", "1")
	c.must("start", "1")
	c.must("down")
	c.says("node 1: 127.0.5.1:9042, stopped", "status")
	c.must("wipe")
	if out := c.must("status"); out != "" {
		t.Errorf("after wipe there is still: %s", out)
	}
}

// Four nodes is the most; they all find each other.
func TestLongFourNodes(t *testing.T) {
	c := ownCluster(t, "127.0.6")
	c.must("up", "4")
	if n := strings.Count(c.must("nodetool", "4", "status"), "UN "); n != 4 {
		t.Errorf("%d nodes are up and normal, want 4", n)
	}
}
