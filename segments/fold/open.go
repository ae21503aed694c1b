package fold

import (
	"context"
	"errors"
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

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
	f.opt.Before = nil // which would keep its memory
	f.files = files{blobs: opt.Blobs, folder: folderOf(opt.Group), next: 1, aside: newAside(opt.Parallel)}
	f.stored = stored{layers: map[*index.Layer]fileRef{}, seen: map[int64][]fileRef{}, rules: map[uint32]rulesRef{}}
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
		if err := f.loadRules(ctx, nil); err != nil {
			return nil, err
		}
		f.begin()
		return f, f.files.sweepAll(ctx, nil)
	}
	if !opt.DaysBehind {
		if opt.Before != nil && opt.Before.following {
			f.known = opt.Before.layersByFile()
		}
		f.prefetch(ctx, m)
		defer func() { f.known = nil }()
	}
	if err := f.load(ctx, m, version); err != nil {
		return nil, fmt.Errorf("load checkpoint %d of group %d: %w", m.Number, opt.Group, err)
	}
	f.keep = f.files.names(m)
	f.keep[f.stored.name] = true
	// The log must know what is covered before it closes anybody's writer (R4).
	if err := opt.Log.Trim(ctx, opt.Group, f.View().Position().Clone()); err != nil {
		return nil, fmt.Errorf("trim the log behind checkpoint %d: %w", m.Number, err)
	}
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
	for _, sh := range s.shards {
		if sh != nil {
			sh.loaded()
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
	for k, r := range s.waiting.m {
		s.waiting.index(k, r)
	}
	if err := f.loadRules(ctx, m); err != nil {
		return err
	}
	for _, d := range m.Days {
		if d.Shard >= len(s.shards) || s.shards[d.Shard] == nil {
			return fmt.Errorf("%w: a day of shard %d", retention.ErrCorrupt, d.Shard)
		}
	}
	if err := f.loadRefold(ctx, m); err != nil {
		return err
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
	v.speaks(s.rules)
	of := &viewed{consents: s.consents.all[:len(s.consents.all):len(s.consents.all)], fold: f}
	for i, sh := range s.shards {
		if sh != nil {
			v.shards[i] = shardView{visitors: sh.visitors.freeze(), gone: sh.gone.Clone(), days: sh.days, off: s.offSets()[i], of: of}
			sh.touched = []interval{{number: m.Number + 1, visitors: map[uint32][]dayColumn{}}}
		}
	}
	f.view.Store(v)
	return f.readDays(ctx, m)
}

// loadLayers opens the layers of a day. Files may be gone once their day is over.
func (f *Fold) loadLayers(ctx context.Context, d dayRef, clock taxonomy.Millis) (layers []*index.Layer, err error) {
	for _, ref := range d.Layers {
		l, err := f.layer(ctx, ref)
		if errors.Is(err, retention.ErrNotFound) && d.Day.Expired(clock) {
			continue
		}
		if err != nil {
			return nil, err
		}
		l = f.stored.masked(l, ref)
		layers = append(layers, l)
		f.stored.layers[l] = ref
	}
	return layers, nil
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
