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
func TestThePartnerConvergesToOurSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(rapid.IntRange(1, 12).Draw(t, "visitors"))
		r := newRig(t, w)
		dest := destination()
		if rapid.Bool().Draw(t, "matched") {
			dest.IDs = delivery.ByMatch
		} else {
			dest.RequireSync = rapid.Bool().Draw(t, "require_sync")
		}
		dest.Floor = uint64(rapid.IntRange(1, 4).Draw(t, "floor"))
		p := &partner{ends: map[string]taxonomy.Millis{}}
		forgotten := map[*visitor]bool{}
		names := 0

		someone := func() *visitor { return w.visitors[rapid.IntRange(0, len(w.visitors)-1).Draw(t, "who")] }
		crash := func() {
			if rapid.IntRange(0, 3).Draw(t, "crash?") == 0 {
				r.fault.after = rapid.IntRange(0, 5).Draw(t, "writes before the crash")
				r.fault.late = rapid.Bool().Draw(t, "late")
			}
		}
		// finish does something that may crash, until it is done.
		finish := func(what string, do func() error) {
			crash()
			for range 3 {
				err := do()
				if err == nil {
					r.fault.after = -1
					return
				}
				if !r.fault.down {
					t.Fatalf("%s: %v", what, err)
				}
				r.restart(t)
			}
			t.Fatalf("%s does not end", what)
		}
		deliver := func() {
			src := w.generation()
			finish("run", func() error {
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
				if v.gone && !forgotten[v] && v.nameless && dest.IDs == delivery.ByPseudonym {
					for _, a := range dest.Audiences {
						delete(got, pseudonym(dsp, dest.PseudonymEpoch, v.key)+"\t"+string(a))
					}
				}
			}
			same(t, fmt.Sprintf("generation %d", w.gen), got, w.want(&dest))
		}
		kill := func(v *visitor) {
			v.gone = true
			v.nameless = rapid.Bool().Draw(t, "nameless")
		}
		night := func() {
			var keys []taxonomy.VisitorKey
			for _, v := range w.visitors {
				if v.gone && !v.dropped {
					keys = append(keys, v.key)
				}
			}
			finish("erase", func() error { return r.d.Erase(context.Background(), keys) })
			for _, v := range w.visitors {
				if v.gone {
					forgotten[v], v.dropped = true, true
				}
			}
			finish("expire", func() error { return r.d.ExpireBefore(context.Background(), w.today().Oldest()) })
			least, ok, err := r.d.Oldest(context.Background())
			if err != nil || ok && least < w.today()-delivery.HolderBound {
				t.Fatalf("oldest is %v, %v; today is %v", least, err, w.today())
			}
		}
		for range rapid.IntRange(5, 60).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"see", "see", "join", "leave", "consent", "match", "swap", "kill", "forget", "night", "clock", "clock", "deliver", "deliver", "deliver", "epoch", "restore", "list"}).Draw(t, "step") {
			case "see":
				if v := someone(); !v.gone {
					w.sees(v, rapid.SampledFrom([]taxonomy.Column{colCar, colBoat, colList, colAny}).Draw(t, "column"))
					v.member[rapid.SampledFrom(w.audiences).Draw(t, "audience")] = true
				}
			case "join":
				someone().member[rapid.SampledFrom(w.audiences).Draw(t, "audience")] = true
			case "leave":
				delete(someone().member, rapid.SampledFrom(w.audiences).Draw(t, "audience"))
			case "consent":
				v := someone()
				v.consent = taxonomy.Consent{Day: w.today(), Purposes: rapid.SampledFrom([]taxonomy.Purposes{taxonomy.MayAll, taxonomy.MayStore, taxonomy.MayAll}).Draw(t, "purposes")}
				if rapid.IntRange(0, 3).Draw(t, "only others") == 0 {
					v.consent.Destinations = []taxonomy.DestinationID{"other"}
				}
			case "match":
				if v := someone(); !v.gone {
					names++
					v.match, v.synced = fmt.Sprintf("partner-id-%d", names), w.today()
				}
			case "swap": // an ID goes over to another visitor (R32)
				a, b := someone(), someone()
				if a != b && !b.gone {
					if rapid.Bool().Draw(t, "both ways") && !a.gone {
						a.match, b.match = b.match, a.match
					} else {
						a.match, b.match = "", a.match
					}
				}
			case "kill":
				kill(someone())
			case "forget":
				v := someone()
				kill(v)
				if !v.dropped {
					finish("forget", func() error { return r.d.Forget(context.Background(), []taxonomy.VisitorKey{v.key}) })
					forgotten[v] = true
				}
			case "night":
				night()
			case "clock":
				w.now += taxonomy.Millis(rapid.SampledFrom([]int64{1, 60e3, 3600e3, 5 * 3600e3, 86400e3, 3 * 86400e3, 9 * 86400e3, 40 * 86400e3}).Draw(t, "by"))
				// Lives only end: whatever the partner holds now, the model would
				// let it hold too, had nothing else changed.
				for row, end := range p.ends {
					if end.Day().Start() != end {
						t.Fatalf("the partner's copy of %q ends at %v, not at a day's start", row, end)
					}
				}
			case "deliver":
				deliver()
			case "epoch":
				dest.PseudonymEpoch++
				if rapid.Bool().Draw(t, "back to one audience") {
					dest.Audiences = dest.Audiences[:rapid.IntRange(0, len(dest.Audiences)).Draw(t, "audiences")]
				}
			case "restore":
				w.epoch, w.gen = w.epoch+1, 0
			case "list":
				if v := someone(); !v.gone && v.newest[colList] != 0 {
					v.until[colList] = w.today() + taxonomy.Day(rapid.IntRange(-1, 40).Draw(t, "life"))
				}
			}
		}
		deliver()
		// At the end everyone who asked has been forgotten, and the partner holds
		// none of them after the next delta.
		night()
		src := w.generation()
		if _, err := r.d.Run(context.Background(), dest, src); err != nil {
			t.Fatalf("last run: %v", err)
		}
		p.pull(t, r)
		same(t, "at the end", p.holds(w.now), w.want(&dest))
	})
}
