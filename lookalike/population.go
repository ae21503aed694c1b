package lookalike

import (
	"context"
	"fmt"
	"math"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// population is who there is to learn from and to choose from.
type population struct {
	view    audience.View
	seed    index.Set
	bots    index.Operand
	units   []unit
	workers int
	sample  int

	// all may be in an audience; training permit learning beside that.
	all, seedAll           uint64
	training, seedTraining uint64
	members                uint64 // of the seed as it was given
}

type unit struct{ shard, block int }

func (s *Scorer) workers() int {
	if s.Workers > 0 {
		return s.Workers
	}
	return runtime.GOMAXPROCS(0)
}

// population counts who there is. Who may be in an audience at all is what the
// planner says: profile, less bots, the gone and the holdout.
func (s *Scorer) population(ctx context.Context, view audience.View, seed index.Set) (*population, error) {
	today := view.Clock().Day()
	r, err := query.NewIndexResolver(view, today, s.Profiling, nil)
	if err != nil {
		return nil, err
	}
	p := &population{view: view, seed: seed, workers: s.workers(), sample: s.Sample, members: seed.Count(),
		bots: index.Operand{Kind: index.OpCount, Columns: r.Columns(taxonomy.TraitBot), From: today.Oldest(), To: today, Unit: index.Events, Min: 1}}
	for s := range view.Shards() {
		for b := range view.Blocks(s) {
			p.units = append(p.units, unit{s, b})
		}
	}
	var mu sync.Mutex
	err = p.each(ctx, func() blockFunc {
		var m masks
		return func(i int) error {
			if err := p.masks(p.units[i], &m); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			p.all += count(&m.all)
			p.training += count(&m.training)
			p.seedAll += countBoth(&m.all, &m.seed)
			p.seedTraining += countBoth(&m.training, &m.seed)
			return nil
		}
	})
	return p, err
}

// fit says what is wrong with the seed, if anything.
func (p *population) fit() error {
	switch {
	case p.members == 0:
		return unfit("the seed has no members; widen its rule or its window")
	case p.seedTraining < MinSeed && p.members >= MinSeed:
		return unfit("%s of the seed's %d members may be learnt from, at least %d are needed; the others do not permit training, or are bots or held out: widen the seed, or ask for consent to training", shown(p.seedTraining), p.members, MinSeed)
	case p.seedTraining < MinSeed:
		return unfit("the seed has %s members to learn from, at least %d are needed; widen its rule or its window", shown(p.seedTraining), MinSeed)
	case p.training-p.seedTraining < max(MinSeed, p.training/100):
		return unfit("the seed holds nearly everyone who may be learnt from, so there is nobody to tell it from; narrow its rule")
	}
	return nil
}

// masks are the visitors of one block by what they may be used for.
type masks struct {
	all, training, seed index.Words
}

func (p *population) masks(u unit, m *masks) error {
	leaf := func(op *index.Operand, dst *index.Words) (int, error) {
		n, err := p.view.Leaf(u.shard, u.block, op, dst)
		if err != nil {
			err = fmt.Errorf("read shard %d, block %d: %w", u.shard, u.block, err)
		}
		return n, err
	}
	clear(m.training[:])
	clear(m.seed[:])
	n, err := leaf(&index.Operand{Kind: index.OpSet, Set: index.SetProfile}, &m.all)
	if n == 0 || err != nil {
		return err
	}
	for _, op := range []*index.Operand{&p.bots, {Kind: index.OpSet, Set: index.SetGone}, {Kind: index.OpSet, Set: index.SetHoldout}} {
		n, err := leaf(op, &m.seed)
		if err != nil {
			return err
		}
		for i := 0; n > 0 && i < len(m.all); i++ {
			m.all[i] &^= m.seed[i]
		}
	}
	if _, err := leaf(&index.Operand{Kind: index.OpSet, Set: index.SetTraining}, &m.training); err != nil {
		return err
	}
	for i := range m.training {
		m.training[i] &= m.all[i]
	}
	words(p.seed, u, &m.seed)
	return nil
}

// words overwrites dst with the block of a set.
func words(s index.Set, u unit, dst *index.Words) {
	clear(dst[:])
	if u.shard >= len(s) || s[u.shard] == nil {
		return
	}
	first := uint32(u.block) * index.BlockSize
	it := s[u.shard].Iterator()
	for it.AdvanceIfNeeded(first); it.HasNext(); {
		o := it.Next() - first
		if o >= index.BlockSize {
			return
		}
		dst[o/64] |= 1 << (o % 64)
	}
}

// blockFunc does what is to do for the unit of a number.
type blockFunc func(i int) error

// each calls functions, one for each worker, with the numbers of all units.
// They run side by side, so what they find is put together by number, or is of
// a kind where the order does not matter.
func (p *population) each(ctx context.Context, worker func() blockFunc) error {
	return parallel(ctx, p.workers, len(p.units), worker)
}

func parallel(ctx context.Context, workers, n int, worker func() blockFunc) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(workers, n) {
		do := worker()
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := do(i); err != nil {
					stop(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// The salts of the three choices that go by a hash of the place: independent of
// each other, the same in every run, and blind to the order of ordinals, which
// is the order in which visitors were first seen.
const (
	saltSample = 0x9e3779b97f4a7c15
	saltFold   = 0xd1b54a32d192ed03
	saltTie    = 0x8cb92ba72f3d8dd7
)

// mix is a hash of a place (splitmix64).
func mix(salt uint64, shard int, ordinal uint32) uint64 {
	x := salt ^ (uint64(shard)<<32 | uint64(ordinal))
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	x += salt
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// below is the bound under which a hash is with a probability of want in of.
func below(want, of uint64) uint64 {
	if want >= of {
		return math.MaxUint64
	}
	hi, _ := bits.Div64(want, 0, of) // want·2^64 / of
	return hi
}

func count(w *index.Words) (n uint64) {
	for _, x := range w {
		n += uint64(bits.OnesCount64(x))
	}
	return n
}

func countBoth(a, b *index.Words) (n uint64) {
	for i, x := range a {
		n += uint64(bits.OnesCount64(x & b[i]))
	}
	return n
}

// place is the place in a block of the lowest bit of word i.
func place(i int, x uint64) uint32 { return uint32(64*i + bits.TrailingZeros64(x)) }
