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
