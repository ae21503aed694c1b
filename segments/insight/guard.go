package insight

import (
	"math"
	"math/bits"
	"slices"
)

// guard decides what of an overlap may be told. It keeps what a reader knows, as
// equations and bounds over the cells of the table of all combinations of groups, and
// lets a statement in only if, of every cell below the floor, all that was possible by
// the sizes alone stays possible.
//
// Cells are counts, so what a reader can conclude is a linear program, and "stays
// possible" is that two of them have a solution. Adding and subtracting what is told,
// which is how one differences two reports, is a part of that.
type guard struct {
	o     *Overlap
	floor uint64
	views []*view
}

// view is the table of some of the groups: of all, if each combination is counted,
// and otherwise one for every four, which is as far as a group that can be computed
// from pairs can reach (a Boolean function of degree two depends on at most four).
type view struct {
	of    []int       // the groups
	cells int         // how many exclusive combinations they have
	known []statement // what the reader knows
	small []secret
}

// secret is a group below the floor: a set of cells, and the least and the greatest
// below the floor that it can be by the sizes alone.
type secret struct {
	in        uint32
	low, high uint64
	// reach is the greatest, up to the floor itself, without what is told to be below
	// it: several groups that are each told to be below the floor must not together be
	// told to be.
	reach uint64
}

// viewOf is how many groups a view has if there are more than MaxExclusive.
const viewOf = 4

func newGuard(o *Overlap, floor uint64) *guard {
	g := &guard{o: o, floor: floor}
	n := len(o.Groups)
	for c := Combination(1); c < 1<<n; c++ {
		if k := bits.OnesCount16(uint16(c)); n <= MaxExclusive && k == n || n > MaxExclusive && k == viewOf {
			g.views = append(g.views, g.view(c))
		}
	}
	return g
}

// view makes the view of a combination, in which the sizes are known.
func (g *guard) view(of Combination) *view {
	v := &view{}
	for i := range g.o.Groups {
		if of.Has(i) {
			v.of = append(v.of, i)
		}
	}
	n := len(v.of)
	v.cells = 1 << n
	for i := range v.of {
		s := size(g.o.Together(Of(v.of[i])), g.floor)
		v.known = append(v.known, v.says(v.all(Of(i)), s)...)
	}
	// What may be small: each cell, and what is in one group and in or out of another.
	seen := map[uint32]bool{}
	add := func(in uint32, count uint64) {
		if count < g.floor && !seen[in] {
			seen[in] = true
			v.small = append(v.small, secret{in: in})
		}
	}
	for i := range n {
		size := g.o.Together(Of(v.of[i]))
		add(v.all(Of(i)), size)
		add(^v.all(Of(i))&v.whole(), g.o.Base-size)
		for j := range i {
			a, b := v.all(Of(i)), v.all(Of(j))
			sizeB, both := g.o.Together(Of(v.of[j])), g.o.Together(Of(v.of[i], v.of[j]))
			add(a&b, both)
			add(a&^b, size-both)
			add(b&^a, sizeB-both)
			add(^(a|b)&v.whole(), g.o.Base+both-size-sizeB)
		}
	}
	for c, count := range g.o.exclusive(v.of) {
		add(1<<c, count)
	}
	v.measure(g.floor)
	return v
}

// measure takes what is known for what is known anyway.
func (v *view) measure(floor uint64) {
	all, bare := boundsOf(v.cells, v.known), boundsOf(v.cells, withoutBelow(v.known))
	for i := range v.small {
		s := &v.small[i]
		s.low, s.high, s.reach = all.least(s.in), all.greatest(s.in, floor-1), bare.greatest(s.in, floor)
	}
}

// withoutBelow is what is known but for what is told to be below the floor.
func withoutBelow(known []statement) []statement {
	return slices.DeleteFunc(slices.Clone(known), func(s statement) bool { return s.is == atMost })
}

// tells reports whether what is known narrows a group below the floor.
func (v *view) tells(floor uint64) bool {
	all, bare := boundsOf(v.cells, v.known), boundsOf(v.cells, withoutBelow(v.known))
	if all == nil || bare == nil {
		return true // nobody can say what it tells
	}
	for i := range v.small {
		s := &v.small[i]
		if all.least(s.in) > s.low || all.greatest(s.in, floor-1) < s.high || bare.greatest(s.in, floor) < s.reach {
			return true
		}
	}
	return all.lost || bare.lost
}

