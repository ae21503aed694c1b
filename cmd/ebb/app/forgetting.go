package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/fold"
	"github.com/ebb-dmp/ebb/tagserver/console"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Bounds, in days from its own, of what this program keeps itself.
const (
	// foldBound: a day's layers go at the first checkpoint of day d+90, what is
	// known of visitors at the next Rewrite.
	foldBound = taxonomy.RetentionDays + 1
	// logBound: a record's bytes go when a checkpoint covers them, at the latest
	// with the nightly pass.
	logBound = 2
)

// forgetting registers every place that keeps visitor data, in the order in
// which they are called: delivery, generations, fold, stores (R25).
func (a *App) forgetting(context.Context) error {
	deliveries := a.deliverer.Holder()
	deliveries.Soon = a.deliverer.Forget
	generations := a.generations.Holder(func() (audience.View, error) { return a.fold.View(), nil }, a.term)
	generations.Soon = nothing // who is gone is subtracted from every answer
	a.holders = []forget.Holder{deliveries, generations, a.foldHolder(), a.logHolder()}
	if a.cluster != nil {
		a.holders = append(a.holders, a.pageListHolder())
	}
	for _, h := range a.store.Holders() {
		if h.Name == "events" {
			h.Soon = a.store.Events().Erase
		} else {
			h.Soon = nothing
		}
		a.holders = append(a.holders, h)
	}
	a.eraser = &forget.Eraser{Keyed: a.store.Keyed(), Holders: a.holders, Now: a.env.millis, Before: a.beforeErasing,
		Hash: func(k taxonomy.VisitorKey) [16]byte { return a.keys.Load().Erasure(k) }}
	a.holders = append(a.holders, a.eraser.Holder())
	a.sweeper = &forget.Sweeper{Holders: a.holders}
	return nil
}

func nothing(context.Context, []taxonomy.VisitorKey) error { return nil }

func (a *App) foldHolder() forget.Holder {
	return forget.Holder{
		Name: "fold", Bound: foldBound,
		Oldest: func(context.Context) (taxonomy.Day, bool, error) {
			d, ok := a.fold.View().OldestDay()
			return d, ok, nil
		},
		// The days went with the checkpoint; Rewrite takes the visitors.
		ExpireBefore: func(ctx context.Context, _ taxonomy.Day) error { _, err := a.fold.Rewrite(ctx); return err },
		Soon:         nothing, // the record marked them as gone; the key is still needed
		Erase: func(ctx context.Context, visitors []taxonomy.VisitorKey) error {
			a.fold.Forget(visitors)
			_, err := a.fold.Rewrite(ctx)
			return err
		},
	}
}

