package lookalike

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const (
	today  = taxonomy.Day(20700)
	source = taxonomy.SourceID("shop")
	seedID = taxonomy.AudienceID("seed")
)

// crowd is a view of many visitors in one shard, all of whom permit everything,
// with what they had today: for each trait and block the places. It is what
// querytest is too slow for.
type crowd struct {
	index.Visitors // none is asked for
	n              int
	traits         []taxonomy.Trait // sorted
	number         map[taxonomy.Trait]int
	places         [][][]uint16 // by trait and block
}

func newCrowd(n int, traits []taxonomy.Trait) *crowd {
	c := &crowd{n: n, traits: traits, number: map[taxonomy.Trait]int{}, places: make([][][]uint16, len(traits))}
	for i, t := range traits {
		c.number[t] = i
		c.places[i] = make([][]uint16, c.Blocks(0))
	}
	return c
}

// add gives visitors their traits. Visitors must come in order.
func (c *crowd) add(visitor, trait int) {
	b := &c.places[trait][visitor/index.BlockSize]
	*b = append(*b, uint16(visitor%index.BlockSize))
}

func (c *crowd) Shards() int                  { return 1 }
func (c *crowd) Blocks(int) int               { return (c.n + index.BlockSize - 1) / index.BlockSize }
func (c *crowd) Position() retention.Position { return nil }
func (c *crowd) Clock() taxonomy.Millis       { return today.Start() + taxonomy.Hour }
func (c *crowd) RuleVersion() uint32          { return 1 }

func (c *crowd) Leaf(_, block int, op *index.Operand, dst *index.Words) (n int, err error) {
	clear(dst[:])
	if op.Kind == index.OpSet {
		if op.Set == index.SetProfile || op.Set == index.SetTraining {
			n = min(index.BlockSize, c.n-block*index.BlockSize)
			for v := range n {
				dst[v/64] |= 1 << (v % 64)
			}
		}
		return n, nil
	}
	for _, col := range op.Columns {
		if i, ok := c.number[col.Trait]; ok {
			for _, v := range c.places[i][block] {
				dst[v/64] |= 1 << (v % 64)
			}
			n += len(c.places[i][block])
		}
	}
	return n, nil
}

func (c *crowd) Newest(int, int, []taxonomy.Column, taxonomy.Day, taxonomy.Day, *[index.BlockSize]uint8) error {
	panic("not asked for")
}

func (c *crowd) Columns(_, _ taxonomy.Day, fn func(taxonomy.Column, uint64)) error {
	for i, t := range c.traits {
		n := 0
		for _, b := range c.places[i] {
			n += len(b)
		}
		if n > 0 {
			fn(taxonomy.Column{Source: source, Trait: t}, uint64(n))
		}
	}
	return nil
}

// matrix is each visitor's traits, by the slow way round.
func (c *crowd) matrix() [][]int {
	m := make([][]int, c.n)
	for t := range c.places {
		for b, vs := range c.places[t] {
			for _, v := range vs {
				m[b*index.BlockSize+int(v)] = append(m[b*index.BlockSize+int(v)], t)
			}
		}
	}
	return m
}

// setOf is the set of some visitors of a crowd.
func setOf(visitors ...int) index.Set {
	s := index.NewSet(1)
	for _, v := range visitors {
		s[0].Add(uint32(v))
	}
	return s
}

// upload says that the seed is an upload, which no trait defines.
func upload(taxonomy.AudienceID) (query.Expr, bool) { return query.List{List: "crm"}, true }

func options() Options {
	return Options{Profiling: []taxonomy.SourceID{source}, Training: []taxonomy.SourceID{source}, Audience: upload, Workers: 2}
}

func mustRun(t testing.TB, o Options, v audience.View, seed index.Set, spec audience.LookalikeSpec) run {
	t.Helper()
	spec.Seed = seedID
	r, err := New(o).run(context.Background(), v, seed, spec)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustExtend(t testing.TB, o Options, v audience.View, seed index.Set, spec audience.LookalikeSpec) (index.Set, audience.Evidence, Detail) {
	t.Helper()
	spec.Seed = seedID
	set, ev, err := New(o).Extend(context.Background(), v, seed, spec)
	if err != nil {
		t.Fatal(err)
	}
	var d Detail
	if err := json.Unmarshal(ev.Detail, &d); err != nil {
		t.Fatal(err)
	}
	return set, ev, d
}

// scoresOf are the scan's, by visitor of a crowd; who is no candidate comes last.
func scoresOf(r run, n int) []float64 {
	out := make([]float64, n)
	for v := range out {
		out[v] = math.Inf(-1)
		if b := r.scores.of[v/index.BlockSize]; b != nil {
			if x := b[v%index.BlockSize]; x == x {
				out[v] = float64(x)
			}
		}
	}
	return out
}

// auc is the naive one: ranks of the hidden among all who are not shown.
func auc(scores []float64, shown, hidden func(int) bool) float64 {
	type one struct {
		s float64
		h bool
	}
	var all []one
	for v, s := range scores {
		if !shown(v) {
			all = append(all, one{s, hidden(v)})
		}
	}
	slices.SortFunc(all, func(a, b one) int {
		if a.s < b.s {
			return -1
		} else if a.s > b.s {
			return 1
		}
		return 0
	})
	sum, h := 0.0, 0.0
	for i := 0; i < len(all); {
		j := i
		for j < len(all) && all[j].s == all[i].s {
			j++
		}
		for _, x := range all[i:j] {
			if x.h {
				sum += float64(i+1+j) / 2
				h++
			}
		}
		i = j
	}
	return (sum - h*(h+1)/2) / (h * (float64(len(all)) - h))
}

// averagePrecision is the mean, over the hidden, of the precision at each.
func averagePrecision(scores []float64, shown, hidden func(int) bool) float64 {
	var at []int
	for v := range scores {
		if !shown(v) {
			at = append(at, v)
		}
	}
	slices.SortStableFunc(at, func(a, b int) int {
		switch {
		case scores[a] > scores[b]:
			return -1
		case scores[a] < scores[b]:
			return 1
		}
		// Ties in no order that knows anything.
		x, y := mix(7, 0, uint32(a)), mix(7, 0, uint32(b))
		if x < y {
			return -1
		}
		return 1
	})
	sum, found := 0.0, 0.0
	for i, v := range at {
		if hidden(v) {
			found++
			sum += found / float64(i+1)
		}
	}
	return sum / found
}
