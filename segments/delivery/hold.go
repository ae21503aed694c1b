package delivery

import (
	"cmp"
	"context"
	"fmt"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const (
	// DefaultHoldAbove is the share of the last full, in percent, above which a
	// change waits for somebody to approve it.
	DefaultHoldAbove = 30
	// holdLeast is how many memberships the last full must have had: of fewer a
	// third is nothing.
	holdLeast = 1000
	// approvalLife is how long an approval waits for the change that it is about.
	approvalLife = taxonomy.OneDay
)

// Hold says that a delivery changes more than anybody expects: a rule that was
// mistyped, a site whose tag has gone. The change waits until it is approved,
// or until it is no longer so large. What a visitor's own word demands does not
// wait: who was erased, or no longer allows this, is removed all the same.
type Hold struct {
	At         taxonomy.Millis `json:"at"`
	Generation uint64          `json:"generation"`
	// Changed memberships would come or leave; the last full had Of.
	Changed uint64 `json:"changed"`
	Of      uint64 `json:"of"`
}

// Percent is the share.
func (h *Hold) Percent() uint64 { return h.Changed * 100 / max(1, h.Of) }

// tooMuch compares what the partner holds with what it would hold, and returns
// the hold if that is too much of a change and nobody has approved it.
func tooMuch(h *head, dest *Destination, g *audience.Generation, was, next *Ledger, shards int, clock taxonomy.Millis) *Hold {
	if !dest.mayHold(h, g, shards, clock) {
		return nil
	}
	today := clock.Day()
	var changed uint64
	seen := map[taxonomy.AudienceID]bool{}
	for _, l := range []map[taxonomy.AudienceID]Held{was.Held, was.Maybe, next.Held, next.Maybe} {
		for a := range l {
			if seen[a] {
				continue
			}
			seen[a] = true
			for s := range shards {
				before, after := was.has(a, s, today), next.has(a, s, today)
				changed += before.GetCardinality() + after.GetCardinality() - 2*before.AndCardinality(after)
			}
		}
	}
	return dest.tooLarge(h, g, clock, changed)
}

func (d *Destination) holdAbove() int { return cmp.Or(d.HoldAbove, DefaultHoldAbove) }

// mayHold reports whether a change can be too large at all, and nobody has
// approved it.
func (d *Destination) mayHold(h *head, g *audience.Generation, shards int, clock taxonomy.Millis) bool {
	return d.holdAbove() >= 0 && h.Seq > 0 && h.FullHeld >= holdLeast && h.Epoch == g.Epoch && h.Shards == shards && clock >= h.Approved+approvalLife
}

// tooLarge judges how many memberships would change.
func (d *Destination) tooLarge(h *head, g *audience.Generation, clock taxonomy.Millis, changed uint64) *Hold {
	if changed*100 <= uint64(d.holdAbove())*h.FullHeld {
		return nil
	}
	return &Hold{At: clock, Generation: g.Number, Changed: changed, Of: h.FullHeld}
}

// has returns who of a shard the partner holds or may hold beyond a day.
func (l *Ledger) has(a taxonomy.AudienceID, shard int, today taxonomy.Day) *roaring.Bitmap {
	b := l.Held[a].After(shard, today)
	b.Or(l.Maybe[a].After(shard, today))
	return b
}

// heldBack is a source of who is held already, and nobody else: delivered, it
// takes out whom consent and erasure take out, and renews the rest.
func heldBack(src *Source, was *Ledger, today taxonomy.Day) *Source {
	s := *src
	s.back = true
	s.Members = func(_ context.Context, e audience.Entry) (index.Set, error) {
		set := index.NewSet(src.View.Shards())
		for i := range set {
			set[i] = was.has(e.ID, i, today)
		}
		return set, nil
	}
	return &s
}

// holding plans for a source, and while that is too much of a change for less of
// it: for nobody new, and then without suppressing anybody either, since a rule
// of whom to suppress can be mistyped as well. It returns the hold of the first.
func holding(src *Source, was *Ledger, today taxonomy.Day, plan func(*Source) error, much func() *Hold) (*Hold, error) {
	if src.unsuppressed != "" {
		src = heldBack(src, was, today)
	}
	if err := plan(src); err != nil {
		return nil, err
	}
	hold := much()
	for h := hold; h != nil; h = much() {
		switch {
		case !src.back:
			src = heldBack(src, was, today)
		case src.out != nil:
			s := *src
			s.out = nil
			src = &s
		default:
			return hold, nil
		}
		if err := plan(src); err != nil {
			return nil, err
		}
	}
	return hold, nil
}

// heldBack notes what a plan did: a hold, or the size of a full.
func (h *head) heldBack(hold *Hold, full bool, next *Ledger) {
	h.Hold = hold
	if hold == nil {
		h.Approved = 0
	}
	if !full || hold != nil {
		return
	}
	h.FullHeld = 0
	for _, held := range next.Held {
		h.FullHeld += held.Count()
	}
}

// Approve lets the change that is held go out with the next generation, or
// another one within a day.
func (d *Deliverer) Approve(ctx context.Context, dest taxonomy.DestinationID) error {
	err := d.locked(dest, func() error {
		return again(func() error {
			h, err := d.readHead(ctx, dest)
			if err != nil || h.Hold == nil {
				return err
			}
			h.Seq++
			h.Hold, h.Approved = nil, max(d.o.Now(), h.Clock)
			h.Owes = h.Transport != "" // the same generation is looked at again
			return d.swapHead(ctx, dest, h)
		})
	})
	if err != nil {
		return fmt.Errorf("approve the change of %s: %w", dest, err)
	}
	return nil
}

// Waiting returns the change of a destination that waits for approval, nil if none
// does.
func (d *Deliverer) Waiting(ctx context.Context, dest taxonomy.DestinationID) (*Hold, error) {
	h, err := d.readHead(ctx, dest)
	if err != nil {
		return nil, fmt.Errorf("what waits at %s: %w", dest, err)
	}
	return h.Hold, nil
}

// Standing is how a destination stands.
type Standing struct {
	Hold *Hold `json:"hold,omitempty"`
	// Held and Allowed are of the last delivery: their share is the match rate.
	Held    uint64 `json:"held"`
	Allowed uint64 `json:"allowed"`
	// Backlog: chunks of what is under way that have no answer yet; Owes: not
	// everything was acknowledged. Owed are removals that wait for the eraser.
	Backlog int    `json:"backlog"`
	Owes    bool   `json:"owes"`
	Owed    uint64 `json:"owed"`
	// Removals wait in the outbox; the oldest copy among them ends by itself at
	// RemovalsOver.
	Removals     int             `json:"removals"`
	RemovalsOver taxonomy.Millis `json:"removals_over,omitempty"`
	// Next is when a receiver that did not answer is asked again, after Attempts.
	Next     taxonomy.Millis `json:"next,omitempty"`
	Attempts int             `json:"attempts"`
	Jobs     int             `json:"jobs"` // of the receiver, not ended
	Letters  []Letter        `json:"letters"`
	// Kept are the files of deliveries whose bytes are at hand (OpenSent).
	Kept []string `json:"kept"`
	// At is when the last delivery was made, 0: never.
	At taxonomy.Millis `json:"at,omitempty"`
}

// Busy reports whether something is under way that has a clock of its own:
// retries and jobs.
func (s *Standing) Busy() bool { return s.Backlog > 0 || s.Owes || s.Jobs > 0 }

// Standing returns how a destination stands.
func (d *Deliverer) Standing(ctx context.Context, dest taxonomy.DestinationID) (Standing, error) {
	fail := func(err error) (Standing, error) { return Standing{}, fmt.Errorf("standing of %s: %w", dest, err) }
	h, err := d.readHead(ctx, dest)
	if err != nil {
		return fail(err)
	}
	s := Standing{Hold: h.Hold, Owes: h.Owes, Next: h.Retry.NotBefore, Attempts: h.Retry.Attempts, Jobs: len(h.Jobs), Letters: []Letter{}}
	for i := len(h.Letters) - 1; i >= 0; i-- {
		s.Letters = append(s.Letters, h.Letters[i])
	}
	s.Kept = h.kept(d.o.Now())
	if n := len(h.Runs); n > 0 {
		last := &h.Runs[n-1]
		s.Held, s.Allowed, s.Owed, s.At = last.Held, last.Allowed, last.Owed, last.At
	}
	if p := h.Pending; p != nil {
		s.Backlog = p.Run.Chunks - p.Run.Acknowledged - p.Run.Refused
		s.At = p.Run.At
	}
	if h.Seq == 0 {
		return s, nil
	}
	l, err := d.readLedger(ctx, dest, h)
	if err != nil {
		return fail(err)
	}
	defer l.Close()
	s.Removals = len(l.Outbox)
	for _, r := range l.Outbox {
		if end := r.Until.Start(); s.RemovalsOver == 0 || end < s.RemovalsOver {
			s.RemovalsOver = end
		}
	}
	return s, nil
}
