package delivery_test

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format/tsv"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/pull"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

// small is TSV in chunks of a few rows.
type small struct{ tsv.Format }

func (small) Facts() delivery.FormatFacts {
	f := tsv.Format{}.Facts()
	f.MaxRows, f.MaxBytes = 3, 10_000
	return f
}

// receiver is a partner that is pushed to, with a fate for each chunk. It is no
// partner's software: it does what the fates say.
type receiver struct {
	mu    sync.Mutex
	fate  func(*delivery.Chunk) fate
	ends  map[string]taxonomy.Millis
	lied  map[string]bool     // rows of which it took something later, or not, without saying so
	late  []func()            // what arrived and was not applied yet
	keys  map[string][32]byte // idempotency keys seen, and what for
	calls int
	fault error
}

type fate string

const (
	takes     fate = "takes"
	takesMute fate = "takes, and the answer is lost"
	lost      fate = "never gets it"
	busy      fate = "wants to be asked later"
	refuses   fate = "refuses"
	twice     fate = "takes it twice"
	delays    fate = "says yes, and takes it later"
	mislays   fate = "says yes, and takes only some"
	mutters   fate = "says nothing, and takes it later"
)

func (r *receiver) Facts() delivery.TransportFacts    { return delivery.TransportFacts{} }
func (r *receiver) Check(*delivery.Destination) error { return nil }

func (r *receiver) Send(_ context.Context, _ *delivery.Destination, c *delivery.Chunk) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	if was, ok := r.keys[c.Key]; ok && was != c.SHA256 {
		r.fault = fmt.Errorf("key %s stands for two things", c.Key)
	}
	r.keys[c.Key] = c.SHA256
	lines, err := linesOf(c)
	if err != nil {
		r.fault = err
		return err
	}
	apply := func(lines []string) {
		for _, l := range lines {
			f := strings.Split(l, "\t")
			row := f[0] + "\t" + f[1]
			minutes, _ := strconv.Atoi(f[3])
			if f[2] == "-" {
				delete(r.ends, row)
			} else {
				r.ends[row] = c.Created + taxonomy.Millis(minutes)*taxonomy.Minute
			}
		}
	}
	what := r.fate(c)
	if what == delays || what == mislays || what == mutters {
		for _, l := range lines {
			f := strings.Split(l, "\t")
			r.lied[f[0]+"\t"+f[1]] = true
		}
	}
	switch what {
	case takesMute:
		apply(lines)
		return fmt.Errorf("no answer: %w", retention.ErrUnknown)
	case lost:
		return fmt.Errorf("connection reset: %w", retention.ErrUnknown)
	case busy:
		return &delivery.Later{After: 90 * time.Minute, Err: errors.New("status 429")}
	case refuses:
		return fmt.Errorf("status 400: %w", delivery.ErrRefused)
	case twice:
		apply(lines)
		apply(lines)
	case delays:
		r.late = append(r.late, func() { apply(lines) })
	case mislays:
		apply(lines[:len(lines)/2])
	case mutters:
		r.late = append(r.late, func() { apply(lines) })
		return fmt.Errorf("timeout: %w", retention.ErrUnknown)
	default:
		apply(lines)
	}
	return nil
}

func linesOf(c *delivery.Chunk) ([]string, error) {
	z, err := gzip.NewReader(io.NewSectionReader(c.Body, 0, c.Body.Size()))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(z)
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if err == nil && uint64(len(lines)) != c.Rows {
		err = fmt.Errorf("%d lines, the chunk says %d", len(lines), c.Rows)
	}
	return lines, err
}

func (r *receiver) catchUp() {
	for _, f := range r.late {
		f()
	}
	r.late = nil
}

func (r *receiver) holds(now taxonomy.Millis) map[string]bool {
	p := partner{ends: r.ends}
	return p.holds(now)
}

// pushRig is a rig whose destinations are pushed to.
type pushRig struct {
	*rig
	to *receiver
	// waited is called instead of waiting.
	waited func(time.Duration)
}

