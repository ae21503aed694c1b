package parquet_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format/parquet"
	"github.com/ebb-dmp/ebb/taxonomy"
)

var created = taxonomy.MillisOf(time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC))

// duckdb runs a query with DuckDB, a reader that is not ours.
func duckdb(t *testing.T, query string) string {
	t.Helper()
	py, err := filepath.Abs("../../../../.cache/venv/bin/python")
	if err != nil || exec.Command(py, "-c", "import duckdb").Run() != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no DuckDB: run deploy/test tools")
		}
		t.Skip("no DuckDB: run deploy/test tools")
	}
	out, err := exec.Command(py, "-c", "import sys, duckdb\nfor r in duckdb.sql(sys.argv[1]).fetchall(): print(*r, sep='|')", query).CombinedOutput()
	if err != nil {
		t.Fatalf("duckdb: %v: %s", err, out)
	}
	return string(out)
}

func write(t testing.TB, info delivery.FileInfo, runs []delivery.Run, ids func(i int) []string) string {
	t.Helper()
	e := parquet.Format{}.New(info)
	var out []byte
	var err error
	for i, r := range runs {
		if out, err = e.Append(out, r, ids(i)); err != nil {
			t.Fatal(err)
		}
	}
	if out, err = e.Close(out); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "x.parquet")
	if err := os.WriteFile(name, out, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestDuckDBReadsTheRows(t *testing.T) {
	info := delivery.FileInfo{Destination: "lab", Kind: delivery.Delta, Generation: 7, Created: created, Segments: map[taxonomy.AudienceID]string{"cars": "101"}}
	name := write(t, info, []delivery.Run{{Audience: "cars", Minutes: 720}, {Audience: "sport", Remove: true}}, func(i int) []string { return [][]string{{"a", "é|b"}, {"a"}}[i] })
	got := duckdb(t, "select id, audience, segment, remove, minutes, epoch_ms(ends_at) from '"+name+"'")
	want := "a|cars|101|False|720|1795651200000\né|b|cars|101|False|720|1795651200000\na|sport|sport|True|0|None\n"
	if got != want {
		t.Fatalf("%s\nwant\n%s", got, want)
	}
	if got := duckdb(t, "select decode(value) from parquet_kv_metadata('"+name+"') order by decode(key)"); got != "lab\n7\ndelta\n" {
		t.Fatal(got)
	}
}

// Many rows come in groups, so that memory does not grow with them, and none is
// lost between two.
func TestManyRowsComeInGroups(t *testing.T) {
	const n = 100 // of 3,000 rows
	runs := make([]delivery.Run, n)
	for i := range runs {
		runs[i] = delivery.Run{Audience: taxonomy.AudienceID(fmt.Sprint("a", i%7)), Minutes: 1440 * (1 + i%90)}
	}
	name := write(t, delivery.FileInfo{Created: created}, runs, func(i int) []string {
		ids := make([]string, 3000)
		for j := range ids {
			ids[j] = fmt.Sprintf("%032x", i*3000+j)
		}
		return ids
	})
	if got := duckdb(t, "select count(*), count(distinct id), count(distinct audience) from '"+name+"'"); got != "300000|300000|7\n" {
		t.Fatal(got)
	}
	if got := duckdb(t, "select count(distinct row_group_id) from parquet_metadata('"+name+"')"); got != "3\n" {
		t.Fatal(got)
	}
}

// BenchmarkMembers prints rows a second.
func BenchmarkMembers(b *testing.B) {
	ids := make([]string, 4096)
	for i := range ids {
		ids[i] = fmt.Sprintf("%032x", i)
	}
	var took time.Duration
	for b.Loop() {
		e, out := parquet.Format{}.New(delivery.FileInfo{Created: created}), []byte(nil)
		start := time.Now()
		for range 20 {
			out, _ = e.Append(out[:0], delivery.Run{Audience: "cars", Minutes: 1440}, ids)
		}
		e.Close(out)
		took += time.Since(start)
	}
	b.ReportMetric(float64(b.N*20*len(ids))/took.Seconds()/1e6, "Mrows/s")
}
