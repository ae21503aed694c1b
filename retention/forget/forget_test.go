package forget_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// errCrash is where a process ended.
var errCrash = errors.New("the process ended here")

// fuse counts the steps of a process and ends it at one of them, before or
// behind the step.
type fuse struct {
	n, at  int // at < 0: never
	behind bool
}

func (f *fuse) step(do func() error) error {
	f.n++
	if f.n-1 != f.at {
		return do()
	}
	if f.behind {
		_ = do()
	}
	f.at = -1 // the next process has none
	return errCrash
}

// fusedKeyed is a Keyed each of whose writes is a step.
type fusedKeyed struct {
	retention.Keyed
	f *fuse
}

func (k fusedKeyed) Put(ctx context.Context, s retention.KeyedSpace, items []retention.Item) error {
	return k.f.step(func() error { return k.Keyed.Put(ctx, s, items) })
}

func (k fusedKeyed) Delete(ctx context.Context, s retention.KeyedSpace, keys []retention.Key) error {
	return k.f.step(func() error { return k.Keyed.Delete(ctx, s, keys) })
}

// places is a world of three places in which visitors lie, and of what was done
// there.
type places struct {
	names []string
	in    map[string]map[taxonomy.VisitorKey]taxonomy.Day
	calls []string
	f     *fuse
}

func newPlaces(f *fuse) *places {
	p := &places{names: []string{"delivery", "fold", "events"}, in: map[string]map[taxonomy.VisitorKey]taxonomy.Day{}, f: f}
	for _, n := range p.names {
		p.in[n] = map[taxonomy.VisitorKey]taxonomy.Day{}
	}
	return p
}

func (p *places) put(v taxonomy.VisitorKey, d taxonomy.Day) {
	for _, n := range p.names {
		p.in[n][v] = d
	}
}

func (p *places) holders() (list []forget.Holder) {
	for _, n := range p.names {
		list = append(list, forget.Holder{
			Name: n, Bound: taxonomy.RetentionDays,
			Oldest: func(context.Context) (oldest taxonomy.Day, any bool, err error) {
				for _, d := range p.in[n] {
					if !any || d < oldest {
						oldest, any = d, true
					}
				}
				return oldest, any, nil
			},
			ExpireBefore: func(_ context.Context, before taxonomy.Day) error {
				return p.f.step(func() error {
					p.calls = append(p.calls, "expire "+n)
					for v, d := range p.in[n] {
						if d < before {
							delete(p.in[n], v)
						}
					}
					return nil
				})
			},
			Erase: func(_ context.Context, visitors []taxonomy.VisitorKey) error {
				for _, v := range visitors {
					if err := p.f.step(func() error { delete(p.in[n], v); return nil }); err != nil {
						return err
					}
				}
				p.calls = append(p.calls, "erase "+n)
				return nil
			},
		})
	}
	return list
}

func hash(v taxonomy.VisitorKey) (h [16]byte) {
	for i := range h {
		h[i] = v[15-i] ^ 0xa5
	}
	return h
}

func key(n int) taxonomy.VisitorKey {
	v := storetest.Visitor(n)
	v[7] = 0xee
	return v
}

