package audience

import (
	"context"
	"fmt"
	"strings"

	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// holderBound is how many days after the day on which it was written a member
// file may still be there: its life of 90 days, and the night that removes it.
const holderBound = fileLife + 1

// Holder returns the member files as a place that keeps visitor data. The day of
// a file is the day on which it was written.
//
// Files name visitors by ordinals, so an erasure is looked up in the gone set of
// the newest view: it must hold the erasures that Erase is called for, which it
// does if the fold has made a checkpoint since. Term is that of the builder's
// lease.
func (g *Generations) Holder(view func() (View, error), term func() uint64) forget.Holder {
	return forget.Holder{
		Name:  "generations",
		Bound: holderBound,
		Oldest: func(ctx context.Context) (taxonomy.Day, bool, error) {
			return g.oldest(ctx)
		},
		ExpireBefore: g.expireBefore,
		Erase: func(ctx context.Context, visitors []taxonomy.VisitorKey) error {
			if len(visitors) == 0 {
				return nil
			}
			v, err := view()
			if err != nil {
				return fmt.Errorf("erase from generations: %w", err)
			}
			return g.erase(ctx, v, term())
		},
	}
}

// oldest goes by the files that are there, not by what the head says of them.
func (g *Generations) oldest(ctx context.Context) (day taxonomy.Day, ok bool, err error) {
	all, err := g.blobs.List(ctx, folder)
	if err != nil {
		return 0, false, fmt.Errorf("list generations: %w", err)
	}
	for _, b := range all {
		if !strings.HasSuffix(b.Name, "."+membersExt) {
			continue // a manifest has counts only
		}
		if d := b.Over.Day() - fileLife; !ok || d < day {
			day, ok = d, true
		}
	}
	return day, ok, nil
}

// expireBefore withdraws the generations with a file that was written before a
// day, the newest too if nothing was built for so long, and sweeps.
func (g *Generations) expireBefore(ctx context.Context, before taxonomy.Day) error {
	err := g.withdraw(ctx, func(gen *Generation) (bool, error) {
		for i := range gen.Audiences {
			if gen.Audiences[i].Over < before.Over() {
				return true, nil
			}
		}
		return false, nil
	}, before)
	if err != nil {
		return fmt.Errorf("expire generations before %s: %w", before, err)
	}
	if err := g.Sweep(ctx); err != nil {
		return err
	}
	// What a build that died left above the head's number has no other end, if
	// no build comes after it.
	all, err := g.blobs.List(ctx, folder)
	if err != nil {
		return fmt.Errorf("list generations: %w", err)
	}
	var over []string
	for _, b := range all {
		if strings.HasSuffix(b.Name, "."+membersExt) && b.Over < before.Over() {
			over = append(over, b.Name)
		}
	}
	if err := g.blobs.Delete(ctx, over); err != nil {
		return fmt.Errorf("expire generations before %s: %w", before, err)
	}
	return nil
}

// withdraw gives up the files of the generations that unfit says yes to, and
// drops generations built before a day altogether, their manifests with them.
func (g *Generations) withdraw(ctx context.Context, unfit func(*Generation) (bool, error), before taxonomy.Day) error {
	h, err := g.head(ctx)
	if err != nil {
		return err
	}
	var refs []Ref
	changed := false
	for i, r := range h.Generations {
		if r.Built.Day() < before && i > 0 {
			changed = true
			continue
		}
		if !r.Withdrawn {
			gen, err := g.Open(ctx, r)
			yes := isLost(err) // its files cannot be found by it, so they go
			if err != nil && !yes {
				return err
			}
			if !yes {
				if yes, err = unfit(gen); err != nil {
					return err
				}
			}
			r.Withdrawn, changed = yes, changed || yes
		}
		refs = append(refs, r)
	}
	if !changed {
		return nil
	}
	h.Generations = refs
	return g.swap(ctx, h)
}

// erase publishes the newest generation without the visitors that are gone, if
// they are in it, and withdraws all older ones that hold them.
func (g *Generations) erase(ctx context.Context, v View, term uint64) error {
	gone, err := leafSet(v, index.SetGone)
	if err != nil {
		return fmt.Errorf("erase from generations: %w", err)
	}
	clean := map[string]bool{} // files without the gone
	refs, err := g.List(ctx)
	if err != nil {
		return fmt.Errorf("erase from generations: %w", err)
	}
	if len(refs) > 0 && !refs[0].Withdrawn {
		gen, err := g.Open(ctx, refs[0])
		if err == nil {
			err = g.publishWithout(ctx, gen, gone, term, clean)
		}
		if err != nil && !isLost(err) {
			return fmt.Errorf("erase from generation %s: %w", refs[0], err)
		}
	}
	err = g.withdraw(ctx, func(gen *Generation) (bool, error) { return g.holds(ctx, gen, gone, clean) }, 0)
	if err != nil {
		return fmt.Errorf("erase from generations: %w", err)
	}
	return g.Sweep(ctx)
}

// publishWithout publishes gen again, as the next number, less the gone.
func (g *Generations) publishWithout(ctx context.Context, gen *Generation, gone index.Set, term uint64, clean map[string]bool) error {
	next := *gen
	next.Number, next.Term, next.Built = gen.Number+1, term, g.o.Now()
	next.Audiences = append([]Entry(nil), gen.Audiences...)
	b := &Built{Generation: &next, Sets: map[taxonomy.AudienceID]index.Set{}, Changed: map[taxonomy.AudienceID]bool{}}
	for i := range next.Audiences {
		e := &next.Audiences[i]
		set, err := g.Members(ctx, *e)
		if err != nil {
			return err
		}
		e.Added, e.Removed = 0, subtract(set, gone)
		if e.Removed == 0 {
			clean[e.Blob] = true
			continue
		}
		e.Count, e.Over = set.Count(), next.Built.Day().Over()
		b.Sets[e.ID], b.Changed[e.ID] = set, true
	}
	if len(b.Changed) == 0 {
		return nil
	}
	_, err := g.Publish(ctx, b)
	return err
}

// holds reports whether a file of gen has one of the gone, or cannot be read.
func (g *Generations) holds(ctx context.Context, gen *Generation, gone index.Set, clean map[string]bool) (bool, error) {
	for i := range gen.Audiences {
		e := &gen.Audiences[i]
		if clean[e.Blob] {
			continue
		}
		set, err := g.Members(ctx, *e)
		if err != nil && !isLost(err) {
			return false, err
		}
		if err != nil || subtract(set, gone) > 0 {
			return true, nil
		}
		clean[e.Blob] = true
	}
	return false, nil
}

// subtract takes the visitors of b out of a and returns how many there were.
func subtract(a, b index.Set) (n uint64) {
	for s := range a {
		if a[s] != nil && s < len(b) && b[s] != nil {
			n += a[s].AndCardinality(b[s])
			a[s].AndNot(b[s])
		}
	}
	return n
}
