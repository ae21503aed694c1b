package app

import (
	"context"

	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Definitions are what is defined now.
func (a *App) Definitions() *defs.Snapshot { return a.defs.Snapshot() }

// Apply makes changes at once and waits until they are in force.
func (a *App) Apply(ctx context.Context, name string, changes []defs.Change) error {
	if err := a.defs.Apply(ctx, name, changes); err != nil {
		return err
	}
	if err := a.refresh(ctx); err != nil {
		return err
	}
	return a.Settle(ctx)
}

// Page are the audiences of a visitor that its page reads.
func (a *App) Page(space taxonomy.Space, id string) ([]taxonomy.AudienceID, error) {
	today := a.env.millis().Day()
	k, err := a.keys.Load().VisitorKey(space, []byte(id), today)
	if err != nil {
		return nil, err
	}
	return a.seg.Visitor(nil, k, today)
}
