package app

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/cassandra"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/fold"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// carrying is a move under way.
type carrying struct {
	from, to *App
	again    bool
	tell     func(string)
	draft    *audience.Built // of the source, by its state at the end
	had      eventSum
}

// eventSum is how many events there are, and which.
type eventSum struct {
	n   uint64
	sum index.Sum
}

func (s *eventSum) add(e *retention.StoredEvent) {
	s.n++
	s.sum.Add(taxonomy.AppendRecord(nil, &e.Record), e.Ref.Writer[:], binary.BigEndian.AppendUint64(nil, e.Ref.Seq))
}

func (x *carrying) run(ctx context.Context) (m Moved, err error) {
	if err := x.to.alone(ctx); err != nil {
		return m, err
	}
	// First of all who is erased: nobody comes back whatever happens next (P6).
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"carry erasures", x.erasures},
		{"carry stored events", x.events},
		{"carry definitions, API keys and the audit log", x.definitions},
		{"carry visitors, and write the index anew", x.visitors},
		{"carry deliveries", x.deliveries},
	} {
		x.tell(step.name)
		if err := step.do(ctx); err != nil {
			return m, err
		}
	}
	x.tell("compare")
	if m, err = x.compare(ctx); err != nil || !m.Same {
		return m, err
	}
	return m, x.finish(ctx)
}

func (x *carrying) erasures(ctx context.Context) error {
	// The journal of a node knows what came since there is its data directory.
	entries := x.from.journal.Entries()
	for _, f := range x.from.fold.folds() {
		for _, e := range f.Erasures() {
			entries = append(entries, forget.Entry{Hash: e.Hash, Space: e.Space, At: e.At})
		}
	}
	if err := x.to.journal.Append(ctx, entries); err != nil {
		return err
	}
	if c := x.to.cluster; c != nil {
		list := make([]cassandra.Erasure, len(entries))
		for i, e := range entries {
			list[i] = cassandra.Erasure{Hash: e.Hash, Space: e.Space, Asked: e.At}
		}
		if err := c.store.PutErasures(ctx, list); err != nil {
			return err
		}
	}
	return forget.Carry(ctx, x.from.store.Keyed(), x.to.store.Keyed())
}

// parts is into how many a scan of an App's events is best divided.
func (a *App) parts() int {
	if a.cluster != nil {
		return a.cluster.store.Buckets()
	}
	return 1
}

// keeps reports whether an event goes along.
func (x *carrying) keeps(e *retention.StoredEvent) bool {
	k := e.Record.Visitor
	return x.from.fold.of(k, x.from.install.Shards).fold.Load().Keeps(&e.Record)
}

func (x *carrying) events(ctx context.Context) error {
	oldest := x.from.env.millis().Day().Oldest()
	if x.again {
		// Who was erased since the attempt before is not left behind by it.
		if err := x.eraseOthers(ctx, oldest); err != nil {
			return err
		}
	}
	return retention.CopyEvents(ctx, x.from.store.Events(), x.to.store.Events(), x.from.parts(), oldest, x.keeps, x.had.add)
}

// eraseOthers erases from the target all visitors with an event that does not go
// along.
func (x *carrying) eraseOthers(ctx context.Context, oldest taxonomy.Day) error {
	others := map[taxonomy.VisitorKey]bool{}
	err := retention.EachEvent(ctx, x.to.store.Events(), x.to.parts(), oldest, func(e *retention.StoredEvent) error {
		if !x.keeps(e) {
			others[e.Record.Visitor] = true
		}
		return nil
	})
	if err != nil || len(others) == 0 {
		return err
	}
	list := make([]taxonomy.VisitorKey, 0, len(others))
	for k := range others {
		list = append(list, k)
	}
	return x.to.store.Events().Erase(ctx, list)
}

// definitions are all documents but two settings, which name shards and groups.
func (x *carrying) definitions(ctx context.Context) (err error) {
	err = defs.Carry(ctx, x.from.store.Keyed(), x.to.store.Keyed(), func(k defs.Kind, id string) bool {
		return k == defs.Setting && (id == installationID || id == refoldSettingID)
	})
	if err != nil {
		return err
	}
	if _, err := x.to.defs.Refresh(ctx); err != nil {
		return err
	}
	s, _, err := x.from.refoldSetting()
	if err != nil {
		return err
	}
	// A version of the rules is used once: by no group again that any had.
	most := refoldAttempt{}
	for _, try := range s.Groups {
		if try.Attempt > most.Attempt {
			most = try
		}
	}
	err = x.to.setRefold(ctx, func(to *refoldSetting) {
		to.Cancelled, to.Past, to.Groups = s.Cancelled, s.Past, map[taxonomy.Group]refoldAttempt{}
		if most.Attempt > 0 {
			for g := range taxonomy.Group(x.to.install.Groups) {
				to.Groups[g] = most
			}
		}
	})
	if err != nil {
		return err
	}
	return x.to.refresh(ctx)
}

