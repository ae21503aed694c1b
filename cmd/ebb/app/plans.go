package app

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/ebb-dmp/ebb/tagserver/api"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// A plan for changed rules reads all stored events, so while it counts it is an
// operation that can be followed and cancelled. Its caller waits for the answer;
// nothing of it outlives the process.

// counting is a plan that counts, or counted.
type counting struct {
	api.Operation
	cancel context.CancelFunc
}

// plans are those of this process.
type plans struct {
	mu   sync.Mutex
	n    int
	list []*counting // the newest first
}

// begin makes an operation of a plan. end must be called; progress may be, by one
// goroutine.
func (p *plans) begin(ctx context.Context, from, to uint32, columns int, now func() taxonomy.Millis) (_ context.Context, progress func(read, total uint64), end func(error)) {
	ctx, cancel := context.WithCancel(ctx)
	at := now().Time()
	p.mu.Lock()
	p.n++
	c := &counting{api.Operation{ID: fmt.Sprintf("plan-%d", p.n), Kind: api.KindPlan, State: api.OperationRunning, From: from, To: to, Columns: columns, Started: &at}, cancel}
	p.list = append([]*counting{c}, p.list...)
	p.list = p.list[:min(len(p.list), keptOperations)]
	p.mu.Unlock()
	return ctx, func(read, total uint64) {
			p.mu.Lock()
			defer p.mu.Unlock()
			c.Read, c.Total = read, total
			if total > 0 {
				c.Progress = float64(read) / float64(total)
			}
		}, func(err error) {
			cancel()
			at := now().Time()
			p.mu.Lock()
			defer p.mu.Unlock()
			c.Ended = &at
			if err != nil {
				c.State = api.OperationCancelled
			} else if c.State == api.OperationRunning {
				c.State, c.Total, c.Progress = api.OperationDone, c.Read, 1
			}
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
