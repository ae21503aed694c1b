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
	return evalVisitor(e, r, f, today, 1)
}

func evalVisitor(e Expr, r Resolver, f Facts, today taxonomy.Day, depth int) (bool, error) {
	if depth > MaxDepth {
		return false, fmt.Errorf("nested deeper than %d", MaxDepth)
	}
	switch e := e.(type) {
	case And:
		for _, k := range e.Of {
			if in, err := evalVisitor(k, r, f, today, depth+1); !in || err != nil {
				return false, err
			}
		}
		return true, nil
	case Or:
		for _, k := range e.Of {
			if in, err := evalVisitor(k, r, f, today, depth+1); in || err != nil {
				return in, err
			}
		}
		return false, nil
	case Not:
		in, err := evalVisitor(e.Of, r, f, today, depth+1)
		return err == nil && !in && anyEvent(r, f, today), err
	case Any:
		return anyEvent(r, f, today), nil
	case Trait:
		return hadTrait(&e, r, f, today), nil
	case Attribute:
		key, yes := e.traits()
		return stated(r, f, key, yes, today), nil
	case List:
		key, yes := e.traits()
		return stated(r, f, key, yes, today), nil
	case Audience:
		rule, ok := r.Audience(e.ID)
		if !ok {
			return false, fmt.Errorf("there is no audience %q", e.ID)
		}
		if rule == nil {
			return f.In(index.SetAudience + string(e.ID)), nil
		}
		return evalVisitor(rule, r, f, today, depth+1)
	}
	return false, fmt.Errorf("no expression: %T", e)
}

func anyEvent(r Resolver, f Facts, today taxonomy.Day) bool {
	return hadOne(r.Columns(taxonomy.TraitAny), f, today.Oldest(), today)
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

func hadTrait(t *Trait, r Resolver, f Facts, today taxonomy.Day) bool {
	cols := columnsOf(r, t)
	n := 0
	if from, to, ok := t.Window.Range(today); ok {
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
	if n < t.Min || t.Max > 0 && n > t.Max || t.Min == 0 && !anyEvent(r, f, today) {
		return false
	}
	if l := t.LastSeen; l != nil {
		for age := range taxonomy.RetentionDays {
			d := today - taxonomy.Day(age)
			if hadOne(cols, f, d, d) {
				return l.Min <= age && age <= l.Max
			}
		}
		return false
	}
	return true
}

func stated(r Resolver, f Facts, key string, yes []taxonomy.Trait, today taxonomy.Day) bool {
	c, ok := f.Statement(r.StatementColumns(key), today)
	return ok && slices.Contains(yes, c.Trait)
}
