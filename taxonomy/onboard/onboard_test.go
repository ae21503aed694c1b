package onboard

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

const today = taxonomy.Day(20782)

var noon = today.Start() + 12*taxonomy.Hour

func shop() *Mapping {
	return &Mapping{Visitor: "id", Space: "own:shop", Time: "t", Layout: "2006-01-02 15:04:05",
		Event: &EventMapping{Kind: "conversion", Name: "order", ID: []string{"order", "line"}, Props: []Column{{"what", "product"}, {"price", ""}}}}
}

func parse(t testing.TB, m *Mapping, in Input, file string) (facts []Fact, faults []Fault, rep Report) {
	t.Helper()
	rep, err := Parse(strings.NewReader(file), m, in, func(f *Fact) error { facts = append(facts, *f); return nil },
		func(f Fault) { faults = append(faults, f) })
	if err != nil {
		t.Fatal(err)
	}
	var sum uint64
	for _, n := range rep.Rejected {
		sum += n
	}
	if rep.Rows != rep.Accepted+sum || sum != uint64(len(faults)) || rep.Records != uint64(len(facts)) {
		t.Errorf("the report does not add up: %+v, %d faults, %d facts", rep, len(faults), len(facts))
	}
	return facts, faults, rep
}

func TestARowBecomesAnEvent(t *testing.T) {
	facts, faults, rep := parse(t, shop(), Input{Now: noon},
		"\ufeffid,t,order,line,what,price\r\n7,2026-11-20 08:00:00,A1,2,\"Skis, \"\"long\"\"\",199\r\n")
	if len(faults) != 0 || len(facts) != 1 {
		t.Fatalf("%v %v", facts, faults)
	}
	f := facts[0]
	e := f.Event
	if f.Row != 1 || f.Number != 1 || f.Visitor != "7" || f.ID != "A1\x1f1\x1f2" || e.Kind != taxonomy.EventConversion || e.Name != "order" ||
		e.Time.String() != "2026-11-20T08:00:00.000Z" || !slices.Equal(e.Props, []taxonomy.Prop{{Key: "price", Value: "199"}, {Key: "product", Value: `Skis, "long"`}}) {
		t.Errorf("%+v %+v", f, e)
	}
	if rep.First != rep.Last || rep.First.String() != "2026-11-20" {
		t.Errorf("%+v", rep)
	}
}

