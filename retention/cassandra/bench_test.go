package cassandra

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/log"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/gocql/gocql"
)

var (
	benchEvents = flag.Int("events", 200_000, "events of a benchmark")
	benchWarm   = flag.Duration("warm", 20*time.Second, "how long the server is warmed before a benchmark")
)

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
// goroutines. The two take turns in small portions, so that what the server's
// compiler and the machine's neighbours do falls on both; the server is warmed
// before. -events for other sizes, -warm for how long.
func BenchmarkLog(b *testing.B) {
	needCluster(b)
	st := openStore(b, realNow)
	r := rand.New(rand.NewPCG(1, 2))
	const portion, batch, writers = 100_000, 50, 64
	events, rows, bytes := 0, 0, 0
	var ours, bare, local, copying time.Duration
	var copied uint64
	var cpuOurs, cpuBare, serverOurs, serverBare time.Duration
	run := func(records []taxonomy.Record, count bool) {
		empty(b, st, "log_writer")
		disk := vfs.NewMem()
		l, err := OpenLog(st, LogOptions{UploadBytes: 1 << 40, OpenLocal: func(w taxonomy.WriterID) (LocalLog, error) {
			return log.Open(log.Options{FS: disk, Dir: "/log", Writer: w, Now: realNow, After: time.After})
		}})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := l.ready(context.Background()); err != nil { // before it nothing is copied
			b.Fatal(err)
		}
		l.turn.RUnlock()
		begin, cpu, server := time.Now(), ownCPU(), serverCPU()
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
		appended, sent := time.Since(begin), l.Mark(0).Seq
		for l.Mark(0).Seq < uint64(len(records)) {
			<-time.After(time.Millisecond)
		}
		took, cpuTook, serverTook := time.Since(begin), ownCPU()-cpu, serverCPU()-server
		frames, err := l.readRows(context.Background(), l.Writer(), 0, 1, 1<<30)
		if err != nil {
			b.Fatal(err)
		}
		if err := l.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
		cpu, server = ownCPU(), serverCPU()
		d, n := bareLog(b, st, frames)
		if !count {
			return
		}
		events, rows, bytes = events+len(records), rows+len(frames), bytes+n
		copying, copied = copying+took-appended, copied+uint64(len(records))-sent
		ours, local, cpuOurs, serverOurs = ours+took, local+appended, cpuOurs+cpuTook, serverOurs+serverTook
		bare, cpuBare, serverBare = bare+d, cpuBare+ownCPU()-cpu, serverBare+serverCPU()-server
	}
	for end := time.Now().Add(*benchWarm); time.Now().Before(end); {
		run(benchRecords(r, portion/5), false)
	}
	size := onDisk(b, "event_log")
	for b.Loop() {
		for range max(1, *benchEvents/portion) {
			run(benchRecords(r, portion), true)
		}
	}
	n := float64(events)
	b.ReportMetric(n/ours.Seconds(), "events/s")
	b.ReportMetric(float64(rows)/ours.Seconds(), "rows/s")
	b.ReportMetric(bare.Seconds()/ours.Seconds(), "of-bare-driver")
	b.ReportMetric(n/local.Seconds(), "local-events/s")
	// Copying alone, once all is appended: what a backlog is copied at.
	b.ReportMetric(float64(copied)/copying.Seconds()/(n/bare.Seconds()), "copying-of-bare-driver")
	b.ReportMetric(n/float64(rows), "events/row")
	b.ReportMetric(float64(bytes)/n, "payload-B/event")
	b.ReportMetric(float64(cpuOurs.Nanoseconds())/n, "ebb-cpu-ns/event")
	b.ReportMetric(float64(cpuBare.Nanoseconds())/n, "bare-cpu-ns/event")
	if serverOurs > 0 {
		b.ReportMetric(float64(serverOurs.Nanoseconds())/n, "cassandra-cpu-ns/event")
		b.ReportMetric(float64(serverBare.Nanoseconds())/n, "cassandra-cpu-bare-ns/event")
	}
	b.ReportMetric(0, "ns/op")
	reportDisk(b, "event_log", size, 2*events) // ours and the bare loop's
}

