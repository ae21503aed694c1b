package cassandra

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// auditTable is what the audit knows of a table of ours.
type auditTable struct {
	name string
	// life is the TTL of the schema: rows without one of their own have it. 0: rows
	// may stay for ever, and why says why that is right.
	life int
	why  string
	// ends: every row has an end. Others may have rows of both kinds.
	ends bool
	// bound is how many days after it was written a byte may lie on disk.
	bound int
	// window of the compaction in days' parts; 0 without windows.
	window taxonomy.Millis
}

const day = int(taxonomy.OneDay / taxonomy.Second)

// auditTables are all tables of the schema. A test holds that none is missing.
var auditTables = []auditTable{
	{name: "event_log", life: 7 * day, ends: true, bound: 9, window: 6 * taxonomy.Hour},
	{name: "visitor_events", life: 90 * day, ends: true, bound: eventBound, window: 3 * taxonomy.OneDay},
	{name: "erasure", life: 100 * day, ends: true, bound: 107, window: 5 * taxonomy.OneDay},
	{name: "keyed_mortal", life: 90 * day, ends: true, bound: otherBound},
	{name: "blob_part", life: 90 * day, bound: otherBound, why: "parts of the current checkpoint stay until the next replaces them"},
	{name: "blob_head", why: "heads end with their blob; light-weight transactions only"},
	{name: "blob_gone", why: "names of parts to be removed, no data of visitors"},
	{name: "keyed_lasting", why: "definitions' history and the audit log, no behaviour"},
	{name: "keyed_swapped", why: "definitions and heads, no behaviour; a value goes when it is over"},
	{name: "lease", why: "terms must never be forgotten"},
	{name: "log_writer", why: "removed 14 days after a writer was closed"},
	{name: "setting", why: "numbers of the installation"},
	{name: "schema_version", why: "numbers of the installation"},
}

// Finding is something that is not as it must be, with its place.
type Finding struct {
	// Where is a node and file, or a partition; never a visitor.
	Where string `json:"where"`
	What  string `json:"what"`
	Do    string `json:"do"`
}

func (f Finding) String() string { return f.Where + ": " + f.What + "; " + f.Do }

// TableReport is what the audit found in a table.
type TableReport struct {
	Table string `json:"table"`
	// TTL is the life that the schema gives a row in seconds, 0 for none.
	TTL int `json:"ttl"`
	// Lasting says why rows may have no end, "" where all have one.
	Lasting string `json:"lasting,omitempty"`
	// Rows is how many rows were looked at.
	Rows int `json:"rows"`
	// OldestWrite is the oldest write timestamp that was met, in rows and files,
	// and NewestWrite the newest; 0 if there was none.
	OldestWrite taxonomy.Millis `json:"oldest_write"`
	NewestWrite taxonomy.Millis `json:"newest_write"`
	// Files is how many data files were looked at, of those nodes whose tools can
	// be reached, and Bytes their size where the tools say it.
	Files int `json:"files"`
	// Bound is how many days after its write a byte may lie on disk, 0 for no
	// bound.
	Bound    int       `json:"bound"`
	Findings []Finding `json:"findings"`
}

// AuditReport is an audit of a keyspace (P5): it is well if nothing was found.
type AuditReport struct {
	At     taxonomy.Millis `json:"at"`
	OK     bool            `json:"ok"`
	Tables []TableReport   `json:"tables"`
	// Unreached says of which nodes files were not looked at, and why.
	Unreached []string `json:"unreached,omitempty"`
}

// Tools reaches the data files of one node of Cassandra: on the same machine,
// or over whatever the operator has.
type Tools struct {
	Node string // for people to read
	// Files returns the data files (…-Data.db) of a table.
	Files func(ctx context.Context, keyspace, table string) ([]string, error)
	// Run runs one of Cassandra's own tools, sstablemetadata or
	// sstableexpiredblockers, and returns what it prints.
	Run func(ctx context.Context, tool string, args ...string) ([]byte, error)
}

// AuditOptions of an audit.
type AuditOptions struct {
	Tools []Tools
	// Rows bounds how many rows of a table are looked at (20,000), spread evenly
	// over the ring. Files are looked at whole.
	Rows int
}

// findingsKept bounds the findings that are told of one table: a thousand of one
// kind say no more than ten.
const findingsKept = 10

// stampSlack is how far a write timestamp may be off: clocks of nodes differ by
// at most maxSkew, and a statement is repeated for some seconds.
const stampSlack = taxonomy.Millis(60 * taxonomy.Second)

func (r *TableReport) add(where, what, do string) {
	if len(r.Findings) < findingsKept {
		r.Findings = append(r.Findings, Finding{where, what, do})
	}
}

func (r *TableReport) wrote(at taxonomy.Millis) {
	if at <= 0 {
		return
	}
	if r.OldestWrite == 0 || at < r.OldestWrite {
		r.OldestWrite = at
	}
	r.NewestWrite = max(r.NewestWrite, at)
}

