package fold

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
)

// A re-fold replaces the columns that a change of rules reaches, as if the new
// rules had been there all along (R18):
//
//   - It begins at a checkpoint, whose position is P. From then on the fold
//     writes what it wrote, and the new columns beside it (State.next, staged),
//     which nobody reads yet. It stores events under the coming version.
//   - The scan reads the stored events that were folded before P, part by part,
//     and adds them to the new columns. What a part gives and that it was read
//     become part of the state at once, and so lie in one checkpoint.
//   - When all parts are read, the next checkpoint holds the new columns in the
//     place of the old ones, and the new rules as those in force.
//
// An event was folded before P if it lies under an older version. What a process
// stored that crashed without a checkpoint lies under an older version too; all of
// it comes before P, since a re-fold begins at the log's end. What a builder stores
// that does not know yet that it was replaced comes after P: of that the place in
// the log is asked.

// Source is a classifier with the text of which Options.Compile makes it again.
type Source interface {
	Classifier
	Text() []byte
}

// Change is a change of rules.
type Change struct {
	// To are the rules to come. Their version is greater than that of any that
	// were in force, or that a re-fold was begun for, also by a process that
	// crashed before it could say so.
	To Source
	// Reach are the traits in which To may differ from the rules in force.
	Reach rules.Reach
}

// Progress is how far a re-fold is.
type Progress struct {
	Version uint32 // of the rules to come
	// Read of about Total events are read.
	Read, Total uint64
	Started     taxonomy.Millis // by the fold's clock
	Switching   bool            // all is read; it cannot be cancelled any more
}

// The errors of re-folds.
var (
	ErrNoRefold  = errors.New("no re-fold is under way")
	ErrRefolding = errors.New("another re-fold is under way")
	ErrBehind    = errors.New("the log is not followed to its end yet, for a part of it is still on its way")
	ErrSwitching = errors.New("the re-fold has read all events, and its columns are taking their place")
)

// refold is a change under way. at, parts, total and started are set when it
// begins and fixed; the scan moves next and read.
type refold struct {
	version  uint32
	to, part Classifier
	text     []byte
	reach    rules.Reach

	at       retention.Position
	parts    int
	total    uint64
	started  taxonomy.Millis
	next     int
	read     uint64
	captured bool // the checkpoint that switches is being written
	// cancelled: the next checkpoint is without it. Until that is committed the
	// fold goes on marking what it stores: a restart might take the re-fold up.
	cancelled bool
}

// lastDay is later than any day.
const lastDay taxonomy.Day = 1 << 30

// maxRefoldParts bounds the parts: a part costs seeks whatever it holds.
const maxRefoldParts = 1024

// Refold begins a re-fold: with the checkpoint that it makes. If no visitor is
// known yet the new rules are in force at once. ErrRefolding if one is under way,
// ErrBehind if it should be tried again later. When it returns an error that is not ErrRefolding, InForce and
// Refolding tell whether it has begun.
func (f *Fold) Refold(ctx context.Context, ch Change) error {
	if f.opt.Compile == nil || f.following {
		return errors.New("begin a re-fold: the rules of this fold are not kept in its checkpoints")
	}
	part := Classifier(ch.To)
	if f.opt.Part != nil {
		var err error
		if part, err = f.opt.Part(ch.To, &ch.Reach); err != nil {
			return fmt.Errorf("begin a re-fold: %w", err)
		}
	}
	r := &refold{version: ch.To.Version(), to: ch.To, part: part, text: ch.To.Text(), reach: ch.Reach}
	ends, err := f.opt.Log.End(ctx, f.opt.Group, nil)
	if err != nil {
		return fmt.Errorf("begin a re-fold: read the log's ends: %w", err)
	}
	if err := f.reach(ctx, ends); err != nil {
		return err
	}
	// Writers that are there and of which nothing is folded: all of theirs comes
	// after P. One that the position does not know later has left the log.
	r.at = retention.Position{}
	for _, e := range ends {
		r.at[e.Writer] = 0
	}
	r.total = f.View().EventsKept()
	per := uint64(cmp.Or(f.opt.PartEvents, 8192))
	for r.parts = 1; r.parts < maxRefoldParts && uint64(r.parts)*per < r.total; r.parts *= 2 {
	}

	f.mu.Lock()
	switch {
	case f.stopped != nil:
		err = f.stopped
	case f.state.refold != nil || f.starting != nil:
		err = ErrRefolding
	case r.version <= f.state.rules.Version():
		err = fmt.Errorf("begin a re-fold: rules of version %d cannot follow those of version %d", r.version, f.state.rules.Version())
	case f.state.empty():
		f.state.rules, f.state.ruleVersion, f.state.changed = r.to, r.version, true
		f.mu.Unlock()
		return nil // nobody has done anything yet
	default:
		f.starting = r
		f.state.changed = true
	}
	f.mu.Unlock()
	if err != nil {
		return err
	}
	_, err = f.Checkpoint(ctx)
	return err
}

