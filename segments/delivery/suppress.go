package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/ebb-dmp/ebb/taxonomy"
)

const (
	// mostSuppress is how many audiences a destination may suppress by.
	mostSuppress = 20
	// promptAfter is how long a delivery that is under way is not interrupted by
	// what is prompt. What it has sent by then is acknowledged, so it gets on, however
	// often it is interrupted.
	promptAfter = 15 * taxonomy.Second
	// whySuppressed is the Why of a delivery of Suppress.
	whySuppressed = "visitors were suppressed"
)

// Names reports whether a destination gets an audience or suppresses by it.
func (d *Destination) Names(a taxonomy.AudienceID) bool {
	return slices.Contains(d.Audiences, a) || slices.Contains(d.Suppress, a)
}

func (d *Destination) checkSuppress(delivered map[taxonomy.AudienceID]bool) (errs []error) {
	if len(d.Suppress) > mostSuppress {
		errs = append(errs, taxonomy.Invalid("suppress", "names %d audiences, at most %d are allowed", len(d.Suppress), mostSuppress))
	}
	seen := map[taxonomy.AudienceID]bool{}
	for i, a := range d.Suppress {
		field := fmt.Sprintf("suppress[%d]", i)
		switch err := taxonomy.CheckSlug("audience", string(a)); {
		case err != nil:
			errs = append(errs, &taxonomy.FieldError{Field: field, Err: err})
		case seen[a]:
			errs = append(errs, taxonomy.Invalid(field, "%q stands there twice", a))
		case delivered[a]:
			errs = append(errs, taxonomy.Invalid(field, "%q is one of the destination's audiences, and nobody of it could be sent", a))
		}
		seen[a] = true
	}
	return errs
}

// suppressing is the source with who is suppressed now.
func (s *Source) suppressing(ctx context.Context) *Source {
	with := *s
	if s.Suppressed == nil {
		return &with
	}
	var err error
	if with.out, err = s.Suppressed(ctx); err != nil {
		with.out, with.unsuppressed = nil, short(err)
	}
	return &with
}

// suppressedIn returns who of a shard is suppressed, nil for nobody.
func (s *Source) suppressedIn(shard int) *roaring.Bitmap {
	if shard < len(s.out) {
		return s.out[shard]
	}
	return nil
}

// Suppress takes at once, from a partner that is pushed to, what it holds of
// visitors whom src suppresses; it sends nothing else but what was under way. Who is
// suppressed is looked up each time, so what a crash or a receiver left undone is
// done by the next call. A partner that pulls learns it with its next file.
//
// The result is zero if there was nothing to take, and ResultWaiting if it must be
// called again, after Next. A suppression that is too large
// a change waits for approval, as any other does. src must be of the newest view.
func (d *Deliverer) Suppress(ctx context.Context, dest Destination, src Source) (done Delivery, err error) {
	dest = dest.WithDefaults()
	if t := d.o.Transports[dest.Transport]; t == nil || t.Facts().Served {
		return done, nil
	}
	fail := func(err error) (Delivery, error) {
		return Delivery{}, fmt.Errorf("suppress at %s: %w", dest.ID, err)
	}
	if err := d.termOf(ctx, dest.ID, &src); err != nil {
		return fail(err)
	}
	prompt := false
	err = d.change(ctx, dest.ID, func(h *head, l *Ledger) (bool, bool, error) {
		if err := h.under(src.Term); err != nil {
			return false, false, err
		}
		src := src.suppressing(ctx)
		if src.unsuppressed != "" {
			return false, false, errors.New(src.unsuppressed)
		}
		moved, held := d.suppress(h, l, &dest, src)
		if !moved {
			prompt = h.Prompt || h.Pending != nil && h.Pending.Prompt
			return false, held, nil
		}
		prompt, h.Prompt = true, true
		now := max(d.o.Now(), h.Clock)
		if p := h.Pending; p != nil && now >= p.Run.At+promptAfter && now >= h.Retry.NotBefore && p.Run.Acknowledged > 0 && !p.Prompt {
			// It goes on behind this one: what it has not said stays in Maybe and the
			// outbox, and so is planned again.
			return true, true, d.settleLedger(ctx, dest.ID, h, l)
		}
		return true, false, nil
	})
	if err != nil {
		return fail(err)
	}
	if !prompt {
		return done, nil
	}
	unlock, ok := d.tryRun(dest.ID)
	if !ok {
		// Whoever delivers to it now finds what is prompt, unless it is just done.
		return Delivery{Destination: dest.ID, Result: ResultWaiting}, nil
	}
	defer unlock()
	if done, err = d.pushOn(ctx, &dest, &src, d.nextPrompt); err != nil {
		return fail(err)
	}
	return done, nil
}

// tryRun is the lock of a delivery if nobody has it.
func (d *Deliverer) tryRun(dest taxonomy.DestinationID) (unlock func(), ok bool) {
	m := d.mutex(d.run, dest)
	return m.Unlock, m.TryLock()
}

