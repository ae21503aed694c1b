package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	kgzip "github.com/klauspost/compress/gzip"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/embedded"
	wal "github.com/ebb-dmp/ebb/retention/log"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format/tsv"
	"github.com/ebb-dmp/ebb/segments/fold"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
)

var ctx = context.Background()

// used is the CPU time of this process so far.
func used() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// hundred rules over four levels of categories.
func hundred() (*rules.Classifier, error) {
	t := tree.Taxonomy{ID: "t", Title: "t"}
	var list []rules.Rule
	for i := range 10 {
		top := fmt.Sprintf("c%d", i)
		t.Categories = append(t.Categories, tree.Category{ID: top, Title: top})
		for j := range 10 {
			id := fmt.Sprintf("c%d-%d", i, j)
			t.Categories = append(t.Categories, tree.Category{ID: id, Title: id, Parents: []string{top}})
			list = append(list, rules.Rule{ID: id, When: []rules.Condition{{Field: "path", Op: "prefix", Value: fmt.Sprintf("/%d/%d", i, j)}}, Then: []string{"c:t/" + id}})
		}
	}
	f, err := tree.New(t)
	if err != nil {
		return nil, err
	}
	return rules.Compile(1, f, list)
}

// BenchmarkFold folds events of returning visitors from a real log into real
// stores: dedup, classify by a hundred rules, store, index, checkpoint.
func BenchmarkFold(b *testing.B) {
	n, perVisitor := size(100_000, 1_000_000), 10
	c, err := hundred()
	if err != nil {
		b.Fatal(err)
	}
	env := app.System()
	now := func() taxonomy.Millis { return taxonomy.MillisOf(env.Now()) }
	dir := b.TempDir()
	store, err := embedded.Open(embedded.Options{FS: env.FS, Dir: filepath.Join(dir, "data"), Now: now, Compress: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	l, err := wal.Open(wal.Options{FS: env.FS, Dir: filepath.Join(dir, "log"), Writer: taxonomy.WriterID{1}, Now: now, After: env.After})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close(ctx)
	consent := taxonomy.Consent{Day: now().Day(), Regime: taxonomy.RegimeOptIn, Purposes: taxonomy.MayAll}
	r := rand.New(rand.NewPCG(1, 2))
	batch := make([]taxonomy.Record, 0, 500)
	events := make([]taxonomy.Record, n)
	for i := range events {
		v := r.IntN(n / perVisitor)
		e := &taxonomy.Event{Time: now(), Kind: taxonomy.EventPage, URL: fmt.Sprintf("https://bench.example/%d/%d/x", r.IntN(10), r.IntN(10))}
		binary.BigEndian.PutUint64(e.ID[:], uint64(i))
		events[i] = taxonomy.Record{Kind: taxonomy.RecordEvent, Received: now(), Site: "bench", Source: "web", Space: taxonomy.SpaceCookie, Returning: true, Consent: consent, Event: e}
		binary.BigEndian.PutUint64(events[i].Visitor[:], uint64(v)*0x9e3779b97f4a7c15)
		if batch = append(batch, events[i]); len(batch) == cap(batch) || i == n-1 {
			if _, _, err := l.Append(ctx, 0, batch, retention.AckLocal); err != nil {
				b.Fatal(err)
			}
			batch = batch[:0]
		}
	}
	f, err := fold.Open(ctx, fold.Options{Config: fold.Config{Shards: 1, Groups: 1, Erasure: func(k taxonomy.VisitorKey) [16]byte { return k }},
		Log: l, Events: store.Events(), Keyed: store.Keyed(), Blobs: store.Blobs(), Rules: func() fold.Classifier { return c }})
	if err != nil {
		b.Fatal(err)
	}
	runtime.GC()
	b.ResetTimer()
	before := used()
	for {
		k, err := f.Poll(ctx)
		if err != nil {
			b.Fatal(err)
		}
		if k == 0 {
			break
		}
	}
	if _, err := f.Checkpoint(ctx); err != nil {
		b.Fatal(err)
	}
	ours := used() - before
	b.StopTimer()
	if got := f.Tallies()["bench"].Stored; got != uint64(n) {
		b.Fatalf("stored %d of %d", got, n)
	}

	// The least that anybody would do: a map of visitors and a bitmap a column.
	before = used()
	ids := map[taxonomy.VisitorKey]uint32{}
	columns := map[taxonomy.Trait]*roaring.Bitmap{}
	var traits []taxonomy.Trait
	for i := range events {
		o, ok := ids[events[i].Visitor]
		if !ok {
			o = uint32(len(ids))
			ids[events[i].Visitor] = o
		}
		traits = c.Classify("bench", events[i].Event, traits[:0])
		for _, t := range traits {
			m := columns[t]
			if m == nil {
				m = roaring.New()
				columns[t] = m
			}
			m.Add(o)
		}
	}
	bare := used() - before
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(n)/ours.Seconds(), "events/cpu-s")
	b.ReportMetric(float64(bare)/float64(ours), "of-bare-map-and-bitmaps")
	b.ReportMetric(float64(n)/ours.Seconds()/200_000, "of-goal-200k")
}

const (
	benchDays       = 90
	benchCategories = 200
)

var benchToday = taxonomy.Day(20_400)

func category(i int) taxonomy.Column {
	return taxonomy.Column{Source: "s", Trait: taxonomy.Trait(fmt.Sprintf("c:t/%03d", i))}
}

// daysOnly is index.Leaves over one shard's days, everybody permitted.
type daysOnly struct {
	d index.Days
	n int
}

func (v daysOnly) Shards() int    { return 1 }
func (v daysOnly) Blocks(int) int { return (v.n + index.BlockSize - 1) / index.BlockSize }
func (v daysOnly) Leaf(_, block int, op *index.Operand, dst *index.Words) (int, error) {
	if op.Kind != index.OpSet {
		return v.d.Leaf(block, op, dst), nil
	}
	clear(dst[:])
	if op.Set == index.SetProfile {
		for i := range dst {
			dst[i] = ^uint64(0)
		}
	}
	return dst.Count(), nil
}
func (v daysOnly) Newest(_, block int, c []taxonomy.Column, from, to taxonomy.Day, dst *[index.BlockSize]uint8) error {
	v.d.Newest(block, c, from, to, dst)
	return nil
}
func (v daysOnly) Columns(from, to taxonomy.Day, fn func(taxonomy.Column, uint64)) error {
	m := map[taxonomy.Column]uint64{}
	v.d.AddColumns(from, to, m)
	for _, c := range index.SortedColumns(m) {
		fn(c, m[c])
	}
	return nil
}

// questions in the audience language and in SQL, over facts(visitor, category,
// day), day 89 being today.
var questions = []struct{ name, rule, sql string }{
	{"frequent-rare", `{"and":[{"trait":"c:t/010","window":"14d","min":3},{"not":{"trait":"c:t/001","window":"30d"}}]}`,
		`SELECT count(*) FROM (SELECT visitor FROM facts WHERE category=10 AND day>=76 GROUP BY visitor HAVING count(*)>=3) a WHERE visitor NOT IN (SELECT visitor FROM facts WHERE category=1 AND day>=60)`},
	{"frequent-popular", `{"and":[{"trait":"c:t/001","window":"14d","min":3},{"not":{"trait":"c:t/010","window":"30d"}}]}`,
		`SELECT count(*) FROM (SELECT visitor FROM facts WHERE category=1 AND day>=76 GROUP BY visitor HAVING count(*)>=3) a WHERE visitor NOT IN (SELECT visitor FROM facts WHERE category=10 AND day>=60)`},
	{"union-90", `{"trait":"c:t/001"}`, `SELECT count(DISTINCT visitor) FROM facts WHERE category=1`},
	{"union-5-popular", `{"or":[{"trait":"c:t/001"},{"trait":"c:t/002"},{"trait":"c:t/003"},{"trait":"c:t/004"},{"trait":"c:t/005"}]}`,
		`SELECT count(DISTINCT visitor) FROM facts WHERE category BETWEEN 1 AND 5`},
	{"union-5-rare", `{"or":[{"trait":"c:t/120"},{"trait":"c:t/140"},{"trait":"c:t/160"},{"trait":"c:t/180"},{"trait":"c:t/190"}]}`,
		`SELECT count(DISTINCT visitor) FROM facts WHERE category IN (120,140,160,180,190)`},
}

const duck = `
import duckdb, json, sys, time
c = duckdb.connect()
c.execute("SET threads=1")
c.execute("SET enable_progress_bar=false")
c.execute("CREATE TABLE facts AS SELECT * FROM read_csv(?, header=false, names=['visitor','category','day'], types={'visitor':'UINTEGER','category':'USMALLINT','day':'USMALLINT'}) ORDER BY category, day, visitor", [sys.argv[1]])
out = []
for q in json.load(sys.stdin):
    best = 1e9
    for _ in range(5):
        t = time.perf_counter(); n = c.execute(q).fetchone()[0]; best = min(best, time.perf_counter() - t)
    out.append({"n": n, "s": best})
print(json.dumps(out))
`

func needDuckDB(b *testing.B) {
	b.Helper()
	if err := exec.Command("python3", "-c", "import duckdb").Run(); err != nil {
		if os.Getenv("CI") != "" {
			b.Fatal("python3 has no duckdb here; deploy/test installs it")
		}
		b.Skip("python3 has no duckdb here; get it with: deploy/test tools, and put .cache/venv/bin first in PATH")
	}
}

// dayFiles makes a layer of each day: by day and category the visitors, one for
// each event.
func dayFiles(b *testing.B, lists []map[int][]uint32) index.Days {
	b.Helper()
	days := index.Days{}
	for d := range lists {
		day := benchToday - benchDays + 1 + taxonomy.Day(d)
		lb := index.NewBuilder(0, day)
		seen := roaring.New()
		for c, l := range lists[d] {
			seen.AddMany(l)
			lb.Add(category(c), l)
		}
		lb.Add(taxonomy.Column{Source: "s", Trait: taxonomy.TraitAny}, seen.ToArray())
		layer, err := lb.Build()
		if err != nil {
			b.Fatal(err)
		}
		days[day] = []*index.Layer{layer}
	}
	return days
}

// BenchmarkCountsAgainstDuckDB asks the same of day files and of DuckDB.
func BenchmarkCountsAgainstDuckDB(b *testing.B) {
	needDuckDB(b)
	visitors, facts := size(100_000, 1_000_000), size(1_000_000, 10_000_000)
	r := rand.New(rand.NewPCG(3, 4))
	zipf := rand.NewZipf(r, 1.1, 4, benchCategories-1)
	lists := make([]map[int][]uint32, benchDays)
	for d := range lists {
		lists[d] = map[int][]uint32{}
	}
	csv := filepath.Join(b.TempDir(), "facts.csv")
	var text bytes.Buffer
	for range facts {
		v, c, d := uint32(r.IntN(visitors)), int(zipf.Uint64())+1, r.IntN(benchDays)
		lists[d][c] = append(lists[d][c], v)
		fmt.Fprintf(&text, "%d,%d,%d\n", v, c, d)
	}
	if err := os.WriteFile(csv, text.Bytes(), 0o600); err != nil {
		b.Fatal(err)
	}
	leaves := daysOnly{dayFiles(b, lists), visitors}
	resolver, err := query.NewIndexResolver(leaves, benchToday, []taxonomy.SourceID{"s"}, nil)
	if err != nil {
		b.Fatal(err)
	}
	counts, times := make([]uint64, len(questions)), make([]float64, len(questions))
	var sql []string
	for i, q := range questions {
		e, err := query.Parse([]byte(q.rule))
		if err != nil {
			b.Fatal(err)
		}
		times[i] = 1e9
		for range 5 {
			start := time.Now()
			p := query.NewPlan(benchToday, resolver)
			if _, err := p.Add(e); err != nil {
				b.Fatal(err)
			}
			res, err := p.Run(ctx, leaves, query.RunOptions{Workers: 1, CountsOnly: true})
			if err != nil {
				b.Fatal(err)
			}
			times[i] = min(times[i], time.Since(start).Seconds())
			counts[i] = res.Counts[0]
		}
		sql = append(sql, q.sql)
	}
	in, _ := json.Marshal(sql)
	cmd := exec.Command("python3", "-c", duck, csv)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		b.Fatal(err)
	}
	var theirs []struct {
		N uint64
		S float64
	}
	if err := json.Unmarshal(out, &theirs); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(0, "ns/op")
	for i, q := range questions {
		if theirs[i].N != counts[i] {
			b.Errorf("%s: %d visitors, DuckDB says %d", q.name, counts[i], theirs[i].N)
		}
		b.ReportMetric(theirs[i].S/times[i], strings.ReplaceAll(q.name, " ", "-")+"-times-duckdb")
	}
}

