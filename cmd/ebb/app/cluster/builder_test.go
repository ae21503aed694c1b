package cluster

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/segments/audience"
)

// watcher notes every generation that a node takes in, in order.
type watcher struct {
	mu   sync.Mutex
	seen []*audience.Generation
	stop chan struct{}
	done chan struct{}
}

func watch(n *node) *watcher {
	w := &watcher{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for {
			if g := n.Generation(); g != nil {
				w.mu.Lock()
				if len(w.seen) == 0 || w.seen[len(w.seen)-1] != g {
					w.seen = append(w.seen, g)
				}
				w.mu.Unlock()
			}
			select {
			case <-w.stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return w
}

// end returns what was seen.
func (w *watcher) end() []*audience.Generation {
	close(w.stop)
	<-w.done
	return w.seen
}

// ordered fails the test if a term or a number went back.
func ordered(t *testing.T, seen []*audience.Generation) {
	t.Helper()
	for i := 1; i < len(seen); i++ {
		if a, b := seen[i-1], seen[i]; b.Term < a.Term || b.Number <= a.Number {
			t.Errorf("generation %d of term %d came after %d of term %d", b.Number, b.Term, a.Number, a.Term)
		}
	}
}

// ready waits until every node knows the definitions and the rules are in force.
func (w *world) ready(nodes ...*node) browser {
	w.t.Helper()
	w.until("every node knows the site", func() bool {
		return !slices.ContainsFunc(nodes, func(n *node) bool { return n.send(browser{}, "GET", "/v1/seg?site=shop&consent=1", "").Code != 200 })
	})
	b := nodes[0].newBrowser()
	nodes[0].visit(b, "/wine")
	for _, n := range nodes {
		w.until("the rules are in force at node "+n.name, func() bool {
			got, _ := n.seg(b)
			g := n.Generation()
			return slices.Contains(got, "wine") && g != nil && len(g.Audiences) == 3
		})
	}
	return b
}

// R4, R6: whoever builds may end in order, be gone without a word, or be frozen
// past its lease and go on: another node builds on from the last checkpoint,
// nothing is lost or counted twice, and what was frozen publishes nothing more.
func TestABuilderIsReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, map[string]string{"shards": "8"})
	w.init()
	first := w.start("first", nil)
	second := w.start("second", nil)
	edge := w.start("edge", map[string]string{"roles": "edge,api"})
	nodes := []*node{first, second, edge}
	first.site()
	w.ready(nodes...)
	if len(first.Builds()) != 1 || len(second.Builds()) != 0 || len(edge.Builds()) != 0 {
		t.Fatalf("groups built: %v, %v, %v", first.Builds(), second.Builds(), edge.Builds())
	}
	seen := watch(edge)
	visitors := 1
	more := func(at ...*node) {
		t.Helper()
		for _, n := range at {
			for range 5 {
				b := n.newBrowser()
				n.visit(b, "/wine")
				visitors++
			}
		}
	}
	more(nodes...)

	term := first.Generation().Term
	first.frozen.Store(true)
	more(edge, second)
	took := w.until("the second node builds", func() bool { return len(second.Builds()) == 1 })
	t.Logf("a frozen builder was replaced after %v; a lease lives 3 s", took)
	w.until("it publishes under its own term", func() bool { g := edge.Generation(); return g.Term > term })
	if b := first.Builds(); len(b) != 0 {
		t.Errorf("the frozen node still says that it builds %v", b)
	}
	first.frozen.Store(false)
	more(nodes...)
	w.until("the one that was frozen follows the other", func() bool {
		g, h := first.Generation(), edge.Generation()
		return g.Term > term && h.Number >= g.Number
	})
	if _, err := first.Build(ctx); err == nil {
		t.Error("the one that was frozen built a generation")
	}
	same(t, w, nodes, `{"trait":"k:about=wine"}`, uint64(visitors))

	// Ended in order, the lease is free at once.
	second.stop()
	took = w.until("the first node builds again", func() bool { return len(first.Builds()) == 1 })
	t.Logf("a builder that ended in order was replaced after %v", took)
	more(first, edge)
	same(t, w, []*node{first, edge}, `{"trait":"k:about=wine"}`, uint64(visitors))
	back := w.start("second", nil)
	more(back)
	same(t, w, []*node{first, edge, back}, `{"trait":"k:about=wine"}`, uint64(visitors))

	all := seen.end()
	ordered(t, all)
	terms := map[uint64]int{}
	for _, g := range all {
		terms[g.Term]++
	}
	if len(terms) < 3 {
		t.Errorf("generations by term: %v, want three builders", terms)
	}
	accounts, err := first.Accounts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for site, a := range accounts {
		if !a.Balanced() {
			t.Errorf("P2: %s: %+v", site, a)
		}
	}
}

// Groups are folded apart, by one node or several, and answers join them.
func TestGroupsJoin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, map[string]string{"shards": "8", "groups": "4"})
	w.init()
	a, b := w.start("a", nil), w.start("b", map[string]string{"roles": "edge,api,deliver"})
	a.site()
	w.ready(a, b)
	if got := a.Builds(); len(got) != 4 {
		t.Fatalf("node a builds %v", got)
	}
	visitors := 1
	more := func(at ...*node) {
		t.Helper()
		for _, n := range at {
			for range 12 {
				v := n.newBrowser()
				n.visit(v, "/wine")
				visitors++
				for _, m := range at {
					w.until(fmt.Sprintf("a visitor of node %s is in wine at node %s", n.name, m.name), func() bool {
						got, _ := m.seg(v)
						return slices.Contains(got, "wine")
					})
				}
			}
		}
	}
	more(a, b)
	same(t, w, []*node{a, b}, `{"trait":"k:about=wine"}`, uint64(visitors))
	w.until("a generation counts all", func() bool {
		e, _ := b.Generation().Entry("wine")
		return e.Count == uint64(visitors)
	})

	// One of the groups' builders goes; two others share what it had.
	c, d := w.start("c", nil), w.start("d", nil)
	a.stop()
	w.until("the groups are built again", func() bool { return len(c.Builds())+len(d.Builds()) == 4 })
	t.Logf("after the takeover c builds %v, d %v", c.Builds(), d.Builds())
	more(b, c, d)
	same(t, w, []*node{b, c, d}, `{"trait":"k:about=wine"}`, uint64(visitors))

	// Erased visitors are of any group; the nightly pass is of all nodes, and whoever
	// leads goes first.
	for range 8 {
		v := b.newBrowser()
		b.visit(v, "/wine")
		if rec := c.send(v, http.MethodPost, "/v1/optout", ""); rec.Code != http.StatusOK {
			t.Fatalf("an opt-out was answered %d %s", rec.Code, rec.Body)
		}
	}
	same(t, w, []*node{b, c, d}, `{"trait":"k:about=wine"}`, uint64(visitors))
	nodes := []*node{c, d, b}
	if slices.Contains(d.Builds(), 0) {
		nodes = []*node{d, c, b}
	}
	for _, n := range nodes {
		if err := n.Nightly(ctx); err != nil {
			t.Errorf("the nightly pass of %s: %v", n.name, err)
		}
	}
	same(t, w, []*node{b, c, d}, `{"trait":"k:about=wine"}`, uint64(visitors))
	w.until("a generation counts all", func() bool {
		e, _ := b.Generation().Entry("wine")
		return e.Count == uint64(visitors)
	})
}
