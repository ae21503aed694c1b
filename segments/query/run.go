package query

import (
	"context"
	"fmt"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/ebb-dmp/ebb/segments/index"
)

// RunOptions says how a plan is run. The zero value works.
type RunOptions struct {
	// Workers is how many blocks are evaluated at a time; 0 means GOMAXPROCS.
	// Each holds at most 8 KiB for each node of the plan.
	Workers int
	// CountsOnly leaves Result.Sets nil.
	CountsOnly bool
}

// Result is what a plan found, by the numbers that Add gave.
type Result struct {
	// Eligible is how many visitors may be in an audience at all: who may be
	// profiled, less bots, the gone and the holdout.
	Eligible uint64
	Counts   []uint64
	Sets     []index.Set // the caller's

	raw, kept []uint64 // of the taps: all, and those eligible
}

// Run evaluates the plan over every block of leaves. It fails if the context
// ends or a leaf cannot be read; then there is no result at all.
func (p *Plan) Run(ctx context.Context, leaves index.Leaves, o RunOptions) (*Result, error) {
	var units []unit
	for s := range leaves.Shards() {
		for b := range leaves.Blocks(s) {
			units = append(units, unit{s, b})
		}
	}
	workers := o.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	workers = max(1, min(workers, len(units)))
	uses := p.uses()
	var out []piece
	if !o.CountsOnly {
		out = make([]piece, len(units)*len(p.roots))
	}

	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var next atomic.Int64
	ws := make([]*worker, workers)
	var wg sync.WaitGroup
	for i := range ws {
		w := p.worker(leaves, uses)
		ws[i] = w
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(units) {
					return
				}
				var to []piece
				if out != nil {
					to = out[i*len(p.roots) : (i+1)*len(p.roots)]
				}
				if err := w.block(units[i], to); err != nil {
					stop(fmt.Errorf("evaluate shard %d, block %d: %w", units[i].shard, units[i].block, err))
				}
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}

	r := &Result{Counts: make([]uint64, len(p.roots)), raw: make([]uint64, len(p.taps)), kept: make([]uint64, len(p.taps))}
	for _, w := range ws {
		r.Eligible += w.eligible
		add(r.Counts, w.counts)
		add(r.raw, w.raw)
		add(r.kept, w.kept)
	}
	if o.CountsOnly {
		return r, nil
	}
	r.Sets = make([]index.Set, len(p.roots))
	for i := range r.Sets {
		var err error
		if r.Sets[i], err = assemble(leaves.Shards(), units, out, i, len(p.roots)); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func add(to, from []uint64) {
	for i, n := range from {
		to[i] += n
	}
}

type unit struct{ shard, block int }

// uses counts how often each node is asked for in a block, so that its words
// can be given back after the last time.
func (p *Plan) uses() []int32 {
	uses := make([]int32, len(p.nodes))
	reach := make([]bool, len(p.nodes))
	ask := func(n int32) { uses[n]++; reach[n] = true }
	ask(p.base)
	for _, n := range p.roots {
		ask(n)
	}
	for _, n := range p.taps {
		ask(n)
	}
	for n := len(p.nodes) - 1; n >= 0; n-- { // children have lower numbers
		if !reach[n] {
			continue
		}
		for _, k := range p.nodes[n].pos {
			ask(k)
		}
		for _, k := range p.nodes[n].neg {
			ask(k)
		}
	}
	return uses
}

// worker evaluates blocks, one after the other, in the same memory.
type worker struct {
	*Plan
	leaves index.Leaves
	uses   []int32

	at    unit
	state []nodeState
	left  []int32 // uses to come
	words []*index.Words
	free  []*index.Words
	out   index.Words
	arena []byte

	eligible          uint64
	counts, raw, kept []uint64
}

type nodeState uint8

const (
	unknown nodeState = iota
	isEmpty
	isThere // words of it are kept until the last use
)

func (p *Plan) worker(leaves index.Leaves, uses []int32) *worker {
	return &worker{
		Plan: p, leaves: leaves, uses: uses,
		state: make([]nodeState, len(p.nodes)), left: make([]int32, len(p.nodes)), words: make([]*index.Words, len(p.nodes)),
		counts: make([]uint64, len(p.roots)), raw: make([]uint64, len(p.taps)), kept: make([]uint64, len(p.taps)),
	}
}

// block evaluates all roots and taps in one block. Pieces of the roots go to
// out, unless it is nil.
func (w *worker) block(at unit, out []piece) error {
	w.at = at
	clear(w.state)
	copy(w.left, w.uses)
	base, err := w.eval(w.base)
	if err != nil {
		return err
	}
	if base != nil {
		w.eligible += uint64(popcount(base))
	}
	// Taps count also those that are not eligible, to explain why a result is
	// empty. Roots are not asked for in a block where nobody is eligible.
	for i, n := range w.taps {
		x, err := w.eval(n)
		if err != nil {
			return err
		}
		if x != nil {
			w.raw[i] += uint64(popcount(x))
			if base != nil {
				w.kept[i] += uint64(andInto(&w.out, x, base))
			}
		}
		w.release(n)
	}
	for i, n := range w.roots {
		if base == nil {
			w.release(n)
			continue
		}
		x, err := w.eval(n)
		if err != nil {
			return err
		}
		if x != nil {
			if count := andInto(&w.out, x, base); count > 0 {
				w.counts[i] += uint64(count)
				if out != nil {
					out[i] = w.piece(&w.out, count)
				}
			}
		}
		w.release(n)
	}
	w.release(w.base)
	return nil
}

// eval returns the words of a node, nil if it is empty. They are valid until
// the node's last release.
func (w *worker) eval(n int32) (*index.Words, error) {
	switch w.state[n] {
	case isEmpty:
		return nil, nil
	case isThere:
		return w.words[n], nil
	}
	nd := &w.nodes[n]
	var x *index.Words
	var err error
	switch nd.kind {
	case nodeLeaf:
		x = w.get()
		var count int
		if count, err = w.leaves.Leaf(w.at.shard, w.at.block, &w.ops[nd.op], x); count == 0 || err != nil {
			w.put(x)
			x = nil
		}
	case nodeAnd:
		x, err = w.and(nd)
	case nodeOr:
		x, err = w.or(nd)
	}
	if err != nil {
		return nil, err
	}
	if w.words[n] = x; x == nil {
		w.state[n] = isEmpty
	} else {
		w.state[n] = isThere
	}
	return x, nil
}

// and stops as soon as nothing is left: what it then never asks is released
// unasked, and not read at all if nobody else asks.
func (w *worker) and(nd *node) (*index.Words, error) {
	for _, k := range nd.pos {
		if w.state[k] == isEmpty {
			w.releaseAll(nd.pos)
			w.releaseAll(nd.neg)
			return nil, nil
		}
	}
	var x *index.Words
	for i, k := range nd.pos {
		y, err := w.eval(k)
		if err != nil {
			return nil, err
		}
		count := 0
		switch {
		case y == nil:
		case x == nil:
			x, count = w.own(k, y), 1
		default:
			count = andInto(x, x, y)
		}
		w.release(k)
		if count == 0 {
			w.put(x)
			w.releaseAll(nd.pos[i+1:])
			w.releaseAll(nd.neg)
			return nil, nil
		}
	}
	for i, k := range nd.neg {
		y, err := w.eval(k)
		if err != nil {
			return nil, err
		}
		count := 1
		if y != nil {
			count = andNotInto(x, y)
		}
		w.release(k)
		if count == 0 {
			w.put(x)
			w.releaseAll(nd.neg[i+1:])
			return nil, nil
		}
	}
	return x, nil
}

func (w *worker) or(nd *node) (*index.Words, error) {
	var x *index.Words
	for _, k := range nd.pos {
		y, err := w.eval(k)
		if err != nil {
			return nil, err
		}
		switch {
		case y == nil:
		case x == nil:
			x = w.own(k, y)
		default:
			orInto(x, y)
		}
		w.release(k)
	}
	return x, nil
}

// own returns the words of k to change: its own if nobody will ask again.
func (w *worker) own(k int32, words *index.Words) *index.Words {
	if w.left[k] == 1 {
		w.words[k] = nil
		return words
	}
	x := w.get()
	*x = *words
	return x
}

func (w *worker) release(n int32) {
	if w.left[n]--; w.left[n] > 0 {
		return
	}
	switch w.state[n] {
	case unknown: // nobody will ask: nor for what is below
		w.releaseAll(w.nodes[n].pos)
		w.releaseAll(w.nodes[n].neg)
	case isThere:
		w.put(w.words[n])
		w.words[n] = nil
	}
}

func (w *worker) releaseAll(ns []int32) {
	for _, n := range ns {
		w.release(n)
	}
}

func (w *worker) get() *index.Words {
	if n := len(w.free); n > 0 {
		x := w.free[n-1]
		w.free = w.free[:n-1]
		return x
	}
	return new(index.Words)
}

func (w *worker) put(x *index.Words) {
	if x != nil {
		w.free = append(w.free, x)
	}
}

func popcount(x *index.Words) (n int) {
	for _, v := range x {
		n += bits.OnesCount64(v)
	}
	return n
}

func andInto(dst, x, y *index.Words) (n int) {
	for i := range dst {
		v := x[i] & y[i]
		dst[i] = v
		n += bits.OnesCount64(v)
	}
	return n
}

func andNotInto(x, y *index.Words) (n int) {
	for i := range x {
		v := x[i] &^ y[i]
		x[i] = v
		n += bits.OnesCount64(v)
	}
	return n
}

func orInto(x, y *index.Words) {
	for i := range x {
		x[i] |= y[i]
	}
}
