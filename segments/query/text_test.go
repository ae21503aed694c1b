package query_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

func TestTextReadsAsItIsSaid(t *testing.T) {
	had := func(s string, f ...func(*query.Trait)) query.Expr {
		x := query.Had(taxonomy.Trait(s))
		for _, f := range f {
			f(&x)
		}
		return x
	}
	often := func(lo, hi int, u index.Unit) func(*query.Trait) {
		return func(x *query.Trait) { x.Min, x.Max, x.Unit = lo, hi, u }
	}
	days := func(n int) func(*query.Trait) { return func(x *query.Trait) { x.Window = query.LastDays(n) } }
	seen := func(lo, hi int) func(*query.Trait) {
		return func(x *query.Trait) { x.LastSeen = &query.Recency{Min: lo, Max: hi} }
	}
	via := func(s ...taxonomy.SourceID) func(*query.Trait) { return func(x *query.Trait) { x.Sources = s } }
	all := func(of ...query.Expr) query.Expr { return query.And{Of: of} }
	one := func(of ...query.Expr) query.Expr { return query.Or{Of: of} }
	not := func(e query.Expr) query.Expr { return query.Not{Of: e} }
	a, b, c := had("c:a/a"), had("c:a/b"), had("c:a/c")
	first, _ := taxonomy.ParseDay("2026-09-01")
	sept := func(x *query.Trait) {
		x.Window.Days = 0
		x.Window.From, _ = taxonomy.ParseDay("2026-09-01")
		x.Window.To, _ = taxonomy.ParseDay("2026-09-30")
	}
	for _, x := range []struct {
		text      string
		want      query.Expr
		canonical bool // as Text writes it
	}{
		{"c:products/grocery in 30d on 3+ days and not (c:products/meat or c:products/meat-pckgd)",
			all(had("c:products/grocery", days(30), often(3, 0, index.DistinctDays)), not(one(had("c:products/meat"), had("c:products/meat-pckgd")))), true},
		{"last seen 21–60 days ago", had("any", seen(21, 60)), false},
		{"last seen 21-60 days ago", had("any", seen(21, 60)), true},
		{"age is 18-24 or 25-34", query.Attribute{Key: "age", In: []string{"18-24", "25-34"}}, true},
		{"in list crm", query.List{List: "crm"}, true},
		{"in audience grocery-regulars", query.Audience{ID: "grocery-regulars"}, false},
		{"audience grocery-regulars", query.Audience{ID: "grocery-regulars"}, true},
		{"anyone", query.Any{}, true},
		{"any in 7d", had("any", days(7)), true},
		{"NOT c:a/a AND c:a/b OR c:a/c", one(all(not(a), b), c), false},
		{"c:a/a or c:a/b and c:a/c", one(a, all(b, c)), true},
		{"c:a/a and (c:a/b and c:a/c)", all(a, all(b, c)), true},
		{"((c:a/a))", a, false},
		{"all of (c:a/a, c:a/b or c:a/c)", all(a, one(b, c)), false},
		{"one of (not all of (c:a/a))", one(not(all(a))), true},
		{"c:a/a via shop or bought in 30d 2-5 times last seen 7+ days ago", had("c:a/a", via("bought", "shop"), days(30), often(2, 5, 0), seen(7, 89)), false},
		{"c:a/a via bought or shop or c:a/b", one(had("c:a/a", via("bought", "shop")), b), true},
		{"c:a/a via shop or age is x or sex is f or in list crm",
			one(had("c:a/a", via("shop")), query.Attribute{Key: "age", In: []string{"x"}}, query.Attribute{Key: "sex", In: []string{"f"}}, query.List{List: "crm"}), true},
		{"c:a/a from 2026-09-01 to 2026-09-30 on 0-2 days", had("c:a/a", sept, often(0, 2, index.DistinctDays)), true},
		{"c:a/a 3 times", had("c:a/a", often(3, 3, 0)), true},
		{"c:a/a at least 3 times", had("c:a/a", often(3, 0, 0)), false},
		{"c:a/a last seen 0 days ago", had("c:a/a", seen(0, 0)), true},
		{"c:a/a then c:a/b within 7d in 30d",
			query.Sequence{Steps: []query.Step{{Trait: "c:a/a"}, {Trait: "c:a/b", Within: 7}}, Window: query.LastDays(30)}, true},
		{"not c:a/a via shop or bought then any then c:a/c via web within 1d",
			not(query.Sequence{Steps: []query.Step{{Trait: "c:a/a", Sources: []taxonomy.SourceID{"bought", "shop"}}, {Trait: "any", Within: 89}, {Trait: "c:a/c", Within: 1, Sources: []taxonomy.SourceID{"web"}}}, Window: query.LastDays(90)}), false},
		{"age >= 18", query.Attribute{Key: "age", Range: &query.Range{Low: query.Bound{Set: true, Value: 18}}}, true},
		{"age=>18", query.Attribute{Key: "age", Range: &query.Range{Low: query.Bound{Set: true, Value: 18}}}, false},
		{"18 <= age < 30.5 or sex is f", one(query.Attribute{Key: "age", Range: &query.Range{Low: query.Bound{Set: true, Value: 18}, High: query.Bound{Set: true, Value: 30.5, Open: true}}}, query.Attribute{Key: "sex", In: []string{"f"}}), true},
		{`"18" > -1 and x is y or age < 3`, one(all(query.Attribute{Key: "18", Range: &query.Range{Low: query.Bound{Set: true, Value: -1, Open: true}}}, query.Attribute{Key: "x", In: []string{"y"}}), query.Attribute{Key: "age", Range: &query.Range{High: query.Bound{Set: true, Value: 3, Open: true}}}), true},
		{"as of 2026-09-01 (c:a/a or c:a/b) and as of 1 day ago (anyone)", all(query.AsOf{Day: first, Of: one(a, b)}, query.AsOf{Ago: 1, Of: query.Any{}}), true},
		{"as of 30 days ago (c:a/a in 7d)", query.AsOf{Ago: 30, Of: had("c:a/a", days(7))}, true},
		{`"k:department=FRZN ICE" 4+ times`, had("k:department=FRZN ICE", often(4, 0, 0)), true},
		{`"in" is ("c:a/b", "or", a\b, "say ""\"")`, nil, false},
		{`"in" is (a\b, c:x, "or", "say \"é\"")`, query.Attribute{Key: "in", In: []string{`a\b`, "c:x", "or", `say "é"`}}, true},
	} {
		got, err := query.ParseText(x.text)
		if x.want == nil {
			if err == nil {
				t.Errorf("%s is read as %s", x.text, query.Print(got))
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, x.want) {
			t.Errorf("%s:\ngot  %#v, %v\nwant %#v", x.text, got, err, x.want)
			continue
		}
		if text := query.Text(got); (text == x.text) != x.canonical {
			t.Errorf("%s is written as %s", x.text, text)
		}
	}
}

func TestTextFaultsAllComeWithTheirPlaces(t *testing.T) {
	for _, c := range []struct {
		in, at string // the places, with ; between
		says   string
	}{
		{"", "1:1", "want a part such as"},
		{"c:a/b and", "1:10", "got the end"},
		{"c:a/b c:a/c", "1:7", "is left over"},
		{"(c:a/b", "1:7", "want ')' for the bracket of line 1, column 1"},
		{"c:a/b)", "1:6", "left over"},
		{"grocery", "1:1", "audience grocery"},
		{"nott c:a/b", "1:1", `did you mean "not"?`},
		{"c:a/b in 30", "1:10", "is not a window"},
		{"c:a/b in 91d and\n  c:a/c in 0d", "1:10;2:12", "1d to 90d"},
		{"c:a/b in 3d in 4d", "1:13", "said twice"},
		{"c:a/b on 3+ times", "1:13", "times are counted without on"},
		{"c:a/b 3+ days", "1:10", "days are counted with on"},
		{"c:a/b at most 3 times", "1:10", "write 1-3, or 0-3"},
		{"c:a/b 0+ times", "1:7", "write not before"},
		{"c:a/b 300+ times", "1:7", "0 to 255"},
		{"c:a/b 5-3 times", "1:7", "less than min"},
		{"c:a/b 1-255 times", "1:7", "1 to 254"}, // R14
		{"c:a/b last seen 5-95 days ago", "1:17", "to 89"},
		{"c:a/b from 2026-09-01 to 2026-09-31", "1:26", "is not a day"},
		{"c:a/b from 2026-09-30 to 2026-09-01", "1:7", "before it begins"},
		{"a:age=1 or l:crm=in or k:x", "1:1;1:12;1:24", "is an attribute"},
		{"age is not 18-24", "1:8", "not age is"},
		{"age is x or x", "1:13", "repeated"},
		{"age is and in list CRM", "1:8;1:20", "want a value"},
		{"via is x", "1:1", "put it in quotes"},
		{`"c:a/b`, "1:1", "not closed"},
		{"é is é and robots", "1:12", "audience robots"},
		{"c:a/b in 3d then c:a/c", "1:7", "a step says only"},
		{"c:a/b then grocery", "1:12", "want what was had then"},
		{"c:a/b then c:a/c within 90d", "1:18", "is not within 1"},
		{"c:a/b then a:age=1", "1:12", "is an attribute"},
		{"18 > age", "1:4", "write the name first"},
		{"age >= old", "1:8", "want a number"},
		{"30 < age < 18", "1:12", "no number lies between"},
		{"18 <= age > 3", "1:13", "said twice"},
		{"as of tomorrow (anyone)", "1:7", "want a day such as"},
		{"as of 95 days ago (anyone)", "1:7", "1 to 89"},
		{"as of 3 days ago anyone", "1:18", "want '('"},
		{"as of 3 days ago (c:a/b in 91d)", "1:28", "1d to 90d"},
		{"in list", "1:8", "want the ID"},
		{"in 30d", "1:4", "a window follows"},
		{"all of c:a/b", "1:8", "want '('"},
		{"c:a/b via Shop", "1:7", "character 'S'"},
		{"c:a/\x00b", "1:5", "control characters"},
		{"c:a/b and (c:a/c in x or c:a/d on y) and q", "1:21;1:35;1:42", "such as 3+"},
		{strings.Repeat("not ", 16) + "anyone", "1:65", "nested deeper than 16"},
		{strings.Repeat("(", 5000), "1:65", "nested deeper"},
		{strings.Repeat("anyone or ", 500) + "anyone", "1:4991", "more than 500 nodes"},
	} {
		e, err := query.ParseText(c.in)
		if err == nil || e != nil {
			t.Errorf("%.80q: read as %v", c.in, e)
			continue
		}
		var at []string
		for _, f := range fields(err) {
			f = strings.TrimPrefix(f, "line ")
			at = append(at, strings.Replace(f, ", column ", ":", 1))
		}
		if got := strings.Join(at, ";"); got != c.at && !strings.HasPrefix(c.in, "((((") {
			t.Errorf("%.80q: faults at %s, want %s (%v)", c.in, got, c.at, err)
		}
		if !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.80q: %v\nwant it to say %q", c.in, err, c.says)
		}
	}
	_, err := query.ParseTextAt("rule_text", "x")
	if f := (*taxonomy.FieldError)(nil); !errors.As(err, &f) || f.Field != "rule_text: line 1, column 1" {
		t.Errorf("within a document: %v", err)
	}
}

