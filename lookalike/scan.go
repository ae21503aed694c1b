package lookalike

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
)

// scores is every candidate's score.
type scores struct {
	of [][]float32 // by unit and place; NaN: not a candidate; nil: none in the block
	// bins counts candidates by the upper half of rank(score): 65,536 bins that
	// are as fine as the scores are small, whatever their range.
	bins       []uint64
	candidates uint64
	pool       uint64 // of whom a share is taken: all who are not in the seed
	wanted     uint64
	taken      uint64
}

// rank is a number that is in the order of the floats.
func rank(x float32) uint32 {
	b := math.Float32bits(x)
	if b>>31 != 0 {
		return ^b
	}
	return b | 1<<31
}

func unrank(r uint32) float32 {
	if r>>31 != 0 {
		return math.Float32frombits(r &^ (1 << 31))
	}
	return math.Float32frombits(^r)
}

const binCount = 1 << 16

// scan scores every visitor, feature by feature and block by block, and takes
// the highest.
func (p *population) scan(ctx context.Context, m *model, spec audience.LookalikeSpec) (index.Set, *scores, error) {
	s := &scores{of: make([][]float32, len(p.units)), bins: make([]uint64, binCount), pool: p.all - p.seedAll}
	if err := s.score(ctx, p, m); err != nil {
		return nil, nil, err
	}
	s.wanted = spec.Size
	if spec.Size == 0 {
		s.wanted = uint64(math.Round(spec.Share * float64(s.pool)))
	}
	out, err := s.take(ctx, p)
	if err != nil {
		return nil, nil, err
	}
	if spec.WithSeed {
		if err := p.addSeed(ctx, out); err != nil {
			return nil, nil, err
		}
	}
	return out, s, nil
}

func (s *scores) score(ctx context.Context, p *population, m *model) error {
	// float32 is enough to order by, and half the memory to walk through. Each
	// block is summed by one worker in the order of the features.
	w := make([]float32, len(m.learnt))
	for j := range w {
		w[j] = float32(m.weights[j])
	}
	// By how many traits a visitor has: what each counts, and what is added.
	times, plus := make([]float32, len(w)+1), make([]float32, len(w)+1)
	for n := range times {
		times[n] = float32(m.form.value(n))
		plus[n] = float32(m.weights[len(w)+group(n)] + m.weights[len(m.weights)-1])
	}
	var mu sync.Mutex
	return p.each(ctx, func() blockFunc {
		var ms masks
		var leaf index.Words
		sums := new([index.BlockSize]float32)
		counts := new([index.BlockSize]uint16)
		return func(i int) error {
			u := p.units[i]
			if err := p.masks(u, &ms); err != nil {
				return err
			}
			for k := range ms.all {
				ms.all[k] &^= ms.seed[k]
			}
			if count(&ms.all) == 0 {
				return nil
			}
			clear(sums[:])
			clear(counts[:])
			for j := range m.learnt {
				f := &m.learnt[j]
				n, err := p.view.Leaf(u.shard, u.block, &f.op, &leaf)
				if err != nil {
					return fmt.Errorf("read trait %q, shard %d, block %d: %w", f.trait, u.shard, u.block, err)
				}
				if n == 0 {
					continue
				}
				add(&leaf, w[j], sums, counts)
			}
			nan := float32(math.NaN())
			out := make([]float32, index.BlockSize)
			var bins [binCount / 64][]uint32 // in parts, for few of them are in use
			candidates := uint64(0)
			for v := range out {
				if ms.all[v/64]>>(v%64)&1 == 0 || counts[v] == 0 {
					out[v] = nan
					continue
				}
				x := sums[v]*times[counts[v]] + plus[counts[v]]
				out[v] = x
				candidates++
				b := rank(x) >> 16
				if bins[b/64] == nil {
					bins[b/64] = make([]uint32, 64)
				}
				bins[b/64][b%64]++
			}
			s.of[i] = out
			mu.Lock()
			defer mu.Unlock()
			s.candidates += candidates
			for k, part := range bins {
				for l, n := range part {
					s.bins[64*k+l] += uint64(n)
				}
			}
			return nil
		}
	})
}

// add adds a weight to those in a leaf: the inner loop of the scan.
func add(leaf *index.Words, w float32, sums *[index.BlockSize]float32, counts *[index.BlockSize]uint16) {
	for k, x := range leaf {
		for ; x != 0; x &= x - 1 {
			v := place(k, x) % index.BlockSize
			sums[v] += w
			counts[v]++
		}
	}
}

// take returns the highest scores, exactly as many as wanted: the upper half of
// the rank by the bins, the lower half by a second count within the bin where
// the line falls, and ties at the line by a hash of the place. By place alone
// they would go to the visitors seen first.
func (s *scores) take(ctx context.Context, p *population) (index.Set, error) {
	line, ties := uint32(0), uint64(math.MaxUint64) // take above the line, and so many on it
	if s.wanted < s.candidates {
		if s.wanted == 0 {
			return index.NewSet(p.view.Shards()), nil
		}
		bin, left := fall(s.bins, s.wanted)
		fine := make([]uint64, binCount)
		for _, block := range s.of {
			for _, x := range block {
				if x == x && rank(x)>>16 == uint32(bin) {
					fine[rank(x)&(binCount-1)]++
				}
			}
		}
		var low int
		low, ties = fall(fine, left)
		line = uint32(bin)<<16 | uint32(low)
	}
	type tie struct {
		hash  uint64
		at    unit
		place uint32
	}
	parts := make([][]uint32, len(p.units))
	var tied []tie
	for i, block := range s.of {
		u := p.units[i]
		for v, x := range block {
			o := uint32(u.block)*index.BlockSize + uint32(v)
			switch {
			case x != x:
			case rank(x) > line || ties == math.MaxUint64:
				parts[i] = append(parts[i], o)
			case rank(x) == line:
				tied = append(tied, tie{mix(saltTie, u.shard, o), u, o})
			}
		}
	}
	out := index.NewSet(p.view.Shards())
	for i, ordinals := range parts {
		out[p.units[i].shard].AddMany(ordinals)
		s.taken += uint64(len(ordinals))
	}
	slices.SortFunc(tied, func(a, b tie) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.at.shard, b.at.shard), cmp.Compare(a.place, b.place))
	})
	for _, t := range tied[:min(uint64(len(tied)), ties)] {
		out[t.at.shard].Add(t.place)
		s.taken++
	}
	return out, ctx.Err()
}

// fall returns the bin, from the top, in which the n-th falls, and the number
// that is left to take in it.
func fall(bins []uint64, n uint64) (bin int, left uint64) {
	for bin = len(bins) - 1; bin > 0 && bins[bin] < n; bin-- {
		n -= bins[bin]
	}
	return bin, n
}

// reach is the score at which the n highest begin, to the fineness of a bin.
func (s *scores) reach(n uint64) float64 {
	bin, _ := fall(s.bins, max(1, min(n, s.candidates)))
	return float64(unrank(uint32(bin) << 16))
}

// addSeed adds the seed's members who may be in an audience.
func (p *population) addSeed(ctx context.Context, out index.Set) error {
	var mu sync.Mutex
	return p.each(ctx, func() blockFunc {
		var m masks
		return func(i int) error {
			u := p.units[i]
			if err := p.masks(u, &m); err != nil {
				return err
			}
			var ordinals []uint32
			for k, x := range m.all {
				for x &= m.seed[k]; x != 0; x &= x - 1 {
					ordinals = append(ordinals, uint32(u.block)*index.BlockSize+place(k, x))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			out[u.shard].AddMany(ordinals)
			return nil
		}
	})
}
