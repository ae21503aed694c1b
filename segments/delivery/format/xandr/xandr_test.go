package xandr_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format/xandr"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/gziptest"
	"pgregory.net/rapid"
)

const created = taxonomy.Millis(1320689131000) // of their sample

type row struct {
	id      string
	segment int
	minutes int // 0: leaves
}

func info(ids delivery.IDs, more map[string]string) delivery.FileInfo {
	f := delivery.FileInfo{IDs: ids, Created: created, Delay: 15, Account: map[string]string{"member_id": "958"}, Segments: map[taxonomy.AudienceID]string{}}
	for k, v := range more {
		f.Account[k] = v
	}
	return f
}

func write(t interface{ Fatalf(string, ...any) }, f delivery.Format, info delivery.FileInfo, rows []row) []byte {
	for _, r := range rows {
		info.Segments[taxonomy.AudienceID(fmt.Sprint("a", r.segment))] = strconv.Itoa(r.segment)
	}
	e := f.New(info)
	var out []byte
	var err error
	for _, r := range rows {
		if out, err = e.Append(out, delivery.Run{Audience: taxonomy.AudienceID(fmt.Sprint("a", r.segment)), Minutes: r.minutes, Remove: r.minutes == 0}, []string{r.id}); err != nil {
			t.Fatalf("append: %v", err)
		}
	}
	if out, err = e.Close(out); err != nil {
		t.Fatalf("close: %v", err)
	}
	return out
}

// The lines are those of Xandr's documents, as these accounts are set up.
func TestPublishedLinesAreWritten(t *testing.T) {
	for name, x := range map[string]struct {
		account map[string]string
		ids     delivery.IDs
		rows    []row
	}{
		"ids-and-expirations.txt": {map[string]string{"fields": "SEG_ID,EXPIRATION", "separators": ",;:\t^"}, delivery.ByPseudonym,
			[]row{{"12345678900987654321", 10000, 1455}, {"12345678900987654321", 10001, 1455}, {"12345678900987654321", 10002, 0}, {"12345678900987654321", 10003, 0}}},
		"external-ids.txt": {map[string]string{"fields": "SEG_ID,EXPIRATION", "separators": ",;:\t^"}, delivery.ByPseudonym,
			[]row{{"abcdefg", 10000, 1455}, {"abcdefg", 10001, 1455}}},
		"tabs-and-timestamps.txt": {map[string]string{"fields": "TIMESTAMP,SEG_ID,VALUE,EXPIRATION", "separators": "\t;\t~^"}, delivery.ByPseudonym,
			[]row{{"12345678900987654321", 10000, 1440}}},
	} {
		want, err := os.ReadFile("testdata/exemplary/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(gziptest.Plain(t, write(t, xandr.Text{}, info(x.ids, x.account), x.rows))); got != string(want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func python(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../../../..")
	if err != nil {
		t.Fatal(err)
	}
	py := filepath.Join(root, ".cache", "venv", "bin", "python")
	if exec.Command(py, "-c", "import fastavro").Run() != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no fastavro: run deploy/test tools")
		}
		t.Skip("no fastavro: run deploy/test tools")
	}
	return py
}

const reader = `
import sys, json, fastavro
for name in sys.argv[1:]:
    with open(name, "rb") as f:
        r = fastavro.reader(f, return_record_name=True)
        for x in r:
            uid = x["uid"]
            print(json.dumps({"codec": r.codec, "kind": uid[0] if isinstance(uid, tuple) else "long", "uid": uid[1] if isinstance(uid, tuple) else uid, "segments": x["segments"]}, separators=(",", ":")))
    print("end")
`

type record struct {
	Codec, Kind string
	UID         any
	Segments    []struct {
		ID, MemberID, Expiration, Timestamp, Value int64
		Code                                       string
	}
}

