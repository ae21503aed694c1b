package retention

import (
	"context"
	"time"
)

// Lease is the right to be the only one who does something, for a while.
type Lease struct {
	Name  string
	Owner string
	// Term is the fencing number: greater with every taking. Whoever writes
	// under a lease writes its term along, and a lower one is refused.
	Term uint64
}

// Leases hands out leases. A holder must renew within the life; it stops
// relying on a lease that it has not renewed for half its life.
type Leases interface {
	// Take takes a lease that is free or whose life has run out, or returns
	// ErrHeld. Owner is for people to read.
	Take(ctx context.Context, name, owner string, life time.Duration) (Lease, error)
	// Renew extends it by its life, or returns ErrHeld if another took it.
	Renew(ctx context.Context, l Lease) error
	// Release gives it up at once. Releasing a lost lease is fine.
	Release(ctx context.Context, l Lease) error
}
