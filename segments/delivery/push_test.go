package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/deliverytest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

func pushFilled(t *testing.T, n int) *pushRig {
	return newPushRig(t, filled(t, n).w)
}

func (r *pushRig) push(t tb, dest delivery.Destination) delivery.Delivery {
	t.Helper()
	done, err := r.d.Run(context.Background(), dest, r.w.generation())
	if err != nil {
		t.Fatalf("run: %v", err)
	}
	if r.to.Fault != nil {
		t.Fatalf("the receiver: %v", r.to.Fault)
	}
	return done
}

// A crash at any write resumes where the partner acknowledged: whatever chunk
// was noted is not sent again, and the same bytes go under the same key.
func TestACrashAtAnyChunkResumesWhereThePartnerAcknowledged(t *testing.T) {
	for after := range 20 {
		for _, late := range []bool{false, true} {
			r := pushFilled(t, 5) // 20 rows in 7 chunks
			src := r.w.generation()
			r.fault.after, r.fault.late = after, late
			_, err := r.d.Run(context.Background(), pushed(), src)
			crashed, before := r.fault.down, r.to.Calls
			if crashed != (err != nil) {
				t.Fatalf("crash at write %d: %v", after, err)
			}
			r.restart(t)
			done, err := r.d.Run(context.Background(), pushed(), src)
			if err != nil {
				t.Fatal(err)
			}
			if !crashed && done.Result != delivery.ResultDelivered {
				t.Fatalf("without a crash: %+v", done)
			}
			if again := before + (r.to.Calls - before) - 7; again > 1 || len(r.to.Keys) != 7 {
				t.Fatalf("crash at write %d, late %v: %d chunks were sent again, under %d keys", after, late, again, len(r.to.Keys))
			}
			dest := pushed()
			same(t, fmt.Sprint("crash at write ", after), r.to.Holds(r.w.now), r.w.want(&dest))
		}
	}
}

// A partner that is down for a day is asked again, more and more rarely, and
// never sooner than it wishes; then it gets what holds by then.
func TestAPartnerThatIsDownForADayIsAskedAgain(t *testing.T) {
	r := pushFilled(t, 5)
	dest := pushed()
	up := r.w.now + 26*taxonomy.Hour
	var asked []taxonomy.Millis
	r.to.Fate = func(*delivery.Chunk) deliverytest.Fate {
		asked = append(asked, r.w.now)
		if r.w.now < up {
			return deliverytest.Lost
		}
		return deliverytest.Takes
	}
	for range 5 * 28 {
		r.push(t, dest)
		r.w.now += 12 * taxonomy.Minute
		if len(asked) == 1 {
			r.w.visitors[0].consent.Purposes = taxonomy.MayStore // withdrawn meanwhile
		}
	}
	for i := 1; i < len(asked) && asked[i] < up; i++ {
		if gap := asked[i] - asked[i-1]; gap < taxonomy.Minute || gap > taxonomy.Hour+24*taxonomy.Minute {
			t.Fatalf("attempt %d came %v after the one before", i, gap)
		}
	}
	if len(asked) < 26 {
		t.Fatalf("only %d attempts in 26 h", len(asked))
	}
	same(t, "after a day", r.to.Holds(r.w.now), r.w.want(&dest))

	r.to.Fate = func(*delivery.Chunk) deliverytest.Fate { return deliverytest.Busy }
	r.w.now += 24 * taxonomy.Hour
	if done := r.push(t, dest); done.Result != delivery.ResultWaiting || done.Next < r.w.now+90*taxonomy.Minute || done.Fault == "" {
		t.Fatalf("asked to come again after 90 minutes: %+v", done)
	}
	before := r.to.Calls
	r.w.now += 89 * taxonomy.Minute
	if r.push(t, dest); r.to.Calls != before {
		t.Fatal("the partner was asked before it wished")
	}
}

// A chunk that the partner refuses stops no other; it is a dead letter, and is
// planned anew when it is replayed.
func TestARefusedChunkStopsNoOther(t *testing.T) {
	r := pushFilled(t, 5)
	dest := pushed()
	r.to.Fate = func(c *delivery.Chunk) deliverytest.Fate {
		if c.Index == 2 {
			return deliverytest.Refuses
		}
		return deliverytest.Takes
	}
	done := r.push(t, dest)
	if done.Chunks != 7 || done.Acknowledged != 6 || done.Refused != 1 || done.Held != 17 || done.Result != delivery.ResultWaiting {
		t.Fatalf("%+v", done)
	}
	letters, err := r.d.Letters(context.Background(), dsp)
	if err != nil || len(letters) != 1 || letters[0].Rows != 3 || letters[0].Fault != "status 400: refused" {
		t.Fatalf("letters are %+v, %v", letters, err)
	}
	r.to.Fate = func(*delivery.Chunk) deliverytest.Fate { return deliverytest.Takes }
	if r.push(t, dest); len(r.to.Holds(r.w.now)) != 17 {
		t.Fatal("what was refused was sent again at once")
	}
	if err := r.d.Replay(context.Background(), dsp); err != nil {
		t.Fatal(err)
	}
	if done := r.push(t, dest); done.Adds != 3 || done.Held != 20 {
		t.Fatalf("after the replay: %+v", done)
	}
	same(t, "after the replay", r.to.Holds(r.w.now), r.w.want(&dest))
}

