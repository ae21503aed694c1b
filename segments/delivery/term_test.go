package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/pull"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// icy is the world of a deliverer that is frozen just before its at-th step
// outside itself, for as long as do takes.
type icy struct {
	mu       sync.Mutex // held while it is frozen: all of it is
	at       int
	do       func()
	atSend   bool // what it was frozen before was a chunk's sending
	resumed  bool
	sentLate int // chunks whose sending began after it went on
}

func (i *icy) step(send bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.resumed && send {
		i.sentLate++
	}
	if i.at--; i.at == 0 {
		i.atSend = send
		i.do()
		i.resumed = true
	}
}

type icyKeyed struct {
	retention.Keyed
	i *icy
}

func (k icyKeyed) Get(ctx context.Context, s retention.KeyedSpace, key retention.Key) (retention.Item, error) {
	k.i.step(false)
	return k.Keyed.Get(ctx, s, key)
}
func (k icyKeyed) Swap(ctx context.Context, s retention.KeyedSpace, it retention.Item) (uint64, error) {
	k.i.step(false)
	return k.Keyed.Swap(ctx, s, it)
}

type icyBlobs struct {
	retention.Blobs
	i *icy
}

func (b icyBlobs) Open(ctx context.Context, name string) (retention.BlobReader, error) {
	b.i.step(false)
	return b.Blobs.Open(ctx, name)
}
func (b icyBlobs) Put(ctx context.Context, name string, over taxonomy.Millis, r io.Reader) (retention.Blob, error) {
	b.i.step(false)
	return b.Blobs.Put(ctx, name, over, r)
}
func (b icyBlobs) List(ctx context.Context, under string) ([]retention.Blob, error) {
	b.i.step(false)
	return b.Blobs.List(ctx, under)
}
func (b icyBlobs) Delete(ctx context.Context, names []string) error {
	b.i.step(false)
	return b.Blobs.Delete(ctx, names)
}

type icySend struct {
	delivery.Transport
	i *icy
}

func (s icySend) Send(ctx context.Context, d *delivery.Destination, c *delivery.Chunk) error {
	s.i.step(true)
	return s.Transport.Send(ctx, d, c)
}

// on returns a deliverer of another node, over what i has in its way.
func (r *pushRig) on(t tb, i *icy) *delivery.Deliverer {
	t.Helper()
	d, err := delivery.New(delivery.Options{
		Keyed: icyKeyed{r.fault.Keyed, i}, Blobs: icyBlobs{r.fault.Blobs, i}, Pseudonym: pseudonym,
		View:       func(context.Context) (audience.View, error) { return r.w.view(), nil },
		Formats:    map[string]delivery.Format{"tsv": small},
		Transports: map[string]delivery.Transport{"pull": pull.Transport{}, "push": icySend{r.to, i}},
		Now:        func() taxonomy.Millis { return r.w.now }, Rand: r.rand,
	})
	if err != nil {
		t.Fatalf("new deliverer: %v", err)
	}
	return d
}

// held is what the partner holds: as it was sent, or all that it can pull.
func (r *pushRig) held(t tb, transport string) map[string]bool {
	t.Helper()
	if transport == "push" {
		return r.to.Holds(r.w.now)
	}
	p := partner{ends: map[string]taxonomy.Millis{}}
	p.pull(t, r.rig)
	return p.holds(r.w.now)
}

// P8: a deliverer that is frozen at any moment, and goes on when another has its
// lease, publishes nothing and begins to send nothing, whether it has a lease of
// its own or delivers by command. What it was just sending may arrive late; a full
// puts that right.
func TestADelivererFrozenPastItsLeaseSendsNothing(t *testing.T) {
	for _, transport := range []string{"pull", "push"} {
		for _, term := range []uint64{1, 0} {
			for freeze := 1; ; freeze++ {
				what := fmt.Sprintf("%s, term %d, frozen at step %d", transport, term, freeze)
				w := newWorld(12)
				for i, v := range w.visitors {
					w.sees(v, colCar)
					v.member["cars"], v.member["either"] = true, i%2 == 0
				}
				r := newPushRig(t, w)
				dest := destination()
				dest.Transport, dest.Floor, dest.Push.Concurrency = transport, 1, 1
				a, b := &icy{}, r.on(t, &icy{})
				first := r.on(t, a)
				run := func(d *delivery.Deliverer, term uint64) (delivery.Delivery, error) {
					src := w.generation()
					src.Term = term
					return d.Run(t.Context(), dest, src)
				}
				// Something stands there already, of which the second node changes all.
				if err := first.Claim(t.Context(), 1, []taxonomy.DestinationID{dsp}); err != nil {
					t.Fatal(err)
				}
				if _, err := run(first, 1); err != nil {
					t.Fatal(err)
				}
				w.now += taxonomy.Hour
				w.visitors[0].gone = true
				w.visitors[1].member["cars"], w.visitors[2].member["nobody-bought"] = false, true
				var met bool
				a.at, a.do = freeze, func() {
					met = true
					if err := b.Claim(t.Context(), 2, nil); err != nil {
						t.Fatalf("%s: claim: %v", what, err)
					}
					w.now += taxonomy.Minute
					w.visitors[2].member["nobody-bought"], w.visitors[3].member["cars"] = false, false
					if _, err := run(b, 2); err != nil {
						t.Fatalf("%s: the second node: %v", what, err)
					}
				}
				src := w.generation()
				src.Term = term
				_, err := first.Run(t.Context(), dest, src)
				a.at = -1
				if !met {
					if err != nil {
						t.Fatal(err)
					}
					if freeze < 8 {
						t.Fatalf("%s: a run has only %d steps", what, freeze)
					}
					break
				}
				switch {
				case err != nil && !errors.Is(err, delivery.ErrStale) && !errors.Is(err, retention.ErrNotFound):
					// Its files may be gone from under it, which is no less an end.
					t.Errorf("%s: it ended in %v", what, err)
				case a.sentLate > 0:
					t.Errorf("%s: it began to send %d chunks after another had taken over", what, a.sentLate)
				}
				if _, err := run(first, 1); !errors.Is(err, delivery.ErrStale) || !errors.Is(err, retention.ErrHeld) {
					t.Errorf("%s: a run that begins under a term that is over: %v", what, err)
				}
				if err := first.Claim(t.Context(), 1, nil); !errors.Is(err, delivery.ErrStale) {
					t.Errorf("%s: a term that is over was claimed: %v", what, err)
				}
				got := func() map[string]bool { return r.held(t, transport) }
				if a.atSend { // one chunk arrived late: the next full says it all
					w.now += taxonomy.OneDay
					for _, v := range w.visitors {
						w.sees(v, colAny)
					}
					if _, err := run(b, 2); err != nil {
						t.Fatal(err)
					}
				}
				if want := w.want(&dest); !maps.Equal(got(), want) {
					t.Errorf("%s: the partner holds %v, want %v", what, got(), want)
				}
				// Whoever has no lease goes on under the term that is in force.
				if done, err := run(first, 0); err != nil || done.Result == delivery.ResultWaiting {
					t.Errorf("%s: a command after it: %+v, %v", what, done, err)
				}
			}
		}
	}
}

