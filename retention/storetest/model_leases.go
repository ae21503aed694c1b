package storetest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

type modelLease struct {
	owner string
	term  uint64
	life  taxonomy.Millis
	until taxonomy.Millis // 0: free
}

type modelLeases struct {
	mu  sync.Mutex
	now func() taxonomy.Millis
	m   map[string]*modelLease
}

func (m *modelLeases) Take(ctx context.Context, name, owner string, life time.Duration) (retention.Lease, error) {
	if err := ctx.Err(); err != nil {
		return retention.Lease{}, err
	}
	if life < time.Millisecond {
		return retention.Lease{}, fmt.Errorf("take lease %s: a life of %s is too short", name, life)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.m[name]
	if l == nil {
		l = &modelLease{}
		m.m[name] = l
	}
	now := m.now()
	if now < l.until {
		return retention.Lease{}, fmt.Errorf("take lease %s: %s has it: %w", name, l.owner, retention.ErrHeld)
	}
	l.owner, l.term, l.life = owner, l.term+1, taxonomy.Millis(life.Milliseconds())
	l.until = now + l.life
	return retention.Lease{Name: name, Owner: owner, Term: l.term}, nil
}

func (m *modelLeases) Renew(ctx context.Context, h retention.Lease) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.m[h.Name]
	if l == nil || l.term != h.Term || l.until == 0 {
		return fmt.Errorf("renew lease %s of term %d: it was taken or given up: %w", h.Name, h.Term, retention.ErrHeld)
	}
	l.until = m.now() + l.life
	return nil
}

func (m *modelLeases) Release(ctx context.Context, h retention.Lease) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.m[h.Name]; l != nil && l.term == h.Term {
		l.until = 0
	}
	return nil
}
