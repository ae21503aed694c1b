package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/lookalike"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const (
	alikeColumns = 300
	alikeTopics  = 30
)

// everyone is a view of days whose visitors all permit everything.
type everyone struct {
	daysOnly
	index.Visitors // none is asked for
}

func (v everyone) Position() retention.Position { return nil }
func (v everyone) Clock() taxonomy.Millis       { return benchToday.Start() + taxonomy.Hour }
func (v everyone) RuleVersion() uint32          { return 1 }

func (v everyone) Leaf(shard, block int, op *index.Operand, dst *index.Words) (n int, err error) {
	if op.Kind != index.OpSet {
		return v.daysOnly.Leaf(shard, block, op, dst)
	}
	clear(dst[:])
	if op.Set == index.SetProfile || op.Set == index.SetTraining {
		n = min(index.BlockSize, v.n-block*index.BlockSize)
		for i := range n {
			dst[i/64] |= 1 << (i % 64)
		}
	}
	return n, nil
}

// Log-odds of each category, shrunk to how common it is, summed for each visitor:
// the lookalike that is built first where the facts lie in a warehouse.
const duckAlike = `
import duckdb, json, sys, time
c = duckdb.connect()
c.execute("SET threads=1")
c.execute("SET enable_progress_bar=false")
c.execute("CREATE TABLE facts AS SELECT * FROM read_csv(?, header=false, names=['visitor','category','day'], types={'visitor':'UINTEGER','category':'USMALLINT','day':'USMALLINT'}) ORDER BY category, day, visitor", [sys.argv[1]])
c.execute("CREATE TABLE seed AS SELECT * FROM read_csv(?, header=false, names=['visitor'], types={'visitor':'UINTEGER'})", [sys.argv[2]])
best = 1e9
for _ in range(3):
    t = time.process_time()
    top = c.execute("""
        WITH had AS MATERIALIZED (SELECT DISTINCT category, visitor FROM facts),
            n AS (SELECT count(DISTINCT visitor) AS everybody, (SELECT count(*) FROM seed) AS members FROM had),
            counted AS (SELECT category, count(*) AS have, count(seed.visitor) AS within FROM had LEFT JOIN seed USING (visitor) GROUP BY category HAVING count(*) >= 20),
            rate AS (SELECT category, (within + 30 * have / everybody) / (members + 30) AS p, (have - within + 30 * have / everybody) / (everybody - members + 30) AS q FROM counted, n),
            weight AS (SELECT category, ln(p / (1 - p)) - ln(q / (1 - q)) AS w FROM rate)
        SELECT visitor FROM had JOIN weight USING (category) ANTI JOIN seed USING (visitor) GROUP BY visitor ORDER BY sum(w) DESC LIMIT ?""", [int(sys.argv[3])]).fetchall()
    best = min(best, time.process_time() - t)
print(json.dumps({"Top": [r[0] for r in top], "Seconds": best}))
`

