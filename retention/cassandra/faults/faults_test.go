package faults

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// times of the faults: short in CI, longer where .ci/run faults asks.
func times() (node, all, whole time.Duration) {
	if os.Getenv("EBB_TEST_FAULTS") == "all" {
		return 60 * time.Second, 20 * time.Second, 3 * time.Minute
	}
	return 5 * time.Second, 3 * time.Second, time.Minute
}

func wait(d time.Duration) { <-time.After(d) }

// One cluster, one load, one fault after the other: two edges append, two
// builders stand by for each other, and at the end every write is accounted for.
func TestLongFaultsLoseNothingAndCountNothingTwice(t *testing.T) { // P1, P6, R3, R4, R6
	needThree(t)
	node, all, whole := times()
	keyspace, dir := makeKeyspace(t), t.TempDir()
	beside(t)
	h := newHistory(t)
	start := func(role, name, freeze string) *process {
		return h.start(t, role, name, keyspace, filepath.Join(dir, name), freeze)
	}
	a, b := start("edge", "a", ""), start("edge", "b", "")
	x := start("builder", "x", "generation")
	h.until(t, time.Minute, "a builder has the lease", func() bool { return len(h.claims) > 0 })
	y := start("builder", "y", "checkpoint")
	h.more(t, 200)
	if _, err := a.in.Write([]byte("e")); err != nil {
		t.Fatal(err)
	}
	h.until(t, time.Minute, "the erasure is recorded", func() bool { return h.erased })

	h.say("node 3 is killed")
	cass(t, "kill", "3")
	wait(node)
	h.more(t, 200)
	// Each builder is frozen just before a swap, when all checks were made; the
	// other takes over; it goes on and must publish nothing.
	for _, p := range []*process{x, y} {
		h.until(t, 2*time.Minute, p.name+" is frozen", func() bool { return h.frozen[p.name] })
		h.mu.Lock()
		var term uint64
		for n, c := range h.claims {
			if c.by == p.name {
				term = max(term, n)
			}
		}
		h.mu.Unlock()
		h.until(t, time.Minute, "another builder takes over", func() bool {
			for n, c := range h.claims {
				if n > term && c.by != p.name {
					return true
				}
			}
			return false
		})
		p.signal(syscall.SIGCONT)
		h.until(t, time.Minute, p.name+" gives up", func() bool { return h.gaveUp[term] != "" })
	}
	cass(t, "start", "3")
	h.say("node 3 is back")
	h.more(t, 200)

	h.say("all nodes are killed")
	h.doubtful[0] = time.Now().Add(-5 * time.Second)
	cass(t, "kill", "1", "2", "3")
	wait(all)
	cass(t, "start", "1", "2", "3")
	h.say("all nodes are back")
	h.more(t, 300)

	h.say("the whole cluster stops")
	cass(t, "stop", "1", "2", "3")
	stopped := time.Now()
	h.doubtful[1] = stopped.Add(5 * time.Second)
	wait(whole / 3)
	b.kill() // with a third of the outage in its log alone
	h.say("edge b is killed")
	wait(whole - time.Since(stopped))
	cass(t, "start", "1", "2", "3")
	h.say("the cluster is back, after %s", time.Since(stopped).Round(time.Second))
	h.more(t, 100)
	h.until(t, 2*time.Minute, "the dead edge's writer is closed", func() bool { _, ok := h.closed[h.writers["b"]]; return ok })
	s, err := plain(keyspace)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	now, err := readLog(s)
	if err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	below, missing, alone := 0, 0, 0
	for id, o := range h.events {
		if edge, _ := idOf(id); strings.HasPrefix(edge, "b") {
			switch {
			case o == ackedQuorum && now.times[id] == 0:
				below++
			case o == ackedQuorum:
			case now.times[id] == 0:
				missing++
			}
			alone++
		}
	}
	h.note("before edge b comes back %d of its %d events are not in the cluster", missing, alone)
	h.mu.Unlock()
	if below > 0 {
		t.Errorf("%d events that were acknowledged at quorum are gone with their edge", below)
	}
	if missing == 0 {
		t.Error("edge b had nothing that was not uploaded, so its return shows nothing")
	}
	b = start("edge", "b", "")
	h.more(t, 200)

	a.stop()
	b.stop()
	h.mu.Lock()
	want := 0
	for _, o := range h.events {
		if o == acked || o == ackedQuorum {
			want++
		}
	}
	h.mu.Unlock()
	log := follow(t, keyspace, want)
	h.check(t, "a follower", log)
	bare, err := readLog(s)
	if err != nil {
		t.Fatal(err)
	}
	h.check(t, "the bare driver", bare)
	if len(bare.times) != len(log.times) {
		t.Errorf("a follower finds %d events, the bare driver %d", len(log.times), len(bare.times))
	}
	h.until(t, 2*time.Minute, "all that is in the log is folded", func() bool { return h.received >= uint64(len(log.times)) })
	x.stop()
	y.stop()
	h.checkState(t, keyspace, log)
	physical(t, h, keyspace)
}

// physical takes the documented steps and looks for rows of the erased visitor in
// every file of every replica. What stays is the mark that the key was deleted,
// while a file with older rows of its partition stays.
func physical(t *testing.T, h *history, keyspace string) { // R25
	s, err := plain(keyspace)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Query(`ALTER TABLE visitor_events WITH gc_grace_seconds = 1`).Exec(); err != nil {
		t.Fatal(err)
	}
	nodes := []string{"1", "2", "3"}
	each := func(args ...string) {
		t.Helper()
		errs := make(chan error, len(nodes))
		for _, n := range nodes {
			go func() {
				_, err := tryCass(append([]string{"nodetool", n}, args...)...)
				errs <- err
			}()
		}
		for range nodes {
			if err := <-errs; err != nil {
				t.Errorf("nodetool %v: %v", args, err)
			}
		}
	}
	for range 2 {
		each("flush", keyspace, "visitor_events")
		wait(2100 * time.Millisecond) // gc_grace_seconds, by the server's clock
		each("garbagecollect", "-g", "ROW", keyspace, "visitor_events")
	}
	erased, kept := storetest.Visitor(erasedVisitor), storetest.Visitor(erasedVisitor+1)
	files, marks := 0, 0
	for _, n := range nodes {
		left, others := 0, 0
		for _, f := range strings.Fields(cass(t, "files", n, keyspace, "visitor_events")) {
			files++
			dump := cass(t, "sstabledump", n, f)
			left += rowsOf(dump, erased)
			others += rowsOf(dump, kept)
			marks += strings.Count(dump, hex.EncodeToString(erased[:])) - rowsOf(dump, erased)
		}
		if left > 0 {
			t.Errorf("%d rows of the erased visitor are still in files of node %s", left, n)
		}
		if others == 0 {
			t.Errorf("another visitor has no row in any file of node %s: the search shows nothing", n)
		}
	}
	h.say("no row of the erased visitor is in %d files of three replicas; %d marks of its deletion are", files, marks)
}

// rowsOf returns how many rows of visitor_events a dump has of a visitor. A mark of
// deletion ends in "*" where a row has the name of its pack.
func rowsOf(dump string, v taxonomy.VisitorKey) int {
	return strings.Count(dump, `"0x`+hex.EncodeToString(v[:])+`", "0x`)
}
