package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/deliverytest"
	"github.com/ebb-dmp/ebb/segments/delivery/format/tsv"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/pull"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

// small is TSV in chunks of a few rows.
var small = deliverytest.Chunked{Format: tsv.Format{}, MaxRows: 3}

// pushRig is a rig whose destinations are pushed to.
type pushRig struct {
	*rig
	to *deliverytest.Partner
	// waited is called instead of waiting.
	waited func(time.Duration)
}

func newPushRig(t tb, w *world) *pushRig {
	r := &pushRig{rig: newRig(t, w)}
	r.to = deliverytest.NewPartner()
	r.waited = func(d time.Duration) { w.now += taxonomy.Millis(d.Milliseconds()) }
	r.restart(t)
	return r
}

func (r *pushRig) restart(t tb) {
	t.Helper()
	r.fault.down, r.fault.after = false, -1
	d, err := delivery.New(delivery.Options{
		Keyed: faultyKeyed{r.fault}, Blobs: faultyBlobs{r.fault}, Pseudonym: pseudonym,
		View:       func(context.Context) (audience.View, error) { return r.w.view(), nil },
		Formats:    map[string]delivery.Format{"tsv": small},
		Transports: map[string]delivery.Transport{"pull": pull.Transport{}, "push": r.to},
		Now:        func() taxonomy.Millis { return r.w.now }, Rand: r.rand,
		After: func(d time.Duration) <-chan time.Time {
			r.waited(d)
			c := make(chan time.Time, 1)
			c <- time.Time{}
			return c
		},
	})
	if err != nil {
		t.Fatalf("new deliverer: %v", err)
	}
	r.d = d
}

func pushed() delivery.Destination {
	d := destination()
	d.Transport = "push"
	return d
}

// P8, R25, R31, R32 for partners that are pushed to: they lose, repeat, delay,
// mislay and refuse chunks, expire members on their own clock, and crash; so do
// we. Once all is well, one full cycle later, they hold exactly our set; and
// while they answer truthfully, never anything that the ledger does not know of.
func TestAPartnerThatIsPushedToConverges(t *testing.T) { rapid.Check(t, pushConverges) }

// More of them without the race detector: one hundred shows it the goroutines.
func TestLongAPartnerThatIsPushedToConverges(t *testing.T) {
	for i := range 2 {
		t.Run(fmt.Sprint(i), func(t *testing.T) { rapid.Check(t, pushConverges) })
	}
}

