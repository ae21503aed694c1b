package cassandra

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// cass runs deploy/cassandra's command, for tests that inject faults: they need
// three nodes of it.
//
//	EBB_TEST_CASSANDRA=$(CASS_HEAP=384m deploy/cassandra/cass up 3) EBB_LONG=1 go test -run TestLong ./retention/cassandra
func cass(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tryCass(args...)
	if err != nil {
		t.Fatalf("cass %v: %v: %s", args, err, out)
	}
	return out
}

func tryCass(args ...string) (string, error) { return cassWith(nil, args...) }

// cassWith is cass with more settings in its environment.
func cassWith(settings []string, args ...string) (string, error) {
	cmd := exec.Command("../../deploy/cassandra/cass", args...)
	cmd.Env = append(os.Environ(), settings...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func needThree(t *testing.T) {
	t.Helper()
	needCluster(t)
	if cluster.nodes < 3 || !strings.HasPrefix(cluster.host, "127.0.") {
		unmet(t, "needs three nodes: EBB_TEST_CASSANDRA=$(CASS_HEAP=384m deploy/cassandra/cass up 3)")
	}
	t.Cleanup(func() {
		if t.Failed() {
			mend(t)
		}
	})
}

// mend leaves a cluster that goes on to the test after one that failed.
func mend(t *testing.T) {
	t.Helper()
	for _, n := range three {
		switch line := statusLine(t, n); {
		case strings.Contains(line, ", frozen, "):
			cass(t, "resume", n)
		case !runs(t, n):
			startAgain(t, cassWith, n)
		}
	}
}

// patience is how long a test waits for what must come: no slow machine fails it.
const patience = 10 * time.Minute

// history is what became of the writes of a load: a write that is told to be
// done is there for ever; one that failed never was; of one that is unknown
// both may be.
type history struct {
	mu                  sync.Mutex
	before              int // its events are numbered from here: no load has those of another
	ok, failed, unknown map[int]bool
	slowest             time.Duration
}

var loads atomic.Int64

func newHistory() *history {
	return &history{before: int(loads.Add(1)) << 20, ok: map[int]bool{}, failed: map[int]bool{}, unknown: map[int]bool{}}
}

// begin puts events one by one, some hundred a second from several goroutines, until
// end, which waits for them.
func (h *history) begin(st *Store) (end func()) {
	var stop atomic.Bool
	var next atomic.Int64
	next.Store(int64(h.before))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for !stop.Load() {
				i := int(next.Add(1))
				begin := time.Now()
				err := st.Events().Put(context.Background(), []retention.StoredEvent{faultEvent(i)})
				h.mu.Lock()
				h.slowest = max(h.slowest, time.Since(begin))
				switch {
				case err == nil:
					h.ok[i] = true
				case errors.Is(err, retention.ErrUnknown):
					h.unknown[i] = true
				default:
					h.failed[i] = true
				}
				h.mu.Unlock()
				wait(10 * time.Millisecond)
			}
		})
	}
	return func() { stop.Store(true); wg.Wait() }
}

func (h *history) acked() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ok)
}

// more waits until n more are acknowledged.
func (h *history) more(t testing.TB, n int, when string) {
	t.Helper()
	for end, want := time.Now().Add(patience), h.acked()+n; h.acked() < want; wait(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: the load stands still at %d of %d acknowledged events", when, h.acked(), want)
		}
	}
}

func faultEvent(i int) retention.StoredEvent {
	now := realNow()
	return retention.StoredEvent{Ref: taxonomy.Ref{Writer: taxonomy.WriterID{5}, Seq: uint64(i)}, Record: taxonomy.Record{
		Kind: taxonomy.RecordEvent, Received: now, Site: "shop", Visitor: storetest.Visitor(i % 100),
		Event: &taxonomy.Event{ID: taxonomy.EventID{byte(i), byte(i >> 8), byte(i >> 16), byte(i >> 24)}, Time: now, Kind: taxonomy.EventPage}}}
}

// stored is how often each event of a load is there.
func stored(ctx context.Context, st *Store) (times map[int]int, err error) {
	times = map[int]int{}
	err = st.Events().Scan(ctx, 0, 1, 0, 1<<20, func(e *retention.StoredEvent) error {
		times[int(e.Ref.Seq)]++
		return nil
	})
	return times, err
}

// missing counts what was acknowledged and is not among what is there.
func (h *history) missing(times map[int]int) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.ok {
		if times[i] == 0 {
			n++
		}
	}
	return n
}

// check reads everything back, when the load has ended.
func (h *history) check(t *testing.T, st *Store) {
	t.Helper()
	times, err := stored(t.Context(), st)
	if err != nil {
		t.Fatal(err)
	}
	lost, twice, phantom := h.missing(times), 0, 0
	for i, n := range times {
		if n > 1 {
			twice++
		}
		if !h.ok[i] && !h.unknown[i] {
			phantom++
		}
	}
	t.Logf("%d ok, %d failed, %d unknown, slowest %s", len(h.ok), len(h.failed), len(h.unknown), h.slowest)
	if lost+twice+phantom > 0 {
		t.Errorf("%d acknowledged events are lost, %d are there twice, %d of which it was said that they are not", lost, twice, phantom)
	}
	if len(h.ok) == 0 {
		t.Error("nothing was acknowledged")
	}
}

