package app

import (
	"context"

	"github.com/ebb-dmp/ebb/segments/insight"
)

// Overlap counts how far groups overlap, and Profile what the members of an audience
// are like, as of the last committed checkpoint: on every node of a cluster what any
// other says of the same position. Faults are taxonomy.FieldErrors.
func (a *App) Overlap(ctx context.Context, q insight.OverlapQuery) (*insight.Overlap, error) {
	return insight.NewOverlap(ctx, a.basis(a.fold.View(), a.catalog.Load()), q)
}

// Profile is with Overlap.
func (a *App) Profile(ctx context.Context, q insight.ProfileQuery) (*insight.Profile, error) {
	c := a.catalog.Load()
	return insight.NewProfile(ctx, a.basis(a.fold.View(), c), c.classifier.Forest(), q)
}