// Audit looks at every table of the keyspace: what the schema says of lives, a
// sample of rows (each has an end, and was written with the time of its writing),
// and, where tools reach them, every file (nothing too old, nothing from the
// future, nothing that is over and stays), and what keeps files from being
// dropped. An error says that the cluster could not be asked.
func (st *Store) Audit(ctx context.Context, o AuditOptions) (AuditReport, error) {
	if o.Rows <= 0 {
		o.Rows = 20_000
	}
	report := AuditReport{At: st.o.Now(), OK: true, Tables: []TableReport{}}
	there, err := st.readTables(ctx)
	if err != nil {
		return report, fmt.Errorf("audit: read the schema: %w", err)
	}
	unreached := map[string]string{}
	if len(o.Tools) == 0 {
		unreached["every node"] = "no tools are configured; run the audit where sstablemetadata reaches the data files"
	}
	for _, t := range auditTables {
		schema, ok := there[t.name]
		delete(there, t.name)
		if !ok {
			continue // a step that is not applied: Problems says so
		}
		r := TableReport{Table: t.name, TTL: schema.ttl, Lasting: t.why, Bound: t.bound, Findings: []Finding{}}
		st.auditSchema(&r, t, schema)
		if err := st.auditRows(ctx, &r, t, schema, o.Rows); err != nil {
			return report, fmt.Errorf("audit: read %s: %w", t.name, err)
		}
		for _, tools := range o.Tools {
			if t.bound == 0 {
				break // no data of visitors: its files say nothing of it
			}
			if err := st.auditFiles(ctx, &r, t, schema, tools); err != nil {
				unreached[tools.Node] = err.Error()
			}
		}
		report.OK = report.OK && len(r.Findings) == 0
		report.Tables = append(report.Tables, r)
	}
	for _, name := range sortedKeys(there) {
		r := TableReport{Table: name, TTL: there[name].ttl}
		r.add("table "+name, "it is none of Ebb's: nobody ends what is in it", "move it to another keyspace, or drop it")
		report.OK = false
		report.Tables = append(report.Tables, r)
	}
	for _, node := range sortedKeys(unreached) {
		report.Unreached = append(report.Unreached, node+": "+unreached[node])
	}
	return report, nil
}

func sortedKeys[V any](m map[string]V) []string {
	list := make([]string, 0, len(m))
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}

// schemaOf is what the schema says of a table.
type schemaOf struct {
	ttl, grace int
	options    map[string]string // of compaction
	repair     string
}

func (st *Store) readTables(ctx context.Context) (map[string]schemaOf, error) {
	there := map[string]schemaOf{}
	err := st.s.rows(ctx, func() { clear(there) }, func(scan func(...any) error) error {
		var name string
		var s schemaOf
		err := scan(&name, &s.ttl, &s.grace, &s.options, &s.repair)
		there[name] = s
		return err
	}, `SELECT table_name, default_time_to_live, gc_grace_seconds, compaction, read_repair FROM system_schema.tables WHERE keyspace_name = ?`, st.o.Keyspace)
	return there, err
}

// auditSchema compares a table's settings with those on which lives rest.
func (st *Store) auditSchema(r *TableReport, t auditTable, s schemaOf) {
	where := "table " + t.name
	alter := func(with string) string {
		return fmt.Sprintf("run ALTER TABLE %s.%s WITH %s", st.o.Keyspace, t.name, with)
	}
	if s.ttl != t.life {
		r.add(where, fmt.Sprintf("its rows live %s unless they say otherwise, it should be %s", seconds(s.ttl), seconds(t.life)), alter(fmt.Sprintf("default_time_to_live = %d", t.life)))
	}
	if t.bound > 0 && s.grace > day {
		r.add(where, fmt.Sprintf("what is over stays on disk %s longer, it should be a day", seconds(s.grace)), alter(fmt.Sprintf("gc_grace_seconds = %d", day)))
	}
	if t.window == 0 {
		return
	}
	if !strings.HasSuffix(s.options["class"], "TimeWindowCompactionStrategy") {
		r.add(where, "files are not kept by time, so they are not dropped whole", alter("the compaction of the schema's file"))
	}
	if s.repair != "NONE" {
		r.add(where, "reads repair rows, which mixes old ones into new files that then do not go", alter("read_repair = 'NONE'"))
	}
	if strings.EqualFold(s.options["unsafe_aggressive_sstable_expiration"], "true") {
		r.add(where, "files are dropped without a look at what they cover, so an erasure may be dropped before what it erased", alter("unsafe_aggressive_sstable_expiration = false in its compaction"))
	}
}

func seconds(n int) string {
	if n == 0 {
		return "for ever"
	}
	if n%day == 0 {
		return fmt.Sprintf("%d days", n/day)
	}
	return (time.Duration(n) * time.Second).String()
}

// Places returns the report as the audit of places that any store has: one a
// table that keeps data of visitors, and every table with a finding.
func (r AuditReport) Places() []forget.Place {
	var list []forget.Place
	for i := range r.Tables {
		t := &r.Tables[i]
		if t.Bound == 0 && len(t.Findings) == 0 {
			continue
		}
		p := forget.Place{Name: "cassandra/" + t.Table, Bound: t.Bound, OK: len(t.Findings) == 0}
		if t.OldestWrite > 0 {
			d := t.OldestWrite.Day()
			p.Oldest, p.Age = &d, int(r.At.Day()-d)
		}
		if t.Bound > 0 && p.Age > t.Bound {
			p.OK = false
		}
		var what []string
		for _, f := range t.Findings {
			what = append(what, f.String())
		}
		p.Fault = strings.Join(what, "\n")
		list = append(list, p)
	}
	return list
}
