package rules

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// Classifier is compiled rules. It is immutable and safe for concurrent use.
type Classifier struct {
	version uint32
	forest  *tree.Forest
	names   []string // of rules, in the order they were given
	given   []Rule
	parsed  []parsed
	rules   []compiled
	all     *index // rules for every site
	sites   map[taxonomy.SiteID]*index
	// The rules that ask for what is never stored: the edge asks them, and nobody
	// else. Of a stored event "not" would hold of what was there.
	edge edgeRules

	// table has every trait that can be told beforehand, sorted: numbers sort
	// faster than text. place[i] is where the forest's category i stands in it.
	table []taxonomy.Trait
	place []uint32
}

type compiled struct {
	sites   []taxonomy.SiteID // none: every one
	conds   []condition
	static  []uint32 // into table: traits and ancestors, sorted, once
	dynamic []target // with properties in them
	dated   []uint32 // categories, by their place in the forest, that are archived
}

// Compile checks the rules against the forest and makes a classifier of the
// given version, which checkpoints and stored events will name. Faults are
// taxonomy.FieldErrors, joined, such as "rules[3].when[0].op".
func Compile(version uint32, f *tree.Forest, rules []Rule) (*Classifier, error) {
	c := &Classifier{version: version, forest: f, sites: make(map[taxonomy.SiteID]*index)}
	if len(rules) > MaxRules {
		return nil, taxonomy.Invalid("rules", "%d of them, at most %d", len(rules), MaxRules)
	}
	var errs []error
	ids := make(map[string]int)
	ps := make([]parsed, len(rules))
	for i := range rules {
		p, err := parse(&rules[i], f)
		if err != nil {
			errs = append(errs, taxonomy.Under(fmt.Sprintf("rules[%d].", i), err))
			continue
		}
		if first, ok := ids[rules[i].ID]; ok {
			errs = append(errs, taxonomy.Invalid(fmt.Sprintf("rules[%d].id", i), "%q is also the ID of rules[%d]", rules[i].ID, first))
			continue
		}
		ids[rules[i].ID] = i
		ps[i] = *p
		c.names = append(c.names, rules[i].ID)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}

	c.given, c.parsed = slices.Clone(rules), ps
	c.makeTable(ps)
	c.rules = make([]compiled, len(ps))
	var everywhere []uint32
	bySite := make(map[taxonomy.SiteID][]uint32)
	for i := range ps {
		c.rules[i] = c.compile(&ps[i])
		if ps[i].edge {
			c.edge.numbers = append(c.edge.numbers, uint32(i))
			continue
		}
		if len(ps[i].sites) == 0 {
			everywhere = append(everywhere, uint32(i))
		}
		for _, s := range ps[i].sites {
			bySite[s] = append(bySite[s], uint32(i))
		}
	}
	c.all = buildIndex(ps, everywhere)
	for s, numbers := range bySite {
		c.sites[s] = buildIndex(ps, numbers)
	}
	c.edge.build(ps)
	return c, nil
}

// makeTable sorts the forest's categories and the rules' fixed key=values into
// one table.
func (c *Classifier) makeTable(ps []parsed) {
	cats := c.forest.Traits()
	c.table = slices.Clone(cats)
	for i := range ps {
		for _, t := range ps[i].targets {
			if t.isKey && t.parts == nil {
				c.table = append(c.table, t.literal)
			}
		}
	}
	slices.Sort(c.table)
	c.table = slices.Compact(c.table)
	c.place = make([]uint32, len(cats))
	for i, t := range cats {
		j, _ := slices.BinarySearch(c.table, t)
		c.place[i] = uint32(j)
	}
}

func (c *Classifier) compile(p *parsed) (r compiled) {
	r.sites, r.conds = p.sites, p.conds
	for _, t := range p.targets {
		switch {
		case t.parts != nil:
			r.dynamic = append(r.dynamic, t)
		case t.isKey:
			j, _ := slices.BinarySearch(c.table, t.literal)
			r.static = append(r.static, uint32(j))
		case c.forest.Archived(t.category) != 0:
			r.dated = append(r.dated, t.category)
		default:
			for _, i := range c.forest.Closure(t.category) {
				r.static = append(r.static, c.place[i])
			}
		}
	}
	slices.Sort(r.static)
	r.static = slices.Compact(r.static)
	return r
}

// Version returns the version that Compile was given.
func (c *Classifier) Version() uint32 { return c.version }

// Forest returns the categories that the rules were compiled with.
func (c *Classifier) Forest() *tree.Forest { return c.forest }

// Classify appends to dst what the event is about: for each rule that holds its
// categories and key=values; the event's own traits, if they are categories of
// the forest or key=values; and every ancestor of all of these. What it appends
// is sorted and has no repeats. It does not allocate if dst has room, except
// for the text of a key=value that a rule makes of a property.
func (c *Classifier) Classify(site taxonomy.SiteID, e *taxonomy.Event, dst []taxonomy.Trait) []taxonomy.Trait {
	r := run{c: c, e: e, view: look(e)}
	n := len(dst)
	for _, t := range e.Traits {
		if i, ok := c.forest.Index(t); ok {
			if r.there(i) {
				r.category(i)
			}
		} else if strings.HasPrefix(string(t), "k:") {
			dst = append(dst, t)
		}
	}
	r.ask(c.all)
	if x := c.sites[site]; x != nil {
		r.ask(x)
	}
	return r.traits(dst, n)
}