func newPushRig(t tb, w *world) *pushRig {
	r := &pushRig{rig: newRig(t, w)}
	r.to = &receiver{ends: map[string]taxonomy.Millis{}, keys: map[string][32]byte{}, lied: map[string]bool{}, fate: func(*delivery.Chunk) fate { return takes }}
	r.waited = func(d time.Duration) { w.now += taxonomy.Millis(d.Milliseconds()) }
	r.restart(t)
	return r
}

func (r *pushRig) restart(t tb) {
	t.Helper()
	r.fault.down, r.fault.after = false, -1
	d, err := delivery.New(delivery.Options{
		Keyed: faultyKeyed{r.fault}, Blobs: faultyBlobs{r.fault}, Pseudonym: pseudonym,
		View:       func() (audience.View, error) { return r.w.view(), nil },
		Formats:    map[string]delivery.Format{"tsv": small{}},
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
	fates := []fate{takes, takes, takes, takesMute, lost, busy, refuses, twice, delays, mislays, mutters}
	well := false
	// Chunks are sent by several goroutines, which may not draw: the fate is
	// made of a seed, the chunk and how often it was sent.
	seed, sent := rapid.Uint64().Draw(t, "fates"), map[string]int{}
	r.to.fate = func(c *delivery.Chunk) fate {
		if well {
			return takes
		}
		sent[c.Key]++
		h := sha256.Sum256(fmt.Appendf(nil, "%d %s %d", seed, c.Key, sent[c.Key]))
		return fates[int(h[0])%len(fates)]
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
		src, calls := w.generation(), r.to.calls
		src.Term = term - 1
		_, err := r.d.Run(context.Background(), dest, src)
		_, serr := r.d.Suppress(context.Background(), dest, src)
		if !errors.Is(err, delivery.ErrStale) || serr != nil && !errors.Is(serr, delivery.ErrStale) || r.to.calls != calls {
			t.Fatalf("after a takeover the one before sent %d chunks: %v, %v", r.to.calls-calls, err, serr)
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
		if r.to.fault != nil {
			t.Fatalf("the receiver: %v", r.to.fault)
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
		if r.to.fault != nil {
			t.Fatalf("the receiver: %v", r.to.fault)
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
			r.to.catchUp()
		case "expires early": // the partner's own clock
			for _, row := range slices.Sorted(maps.Keys(r.to.ends)) {
				if rapid.Bool().Draw(t, "this") {
					delete(r.to.ends, row)
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
	r.to.catchUp()
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
	got, want := r.to.holds(w.now), w.want(&dest)
	soon := r.to.holds(w.now + 16*taxonomy.Minute)
	maps.DeleteFunc(want, func(row string, _ bool) bool { return got[row] || r.overSoon(&dest, row) })
	for row := range want {
		t.Fatalf("at the end the partner lacks %q", row)
	}
	for row := range soon {
		// Of the forgotten no ID is kept beyond one full after the partner has
		// acknowledged that it is gone (R25): if it has not told the truth, its
		// copy ends by its life.
		if id, _, _ := strings.Cut(row, "\t"); r.to.lied[row] && slices.ContainsFunc(ever[id], func(v *visitor) bool { return v.gone }) {
			continue
		}
		if !w.want(&dest)[row] {
			t.Fatalf("at the end the partner holds %q, which it must not", row)
		}
	}
	for row, end := range r.to.ends {
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
	var say fate
	r.to.fate = func(*delivery.Chunk) fate { return say }
	for _, step := range []struct {
		member bool
		fate   fate
	}{{true, delays}, {false, takes}, {true, refuses}, {false, takes}} {
		say = step.fate
		if v.member["cars"] = step.member; !step.member {
			delete(v.member, "cars")
		}
		if _, err := r.d.Run(context.Background(), dest, w.generation()); err != nil {
			t.Fatal(err)
		}
		w.now += 2 * taxonomy.Hour
	}
	r.to.catchUp()
	if len(r.to.holds(w.now)) != 1 {
		t.Fatal("nothing came late, so nothing is shown")
	}
	w.now += taxonomy.OneDay
	if _, err := r.d.Run(context.Background(), dest, w.generation()); err != nil {
		t.Fatal(err)
	}
	if held := r.to.holds(w.now); len(held) > 0 {
		t.Errorf("after a full the partner holds %v", held)
	}
}
