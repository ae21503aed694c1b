package fold

import (
	"strings"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Facts is what is known of one visitor at one moment, which may be ahead of the
// last view: what /v1/seg asks (R33). It is safe for concurrent use and holds
// memory of the moment it was taken.
type Facts struct {
	f       *Fold
	v       visitor
	consent taxonomy.Consent
	ordinal uint32
	days    index.Days
	fresh   map[datedColumn]int // events that no committed layer holds yet
	clock   taxonomy.Millis
	off     []taxonomy.Trait
	lives   map[taxonomy.Trait]int
}

type datedColumn struct {
	col taxonomy.Column
	day taxonomy.Day
}

// Touched returns what is known of a visitor now, if anything of it changed
// since the view that the last generation was built from (Built): with the
// columns in which it did; or with nil if what decides whether it may be in an
// audience at all changed, or it is new.
func (f *Fold) Touched(k taxonomy.VisitorKey) (columns []taxonomy.Column, facts *Facts, ok bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	sh := f.state.shards[k.Shard(f.state.cfg.Shards)]
	if sh == nil {
		return nil, nil, false
	}
	o, ok := sh.find(k)
	if !ok {
		return nil, nil, false
	}
	v := *sh.visitors.at(o)
	facts = &Facts{f: f, v: v, consent: f.state.consents.all[v.consent], ordinal: o, days: sh.days,
		clock: f.state.clock, off: f.state.choices.m[k].off, lives: livesOf(f.state.rules), fresh: map[datedColumn]int{}}
	seen := map[column]bool{}
	for i := range sh.touched {
		for _, dc := range sh.touched[i].visitors[o] {
			if !seen[dc.col] {
				seen[dc.col] = true
				columns = append(columns, f.state.columns.cols[dc.col])
			}
			if !sh.touched[i].committed {
				facts.fresh[datedColumn{f.state.columns.cols[dc.col], dc.day}]++
			}
		}
	}
	was, known := visitor{}, false
	if b := f.built; b != nil && o < b.shards[sh.n].visitors.n {
		was, known = *b.shards[sh.n].visitors.at(o), !b.shards[sh.n].chose(o, facts.off)
	}
	if !known || was.flags != v.flags || f.state.consents.all[was.consent].Purposes != facts.consent.Purposes {
		return nil, facts, true
	}
	return columns, facts, len(columns) > 0
}

// Count is how many events the visitor has in a column on a day, at most 255. It
// waits while days are still read.
func (x *Facts) Count(c taxonomy.Column, d taxonomy.Day) int {
	if d.Expired(x.clock) || d+taxonomy.Day(lifeIn(x.lives, c.Trait)) <= x.clock.Day() {
		return 0
	}
	for _, off := range x.off {
		if covers(off, c.Trait, x.f.opt.Above) {
			return 0
		}
	}
	n := x.fresh[datedColumn{c, d}]
	if x.f.ready() == nil { // else the fold has stopped, and goes on elsewhere or not at all
		n += x.days.Events(x.ordinal, c, d)
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
	place := statementPlace{visitor: x.v.key, key: key}
	sources := index.SourcesOf(all)
	x.f.mu.RLock()
	defer x.f.mu.RUnlock()
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
	if d, ok := strings.CutPrefix(set, index.SetAllow); ok {
		return x.consent.Day+consentLife > x.clock.Day() && x.consent.Allows(taxonomy.DestinationID(d))
	}
	if d, ok := strings.CutPrefix(set, index.SetMatched); ok {
		x.f.mu.RLock()
		defer x.f.mu.RUnlock()
		return x.f.state.matches.matched(taxonomy.DestinationID(d), x.v.key)
	}
	switch set {
	case index.SetGone:
		return x.v.flags&isGone != 0
	case index.SetProfile:
		return x.consent.Purposes.Has(taxonomy.MayProfile)
	case index.SetInsight:
		return x.consent.Purposes.Has(taxonomy.MayInsight)
	case index.SetTraining:
		return x.consent.Purposes.Has(taxonomy.MayTrain)
	}
	return false // holdout is empty
}
