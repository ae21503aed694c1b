package lookalike

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
)

// BenchmarkExtend extends a seed among 1,048,576 visitors by 1,000 columns, and
// prints where the time goes and how the scan compares with scoring one visitor
// after the other: asking each column's bitmap for it (measured on a sixteenth
// of the visitors), and walking ready-made lists of each visitor's columns,
// which no index of bitmaps has and which must be made first.
func BenchmarkExtend(b *testing.B) {
	p := plant(16*index.BlockSize, 1000, -6.5)
	seed, shown, hidden := p.split(50_000, rand.New(rand.NewPCG(5, 6)))
	spec := audience.LookalikeSpec{Seed: seedID, Share: 0.01}
	o := options()
	o.Workers = 0
	var r run
	for b.Loop() {
		r = mustRun(b, o, p, seed, spec)
	}
	whole := b.Elapsed() / time.Duration(b.N)
	b.ReportMetric(float64(whole.Milliseconds()), "ms/extension")
	b.ReportMetric(auc(scoresOf(r, p.n), shown, hidden), "AUC")
	b.ReportMetric(r.report().Asked.Lift, "lift@1%")

	// The rest on one core, each once: best of three.
	r.population.workers = 1
	best := func(do func()) time.Duration {
		least := time.Duration(1<<63 - 1)
		for range 3 {
			start := time.Now()
			do()
			least = min(least, time.Since(start))
		}
		return least
	}
	scan := best(func() {
		s := &scores{of: make([][]float32, len(r.units)), bins: make([]uint64, binCount)}
		if err := s.score(b.Context(), r.population, r.model); err != nil {
			b.Fatal(err)
		}
	})
	bits := 0
	for t := range p.places {
		p.each(t, func(int) { bits++ })
	}
	b.ReportMetric(float64(scan.Milliseconds()), "ms/scan-core")
	b.ReportMetric(float64(scan.Nanoseconds())/float64(bits), "ns/bit-core")

	bitmaps := make([]*roaring.Bitmap, len(p.places))
	for t := range bitmaps {
		bitmaps[t] = roaring.New()
		p.each(t, func(v int) { bitmaps[t].Add(uint32(v)) })
	}
	w := make([]float32, len(p.places))
	for j, f := range r.learnt {
		w[p.number[f.trait]] = float32(r.weights[j])
	}
	var sink float32
	const part = 16
	asking := part * best(func() {
		for v := 0; v < p.n; v += part {
			var sum float32
			n := 0
			for t, x := range bitmaps {
				if x.Contains(uint32(v)) {
					sum += w[t]
					n++
				}
			}
			sink += sum * float32(r.form.value(n))
		}
	})
	var lists [][]int
	making := best(func() { lists = p.matrix() })
	walking := best(func() {
		for _, l := range lists {
			var sum float32
			for _, t := range l {
				sum += w[t]
			}
			sink += sum * float32(r.form.value(len(l)))
		}
	})
	if sink == 0 {
		b.Log("nothing scored")
	}
	b.ReportMetric(float64(asking)/float64(scan), "x-asking-bitmaps")
	b.ReportMetric(float64(making+walking)/float64(scan), "x-making-and-walking-lists")
	b.ReportMetric(float64(walking)/float64(scan), "x-walking-lists")
}

// BenchmarkExtendFromTenThousandColumns is the same with ten thousand, of which
// the 2,048 most common are learnt from: it prints where the time goes.
func BenchmarkExtendFromTenThousandColumns(b *testing.B) {
	p := plant(16*index.BlockSize, 10_000, -6.5)
	seed, shown, hidden := p.split(50_000, rand.New(rand.NewPCG(5, 6)))
	o := options()
	o.Workers = 0
	var r run
	for b.Loop() {
		r = mustRun(b, o, p, seed, audience.LookalikeSpec{Share: 0.01})
	}
	b.ReportMetric(float64((b.Elapsed() / time.Duration(b.N)).Milliseconds()), "ms/extension")
	b.ReportMetric(auc(scoresOf(r, p.n), shown, hidden), "AUC")
	b.ReportMetric(r.quality.auc, "AUC-held-out")
	b.ReportMetric(auc(p.naiveBayes(seed, nil), shown, hidden), "AUC-naive-Bayes")
	b.ReportMetric(r.report().Asked.Lift, "lift@1%")
	step := func(name string, do func() error) {
		start := time.Now()
		if err := do(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms/"+name)
	}
	step("gather", func() error { _, err := r.gather(b.Context(), r.features); return err })
	var s *system
	step("gram", func() (err error) {
		s, err = newSystem(b.Context(), r.rows, r.form, len(r.learnt), r.workers)
		return err
	})
	step("solve", func() error {
		_, err := s.solve(b.Context(), r.form.lambda, make([]float64, len(s.gram)), r.workers)
		return err
	})
	step("scan", func() error {
		s := &scores{of: make([][]float32, len(r.units)), bins: make([]uint64, binCount)}
		return s.score(b.Context(), r.population, r.model)
	})
}