// R25: an unknown chunk counts as possibly held, so that its rows are removed if
// they must go, and added if they must be there.
func TestWhatMayBeHeldIsRemovedAndAddedAgain(t *testing.T) {
	r := pushFilled(t, 5)
	dest := pushed()
	r.to.Fate = func(*delivery.Chunk) deliverytest.Fate { return deliverytest.TakesMute }
	for range 8 {
		r.push(t, dest)
		r.w.now += 2 * taxonomy.Hour
	}
	v := r.w.visitors[1]
	v.gone, v.nameless = true, true
	if err := r.d.Forget(context.Background(), []taxonomy.VisitorKey{v.key}); err != nil {
		t.Fatal(err)
	}
	v.dropped = true
	r.to.Fate = func(*delivery.Chunk) deliverytest.Fate { return deliverytest.Takes }
	for range 8 {
		r.push(t, dest)
		r.w.now += 2 * taxonomy.Hour
	}
	same(t, "after answers came", r.to.Holds(r.w.now), r.w.want(&dest))
}

// P6: what is under way and holds a visitor who is forgotten is not sent on.
func TestForgettingStopsWhatIsUnderWay(t *testing.T) {
	r := pushFilled(t, 5)
	dest := pushed()
	v := r.w.visitors[1]
	id := r.w.id(&dest, v)
	forgot := false
	r.to.Fate = func(c *delivery.Chunk) deliverytest.Fate {
		if c.Index == 1 && !forgot {
			forgot = true
			v.gone, v.nameless = true, true
			if err := r.d.Forget(context.Background(), []taxonomy.VisitorKey{v.key}); err != nil {
				t.Error(err)
			}
		}
		return deliverytest.Takes
	}
	r.push(t, dest)
	r.push(t, dest)
	same(t, "after the erasure", r.to.Holds(r.w.now), r.w.want(&dest))
	// The night's eraser comes for what was sent and is kept.
	if err := r.d.Erase(context.Background(), []taxonomy.VisitorKey{v.key}); err != nil {
		t.Fatal(err)
	}
	v.dropped = true
	for range 3 { // the full says it once more, and then the ID is nowhere
		r.w.now += 24 * taxonomy.Hour
		for _, o := range r.w.visitors {
			if o != v {
				r.w.sees(o, colCar)
			}
		}
		r.push(t, dest)
	}
	if r.somewhere(t, id) {
		t.Fatal("an erased visitor's ID is still on disk")
	}
}

// A rate is kept by the injected clock, and the width of a wave is bounded.
func TestARateIsKept(t *testing.T) {
	r := pushFilled(t, 6) // 24 rows in 8 chunks
	dest := pushed()
	dest.Push = delivery.Push{PerMinute: 2, Concurrency: 4}
	var at []taxonomy.Millis
	r.to.Fate = func(*delivery.Chunk) deliverytest.Fate { at = append(at, r.w.now); return deliverytest.Takes }
	var waits []time.Duration
	r.waited = func(d time.Duration) {
		waits = append(waits, d)
		r.w.now += taxonomy.Millis(d.Milliseconds())
	}
	if done := r.push(t, dest); done.Acknowledged != 8 {
		t.Fatalf("%+v", done)
	}
	if len(waits) != 3 || at[7]-at[0] != 3*taxonomy.Minute {
		t.Fatalf("waited %v; the last chunk went after %v", waits, at[7]-at[0])
	}
}

// A destination that changes from pull to push, and its pseudonyms: what was
// held under the old IDs is taken away.
func TestNewPseudonymsTakeTheOldOnesAway(t *testing.T) {
	r := pushFilled(t, 4)
	dest := pushed()
	r.push(t, dest)
	old := r.to.Holds(r.w.now)
	dest.PseudonymEpoch++
	r.w.now += taxonomy.Hour
	if done := r.push(t, dest); done.Removes != uint64(len(old)) || done.Why != "the partner's IDs changed" {
		t.Fatalf("%+v", done)
	}
	same(t, "with new pseudonyms", r.to.Holds(r.w.now), r.w.want(&dest))
}

func TestAStoppedProcessIsNotThePartnersFault(t *testing.T) {
	r := pushFilled(t, 4)
	ctx, cancel := context.WithCancel(context.Background())
	r.to.Fate = func(*delivery.Chunk) deliverytest.Fate { cancel(); return deliverytest.Lost }
	if _, err := r.d.Run(ctx, pushed(), r.w.generation()); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	r.to.Fate = func(*delivery.Chunk) deliverytest.Fate { return deliverytest.Takes }
	if done := r.push(t, pushed()); done.Result == delivery.ResultWaiting {
		t.Fatalf("it waits: %+v", done)
	}
	dest := pushed()
	same(t, "after the restart", r.to.Holds(r.w.now), r.w.want(&dest))
}