// Matched returns the IDs of the rules that hold for the event, in the order in
// which they were given: the answer to "why".
func (c *Classifier) Matched(site taxonomy.SiteID, e *taxonomy.Event) []string {
	r := run{c: c, e: e, view: look(e), why: true}
	r.ask(c.all)
	if x := c.sites[site]; x != nil {
		r.ask(x)
	}
	hits := append(r.spill, r.ids[:r.n]...)
	slices.Sort(hits)
	names := make([]string, len(hits))
	for i, n := range hits {
		names[i] = c.names[n]
	}
	return names
}

// run is one event on its way through the rules. What it finds stands in an
// array of its own, not in a slice of one: a slice that is stored through a
// pointer would put the array on the heap.
type run struct {
	c     *Classifier
	e     *taxonomy.Event
	view  view
	why   bool // collect the numbers of the rules that hold, not what they give
	n     int
	ids   [256]uint32      // the first n: places in the table
	spill []uint32         // what did not fit
	extra []taxonomy.Trait // what is not in the table
}

// ask meets each rule of x that may hold, once.
func (r *run) ask(x *index) {
	r.try(x.always)
	for i, f := range x.fields {
		if f != nil && r.view[i] != "" {
			r.field(f, r.view[i])
		}
	}
	if len(x.props) == 0 {
		return
	}
	for i := range r.e.Props {
		p := &r.e.Props[i]
		if i > 0 && p.Key == r.e.Props[i-1].Key {
			continue // a malformed event; Event.Prop takes the first
		}
		if f := x.props[p.Key]; f != nil {
			r.field(f, p.Value)
		}
	}
}

func (r *run) field(f *fieldIndex, s string) {
	r.try(f.exists)
	if len(f.eq) > 0 {
		r.try(f.eq[s])
	}
	if len(f.prefix.keys) > 0 {
		for p := f.prefix.last(s); p >= 0; p = f.prefix.parent[p] {
			r.try(f.prefix.rules[p])
		}
	}
	if len(f.suffix.keys) > 0 {
		for p := f.suffix.lastReversed(s); p >= 0; p = f.suffix.parent[p] {
			r.try(f.suffix.rules[p])
		}
	}
	if len(f.hosts) > 0 {
		for at := 0; ; {
			r.try(f.hosts[s[at:]])
			dot := strings.IndexByte(s[at:], '.')
			if dot < 0 {
				break
			}
			at += dot + 1
		}
	}
	if len(f.ranges) > 0 {
		if v, ok := taxonomy.Number(s); ok {
			for i := f.upTo(v) - 1; i >= 0 && f.ranges[i].reach >= v; i-- {
				if f.ranges[i].max >= v {
					r.try(f.ranges[i].rules)
				}
			}
		}
	}
}

// try asks rules for all their conditions and takes what those that hold give.
func (r *run) try(numbers []uint32) {
next:
	for _, n := range numbers {
		rule := &r.c.rules[n]
		for i := range rule.conds {
			if !rule.conds[i].holds(&r.view, r.e) {
				continue next
			}
		}
		if r.why {
			r.add([]uint32{n})
			continue
		}
		r.add(rule.static)
		for _, i := range rule.dated {
			if r.there(i) {
				r.category(i)
			}
		}
		for i := range rule.dynamic {
			r.fill(&rule.dynamic[i])
		}
	}
}

// there reports whether a category was there when the event happened: one that is
// archived is not, from then on. What is above one that is there is there too.
func (r *run) there(i uint32) bool {
	at := r.c.forest.Archived(i)
	return at == 0 || r.e.Time < at
}

// add takes ids. When there is no room left it throws out repeats, and only
// what then still does not fit goes to the heap: an event that is about more
// than 256 things.
func (r *run) add(ids []uint32) {
	if r.n+len(ids) > len(r.ids) {
		slices.Sort(r.ids[:r.n])
		r.n = len(slices.Compact(r.ids[:r.n]))
	}
	if r.n+len(ids) > len(r.ids) {
		r.spill = append(r.spill, ids...)
		return
	}
	r.n += copy(r.ids[r.n:], ids)
}

func (r *run) category(i uint32) {
	if len(r.c.table) == len(r.c.place) { // no key=values between: same places
		r.add(r.c.forest.Closure(i))
		return
	}
	var room [tree.MaxAncestors + 1]uint32
	ids := room[:0]
	for _, a := range r.c.forest.Closure(i) {
		ids = append(ids, r.c.place[a])
	}
	r.add(ids)
}

// maxPart bounds a property's value in a category, in bytes: longer IDs do not
// exist.
const maxPart = 128

// fill puts the event's properties into a target and takes what comes out.
func (r *run) fill(t *target) {
	var room [512]byte
	if t.isKey {
		b := room[:0]
		for i := range t.parts {
			p := &t.parts[i]
			if p.prop == "" {
				b = append(b, p.text...)
				continue
			}
			v, ok := r.e.Prop(p.prop)
			if !ok || v == "" || len(v) > maxKeyValue {
				return
			}
			b = append(b, v...)
		}
		s := string(b)
		if cleanValue(s[len(t.parts[0].text):]) {
			r.extra = append(r.extra, taxonomy.Trait(s))
		}
		return
	}
	for _, slug := range [...]bool{false, true} {
		b, ok := room[:0], true
		for i := range t.parts {
			p := &t.parts[i]
			if p.prop == "" {
				b = append(b, p.text...)
				continue
			}
			v, has := r.e.Prop(p.prop)
			if !has || v == "" || len(v) > maxPart {
				return
			}
			n := len(b)
			if slug {
				b = tree.AppendSlug(b, v)
			} else {
				b = append(b, v...)
			}
			ok = ok && len(b) > n
		}
		if !ok {
			return
		}
		if i, found := r.c.forest.IndexBytes(b); found && r.there(i) {
			r.category(i)
			return
		}
	}
}
