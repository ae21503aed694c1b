package insight

import (
	"cmp"
	"slices"
	"strconv"
)

// Number is a count as people may be told it.
type Number struct {
	Kind Kind
	// N is the count (Exact), what it is below (Below), or the least that it is
	// (AtLeast, Between); 0 if it is Withheld.
	N    uint64
	Most uint64 // of Between
}

// Kind is how much a Number tells.
type Kind uint8

// The kinds.
const (
	Withheld Kind = iota // nothing
	Below
	AtLeast
	Between
	Exact
)

// String prints it: 1234, <50, ≥950, 950–999, or – for what is withheld.
func (n Number) String() string {
	return n.Format(func(n uint64) string { return strconv.FormatUint(n, 10) })
}

// Format is String with numbers printed so.
func (n Number) Format(number func(uint64) string) string {
	switch n.Kind {
	case Exact:
		return number(n.N)
	case Below:
		return "<" + number(n.N)
	case AtLeast:
		return "≥" + number(n.N)
	case Between:
		return number(n.N) + "–" + number(n.Most)
	}
	return "–"
}

// Least is the least that the count can be by what is told.
func (n Number) Least() uint64 {
	if n.Kind == Below {
		return 0
	}
	return n.N
}

// size tells a number that stands for itself.
func size(n, floor uint64) Number {
	if n < floor {
		return Number{Kind: Below, N: floor}
	}
	return Number{Kind: Exact, N: n}
}

// OverlapTold is an overlap as people may be told it.
type OverlapTold struct {
	At
	Groups []Group
	Base   Number
	Sizes  []Number // of the groups
	Pairs  []Pair   // all, in order
	// Exclusive are the combinations of at most MaxExclusive groups: who is in these
	// groups and in none of the others. The greatest that is told comes first.
	Exclusive []Combined
}

// Pair is two groups.
type Pair struct {
	A, B int
	Both Number
	// Jaccard is those in both as a part of those in either; Lift, how many times as
	// many are in both as if the two had nothing to do with each other. They are there
	// if the counts that they are made of are told exactly.
	Jaccard, Lift *float64
}

// Combined is who is in all groups of a combination and in no other.
type Combined struct {
	In Combination
	N  Number
}

// Tell says what people may be told. See the README for the guard.
func (o *Overlap) Tell(floor uint64) *OverlapTold {
	n := len(o.Groups)
	t := &OverlapTold{At: o.At, Groups: o.Groups}
	g := newGuard(o, floor)
	for i := range n {
		t.Sizes = append(t.Sizes, size(o.Together(Of(i)), floor))
	}
	t.Base = g.base()
	for a := range n {
		for b := a + 1; b < n; b++ {
			t.Pairs = append(t.Pairs, Pair{A: a, B: b})
		}
	}
	// The large ones first: if two cannot both be told, the larger is.
	order := make([]int, len(t.Pairs))
	for i := range order {
		order[i] = i
	}
	both := func(i int) Combination { return Of(t.Pairs[i].A, t.Pairs[i].B) }
	slices.SortStableFunc(order, func(x, y int) int { return cmp.Compare(o.Together(both(y)), o.Together(both(x))) })
	var later []func()
	tell := func(n *Number, whole, c Combination, count uint64, rest Combination) {
		var ok bool
		if *n, ok = g.tell(whole, c, count, rest); !ok {
			later = append(later, func() { *n = g.between(whole, c) })
		}
	}
	for _, i := range order {
		p := &t.Pairs[i]
		tell(&p.Both, both(i), both(i), o.Together(both(i)), o.smaller(p.A, p.B))
	}
	if cells := o.Exclusive(); cells != nil {
		all := Combination(len(cells) - 1)
		for c := range cells[1:] {
			t.Exclusive = append(t.Exclusive, Combined{In: Combination(c + 1)})
		}
		slices.SortStableFunc(t.Exclusive, func(x, y Combined) int { return cmp.Compare(cells[y.In], cells[x.In]) })
		for i := range t.Exclusive {
			c := &t.Exclusive[i]
			tell(&c.N, all, c.In, cells[c.In], 0)
		}
	}
	for _, bound := range later {
		bound()
	}
	for i := range t.Pairs {
		t.Pairs[i].rate(t)
	}
	if t.Exclusive != nil {
		// By what is told alone, or the order would tell the rest.
		slices.SortFunc(t.Exclusive, func(x, y Combined) int {
			return cmp.Or(cmp.Compare(y.N.Least(), x.N.Least()), cmp.Compare(y.N.Kind, x.N.Kind), cmp.Compare(x.In, y.In))
		})
	}
	return t
}

// smaller is the smaller of two groups.
func (o *Overlap) smaller(a, b int) Combination {
	if o.Together(Of(b)) < o.Together(Of(a)) {
		a = b
	}
	return Of(a)
}

