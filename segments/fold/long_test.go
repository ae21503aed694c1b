package fold

import (
	"context"
	"encoding/binary"
	"os"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// big returns n events, each of another visitor.
func big(from, n int, at taxonomy.Millis) []taxonomy.Record {
	rs := make([]taxonomy.Record, n)
	for i := range rs {
		rs[i] = event(0, at, 0, true)
		var k taxonomy.VisitorKey
		binary.BigEndian.PutUint64(k[:], uint64(from+i)*0x9e3779b97f4a7c15)
		binary.BigEndian.PutUint64(k[8:], uint64(from+i))
		rs[i].Visitor = k
		binary.BigEndian.PutUint64(rs[i].Event.ID[:], uint64(from+i))
	}
	return rs
}

// R6: with a million visitors one new event costs a checkpoint of at most 64 KiB.
func TestLongOneEventCostsASmallCheckpoint(t *testing.T) {
	if os.Getenv("EBB_LONG") == "" {
		t.Skip("set EBB_LONG=1 to fold a million visitors")
	}
	s := story(t)
	s.cfg.Shards = 1
	s.hook = func(o *Options) { o.Events = nowhere{}; o.BatchBytes = 1 << 30 }
	s.f = s.open(t)
	const n = 1_000_000
	for i := 0; i < n; i += 50_000 {
		s.say(start+taxonomy.Millis(i), big(i, 50_000, start+taxonomy.Millis(i))...)
	}
	before := s.blobBytes(s.save())
	s.say(start+n, big(n, 1, start+n)...)
	after := s.blobBytes(s.save())
	fresh := int64(0)
	for name, size := range after {
		if _, ok := before[name]; !ok {
			fresh += size
		}
	}
	t.Logf("checkpoint of one event after %d visitors: %d bytes", n, fresh)
	if fresh == 0 || fresh > 64<<10 {
		t.Errorf("it wrote %d bytes, at most %d", fresh, 64<<10)
	}
}

func (s *one) blobBytes(*View) map[string]int64 {
	blobs, err := s.model.Blobs().List(context.Background(), "fold")
	if err != nil {
		s.t.Fatal(err)
	}
	m := map[string]int64{}
	for _, b := range blobs {
		m[b.Name] = b.Bytes
	}
	return m
}

// nowhere is Events for benchmarks that are not about them.
type nowhere struct{ retention.Events }

func (nowhere) Put(context.Context, []retention.StoredEvent) error { return nil }

// BenchmarkStep is the fold alone: dedup, classify, index.
func BenchmarkStep(b *testing.B) {
	cfg := newWorld(nil, start).cfg
	cfg.Shards = 1
	s := NewState(cfg)
	records := big(0, 100_000, start)
	for i := range records { // ten events a visitor
		records[i].Visitor = records[i/10].Visitor
	}
	b.ReportAllocs()
	n := 0
	var eff Effects
	for b.Loop() {
		if n%len(records) == 0 {
			b.StopTimer()
			s = NewState(cfg)
			b.StartTimer()
		}
		f := retention.Frame{Writer: taxonomy.WriterID{1}, First: uint64(n%len(records)) + 1, N: 1, Time: start, Records: records[n%len(records) : n%len(records)+1]}
		eff.Events = eff.Events[:0]
		if err := s.Step(&f, byName{}, &seenFiles{}, &eff); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkRateDuringACheckpoint folds the same number of events twice over
// many visitors, once alone and once while checkpoints are written without
// pause: the ratio of the rates (R6: at least 0.8 where two cores are free).
func BenchmarkRateDuringACheckpoint(b *testing.B) {
	visitors, events := 200_000, 200_000
	if os.Getenv("EBB_BENCH") == "full" {
		visitors, events = 1_000_000, 1_000_000
	}
	s := story(b)
	s.cfg.Shards = 1
	s.hook = func(o *Options) { o.Events = nowhere{}; o.BatchBytes = 1 << 18 }
	s.f = s.open(b)
	for i := 0; i < visitors; i += 50_000 {
		s.say(start+taxonomy.Millis(i), big(i, 50_000, start+taxonomy.Millis(i))...)
	}
	s.save()
	seq := visitors
	rate := func(beside func(stop <-chan struct{})) float64 {
		for i := 0; i < events; i += 1000 {
			rs := big(seq, 1000, start+taxonomy.Millis(seq))
			for j := range rs { // visitors that are known
				rs[j].Visitor = big(seq%visitors/2+j, 1, start)[0].Visitor
			}
			seq += 1000
			s.lag.append(s.lag.order[0], start+taxonomy.Millis(seq), rs...)
		}
		s.lag.showAll()
		stop, done := make(chan struct{}), make(chan struct{})
		go func() { defer close(done); beside(stop) }()
		begin := time.Now()
		drainAll(b, s.f)
		d := time.Since(begin)
		close(stop)
		<-done
		return float64(events) / d.Seconds()
	}
	alone := rate(func(<-chan struct{}) {})
	s.save()
	n := 0
	during := rate(func(stop <-chan struct{}) {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := s.f.Checkpoint(context.Background()); err != nil {
				b.Error(err)
				return
			}
			n++
		}
	})
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(during/alone, "of-rate-alone")
	b.ReportMetric(alone, "events/s-alone")
	b.ReportMetric(float64(n), "checkpoints")
}
