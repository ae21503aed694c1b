package cassandra

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/log"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/gocql/gocql"
)

var benchEvents = flag.Int("events", 200_000, "events of a benchmark")

// benchRecords makes events as a mid-sized site has them: visitors come back,
// paths and categories are of Zipf, IDs are random.
func benchRecords(r *rand.Rand, n int) []taxonomy.Record {
	paths, cats := rand.NewZipf(r, 1.2, 8, 20_000), rand.NewZipf(r, 1.1, 4, 5000)
	rs := make([]taxonomy.Record, n)
	now := realNow()
	for i := range rs {
		e := &taxonomy.Event{Time: now + taxonomy.Millis(i/100), Kind: taxonomy.EventPage, URL: fmt.Sprintf("https://shop.example/p/%d", paths.Uint64())}
		for j := range e.ID {
			e.ID[j] = byte(r.Uint32())
		}
		for range 1 + r.IntN(3) {
			e.Props = append(e.Props, taxonomy.Prop{Key: "category", Value: fmt.Sprint(cats.Uint64())})
		}
		v := taxonomy.VisitorKey{}
		who := rand.New(rand.NewPCG(1, r.Uint64N(uint64(n/4+1)))) // about four events a visitor
		for j := range v {
			v[j] = byte(who.Uint32())
		}
		rs[i] = taxonomy.Record{Kind: taxonomy.RecordEvent, Received: e.Time + 40, Site: "shop", Source: "web", Space: taxonomy.SpaceCookie, Visitor: v, Returning: true,
			Consent: taxonomy.Consent{Day: now.Day(), Regime: taxonomy.RegimeOptIn, Signal: taxonomy.SignalExplicit, Purposes: taxonomy.MayAll}, Event: e}
	}
	return rs
}

// BenchmarkLog is packed events a second from Append to quorum, against a bare
// loop of the driver that writes the same rows, made beforehand, from as many
// goroutines. -events for other sizes.
func BenchmarkLog(b *testing.B) {
	needCluster(b)
	records := benchRecords(rand.New(rand.NewPCG(1, 2)), *benchEvents)
	st := openStore(b, realNow)
	for b.Loop() {
		empty(b, st, "log_writer")
		disk := vfs.NewMem()
		l, err := OpenLog(st, LogOptions{UploadBytes: 1 << 40, OpenLocal: func(w taxonomy.WriterID) (LocalLog, error) {
			return log.Open(log.Options{FS: disk, Dir: "/log", Writer: w, Now: realNow, After: time.After})
		}})
		if err != nil {
			b.Fatal(err)
		}
		begin := time.Now()
		const batch, writers = 50, 64
		var wg sync.WaitGroup
		for g := range writers {
			wg.Go(func() {
				for i := g * batch; i < len(records); i += batch * writers {
					if _, _, err := l.Append(context.Background(), 0, records[i:min(i+batch, len(records))], retention.AckLocal); err != nil {
						b.Error(err)
					}
				}
			})
		}
		wg.Wait()
		local := time.Since(begin)
		for l.Mark(0).Seq < uint64(len(records)) {
			<-time.After(time.Millisecond)
		}
		ours := time.Since(begin)
		frames, err := l.readRows(context.Background(), l.Writer(), 0, 1, 1<<30)
		if err != nil {
			b.Fatal(err)
		}
		if err := l.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
		bare, bytes := bareLog(b, st, frames)
		n := float64(len(records))
		b.ReportMetric(n/ours.Seconds(), "events/s")
		b.ReportMetric(bare.Seconds()/ours.Seconds(), "of-bare-driver")
		b.ReportMetric(n/local.Seconds(), "local-events/s")
		b.ReportMetric(float64(len(records))/float64(len(frames)), "events/row")
		b.ReportMetric(float64(bytes)/n, "payload-B/event")
	}
	b.ReportMetric(0, "ns/op")
	onDisk(b, "event_log", 2*len(records)*b.N) // ours and the bare loop's
}

