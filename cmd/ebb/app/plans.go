package app

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/tagserver/api"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// A plan for changed rules reads all stored events, so while it counts it is an
// operation that can be followed and cancelled. Its caller waits for the answer, or
// asks for it later: then it is an operation from its beginning to its end, whatever
// it has to count. Nothing of it outlives the process.

// counting is a plan that counts, or counted.
type counting struct {
	api.Operation
	cancel context.CancelFunc
}

// plans are those of this process.
type plans struct {
	mu     sync.Mutex
	list   []*counting    // the newest first
	back   sync.WaitGroup // those that run in the background
	closed bool
}

// countingKey is where a context has the operation that it counts for.
type countingKey struct{}

// add makes an operation. Its name is drawn: on another node of a cluster the same
// name is no operation, and not another one.
func (p *plans) add(rand io.Reader, cancel context.CancelFunc, at taxonomy.Millis) (*counting, error) {
	var name [4]byte
	if _, err := io.ReadFull(rand, name[:]); err != nil {
		return nil, fmt.Errorf("name a plan: %w", err)
	}
	began := at.Time()
	c := &counting{api.Operation{ID: "plan-" + hex.EncodeToString(name[:]), Kind: api.KindPlan, State: api.OperationRunning, Started: &began}, cancel}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, fmt.Errorf("plan: %w", retention.ErrClosed)
	}
	p.list = append([]*counting{c}, p.list...)
	n := 0
	p.list = slices.DeleteFunc(p.list, func(c *counting) bool {
		n++
		return n > keptOperations && c.State != api.OperationRunning // what runs can be stopped
	})
	return c, nil
}

// end ends an operation.
func (p *plans) end(c *counting, at taxonomy.Millis, err error) {
	c.cancel()
	ended := at.Time()
	p.mu.Lock()
	defer p.mu.Unlock()
	c.Ended = &ended
	switch {
	case c.State != api.OperationRunning: // it was cancelled
	case errors.Is(err, context.Canceled):
		c.State = api.OperationCancelled
	case err != nil:
		c.State = api.OperationFailed
	default:
		c.State, c.Total, c.Progress = api.OperationDone, c.Read, 1
	}
}

// reading says what an operation is going to read, and returns what tells its
// progress, to be called by one goroutine.
func (p *plans) reading(c *counting, from, to uint32, columns int) func(read, total uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.From, c.To, c.Columns = from, to, columns
	return func(read, total uint64) {
		p.mu.Lock()
		defer p.mu.Unlock()
		c.Read, c.Total = read, total
		if total > 0 {
			c.Progress = float64(read) / float64(total)
		}
	}
}

// beginCount makes an operation of what a caller waits for, unless the context is that of
// one already. end must be called; progress may be, by one goroutine.
func (a *App) beginCount(ctx context.Context, from, to uint32, columns int) (_ context.Context, progress func(read, total uint64), end func(error), err error) {
	p := &a.plans
	if c, ok := ctx.Value(countingKey{}).(*counting); ok {
		return ctx, p.reading(c, from, to, columns), func(error) {}, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	c, err := p.add(a.env.Rand, cancel, a.env.millis())
	if err != nil {
		cancel()
		return nil, nil, nil, err
	}
	return ctx, p.reading(c, from, to, columns), func(err error) { p.end(c, a.env.millis(), err) }, nil
}

// BeginPlan is api.Operations. Closing the App cancels it and waits.
func (a *App) BeginPlan(count func(context.Context) error) (api.Operation, error) {
	p := &a.plans
	ctx, cancel := context.WithCancel(context.Background())
	c, err := p.add(a.env.Rand, cancel, a.env.millis())
	if err != nil {
		cancel()
		return api.Operation{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed { // meanwhile
		return api.Operation{}, fmt.Errorf("plan: %w", retention.ErrClosed)
	}
	p.back.Go(func() { p.end(c, a.env.millis(), count(context.WithValue(ctx, countingKey{}, c))) })
	return c.Operation, nil
}

// stopAll cancels those that run in the background or whose callers wait, and waits
// for the former.
func (p *plans) stopAll(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	for _, c := range p.list {
		c.cancel()
	}
	p.mu.Unlock()
	done := make(chan struct{})
	go func() { p.back.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// all returns them: those that run, then those that are over.
func (p *plans) all() (running, over []api.Operation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.list {
		if c.State == api.OperationRunning {
			running = append(running, c.Operation)
		} else {
			over = append(over, c.Operation)
		}
	}
	return running, over
}

// stop cancels one, and reports whether it ran.
func (p *plans) stop(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.list, func(c *counting) bool { return c.ID == id && c.State == api.OperationRunning })
	if i < 0 {
		return false
	}
	p.list[i].State = api.OperationCancelled
	p.list[i].cancel()
	return true
}
