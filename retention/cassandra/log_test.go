package cassandra

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/log"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

// node is a node of Ebb as far as the log goes: a folder on a disk that forgets
// what is not synced, and a log that is open over it.
type node struct {
	t    rapid.TB
	st   *Store
	disk *vfs.MemFS
	now  func() taxonomy.Millis
	o    LogOptions
	log  *Log
}

func startNode(t rapid.TB, st *Store, now func() taxonomy.Millis, change func(*LogOptions)) *node {
	n := &node{t: t, st: st, disk: vfs.NewCrashableMem(), now: now}
	n.o = LogOptions{Node: "test", OpenLocal: func(w taxonomy.WriterID) (LocalLog, error) {
		return log.Open(log.Options{FS: n.disk, Dir: "/log", Writer: w, Now: n.now, After: time.After, Groups: max(1, n.o.Groups)})
	}}
	if change != nil {
		change(&n.o)
	}
	n.open()
	return n
}

func (n *node) open() {
	l, err := OpenLog(n.st, n.o)
	if err != nil {
		n.t.Fatalf("open log: %v", err)
	}
	n.log = l
}

// kill ends the node as kill -9 and a power cut do: only what was synced stays.
func (n *node) kill() {
	disk := n.disk
	n.disk = disk.CrashClone(vfs.CrashCloneCfg{})
	n.stop() // on the old disk, which nobody looks at any more
}

func (n *node) stop() {
	if err := n.log.Close(context.Background()); err != nil {
		n.t.Fatalf("close log: %v", err)
	}
}

func TestLog(t *testing.T) {
	needCluster(t)
	storetest.Log(t, func(t rapid.TB, now func() taxonomy.Millis) storetest.LogEngine {
		st := openStore(t, now)
		empty(t, st, "event_log", "log_writer")
		n := startNode(t, st, now, func(o *LogOptions) { o.Groups = 6 })
		return storetest.LogEngine{
			Log:     n.log,
			Restart: func(rapid.TB) retention.Log { n.kill(); n.open(); return n.log },
			Close:   func(rapid.TB) { n.stop() },
		}
	})
}

// events makes n records that are told apart by their number.
func logEvents(from, n int) []taxonomy.Record {
	rs := make([]taxonomy.Record, n)
	for i := range rs {
		rs[i] = taxonomy.Record{Kind: taxonomy.RecordEvent, Received: realNow(), Site: "shop", Source: "web", Space: taxonomy.SpaceCookie, Visitor: storetest.Visitor(i),
			Event: &taxonomy.Event{ID: taxonomy.EventID{byte(from + i), byte((from + i) >> 8)}, Time: realNow(), Kind: taxonomy.EventPage}}
	}
	return rs
}

func number(r *taxonomy.Record) int { return int(r.Event.ID[0]) | int(r.Event.ID[1])<<8 }

// collect follows until it has seen the events from 0 to n-1, and returns how
// often each came.
func collect(t *testing.T, l *Log, at retention.Position, n int) map[int]int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	seen := map[int]int{}
	for len(seen) < n {
		frames, err := l.Follow(ctx, 0, at, 1<<20)
		if err != nil {
			t.Fatalf("follow: %v; seen %d of %d", err, len(seen), n)
		}
		for i := range frames {
			f := &frames[i]
			if f.First != at[f.Writer]+1 {
				t.Fatalf("a frame from %d came after %d", f.First, at[f.Writer])
			}
			at[f.Writer] = f.Last()
			for j := range f.Records {
				if f.Records[j].Kind == taxonomy.RecordEvent {
					seen[number(&f.Records[j])]++
				}
			}
		}
		if len(frames) == 0 {
			<-time.After(20 * time.Millisecond) // as a follower polls
		}
	}
	return seen
}

func wantOnce(t *testing.T, seen map[int]int, n int) {
	t.Helper()
	for i := range n {
		if seen[i] != 1 {
			t.Fatalf("event %d came %d times", i, seen[i])
		}
	}
}

func appendLog(t *testing.T, l *Log, rs []taxonomy.Record, ack retention.Ack) (taxonomy.Ref, retention.Ack) {
	t.Helper()
	ref, reached, err := l.Append(t.Context(), 0, rs, ack)
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	return ref, reached
}

