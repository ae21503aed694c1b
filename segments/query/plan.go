package query

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Plan is block algebra for many expressions at once. Equal leaves and equal
// parts of different expressions are one node, computed once for each block.
// Make one with NewPlan, add expressions, then Run it any number of times; Add
// is not safe for concurrent use, Run is.
type Plan struct {
	today taxonomy.Day
	at    taxonomy.Day // what is today where we compile: see AsOf
	r     Resolver

	ops   []index.Operand
	nodes []node
	byKey map[string]int32
	base  int32 // who may be in an audience at all
	roots []int32
	taps  []int32 // nodes that are only counted: see Explain
}

// node is one step. Its children have lower numbers.
type node struct {
	kind nodeKind
	op   int32   // leaf
	pos  []int32 // and, or
	neg  []int32 // and: what is taken away
	size uint64  // an estimate, for the order of pos and neg
}

type nodeKind uint8

const (
	nodeEmpty nodeKind = iota
	nodeLeaf
	nodeAnd
	nodeOr
)

// NewPlan returns an empty plan for the day that is today in every window.
func NewPlan(today taxonomy.Day, r Resolver) *Plan {
	p := &Plan{today: today, at: today, r: r, byKey: map[string]int32{}}
	p.node(node{kind: nodeEmpty}) // number 0
	p.base = p.and(
		[]int32{p.set(index.SetProfile)},
		[]int32{p.had(taxonomy.TraitBot), p.set(index.SetGone), p.set(index.SetHoldout)})
	return p
}

// Add compiles an expression and returns its number in the results. A fault is
// a taxonomy.FieldError with the path within e: what Check finds, an audience
// that does not exist, one that leads back to itself, or more depth or nodes
// than allowed once nested audiences are counted.
func (p *Plan) Add(e Expr) (int, error) {
	n, err := p.compile(e)
	if err != nil {
		return 0, err
	}
	p.roots = append(p.roots, n)
	return len(p.roots) - 1, nil
}

// AddEligible adds everyone who may be in an audience at all.
func (p *Plan) AddEligible() int {
	p.roots = append(p.roots, p.base)
	return len(p.roots) - 1
}

// AddAll adds those who are in all of some results, by the numbers that Add gave.
// It asks no leaf that is not asked already, and counts against no bound of an
// expression: whoever crosses many results asks for pairs of large rules.
func (p *Plan) AddAll(results ...int) int {
	of := make([]int32, len(results))
	for i, n := range results {
		of[i] = p.roots[n]
	}
	p.roots = append(p.roots, p.and(of, nil))
	return len(p.roots) - 1
}

// Leaves returns how many different leaves the plan reads for a block at most.
func (p *Plan) Leaves() int { return len(p.ops) }

func (p *Plan) compile(e Expr) (int32, error) {
	if err := Check(e); err != nil {
		return 0, err
	}
	c := compiler{Plan: p}
	n := c.expr("", e, 1)
	return n, c.faults.err()
}

// compiler turns one expression into nodes.
type compiler struct {
	*Plan
	faults faults
	nested []taxonomy.AudienceID // the audiences that we are in
	count  int
	// seen, if set, is told of every part and its node.
	seen func(path string, e Expr, n int32)
}

func (c *compiler) expr(path string, e Expr, depth int) (n int32) {
	if c.seen != nil {
		defer func() { c.seen(path, e, n) }()
	}
	fits := c.count <= MaxNodes
	if c.count += weight(e); c.count > MaxNodes || depth > MaxDepth {
		if fits && c.count > MaxNodes {
			c.faults.add(path, "with nested audiences, the expression has more than %d nodes", MaxNodes)
		} else if depth > MaxDepth {
			c.faults.add(path, "with nested audiences, nested deeper than %d", MaxDepth)
		}
		return 0
	}
	switch e := e.(type) {
	case And:
		return c.and(c.list(join(path, "and"), e.Of, depth), nil)
	case Or:
		return c.or(c.list(join(path, "or"), e.Of, depth))
	case Not:
		return c.and([]int32{c.any()}, []int32{c.expr(join(path, "not"), e.Of, depth+1)})
	case Any:
		return c.any()
	case Trait:
		return c.trait(&e)
	case Sequence:
		return c.sequence(&e)
	case AsOf:
		return c.asOf(path, &e, depth)
	case Attribute:
		return c.newest(&e)
	case List:
		return c.newest(&e)
	case Audience:
		return c.audience(path, e, depth)
	}
	panic("query: unchecked expression")
}

