package query_test

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// dayLists is an index of plain sorted lists, by column, day and block: what day
// files cost at least, without their format.
type dayLists struct {
	blocks int
	lists  map[taxonomy.Column]map[taxonomy.Day][][]uint16
	leaves int
}

func (d *dayLists) Shards() int    { return 1 }
func (d *dayLists) Blocks(int) int { return d.blocks }
func (d *dayLists) add(c taxonomy.Column, day taxonomy.Day, o uint32) {
	if d.lists[c] == nil {
		d.lists[c] = map[taxonomy.Day][][]uint16{}
	}
	if d.lists[c][day] == nil {
		d.lists[c][day] = make([][]uint16, d.blocks)
	}
	b := &d.lists[c][day][o/index.BlockSize]
	*b = append(*b, uint16(o))
}

func (d *dayLists) Leaf(_, block int, op *index.Operand, dst *index.Words) (int, error) {
	d.leaves++
	clear(dst[:])
	if op.Kind == index.OpSet {
		if op.Set == index.SetProfile {
			for i := range dst {
				dst[i] = ^uint64(0)
			}
			return index.BlockSize, nil
		}
		return 0, nil
	}
	var counts [index.BlockSize]uint8
	for _, c := range op.Columns {
		for day := op.From; day <= op.To; day++ {
			if lists := d.lists[c][day]; lists != nil {
				for _, o := range lists[block] {
					if op.Min == 1 {
						dst[o/64] |= 1 << (o % 64)
					} else if counts[o] < 255 {
						if counts[o]++; counts[o] == op.Min {
							dst[o/64] |= 1 << (o % 64)
						}
					}
				}
			}
		}
	}
	n := 0
	for _, w := range dst {
		n += bits.OnesCount64(w)
	}
	return n, nil
}

func (d *dayLists) Newest(int, int, []taxonomy.Column, taxonomy.Day, taxonomy.Day, *[index.BlockSize]uint8) error {
	panic("not asked")
}

func (d *dayLists) Columns(from, to taxonomy.Day, fn func(taxonomy.Column, uint64)) error {
	for c, days := range d.lists {
		n := uint64(0)
		for day, lists := range days {
			if from <= day && day <= to {
				for _, l := range lists {
					n += uint64(len(l))
				}
			}
		}
		fn(c, n)
	}
	return nil
}

func category(i int) taxonomy.Column { return column(fmt.Sprintf("c:p/%02d", i)) }

// crowd has visitors with about ten facts each, in 20 categories of Zipf's
// sizes, over 90 days.
func crowd(visitors int) *dayLists {
	d := &dayLists{blocks: (visitors + index.BlockSize - 1) / index.BlockSize, lists: map[taxonomy.Column]map[taxonomy.Day][][]uint16{}}
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 20 {
		perDay := float64(visitors) * 0.04 / float64(i+1)
		for day := today.Oldest(); day <= today; day++ {
			step := float64(visitors) / perDay
			for at := r.Float64() * step; at < float64(visitors); at += r.Float64() * 2 * step {
				d.add(category(i), day, uint32(at))
				d.add(column("any"), day, uint32(at))
			}
		}
	}
	return d
}

func twentyRules() (rules []query.Expr) {
	had := func(i, days, atLeast int) query.Trait {
		t := query.Had(category(i).Trait)
		t.Window, t.Min = query.LastDays(days), atLeast
		return t
	}
	for i := range 5 {
		rules = append(rules,
			query.Or{Of: []query.Expr{had(i, 90, 1), had(i+5, 90, 1), had(i+10, 90, 1)}},
			query.And{Of: []query.Expr{had(i, 30, 3), query.Not{Of: had(i+1, 30, 3)}}},
			query.And{Of: []query.Expr{had(i, 90, 1), had(19-i, 30, 1)}},
			query.And{Of: []query.Expr{query.Not{Of: had(i, 90, 1)}, had(i+5, 90, 1)}})
	}
	return rules
}