// ownCPU is the time that this process has computed.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// serverCPU is the time that all nodes of deploy/cassandra have computed, 0 if
// the cluster is another.
func serverCPU() (sum time.Duration) {
	out, err := exec.Command("../../deploy/cassandra/cass", "status").Output()
	if err != nil {
		return 0
	}
	for _, m := range regexp.MustCompile(`pid (\d+)`).FindAllSubmatch(out, -1) {
		b, err := os.ReadFile("/proc/" + string(m[1]) + "/stat")
		if err != nil {
			return 0
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		for _, ticks := range f[11:13] { // utime and stime, in hundredths of a second
			n, err := strconv.Atoi(ticks)
			if err != nil {
				return 0
			}
			sum += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return sum
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
// 10,000 events, against a bare loop of the driver with the same mutations, made
// beforehand. A row is one visitor, day and batch.
func BenchmarkEvents(b *testing.B) {
	needCluster(b)
	st := openStore(b, realNow)
	r := rand.New(rand.NewPCG(1, 2))
	const portion, batch = 50_000, 10_000
	run, events, rows := uint64(0), 0, 0
	var ours, bare, cpuOurs, serverOurs time.Duration
	once := func(count bool) {
		records := benchRecords(r, portion)
		list := make([]retention.StoredEvent, len(records))
		fill := func() {
			run++
			for i := range records {
				list[i] = retention.StoredEvent{Record: records[i], Ref: taxonomy.Ref{Writer: taxonomy.WriterID{byte(run), byte(run >> 8)}, Seq: uint64(i) + 1}, RuleVersion: 1}
			}
		}
		fill()
		begin, cpu, server := time.Now(), ownCPU(), serverCPU()
		for i := 0; i < len(list); i += batch {
			if err := st.Events().Put(context.Background(), list[i:min(i+batch, len(list))]); err != nil {
				b.Fatal(err)
			}
		}
		took, cpuTook, serverTook := time.Since(begin), ownCPU()-cpu, serverCPU()-server
		fill()
		var mutations [][]statement
		n := 0
		for i := 0; i < len(list); i += batch {
			mutations = append(mutations, st.events.batches(list[i:min(i+batch, len(list))])...)
		}
		for _, m := range mutations {
			n += len(m)
		}
		begin = time.Now()
		bareLoop(b, len(mutations), st.o.Parallel, func(i int) error {
			batch := st.s.cql.NewBatch(gocql.UnloggedBatch)
			for _, s := range mutations[i] {
				batch.Query(s.cql, s.args...)
			}
			return st.s.cql.ExecuteBatch(batch)
		})
		if count {
			ours, bare, cpuOurs, serverOurs = ours+took, bare+time.Since(begin), cpuOurs+cpuTook, serverOurs+serverTook
			events, rows = events+len(list), rows+n
		}
	}
	for end := time.Now().Add(*benchWarm); time.Now().Before(end); {
		once(false)
	}
	size := onDisk(b, "visitor_events")
	for b.Loop() {
		for range max(1, *benchEvents/portion) {
			once(true)
		}
	}
	n := float64(events)
	b.ReportMetric(float64(rows)/ours.Seconds(), "rows/s")
	b.ReportMetric(n/ours.Seconds(), "events/s")
	b.ReportMetric(bare.Seconds()/ours.Seconds(), "of-bare-driver")
	b.ReportMetric(n/float64(rows), "events/row")
	b.ReportMetric(float64(cpuOurs.Nanoseconds())/n, "ebb-cpu-ns/event")
	if serverOurs > 0 {
		b.ReportMetric(float64(serverOurs.Nanoseconds())/n, "cassandra-cpu-ns/event")
	}
	b.ReportMetric(0, "ns/op")
	reportDisk(b, "visitor_events", size, 2*events)
}

// onDisk returns the bytes of all files of a table after a flush, -1 if the
// cluster is not one node of deploy/cassandra.
func onDisk(b *testing.B, table string) (bytes int64) {
	const cass = "../../deploy/cassandra/cass"
	if !strings.HasPrefix(cluster.host, "127.0.") || cluster.nodes != 1 {
		return -1
	}
	if out, err := exec.Command(cass, "nodetool", "1", "flush", cluster.keyspace, table).CombinedOutput(); err != nil {
		b.Logf("no sizes: %v: %s", err, out)
		return -1
	}
	out, err := exec.Command(cass, "files", "1", cluster.keyspace, table).Output()
	if err != nil {
		b.Logf("no sizes: %v", err)
		return -1
	}
	for _, data := range strings.Fields(string(out)) {
		for _, kind := range []string{"Data.db", "Index.db", "Filter.db", "Summary.db", "Statistics.db", "CompressionInfo.db"} {
			if fi, err := os.Stat(strings.TrimSuffix(data, "Data.db") + kind); err == nil {
				bytes += fi.Size()
			}
		}
	}
	return bytes
}

// reportDisk reports by how many bytes an event a table has grown.
func reportDisk(b *testing.B, table string, before int64, events int) {
	if after := onDisk(b, table); before >= 0 && after > before {
		b.ReportMetric(float64(after-before)/float64(events), "disk-B/event")
	}
}
