package query_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

func TestSentencesReadAsPeopleSpeak(t *testing.T) {
	title := func(t taxonomy.Trait) string {
		return map[taxonomy.Trait]string{"c:p/grocery": "Grocery", "c:p/odd": "An “odd” one"}[t]
	}
	for text, want := range map[string]string{
		"anyone":                       "Visitors who had any event in the last 90 days.",
		"any in 7d":                    "Visitors who had any kind of event in the last 7 days.",
		"c:p/grocery on 1+ days":       "Visitors who had “Grocery” (c:p/grocery) in the last 90 days, on at least 1 day.",
		"c:p/odd last seen 1 days ago": "Visitors who had “An 'odd' one” (c:p/odd) in the last 90 days, last seen 1 day ago.",
		"c:p/grocery in 30d on 3+ days and not in list crm":                       "Visitors who had “Grocery” (c:p/grocery) in the last 30 days, on at least 3 days, and are not on the list crm.",
		"not (c:p/a or age is 18-24 or 25-34) and audience vip":                   "Visitors who (neither had c:p/a in the last 90 days, nor have age 18-24 or 25-34), and are in the audience vip.",
		"c:p/a and (c:p/b or not c:p/c in 1d)":                                    "Visitors who had c:p/a in the last 90 days, and (had c:p/b in the last 90 days, or did not have c:p/c today).",
		"not (c:p/a and c:p/b)":                                                   "Visitors who are not those who (had c:p/a in the last 90 days, and had c:p/b in the last 90 days).",
		"not not all of (not anyone)":                                             "Visitors who are not those who (are not those who (meet all of (had no event in the last 90 days))).",
		"c:p/a via shop or web from 2026-09-01 to 2026-09-30":                     "Visitors who had c:p/a from 2026-09-01 to 2026-09-30, counting only shop or web.",
		"c:p/grocery then any within 7d then c:p/a via shop in 30d and age >= 18": "Visitors who had “Grocery” (c:p/grocery), then 1 to 7 days later any kind of event, then on any later day c:p/a (counting only shop), all in the last 30 days, and have age of at least 18.",
		"not c:p/a then c:p/b within 1d and not 18 < age < 30":                    "Visitors who did not have c:p/a, then on the next day c:p/b, all in the last 90 days, and do not have age of more than 18 and of less than 30.",
		"as of 30 days ago (c:p/a in 7d) and not as of 2026-09-01 (in list crm)":  "Visitors who were, as of 30 days ago, those who (had c:p/a in the last 7 days), and are not those who (were, as of 2026-09-01, those who (are on the list crm)).",
		`"in" is ("say \"é\"", "or")`:                                             `Visitors who have "in" "or" or "say \"é\"".`,
	} {
		e, err := query.ParseText(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := query.Sentence(e, title); got != want {
			t.Errorf("%s\n says %s\n want %s", text, got, want)
		}
	}
}

// Every rule has a sentence, always the same one, and no two rules share one: over
// random rules, and for each over what it becomes when one thing of it changes.
func TestNoTwoRulesShareASentence(t *testing.T) {
	for name, title := range map[string]func(taxonomy.Trait) string{
		"without titles": nil,
		// The same title for all, and one that tries to look like the rest.
		"hostile titles": func(taxonomy.Trait) string { return "a” (c:a/a) in the last 90 days, and had “b" },
	} {
		t.Run(name, func(t *testing.T) {
			said := map[string]string{} // sentence → rule, over all of the run
			rapid.Check(t, func(t *rapid.T) {
				e := genExpr(t, endOfDays, 4, true)
				for _, e := range append(changed(t, e), e) {
					if query.Check(e) != nil {
						continue
					}
					rule, s := string(query.Print(e)), query.Sentence(e, title)
					if again := query.Sentence(e, title); again != s {
						t.Fatalf("%s says %q and then %q", rule, s, again)
					}
					if !strings.HasPrefix(s, "Visitors who ") || !strings.HasSuffix(s, ".") || strings.Contains(s, "%!") {
						t.Fatalf("%s says %q", rule, s)
					}
					if other, ok := said[s]; ok && other != rule {
						t.Fatalf("%s and %s both say %q", rule, other, s)
					}
					said[s] = rule
				}
			})
			if len(said) < 100 {
				t.Errorf("only %d sentences were compared", len(said))
			}
		})
	}
}

// changed are rules that nearly are e: the whole turned round, bracketed and joined in
// every way, and each part changed a little.
func changed(t *rapid.T, e query.Expr) []query.Expr {
	other := genExpr(t, endOfDays, 1, true)
	out := []query.Expr{query.Not{Of: e}, query.And{Of: []query.Expr{e}}, query.Or{Of: []query.Expr{e}},
		query.And{Of: []query.Expr{e, other}}, query.And{Of: []query.Expr{other, e}}, query.Or{Of: []query.Expr{e, other}},
		query.Not{Of: query.Or{Of: []query.Expr{e, other}}}, query.And{Of: []query.Expr{query.Not{Of: e}, query.Not{Of: other}}}}
	switch x := e.(type) {
	case query.And:
		out = append(out, query.Or(x), query.And{Of: x.Of[1:]})
		if len(x.Of) > 2 { // (a, b, c) is not ((a, b), c)
			out = append(out, query.And{Of: append([]query.Expr{query.And{Of: x.Of[:2]}}, x.Of[2:]...)})
		}
	case query.Or:
		out = append(out, query.And(x))
		if len(x.Of) > 2 {
			out = append(out, query.Or{Of: append([]query.Expr{query.Or{Of: x.Of[:2]}}, x.Of[2:]...)})
		}
	case query.Trait:
		for _, f := range []func(*query.Trait){
			func(t *query.Trait) { t.Min++ }, func(t *query.Trait) { t.Max++ }, func(t *query.Trait) { t.Unit ^= 1 },
			func(t *query.Trait) { t.Window = query.LastDays(t.Window.Days%90 + 1) }, func(t *query.Trait) { t.LastSeen = &query.Recency{Max: 1} },
			func(t *query.Trait) { t.Sources = []taxonomy.SourceID{"and"} }, func(t *query.Trait) { t.Trait += ", and" },
		} {
			y := x
			f(&y)
			out = append(out, y)
		}
	case query.Attribute:
		y := x
		y.In = append(append([]string{}, x.In...), fmt.Sprint("~", len(x.In)))
		out = append(out, y, query.Attribute{Key: x.Key + " or", In: x.In}, query.Attribute{Key: x.Key, In: []string{strings.Join(x.In, " or ")}})
	}
	return out
}

// Sentence must not change what it is given.
func TestASentenceLeavesTheRuleAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := genExpr(t, endOfDays, 3, true)
		before := query.Print(e)
		_ = query.Sentence(e, nil)
		if after := query.Print(e); !reflect.DeepEqual(before, after) {
			t.Fatalf("%s became %s", before, after)
		}
	})
}
