package lookalike

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// feature is a trait as the model sees it: a visitor has it or not, whichever
// of the sources says so. Sources are not features of their own, for two that
// tell the same would only share its weight.
type feature struct {
	trait taxonomy.Trait
	op    index.Operand
	days  uint64 // visitor-days in the index, as a first measure
	// members in the training population, and in the seed's part of it
	n, seed uint64
}

// Exclusion is a trait that was not learnt from.
type Exclusion struct {
	Trait taxonomy.Trait `json:"trait"`
	Why   string         `json:"why"`
}

type columns struct {
	features []feature // by trait
	excluded []Exclusion
}

// The reasons for which a trait is not learnt from.
const (
	whyDefines   = "the seed's rule uses it"
	whyKin       = "it is above or below a category that the seed's rule uses"
	whyAsked     = "excluded in the definition"
	whySensitive = "it is sensitive"
	whyCopy      = "its visitors are nearly those of the seed"
	whyInside    = "nearly all of its visitors are in the seed"
	whyAround    = "nearly all of the seed are in it, and few others lack only it"
)

// candidates lists the traits of the 90 days that may be learnt from.
//
// What the seed's rule mentions is left out, for it says who is in the seed and
// nothing about who is like it: with it the held-out figure is near 1 and the
// result is empty of news. The same goes for the ancestors of a category, which
// hold its events, and for its descendants, whose events it holds.
func (s *Scorer) candidates(view audience.View, spec audience.LookalikeSpec) (*columns, error) {
	today := view.Clock().Day()
	r, err := query.NewIndexResolver(view, today, s.Training, s.Audience)
	if err != nil {
		return nil, err
	}
	rule, ok := s.Audience(spec.Seed)
	if !ok {
		return nil, fmt.Errorf("there is no audience %q", spec.Seed)
	}
	banned := map[string]string{string(taxonomy.TraitAny): "", string(taxonomy.TraitBot): ""}
	ban := func(mention, why string) {
		if _, ok := banned[mention]; !ok {
			banned[mention] = why
		}
	}
	if rule != nil {
		mentions := query.Mentions(rule, r)
		for _, m := range mentions {
			ban(m, whyDefines)
		}
		for _, m := range mentions {
			for _, t := range s.kin(taxonomy.Trait(m), true) {
				ban(string(t), whyKin)
			}
		}
	}
	for _, t := range spec.Exclude {
		ban(string(t), whyAsked)
		for _, below := range s.kin(t, false) {
			ban(string(below), whyAsked)
		}
	}

	c := &columns{}
	days := map[taxonomy.Trait]uint64{}
	err = view.Columns(today.Oldest(), today, func(col taxonomy.Column, visitorDays uint64) {
		t, until, ends := col.Trait.Ends()
		if query.InUse(r, col.Source) && !(ends && until <= today) {
			// The string may lie in a file that is unmapped with the view.
			days[taxonomy.Trait(strings.Clone(string(t)))] += visitorDays
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read the columns to %s: %w", today, err)
	}
	for t, n := range days {
		if strings.HasPrefix(string(t), taxonomy.BotLayerPrefix) {
			continue // as TraitBot: nobody who is learnt from has it
		}
		key, statement := t.Statement()
		why, out := banned[string(t)]
		if !out && statement {
			why, out = banned[key]
		}
		if !out && s.Tree != nil && s.Tree.Sensitive(t) {
			why, out = whySensitive, true
		}
		switch {
		case out && why != "":
			c.excluded = append(c.excluded, Exclusion{t, why})
		case out, n < minSupport: // a visitor has at least one visitor-day
		case statement:
			if strings.HasPrefix(string(t), "l:") && strings.HasSuffix(string(t), "=out") {
				continue // says only that a list once had them
			}
			c.features = append(c.features, feature{trait: t, days: n, op: index.Operand{Kind: index.OpNewest, Columns: stating(t, r.StatementColumns(key), today), All: r.StatementColumns(key), AsOf: today}})
		default:
			c.features = append(c.features, feature{trait: t, days: n, op: index.Operand{Kind: index.OpCount, Columns: r.Columns(t), From: today.Oldest(), To: today, Unit: index.Events, Min: 1}})
		}
	}
	// A site may make traits without end. Those with the most visitor-days are
	// counted, several times as many as will be learnt from.
	byTrait := func(a, b feature) int { return strings.Compare(string(a.trait), string(b.trait)) }
	slices.SortFunc(c.features, func(a, b feature) int { return cmp.Or(cmp.Compare(b.days, a.days), byTrait(a, b)) })
	c.features = c.features[:min(len(c.features), counted*s.Columns)]
	slices.SortFunc(c.features, byTrait)
	slices.SortFunc(c.excluded, func(a, b Exclusion) int { return strings.Compare(string(a.Trait), string(b.Trait)) })
	return c, nil
}

// stating returns the columns of a key that state t and have not ended today.
func stating(t taxonomy.Trait, all []taxonomy.Column, today taxonomy.Day) (cs []taxonomy.Column) {
	for _, c := range all {
		if stated, until, ends := c.Trait.Ends(); stated == t && !(ends && until <= today) {
			cs = append(cs, c)
		}
	}
	return cs
}

// kin is all descendants of a category, and its ancestors if up is set.
func (s *Scorer) kin(t taxonomy.Trait, up bool) (out []taxonomy.Trait) {
	if s.Tree == nil {
		return nil
	}
	if up {
		out = append(out, s.Tree.Ancestors(t)...)
	}
	seen := map[taxonomy.Trait]bool{t: true}
	for queue := []taxonomy.Trait{t}; len(queue) > 0; queue = queue[1:] {
		for _, k := range s.Tree.Children(queue[0]) {
			if !seen[k] {
				seen[k] = true
				out, queue = append(out, k), append(queue, k)
			}
		}
	}
	return out
}

// choose takes the counts that a pass over all blocks found, and returns the
// places in c.features of at most n traits: enough members, no leak, the most common
// first and then by place. It goes by how common a trait is and not by how it
// fits the seed, for a choice that has seen the seed would make the held-out
// figure too good.
func (c *columns) choose(r *rows, n int) []int {
	var out []int
	for j := range c.features {
		f := &c.features[j]
		f.n, f.seed = r.with[j], r.withSeed[j]
		if f.n < max(minSupport, r.pop.training/100_000) {
			continue
		}
		if why := leaks(f.n, f.seed, r.pop.training, r.pop.seedTraining); why != "" {
			if f.n >= audience.ShownFloor {
				c.excluded = append(c.excluded, Exclusion{f.trait, why})
			}
			continue
		}
		out = append(out, j)
	}
	slices.SortStableFunc(c.excluded, func(a, b Exclusion) int { return strings.Compare(string(a.Trait), string(b.Trait)) })
	slices.SortStableFunc(out, func(a, b int) int { return cmp.Compare(c.features[b].n, c.features[a].n) })
	out = out[:min(n, len(out))]
	slices.Sort(out)
	return out
}

// leaks says why a trait with n visitors, a of them in the seed, is as good as
// the seed's definition, or nothing. It finds what no rule tells: an upload that
// was made from a trait, or two traits for one thing. What follows only from
// several traits together it cannot see.
func leaks(n, a, population, seed uint64) string {
	others, strangers := population-seed, n-a
	switch {
	case float64(a) >= 0.8*float64(seed+n-a):
		return whyCopy
	case 2*seed <= population && float64(a) >= 0.95*float64(n):
		return whyInside
	case float64(a) >= 0.99*float64(seed) && float64(strangers) <= 0.9*float64(others):
		return whyAround
	}
	return ""
}
