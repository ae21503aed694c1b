package delivery_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/deliverytest"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// inPlace numbers everybody as before.
func inPlace(w *world) *index.Numbering {
	n := index.NewNumbering(w.shards, w.shards)
	for s := range w.shards {
		n.Keep(s, 1<<18)
	}
	return n
}

func (r *pushRig) stock(t *testing.T) []delivery.Kept {
	t.Helper()
	v := r.w.view()
	list, err := r.d.TakeStock(t.Context(), func(s int, o uint32) taxonomy.VisitorKey { k, _ := v.Key(s, o); return k })
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// A push under way refuses to be carried and says where it is. Once it has ended,
// what is carried goes on as if it had been there always, whatever write the power
// failed at: nothing is said again, and what changes later is said.
func TestWhatAReceiverHoldsIsCarriedWhenNothingIsUnderWay(t *testing.T) {
	for after := range 12 {
		r := pushFilled(t, 5)
		dest := pushed()
		next := newPushRig(t, r.w)
		r.to.Fate = func(*delivery.Chunk) deliverytest.Fate { return deliverytest.Lost }
		r.push(t, dest)
		if err := next.d.Carry(t.Context(), r.d, inPlace(r.w)); !errors.Is(err, delivery.ErrPushing) || !strings.Contains(err.Error(), string(dsp)) {
			t.Fatalf("a push under way: %v", err)
		}
		r.to.Fate = func(*delivery.Chunk) deliverytest.Fate { return deliverytest.Takes }
		for range 8 {
			r.w.now += 30 * taxonomy.Minute
			r.push(t, dest)
		}
		if err := r.d.Rest(t.Context()); err != nil {
			t.Fatal(err)
		}
		next.to = r.to
		next.restart(t)
		next.fault.after = after
		err := next.d.Carry(t.Context(), r.d, inPlace(r.w))
		if next.fault.down != (err != nil) {
			t.Fatalf("power fails at write %d: %v", after, err)
		}
		next.restart(t)
		if err := next.d.Carry(t.Context(), r.d, inPlace(r.w)); err != nil {
			t.Fatal(err)
		}
		if got, want := next.stock(t), r.stock(t); !slices.Equal(got, want) || len(got) != 1 || got[0].Held == 0 {
			t.Fatalf("power failed at write %d: it kept %+v, and had %+v", after, got, want)
		}
		calls := next.to.Calls
		next.push(t, dest)
		if next.to.Calls != calls {
			t.Fatalf("%d chunks were sent though nothing changed", next.to.Calls-calls)
		}
		r.w.visitors[0].consent.Purposes = taxonomy.MayStore // withdrawn
		r.w.now += taxonomy.Hour
		done := next.push(t, dest)
		if done.Result != delivery.ResultDelta || done.Removes == 0 || done.Adds != 0 {
			t.Fatalf("somebody withdrew consent, and it delivers %+v", done)
		}
		same(t, "after the move", next.to.Holds(r.w.now), r.w.want(&dest))
	}
}
