package audience

import (
	"context"
	"fmt"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Now returns who is in each of some audiences as of a view, in the order of ids:
// ahead of the generation that the next build makes. A lookalike is as of the last
// generation. An audience that there is none of, or that cannot be read, is an
// error: an empty one would pass for nobody.
func Now(ctx context.Context, b Basis, ids []taxonomy.AudienceID) ([]index.Set, error) {
	members := b.Members
	if members == nil {
		members = func(context.Context, taxonomy.AudienceID) (index.Set, error) { return nil, nil }
	}
	exprs := make([]query.Expr, len(ids))
	for i, id := range ids {
		exprs[i] = query.Audience{ID: id}
	}
	leaves, err := withLookalikes(ctx, b.View, b.Catalog, members, exprs...)
	if err != nil {
		return nil, fmt.Errorf("evaluate audiences: %w", err)
	}
	today := b.View.Clock().Day()
	r, err := query.NewIndexResolver(b.View, today, b.Sources, b.Catalog.Audience)
	if err != nil {
		return nil, fmt.Errorf("evaluate audiences: %w", err)
	}
	plan := query.NewPlan(today, r)
	roots := make([]int, len(ids))
	for i, id := range ids {
		if d, ok := b.Catalog.Get(id); ok {
			if err := b.Catalog.check(d); err != nil {
				return nil, fmt.Errorf("evaluate audience %q: %w", id, err)
			}
		}
		if roots[i], err = plan.Add(exprs[i]); err != nil {
			return nil, fmt.Errorf("evaluate audience %q: %w", id, err)
		}
	}
	res, err := plan.Run(ctx, leaves, query.RunOptions{Workers: b.Workers})
	if err != nil {
		return nil, fmt.Errorf("evaluate audiences: %w", err)
	}
	sets := make([]index.Set, len(ids))
	for i, n := range roots {
		sets[i] = res.Sets[n]
	}
	return sets, nil
}
