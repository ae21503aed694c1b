package lookalike

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
)

// The topic model is found again: better than by activity, by popularity and by
// naive Bayes, and the figure that people see is near the truth.
func TestLongAPlantedSignalIsFoundAndTheHeldOutFigureIsNearTheTruth(t *testing.T) {
	p := plant(30_000, 300, -5)
	random := rand.New(rand.NewPCG(5, 6))
	popular, active := p.popularity(nil)
	var truth, held, nb, pop, act, actHeld float64
	const runs = 2
	var seed index.Set
	var hidden func(int) bool
	var r run
	for range runs {
		var shown func(int) bool
		seed, shown, hidden = p.split(5000, random)
		r = mustRun(t, options(), p, seed, audience.LookalikeSpec{Share: 0.01})
		x := auc(scoresOf(r, p.n), shown, hidden)
		if r.quality.low > x || x > r.quality.high {
			t.Errorf("AUC %.4f is outside of %.4f to %.4f", x, r.quality.low, r.quality.high)
		}
		truth += x / runs
		held += r.quality.auc / runs
		nb += auc(p.naiveBayes(seed, nil), shown, hidden) / runs
		pop += auc(popular, shown, hidden) / runs
		act += auc(active, shown, hidden) / runs
		actHeld += r.activity / runs
	}
	t.Logf("%d members: AUC %.4f, held out %.4f; naive Bayes %.4f, popularity %.4f, activity %.4f (held out %.4f), form %v",
		seed.Count(), truth, held, nb, pop, act, actHeld, r.form)
	if truth < pop+0.1 || truth < act+0.1 || truth < nb+0.02 {
		t.Errorf("AUC %.4f; naive Bayes %.4f, popularity %.4f, activity %.4f", truth, nb, pop, act)
	}
	if math.Abs(truth-held) > 0.02 || math.Abs(act-actHeld) > 0.02 {
		t.Errorf("held out %.4f, in truth %.4f; activity alone %.4f, in truth %.4f", held, truth, actHeld, act)
	}

	// The lift at the size asked for is also near what is found in truth.
	found, all := 0.0, 0.0
	for v := range p.n {
		if hidden(v) {
			all++
			if r.set.Contains(0, uint32(v)) {
				found++
			}
		}
	}
	d := r.report()
	lift := found / all / d.Asked.Share
	t.Logf("%d visitors: lift %.1f, held out %.1f (%.1f to %.1f)", d.Asked.Size, lift, d.Asked.Lift, d.Asked.LiftLow, d.Asked.LiftHigh)
	if lift < d.Asked.LiftLow || lift > d.Asked.LiftHigh {
		t.Errorf("lift %.2f is outside of %.2f to %.2f", lift, d.Asked.LiftLow, d.Asked.LiftHigh)
	}
	for i := 1; i < len(d.Curve); i++ {
		if a, b := d.Curve[i-1], d.Curve[i]; a.Size >= b.Size || a.Recall > b.Recall || a.Score < b.Score {
			t.Errorf("the curve is not one: %+v before %+v", a, b)
		}
	}
}

// A seed without anything in common has an AUC of chance: nothing leaks from
// the labels into what is held out.
func TestLongARandomSeedHasTheAUCOfChance(t *testing.T) {
	p := plant(6_000, 120, -5)
	sum, inside, verdicts := 0.0, 0, map[string]int{}
	const runs = 16
	random := rand.New(rand.NewPCG(9, 9))
	for range runs {
		run := mustRun(t, options(), p, setOf(random.Perm(p.n)[:250]...), audience.LookalikeSpec{Size: 100})
		sum += run.quality.auc
		if run.quality.low <= 0.5 && 0.5 <= run.quality.high {
			inside++
		}
		verdicts[run.report().Verdict]++
	}
	t.Logf("mean AUC %.4f; 0.5 is in %d of %d intervals; verdicts %v", sum/runs, inside, runs, verdicts)
	if math.Abs(sum/runs-0.5) > 0.015 || inside < runs-4 {
		t.Errorf("mean AUC %.4f; 0.5 is in %d of %d intervals", sum/runs, inside, runs)
	}
	if verdicts["weak"] < runs-1 {
		t.Errorf("verdicts %v, want weak", verdicts)
	}
}
