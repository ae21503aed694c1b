package realdata

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/app/apptest"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

var ctx = context.Background()

// today is the day on which all data ends. The 90 days to it cross a quarter,
// so visitor keys of two store keys meet.
var today = taxonomy.DayOf(time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC))

// world is an App over a file system in memory whose clock the test holds, and
// the numbers by which the raw data knows its visitors.
type world struct {
	*app.App
	*apptest.Place
	t   *testing.T
	now atomic.Int64 // ms since 1970
	// number of a visitor key in the raw data.
	number map[taxonomy.VisitorKey]int
	rules  []rule
	byID   map[taxonomy.AudienceID]query.Expr
}

func (w *world) set(now taxonomy.Millis) { w.now.Store(int64(now)) }

func noon(d taxonomy.Day) taxonomy.Millis { return d.Start() + 12*taxonomy.Hour }

// newWorld opens an App at an instant.
func newWorld(t *testing.T, now taxonomy.Millis) *world {
	t.Helper()
	return newWorldIn(t, now, nil, nil)
}

// newWorldIn is newWorld with given keys, unless they are nil, and further
// settings, such as another store. What is logged as an error fails the test.
func newWorldIn(t *testing.T, now taxonomy.Millis, ring *keys.Ring, settings map[string]string) *world {
	t.Helper()
	w := &world{t: t, number: map[taxonomy.VisitorKey]int{}, byID: map[taxonomy.AudienceID]query.Expr{}}
	w.set(now)
	w.Place = apptest.New(t, func() time.Time { return taxonomy.Millis(w.now.Load()).Time() }, settings)
	w.Settings["new_ids_per_minute"] = "10000000" // one address replays the visitors of three months (R34)
	if ring != nil {
		w.Keys.Store(ring)
	}
	var logged lockedBuffer
	w.Change = func(o *app.Options) {
		o.AnyClock, o.Logger = true, slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelError}))
	}
	t.Cleanup(func() {
		if s := logged.String(); s != "" {
			t.Errorf("errors were logged:\n%s", s)
		}
	})
	w.App = w.Place.App(t) // closed before what was logged is looked at
	return w
}

func (w *world) define(kind defs.Kind, id string, body any) {
	w.t.Helper()
	if err := w.Define(ctx, kind, id, body); err != nil {
		w.t.Fatal(err)
	}
}

// rule is an audience in Ebb's words and in SQL.
type rule struct {
	id   taxonomy.AudienceID
	json []byte
	sql  string
}

