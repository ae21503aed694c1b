package forget_test

import (
	"slices"
	"testing"

	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// R29: after a restore everyone is erased whole and at once, who stood in the
// queue of the backup too, however many nights it had; no plain key is left.
func TestEraseAllLeavesNoKeyAndAReceiptThatIsDone(t *testing.T) {
	ctx := t.Context()
	clock := storetest.NewClock(storetest.Start)
	k := storetest.NewModel(clock.Now).Keyed()
	p := newPlaces(&fuse{at: -1})
	e := &forget.Eraser{Keyed: k, Holders: p.holders(), Hash: hash, Now: clock.Now}
	for n := range 4 {
		p.put(key(n), clock.Now().Day())
	}
	at := clock.Now()
	if err := e.Queue(ctx, []forget.Erasure{{Visitor: key(1), Space: "own:crm", At: at}}); err != nil {
		t.Fatal(err)
	}
	if !keyOnDisk(t, k, key(1)) {
		t.Fatal("the plain key is not in the queue: the search below would find nothing in any case")
	}
	clock.Advance(30 * taxonomy.OneDay) // the backup is old, and its queue long over
	p.calls = nil
	if n, err := e.EraseAll(ctx, []forget.Erasure{{Visitor: key(2), Space: "own:crm", At: at + 1}}); err != nil || n != 2 {
		t.Fatalf("%d visitors, %v", n, err)
	}
	if want := []string{"erase delivery", "erase fold", "erase events"}; !slices.Equal(p.calls, want) {
		t.Errorf("calls %q, want %q", p.calls, want)
	}
	for _, name := range p.names {
		if len(p.in[name]) != 2 {
			t.Errorf("%d visitors are in %s, want the 2 others", len(p.in[name]), name)
		}
	}
	for _, v := range []int{1, 2} {
		if keyOnDisk(t, k, key(v)) {
			t.Errorf("the plain key of visitor %d is on disk", v)
		}
		if r, err := e.Receipt(ctx, e.ID(key(v))); err != nil || !r.Done || len(r.Nights) != 1 || r.Nights[0] != clock.Now() {
			t.Errorf("visitor %d: receipt %+v, %v", v, r, err)
		}
	}
	if r := forget.Audit(ctx, []forget.Holder{e.Holder()}, clock.Now()); !r.OK {
		t.Errorf("the queue is too old: %+v", r)
	}
	if n, err := e.Night(ctx); err != nil || n != 0 {
		t.Errorf("the night that follows took %d visitors, %v", n, err)
	}
}