// An Avro reader that is not ours finds every row again, by Xandr's own schema.
func TestFastavroReadsEveryFile(t *testing.T) {
	py := python(t)
	dir := t.TempDir()
	var args []string
	var wants []string
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		if n++; n > 12 {
			return // one process reads them all
		}
		kind := rapid.SampledFrom([]delivery.IDs{delivery.ByMatch, delivery.ByPseudonym}).Draw(rt, "ids")
		var rows []row
		want := strings.Builder{}
		id := int64(0)
		for range rapid.IntRange(0, 6).Draw(rt, "visitors") {
			id += rapid.Int64Range(1, 1<<60).Draw(rt, "gap")
			name := strconv.FormatInt(id, 10)
			if kind == delivery.ByPseudonym {
				name = fmt.Sprintf("%032x", id)
			}
			segments := rapid.SampledFrom([]int{1, 2, 7, 1801, 4000}).Draw(rt, "segments")
			for s := range segments {
				r := row{name, 1 + s, rapid.SampledFrom([]int{0, 1, 129_600}).Draw(rt, "minutes")}
				rows = append(rows, r)
			}
		}
		for _, r := range rows {
			expiration, stamp := int64(r.minutes), int64(created/1000)
			if r.minutes == 0 {
				expiration, stamp = -1, 0
			}
			fmt.Fprintf(&want, "%s %d %d %d\n", r.id, r.segment, expiration, stamp)
		}
		name := filepath.Join(dir, fmt.Sprint(n))
		if err := os.WriteFile(name, write(rt, xandr.Avro{}, info(kind, nil), rows), 0o600); err != nil {
			rt.Fatal(err)
		}
		args, wants = append(args, name), append(wants, want.String())
	})
	out, err := exec.Command(py, append([]string{"-c", reader}, args...)...).Output()
	if err != nil {
		t.Fatalf("fastavro: %v", err)
	}
	got := strings.Split(string(out), "end\n")
	if len(got) != len(wants)+1 {
		t.Fatalf("%d files of %d were read", len(got)-1, len(wants))
	}
	some := 0
	for i, want := range wants {
		var b strings.Builder
		for line := range strings.Lines(got[i]) {
			var r record
			d := json.NewDecoder(strings.NewReader(strings.ReplaceAll(line, "member_id", "memberid")))
			d.UseNumber()
			if err := d.Decode(&r); err != nil {
				t.Fatal(err)
			}
			id := fmt.Sprint(r.UID)
			if m, ok := r.UID.(map[string]any); ok {
				id = fmt.Sprint(m["id"])
				if fmt.Sprint(m["memberid"]) != "958" || r.Kind != "external_id" {
					t.Fatalf("%+v", r)
				}
			}
			if len(r.Segments) > 1800 || r.Codec != "deflate" {
				t.Fatalf("%d segments, %s", len(r.Segments), r.Codec)
			}
			for _, s := range r.Segments {
				fmt.Fprintf(&b, "%s %d %d %d\n", id, s.ID, s.Expiration, s.Timestamp)
				some++
			}
		}
		if b.String() != want {
			t.Fatalf("file %d: got\n%.300s\nwant\n%.300s", i, b.String(), want)
		}
	}
	if some == 0 {
		t.Fatal("no rows: the test means nothing")
	}
}

