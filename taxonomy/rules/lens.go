package rules

import (
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Lens shows the owner of rules what they make of a site's events: what nearly
// held, and what nobody asks for. It asks every rule about every event, so it is
// for a handful of events that somebody looks at, not for the fold. It is
// immutable and safe for concurrent use.
type Lens struct {
	c     *Classifier
	site  taxonomy.SiteID
	rules []uint32 // for the site
	used  map[string]bool
}

// NearMiss is a rule that does not hold for one reason alone.
type NearMiss struct {
	Rule string
	// When is the place of the one condition that does not hold, in Rule.When.
	When int
	// Case: it would hold if capital letters and spaces at the ends did not count.
	Case bool
}

// Sight is what the rules make of one event.
type Sight struct {
	Rules  []string // that hold, in the order in which they were given
	Traits []taxonomy.Trait
	Near   []NearMiss // at most maxNear
	// Unused are the event's properties ("prop.sku") and keys of its query
	// ("query.q") that no rule of the site asks for, in the event's order.
	Unused []string
}

// maxNear bounds the near misses of an event: more than that say nothing.
const maxNear = 5

// Lens returns a lens for a site.
func (c *Classifier) Lens(site taxonomy.SiteID) *Lens {
	l := &Lens{c: c, site: site, used: map[string]bool{}}
	for i := range c.rules {
		r := &c.rules[i]
		if len(r.sites) > 0 && !slices.Contains(r.sites, site) {
			continue
		}
		if !l.c.parsed[i].edge { // of what is shown it can never hold
			l.rules = append(l.rules, uint32(i))
		}
		for j := range r.conds {
			switch k := &r.conds[j]; k.field {
			case fieldProp:
				l.used["prop."+k.key] = true
			case fieldQuery:
				l.used["query."+k.key] = true
			case fieldURL:
				l.used["query."] = true // whoever asks for the whole address may mean any key
			}
		}
		for _, t := range r.dynamic {
			for _, p := range t.parts {
				if p.prop != "" {
					l.used["prop."+p.prop] = true
				}
			}
		}
	}
	return l
}

// Look says what the rules make of an event.
func (l *Lens) Look(e *taxonomy.Event) (s Sight) {
	s.Rules = l.c.Matched(l.site, e)
	s.Traits = l.c.Classify(l.site, e, nil)
	v := look(e)
	for _, n := range l.rules {
		if len(s.Near) == maxNear {
			break
		}
		if m, ok := l.near(n, &v, e); ok {
			s.Near = append(s.Near, m)
		}
	}
	for i := range e.Props {
		if key := "prop." + e.Props[i].Key; !l.used[key] {
			s.Unused = append(s.Unused, key)
		}
	}
	if _, query, ok := strings.Cut(e.URL, "?"); ok && !l.used["query."] {
		for pair := range strings.SplitSeq(query, "&") {
			key, _, _ := strings.Cut(pair, "=")
			if k, ok := unescape(key); ok && k != "" && !l.used["query."+k] {
				s.Unused = append(s.Unused, "query."+k)
			}
		}
	}
	return s
}

// near reports whether rule n all but holds: of several conditions one does not;
// or of any, one does not but for capital letters.
func (l *Lens) near(n uint32, v *view, e *taxonomy.Event) (m NearMiss, ok bool) {
	r := &l.c.rules[n]
	missed := -1
	for i := range r.conds {
		if r.conds[i].holds(v, e) {
			continue
		}
		if missed >= 0 {
			return m, false
		}
		missed = i
	}
	if missed < 0 {
		return m, false
	}
	c := &r.conds[missed]
	m = NearMiss{Rule: l.c.names[n], When: int(c.at), Case: c.holdsLoosely(v, e)}
	// A rule whose only other condition is the kind holds "nearly" for every page
	// view: that says nothing.
	others := 0
	for i := range r.conds {
		if i != missed && r.conds[i].field != fieldKind {
			others++
		}
	}
	return m, m.Case || others > 0
}

// holdsLoosely reports whether a question for a text would be answered yes if
// neither capital letters nor spaces at the ends counted.
func (c *condition) holdsLoosely(v *view, e *taxonomy.Event) bool {
	s, ok := c.value(v, e)
	if !ok || c.not {
		return false
	}
	s = strings.TrimSpace(s)
	for _, x := range c.values {
		x = strings.TrimSpace(x)
		n := len(x)
		switch c.op {
		case opEq:
			ok = strings.EqualFold(s, x)
		case opPrefix:
			ok = len(s) >= n && strings.EqualFold(s[:n], x)
		case opSuffix:
			ok = len(s) >= n && strings.EqualFold(s[len(s)-n:], x) && !c.isDomain()
		case opContains, opWords:
			ok = x != "" && strings.Contains(strings.ToLower(s), strings.ToLower(x))
		default:
			return false
		}
		if ok {
			return true
		}
	}
	return false
}