// suppress moves what is held of suppressed visitors into the outbox, in h and l,
// and returns whether there was any. held: there is too much of it, which h says
// now and did not before.
func (d *Deliverer) suppress(h *head, l *Ledger, dest *Destination, src *Source) (moved, held bool) {
	if h.Shards != src.View.Shards() || !sameReceiver(h, dest) {
		return false, false // the next delivery says everything anew
	}
	clock := max(d.o.Now(), h.Clock)
	today := clock.Day()
	name := d.namer(dest, src.View, l.IDs)
	var changed uint64
	type place struct {
		a     taxonomy.AudienceID
		of    Held
		shard int
		end   taxonomy.Day
		who   *roaring.Bitmap
	}
	var found []place
	for _, rows := range []map[taxonomy.AudienceID]Held{l.Held, l.Maybe} {
		for a, of := range rows {
			for s, days := range of {
				out := src.suppressedIn(s)
				for end, b := range days {
					if out == nil || end <= today || !b.Intersects(out) {
						continue
					}
					who := roaring.And(b, out)
					changed += who.GetCardinality()
					found = append(found, place{a, of, s, end, who})
				}
			}
		}
	}
	if len(found) == 0 {
		return false, false
	}
	if hold := dest.tooLarge(h, src.Generation, clock, changed); hold != nil && dest.mayHold(h, src.Generation, h.Shards, clock) {
		held = h.Hold == nil
		if held {
			h.Hold = hold
		}
		return false, held
	}
	for _, p := range found {
		named := roaring.New()
		for it := p.who.Iterator(); it.HasNext(); {
			o := it.Next()
			// Who has no name any more is gone, and the eraser's.
			if id, ok := name(p.shard, o); ok {
				named.Add(o)
				l.Outbox = append(l.Outbox, Removal{Audience: p.a, ID: id, Until: p.end, Shard: p.shard, Ordinal: o})
			}
		}
		moved = p.of.remove(p.shard, named) || moved
	}
	l.Outbox = ordered(l.Outbox)
	l.keepIDs()
	return moved, false
}

// nextPrompt is next for Suppress: it makes no plan of a generation.
func (d *Deliverer) nextPrompt(ctx context.Context, dest *Destination, src *Source) (Delivery, *pending, error) {
	h, err := d.headUnder(ctx, dest.ID, src.Term)
	if err != nil {
		return Delivery{}, nil, err
	}
	run, p, err := d.begun(ctx, dest, h, max(d.o.Now(), h.Clock))
	if run.Result == "" {
		run = Delivery{Destination: dest.ID, Epoch: h.Epoch, Generation: h.Generation, Result: ResultDelivered}
		if h.Prompt {
			run.Result, run.Next = ResultWaiting, h.Retry.NotBefore
		}
	}
	return run, p, err
}

// planPrompt makes the outbox what is under way, and nothing else. Whose removals
// they are is in no other part of the ledger: a plan takes out of the outbox what
// it adds again, and the next one will.
func (d *Deliverer) planPrompt(ctx context.Context, dest *Destination, h *head, clock taxonomy.Millis) (Delivery, *pending, error) {
	run := Delivery{Destination: dest.ID, Epoch: h.Epoch, Generation: h.Generation, At: clock, Why: whySuppressed, Result: ResultSame}
	if n := len(h.Runs); n > 0 {
		run.Allowed, run.Owed, run.Floored, run.Withheld, run.Hold = h.Runs[n-1].Allowed, h.Runs[n-1].Owed, h.Runs[n-1].Floored, h.Runs[n-1].Withheld, h.Hold
	}
	was, err := d.readLedger(ctx, dest.ID, h)
	if err != nil {
		return run, nil, err
	}
	defer was.Close()
	e := Effects{}
	for _, r := range was.Outbox {
		if r.Until > clock.Day() {
			e.Removes = append(e.Removes, r)
		}
	}
	nh := *h
	nh.Seq, nh.Clock, nh.Prompt = h.Seq+1, clock, false
	next := *was
	next.Outbox = nil
	if len(e.Removes) > 0 {
		if nh.Pending, err = d.writeChunks(ctx, dest, &nh, clock-clock%taxonomy.Minute, &comparison{was: was, e: e}, &run); err != nil {
			return run, nil, err
		}
		p := nh.Pending
		p.Prompt, p.Rest, p.Run.Result = true, h.Owes, ResultDelta
		run, nh.Owes = p.Run, true
		next.Outbox = e.Removes
	}
	if err := d.putLedger(ctx, dest.ID, &nh, &next); err != nil {
		return run, nil, err
	}
	if err := d.swapHead(ctx, dest.ID, &nh); err != nil {
		return run, nil, err
	}
	if p := nh.Pending; p != nil {
		p.fresh = true
	} else {
		*h = nh // they had all ended: a plan may be made
		run.Result = ""
	}
	return run, nh.Pending, d.clean(ctx, dest.ID, &nh)
}
