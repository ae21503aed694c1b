package delivery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// ErrStale: a delivery was refused, or given up, because a deliverer of a later
// term has claimed the destination. It is retention.ErrHeld too.
var ErrStale = fmt.Errorf("another node has taken over the deliveries; it goes on with this one: %w", retention.ErrHeld)

// Claim says that the holder of the deliverer's lease of a term delivers from now
// on, to the destinations that are named and to all that were ever delivered to:
// whoever runs under an earlier term publishes nothing more and sends nothing more,
// also if it was frozen after its last look at the lease. What it was just sending
// may still arrive. Whoever takes the lease calls this before anything else.
// ErrStale: a later term has claimed.
//
// Term 0, of an installation without leases, claims nothing.
func (d *Deliverer) Claim(ctx context.Context, term uint64, defined []taxonomy.DestinationID) error {
	if term == 0 {
		return nil
	}
	ids, err := d.destinations(ctx)
	if err != nil {
		return fmt.Errorf("claim deliveries for term %d: %w", term, err)
	}
	ids = append(ids, defined...)
	slices.Sort(ids)
	for _, dest := range slices.Compact(ids) {
		if err := d.claim(ctx, dest, term); err != nil {
			return fmt.Errorf("claim deliveries to %s for term %d: %w", dest, term, err)
		}
	}
	return nil
}

func (d *Deliverer) claim(ctx context.Context, dest taxonomy.DestinationID, term uint64) error {
	// Without the lock of this process, which a delivery of a command may hold for
	// long, while the lease runs out.
	for {
		h, err := d.readHead(ctx, dest)
		if err != nil {
			return err
		}
		if h.Term == term {
			return nil
		}
		// Its number stays: nothing is named anew, and what its successor will name
		// is nobody's yet.
		if err := h.under(term); err != nil {
			return err
		}
		err = d.swapHead(ctx, dest, h)
		// What is unknown, or met another's swap, is looked at again.
		if err == nil || !errors.Is(err, retention.ErrUnknown) && !errors.Is(err, retention.ErrConflict) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// under makes the head that follows h one of a term, or returns ErrStale.
func (h *head) under(term uint64) error {
	if h.Term > term {
		return fmt.Errorf("%w: term %d; this one is of term %d", ErrStale, h.Term, term)
	}
	h.Term = term
	return nil
}

// headUnder is readHead for who delivers under a term.
func (d *Deliverer) headUnder(ctx context.Context, dest taxonomy.DestinationID, term uint64) (*head, error) {
	h, err := d.readHead(ctx, dest)
	if err == nil {
		err = h.under(term)
	}
	return h, err
}

// termOf is the term under which a run keeps to the end: its own, or, of who
// delivers by command without a lease, that which is in force as it begins.
func (d *Deliverer) termOf(ctx context.Context, dest taxonomy.DestinationID, src *Source) error {
	if src.Term > 0 {
		return nil
	}
	h, err := d.readHead(ctx, dest)
	if err == nil {
		src.Term = h.Term
	}
	return err
}

// begin sees to it that a delivery has a head to begin from, and a term. The eraser
// moves every head that it finds, so that a plan which knows less than it did is made
// anew: it must find the one of a destination that was never delivered to.
func (d *Deliverer) begin(ctx context.Context, dest taxonomy.DestinationID, src *Source) error {
	h, err := d.readHead(ctx, dest)
	if err != nil {
		return err
	}
	src.Term = cmp.Or(src.Term, h.Term)
	if h.version > 0 {
		return nil
	}
	if h.Term = src.Term; d.swapHead(ctx, dest, h) == nil {
		return nil
	}
	// Somebody else made one, or may have.
	h, err = d.readHead(ctx, dest)
	if err == nil && h.version == 0 {
		err = fmt.Errorf("begin with a first head: %w", retention.ErrUnknown)
	}
	return err
}

// stands reports whether what is under way may still be sent: nobody has withdrawn
// it. ErrStale: somebody else sends it.
func (d *Deliverer) stands(ctx context.Context, dest taxonomy.DestinationID, p *pending, term uint64) (bool, error) {
	h, err := d.headUnder(ctx, dest, term)
	return err == nil && h.Pending != nil && h.Pending.File == p.File, err
}
