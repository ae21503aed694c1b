package aam_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/rules/aam"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
	"pgregory.net/rapid"
)

var then = []string{"k:trait=1000"}

// The examples of Audience Manager's documentation.
func TestPublishedTraitRulesBecomeRules(t *testing.T) {
	for _, c := range []struct {
		text  string
		want  []string // the conditions of each rule
		notes []string // how each begins
	}{
		{`(c_make=="A") AND (c_model=="B") AND (c_search=="1")`, []string{
			`[{"field":"prop.make","op":"eq","value":"A"},{"field":"prop.model","op":"eq","value":"B"},{"field":"prop.search","op":"eq","value":"1"}]`}, nil},
		{`(a== "1" OR b=="1") AND (c=="new")`, []string{
			`[{"field":"prop.a","op":"eq","value":"1"},{"field":"prop.c","op":"eq","value":"new"}]`,
			`[{"field":"prop.b","op":"eq","value":"1"},{"field":"prop.c","op":"eq","value":"new"}]`}, nil},
		{`(price >= 1.00 AND price <= 100.00)`, []string{`[{"field":"prop.price","op":"range","min":1},{"field":"prop.price","op":"range","max":100}]`}, nil},
		{`price => 1.00`, []string{`[{"field":"prop.price","op":"range","min":1}]`}, nil},
		{`price > 1 AND price < 2`, []string{`[{"field":"prop.price","op":"range","above":1},{"field":"prop.price","op":"range","below":2}]`}, nil},
		{`d_creative == 123 AND d_event == imp`, []string{`[{"field":"prop.creative","op":"eq","value":"123"},{"field":"kind","op":"eq","value":"impression"}]`},
			[]string{"d_creative is a signal"}},
		{`v==1 AND NOT (a==23)`, []string{`[{"field":"prop.v","op":"eq","value":"1"},{"field":"prop.a","op":"eq","value":"23","not":true}]`}, nil},
		{`v==1 AND a!=23`, []string{`[{"field":"prop.v","op":"eq","value":"1"},{"field":"prop.a","op":"ne","value":"23"}]`}, nil},
		{`c_k CONTAINS x OR c_k MatchesWords 'a b' OR c_k startswith s OR c_k endswith e OR c_k matchesregex "^a+$"`, []string{
			`[{"field":"prop.k","op":"contains","value":"x"}]`, `[{"field":"prop.k","op":"words","value":"a b"}]`, `[{"field":"prop.k","op":"prefix","value":"s"}]`,
			`[{"field":"prop.k","op":"suffix","value":"e"}]`, `[{"field":"prop.k","op":"matches","value":"^a+$"}]`}, []string{"matcheswords is read as"}},
		{`a==2 OR a==1 or a==2`, []string{`[{"field":"prop.a","op":"in","values":["1","2"]}]`}, nil},
		{`NOT (a==1 OR b==2)`, []string{`[{"field":"prop.a","op":"eq","value":"1","not":true},{"field":"prop.b","op":"eq","value":"2","not":true}]`}, nil},
		{`h_host == www.example.com AND p_secret != x`, []string{`[{"field":"host","op":"eq","value":"www.example.com"},{"field":"prop.p_secret","op":"ne","value":"x"}]`},
			[]string{"p_secret is evaluated and never stored"}},
	} {
		got, err := aam.Parse("t1000", "T", c.text, then)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		var when []string
		for i, r := range got.Rules {
			b, _ := json.Marshal(r.When)
			when = append(when, string(b))
			if want := []string{"t1000", fmt.Sprintf("t1000-%d", i+1)}[min(i, 1)]; r.ID != want || !slices.Equal(r.Then, then) {
				t.Errorf("%s: rule %d is %+v", c.text, i, r)
			}
		}
		if !slices.Equal(when, c.want) {
			t.Errorf("%s:\ngot  %s\nwant %s", c.text, strings.Join(when, "\n     "), strings.Join(c.want, "\n     "))
		}
		if len(got.Notes) != len(c.notes) {
			t.Errorf("%s: notes %q", c.text, got.Notes)
			continue
		}
		for i, n := range c.notes {
			if !strings.HasPrefix(got.Notes[i], n) {
				t.Errorf("%s: notes %q, want %q", c.text, got.Notes, c.notes)
			}
		}
	}
}