// bareLog writes the rows of frames under another writer and returns how long
// the driver took.
func bareLog(b *testing.B, st *Store, frames []retention.Frame) (time.Duration, int) {
	rows := make([][]any, len(frames))
	bytes := 0
	for i := range frames {
		frames[i].Writer[0]++
		f := &frames[i]
		counts, payload := encodeFrame(f)
		bytes += len(payload)
		rows[i] = []any{f.Writer[:], int(f.Group), int64(f.First >> chunkBits), int64(f.First), f.N, int64(f.Time), counts, len(payload), payload}
	}
	begin := time.Now()
	bareLoop(b, len(rows), st.o.Parallel, func(i int) error { return st.s.cql.Query(insertFrame, rows[i]...).Exec() })
	return time.Since(begin), bytes
}

func bareLoop(b *testing.B, n, parallel int, do func(i int) error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := do(i); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkEvents is rows of visitor_events a second through Put, batches of
// 10,000 events, against a bare loop of the driver with the same mutations,
// made beforehand.
func BenchmarkEvents(b *testing.B) {
	needCluster(b)
	records := benchRecords(rand.New(rand.NewPCG(1, 2)), *benchEvents)
	list := make([]retention.StoredEvent, len(records))
	st := openStore(b, realNow)
	run := uint64(0)
	for b.Loop() {
		fill := func() {
			run++
			for i := range records {
				list[i] = retention.StoredEvent{Record: records[i], Ref: taxonomy.Ref{Writer: taxonomy.WriterID{byte(run)}, Seq: uint64(i) + 1}, RuleVersion: 1}
			}
		}
		const batch = 10_000
		fill()
		begin := time.Now()
		for i := 0; i < len(list); i += batch {
			if err := st.Events().Put(context.Background(), list[i:min(i+batch, len(list))]); err != nil {
				b.Fatal(err)
			}
		}
		ours := time.Since(begin)
		fill()
		var mutations [][]statement
		rows := 0
		for i := 0; i < len(list); i += batch {
			mutations = append(mutations, st.events.batches(list[i:min(i+batch, len(list))])...)
		}
		for _, m := range mutations {
			rows += len(m)
		}
		begin = time.Now()
		bareLoop(b, len(mutations), st.o.Parallel, func(i int) error {
			batch := st.s.cql.NewBatch(gocql.UnloggedBatch)
			for _, s := range mutations[i] {
				batch.Query(s.cql, s.args...)
			}
			return st.s.cql.ExecuteBatch(batch)
		})
		bare := time.Since(begin)
		b.ReportMetric(float64(rows)/ours.Seconds(), "rows/s")
		b.ReportMetric(float64(len(list))/ours.Seconds(), "events/s")
		b.ReportMetric(bare.Seconds()/ours.Seconds(), "of-bare-driver")
		b.ReportMetric(float64(len(list))/float64(rows), "events/row")
	}
	b.ReportMetric(0, "ns/op")
	onDisk(b, "visitor_events", 2*len(records)*b.N)
}

// onDisk reports a table's bytes an event, all its files, if the cluster is the
// one of deploy/cassandra.
func onDisk(b *testing.B, table string, events int) {
	const cass = "../../deploy/cassandra/cass"
	if !strings.HasPrefix(cluster.host, "127.0.") || cluster.nodes != 1 {
		return
	}
	if out, err := exec.Command(cass, "nodetool", "1", "flush", cluster.keyspace, table).CombinedOutput(); err != nil {
		b.Logf("no sizes: %v: %s", err, out)
		return
	}
	out, err := exec.Command(cass, "files", "1", cluster.keyspace, table).Output()
	if err != nil {
		b.Logf("no sizes: %v", err)
		return
	}
	var bytes int64
	for _, data := range strings.Fields(string(out)) {
		for _, kind := range []string{"Data.db", "Index.db", "Filter.db", "Summary.db", "Statistics.db", "CompressionInfo.db"} {
			if fi, err := os.Stat(strings.TrimSuffix(data, "Data.db") + kind); err == nil {
				bytes += fi.Size()
			}
		}
	}
	b.ReportMetric(float64(bytes)/float64(events), "disk-B/event")
}