// Heads of versions that knew no terms are of term 0: they are read, claimed, and
// gone on with, and in an installation without leases they stay as they were.
func TestAHeadWithoutATermIsOfTerm0(t *testing.T) {
	w := newWorld(3)
	for _, v := range w.visitors {
		w.sees(v, colCar)
		v.member["cars"] = true
	}
	r := newRig(t, w)
	head := func() string {
		it, err := r.fault.Keyed.Get(t.Context(), delivery.Space, retention.Key{Partition: string(dsp), Item: "head"})
		if err != nil {
			t.Fatal(err)
		}
		return string(it.Value)
	}
	r.run(t, destination())
	if err := r.d.Claim(t.Context(), 0, nil); err != nil || strings.Contains(head(), `"term"`) {
		t.Fatalf("a head without leases: %v, %s", err, head())
	}
	files := r.manifest(t).Files
	if err := r.d.Claim(t.Context(), 5, []taxonomy.DestinationID{"new"}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(head(), `"term":5`) || !slices.EqualFunc(files, r.manifest(t).Files, func(a, b delivery.ManifestFile) bool { return a.Name == b.Name }) {
		t.Errorf("a claim changed more than the term: %s", head())
	}
	w.visitors[0].member["cars"] = false
	src := w.generation()
	src.Term = 5
	if done, err := r.d.Run(t.Context(), destination(), src); err != nil || done.Result != delivery.ResultDelta || done.Removes != 1 {
		t.Errorf("the run after a claim: %+v, %v", done, err)
	}
	// One that was never delivered to is claimed too, and dropped as any other.
	fresh := destination()
	fresh.ID = "new"
	src = w.generation()
	src.Term = 4
	if _, err := r.d.Run(t.Context(), fresh, src); !errors.Is(err, delivery.ErrStale) {
		t.Errorf("a first delivery under a term that is over: %v", err)
	}
	if err := r.d.Drop(t.Context(), dsp); err != nil || !strings.Contains(head(), `"term":5`) {
		t.Errorf("dropped: %v, %s", err, head())
	}
}

// P6, R25: whoever is erased while another node is in the middle of a delivery, of
// whom nothing was delivered before, does not come to the partner by it: the eraser
// has dealt with it by then, and would not find it again before the night. Only what
// was just being sent may arrive; the removal follows it.
func TestAPlanThatAnErasureOvertakesIsMadeAnew(t *testing.T) {
	for _, transport := range []string{"pull", "push"} {
		for _, term := range []uint64{0, 1} {
			for freeze := 1; ; freeze++ {
				what := fmt.Sprintf("%s, term %d, frozen at step %d", transport, term, freeze)
				w := newWorld(4)
				for _, v := range w.visitors {
					w.sees(v, colCar)
					v.member["cars"] = true
				}
				r := newPushRig(t, w)
				dest := destination()
				dest.Transport = transport
				a := &icy{at: freeze}
				first, second := r.on(t, a), r.on(t, &icy{})
				met, planned := false, false
				a.do = func() {
					st, err := second.Standing(t.Context(), dsp)
					if err != nil {
						t.Fatal(err)
					}
					met, planned = true, st.At != 0
					w.visitors[0].gone = true
					if err := second.Forget(t.Context(), []taxonomy.VisitorKey{w.visitors[0].key}); err != nil {
						t.Fatalf("%s: %v", what, err)
					}
				}
				src := w.generation()
				src.Term = term
				if _, err := first.Run(t.Context(), dest, src); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if a.at = -1; !met {
					if freeze < 7 {
						t.Fatalf("%s: a run has only %d steps", what, freeze)
					}
					break
				}
				got := func() map[string]bool { return r.held(t, transport) }
				held, want := got(), w.want(&dest)
				if id := w.id(&dest, w.visitors[0]) + "\tcars"; held[id] && planned {
					// It was there already, or under way: the ledger knows, and the next
					// delivery takes it away.
					if _, err := first.Run(t.Context(), dest, w.generation()); err != nil {
						t.Fatalf("%s: %v", what, err)
					}
					held = got()
				}
				if !maps.Equal(held, want) {
					t.Errorf("%s: the partner holds %d, want %d", what, len(held), len(want))
				}
			}
		}
	}
}
