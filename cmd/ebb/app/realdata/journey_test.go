package realdata

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"maps"
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

const household = taxonomy.Space("own:demo")

// above is the operator's tree over the departments.
var above = map[string][]string{
	"grocery": {"food"}, "frozen-grocery": {"food", "frozen"}, "fresh": {"food"},
	"produce": {"fresh"}, "meat": {"fresh"}, "deli": {"fresh"}, "seafood": {"fresh"}, "pastry": {"fresh"}, "salad-bar": {"fresh"},
	"meat-pckgd": {"food"}, "seafood-pckgd": {"food"}, "spirits": {"food"}, "restaurant": {"food"},
	"drug-gm": {"non-food"}, "cosmetics": {"non-food", "beauty"}, "nutrition": {"food", "health"},
	"floral": {"non-food"}, "garden-center": {"non-food"},
}

// productTree is three to four levels: what the operator put above, departments,
// and their categories, some of which are frozen as well.
func productTree(products [][]string) tree.Taxonomy {
	parents := map[string][]string{}
	for _, p := range products[1:] {
		if p[2] == "NA" {
			continue
		}
		department := tree.Slug(p[2])
		parents[department] = above[department]
		if p[4] == "NA" {
			continue
		}
		category := tree.Slug(p[4])
		of := []string{department}
		if strings.HasPrefix(category, "frzn") || strings.HasPrefix(category, "frozen") {
			of = append(of, "frozen")
		}
		parents[department+"."+category] = of
	}
	for c, of := range above {
		parents[c] = of
		for _, p := range of {
			if _, ok := parents[p]; !ok {
				parents[p] = above[p]
			}
		}
	}
	t := tree.Taxonomy{ID: "products", Title: "Products"}
	for c, of := range parents {
		t.Categories = append(t.Categories, tree.Category{ID: c, Title: c, Parents: of})
	}
	slices.SortFunc(t.Categories, func(a, b tree.Category) int { return strings.Compare(a.ID, b.ID) })
	return t
}

