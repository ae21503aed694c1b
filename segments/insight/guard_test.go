package insight

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// table is an overlap whose cells are given.
func table(n int, cells []uint64) *Overlap {
	o := &Overlap{Groups: make([]Group, n), together: map[Combination]uint64{}}
	for cell, count := range cells {
		o.Base += count
		for c := Combination(1); c < 1<<n; c++ {
			if Combination(cell)&c == c && (n <= MaxExclusive || bits.OnesCount16(uint16(c)) <= viewOf) {
				o.together[c] += count
			}
		}
	}
	return o
}

// fits reports whether what is told can be of a table whose sets of cells hold so many.
func (t *OverlapTold) fits(held func(in uint32) uint64) bool {
	n := len(t.Sizes)
	is := func(number Number, in uint32) bool {
		switch number.Kind {
		case Exact:
			return held(in) == number.N
		case Below:
			return held(in) < number.N
		case AtLeast:
			return held(in) >= number.N
		case Between:
			return held(in) >= number.N && held(in) <= number.Most
		}
		return true
	}
	v := &view{of: make([]int, n), cells: 1 << n}
	if n > MaxExclusive {
		return true // sets of more cells than a word has bits
	}
	ok := is(t.Base, v.whole())
	for i, size := range t.Sizes {
		ok = ok && is(size, v.all(Of(i)))
	}
	for _, p := range t.Pairs {
		ok = ok && is(p.Both, v.all(Of(p.A, p.B)))
	}
	for _, c := range t.Exclusive {
		ok = ok && is(c.N, 1<<c.In)
	}
	return ok
}

// possible is, for each set of cells, which numbers below the floor it can hold by
// what is told: by trying every table of two groups that holds no more than tops.
func possible(t *OverlapTold, floor uint64, tops [4]uint64, sets []uint32) map[uint32]uint64 {
	out := map[uint32]uint64{}
	cells := make([]uint64, 4)
	for {
		if t.fits(func(in uint32) uint64 { return held(cells, in) }) {
			for _, in := range sets {
				if n := held(cells, in); n < floor {
					out[in] |= 1 << n
				}
			}
		}
		i := 0
		for ; i < 4; i++ {
			if cells[i]++; cells[i] <= tops[i] {
				break
			}
			cells[i] = 0
		}
		if i == 4 {
			return out
		}
	}
}

func held(cells []uint64, in uint32) (n uint64) {
	for c, count := range cells {
		if in>>c&1 == 1 {
			n += count
		}
	}
	return n
}

// P7, by trying everything: of two groups, each of the four cells, and each group and
// its complement, that is below the floor can, by all that is told, still be the
// least and the greatest number below the floor that it could be by the sizes.
func TestNothingBelowTheFloorIsToldOfTwoGroups(t *testing.T) {
	const floor = 3
	rapid.Check(t, func(t *rapid.T) {
		cells := make([]uint64, 4)
		for i := range cells {
			cells[i] = rapid.SampledFrom([]uint64{0, 1, 2, 3, 3, 4, 4}).Draw(t, "cell")
		}
		o := table(2, cells)
		got := o.Tell(floor)
		if !got.fits(func(in uint32) uint64 { return held(cells, in) }) {
			t.Fatalf("%v: what is told is not so: %+v", cells, got)
		}
		sizes := &OverlapTold{Sizes: got.Sizes}
		var sets []uint32
		for in := uint32(1); in < 1<<4; in++ {
			if held(cells, in) < floor && (bits.OnesCount32(in) == 1 || in == 0b1010 || in == 0b1100 || in == 0b0101 || in == 0b0011) {
				sets = append(sets, in)
			}
		}
		tops := [4]uint64{16, 8, 8, 8} // more than any size, or than the base
		before, after := possible(sizes, floor, tops, sets), possible(got, floor, tops, sets)
		for _, in := range sets {
			b, a := before[in], after[in]
			if bits.Len64(a) != bits.Len64(b) || bits.TrailingZeros64(a) != bits.TrailingZeros64(b) {
				t.Fatalf("%v: cells %04b can be %b by the sizes and %b by what is told: %+v", cells, in, b, a, got)
			}
		}
	})
}

