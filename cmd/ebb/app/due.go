package app

import (
	"context"
	"sync"
	"time"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// checkTimes looks at a destination's schedule. Files that hold who withdrew are
// gone within a day (R26), which the deliverer promises by Every: so that must be
// no less than the longest time between two runs.
func checkTimes(d *delivery.Destination, now time.Time) error {
	if d.Schedule == "" {
		return nil
	}
	s, err := ParseSchedule(d.Schedule)
	if err != nil {
		return &taxonomy.FieldError{Field: "schedule", Err: err}
	}
	at := s.Next(now)
	longest := at.Sub(now)
	for end := now.Add(8 * 24 * time.Hour); !at.IsZero() && at.Before(end); { // a week: weekdays differ
		next := s.Next(at)
		longest, at = max(longest, next.Sub(at)), next
	}
	switch {
	case at.IsZero() || longest > 24*time.Hour:
		return taxonomy.Invalid("schedule", "%q leaves more than a day between two deliveries: who withdraws must be out of all files within one", d.Schedule)
	case longest > time.Duration(d.Every):
		return taxonomy.Invalid("every", "%s is less than the longest time between two runs of the schedule; set it to %s", d.Every, delivery.Period(longest))
	}
	return nil
}

// dues is when destinations with a schedule of their own are due next.
type dues struct {
	mu sync.Mutex
	at map[taxonomy.DestinationID]due
}

type due struct {
	schedule string
	next     time.Time
}

// is reports whether a destination is due, and notes when it is next. One without
// a schedule is due whenever the server delivers. What was missed while nobody ran
// is due at once.
func (x *dues) is(d *delivery.Destination, last, now time.Time) bool {
	if d.Schedule == "" {
		return true
	}
	s, err := ParseSchedule(d.Schedule)
	if err != nil {
		return true // rather too often than never; the definition's check refuses it
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.at == nil {
		x.at = map[taxonomy.DestinationID]due{}
	}
	e, ok := x.at[d.ID]
	if !ok || e.schedule != d.Schedule {
		e = due{d.Schedule, s.Next(last)}
	}
	is := !now.Before(e.next)
	if is {
		e.next = s.Next(now)
	}
	x.at[d.ID] = e
	return is
}

// isDue reports whether a destination is to be delivered to now: its schedule says
// so, or something is under way that has a clock of its own, such as retries.
func (a *App) isDue(ctx context.Context, d *delivery.Destination) (bool, error) {
	if d.Schedule == "" {
		return true, nil
	}
	s, err := a.deliverer.Standing(ctx, d.ID)
	if err != nil {
		return false, err
	}
	return a.dues.is(d, s.At.Time(), a.env.Now()) || s.Busy(), nil
}

// DeliverDue delivers to every destination that is due; one that fails does not
// stop the others.
func (a *App) DeliverDue(ctx context.Context) error {
	term, _ := a.mayDeliver()
	return a.deliverWhere(ctx, term, a.isDue)
}
