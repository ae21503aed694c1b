package fold

import (
	"context"
	"errors"
	"sync"

	"github.com/ebb-dmp/ebb/segments/index"
)

// aside runs the writes of files that nobody waits for before the manifest is
// written: a cluster answers each in milliseconds, and a checkpoint may have a file
// for each shard and day. nil runs none.
type aside struct {
	places chan struct{}
	wg     sync.WaitGroup
	mu     sync.Mutex
	err    error
}

func newAside(n int) *aside {
	if n < 2 {
		return nil
	}
	return &aside{places: make(chan struct{}, n)}
}

// do runs write at once or beside the others.
func (a *aside) do(write func() error) error {
	if a == nil {
		return write()
	}
	a.places <- struct{}{}
	a.wg.Go(func() {
		defer func() { <-a.places }()
		if err := write(); err != nil {
			a.mu.Lock()
			a.err = errors.Join(a.err, err)
			a.mu.Unlock()
		}
	})
	return nil
}

// settle waits for all and returns their errors, once.
func (a *aside) settle() error {
	if a == nil {
		return nil
	}
	a.wg.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.err
	a.err = nil
	return err
}

// prefetch opens the layers of a manifest that are not known, several at a time.
// What cannot be read is left to whoever needs it.
func (f *Fold) prefetch(ctx context.Context, m *manifest) {
	if f.opt.Parallel < 2 {
		return
	}
	if f.known == nil {
		f.known = map[uint64]*index.Layer{}
	}
	a := newAside(f.opt.Parallel)
	var mu sync.Mutex
	for _, d := range m.Days {
		for _, ref := range d.Layers {
			mu.Lock()
			_, ok := f.known[ref.File]
			mu.Unlock()
			if ok || d.Day.Expired(m.Clock) {
				continue
			}
			_ = a.do(func() error { // see above
				b, err := f.files.read(ctx, "day", ref)
				if err != nil {
					return err
				}
				l, err := index.OpenLayer(b)
				if err != nil {
					return err
				}
				mu.Lock()
				f.known[ref.File] = l
				mu.Unlock()
				return nil
			})
		}
	}
	_ = a.settle()
}
