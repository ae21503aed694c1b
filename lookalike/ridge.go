package lookalike

import (
	"context"
	"errors"
	"math"
	"slices"
)

// The model is a ridge regression of "is in the seed" on what a visitor has:
// one weight a trait, one for about how many traits it has, and one for all.
// Its objective, over the sampled rows and with y = 1 for the seed,
//
//	½ Σ (z·w − y)² + ½ Σ Λ w²,
//
// has the solution w = (ZᵀZ + Λ)⁻¹ Zᵀy. The seed enters through Zᵀy only, so
// that one factor serves all folds, and a rare seed is not lost in the sample:
// Zᵀy is taken over the whole seed and scaled to the sample.
//
// The weights are joint: of two traits that tell the same, each gets a part. A
// naive Bayes scorer counts such evidence twice.
//
// A trait counts as 1, or (normalised) as 1/√n in a visitor with n of them, so
// that one with many does not outdo all others by their number alone. Which is
// better, and with what penalty, is the data's to say.

// form is one way to fit.
type form struct {
	normal bool
	// lambda is Λ of the traits, in rows of the sample. That has a bound, so a
	// penalty does not vanish among millions of visitors.
	lambda float64
}

// forms are tried, and the best by what is held out is taken: of equals the last.
var forms = [...]form{{false, 30}, {false, 300}, {false, 3000}, {true, 3}, {true, 30}, {true, 300}, {true, 3000}}

// value is what a trait counts in a visitor with n of them.
func (f form) value(n int) float64 {
	if f.normal && n > 0 {
		return 1 / math.Sqrt(float64(n))
	}
	return 1
}

// bounds are the numbers of traits at which a new group begins: the active have
// more of everything, and without these a score would mostly be activity.
var bounds = [...]int{1, 2, 3, 4, 6, 9, 13, 20, 30, 50, 80, 130, 200, 400}

const groups = len(bounds) + 1

// group is the number of the group of a visitor with n traits.
func group(n int) int {
	g := 0
	for g < len(bounds) && n >= bounds[g] {
		g++
	}
	return g
}

const (
	groupPenalty = 30.0 // at most
	onePenalty   = 1e-3
)

// weights are of the features, then of the groups, then one of all.
type weights []float64

// part is the members of the seed without those of two folds, which may be the
// same, or none.
type part struct{ a, b int }

const noFold = -1

func (p part) without(fold int) bool { return p.a == fold || p.b == fold }

// parts are what is fitted: without each fold, to judge; without each two, to
// choose a form for judging the one by the other; and with all, last. That of
// folds a and b is at place partOf(a, b).
var parts = func() (ps []part) {
	for a := range folds {
		for b := a; b < folds; b++ {
			ps = append(ps, part{a, b})
		}
	}
	return append(ps, part{noFold, noFold})
}()

func partOf(a, b int) int {
	if a > b {
		a, b = b, a
	}
	return a*folds - a*(a-1)/2 + b - a
}

// system is the equations. Its matrix is symmetric, and only its lower half is
// kept: row i at i·size, up to the diagonal.
type system struct {
	form           form
	features, size int
	gram           []float64
	rhs            []weights // Zᵀy for each of parts
}

// coordinates appends those of a row that are not 0, rising. The last two are 1,
// the others the form's value.
func (s *system) coordinates(dst []int, of []uint16) []int {
	for _, j := range of {
		dst = append(dst, int(j))
	}
	return append(dst, s.features+group(len(of)), s.size-1)
}

func newSystem(ctx context.Context, r *rows, f form, features, workers int) (*system, error) {
	s := &system{form: f, features: features, size: features + groups + 1}
	s.gram = make([]float64, s.size*s.size)
	s.rhs = make([]weights, len(parts))
	for k := range s.rhs {
		s.rhs[k] = make(weights, s.size)
	}
	var at []int
	for i := range r.list {
		x := &r.list[i]
		if !x.seed {
			continue
		}
		at = s.coordinates(at[:0], r.of[x.from:x.to])
		v := f.value(len(at) - 2)
		for k := range s.rhs {
			if parts[k].without(int(x.fold)) {
				continue
			}
			for _, c := range at[:len(at)-2] {
				s.rhs[k][c] += v * r.rate * r.positive
			}
			for _, c := range at[len(at)-2:] {
				s.rhs[k][c] += r.rate * r.positive
			}
		}
	}
	// Each worker has some rows of the matrix for its own, so that every entry is
	// summed in the order of the visitors.
	err := parallel(ctx, workers, workers, func() blockFunc {
		var at []int
		return func(w int) error {
			for i := range r.list {
				x := &r.list[i]
				if i&1023 == 0 && ctx.Err() != nil {
					return ctx.Err()
				}
				if !x.sampled {
					continue
				}
				at = s.coordinates(at[:0], r.of[x.from:x.to])
				last := len(at) - 2
				v := f.value(last)
				for k, c := range at {
					if c%workers != w {
						continue
					}
					line := s.gram[c*s.size : (c+1)*s.size]
					u := 1.0
					if k < last {
						u = v
					}
					for _, d := range at[:min(k+1, last)] {
						line[d] += u * v
					}
					for k2 := last; k2 <= k; k2++ {
						line[at[k2]]++
					}
				}
			}
			return nil
		}
	})
	return s, err
}

