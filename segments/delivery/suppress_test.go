package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/deliverytest"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// manyInCars is a push destination whose partner holds n visitors in one audience.
func manyInCars(t *testing.T, n int) (*pushRig, delivery.Destination) {
	t.Helper()
	w := newWorld(n)
	for _, v := range w.visitors {
		w.sees(v, colCar)
		v.member["cars"] = true
	}
	r := newPushRig(t, w)
	dest := pushed()
	dest.Audiences = []taxonomy.AudienceID{"cars"}
	r.run(t, dest)
	same(t, "at first", r.to.Holds(w.now), w.want(&dest))
	return r, dest
}

func (r *pushRig) standing(t *testing.T) delivery.Standing {
	t.Helper()
	s, err := r.d.Standing(context.Background(), dsp)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// stands is the generation that was built last, as the source of a Suppress.
func (w *world) stands() delivery.Source {
	src := w.generation()
	w.gen--
	src.Generation.Number = w.gen
	return src
}

func (r *pushRig) suppress(t *testing.T, dest delivery.Destination) delivery.Delivery {
	t.Helper()
	done, err := r.d.Suppress(context.Background(), dest, r.w.stands())
	if err != nil {
		t.Fatalf("suppress: %v", err)
	}
	return done
}

// Who converts is taken out at once, with no generation and no plan; and stays out
// of the next delta and the next full, until the conversion is forgotten.
func TestWhoConvertsIsTakenOutAtOnceAndStaysOut(t *testing.T) {
	r, dest := manyInCars(t, 8)
	w := r.w
	calls := r.to.Calls
	if done := r.suppress(t, dest); done.Result != "" || r.to.Calls != calls {
		t.Errorf("nobody converted, and %+v", done)
	}
	w.visitors[2].converted, w.visitors[5].converted = true, true
	done := r.suppress(t, dest)
	if done.Result != delivery.ResultDelta || done.Removes != 2 || done.Adds != 0 || done.Held != 6 || done.Why == "" {
		t.Errorf("%+v", done)
	}
	same(t, "at once", r.to.Holds(w.now), w.want(&dest))
	calls = r.to.Calls
	if done = r.suppress(t, dest); done.Result != "" || r.to.Calls != calls {
		t.Errorf("again: %+v", done)
	}
	if done = r.run(t, dest); done.Result != delivery.ResultSame || done.Suppressed != 2 {
		t.Errorf("the next generation: %+v", done)
	}
	w.now += 25 * taxonomy.Hour
	if done = r.run(t, dest); done.Result != delivery.ResultFull || done.Suppressed != 2 {
		t.Errorf("the next full: %+v", done)
	}
	same(t, "after a full", r.to.Holds(w.now), w.want(&dest))
	w.visitors[2].converted = false
	if done = r.run(t, dest); done.Adds != 1 {
		t.Errorf("back: %+v", done)
	}
	same(t, "back", r.to.Holds(w.now), w.want(&dest))
}

// A crash between any two writes, before or after them, and the next call ends it.
func TestASuppressionSurvivesACrashBetweenAnyTwoWrites(t *testing.T) {
	for _, late := range []bool{false, true} {
		for n := 0; ; n++ {
			r, dest := manyInCars(t, 8)
			r.w.visitors[2].converted = true
			r.fault.after, r.fault.late = n, late
			_, err := r.d.Suppress(context.Background(), dest, r.w.stands())
			if !r.fault.down {
				if n < 5 || err != nil {
					t.Fatalf("%d writes, %v", n, err)
				}
				break
			}
			r.restart(t)
			r.suppress(t, dest)
			same(t, fmt.Sprintf("a crash at write %d, late %v", n, late), r.to.Holds(r.w.now), r.w.want(&dest))
			if s := r.standing(t); s.Removals != 0 || s.Owes {
				t.Errorf("a crash at write %d, late %v: %+v", n, late, s)
			}
		}
	}
}

// A delivery that takes minutes is interrupted, gets on, and misses nobody.
func TestASuppressionInterruptsADeliveryUnderWay(t *testing.T) {
	w := newWorld(40)
	for _, v := range w.visitors {
		w.sees(v, colCar)
		v.member["cars"] = true
	}
	r := newPushRig(t, w)
	dest := pushed()
	dest.Audiences, dest.Push.PerMinute = []taxonomy.AudienceID{"cars"}, 4 // 14 chunks: 3.5 minutes
	var who *visitor
	row := func() string { return w.id(&dest, who) + "\tcars" }
	var converted, gone taxonomy.Millis
	r.waited = func(d time.Duration) {
		switch {
		case converted == 0 && len(r.to.Ends) > 5:
			// Someone who has been sent converts while the rest is on its way.
			for _, v := range w.visitors {
				if who = v; r.to.Ends[row()] != 0 {
					break
				}
			}
			who.converted, converted = true, w.now
			if done := r.suppress(t, dest); done.Result != delivery.ResultWaiting {
				t.Errorf("it is sent beside the delivery that runs: %+v", done)
			}
		case converted != 0 && gone == 0 && r.to.Ends[row()] == 0:
			gone = w.now
		}
		w.now += taxonomy.Millis(d.Milliseconds())
	}
	r.run(t, dest)
	if gone == 0 || gone-converted > 60*taxonomy.Second {
		t.Errorf("converted at %v, gone at %v", converted, gone)
	}
	same(t, "at the end", r.to.Holds(w.now), w.want(&dest))
	if s := r.standing(t); s.Busy() || s.Removals != 0 {
		t.Errorf("%+v", s)
	}
}

// What a receiver does not take is asked again, and nothing else with it.
func TestASuppressionThatIsNotTakenIsRepeated(t *testing.T) {
	r, dest := manyInCars(t, 8)
	w := r.w
	w.visitors[1].converted = true
	r.to.Fate = func(*delivery.Chunk) deliverytest.Fate { return deliverytest.Lost }
	done := r.suppress(t, dest)
	if done.Result != delivery.ResultWaiting || done.Next <= w.now {
		t.Fatalf("%+v", done)
	}
	r.to.Fate = func(*delivery.Chunk) deliverytest.Fate { return deliverytest.Takes }
	calls := r.to.Calls
	if r.suppress(t, dest); r.to.Calls != calls {
		t.Error("asked before its time")
	}
	w.now = done.Next
	if done = r.suppress(t, dest); done.Result != delivery.ResultDelta {
		t.Errorf("%+v", done)
	}
	same(t, "in the end", r.to.Holds(w.now), w.want(&dest))
}

// A rule that would suppress almost everybody waits, as any such change does, in
// the prompt way and in a delivery; erasures go out meanwhile.
func TestASuppressionOfTooManyWaitsForApproval(t *testing.T) {
	r, dest := manyInCars(t, 1200)
	w := r.w
	for _, v := range w.visitors[:600] {
		v.converted = true
	}
	if done := r.suppress(t, dest); done.Rows != 0 || len(r.to.Holds(w.now)) != 1200 {
		t.Errorf("%+v", done)
	}
	if s := r.standing(t); s.Hold == nil || s.Hold.Percent() != 50 {
		t.Errorf("%+v", s.Hold)
	}
	w.visitors[700].consent.Purposes = taxonomy.MayStore
	if done := r.run(t, dest); done.Removes != 1 || done.Hold == nil {
		t.Errorf("%+v", done)
	}
	if err := r.d.Approve(context.Background(), dsp); err != nil {
		t.Fatal(err)
	}
	if done := r.suppress(t, dest); done.Removes != 600 {
		t.Errorf("approved: %+v", done)
	}
	same(t, "approved", r.to.Holds(w.now), w.want(&dest))
}

// If nobody can say who is suppressed, nobody new is sent; who withdraws leaves.
func TestWithoutItsSuppressionNobodyNewIsSent(t *testing.T) {
	r, dest := manyInCars(t, 8)
	w := r.w
	n := w.add(99)
	w.sees(n, colCar)
	n.member["cars"] = true
	w.visitors[3].consent.Purposes = taxonomy.MayStore
	src := w.generation()
	src.Suppressed = func(context.Context) (index.Set, error) { return nil, errors.New("there is no audience") }
	done, err := r.d.Run(context.Background(), dest, src)
	if err != nil || done.Unsuppressed == "" || done.Adds != 0 || done.Removes != 1 {
		t.Errorf("%v, %+v", err, done)
	}
	if _, err := r.d.Suppress(context.Background(), dest, src); err == nil || !strings.Contains(err.Error(), "there is no audience") {
		t.Errorf("%v", err)
	}
	if done = r.run(t, dest); done.Adds != 1 || done.Unsuppressed != "" {
		t.Errorf("%+v", done)
	}
}

func TestADestinationCannotSuppressWhatItGets(t *testing.T) {
	d := destination()
	d.Suppress = []taxonomy.AudienceID{"cars", "bought", "bought", "No"}
	err := d.Validate()
	for _, want := range []string{"suppress[0]: \"cars\" is one of", "suppress[2]: \"bought\" stands there twice", "suppress[3]"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	d.Suppress = []taxonomy.AudienceID{"bought"}
	if err := d.Validate(); err != nil {
		t.Error(err)
	}
}
