package lookalike

import (
	"cmp"
	"context"
	"math"
	"slices"
)

// model is what was learnt.
type model struct {
	learnt   []feature
	weights  weights // from the whole seed
	form     form
	quality  quality // held out
	activity float64 // AUC of the number of traits alone
}

// quality is how well members of the seed are told from others whom the model
// was told nothing of.
type quality struct {
	auc, low, high float64
	held           []held // the members, by fold
}

// held is where one held-out member stands among the strangers: the share of
// them with a higher score, and with the same.
type held struct{ above, equal float64 }

// learn fits, and chooses the form by what is held out.
//
// Members of a fold are held out by giving them the label of a stranger, which
// is what they would have if nobody knew them, and are compared with the
// strangers of the same fold. So within a fold both are treated alike in every
// step, and the AUC of a seed drawn at random is 0.5 but for chance. Among all
// strangers it would not be: those of the other folds are without the members
// whom the model learnt from, and so without some of what it happened to learn.
func learn(ctx context.Context, r *rows, chosen []int, all []feature, workers int) (*model, error) {
	m := &model{learnt: make([]feature, len(chosen))}
	for k, j := range chosen {
		m.learnt[k] = all[j]
	}
	tries := make([]try, len(forms))
	var s *system
	var scratch []float64
	for i, f := range forms {
		var err error
		if s == nil || s.form.normal != f.normal {
			if s, err = newSystem(ctx, r, f, len(chosen), workers); err != nil {
				return nil, err
			}
			if scratch == nil {
				scratch = make([]float64, len(s.gram))
			}
		}
		ws, err := s.solve(ctx, f.lambda, scratch, workers)
		if err != nil {
			return nil, err
		}
		t := &tries[i]
		t.weights = ws[len(ws)-1]
		placed := func(fold, without int) placing {
			w := ws[partOf(fold, without)]
			return r.place(fold, func(of []uint16) float64 { return s.score(w, of) })
		}
		// By the fold that is scored, so that no two write to the same place.
		var inner [folds][folds]placing
		err = parallel(ctx, workers, folds, func() blockFunc {
			return func(k int) error {
				t.folds[k] = placed(k, k)
				for j := range folds {
					if j != k {
						inner[j][k] = placed(k, j)
					}
				}
				return nil
			}
		})
		if err != nil {
			return nil, err
		}
		for k := range inner {
			t.inner[k] = mean(inner[k][:])
		}
		t.outer = mean(t.folds[:])
	}
	m.quality = crossFit(tries)
	if len(m.quality.held) == 0 {
		return nil, unfit("no fold of the sample has both members and others; widen the seed")
	}
	best := choose(tries, func(t *try) float64 { return t.outer })
	m.weights, m.form = tries[best].weights, forms[best]
	var alone [folds]placing
	for k := range alone {
		alone[k] = r.place(k, func(of []uint16) float64 { return float64(len(of)) })
	}
	m.activity = mean(alone[:])
	return m, nil
}

// score is the weights of a visitor's coordinates, in their order. One without
// any trait comes last, for the scan never returns one.
func (s *system) score(w weights, of []uint16) float64 {
	if len(of) == 0 {
		return math.Inf(-1)
	}
	sum := 0.0
	for _, j := range of {
		sum += w[j]
	}
	return sum*s.form.value(len(of)) + w[s.features+group(len(of))] + w[s.size-1]
}

// try is one form.
type try struct {
	weights weights
	folds   [folds]placing
	// inner is the AUC over the other folds of what was fitted without this one
	// and without the fold that is scored; outer is that over all folds.
	inner [folds]float64
	outer float64
}

// placing is how the members of one fold stand.
type placing struct {
	held []held
	auc  float64
	// noise is the variance of the AUC that is due to the strangers' being a
	// sample.
	noise float64
}

// place scores the members and the strangers of a fold. Strangers are the
// sampled who are not in the seed.
func (r *rows) place(fold int, score func(of []uint16) float64) placing {
	var members, strangers []float64
	for i := range r.list {
		x := &r.list[i]
		switch {
		case int(x.fold) != fold:
		case x.seed:
			members = append(members, score(r.of[x.from:x.to]))
		case x.sampled && !x.member:
			strangers = append(strangers, score(r.of[x.from:x.to]))
		}
	}
	return placeAmong(members, strangers)
}

