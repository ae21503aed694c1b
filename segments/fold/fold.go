package fold

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Options is what a Fold is made of.
type Options struct {
	Config
	Log    retention.Log
	Events retention.Events
	Keyed  retention.Keyed
	Blobs  retention.Blobs
	// Rules returns the classifier in force: an input of each step.
	Rules func() Classifier
	// OnErased and OnUnmatched take a step's effects before the checkpoint that
	// covers it, and may be called again with the same. nil takes nothing.
	OnErased    func(context.Context, []Erased) error
	OnUnmatched func(context.Context, []Unmatched) error
	// OnFolded is told of whom each Poll folded records, after all else was carried
	// out; a visitor may come several times. It may be called again with the same.
	OnFolded func(context.Context, []Folded) error
	// Epoch is the number of restores (R29), Term that of the builder's lease.
	Epoch, Term uint64
	// BatchBytes is about how much log one Poll folds; 0 means 1 MiB.
	BatchBytes int
	// CheckpointBytes of folded log make a checkpoint due; 0 means 32 MiB (R6).
	CheckpointBytes int64
	Logger          *slog.Logger
}

// Fold keeps a State in step with the log of one group, and in checkpoints.
//
// Poll and Checkpoint are each called by one goroutine at a time, though both
// may run at once; all else is safe for concurrent use. A Fold that returned an
// error from Poll or Checkpoint can be tried again, unless the error says that
// it is stopped.
type Fold struct {
	opt   Options
	files files

	mu    sync.RWMutex // guards state
	state *State
	seen  *seenFiles // replaced under mu
	built *View      // that the last generation was built from

	// Of Poll's goroutine:
	undone Effects  // of frames that are folded but not yet carried out
	about  []Folded // of whom, until OnFolded has taken it
	folded atomic.Int64

	following bool                    // see Follow
	known     map[uint64]*index.Layer // by file, while Follow loads

	// Of Checkpoint's goroutine:
	stored   stored
	inflight *capture
	keep     map[string]bool // files of the committed checkpoint
	before   map[string]bool // and of the one before it, for its readers

	polling, saving sync.Mutex
	view            atomic.Pointer[View]
	stopped         error // under mu: the state can no longer be trusted
}

// Open reads the last checkpoint, or begins with an empty state, and removes
// what a checkpoint left that was never committed.
func Open(ctx context.Context, opt Options) (*Fold, error) {
	if opt.BatchBytes == 0 {
		opt.BatchBytes = 1 << 20
	}
	if opt.CheckpointBytes == 0 {
		opt.CheckpointBytes = 32 << 20
	}
	f := &Fold{opt: opt, state: NewState(opt.Config), seen: &seenFiles{}}
	f.files = files{blobs: opt.Blobs, folder: folderOf(opt.Group), next: 1}
	f.stored = stored{layers: map[*index.Layer]fileRef{}, seen: map[int64][]fileRef{}}
	m, version, err := f.files.readHead(ctx, opt.Keyed, opt.Group)
	if err != nil {
		return nil, err
	}
	// From here on whoever held an earlier term commits nothing more, also if it
	// was frozen in the middle of a checkpoint.
	if version, err = f.files.claim(ctx, opt.Keyed, opt.Group, opt.Term, version); err != nil {
		return nil, fmt.Errorf("claim the checkpoints of group %d for term %d: %w", opt.Group, opt.Term, err)
	}
	f.stored.version = version
	if m == nil {
		f.begin()
		return f, f.files.sweepAll(ctx, nil)
	}
	if err := f.load(ctx, m, version); err != nil {
		return nil, fmt.Errorf("load checkpoint %d of group %d: %w", m.Number, opt.Group, err)
	}
	f.keep = f.files.names(m)
	f.keep[f.stored.name] = true
	return f, f.files.sweepAll(ctx, f.keep)
}

// begin publishes the view of nothing.
func (f *Fold) begin() {
	c := f.state.capture(0)
	for i := range c.view.shards {
		c.view.shards[i].days = index.Days{}
	}
	c.of.fold, c.view.epoch = f, f.opt.Epoch
	f.view.Store(c.view)
}

