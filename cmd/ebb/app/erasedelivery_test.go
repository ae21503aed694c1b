package app

import (
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// deliverWorld is a page world of two nodes that may build and deliver, of which the
// first builds, with a destination and two visitors who are to be delivered to it.
func deliverWorld(t *testing.T) (c *memCluster, first, second *memNode) {
	t.Helper()
	c, first, _ = pageWorld(t)
	second = c.node("second", nil)
	first.define(defs.Destination, "dsp", delivery.Destination{ID: "dsp", Title: "A DSP", Audiences: []taxonomy.AudienceID{"wine"}, Floor: 1})
	for i := range 2 {
		first.visit(storetest.Visitor(i), "/wine")
	}
	c.steps(time.Minute, first, second)
	first.build()
	c.steps(time.Second, first, second)
	return c, first, second
}

func (n *memNode) erase(v taxonomy.VisitorKey) {
	n.record(taxonomy.Record{Kind: taxonomy.RecordErasure, Received: n.c.clock.Now(), Space: taxonomy.SpaceCookie, Visitor: v})
}

func (n *memNode) delivers(t *testing.T, rows uint64) {
	t.Helper()
	if done, err := n.Deliver(t.Context(), "dsp"); err != nil || done.Held != rows {
		t.Errorf("node %s delivered %+v, %v; want %d rows held", n.name, done, err, rows)
	}
}

// P6: a node that delivers knows the last checkpoint first, also if it has not looked
// for a while: whom the builder's eraser has dealt with meanwhile it does not deliver.
func TestANodeThatDeliversHasReadTheLastCheckpoint(t *testing.T) {
	_, first, second := deliverWorld(t)
	first.erase(storetest.Visitor(0))
	if err := first.eraseSoon(t.Context()); err != nil {
		t.Fatal(err)
	}
	if second.fold.View().Number() >= first.fold.View().Number() {
		t.Fatal("the other node has looked, so nothing is shown")
	}
	second.delivers(t, 1)
}

// P6, R25: a builder that dies has folded an erasure from its own log that nobody else
// can read yet. Its successor has it from the eraser's queue: the visitor is gone all
// the same, is taken out of what was delivered, and is not delivered again.
func TestAnErasureThatOnlyTheQueueKnowsIsCarriedOut(t *testing.T) {
	c, first, second := deliverWorld(t)
	first.delivers(t, 2)
	first.erase(storetest.Visitor(0))
	first.silent.Store(true)
	first.gone.Store(true)
	c.steps(second.leaseLife()+time.Second, second)
	c.steps(time.Second, second)
	if !second.leads() || second.fold.Erased(storetest.Visitor(0), c.clock.Now()) {
		t.Fatal("the second node does not build, or knows of the erasure by itself")
	}
	if err := second.eraseSoon(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		second.build()
		second.delivers(t, 1)
		c.steps(25*time.Hour, second)
	}
}
