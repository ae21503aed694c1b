package rules

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"
)

// index finds the rules that may hold for an event without asking each. Every
// rule hangs on one of its conditions, that which is rarest among the rules, and
// is asked for the others only if that one holds. So a thousand rules for one
// host and as many paths hang on their paths, and one path rule for each of a
// thousand hosts hangs on its host.
type index struct {
	always []uint32 // rules without a condition to hang on
	fields [scalars]*fieldIndex
	props  map[string]*fieldIndex
}

type fieldIndex struct {
	domain bool // suffixes end at a label
	eq     map[string][]uint32
	prefix chain
	suffix chain // over reversed text; of domains unused
	hosts  map[string][]uint32
	ranges []interval
	exists []uint32
}

// interval is a range condition: sorted by min, and reach is the greatest max of
// all up to here, so that a walk to the left knows when to stop.
type interval struct {
	min, max, reach float64
	rules           []uint32
}

// anchor identifies what a rule can hang on.
type anchor struct {
	field field
	key   string
	op    op
	value string
}

// hook is the op by which a rule can hang on the condition: what cannot be
// looked up still needs its field to be there. ok is false if the rule cannot
// hang on it at all: what holds where the field is absent, and keys of the
// query, which are read only when they are asked for.
func (c *condition) hook() (o op, ok bool) {
	return min(c.op, opExists), !c.not && c.field != fieldQuery
}

func (c *condition) anchors(yield func(anchor)) {
	hook, ok := c.hook()
	if !ok {
		return
	}
	a := anchor{field: c.field, key: c.key, op: hook}
	switch hook {
	case opRange:
		a.value = fmt.Sprint(c.min, " ", c.max)
		yield(a)
	case opExists:
		yield(a)
	default:
		for _, a.value = range c.values {
			yield(a)
		}
	}
}

// buildIndex hangs up the rules of the given numbers.
func buildIndex(rules []parsed, numbers []uint32) *index {
	count := make(map[anchor]int)
	for _, n := range numbers {
		for i := range rules[n].conds {
			rules[n].conds[i].anchors(func(a anchor) { count[a]++ })
		}
	}
	x := &index{props: make(map[string]*fieldIndex)}
	pre := make(map[*fieldIndex]map[string][]uint32)
	suf := make(map[*fieldIndex]map[string][]uint32)
	for _, n := range numbers {
		conds := rules[n].conds
		best, cost := -1, 0
		for j := range conds {
			most := 0
			if _, ok := conds[j].hook(); !ok {
				continue
			}
			conds[j].anchors(func(a anchor) { most = max(most, count[a]) })
			if best < 0 || cmp.Or(cmp.Compare(most, cost), cmp.Compare(conds[j].op, conds[best].op)) < 0 {
				best, cost = j, most
			}
		}
		if best < 0 {
			x.always = append(x.always, n)
			continue
		}
		c := &conds[best]
		f := x.field(c)
		hook, _ := c.hook()
		switch hook {
		case opEq:
			for _, v := range c.values {
				f.eq[v] = append(f.eq[v], n)
			}
		case opPrefix:
			hang(pre, f, c.values, n)
		case opSuffix:
			if f.domain {
				for _, v := range minimal(c.values, domainSuffix) {
					f.hosts[v] = append(f.hosts[v], n)
				}
				continue
			}
			reversed := make([]string, len(c.values))
			for i, v := range c.values {
				reversed[i] = reverse(v)
			}
			hang(suf, f, reversed, n)
		case opRange:
			f.ranges = append(f.ranges, interval{min: c.min, max: c.max, rules: []uint32{n}})
		case opExists:
			f.exists = append(f.exists, n)
		}
	}
	for f, m := range pre {
		f.prefix = newChain(m)
	}
	for f, m := range suf {
		f.suffix = newChain(m)
	}
	for _, f := range x.all() {
		slices.SortFunc(f.ranges, func(a, b interval) int { return cmp.Compare(a.min, b.min) })
		for i := range f.ranges {
			r := &f.ranges[i]
			r.reach = r.max
			if i > 0 {
				r.reach = max(r.reach, f.ranges[i-1].reach)
			}
		}
	}
	return x
}

