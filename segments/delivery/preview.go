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
	newest, err := d.o.View(ctx)
	if err != nil {
		return nil, fmt.Errorf("preview a delivery to %s: read the newest view: %w", dest.ID, err)
	}
	today := d.o.Now().Day()
	var spools []Spool
	defer func() {
		for _, s := range spools {
			s.Close() // only held what is said below
		}
	}()
	t, err := gather(ctx, &dest, src.suppressing(ctx), newest, today, func() (Spool, error) {
		s, err := d.spool()
		if err == nil {
			spools = append(spools, s)
		}
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("preview a delivery to %s: %w", dest.ID, err)
	}
	next, _ := Plan(NewLedger(), &Input{Today: today, Shards: src.View.Shards(), Full: true, Floor: dest.Floor,
		Target: t.held, IDs: t.ids, Name: d.namer(&dest, src.View, t.ids)})
	if err := t.ids.err(); err != nil {
		return nil, fmt.Errorf("preview a delivery to %s: %w", dest.ID, err)
	}
	next.IDs = nil // they go with their file
	return next, nil
}
