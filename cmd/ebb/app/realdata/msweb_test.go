package realdata

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/gziptest"
	"github.com/ebb-dmp/ebb/taxonomy/onboard"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// area is a part of the site.
type area struct {
	id          string
	title, path string
}

// visit is a visitor and the areas that it saw, in order.
type visit struct {
	number int
	areas  []string
}

// on is the day of a visit: the visitor's number says how many days before the
// last it came.
func (v *visit) on() taxonomy.Day { return today - taxonomy.Day(v.number%90) }

// msweb is a week of a large site in 1998 (UCI, "Anonymous Microsoft Web Data"):
// each visitor with the areas that it saw.
type msweb struct {
	areas  map[string]area
	visits []visit
	views  int
	dir    string // has areas.csv and visits.csv, for the other engine

	// What the other engine says: every audience as of each day, and on each of
	// the 90 days how many had each trait.
	asOf  map[taxonomy.Day]map[string]visitors
	cells map[cell]int
}

// keep chooses visitors, and how often estimates are asked for as well.
type keep struct {
	name   string
	has    func(number int) bool
	asking int // days from one time to the next
}

// 31 has no divisor in common with 90, so every day has some.
var (
	everybody = keep{"everybody", func(int) bool { return true }, 1}
	few       = keep{"one in 31", func(n int) bool { return n%31 == 0 }, 10}
)

// later are days after the last visit, on which the visits leave.
var later = []taxonomy.Day{today + 1, today + 2, today + 30, today + 75, today + 88, today + 89, today + 90, today + 91}

// known are the data sets that were read: what the other engine says of one is
// asked once for all tests.
var known = map[string]*msweb{}

// readMSWeb reads the raw lines, keeps the visitors that keep says, writes them
// as CSV and asks the other engine about them. The data is not part of the project: EBB_TEST_SHARED names the
// folder that has it, by default a folder shared beside the project.
func readMSWeb(t *testing.T, keep keep) *msweb {
	t.Helper()
	if m, ok := known[keep.name]; ok {
		return m
	}
	shared := os.Getenv("EBB_TEST_SHARED")
	if shared == "" {
		shared = filepath.Join(top(t), "..", "shared")
	}
	name := filepath.Join(shared, "data", "msweb", "anonymous-msweb.data.gz")
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		missing(t, "no MSWeb data: put anonymous-msweb.data of archive.ics.uci.edu/dataset/4, gzipped, into data/msweb below a folder, and name that folder in EBB_TEST_SHARED")
	}
	m := &msweb{areas: map[string]area{}, dir: t.TempDir()}
	areas, visits := [][]string{{"area", "title", "path"}}, [][]string{{"visitor", "area"}}
	kept := false
	for lines := bufio.NewScanner(bytes.NewReader(gziptest.Plain(t, read(t, name)))); lines.Scan(); {
		f := table(t, lines.Bytes())[0]
		switch f[0] {
		case "A":
			m.areas[f[1]] = area{f[1], f[3], f[4]}
			areas = append(areas, []string{f[1], f[3], f[4]})
		case "C":
			n, err := strconv.Atoi(f[2])
			if err != nil {
				t.Fatal(err)
			}
			if kept = keep.has(n); kept {
				m.visits = append(m.visits, visit{number: n})
			}
		case "V":
			if kept {
				v := &m.visits[len(m.visits)-1]
				v.areas = append(v.areas, f[1])
				visits = append(visits, []string{strconv.Itoa(v.number), f[1]})
				m.views++
			}
		}
	}
	write(t, m.dir, "areas.csv", untable(t, areas))
	write(t, m.dir, "visits.csv", untable(t, visits))
	m.duck(t, append(theDays(), later...))
	known[keep.name] = m
	return m
}

