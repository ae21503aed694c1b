package delivery

import (
	"context"
	"fmt"
)

// Preview returns whom a destination would hold after a delivery of a source, by
// audience, and changes nothing: members whom consent lets go, whom the partner
// knows, and that are enough for the floor.
func (d *Deliverer) Preview(ctx context.Context, dest Destination, src Source) (*Ledger, error) {
	dest = dest.WithDefaults()
	newest, err := d.o.View()
	if err != nil {
		return nil, fmt.Errorf("preview a delivery to %s: read the newest view: %w", dest.ID, err)
	}
	today := d.o.Now().Day()
	t, err := gather(ctx, &dest, src.suppressing(ctx), newest, today)
	if err != nil {
		return nil, fmt.Errorf("preview a delivery to %s: %w", dest.ID, err)
	}
	next, _ := Plan(NewLedger(), &Input{Today: today, Shards: src.View.Shards(), Full: true, Floor: dest.Floor,
		Target: t.held, IDs: t.ids, Name: d.namer(&dest, src.View, t.ids)})
	return next, nil
}
