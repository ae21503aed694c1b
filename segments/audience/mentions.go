package audience

import (
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
