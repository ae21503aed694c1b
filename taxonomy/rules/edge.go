package rules

import (
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// edgeRules are the rules that ask for properties that are never stored.
type edgeRules struct {
	numbers []uint32
	all     *index
	sites   map[taxonomy.SiteID]*index
}

func (x *edgeRules) build(ps []parsed) {
	var everywhere []uint32
	bySite := map[taxonomy.SiteID][]uint32{}
	for _, n := range x.numbers {
		if len(ps[n].sites) == 0 {
			everywhere = append(everywhere, n)
		}
		for _, s := range ps[n].sites {
			bySite[s] = append(bySite[s], n)
		}
	}
	x.all, x.sites = buildIndex(ps, everywhere), map[taxonomy.SiteID]*index{}
	for s, numbers := range bySite {
		x.sites[s] = buildIndex(ps, numbers)
	}
}

// QueryKeys returns the keys of the URL's query that rules of a site ask for,
// sorted.
func (c *Classifier) QueryKeys(site taxonomy.SiteID) (keys []string) {
	for i := range c.rules {
		if s := c.rules[i].sites; len(s) > 0 && !slices.Contains(s, site) {
			continue
		}
		for j := range c.rules[i].conds {
			if k := &c.rules[i].conds[j]; k.field == fieldQuery {
				keys = append(keys, k.key)
			}
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// Evaluate appends to dst what only those keys say of an event that are never
// stored: full has them, kept is the event as it will be. Ancestors are left to
// whoever classifies what was kept: there a category may move.
func (c *Classifier) Evaluate(site taxonomy.SiteID, full, kept *taxonomy.Event, dst []taxonomy.Trait) []taxonomy.Trait {
	r := run{c: c, e: full, view: look(full)}
	r.ask(c.edge.all)
	if x := c.edge.sites[site]; x != nil {
		r.ask(x)
	}
	traits := r.traits(nil, 0)
	if full.URL != kept.URL {
		with, without := c.Classify(site, full, nil), c.Classify(site, kept, nil)
		for _, t := range with {
			if _, ok := slices.BinarySearch(without, t); !ok {
				traits = append(traits, t)
			}
		}
		slices.Sort(traits)
		traits = slices.Compact(traits)
	}
	for _, t := range traits {
		if !slices.ContainsFunc(traits, func(u taxonomy.Trait) bool { return u != t && c.isAbove(t, u) }) {
			dst = append(dst, t)
		}
	}
	return dst
}

// isAbove reports whether a is an ancestor of t.
func (c *Classifier) isAbove(a, t taxonomy.Trait) bool {
	if !strings.HasPrefix(string(t), "c:") {
		return false
	}
	return slices.Contains(c.forest.Ancestors(t), a)
}

// traits appends what a run found to dst, and sorts it from n on, without repeats.
func (r *run) traits(dst []taxonomy.Trait, n int) []taxonomy.Trait {
	dst = append(dst, r.extra...)
	extra := len(dst) > n

	ids := r.ids[:r.n]
	if len(r.spill) > 0 {
		ids = append(r.spill, ids...)
	}
	slices.Sort(ids)
	for i, id := range ids {
		if i == 0 || id != ids[i-1] {
			dst = append(dst, r.c.table[id])
		}
	}
	if extra {
		slices.Sort(dst[n:])
		dst = dst[:n+len(slices.Compact(dst[n:]))]
	}
	return dst
}
