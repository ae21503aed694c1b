package audience

import (
	"context"
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Estimate is what a rule would give now: exact, as of a stated position (P7).
type Estimate struct {
	query.Explanation
	AsOf     taxonomy.Millis    `json:"as_of"` // the fold's clock
	Position retention.Position `json:"position"`
}

// Basis is what an estimate is made on.
type Basis struct {
	View    View
	Catalog *Catalog
	Sources []taxonomy.SourceID // in use for profiling
	// Members returns who is in an audience of the last generation, for nested
	// lookalikes; nil, or an empty set, if there is none.
	Members func(context.Context, taxonomy.AudienceID) (index.Set, error)
	Workers int
}

// NewEstimate counts an expression and explains the count. Faults of the
// expression are taxonomy.FieldErrors with paths in it.
func NewEstimate(ctx context.Context, b Basis, e query.Expr) (*Estimate, error) {
	members := b.Members
	if members == nil {
		members = func(context.Context, taxonomy.AudienceID) (index.Set, error) { return nil, nil }
	}
	if err := query.Check(e); err != nil {
		return nil, err
	}
	leaves, err := withLookalikes(ctx, b.View, b.Catalog, members, e)
	if err != nil {
		return nil, fmt.Errorf("estimate: %w", err)
	}
	today := b.View.Clock().Day()
	r, err := query.NewIndexResolver(b.View, today, b.Sources, b.Catalog.Audience)
	if err != nil {
		return nil, fmt.Errorf("estimate: %w", err)
	}
	x, err := query.Explain(ctx, leaves, today, r, e, query.RunOptions{Workers: b.Workers})
	if err != nil {
		return nil, err
	}
	return &Estimate{Explanation: *x, AsOf: b.View.Clock(), Position: b.View.Position().Clone()}, nil
}

// Reach is how many visitors had each of some traits, in the 90 days and day by day:
// exact, as of a stated position (P7).
type Reach struct {
	Courses  []query.Course // in the order of the traits
	AsOf     taxonomy.Millis
	Position retention.Position
}

// NewReach counts traits, and nobody who did not agree to be counted in insights
// (TCF purpose 9): it is a report on visitors and not the size of an audience, in
// which those may be all the same. Of b it needs View and Sources.
func NewReach(ctx context.Context, b Basis, traits []taxonomy.Trait) (*Reach, error) {
	today := b.View.Clock().Day()
	b.Catalog = NewCatalog(nil) // no audience is asked
	leaves, r, err := b.Insights(ctx)
	if err != nil {
		return nil, fmt.Errorf("count traits: %w", err)
	}
	cs, err := query.Courses(ctx, leaves, today, r, traits, query.RunOptions{Workers: b.Workers})
	if err != nil {
		return nil, fmt.Errorf("count traits: %w", err)
	}
	return &Reach{Courses: cs, AsOf: b.View.Clock(), Position: b.View.Position().Clone()}, nil
}

// Insights returns what a report on visitors at large asks, and what its words mean:
// the leaves of b, of whose visitors only those who may be counted in insights are
// eligible, with the members of the lookalikes that the expressions or the catalog
// name.
func (b Basis) Insights(ctx context.Context, exprs ...query.Expr) (index.Leaves, query.Resolver, error) {
	members := b.Members
	if members == nil {
		members = func(context.Context, taxonomy.AudienceID) (index.Set, error) { return nil, nil }
	}
	leaves, err := withLookalikes(ctx, b.View, b.Catalog, members, exprs...)
	if err != nil {
		return nil, nil, err
	}
	r, err := query.NewIndexResolver(b.View, b.View.Clock().Day(), b.Sources, b.Catalog.Audience)
	if err != nil {
		return nil, nil, err
	}
	return insights{leaves}, r, nil
}

// insights are the leaves of an index of whose visitors only those who may be
// counted in insights are eligible.
type insights struct{ index.Leaves }

var mayInsight = &index.Operand{Kind: index.OpSet, Set: index.SetInsight}

// Leaf is part of index.Leaves.
func (v insights) Leaf(shard, block int, op *index.Operand, dst *index.Words) (int, error) {
	n, err := v.Leaves.Leaf(shard, block, op, dst)
	if err != nil || n == 0 || op.Kind != index.OpSet || op.Set != index.SetProfile {
		return n, err
	}
	var may index.Words
	if _, err := v.Leaves.Leaf(shard, block, mayInsight, &may); err != nil {
		return 0, err
	}
	for i := range dst {
		dst[i] &= may[i]
	}
	return dst.Count(), nil
}
