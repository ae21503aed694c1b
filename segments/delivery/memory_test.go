package delivery_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/metrics"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/embedded"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/pull"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// most is the most memory that was held at any of the places where a delivery was
// looked at. It is looked at from within its own calls, to name a visitor and to
// write and read a file, so that it stands still meanwhile. What the runtime's own
// collections report is no measure: they run beside the delivery, and all that is
// allocated while they mark counts as live, which is more the busier the machine.
type most struct {
	mu    sync.Mutex
	bytes uint64
	named int

	bytesRead, every int
}

func (m *most) look() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bytes = max(m.bytes, live())
}

// name looks after every so many visitors: more than once a bucket.
func (m *most) name() {
	m.mu.Lock()
	m.named++
	due := m.named%(bucket/2) == 0
	m.mu.Unlock()
	if due {
		m.look()
	}
}

// read looks after every so many bytes that are read: of few members more than once a
// bucket of IDs.
func (m *most) read(n int) {
	each := m.every
	m.mu.Lock()
	due := (m.bytesRead+n)/each > m.bytesRead/each
	m.bytesRead += n
	m.mu.Unlock()
	if due {
		m.look()
	}
}

// bucket is about how many rows a delivery holds.
const bucket = 100_000

// watched looks when a blob is opened, when it is wholly written but still held, and after
// every so many of its bytes.
type watched struct {
	retention.Blobs
	most *most
}

func (w watched) Put(ctx context.Context, name string, over taxonomy.Millis, content io.Reader) (retention.Blob, error) {
	return w.Blobs.Put(ctx, name, over, &watchedContent{Reader: content, most: w.most})
}

func (w watched) Open(ctx context.Context, name string) (retention.BlobReader, error) {
	w.most.look()
	r, err := w.Blobs.Open(ctx, name)
	return &watchedReader{r, w.most}, err
}

type watchedReader struct {
	retention.BlobReader
	most *most
}

func (w *watchedReader) ReadAt(p []byte, off int64) (int, error) {
	w.most.read(len(p))
	return w.BlobReader.ReadAt(p, off)
}

type watchedContent struct {
	io.Reader
	most *most
	read int
}

func (w *watchedContent) Read(p []byte) (int, error) {
	const each = 4 << 20
	n, err := w.Reader.Read(p)
	if (w.read+n)/each > w.read/each || err != nil {
		w.most.look()
	}
	w.read += n
	return n, err
}