// BenchmarkSegmentFile writes lines of pseudonyms.
func BenchmarkSegmentFile(b *testing.B) {
	n := size(200_000, 3_000_000)
	r := rand.New(rand.NewPCG(5, 6))
	ids := make([]string, n)
	var text bytes.Buffer
	run := delivery.Run{Audience: "grocery-regulars", Minutes: 86_400}
	for i := range ids {
		ids[i] = fmt.Sprintf("%016x%016x", r.Uint64(), r.Uint64())
		fmt.Fprintf(&text, "%s\t%s\t+\t%d\n", ids[i], run.Audience, run.Minutes)
	}
	ours, theirs := time.Duration(1<<62), time.Duration(1<<62)
	var out []byte
	var klaus bytes.Buffer
	for range 5 {
		start := time.Now()
		e := tsv.Format{}.New(delivery.FileInfo{IDs: delivery.ByPseudonym})
		out = out[:0]
		for rest := ids; len(rest) > 0; {
			k := min(4096, len(rest))
			var err error
			if out, err = e.Append(out, run, rest[:k]); err != nil {
				b.Fatal(err)
			}
			rest = rest[k:]
		}
		var err error
		if out, err = e.Close(out); err != nil {
			b.Fatal(err)
		}
		ours = min(ours, time.Since(start))
		klaus.Reset()
		start = time.Now()
		z, err := kgzip.NewWriterLevel(&klaus, kgzip.BestSpeed)
		if err != nil {
			b.Fatal(err)
		}
		z.Write(text.Bytes())
		z.Close()
		theirs = min(theirs, time.Since(start))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(n)/ours.Seconds()/1e6, "Mlines/s")
	b.ReportMetric(float64(theirs)/float64(ours), "times-klauspost-1")
	b.ReportMetric(float64(len(out))/float64(klaus.Len()), "of-its-size")
}

