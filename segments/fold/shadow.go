package fold

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Shadow is a view under other rules, and how it is made.
type Shadow struct {
	Change
	// Events are those of all groups.
	Events retention.Events
	// Progress, if set, is told now and then how many events are read of about how
	// many, by one goroutine.
	Progress func(read, total uint64)
	// Bytes bounds the memory for what is not packed yet; 0 means 64 MiB. Packed,
	// a visitor's day in a column takes about two bytes.
	Bytes int
}

// Shadow returns the view as it will be once a re-fold (R18) has brought other
// rules into force: it reads the stored events that the view has seen, as the scan
// of a re-fold does, into columns of its own. Nothing is kept, and the fold goes on
// as it was. Two things are as of now and not of the view: a visitor who was erased
// since is in none of the new columns, and an event that a closed writer brought back
// (R4) counts if it is stored, since its first place in the log does not tell when it
// was folded.
//
// It takes as long as a re-fold reads, unless the change reaches nothing.
func (v *View) Shadow(ctx context.Context, s Shadow) (*View, error) {
	out := &View{number: v.number, clock: v.clock, position: v.position, ruleVersion: s.To.Version(), epoch: v.epoch,
		shards: slices.Clone(v.shards), sets: map[string]denseSet{}}
	out.speaks(s.To)
	if s.Reach.Empty() {
		return out, nil
	}
	if err := v.ready(); err != nil {
		return nil, fmt.Errorf("count under other rules: %w", err)
	}
	x := shadowScan{v: v, s: &s, part: s.To, found: map[shardDay]map[taxonomy.Column][]uint32{}, total: v.EventsKept()}
	x.room = cmp.Or(s.Bytes, 64<<20) / 4
	x.layers = make([]index.Days, len(v.shards))
	for i := range x.layers {
		x.layers[i] = index.Days{}
	}
	var err error
	for _, of := range x.folds() {
		if of.opt.Part != nil { // the same for all
			if x.part, err = of.opt.Part(s.To, &s.Reach); err != nil {
				return nil, fmt.Errorf("count under other rules: %w", err)
			}
			break
		}
	}
	if err := x.since(ctx); err != nil {
		return nil, fmt.Errorf("count under other rules: read the log's ends: %w", err)
	}
	today := v.clock.Day()
	err = s.Events.Scan(ctx, 0, 1, today.Oldest(), lastDay, func(e *retention.StoredEvent) error {
		if x.read%scanBatch == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		return x.take(e)
	})
	if err != nil {
		return nil, fmt.Errorf("count under other rules: read the stored events: %w", err)
	}
	if err = x.flush(); err == nil {
		err = x.pack()
	}
	if err != nil {
		return nil, fmt.Errorf("count under other rules: %w", err)
	}
	if s.Progress != nil {
		s.Progress(x.read, x.read)
	}
	for i := range out.shards {
		days := index.Days{}
		for d, layers := range v.shards[i].days {
			for _, l := range layers {
				if l = l.Without(func(c taxonomy.Column) bool { return s.Reach.Has(c.Trait) }); l.Columns() > 0 {
					days[d] = append(days[d], l)
				}
			}
		}
		for d, layers := range x.layers[i] {
			days[d] = append(days[d], layers...)
		}
		out.shards[i].days = days
	}
	return out, nil
}

type shardDay struct {
	shard int
	day   taxonomy.Day
}

// shadowScan collects the new columns of a view.
type shadowScan struct {
	v      *View
	s      *Shadow
	part   Classifier
	at     map[*Fold]retention.Position // what the view has seen
	traits []taxonomy.Trait
	batch  []shadowed
	quiet  int // events since the last batch

	found   map[shardDay]map[taxonomy.Column][]uint32
	entries int
	room    int // entries
	layers  []index.Days

	read, total uint64
}

type shadowed struct {
	scanned
	ref  taxonomy.Ref
	cols []taxonomy.Column
}

