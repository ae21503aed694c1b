package app_test

import (
	"bytes"
	"context"
	"os"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/app/apptest"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/gziptest"
	"github.com/ebb-dmp/ebb/taxonomy/onboard"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

var ctx = context.Background()

// open opens an App over a file system in memory, at a time that the test holds.
func open(t *testing.T, now *time.Time) *app.App {
	t.Helper()
	return apptest.New(t, func() time.Time { return *now }, nil).App(t)
}

// The main path on real input: purchases of 75,000 rows become visitors,
// categories, an audience and a segment file.
func TestFromPurchasesToASegmentFile(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	a := open(t, &now)
	define := func(kind defs.Kind, id string, body any) {
		t.Helper()
		if err := a.Define(ctx, kind, id, body); err != nil {
			t.Fatal(err)
		}
	}
	define(defs.Source, "journey", taxonomy.Source{ID: "journey", Title: "Complete Journey", Party: 1,
		Agreement: &taxonomy.Agreement{Uses: []string{"store", "profile", "insight", "training", "export"}}})
	define(defs.Taxonomy, "products", tree.Taxonomy{ID: "products", Title: "Products", Categories: []tree.Category{
		{ID: "grocery", Title: "Grocery"}, {ID: "produce", Title: "Produce"}, {ID: "meat", Title: "Meat"}}})
	define(defs.Rule, "department", rules.Rule{ID: "department", When: []rules.Condition{{Field: "kind", Op: "eq", Value: "fact"}}, Then: []string{"c:products/{department}"}})
	define(defs.Audience, "grocery-30", audience.Definition{ID: "grocery-30", Title: "Grocery in 30 days", Kind: audience.KindRule,
		Rule: []byte(`{"and":[{"trait":"c:products/grocery","window":"30d"},{"not":{"trait":"c:products/meat"}}]}`)})
	define(defs.Destination, "dsp", delivery.Destination{ID: "dsp", Title: "A DSP", Audiences: []taxonomy.AudienceID{"grocery-30"}, Floor: 10, KeyHash: delivery.HashKey("ebbp_x")})

	products := gziptest.File(t, os.DirFS("../demo/data"), "products.csv.gz")
	mapping := onboard.Mapping{Missing: []string{"NA"}, Visitor: "household_id", Space: "own:demo", Time: "transaction_timestamp", Layout: "2006-01-02 15:04:05",
		Joins: []onboard.Join{{Name: "products", On: "product_id", Key: "product_id", Columns: []string{"department", "product_category"}}},
		Event: &onboard.EventMapping{Name: "purchase", Props: []onboard.Column{{Column: "department"}, {Column: "product_category"}}}}
	lookup, err := onboard.NewLookup(bytes.NewReader(products), "", mapping.Joins[0])
	if err != nil {
		t.Fatal(err)
	}
	sales := gziptest.File(t, os.DirFS("../demo/data"), "transactions_sample.csv.gz")
	span, err := onboard.Scan(bytes.NewReader(sales), &mapping)
	if err != nil {
		t.Fatal(err)
	}
	mapping.ShiftDays = int(taxonomy.DayOf(now) - span.Last)
	load := func() app.ImportReceipt {
		t.Helper()
		rec, err := a.Import(ctx, app.ImportRequest{Source: "journey", Mapping: mapping, File: bytes.NewReader(sales), Lookups: map[string]*onboard.Lookup{"products": lookup}})
		if err != nil {
			t.Fatal(err)
		}
		return rec
	}
	rec := load()
	if rec.Rows != 75_000 || rec.Stored != 18_638 || rec.Visitors != 2_039 || rec.Rejected[taxonomy.ReasonTooOld] != 56_362 {
		t.Errorf("receipt %+v", rec)
	}
	// R13: the same file again changes nothing.
	if again := load(); again.Stored != 0 || again.Duplicate != 75_000 {
		t.Errorf("the same file again: %+v", again)
	}
	accounts, err := a.Accounts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for site, acc := range accounts {
		if !acc.Balanced() {
			t.Errorf("P2: %s: %+v", site, acc)
		}
	}
	built, err := a.Build(ctx)
	if err != nil {
		t.Fatal(err)
	}
	e, _ := built.Generation.Entry("grocery-30")
	if e.Count == 0 || e.Fault != "" {
		t.Fatalf("audience: %+v", e)
	}
	done, err := a.Deliver(ctx, "dsp")
	if err != nil {
		t.Fatal(err)
	}
	if done.Rows != e.Count || done.Result != delivery.ResultFull {
		t.Errorf("%d members, delivery %+v", e.Count, done)
	}
	t.Logf("%d members in generation %d; file %s of %d bytes", e.Count, built.Generation.Number, done.File, done.Bytes)
	if r := a.Audit(ctx); !r.OK {
		t.Errorf("audit: %+v", r)
	}
	if err := a.Nightly(ctx); err != nil {
		t.Error(err)
	}
}
