package app

import (
	"context"
	"fmt"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// DryRun says what a delivery of the current generation to a destination would do,
// which need not be defined, and changes nothing.
func (a *App) DryRun(ctx context.Context, d delivery.Destination) (delivery.DryRun, error) {
	if d.Floor == 0 {
		d.Floor = uint64(a.cfg.ExportFloor)
	}
	g := a.current.Load()
	if g == nil {
		return delivery.DryRun{}, fmt.Errorf("try a delivery to %s: there is no generation yet; build one first", d.ID)
	}
	src, err := a.source(ctx, a.catalog.Load(), &d, g)
	if err != nil {
		return delivery.DryRun{}, fmt.Errorf("try a delivery to %s: %w", d.ID, err)
	}
	return a.deliverer.DryRun(ctx, d, src)
}

func (d deliveries) DryRun(ctx context.Context, x delivery.Destination) (delivery.DryRun, error) {
	return d.a.DryRun(ctx, x)
}

func (d deliveries) OpenSent(ctx context.Context, id taxonomy.DestinationID, file string) (*delivery.Sent, error) {
	return d.a.deliverer.OpenSent(ctx, id, file)
}