func TestANodeFollowsTheOthers(t *testing.T) {
	needCluster(t)
	st := openStore(t, realNow)
	empty(t, st, "event_log", "log_writer")
	a, b := startNode(t, st, realNow, nil), startNode(t, st, realNow, nil)
	defer a.stop()
	defer b.stop()
	for i := 0; i < 60; i += 3 {
		n := a
		if i%2 == 0 {
			n = b
		}
		appendLog(t, n.log, logEvents(i, 3), retention.AckLocal)
	}
	for _, n := range []*node{a, b} {
		at := retention.Position{}
		wantOnce(t, collect(t, n.log, at, 60), 60)
		// And from the middle of a frame exactly the rest.
		for w, s := range at {
			from := at.Clone()
			from[w] = s - 2
			frames, err := n.log.Follow(t.Context(), 0, from, 1<<20)
			if err != nil || len(frames) != 1 || frames[0].First != s-1 || frames[0].N != 2 {
				t.Fatalf("from within the last frame: got %+v, %v", frames, err)
			}
		}
		ends, err := n.log.End(t.Context(), 0, nil)
		if err != nil || len(ends) != 2 {
			t.Fatalf("got %d ends, %v; want 2", len(ends), err)
		}
		for _, e := range ends {
			if e.Last != 30 || !e.Open || len(e.Unfolded) != 1 || e.Unfolded[0].N != 30 || e.Oldest == 0 || e.Time < e.Oldest {
				t.Fatalf("got %+v, want 30 records of an open writer", e)
			}
		}
		ends, err = n.log.End(t.Context(), 0, at)
		if err != nil || len(ends) != 2 || ends[0].Oldest != 0 || len(ends[1].Unfolded) != 0 {
			t.Fatalf("beyond all: got %+v, %v", ends, err)
		}
	}
}

func TestQuorumIsClaimedWhenAllBeforeIsThere(t *testing.T) { // R3
	needCluster(t)
	st := openStore(t, realNow)
	empty(t, st, "event_log", "log_writer")
	n := startNode(t, st, realNow, nil)
	defer n.stop()
	for i := range 20 { // the first may come before the writer is registered
		appendLog(t, n.log, logEvents(2*i, 1), retention.AckNone)
		ref, reached := appendLog(t, n.log, logEvents(2*i+1, 1), retention.AckQuorum)
		if reached < retention.AckQuorum {
			continue
		}
		other := Log{st: st, o: LogOptions{Groups: 1}}
		frames, err := other.readRows(t.Context(), ref.Writer, 0, 1, 1000)
		if err != nil || len(frames) == 0 || frames[len(frames)-1].Last() < ref.Seq {
			t.Fatalf("record %d was claimed to be at quorum; got %d frames, %v", ref.Seq, len(frames), err)
		}
		if i > 3 {
			return
		}
	}
	t.Fatal("no append reached quorum")
}

func TestQuorumIsNotClaimedUnderAnOldLease(t *testing.T) { // R4
	needCluster(t)
	clock := storetest.NewClock(realNow())
	st := openStore(t, clock.Now)
	empty(t, st, "event_log", "log_writer")
	n := startNode(t, st, clock.Now, func(o *LogOptions) { o.Life = time.Hour }) // so that the next beat is far
	defer n.stop()
	for reached := retention.AckNone; reached < retention.AckQuorum; {
		_, reached = appendLog(t, n.log, logEvents(1, 1), retention.AckQuorum)
	}
	clock.Advance(taxonomy.Hour / 2)
	if _, reached := appendLog(t, n.log, logEvents(2, 1), retention.AckQuorum); reached != retention.AckLocal {
		t.Fatalf("under a lease of half its life: reached %s, want local", reached)
	}
}

