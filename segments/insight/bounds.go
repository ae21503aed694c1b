package insight

import (
	"math"
	"math/bits"
	"slices"
)

// relation is how some cells stand to a number.
type relation int8

const (
	atMost  relation = -1
	equal   relation = 0
	atLeast relation = 1
)

// statement says that the cells of in hold together at most, exactly or at least n.
type statement struct {
	in uint32
	is relation
	n  uint64
}

// bounds is what some statements leave possible for cells that hold no less than
// nothing: a linear program, solved by the simplex method on a dense table. There are
// at most 32 cells and as many statements as a report of five groups has numbers, all
// coefficients are 0 and 1, and Bland's rule ends always, but for the rounding of
// numbers: then nothing is known, and nothing is told. A nil bounds is of statements
// that leave nothing, which true ones do by rounding alone.
type bounds struct {
	cells, width int       // columns: the cells, then one for each inequality, then the right side
	table        []float64 // a row for each statement
	basis        []int     // the column of each row; none if the row says what others do
	lost         bool      // no end was found once
}

const (
	none = math.MaxInt
	tiny = 1e-9
	// slack is by how much a sum may be missed: counts are whole.
	slack = 1e-3
	// maxPivots is far more than any table of this size takes.
	maxPivots = 10_000
)

// boundsOf returns what statements leave possible; nil if that is nothing.
func boundsOf(cells int, known []statement) *bounds {
	extra := 0
	for _, s := range known {
		if s.is != equal {
			extra++
		}
	}
	b := &bounds{cells: cells, width: cells + extra + 1}
	b.table, b.basis = make([]float64, len(known)*b.width), make([]int, len(known))
	miss := make([]float64, b.width) // what the rows without a column miss, together
	at := cells
	for i, s := range known {
		line := b.row(i)
		for in := s.in; in != 0; in &= in - 1 {
			line[bits.TrailingZeros32(in)] = 1
		}
		line[b.width-1] = float64(s.n)
		b.basis[i] = none
		switch s.is {
		case atMost:
			line[at], b.basis[i] = 1, at
			at++
		case atLeast:
			line[at] = -1
			at++
		}
		if b.basis[i] == none {
			for j, v := range line {
				miss[j] += v
			}
		}
	}
	b.improve(miss)
	if b.lost || miss[b.width-1] > slack {
		return nil
	}
	// A row that is still without a column misses nothing: any column of it will do.
	for i := range b.basis {
		if b.basis[i] != none {
			continue
		}
		if j := slices.IndexFunc(b.row(i)[:b.width-1], func(v float64) bool { return math.Abs(v) > 1e-7 }); j >= 0 {
			b.pivot(i, j, nil)
		} else {
			clear(b.row(i))
		}
	}
	return b
}

func (b *bounds) row(i int) []float64 { return b.table[i*b.width : (i+1)*b.width] }

// improve pivots until nothing can make the last number of gain smaller. It reports
// whether there is an end.
func (b *bounds) improve(gain []float64) bool {
	for range maxPivots {
		enter := slices.IndexFunc(gain[:b.width-1], func(v float64) bool { return v > tiny })
		if enter < 0 {
			return true
		}
		leave, best := -1, 0.0
		for i := range b.basis {
			line := b.row(i)
			if line[enter] <= tiny {
				continue
			}
			ratio := line[b.width-1] / line[enter]
			if leave < 0 || ratio < best-tiny || ratio < best+tiny && b.basis[i] < b.basis[leave] {
				leave, best = i, ratio
			}
		}
		if leave < 0 {
			return false
		}
		b.pivot(leave, enter, gain)
	}
	b.lost = true
	return false
}

// pivot makes a column the unit vector of a row.
func (b *bounds) pivot(leave, enter int, gain []float64) {
	line := b.row(leave)
	by := line[enter]
	for j := range line {
		line[j] /= by
	}
	take := func(other []float64) {
		if f := other[enter]; f != 0 {
			for j := range other {
				other[j] -= f * line[j]
			}
		}
	}
	for i := range b.basis {
		if i != leave {
			take(b.row(i))
		}
	}
	if gain != nil {
		take(gain)
	}
	b.basis[leave] = enter
}

// greatest returns the most that some cells can hold together, at most top; least,
// the least.
func (b *bounds) greatest(in uint32, top uint64) uint64 {
	v := b.extreme(in, 1)
	if v >= float64(top) {
		return top
	}
	return uint64(v + slack)
}

func (b *bounds) least(in uint32) uint64 {
	return uint64(max(0, math.Ceil(-b.extreme(in, -1)-slack)))
}

// extreme returns the most that sign times some cells can be, +Inf if there is no
// such, or it was not found.
func (b *bounds) extreme(in uint32, sign float64) float64 {
	if b == nil {
		return math.Inf(1)
	}
	c := &bounds{cells: b.cells, width: b.width, table: slices.Clone(b.table), basis: slices.Clone(b.basis)}
	gain := make([]float64, b.width)
	for in := in; in != 0; in &= in - 1 {
		gain[bits.TrailingZeros32(in)] = sign
	}
	for i, j := range c.basis {
		if j < c.cells && in>>j&1 == 1 {
			for k, v := range c.row(i) {
				gain[k] -= sign * v
			}
		}
	}
	if !c.improve(gain) {
		b.lost = b.lost || c.lost
		return math.Inf(1)
	}
	return -gain[b.width-1]
}
