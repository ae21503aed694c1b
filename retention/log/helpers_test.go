package log

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

var ctx = context.Background()

func TestMain(m *testing.M) {
	if dir := os.Getenv("EBB_LOG_KILLED"); dir != "" {
		killed(dir) // never returns
	}
	goleak.VerifyTestMain(m)
}

// all reports whether every case is to be tried, not a stride of them.
func all() bool { return os.Getenv("EBB_TEST_FAULTS") == "all" }

func stride(normal int) int {
	if all() {
		return 1
	}
	return normal
}

// clock is a clock and timers that move when the test says so.
type clock struct {
	mu     sync.Mutex
	now    taxonomy.Millis
	timers []chan time.Time
	asked  chan time.Duration
}

func newClock() *clock {
	return &clock{now: 1_790_000_000_000, asked: make(chan time.Duration, 1000)}
}

func (c *clock) Now() taxonomy.Millis {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d taxonomy.Millis) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now += d
}

func (c *clock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := make(chan time.Time, 1)
	c.timers = append(c.timers, t)
	select {
	case c.asked <- d:
	default:
	}
	return t
}

// fire ends every timer.
func (c *clock) fire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.timers {
		t <- time.Time{}
	}
	c.timers = nil
}

func writerID(n int) (w taxonomy.WriterID) {
	binary.BigEndian.PutUint64(w[8:], uint64(n)+1)
	w[0] = 0xEB
	return w
}

// options of a small log whose nth writer this is.
func options(fs FS, n int) Options {
	c := newClock()
	c.now += taxonomy.Millis(n) * taxonomy.Minute
	return Options{FS: fs, Dir: "log", Writer: writerID(n), Now: c.Now, After: c.After, SegmentBytes: 2 << 10, ReserveBytes: 512}
}

func mustOpen(t testing.TB, o Options) *Log {
	t.Helper()
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(ctx) })
	return l
}

func mustClose(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

// event is a record that is unlike every other with another i.
func event(i int) taxonomy.Record {
	r := taxonomy.Record{Kind: taxonomy.RecordEvent, Received: taxonomy.Millis(i), Site: taxonomy.SiteID(fmt.Sprintf("site-%d", i%3)),
		Event: &taxonomy.Event{Name: fmt.Sprintf("event number %d", i), URL: "https://shop.example/"}}
	binary.BigEndian.PutUint64(r.Visitor[:], uint64(i)*0x9E3779B97F4A7C15+1)
	binary.BigEndian.PutUint64(r.Event.ID[:], uint64(i))
	return r
}

func events(from, n int) []taxonomy.Record {
	r := make([]taxonomy.Record, n)
	for i := range r {
		r[i] = event(from + i)
	}
	return r
}

func mustAppend(t testing.TB, l *Log, records []taxonomy.Record) taxonomy.Ref {
	t.Helper()
	ref, ack, err := l.Append(ctx, 0, records, retention.AckLocal)
	if err != nil {
		t.Fatal(err)
	}
	if ack != retention.AckLocal {
		t.Fatalf("ack is %v, want local", ack)
	}
	return ref
}

// follow reads group 0 from a position to its end, and checks what Follow
// promises: numbers without holes, times that never go back, counts that fit.
func follow(t testing.TB, l *Log, from retention.Position, maxBytes int) []retention.Frame {
	t.Helper()
	frames, err := tryFollow(l, from, maxBytes)
	if err != nil {
		t.Fatal(err)
	}
	return frames
}

func tryFollow(l *Log, from retention.Position, maxBytes int) ([]retention.Frame, error) {
	var frames []retention.Frame
	pos, times := from.Clone(), map[taxonomy.WriterID]taxonomy.Millis{}
	for {
		got, err := l.Follow(ctx, 0, pos, maxBytes)
		if err != nil {
			return nil, err
		}
		if len(got) == 0 {
			return frames, nil
		}
		for _, f := range got {
			if f.N <= 0 || f.First <= pos[f.Writer] {
				return nil, fmt.Errorf("frame of %d records from %d on at position %d", f.N, f.First, pos[f.Writer])
			}
			if p, ok := pos[f.Writer]; ok && f.First != p+1 {
				return nil, fmt.Errorf("hole: record %d after %d", f.First, p)
			}
			if f.Time < times[f.Writer] {
				return nil, fmt.Errorf("time goes back at record %d", f.First)
			}
			if f.Lost != (f.Records == nil) || !f.Lost && len(f.Records) != f.N {
				return nil, fmt.Errorf("frame says %d records, lost %v, and holds %d", f.N, f.Lost, len(f.Records))
			}
			pos[f.Writer], times[f.Writer] = f.Last(), f.Time
		}
		frames = append(frames, got...)
	}
}

// records are those of frames, by place.
func records(frames []retention.Frame) map[taxonomy.Ref]taxonomy.Record {
	m := map[taxonomy.Ref]taxonomy.Record{}
	for _, f := range frames {
		for i, r := range f.Records {
			m[taxonomy.Ref{Writer: f.Writer, Seq: f.First + uint64(i)}] = r
		}
	}
	return m
}

func add(m map[taxonomy.Ref]taxonomy.Record, at taxonomy.Ref, rs []taxonomy.Record) {
	for i, r := range rs {
		m[taxonomy.Ref{Writer: at.Writer, Seq: at.Seq + uint64(i)}] = r
	}
}

func wantRecords(t testing.TB, got, want map[taxonomy.Ref]taxonomy.Record) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("records differ (-want +got):\n%s", d)
	}
}

func files(t testing.TB, fs FS, dir string) []string {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	var paths []string
	for _, n := range names {
		p := fs.PathJoin(dir, n)
		st, err := fs.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if st.IsDir() {
			paths = append(paths, files(t, fs, p)...)
		} else if n != reserveName {
			paths = append(paths, p)
		}
	}
	return paths
}
