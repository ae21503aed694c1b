package delivery

import (
	"context"
	"errors"
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// comparison is what a delivery has to say, and to whom it comes to.
type comparison struct {
	was, next *Ledger
	e         Effects
	name      func(shard int, ordinal uint32) (string, bool)
	ids       *Matched // by which name names, by match
	spools    []Spool
}

// close lets go of what the IDs lie in: those of next and of name too.
func (c *comparison) close() {
	c.was.Close() // was only read
	for _, s := range c.spools {
		s.Close() // is of no use to anybody
	}
}

// compare compares what a partner holds with what it must hold, and notes in run
// whatever is to be said of that. It writes nothing.
func (d *Deliverer) compare(ctx context.Context, dest *Destination, src *Source, h *head, clock taxonomy.Millis, run *Delivery) (_ *comparison, err error) {
	run.At = clock
	push := !d.o.Transports[dest.Transport].Facts().Served
	known := d.pulled
	if push {
		known = d.pushed
	}
	was, lost, err := known(ctx, dest, src, h, clock, run)
	if err != nil {
		return nil, err
	}
	c := &comparison{was: was}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	newest, err := d.o.View(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the newest view: %w", err)
	}
	var t *target
	today := clock.Day()
	source := src.takenBy(d.o.Formats[dest.Format]).suppressing(ctx)
	run.Hold, err = holding(source, was, today, func(src *Source) (err error) {
		spool := func() (Spool, error) {
			s, err := d.spool()
			if err == nil {
				c.spools = append(c.spools, s)
			}
			return s, err
		}
		if t, err = gather(ctx, dest, src, newest, today, spool); err != nil {
			return err
		}
		c.ids = t.ids
		c.name = d.namer(dest, src.View, t.ids)
		c.next, c.e = Plan(was, &Input{
			Today: today, Shards: src.View.Shards(), Full: run.Why != "", Push: push, Floor: dest.Floor,
			Target: t.held, IDs: t.ids, Name: c.name,
		})
		return errors.Join(was.IDs.err(), t.ids.err())
	}, func() *Hold {
		if lost {
			return nil
		}
		return tooMuch(h, dest, src.Generation, was, c.next, src.View.Shards(), clock)
	})
	if err != nil {
		return nil, err
	}
	run.Allowed, run.Owed, run.Floored, run.Withheld = t.allowed, c.e.Owed, c.e.Floored, t.withheld
	run.Suppressed, run.Unsuppressed = t.suppressed, source.unsuppressed
	return c, nil
}

// pulled is what a partner that pulls holds, and in run why it needs a full. lost:
// nobody knows what it holds.
func (d *Deliverer) pulled(ctx context.Context, dest *Destination, src *Source, h *head, clock taxonomy.Millis, run *Delivery) (l *Ledger, lost bool, err error) {
	l, err = d.readLedger(ctx, dest.ID, h)
	lost = errors.Is(err, retention.ErrCorrupt) || errors.Is(err, retention.ErrNotFound)
	if err != nil && !lost {
		return nil, false, err
	}
	run.Why = fullDue(h, dest, src, clock)
	if lost {
		// Who pulls holds what the full says and nothing else, so what the ledger
		// said of it is not needed.
		l, run.Why, run.Fault = NewLedger(), "the ledger was lost or damaged", err.Error()
	}
	if run.Why == "" && !d.o.Formats[dest.Format].Facts().Removes {
		run.Why = "the format cannot say that someone leaves"
	}
	return l, lost, nil
}

// pushed is what a partner that is pushed to holds or may hold, under the IDs by
// which it is about to be told.
func (d *Deliverer) pushed(ctx context.Context, dest *Destination, src *Source, h *head, clock taxonomy.Millis, run *Delivery) (*Ledger, bool, error) {
	l, err := d.readLedger(ctx, dest.ID, h)
	if err != nil {
		return nil, false, err
	}
	if h.Seq > 0 && h.Shards != src.View.Shards() {
		// Ordinals mean others now. What the partner holds ends by its life.
		l.Close()
		l = NewLedger()
	}
	if h.Seq > 0 && (h.IDs != dest.IDs || h.PseudonymEpoch != dest.PseudonymEpoch) {
		err = l.retire(func(s int, o uint32) (string, bool) {
			k, ok := src.View.Key(s, o)
			if !ok {
				return "", false
			}
			return d.o.Pseudonym(dest.ID, h.PseudonymEpoch, k), true
		}, clock.Day())
		if err != nil {
			l.Close()
			return nil, false, err
		}
	}
	run.Why = pushFullDue(h, dest, src, clock)
	return l, false, nil
}

// chunkerOf writes what a comparison says to a destination.
func (d *Deliverer) chunkerOf(dest *Destination, h *head, created taxonomy.Millis, c *comparison) *chunker {
	kind := Delta
	if c.e.Full {
		kind = Full
	}
	return newChunker(d.o.Formats[dest.Format], d.o.Transports[dest.Transport].Facts(), c, h.Shards, FileInfo{
		Destination: dest.ID, IDs: dest.IDs, Kind: kind, Generation: h.Generation, Created: created,
		Account: dest.Account, Segments: dest.Segments, Serial: h.Seq,
	})
}