func (p *Pair) rate(t *OverlapTold) {
	a, b := t.Sizes[p.A], t.Sizes[p.B]
	if a.Kind != Exact || b.Kind != Exact || p.Both.Kind != Exact {
		return
	}
	j := float64(p.Both.N) / float64(a.N+b.N-p.Both.N)
	p.Jaccard = &j
	if t.Base.Kind == Exact {
		l := float64(p.Both.N) * float64(t.Base.N) / (float64(a.N) * float64(b.N))
		p.Lift = &l
	}
}

// ProfileTold is a profile as people may be told it.
type ProfileTold struct {
	*Profile
	Members, Base Number
	// Rows are the categories: those of which the members have most more than
	// everybody first.
	Rows []Row
	// Seen is when the members were seen last; bands that are too small are one with
	// their neighbours.
	Seen []Band
}

// Row is a category as it is told.
type Row struct {
	Category
	Members, Base Number
	// Share is the part of the members who have it, BaseShare of everybody, and Index
	// 100 times the one by the other: 100 is as everybody. They are there if the
	// counts that they are made of are told exactly.
	Share, BaseShare, Index *float64
}

// Band is a range of days since the newest event. From and To are -1 if there was
// none in the 90 days; To alone if it reaches to those too. Base is Withheld if it
// would tell of those who are no members.
type Band struct {
	From, To      int
	Members, Base Number
}

// Tell says what people may be told. Of fewer members than the floor nothing is.
func (p *Profile) Tell(floor uint64) *ProfileTold {
	t := &ProfileTold{Profile: p, Members: size(p.Members, floor), Base: size(p.Base, floor)}
	if t.Base.Kind == Exact && p.Base-p.Members < floor { // who is not a member would be told
		t.Base = Number{Kind: AtLeast, N: max(p.Members, floor)}
	}
	if t.Members.Kind != Exact {
		return t
	}
	for _, k := range p.Categories {
		t.Rows = append(t.Rows, p.row(k, t, floor))
	}
	slices.SortFunc(t.Rows, func(x, y Row) int {
		return cmp.Or(cmp.Compare(y.rank(t), x.rank(t)), cmp.Compare(y.Base.Least(), x.Base.Least()), cmp.Compare(x.Trait, y.Trait))
	})
	t.Seen = p.bands(floor, t.Base.Kind == Exact)
	return t
}

// rank is the least that the index can be, by what is told alone.
func (r *Row) rank(t *ProfileTold) float64 {
	if r.Base.Kind != Exact || t.Base.Kind != Exact {
		return 0
	}
	return float64(r.Members.Least()) / float64(t.Members.N) / (float64(r.Base.N) / float64(t.Base.N))
}

// row is the overlap of the audience and one category, in a base that is told
// already.
func (p *Profile) row(k Category, t *ProfileTold, floor uint64) Row {
	o := &Overlap{Groups: make([]Group, 2), Base: p.Base, together: map[Combination]uint64{Of(0): p.Members, Of(1): k.Base, Of(0, 1): k.Members}}
	g := newGuard(o, floor)
	g.given(t.Base)
	r := Row{Category: k, Base: size(k.Base, floor)}
	var ok bool
	if r.Members, ok = g.tell(Of(0, 1), Of(0, 1), k.Members, o.smaller(0, 1)); !ok {
		r.Members = g.between(Of(0, 1), Of(0, 1))
	}
	rate := func(a, b Number) *float64 {
		if a.Kind != Exact || b.Kind != Exact {
			return nil
		}
		v := float64(a.N) / float64(b.N)
		return &v
	}
	r.Share, r.BaseShare = rate(r.Members, t.Members), rate(r.Base, t.Base)
	if r.Share != nil && r.BaseShare != nil {
		i := 100 * *r.Share / *r.BaseShare
		r.Index = &i
	}
	return r
}

// bands joins neighbours until each has at least as many members as the floor, so
// what is told is a table without a group below it. Everybody is told beside them if
// those who are no members are as many in each.
func (p *Profile) bands(floor uint64, withBase bool) []Band {
	type band struct {
		Band
		members, base uint64
	}
	var all []band
	var last band
	for i := range p.Seen {
		if i < len(LastSeen) {
			last.To = LastSeen[i]
		} else if last.To = -1; last.From > LastSeen[i-1] {
			last.From = -1
		}
		last.members += p.Seen[i]
		last.base += p.SeenBase[i]
		if last.members >= floor {
			all = append(all, last)
			last = band{Band: Band{From: last.To + 1}}
		}
	}
	if end := len(all) - 1; end >= 0 && all[end].To >= 0 { // what is left over goes to the last
		all[end].To = -1
		all[end].members, all[end].base = all[end].members+last.members, all[end].base+last.base
	}
	for i := range all {
		withBase = withBase && all[i].base-all[i].members >= floor
	}
	var out []Band
	for i := range all {
		b := all[i].Band
		b.Members = Number{Kind: Exact, N: all[i].members}
		if withBase {
			b.Base = Number{Kind: Exact, N: all[i].base}
		}
		out = append(out, b)
	}
	return out
}
