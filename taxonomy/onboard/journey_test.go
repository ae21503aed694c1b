package onboard

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/gziptest"
)

// The real file that the demo imports.
const journey = "../../cmd/ebb/demo/data"

func open(t *testing.T, name string) []byte {
	t.Helper()
	return gziptest.File(t, os.DirFS(journey), name)
}

func journeyMapping() *Mapping {
	return &Mapping{
		Visitor: "household_id", Space: "own:demo", Missing: []string{"NA"},
		Time: "transaction_timestamp", Layout: "2006-01-02 15:04:05",
		Joins: []Join{{Name: "products", On: "product_id", Key: "product_id", Columns: []string{"department", "product_category"}}},
		Event: &EventMapping{Name: "purchase", Props: []Column{{Column: "department"}, {Column: "product_category"}, {Column: "sales_value"}}},
	}
}

// R20: imports reach 89 days back. The numbers were counted with another
// program (Python's csv) over the same file.
func TestCompleteJourneyHas18638RowsInTheLast90Days(t *testing.T) {
	m := journeyMapping()
	table, err := NewLookup(bytes.NewReader(open(t, "products.csv.gz")), "", m.Joins[0])
	if err != nil {
		t.Fatal(err)
	}
	if table.Len() != 92331 {
		t.Errorf("%d products, want 92331", table.Len())
	}
	file := open(t, "transactions_sample.csv.gz")
	span, err := Scan(bytes.NewReader(file), m)
	if err != nil {
		t.Fatal(err)
	}
	if span.Rows != 75000 || span.First.String() != "2017-01-01" || span.Last.String() != "2017-12-31" {
		t.Errorf("span %+v", span)
	}
	today, _ := taxonomy.ParseDay("2026-11-25")
	m.ShiftDays = int(today - span.Last)
	now := today.Start() + 12*taxonomy.Hour

	households, departments, faults := map[string]bool{}, map[string]int{}, 0
	rep, err := Parse(bytes.NewReader(file), m, Input{Now: now, Lookups: map[string]*Lookup{"products": table}},
		func(f *Fact) error {
			households[f.Visitor] = true
			d, _ := f.Event.Prop("department")
			departments[d]++
			e := f.Event
			if e.Kind != taxonomy.EventFact || e.Name != "purchase" || e.Time > now || e.Time.Day() < today.Oldest() || f.Statement != nil || f.Number != f.Row {
				t.Fatalf("row %d: %+v", f.Row, e)
			}
			if !slices.IsSortedFunc(e.Props, func(a, b taxonomy.Prop) int { return strings.Compare(a.Key, b.Key) }) {
				t.Fatalf("row %d: %v", f.Row, e.Props)
			}
			return nil
		},
		func(f Fault) {
			faults++
			if f.Reason != taxonomy.ReasonTooOld || f.Column != "transaction_timestamp" || f.Line != int(f.Row)+1 {
				t.Fatalf("%+v", f)
			}
		})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Rows != 75000 || rep.Accepted != 18638 || rep.Records != 18638 || rep.Rejected[taxonomy.ReasonTooOld] != 56362 || len(rep.Rejected) != 1 {
		t.Errorf("report %+v", rep)
	}
	if faults != 56362 || len(households) != 2039 {
		t.Errorf("%d faults, %d households", faults, len(households))
	}
	if departments["GROCERY"] != 12042 || departments["FUEL"] != 169 || departments["CHEF SHOPPE"] != 6 {
		t.Errorf("departments %v", departments)
	}
	if rep.First != today.Oldest() || rep.Last != today || rep.Ahead == 0 {
		t.Errorf("report %+v", rep)
	}
}

func TestDemographicsAreStatements(t *testing.T) {
	m := &Mapping{Visitor: "household_id", Space: "own:demo", Missing: []string{"NA"},
		Attributes: []Column{{Column: "income"}, {Column: "age"}, {Column: "home_ownership", Key: "home"}}}
	now := taxonomy.Day(20782).Start()
	numbers, traits := map[uint32]bool{}, map[taxonomy.Trait]int{}
	rep, err := Parse(bytes.NewReader(open(t, "demographics.csv.gz")), m, Input{Now: now}, func(f *Fact) error {
		if numbers[f.Number] || f.Event != nil || f.Statement.Time != now || f.Statement.Until != 0 {
			t.Fatalf("%+v %+v", f, f.Statement)
		}
		numbers[f.Number] = true
		traits[f.Statement.Trait]++
		return nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ages, homes := 0, 0
	for x, n := range traits {
		switch key, _ := x.Statement(); key {
		case "a:age":
			ages += n
		case "a:home":
			homes += n
		}
	}
	if rep.Rows != 801 || rep.Accepted != 801 || ages != 801 || homes == 801 || traits["a:age=45-54"] == 0 || traits["a:home=NA"] != 0 {
		t.Errorf("%+v, %d ages, %d homes, %v", rep, ages, homes, traits)
	}
	if rep.Records != uint64(len(numbers)) {
		t.Errorf("%d records, %d numbers", rep.Records, len(numbers))
	}
}