// groups are words in an area's title, and categories what is above groups.
var (
	groups = map[string][]string{
		"office":    {"Office", "Excel", "PowerPoint", "MS Word", "MS Access", "Outlook", "OutLook"},
		"windows":   {"Windows", "NT Server", "NT Workstation"},
		"server":    {"Server", "BackOffice", "SQL"},
		"support":   {"Support"},
		"knowledge": {"Knowledge Base", "TechNet"},
		"developer": {"Develop", "Visual"},
		"download":  {"ownload"},
	}
	aboveGroups = map[string][]string{
		"office": {"products"}, "windows": {"products"}, "server": {"products", "business"},
		"support": {"help"}, "knowledge": {"help"}, "help": {"service"}, "download": {"service"},
		"products": nil, "business": nil, "service": nil, "developer": nil,
	}
)

func (m *msweb) tree() tree.Taxonomy {
	t := tree.Taxonomy{ID: "web", Title: "Areas of the site"}
	for id, parents := range aboveGroups {
		t.Categories = append(t.Categories, tree.Category{ID: id, Title: id, Parents: parents})
	}
	for _, a := range m.areas {
		c := tree.Category{ID: a.id, Title: a.title}
		for group, words := range groups {
			if slices.ContainsFunc(words, func(w string) bool { return strings.Contains(a.title, w) }) {
				c.Parents = append(c.Parents, group)
			}
		}
		slices.Sort(c.Parents)
		t.Categories = append(t.Categories, c)
	}
	slices.SortFunc(t.Categories, func(a, b tree.Category) int { return strings.Compare(a.ID, b.ID) })
	return t
}

// defineMSWeb defines the site, its tree and the audiences. Page views are
// classified by their address, rows of a file by the area that they name.
func (w *world) defineMSWeb(m *msweb, addresses bool) {
	w.t.Helper()
	w.define(defs.Source, "web", taxonomy.Source{ID: "web", Title: "The site", Party: 1, Agreement: &taxonomy.Agreement{Uses: []string{"store", "profile"}}})
	w.define(defs.Site, "msweb", taxonomy.Site{ID: "msweb", Title: "The site", Origins: []string{origin}, Source: "web", Consent: taxonomy.ModeOptIn})
	w.define(defs.Taxonomy, "web", m.tree())
	if !addresses {
		w.define(defs.Rule, "rows", rules.Rule{ID: "rows", When: []rules.Condition{{Field: "kind", Op: "eq", Value: "fact"}}, Then: []string{"c:web/{area}"}})
	} else {
		for _, a := range m.areas {
			id := "area-" + a.id
			w.define(defs.Rule, id, rules.Rule{ID: id, When: []rules.Condition{{Field: "path", Op: "eq", Value: a.path}}, Then: []string{"c:web/" + a.id}})
		}
	}
	w.defineAudiences("msweb")
}

// duck asks the other engine about every audience as of each of some days.
func (m *msweb) duck(t *testing.T, days []taxonomy.Day) {
	t.Helper()
	list := pairs(t, "msweb")
	j := job{Dir: m.dir, Setup: "SET VARIABLE today = " + sqlDay(today) + ";\n" + string(read(t, filepath.Join("testdata", "msweb", "setup.sql")))}
	for _, d := range days {
		j.Asks = append(j.Asks, ask{Vars: map[string]string{"today": sqlDay(d)}, Visitors: questions(list)})
	}
	j.Asks = append(j.Asks, ask{Vars: map[string]string{"today": sqlDay(today)}, Tables: map[string]string{
		"days": "SELECT day::VARCHAR, 'c:web/' || category, count(DISTINCT visitor) FROM about GROUP BY ALL UNION ALL SELECT day::VARCHAR, 'any', count(DISTINCT visitor) FROM seen GROUP BY ALL",
	}})
	answers := duck(t, j)
	m.asOf, m.cells = map[taxonomy.Day]map[string]visitors{}, map[cell]int{}
	for i, d := range days {
		m.asOf[d] = answers[i].Visitors
	}
	for _, r := range answers[len(days)].Tables["days"] {
		m.cells[cell{day(t, r[0]), r[1].(string)}] = int(r[2].(float64))
	}
}

// theDays are the 90 days to today.
func theDays() (days []taxonomy.Day) {
	for d := today.Oldest(); d <= today; d++ {
		days = append(days, d)
	}
	return days
}