// odd makes names that look like words of the language.
var odd = rapid.OneOf(
	rapid.SampledFrom([]string{"18", "-1.5", "<", "a=>b", "then", "as", "or", "AND", "is", "any", "c:x", "k:a=b", "(", `"`, `\`, `\"`, "a b", ",", "3+", "30d", "é\u00a0", "last", "\u2028"}),
	rapid.StringMatching(`[a-z "\\(),:=é]{1,8}`))

func oddly(t *rapid.T, e query.Expr) query.Expr {
	switch e := e.(type) {
	case query.And:
		for i := range e.Of {
			e.Of[i] = oddly(t, e.Of[i])
		}
	case query.Or:
		for i := range e.Of {
			e.Of[i] = oddly(t, e.Of[i])
		}
	case query.Not:
		return query.Not{Of: oddly(t, e.Of)}
	case query.AsOf:
		e.Of = oddly(t, e.Of)
		return e
	case query.Attribute:
		if rapid.Bool().Draw(t, "odd") {
			if e.Key = odd.Draw(t, "key"); e.Range == nil {
				e.In = []string{odd.Draw(t, "value")}
			}
		}
		if query.Check(e) == nil {
			return e
		}
		return query.Any{}
	case query.List:
		return query.List{List: rapid.SampledFrom([]taxonomy.ListID{"or", "in", "30d", "crm"}).Draw(t, "list")}
	case query.Trait:
		if rapid.Bool().Draw(t, "odd") {
			e.Trait = taxonomy.Trait("k:" + odd.Draw(t, "key") + "=" + odd.Draw(t, "value"))
			e.Sources = rapid.SampledFrom([][]taxonomy.SourceID{nil, {"or"}, {"in", "is"}, {"3", "a"}}).Draw(t, "sources")
		}
		if query.Check(e) == nil {
			return e
		}
		return query.Any{}
	}
	return e
}

// Text, tree and JSON say the same, whatever is called what.
func TestTextTreeAndJSONRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := oddly(t, genExpr(t, endOfDays, 4, true))
		text := query.Text(e)
		got, err := query.ParseText(text)
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Fatalf("%s\nwritten as %s\nread as %s, %v", query.Print(e), text, query.Print(got), err)
		}
		viaJSON, err := query.Parse(query.Print(got))
		if err != nil || query.Text(viaJSON) != text {
			t.Fatalf("through JSON %s becomes %s, %v", text, query.Text(viaJSON), err)
		}
		// Spaces and brackets mean nothing.
		spread := "(\n\t" + strings.ReplaceAll(text, " and ", "\r\n  and\t") + " )"
		if !strings.Contains(text, `"`) {
			if again, err := query.ParseText(spread); err != nil || !reflect.DeepEqual(again, e) {
				t.Fatalf("%s: %v", spread, err)
			}
		}
	})
}

