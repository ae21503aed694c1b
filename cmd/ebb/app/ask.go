package app

import (
	"context"
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// View is what is known as of the last committed checkpoint.
func (a *App) View() audience.View { return a.fold.View() }

// Generation is the published generation, nil before the first. It must not be
// changed.
func (a *App) Generation() *audience.Generation { return a.current.Load() }

// Members reads the members of an audience in the published generation; the
// caller owns the set. retention.ErrNotFound: there is no such audience in it.
func (a *App) Members(ctx context.Context, id taxonomy.AudienceID) (index.Set, error) {
	if g := a.current.Load(); g != nil {
		if e, ok := g.Entry(id); ok {
			return a.generations.Members(ctx, e)
		}
	}
	return nil, fmt.Errorf("members of audience %q: %w", id, retention.ErrNotFound)
}

// Estimate counts a rule and explains the count, as of the last committed
// checkpoint. Faults of the rule are taxonomy.FieldErrors.
func (a *App) Estimate(ctx context.Context, e query.Expr) (*audience.Estimate, error) {
	return audience.NewEstimate(ctx, a.basis(a.fold.View(), a.catalog.Load()), e)
}

// basis is what questions to a view are asked on.
func (a *App) basis(v audience.View, c *catalog) audience.Basis {
	return audience.Basis{View: v, Catalog: c.audiences, Sources: c.inUse,
		Members: func(ctx context.Context, id taxonomy.AudienceID) (index.Set, error) {
			if g := a.current.Load(); g != nil {
				if e, ok := g.Entry(id); ok {
					return a.generations.Members(ctx, e)
				}
			}
			return nil, nil
		}}
}