func TestABadRowIsNamedAndTheRestGoesOn(t *testing.T) {
	m := shop()
	m.Missing = []string{"NA"}
	facts, faults, rep := parse(t, m, Input{Now: noon, Refuse: func(k, v string) bool { return strings.Contains(v, "@") }},
		"id,t,order,line,what,price\n"+
			"1,2026-11-20 08:00:00,A,1,x,1\n"+ // row 1, line 2
			",2026-11-20 08:00:00,A,1,x,1\n"+ // 2, 3
			"jane@example.com,2026-11-20 08:00:00,A,1,x,1\n"+ // 3, 4
			"3,yesterday,A,1,x,1\n"+ // 4, 5
			"3,NA,A,1,x,1\n"+ // 5, 6
			"3,2026-11-20 08:00:00,A\n"+ // 6, 7
			"\n"+ // line 8, no row
			"3,2026-11-20 08:00:00,NA,1,x,1\n"+ // 7, 9
			"3,2026-08-27 23:59:59,A,1,x,1\n"+ // 8, 10
			"3,2026-08-28 00:00:00,A,1,x,1\n"+ // 9, 11
			"3,2026-11-20 08:00:00,A,1,\"never closed,1\n"+ // 10, 12
			"4,2026-11-20 08:00:00,A,1,NA,jane@example.com\n"+ // 11, 13
			"5,2026-11-20 08:00:00,A,1,\"x\"y,1\n"+ // 12, 14
			"5,2026-11-20 08:00:00,A,1,x\"y,1\n"+ // 13, 15
			"5,2026-11-20 08:00:00,A,1,\xff,1\n"+ // 14, 16
			"5,2026-11-20 08:00:00,A,1,"+strings.Repeat("x", 1025)+",1\n"+ // 15, 17
			strings.Repeat("5", 257)+",2026-11-20 08:00:00,A,1,x,1\n"+ // 16, 18
			"6,2027-11-20 08:00:00,A,1,\"two\nlines\",1\n"+ // 17, 19
			"6,2027-11-20 08:00:00,A,1,x,1") // 18, 21, the last without an end
	var rows []uint32
	for _, f := range facts {
		rows = append(rows, f.Row)
	}
	if want := []uint32{1, 9, 11, 18}; !slices.Equal(rows, want) {
		t.Errorf("accepted %v, want %v", rows, want)
	}
	want := []struct {
		row    uint32
		line   int
		column string
		reason taxonomy.Reason
	}{
		{2, 3, "id", "bad_row"}, {3, 4, "id", "pii"}, {4, 5, "t", "bad_row"}, {5, 6, "t", "bad_row"}, {6, 7, "", "bad_row"},
		{7, 9, "order", "bad_row"}, {8, 10, "t", "too_old"}, {10, 12, "", "bad_row"}, {12, 14, "", "bad_row"}, {13, 15, "", "bad_row"},
		{14, 16, "what", "bad_row"}, {15, 17, "what", "bad_row"}, {16, 18, "id", "bad_row"}, {17, 19, "what", "bad_row"},
	}
	for i, w := range want {
		if i >= len(faults) {
			t.Fatalf("%d faults, want %d", len(faults), len(want))
		}
		f := faults[i]
		if f.Row != w.row || f.Line != w.line || f.Column != w.column || f.Reason != w.reason || f.Why == "" {
			t.Errorf("got %+v, want %+v", f, w)
		}
		for _, value := range []string{"jane", "yesterday", "never", "\xff", "555"} {
			if strings.Contains(f.Error(), value) {
				t.Errorf("the fault shows a value: %v", &f)
			}
		}
	}
	if len(faults) != len(want) || rep.Refused != 1 || rep.Ahead != 1 {
		t.Errorf("%d faults, report %+v", len(faults), rep)
	}
	if e := facts[2].Event; len(e.Props) != 0 {
		t.Errorf("what was refused is there: %v", e.Props)
	}
	if e := facts[3].Event; e.Time != noon {
		t.Errorf("a time beyond the import: %v", e.Time)
	}
}

// R20
func TestTheWindowOfAnImportIs90Days(t *testing.T) {
	m := shop()
	for back, want := range map[int]bool{0: true, 1: true, 89: true, 90: false} {
		d := today - taxonomy.Day(back)
		for _, clock := range []string{"00:00:00", "23:59:59"} {
			facts, _, _ := parse(t, m, Input{Now: noon}, fmt.Sprintf("id,t,order,line,what,price\n1,%v %s,A,1,x,1\n", d, clock))
			if (len(facts) == 1) != want {
				t.Errorf("%d days back at %s: accepted %v", back, clock, !want)
			}
		}
	}
	m.ShiftDays = 365
	facts, _, _ := parse(t, m, Input{Now: noon}, "id,t,order,line,what,price\n1,2025-11-25 06:00:00,A,1,x,1\n")
	if len(facts) != 1 || facts[0].Event.Time != noon-6*taxonomy.Hour {
		t.Errorf("moved by a year: %+v", facts)
	}
}

func TestLayoutsOfTime(t *testing.T) {
	for layout, s := range map[string]string{
		"": "2026-11-20T09:00:00+01:00", "rfc3339": "2026-11-20T08:00:00Z", "unix": "1795161600", "unix_ms": "1795161600000", "02.01.2006 15:04": "20.11.2026 08:00",
	} {
		m := &Mapping{Visitor: "id", Space: "device", Time: "t", Layout: layout, Event: &EventMapping{}}
		facts, faults, _ := parse(t, m, Input{Now: noon}, "id,t\n1,"+s+"\n")
		if len(facts) != 1 || facts[0].Event.Time.String() != "2026-11-20T08:00:00.000Z" || facts[0].ID != "" {
			t.Errorf("layout %q: %+v %+v", layout, facts, faults)
		}
		for _, bad := range []string{"x", "-1", "99999999999999999999", "2026-13-01", "1e9", "9999-99-99"} {
			if facts, faults, _ = parse(t, m, Input{Now: noon}, "id,t\n1,"+bad+"\n"); len(facts) != 0 || len(faults) != 1 {
				t.Errorf("layout %q: %q is accepted", layout, bad)
			}
		}
	}
}

