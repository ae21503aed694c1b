package audience

import (
	"cmp"
	"maps"
	"slices"

	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Mentions returns the traits and statement keys that an audience tells of, as
// query.Mentions names them, sorted: those of its rule, of the audiences that the
// rule names, and of the seed that a lookalike extends.
func (c *Catalog) Mentions(id taxonomy.AudienceID) []string {
	var out []string
	seen := map[taxonomy.AudienceID]bool{}
	var visit func(taxonomy.AudienceID)
	visit = func(id taxonomy.AudienceID) {
		if seen[id] {
			return
		}
		seen[id] = true
		if e := c.exprs[id]; e != nil {
			out = append(out, query.Mentions(e, onlyAudiences{c})...)
			for _, of := range query.References(e) {
				visit(of)
			}
		}
		if d, ok := c.Get(id); ok && d.Lookalike != nil {
			visit(d.Lookalike.Seed)
		}
	}
	visit(id)
	slices.Sort(out)
	return slices.Compact(out)
}

// TellsOf returns the first trait that an audience tells of (see Mentions) for
// which is holds, "" if there is none: what is sensitive leaves under no name.
func (c *Catalog) TellsOf(id taxonomy.AudienceID, is func(taxonomy.Trait) bool) taxonomy.Trait {
	for _, m := range c.Mentions(id) {
		if is(taxonomy.Trait(m)) {
			return taxonomy.Trait(m)
		}
	}
	return ""
}

// With returns the catalog with d in the place of the definition with its ID, or
// beside the others.
func (c *Catalog) With(d *Definition) *Catalog {
	with := &Catalog{exprs: maps.Clone(c.exprs), errs: maps.Clone(c.errs)}
	with.all = slices.DeleteFunc(slices.Clone(c.all), func(o Versioned) bool { return o.ID == d.ID })
	i, _ := slices.BinarySearchFunc(with.all, d.ID, func(o Versioned, id taxonomy.AudienceID) int { return cmp.Compare(o.ID, id) })
	with.all = slices.Insert(with.all, i, Versioned{Definition: *d})
	delete(with.exprs, d.ID)
	delete(with.errs, d.ID)
	with.read(&with.all[i])
	return with
}