// reach folds all that is in the log by now. A process that crashed may have
// stored events of records that no checkpoint covers; with P behind them, they
// are folded before P here as well.
func (f *Fold) reach(ctx context.Context, ends []retention.WriterEnd) error {
	for {
		at, missing := f.Position(), false
		for _, e := range ends {
			missing = missing || at[e.Writer] < e.Last
		}
		if !missing {
			return nil
		}
		if n, err := f.Poll(ctx); err != nil {
			return err
		} else if n == 0 {
			return ErrBehind
		}
	}
}

// begin fixes P.
func (s *State) begin(r *refold) {
	maps.Copy(r.at, s.position)
	r.started = s.clock
	if r.reach.Empty() {
		r.parts, r.total = 0, 0 // no column to fill
	}
	s.refold = r
}

// empty reports whether no visitor is known, so that no event was stored.
func (s *State) empty() bool {
	for _, sh := range s.shards {
		if sh != nil && sh.visitors.n > 0 {
			return false
		}
	}
	return true
}

// foldNext folds an event into the new columns as well.
func (s *State) foldNext(sh *shard, o uint32, day taxonomy.Day, e *taxonomy.Record) {
	r := s.refold
	s.coming = r.part.Classify(e.Site, e.Event, s.coming[:0])
	for _, t := range s.coming {
		if r.reach.Has(t) {
			addTo(sh.next, dayColumn{day, s.columns.intern(e.Source, t)}, o)
		}
	}
}

// switchTo makes the new columns and rules those that count. The committed
// layers are replaced already; what is folded since is replaced here.
func (s *State) switchTo(r *refold) {
	s.rules, s.ruleVersion, s.refold = r.to, r.version, nil
	old := func(dc dayColumn) bool { return r.reach.Has(s.columns.cols[dc.col].Trait) }
	for _, sh := range s.shards {
		if sh == nil {
			continue
		}
		maps.DeleteFunc(sh.pending, func(dc dayColumn, _ *[]uint32) bool { return old(dc) })
		maps.Copy(sh.pending, sh.next)
		// Of what is committed the days know the counts. That a visitor was touched in
		// columns that are new is no matter: they are new to everybody, and pages have
		// them with the next generation. What is not committed is counted.
		for i := range sh.touched {
			if in := &sh.touched[i]; !in.committed {
				for o, cols := range in.visitors {
					in.visitors[o] = deleteFrom(cols, old)
				}
			}
		}
		open := sh.touched[len(sh.touched)-1].visitors
		for dc, list := range sh.next {
			for _, o := range *list {
				open[o] = append(open[o], dc)
			}
		}
		sh.dropNext()
	}
}

func deleteFrom(cols []dayColumn, old func(dayColumn) bool) (kept []dayColumn) {
	for _, dc := range cols {
		if !old(dc) {
			kept = append(kept, dc)
		}
	}
	return kept
}

// dropNext forgets the new columns.
func (sh *shard) dropNext() {
	sh.staged, sh.next = nil, map[dayColumn]*[]uint32{}
}

// CancelRefold ends the re-fold under way: the rules in force stay, and what was
// read is forgotten, for good when it returns without an error. ErrNoRefold,
// ErrSwitching.
func (f *Fold) CancelRefold(ctx context.Context) error {
	f.mu.Lock()
	r := f.state.refold
	switch {
	case f.starting != nil:
		f.starting = nil
		f.mu.Unlock()
		return nil
	case r == nil || r.cancelled:
		f.mu.Unlock()
		return ErrNoRefold
	case r.captured:
		f.mu.Unlock()
		return ErrSwitching
	}
	r.cancelled, f.state.changed = true, true
	f.mu.Unlock()
	if _, err := f.Checkpoint(ctx); err != nil {
		return fmt.Errorf("keep that the re-fold was cancelled: %w", err)
	}
	return nil
}