// BenchmarkLookalikeAgainstDuckDB extends a seed by three hundred columns of 90
// days: from the index to the most similar hundredth, with evidence. Beside it a
// pass that reads each column of each block once and does nothing with it, which is
// the least that a scan of this index costs; and log-odds in DuckDB, which gives a
// set as large and no evidence. All on one thread, in CPU time. Half of those who
// belong to the seed are in it: who finds the other half?
func BenchmarkLookalikeAgainstDuckDB(b *testing.B) {
	needDuckDB(b)
	visitors := size(100_000, 1_000_000)
	dir := b.TempDir()
	facts, members := filepath.Join(dir, "facts.csv"), filepath.Join(dir, "seed.csv")
	r := rand.New(rand.NewPCG(7, 8))
	zipf := rand.NewZipf(r, 1.1, 4, alikeColumns-1)
	lists := make([]map[int][]uint32, benchDays)
	for d := range lists {
		lists[d] = map[int][]uint32{}
	}
	var rows, shown bytes.Buffer
	seed, hidden := index.NewSet(1), map[uint32]bool{}
	for v := range uint32(visitors) {
		// Half of what a visitor does is of one or two topics, each of which has
		// common and rare categories; topic 0 makes it likely to be in the audience.
		own, strong := [2]int{r.IntN(alikeTopics), r.IntN(alikeTopics)}, 0.0
		for range 1 + r.IntN(19) {
			c, d := int(zipf.Uint64()), r.IntN(benchDays)
			if r.IntN(2) == 0 {
				topic := own[r.IntN(2)]
				c = topic + alikeTopics*r.IntN(alikeColumns/alikeTopics)
				if topic == 0 {
					strong++
				}
			}
			lists[d][c] = append(lists[d][c], v)
			fmt.Fprintf(&rows, "%d,%d,%d\n", v, c, d)
		}
		switch {
		case r.Float64() >= 1/(1+math.Exp(5-1.2*strong)):
		case r.IntN(2) == 0:
			hidden[v] = true
		default:
			seed[0].Add(v)
			fmt.Fprintln(&shown, v)
		}
	}
	for name, content := range map[string][]byte{facts: rows.Bytes(), members: shown.Bytes()} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	view := everyone{daysOnly: daysOnly{dayFiles(b, lists), visitors}}
	n := visitors / 100

	least := func(do func() error) time.Duration {
		d := time.Duration(math.MaxInt64)
		for range 3 {
			runtime.GC()
			before := used()
			if err := do(); err != nil {
				b.Fatal(err)
			}
			d = min(d, used()-before)
		}
		return d
	}
	scorer := lookalike.New(lookalike.Options{Profiling: []taxonomy.SourceID{"s"}, Training: []taxonomy.SourceID{"s"}, Workers: 1,
		Audience: func(taxonomy.AudienceID) (query.Expr, bool) { return query.List{List: "crm"}, true }})
	var set index.Set
	var evidence audience.Evidence
	ours := least(func() (err error) {
		set, evidence, err = scorer.Extend(ctx, view, seed, audience.LookalikeSpec{Seed: "seed", Size: uint64(n)})
		return err
	})
	bits := 0
	pass := least(func() error {
		bits = 0
		var words index.Words
		for block := range view.Blocks(0) {
			for c := range alikeColumns {
				op := index.Operand{Kind: index.OpCount, Columns: []taxonomy.Column{category(c)}, From: benchToday.Oldest(), To: benchToday, Unit: index.Events, Min: 1}
				k, err := view.Leaf(0, block, &op, &words)
				if err != nil {
					return err
				}
				bits += k
			}
		}
		return nil
	})

	cmd := exec.Command("python3", "-c", duckAlike, facts, members, strconv.Itoa(n))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		b.Fatal(err)
	}
	var theirs struct {
		Top     []uint32
		Seconds float64
	}
	if err := json.Unmarshal(out, &theirs); err != nil {
		b.Fatal(err)
	}
	if set.Count() != uint64(n) || len(theirs.Top) != n || bits < visitors || len(hidden) < 100 {
		b.Fatalf("%d visitors, DuckDB has %d, want %d; %d bits were read, %d are hidden", set.Count(), len(theirs.Top), n, bits, len(hidden))
	}
	found := func(each func(func(uint32) bool)) (k float64) {
		each(func(v uint32) bool {
			if hidden[v] {
				k++
			}
			return true
		})
		return k
	}
	we := found(func(f func(uint32) bool) { set[0].Iterate(f) })
	they := found(func(f func(uint32) bool) {
		for _, v := range theirs.Top {
			f(v)
		}
	})
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(ours.Milliseconds()), "cpu-ms")
	b.ReportMetric(float64(ours)/float64(pass), "times-a-bare-pass")
	b.ReportMetric(theirs.Seconds/ours.Seconds(), "times-duckdb")
	b.ReportMetric(evidence.AUC, "AUC-held-out")
	b.ReportMetric(we/float64(len(hidden)), "of-the-hidden-found")
	b.ReportMetric(we/they, "of-what-duckdb-found")
}
