package forget

import (
	"context"
	"errors"
	"fmt"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Sweeper removes what is over, everywhere.
type Sweeper struct {
	Holders []Holder
}

// Sweep removes from every Holder what belongs to days that are over on the
// given day. A Holder that fails does not keep the others from their part; the
// errors are returned together, and the next night tries again.
func (s *Sweeper) Sweep(ctx context.Context, today taxonomy.Day) error {
	var errs []error
	for i := range s.Holders {
		h := &s.Holders[i]
		if h.ExpireBefore == nil {
			continue
		}
		if err := h.ExpireBefore(ctx, today.Oldest()); err != nil {
			errs = append(errs, fmt.Errorf("sweep %s: %w", h.Name, err))
		}
	}
	return errors.Join(errs...)
}

// Place is what the audit found in one Holder.
type Place struct {
	Name string `json:"name"`
	// Oldest is the day of the oldest thing with bytes on disk, nil if there is
	// nothing.
	Oldest *taxonomy.Day `json:"oldest"`
	// Age is how many days ago that was.
	Age int `json:"age"`
	// Bound is how many days it may be.
	Bound int  `json:"bound"`
	OK    bool `json:"ok"`
	// Error: the place could not be looked at, which is not OK either.
	Error string `json:"error,omitempty"`
	// Fault: what else is wrong there, a line for each finding.
	Fault string `json:"fault,omitempty"`
}

// Report is an audit (P5): it is OK if every place is.
type Report struct {
	At     taxonomy.Millis `json:"at"`
	OK     bool            `json:"ok"`
	Places []Place         `json:"places"`
}

// Audit looks at every Holder and says how old the oldest thing in it is.
func Audit(ctx context.Context, holders []Holder, now taxonomy.Millis) Report {
	r := Report{At: now, OK: true, Places: []Place{}}
	for i := range holders {
		h := &holders[i]
		p := Place{Name: h.Name, Bound: h.Bound, OK: true}
		day, any, err := h.Oldest(ctx)
		switch {
		case err != nil:
			p.OK, p.Error = false, err.Error()
		case any:
			p.Oldest, p.Age = &day, int(now.Day()-day)
			p.OK = p.Age <= h.Bound
		}
		r.OK = r.OK && p.OK
		r.Places = append(r.Places, p)
	}
	return r
}