// The records that Xandr publishes as JSON, but for the time and life, which
// theirs leave open.
func TestPublishedRecordsAreWritten(t *testing.T) {
	py := python(t)
	dir := t.TempDir()
	b, err := os.ReadFile("testdata/supplemental/published-records.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	ours := []struct {
		ids delivery.IDs
		id  string
	}{{delivery.ByMatch, "12345"}, {delivery.ByPseudonym, "clientid1"}}
	for i, line := range slices.Collect(strings.Lines(string(b))) {
		name := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(name, write(t, xandr.Avro{}, info(ours[i].ids, nil), []row{{ours[i].id, 123, 60}}), 0o600); err != nil {
			t.Fatal(err)
		}
		// fastavro reads theirs as JSON by our file's schema, and compares.
		out, err := exec.Command(py, "-c", `
import sys, io, json, fastavro
with open(sys.argv[1], "rb") as f:
    r = fastavro.reader(f)
    mine = list(r)
    schema = r.writer_schema
line = json.loads(sys.argv[2])
kind, value = next(iter(line["uid"].items()))
theirs = {"uid": value, "segments": line["segments"]}
buf = io.BytesIO(); fastavro.schemaless_writer(buf, schema, theirs); buf.seek(0)
theirs = fastavro.schemaless_reader(buf, schema)
for s in mine[0]["segments"]: s["expiration"] = 0; s["timestamp"] = 0
assert mine == [theirs], (mine, theirs)
print("same")
`, name, line).CombinedOutput()
		if err != nil || string(out) != "same\n" {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
}

func TestAnAccountsLayoutIsChecked(t *testing.T) {
	d := &delivery.Destination{Audiences: []taxonomy.AudienceID{"cars"}, Segments: map[taxonomy.AudienceID]string{"cars": "7"}, Account: map[string]string{"member_id": "958"}, Push: delivery.Push{PerMinute: 1}, CredentialsFile: "xandr"}
	for _, f := range []delivery.Checker{xandr.Text{}, xandr.Avro{}} {
		if err := f.Check(d); err != nil {
			t.Fatal(err)
		}
	}
	for key, values := range map[string][]string{
		"fields":     {"SEG_ID", "EXPIRATION", "SEG_ID,EXPIRATION,SEG_ID", "SEG_CODE,EXPIRATION", "SEG_ID,EXPIRATION,LIFE"},
		"separators": {";", ";;:\t^", ";,:,^", ";,:[^", "a,:\t^"},
		"member_id":  {"", "x", "-1"}, "codes": {"yes"},
	} {
		for _, v := range values {
			bad := *d
			bad.Account = map[string]string{"member_id": "958", key: v}
			if err := (xandr.Text{}).Check(&bad); err == nil || !strings.Contains(err.Error(), key) {
				t.Errorf("%s %q: %v", key, v, err)
			}
		}
	}
	d.Segments, d.Push.PerMinute, d.CredentialsFile = nil, 0, ""
	err := xandr.Avro{}.Check(d)
	for _, field := range []string{"segments", "push.per_minute", "credentials_file"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not named: %v", field, err)
		}
	}
}

// An ID that came by sync and is none of theirs does not stop the rest.
func TestOnlyTheirIDsAreTaken(t *testing.T) {
	for id, want := range map[string]bool{"12345": true, "0": false, "": false, "-1": false, "9223372036854775807": true, "9223372036854775808": false, "1;2": false, "abc": false} {
		if got := xandr.TakesID(delivery.ByMatch, id); got != want {
			t.Errorf("%q: %v", id, got)
		}
	}
}

// BenchmarkMembers prints rows a second, three segments an ID.
func BenchmarkMembers(b *testing.B) {
	for name, f := range map[string]delivery.Format{"text": xandr.Text{}, "avro": xandr.Avro{}} {
		b.Run(name, func(b *testing.B) {
			i := info(delivery.ByMatch, nil)
			i.Segments = map[taxonomy.AudienceID]string{"a": "1", "b": "2", "c": "3"}
			var took time.Duration
			id, n := []string{""}, 0
			for b.Loop() {
				e, out := f.New(i), make([]byte, 0, 1<<20)
				start := time.Now()
				for j := range 10_000 {
					id[0] = strconv.Itoa(1<<40 + j*7919)
					for _, a := range []taxonomy.AudienceID{"a", "b", "c"} {
						out, _ = e.Append(out, delivery.Run{Audience: a, Minutes: 1440}, id)
					}
				}
				e.Close(out)
				took += time.Since(start)
				n += 30_000
			}
			b.ReportMetric(float64(n)/took.Seconds()/1e6, "Mrows/s")
		})
	}
}