func (f *Fold) load(ctx context.Context, m *manifest, version uint64) error {
	if m.Shards != f.opt.Shards || m.Groups != f.opt.Groups {
		return fmt.Errorf("it has %d shards in %d groups, the configuration %d in %d; shards are fixed by `ebb init`", m.Shards, m.Groups, f.opt.Shards, f.opt.Groups)
	}
	if m.Term > f.opt.Term {
		return fmt.Errorf("%w: it was made under term %d, ours is %d", retention.ErrHeld, m.Term, f.opt.Term)
	}
	s := f.state
	f.files.next = max(f.files.next, m.NextFile)
	for _, ref := range m.Visitors {
		if err := f.loadRun(ctx, "visitors", ref, s.loadVisitor, s.unloadVisitor); err != nil {
			return err
		}
	}
	for n, next := range m.Ordinals {
		if n < len(s.shards) && s.shards[n] != nil {
			s.shards[n].visitors.grow(next)
		}
	}
	tables := map[byte]anyTable{}
	for _, t := range s.tables() {
		tables[t.first()] = t
	}
	entry := func(key []byte) (anyTable, error) {
		if len(key) == 0 || tables[key[0]] == nil {
			return nil, fmt.Errorf("%w: a checkpoint entry of an unknown table", retention.ErrCorrupt)
		}
		return tables[key[0]], nil
	}
	for _, ref := range m.State {
		err := f.loadRun(ctx, "state", ref, func(k, v []byte) error {
			t, err := entry(k)
			if err != nil {
				return err
			}
			return t.load(k[1:], v)
		}, func(k []byte) error {
			t, err := entry(k)
			if err != nil {
				return err
			}
			return t.unload(k[1:])
		})
		if err != nil {
			return err
		}
	}
	for k := range s.matches.claims.m {
		s.matches.index(k)
	}
	for k, r := range s.waiting.m {
		s.waiting.index(k, r)
	}
	for _, d := range m.Days {
		if d.Shard >= len(s.shards) || s.shards[d.Shard] == nil {
			return fmt.Errorf("%w: a day of shard %d", retention.ErrCorrupt, d.Shard)
		}
		var layers []*index.Layer
		for _, ref := range d.Layers {
			l, err := f.layer(ctx, ref)
			if errors.Is(err, retention.ErrNotFound) && d.Day.Expired(m.Clock) {
				continue
			}
			if err != nil {
				return err
			}
			layers = append(layers, l)
			f.stored.layers[l] = ref
		}
		s.shards[d.Shard].days[d.Day] = layers
	}
	hours := map[int64][]*seenFile{}
	for _, h := range m.Seen {
		for _, ref := range h.Files {
			file, err := f.openSeen(ctx, ref)
			if errors.Is(err, retention.ErrNotFound) {
				continue // its life is over: no copy can come any more
			}
			if err != nil {
				return err
			}
			hours[h.Hour] = append(hours[h.Hour], file)
			f.stored.seen[h.Hour] = append(f.stored.seen[h.Hour], ref)
		}
	}
	f.seen = &seenFiles{hours}
	s.clock, s.ruleVersion, s.position, s.frameTime = m.Clock, m.RuleVersion, m.Position, m.FrameTimes
	f.stored.number, f.stored.version = m.Number, version
	f.stored.visitors, f.stored.state = m.Visitors, m.State
	f.stored.name = f.files.manifestName(m)

	v := &View{
		number: m.Number, clock: m.Clock, position: m.Position.Clone(), ruleVersion: m.RuleVersion, epoch: m.Epoch,
		shards: make([]shardView, len(s.shards)), sets: map[string]denseSet{},
	}
	of := &viewed{consents: s.consents.all[:len(s.consents.all):len(s.consents.all)], fold: f}
	for i, sh := range s.shards {
		if sh != nil {
			v.shards[i] = shardView{visitors: sh.visitors.freeze(), gone: sh.gone.Clone(), days: sh.days, of: of}
			sh.touched = []interval{{number: m.Number + 1, visitors: map[uint32][]dayColumn{}}}
		}
	}
	f.view.Store(v)
	return nil
}

func (f *Fold) loadRun(ctx context.Context, kind string, ref fileRef, put func(k, v []byte) error, remove func(k []byte) error) error {
	b, err := f.files.read(ctx, kind, ref)
	if err != nil {
		return err
	}
	r, err := openRun(b)
	if err != nil {
		return fmt.Errorf("%s: %w", f.files.name(ref.File, kind), err)
	}
	for {
		more, err := r.next()
		if err == nil && more {
			if r.cur.removed {
				err = remove(r.cur.key)
			} else {
				err = put(r.cur.key, r.cur.val)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.files.name(ref.File, kind), err)
		}
		if !more {
			return nil
		}
	}
}

