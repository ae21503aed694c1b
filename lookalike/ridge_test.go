package lookalike

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// The oracle: the objective as it stands in ridge.go, written densely over the
// visitors one by one, and brought to its least by conjugate gradients on the
// gradient, which knows neither matrix nor factor.
func leastSquares(z [][]float64, y, penalty []float64) []float64 {
	n := len(penalty)
	w := make([]float64, n)
	gradient := func(w []float64, y []float64) []float64 {
		g := make([]float64, n)
		for i, row := range z {
			e := -y[i]
			for c, v := range row {
				e += v * w[c]
			}
			for c, v := range row {
				g[c] += v * e
			}
		}
		for c := range g {
			g[c] += penalty[c] * w[c]
		}
		return g
	}
	zero := make([]float64, len(y))
	r := gradient(w, y)
	for c := range r {
		r[c] = -r[c]
	}
	p := slices.Clone(r)
	square := func(a, b []float64) (s float64) {
		for c := range a {
			s += a[c] * b[c]
		}
		return s
	}
	rr := square(r, r)
	for range 40 * n {
		if rr < 1e-26 {
			break
		}
		ap := gradient(p, zero)
		step := rr / square(p, ap)
		for c := range w {
			w[c] += step * p[c]
			r[c] -= step * ap[c]
		}
		was := rr
		rr = square(r, r)
		for c := range p {
			p[c] = r[c] + rr/was*p[c]
		}
	}
	return w
}

func TestWeightsAreThoseOfAnIndependentSolver(t *testing.T) {
	const n, traits = 900, 14
	r := rand.New(rand.NewPCG(3, 4))
	names := make([]taxonomy.Trait, traits)
	for j := range names {
		names[j] = taxonomy.Trait(fmt.Sprintf("k:t%02d=1", j))
	}
	c := newCrowd(n, names)
	var members []int
	for v := range n {
		taste := r.Float64()
		for j := range traits {
			if r.Float64() < 0.08+0.5*taste*float64(j%3)/2 {
				c.add(v, j)
			}
		}
		if r.Float64() < taste*taste/2 {
			members = append(members, v)
		}
	}
	seed := setOf(members...)
	run := mustRun(t, options(), c, seed, audience.LookalikeSpec{Size: 50})
	if len(run.learnt) != traits || run.sampled != n || run.seeds != len(members) {
		t.Fatalf("learnt %d traits from %d visitors and %d members, want all", len(run.learnt), run.sampled, run.seeds)
	}
	for _, f := range forms {
		s, err := newSystem(t.Context(), run.rows, f, traits, 2)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.solve(t.Context(), f.lambda, make([]float64, len(s.gram)), 2)
		if err != nil {
			t.Fatal(err)
		}
		z := make([][]float64, n)
		for v, of := range c.matrix() {
			z[v] = make([]float64, traits+len(bounds)+2)
			for _, j := range of {
				z[v][j] = 1
				if f.normal {
					z[v][j] = 1 / math.Sqrt(float64(len(of)))
				}
			}
			g := 0
			for _, b := range bounds {
				if len(of) >= b {
					g++
				}
			}
			z[v][traits+g], z[v][len(z[v])-1] = 1, 1
		}
		penalty := make([]float64, len(z[0]))
		for i := range penalty {
			switch {
			case i < traits:
				penalty[i] = f.lambda
			case i < len(penalty)-1:
				penalty[i] = min(f.lambda, 30)
			default:
				penalty[i] = 0.001
			}
		}
		for k, part := range parts {
			y := make([]float64, n)
			for _, v := range members {
				if fold := int(mix(saltFold, 0, uint32(v)) % folds); fold != part.a && fold != part.b {
					y[v] = 1
				}
			}
			want := leastSquares(z, y, penalty)
			for i := range want {
				if math.Abs(got[k][i]-want[i]) > 1e-8 {
					t.Errorf("%+v, part %v, weight %d: %.10f, want %.10f", f, part, i, got[k][i], want[i])
				}
			}
		}
	}
}

func TestAFactorSolvesAndDoesNotDependOnTheWorkers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 200).Draw(t, "n")
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		a := make([]float64, n*n)
		for range n + 3 {
			x := make([]float64, n)
			for i := range x {
				x[i] = r.NormFloat64()
			}
			for i := range n {
				for j := range n {
					a[i*n+j] += x[i] * x[j]
				}
			}
		}
		for i := range n {
			a[i*n+i] += 0.5
		}
		b := make(weights, n)
		for i := range b {
			b[i] = r.NormFloat64()
		}
		l := slices.Clone(a)
		if err := factor(context.Background(), l, n, 1); err != nil {
			t.Fatal(err)
		}
		m := slices.Clone(a)
		if err := factor(context.Background(), m, n, 3); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(l, m) {
			t.Fatal("one worker and three differ")
		}
		x := slices.Clone(b)
		substitute(l, n, []weights{make(weights, n), x})
		for i := range n {
			sum := -b[i]
			for j := range n {
				sum += a[i*n+j] * x[j]
			}
			if math.Abs(sum) > 1e-8 {
				t.Fatalf("n %d: equation %d is off by %g", n, i, sum)
			}
		}
	})
}

func TestAMatrixThatIsNotPositiveIsRefused(t *testing.T) {
	if err := factor(t.Context(), []float64{1, 2, 2, 1}, 2, 1); err == nil {
		t.Error("factored")
	}
}

func TestPartsAreFoundByTheirFolds(t *testing.T) {
	for a := range folds {
		for b := range folds {
			if p := parts[partOf(a, b)]; p != (part{min(a, b), max(a, b)}) {
				t.Errorf("folds %d and %d: %v", a, b, p)
			}
		}
	}
}
