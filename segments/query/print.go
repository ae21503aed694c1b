package query

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Text returns the text face of an expression, on one line, in one form for
// each meaning of the tree: ParseText(Text(e)) is e for every e that Check
// passes.
func Text(e Expr) string {
	var b strings.Builder
	writeText(&b, e, 0)
	return b.String()
}

// How tight the words bind: what stands within a tighter one needs brackets.
const (
	bindOr = iota + 1
	bindAnd
	bindNot
)

func writeText(b *strings.Builder, e Expr, within int) {
	list := func(of []Expr, word, one string, bind int) {
		if len(of) == 1 { // an "and" of one part is not the part
			b.WriteString(one + " of (")
			writeText(b, of[0], 0)
			b.WriteByte(')')
			return
		}
		if within >= bind { // its own brackets, also in its like: the tree stays
			b.WriteByte('(')
			defer b.WriteByte(')')
		}
		for i, k := range of {
			if i > 0 {
				b.WriteString(" " + word + " ")
			}
			writeText(b, k, bind)
		}
	}
	switch e := e.(type) {
	case And:
		list(e.Of, "and", "all", bindAnd)
	case Or:
		list(e.Of, "or", "one", bindOr)
	case Not:
		b.WriteString("not ")
		writeText(b, e.Of, bindNot)
	case Any:
		b.WriteString("anyone")
	case Trait:
		writeTrait(b, &e)
	case Attribute:
		writeAttribute(b, &e)
	case List:
		b.WriteString("in list " + name(string(e.List)))
	case Audience:
		b.WriteString("audience " + name(string(e.ID)))
	}
}

func writeAttribute(b *strings.Builder, a *Attribute) {
	key := name(a.Key)
	b.WriteString(key + " is ")
	// "or" between values could be read as the "or" between parts if a value
	// looks like a trait.
	sep, end := " or ", ""
	if slices.ContainsFunc(a.In, isTraitWord) {
		sep, end = ", ", ")"
		b.WriteByte('(')
	}
	for i, v := range a.In {
		if i > 0 {
			b.WriteString(sep)
		}
		b.WriteString(name(v))
	}
	b.WriteString(end)
}

func writeTrait(b *strings.Builder, t *Trait) {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if t.Sources != nil {
		s := make([]string, len(t.Sources))
		for i, id := range t.Sources {
			s[i] = name(string(id))
		}
		add("via %s", strings.Join(s, " or "))
	}
	switch w := t.Window; {
	case w.Days == 0:
		add("from %s to %s", w.From, w.To)
	case w.Days != taxonomy.RetentionDays:
		add("in %dd", w.Days)
	}
	if t.Min != 1 || t.Max != 0 || t.Unit != index.Events {
		n := fmt.Sprintf("%d-%d", t.Min, t.Max)
		switch t.Max {
		case 0:
			n = fmt.Sprintf("%d+", t.Min)
		case t.Min:
			n = fmt.Sprint(t.Min)
		}
		if t.Unit == index.DistinctDays {
			add("on %s days", n)
		} else {
			add("%s times", n)
		}
	}
	if l := t.LastSeen; l != nil {
		n := fmt.Sprintf("%d-%d", l.Min, l.Max)
		switch l.Max {
		case taxonomy.RetentionDays - 1:
			n = fmt.Sprintf("%d+", l.Min)
		case l.Min:
			n = fmt.Sprint(l.Min)
		}
		add("last seen %s days ago", n)
	}
	// "last seen 3-30 days ago" alone is of any event.
	if t.Trait != taxonomy.TraitAny || len(parts) != 1 || t.LastSeen == nil {
		s := string(t.Trait)
		if t.Trait != taxonomy.TraitAny {
			s = name(s)
		}
		parts = append([]string{s}, parts...)
	}
	b.WriteString(strings.Join(parts, " "))
}

// name puts quotes around what would be read as something else.
func name(s string) string {
	if s == "" || isKeyword(s) || strings.ContainsFunc(s, mark) {
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
	}
	return s
}
