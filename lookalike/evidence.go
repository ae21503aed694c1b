package lookalike

import (
	"fmt"
	"math"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Detail is what a lookalike's Evidence holds beside its AUC. Shares and rates
// are from 0 to 1. Everything but the sizes is held out: about members of the
// seed that the model was not shown, by five folds.
type Detail struct {
	Verdict string `json:"verdict"` // strong, usable or weak
	Says    string `json:"says"`    // the same for people, with what helps

	AUC     float64 `json:"auc"`
	AUCLow  float64 `json:"auc_low"` // of its interval of 95 %
	AUCHigh float64 `json:"auc_high"`
	// ActivityAUC is what the number of a visitor's traits alone reaches: what
	// "the most active visitors" would give.
	ActivityAUC float64 `json:"activity_auc"`

	// Asked is at the size asked for, Curve at usual ones.
	Asked Reach   `json:"asked"`
	Curve []Reach `json:"curve"`

	// For are the traits that speak for a visitor, Against those that speak
	// against one, the most telling first. None that fewer than 50 visitors have
	// is named.
	For     []Driver `json:"for,omitempty"`
	Against []Driver `json:"against,omitempty"`
	// Excluded are the traits that were not learnt from, and why.
	Excluded []Exclusion `json:"excluded,omitempty"`

	Seed       uint64  `json:"seed"`       // members as given
	Learnt     uint64  `json:"learnt"`     // of those, who permit training
	Population uint64  `json:"population"` // who permit training, seed or not
	Sample     uint64  `json:"sample"`     // of those, the visitors read
	Candidates uint64  `json:"candidates"` // with a trait that was learnt from
	Traits     int     `json:"traits"`     // learnt from
	Penalty    float64 `json:"penalty"`    // of the ridge, in rows of the sample
	Normal     bool    `json:"normal"`     // a trait counts less in visitors with many
}

// Reach is a size, and what it is worth.
type Reach struct {
	Size  uint64  `json:"size"`  // visitors
	Share float64 `json:"share"` // of those who may be in an audience and are not in the seed
	// Score is where the size ends, to the fineness of the histogram.
	Score float64 `json:"score"`
	// Recall is the share of held-out members that a share as large finds, Lift
	// how many times as many as by chance, with its interval of 95 %.
	Recall   float64 `json:"recall"`
	Lift     float64 `json:"lift"`
	LiftLow  float64 `json:"lift_low"`
	LiftHigh float64 `json:"lift_high"`
	// Precision is the share of seed members among those found, had the whole
	// seed been hidden in the population.
	Precision float64 `json:"precision"`
}

// Driver is a trait's part in the scores.
type Driver struct {
	Trait  taxonomy.Trait `json:"trait"`
	Weight float64        `json:"weight"`
	// Part is its part in the difference of mean score between seed and
	// population, of all that raise it (or lower it).
	Part  float64 `json:"part"`
	Seed  float64 `json:"seed"`  // share of the seed that has it
	All   float64 `json:"all"`   // share of the population
	Index float64 `json:"index"` // 100 · Seed / All
	Says  string  `json:"says"`
}

const (
	driversShown  = 20
	excludedShown = 100
	// A lookalike is strong if its best hundredth has ten times as many as by
	// chance and activity does not explain it; weak if its best twentieth may as
	// well have fewer than one and a half times as many.
	strongLift, strongGain, weakLift = 10, 0.05, 1.5
)

var curveShares = [...]float64{0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5}

func (r *run) report() Detail {
	p, s, m, q := r.population, r.scores, r.model, &r.quality
	d := Detail{
		AUC: round(q.auc), AUCLow: round(q.low), AUCHigh: round(q.high), ActivityAUC: round(m.activity),
		Seed: p.members, Learnt: p.seedTraining, Population: p.training, Sample: uint64(r.sampled),
		Candidates: s.candidates, Traits: len(m.learnt), Penalty: m.form.lambda, Normal: m.form.normal,
		Excluded: r.excluded[:min(len(r.excluded), excludedShown)],
	}
	d.Asked = q.reach(p, s, s.taken)
	for _, share := range curveShares {
		if n := uint64(math.Round(share * float64(s.pool))); n > 0 && n <= s.candidates {
			d.Curve = append(d.Curve, q.reach(p, s, n))
		}
	}
	d.drivers(m.drivers(p))
	d.judge(q)
	return d
}

func (q *quality) reach(p *population, s *scores, n uint64) Reach {
	if n == 0 || s.pool == 0 {
		return Reach{}
	}
	x := Reach{Size: n, Score: s.reach(n)}
	share := float64(n) / float64(s.pool)
	recall := q.recall(share)
	low, high := wilson(recall, float64(len(q.held)))
	found, others := recall*float64(p.seedTraining), share*float64(p.training-p.seedTraining)
	x.Share, x.Recall, x.Lift = round(share), round(recall), round(recall/share)
	x.LiftLow, x.LiftHigh, x.Precision = round(low/share), round(high/share), round(found/(found+others))
	return x
}

func (d *Detail) drivers(ds []driver) {
	var up, down float64
	for i := range ds {
		if ds[i].pull > 0 {
			up += ds[i].pull
		} else {
			down += ds[i].pull
		}
	}
	show := func(x *driver, total float64) (Driver, bool) {
		if x.n < audience.ShownFloor || total == 0 {
			return Driver{}, false
		}
		out := Driver{Trait: x.trait, Weight: round(x.weight), Part: round(x.pull / total),
			Seed: round(x.seed), All: round(x.all), Index: round(100 * x.seed / x.all)}
		times := x.seed / x.all
		how := fmt.Sprintf("%.1f times as common among the seed as among all", times)
		if times < 1 {
			how = fmt.Sprintf("rarer among the seed than among all, by a factor of %.2f", times)
		}
		out.Says = fmt.Sprintf("%s is %s (%.1f %% against %.1f %%)", x.trait, how, 100*x.seed, 100*x.all)
		return out, true
	}
	// A trait speaks for a visitor by its weight; its pull may still be the other
	// way, when another trait tells the same and more.
	for i := range ds {
		if x := &ds[i]; x.weight > 0 && x.pull > 0 && len(d.For) < driversShown {
			if y, ok := show(x, up); ok {
				d.For = append(d.For, y)
			}
		}
	}
	for i := range ds {
		if x := &ds[i]; x.weight < 0 && x.pull > 0 && len(d.Against) < driversShown {
			if y, ok := show(x, up); ok {
				d.Against = append(d.Against, y)
			}
		}
	}
}

func (d *Detail) judge(q *quality) {
	hundredth, twentieth := q.recall(0.01)/0.01, q.recall(0.05)/0.05
	low, _ := wilson(q.recall(0.05), float64(len(q.held)))
	switch {
	case low/0.05 <= weakLift:
		d.Verdict = "weak"
		d.Says = fmt.Sprintf("The seed is not distinctive: the best 5 %% hold %.1f times as many of its hidden members as chance would, and perhaps no more than %.1f. A seed with a narrower rule, or more members, may do better.", twentieth, low/0.05)
	case hundredth >= strongLift && d.AUC-d.ActivityAUC >= strongGain:
		d.Verdict = "strong"
		d.Says = fmt.Sprintf("The best 1 %% hold %.1f times as many of the seed's hidden members as chance would.", hundredth)
	default:
		d.Verdict = "usable"
		d.Says = fmt.Sprintf("The best 5 %% hold %.1f times as many of the seed's hidden members as chance would.", twentieth)
		if d.AUC-d.ActivityAUC < strongGain {
			d.Says += " Much of that is activity: those who do more of everything."
		}
	}
}

// round keeps four digits: what is behind them is noise, and would make two
// generations differ.
func round(x float64) float64 {
	if x == 0 || math.IsNaN(x) || math.IsInf(x, 0) {
		return 0
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(x))))
	return math.Round(x*scale) / scale
}
