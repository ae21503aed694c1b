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
	w := newWorld(rapid.IntRange(4, 8).Draw(t, "visitors"))
	// Drawn numbers lean to small ones, and histories must not: everyone
	// begins as somebody.
	for i, v := range w.visitors {
		w.sees(v, []taxonomy.Column{colCar, colBoat, colList, colAny}[i%4])
		for j, a := range w.audiences {
			v.member[a] = (i+j)%3 != 0
		}
		if i%5 != 4 {
			v.match, v.synced = fmt.Sprintf("partner-id-0%d", i), w.today()
		}
	}
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
	for range rapid.IntRange(40, 80).Draw(t, "steps") {
		switch rapid.SampledFrom([]string{
			"deliver", "see", "clock", "swap", "forget", "deliver", "join", "leave", "clock", "kill", "match",
			"deliver", "see", "night", "consent", "list", "deliver", "see", "clock", "epoch", "restore", "return", "clock back", "convert",
		}).Draw(t, "step") {
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
		case "convert": // or its time is over, and it comes back
			v := someone()
			v.converted = !v.converted
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
			w.now += taxonomy.Millis(rapid.SampledFrom([]int64{3600e3, 86400e3, 9 * 86400e3, 60e3, 5 * 3600e3, 3 * 86400e3, 1, 21 * 86400e3}).Draw(t, "by"))
		case "deliver":
			deliver()
		case "clock back": // a step of the machine's clock within the day
			if back := w.now - taxonomy.Hour; back.Day() == w.now.Day() {
				w.now = back
			}
		case "return": // an authenticated caller lets an erased key in again (R24)
			for i, v := range w.visitors {
				if v.gone && forgotten[v] && v.dropped {
					n := w.add(len(w.visitors))
					n.key, n.match = v.key, v.match
					w.visitors = append(w.visitors[:i], w.visitors[i+1:]...)
					w.sees(n, colCar)
					n.member["cars"], n.member["either"] = true, true
					break
				}
			}
		case "epoch":
			dest.PseudonymEpoch++
			if rapid.Bool().Draw(t, "back to one audience") {
				dest.Audiences = dest.Audiences[:rapid.IntRange(0, len(dest.Audiences)).Draw(t, "audiences")]
			}
		case "restore":
			w.epoch, w.gen = w.epoch+1, 0
		case "list":
			if v := someone(); !v.gone && v.newest[colList] != 0 { // R16: less if stated
				w.lists(v, w.today()+taxonomy.Day(rapid.IntRange(0, 40).Draw(t, "life")))
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
}
