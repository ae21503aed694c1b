package fold

import (
	"context"
	"fmt"
	"maps"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Due reports whether enough was folded for a checkpoint to be made before its
// time has come (R6).
func (f *Fold) Due() bool { return f.folded.Load() >= f.opt.CheckpointBytes }

// Changed reports whether anything but ticks was folded since the last
// checkpoint was begun.
func (f *Fold) Changed() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.state.changed
}

// Checkpoint writes what changed since the last checkpoint, commits it,
// publishes the view of it and trims the log. It may run beside Poll.
func (f *Fold) Checkpoint(ctx context.Context) (*View, error) { return f.checkpoint(ctx, false) }

// Rewrite is Checkpoint that writes every file anew, so that nothing on disk
// holds what was removed before: the fold's part of the nightly pass.
func (f *Fold) Rewrite(ctx context.Context) (*View, error) { return f.checkpoint(ctx, true) }

func (f *Fold) checkpoint(ctx context.Context, rewrite bool) (*View, error) {
	if f.following {
		return nil, errFollowing
	}
	if err := f.ready(); err != nil {
		return nil, err
	}
	f.saving.Lock()
	defer f.saving.Unlock()
	if f.inflight != nil {
		// An earlier one failed between its writes. It comes first, with the
		// same contents: the state has gone on without them.
		if err := f.save(ctx); err != nil {
			return nil, err
		}
	}
	if err := f.capture(ctx, rewrite); err != nil {
		return nil, err
	}
	if err := f.save(ctx); err != nil {
		return nil, err
	}
	v := f.View()
	if err := f.opt.Log.Trim(ctx, f.opt.Group, v.position); err != nil {
		return v, fmt.Errorf("trim the log behind checkpoint %d: %w", v.number, err)
	}
	if err := f.leave(ctx); err != nil {
		return v, err
	}
	keep := maps.Clone(f.keep)
	if !rewrite {
		maps.Copy(keep, f.before)
	}
	return v, f.files.sweep(ctx, keep)
}

// capture takes what changed out of the state, between two polls, so that every
// effect of what it covers is carried out.
func (f *Fold) capture(ctx context.Context, rewrite bool) error {
	f.polling.Lock()
	defer f.polling.Unlock()
	if err := f.carryOut(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped != nil {
		return f.stopped
	}
	if r := f.starting; r != nil {
		f.starting = nil
		f.state.begin(r)
	}
	f.inflight = f.state.capture(f.stored.number + 1)
	f.inflight.rewrite = rewrite
	f.folded.Store(0)
	return nil
}

// save writes and commits the capture in flight and publishes its view.
func (f *Fold) save(ctx context.Context) error {
	c := f.inflight
	next, hours, err := f.write(ctx, c)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.state.install(c)
	old := f.seen
	f.seen = &seenFiles{hours}
	f.mu.Unlock()
	f.stored, f.inflight = next, nil
	f.view.Store(c.view)
	closeUnused(old.hours, hours)
	f.before, f.keep = f.keep, f.files.names(&c.manifest)
	f.keep[next.name] = true
	return nil
}

// leave drops writers from the position that the log no longer knows: they are
// closed, folded to their end and trimmed (R1).
func (f *Fold) leave(ctx context.Context) error {
	f.polling.Lock()
	defer f.polling.Unlock()
	f.mu.RLock()
	from := f.state.position.Clone() // who is asked only for what is beyond reads little
	f.mu.RUnlock()
	ends, err := f.opt.Log.End(ctx, f.opt.Group, from)
	if err != nil {
		return fmt.Errorf("read the log's ends: %w", err)
	}
	here := map[taxonomy.WriterID]bool{}
	for _, e := range ends {
		here[e.Writer] = true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.state.position {
		if !here[w] {
			delete(f.state.position, w)
			delete(f.state.frameTime, w)
		}
	}
	return nil
}

// install makes a committed capture part of the state.
func (s *State) install(c *capture) {
	s.flushing = nil
	for i, sh := range s.shards {
		if sh == nil {
			continue
		}
		sh.days = c.view.shards[i].days
		if r := c.refold; r != nil && !r.switches && s.refold == r.of {
			sh.staged = r.days[i]
		}
		for j := range sh.touched {
			if sh.touched[j].number <= c.manifest.Number {
				sh.touched[j].committed = true
			}
		}
	}
	if r := c.refold; r != nil && r.switches {
		s.switchTo(r.of)
	}
	if c.cancels != nil {
		s.refold = nil
		for _, sh := range s.shards {
			if sh != nil {
				sh.dropNext()
			}
		}
	}
}