func TestTraitRuleFaultsAllHavePlaces(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "line 1, column 1: want a condition",
		"a = 1":                      `line 1, column 3: "=" is not an operator`,
		"a == 1 AND\n b >> 2 OR c":   `line 2, column 4: ">>" is not|line 2, column 13: "the end"`,
		"a > x or a <= 1e999":        `line 1, column 5: "x" is not a number|line 1, column 15: "1e999" is not a number`,
		"(a == 1":                    "line 1, column 8: want ')'",
		"a == 1)":                    `line 1, column 7: ")" is left over`,
		"a == 'x":                    "line 1, column 6: the quote is not closed",
		"a matchesregex \"(?<=x)y\"": "line 1, column 16: error parsing regexp",
		"d_event == view":            "line 1, column 12: d_event is",
		"a == AND b == 1":            "line 1, column 6: want a value",
		"h_host == http://x/":        "line 1, column 11: ",
		strings.Repeat("(", 1000):    "line 1, column 66: nested deeper",
		strings.Repeat("(a==1 or b==2) and ", 7) + "c==3": "line 1, column 1: the rule holds in more than 100 ways",
	} {
		_, err := aam.Parse("t", "", text, then)
		var got []string
		for _, f := range taxonomy.Faults(err) {
			got = append(got, f.Error())
		}
		for i, w := range strings.Split(strings.ReplaceAll(want, `"the end"`, "the end is not an operator"), "|") {
			if i >= len(got) || !strings.HasPrefix(got[i], w) {
				t.Errorf("%.60q:\ngot  %q\nwant %q", text, got, want)
				break
			}
		}
	}
}

// said is a rule as Audience Manager would evaluate it: the oracle.
type said struct {
	text  string
	holds func(map[string]string) bool
}

func anySaid(t *rapid.T, depth int) said {
	k := rapid.IntRange(0, 5).Draw(t, "kind")
	if depth == 0 || k < 3 {
		key := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key")
		v := rapid.SampledFrom([]string{"1", "2", "10", "1.5"}).Draw(t, "value")
		op := rapid.SampledFrom([]string{"==", "!=", "<", ">", "=>", ">=", "<=", "contains", "startswith", "endswith"}).Draw(t, "op")
		quoted := rapid.SampledFrom([]string{v, `"` + v + `"`, "'" + v + "'"}).Draw(t, "quotes")
		return said{"c_" + key + " " + op + quotedAfter(op) + quoted, func(m map[string]string) bool {
			s, ok := m[key]
			if !ok {
				return false
			}
			x, err := strconv.ParseFloat(s, 64)
			y, _ := strconv.ParseFloat(v, 64)
			switch op {
			case "==":
				return s == v
			case "!=":
				return s != v
			case "<":
				return err == nil && x < y
			case ">":
				return err == nil && x > y
			case "=>", ">=":
				return err == nil && x >= y
			case "<=":
				return err == nil && x <= y
			case "contains":
				return strings.Contains(s, v)
			case "startswith":
				return strings.HasPrefix(s, v)
			}
			return strings.HasSuffix(s, v)
		}}
	}
	l := anySaid(t, depth-1)
	if k == 3 {
		return said{"NOT (" + l.text + ")", func(m map[string]string) bool { return !l.holds(m) }}
	}
	r := anySaid(t, depth-1)
	if k == 4 {
		return said{"(" + l.text + ") AND (" + r.text + ")", func(m map[string]string) bool { return l.holds(m) && r.holds(m) }}
	}
	return said{"(" + l.text + ") or (" + r.text + ")", func(m map[string]string) bool { return l.holds(m) || r.holds(m) }}
}

func quotedAfter(op string) string {
	if op[0] > 'Z' {
		return " "
	}
	return ""
}

func TestImportedRulesHoldExactlyWhenTheTraitDoes(t *testing.T) {
	f, err := tree.New()
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		s := anySaid(t, 3)
		got, err := aam.Parse("t", "", s.text, then)
		if err != nil {
			if strings.Contains(err.Error(), "more than 100 ways") {
				t.Skip()
			}
			t.Fatalf("%s: %v", s.text, err)
		}
		c, err := rules.Compile(1, f, got.Rules)
		if err != nil {
			t.Fatal(err)
		}
		for range 8 {
			m := map[string]string{}
			e := &taxonomy.Event{Kind: taxonomy.EventPage}
			for _, k := range []string{"a", "b", "c"} {
				if v := rapid.SampledFrom([]string{"-", "1", "2", "10", "1.5", "x1", ""}).Draw(t, k); v != "-" {
					m[k] = v
					e.Props = append(e.Props, taxonomy.Prop{Key: k, Value: v})
				}
			}
			if have := len(c.Classify("s", e, nil)) == 1; have != s.holds(m) {
				b, _ := json.Marshal(got.Rules)
				t.Fatalf("%s of %v is %t, but the rules %s say %t", s.text, m, s.holds(m), b, have)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`(c_make=="A") AND NOT (d_event == imp)`, `a => 1.0 OR b matchesregex "x|y"`, `h_host endswith 'x' and p_a contains é`, "NOT NOT ((a==1"} {
		f.Add(s)
	}
	fo, err := tree.New()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := aam.Parse("t", "", s, then)
		if err != nil {
			if taxonomy.Faults(err)[0].Field == "" {
				t.Fatalf("%q: %v has no place", s, err)
			}
			return
		}
		if _, err := rules.Compile(1, fo, got.Rules); err != nil {
			t.Fatalf("%q was read, but: %v", s, err)
		}
	})
}