// Poll folds what the log has beyond the position, about BatchBytes of it,
// carries out the effects, moves the clock, and returns how many bytes of log
// it folded. 0 means that nothing is left.
func (f *Fold) Poll(ctx context.Context) (int, error) {
	f.polling.Lock()
	defer f.polling.Unlock()
	// Effects of an earlier call that failed come first: a checkpoint must not
	// cover what was not carried out.
	if err := f.carryOut(ctx); err != nil {
		return 0, err
	}
	f.mu.RLock()
	from, stopped := f.state.position.Clone(), f.stopped
	f.mu.RUnlock()
	if stopped != nil {
		return 0, stopped
	}
	if f.opt.Log == nil {
		return 0, nil // a follower on a node without events of its own
	}
	// The ends are read before the frames: what they promise as durable is then
	// surely within reach.
	ends, err := f.opt.Log.End(ctx, f.opt.Group, from)
	if err != nil {
		return 0, fmt.Errorf("fold: read the log's ends: %w", err)
	}
	frames, err := f.opt.Log.Follow(ctx, f.opt.Group, from, f.opt.BatchBytes)
	if err != nil {
		return 0, fmt.Errorf("fold: follow the log: %w", err)
	}
	rules := f.opt.Rules()
	bytes := 0
	f.mu.Lock()
	for i := range frames {
		if err := f.state.Step(&frames[i], rules, f.seen, &f.undone); err != nil {
			f.stopped = fmt.Errorf("the fold has stopped; restart to go on from the last checkpoint: %w", err)
			f.mu.Unlock()
			return 0, f.stopped
		}
		bytes += max(1, frames[i].Bytes)
	}
	if clock, ok := f.clock(ends); ok {
		f.state.Advance(clock)
	}
	f.mu.Unlock()
	f.folded.Add(int64(bytes))
	f.note(frames)
	return bytes, f.carryOut(ctx)
}

// clock is the least frame time over open writers (R7): of a writer that is
// folded to its end the time of that end, else of the last folded frame.
func (f *Fold) clock(ends []retention.WriterEnd) (least taxonomy.Millis, ok bool) {
	for _, e := range ends {
		if !e.Open {
			continue
		}
		if e.Last == 0 {
			return 0, false // its first frame, at least a tick, is on its way
		}
		t := f.state.frameTime[e.Writer]
		if f.state.position[e.Writer] >= e.Last {
			t = max(t, e.Time)
		}
		if !ok || t < least {
			least, ok = t, true
		}
	}
	return least, ok
}

func (f *Fold) carryOut(ctx context.Context) error {
	e := &f.undone
	if f.following {
		*e = Effects{} // the group's builder carries them out
		return nil
	}
	if len(e.Events) > 0 {
		if err := f.opt.Events.Put(ctx, e.Events); err != nil {
			return fmt.Errorf("fold: store events: %w", err)
		}
		e.Events = e.Events[:0]
	}
	if len(e.Erased) > 0 && f.opt.OnErased != nil {
		if err := f.opt.OnErased(ctx, e.Erased); err != nil {
			return fmt.Errorf("fold: queue erasures: %w", err)
		}
	}
	e.Erased = nil
	if len(e.Unmatched) > 0 && f.opt.OnUnmatched != nil {
		if err := f.opt.OnUnmatched(ctx, e.Unmatched); err != nil {
			return fmt.Errorf("fold: queue changed matches: %w", err)
		}
	}
	e.Unmatched = nil
	if len(f.about) > 0 {
		if err := f.opt.OnFolded(ctx, f.about); err != nil {
			return fmt.Errorf("fold: tell of whom records were folded: %w", err)
		}
		f.about = f.about[:0]
	}
	return nil
}

// Due reports whether enough was folded for a checkpoint to be made before its
// time has come (R6).
func (f *Fold) Due() bool { return f.folded.Load() >= f.opt.CheckpointBytes }

// Changed reports whether anything but ticks was folded since the last
// checkpoint was begun.
func (f *Fold) Changed() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.state.changed
}

// Checkpoint writes what changed since the last checkpoint, commits it,
// publishes the view of it and trims the log. It may run beside Poll.
func (f *Fold) Checkpoint(ctx context.Context) (*View, error) { return f.checkpoint(ctx, false) }

// Rewrite is Checkpoint that writes every file anew, so that nothing on disk
// holds what was removed before: the fold's part of the nightly pass.
func (f *Fold) Rewrite(ctx context.Context) (*View, error) { return f.checkpoint(ctx, true) }

func (f *Fold) checkpoint(ctx context.Context, rewrite bool) (*View, error) {
	if f.following {
		return nil, errFollowing
	}
	f.saving.Lock()
	defer f.saving.Unlock()
	if f.inflight != nil {
		// An earlier one failed between its writes. It comes first, with the
		// same contents: the state has gone on without them.
		if err := f.save(ctx); err != nil {
			return nil, err
		}
	}
	if err := f.capture(ctx, rewrite); err != nil {
		return nil, err
	}
	if err := f.save(ctx); err != nil {
		return nil, err
	}
	v := f.View()
	if err := f.opt.Log.Trim(ctx, f.opt.Group, v.position); err != nil {
		return v, fmt.Errorf("trim the log behind checkpoint %d: %w", v.number, err)
	}
	if err := f.leave(ctx); err != nil {
		return v, err
	}
	keep := maps.Clone(f.keep)
	if !rewrite {
		maps.Copy(keep, f.before)
	}
	return v, f.files.sweep(ctx, keep)
}