// byDay are the visits of each day, by number.
func (m *msweb) byDay() map[taxonomy.Day][]visit {
	out := map[taxonomy.Day][]visit{}
	for _, v := range m.visits {
		out[v.on()] = append(out[v.on()], v)
	}
	for _, vs := range out {
		slices.SortFunc(vs, func(a, b visit) int { return cmp.Compare(a.number, b.number) })
	}
	return out
}

var pageRows = onboard.Mapping{Visitor: "visitor", Space: household, Time: "time", Layout: "2006-01-02 15:04:05",
	Event: &onboard.EventMapping{Name: "view", Props: []onboard.Column{{Column: "area"}}}}

// importVisits takes visits in by the bulk path.
func (w *world) importVisits(visits []visit) app.ImportReceipt {
	w.t.Helper()
	rows := [][]string{{"visitor", "time", "area"}}
	for _, v := range visits {
		for i, a := range v.areas {
			rows = append(rows, []string{strconv.Itoa(v.number), fmt.Sprintf("%s 09:%02d:00", v.on(), i), a})
		}
	}
	rec, err := w.Import(ctx, app.ImportRequest{Source: "web", Mapping: pageRows, File: bytes.NewReader(untable(w.t, rows))})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, v := range visits { // the first import made the key of the space
		k, err := w.Keys.Load().VisitorKey(household, []byte(strconv.Itoa(v.number)), 0)
		if err != nil {
			w.t.Fatal(err)
		}
		w.number[k] = v.number
	}
	return rec
}

// By the bulk path: all audiences equal those of DuckDB, visitor by visitor, at
// the end and, imported day by day, on each of the 90 days. With EBB_LONG these are
// everybody; the race detector sees imports in the Journey's tests.
func TestLongMSWebInBulkEqualsDuckDB(t *testing.T) {
	if os.Getenv("EBB_LONG") == "" {
		inBulk(t, few)
	} else {
		inBulk(t, everybody)
	}
}

func long(t *testing.T) {
	t.Helper()
	if os.Getenv("EBB_LONG") == "" {
		t.Skip("set EBB_LONG=1 to replay all visitors")
	}
}

func inBulk(t *testing.T, keep keep) {
	m := readMSWeb(t, keep)

	t.Run("at once", func(t *testing.T) {
		w := newWorld(t, noon(today))
		w.defineMSWeb(m, false)
		rec := w.importVisits(m.visits)
		if int(rec.Stored) != m.views || rec.Visitors != len(m.visits) {
			t.Errorf("%d visitors, %d views; receipt %+v", len(m.visits), m.views, rec)
		}
		w.settled("import.web", m.views)
		w.same("at once", w.build(), w.estimates(), m.asOf[today])
		w.everyDay(m.cells, "web")
		w.telling(m.asOf[today], len(m.visits))
	})

	t.Run("day by day", func(t *testing.T) {
		w := newWorld(t, noon(today.Oldest()))
		w.defineMSWeb(m, false)
		visits := m.byDay()
		for i, d := range theDays() {
			w.set(noon(d))
			w.importVisits(visits[d])
			w.sameAsOf(m, d, i%keep.asking == 0)
		}
		w.settled("import.web", m.views)
		w.everyDay(m.cells, "web")
	})
}

// sameAsOf builds and compares all audiences with those as of a day.
func (w *world) sameAsOf(m *msweb, d taxonomy.Day, estimate bool) {
	w.t.Helper()
	got := w.build()
	if n := w.Generation().Day(); n != d {
		w.t.Errorf("the generation is as of %s, want %s", n, d)
	}
	var estimates map[string]int
	if estimate {
		estimates = w.estimates()
	}
	w.same(d.String(), got, estimates, m.asOf[d])
}

// settled asserts P2, and that all of n events were stored and nothing else came.
func (w *world) settled(site taxonomy.SiteID, n int) {
	w.t.Helper()
	a := w.balanced()[site]
	if int(a.Stored) != n || a.Queued != 0 || len(a.Rejected)+len(a.Dropped) != 0 {
		w.t.Errorf("%d events of %s, of which became %+v", n, site, a)
	}
}
