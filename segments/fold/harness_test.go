package fold

import (
	"context"
	"errors"
	"fmt"
	"io"
	"pgregory.net/rapid"
	"slices"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// lagLog is a log of several writers whose records become visible when the test
// says so: every interleaving of writers can be made.
type lagLog struct {
	writers map[taxonomy.WriterID]*lagWriter
	order   []taxonomy.WriterID
}

type lagWriter struct {
	frames  []retention.Frame
	visible int // frames
	closed  bool
}

func newLagLog(n int) *lagLog {
	l := &lagLog{writers: map[taxonomy.WriterID]*lagWriter{}}
	for i := range n {
		w := taxonomy.WriterID{byte(i + 1)}
		l.writers[w] = &lagWriter{}
		l.order = append(l.order, w)
	}
	return l
}

func (l *lagLog) append(w taxonomy.WriterID, at taxonomy.Millis, records ...taxonomy.Record) {
	lw := l.writers[w]
	first := uint64(1)
	if n := len(lw.frames); n > 0 {
		first = lw.frames[n-1].Last() + 1
		at = max(at, lw.frames[n-1].Time)
	}
	lw.frames = append(lw.frames, retention.Frame{Writer: w, First: first, N: len(records), Time: at,
		Records: records, Counts: retention.CountSites(records), Bytes: 100 * len(records)})
}

func (l *lagLog) showAll() {
	for _, w := range l.writers {
		w.visible = len(w.frames)
	}
}

func (l *lagLog) Append(context.Context, taxonomy.Group, []taxonomy.Record, retention.Ack) (taxonomy.Ref, retention.Ack, error) {
	return taxonomy.Ref{}, 0, errors.New("not in this test")
}

func (l *lagLog) Follow(_ context.Context, _ taxonomy.Group, from retention.Position, maxBytes int) (out []retention.Frame, _ error) {
	size := 0
	for _, id := range l.order {
		w := l.writers[id]
		for _, f := range w.frames[:w.visible] {
			if f.Last() > from[id] && (size == 0 || size+f.Bytes <= maxBytes) {
				out = append(out, f)
				size += f.Bytes
			} else if f.Last() > from[id] {
				break
			}
		}
	}
	return out, nil
}

func (l *lagLog) End(_ context.Context, _ taxonomy.Group, from retention.Position) (out []retention.WriterEnd, _ error) {
	for _, id := range l.order {
		w := l.writers[id]
		e := retention.WriterEnd{Writer: id, Open: !w.closed}
		for _, f := range w.frames[:w.visible] {
			e.Last, e.Time = f.Last(), f.Time
			if f.Last() > from[id] {
				e.Unfolded = append(e.Unfolded, f.Counts...)
			}
		}
		out = append(out, e)
	}
	return out, nil
}

func (l *lagLog) Trim(context.Context, taxonomy.Group, retention.Position) error { return nil }
func (l *lagLog) CloseWriter(context.Context, taxonomy.Group, taxonomy.WriterID) (uint64, error) {
	return 0, errors.New("not in this test")
}

// world is the stores that outlive a fold.
type world struct {
	log   retention.Log
	clock *storetest.Clock
	model *storetest.Model
	// fail, if not 0, is how many more writes of blobs and heads succeed.
	fail int
	cfg  Config
	hook func(o *Options)
	// pause lets others run in the midst of a checkpoint.
	pause *pause
}

// pause does something before the at-th write or listing, once.
type pause struct {
	at int
	do func()
}

var errPower = errors.New("the power is gone")

func newWorld(log retention.Log, now taxonomy.Millis) *world {
	c := storetest.NewClock(now)
	return &world{log: log, clock: c, model: storetest.NewModel(c.Now), fail: -1,
		cfg: Config{Shards: 2, Groups: 1, Erasure: func(k taxonomy.VisitorKey) [16]byte {
			h := [16]byte(k)
			slices.Reverse(h[:])
			return h
		}}}
}

func (w *world) open(t rapid.TB) *Fold {
	t.Helper()
	o := Options{Config: w.cfg, Log: w.log, Events: w.model.Events(), Keyed: failingKeyed{w.model.Keyed(), w},
		Blobs: failingBlobs{w.model.Blobs(), w}, Rules: func() Classifier { return byName{} }, BatchBytes: 300,
		DaysBehind: true}
	if w.hook != nil {
		w.hook(&o)
	}
	f, err := Open(context.Background(), o)
	if err != nil {
		t.Fatalf("open the fold: %v", err)
	}
	return f
}

// turn is where others may come in between.
func (w *world) turn() {
	if p := w.pause; p != nil && p.at > 0 {
		if p.at--; p.at == 0 {
			p.do()
		}
	}
}

func (w *world) write() error {
	w.turn()
	if w.fail == 0 {
		return errPower
	}
	if w.fail > 0 {
		w.fail--
	}
	return nil
}

type failingBlobs struct {
	retention.Blobs
	w *world
}

func (b failingBlobs) Put(ctx context.Context, name string, over taxonomy.Millis, r io.Reader) (retention.Blob, error) {
	if err := b.w.write(); err != nil {
		return retention.Blob{}, err
	}
	return b.Blobs.Put(ctx, name, over, r)
}

func (b failingBlobs) List(ctx context.Context, folder string) ([]retention.Blob, error) {
	b.w.turn()
	return b.Blobs.List(ctx, folder)
}

func (b failingBlobs) Delete(ctx context.Context, names []string) error {
	if err := b.w.write(); err != nil {
		return err
	}
	return b.Blobs.Delete(ctx, names)
}

type failingKeyed struct {
	retention.Keyed
	w *world
}

func (k failingKeyed) Swap(ctx context.Context, s retention.KeyedSpace, it retention.Item) (uint64, error) {
	if err := k.w.write(); err != nil {
		return 0, err
	}
	return k.Keyed.Swap(ctx, s, it)
}

// byName classifies by an event's name, under one parent.
type byName struct{}

func (byName) Version() uint32 { return 1 }
func (byName) Classify(_ taxonomy.SiteID, e *taxonomy.Event, dst []taxonomy.Trait) []taxonomy.Trait {
	return append(dst, taxonomy.CategoryTrait("t", e.Name), taxonomy.CategoryTrait("t", "root"))
}

func drainAll(t rapid.TB, f *Fold) {
	t.Helper()
	for {
		n, err := f.Poll(context.Background())
		if err != nil {
			t.Fatalf("poll: %v", err)
		}
		if n == 0 {
			return
		}
	}
}

func checkpoint(t rapid.TB, f *Fold) *View {
	t.Helper()
	v, err := f.Checkpoint(context.Background())
	if err != nil {
		t.Fatalf("checkpoint: %v", err)
	}
	return v
}

// fact is a visitor's events in a column of a day.
type fact struct {
	visitor taxonomy.VisitorKey
	col     taxonomy.Column
	day     taxonomy.Day
}

// contents reads all that a view holds of living visitors, through its files'
// columns.
func contents(v *View) map[fact]int {
	if err := v.ready(); err != nil {
		panic(err)
	}
	out := map[fact]int{}
	for i := range v.shards {
		for day, layers := range v.shards[i].days {
			seen := map[fact]bool{}
			for _, l := range layers {
				for _, c := range l.ColumnNames() {
					for o := uint32(0); o < v.shards[i].visitors.n; o++ {
						k, ok := v.Key(i, o)
						if !ok {
							continue
						}
						fa := fact{k, c, day}
						if seen[fa] {
							continue
						}
						seen[fa] = true
						if n := v.shards[i].days.Events(o, c, day); n > 0 {
							out[fa] = n
						}
					}
				}
			}
		}
	}
	return out
}

func visitorKey(n int) taxonomy.VisitorKey {
	var k taxonomy.VisitorKey
	copy(k[:], fmt.Sprintf("%c-visitor-%03d....", 'a'+n%7, n))
	k[3] = byte(n) // spreads over shards
	return k
}
