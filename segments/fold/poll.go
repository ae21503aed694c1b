package fold

import (
	"context"
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Poll folds what the log has beyond the position, about BatchBytes of it,
// carries out the effects, moves the clock, and returns how many bytes of log
// it folded. 0 means that nothing is left.
func (f *Fold) Poll(ctx context.Context) (int, error) {
	f.polling.Lock()
	defer f.polling.Unlock()
	// Effects of an earlier call that failed come first: a checkpoint must not
	// cover what was not carried out.
	if err := f.carryOut(ctx); err != nil {
		return 0, err
	}
	f.mu.RLock()
	from, stopped := f.state.position.Clone(), f.stopped
	f.mu.RUnlock()
	if stopped != nil {
		return 0, stopped
	}
	if f.opt.Log == nil {
		return 0, nil // a follower on a node without events of its own
	}
	// The ends are read before the frames: what they promise as durable is then
	// surely within reach.
	ends, err := f.opt.Log.End(ctx, f.opt.Group, from)
	if err != nil {
		return 0, fmt.Errorf("fold: read the log's ends: %w", err)
	}
	frames, err := f.opt.Log.Follow(ctx, f.opt.Group, from, f.opt.BatchBytes)
	if err != nil {
		return 0, fmt.Errorf("fold: follow the log: %w", err)
	}
	bytes := 0
	f.mu.Lock()
	rules := f.state.rules
	if rules == nil {
		rules = f.opt.Rules()
	}
	for i := range frames {
		if err := f.state.Step(&frames[i], rules, f.seen, &f.undone); err != nil {
			f.stopped = fmt.Errorf("%w; restart to go on from the last checkpoint: %w", ErrStopped, err)
			f.mu.Unlock()
			return 0, f.stopped
		}
		bytes += max(1, frames[i].Bytes)
	}
	if clock, ok := f.clock(ends); ok {
		f.state.Advance(clock)
	}
	f.mu.Unlock()
	f.folded.Add(int64(bytes))
	f.busy.Store(bytes > 0)
	f.note(frames)
	return bytes, f.carryOut(ctx)
}

// clock is the least frame time over open writers (R7): of a writer that is
// folded to its end the time of that end, else of the last folded frame.
func (f *Fold) clock(ends []retention.WriterEnd) (least taxonomy.Millis, ok bool) {
	for _, e := range ends {
		if !e.Open {
			continue
		}
		if e.Last == 0 {
			return 0, false // its first frame, at least a tick, is on its way
		}
		t := f.state.frameTime[e.Writer]
		if f.state.position[e.Writer] >= e.Last {
			t = max(t, e.Time)
		}
		if !ok || t < least {
			least, ok = t, true
		}
	}
	return least, ok
}

func (f *Fold) carryOut(ctx context.Context) error {
	e := &f.undone
	if f.following {
		*e = Effects{} // the group's builder carries them out
		return f.tell(ctx)
	}
	if len(e.Events) > 0 {
		if err := f.opt.Events.Put(ctx, e.Events); err != nil {
			return fmt.Errorf("fold: store events: %w", err)
		}
		e.Events = e.Events[:0]
	}
	if len(e.Erased) > 0 && f.opt.OnErased != nil {
		if err := f.opt.OnErased(ctx, e.Erased); err != nil {
			return fmt.Errorf("fold: queue erasures: %w", err)
		}
	}
	e.Erased = nil
	if len(e.Unmatched) > 0 && f.opt.OnUnmatched != nil {
		if err := f.opt.OnUnmatched(ctx, e.Unmatched); err != nil {
			return fmt.Errorf("fold: queue changed matches: %w", err)
		}
	}
	e.Unmatched = nil
	return f.tell(ctx)
}

// tell hands OnFolded what was noted.
func (f *Fold) tell(ctx context.Context) error {
	if len(f.about) == 0 {
		return nil
	}
	if err := f.opt.OnFolded(ctx, f.about); err != nil {
		return fmt.Errorf("fold: tell of whom records were folded: %w", err)
	}
	f.about = f.about[:0]
	return nil
}
