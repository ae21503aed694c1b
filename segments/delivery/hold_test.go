package delivery_test

import (
	"context"
	"maps"
	"testing"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// holder is a rig with a destination, and what its partner holds.
type holder struct {
	*rig
	dest  delivery.Destination
	holds func() map[string]bool
}

func eachWay(t *testing.T, test func(*testing.T, *holder)) {
	t.Run("pull", func(t *testing.T) {
		r, p := filled(t, 300), &partner{ends: map[string]taxonomy.Millis{}} // 1,200 memberships
		test(t, &holder{r, destination(), func() map[string]bool { p.pull(t, r); return p.holds(r.w.now) }})
	})
	t.Run("push", func(t *testing.T) {
		r := newPushRig(t, filled(t, 300).w)
		test(t, &holder{r.rig, pushed(), func() map[string]bool { return r.to.Holds(r.w.now) }})
	})
}

func (h *holder) must(t *testing.T, dest delivery.Destination, held bool) delivery.Delivery {
	t.Helper()
	done := h.run(t, dest)
	s, err := h.d.Standing(context.Background(), dsp)
	if err != nil || (done.Hold != nil) != held || (s.Hold != nil) != held {
		t.Fatalf("held %v, %v: %+v, %+v", held, err, done, s)
	}
	return done
}

// A change of more than 30 % of the last full waits for approval, in both
// directions; what visitors' consent and erasures demand does not wait.
func TestALargeChangeWaitsAndWhatVisitorsDemandDoesNot(t *testing.T) {
	eachWay(t, func(t *testing.T, h *holder) {
		dest := h.dest
		h.must(t, dest, false)
		same(t, "at first", h.holds(), h.w.want(&dest))
		// 75 of 300 leave: 300 of 1,200 memberships, 25 %.
		h.w.now += taxonomy.Hour
		for _, v := range h.w.visitors[:75] {
			clear(v.member)
		}
		h.must(t, dest, false)
		same(t, "after 25 %", h.holds(), h.w.want(&dest))
		// Another 100 leave.
		h.w.now += taxonomy.Hour
		for _, v := range h.w.visitors[75:175] {
			clear(v.member)
		}
		before := h.holds()
		h.w.visitors[100].consent.Purposes = taxonomy.MayStore // one of the leavers
		h.w.visitors[200].consent.Purposes = taxonomy.MayStore // one who stays
		if done := h.must(t, dest, true); done.Hold.Changed != 404 || done.Hold.Of != 1200 || done.Hold.Percent() != 33 {
			t.Errorf("%+v", done.Hold)
		}
		want := maps.Clone(before)
		for _, i := range []int{100, 200} {
			for _, a := range dest.Audiences {
				delete(want, h.w.id(&dest, h.w.visitors[i])+"\t"+string(a))
			}
		}
		same(t, "held", h.holds(), want)
		// It waits as long as it is so, also over the daily full.
		h.w.now += taxonomy.OneDay
		h.must(t, dest, true)
		same(t, "a day later", h.holds(), want)
		if err := h.d.Approve(context.Background(), dsp); err != nil {
			t.Fatal(err)
		}
		h.must(t, dest, false)
		same(t, "approved", h.holds(), h.w.want(&dest))
		// An approval is for one change.
		h.w.now += taxonomy.Hour
		for _, v := range h.w.visitors[:150] {
			for _, a := range h.w.audiences {
				v.member[a] = true
			}
		}
		h.must(t, dest, true)
		// A change that is taken back is no longer held.
		for _, v := range h.w.visitors[:150] {
			clear(v.member)
		}
		h.w.now += taxonomy.Hour
		h.must(t, dest, false)
		same(t, "taken back", h.holds(), h.w.want(&dest))
		// Who wants no hold has none.
		for _, v := range h.w.visitors[175:] {
			clear(v.member)
		}
		dest.HoldAbove = -1
		h.must(t, dest, false)
		same(t, "without", h.holds(), h.w.want(&dest))
	})
}

// An approval that nobody used is over after a day.
func TestAnApprovalIsOverAfterADay(t *testing.T) {
	eachWay(t, func(t *testing.T, h *holder) {
		h.must(t, h.dest, false)
		h.w.now += taxonomy.Hour
		for _, v := range h.w.visitors[:150] {
			clear(v.member)
		}
		h.must(t, h.dest, true)
		if err := h.d.Approve(context.Background(), dsp); err != nil {
			t.Fatal(err)
		}
		h.w.now += taxonomy.OneDay
		h.must(t, h.dest, true)
	})
}
