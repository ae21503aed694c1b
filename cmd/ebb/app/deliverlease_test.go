package app

import (
	"errors"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// P8: the node that takes the deliverer's lease claims every destination, also one
// that was never delivered to, before it delivers; the node before it, which was
// frozen, delivers no more under its own term. A command on any node gives way to
// nobody but a later term.
func TestWhoTakesTheDeliverersLeaseClaimsTheDestinations(t *testing.T) {
	c, first, _ := pageWorld(t)
	second := c.node("second", nil)
	ctx := t.Context()
	for _, id := range []taxonomy.DestinationID{"dsp", "fresh"} {
		first.define(defs.Destination, string(id), delivery.Destination{ID: id, Title: "A DSP", Audiences: []taxonomy.AudienceID{"wine"}, Floor: 1})
	}
	first.visit(storetest.Visitor(1), "/wine")
	deliverers := func(nodes ...*memNode) {
		t.Helper()
		for _, n := range nodes {
			if err := n.tendDeliveries(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.steps(time.Second, first, second)
	first.build()
	c.steps(time.Second, first, second)
	deliverers(first, second)
	term, ok := first.mayDeliver()
	if _, too := second.mayDeliver(); !ok || too {
		t.Fatalf("who may deliver: first %t, second %t", ok, too)
	}
	if done, err := first.deliver(ctx, "dsp", term); err != nil || done.Result != delivery.ResultFull {
		t.Fatalf("the first delivery: %+v, %v", done, err)
	}
	// A command elsewhere goes under the term that is in force.
	if done, err := second.Deliver(ctx, "dsp"); err != nil || done.Result != delivery.ResultDelivered {
		t.Errorf("a command on a node without the lease: %+v, %v", done, err)
	}

	// The first stands still for longer than its lease.
	c.clock.Advance(taxonomy.Millis(first.leaseLife().Milliseconds()) + 1)
	deliverers(second)
	later, ok := second.mayDeliver()
	if !ok || later <= term {
		t.Fatalf("the second node has term %d, %t; the first had %d", later, ok, term)
	}
	for _, id := range []taxonomy.DestinationID{"dsp", "fresh"} {
		if _, err := first.deliver(ctx, id, term); !errors.Is(err, delivery.ErrStale) {
			t.Errorf("destination %s: the first node delivered after the second had taken over: %v", id, err)
		}
	}
	if done, err := second.deliver(ctx, "fresh", later); err != nil || done.Result != delivery.ResultFull {
		t.Errorf("the second node's delivery: %+v, %v", done, err)
	}
	_ = first.tendDeliveries(ctx) // it finds that its lease is over
	if _, ok := first.mayDeliver(); ok {
		t.Error("the first node still delivers by the schedule")
	}
	if _, err := first.Deliver(ctx, "dsp"); err != nil {
		t.Errorf("a command on the node that had the lease: %v", err)
	}
}
