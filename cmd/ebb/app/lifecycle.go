package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
)

// lifecycle starts things in order and stops them in the reverse. Whatever is
// started registers its stop at once, before the next thing can fail.
type lifecycle struct {
	log   *slog.Logger
	mu    sync.Mutex
	stops []stop
	wg    sync.WaitGroup
	// fatal receives the first error of a loop that cannot go on.
	fatal chan error
}

type stop struct {
	name string
	fn   func(context.Context) error
}

func newLifecycle(log *slog.Logger) *lifecycle {
	return &lifecycle{log: log, fatal: make(chan error, 1)}
}

// onStop registers what ends the thing that was just started.
func (l *lifecycle) onStop(name string, fn func(context.Context) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stops = append(l.stops, stop{name, fn})
}

// run starts a loop that ends with its context, and registers its end. An error
// of the loop ends the program.
func (l *lifecycle) run(name string, loop func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	l.wg.Go(func() {
		defer close(done)
		if err := loop(ctx); err != nil && !errors.Is(err, context.Canceled) {
			select {
			case l.fatal <- fmt.Errorf("%s: %w", name, err):
			default:
			}
		}
	})
	l.onStop(name, func(ctx context.Context) error {
		cancel()
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

// stop ends everything, the newest first. It goes on after an error, and a
// second call does nothing.
func (l *lifecycle) stop(ctx context.Context) error {
	l.mu.Lock()
	stops := l.stops
	l.stops = nil
	l.mu.Unlock()
	var errs []error
	for _, s := range slices.Backward(stops) {
		if err := s.fn(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", s.name, err))
		}
		l.log.Debug("stopped", "part", s.name)
	}
	return errors.Join(errs...)
}
