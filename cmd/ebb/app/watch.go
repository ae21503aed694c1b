package app

import (
	"context"
	"fmt"
	"time"

	"github.com/ebb-dmp/ebb/retention/cassandra"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// watchEvery is how often a node looks whether what it depends on is so.
const watchEvery = 20 * time.Second

// clusterNotice is what a node found when it last looked at the cluster.
type clusterNotice struct {
	at       taxonomy.Millis
	err      error // why it could not look
	problems []cassandra.Problem
	holes    []cassandra.Hole
}

// watch looks at the cluster, for readyz.
func (a *App) watch(ctx context.Context) error {
	n := &clusterNotice{at: a.env.millis()}
	defer a.cluster.notice.Store(n)
	if n.problems, n.err = a.cluster.store.Problems(ctx); n.err != nil {
		return fmt.Errorf("look at the cluster: %w", n.err)
	}
	for _, g := range a.fold.built() {
		holes, err := a.cluster.log.Holes(ctx, g.n, g.fold.Load().Position())
		if err != nil {
			n.err = err
			return fmt.Errorf("look at the cluster: %w", err)
		}
		for _, h := range holes {
			if h.Lost {
				n.holes = append(n.holes, h)
			}
		}
	}
	return nil
}

// clusterReady says what of the cluster keeps this node from traffic, and what
// calls for an operator.
func (a *App) clusterReady() (faults, warnings []string) {
	n := a.cluster.notice.Load()
	if n == nil {
		return nil, nil
	}
	if n.err != nil {
		warnings = append(warnings, fmt.Sprintf("Cassandra does not answer: %v; events are kept in this node's log and copied when it does", n.err))
	}
	for _, p := range n.problems {
		if p.Fatal {
			faults = append(faults, p.String())
		} else {
			warnings = append(warnings, p.String())
		}
	}
	for _, h := range n.holes {
		faults = append(faults, fmt.Sprintf("group %d stands still: records %d to %d of writer %s are missing and will not come; run `ebb log skip %s --group %d` to go on without them", h.Group, h.Next, h.Behind-1, h.Writer, h.Writer, h.Group))
	}
	for _, g := range a.fold.list {
		if t := g.tenure.Load(); t != nil && !a.lives(t) {
			warnings = append(warnings, fmt.Sprintf("the lease of group %d was not renewed in time; nothing is built under it", g.n))
		}
	}
	return faults, warnings
}