// live is what is held now. The first collection lets whoever still worked come to
// its next call and wait there, and lets go of what pools keep until the second.
func live() uint64 {
	runtime.GC()
	runtime.GC()
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// sentBy is a way of delivering.
type sentBy struct {
	format  string
	pulled  bool // else pushed
	matched bool // under the partner's IDs, else under pseudonyms
}

func (b sentBy) String() string {
	s := b.format + " pushed"
	if b.pulled {
		s = b.format + " pulled"
	}
	if b.matched {
		s += " by match"
	}
	return s
}

// lookedAt is a crowd that looks when it is asked for an ID of the partner's, which is
// as long as a UUID.
type lookedAt struct {
	*crowd
	most *most
}

func (l *lookedAt) MatchID(d taxonomy.DestinationID, shard int, o uint32) (string, taxonomy.Day, bool) {
	l.most.name()
	id, day, ok := l.crowd.MatchID(d, shard, o)
	return fmt.Sprintf("%036s", id), day, ok
}

// heldFor delivers an audience of n members, whose copies all end on one day, over
// a store on disk, twice, and returns how much memory that took. The second time one of
// a hundred is not in it any more. Chunks have at most so many rows, if that is not 0.
func heldFor(t testing.TB, n, rows int, by sentBy) (bytes uint64) {
	t.Helper()
	m := &most{every: 3 << 20 * max(1, n/400_000)}
	c := &lookedAt{&crowd{n: n, oneDay: true, matches: by.matched, now: taxonomy.MillisOf(time.Date(2026, 11, 26, 9, 0, 0, 0, time.UTC))}, m}
	format := by.format
	store, err := embedded.Open(embedded.Options{FS: vfs.Default, Dir: t.TempDir(), Now: func() taxonomy.Millis { return c.now }, CacheBytes: 1 << 20, MemTableBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	f := benched[format]
	if rows > 0 {
		f = smaller{f, rows}
	}
	d, err := delivery.New(delivery.Options{
		Keyed: store.Keyed(), Blobs: watched{store.Blobs(), m},
		Pseudonym: func(_ taxonomy.DestinationID, _ uint32, k taxonomy.VisitorKey) string {
			m.name()
			return hex.EncodeToString(k[:])
		},
		View:    func(context.Context) (audience.View, error) { return c, nil },
		Formats: map[string]delivery.Format{format: f}, Transports: map[string]delivery.Transport{"drain": &drain{}, "pull": pull.Transport{}},
		After: func(time.Duration) <-chan time.Time { return nil },
		Now:   func() taxonomy.Millis { return c.now }, Rand: rand.NewChaCha8([32]byte{}),
		Spool: func() (delivery.Spool, error) {
			f, err := os.CreateTemp(t.TempDir(), "")
			return &removed{f, m}, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	all := roaring.New()
	all.AddRange(0, uint64(n))
	dest := benchDestination(format)
	dest.Audiences, dest.Segments, dest.Push = dest.Audiences[:1], map[taxonomy.AudienceID]string{"cars": "1"}, delivery.Push{}
	if dest.Transport = "drain"; by.pulled {
		dest.Transport = "pull"
	}
	if by.matched {
		dest.IDs = delivery.ByMatch
	}
	was, src := live(), delivery.Source{
		View:    c,
		Members: func(context.Context, audience.Entry) (index.Set, error) { return index.Set{all}, nil },
	}
	for g := range uint64(2) {
		src.Generation = &audience.Generation{Number: g + 1, Clock: c.now, Shards: 1, Audiences: []audience.Entry{{ID: "cars", Positive: []taxonomy.Column{colCar}}}}
		done, err := d.Run(context.Background(), dest, src)
		if err != nil || g == 0 && done.Rows != uint64(n) || g == 1 && done.Rows == 0 || done.Acknowledged != done.Chunks {
			t.Fatalf("%v, %+v", err, done)
		}
		m.look()
		if !f.Facts().Removes {
			break
		}
		for o := uint32(0); o < uint32(n); o += 100 {
			all.Remove(o)
		}
	}
	return m.bytes - min(was, m.bytes)
}

// removed is a file that is gone once it is closed, and looks when it is read.
type removed struct {
	*os.File
	most *most
}

func (r *removed) ReadAt(p []byte, off int64) (int, error) {
	r.most.read(len(p))
	return r.File.ReadAt(p, off)
}

func (r *removed) Close() error { return errors.Join(os.Remove(r.Name()), r.File.Close()) }

// smaller is a format in smaller chunks.
type smaller struct {
	delivery.Format
	rows int
}

func (s smaller) Facts() delivery.FormatFacts {
	f := s.Format.Facts()
	if f.MaxRows > 0 {
		f.MaxRows = min(f.MaxRows, s.rows)
	}
	return f
}

// However many members there are, a delivery holds no rows of them beyond a bucket
// and a chunk: what grows with them is what is said of sets of ordinals, some bytes a
// member, where a row takes more than a hundred, and so does a match. All members' copies end on one day,
// which is the worst case. EBB_BENCH=full: every format, from 1 to 10 million.
func TestLongMemoryDoesNotGrowWithRows(t *testing.T) {
	if os.Getenv("EBB_LONG") == "" && os.Getenv("EBB_BENCH") != "full" {
		t.Skip("set EBB_LONG=1 to deliver 400,000 members in each way, EBB_BENCH=full for 10 million in each format")
	}
	// Both are whole buckets of 100,000.
	few, many, rows := 199_999, 399_999, 20_000
	runs := []sentBy{{"tsv", true, false}, {"audience-manager", true, false}, {"tsv", false, false}, {"google", false, false}, {"yahoo", false, false}, {"tsv", true, true}, {"audience-manager", false, true}}
	if os.Getenv("EBB_BENCH") == "full" {
		few, many, rows, runs = 999_999, 9_999_999, 0, runs[:0]
		for _, name := range slices.Sorted(maps.Keys(benched)) {
			for _, pulled := range []bool{true, false} {
				// Only some are for pulling, and who cannot say that somebody leaves is.
				if f := benched[name].Facts(); pulled == (f.MaxRows == 0) || f.Removes && f.MaxRows == 0 {
					runs = append(runs, sentBy{name, pulled, false}, sentBy{name, pulled, true})
				}
			}
		}
	}
	const most = 20 // bytes a member
	for _, r := range runs {
		t.Run(r.String(), func(t *testing.T) {
			small, large := heldFor(t, few, rows, r), heldFor(t, many, rows, r)
			each := (float64(large) - float64(small)) / float64(many-few)
			t.Logf("%d members %.1f MB, %d members %.1f MB: %.2f times, %.1f bytes a member more", few, float64(small)/1e6, many, float64(large)/1e6, float64(large)/float64(small), each)
			if each > most {
				t.Errorf("each member more takes %.1f bytes; a row is held", each)
			}
		})
	}
}
