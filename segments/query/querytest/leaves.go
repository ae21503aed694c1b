package querytest

import (
	"math/bits"
	"slices"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Shards is that of index.Leaves.
func (v *View) Shards() int { return len(v.ends) }

// Blocks is that of index.Leaves.
func (v *View) Blocks(shard int) int {
	return int((uint64(v.ends[shard]) + index.BlockSize - 1) / index.BlockSize)
}

// Leaf is that of index.Leaves.
func (v *View) Leaf(shard, block int, op *index.Operand, dst *index.Words) (int, error) {
	v.mu.Lock()
	key := op.Key()
	if v.asked[key] == nil {
		v.asked[key] = map[[2]int]int{}
	}
	v.asked[key][[2]int{shard, block}]++
	v.mu.Unlock()
	clear(dst[:])
	for _, n := range v.blocks[place{shard, uint32(block)}] {
		if v.answers(n, op) {
			i := v.places[n].ordinal % index.BlockSize
			dst[i/64] |= 1 << (i % 64)
		}
	}
	count := 0
	for _, w := range dst {
		count += bits.OnesCount64(w)
	}
	return count, nil
}

func (v *View) answers(n int, op *index.Operand) bool {
	switch op.Kind {
	case index.OpCount:
		total, days := 0, map[taxonomy.Day]bool{}
		for _, f := range v.facts[n] {
			if op.From <= f.Day && f.Day <= op.To && slices.Contains(op.Columns, f.Column) {
				total += f.N
				days[f.Day] = true
			}
		}
		if op.Unit == index.DistinctDays {
			total = len(days)
		}
		return min(total, 255) >= int(op.Min)
	case index.OpNewest:
		c, ok := v.statement(n, op.All, max(op.From, op.AsOf.Oldest()), op.AsOf)
		return ok && slices.Contains(op.Columns, c)
	case index.OpSet:
		return v.sets[op.Set][n]
	}
	return false
}

func (v *View) statement(n int, all []taxonomy.Column, from, asOf taxonomy.Day) (c taxonomy.Column, ok bool) {
	for _, s := range v.stated[n] {
		if from <= s.Day && s.Day <= asOf && slices.Contains(all, s.Column) {
			c, ok = s.Column, true
		}
	}
	return c, ok
}

// Newest is that of index.Leaves.
func (v *View) Newest(shard, block int, columns []taxonomy.Column, from, to taxonomy.Day, dst *[index.BlockSize]uint8) error {
	clear(dst[:])
	for _, n := range v.blocks[place{shard, uint32(block)}] {
		see := func(d taxonomy.Day, c taxonomy.Column) {
			if from <= d && d <= to && slices.Contains(columns, c) {
				i := v.places[n].ordinal % index.BlockSize
				if age := uint8(to-d) + 1; dst[i] == 0 || age < dst[i] {
					dst[i] = age
				}
			}
		}
		for _, f := range v.facts[n] {
			see(f.Day, f.Column)
		}
		for _, s := range v.stated[n] {
			see(s.Day, s.Column)
		}
	}
	return nil
}

// Columns is that of index.Leaves.
func (v *View) Columns(from, to taxonomy.Day, fn func(taxonomy.Column, uint64)) error {
	type visitorDay struct {
		visitor int
		day     taxonomy.Day
	}
	seen := map[taxonomy.Column]map[visitorDay]bool{}
	see := func(n int, d taxonomy.Day, c taxonomy.Column) {
		if d < from || d > to {
			return
		}
		if seen[c] == nil {
			seen[c] = map[visitorDay]bool{}
		}
		seen[c][visitorDay{n, d}] = true
	}
	for _, f := range v.w.Facts {
		see(f.Visitor, f.Day, f.Column)
	}
	for _, s := range v.w.Stated {
		see(s.Visitor, s.Day, s.Column)
	}
	var columns []taxonomy.Column
	for c := range seen {
		columns = append(columns, c)
	}
	slices.SortFunc(columns, taxonomy.Column.Compare)
	for _, c := range columns {
		fn(c, uint64(len(seen[c])))
	}
	return nil
}

// Asked returns, for each operand's key, how often each (shard, block) of it was
// read: a planner reads each at most once for all its rules.
func (v *View) Asked() map[string]map[[2]int]int { return v.asked }

// Facts is what is known of one visitor: query.Facts. One who is not in the
// world has none.
func (v *View) Facts(visitor int) *VisitorFacts { return &VisitorFacts{v, visitor} }

// VisitorFacts is what a View knows of one visitor.
type VisitorFacts struct {
	v *View
	n int
}

// Count is that of query.Facts. It does not saturate.
func (f *VisitorFacts) Count(c taxonomy.Column, d taxonomy.Day) (n int) {
	for _, x := range f.v.facts[f.n] {
		if x.Column == c && x.Day == d {
			n += x.N
		}
	}
	return n
}

// Statement is that of query.Facts.
func (f *VisitorFacts) Statement(all []taxonomy.Column, asOf taxonomy.Day) (c taxonomy.Column, ok bool) {
	for _, s := range f.v.stated[f.n] {
		if s.Day < asOf.Oldest() || s.Day > asOf || s.Day.Expired(f.v.w.Now) {
			continue
		}
		key, _ := s.Column.Trait.Statement()
		if slices.ContainsFunc(all, func(c taxonomy.Column) bool {
			k, _ := c.Trait.Statement()
			return k == key && c.Source == s.Column.Source
		}) {
			c, ok = s.Column, true
		}
	}
	return c, ok
}

// In is that of query.Facts.
func (f *VisitorFacts) In(set string) bool { return f.v.sets[set][f.n] }