// loaded begins a load of an empty table and waits until n events are acknowledged.
// end ends it; so does the test's end.
func loaded(t *testing.T, n int) (st *Store, h *history, end func()) {
	t.Helper()
	st, err := Open(t.Context(), testOptions(realNow))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	empty(t, st, "visitor_events")
	h = newHistory()
	end = h.begin(st)
	t.Cleanup(end)
	h.more(t, n, "before")
	return st, h, end
}

func faulted(t *testing.T, do func(h *history)) {
	needThree(t)
	st, h, end := loaded(t, 200)
	do(h)
	h.more(t, 200, "after it")
	end()
	h.check(t, st)
}

func wait(d time.Duration) { <-time.After(d) }

// A driver never leaves a frozen node: without the hedge each request to it
// waits out its timeout.
func TestLongFaultAFrozenNodeStallsNobody(t *testing.T) {
	faulted(t, func(h *history) {
		before := h.acked()
		cass(t, "pause", "2")
		wait(10 * time.Second)
		while := h.acked() - before
		cass(t, "resume", "2")
		t.Logf("%d events were acknowledged while a node was frozen", while)
		if while < 50 {
			t.Errorf("%d events were acknowledged in 10 s with a frozen node", while)
		}
	})
}

func TestLongFaultAKilledNodeLosesNothing(t *testing.T) {
	faulted(t, func(*history) {
		cass(t, "kill", "3")
		wait(5 * time.Second)
		cass(t, "start", "3")
	})
}

func TestLongFaultAllNodesKilledLoseNothing(t *testing.T) {
	faulted(t, func(*history) {
		cass(t, "kill", "1", "2", "3")
		wait(3 * time.Second)
		cass(t, "start", "1", "2", "3")
	})
}

// With two of three replicas gone nothing can be acknowledged; what was is there.
func TestLongFaultTwoNodesKilledLoseNothing(t *testing.T) {
	faulted(t, func(h *history) {
		cass(t, "kill", "2", "3")
		wait(10 * time.Second)
		cass(t, "start", "2", "3")
	})
}

func TestLongFaultARollingRestartLosesNothing(t *testing.T) {
	faulted(t, func(h *history) {
		for _, n := range []string{"1", "2", "3"} {
			cass(t, "stop", n)
			cass(t, "start", n)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if n := len(h.failed) + len(h.unknown); n > 0 {
			t.Errorf("%d writes did not go through, though two nodes ran all the time", n)
		}
	})
}

// A node whose client port is closed while gossip lives is left, and taken again.
func TestLongFaultAClosedPortStallsNobody(t *testing.T) {
	faulted(t, func(h *history) {
		for range 3 {
			cass(t, "nodetool", "2", "disablebinary")
			wait(3 * time.Second)
			cass(t, "nodetool", "2", "enablebinary")
		}
	})
}

func TestLongFaultASchemaChangeUnderLoadLosesNothing(t *testing.T) {
	faulted(t, func(*history) {
		s, err := connect(testOptions(realNow), cluster.keyspace)
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		for _, change := range []string{"ADD note int", "DROP note"} {
			if err := s.apply(t.Context(), "ALTER TABLE visitor_events "+change); err != nil {
				t.Fatal(err)
			}
			wait(3 * time.Second)
		}
	})
}

// What is appended while the whole cluster is down goes up when it is back,
// once, without a restart of Ebb.
func TestLongFaultTheLogOutlivesTheCluster(t *testing.T) { // R2, R3
	needThree(t)
	st, err := Open(t.Context(), testOptions(realNow))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	empty(t, st, "event_log", "log_writer")
	a, b := startNode(t, st, realNow, nil), startNode(t, st, realNow, nil)
	defer a.stop()
	defer b.stop()
	n := 0
	put := func(times int) {
		for range times {
			appendLog(t, a.log, logEvents(n, 3), retention.AckLocal)
			n += 3
		}
	}
	put(50)
	cass(t, "kill", "1", "2", "3")
	put(200)
	cass(t, "start", "1", "2", "3")
	put(50)
	at := retention.Position{}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	seen := map[int]int{}
	for len(seen) < n && ctx.Err() == nil {
		frames, err := b.log.Follow(ctx, 0, at, 1<<20)
		if err != nil {
			wait(200 * time.Millisecond)
			continue
		}
		for i := range frames {
			at[frames[i].Writer] = frames[i].Last()
			for j := range frames[i].Records {
				seen[number(&frames[i].Records[j])]++
			}
		}
		if len(frames) == 0 {
			wait(20 * time.Millisecond)
		}
	}
	wantOnce(t, seen, n)
}