func TestListsAndAttributesHoldForTheirLife(t *testing.T) {
	list := &Mapping{Visitor: "id", Space: "own:crm", List: &ListMapping{ID: "vip"}, Life: 30, Comma: "\t"}
	facts, _, _ := parse(t, list, Input{Now: noon}, "id\tx\n1\t\n2\t\n")
	if len(facts) != 2 || *facts[1].Statement != (taxonomy.Statement{Time: noon, Trait: "l:vip=in", Until: today + 30}) {
		t.Errorf("%+v", facts)
	}
	list.List.Out = true
	if facts, _, _ = parse(t, list, Input{Now: noon}, "id\n1\n"); facts[0].Statement.Trait != "l:vip=out" {
		t.Errorf("%+v", facts[0].Statement)
	}
	attrs := &Mapping{Visitor: "id", Space: "own:crm", Time: "t", Layout: "2006-01-02", Attributes: []Column{{"z", "age"}, {"b", ""}}}
	facts, faults, rep := parse(t, attrs, Input{Now: noon}, "id,t,z,b\n1,2026-11-20,45-54,x\n2,2026-11-20,,y\n3,2026-11-20,,\n")
	if len(facts) != 3 || facts[0].Statement.Trait != "a:age=45-54" || facts[0].Number != 1 || facts[1].Statement.Trait != "a:b=x" || facts[1].Number != 2 ||
		facts[2].Statement.Trait != "a:b=y" || facts[2].Number != 4 || facts[2].Statement.Time.String() != "2026-11-20T00:00:00.000Z" {
		t.Errorf("%+v", facts)
	}
	if len(faults) != 1 || faults[0].Row != 3 || rep.Accepted != 2 {
		t.Errorf("%+v %+v", faults, rep)
	}
}

