package cassandra

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// The audit looks at every table of the schema, with the lives that stand there.
func TestAuditKnowsEveryTable(t *testing.T) { // P5
	own, err := steps()
	if err != nil {
		t.Fatal(err)
	}
	lives := map[string]int{"schema_version": 0}
	name, ttl := regexp.MustCompile(`CREATE TABLE IF NOT EXISTS (\w+)`), regexp.MustCompile(`default_time_to_live = (\d+)`)
	for _, step := range own {
		for _, cql := range step.statements {
			if m := name.FindStringSubmatch(cql); m != nil {
				lives[m[1]] = 0
				if l := ttl.FindStringSubmatch(cql); l != nil {
					lives[m[1]], _ = strconv.Atoi(l[1])
				}
			}
		}
	}
	for _, tab := range auditTables {
		life, ok := lives[tab.name]
		if !ok || life != tab.life {
			t.Errorf("%s: the schema gives %d s (%t), the audit wants %d", tab.name, life, ok, tab.life)
		}
		if !tab.ends && tab.why == "" {
			t.Errorf("%s: rows may stay, and nothing says why", tab.name)
		}
		delete(lives, tab.name)
	}
	for left := range lives {
		t.Errorf("the audit does not look at %s", left)
	}
}

func TestWhatSSTableMetadataSays(t *testing.T) {
	const text = `SSTable: /d/event_log-1/nb-1-big
Minimum timestamp: 11/25/2026 21:25:11 (1795641911305646)
Maximum timestamp: 11/25/2026 21:26:38 (1795641998252979)
SSTable min local deletion time: 12/02/2026 21:25:11 (1796246711)
SSTable max local deletion time: 12/02/2026 21:26:38 (1796246798)
TTL min: 604800 (7 days)
SSTable: /d/event_log-1/nb-2-big
Minimum timestamp: 11/25/2026 21:25:11 (1795641911305646)
Maximum timestamp: 11/25/2026 21:26:38 (1795641998252979)
SSTable max local deletion time: no tombstones (9223372036854775807)
`
	list, err := readMetadata([]byte(text))
	if err != nil || len(list) != 2 {
		t.Fatalf("got %+v, %v", list, err)
	}
	if f := list[0]; f.min != 1795641911305 || f.max != 1795641998252 || f.over != 1796246798000 {
		t.Errorf("got %+v", f)
	}
	if list[1].over != 0 {
		t.Errorf("a file with a row without an end is over at %s", list[1].over)
	}
	if _, err := readMetadata([]byte("SSTable: x\nMinimum timestamp: (1)\n")); err == nil {
		t.Error("half of it is taken for all")
	}
}

func FuzzReadMetadata(f *testing.F) {
	f.Add([]byte("SSTable: a\nMinimum timestamp: x (1)\nMaximum timestamp: x (2)\nSSTable max local deletion time: x (3)\n"))
	f.Add([]byte("Maximum timestamp: (99999999999999999999)\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := readMetadata(b)
		for _, s := range list {
			if err == nil && s.known != 3 {
				t.Fatalf("%+v", s)
			}
		}
		readBlockers(b)
	})
}

// cassTools reaches the files of a node of deploy/cassandra.
func cassTools(node string) Tools {
	return Tools{Node: node,
		Files: func(ctx context.Context, keyspace, table string) ([]string, error) {
			out, err := exec.CommandContext(ctx, "../../deploy/cassandra/cass", "files", node, keyspace, table).Output()
			return strings.Fields(string(out)), err
		},
		Run: func(ctx context.Context, tool string, args ...string) ([]byte, error) {
			return exec.CommandContext(ctx, "../../deploy/cassandra/cass", append([]string{tool, node}, args...)...).Output()
		}}
}

// needTools skips where the cluster is not of deploy/cassandra.
func needTools(t *testing.T) {
	t.Helper()
	needCluster(t)
	if exec.Command("../../deploy/cassandra/cass", "nodetool", "1", "version").Run() != nil {
		t.Skip("the files can be read on a cluster of deploy/cassandra only")
	}
}

// ownKeyspace makes a keyspace for one test, which changes its tables, and
// returns a store of it with the machine's clock.
func ownKeyspace(t *testing.T) *Store {
	t.Helper()
	var name [5]byte
	if _, err := rand.Read(name[:]); err != nil {
		t.Fatal(err)
	}
	o := testOptions(realNow)
	o.Keyspace, o.Replication = "ebb_audit_"+hex.EncodeToString(name[:]), map[string]int{cluster.dc: min(3, cluster.nodes)}
	if _, err := Up(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	st, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		st.Close()
		if err := drop(o); err != nil {
			t.Error(err)
		}
	})
	return st
}

func mustApply(t *testing.T, st *Store, cql string, args ...any) {
	t.Helper()
	if err := st.s.apply(t.Context(), cql, args...); err != nil {
		t.Fatalf("%s: %v", cql, err)
	}
}

// mustFind returns the findings of a table and fails where none has the text.
func mustFind(t *testing.T, r AuditReport, table string, wants ...string) {
	t.Helper()
	for i := range r.Tables {
		if r.Tables[i].Table != table {
			continue
		}
		for _, want := range wants {
			if n := strings.Count(allFindings(r.Tables[i]), want); n == 0 {
				t.Errorf("%s: nothing says %q:\n%s", table, want, allFindings(r.Tables[i]))
			}
		}
		return
	}
	t.Errorf("the audit does not tell of %s", table)
}

func allFindings(r TableReport) string {
	var b strings.Builder
	for _, f := range r.Findings {
		b.WriteString(f.String() + "\n")
	}
	return b.String()
}

