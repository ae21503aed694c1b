package delivery_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

// P8, R25, R31, R32: whatever happens to visitors, clocks and processes, a
// partner that goes by the manifest and by the lives of rows holds exactly what
// the naive model says, after each published manifest; and never longer than
// the model says.
func TestLongThePartnerConvergesToOurSet(t *testing.T) {
	// Several times 100 histories, each with its own seed.
	for i := range 2 {
		t.Run(fmt.Sprint(i), func(t *testing.T) { rapid.Check(t, converges) })
	}
}

func converges(t *rapid.T) {
	w := newPopulation(t, 8)
	r := newRig(t, w)
	dest := destination()
	if rapid.Bool().Draw(t, "matched") {
		dest.IDs = delivery.ByMatch
	} else {
		dest.RequireSync = rapid.Bool().Draw(t, "require_sync")
	}
	dest.Floor = uint64(rapid.IntRange(1, 4).Draw(t, "floor"))
	p := &partner{ends: map[string]taxonomy.Millis{}}
	// Who demanded to be forgotten; the eraser has come to all who were dropped.
	demanded := map[*visitor]bool{}
	h := &history{world: w, t: t, r: r, restart: func() { r.restart(t) }}
	h.crash = func() {
		if rapid.IntRange(0, 3).Draw(t, "crash?") == 0 {
			r.fault.after = rapid.IntRange(0, 5).Draw(t, "writes before the crash")
			r.fault.late = rapid.Bool().Draw(t, "late")
		}
	}
	deliver := func() {
		src := w.generation()
		h.finish("run", func() error {
			_, err := r.d.Run(context.Background(), dest, src)
			return err
		})
		if rapid.IntRange(0, 2).Draw(t, "lazy partner?") == 0 {
			return
		}
		p.pull(t, r)
		got := p.holds(w.now)
		for _, v := range w.visitors {
			// Who is gone, and has not come to the eraser yet, and cannot be
			// named without it, may still be held.
			if v.gone && !demanded[v] && !v.dropped && v.nameless && dest.IDs == delivery.ByPseudonym {
				for _, a := range dest.Audiences {
					delete(got, pseudonym(dsp, dest.PseudonymEpoch, v.key)+"\t"+string(a))
				}
			}
		}
		same(t, fmt.Sprintf("generation %d", w.gen), got, w.want(&dest))
		for _, v := range w.visitors {
			for _, a := range dest.Audiences {
				row := w.id(&dest, v) + "\t" + string(a)
				if !got[row] {
					continue
				}
				end, ours := p.ends[row], w.until(v, a)
				if end != end.Day().Start() || end.Day() > ours || end.Day() < ours-7 {
					t.Fatalf("the partner's copy of %q ends at %v, ours at the start of %v", row, end, ours)
				}
			}
		}
	}
	kill := func(v *visitor) {
		v.gone = true
		v.nameless = rapid.Bool().Draw(t, "nameless")
	}
	for range rapid.IntRange(40, 80).Draw(t, "steps") {
		switch step := rapid.SampledFrom([]string{
			"deliver", "see", "clock", "swap", "forget", "deliver", "join", "leave", "clock", "kill", "match",
			"deliver", "see", "night", "consent", "list", "deliver", "see", "clock", "epoch", "restore", "return", "clock back", "convert",
		}).Draw(t, "step"); step {
		case "consent":
			v := h.someone()
			v.consent = taxonomy.Consent{Day: w.today(), Purposes: rapid.SampledFrom([]taxonomy.Purposes{taxonomy.MayAll, taxonomy.MayStore, taxonomy.MayAll}).Draw(t, "purposes")}
			if rapid.IntRange(0, 3).Draw(t, "only others") == 0 {
				v.consent.Destinations = []taxonomy.DestinationID{"other"}
			}
		case "swap": // an ID goes over to another visitor (R32)
			a, b := h.someone(), h.someone()
			if a != b && !b.gone {
				if rapid.Bool().Draw(t, "both ways") && !a.gone {
					a.match, b.match = b.match, a.match
				} else {
					a.match, b.match = "", a.match
				}
			}
		case "convert": // or its time is over, and it comes back
			v := h.someone()
			v.converted = !v.converted
		case "kill":
			kill(h.someone())
		case "forget":
			v := h.someone()
			kill(v)
			h.forget(v)
			demanded[v] = true
		case "clock":
			w.now += taxonomy.Millis(rapid.SampledFrom([]int64{3600e3, 86400e3, 9 * 86400e3, 60e3, 5 * 3600e3, 3 * 86400e3, 1, 21 * 86400e3}).Draw(t, "by"))
		case "deliver":
			deliver()
		case "clock back": // a step of the machine's clock within the day
			if back := w.now - taxonomy.Hour; back.Day() == w.now.Day() {
				w.now = back
			}
		case "epoch":
			dest.PseudonymEpoch++
			if rapid.Bool().Draw(t, "back to one audience") {
				dest.Audiences = dest.Audiences[:rapid.IntRange(0, len(dest.Audiences)).Draw(t, "audiences")]
			}
		case "restore":
			w.epoch, w.gen = w.epoch+1, 0
		case "list":
			if v := h.someone(); !v.gone && v.newest[colList] != 0 { // R16: less if stated
				w.lists(v, w.today()+taxonomy.Day(rapid.IntRange(0, 40).Draw(t, "life")))
			}
		default:
			h.step(step)
		}
	}
	deliver()
	// At the end everyone who asked has been forgotten, and the partner holds
	// none of them after the next delta.
	h.night()
	src := w.generation()
	if _, err := r.d.Run(context.Background(), dest, src); err != nil {
		t.Fatalf("last run: %v", err)
	}
	p.pull(t, r)
	same(t, "at the end", p.holds(w.now), w.want(&dest))
}
