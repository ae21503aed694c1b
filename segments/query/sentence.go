package query

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Sentence says a whole expression in one sentence of plain English, such as
//
//	Visitors who had “Grocery” (c:products/grocery) in the last 30 days, on at
//	least 3 days, and are not on the list crm.
//
// It is total over what Check passes, always the same for the same expression,
// and never the same for two that differ: what is confirmed by reading it is what
// is asked. Title says a trait in people's words, "" if there are none; nil: there
// are none at all.
func Sentence(e Expr, title func(taxonomy.Trait) string) string {
	s := speaker{title: title}
	s.say(e, false)
	return "Visitors who " + s.String() + "."
}

type speaker struct {
	strings.Builder
	title func(taxonomy.Trait) string
}

// say writes what visitors did or are. Within another part, what has parts of its
// own stands in brackets: that is what keeps two sentences apart.
func (s *speaker) say(e Expr, within bool) {
	switch e := e.(type) {
	case And:
		s.list(e.Of, "", ", and ", "meet all of ", within)
	case Or:
		s.list(e.Of, "", ", or ", "meet one of ", within)
	case Not:
		s.not(e.Of, within)
	case Any:
		s.WriteString("had any event in the last 90 days")
	case Trait:
		s.trait("had ", &e)
	case Sequence:
		s.sequence("had ", &e)
	case AsOf:
		s.WriteString("were, as of " + e.when() + ", those who (")
		s.say(e.Of, false)
		s.WriteByte(')')
	case Attribute:
		s.attribute("have ", &e)
	case List:
		s.WriteString("are on the list " + name(string(e.List)))
	case Audience:
		s.WriteString("are in the audience " + name(string(e.ID)))
	}
}

func (s *speaker) not(e Expr, within bool) {
	switch e := e.(type) {
	case Or:
		if len(e.Of) > 1 {
			s.list(e.Of, "neither ", ", nor ", "", within)
			return
		}
	case Any:
		s.WriteString("had no event in the last 90 days")
		return
	case Trait:
		s.trait("did not have ", &e)
		return
	case Sequence:
		s.sequence("did not have ", &e)
		return
	case Attribute:
		s.attribute("do not have ", &e)
		return
	case List:
		s.WriteString("are not on the list " + name(string(e.List)))
		return
	case Audience:
		s.WriteString("are not in the audience " + name(string(e.ID)))
		return
	}
	s.WriteString("are not those who (")
	s.say(e, false)
	s.WriteByte(')')
}

// list joins parts. A list of one part says so: it is not the part itself.
func (s *speaker) list(of []Expr, before, between, one string, within bool) {
	if len(of) == 1 {
		s.WriteString(one + "(")
		s.say(of[0], false)
		s.WriteByte(')')
		return
	}
	if within {
		s.WriteByte('(')
		defer s.WriteByte(')')
	}
	s.WriteString(before)
	for i, e := range of {
		if i > 0 {
			s.WriteString(between)
		}
		s.say(e, true)
	}
}

func (s *speaker) trait(verb string, t *Trait) {
	s.WriteString(verb)
	s.what(t.Trait)
	s.WriteString(" " + Often(t))
}

// sequence says the steps in their order.
func (s *speaker) sequence(verb string, q *Sequence) {
	s.WriteString(verb)
	for i, st := range q.Steps {
		if i > 0 {
			switch st.Within {
			case MaxWithin:
				s.WriteString(", then on any later day ")
			case 1:
				s.WriteString(", then on the next day ")
			default:
				fmt.Fprintf(s, ", then 1 to %d days later ", st.Within)
			}
		}
		s.what(st.Trait)
		if st.Sources != nil {
			s.WriteString(" (counting only " + strings.TrimPrefix(via(st.Sources), " via ") + ")")
		}
	}
	s.WriteString(", all " + windowWords(q.Window))
}

// what names a trait.
func (s *speaker) what(t taxonomy.Trait) {
	what := ""
	if s.title != nil {
		what = s.title(t)
	}
	switch code := name(string(t)); {
	case t == taxonomy.TraitAny:
		s.WriteString("any kind of event")
	case what != "":
		// A title may hold anything; only its own end is a ”.
		s.WriteString("“" + strings.NewReplacer("“", "'", "”", "'", "\n", " ").Replace(what) + "” (" + code + ")")
	default:
		s.WriteString(code)
	}
}

func (s *speaker) attribute(verb string, a *Attribute) {
	s.WriteString(verb + name(a.Key) + " ")
	if r := a.Range; r != nil {
		if r.Low.Set {
			s.WriteString(map[bool]string{false: "of at least ", true: "of more than "}[r.Low.Open] + numeral(r.Low.Value))
		}
		if r.Low.Set && r.High.Set {
			s.WriteString(" and ")
		}
		if r.High.Set {
			s.WriteString(map[bool]string{false: "of at most ", true: "of less than "}[r.High.Open] + numeral(r.High.Value))
		}
		return
	}
	for i, v := range a.In {
		if i > 0 {
			s.WriteString(" or ")
		}
		s.WriteString(name(v))
	}
}

func windowWords(w Window) string {
	switch {
	case w.Days == 1:
		return "today"
	case w.Days > 1:
		return fmt.Sprintf("in the last %d days", w.Days)
	}
	return fmt.Sprintf("from %s to %s", w.From, w.To)
}

// Often says the window of a trait, how often it was had there, when it was last
// seen and which sources count: "in the last 30 days, on at least 3 days".
func Often(t *Trait) string {
	var b strings.Builder
	b.WriteString(windowWords(t.Window))
	days := t.Unit == index.DistinctDays
	times := func(n int) string {
		switch {
		case days && n == 1:
			return "1 day"
		case days:
			return strconv.Itoa(n) + " days"
		case n == 1:
			return "once"
		}
		return strconv.Itoa(n) + " times"
	}
	on := ", "
	if days {
		on = ", on "
	}
	switch {
	case t.Max == 0 && t.Min == 1 && !days: // once, which goes without saying
	case t.Max == 0:
		b.WriteString(on + "at least " + times(t.Min))
	case t.Min == t.Max:
		b.WriteString(on + "exactly " + times(t.Min))
	case t.Min == 0:
		b.WriteString(on + "at most " + times(t.Max))
	default:
		b.WriteString(on + strconv.Itoa(t.Min) + " to " + times(t.Max))
	}
	if l := t.LastSeen; l != nil {
		ago := func(n int) string {
			if n == 1 {
				return "1 day ago"
			}
			return strconv.Itoa(n) + " days ago"
		}
		switch {
		case l.Min == l.Max && l.Min == 0:
			b.WriteString(", last seen today")
		case l.Min == l.Max:
			b.WriteString(", last seen " + ago(l.Min))
		default:
			b.WriteString(", last seen " + strconv.Itoa(l.Min) + " to " + ago(l.Max))
		}
	}
	for i, id := range t.Sources {
		if i == 0 {
			b.WriteString(", counting only ")
		} else {
			b.WriteString(" or ")
		}
		b.WriteString(name(string(id)))
	}
	return b.String()
}