func placeAmong(members, strangers []float64) placing {
	slices.Sort(members)
	slices.Sort(strangers)
	var p placing
	if len(members) == 0 || len(strangers) == 0 {
		return p
	}
	m, n := float64(len(members)), float64(len(strangers))
	p.held = make([]held, len(members))
	below, through := 0, 0 // strangers with a lower score, and with no higher one
	for i, x := range members {
		for below < len(strangers) && strangers[below] < x {
			below++
		}
		for through < len(strangers) && strangers[through] <= x {
			through++
		}
		p.held[i] = held{above: (n - float64(through)) / n, equal: float64(through-below) / n}
		p.auc += p.held[i].win() / m
	}
	// The same from the strangers' side: the share of members above each.
	var sum, squares float64
	below, through = 0, 0
	for _, y := range strangers {
		for below < len(members) && members[below] < y {
			below++
		}
		for through < len(members) && members[through] <= y {
			through++
		}
		v := (m - (float64(below)+float64(through))/2) / m
		sum += v
		squares += v * v
	}
	p.noise = variance(sum, squares, n) / n
	return p
}

// win is the chance that the member has a higher score than a stranger.
func (h held) win() float64 { return 1 - h.above - h.equal/2 }

func variance(sum, squares, n float64) float64 {
	if n < 2 {
		return 0
	}
	return max(0, (squares-sum*sum/n)/(n-1))
}

// mean is the AUC over folds, each member counting the same.
func mean(ps []placing) float64 {
	var sum, n float64
	for k := range ps {
		sum += ps[k].auc * float64(len(ps[k].held))
		n += float64(len(ps[k].held))
	}
	if n == 0 {
		return 0.5
	}
	return sum / n
}

// choose is the place of the best form, of equals the last.
func choose(tries []try, by func(*try) float64) int {
	best := 0
	for i := range tries {
		if by(&tries[i]) >= by(&tries[best]) {
			best = i
		}
	}
	return best
}

// crossFit puts the folds together. Each takes the form that the others choose,
// by fits that have not seen it. Taking the best of all forms would be too good;
// so would be letting the others choose by fits that have seen it, for what its
// members tell of theirs is what theirs tell of it (1500 random seeds: 0.507).
//
// The interval is of 95 %, after DeLong: what is due to the members' being few,
// and to the strangers' being a sample. It is made wider by √2, for the folds are
// not independent: a pair of members in two folds counts twice, once as learnt
// and held out and once the other way round. Without a signal nothing but such
// pairs is left (200 random seeds: a deviation of 0.0202 against 0.0145 for
// independent folds); with one it is a little too wide.
func crossFit(tries []try) quality {
	var q quality
	var sum, squares, noise float64
	for k := range folds {
		p := &tries[choose(tries, func(t *try) float64 { return t.inner[k] })].folds[k]
		for _, h := range p.held {
			v := h.win()
			sum += v
			squares += v * v
		}
		q.held = append(q.held, p.held...)
		noise += p.noise * float64(len(p.held)*len(p.held))
	}
	n := float64(len(q.held))
	q.auc = sum / n
	half := 1.96 * math.Sqrt2 * math.Sqrt(variance(sum, squares, n)/n+noise/(n*n))
	q.low, q.high = max(0, q.auc-half), min(1, q.auc+half)
	return q
}

// recall is the share of held-out members among those with the highest scores,
// when these are a share of the strangers; ties go by chance.
func (q *quality) recall(share float64) float64 {
	sum := 0.0
	for _, h := range q.held {
		switch in := share - h.above; {
		case in <= 0:
		case in >= h.equal:
			sum++
		default:
			sum += in / h.equal
		}
	}
	return sum / float64(len(q.held))
}

// wilson is the interval of 95 % of a share found among n.
func wilson(p, n float64) (low, high float64) {
	const z = 1.96
	mid := (p + z*z/(2*n)) / (1 + z*z/n)
	half := z / (1 + z*z/n) * math.Sqrt(p*(1-p)/n+z*z/(4*n*n))
	return max(0, mid-half), min(1, mid+half)
}

// drivers are the features by how much of the difference between seed and
// population each makes: weight times difference.
func (m *model) drivers(p *population) []driver {
	ds := make([]driver, 0, len(m.learnt))
	for j := range m.learnt {
		f := &m.learnt[j]
		d := driver{feature: f, weight: m.weights[j],
			seed: float64(f.seed) / float64(p.seedTraining), all: float64(f.n) / float64(p.training)}
		d.pull = d.weight * (d.seed - d.all)
		ds = append(ds, d)
	}
	slices.SortStableFunc(ds, func(a, b driver) int { return cmp.Compare(b.pull, a.pull) })
	return ds
}

type driver struct {
	*feature
	weight, seed, all, pull float64
}