// visitors carries what the folds know, and the audiences as they are now.
func (x *carrying) visitors(ctx context.Context) (err error) {
	view := x.from.fold.View()
	if x.draft, err = x.from.builder.Draft(ctx, x.from.job(view)); err != nil {
		return fmt.Errorf("count the audiences: %w", err)
	}
	n, err := fold.Renumber(x.from.fold.folds(), x.to.install.Shards)
	if err != nil {
		return err
	}
	for _, f := range x.to.fold.folds() {
		if _, err := f.Carry(ctx, x.from.fold.folds(), n); err != nil {
			return err
		}
	}
	now := x.to.fold.View()
	gen, err := x.to.generations.Carry(ctx, x.from.generations, x.draft, n, now)
	if err != nil {
		return err
	}
	x.to.current.Store(gen)
	if err := x.to.swapSeg(ctx); err != nil {
		return err
	}
	x.to.fold.Built(now)
	return nil
}

func (x *carrying) deliveries(ctx context.Context) error {
	n, err := fold.Renumber(x.from.fold.folds(), x.to.install.Shards)
	if err != nil {
		return err
	}
	return x.to.deliverer.Carry(ctx, x.from.deliverer, n)
}

// compare asks both sides the same questions.
func (x *carrying) compare(ctx context.Context) (m Moved, err error) {
	m = Moved{From: x.from.place(), To: x.to.place(), Same: true, Audiences: []MovedAudience{}, Destinations: []MovedDestination{}}
	note := func(what string, from, to uint64) {
		m.Counts = append(m.Counts, MovedCount{what, from, to})
		m.Same = m.Same && from == to
	}
	has := eventSum{}
	err = retention.EachEvent(ctx, x.to.store.Events(), x.to.parts(), x.from.env.millis().Day().Oldest(), func(e *retention.StoredEvent) error {
		has.add(e)
		return nil
	})
	if err != nil {
		return m, err
	}
	had, err := fold.TakeCensus(x.from.fold.folds())
	if err != nil {
		return m, err
	}
	now, err := fold.TakeCensus(x.to.fold.folds())
	if err != nil {
		return m, err
	}
	var docs [2]uint64
	var entries [2]defs.Link
	note("events", x.had.n, has.n)
	note("visitors", had.Visitors, now.Visitors)
	note("facts by day", had.Facts, now.Facts)
	note("waiting for their cookie", had.Waiting, now.Waiting)
	note("statements", had.Statements, now.Statements)
	note("matches", had.Matches, now.Matches)
	note("erasures", had.Erasures, now.Erasures)
	for i, a := range []*App{x.from, x.to} {
		if entries[i], err = a.trail.Head(ctx); err != nil {
			return m, err
		}
		for _, kind := range defs.Kinds {
			if kind != defs.Setting {
				docs[i] += uint64(len(a.defs.List(kind)))
			}
		}
	}
	note("definitions", docs[0], docs[1])
	note("entries of the audit log", entries[0].Seq, entries[1].Seq)
	m.Same = m.Same && entries[0].Hash == entries[1].Hash
	m.Same = m.Same && x.had == has && had == now
	if err := x.compareAudiences(ctx, &m); err != nil {
		return m, err
	}
	return m, x.compareDeliveries(ctx, &m)
}

// compareAudiences counts every audience anew by the new index. A lookalike learns
// from visitors that the ordinals choose, so of these the carried one is read back.
func (x *carrying) compareAudiences(ctx context.Context, m *Moved) error {
	was, is := x.from.fold.View(), x.to.fold.View()
	job := x.to.job(is)
	x.to.builder.Scorer = nil
	draft, err := x.to.builder.Draft(ctx, job)
	if err != nil {
		return fmt.Errorf("count the audiences: %w", err)
	}
	for _, e := range x.draft.Generation.Audiences {
		a := MovedAudience{ID: e.ID, From: e.Count}
		set := draft.Sets[e.ID]
		carried, err := x.to.generations.Load(ctx, x.to.current.Load(), e.ID)
		if err != nil {
			return err
		}
		if job.Catalog.Learnt(e.ID) {
			set = carried
		}
		a.To = set.Count()
		var sums [3]index.Sum
		for i, of := range []struct {
			set index.Set
			v   *fold.View
		}{{x.draft.Sets[e.ID], was}, {set, is}, {carried, is}} {
			if sums[i], err = audience.Tell(of.set, of.v.Key); err != nil {
				return fmt.Errorf("audience %q: %w", e.ID, err)
			}
		}
		a.Same = a.From == a.To && sums[0] == sums[1] && sums[0] == sums[2]
		m.Same = m.Same && a.Same
		m.Audiences = append(m.Audiences, a)
	}
	return nil
}

func (x *carrying) compareDeliveries(ctx context.Context, m *Moved) error {
	had, err := x.from.deliverer.TakeStock(ctx, x.from.fold.View().Whose)
	if err != nil {
		return err
	}
	has, err := x.to.deliverer.TakeStock(ctx, x.to.fold.View().Whose)
	if err != nil {
		return err
	}
	m.Same = m.Same && len(had) == len(has)
	for i, k := range had {
		d := MovedDestination{Kept: k}
		if i < len(has) {
			d.To, d.Same = has[i].Held, has[i] == k
		}
		m.Same = m.Same && d.Same
		m.Destinations = append(m.Destinations, d)
	}
	return nil
}

// finish opens the target to all.
func (x *carrying) finish(ctx context.Context) error {
	to := x.to
	e := defs.Entry{Who: "local", What: "move", Detail: "from " + x.from.cfg.Store}
	if _, err := to.trail.Append(ctx, e); err != nil {
		return err
	}
	doc, _ := to.defs.Snapshot().Get(defs.Setting, installationID)
	to.install.Moving.Ended = to.env.millis()
	return to.putInstallation(ctx, doc.Version)
}
