package cassandra

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
)

// arrives follows until all n events came, and says whether they did in time.
func arrives(t *testing.T, l *Log, n int) bool {
	t.Helper()
	at, seen := retention.Position{}, map[int]int{}
	for end := time.Now().Add(patience); len(seen) < n; wait(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%d of %d events of the log came", len(seen), n)
			return false
		}
		frames, err := l.Follow(t.Context(), 0, at, 1<<20)
		if err != nil {
			continue
		}
		for i := range frames {
			at[frames[i].Writer] = frames[i].Last()
			for j := range frames[i].Records {
				seen[number(&frames[i].Records[j])]++
			}
		}
	}
	wantOnce(t, seen, n)
	return true
}

// Rows of the log that Cassandra had acknowledged and has not any more, as after a
// kill with commitlog_sync: periodic, come back by themselves: whoever wrote them
// has them until a checkpoint covers them, and writes them again when it hears
// from the cluster after an outage. Else the fold would wait at the hole (R3).
func TestRowsThatTheClusterForgotComeBackAfterAnOutage(t *testing.T) {
	needCluster(t)
	st, r := through(t)
	sound, err := Open(t.Context(), testOptions(realNow))
	if err != nil {
		t.Fatal(err)
	}
	defer sound.Close()
	empty(t, st, "event_log", "log_writer")
	a := startNode(t, st, realNow, func(o *LogOptions) { o.Life = 4 * time.Second })
	defer a.stop()
	b := startNode(t, sound, realNow, nil)
	defer b.stop()
	const n = 60
	for i := range n / 3 {
		appendLog(t, a.log, logEvents(3*i, 3), retention.AckQuorum)
	}
	if !arrives(t, b.log, n) {
		t.FailNow()
	}
	for seq := 31; seq < n; seq += 3 { // a frame has three
		id := a.log.Writer()
		if err := sound.s.write(t.Context(), `DELETE FROM event_log WHERE writer = ? AND grp = 0 AND chunk = 0 AND seq = ?`, id[:], int64(seq)); err != nil {
			t.Fatal(err)
		}
	}
	if _, left := forgotten(t, sound, a.log, n); left == 0 {
		t.Fatal("no row was forgotten")
	}
	failing := func() bool {
		a.log.turn.RLock()
		e := a.log.era
		a.log.turn.RUnlock()
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.failing
	}
	r.set(shut, r.nodes()...)
	for end := time.Now().Add(patience); !failing(); wait(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the writer does not notice an outage")
		}
	}
	r.set(open, addresses(r)...)
	c := startNode(t, sound, realNow, nil) // which has read nothing of it before
	defer c.stop()
	arrives(t, c.log, n)
}

// addresses are the nodes that a way was ever set for.
func addresses(r *relays) (list []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n := range r.ways {
		list = append(list, n)
	}
	return list
}

// forgotten counts the frames of a log's writer that are in the cluster before the
// first hole, and the events behind it.
func forgotten(t *testing.T, st *Store, l *Log, n int) (rows, left int) {
	t.Helper()
	frames, err := l.readRows(t.Context(), l.Writer(), 0, 1, n)
	if err != nil {
		t.Fatal(err)
	}
	return len(frames), n - 3*len(frames)
}

// needPeriodic skips unless the cluster syncs its commit log every now and then.
func needPeriodic(t *testing.T) {
	t.Helper()
	needCluster(t)
	var mode string
	if err := sharedSession(t).one(t.Context(), `SELECT value FROM system_views.settings WHERE name = 'commitlog_sync'`, nil, &mode); err != nil {
		t.Fatal(err)
	}
	if mode != "periodic" {
		unmet(t, "needs a node of its own: EBB_TEST_CASSANDRA=$(CASS_SYNC=periodic deploy/cassandra/cass up 1)")
	}
}

// K2: a node with commitlog_sync: periodic that is killed forgets what it
// acknowledged since its last sync, and nothing that was older. Ebb warns of it at
// start. Of stored events what is gone is gone, as Cassandra's authors say; the log
// heals itself, so the fold goes on.
func TestLongPeriodicSyncForgetsOnlyTheLastMoments(t *testing.T) {
	needPeriodic(t)
	st, err := Open(t.Context(), testOptions(realNow))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	empty(t, st, "visitor_events", "event_log", "log_writer")
	problems, err := st.Problems(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	warned := false
	for _, p := range problems {
		warned = warned || strings.Contains(p.String(), "commitlog_sync: periodic") && !p.Fatal
	}
	if !warned {
		t.Errorf("no warning of commitlog_sync: periodic: %v", problems)
	}
	a, b := startNode(t, st, realNow, func(o *LogOptions) { o.Life = 4 * time.Second }), startNode(t, st, realNow, nil)
	defer a.stop()
	defer b.stop()
	var mu sync.Mutex
	acked := map[int]time.Time{}
	var next atomic.Int64
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for !stop.Load() {
				i := int(next.Add(1))
				if err := st.Events().Put(context.Background(), []retention.StoredEvent{faultEvent(i)}); err == nil {
					mu.Lock()
					acked[i] = time.Now()
					mu.Unlock()
				} else if !errors.Is(err, retention.ErrUnknown) {
					wait(20 * time.Millisecond)
				}
			}
		})
	}
	n := 0
	put := func(d time.Duration) {
		for end := time.Now().Add(d); time.Now().Before(end); n += 3 {
			appendLog(t, a.log, logEvents(n, 3), retention.AckQuorum)
		}
	}
	put(15 * time.Second) // longer than the period of the syncs
	killed := time.Now()
	cass(t, "kill", "1")
	stop.Store(true)
	wg.Wait()
	cass(t, "start", "1")
	for range 20 { // who appends goes on without a restart
		appendLog(t, a.log, logEvents(n, 3), retention.AckLocal)
		n += 3
	}
	there := map[int]bool{}
	for end := time.Now().Add(patience); ; wait(200 * time.Millisecond) {
		err := st.Events().Scan(t.Context(), 0, 1, 0, 1<<20, func(e *retention.StoredEvent) error {
			there[int(e.Ref.Seq)] = true
			return nil
		})
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	lost, oldest := 0, time.Duration(0)
	for i, at := range acked {
		if !there[i] {
			lost++
			oldest = max(oldest, killed.Sub(at))
		}
	}
	t.Logf("%d of %d events that were acknowledged are gone, the oldest acknowledged %s before the kill", lost, len(acked), oldest)
	if period := 10 * time.Second; oldest > period+5*time.Second { // that long a sync may take
		t.Errorf("an event acknowledged %s before the kill is gone", oldest)
	}
	if len(acked) < 100 {
		t.Errorf("%s events were acknowledged", strconv.Itoa(len(acked)))
	}
	arrives(t, b.log, n)
}