// penalty is the diagonal of Λ.
func (s *system) penalty(coordinate int, lambda float64) float64 {
	switch {
	case coordinate == s.size-1:
		return onePenalty
	case coordinate >= s.features:
		return min(lambda, groupPenalty)
	}
	return lambda
}

// solve returns the weights for one penalty, of each of parts. scratch is as
// large as the matrix.
func (s *system) solve(ctx context.Context, lambda float64, scratch []float64, workers int) ([]weights, error) {
	copy(scratch, s.gram)
	for c := range s.size {
		scratch[c*s.size+c] += s.penalty(c, lambda)
	}
	if err := factor(ctx, scratch, s.size, workers); err != nil {
		return nil, err
	}
	out := make([]weights, len(s.rhs))
	for k, b := range s.rhs {
		out[k] = slices.Clone(b)
	}
	return out, parallel(ctx, workers, workers, func() blockFunc {
		return func(i int) error {
			substitute(scratch, s.size, out[i*len(out)/workers:(i+1)*len(out)/workers])
			return nil
		}
	})
}

// tile is how many columns are eliminated at a time.
const tile = 64

// factor overwrites the lower half of a symmetric positive matrix with its
// Cholesky factor. Every entry is computed by one worker in one order, so the
// result does not depend on their number.
func factor(ctx context.Context, a []float64, n, workers int) error {
	for k := 0; k < n; k += tile {
		end := min(k+tile, n)
		for i := k; i < end; i++ {
			ri := a[i*n : i*n+n]
			for j := k; j <= i; j++ {
				rj := a[j*n : j*n+n]
				x := ri[j] - dot(ri[k:j], rj[k:j])
				if i != j {
					ri[j] = x / rj[j]
					continue
				}
				if !(x > 0) {
					return errors.New("the equations have no solution: the matrix is not positive")
				}
				ri[j] = math.Sqrt(x)
			}
		}
		if end == n {
			break
		}
		stripes := (n - end + tile - 1) / tile
		bounds := func(t int) (int, int) { return end + t*tile, min(end+(t+1)*tile, n) }
		err := parallel(ctx, workers, stripes, func() blockFunc {
			return func(t int) error {
				from, to := bounds(t)
				for i := from; i < to; i++ {
					ri := a[i*n : i*n+n]
					for j := k; j < end; j++ {
						ri[j] = (ri[j] - dot(ri[k:j], a[j*n+k:j*n+j])) / a[j*n+j]
					}
				}
				return nil
			}
		})
		if err != nil {
			return err
		}
		err = parallel(ctx, workers, stripes, func() blockFunc {
			return func(t int) error {
				// The last stripes have most to do: begin with them.
				from, to := bounds(stripes - 1 - t)
				for i := from; i < to; i++ {
					ri := a[i*n : i*n+n]
					x := ri[k:end]
					j := end
					for ; j+3 <= i; j += 4 {
						p, q, r, s := dot4(x, a[j*n+k:j*n+end], a[(j+1)*n+k:(j+1)*n+end], a[(j+2)*n+k:(j+2)*n+end], a[(j+3)*n+k:(j+3)*n+end])
						ri[j] -= p
						ri[j+1] -= q
						ri[j+2] -= r
						ri[j+3] -= s
					}
					for ; j <= i; j++ {
						ri[j] -= dot(x, a[j*n+k:j*n+end])
					}
				}
				return nil
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// dot4 is four inner products of one vector: it is read once for all.
func dot4(x, a, b, c, d []float64) (p, q, r, s float64) {
	a, b, c, d = a[:len(x)], b[:len(x)], c[:len(x)], d[:len(x)]
	for i, v := range x {
		p += v * a[i]
		q += v * b[i]
		r += v * c[i]
		s += v * d[i]
	}
	return p, q, r, s
}

func dot(x, y []float64) (s float64) {
	y = y[:len(x)]
	for i, v := range x {
		s += v * y[i]
	}
	return s
}

// substitute solves with a factor, in place, for several right sides at once:
// each row of the factor is then read once for all.
func substitute(l []float64, n int, bs []weights) {
	for i := range n {
		row := l[i*n : i*n+i]
		for _, b := range bs {
			b[i] = (b[i] - dot(row, b)) / l[i*n+i]
		}
	}
	for i := n - 1; i >= 0; i-- {
		row := l[i*n : i*n+i]
		for _, b := range bs {
			b[i] /= l[i*n+i]
			v := b[i]
			for j, x := range row {
				b[j] -= v * x
			}
		}
	}
}