// folds are those that the view's shards are of.
func (x *shadowScan) folds() (out []*Fold) {
	for i := range x.v.shards {
		if of := x.v.shards[i].of; of != nil && !slices.Contains(out, of.fold) {
			out = append(out, of.fold)
		}
	}
	return out
}

// since finds what the view has seen of each log. A writer that it does not know
// has left the log, or is there and has come since.
func (x *shadowScan) since(ctx context.Context) error {
	x.at = map[*Fold]retention.Position{}
	for _, f := range x.folds() {
		at := retention.Position{}
		if f.opt.Log != nil {
			ends, err := f.opt.Log.End(ctx, f.opt.Group, nil)
			if err != nil {
				return err
			}
			for _, e := range ends {
				at[e.Writer] = 0
			}
		}
		for w := range f.Position() {
			at[w] = 0
		}
		maps.Copy(at, x.v.position)
		x.at[f] = at
	}
	return nil
}

func (x *shadowScan) take(e *retention.StoredEvent) error {
	x.read++
	x.traits = x.part.Classify(e.Record.Site, e.Record.Event, x.traits[:0])
	var cols []taxonomy.Column
	for _, t := range x.traits {
		if x.s.Reach.Has(t) {
			cols = append(cols, taxonomy.Column{Source: e.Record.Source, Trait: t})
		}
	}
	if len(cols) > 0 {
		one := scanned{record: taxonomy.Record{Received: e.Record.Received, First: e.Record.First, Space: e.Record.Space, Visitor: e.Record.Visitor}, day: e.Day()}
		x.batch = append(x.batch, shadowed{one, e.Ref, cols})
	}
	if x.quiet++; len(x.batch) < scanBatch && x.quiet < 16*scanBatch {
		return nil
	}
	x.quiet = 0
	if x.s.Progress != nil {
		x.s.Progress(x.read, max(x.total, x.read))
	}
	return x.flush()
}

// flush finds the ordinals of a batch: of who was there, was not erased since, and
// whose event the view has seen.
func (x *shadowScan) flush() error {
	for i := range x.batch {
		e := &x.batch[i]
		n := e.record.Visitor.Shard(len(x.v.shards))
		sv := &x.v.shards[n]
		if sv.of == nil {
			continue
		}
		f := sv.of.fold
		if seq, ok := x.at[f][e.ref.Writer]; ok && e.ref.Seq > seq && e.record.First.IsZero() {
			continue
		}
		o, ok := f.counts(&e.scanned, x.v.clock)
		if !ok || o >= sv.visitors.n {
			continue
		}
		was := sv.visitors.at(o)
		if was.key != e.record.Visitor || was.adopted > e.record.Received+adoptWindow {
			continue // not known by then, or not so far back (R11)
		}
		at := shardDay{n, e.day}
		m := x.found[at]
		if m == nil {
			m = map[taxonomy.Column][]uint32{}
			x.found[at] = m
		}
		for _, c := range e.cols {
			m[c] = append(m[c], o)
		}
		x.entries += len(e.cols)
	}
	x.batch = x.batch[:0]
	if x.entries > x.room {
		return x.pack()
	}
	return nil
}

// pack makes layers of what was found, each one with those there are.
func (x *shadowScan) pack() error {
	for at, cols := range x.found {
		b := index.NewBuilder(at.shard, at.day)
		for c, list := range cols {
			b.Add(c, list)
		}
		l, err := b.Build()
		if err != nil {
			return err
		}
		layers := append(x.layers[at.shard][at.day], l)
		if len(layers) > 4 {
			if l, err = index.Merge(layers, nil); err != nil {
				return err
			}
			layers = []*index.Layer{l}
		}
		x.layers[at.shard][at.day] = layers
	}
	clear(x.found)
	x.entries = 0
	return nil
}

// counts is State.inColumns, of the fold's state now.
func (f *Fold) counts(x *scanned, now taxonomy.Millis) (o uint32, ok bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	_, o, ok = f.state.inColumns(x, now)
	return o, ok
}
