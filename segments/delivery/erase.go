package delivery

import (
	"context"
	"errors"
	"fmt"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// HolderBound is how many days after its day behaviour may lie on disk here: a
// row's life of at most 90 days, in a file of at most 14, and the nightly pass.
// With deliveries running, the daily full makes it 90 and 2.
const HolderBound = taxonomy.RetentionDays + 14 + 1

// Holder registers the deliverer with sweeper, eraser and audit; it comes first
// (R25).
func (d *Deliverer) Holder() forget.Holder {
	return forget.Holder{
		Name: "delivery", Bound: HolderBound,
		Oldest: d.Oldest, ExpireBefore: d.ExpireBefore, Erase: d.Erase,
	}
}

// Forget writes the removals of visitors into the outbox of every destination
// that holds them, and keeps nothing else of them in the ledgers. The removals
// go out with the next generation that is delivered. It may be called as soon
// as an erasure is known; the files that hold them are left to Erase, so that
// many erasures a day still make one new full a day. A delivery that another node has
// planned before, of a view that does not know the erasure, is planned anew.
func (d *Deliverer) Forget(ctx context.Context, visitors []taxonomy.VisitorKey) error {
	return d.erase(ctx, visitors, false)
}

// Erase does what Forget does, and withdraws every file that holds one of the
// visitors: it answers 410 from then on, and a new full follows (R25, R26).
func (d *Deliverer) Erase(ctx context.Context, visitors []taxonomy.VisitorKey) error {
	return d.erase(ctx, visitors, true)
}

// named is a visitor to be forgotten.
type named struct {
	key     taxonomy.VisitorKey
	shard   int
	ordinal uint32
}

func (d *Deliverer) erase(ctx context.Context, visitors []taxonomy.VisitorKey, withdraw bool) error {
	if len(visitors) == 0 {
		return nil
	}
	v, err := d.o.View(ctx)
	if err != nil {
		return fmt.Errorf("erase from deliveries: %w", err)
	}
	var list []named
	who := index.NewSet(v.Shards())
	for _, k := range visitors {
		if s, o, ok := v.Ordinal(k); ok {
			list = append(list, named{k, s, o})
			who[s].Add(o)
		}
	}
	if len(list) == 0 {
		return nil // never had an ordinal, or has none any more: held nowhere
	}
	ids, err := d.destinations(ctx)
	if err != nil {
		return fmt.Errorf("erase from deliveries: %w", err)
	}
	var errs []error
	for _, dest := range ids {
		err := d.change(ctx, dest, func(h *head, l *Ledger) (bool, bool, error) {
			// What is under way and not sent yet must not be: whoever is in it
			// would come back by it.
			moved, err := d.withdrawPending(ctx, dest, h, l, func(s int, m *roaring.Bitmap) bool {
				return s < len(who) && m.Intersects(who[s])
			})
			if err != nil {
				return false, false, err
			}
			for _, n := range list {
				id := ""
				if h.IDs == ByPseudonym {
					id = d.o.Pseudonym(dest, h.PseudonymEpoch, n.key)
				}
				if l.Forget(n.shard, n.ordinal, id, max(d.o.Now(), h.Clock).Day()) {
					moved = true
				}
			}
			// The head moves in any case: of a plan that was begun before, of a view
			// that knows these visitors still, nobody could tell afterwards.
			if !withdraw {
				return moved, true, nil
			}
			holds := func(s int, m *roaring.Bitmap) bool { return s < len(who) && m.Intersects(who[s]) }
			if _, err := d.withdrawHolding(ctx, dest, h, holds); err != nil {
				return false, false, err
			}
			_, err = d.withdrawSent(ctx, dest, h, holds)
			return moved, true, err
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("erase from deliveries to %s: %w", dest, err))
		}
	}
	return errors.Join(errs...)
}

// withdrawHolding withdraws every file with members in a shard that holds is
// true of, and what came before it.
func (d *Deliverer) withdrawHolding(ctx context.Context, dest taxonomy.DestinationID, h *head, holds func(shard int, members *roaring.Bitmap) bool) (bool, error) {
	for i := len(h.Files) - 1; i >= 0; i-- {
		members, err := d.readMembers(ctx, dest, &h.Files[i])
		if err != nil {
			return false, err
		}
		for s, m := range members {
			if holds(s, m) {
				h.withdraw(i)
				return true, nil
			}
		}
	}
	return false, nil
}

// change lets fn change the head and ledger of a destination and writes what it
// says it changed, anew if another node was faster.
func (d *Deliverer) change(ctx context.Context, dest taxonomy.DestinationID, fn func(*head, *Ledger) (ledger, files bool, err error)) error {
	defer d.lock(dest)()
	return again(func() error {
		h, err := d.readHead(ctx, dest)
		if err != nil || h.Seq == 0 && h.version == 0 {
			return err
		}
		l, err := d.readLedger(ctx, dest, h)
		if err != nil {
			return err
		}
		defer l.Close()
		ledger, files, err := fn(h, l)
		if err != nil {
			return err
		}
		if !ledger && !files {
			// Also when nothing changes: a crash after the last change may have
			// left the file that it was about to delete.
			return d.clean(ctx, dest, h)
		}
		if h.Seq == 0 { // nothing was delivered, and so there is nothing to clean up
			h.Touched++
			return d.swapHead(ctx, dest, h)
		}
		h.Seq++
		if ledger {
			if err := d.putLedger(ctx, dest, h, l); err != nil {
				return err
			}
		}
		if err := d.swapHead(ctx, dest, h); err != nil {
			return err
		}
		return d.clean(ctx, dest, h)
	})
}

// Oldest returns the day of the oldest behaviour that a file or ledger on disk
// tells of.
func (d *Deliverer) Oldest(ctx context.Context) (least taxonomy.Day, any bool, err error) {
	ids, err := d.destinations(ctx)
	if err != nil {
		return 0, false, err
	}
	see := func(day taxonomy.Day) {
		if !any || day < least {
			least, any = day, true
		}
	}
	for _, dest := range ids {
		h, err := d.readHead(ctx, dest)
		if err != nil {
			return 0, false, fmt.Errorf("oldest of deliveries to %s: %w", dest, err)
		}
		for _, f := range h.Files {
			if f.Rows > 0 {
				see(f.Oldest)
			}
		}
		if h.Pending != nil {
			see(h.Pending.Oldest)
		}
		for _, s := range h.Sent {
			see(s.Oldest)
		}
		l, err := d.readLedger(ctx, dest, h)
		if err != nil {
			return 0, false, fmt.Errorf("oldest of deliveries to %s: %w", dest, err)
		}
		l.Close()
		if day, ok := l.oldest(); ok {
			see(day)
		}
	}
	return least, any, nil
}

// ExpireBefore drops from the ledgers what has ended for the partner, and
// withdraws files whose 14 days are over, files with rows that are older than a
// file may be, and files that hold someone whom the destination may no longer
// have (R26): the nightly pass does so whether or not deliveries run.
func (d *Deliverer) ExpireBefore(ctx context.Context, before taxonomy.Day) error {
	ids, err := d.destinations(ctx)
	if err != nil {
		return fmt.Errorf("expire deliveries: %w", err)
	}
	v, err := d.o.View(ctx)
	if err != nil {
		return fmt.Errorf("expire deliveries: %w", err)
	}
	var errs []error
	for _, dest := range ids {
		may := make([]*roaring.Bitmap, v.Shards())
		for s := range may {
			if may[s], _, err = eligible(v, &Destination{ID: dest}, s); err != nil {
				return fmt.Errorf("expire deliveries to %s: %w", dest, err)
			}
		}
		err := d.change(ctx, dest, func(h *head, l *Ledger) (bool, bool, error) {
			// A copy that ends on day e is of behaviour on day e-90.
			pruned := l.prune(before + taxonomy.RetentionDays - 1)
			stopped, err := d.withdrawPending(ctx, dest, h, l, func(s int, m *roaring.Bitmap) bool {
				return s >= len(may) || roaring.AndNot(m, may[s]).GetCardinality() > 0
			})
			if err != nil {
				return false, false, err
			}
			over := false
			for i := len(h.Files) - 1; i >= 0; i-- {
				if d.o.Now() >= h.Files[i].Expires {
					h.withdraw(i)
					over = true
					break
				}
			}
			over = h.expireSent(d.o.Now()) || over
			holds := func(s int, m *roaring.Bitmap) bool {
				return s >= len(may) || roaring.AndNot(m, may[s]).GetCardinality() > 0
			}
			no, err := d.withdrawHolding(ctx, dest, h, holds)
			if err != nil {
				return pruned || stopped, over || no, err
			}
			sent, err := d.withdrawSent(ctx, dest, h, holds)
			return pruned || stopped, over || no || sent, err
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("expire deliveries to %s: %w", dest, err))
		}
	}
	return errors.Join(errs...)
}

// Drop forgets a destination that is no longer defined, with all its files. Its
// partner's copies end by themselves: each carries its remaining life.
func (d *Deliverer) Drop(ctx context.Context, dest taxonomy.DestinationID) error {
	defer d.lock(dest)()
	h, err := d.readHead(ctx, dest)
	if err == nil && h.Seq > 0 {
		// An empty head rather than none: its number goes on, so that files
		// which a crash leaves are still told from those to come.
		err = d.swapHead(ctx, dest, &head{Seq: h.Seq + 1, Term: h.Term, Shards: h.Shards, Clock: h.Clock, version: h.version})
		if err == nil {
			err = d.clean(ctx, dest, &head{Seq: h.Seq + 1})
		}
	}
	if err != nil {
		return fmt.Errorf("drop deliveries to %s: %w", dest, err)
	}
	return nil
}