// Refolding returns how far the re-fold under way is, and whether there is one.
func (f *Fold) Refolding() (Progress, bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	r := f.state.refold
	if r == nil {
		r = f.starting
	}
	if r == nil || r.cancelled {
		return Progress{}, false
	}
	return Progress{Version: r.version, Read: r.read, Total: max(r.total, r.read), Started: r.started, Switching: r.captured}, true
}

// InForce returns the rules by which every answer is made; nil if they are not
// kept in checkpoints.
func (f *Fold) InForce() Classifier {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.state.rules
}

// EventsKept is about how many events of the 90 days the last checkpoint knows:
// what a re-fold has to read.
func (v *View) EventsKept() (n uint64) {
	if v.ready() != nil {
		return 0
	}
	for i := range v.shards {
		n += v.shards[i].days.Sum(taxonomy.TraitAny)
	}
	return n
}

// scanned is an event that the scan found something in.
type scanned struct {
	record taxonomy.Record // without its event
	day    taxonomy.Day
	cols   []column
}

// scanBatch is how many events are taken in under one hold of the lock.
const scanBatch = 256

// RefoldPart reads the next part of the stored events and returns whether more
// parts are left; the checkpoint after the last one switches. It is called by one
// goroutine at a time and stands beside all else. What it read in a part that
// failed is forgotten. ErrNoRefold.
func (f *Fold) RefoldPart(ctx context.Context) (more bool, err error) {
	f.refolding.Lock()
	defer f.refolding.Unlock()
	f.mu.RLock()
	r := f.state.refold
	part, today := 0, f.state.clock.Day()
	if r != nil {
		part = r.next
	}
	cancelled := r != nil && r.cancelled
	f.mu.RUnlock()
	if r == nil || cancelled {
		return false, ErrNoRefold
	}
	if part == r.parts {
		return false, nil
	}
	p := &partScan{f: f, r: r, names: map[taxonomy.Column]column{}, found: map[int]map[dayColumn]*[]uint32{}}
	// The clock may be behind what is stored: it waits for a writer that is new.
	err = f.opt.Events.Scan(ctx, part, r.parts, today.Oldest(), lastDay, func(e *retention.StoredEvent) error { return p.take(ctx, e) })
	if err == nil {
		err = p.flush()
	}
	if err != nil {
		return true, fmt.Errorf("re-fold: read part %d of %d of the stored events: %w", part+1, r.parts, err)
	}

	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state.refold != r || r.cancelled {
		return false, ErrNoRefold // cancelled meanwhile
	}
	entries := 0
	for n, cols := range p.found {
		next := f.state.shards[n].next
		for dc, list := range cols {
			if dc.day.Expired(f.state.clock) {
				continue
			}
			entries += len(*list)
			if have := next[dc]; have != nil {
				*have = append(*have, *list...)
			} else {
				next[dc] = list
			}
		}
	}
	r.next++
	r.read += p.read
	f.state.changed = true
	f.folded.Add(int64(entries) * 8) // the columns wait in memory for a checkpoint
	return r.next < r.parts, nil
}

// partScan collects the new columns of one part.
type partScan struct {
	f      *Fold
	r      *refold
	names  map[taxonomy.Column]column
	traits []taxonomy.Trait
	batch  []scanned
	since  int // events since others had a turn
	read   uint64
	found  map[int]map[dayColumn]*[]uint32 // by shard
}

