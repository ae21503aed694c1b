package app

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
)

var noon = taxonomy.MillisOf(time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC))

// pageWorld is a node that builds and one that takes events and answers pages,
// with two audiences for pages.
func pageWorld(t *testing.T) (c *memCluster, builder, edge *memNode) {
	t.Helper()
	c = newMemCluster(t, noon)
	builder = c.node("builder", nil)
	builder.define(defs.Source, "web", taxonomy.Source{ID: "web", Title: "The shop", Party: 1})
	builder.define(defs.Site, "shop", taxonomy.Site{ID: "shop", Title: "The shop", Origins: []string{"https://shop.example"}, Source: "web", Consent: taxonomy.ModeOptIn})
	for _, id := range []string{"tea", "wine"} {
		builder.define(defs.Rule, id, rules.Rule{ID: id, When: []rules.Condition{{Field: "path", Op: "prefix", Value: "/" + id}}, Then: []string{"k:about=" + id}})
		builder.define(defs.Audience, id, audience.Definition{ID: taxonomy.AudienceID(id), Title: id, Kind: audience.KindRule, Rule: json.RawMessage(`{"trait":"k:about=` + id + `","window":"7d"}`), Page: true})
	}
	edge = c.node("edge", map[string]string{"roles": "edge,api"})
	c.steps(time.Second, builder, edge)
	builder.build()
	c.steps(time.Second, builder, edge)
	return c, builder, edge
}

func (n *memNode) build() {
	n.c.t.Helper()
	if _, err := n.Build(n.c.t.Context()); err != nil {
		n.c.t.Fatal(err)
	}
}

var pageViews uint64

// visit records that a visitor saw a page, in a node's own log.
func (n *memNode) visit(v taxonomy.VisitorKey, path string) {
	n.c.t.Helper()
	pageViews++
	now := n.c.clock.Now()
	e := &taxonomy.Event{Time: now, Kind: taxonomy.EventPage, URL: "https://shop.example" + path}
	e.ID[0], e.ID[1] = byte(pageViews>>8), byte(pageViews)
	n.record(taxonomy.Record{Kind: taxonomy.RecordEvent, Received: now, Site: "shop", Source: "web", Space: taxonomy.SpaceCookie, Visitor: v, Returning: true, Event: e,
		Consent: taxonomy.Consent{Day: now.Day(), Regime: taxonomy.RegimeOptIn, Signal: taxonomy.SignalExplicit, Purposes: taxonomy.MayAll}})
}

func (n *memNode) record(r taxonomy.Record) {
	n.c.t.Helper()
	g := n.fold.of(r.Visitor, n.install.Shards)
	if _, _, err := n.wal.Append(n.c.t.Context(), g.n, []taxonomy.Record{r}, retention.AckLocal); err != nil {
		n.c.t.Fatal(err)
	}
	// What a node's own log has, it knows at once.
	if _, err := g.fold.Load().Poll(n.c.t.Context()); err != nil && !n.silent.Load() {
		n.c.t.Fatal(err)
	}
}

// says asks a node for the audiences of a visitor, and compares.
func (n *memNode) says(when string, v taxonomy.VisitorKey, stale bool, want ...taxonomy.AudienceID) tagserver.PageAnswer {
	n.c.t.Helper()
	ans, err := pages{n.App}.Page(n.c.t.Context(), v, "shop")
	if err != nil {
		n.c.t.Fatalf("%s: %s: %v", when, n.name, err)
	}
	var got []taxonomy.AudienceID
	for _, a := range ans.Audiences {
		got = append(got, a.ID)
	}
	if !slices.Equal(got, want) || ans.Stale != stale {
		n.c.t.Errorf("%s: node %s says %v, stale %t; want %v, stale %t", when, n.name, got, ans.Stale, want, stale)
	}
	return ans
}

// R33: a node to which Cassandra does not answer says what it last knew of a
// visitor, with what its own log has beyond it, as of when it knew that, and that
// it is stale. When Cassandra answers again, so is the next answer fresh.
func TestWithoutCassandraPagesGetTheLastKnownListMarkedStale(t *testing.T) {
	c, builder, edge := pageWorld(t)
	published, heard, fresh := storetest.Visitor(1), storetest.Visitor(2), storetest.Visitor(3)
	builder.visit(published, "/wine")
	builder.visit(heard, "/wine")
	c.steps(time.Second, builder, edge)
	builder.build()
	c.steps(time.Second, builder, edge)
	gen := edge.current.Load()
	builder.visit(heard, "/tea")
	c.steps(time.Second, builder, edge)
	for _, n := range []*memNode{builder, edge} {
		n.says("before", published, false, "wine")
		n.says("before", heard, false, "tea", "wine")
		n.says("before", fresh, false)
	}
	knew := c.clock.Now()

	edge.silent.Store(true)
	builder.visit(published, "/tea") // of this the node can know nothing
	c.steps(time.Second, builder, edge)
	builder.says("cut off", published, false, "tea", "wine")
	if ans := edge.says("cut off", published, true, "wine"); ans.AsOf != gen.Clock {
		t.Errorf("what the generation says is as of %s, said to be as of %s", gen.Clock, ans.AsOf)
	}
	if ans := edge.says("cut off", heard, true, "tea", "wine"); ans.AsOf > knew || ans.AsOf <= gen.Clock {
		t.Errorf("a list that was read is said to be as of %s; it was read by %s, and the generation is of %s", ans.AsOf, knew, gen.Clock)
	}
	// What the node itself takes counts at once.
	edge.visit(fresh, "/tea")
	edge.says("cut off, at this node", fresh, true, "tea")
	c.steps(time.Second, builder, edge)
	builder.says("cut off, at another node", fresh, false)

	// The first answer after it is fresh, before anything else was read anew.
	edge.silent.Store(false)
	edge.says("back", published, false, "tea", "wine")
	edge.says("back", heard, false, "tea", "wine")
	c.steps(time.Second, builder, edge)
	for _, n := range []*memNode{builder, edge} {
		n.says("and later", fresh, false, "tea")
		n.says("and later", published, false, "tea", "wine")
	}
}