func pushConverges(t *rapid.T) {
	w := newPopulation(t, 9)
	r := newPushRig(t, w)
	dest := pushed()
	if rapid.Bool().Draw(t, "matched") {
		dest.IDs = delivery.ByMatch
	}
	dest.Floor = uint64(rapid.IntRange(1, 3).Draw(t, "floor"))
	dest.Push.Concurrency = rapid.IntRange(0, 3).Draw(t, "concurrency")
	dest.Push.PerMinute = rapid.SampledFrom([]int{0, 1, 10}).Draw(t, "per minute")
	well := false
	fates := deliverytest.Seeded(rapid.Uint64().Draw(t, "fates"), deliverytest.AllFates)
	r.to.Fate = func(c *delivery.Chunk) deliverytest.Fate {
		if well {
			return deliverytest.Takes
		}
		return fates(c)
	}
	h := &history{world: w, t: t, r: r.rig, restart: func() { r.restart(t) }}
	h.crash = func() {
		if !well && rapid.IntRange(0, 2).Draw(t, "crash?") == 0 {
			r.fault.after, r.fault.late = rapid.IntRange(0, 12).Draw(t, "writes before the crash"), rapid.Bool().Draw(t, "late")
		}
	}
	ever := map[string][]*visitor{} // who was known by an ID
	term := uint64(0)               // as in heads that know of none
	// takeover: another node has the lease. Whoever had it before finds that out
	// whatever it does, and sends nothing.
	takeover := func() {
		term++
		h.finish("claim", func() error { return r.d.Claim(context.Background(), term, []taxonomy.DestinationID{dsp}) })
		if term == 1 {
			return // there was no lease before
		}
		src, calls := w.generation(), r.to.Calls
		src.Term = term - 1
		_, err := r.d.Run(context.Background(), dest, src)
		_, serr := r.d.Suppress(context.Background(), dest, src)
		if !errors.Is(err, delivery.ErrStale) || serr != nil && !errors.Is(serr, delivery.ErrStale) || r.to.Calls != calls {
			t.Fatalf("after a takeover the one before sent %d chunks: %v, %v", r.to.Calls-calls, err, serr)
		}
	}
	deliver := func() (done delivery.Delivery) {
		for _, v := range w.visitors {
			if id := w.id(&dest, v); id != "" {
				ever[id] = append(ever[id], v)
			}
		}
		src := w.generation()
		src.Term = term
		h.finish("run", func() (err error) {
			done, err = r.d.Run(context.Background(), dest, src)
			return err
		})
		if r.to.Fault != nil {
			t.Fatalf("the receiver: %v", r.to.Fault)
		}
		return done
	}
	suppress := func() {
		src := w.generation()
		w.gen-- // it is asked of the generation that stands, and of who is suppressed now
		src.Generation.Number, src.Term = w.gen, term
		h.finish("suppress", func() error {
			_, err := r.d.Suppress(context.Background(), dest, src)
			return err
		})
		if r.to.Fault != nil {
			t.Fatalf("the receiver: %v", r.to.Fault)
		}
	}
	for range rapid.IntRange(25, 50).Draw(t, "steps") {
		switch step := rapid.SampledFrom([]string{
			"deliver", "see", "clock", "swap", "forget", "deliver", "join", "leave", "deliver", "clock", "kill", "match",
			"deliver", "see", "night", "consent", "late", "deliver", "clock", "expires early", "epoch", "return", "replay", "convert", "convert", "takeover",
		}).Draw(t, "step"); step {
		case "consent":
			v := h.someone()
			v.consent = taxonomy.Consent{Day: w.today(), Purposes: rapid.SampledFrom([]taxonomy.Purposes{taxonomy.MayAll, taxonomy.MayStore}).Draw(t, "purposes")}
		case "swap":
			if a, b := h.someone(), h.someone(); a != b && !a.gone && !b.gone {
				a.match, b.match = b.match, a.match
			}
		case "convert": // or its time is over, and it comes back
			v := h.someone()
			v.converted = !v.converted
			if rapid.Bool().Draw(t, "at once") {
				suppress()
			}
		case "kill":
			h.someone().gone = true
		case "forget":
			h.forget(h.someone())
		case "clock":
			w.now += taxonomy.Millis(rapid.SampledFrom([]int64{60e3, 3600e3, 86400e3, 2 * 3600e3, 600e3, 3 * 86400e3, 1}).Draw(t, "by"))
		case "deliver":
			deliver()
		case "takeover":
			takeover()
		case "late":
			r.to.CatchUp()
		case "expires early": // the partner's own clock
			for _, row := range slices.Sorted(maps.Keys(r.to.Ends)) {
				if rapid.Bool().Draw(t, "this") {
					delete(r.to.Ends, row)
				}
			}
		case "epoch":
			h.night() // by command, and who is to be forgotten is so first
			dest.PseudonymEpoch++
		case "replay":
			h.finish("replay", func() error { return r.d.Replay(context.Background(), dsp) })
		default:
			h.step(step)
		}
	}
	// All is well from here on: what was late arrives, and within one cycle of
	// fulls the sets are equal.
	well = true
	r.to.CatchUp()
	h.night()
	for range 13 {
		deliver()
		w.now += 2 * taxonomy.Hour
	}
	for i := 0; ; i++ {
		done := deliver()
		if done.Result != delivery.ResultWaiting {
			break
		}
		if i == 9 {
			t.Fatalf("it is still waiting: %+v", done)
		}
		w.now += 20 * taxonomy.Minute
	}
	got, want := r.to.Holds(w.now), w.want(&dest)
	soon := r.to.Holds(w.now + 16*taxonomy.Minute)
	maps.DeleteFunc(want, func(row string, _ bool) bool { return got[row] || r.overSoon(&dest, row) })
	for row := range want {
		t.Fatalf("at the end the partner lacks %q", row)
	}
	for row := range soon {
		// Of the forgotten no ID is kept beyond one full after the partner has
		// acknowledged that it is gone (R25): if it has not told the truth, its
		// copy ends by its life.
		if id, _, _ := strings.Cut(row, "\t"); r.to.Lied[row] && slices.ContainsFunc(ever[id], func(v *visitor) bool { return v.gone }) {
			continue
		}
		if !w.want(&dest)[row] {
			t.Fatalf("at the end the partner holds %q, which it must not", row)
		}
	}
	for row, end := range r.to.Ends {
		if got[row] {
			for _, v := range w.visitors {
				for _, a := range dest.Audiences {
					if w.id(&dest, v)+"\t"+string(a) == row && end > w.until(v, a).Start() {
						t.Fatalf("the partner's copy of %q outlives ours", row)
					}
				}
			}
		}
	}
}

// overSoon reports whether a row ends before it could surely be sent.
func (r *pushRig) overSoon(dest *delivery.Destination, row string) bool {
	for _, v := range r.w.visitors {
		for _, a := range dest.Audiences {
			if r.w.id(dest, v)+"\t"+string(a) == row && !v.gone {
				return r.w.until(v, a).Start() <= r.w.now+16*taxonomy.Minute
			}
		}
	}
	return false
}

// A partner that says yes, takes it later, and refuses the same row in between: that
// it was refused does not say that no copy comes.
func TestARefusedRowIsNoProofThatNoCopyComes(t *testing.T) { // P8
	w := newWorld(1)
	v := w.visitors[0]
	w.sees(v, colCar)
	r := newPushRig(t, w)
	dest := pushed()
	dest.Floor = 1
	var say deliverytest.Fate
	r.to.Fate = func(*delivery.Chunk) deliverytest.Fate { return say }
	for _, step := range []struct {
		member bool
		fate   deliverytest.Fate
	}{{true, deliverytest.Delays}, {false, deliverytest.Takes}, {true, deliverytest.Refuses}, {false, deliverytest.Takes}} {
		say = step.fate
		if v.member["cars"] = step.member; !step.member {
			delete(v.member, "cars")
		}
		if _, err := r.d.Run(context.Background(), dest, w.generation()); err != nil {
			t.Fatal(err)
		}
		w.now += 2 * taxonomy.Hour
	}
	r.to.CatchUp()
	if len(r.to.Holds(w.now)) != 1 {
		t.Fatal("nothing came late, so nothing is shown")
	}
	w.now += taxonomy.OneDay
	if _, err := r.d.Run(context.Background(), dest, w.generation()); err != nil {
		t.Fatal(err)
	}
	if held := r.to.Holds(w.now); len(held) > 0 {
		t.Errorf("after a full the partner holds %v", held)
	}
}