func (p *partScan) take(ctx context.Context, e *retention.StoredEvent) error {
	p.read++
	if p.since++; p.since >= scanBatch {
		p.since = 0
		if p.f.opt.Pace != nil && p.f.busy.Load() {
			if err := p.f.opt.Pace(ctx); err != nil {
				return err
			}
		}
	}
	if e.RuleVersion >= p.r.version {
		return nil // the fold has it in the new columns
	}
	if seq, ok := p.r.at[e.Ref.Writer]; ok && e.Ref.Seq > seq && e.Record.First.IsZero() {
		return nil // and this one it has, or will have, under another copy
	}
	p.traits = p.r.part.Classify(e.Record.Site, e.Record.Event, p.traits[:0])
	var cols []column
	for _, t := range p.traits {
		if p.r.reach.Has(t) {
			cols = append(cols, p.column(taxonomy.Column{Source: e.Record.Source, Trait: t}))
		}
	}
	if len(cols) == 0 {
		return nil
	}
	x := scanned{record: taxonomy.Record{Received: e.Record.Received, Space: e.Record.Space, Visitor: e.Record.Visitor}, day: e.Day(), cols: cols}
	if p.batch = append(p.batch, x); len(p.batch) >= scanBatch {
		return p.flush()
	}
	return nil
}

func (p *partScan) column(c taxonomy.Column) column {
	n, ok := p.names[c]
	if !ok {
		p.f.mu.Lock()
		n = p.f.state.columns.intern(c.Source, c.Trait)
		p.f.mu.Unlock()
		p.names[c] = n
	}
	return n
}

// flush finds the ordinals of a batch, without those who are erased.
func (p *partScan) flush() error {
	p.f.mu.RLock()
	defer p.f.mu.RUnlock()
	s := p.f.state
	if s.refold != p.r || p.r.cancelled {
		return ErrNoRefold
	}
	for i := range p.batch {
		x := &p.batch[i]
		sh, o, ok := s.inColumns(x, s.clock)
		if !ok {
			continue
		}
		m := p.found[sh.n]
		if m == nil {
			m = map[dayColumn]*[]uint32{}
			p.found[sh.n] = m
		}
		for _, c := range x.cols {
			addTo(m, dayColumn{x.day, c}, o)
		}
	}
	p.batch = p.batch[:0]
	return nil
}

// inColumns returns the ordinal of the visitor of a stored event, and whether the
// event is in any column at a time: not of who is erased, and not of another group,
// whose scan has it.
func (s *State) inColumns(x *scanned, now taxonomy.Millis) (sh *shard, o uint32, ok bool) {
	if sh = s.shards[x.record.Visitor.Shard(s.cfg.Shards)]; sh == nil {
		return nil, 0, false
	}
	o, known := sh.find(x.record.Visitor)
	if !known || sh.visitors.at(o).flags&isGone != 0 || x.day.Expired(now) || s.isErased(sh, o, known, &x.record) {
		return nil, 0, false
	}
	return sh, o, true
}

// refoldCapture is the re-fold's part of a checkpoint.
type refoldCapture struct {
	of       *refold
	switches bool
	captured []dayCapture // of the new columns
	base     []index.Days // the committed ones of each shard
	days     []index.Days // as they are committed with it
}

// captureRefold takes the new columns and how far the scan is, at the moment of
// a capture.
func (s *State) captureRefold(c *capture) {
	c.rules = s.rules
	if s.rules != nil {
		c.manifest.RuleVersion, c.view.ruleVersion = s.rules.Version(), s.rules.Version()
		c.view.speaks(s.rules)
	}
	r := s.refold
	if r == nil {
		return
	}
	if r.cancelled {
		c.cancels = r
		return
	}
	c.refold = &refoldCapture{of: r, switches: r.next == r.parts, days: make([]index.Days, len(s.shards))}
	for _, sh := range s.shards {
		if sh == nil {
			c.refold.base = append(c.refold.base, nil)
			continue
		}
		days := map[taxonomy.Day]map[column][]uint32{}
		for dc, list := range sh.next {
			if days[dc.day] == nil {
				days[dc.day] = map[column][]uint32{}
			}
			days[dc.day][dc.col] = *list
		}
		sh.next = map[dayColumn]*[]uint32{}
		c.refold.captured = append(c.refold.captured, sh.byDay(days)...)
		c.refold.base = append(c.refold.base, sh.staged)
	}
	if c.refold.switches {
		r.captured = true
		c.manifest.RuleVersion, c.view.ruleVersion = r.version, r.version
		c.view.speaks(r.to)
		return
	}
	c.manifest.Refold = &refoldRecord{Version: r.version, At: r.at, Parts: r.parts, Next: r.next, Read: r.read, Total: r.total, Started: r.started}
}
