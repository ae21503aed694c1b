package fold

import (
	"context"
	"fmt"
)

// reading is the days of a checkpoint while they are read (R35): events are
// accepted and /v1/seg answers from the last generation meanwhile, and whoever
// asks for a day waits for all.
type reading struct {
	done chan struct{}
	err  error // set before done is closed
	stop context.CancelFunc
}

// readDays reads the days that a manifest names, behind the return of Open if the
// options say so. Until it is done nobody looks into the lists, which the view
// shares.
func (f *Fold) readDays(ctx context.Context, m *manifest) error {
	read := func(ctx context.Context) error {
		for _, d := range m.Days {
			layers, err := f.loadLayers(ctx, d, m.Clock)
			if err != nil {
				return err
			}
			f.state.shards[d.Shard].days[d.Day] = layers
		}
		return nil
	}
	if !f.opt.DaysBehind {
		return read(ctx)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	r := &reading{done: make(chan struct{}), stop: stop}
	f.reading = r
	go func() {
		defer close(r.done)
		defer stop()
		err := read(ctx)
		if err == nil {
			return
		}
		r.err = fmt.Errorf("%w: load checkpoint %d of group %d: %w", ErrStopped, m.Number, f.opt.Group, err)
		f.mu.Lock()
		f.stopped = r.err
		f.mu.Unlock()
	}()
	return nil
}

// ready waits until the days are read. ErrStopped with the reason if one cannot
// be.
func (f *Fold) ready() error {
	if f.reading == nil {
		return nil
	}
	<-f.reading.done
	return f.reading.err
}

// ready is Fold.ready of the shard's fold.
func (s *shardView) ready() error {
	if s.of == nil {
		return nil
	}
	return s.of.fold.ready()
}

// ready is Fold.ready of all folds of the view.
func (v *View) ready() error {
	for i := range v.shards {
		if err := v.shards[i].ready(); err != nil {
			return err
		}
	}
	return nil
}
