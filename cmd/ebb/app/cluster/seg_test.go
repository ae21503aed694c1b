package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/insight"
	"github.com/ebb-dmp/ebb/segments/query"
)

// R33: what a visitor does at any edge is in the answer of every node within 3 s,
// though each knows of the others by Cassandra alone.
func TestAnEventAtAnyEdgeIsInTheAnswerOfEveryNode(t *testing.T) {
	t.Parallel()
	w := newWorld(t, map[string]string{"ack": "quorum"})
	w.init()
	nodes := []*node{w.start("a", nil), w.start("b", nil), w.start("edge", map[string]string{"roles": "edge,api"})}
	nodes[1].site()
	w.until("every node knows the site", func() bool {
		return !slices.ContainsFunc(nodes, func(n *node) bool { return n.send(browser{}, "GET", "/v1/seg?site=shop&consent=1", "").Code != 200 })
	})
	w.until("a generation with the audiences is known to all", func() bool {
		return !slices.ContainsFunc(nodes, func(n *node) bool {
			g := n.Generation()
			return g == nil || len(g.Audiences) != 3
		})
	})
	// Rules that are new come into force by a re-fold of what is stored, which the
	// first visitor waits for.
	first := nodes[0].newBrowser()
	nodes[0].visit(first, "/wine")
	w.until("the rules are in force", func() bool { got, _ := nodes[1].seg(first); return slices.Contains(got, "wine") })
	var took []time.Duration
	for i := range 40 {
		at := nodes[i%3]
		b := at.newBrowser()
		path := []string{"/wine", "/tea"}[i%2]
		want := []string{"wine", "tea-only"}[i%2]
		at.visit(b, path)
		begin := time.Now()
		for j := range nodes {
			n := nodes[(i+j)%3]
			w.until(fmt.Sprintf("visitor %d of node %s is in %s at node %s", i, at.name, want, n.name), func() bool {
				got, _ := n.seg(b)
				return slices.Contains(got, want)
			})
		}
		took = append(took, time.Since(begin))
		// The visitor goes on at another edge: what one node saw and what another saw
		// add up on every node.
		if i%2 == 0 {
			nodes[(i+1)%3].visit(b, "/wine/red")
			for _, n := range nodes {
				w.until(fmt.Sprintf("visitor %d is in wine-twice at node %s", i, n.name), func() bool {
					got, _ := n.seg(b)
					return slices.Contains(got, "wine-twice")
				})
			}
		} else {
			nodes[(i+2)%3].visit(b, "/wine")
			for _, n := range nodes {
				w.until(fmt.Sprintf("visitor %d has left tea-only at node %s", i, n.name), func() bool {
					got, _ := n.seg(b)
					return !slices.Contains(got, "tea-only") && slices.Contains(got, "wine")
				})
			}
		}
	}
	slices.Sort(took)
	t.Logf("from an event at an edge to /v1/seg of all three nodes: p50 %v, p90 %v, p99 %v, longest %v", took[len(took)/2], took[len(took)*9/10], took[len(took)*99/100], took[len(took)-1])

	// Any node gives the same exact estimate as of the same position.
	same(t, w, nodes, `{"trait":"k:about=wine"}`, 41)
	same(t, w, nodes, `{"and":[{"trait":"k:about=tea"},{"not":{"trait":"k:about=wine","min":2}}]}`, 20)
	sameReports(t, w, nodes)
}

// sameReports waits until all nodes are at one position, and compares their reports:
// that of the node which folds is that of every other, for none of them owns an index.
func sameReports(t *testing.T, w *world, nodes []*node) {
	t.Helper()
	type reports struct {
		*insight.Overlap
		Cells   []uint64
		Profile *insight.Profile
	}
	var answers []reports
	w.until("all nodes report as of one position", func() bool {
		answers = nil
		for _, n := range nodes {
			o, err := n.Overlap(ctx, insight.OverlapQuery{Of: []insight.Group{{Audience: "wine"}, {Audience: "wine-twice"}, {Audience: "tea-only"}}})
			if err != nil {
				t.Fatal(err)
			}
			p, err := n.Profile(ctx, insight.ProfileQuery{Audience: "wine"})
			if err != nil {
				t.Fatal(err)
			}
			answers = append(answers, reports{o, o.Exclusive(), p})
		}
		return !slices.ContainsFunc(answers, func(a reports) bool {
			return !maps.Equal(a.Overlap.Position, answers[0].Overlap.Position) || !maps.Equal(a.Profile.Position, answers[0].Overlap.Position)
		})
	})
	for i, a := range answers {
		got, _ := json.Marshal(a)
		first, _ := json.Marshal(answers[0])
		if string(got) != string(first) {
			t.Errorf("node %s: %s\nnode %s: %s", nodes[i].name, got, nodes[0].name, first)
		}
	}
	// 41 had wine, 20 of them twice; 20 tea and no wine.
	if o := answers[0].Overlap; o.Together(insight.Of(0)) != 41 || o.Together(insight.Of(0, 1)) != o.Together(insight.Of(1)) || o.Together(insight.Of(0, 2)) != 0 || answers[0].Profile.Members != 41 {
		t.Errorf("the cells are %d", answers[0].Cells)
	}
}

// same waits until all nodes are at one position, and compares what they answer.
func same(t *testing.T, w *world, nodes []*node, rule string, want uint64) {
	t.Helper()
	e, err := query.Parse([]byte(rule))
	if err != nil {
		t.Fatal(err)
	}
	var answers []*audience.Estimate
	w.until("all nodes answer as of one position with all events", func() bool {
		answers = nil
		for _, n := range nodes {
			a, err := n.Estimate(ctx, e)
			if err != nil {
				t.Fatal(err)
			}
			answers = append(answers, a)
		}
		for _, a := range answers[1:] {
			if !maps.Equal(a.Position, answers[0].Position) {
				return false
			}
		}
		return answers[0].Count == want
	})
	for i, a := range answers {
		got, _ := json.Marshal(a)
		first, _ := json.Marshal(answers[0])
		if string(got) != string(first) {
			t.Errorf("node %s: %s\nnode %s: %s", nodes[i].name, got, nodes[0].name, first)
		}
	}
}
