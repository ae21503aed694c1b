package query

import (
	"fmt"
	"slices"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Facts is what is known of one visitor.
type Facts interface {
	// Count is how many events the visitor has in a column on a day. It may
	// saturate at 255.
	Count(c taxonomy.Column, d taxonomy.Day) int
	// Statement returns the column that holds the newest statement made on one of
	// the 90 days to asOf (R16); false if there is none. All are columns of one
	// key, and name it and the sources that count: the answer may be another
	// column of them, if its value is new.
	Statement(all []taxonomy.Column, asOf taxonomy.Day) (taxonomy.Column, bool)
	// In reports whether the visitor is in a named set: see index.Set….
	In(set string) bool
}

// Eligible reports whether a visitor may be in an audience at all: it may be
// profiled, and is no bot, not gone and not held out.
func Eligible(r Resolver, f Facts, today taxonomy.Day) bool {
	return f.In(index.SetProfile) && !f.In(index.SetGone) && !f.In(index.SetHoldout) &&
		!hadOne(r.Columns(taxonomy.TraitBot), f, today.Oldest(), today)
}

// EvalVisitor reports whether an expression is true of one visitor, eligible or
// not. It reads the tree as the language is defined and shares nothing with the
// planner, which must agree with it. It fails as Plan.Add does for audiences
// that do not exist or nest too deeply, and expects e to have passed Check.
func EvalVisitor(e Expr, r Resolver, f Facts, today taxonomy.Day) (bool, error) {
	return evalVisitor(e, r, f, moment{today, today.Oldest()}, 1)
}

// moment is the day at whose end a visitor is looked at, and the oldest that is
// kept.
type moment struct{ at, oldest taxonomy.Day }

func evalVisitor(e Expr, r Resolver, f Facts, m moment, depth int) (bool, error) {
	if depth > MaxDepth {
		return false, fmt.Errorf("nested deeper than %d", MaxDepth)
	}
	switch e := e.(type) {
	case And:
		for _, k := range e.Of {
			if in, err := evalVisitor(k, r, f, m, depth+1); !in || err != nil {
				return false, err
			}
		}
		return true, nil
	case Or:
		for _, k := range e.Of {
			if in, err := evalVisitor(k, r, f, m, depth+1); in || err != nil {
				return in, err
			}
		}
		return false, nil
	case Not:
		in, err := evalVisitor(e.Of, r, f, m, depth+1)
		return err == nil && !in && anyEvent(r, f, m), err
	case Any:
		return anyEvent(r, f, m), nil
	case Trait:
		return hadTrait(&e, r, f, m), nil
	case Sequence:
		return followed(&e, r, f, m), nil
	case AsOf:
		if m.at = e.from(m.at); m.at < m.oldest {
			// Faults of what lies below are found all the same.
			_, err := evalVisitor(e.Of, r, f, m, depth+1)
			return false, err
		}
		return evalVisitor(e.Of, r, f, m, depth+1)
	case Attribute:
		return stated(&e, r, f, m), nil
	case List:
		return stated(&e, r, f, m), nil
	case Audience:
		rule, ok := r.Audience(e.ID)
		if !ok {
			return false, fmt.Errorf("there is no audience %q", e.ID)
		}
		if rule == nil {
			if m.at != m.oldest+taxonomy.RetentionDays-1 {
				return false, fmt.Errorf(noPast, e.ID)
			}
			return f.In(index.SetAudience + string(e.ID)), nil
		}
		return evalVisitor(rule, r, f, m, depth+1)
	}
	return false, fmt.Errorf("no expression: %T", e)
}

// noPast is why an audience without a rule cannot be asked as of an earlier day.
const noPast = "audience %q has no rule: its members are known only as of the last generation"

func anyEvent(r Resolver, f Facts, m moment) bool {
	return hadOne(r.Columns(taxonomy.TraitAny), f, m.oldest, m.at)
}

func hadOne(cols []taxonomy.Column, f Facts, from, to taxonomy.Day) bool {
	for d := to; d >= from; d-- {
		for _, c := range cols {
			if f.Count(c, d) > 0 {
				return true
			}
		}
	}
	return false
}

func hadTrait(t *Trait, r Resolver, f Facts, m moment) bool {
	cols := columnsOf(r, t)
	n := 0
	if from, to, ok := t.Window.asOf(m.at, m.oldest); ok {
		for d := from; d <= to; d++ {
			day := 0
			for _, c := range cols {
				day += f.Count(c, d)
			}
			if t.Unit == index.DistinctDays {
				day = min(day, 1)
			}
			n += day
		}
	}
	if n < t.Min || t.Max > 0 && n > t.Max || t.Min == 0 && !anyEvent(r, f, m) {
		return false
	}
	if l := t.LastSeen; l != nil {
		for age := range taxonomy.RetentionDays {
			d := m.at - taxonomy.Day(age)
			if d >= m.oldest && hadOne(cols, f, d, d) {
				return l.Min <= age && age <= l.Max
			}
		}
		return false
	}
	return true
}

// followed goes through the steps: which days could be the one of the step
// before is all that the next needs to know.
func followed(s *Sequence, r Resolver, f Facts, m moment) bool {
	from, to, ok := s.Window.asOf(m.at, m.oldest)
	if !ok {
		return false
	}
	var days [taxonomy.RetentionDays]bool // of the step before, counted from from
	for i, st := range s.Steps {
		cols := columnsFrom(r, st.Trait, st.Sources)
		var next [taxonomy.RetentionDays]bool
		ok = false
		for d := range int(to-from) + 1 {
			if i > 0 && !slices.Contains(days[max(0, d-st.Within):d], true) {
				continue
			}
			next[d] = hadOne(cols, f, from+taxonomy.Day(d), from+taxonomy.Day(d))
			ok = ok || next[d]
		}
		if days = next; !ok {
			return false
		}
	}
	return true
}

func stated(s stating, r Resolver, f Facts, m moment) bool {
	key := s.key()
	c, ok := f.Statement(r.StatementColumns(key), m.at)
	return ok && holds(s, key, c.Trait, m.at)
}
