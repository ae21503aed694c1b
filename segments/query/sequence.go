package query

import (
	"math/bits"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// sequence asks each step on each day of the window: who had it on that day, and
// the steps before it by then. It needs nothing of the index but the days.
func (p *Plan) sequence(s *Sequence) int32 {
	from, to, ok := s.Window.asOf(p.at, p.today.Oldest())
	if !ok {
		return 0
	}
	days := make([]int32, to-from+1) // who had all steps so far, the last one on that day
	for i, st := range s.Steps {
		cols := columnsFrom(p.r, st.Trait, st.Sources)
		before := p.lately(days, st.Within)
		for d := range days {
			day := from + taxonomy.Day(d)
			days[d] = p.count(cols, day, day, index.Events, 1)
			if i > 0 {
				days[d] = p.and([]int32{days[d], before[d]}, nil)
			}
		}
	}
	return p.or(days)
}

// lately returns, for each day, the union of the days before it, at most within
// of them. Unions of 1, 2, 4 … days are built from each other, and any stretch is
// two of those that overlap: a union of each stretch by itself would read each
// day up to 89 times.
func (p *Plan) lately(days []int32, within int) []int32 {
	if within == 0 {
		return nil
	}
	levels := [][]int32{append([]int32(nil), days...)} // levels[k][d]: the 2^k days to d
	for n := 1; 2*n <= min(within, len(days)); n *= 2 {
		last := levels[len(levels)-1]
		next := append([]int32(nil), last...)
		for d := n; d < len(days); d++ {
			next[d] = p.either(last[d-n], last[d])
		}
		levels = append(levels, next)
	}
	out := make([]int32, len(days))
	for d := 1; d < len(days); d++ {
		n := min(within, d)
		k := bits.Len(uint(n)) - 1
		out[d] = p.either(levels[k][d-n+1<<k-1], levels[k][d-1])
	}
	return out
}

// either is a union that is not taken apart into what it is made of, as or's
// are: its parts are unions that others use too.
func (p *Plan) either(a, b int32) int32 {
	switch {
	case a == 0 || a == b:
		return b
	case b == 0:
		return a
	}
	return p.shared(node{kind: nodeOr, pos: p.sorted([]int32{a, b}, 1), size: p.nodes[a].size + p.nodes[b].size})
}
