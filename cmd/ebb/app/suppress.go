package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/fold"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// suppressEvery is how often it is asked whom destinations suppress. What is asked
// is the last checkpoint, at most 30 s old (R6): 60 s from the event to the
// receiver leave 25 for the answer and the sending.
const suppressEvery = 5 * time.Second

// suppression remembers who is in the audiences that destinations suppress by, as
// of one view and one state of the definitions.
type suppression struct {
	mu      sync.Mutex
	view    *fold.View
	catalog *catalog
	sets    map[string]index.Set
}

// suppressed returns what Source.Suppressed is for a destination.
func (a *App) suppressed(d *delivery.Destination) func(context.Context) (index.Set, error) {
	if len(d.Suppress) == 0 {
		return nil
	}
	return func(ctx context.Context) (index.Set, error) { return a.suppressedNow(ctx, d.Suppress) }
}

// suppressedNow returns who is in one of some audiences as of the last checkpoint.
// The set must not be changed.
func (a *App) suppressedNow(ctx context.Context, ids []taxonomy.AudienceID) (index.Set, error) {
	s := &a.suppression
	s.mu.Lock()
	defer s.mu.Unlock()
	c, v := a.catalog.Load(), a.fold.View()
	if s.view != v || s.catalog != c {
		s.view, s.catalog, s.sets = v, c, map[string]index.Set{}
	}
	var name strings.Builder
	for _, id := range ids {
		name.WriteString(string(id) + " ")
	}
	if set, ok := s.sets[name.String()]; ok {
		return set, nil
	}
	set, err := a.suppressedIn(ctx, v, c, ids)
	if err != nil {
		return nil, err
	}
	s.sets[name.String()] = set
	return set, nil
}

// suppressedIn is suppressedNow by a view and definitions.
func (a *App) suppressedIn(ctx context.Context, v audience.View, c *catalog, ids []taxonomy.AudienceID) (index.Set, error) {
	sets, err := audience.Now(ctx, a.basis(v, c), ids)
	if err != nil {
		return nil, fmt.Errorf("find whom to suppress: %w", err)
	}
	out := sets[0]
	for _, set := range sets[1:] {
		for s := range out {
			out[s].Or(set[s])
		}
	}
	return out, nil
}

// suppressedUnder is suppressed by a view and definitions.
func (a *App) suppressedUnder(v audience.View, c *catalog, d *delivery.Destination) func(context.Context) (index.Set, error) {
	if len(d.Suppress) == 0 {
		return nil
	}
	return func(ctx context.Context) (index.Set, error) { return a.suppressedIn(ctx, v, c, d.Suppress) }
}

// suppressLoop takes out of pushed destinations, promptly and whatever their
// schedules, who comes into an audience that they suppress by.
func (a *App) suppressLoop(ctx context.Context) error {
	s := suppressor{a: a, at: map[taxonomy.DestinationID]*suppressing{}}
	defer s.wg.Wait()
	return a.every(ctx, suppressEvery, "suppress", s.pass)
}

type suppressor struct {
	a  *App
	wg sync.WaitGroup
	mu sync.Mutex
	at map[taxonomy.DestinationID]*suppressing
}

// suppressing is how far a destination is. What is lost with it is asked again.
type suppressing struct {
	busy bool
	done index.Set       // of them nothing is held any more; nil: ask
	next taxonomy.Millis // the receiver is asked again
}

// pass begins what is due at every destination; one that is slow keeps none of the
// others.
func (s *suppressor) pass(ctx context.Context) error {
	a := s.a
	c, g := a.catalog.Load(), a.current.Load()
	term, may := a.mayDeliver()
	if g == nil || !may {
		s.mu.Lock()
		clear(s.at) // another node may do it meanwhile
		s.mu.Unlock()
		return nil
	}
	var errs []error
	for id, d := range c.destinations {
		if len(d.Suppress) == 0 {
			continue
		}
		set, err := a.suppressedNow(ctx, d.Suppress)
		if err != nil {
			errs = append(errs, fmt.Errorf("destination %s: %w", id, err))
			continue
		}
		at := s.begin(id, set)
		if at == nil {
			continue
		}
		s.wg.Go(func() {
			settled, next := false, taxonomy.Millis(0)
			a.attempt(ctx, "suppress", func(ctx context.Context) error {
				src, err := a.source(ctx, c, &d, g)
				if err != nil {
					return err
				}
				src.Term = term
				done, err := a.deliverer.Suppress(ctx, d, src)
				if err != nil {
					return err
				}
				settled, next = done.Result != delivery.ResultWaiting, done.Next
				if done.Removes > 0 {
					a.log.Info("suppressed", "destination", id, "result", done.Result, "removes", done.Removes)
				}
				return nil
			})
			s.mu.Lock()
			defer s.mu.Unlock()
			at.busy, at.next, at.done = false, next, nil
			if settled {
				at.done = set
			}
		})
	}
	return errors.Join(errs...)
}

// begin returns the destination's place if there is something to do there.
func (s *suppressor) begin(id taxonomy.DestinationID, set index.Set) *suppressing {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.at[id]
	if at == nil {
		at = &suppressing{}
		s.at[id] = at
	}
	if at.busy || s.a.env.millis() < at.next {
		return nil
	}
	if at.done != nil && covers(at.done, set) {
		at.done = set // who left it may be sent, and come again
		return nil
	}
	at.busy = true
	return at
}

// covers reports whether every member of set is in of.
func covers(of, set index.Set) bool {
	if len(of) != len(set) {
		return false
	}
	for s := range set {
		if of[s] != set[s] && roaring.AndNot(set[s], of[s]).GetCardinality() > 0 {
			return false
		}
	}
	return true
}