func (x *index) field(c *condition) *fieldIndex {
	p := &x.fields[0]
	var f *fieldIndex
	if c.field == fieldProp {
		f = x.props[c.key]
	} else {
		p = &x.fields[c.field]
		f = *p
	}
	if f == nil {
		f = &fieldIndex{domain: c.isDomain(), eq: make(map[string][]uint32), hosts: make(map[string][]uint32)}
		if c.field == fieldProp {
			x.props[c.key] = f
		} else {
			*p = f
		}
	}
	return f
}

func (x *index) all() (fs []*fieldIndex) {
	for _, f := range x.fields {
		if f != nil {
			fs = append(fs, f)
		}
	}
	for _, f := range x.props {
		fs = append(fs, f)
	}
	return fs
}

// hang puts rule n under those values of which no other is a prefix: then at
// most one of them is a prefix of any text, and the rule is met once.
func hang(to map[*fieldIndex]map[string][]uint32, f *fieldIndex, values []string, n uint32) {
	m := to[f]
	if m == nil {
		m = make(map[string][]uint32)
		to[f] = m
	}
	for _, v := range minimal(values, strings.HasPrefix) {
		m[v] = append(m[v], n)
	}
}

// minimal drops every value that is within another, and repeats.
func minimal(values []string, within func(v, other string) bool) []string {
	vs := slices.Clone(values)
	slices.SortFunc(vs, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	var kept []string
	seen := make(map[string]bool)
	for _, v := range slices.Compact(vs) {
		covered := false
		if len(kept) <= 64 {
			covered = slices.ContainsFunc(kept, func(k string) bool { return within(v, k) })
		} else {
			// Many values: look its own beginnings or ends up instead.
			for i := 1; i < len(v) && !covered; i++ {
				covered = seen[v[:i]] && within(v, v[:i]) || seen[v[i:]] && within(v, v[i:])
			}
		}
		if !covered {
			kept = append(kept, v)
			seen[v] = true
		}
	}
	return kept
}

// chain finds all keys that are a prefix of a text, by one binary search: the
// greatest key that is not greater than the text begins with every key that is
// a prefix of the text, so the longest match and, from it, the chain of parents
// are all of them.
type chain struct {
	keys   []string // sorted
	parent []int32  // the longest other key that is a prefix of this, or -1
	rules  [][]uint32
}

func newChain(m map[string][]uint32) (c chain) {
	for k := range m {
		c.keys = append(c.keys, k)
	}
	slices.Sort(c.keys)
	c.parent = make([]int32, len(c.keys))
	c.rules = make([][]uint32, len(c.keys))
	for i, k := range c.keys {
		c.rules[i] = m[k]
		p := int32(i) - 1
		for p >= 0 && !strings.HasPrefix(k, c.keys[p]) {
			p = c.parent[p]
		}
		c.parent[i] = p
	}
	return c
}

// last returns the longest key that is a prefix of s, or -1.
func (c *chain) last(s string) int32 {
	lo, hi := 0, len(c.keys)
	for lo < hi {
		if m := (lo + hi) / 2; c.keys[m] <= s {
			lo = m + 1
		} else {
			hi = m
		}
	}
	p := int32(lo) - 1
	for p >= 0 && !strings.HasPrefix(s, c.keys[p]) {
		p = c.parent[p]
	}
	return p
}

// lastReversed is last for the reverse of s, without making it.
func (c *chain) lastReversed(s string) int32 {
	lo, hi := 0, len(c.keys)
	for lo < hi {
		if m := (lo + hi) / 2; compareReversed(c.keys[m], s) <= 0 {
			lo = m + 1
		} else {
			hi = m
		}
	}
	p := int32(lo) - 1
	for p >= 0 && !hasReversedPrefix(s, c.keys[p]) {
		p = c.parent[p]
	}
	return p
}

// compareReversed compares key with the reverse of s.
func compareReversed(key, s string) int {
	n := min(len(key), len(s))
	for i := range n {
		if a, b := key[i], s[len(s)-1-i]; a != b {
			return int(a) - int(b)
		}
	}
	return len(key) - len(s)
}

func hasReversedPrefix(s, key string) bool {
	return len(key) <= len(s) && compareReversed(key, s[len(s)-len(key):]) == 0
}

func reverse(s string) string {
	b := []byte(s)
	slices.Reverse(b)
	return string(b)
}

// upTo returns the number of ranges whose min is at most v.
func (f *fieldIndex) upTo(v float64) int {
	return sort.Search(len(f.ranges), func(i int) bool { return f.ranges[i].min > v })
}
