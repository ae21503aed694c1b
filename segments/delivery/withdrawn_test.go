package delivery_test

import (
	"context"
	"testing"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// R31: where a rule uses nothing positively, the newest event of all counts: not
// that of a source which has been withdrawn, whose columns still stand in the index.
func TestAWithdrawnSourceLetsNobodyBeHeldLonger(t *testing.T) {
	w := newWorld(1)
	v := w.visitors[0]
	seen := w.today()
	w.sees(v, colBoat)
	v.member["nobody-bought"] = true
	w.now += 80 * taxonomy.OneDay
	v.newest[colAlly] = w.today()
	v.consent.Day = w.today()
	r := newRig(t, w)
	dest := destination()
	dest.Floor = 1
	held, err := r.d.Preview(context.Background(), dest, w.generation())
	if err != nil {
		t.Fatal(err)
	}
	until := func(h delivery.Held) (d taxonomy.Day) {
		for day, b := range h[v.shard(w)] {
			if b.Contains(v.ordinal) {
				d = day
			}
		}
		return d
	}
	if got, want := until(held.Held["nobody-bought"]), seen+taxonomy.RetentionDays; got != want {
		t.Errorf("held until day %d, want %d: its own newest event and 90 days", got, want)
	}
}