// keyOnDisk reports whether a plain key is anywhere in the spaces of the eraser.
func keyOnDisk(t testing.TB, k retention.Keyed, v taxonomy.VisitorKey) bool {
	t.Helper()
	found := false
	for _, name := range []string{"erasure_queue", "erasure_receipt"} {
		err := k.Scan(context.Background(), retention.KeyedSpace{Name: name}, nil, func(it retention.Item) error {
			found = found || strings.Contains(it.Key.Partition+it.Key.Item+string(it.Value), string(v[:]))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func TestAnErasureHasItsNightsInOrderAndEndsWithAReceipt(t *testing.T) { // R24, R25
	ctx := t.Context()
	clock := storetest.NewClock(storetest.Start)
	k := storetest.NewModel(clock.Now).Keyed()
	p := newPlaces(&fuse{at: -1})
	e := &forget.Eraser{Keyed: k, Holders: p.holders(), Hash: hash, Now: clock.Now}
	p.put(key(1), clock.Now().Day())
	p.put(key(2), clock.Now().Day())
	wish := forget.Erasure{Visitor: key(1), Space: taxonomy.SpaceCookie, At: clock.Now()}
	if err := e.Queue(ctx, []forget.Erasure{wish, wish}); err != nil {
		t.Fatal(err)
	}
	if !keyOnDisk(t, k, key(1)) {
		t.Fatal("the plain key is not in the queue: the search below would find nothing in any case")
	}
	for night := 1; night <= forget.Nights; night++ {
		clock.Set((wish.At.Day() + taxonomy.Day(night)).Start() + 15*taxonomy.Minute)
		if r := forget.Audit(ctx, []forget.Holder{e.Holder()}, clock.Now()); !r.OK {
			t.Fatalf("before night %d the queue is too old: %+v", night, r)
		}
		p.put(key(1), clock.Now().Day()) // something was on its way
		p.calls = nil
		if n, err := e.Night(ctx); err != nil || n != 1 {
			t.Fatalf("night %d: %d visitors, %v", night, n, err)
		}
		if want := []string{"erase delivery", "erase fold", "erase events"}; !slices.Equal(p.calls, want) {
			t.Fatalf("night %d: got calls %q, want %q", night, p.calls, want)
		}
		if n, err := e.Night(ctx); err != nil || n != 0 {
			t.Fatalf("the second pass of night %d took %d visitors, %v", night, n, err)
		}
		if err := e.Queue(ctx, []forget.Erasure{wish}); err != nil { // followed again
			t.Fatal(err)
		}
		r, err := e.Receipt(ctx, e.ID(key(1)))
		if err != nil || len(r.Nights) != night || r.Done != (night == forget.Nights) || r.Bound != wish.At.Day()+forget.QueueBound || !slices.Equal(r.Places, p.names) || r.At != wish.At {
			t.Fatalf("night %d: receipt %+v, %v", night, r, err)
		}
		for _, name := range p.names {
			if _, there := p.in[name][key(1)]; there {
				t.Fatalf("night %d: the visitor is in %s", night, name)
			}
			if _, there := p.in[name][key(2)]; !there {
				t.Fatalf("night %d: another visitor is gone from %s", night, name)
			}
		}
	}
	if keyOnDisk(t, k, key(1)) {
		t.Fatal("the plain key outlives its last night")
	}
	clock.Advance(taxonomy.OneDay)
	if n, err := e.Night(ctx); err != nil || n != 0 {
		t.Fatalf("a further night took %d visitors, %v", n, err)
	}
	// A new wish of the same visitor is a new erasure.
	if err := e.Queue(ctx, []forget.Erasure{{Visitor: key(1), Space: taxonomy.SpaceCookie, At: clock.Now()}}); err != nil {
		t.Fatal(err)
	}
	if n, err := e.Night(ctx); err != nil || n != 1 {
		t.Fatalf("the first night of a new wish took %d visitors, %v", n, err)
	}
}

func TestSoonTellsNobodyAndIsDoneOnce(t *testing.T) { // R25
	ctx := t.Context()
	clock := storetest.NewClock(storetest.Start)
	p := newPlaces(&fuse{at: -1})
	holders := p.holders()
	var soon int
	holders[0].Soon = func(_ context.Context, visitors []taxonomy.VisitorKey) error { soon += len(visitors); return nil }
	for i := range holders[1:] {
		holders[i+1].Soon = func(context.Context, []taxonomy.VisitorKey) error { return nil }
	}
	e := &forget.Eraser{Keyed: storetest.NewModel(clock.Now).Keyed(), Holders: holders, Hash: hash, Now: clock.Now}
	p.put(key(1), clock.Now().Day())
	if err := e.Queue(ctx, []forget.Erasure{{Visitor: key(1), Space: taxonomy.SpaceCookie, At: clock.Now()}}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{1, 0} {
		if n, err := e.Soon(ctx); err != nil || n != want {
			t.Fatalf("got %d visitors, %v; want %d", n, err, want)
		}
	}
	if soon != 1 || len(p.calls) != 0 {
		t.Fatalf("Soon was called for %d visitors, and these: %q", soon, p.calls)
	}
	for night := 1; night <= forget.Nights; night++ { // and all nights follow
		clock.Advance(taxonomy.OneDay)
		if n, err := e.Night(ctx); err != nil || n != 1 {
			t.Fatalf("night %d: %d visitors, %v", night, n, err)
		}
	}
	if r, err := e.Receipt(ctx, e.ID(key(1))); err != nil || !r.Done || r.Soon != storetest.Start {
		t.Fatalf("got %+v, %v", r, err)
	}
}

// The same erasures and sweeps, ended by a crash at any step, before or behind
// it, and begun again by a new process, end in the same state. P10
func TestACrashAtAnyStepEndsInTheSameState(t *testing.T) {
	total := 0
	want := life(t, &fuse{at: -1}, &total)
	if total < 50 {
		t.Fatalf("only %d steps", total)
	}
	for at := range total {
		for _, behind := range []bool{false, true} {
			var n int
			if got := life(t, &fuse{at: at, behind: behind}, &n); got != want {
				t.Fatalf("a crash at step %d (behind %t) ends in\n%s\nwant\n%s", at, behind, got, want)
			}
		}
	}
	t.Logf("%d steps", total)
}

// life runs some days of wishes, nights and sweeps; who crashes is begun again.
func life(t *testing.T, f *fuse, steps *int) string {
	t.Helper()
	ctx := t.Context()
	clock := storetest.NewClock(storetest.Start)
	k := storetest.NewModel(clock.Now).Keyed()
	p := newPlaces(f)
	day := clock.Now().Day()
	for n := range 6 {
		p.put(key(n), day-taxonomy.Day(n*17)) // the last is 85 days old
	}
	var e *forget.Eraser
	var s *forget.Sweeper
	start := func() {
		e = &forget.Eraser{Keyed: fusedKeyed{k, f}, Holders: p.holders(), Hash: hash, Now: clock.Now}
		s = &forget.Sweeper{Holders: p.holders()}
	}
	start()
	again := func(do func() error) {
		t.Helper()
		for err := do(); err != nil; err = do() {
			if !errors.Is(err, errCrash) {
				t.Fatal(err)
			}
			start()
		}
	}
	for d := range 9 {
		if d < 3 {
			var wishes []forget.Erasure
			for i := range d + 1 {
				wishes = append(wishes, forget.Erasure{Visitor: key(d + i), Space: taxonomy.SpaceCookie, At: clock.Now()})
			}
			again(func() error { return e.Queue(ctx, wishes) })
		}
		clock.Set((day + taxonomy.Day(d) + 1).Start() + taxonomy.Hour)
		again(func() error { _, err := e.Night(ctx); return err })
		again(func() error { return s.Sweep(ctx, clock.Now().Day()) })
	}
	*steps = f.n

	var b strings.Builder
	for _, n := range p.names {
		var left []string
		for v, d := range p.in[n] {
			left = append(left, fmt.Sprintf("%x:%s", v[14:], d))
		}
		slices.Sort(left)
		fmt.Fprintf(&b, "%s %s\n", n, left)
	}
	for n := range 6 {
		r, err := e.Receipt(ctx, e.ID(key(n)))
		fmt.Fprintf(&b, "receipt %d: %t, done %t, key kept %t\n", n, err == nil, r.Done, keyOnDisk(t, k, key(n)))
	}
	return b.String()
}

func TestASweepThatFailsInOnePlaceGoesOnInTheOthers(t *testing.T) {
	p := newPlaces(&fuse{at: -1})
	day := storetest.Start.Day()
	p.put(key(1), day-90)
	p.put(key(2), day-89)
	holders := p.holders()
	broken := errors.New("disk on fire")
	holders[1].ExpireBefore = func(context.Context, taxonomy.Day) error { return broken }
	err := (&forget.Sweeper{Holders: holders}).Sweep(t.Context(), day)
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "fold") {
		t.Fatalf("got %v, want the error and its place", err)
	}
	for name, want := range map[string]int{"delivery": 1, "fold": 2, "events": 1} {
		if len(p.in[name]) != want {
			t.Errorf("%s holds %d visitors, want %d", name, len(p.in[name]), want)
		}
	}
}

func TestAnEraserStopsAtAPlaceThatFailsAndTheNightDoesNotCount(t *testing.T) { // R25: removals first
	ctx := t.Context()
	clock := storetest.NewClock(storetest.Start)
	p := newPlaces(&fuse{at: -1})
	holders := p.holders()
	ok := holders[0].Erase
	holders[0].Erase = func(context.Context, []taxonomy.VisitorKey) error { return errors.New("no outbox") }
	e := &forget.Eraser{Keyed: storetest.NewModel(clock.Now).Keyed(), Holders: holders, Hash: hash, Now: clock.Now}
	p.put(key(1), clock.Now().Day())
	if err := e.Queue(ctx, []forget.Erasure{{Visitor: key(1), Space: taxonomy.SpaceCookie, At: clock.Now()}}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Night(ctx); err == nil || !strings.Contains(err.Error(), "delivery") || strings.Contains(err.Error(), fmt.Sprintf("%x", key(1))) {
		t.Fatalf("got %v, want an error that names the place and not the visitor", err)
	}
	if len(p.calls) != 0 {
		t.Fatalf("places behind the one that failed were erased: %q", p.calls)
	}
	holders[0].Erase = ok
	if n, err := e.Night(ctx); err != nil || n != 1 {
		t.Fatalf("the same night again: %d visitors, %v", n, err)
	}
	// Nights that do not go well make the queue too old, and the audit says so.
	clock.Advance((forget.QueueBound + 1) * taxonomy.OneDay)
	if r := forget.Audit(ctx, []forget.Holder{e.Holder()}, clock.Now()); r.OK || r.Places[0].Name != e.Holder().Name {
		t.Fatalf("got %+v, want the queue to be too old", r)
	}
}

func TestTheAuditNamesThePlaceThatIsTooOld(t *testing.T) { // P5
	ctx := t.Context()
	clock := storetest.NewClock(storetest.Start)
	day := clock.Now().Day()
	p := newPlaces(&fuse{at: -1})
	holders := append(p.holders(), forget.Holder{Name: "log", Bound: 2, Oldest: func(context.Context) (taxonomy.Day, bool, error) { return 0, false, nil }})
	if r := forget.Audit(ctx, holders, clock.Now()); !r.OK || len(r.Places) != 4 || r.Places[3].Oldest != nil {
		t.Fatalf("nothing is anywhere: got %+v", r)
	}
	p.put(key(1), day-90)
	if r := forget.Audit(ctx, holders, clock.Now()); !r.OK || r.Places[0].Age != 90 || *r.Places[0].Oldest != day-90 {
		t.Fatalf("90 days old, the night being due: got %+v", r)
	}
	p.in["fold"][key(2)] = day - 91 // planted
	r := forget.Audit(ctx, holders, clock.Now())
	var bad []string
	for _, pl := range r.Places {
		if !pl.OK {
			bad = append(bad, pl.Name)
		}
	}
	if r.OK || !slices.Equal(bad, []string{"fold"}) {
		t.Fatalf("got %t and %q, want the planted thing in fold", r.OK, bad)
	}
	holders[3].Oldest = func(context.Context) (taxonomy.Day, bool, error) { return 0, false, errors.New("cannot look") }
	r = forget.Audit(ctx, holders, clock.Now())
	if r.OK || r.Places[3].OK || r.Places[3].Error != "cannot look" {
		t.Fatalf("a place that cannot be looked at: got %+v", r.Places[3])
	}
	b, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(b), `{"name":"fold","oldest":"2027-09-02","age":91,"bound":90,"ok":false}`) {
		t.Fatalf("as JSON: %s, %v", b, err)
	}
	if err := (&forget.Sweeper{Holders: holders[:3]}).Sweep(ctx, day); err != nil {
		t.Fatal(err)
	}
	if r := forget.Audit(ctx, holders[:3], clock.Now()); !r.OK {
		t.Fatalf("after the sweep: got %+v", r)
	}
}

// A holder may fold the log, and what it finds there are erasures: the queue
// takes them while a pass is under way.
func TestAnErasureIsQueuedDuringAPass(t *testing.T) {
	ctx := context.Background()
	clock := storetest.NewClock(storetest.Start)
	e := &forget.Eraser{Keyed: storetest.NewModel(clock.Now).Keyed(), Now: clock.Now, Hash: func(k taxonomy.VisitorKey) [16]byte { return k }}
	one, two := forget.Erasure{storetest.Visitor(1), taxonomy.SpaceCookie, clock.Now()}, forget.Erasure{storetest.Visitor(2), taxonomy.SpaceCookie, clock.Now()}
	e.Before = func(ctx context.Context, _ []forget.Erasure) ([]taxonomy.VisitorKey, error) {
		return nil, e.Queue(ctx, []forget.Erasure{two})
	}
	later := one
	later.At++
	e.Holders = []forget.Holder{{Name: "fold", Erase: func(ctx context.Context, _ []taxonomy.VisitorKey) error { return e.Queue(ctx, []forget.Erasure{later}) }}}
	if err := e.Queue(ctx, []forget.Erasure{one}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Night(ctx); err != nil {
		t.Fatal(err)
	}
	// Both the new visitor and the later wish of the first have all their nights
	// before them.
	for _, x := range []forget.Erasure{later, two} {
		r, err := e.Receipt(ctx, e.ID(x.Visitor))
		if err != nil || r.At != x.At || len(r.Nights) != 0 {
			t.Errorf("receipt %+v, %v; want none of its nights done", r, err)
		}
	}
}