// capture takes what changed out of the state, between two polls, so that every
// effect of what it covers is carried out.
func (f *Fold) capture(ctx context.Context, rewrite bool) error {
	f.polling.Lock()
	defer f.polling.Unlock()
	if err := f.carryOut(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped != nil {
		return f.stopped
	}
	f.inflight = f.state.capture(f.stored.number + 1)
	f.inflight.rewrite = rewrite
	f.folded.Store(0)
	return nil
}

// save writes and commits the capture in flight and publishes its view.
func (f *Fold) save(ctx context.Context) error {
	c := f.inflight
	next, hours, err := f.write(ctx, c)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.state.install(c)
	old := f.seen
	f.seen = &seenFiles{hours}
	f.mu.Unlock()
	f.stored, f.inflight = next, nil
	f.view.Store(c.view)
	closeUnused(old.hours, hours)
	f.before, f.keep = f.keep, f.files.names(&c.manifest)
	f.keep[next.name] = true
	return nil
}

// leave drops writers from the position that the log no longer knows: they are
// closed, folded to their end and trimmed (R1).
func (f *Fold) leave(ctx context.Context) error {
	f.polling.Lock()
	defer f.polling.Unlock()
	ends, err := f.opt.Log.End(ctx, f.opt.Group, nil)
	if err != nil {
		return fmt.Errorf("read the log's ends: %w", err)
	}
	here := map[taxonomy.WriterID]bool{}
	for _, e := range ends {
		here[e.Writer] = true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.state.position {
		if !here[w] {
			delete(f.state.position, w)
			delete(f.state.frameTime, w)
		}
	}
	return nil
}

// install makes a committed capture part of the state.
func (s *State) install(c *capture) {
	s.flushing = nil
	for i, sh := range s.shards {
		if sh == nil {
			continue
		}
		sh.days = c.view.shards[i].days
		for j := range sh.touched {
			if sh.touched[j].number <= c.manifest.Number {
				sh.touched[j].committed = true
			}
		}
	}
}

func closeUnused(old, now map[int64][]*seenFile) {
	used := map[*seenFile]bool{}
	for _, fs := range now {
		for _, f := range fs {
			used[f] = true
		}
	}
	for _, fs := range old {
		for _, f := range fs {
			if !used[f] {
				f.r.Close()
			}
		}
	}
}

// View returns the view of the last committed checkpoint. It is never nil.
func (f *Fold) View() *View { return f.view.Load() }

// Built says that a generation was built from a view: what happened before it
// need not be remembered for corrections (R33).
func (f *Fold) Built(v *View) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.built = v
	for _, sh := range f.state.shards {
		if sh == nil {
			continue
		}
		for len(sh.touched) > 1 && sh.touched[0].committed && sh.touched[0].number <= v.number {
			sh.touched = sh.touched[1:]
		}
	}
}

// Erased reports whether a visitor is erased as of now.
func (f *Fold) Erased(k taxonomy.VisitorKey, now taxonomy.Millis) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if len(f.state.erased.m) == 0 {
		return false
	}
	e, ok := f.state.erased.get(f.state.cfg.Erasure(k))
	return ok && e.covers(max(now, e.at+1))
}

// Tallies returns what became of each site's events, as folded so far.
func (f *Fold) Tallies() map[taxonomy.SiteID]Tally {
	t, _ := f.Accounts()
	return t
}

// Accounts returns what became of each site's events up to the position that is
// returned with it. The caller owns both.
func (f *Fold) Accounts() (map[taxonomy.SiteID]Tally, retention.Position) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.state.Tallies(), f.state.position.Clone()
}

// Position returns what is folded so far, which may be beyond the last
// checkpoint. The caller owns it.
func (f *Fold) Position() retention.Position {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.state.position.Clone()
}

// Clock is the fold's time.
func (f *Fold) Clock() taxonomy.Millis {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.state.clock
}

// Forget removes what is left of erased visitors from the state; the bytes go
// with the next Rewrite. It is the fold's part of the eraser's work.
func (f *Fold) Forget(visitors []taxonomy.VisitorKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state.Forget(visitors)
}

// Close closes what the fold has open. It does not make a checkpoint.
func (f *Fold) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	closeUnused(f.seen.hours, nil)
	return nil
}
