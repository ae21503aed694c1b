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
	case Sequence:
		writeSequence(b, &e)
	case AsOf:
		b.WriteString("as of " + e.when() + " (")
		writeText(b, e.Of, 0)
		b.WriteByte(')')
	case Attribute:
		if e.Range != nil {
			b.WriteString(e.compared())
			return
		}
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

// when is "2026-09-01" or "30 days ago".
func (e *AsOf) when() string {
	switch {
	case e.Day != 0:
		return e.Day.String()
	case e.Ago == 1:
		return "1 day ago"
	}
	return fmt.Sprintf("%d days ago", e.Ago)
}

// compared is "age >= 18" or "18 <= age < 30".
func (a *Attribute) compared() string {
	key := name(a.Key)
	if _, ok := taxonomy.Number(key); ok { // read as the number otherwise
		key = `"` + key + `"`
	}
	op := func(s string, b Bound) string {
		if !b.Open {
			s += "="
		}
		return s
	}
	l, h := a.Range.Low, a.Range.High
	switch {
	case l.Set && h.Set:
		return numeral(l.Value) + " " + op("<", l) + " " + key + " " + op("<", h) + " " + numeral(h.Value)
	case l.Set:
		return key + " " + op(">", l) + " " + numeral(l.Value)
	}
	return key + " " + op("<", h) + " " + numeral(h.Value)
}

func writeSequence(b *strings.Builder, s *Sequence) {
	for i, st := range s.Steps {
		if i > 0 {
			b.WriteString(" then ")
		}
		b.WriteString(traitName(st.Trait) + via(st.Sources))
		if i > 0 && st.Within != MaxWithin {
			fmt.Fprintf(b, " within %dd", st.Within)
		}
	}
	switch w := s.Window; {
	case w.Days == 0:
		fmt.Fprintf(b, " from %s to %s", w.From, w.To)
	case w.Days != taxonomy.RetentionDays:
		fmt.Fprintf(b, " in %dd", w.Days)
	}
}

func traitName(t taxonomy.Trait) string {
	if t == taxonomy.TraitAny {
		return string(t)
	}
	return name(string(t))
}

// via is the sources that count, with a space before; "" for all.
func via(ids []taxonomy.SourceID) string {
	if ids == nil {
		return ""
	}
	s := make([]string, len(ids))
	for i, id := range ids {
		s[i] = name(string(id))
	}
	return " via " + strings.Join(s, " or ")
}

func writeTrait(b *strings.Builder, t *Trait) {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if t.Sources != nil {
		parts = append(parts, via(t.Sources)[1:])
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
		parts = append([]string{traitName(t.Trait)}, parts...)
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