// base tells the size of the base, if it may be told.
func (g *guard) base() Number {
	most := uint64(0)
	for i := range g.o.Groups {
		most = max(most, g.o.Together(Of(i)))
	}
	for _, n := range []Number{size(g.o.Base, g.floor), {Kind: AtLeast, N: max(most, g.floor)}} {
		if (n.Kind != AtLeast || g.o.Base >= n.N) && g.admits(0, 0, n) {
			return n
		}
	}
	return Number{}
}

// given takes the size of the base as told already: what it tells nobody can take
// back.
func (g *guard) given(base Number) {
	for _, v := range g.views {
		v.known = append(v.known, v.says(v.whole(), base)...)
		v.measure(g.floor)
	}
}

// tell says a count as exactly as may be: of who is in all groups of a combination,
// or, if whole is all groups, of who is in these and in no other. If that is not
// exactly, range does it when all is said. rest is the smaller group of a pair, whose
// others may be so few that they are told to be; none otherwise.
func (g *guard) tell(whole, c Combination, count uint64, rest Combination) (n Number, ok bool) {
	if n := size(count, g.floor); g.admits(whole, c, n) {
		return n, true
	}
	if others := g.o.Together(rest) - count; rest != 0 && count >= g.floor && others < g.floor {
		g.admits(whole, rest, Number{Kind: Below, N: g.floor})
	}
	return Number{}, false
}

// between is within which bounds a count is by what is told. It tells nothing more.
func (g *guard) between(whole, c Combination) Number {
	n := Number{Kind: Between, Most: math.MaxUint64}
	for _, v := range g.views {
		if in, ok := v.place(whole, c); ok {
			b := boundsOf(v.cells, v.known)
			n.N, n.Most = max(n.N, b.least(in)), min(n.Most, b.greatest(in, 1<<53))
		}
	}
	switch {
	case n.N == n.Most:
		return Number{Kind: Exact, N: n.N}
	case n.Most == 1<<53 && n.N == 0:
		return Number{}
	case n.Most == 1<<53:
		return Number{Kind: AtLeast, N: n.N}
	}
	return n
}

// admits lets a statement in, if it may be told.
func (g *guard) admits(whole, c Combination, n Number) bool {
	var of []*view
	for _, v := range g.views {
		if in, ok := v.place(whole, c); ok {
			of = append(of, v)
			v.known = append(v.known, v.says(in, n)...)
		}
	}
	for _, v := range of {
		if v.tells(g.floor) {
			for _, v := range of {
				v.known = v.known[:len(v.known)-1]
			}
			return false
		}
	}
	return true
}

// place is the cells of the view that a statement is about: of who is in all groups
// of c, and, if whole is more, in none of its others. It is not of the view if one of
// the groups is not.
func (v *view) place(whole, c Combination) (in uint32, ok bool) {
	var own, others Combination
	for i, g := range v.of {
		if c.Has(g) {
			own |= Of(i)
		} else if whole.Has(g) {
			others |= Of(i)
		}
	}
	if bits.OnesCount16(uint16(own|others)) != bits.OnesCount16(uint16(whole)) {
		return 0, false
	}
	in = v.all(own)
	for i := range v.of {
		if others.Has(i) {
			in &^= v.all(Of(i))
		}
	}
	return in, true
}

// whole is all cells of the view.
func (v *view) whole() uint32 { return uint32(1<<v.cells - 1) }

// all is the cells of who is in all of the view's groups of a combination.
func (v *view) all(c Combination) (in uint32) {
	for cell := range v.cells {
		if Combination(cell)&c == c {
			in |= 1 << cell
		}
	}
	return in
}

// says is a number as a statement about some cells.
func (v *view) says(in uint32, n Number) []statement {
	switch n.Kind {
	case Exact:
		return []statement{{in, equal, n.N}}
	case Below:
		return []statement{{in, atMost, n.N - 1}}
	}
	return []statement{{in, atLeast, n.N}}
}