// BenchmarkTwentyAudiences evaluates 20 audiences in one pass over the blocks,
// and each in a pass of its own. -short takes 100,000 visitors, not 1 M.
func BenchmarkTwentyAudiences(b *testing.B) {
	visitors := 1_000_000
	if testing.Short() {
		visitors = 100_000
	}
	d := crowd(visitors)
	r := resolver(b, d, nil)
	rules := twentyRules()
	run := func(rules []query.Expr) []uint64 {
		p := query.NewPlan(today, r)
		for _, e := range rules {
			if _, err := p.Add(e); err != nil {
				b.Fatal(err)
			}
		}
		res, err := p.Run(b.Context(), d, query.RunOptions{Workers: 1})
		if err != nil {
			b.Fatal(err)
		}
		return res.Counts
	}
	best := func(to *time.Duration, f func()) {
		start := time.Now()
		f()
		if took := time.Since(start); *to == 0 || took < *to {
			*to = took
		}
	}
	var together, apart time.Duration
	for b.Loop() {
		var counts, one []uint64
		best(&together, func() { counts = run(rules) })
		best(&apart, func() {
			one = nil
			for i := range rules {
				one = append(one, run(rules[i:i+1])...)
			}
		})
		for i := range counts {
			if counts[i] != one[i] {
				b.Fatalf("audience %d: %d together, %d alone", i, counts[i], one[i])
			}
		}
	}
	b.ReportMetric(float64(together.Microseconds())/1000, "together-ms")
	b.ReportMetric(float64(apart)/float64(together), "apart/together")
	b.ReportMetric(0, "ns/op")
}

// A block costs no memory once the first few are done, but for the results.
func TestABlockAllocatesNothing(t *testing.T) {
	per := func(visitors int) float64 {
		d := crowd(visitors)
		r := resolver(t, d, nil)
		p := query.NewPlan(today, r)
		for _, e := range twentyRules() {
			if _, err := p.Add(e); err != nil {
				t.Fatal(err)
			}
		}
		return testing.AllocsPerRun(1, func() {
			if _, err := p.Run(t.Context(), d, query.RunOptions{Workers: 1, CountsOnly: true}); err != nil {
				t.Fatal(err)
			}
		})
	}
	one, many := per(index.BlockSize), per(2*index.BlockSize)
	if many > one+3 { // the list of blocks may grow
		t.Errorf("%v allocations for 2 blocks, %v for one", many, one)
	}
}

// BenchmarkEstimateOfTwentyClauses explains audiences of 20 clauses each, as the
// builder of audiences asks while someone types, and prints the median and the
// 99th percentile of 200 different ones. -short takes 100,000 visitors, not 1 M.
func BenchmarkEstimateOfTwentyClauses(b *testing.B) {
	visitors := 1_000_000
	if testing.Short() {
		visitors = 100_000
	}
	d := crowd(visitors)
	r := resolver(b, d, nil)
	pool := twentyRules()
	estimate := func(i int) time.Duration {
		// 20 clauses: 10 that anyone may match, 5 of two, and what is taken out.
		var or, and []query.Expr
		for j := range 10 {
			or = append(or, pool[(i+j)%len(pool)])
		}
		and = append(and, query.Or{Of: or})
		for j := range 5 {
			and = append(and, query.Or{Of: []query.Expr{pool[(i*3+j)%len(pool)], query.Not{Of: pool[(i*7+j)%len(pool)]}}})
		}
		start := time.Now()
		x, err := query.Explain(b.Context(), d, today, r, query.And{Of: and}, query.RunOptions{Workers: 1})
		if err != nil {
			b.Fatal(err)
		}
		if len(x.Clauses) < 27 { // the "and", six "or", twenty clauses
			b.Fatalf("%d clauses", len(x.Clauses))
		}
		return time.Since(start)
	}
	var took []time.Duration
	for b.Loop() {
		for i := range 200 {
			took = append(took, estimate(i))
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(0, "ns/op")
}
