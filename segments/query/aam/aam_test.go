package aam_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/segments/query/aam"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

func known(id uint64) (taxonomy.Trait, bool) {
	return taxonomy.Trait(fmt.Sprintf("k:aam=%d", id)), id < 9000
}

// The examples of Audience Manager's documentation, and what is near them. What
// is wanted is said in the text face.
func TestPublishedSegmentRulesBecomeRules(t *testing.T) {
	for _, c := range []struct {
		in, want string
		notes    []string // a part of each
	}{
		{"1000T", "k:aam=1000", []string{"90 days"}},
		{"(frequency([1000T] <= 2D) >= 5)", "k:aam=1000 in 2d 5+ times", []string{"UTC days"}},
		{"FREQUENCY([1000T,2000T]<=7D)>=1", "k:aam=1000 in 7d or k:aam=2000 in 7d", []string{"UTC days"}},
		{"frequency([1000T]) >= 1 AND frequency([1000T]) <= 5", "k:aam=1000 and k:aam=1000 0-5 times", []string{"90 days", "upper bound alone"}},
		{"frequency([1000T]) <= 5 AND all_confirmed", "k:aam=1000 0-5 times and anyone", []string{"90 days", "upper bound alone", "came back"}},
		{"frequency([1000T] <= 30D) == 3 and not (2000t or 3000T)", "k:aam=1000 in 30d 3 times and not (k:aam=2000 or k:aam=3000)", []string{"UTC days", "NOT", "90 days"}},
		{"frequency([1000T,2000T] <= 30D) == 0", "not (k:aam=1000 in 30d or k:aam=2000 in 30d)", []string{"UTC days"}},
		{"frequency([1000T] <= 120D)", "k:aam=1000", []string{"120D becomes 90 days"}},
		{"frequency([1000T]) > 2 OR frequency([1000T]) < 1", "k:aam=1000 3+ times or not k:aam=1000", []string{"90 days"}},
	} {
		got, err := aam.Parse(c.in, known)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if text := query.Text(got.Rule); text != c.want {
			t.Errorf("%s: got %s, want %s", c.in, text, c.want)
		}
		if len(got.Notes) != len(c.notes) {
			t.Errorf("%s: notes %q", c.in, got.Notes)
			continue
		}
		for i, n := range c.notes {
			if !strings.Contains(got.Notes[i], n) {
				t.Errorf("%s: note %q, want %q", c.in, got.Notes[i], n)
			}
		}
	}
}

func TestWhatASegmentRuleCannotSayIsReportedWithItsPlace(t *testing.T) {
	for in, want := range map[string]string{
		"":                                  "line 1, column 1: want a trait",
		"9001T AND 9002T":                   "line 1, column 1: trait 9001T is not known|line 1, column 11: trait 9002T",
		"frequency([1T] >= 5D) >= 2":        `line 1, column 16: cannot be said here: >= 5D is "longer ago`,
		"frequency([1T,2T]) >= 2":           "line 1, column 1: cannot be said here: the events of 2 traits",
		"1T OR\nfrequency([1T] < 5D) AND x": "line 2, column 16: want <= or >=|line 2, column 26: want a trait",
		"frequency([1T] <= 0D)":             "line 1, column 19: want at least 1D",
		"frequency([1T]) >= 0":              "line 1, column 20: at least 0",
		"frequency([1T]) < 0":               "line 1, column 19: less than 0",
		"frequency([1T]) >= 300":            "line 1, column 20: 300 is more than can be counted",
		"frequency([1T]) = 3":               "line 1, column 17: want >=, <= or ==",
		"frequency([1T,]) OR 9001T":         "line 1, column 15: want a trait|line 1, column 21: trait 9001T",
		"frequency(1T)":                     "line 1, column 11: want ([",
		"(1T":                               "line 1, column 4: want ')'",
		"1T 2T":                             "line 1, column 4: \"2T\" is left over",
		strings.Repeat("NOT ", 65) + "1T":   "line 1, column 261: nested deeper",
		strings.Repeat("NOT ", 20) + "1T":   "line 1, column 1: as a rule, not.not",
	} {
		got, err := aam.Parse(in, known)
		if err == nil {
			t.Errorf("%.60q: read as %s", in, query.Text(got.Rule))
			continue
		}
		faults := taxonomy.Faults(err)
		wants := strings.Split(want, "|")
		if len(faults) != len(wants) {
			t.Errorf("%.60q: %v\nwant %s", in, err, want)
			continue
		}
		for i, w := range wants {
			if !strings.HasPrefix(faults[i].Error(), w) {
				t.Errorf("%.60q:\ngot  %v\nwant %s", in, &faults[i], w)
			}
		}
	}
}

// A rule made of parts whose meaning is known means those parts joined.
func TestSegmentRulesKeepTheirShape(t *testing.T) {
	var draw func(t *rapid.T, depth int) (theirs, ours string)
	draw = func(t *rapid.T, depth int) (string, string) {
		k := rapid.IntRange(0, 5).Draw(t, "kind")
		if depth == 0 || k < 3 {
			id, d, n := rapid.IntRange(1, 99).Draw(t, "trait"), rapid.IntRange(1, 89).Draw(t, "days"), rapid.IntRange(2, 254).Draw(t, "n")
			switch k % 3 {
			case 0:
				return fmt.Sprintf("%dT", id), fmt.Sprintf("k:aam=%d", id)
			case 1:
				return fmt.Sprintf("frequency([%dT]<=%dD)>=%d", id, d, n), fmt.Sprintf("k:aam=%d in %dd %d+ times", id, d, n)
			}
			return fmt.Sprintf("FREQUENCY( [ %dt ] <= %dd ) <= %d", id, d, n), fmt.Sprintf("k:aam=%d in %dd 0-%d times", id, d, n)
		}
		a, b := draw(t, depth-1)
		if k == 3 {
			return "NOT (" + a + ")", "not (" + b + ")"
		}
		c, d := draw(t, depth-1)
		word := []string{"AND", "OR"}[k-4]
		return "(" + a + ") " + word + "(" + c + ")", "(" + b + ") " + word + " (" + d + ")"
	}
	rapid.Check(t, func(t *rapid.T) {
		theirs, ours := draw(t, 4)
		got, err := aam.Parse(theirs, known)
		if err != nil {
			t.Fatalf("%s: %v", theirs, err)
		}
		want, err := query.ParseText(ours)
		if err != nil {
			t.Fatalf("%s: %v", ours, err)
		}
		if query.Text(got.Rule) != query.Text(want) {
			t.Fatalf("%s\ngot  %s\nwant %s", theirs, query.Text(got.Rule), query.Text(want))
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"(frequency([1000T] <= 2D) >= 5)", "NOT 1T OR (2T and all_confirmed)", "frequency([1T,2T]) == 0", "frequency([1T", "é((]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := aam.Parse(s, known)
		if err != nil {
			if taxonomy.Faults(err)[0].Field == "" {
				t.Fatalf("%q: %v has no place", s, err)
			}
			return
		}
		if err := query.Check(got.Rule); err != nil {
			t.Fatalf("%q was read, but: %v", s, err)
		}
	})
}
