package rules

import (
	"reflect"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Reach is the traits whose columns a change of rules may change: those named,
// and all that begin with one of the prefixes. What it holds must not be changed
// once it is used.
type Reach struct {
	Traits   []taxonomy.Trait `json:"traits,omitempty"`   // sorted
	Prefixes []string         `json:"prefixes,omitempty"` // of key=values, such as "k:brand="; sorted
}

// Empty reports whether no column may change.
func (r *Reach) Empty() bool { return len(r.Traits) == 0 && len(r.Prefixes) == 0 }

// Has reports whether a trait's columns may change.
func (r *Reach) Has(t taxonomy.Trait) bool {
	if _, ok := slices.BinarySearch(r.Traits, t); ok {
		return true
	}
	for _, p := range r.Prefixes {
		if strings.HasPrefix(string(t), p) {
			return true
		}
	}
	return false
}

// And returns the reach of both changes.
func (r Reach) And(o Reach) Reach {
	both := Reach{Traits: slices.Concat(r.Traits, o.Traits), Prefixes: slices.Concat(r.Prefixes, o.Prefixes)}
	slices.Sort(both.Traits)
	slices.Sort(both.Prefixes)
	both.Traits, both.Prefixes = slices.Compact(both.Traits), slices.Compact(both.Prefixes)
	return both
}

// Rules returns the rules that c was compiled of. They must not be changed.
func (c *Classifier) Rules() []Rule { return c.given }

// Change returns what differs between c and the classifier that takes its
// place: an event that both classify differs in traits of the reach only. The
// reach is of rules that came, went or changed, and of categories that came,
// went or moved; it may be wider than what really changes, never narrower.
func (c *Classifier) Change(to *Classifier) Reach {
	traits := map[taxonomy.Trait]bool{}
	prefixes := map[string]bool{}

	before := make(map[string]*Rule, len(c.given))
	for i := range c.given {
		before[c.given[i].ID] = &c.given[i]
	}
	same := map[string]bool{}
	for i := range to.given {
		if was, ok := before[to.given[i].ID]; ok && equal(was, &to.given[i]) {
			same[was.ID] = true
		} else {
			to.reach(&to.parsed[i], traits, prefixes)
		}
	}
	for i := range c.given {
		if !same[c.given[i].ID] {
			c.reach(&c.parsed[i], traits, prefixes)
		}
	}

	var came []taxonomy.Trait // or went
	for _, pair := range [][2]*Classifier{{c, to}, {to, c}} {
		for _, t := range pair[0].forest.Traits() {
			own := pair[0].forest.Ancestors(t)
			i, ok := pair[1].forest.Index(t)
			j, _ := pair[0].forest.Index(t)
			if !ok || pair[1].forest.Traits()[i] != t || pair[1].forest.Archived(i) != pair[0].forest.Archived(j) {
				came = append(came, t)
				traits[t] = true
				for _, a := range own {
					traits[a] = true
				}
				pair[1].closure(t, traits) // what was in it is in what it became
				continue
			}
			others := pair[1].forest.Ancestors(t)
			for _, a := range own {
				if _, ok := slices.BinarySearch(others, a); !ok {
					traits[a] = true // it moved out of there, or into it
				}
			}
		}
	}
	for _, pair := range [][2]*Classifier{{c, to}, {to, c}} {
		for _, was := range pair[0].forest.Former() {
			now := pair[0].forest.Now(was)
			if other := pair[1].forest.Now(was); other != now || other == was {
				came = append(came, was)
				pair[0].closure(now, traits)
				pair[1].closure(other, traits)
			}
		}
	}
	// A property's value is taken as it is before it is taken as a slug, so a
	// category can come between a value and the category that it gave.
	if len(came) > 0 {
		for _, x := range []*Classifier{c, to} {
			for i := range x.parsed {
				for _, t := range x.parsed[i].targets {
					if t.parts != nil && !t.isKey && slices.ContainsFunc(came, func(u taxonomy.Trait) bool { return strings.HasPrefix(string(u), t.begins()) }) {
						c.beginning(t.begins(), traits)
						to.beginning(t.begins(), traits)
					}
				}
			}
		}
	}

	r := Reach{}
	for t := range traits {
		r.Traits = append(r.Traits, t)
	}
	for p := range prefixes {
		r.Prefixes = append(r.Prefixes, p)
	}
	slices.Sort(r.Traits)
	slices.Sort(r.Prefixes)
	return r
}

// equal reports whether two rules give the same: what they are called is no part
// of that.
func equal(a, b *Rule) bool {
	x, y := *a, *b
	x.Title, y.Title = "", ""
	return reflect.DeepEqual(x, y)
}

// reach adds what a rule can give.
func (c *Classifier) reach(p *parsed, traits map[taxonomy.Trait]bool, prefixes map[string]bool) {
	for _, t := range p.targets {
		switch {
		case t.parts != nil && t.isKey:
			prefixes[t.begins()] = true
		case t.parts != nil:
			c.beginning(t.begins(), traits)
		case t.isKey:
			traits[t.literal] = true
		default:
			for _, i := range c.forest.Closure(t.category) {
				traits[c.forest.Traits()[i]] = true
			}
		}
	}
}

// begins is the text before a target's first property.
func (t *target) begins() (text string) {
	for i := range t.parts {
		if t.parts[i].prop != "" {
			break
		}
		text += t.parts[i].text
	}
	return text
}

// beginning adds every category whose trait begins so or began so before it became
// another, and its ancestors.
func (c *Classifier) beginning(prefix string, traits map[taxonomy.Trait]bool) {
	for _, all := range [][]taxonomy.Trait{c.forest.Traits(), c.forest.Former()} {
		at, _ := slices.BinarySearch(all, taxonomy.Trait(prefix))
		for ; at < len(all) && strings.HasPrefix(string(all[at]), prefix); at++ {
			c.closure(all[at], traits)
		}
	}
}

// closure adds a category, as it is called now, and its ancestors.
func (c *Classifier) closure(t taxonomy.Trait, traits map[taxonomy.Trait]bool) {
	if i, ok := c.forest.Index(t); ok {
		for _, k := range c.forest.Closure(i) {
			traits[c.forest.Traits()[k]] = true
		}
	}
}

// Part returns a classifier that gives every event the same traits of a reach as
// c does; it may leave out others. It has only the rules that are needed for
// that: what folds a change again asks those alone.
func (c *Classifier) Part(r *Reach) (*Classifier, error) {
	var few []Rule
	for i := range c.given {
		traits, prefixes := map[taxonomy.Trait]bool{}, map[string]bool{}
		c.reach(&c.parsed[i], traits, prefixes)
		if r.meets(traits, prefixes) {
			few = append(few, c.given[i])
		}
	}
	return Compile(c.version, c.forest, few)
}

func (r *Reach) meets(traits map[taxonomy.Trait]bool, prefixes map[string]bool) bool {
	for t := range traits {
		if r.Has(t) {
			return true
		}
	}
	for p := range prefixes {
		at, _ := slices.BinarySearch(r.Traits, taxonomy.Trait(p))
		if at < len(r.Traits) && strings.HasPrefix(string(r.Traits[at]), p) {
			return true
		}
		for _, q := range r.Prefixes {
			if strings.HasPrefix(p, q) || strings.HasPrefix(q, p) {
				return true
			}
		}
	}
	return false
}