func table(t *testing.T, b []byte) [][]string {
	t.Helper()
	rows, err := csv.NewReader(bytes.NewReader(b)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func untable(t *testing.T, rows [][]string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := csv.NewWriter(&b).WriteAll(rows); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// journey is the raw files and a world in which they were imported: purchases
// from two sources, by store, and what households said of themselves.
type journey struct {
	*world
	dir       string
	purchases map[taxonomy.SourceID]app.ImportReceipt
	tree      tree.Taxonomy
}

func newJourney(t *testing.T) *journey { return newJourneyWith(t, (*journey).defineRules) }

// defineRules defines the products' tree and what purchases are about.
func (j *journey) defineRules(products tree.Taxonomy) {
	j.t.Helper()
	j.define(defs.Taxonomy, "products", products)
	ten := 10.0
	j.define(defs.Rule, "products", rules.Rule{ID: "products", When: []rules.Condition{{Field: "name", Op: "eq", Value: "purchase"}},
		Then: []string{"c:products/{department}", "c:products/{department}.{product_category}", "k:brand={brand}"}})
	j.define(defs.Rule, "large", rules.Rule{ID: "large", When: []rules.Condition{{Field: "prop.sales_value", Op: "range", Min: &ten}}, Then: []string{"k:size=large"}})
}

// newJourneyWith imports the files after what first defines.
func newJourneyWith(t *testing.T, first func(*journey, tree.Taxonomy)) *journey {
	t.Helper()
	return newJourneyIn(t, newWorld(t, noon(today)), first)
}

func newJourneyIn(t *testing.T, w *world, first func(*journey, tree.Taxonomy)) *journey {
	t.Helper()
	j := &journey{world: w, dir: t.TempDir(), purchases: map[taxonomy.SourceID]app.ImportReceipt{}}
	raw := func(name string) []byte { return gziptest.File(t, os.DirFS("../../demo/data"), name+".csv.gz") }
	products, sales, people := raw("products"), raw("transactions_sample"), raw("demographics")
	write(t, j.dir, "products.csv", products)
	write(t, j.dir, "transactions.csv", sales)
	write(t, j.dir, "demographics.csv", people)

	uses := &taxonomy.Agreement{Uses: []string{"store", "profile", "insight", "export"}}
	for _, id := range []taxonomy.SourceID{"shop", "outlet", "panel"} {
		j.define(defs.Source, string(id), taxonomy.Source{ID: id, Title: string(id), Party: 1, Agreement: uses})
	}
	first(j, productTree(table(t, products)))

	// The purchases of odd stores are one source's, those of even ones another's.
	rows := table(t, sales)
	files := map[taxonomy.SourceID][][]string{"shop": {rows[0]}, "outlet": {rows[0]}}
	for _, r := range rows[1:] {
		store, err := strconv.Atoi(r[1])
		if err != nil {
			t.Fatal(err)
		}
		source := taxonomy.SourceID("outlet")
		if store%2 == 1 {
			source = "shop"
		}
		files[source] = append(files[source], r)
	}
	last, err := taxonomy.ParseDay("2017-12-31")
	if err != nil {
		t.Fatal(err)
	}
	bought := onboard.Mapping{Missing: []string{"NA"}, Visitor: "household_id", Space: household,
		Time: "transaction_timestamp", Layout: "2006-01-02 15:04:05", ShiftDays: int(today - last),
		Joins: []onboard.Join{{Name: "products", On: "product_id", Key: "product_id", Columns: []string{"department", "product_category", "brand"}}},
		Event: &onboard.EventMapping{Name: "purchase", Props: []onboard.Column{{Column: "department"}, {Column: "product_category"}, {Column: "brand"}, {Column: "sales_value"}}}}
	lookup, err := onboard.NewLookup(bytes.NewReader(products), "", bought.Joins[0])
	if err != nil {
		t.Fatal(err)
	}
	for source, rows := range files {
		j.purchases[source] = j.load(source, bought, untable(t, rows), map[string]*onboard.Lookup{"products": lookup})
	}

	said := onboard.Mapping{Missing: []string{"NA"}, Visitor: "household_id", Space: household,
		Attributes: []onboard.Column{{Column: "age"}, {Column: "income"}, {Column: "marital_status", Key: "status"}}}
	if rec := j.load("panel", said, people, nil); rec.Rows != 801 || rec.Accepted != 801 {
		t.Errorf("demographics: %+v", rec)
	}
	// Whoever owns a home is put on a list; a minute later whoever of all is
	// married is taken off.
	owners, married := [][]string{{"household_id"}}, [][]string{{"household_id"}}
	for _, r := range table(t, people)[1:] {
		if r[3] == "Homeowner" {
			owners = append(owners, r[:1])
		}
		if r[4] == "Married" {
			married = append(married, r[:1])
		}
	}
	on := onboard.Mapping{Visitor: "household_id", Space: household, List: &onboard.ListMapping{ID: "owners"}}
	j.load("panel", on, untable(t, owners), nil)
	j.set(noon(today) + taxonomy.Minute)
	off := on
	off.List = &onboard.ListMapping{ID: "owners", Out: true}
	j.load("panel", off, untable(t, married), nil)

	for _, r := range append(rows[1:], table(t, people)[1:]...) {
		n, err := strconv.Atoi(r[0])
		if err != nil {
			t.Fatal(err)
		}
		k, err := j.Keys.Load().VisitorKey(household, []byte(r[0]), 0)
		if err != nil {
			t.Fatal(err)
		}
		j.number[k] = n
	}
	j.tree = productTree(table(t, products))
	j.defineAudiences("journey")
	return j
}

func (j *journey) load(source taxonomy.SourceID, m onboard.Mapping, file []byte, lookups map[string]*onboard.Lookup) app.ImportReceipt {
	j.t.Helper()
	rec, err := j.Import(ctx, app.ImportRequest{Source: source, Mapping: m, File: bytes.NewReader(file), Lookups: lookups})
	if err != nil {
		j.t.Fatal(err)
	}
	return rec
}

// duck asks the other engine about every audience, with the sources in use.
func (j *journey) duck(inUse ...string) answer {
	j.t.Helper()
	vars := map[string]string{"today": sqlDay(today), "in_use": fmt.Sprintf("['%s']::VARCHAR[]", strings.Join(inUse, "', '"))}
	setup := "SET VARIABLE today = " + vars["today"] + ";\n" + string(read(j.t, filepath.Join("testdata", "journey", "setup.sql")))
	tables := map[string]string{
		"nodes":  "SELECT category, count(DISTINCT visitor) FROM about GROUP BY ALL",
		"totals": "SELECT count(*), count(DISTINCT visitor) FROM bought",
		"days":   "SELECT day::VARCHAR, category, count(DISTINCT visitor) FROM about GROUP BY ALL",
	}
	maps.Copy(tables, j.profiles())
	return duck(j.t, job{Dir: j.dir, Setup: setup, Asks: []ask{{Vars: vars, Visitors: questions(j.rules), Tables: tables}}})[0]
}

// R13, R14, R15, R16: audiences over real purchases are those of DuckDB, visitor
// by visitor, in the generation and as estimates.
func TestJourneyAudiencesEqualDuckDB(t *testing.T) {
	j := newJourney(t)
	want := j.duck("shop", "outlet")

	var stored, old uint64
	for _, rec := range j.purchases {
		stored += rec.Stored
		old += rec.Rejected[taxonomy.ReasonTooOld]
	}
	total := want.Tables["totals"][0]
	if stored != 18_638 || old != 56_362 || total[0] != 18_638.0 || total[1] != 2_039.0 {
		t.Errorf("%d purchases stored, %d too old; DuckDB keeps %v of %v households", stored, old, total[0], total[1])
	}
	accounts := j.balanced()
	if a := accounts[taxonomy.ImportSite("shop")]; a.Received == 0 || a.Queued != 0 {
		t.Errorf("shop: %+v", a)
	}

	got := j.build()
	j.same("all sources", got, j.estimates(), want.Visitors)
	j.telling(want.Visitors, 2_039)

	days := map[cell]int{}
	for _, r := range want.Tables["days"] {
		days[cell{day(t, r[0]), "c:products/" + r[1].(string)}] = int(r[2].(float64))
	}
	j.everyDay(days, "shop", "outlet", "panel")
	j.everyNode(want.Tables["nodes"])
	j.reports(want)

	// R19: what a withdrawn source brought leaves with the next generation.
	j.define(defs.Source, "outlet", taxonomy.Source{ID: "outlet", Title: "outlet", Party: 1, Withdrawn: true})
	without := j.duck("shop")
	j.same("outlet withdrawn", j.build(), j.estimates(), without.Visitors)
	j.reports(without)
	if slices.Equal(without.Visitors["grocery-30"], want.Visitors["grocery-30"]) {
		t.Error("withdrawing half of the stores changed nothing")
	}
	j.balanced()
}

// everyNode holds the reach of every category, in the 90 days and each visitor
// counted once, against the other engine's (R14).
func (j *journey) everyNode(rows [][]any) {
	j.t.Helper()
	var traits []taxonomy.Trait
	want := map[taxonomy.Trait]int{}
	for _, r := range rows {
		trait := taxonomy.Trait("c:products/" + r[0].(string))
		traits, want[trait] = append(traits, trait), int(r[1].(float64))
	}
	reach, err := j.Reach(ctx, traits)
	if err != nil {
		j.t.Fatal(err)
	}
	if len(reach.Courses) != len(want) || len(want) < 100 {
		j.t.Errorf("%d categories counted, DuckDB has %d", len(reach.Courses), len(want))
	}
	for _, c := range reach.Courses {
		if int(c.Visitors) != want[c.Trait] {
			j.t.Errorf("%s: %d visitors, DuckDB counts %d", c.Trait, c.Visitors, want[c.Trait])
		}
	}
}