func (c *compiler) list(path string, of []Expr, depth int) []int32 {
	ns := make([]int32, len(of))
	for i, k := range of {
		ns[i] = c.expr(fmt.Sprintf("%s[%d]", path, i), k, depth+1)
	}
	return ns
}

func (c *compiler) audience(path string, e Audience, depth int) int32 {
	at := join(path, "audience")
	if i := slices.Index(c.nested, e.ID); i >= 0 {
		ring := append(slices.Clone(c.nested[i:]), e.ID)
		c.faults.add(at, "audience %q leads back to itself: %s", e.ID, arrows(ring))
		return 0
	}
	rule, ok := c.r.Audience(e.ID)
	if !ok {
		c.faults.add(at, "there is no audience %q", e.ID)
		return 0
	}
	if rule == nil {
		if c.at != c.today {
			c.faults.add(at, noPast, e.ID)
			return 0
		}
		return c.set(index.SetAudience + string(e.ID))
	}
	c.nested = append(c.nested, e.ID)
	defer func() { c.nested = c.nested[:len(c.nested)-1] }()
	return c.expr(at, rule, depth+1)
}

// asOf compiles what lies below as if an earlier day were today.
func (c *compiler) asOf(path string, e *AsOf, depth int) int32 {
	defer func(at taxonomy.Day) { c.at = at }(c.at)
	c.at = e.from(c.at)
	n := c.expr(join(path, "of"), e.Of, depth+1)
	if c.at < c.today.Oldest() {
		return 0
	}
	return n
}

func arrows(ids []taxonomy.AudienceID) string {
	s := make([]string, len(ids))
	for i, id := range ids {
		s[i] = string(id)
	}
	return strings.Join(s, " → ")
}

// trait is bounds as set algebra: at least Min, less those with Max+1; the
// newest event not older than LastSeen.Max, less those with a newer than Min.
func (p *Plan) trait(t *Trait) int32 {
	cols := columnsOf(p.r, t)
	var pos, neg []int32
	from, to, ok := t.Window.asOf(p.at, p.today.Oldest())
	atLeast := func(n int) int32 {
		if !ok {
			return 0
		}
		return p.count(cols, from, to, t.Unit, n)
	}
	if t.Min == 0 {
		pos = append(pos, p.any())
	} else {
		pos = append(pos, atLeast(t.Min))
	}
	if t.Max > 0 {
		neg = append(neg, atLeast(t.Max+1))
	}
	if l := t.LastSeen; l != nil {
		pos = append(pos, p.since(cols, l.Max))
		if l.Min > 0 {
			neg = append(neg, p.since(cols, l.Min-1))
		}
	}
	return p.and(pos, neg)
}

// since is who had one of the columns at most some days ago.
func (p *Plan) since(cols []taxonomy.Column, days int) int32 {
	return p.count(cols, max(p.at-taxonomy.Day(days), p.today.Oldest()), p.at, index.Events, 1)
}

// any is who had an event in the 90 days (R15).
func (p *Plan) any() int32 { return p.had(taxonomy.TraitAny) }

func (p *Plan) had(t taxonomy.Trait) int32 {
	return p.count(p.r.Columns(t), p.today.Oldest(), p.at, index.Events, 1)
}

