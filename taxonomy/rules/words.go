package rules

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// maxWords is how many values a sentence names.
const maxWords = 6

// Words says a condition in plain English: "path begins with “/shoes” or “/boots”".
func (c *Condition) Words() string {
	values := c.values()
	or := quoted(values, " or ")
	ask, negated := "", ""
	switch c.Op {
	case "eq", "in":
		ask, negated = "is "+or, "is not "+or
	case "ne":
		ask, negated = "is there and is not "+or, "is not there, or is "+or
	case "prefix":
		ask, negated = "begins with "+or, "does not begin with "+or
	case "suffix":
		ask, negated = "ends with "+or, "does not end with "+or
	case "contains":
		ask, negated = "contains "+or, "does not contain "+or
	case "words":
		ask, negated = "has "+or+" as whole words", "has none of "+quoted(values, ", ")+" as whole words"
	case "matches":
		ask, negated = "matches "+or, "does not match "+or
	case "exists":
		ask, negated = "is there", "is not there"
	case "range":
		var bounds []string
		for _, b := range []struct {
			word string
			v    *float64
		}{{"at least", c.Min}, {"above", c.Above}, {"at most", c.Max}, {"below", c.Below}} {
			if b.v != nil {
				bounds = append(bounds, b.word+" "+strconv.FormatFloat(*b.v, 'g', -1, 64))
			}
		}
		in := "a number"
		if len(bounds) > 0 {
			in += " " + strings.Join(bounds, " and ")
		}
		ask, negated = "is "+in, "is not "+in
	default: // a draft may ask what is no question
		ask = c.Op + " " + or
		negated = "not " + ask
	}
	if c.Not {
		ask = negated
	}
	return c.Field + " " + ask
}

// quoted joins values for a sentence, and says how many more there are.
func quoted(values []string, last string) string {
	var out []string
	for i, v := range values {
		if i == maxWords {
			return strings.Join(out, ", ") + fmt.Sprintf(" or %d more", len(values)-i)
		}
		out = append(out, "“"+v+"”")
	}
	if len(out) < 2 {
		return strings.Join(out, "")
	}
	return strings.Join(out[:len(out)-1], ", ") + last + out[len(out)-1]
}

// Differences says in plain English what differs between two rules, a sentence
// each; what is said in two ways and means the same is no difference. Before is nil
// if there was none.
func Differences(before, after *Rule) []string {
	out := []string{}
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if before == nil {
		say("It is new.")
		before = &Rule{}
	}
	switch {
	case before.Title == after.Title:
	case before.Title == "":
		say("Its title is “%s”.", after.Title)
	case after.Title == "":
		say("Its title “%s” is gone.", before.Title)
	default:
		say("Its title was “%s” and is “%s”.", before.Title, after.Title)
	}
	more, less := compared(before.Sites, after.Sites)
	switch name := func(s []taxonomy.SiteID) string { return quoted(texts(s), " and ") }; {
	case len(more)+len(less) == 0:
	case len(before.Sites) == 0:
		say("It is for %s only; before, for all sites.", name(after.Sites))
	case len(after.Sites) == 0:
		say("It is for all sites; before, for %s only.", name(before.Sites))
	default:
		if len(more) > 0 {
			say("It is also for %s.", name(more))
		}
		if len(less) > 0 {
			say("It is no longer for %s.", name(less))
		}
	}
	out = append(out, conditionDifferences(before.When, after.When)...)
	given, withdrawn := compared(before.Then, after.Then)
	for _, t := range given {
		say("It gives %s.", t)
	}
	for _, t := range withdrawn {
		say("It no longer gives %s.", t)
	}
	return out
}

// conditionDifferences pairs what was taken away with what came of the same field,
// so that a changed condition is told as one.
func conditionDifferences(before, after []Condition) (out []string) {
	same := func(list []Condition, c *Condition) bool {
		return slices.ContainsFunc(list, func(o Condition) bool { return o.same(c) })
	}
	var gone, come []*Condition
	for i := range before {
		if !same(after, &before[i]) {
			gone = append(gone, &before[i])
		}
	}
	for i := range after {
		if !same(before, &after[i]) {
			come = append(come, &after[i])
		}
	}
	for _, is := range come {
		i := slices.IndexFunc(gone, func(was *Condition) bool { return was.Field == is.Field && was.Op == is.Op && was.Not == is.Not })
		if i < 0 {
			i = slices.IndexFunc(gone, func(was *Condition) bool { return was.Field == is.Field })
		}
		if i < 0 {
			out = append(out, "It asks that "+is.Words()+".")
			continue
		}
		was := gone[i]
		gone = slices.Delete(gone, i, i+1)
		more, less := compared(was.values(), is.values())
		if was.Op != is.Op || was.Not != is.Not || is.Op == "range" || len(was.values()) <= maxWords && len(is.values()) <= maxWords {
			out = append(out, "It asked that "+was.Words()+", and asks that "+is.Words()+".")
			continue
		}
		// Of long lists, what came and what went.
		s := "Of the values of " + is.Field
		if len(more) > 0 {
			s += " " + quoted(more, " and ") + " came"
		}
		if len(less) > 0 {
			if len(more) > 0 {
				s += ", and"
			}
			s += " " + quoted(less, " and ") + " went"
		}
		out = append(out, s+".")
	}
	for _, was := range gone {
		out = append(out, "It no longer asks that "+was.Words()+".")
	}
	return out
}

// same reports whether two conditions ask the same, in whichever order the values
// stand.
func (c *Condition) same(o *Condition) bool {
	norm := func(c *Condition) Condition {
		n := *c
		n.Value, n.Values = "", slices.Sorted(slices.Values(c.values()))
		if n.Op == "eq" {
			n.Op = "in"
		}
		if len(n.Values) == 0 {
			n.Values = nil
		}
		return n
	}
	return reflect.DeepEqual(norm(c), norm(o))
}

// compared returns what is in one list and not in the other.
func compared[E comparable](before, after []E) (more, less []E) {
	for _, x := range after {
		if !slices.Contains(before, x) {
			more = append(more, x)
		}
	}
	for _, x := range before {
		if !slices.Contains(after, x) {
			less = append(less, x)
		}
	}
	return more, less
}

func texts[S ~string](in []S) (out []string) {
	for _, s := range in {
		out = append(out, string(s))
	}
	return out
}
