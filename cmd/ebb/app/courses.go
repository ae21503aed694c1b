package app

import (
	"context"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Reach counts the visitors of traits, in the 90 days and day by day, as of the last
// committed checkpoint.
func (a *App) Reach(ctx context.Context, traits []taxonomy.Trait) (*audience.Reach, error) {
	return audience.NewReach(ctx, audience.Basis{View: a.fold.View(), Sources: a.catalog.Load().inUse}, traits)
}