func (a *App) logHolder() forget.Holder {
	rotate := func(ctx context.Context) error {
		// A checkpoint covers what is folded; a new file lets the old one go.
		var errs []error
		for g := range taxonomy.Group(a.install.Groups) {
			errs = append(errs, a.local().Rotate(ctx, g))
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
		if err := a.Fold(ctx); err != nil {
			return err
		}
		_, err := a.fold.Checkpoint(ctx)
		return err
	}
	return forget.Holder{
		Name: "log", Bound: logBound,
		Oldest: func(context.Context) (taxonomy.Day, bool, error) {
			d, ok := a.local().Oldest()
			return d, ok, nil
		},
		ExpireBefore: func(ctx context.Context, _ taxonomy.Day) error {
			// Damaged bytes may hold anything, and nothing can be erased in them:
			// they are kept for the operator for one night.
			return errors.Join(rotate(ctx), a.local().ExpireQuarantine((a.env.millis().Day() - 1).Start()))
		},
		Soon:  nothing,
		Erase: func(ctx context.Context, _ []taxonomy.VisitorKey) error { return rotate(ctx) },
	}
}

// onErased takes erasures from the fold's step: into the journal, and into the
// eraser's queue. Both may be given the same again.
func (a *App) onErased(ctx context.Context, erased []fold.Erased) error {
	entries := make([]forget.Entry, len(erased))
	queue := make([]forget.Erasure, len(erased))
	for i, e := range erased {
		entries[i] = forget.Entry{Hash: a.keys.Load().Erasure(e.Visitor), Space: e.Space, At: e.At}
		queue[i] = forget.Erasure{Visitor: e.Visitor, Space: e.Space, At: e.At}
	}
	if err := a.journal.Append(ctx, entries); err != nil {
		return err
	}
	if a.cluster != nil {
		if err := a.tellErasures(ctx, entries); err != nil {
			return err
		}
	}
	return a.eraser.Queue(ctx, queue)
}

// remember tells the fold of erasures that the journal has and it has not: the
// journal is written on its own, so an erasure survives damage to everything
// else (P6). Those of cookies that are older than what the fold keeps are over.
func (a *App) remember(ctx context.Context) error {
	var list []fold.Erasure
	spaces := map[[16]byte]taxonomy.Space{}
	for _, e := range a.journal.Entries() {
		spaces[e.Hash] = e.Space
		if e.Space != taxonomy.SpaceCookie || e.At+fold.ErasureLife >= a.env.millis() {
			list = append(list, fold.Erasure{Hash: e.Hash, Space: e.Space, At: e.At})
		}
	}
	known := a.fold.Restore(list)
	if len(known) == 0 {
		return nil
	}
	a.log.Warn("the journal knows erasures that the state had lost; they are done again", "visitors", len(known))
	queue := make([]forget.Erasure, len(known))
	for i, k := range known {
		queue[i] = forget.Erasure{Visitor: k, Space: spaces[a.keys.Load().Erasure(k)], At: a.env.millis()}
	}
	return a.eraser.Queue(ctx, queue)
}

// eraseSoon does the first pass of new erasures: every destination's outbox gets
// the removals, and nobody is told of the visitors any more.
func (a *App) eraseSoon(ctx context.Context) error {
	n, err := a.eraser.Soon(ctx)
	if n > 0 {
		a.log.Info("erased at once; the bytes follow in the nightly pass", "visitors", n)
	}
	return err
}

// covered makes a checkpoint of what is folded, if there is anything: holders
// look up who is gone in the view of a checkpoint.
func (a *App) covered(ctx context.Context) error {
	if err := a.Fold(ctx); err != nil {
		return err
	}
	if !a.fold.Changed() {
		return nil
	}
	_, err := a.fold.Checkpoint(ctx)
	return err
}

// beforeErasing sees to it that the last checkpoint knows whom the eraser is about to
// take out, since holders look up there who is gone. A builder that folded an erasure
// from its own log may have died before anybody else could read it there: its
// successor has it from the queue alone, and would deliver the visitor again behind
// the eraser's back. Of a group that another node builds that is the other node's to
// see to; until then the erasure waits.
func (a *App) beforeErasing(ctx context.Context, list []forget.Erasure) (notYet []taxonomy.VisitorKey, err error) {
	if err := a.Fold(ctx); err != nil {
		return nil, err
	}
	var lost []fold.Erasure
	for _, e := range list {
		g, h := a.fold.of(e.Visitor, a.install.Shards), a.keys.Load().Erasure(e.Visitor)
		switch {
		case g.fold.Load().Knows(h, e.At):
		case g.builds():
			lost = append(lost, fold.Erasure{Hash: h, Space: e.Space, At: e.At})
		default:
			notYet = append(notYet, e.Visitor)
		}
	}
	if len(lost) > 0 {
		a.fold.Restore(lost)
		a.log.Info("erasures that another node had folded are not in the log yet; they are done all the same", "visitors", len(lost))
	}
	// Always: what Changed says does not tell of a checkpoint that was begun and
	// failed.
	_, err = a.fold.Checkpoint(ctx)
	return notYet, err
}

// Nightly is the nightly pass: erase, then remove what is over, then deliver, so
// that destinations whose files were withdrawn have a new full at once.
func (a *App) Nightly(ctx context.Context) (err error) {
	night := console.Night{At: a.env.millis()}
	defer func() {
		night.Took = a.env.millis() - night.At
		if err != nil {
			night.Error = err.Error()
		}
		a.noteNight(night)
	}()
	if err := a.mustLead(ctx, "nightly pass"); errors.Is(err, errNotBuilder) {
		return a.nodeNightNow(ctx) // this node's part of it
	} else if err != nil {
		return err
	}
	if err := a.covered(ctx); err != nil {
		return err
	}
	n, eraseErr := a.eraser.Night(ctx)
	night.Erased = n
	sweepErr := a.sweeper.Sweep(ctx, a.env.millis().Day())
	a.log.Info("nightly pass", "erased", n, "ok", eraseErr == nil && sweepErr == nil)
	if err := errors.Join(eraseErr, sweepErr); err != nil {
		return err
	}
	if _, err := a.Build(ctx); err != nil {
		return err
	}
	return a.DeliverAll(ctx)
}

// Audit says how old the oldest thing in every place is (P5).
func (a *App) Audit(ctx context.Context) forget.Report {
	r := forget.Audit(ctx, a.holders, a.env.millis())
	a.auditCluster(ctx, &r)
	return r
}

// Erase records the erasure of an ID of a space of the operator's or a
// partner's (R24) and returns the name of its receipt.
func (a *App) Erase(ctx context.Context, space taxonomy.Space, id string) (receipt string, err error) {
	if err := taxonomy.CheckSpace(space); err != nil {
		return "", err
	}
	if space == taxonomy.SpaceCookie {
		return "", errors.New("an ID of space cookie is known to its browser only; the visitor erases it at /v1/optout")
	}
	k, err := a.keys.Load().VisitorKey(space, []byte(id), 0)
	if err != nil {
		return "", fmt.Errorf("erase an ID of %s: %w", space, err)
	}
	r := taxonomy.Record{Kind: taxonomy.RecordErasure, Received: a.env.millis(), Space: space, Visitor: k}
	g := taxonomy.GroupOf(k.Shard(a.install.Shards), a.install.Groups)
	if _, _, err := a.wal.Append(ctx, g, []taxonomy.Record{r}, retention.AckLocal); err != nil {
		return "", fmt.Errorf("record the erasure: %w", err)
	}
	return a.eraser.ID(k), a.Fold(ctx)
}

// Receipt returns the receipt of an erasure, or retention.ErrNotFound.
func (a *App) Receipt(ctx context.Context, id string) (forget.Receipt, error) {
	return a.eraser.Receipt(ctx, id)
}