// What is told of the usual cases.
func TestTell(t *testing.T) {
	for _, c := range []struct {
		name  string
		cells []uint64 // none, only A, only B, both; for three groups on in binary
		want  string
	}{
		{"all is large enough", []uint64{9000, 1000, 500, 200}, "10700 1200 700 | 200 | 1000 500 200"},
		{"a small overlap", []uint64{9000, 1000, 500, 49}, "10549 1049 549 | <50 | 1000–1049 500–549 <50"},
		{"none, which looks the same", []uint64{9000, 1049, 549, 0}, "10598 1049 549 | <50 | 1000–1049 500–549 <50"},
		{"one within the other", []uint64{9000, 1000, 0, 500}, "10500 1500 500 | 451–500 | 1000–1049 <50 451–500"},
		{"all but three", []uint64{9000, 1000, 3, 497}, "10500 1497 500 | 451–500 | 997–1046 <50 451–500"},
		{"a small group", []uint64{9000, 1000, 0, 7}, "10007 1007 <50 | <50 | 958–1007 <50 <50"},
		{"nearly everybody in one", []uint64{5, 1000, 5, 500}, "≥1500 1500 505 | 456–505 | 995–1044 <50 456–505"},
		{"three, of which one pair is small", []uint64{9000, 1000, 800, 300, 700, 20, 200, 60}, "12080 1380 1360 980 | 360 80 260 | 971–1020 771–820 280–329 671–720 <50 180–229 31–80"},
	} {
		n := bits.TrailingZeros(uint(len(c.cells)))
		got := table(n, c.cells).Tell(50)
		s := got.Base.String()
		for _, x := range got.Sizes {
			s += " " + x.String()
		}
		s += " |"
		for _, p := range got.Pairs {
			s += " " + p.Both.String()
		}
		s += " |"
		slices.SortFunc(got.Exclusive, func(x, y Combined) int { return int(x.In) - int(y.In) })
		for _, e := range got.Exclusive {
			s += " " + e.N.String()
		}
		if s != c.want {
			t.Errorf("%s: %s, want %s", c.name, s, c.want)
		}
	}
}

// P7: of each band the members are as many as the floor, or none is told, and so are
// those who are no members if everybody is told; and the bands are all members.
func TestNoBandIsBelowTheFloor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const floor = 50
		p := &Profile{}
		for i := range p.Seen {
			p.Seen[i] = rapid.OneOf(rapid.Just(uint64(0)), rapid.Uint64Range(0, 60), rapid.Uint64Range(0, 1000)).Draw(t, "members")
			p.SeenBase[i] = p.Seen[i] + rapid.OneOf(rapid.Uint64Range(0, 60), rapid.Uint64Range(50, 1000)).Draw(t, "others")
			p.Members, p.Base = p.Members+p.Seen[i], p.Base+p.SeenBase[i]
		}
		told := p.Tell(floor)
		if (told.Seen == nil) != (p.Members < floor) {
			t.Fatalf("%d members in %d bands", p.Members, len(told.Seen))
		}
		var members, base uint64
		next := 0
		for i, b := range told.Seen {
			if b.From != next && (b.From != -1 || i != len(told.Seen)-1) || b.Members.Kind != Exact || b.Members.N < floor {
				t.Fatalf("band %+v after %d", b, next)
			}
			if b.Base.Kind == Exact && b.Base.N-b.Members.N < floor {
				t.Fatalf("band %+v tells of those who are no members", b)
			}
			next, members, base = b.To+1, members+b.Members.N, base+b.Base.N
		}
		if told.Seen != nil && (members != p.Members || next != 0 || base != p.Base && base != 0) {
			t.Fatalf("the bands have %d of %d, %d of %d, and end before %d", members, p.Members, base, p.Base, next)
		}
	})
}

