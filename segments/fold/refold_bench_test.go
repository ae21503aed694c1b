package fold

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// endless is a store whose scan has so many events of visitors that are known,
// however often it is asked.
type endless struct {
	nowhere
	visitors int
}

func (s endless) Scan(_ context.Context, part, parts int, _, _ taxonomy.Day, fn func(*retention.StoredEvent) error) error {
	for i := part; i < s.visitors; i += parts {
		e := retention.StoredEvent{Record: big(i, 1, start)[0], Ref: taxonomy.Ref{Writer: taxonomy.WriterID{99}, Seq: uint64(i + 1)}, RuleVersion: 1}
		if err := fn(&e); err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkRateDuringARefold folds the same number of events alone and while a
// re-fold reads as fast as it may: the ratio of the rates (at least 0.8 where two
// cores are free), and how many stored events were read meanwhile.
func BenchmarkRateDuringARefold(b *testing.B) {
	const visitors, events = 200_000, 100_000
	s := story(b)
	s.cfg.Shards = 1
	old := &ruled{1, map[string][]taxonomy.Trait{}}
	s.refolding(old)
	inner := s.hook
	s.hook = func(o *Options) {
		inner(o)
		o.Events, o.BatchBytes, o.PartEvents = endless{visitors: visitors}, 1<<18, 0
		last := time.Now()
		o.Pace = func(context.Context) error { // as the program does
			time.Sleep(min(4*time.Since(last), 250*time.Millisecond))
			last = time.Now()
			return nil
		}
	}
	s.f = s.open(b)
	for i := 0; i < visitors; i += 50_000 {
		s.say(start+taxonomy.Millis(i), big(i, 50_000, start+taxonomy.Millis(i))...)
	}
	s.save()
	seq := visitors
	rate := func() float64 {
		for i := 0; i < events; i += 1000 {
			rs := big(seq, 1000, start+taxonomy.Millis(seq))
			for j := range rs { // visitors that are known
				rs[j].Visitor = big(seq%visitors/2+j, 1, start)[0].Visitor
			}
			seq += 1000
			s.lag.append(s.lag.order[0], start+taxonomy.Millis(seq), rs...)
		}
		s.lag.showAll()
		begin := time.Now()
		drainAll(b, s.f)
		return float64(events) / time.Since(begin).Seconds()
	}
	rate()
	s.save()
	x, y := taxonomy.CategoryTrait("t", "x"), taxonomy.CategoryTrait("t", "y")
	var both, during []float64 // of the rate alone, in turns: the machine is shared
	read := uint64(0)
	for turn := range 5 {
		alone := rate()
		s.save()
		if err := s.f.Refold(b.Context(), old.to(&ruled{uint32(2 + turn), map[string][]taxonomy.Trait{"a": {x, y}}})); err != nil {
			b.Fatal(err)
		}
		both = append(both, rate()/alone) // both columns for what comes, and nothing read
		s.save()
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if more, err := s.f.RefoldPart(b.Context()); err != nil || !more {
					return
				}
			}
		}()
		during = append(during, rate()/alone)
		p, _ := s.f.Refolding()
		read = max(read, p.Read)
		close(stop)
		<-done
		if err := s.f.CancelRefold(b.Context()); err != nil {
			b.Fatal(err)
		}
		s.save()
	}
	slices.Sort(both)
	slices.Sort(during)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(both[2], "both/alone")
	b.ReportMetric(during[2], "during/alone")
	b.ReportMetric(float64(read), "events-read")
}