func FuzzParseText(f *testing.F) {
	for _, s := range []string{"c:a/b in 30d on 3+ days and not (k:x=y or in list crm)", `"a" is ("c:x", b) or age is x or y`, "last seen 2–5 days ago",
		"all of (anyone, one of (audience x))", "c:a/b via a or b from 2026-09-01 to 2026-09-02 0-3 times", "not not (", "c:a/b at most", "c:a/b then any via x within 3d in 4d", "18 <= age < 30 and x => 1", "as of 3 days ago (as of 2026-09-01 (c:a/b))", "in in in is is or"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := query.ParseText(s)
		if err != nil {
			if e != nil || len(fields(err)) == 0 {
				t.Fatalf("%q: %v with %v", s, e, err)
			}
			return
		}
		if err := query.Check(e); err != nil {
			t.Fatalf("%q was read, but: %v", s, err)
		}
		if got, err := query.ParseText(query.Text(e)); err != nil || !reflect.DeepEqual(got, e) {
			t.Fatalf("%q written as %q: %v", s, query.Text(e), err)
		}
	})
}

// The example of the help, in both faces.
func TestTheHelpsExampleIsOneRule(t *testing.T) {
	const text = "c:shop/shoes in 30d on 3+ days last seen 7-29 days ago and not c:shop/checkout in 30d"
	const json = `{"and": [{"trait": "c:shop/shoes", "window": "30d", "min": 3, "unit": "days", "last_seen": {"min_days": 7, "max_days": 29}}, {"not": {"trait": "c:shop/checkout", "window": "30d"}}]}`
	a, err1 := query.ParseText(text)
	b, err2 := query.Parse([]byte(json))
	if err1 != nil || err2 != nil || !reflect.DeepEqual(a, b) || query.Text(b) != text {
		t.Errorf("%v, %v: %s", err1, err2, query.Text(b))
	}
}