func (p *Plan) count(cols []taxonomy.Column, from, to taxonomy.Day, unit index.Unit, atLeast int) int32 {
	if len(cols) == 0 || from > to {
		return 0
	}
	if atLeast == 1 {
		unit = index.Events // one event is one day with an event: the same leaf
	}
	if unit == index.DistinctDays && atLeast > int(to-from)+1 {
		return 0
	}
	size := sizeOf(p.r, cols)
	if days := uint64(to-from) + 1; size > taxonomy.RetentionDays {
		size = size / taxonomy.RetentionDays * days / uint64(atLeast)
	}
	return p.leaf(index.Operand{Kind: index.OpCount, Columns: cols, From: from, To: to, Unit: unit, Min: uint8(atLeast)}, size)
}

func (p *Plan) newest(s stating) int32 {
	all, say := statementsOf(p.r, s, p.at)
	if len(say) == 0 {
		return 0
	}
	op := index.Operand{Kind: index.OpNewest, Columns: say, All: all, AsOf: p.at}
	if p.at != p.today {
		op.From = p.today.Oldest() // what is older is not kept
	}
	return p.leaf(op, sizeOf(p.r, say))
}

func (p *Plan) set(name string) int32 {
	return p.leaf(index.Operand{Kind: index.OpSet, Set: name}, math.MaxUint32)
}

func (p *Plan) leaf(op index.Operand, size uint64) int32 {
	key := op.Key()
	if n, ok := p.byKey[key]; ok {
		return n
	}
	p.ops = append(p.ops, op)
	n := p.node(node{kind: nodeLeaf, op: int32(len(p.ops) - 1), size: size})
	p.byKey[key] = n
	return n
}

func (p *Plan) node(n node) int32 {
	p.nodes = append(p.nodes, n)
	return int32(len(p.nodes) - 1)
}

// shared returns the node that was made before under the key of n, or adds n.
func (p *Plan) shared(n node) int32 {
	key := fmt.Sprint(n.kind, n.pos, n.neg)
	if i, ok := p.byKey[key]; ok {
		return i
	}
	i := p.node(n)
	p.byKey[key] = i
	return i
}

// and returns the node of what is in all of pos and in none of neg. A
// conjunction within it is taken apart, so that the rarest of all parts is
// asked first.
func (p *Plan) and(pos, neg []int32) int32 {
	var ps, ns []int32
	for _, k := range pos {
		if kid := &p.nodes[k]; kid.kind == nodeAnd {
			ps, ns = append(ps, kid.pos...), append(ns, kid.neg...)
		} else {
			ps = append(ps, k)
		}
	}
	for _, k := range neg {
		if kid := &p.nodes[k]; kid.kind == nodeOr {
			ns = append(ns, kid.pos...)
		} else if kid.kind != nodeEmpty {
			ns = append(ns, k)
		}
	}
	ps, ns = p.sorted(ps, 1), p.sorted(ns, -1)
	for _, k := range ps {
		if k == 0 || slices.Contains(ns, k) {
			return 0
		}
	}
	if len(ps) == 1 && len(ns) == 0 {
		return ps[0]
	}
	return p.shared(node{kind: nodeAnd, pos: ps, neg: ns, size: p.nodes[ps[0]].size})
}

func (p *Plan) or(kids []int32) int32 {
	var ks []int32
	var size uint64
	for _, k := range kids {
		if kid := &p.nodes[k]; kid.kind == nodeOr {
			ks = append(ks, kid.pos...)
		} else if kid.kind != nodeEmpty {
			ks = append(ks, k)
		}
	}
	ks = p.sorted(ks, 1)
	switch len(ks) {
	case 0:
		return 0
	case 1:
		return ks[0]
	}
	for _, k := range ks {
		size += p.nodes[k].size
	}
	return p.shared(node{kind: nodeOr, pos: ks, size: size})
}

// sorted orders nodes by size, rising or (dir -1) falling, without repeats. It
// is a total order, so the same set of parts is the same node.
func (p *Plan) sorted(ns []int32, dir int) []int32 {
	slices.SortFunc(ns, func(a, b int32) int {
		return cmp.Or(dir*cmp.Compare(p.nodes[a].size, p.nodes[b].size), cmp.Compare(a, b))
	})
	return slices.Compact(ns)
}