// P6: who is erased is not in any answer, also not by a list that was read before,
// whether this node learnt of it before it was cut off or took it meanwhile.
func TestTheLastKnownListOfAnErasedVisitorIsNotTold(t *testing.T) {
	c, builder, edge := pageWorld(t)
	before, meanwhile := storetest.Visitor(1), storetest.Visitor(2)
	for _, v := range []taxonomy.VisitorKey{before, meanwhile} {
		builder.visit(v, "/wine")
		c.steps(time.Second, builder, edge)
		edge.says("read", v, false, "wine")
	}
	erase := func(n *memNode, v taxonomy.VisitorKey) {
		n.record(taxonomy.Record{Kind: taxonomy.RecordErasure, Received: c.clock.Now(), Space: taxonomy.SpaceCookie, Visitor: v})
	}
	erase(builder, before)
	c.steps(time.Second, builder, edge)
	edge.silent.Store(true)
	erase(edge, meanwhile)
	edge.says("cut off", before, false)
	edge.says("cut off", meanwhile, false)
}

// R21, P5: when nobody builds, answers are marked stale two minutes after the next
// generation was due, tell as much on the day after, and nothing from then on.
// Whoever builds next makes them fresh.
func TestWithoutABuilderPagesGetStaleAndThenNothing(t *testing.T) {
	c, builder, edge := pageWorld(t)
	v, w := storetest.Visitor(1), storetest.Visitor(2)
	builder.visit(v, "/wine")
	c.steps(time.Second, builder, edge)
	builder.build()
	c.steps(time.Second, builder, edge)
	gen := edge.current.Load()
	edge.says("built", v, false, "wine")

	// From here on the builder is gone. Its lists and its generation stay.
	builder.gone.Store(true)
	due, err := edge.dueAfter(gen.Clock)
	if err != nil {
		t.Fatal(err)
	}
	c.clock.Advance(due + lagLimit - c.clock.Now())
	edge.step()
	edge.says("two minutes after the next was due", v, false, "wine")
	c.clock.Advance(1)
	ans := edge.says("later", v, true, "wine")
	if ans.AsOf < gen.Clock || ans.AsOf > due {
		t.Errorf("an answer without a builder is said to be as of %s; the generation is of %s", ans.AsOf, gen.Clock)
	}
	edge.visit(w, "/tea")
	edge.says("later, at this node", w, true, "tea")
	c.clock.Advance((noon.Day() + 2).Start() - 1 - c.clock.Now())
	edge.step()
	edge.says("the day after", v, true, "wine")
	c.clock.Advance(1)
	edge.step()
	edge.says("two days after", v, true)
	edge.says("two days after", w, true)

	// Another node takes over, or the same comes back.
	second := c.node("second", nil)
	c.steps(edge.leaseLife()+time.Second, second, edge)
	if !second.fold.list[0].builds() {
		t.Fatal("the second node did not take the lease of a builder that is gone")
	}
	second.build()
	c.steps(time.Second, second, edge)
	for _, n := range []*memNode{second, edge} {
		n.says("built by another", v, false, "wine")
		n.says("built by another", w, false, "tea")
	}
}

// A node that has read a generation and not yet the checkpoint that it was built
// from says that it is behind.
func TestAGenerationAheadOfTheCheckpointIsStale(t *testing.T) {
	c, builder, edge := pageWorld(t)
	v := storetest.Visitor(1)
	builder.visit(v, "/wine")
	c.steps(time.Minute, builder)
	builder.build()
	if err := edge.followGenerations(t.Context()); err != nil {
		t.Fatal(err)
	}
	ans, err := pages{edge.App}.Page(t.Context(), storetest.Visitor(9), "shop")
	if err != nil || !ans.Stale {
		t.Errorf("a node behind the generation answered %+v, %v", ans, err)
	}
	edge.step()
	edge.says("the checkpoint is read", v, false, "wine")
}

// P9: the lists that are remembered are bounded, and the last ones that were read
// are among them.
func TestLastKnownListsAreBounded(t *testing.T) {
	var r heardLists
	for i := range 5 * keptLists {
		r.keep(storetest.Visitor(i), &pageList{at: taxonomy.Millis(i)})
		if n := len(r.young) + len(r.old); n > 2*keptLists {
			t.Fatalf("%d lists are kept, at most %d", n, 2*keptLists)
		}
		if back := i - keptLists + 1; back >= 0 && r.of(storetest.Visitor(back)) == nil {
			t.Fatalf("of %d lists the %dth is forgotten", i+1, back)
		}
	}
	last := storetest.Visitor(5*keptLists - 1)
	if r.keep(last, nil); r.of(last) != nil {
		t.Error("a list that is gone is remembered")
	}
}
