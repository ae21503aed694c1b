package embedded

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// leases hands out leases within this process: nobody else has the data
// directory while its lock is held. A restart ends them all; only the terms
// outlive it, so that what was written under an old lease can be told.
//
// The value of a lease is version, 1, and the last term given out, uint64,
// big-endian.
type leases struct {
	s    *Store
	mu   sync.Mutex
	held map[string]*heldLease
}

const (
	leaseVersion = 1
	leaseSize    = 9
)

type heldLease struct {
	owner string
	term  uint64
	life  taxonomy.Millis
	until taxonomy.Millis
	free  bool // it was given up
}

var _ retention.Leases = (*leases)(nil)

// Take implements retention.Leases.
func (l *leases) Take(ctx context.Context, name, owner string, life time.Duration) (retention.Lease, error) {
	if err := taxonomy.CheckSlug("lease", name); err != nil {
		return retention.Lease{}, fmt.Errorf("take: %w", err)
	}
	if life < time.Millisecond {
		return retention.Lease{}, fmt.Errorf("take lease %s: a life of %s is too short", name, life)
	}
	release, err := l.s.acquire(ctx)
	if err != nil {
		return retention.Lease{}, fmt.Errorf("take lease %s: %w", name, err)
	}
	defer release()
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.s.o.Now()
	if h := l.held[name]; h != nil && !h.free && now < h.until {
		return retention.Lease{}, fmt.Errorf("take lease %s: %s has it: %w", name, h.owner, retention.ErrHeld)
	}
	term, err := l.nextTerm(name)
	if err != nil {
		return retention.Lease{}, fmt.Errorf("take lease %s: %w", name, err)
	}
	h := &heldLease{owner: owner, term: term, life: taxonomy.Millis(life.Milliseconds())}
	h.until = now + h.life
	l.held[name] = h
	return retention.Lease{Name: name, Owner: owner, Term: term}, nil
}

// nextTerm stores and returns a term that was never given out: it is durable
// before anyone writes under it.
func (l *leases) nextTerm(name string) (term uint64, err error) {
	b, closer, err := l.s.db.Get(leaseKey(name))
	switch {
	case errors.Is(err, pebble.ErrNotFound):
	case err != nil:
		return 0, l.s.wrap(err)
	case len(b) != leaseSize || b[0] != leaseVersion:
		return 0, errors.Join(fmt.Errorf("%w: its term is of an unknown form", retention.ErrCorrupt), closer.Close())
	default:
		term = binary.BigEndian.Uint64(b[1:])
		if err := closer.Close(); err != nil {
			return 0, l.s.wrap(err)
		}
	}
	term++
	batch := l.s.db.NewBatch()
	if err := batch.Set(leaseKey(name), binary.BigEndian.AppendUint64([]byte{leaseVersion}, term), nil); err != nil {
		return 0, l.s.wrap(errors.Join(err, batch.Close()))
	}
	return term, l.s.commit(batch)
}

// Renew implements retention.Leases.
func (l *leases) Renew(ctx context.Context, h retention.Lease) error {
	release, err := l.s.acquire(ctx) // a closed store holds no leases
	if err != nil {
		return fmt.Errorf("renew lease %s: %w", h.Name, err)
	}
	defer release()
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := l.held[h.Name]
	if kept == nil || kept.free || kept.term != h.Term {
		return fmt.Errorf("renew lease %s of term %d: it was taken or given up: %w", h.Name, h.Term, retention.ErrHeld)
	}
	kept.until = l.s.o.Now() + kept.life
	return nil
}

// Release implements retention.Leases.
func (l *leases) Release(ctx context.Context, h retention.Lease) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if kept := l.held[h.Name]; kept != nil && kept.term == h.Term {
		kept.free = true
	}
	return nil
}
