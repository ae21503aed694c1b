package fold

import (
	"strings"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Facts is what is known of one visitor as of now, which may be ahead of the
// last view: the question of /v1/seg (R33). It is valid only within the call of
// Touched that hands it out.
type Facts struct {
	f *Fold
	s *shard
	o uint32
}

// Touched calls fn with the columns in which a visitor had events since the
// view that the last generation was built from (Built), and what is known of it
// now; and reports whether there is such a visitor. fn runs under the fold's
// lock: it must be short and must not call the fold.
func (f *Fold) Touched(k taxonomy.VisitorKey, fn func(columns []taxonomy.Column, facts *Facts)) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	sh := f.state.shards[k.Shard(f.state.cfg.Shards)]
	if sh == nil {
		return false
	}
	o, ok := sh.ids[k]
	if !ok || sh.visitors.at(o).flags != 0 {
		return false
	}
	var cols []taxonomy.Column
	seen := map[column]bool{}
	for i := range sh.touched {
		for _, dc := range sh.touched[i].visitors[o] {
			if !seen[dc.col] {
				seen[dc.col] = true
				cols = append(cols, f.state.columns.cols[dc.col])
			}
		}
	}
	fn(cols, &Facts{f, sh, o})
	return true
}

// Ordinal is the visitor's place in every view since it became known.
func (x *Facts) Ordinal() (shard int, ordinal uint32) { return x.s.n, x.o }

// Consent is the visitor's newest summary.
func (x *Facts) Consent() taxonomy.Consent {
	return x.f.state.consents.all[x.s.visitors.at(x.o).consent]
}

// Count is how many events the visitor has in a column on a day, at most 255.
func (x *Facts) Count(c taxonomy.Column, d taxonomy.Day) int {
	n := 0
	if !d.Expired(x.f.state.clock) {
		n = x.s.days.Events(x.o, c, d)
	}
	if col, ok := x.f.state.columns.find(c); ok {
		for i := range x.s.touched {
			if x.s.touched[i].committed {
				continue
			}
			for _, dc := range x.s.touched[i].visitors[x.o] {
				if dc.day == d && dc.col == col {
					n++
				}
			}
		}
	}
	return min(n, 255)
}

// Statement returns the column, of all, that holds the visitor's newest
// statement in the 90 days to asOf (R16). Of several sources' statements of one
// day that of the first source in order is the newest.
func (x *Facts) Statement(all []taxonomy.Column, asOf taxonomy.Day) (taxonomy.Column, bool) {
	if len(all) == 0 {
		return taxonomy.Column{}, false
	}
	key, ok := all[0].Trait.Statement()
	if !ok {
		return taxonomy.Column{}, false
	}
	place := statementPlace{visitor: x.s.visitors.at(x.o).key, key: key}
	sources := index.SourcesOf(all)
	for place.day = asOf; place.day >= asOf.Oldest(); place.day-- {
		for _, place.source = range sources {
			if s, ok := x.f.state.newest.get(place); ok {
				return taxonomy.Column{Source: place.source, Trait: s.trait}, true
			}
		}
	}
	return taxonomy.Column{}, false
}

// In reports whether the visitor is in a named set of the index. Audiences are
// not known here.
func (x *Facts) In(set string) bool {
	c := x.Consent()
	if d, ok := strings.CutPrefix(set, index.SetAllow); ok {
		return c.Day+consentLife > x.f.state.clock.Day() && c.Allows(taxonomy.DestinationID(d))
	}
	if d, ok := strings.CutPrefix(set, index.SetMatched); ok {
		_, _, ok := x.f.state.matches.of(taxonomy.DestinationID(d), x.s.visitors.at(x.o).key)
		return ok
	}
	switch set {
	case index.SetProfile:
		return c.Purposes.Has(taxonomy.MayProfile)
	case index.SetInsight:
		return c.Purposes.Has(taxonomy.MayInsight)
	case index.SetTraining:
		return c.Purposes.Has(taxonomy.MayTrain)
	}
	return false // gone: Touched does not hand those out; holdout: empty
}