func TestAMappingThatDoesNotFitIsAnErrorBeforeTheFirstRow(t *testing.T) {
	none := func(*Fact) error { t.Error("a fact"); return nil }
	join := shop()
	join.Joins = []Join{{Name: "p", On: "what", Key: "k", Columns: []string{"c"}}}
	table, err := NewLookup(strings.NewReader("k,c\n1,2\n"), "", join.Joins[0])
	if err != nil {
		t.Fatal(err)
	}
	own := shop()
	own.Joins = []Join{{Name: "p", On: "what", Key: "k", Columns: []string{"price"}}}
	noCol := shop()
	noCol.Joins = []Join{{Name: "p", On: "none", Key: "k", Columns: []string{"c"}}}
	for want, c := range map[string]struct {
		m    *Mapping
		file string
	}{
		"the file is empty":                      {shop(), ""},
		`there is no column "id"; there are ["a`: {shop(), "a,b\n1,2\n"},
		`there is no column "what"`:              {shop(), "id,t,order,line,price\n"},
		`the column "id" comes twice`:            {shop(), "id,id\n"},
		"a quote is opened":                      {shop(), "\"id\n"},
		"mapping: visitor: ":                     {&Mapping{}, "id\n"},
		`the table "p" is not given`:             {func() *Mapping { m := *join; m.Joins = slices.Clone(m.Joins); m.Joins[0].Name = "q"; return &m }(), "id,t,order,line,what,price\n"},
		`the file has a column "price" of its`:   {own, "id,t,order,line,what,price\n"},
		`there is no column "none"`:              {noCol, "id,t,order,line,what,price\n"},
	} {
		if want == `the table "p" is not given` {
			want = `the table "q" is not given`
		}
		rep, err := Parse(strings.NewReader(c.file), c.m, Input{Now: noon, Lookups: map[string]*Lookup{"p": table}}, none, nil)
		if err == nil || !strings.Contains(err.Error(), want) || rep.Rows != 0 {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestFaultsOfAMappingNameTheirPlace(t *testing.T) {
	m := &Mapping{Comma: ";;", Space: "cookie", Layout: "unix", ShiftDays: 50000, Life: 91,
		Joins:      []Join{{}, {Name: "a", On: "b", Key: "c", Columns: []string{"x", "x"}}},
		Event:      &EventMapping{Kind: "view", Name: strings.Repeat("x", 2000), ID: []string{"a", "a"}, Props: []Column{{}, {"a", "k"}, {"b", "k"}, {"c", strings.Repeat("x", 65)}}},
		Attributes: []Column{{"A", ""}}, List: &ListMapping{ID: "A"}}
	err := m.Validate()
	for _, want := range []string{"comma: ", "visitor: ", "space: cookie IDs", "layout: ", "shift_days: ", "life: ", "joins[0]: ", `joins[1].columns: "x" also comes from joins[1]`,
		"event.kind: ", "event.name: ", "event.id[1]: ", "event.props[0].column: ", `event.props[2].key: "k" is taken`, "event.props[3].key: ",
		"attributes[0].key: ", "list.id: ", "event: give exactly one of event, attributes and list, not 3"} {
		if err == nil || !strings.Contains("\n"+err.Error(), "\n"+want) {
			t.Errorf("%q is not among\n%v", want, err)
		}
	}
	var fe *taxonomy.FieldError
	if !errors.As(err, &fe) {
		t.Error("no FieldError")
	}
	if err := (&Mapping{Visitor: "v", Space: "x", List: &ListMapping{ID: "l"}}).Validate(); err == nil || !strings.HasPrefix(err.Error(), "space: ") {
		t.Errorf("got %v", err)
	}
	b, err := json.Marshal(shop())
	if err != nil {
		t.Fatal(err)
	}
	var again Mapping
	if err := json.Unmarshal(b, &again); err != nil || again.Validate() != nil {
		t.Errorf("%v, %v", err, again.Validate())
	}
}

func TestATableThatIsHalfReadIsRefused(t *testing.T) {
	j := Join{Name: "p", On: "x", Key: "k", Columns: []string{"c"}}
	for want, file := range map[string]string{
		"line 1: the file is empty": "", `no column "k"`: "a,c\n", `no column "c"`: "k,a\n",
		"line 3: 1 fields, the first row has 2": "k,c\n1,2\n3\n", "line 2: a quote": "k,c\n1,\"\n", "line 3: the key of column": "k,c\n1,2\n1,3\n",
	} {
		if _, err := NewLookup(strings.NewReader(file), "", j); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	l, err := NewLookup(strings.NewReader("k;c\n1;2\n1;2\n"), ";", j)
	if err != nil || l.Len() != 1 {
		t.Errorf("%v, %v", l, err)
	}
}

func TestARowThatFindsNothingInAJoinIsCounted(t *testing.T) {
	m := shop()
	m.Joins = []Join{{Name: "p", On: "what", Key: "k", Columns: []string{"department"}}}
	m.Event.Props = []Column{{"department", ""}}
	table, err := NewLookup(strings.NewReader("k,department\nx,GROCERY\n"), "", m.Joins[0])
	if err != nil {
		t.Fatal(err)
	}
	facts, _, rep := parse(t, m, Input{Now: noon, Lookups: map[string]*Lookup{"p": table}},
		"id,t,order,line,what,price\n1,2026-11-20 08:00:00,A,1,x,1\n1,2026-11-20 08:00:00,A,2,y,1\n")
	if len(facts) != 2 || rep.Unjoined != 1 || len(facts[1].Event.Props) != 0 {
		t.Errorf("%+v %+v", facts, rep)
	}
	if d, _ := facts[0].Event.Prop("department"); d != "GROCERY" {
		t.Errorf("%q", d)
	}
}

func TestTheReceiverMayRefuseARowOrEndTheFile(t *testing.T) {
	file := "id\n1\n2\n3\n"
	m := &Mapping{Visitor: "id", Space: "own:crm", List: &ListMapping{ID: "vip"}}
	full := errors.New("full")
	var bad []Fault
	rep, err := Parse(strings.NewReader(file), m, Input{Now: noon}, func(f *Fact) error {
		switch f.Visitor {
		case "1":
			return fmt.Errorf("ask: %w", &Fault{Column: "id", Reason: taxonomy.ReasonErased, Why: "is erased"})
		case "3":
			return full
		}
		return nil
	}, func(f Fault) { bad = append(bad, f) })
	if !errors.Is(err, full) || rep.Rows != 2 || rep.Accepted != 1 || rep.Rejected[taxonomy.ReasonErased] != 1 {
		t.Errorf("%+v, %v", rep, err)
	}
	if len(bad) != 1 || bad[0].Row != 1 || bad[0].Line != 2 {
		t.Errorf("%+v", bad)
	}
	_, err = Parse(iotest.TimeoutReader(strings.NewReader("id\n"+strings.Repeat("1\n", 100000))), m, Input{Now: noon}, func(*Fact) error { return nil }, nil)
	if !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("a file that cannot be read: %v", err)
	}
}

func TestALineWithoutEndSpoilsOneRow(t *testing.T) {
	m := &Mapping{Visitor: "id", Space: "own:crm", List: &ListMapping{ID: "vip"}}
	facts, faults, _ := parse(t, m, Input{Now: noon}, "id\n1\n"+strings.Repeat("x", 3<<20)+"\n2\n\""+strings.Repeat("y\n", 150)+"3\n")
	// The open quote spoils its own line; the others are rows of their own.
	if len(faults) != 2 || faults[0].Row != 2 || faults[1].Row != 4 || len(facts) != 2+149+1 || facts[len(facts)-1].Visitor != "3" {
		t.Errorf("%d facts, faults %+v", len(facts), faults)
	}
}

func TestRowsEqualThoseOfTheLibrary(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cell := rapid.OneOf(rapid.StringMatching("[a,\"\n ]{0,6}"), rapid.StringN(0, 10, 20))
		width := rapid.IntRange(1, 4).Draw(t, "width")
		var want [][]string
		for _, row := range rapid.SliceOfN(rapid.SliceOfN(cell, width, width), 0, 10).Draw(t, "rows") {
			for i := range row { // the library reads CRLF as LF
				row[i] = strings.ReplaceAll(row[i], "\r", "")
			}
			if width > 1 || row[0] != "" { // an empty line is no row
				want = append(want, row)
			}
		}
		var b bytes.Buffer
		w := csv.NewWriter(&b)
		w.UseCRLF = rapid.Bool().Draw(t, "CRLF")
		if err := w.WriteAll(want); err != nil {
			t.Fatal(err)
		}
		x := newRows(iotest.OneByteReader(&b), ',')
		for i := 0; ; i++ {
			got, _, err := x.next()
			if err == io.EOF {
				if i != len(want) {
					t.Fatalf("%d rows, want %d", i, len(want))
				}
				return
			}
			if err != nil || !slices.Equal(got, want[i]) {
				t.Fatalf("row %d: got %q, %v, want %q", i, got, err, want[i])
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("id,t,order,line,what,price\n1,2026-11-20 08:00:00,A,1,x,1\n"))
	f.Add([]byte("id,t,order,line,what,price\n\"1\n2,\"\"\",2026-11-20 08:00:00,A,1,\"x\n,1\n"))
	f.Add([]byte("\ufeffid\r\n\"\r\n\"\"\r\n1\r"))
	list := &Mapping{Visitor: "id", Space: "own:crm", List: &ListMapping{ID: "vip"}}
	f.Fuzz(func(t *testing.T, file []byte) {
		for _, m := range []*Mapping{shop(), list} {
			var facts, faults uint64
			line := 1
			rep, err := Parse(bytes.NewReader(file), m, Input{Now: noon}, func(x *Fact) error {
				facts++
				if x.Visitor == "" || strings.Contains(x.Visitor, "@") {
					t.Fatalf("visitor %q", x.Visitor)
				}
				if x.Event != nil && (x.Event.Time > noon || x.Event.Time.Day() < today.Oldest()) {
					t.Fatalf("time %v", x.Event.Time)
				}
				return nil
			}, func(b Fault) {
				faults++
				if b.Line <= line || b.Line > 1+bytes.Count(file, []byte("\n"))+1 {
					t.Fatalf("a fault of line %d after one of line %d", b.Line, line)
				}
				line = b.Line
			})
			if rep.Rows != facts+faults || rep.Accepted != facts {
				t.Fatalf("%+v, %d facts, %d faults (%v)", rep, facts, faults, err)
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	file := "id,t,order,line,what,price\n" + strings.Repeat("1,2026-11-20 08:00:00,A,1,x,1\n", 10000)
	b.SetBytes(int64(len(file)))
	for b.Loop() {
		if _, err := Parse(strings.NewReader(file), shop(), Input{Now: noon}, func(*Fact) error { return nil }, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*10000/b.Elapsed().Seconds(), "rows/s")
}