// P7 for more groups: every number that is told, and every sum and difference of two,
// three or four of them, is a group's of whom there are none, or enough; or is that of
// no group.
func TestNoSumOrDifferenceTellsASmallGroup(t *testing.T) {
	const floor = 50
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(3, 6).Draw(t, "groups")
		cells := make([]uint64, 1<<n)
		for i := range cells {
			cells[i] = rapid.OneOf(rapid.Just(uint64(0)), rapid.Uint64Range(1, 49), rapid.Uint64Range(50, 5000), rapid.Uint64Range(50, 5000)).Draw(t, "cell")
		}
		o := table(n, cells)
		got := o.Tell(floor)
		if !got.fits(func(in uint32) uint64 { return held(cells, in) }) {
			t.Fatalf("%v: what is told is not so: %+v", cells, got)
		}
		type said struct {
			vector []int
			n      int
		}
		var all []said
		say := func(number Number, in func(Combination) bool) {
			if number.Kind != Exact {
				return
			}
			v := make([]int, len(cells))
			for c := range v {
				if in(Combination(c)) {
					v[c] = 1
				}
			}
			all = append(all, said{v, int(number.N)})
		}
		say(got.Base, func(Combination) bool { return true })
		for i, s := range got.Sizes {
			say(s, func(c Combination) bool { return c.Has(i) })
		}
		for _, p := range got.Pairs {
			say(p.Both, func(c Combination) bool { return c.Has(p.A) && c.Has(p.B) })
		}
		for _, e := range got.Exclusive {
			say(e.N, func(c Combination) bool { return c == e.In })
		}
		// Sums with signs of up to three statements: one that is below the floor is that
		// of no set of cells.
		var walk func(from int, chosen []int, n int)
		walk = func(from int, chosen []int, n int) {
			if n < floor && len(chosen) > 0 {
				sum := make([]int, len(cells))
				for _, c := range chosen {
					of, sign := all[max(c, -c)-1], 1
					if c < 0 {
						sign = -1
					}
					for j, in := range of.vector {
						sum[j] += sign * in
					}
				}
				if slices.Min(sum) >= 0 && slices.Max(sum) == 1 {
					t.Fatalf("%v: the sum over cells %v is told to be %d", cells, sum, n)
				}
			}
			if len(chosen) == 3 {
				return
			}
			for i := from; i < len(all); i++ {
				walk(i+1, append(chosen, i+1), n+all[i].n)
				walk(i+1, append(chosen, -i-1), n-all[i].n)
			}
		}
		walk(0, make([]int, 0, 3), 0)
		// Of three groups all pairs tell who is in all of them or in none.
		at := func(i, j int) Number {
			k := slices.IndexFunc(got.Pairs, func(p Pair) bool { return p.A == i && p.B == j })
			return got.Pairs[k].Both
		}
		for k := range n {
			for j := range k {
				for i := range j {
					ns := []Number{got.Base, at(i, j), at(i, k), at(j, k), got.Sizes[i], got.Sizes[j], got.Sizes[k]}
					if slices.ContainsFunc(ns, func(n Number) bool { return n.Kind != Exact }) {
						continue
					}
					if all := int(ns[0].N + ns[1].N + ns[2].N + ns[3].N - ns[4].N - ns[5].N - ns[6].N); all < floor {
						t.Fatalf("%v: it is told that %d are in all of %d, %d and %d, or in none", cells, all, i, j, k)
					}
				}
			}
		}
	})
}

// What can be solved, by two other ways: a table that was drawn solves what it was
// made to solve; and what sums to a contradiction is not solved.
func TestBoundsAreThoseOfATable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 16).Draw(t, "cells")
		cells := rapid.SliceOfN(rapid.Uint64Range(0, 100_000), n, n).Draw(t, "held")
		var rows []statement
		for range rapid.IntRange(0, 20).Draw(t, "rows") {
			in := rapid.Uint32Range(1, 1<<n-1).Draw(t, "in")
			h := held(cells, in)
			switch rapid.IntRange(0, 2).Draw(t, "is") {
			case 0:
				rows = append(rows, statement{in, equal, h})
			case 1:
				rows = append(rows, statement{in, atMost, h + rapid.Uint64Range(0, 5).Draw(t, "by")})
			default:
				rows = append(rows, statement{in, atLeast, h - min(h, rapid.Uint64Range(0, 5).Draw(t, "by"))})
			}
		}
		left := boundsOf(n, rows)
		if left == nil {
			t.Fatalf("%v solves %v", cells, rows)
		}
		of := rapid.Uint32Range(1, 1<<n-1).Draw(t, "of")
		if low, high := left.least(of), left.greatest(of, 1<<40); low > held(cells, of) || high < held(cells, of) {
			t.Fatalf("cells %b hold %d, and must hold %d to %d by %v", of, held(cells, of), low, high, rows)
		}
		// Two sets apart, each with an upper bound, are together within the sum.
		a := rapid.Uint32Range(1, 1<<n-1).Draw(t, "a")
		b := rapid.Uint32Range(0, 1<<n-1).Draw(t, "b") &^ a
		rows = append(rows, statement{a, equal, held(cells, a)}, statement{b, atMost, held(cells, b)}, statement{a | b, atLeast, held(cells, a|b) + 1})
		if boundsOf(n, rows) != nil {
			t.Fatalf("%v contradicts itself", rows)
		}
	})
}

func BenchmarkTell(b *testing.B) {
	for _, n := range []int{2, 3, 5, 6, 10} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			r := rand.New(rand.NewPCG(1, uint64(n)))
			cells := make([]uint64, 1<<n)
			for i := range cells {
				cells[i] = uint64(math.Exp(r.Float64()*9)) - 1
			}
			o := table(n, cells)
			for b.Loop() {
				o.Tell(50)
			}
		})
	}
}

// Rounding may make of true statements some that contradict each other: then nothing
// more is told, and nothing breaks.
func TestWhatCannotBeComputedIsNotTold(t *testing.T) {
	v := &view{of: []int{0, 1}, cells: 4, known: []statement{{1, equal, 5}, {1, equal, 6}}, small: []secret{{in: 1}, {in: 2}}}
	v.measure(50)
	if !v.tells(50) {
		t.Error("of statements that contradict each other more is let in")
	}
	b := boundsOf(v.cells, v.known)
	if b != nil || b.least(3) != 0 || b.greatest(3, 49) != 49 {
		t.Errorf("they leave %+v", b)
	}
}