func TestAHoleMeansWait(t *testing.T) { // R3
	needCluster(t)
	st := openStore(t, realNow)
	empty(t, st, "event_log", "log_writer")
	n := startNode(t, st, realNow, nil)
	defer n.stop()
	other := taxonomy.WriterID{7}
	if err := n.log.register(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	row := func(first, k int) {
		t.Helper()
		f := retention.Frame{Writer: other, First: uint64(first), N: k, Time: realNow(), Records: logEvents(first-1, k)}
		f.Counts = retention.CountSites(f.Records)
		if err := n.log.writeRow(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
	}
	row(1, 2)
	row(5, 2)
	at := retention.Position{}
	collect(t, n.log, at, 2)
	for range 3 {
		if frames, err := n.log.Follow(t.Context(), 0, at, 1<<20); err != nil || len(frames) != 0 {
			t.Fatalf("beyond the hole: got %d frames, %v", len(frames), err)
		}
	}
	row(3, 2)
	wantOnce(t, collect(t, n.log, retention.Position{}, 6), 6)
}

func TestFramesCrossChunks(t *testing.T) {
	needCluster(t)
	st := openStore(t, realNow)
	empty(t, st, "event_log", "log_writer")
	n := startNode(t, st, realNow, nil)
	defer n.stop()
	other := taxonomy.WriterID{8}
	if err := n.log.register(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	const from = 1<<chunkBits - 7
	for i := range 4 {
		f := retention.Frame{Writer: other, First: from + uint64(5*i), N: 5, Time: realNow(), Records: logEvents(5*i, 5)}
		if err := n.log.writeRow(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
	}
	wantOnce(t, collect(t, n.log, retention.Position{other: from - 1}, 20), 20)
	// A position within the frame that lies across: its row is in the chunk before.
	frames, err := n.log.Follow(t.Context(), 0, retention.Position{other: 1<<chunkBits + 1}, 1<<20)
	if err != nil || len(frames) == 0 || frames[0].First != 1<<chunkBits+2 || frames[len(frames)-1].Last() != from+19 {
		t.Fatalf("got %d frames, %v", len(frames), err)
	}
}

func TestADeadWriterIsReadToItsEndAndItsRestComesBackOnce(t *testing.T) { // R4
	needCluster(t)
	st := openStore(t, realNow)
	empty(t, st, "event_log", "log_writer")
	a := startNode(t, st, realNow, func(o *LogOptions) { o.Life = 2 * time.Second })
	tick := []taxonomy.Record{{Kind: taxonomy.RecordTick}}
	for reached := retention.AckNone; reached < retention.AckQuorum; { // until it is registered and beats
		_, reached = appendLog(t, a.log, tick, retention.AckQuorum)
	}
	ref, _ := appendLog(t, a.log, logEvents(0, 3), retention.AckLocal)
	for a.log.Mark(0).Seq < ref.Seq+2 {
		<-time.After(10 * time.Millisecond)
	}
	// Killed with frames that did not come to the cluster: stopped first, so that
	// the uploader takes none of them.
	a.log.era.cancel()
	a.log.era.wg.Wait()
	for i := 3; i < 30; i += 3 {
		if _, _, err := a.log.era.local.Append(t.Context(), 0, logEvents(i, 3), retention.AckLocal); err != nil {
			t.Fatal(err)
		}
	}
	a.kill()

	b := startNode(t, st, realNow, nil)
	defer b.stop()
	var end uint64
	for {
		var err error
		if end, err = b.log.CloseWriter(t.Context(), 0, ref.Writer); err == nil {
			break
		}
		if !errors.Is(err, retention.ErrHeld) {
			t.Fatal(err)
		}
		<-time.After(100 * time.Millisecond) // its lease has not run out
	}
	if end != ref.Seq+2 {
		t.Fatalf("closed at %d, want %d: what was claimed and nothing else", end, ref.Seq+2)
	}
	if again, err := b.log.CloseWriter(t.Context(), 0, ref.Writer); err != nil || again != end {
		t.Fatalf("closed again: got %d, %v", again, err)
	}
	at := retention.Position{}
	collect(t, b.log, at, 3)

	a.open()
	defer a.stop()
	seen := collect(t, b.log, at, 27)
	for i := 3; i < 30; i++ {
		if seen[i] != 1 {
			t.Fatalf("event %d came back %d times", i, seen[i])
		}
	}
	// With its first place.
	frames, err := b.log.Follow(t.Context(), 0, retention.Position{ref.Writer: math.MaxInt64, b.log.Writer(): math.MaxInt64}, 1<<20)
	if err != nil || len(frames) == 0 || frames[0].Records[0].First != (taxonomy.Ref{Writer: ref.Writer, Seq: end + 1}) {
		t.Fatalf("what came back first does not say where it stood: %d frames, %v", len(frames), err)
	}
}

// A crash between the bringing back and the trimming of what was brought back.
func TestWhatCameBackDoesNotComeAgain(t *testing.T) { // R4
	needCluster(t)
	st := openStore(t, realNow)
	empty(t, st, "event_log", "log_writer")
	a := &node{t: t, st: st, disk: vfs.NewCrashableMem(), now: realNow}
	a.o = LogOptions{Node: "test", OpenLocal: func(w taxonomy.WriterID) (LocalLog, error) {
		return log.Open(log.Options{FS: a.disk, Dir: "/log", Writer: w, Now: realNow, After: time.After})
	}}
	dead := taxonomy.WriterID{9}
	alone, err := a.o.OpenLocal(dead)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := alone.Append(t.Context(), 0, logEvents(0, 9), retention.AckLocal); err != nil {
		t.Fatal(err)
	}
	if err := alone.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	closer := Log{st: st, o: LogOptions{Groups: 1}}
	if err := closer.register(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	if w, err := closer.closeAt(t.Context(), dead, map[int]int64{0: 0}); err != nil || w.end(0) != 0 {
		t.Fatalf("closed at %d, %v", w.end(0), err)
	}
	before := a.disk
	a.disk = before.CrashClone(vfs.CrashCloneCfg{})
	a.open()
	collect(t, a.log, retention.Position{}, 9)
	a.kill() // what was trimmed is gone here; the next starts from where it was not
	files := a.disk
	names, err := before.List("/log")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names { // put the dead writer's files back beside what came of them
		if _, err := files.Stat("/log/" + n); err == nil {
			continue
		}
		if _, err := vfs.Clone(before, files, "/log/"+n, "/log/"+n, vfs.CloneSync); err != nil {
			t.Fatal(err)
		}
	}
	a.open()
	defer a.stop()
	wantOnce(t, collect(t, a.log, retention.Position{}, 9), 9)
	ends, err := a.log.End(t.Context(), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	var events uint64
	for _, e := range ends {
		for _, c := range e.Unfolded {
			events += c.N
		}
	}
	if events != 9 {
		t.Fatalf("the log holds %d events, want 9", events)
	}
}

func TestAWriterThatWasClosedGoesOnAsAnother(t *testing.T) { // R4
	needCluster(t)
	st := openStore(t, realNow)
	empty(t, st, "event_log", "log_writer")
	a := startNode(t, st, realNow, func(o *LogOptions) { o.Life = 400 * time.Millisecond })
	defer a.stop()
	first := a.log.Writer()
	appendLog(t, a.log, logEvents(0, 5), retention.AckLocal)
	b := startNode(t, st, realNow, nil)
	defer b.stop()
	// As if a was frozen: its row is closed at nothing.
	if _, err := b.log.closeAt(t.Context(), first, map[int]int64{0: 0}); err != nil {
		t.Fatal(err)
	}
	for a.log.Writer() == first {
		<-time.After(20 * time.Millisecond)
	}
	appendLog(t, a.log, logEvents(5, 5), retention.AckLocal)
	wantOnce(t, collect(t, b.log, retention.Position{}, 10), 10)
	wantOnce(t, collect(t, a.log, retention.Position{}, 10), 10)
}

// A node's earlier writer that is closed, folded and trimmed has its rows in the
// cluster for days: as long as it has, everybody must know of it, or whoever
// builds next would fold it again.
func TestAWriterIsKnownAsLongAsItsRowsAre(t *testing.T) { // R1, R8
	needCluster(t)
	st := openStore(t, realNow)
	empty(t, st, "event_log", "log_writer")
	a := startNode(t, st, realNow, nil)
	first := a.log.Writer()
	appendLog(t, a.log, logEvents(0, 30), retention.AckLocal)
	known := func() bool {
		t.Helper()
		at := retention.Position{}
		wantOnce(t, collect(t, a.log, at, 30), 30)
		if _, err := a.log.CloseWriter(t.Context(), 0, first); err != nil {
			t.Fatal(err)
		}
		if err := a.log.Trim(t.Context(), 0, at); err != nil {
			t.Fatal(err)
		}
		ends, err := a.log.End(t.Context(), 0, at)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range ends {
			if e.Writer == first {
				return !e.Open && e.Last == at[first] && len(e.Unfolded) == 0
			}
		}
		return false
	}
	a.kill()
	a.open()
	if !known() {
		t.Error("after a restart its earlier writer is not known any more once it is trimmed")
	}
	a.kill()
	a.open()
	defer a.stop()
	if !known() {
		t.Error("after two restarts it is not known any more")
	}
}

// What a checkpoint covers must not come back under another name, though its rows
// never came to the cluster, or are not seen any more.
func TestAWriterIsNeverEndedBelowWhatACheckpointCovers(t *testing.T) { // R4, R8
	needCluster(t)
	st := openStore(t, realNow)
	empty(t, st, "event_log", "log_writer")
	n := startNode(t, st, realNow, nil)
	defer n.stop()
	begin := func(id taxonomy.WriterID) { // of which nobody has heard for long
		t.Helper()
		if err := n.log.register(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if ok, err := st.s.swap(t.Context(), takeWriter, id[:], int64(0)); err != nil || !ok {
			t.Fatalf("take %t, %v", ok, err)
		}
		for i := range 2 {
			f := retention.Frame{Writer: id, First: uint64(1 + 2*i), N: 2, Time: realNow(), Records: logEvents(2*i, 2)}
			f.Counts = retention.CountSites(f.Records)
			if err := n.log.writeRow(t.Context(), &f); err != nil {
				t.Fatal(err)
			}
		}
	}
	closed := func(id taxonomy.WriterID, want uint64) {
		t.Helper()
		if end, err := n.log.CloseWriter(t.Context(), 0, id); err != nil || end != want {
			t.Errorf("closed at %d, %v; want %d", end, err, want)
		}
	}
	trim := func(at retention.Position) {
		t.Helper()
		if err := n.log.Trim(t.Context(), 0, at); err != nil {
			t.Fatal(err)
		}
	}
	folded, vanishing := taxonomy.WriterID{21}, taxonomy.WriterID{22}
	begin(folded) // by its own node's builder, before it was copied
	trim(retention.Position{folded: 9})
	closed(folded, 9)

	begin(vanishing)
	collect(t, n.log, retention.Position{folded: 9}, 4)
	if err := st.s.rewrite(t.Context(), `DELETE FROM event_log WHERE writer = ? AND grp = 0 AND chunk = 0 AND seq = 3`, vanishing[:]); err != nil {
		t.Fatal(err)
	}
	if end, err := n.log.CloseWriter(t.Context(), 0, vanishing); !errors.Is(err, retention.ErrHeld) {
		t.Errorf("what was read of it is in no checkpoint, and it is closed at %d, %v", end, err)
	}
	trim(retention.Position{folded: 9, vanishing: 4})
	closed(vanishing, 4)
}

func TestConfirmSettlesThisNodesOwnLog(t *testing.T) { // R4
	needCluster(t)
	st := openStore(t, realNow)
	empty(t, st, "event_log", "log_writer")
	a := startNode(t, st, realNow, func(o *LogOptions) { o.Life = time.Hour }) // no beat but the first
	first := a.log.Writer()
	appendLog(t, a.log, logEvents(0, 5), retention.AckLocal)
	a.kill()
	a.open()
	defer a.stop()
	if err := a.log.Confirm(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w, err := a.log.writer(t.Context(), first); err != nil || !w.closed || w.end(0) != 5 {
		t.Errorf("the earlier writer: closed %t at %d, %v", w.closed, w.end(0), err)
	}
	own := a.log.Writer()
	if _, err := a.log.closeAt(t.Context(), own, map[int]int64{0: 0}); err != nil {
		t.Fatal(err)
	}
	if err := a.log.Confirm(t.Context()); !errors.Is(err, retention.ErrHeld) {
		t.Errorf("the own writer was closed by another: %v", err)
	}
}
