package log

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/log/crashfs"
	"github.com/ebb-dmp/ebb/taxonomy"
)

func TestWhatIsAppendedIsFollowed(t *testing.T) {
	l := mustOpen(t, options(crashfs.New(), 0))
	want := map[taxonomy.Ref]taxonomy.Record{}
	for i := range 100 {
		rs := events(i*10, 1+i%4)
		add(want, mustAppend(t, l, rs), rs)
	}
	for _, maxBytes := range []int{0, 1, 500, 1 << 20} {
		wantRecords(t, records(follow(t, l, nil, maxBytes)), want)
	}
}

// R1: a writer is one start of one process, never resumed, and numbers from 1.
func TestAWriterIsNeverResumed(t *testing.T) {
	fs := crashfs.New()
	l := mustOpen(t, options(fs, 0))
	if ref := mustAppend(t, l, events(0, 3)); ref != (taxonomy.Ref{Writer: writerID(0), Seq: 1}) {
		t.Fatalf("first is %v", ref)
	}
	if ref := mustAppend(t, l, events(3, 1)); ref.Seq != 4 {
		t.Fatalf("fourth has number %d", ref.Seq)
	}
	mustClose(t, l)
	if _, err := Open(options(fs, 0)); err == nil {
		t.Fatal("the same writer was opened again")
	}
	l = mustOpen(t, options(fs, 1))
	if ref := mustAppend(t, l, events(4, 1)); ref.Seq != 1 {
		t.Fatalf("the next writer begins with %d", ref.Seq)
	}
	for range 2 { // R4: closing again returns the same end
		if end, err := l.CloseWriter(ctx, 0, writerID(0)); err != nil || end != 4 {
			t.Fatalf("end is %d, %v", end, err)
		}
	}
	if _, err := l.CloseWriter(ctx, 0, writerID(1)); err == nil {
		t.Fatal("the log closed its own writer")
	}
	if _, err := l.CloseWriter(ctx, 0, writerID(7)); !errors.Is(err, retention.ErrNotFound) {
		t.Fatalf("closing an unknown writer: %v", err)
	}
}

// All requests that wait share one frame and one fsync.
func TestRequestsThatWaitShareOneSync(t *testing.T) {
	fs := crashfs.New()
	o := options(fs, 0)
	o.SegmentBytes = 1 << 20
	l := mustOpen(t, o)
	mustAppend(t, l, events(0, 1)) // the file is there
	g := l.groups[0]
	g.io.Lock() // the disk is busy
	before := fs.Len()
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if _, _, err := l.Append(ctx, 0, events(1+2*i, 2), retention.AckLocal); err != nil {
				t.Error(err)
			}
		})
	}
	for queued := 0; queued < 100; {
		g.mu.Lock()
		queued = int(g.next) - 2
		g.mu.Unlock()
	}
	g.io.Unlock()
	wg.Wait()
	if n := fs.Len() - before; n != 2 {
		t.Errorf("50 requests cost %d operations, want one write and one sync", n)
	}
	frames := follow(t, l, nil, 1<<20)
	if len(frames) != 2 || frames[1].N != 100 {
		t.Errorf("50 requests made %d frames", len(frames)-1)
	}
}

// P1: what is appended with AckNone is durable 100 ms later, or with the next
// request that waits.
func TestAckNoneIsDurableAfterATimer(t *testing.T) {
	o := options(crashfs.New(), 0)
	c := newClock()
	o.Now, o.After = c.Now, c.After
	l := mustOpen(t, o)
	for round := range 2 {
		grown, _ := l.Grown(0)
		if _, ack, err := l.Append(ctx, 0, events(round*10, 2), retention.AckNone); err != nil || ack != retention.AckNone {
			t.Fatal(ack, err)
		}
		if d := <-c.asked; d != 100*time.Millisecond {
			t.Fatalf("the timer runs %v", d)
		}
		if n := len(follow(t, l, nil, 1000)); n != round {
			t.Fatalf("%d frames before the timer, want %d", n, round)
		}
		c.fire()
		<-grown
		l.groups[0].flush() // to its end: what is appended meanwhile may go with it
		if n := len(follow(t, l, nil, 1000)); n != round+1 {
			t.Fatalf("%d frames after the timer", n)
		}
	}
	if _, _, err := l.Append(ctx, 0, events(90, 1), retention.AckNone); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, events(91, 1))
	if n := len(records(follow(t, l, nil, 1000))); n != 6 {
		t.Fatalf("%d records, want 6", n)
	}
	if _, _, err := l.Append(ctx, 0, events(92, 1), retention.AckNone); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l) // writes what waits
	if n := len(records(follow(t, l, nil, 1000))); n != 7 {
		t.Fatalf("%d records after Close, want 7", n)
	}
}

