package cassandra

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const (
	getLease    = `SELECT owner, term, mark, beat, until, life, free FROM lease WHERE name = ?`
	insertLease = `INSERT INTO lease (name, owner, term, mark, beat, until, life, free) VALUES (?, ?, ?, ?, 0, ?, ?, false) IF NOT EXISTS`
	takeLease   = `UPDATE lease SET owner = ?, term = ?, mark = ?, beat = 0, until = ?, life = ?, free = false WHERE name = ? IF term = ? AND beat = ? AND free = ?`
	renewLease  = `UPDATE lease SET beat = ?, until = ? WHERE name = ? IF term = ? AND free = false`
	freeLease   = `UPDATE lease SET free = true WHERE name = ? IF term = ?`
)

// leases are rows that only transactions touch. Rows are permanent: a term that
// was forgotten could be given again.
//
// Whether a lease has run out nobody needs to agree on clocks for: whoever has
// seen its (term, beat) unchanged for its life by his own clock may take it. Who
// has not seen it yet may take it when it is over by more than the skew that is
// allowed between clocks. A holder that is frozen meanwhile is kept off by its
// term.
type leases struct {
	st   *Store
	mu   sync.Mutex
	seen map[string]*seenLease
	beat int64
}

// seenLease is when a lease was first seen as it is.
type seenLease struct {
	term, beat int64
	at         taxonomy.Millis
}

type leaseRow struct {
	owner             string
	term, beat, until int64
	life              int64
	mark              []byte
	free              bool
}

var _ retention.Leases = (*leases)(nil)

func (l *leases) read(ctx context.Context, name string) (r leaseRow, err error) {
	err = l.st.s.serial(ctx, getLease, []any{name}, &r.owner, &r.term, &r.mark, &r.beat, &r.until, &r.life, &r.free)
	return r, err
}

// note remembers when (term, beat) was first seen, and returns it.
func (l *leases) note(name string, term, beat int64, now taxonomy.Millis) taxonomy.Millis {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.seen[name]
	if s == nil || s.term != term || s.beat != beat {
		s = &seenLease{term, beat, now}
		l.seen[name] = s
	}
	return s.at
}

// Take implements retention.Leases.
func (l *leases) Take(ctx context.Context, name, owner string, life time.Duration) (retention.Lease, error) {
	if err := taxonomy.CheckSlug("lease", name); err != nil {
		return retention.Lease{}, fmt.Errorf("take: %w", err)
	}
	if life < time.Millisecond {
		return retention.Lease{}, fmt.Errorf("take lease %s: a life of %s is too short", name, life)
	}
	term, err := l.take(ctx, name, owner, taxonomy.Millis(life.Milliseconds()))
	if err != nil {
		return retention.Lease{}, fmt.Errorf("take lease %s: %w", name, err)
	}
	return retention.Lease{Name: name, Owner: owner, Term: uint64(term)}, nil
}

func (l *leases) take(ctx context.Context, name, owner string, life taxonomy.Millis) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	mark := make([]byte, markSize)
	if err := l.st.draw(mark); err != nil {
		return 0, err
	}
	tried, pause := int64(0), 10*time.Millisecond
	for range settles {
		r, err := l.read(ctx, name)
		missing := errors.Is(err, retention.ErrNotFound)
		if err != nil && !missing {
			if tried > 0 {
				return 0, fmt.Errorf("%w: %w", retention.ErrUnknown, err)
			}
			return 0, err
		}
		now := l.st.o.Now()
		if tried > 0 && bytes.Equal(r.mark, mark) {
			l.note(name, tried, r.beat, now)
			return tried, nil
		}
		if tried > 0 && r.term >= tried {
			// Others have had it since; whether we had it between, nobody needs to
			// know: we have not used it.
			return 0, fmt.Errorf("%s has it: %w", r.owner, retention.ErrHeld)
		}
		since := now
		if !missing {
			since = l.note(name, r.term, r.beat, now)
		}
		if !missing && !r.free && now-since < taxonomy.Millis(r.life) && now <= taxonomy.Millis(r.until)+maxSkew {
			return 0, fmt.Errorf("%s has it: %w", r.owner, retention.ErrHeld)
		}
		next := r.term + 1
		var ok bool
		if missing {
			ok, err = l.st.s.swap(ctx, insertLease, name, owner, next, mark, int64(now+life), int64(life))
		} else {
			ok, err = l.st.s.swap(ctx, takeLease, owner, next, mark, int64(now+life), int64(life), name, r.term, r.beat, r.free)
		}
		switch {
		case err == nil && ok:
			l.note(name, next, 0, now)
			return next, nil
		case err == nil: // somebody was faster: look who
		case errors.Is(err, retention.ErrUnknown):
			tried = next
		default:
			return 0, err
		}
		select {
		case <-l.st.s.after(l.st.jitter(pause)):
		case <-ctx.Done():
		}
		pause = min(2*pause, 500*time.Millisecond)
	}
	return 0, fmt.Errorf("%w: too many want it", retention.ErrUnknown)
}

// Renew implements retention.Leases. What is unknown is repeated: to renew twice
// is to renew.
func (l *leases) Renew(ctx context.Context, h retention.Lease) error {
	if err := l.renew(ctx, h); err != nil {
		return fmt.Errorf("renew lease %s of term %d: %w", h.Name, h.Term, err)
	}
	return nil
}

func (l *leases) renew(ctx context.Context, h retention.Lease) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r, err := l.read(ctx, h.Name)
	if errors.Is(err, retention.ErrNotFound) || err == nil && (r.term != int64(h.Term) || r.free) {
		return fmt.Errorf("it was taken or given up: %w", retention.ErrHeld)
	}
	if err != nil {
		return err
	}
	return l.settle(ctx, func() (bool, error) {
		l.mu.Lock()
		l.beat = max(l.beat, r.beat) + 1
		beat := l.beat
		l.mu.Unlock()
		now := l.st.o.Now()
		ok, err := l.st.s.swap(ctx, renewLease, beat, int64(now)+r.life, h.Name, int64(h.Term))
		if err == nil && ok {
			l.note(h.Name, int64(h.Term), beat, now)
		}
		return ok, err
	}, fmt.Errorf("it was taken or given up: %w", retention.ErrHeld))
}

// Release implements retention.Leases.
func (l *leases) Release(ctx context.Context, h retention.Lease) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := l.settle(ctx, func() (bool, error) { return l.st.s.swap(ctx, freeLease, h.Name, int64(h.Term)) }, nil)
	if err != nil {
		return fmt.Errorf("release lease %s: %w", h.Name, err)
	}
	return nil
}

// settle repeats a transaction that may happen twice until its outcome is
// known. refused is returned if it was not applied.
func (l *leases) settle(ctx context.Context, do func() (bool, error), refused error) error {
	pause := 10 * time.Millisecond
	for i := 1; ; i++ {
		ok, err := do()
		switch {
		case err == nil && ok:
			return nil
		case err == nil:
			return refused
		case !errors.Is(err, retention.ErrUnknown) || i == settles || ctx.Err() != nil:
			return err
		}
		select {
		case <-l.st.s.after(l.st.jitter(pause)):
		case <-ctx.Done():
		}
		pause = min(2*pause, 500*time.Millisecond)
	}
}