// BenchmarkRestart opens a checkpoint of many visitors, until it accepts and answers
// (R35): against reading the bytes of its manifest, ID map and permits from the same
// store. The days are read behind that.
func BenchmarkRestart(b *testing.B) {
	n := size(100_000, 2_000_000)
	c, err := hundred()
	if err != nil {
		b.Fatal(err)
	}
	env := app.System()
	now := func() taxonomy.Millis { return taxonomy.MillisOf(env.Now()) }
	store, err := embedded.Open(embedded.Options{FS: env.FS, Dir: filepath.Join(b.TempDir(), "data"), Now: now, Compress: true})
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	l := storetest.NewLog(1, now)
	open := func() *fold.Fold {
		f, err := fold.Open(ctx, fold.Options{Config: fold.Config{Shards: 1, Groups: 1, Erasure: func(k taxonomy.VisitorKey) [16]byte { return k }},
			Log: l, Events: noEvents{}, Keyed: store.Keyed(), Blobs: store.Blobs(), Rules: func() fold.Classifier { return c }, BatchBytes: 64 << 20, DaysBehind: true})
		if err != nil {
			b.Fatal(err)
		}
		return f
	}
	consent := taxonomy.Consent{Day: now().Day(), Regime: taxonomy.RegimeOptIn, Purposes: taxonomy.MayAll}
	f := open()
	for i := 0; i < n; i += 50_000 {
		batch := make([]taxonomy.Record, 50_000)
		for j := range batch {
			e := &taxonomy.Event{Time: now(), Kind: taxonomy.EventPage, URL: fmt.Sprintf("https://bench.example/%d/%d/x", j%10, j/10%10)}
			binary.BigEndian.PutUint64(e.ID[:], uint64(i+j))
			batch[j] = taxonomy.Record{Kind: taxonomy.RecordEvent, Received: now(), Site: "bench", Source: "web", Space: taxonomy.SpaceCookie, Returning: true, Consent: consent, Event: e}
			binary.BigEndian.PutUint64(batch[j].Visitor[:], uint64(i+j)*0x9e3779b97f4a7c15)
		}
		if _, _, err := l.Append(ctx, 0, batch, retention.AckLocal); err != nil {
			b.Fatal(err)
		}
		if _, err := f.Poll(ctx); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := f.Checkpoint(ctx); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	f = nil
	best := func(fn func()) time.Duration {
		d := time.Duration(1 << 62)
		for range 3 {
			runtime.GC()
			start := time.Now()
			fn()
			d = min(d, time.Since(start))
		}
		return d
	}
	ours := best(func() {
		if f != nil {
			_ = f.Close()
		}
		f = open()
	})
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	var bytes int64
	reading := best(func() {
		bytes = 0
		blobs, err := store.Blobs().List(ctx, "fold")
		if err != nil {
			b.Fatal(err)
		}
		for _, x := range blobs {
			if strings.HasSuffix(x.Name, ".day") || strings.HasSuffix(x.Name, ".seen") {
				continue
			}
			r, err := store.Blobs().Open(ctx, x.Name)
			if err != nil {
				b.Fatal(err)
			}
			buf := make([]byte, x.Bytes)
			if _, err := r.ReadAt(buf, 0); err != nil && err != io.EOF {
				b.Fatal(err)
			}
			bytes += x.Bytes
			r.Close()
		}
	})
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ours.Seconds()*1000, "ms-open")
	b.ReportMetric(float64(ours)/float64(reading), "times-reading")
	b.ReportMetric(float64(bytes)/float64(n), "bytes/visitor")
}

// noEvents is Events for what is not about them.
type noEvents struct{ retention.Events }

func (noEvents) Put(context.Context, []retention.StoredEvent) error { return nil }