// A row with another write timestamp than now is found by the audit, with its
// place, and by Cassandra's own tool; without one all is well.
func TestAWrongWriteTimestampIsFound(t *testing.T) { // P5
	needTools(t)
	st := ownKeyspace(t)
	ctx, keyspace := t.Context(), st.o.Keyspace
	l := &Log{st: st, o: LogOptions{Groups: 1}}
	frame := func(first int) *retention.Frame {
		f := &retention.Frame{Writer: taxonomy.WriterID{3}, First: uint64(first), N: 5, Time: realNow(), Records: logEvents(first-1, 5)}
		f.Counts = retention.CountSites(f.Records)
		return f
	}
	for i := range 40 {
		if err := l.writeRow(ctx, frame(1+5*i)); err != nil {
			t.Fatal(err)
		}
		if err := st.Events().Put(ctx, []retention.StoredEvent{faultEvent(i + 1)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Keyed().Put(ctx, retention.KeyedSpace{Name: "match"}, []retention.Item{{Key: retention.Key{Partition: "p"}, Value: []byte("v")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Blobs().Put(ctx, "fold/0/1.state", 0, bytes.NewReader(make([]byte, 1000))); err != nil {
		t.Fatal(err)
	}
	flush := func() { cass(t, "nodetool", "1", "flush", keyspace) }
	flush()
	audit := func(tools ...Tools) AuditReport {
		t.Helper()
		r, err := st.Audit(ctx, AuditOptions{Tools: tools})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := audit(cassTools("1"))
	rows, files := map[string]int{}, map[string]int{}
	for _, tab := range r.Tables {
		rows[tab.Table], files[tab.Table] = tab.Rows, tab.Files
		if len(tab.Findings) > 0 {
			t.Errorf("a keyspace that is well: %s: %s", tab.Table, allFindings(tab))
		}
	}
	for _, name := range []string{"event_log", "visitor_events", "keyed_mortal", "blob_part"} {
		if rows[name] == 0 || files[name] == 0 {
			t.Errorf("%s: %d rows and %d files were looked at", name, rows[name], files[name])
		}
	}
	if !r.OK || len(r.Unreached) > 0 || len(r.Places()) < 5 {
		t.Errorf("a keyspace that is well: ok %t, unreached %v, %d places", r.OK, r.Unreached, len(r.Places()))
	}
	if r := audit(); len(r.Unreached) == 0 {
		t.Error("nobody says that no files were looked at")
	}

	// Event time as write timestamp, in the log and among the events; a time to
	// come; no end; too long a life.
	const old = 2 * taxonomy.OneDay
	counts, payload := encodeFrame(frame(1001))
	insert := func(using string) {
		mustApply(t, st, `INSERT INTO event_log (writer, grp, chunk, seq, n, time, counts, bytes, payload) VALUES (?, 0, 0, 1001, 5, ?, ?, ?, ?) USING `+using,
			bytes.Repeat([]byte{9}, 16), int64(realNow()), counts, len(payload), payload)
	}
	micros := func(m taxonomy.Millis) string { return strconv.FormatInt(int64(m)*1000, 10) }
	insert("TIMESTAMP " + micros(realNow()-old))
	row := func(i int, d taxonomy.Day, using string) {
		t.Helper()
		e := faultEvent(i)
		e.Record.Event.Time = d.Start()
		s := st.events.batches([]retention.StoredEvent{e})[0][0]
		mustApply(t, st, strings.TrimSuffix(s.cql, "USING TTL ?")+"USING "+using, s.args[:len(s.args)-1]...)
	}
	today := realNow().Day()
	row(1001, today-2, "TTL 5000 AND TIMESTAMP "+micros(realNow()-old))
	row(1002, today, "TTL 5000 AND TIMESTAMP "+micros(realNow()+30*taxonomy.OneDay))
	row(1003, today, "TTL 0")
	row(1004, today-80, "TTL 7776000")
	r = audit()
	mustFind(t, r, "event_log", "keeps older files from being dropped")
	mustFind(t, r, "visitor_events", "it was received at", "which is to come", "has no end", "its day is over at")

	// And in the files: what is over is kept by the one row.
	mustApply(t, st, `ALTER TABLE event_log WITH default_time_to_live = 10 AND gc_grace_seconds = 1`)
	for i := range 20 {
		if err := l.writeRow(ctx, frame(2001+5*i)); err != nil {
			t.Fatal(err)
		}
	}
	flush()
	mustApply(t, st, `TRUNCATE keyed_mortal`)
	insert("TTL 3600 AND TIMESTAMP " + micros(realNow()-9*taxonomy.OneDay))
	flush()
	<-time.After(12 * time.Second) // the rows' life and gc_grace, by the server's clock
	out, err := cassTools("1").Run(ctx, "sstableexpiredblockers", keyspace, "event_log")
	if err != nil {
		t.Fatal(err)
	}
	blockers := readBlockers(out)
	if len(blockers) == 0 {
		t.Fatalf("the tool names no blocker: %s", out)
	}
	r = audit(cassTools("1"))
	mustFind(t, r, "event_log", "files that are over from being dropped", blockers[0].file, "nothing may lie here for more than 9 days", "default_time_to_live = 604800")
	mustFind(t, r, "visitor_events", "its newest write has the timestamp", "a row without an end")
	if r.OK {
		t.Error("the report is ok")
	}
	bad := 0
	for _, p := range r.Places() {
		if !p.OK {
			bad++
			if p.Fault == "" && p.Age <= p.Bound {
				t.Errorf("%s is not ok and does not say why", p.Name)
			}
		}
	}
	if bad < 2 {
		t.Errorf("%d places are not ok, want the two tables", bad)
	}
	if v := storetest.Visitor(1001 % 100); strings.Contains(allFindings(r.Tables[1]), hex.EncodeToString(v[:])) {
		t.Error("a finding names a visitor") // P4
	}
}