// pairs reads testdata/DIR/*.json, each with its .sql.
func pairs(t *testing.T, dir string) []rule {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("testdata", dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	var out []rule
	for _, name := range names {
		r := rule{id: taxonomy.AudienceID(strings.TrimSuffix(filepath.Base(name), ".json")), json: read(t, name)}
		r.sql = string(read(t, strings.TrimSuffix(name, ".json")+".sql"))
		out = append(out, r)
	}
	if len(out) < 20 {
		t.Fatalf("%d audiences in testdata/%s, want at least 20", len(out), dir)
	}
	return out
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, dir, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// defineAudiences defines the audiences of testdata/DIR, all of them for pages.
func (w *world) defineAudiences(dir string) {
	w.t.Helper()
	w.rules = pairs(w.t, dir)
	for _, r := range w.rules {
		e, err := query.Parse(r.json)
		if err != nil {
			w.t.Fatalf("%s: %v", r.id, err)
		}
		w.byID[r.id] = e
		w.define(defs.Audience, string(r.id), audience.Definition{ID: r.id, Title: string(r.id), Kind: audience.KindRule, Rule: json.RawMessage(r.json), Page: true})
	}
}

// questions are the audiences in SQL.
func questions(rules []rule) map[string]string {
	out := map[string]string{}
	for _, r := range rules {
		out[string(r.id)] = r.sql
	}
	return out
}

// day is a day in SQL.
func sqlDay(d taxonomy.Day) string { return "DATE '" + d.String() + "'" }

// build builds a generation and returns its audiences by the numbers of the raw
// data, after checking that the entries count exactly these.
func (w *world) build() map[string]visitors {
	w.t.Helper()
	built, err := w.Build(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(built.Faults) > 0 {
		w.t.Fatalf("faults: %v", built.Faults)
	}
	out := map[string]visitors{}
	for _, r := range w.rules {
		e, ok := w.Generation().Entry(r.id)
		if !ok {
			w.t.Fatalf("%s is not in the generation", r.id)
		}
		set, err := w.Members(ctx, r.id)
		if err != nil {
			w.t.Fatal(err)
		}
		of := w.numbers(set)
		if uint64(len(of)) != e.Count {
			w.t.Errorf("%s: the generation counts %d, its file has %d visitors of the raw data", r.id, e.Count, len(of))
		}
		out[string(r.id)] = of
	}
	return out
}

// numbers are the visitors of a set, by the numbers of the raw data.
func (w *world) numbers(set index.Set) visitors {
	w.t.Helper()
	v, out := w.View(), visitors{}
	for shard, b := range set {
		for _, o := range b.ToArray() {
			k, ok := v.Key(shard, o)
			n, known := w.number[k]
			if !ok || !known {
				w.t.Fatal("a member who is no visitor of the raw data")
			}
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// estimates asks for each audience as an estimate.
func (w *world) estimates() map[string]int {
	w.t.Helper()
	out := map[string]int{}
	for _, r := range w.rules {
		e, err := w.Estimate(ctx, w.byID[r.id])
		if err != nil {
			w.t.Fatalf("%s: %v", r.id, err)
		}
		if e.Count == 0 && len(e.WhyEmpty) == 0 {
			w.t.Errorf("%s: an estimate of 0 without a reason", r.id)
		}
		out[string(r.id)] = int(e.Count)
	}
	return out
}

// same compares audiences with those of the other engine, visitor by visitor,
// and estimates, if there are any, with their sizes.
func (w *world) same(when string, got map[string]visitors, estimates map[string]int, want map[string]visitors) {
	w.t.Helper()
	for _, r := range w.rules {
		id := string(r.id)
		g, x := got[id], want[id]
		if !slices.Equal(g, x) {
			w.t.Errorf("%s, %s: %d visitors, DuckDB has %d; too many %v, missing %v", when, id, len(g), len(x), some(minus(g, x)), some(minus(x, g)))
		}
		if n, ok := estimates[id]; ok && n != len(x) {
			w.t.Errorf("%s, %s: estimated %d, DuckDB counts %d", when, id, n, len(x))
		}
	}
}

func minus(a, b visitors) (out visitors) {
	for _, v := range a {
		if _, ok := slices.BinarySearch(b, v); !ok {
			out = append(out, v)
		}
	}
	return out
}

func some(v visitors) visitors { return v[:min(len(v), 5)] }

// balanced asserts P2 for every site, and returns the accounts.
func (w *world) balanced() map[taxonomy.SiteID]app.Account {
	w.t.Helper()
	accounts, err := w.Accounts(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	for site, a := range accounts {
		if !a.Balanced() {
			w.t.Errorf("P2: %s: %+v", site, a)
		}
	}
	return accounts
}

// telling fails if the audiences are so chosen that equality says little: too
// many that are empty or hold everybody.
func (w *world) telling(sizes map[string]visitors, everybody int) {
	w.t.Helper()
	dull := 0
	for _, id := range slices.Sorted(maps.Keys(sizes)) {
		n := len(sizes[id])
		if n == 0 || n == everybody {
			dull++
		}
		w.t.Logf("%-28s %6d", id, n)
	}
	if len(sizes)-dull < 20 {
		w.t.Errorf("only %d of %d audiences hold some visitors and not all", len(sizes)-dull, len(sizes))
	}
}

// contains reports which audiences have a visitor, sorted.
func containing(sets map[string]visitors, n int) []string {
	var out []string
	for id, v := range sets {
		if _, ok := slices.BinarySearch(v, n); ok {
			out = append(out, id)
		}
	}
	slices.SortFunc(out, cmp.Compare[string])
	return out
}
