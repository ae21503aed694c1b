package cassandra

import (
	"maps"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gocql/gocql"
)

// alone reads the events of a load that one node of three has, at LOCAL_ONE, when
// it has what the others kept for it. They are frozen meanwhile, so that whatever
// comes is its own.
func alone(t *testing.T, node string) map[int]int {
	t.Helper()
	handedOver(t)
	o := testOptions(realNow)
	ip := addressOf(node)
	o.Hosts = []string{ip}
	c := config(o, cluster.keyspace, false)
	c.Consistency, c.HostFilter = gocql.LocalOne, gocql.WhiteListHostFilter(ip)
	cql, err := c.CreateSession()
	if err != nil {
		t.Fatal(err)
	}
	defer cql.Close()
	o.shared = &session{cql: cql, after: time.After}
	st, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer allMet(t)
	for _, n := range three {
		if n != node {
			cass(t, "pause", n)
			defer cass(t, "resume", n)
		}
	}
	// Until it takes the others for dead, it may ask one of them.
	for end := time.Now().Add(patience); ; wait(time.Second) {
		there, err := stored(t.Context(), st)
		if err == nil {
			return there
		}
		if time.Now().After(end) {
			t.Fatalf("read node %s alone: %v", node, err)
		}
	}
}

// three are the nodes of the cluster.
var three = []string{"1", "2", "3"}

func addressOf(node string) string { return strings.TrimSuffix(cluster.host, "1:9042") + node }

// allMet waits until every node holds every other for alive.
func allMet(t *testing.T) {
	t.Helper()
	agree(t, three, "UN", three)
}

// agree waits until some nodes say the same of some, as `nodetool status` puts it.
func agree(t *testing.T, who []string, what string, of []string) {
	t.Helper()
	for end := time.Now().Add(patience); ; wait(time.Second) {
		yes := true
		for _, n := range who {
			out, err := tryCass("nodetool", n, "status")
			for _, m := range of {
				yes = yes && err == nil && regexp.MustCompile(`(?m)^`+what+`\s+`+regexp.QuoteMeta(addressOf(m))+`\s`).MatchString(out)
			}
		}
		if yes {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("nodes %v do not agree that each of %v is %s", who, of, what)
		}
	}
}

// handedOver waits until no node keeps hints for another.
func handedOver(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(patience); ; wait(time.Second) {
		left := 0
		for _, n := range three {
			files, err := filepath.Glob(filepath.Join(folder(t, n), "hints", "*.hints"))
			if err != nil {
				t.Fatal(err)
			}
			left += len(files)
		}
		if left == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d files of hints are not handed over", left)
		}
	}
}

// repair does what the README tells an operator whose node has missed rows.
func repair(t *testing.T, node string) {
	t.Helper()
	begin := time.Now()
	cass(t, "nodetool", node, "repair", "-full", cluster.keyspace)
	t.Logf("nodetool repair -full on node %s took %s", node, time.Since(begin).Round(100*time.Millisecond))
}

// N5: a node that was away for longer than hints are kept for it lacks what was
// written after that. Whoever reads it alone misses rows; the engine, which reads at
// LOCAL_QUORUM, does not, and a repair gives the node what it lacks.
func TestLongFaultANodeAwayPastTheHintWindowIsMendedByARepair(t *testing.T) {
	needThree(t)
	const window = 5 * time.Second // instead of 3 h, so that the node is away past it
	for _, n := range []string{"1", "2"} {
		before := regexp.MustCompile(`\d+`).FindString(cass(t, "nodetool", n, "getmaxhintwindow"))
		cass(t, "nodetool", n, "setmaxhintwindow", strconv.Itoa(int(window.Milliseconds())))
		defer cass(t, "nodetool", n, "setmaxhintwindow", before)
	}
	st, h, end := loaded(t, 200)
	cass(t, "kill", "3")
	agree(t, []string{"1", "2"}, "DN", []string{"3"})
	wait(window + time.Second)
	h.mu.Lock()
	hinted := maps.Clone(h.ok)
	h.mu.Unlock()
	h.more(t, 1000, "past the hint window")
	late := h.acked() - len(hinted)
	cass(t, "start", "3")
	h.more(t, 200, "after it")
	end()
	h.check(t, st)

	lacks := h.missing(alone(t, "3"))
	t.Logf("when it has all hints node 3 alone lacks %d events; %d were acknowledged past the window", lacks, late)
	if lacks < late {
		t.Errorf("node 3 alone lacks %d events, so little was missed", lacks)
	}
	h.check(t, st)
	repair(t, "3")
	if lacks := h.missing(alone(t, "3")); lacks > 0 {
		t.Errorf("after a repair node 3 alone lacks %d events", lacks)
	}
	h.check(t, st)
}
