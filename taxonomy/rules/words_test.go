package rules

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestWhatDiffersIsSaidInWords(t *testing.T) {
	read := func(s string) *Rule {
		if s == "" {
			return nil
		}
		r := new(Rule)
		if err := json.Unmarshal([]byte(s), r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, c := range []struct {
		before, after string
		want          []string
	}{
		{`{"then":["c:p/a"]}`, `{"then":["c:p/a"]}`, []string{}},
		{"", `{"title":"Wine","when":[{"field":"path","op":"prefix","values":["/wine","/wein"]}],"then":["c:p/a"]}`,
			[]string{"It is new.", "Its title is “Wine”.", "It asks that path begins with “/wine” or “/wein”.", "It gives c:p/a."}},
		{`{"title":"Wine","sites":["a","b"],"then":["c:p/a"]}`, `{"title":"Wines","sites":["b","c"],"then":["c:p/b"]}`,
			[]string{"Its title was “Wine” and is “Wines”.", "It is also for “c”.", "It is no longer for “a”.", "It gives c:p/b.", "It no longer gives c:p/a."}},
		{`{"then":["c:p/a"]}`, `{"sites":["a","b"],"then":["c:p/a"]}`, []string{"It is for “a” and “b” only; before, for all sites."}},
		{`{"sites":["a"],"then":["c:p/a"]}`, `{"then":["c:p/a"]}`, []string{"It is for all sites; before, for “a” only."}},
		// A value, or one of one value, in whichever order: the same question.
		{`{"when":[{"field":"name","op":"eq","value":"x"},{"field":"host","op":"in","values":["a","b"]}],"then":["c:p/a"]}`,
			`{"when":[{"field":"host","op":"in","values":["b","a"]},{"field":"name","op":"in","values":["x"]}],"then":["c:p/a"]}`, []string{}},
		{`{"when":[{"field":"prop.price","op":"range","min":20},{"field":"host","op":"exists"}],"then":["c:p/a"]}`,
			`{"when":[{"field":"prop.price","op":"range","min":30,"below":50},{"field":"name","op":"ne","value":"x","not":true}],"then":["c:p/a"]}`,
			[]string{"It asked that prop.price is a number at least 20, and asks that prop.price is a number at least 30 and below 50.", "It asks that name is not there, or is “x”.", "It no longer asks that host is there."}},
		{`{"when":[{"field":"path","op":"words","values":["a","b","c","d","e","f","g"]}],"then":["c:p/a"]}`,
			`{"when":[{"field":"path","op":"words","values":["a","b","c","d","e","f","h","i"]}],"then":["c:p/a"]}`,
			[]string{"Of the values of path “h” and “i” came, and “g” went."}},
	} {
		if got := Differences(read(c.before), read(c.after)); !slices.Equal(got, c.want) {
			t.Errorf("from %s to %s:\n%s\nwant\n%s", c.before, c.after, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
	}
}

// Whatever two rules are: nothing is said of one that is the same, and something of
// every other, whichever way one looks.
func TestEveryDifferenceIsSaid(t *testing.T) {
	draw := func(t *rapid.T, label string) *Rule {
		texts := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 1, 3, rapid.ID[string])
		r := &Rule{Title: rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, label), Then: texts.Draw(t, label)}
		for range rapid.IntRange(0, 2).Draw(t, label) {
			r.When = append(r.When, Condition{Field: rapid.SampledFrom([]string{"path", "host"}).Draw(t, label), Op: rapid.SampledFrom([]string{"prefix", "ne", "matches"}).Draw(t, label),
				Values: texts.Draw(t, label), Not: rapid.Bool().Draw(t, label)})
		}
		return r
	}
	// text is an independent form: conditions and values as sets.
	text := func(r *Rule) string {
		var when []string
		for _, c := range r.When {
			c.Values = slices.Sorted(slices.Values(c.Values))
			b, _ := json.Marshal(c)
			when = append(when, string(b))
		}
		slices.Sort(when)
		return r.Title + "|" + strings.Join(slices.Compact(when), " ") + "|" + strings.Join(slices.Sorted(slices.Values(r.Then)), " ")
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t, "a"), draw(t, "b")
		for _, of := range [][2]*Rule{{a, b}, {b, a}, {a, a}} {
			if said, differ := len(Differences(of[0], of[1])) > 0, text(of[0]) != text(of[1]); said != differ {
				t.Fatalf("%s and %s: %q", text(of[0]), text(of[1]), Differences(of[0], of[1]))
			}
		}
	})
}
