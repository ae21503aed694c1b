package lookalike

import (
	"context"
	"fmt"
	"math/bits"

	"github.com/ebb-dmp/ebb/segments/index"
)

// row is one visitor that is learnt from.
type row struct {
	from, to uint32 // of rows.of
	fold     uint8
	member   bool // of the seed
	seed     bool // a member that is learnt from as such
	sampled  bool // of the sample of the training population, member or not
}

// rows is the visitors that are learnt from, with their traits: a sample of the
// training population drawn whether they are in the seed or not, and the seed.
type rows struct {
	pop  *population
	list []row
	of   []uint16 // the features of each row, rising
	// of each feature, over the whole training population
	with, withSeed []uint64
	// rate is the sample's share of the population, by which the seed's part of
	// the equations is scaled; positive is for how many of the seed one row of it
	// stands. seeds and sampled count rows.
	rate, positive float64
	seeds, sampled int
}

// gather reads every feature of every block once: it counts, and keeps the
// traits of those who are learnt from.
func (p *population) gather(ctx context.Context, features []feature) (*rows, error) {
	sample := below(uint64(p.sample), p.training)
	positives := below(uint64(p.sample), p.seedTraining)
	type part struct {
		rows []row
		of   []uint16
		n    []uint32
		seed []uint32
	}
	parts := make([]part, len(p.units))
	err := p.each(ctx, func() blockFunc {
		var m masks
		var pick, w index.Words
		var before [len(w)]uint32 // rows before each word
		var pairs []uint32        // place among the block's rows << 16 | feature
		return func(i int) error {
			u := p.units[i]
			if err := p.masks(u, &m); err != nil {
				return err
			}
			out := &parts[i]
			for k, x := range m.training {
				before[k], pick[k] = uint32(len(out.rows)), 0
				for ; x != 0; x &= x - 1 {
					at := place(k, x)
					o := uint32(u.block)*index.BlockSize + at
					h := mix(saltSample, u.shard, o)
					r := row{sampled: h <= sample, fold: uint8(mix(saltFold, u.shard, o) % folds)}
					r.member = m.seed[k]>>(at%64)&1 != 0
					// Other bits than the sample's, or the two would be one choice.
					r.seed = r.member && bits.Reverse64(h) <= positives
					if !r.seed && !r.sampled {
						continue
					}
					pick[k] |= 1 << (at % 64)
					out.rows = append(out.rows, r)
				}
			}
			out.n, out.seed = make([]uint32, len(features)), make([]uint32, len(features))
			pairs = pairs[:0]
			for j := range features {
				some, err := p.view.Leaf(u.shard, u.block, &features[j].op, &w)
				if err != nil {
					return fmt.Errorf("read trait %q, shard %d, block %d: %w", features[j].trait, u.shard, u.block, err)
				}
				if some == 0 {
					continue
				}
				var n, seed int
				for k, x := range &w {
					if x &= m.training[k]; x == 0 {
						continue
					}
					n += bits.OnesCount64(x)
					seed += bits.OnesCount64(x & m.seed[k])
					for y := x & pick[k]; y != 0; y &= y - 1 {
						rank := before[k] + uint32(bits.OnesCount64(pick[k]&(y&-y-1)))
						pairs = append(pairs, rank<<16|uint32(j))
					}
				}
				out.n[j], out.seed[j] = uint32(n), uint32(seed)
			}
			// Pairs are in order of features; turn them into rows by counting.
			for _, x := range pairs {
				out.rows[x>>16].to++
			}
			at := uint32(0)
			for k := range out.rows {
				r := &out.rows[k]
				n := r.to
				r.from, r.to = at, at
				at += n
			}
			out.of = make([]uint16, at)
			for _, x := range pairs {
				r := &out.rows[x>>16]
				out.of[r.to] = uint16(x)
				r.to++
			}
			return nil
		}
	})
	if err != nil {
		return nil, err
	}
	r := &rows{pop: p, with: make([]uint64, len(features)), withSeed: make([]uint64, len(features))}
	for i := range parts {
		first := uint32(len(r.of))
		for _, x := range parts[i].rows {
			x.from, x.to = x.from+first, x.to+first
			r.list = append(r.list, x)
			if x.seed {
				r.seeds++
			}
			if x.sampled {
				r.sampled++
			}
		}
		r.of = append(r.of, parts[i].of...)
		for j := range features {
			r.with[j] += uint64(parts[i].n[j])
			r.withSeed[j] += uint64(parts[i].seed[j])
		}
		parts[i] = part{}
	}
	r.rate = float64(r.sampled) / float64(p.training)
	r.positive = float64(p.seedTraining) / float64(r.seeds)
	return r, nil
}

// keep leaves only the chosen features, which get the numbers of their places
// in the choice.
func (r *rows) keep(chosen []int) {
	number := make([]int32, len(r.with))
	for j := range number {
		number[j] = -1
	}
	for k, j := range chosen {
		number[j] = int32(k)
	}
	at := uint32(0)
	for i := range r.list {
		x := &r.list[i]
		from := at
		for _, j := range r.of[x.from:x.to] {
			if number[j] >= 0 {
				r.of[at] = uint16(number[j])
				at++
			}
		}
		x.from, x.to = from, at
	}
	r.of = r.of[:at]
}