func TestBadAppendsAreRefused(t *testing.T) {
	l := mustOpen(t, options(crashfs.New(), 0))
	if _, _, err := l.Append(ctx, 0, nil, retention.AckLocal); err == nil {
		t.Error("an empty batch was taken")
	}
	if _, _, err := l.Append(ctx, 1, events(0, 1), retention.AckLocal); err == nil {
		t.Error("an unknown group was taken")
	}
	big := event(0)
	big.Event.Props = make([]taxonomy.Prop, 300)
	for i := range big.Event.Props {
		big.Event.Props[i].Value = strings.Repeat("x", 1<<16)
	}
	if _, _, err := l.Append(ctx, 0, []taxonomy.Record{big}, retention.AckLocal); err == nil || errors.Is(err, retention.ErrFull) {
		t.Errorf("a batch of 19 MB: %v", err)
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if _, _, err := l.Append(done, 0, events(0, 1), retention.AckLocal); !errors.Is(err, context.Canceled) || errors.Is(err, retention.ErrUnknown) {
		t.Errorf("a cancelled call: %v", err)
	}
	mustClose(t, l)
	if _, _, err := l.Append(ctx, 0, events(0, 1), retention.AckLocal); !errors.Is(err, retention.ErrClosed) {
		t.Errorf("a closed log: %v", err)
	}
}

// A batch bigger than a segment, and one beside it, both whole.
func TestABatchIsNeverSplit(t *testing.T) {
	l := mustOpen(t, options(crashfs.New(), 0))
	mustAppend(t, l, events(0, 1))
	ref := mustAppend(t, l, events(1, 500))
	mustAppend(t, l, events(501, 1))
	for _, f := range follow(t, l, nil, 1) {
		if f.First == ref.Seq && f.N != 500 {
			t.Errorf("the batch of 500 stands in a frame of %d", f.N)
		}
	}
}

// R7: an idle writer's time moves on, and a clock that steps back does not take
// it along.
func TestTicksMoveAnIdleWriter(t *testing.T) {
	o := options(crashfs.New(), 0)
	c := newClock()
	o.Now, o.After, o.Groups = c.Now, c.After, 2
	l := mustOpen(t, o)
	end := func(g taxonomy.Group) retention.WriterEnd {
		t.Helper()
		e, err := l.End(ctx, g, nil)
		if err != nil || len(e) != 1 {
			t.Fatal(e, err)
		}
		return e[0]
	}
	tick := func() {
		t.Helper()
		g0, _ := l.Grown(0)
		g1, _ := l.Grown(1)
		if err := l.Tick(ctx); err != nil {
			t.Fatal(err)
		}
		<-c.asked
		<-c.asked
		c.fire()
		<-g0
		<-g1
	}
	tick()
	if e := end(1); e.Last != 1 || e.Time != c.Now() || len(e.Unfolded) != 0 {
		t.Errorf("after a tick: %+v", e)
	}
	if err := l.Tick(ctx); err != nil { // nobody is idle
		t.Fatal(err)
	}
	c.add(taxonomy.Second)
	tick()
	at := c.Now()
	c.add(-taxonomy.Hour)
	mustAppend(t, l, events(0, 1))
	if e := end(0); e.Last != 3 || e.Time != at {
		t.Errorf("after the clock stepped back: %+v, want time %v", e, at)
	}
}

func TestTheLogTicksByItself(t *testing.T) {
	o := options(crashfs.New(), 0)
	c := newClock()
	o.Now, o.After, o.Ticks = c.Now, c.After, true
	l := mustOpen(t, o)
	if d := <-c.asked; d != time.Second {
		t.Fatalf("ticks every %v", d)
	}
	grown, _ := l.Grown(0)
	c.fire()
	// The tick waits for its 100 ms, and the next tick's second begins.
	for range 2 {
		<-c.asked
	}
	c.fire()
	<-grown
	if f := follow(t, l, nil, 1000); f[0].Records[0].Kind != taxonomy.RecordTick {
		t.Errorf("%+v", f)
	}
}

func TestGroupsAreApart(t *testing.T) {
	fs := crashfs.New()
	o := options(fs, 0)
	o.Groups = 2
	l := mustOpen(t, o)
	for g := range taxonomy.Group(2) {
		if ref, _, err := l.Append(ctx, g, events(int(g), 1), retention.AckQuorum); err != nil || ref.Seq != 1 {
			t.Fatal(ref, err)
		}
	}
	for g := range taxonomy.Group(2) {
		f, err := l.Follow(ctx, g, nil, 1000)
		if err != nil || len(f) != 1 || f[0].Group != g || f[0].Records[0].Received != taxonomy.Millis(g) {
			t.Errorf("group %d: %+v, %v", g, f, err)
		}
	}
	mustClose(t, l)
	if _, err := Open(options(fs, 1)); err == nil || !strings.Contains(err.Error(), "number of groups") {
		t.Errorf("with fewer groups: %v", err)
	}
}

// Following with nothing new touches no file, and following a little that is
// new reads a little.
func TestPollingIsCheap(t *testing.T) {
	fs := crashfs.New()
	o := options(fs, 0)
	o.SegmentBytes = 1 << 20
	l := mustOpen(t, o)
	for i := range 200 {
		mustAppend(t, l, events(i*100, 100))
	}
	frames := follow(t, l, nil, 1<<20)
	pos := retention.Position{writerID(0): frames[len(frames)-1].Last()}
	touched := 0
	fs.SetFault(func(_ int, op crashfs.Op) *crashfs.Fault {
		if op.Kind == crashfs.Open || op.Kind == crashfs.Read {
			touched++
		}
		return nil
	})
	if f, err := l.Follow(ctx, 0, pos, 1<<20); err != nil || len(f) != 0 || touched != 0 {
		t.Errorf("nothing new: %d frames, %v, %d operations", len(f), err, touched)
	}
	mustAppend(t, l, events(0, 1))
	touched = 0
	if f, err := l.Follow(ctx, 0, pos, 1<<20); err != nil || len(f) != 1 || touched != 2 {
		t.Errorf("one new frame: %d frames, %v, %d operations, want an open and a read", len(f), err, touched)
	}
	fs.SetFault(nil)
}

func TestAPositionWithinAFrameGivesTheRest(t *testing.T) {
	l := mustOpen(t, options(crashfs.New(), 0))
	rs := events(0, 5)
	mustAppend(t, l, rs)
	f := follow(t, l, retention.Position{writerID(0): 3}, 1000)
	if len(f) != 1 || f[0].First != 4 || f[0].N != 2 || !reflect.DeepEqual(f[0].Records, rs[3:]) || !reflect.DeepEqual(f[0].Counts, retention.CountSites(rs[3:])) {
		t.Errorf("%+v", f)
	}
}

func TestAnOlderProgramRefusesANewerFile(t *testing.T) {
	fs := crashfs.New()
	l := mustOpen(t, options(fs, 0))
	mustAppend(t, l, events(0, 1))
	mustClose(t, l)
	path := files(t, fs, "log")[0]
	b, err := readFile(fs, path)
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint16(b[8:], version+1)
	binary.LittleEndian.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	write(t, fs, path, b)
	if _, err := Open(options(fs, 1)); !errors.Is(err, errNewer) {
		t.Errorf("open: %v", err)
	}
}

// The leak test's two ways: without compression the bytes lie open; with it,
// Dump shows them.
func TestDumpSeesThroughCompression(t *testing.T) {
	canary := []byte("canary canary canary canary canary canary")
	for _, plain := range []bool{false, true} {
		fs := crashfs.New()
		o := options(fs, 0)
		o.NoCompression = plain
		l := mustOpen(t, o)
		r := event(1)
		r.Event.URL = string(bytes.Repeat(canary, 5))
		mustAppend(t, l, []taxonomy.Record{r})
		mustClose(t, l)
		onDisk := false
		for _, p := range files(t, fs, "log") {
			b, _ := readFile(fs, p)
			onDisk = onDisk || bytes.Contains(b, bytes.Repeat(canary, 2))
		}
		if onDisk != plain {
			t.Errorf("plain %v: found on disk %v", plain, onDisk)
		}
		dumped := false
		err := Dump(fs, "log", func(_ string, first uint64, raw []byte) error {
			dumped = dumped || first == 1 && bytes.Contains(raw, bytes.Repeat(canary, 5))
			return nil
		})
		if err != nil || !dumped {
			t.Errorf("plain %v: dumped %v, %v", plain, dumped, err)
		}
	}
}

// Appends, followers, ends, trims and rotations at the same time: the follower
// gets every record once, in order, though all that it has is trimmed at once.
func TestEverythingAtOnce(t *testing.T) {
	o := options(crashfs.New(), 0)
	o.SegmentBytes = 4 << 10
	l := mustOpen(t, o)
	const callers, each = 8, 60
	var wg sync.WaitGroup
	for k := range callers {
		wg.Go(func() {
			for i := range each {
				if _, _, err := l.Append(ctx, 0, events(k*1000+i*3, 3), retention.AckLocal); err != nil {
					t.Error(err)
				}
			}
		})
	}
	pos, got := retention.Position{}, map[taxonomy.VisitorKey]bool{}
	for len(got) < callers*each*3 && !t.Failed() {
		grown, _ := l.Grown(0)
		frames, err := l.Follow(ctx, 0, pos, 2000)
		if err != nil {
			t.Fatal(err)
		}
		if len(frames) == 0 {
			<-grown
			continue
		}
		for _, f := range frames {
			if f.First != pos[f.Writer]+1 || f.Lost {
				t.Fatalf("frame %d after %d, lost %v", f.First, pos[f.Writer], f.Lost)
			}
			pos[f.Writer] = f.Last()
			for _, r := range f.Records {
				got[r.Visitor] = true
			}
		}
		if len(got)%5 == 0 {
			wg.Go(func() { _ = l.Rotate(ctx, 0) })
		}
		to := pos.Clone()
		wg.Go(func() {
			if err := l.Trim(ctx, 0, to); err != nil {
				t.Error(err)
			}
		})
		if _, err := l.End(ctx, 0, pos); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
}

func write(t testing.TB, fs FS, path string, b []byte) {
	t.Helper()
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(bytes.Clone(b)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}
