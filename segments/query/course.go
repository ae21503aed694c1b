package query

import (
	"context"
	"fmt"
	"slices"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Course is how many visitors had a trait: exact, each counted once however many
// sources, paths of a tree or days they had it by. All may be in an audience.
type Course struct {
	Trait    taxonomy.Trait
	Visitors uint64                         // in the 90 days to today
	Days     [taxonomy.RetentionDays]uint64 // on each of them, the oldest first
}

// Courses counts traits in one pass over the index. Each asks 91 leaves, so it is
// for the traits of a page: some hundreds over millions of visitors take seconds.
func Courses(ctx context.Context, leaves index.Leaves, today taxonomy.Day, r Resolver, traits []taxonomy.Trait, o RunOptions) ([]Course, error) {
	p := NewPlan(today, r)
	for _, t := range traits {
		e := Had(t)
		if _, err := p.Add(e); err != nil {
			return nil, fmt.Errorf("count %s: %w", t, err)
		}
		for d := today.Oldest(); d <= today; d++ {
			e.Window = Window{From: d, To: d}
			if _, err := p.Add(e); err != nil {
				return nil, fmt.Errorf("count %s on %s: %w", t, d, err)
			}
		}
	}
	o.CountsOnly = true
	res, err := p.Run(ctx, leaves, o)
	if err != nil {
		return nil, err
	}
	out := make([]Course, len(traits))
	for i := range out {
		counts := res.Counts[i*(taxonomy.RetentionDays+1):]
		out[i] = Course{Trait: traits[i], Visitors: counts[0]}
		copy(out[i].Days[:], counts[1:])
	}
	return out, nil
}

// Named returns each trait that an expression itself names, with the sources that
// count, without those of the audiences nested in it.
func Named(e Expr) (named []Step) {
	walk("", e, func(_ string, e Expr) {
		switch e := e.(type) {
		case Trait:
			named = append(named, Step{Trait: e.Trait, Sources: e.Sources})
		case Sequence:
			named = append(named, e.Steps...)
		}
	})
	return named
}

// Traits returns the traits that an expression itself names, sorted, without those
// of the audiences nested in it.
func Traits(e Expr) []taxonomy.Trait {
	var out []taxonomy.Trait
	for _, n := range Named(e) {
		out = append(out, n.Trait)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
