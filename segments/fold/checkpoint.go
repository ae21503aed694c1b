package fold

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// maxLayers is a day's blob and its layers of late arrivals (R17).
const maxLayers = 5

// capture is the state's part of a checkpoint: all that changed since the last
// one, taken at one moment, so that the fold goes on while it is written.
type capture struct {
	manifest manifest
	dirty    []dirtyVisitor
	visitors []byte // a run of dirty, made when it is first written; or nil
	state    []byte // a run, or nil
	days     []dayCapture
	seen     map[Hash]taxonomy.Millis
	view     *View
	of       *viewed
	base     []index.Days // the committed days of each shard at that moment
	rules    Classifier   // in force; nil if no checkpoint holds them
	refold   *refoldCapture
	cancels  *refold // that is under way, and not any more with this checkpoint
	rewrite  bool
}

// dirtyVisitor is a visitor that changed, copied: its bytes are made off the
// fold's lock.
type dirtyVisitor struct {
	shard   int
	ordinal uint32
	v       visitor
}

type dayCapture struct {
	shard   int
	day     taxonomy.Day
	columns map[column][]uint32
}

// capture takes what changed. Until install or abandon, flushing and the
// interval that it closes stand in for what is being written.
func (s *State) capture(number uint64) *capture {
	c := &capture{
		manifest: manifest{
			Format: manifestFormat, Number: number,
			Shards: s.cfg.Shards, Groups: s.cfg.Groups, Group: s.cfg.Group,
			Clock: s.clock, RuleVersion: s.ruleVersion,
			Position: s.position.Clone(), FrameTimes: maps.Clone(s.frameTime),
			Ordinals: map[int]uint32{},
		},
		seen: s.recent,
	}
	s.flushing, s.recent = s.recent, map[Hash]taxonomy.Millis{}

	var sr runBuilder
	for _, sh := range s.shards {
		if sh == nil {
			continue
		}
		c.manifest.Ordinals[sh.n] = sh.visitors.n
		for o := range sh.dirty {
			c.dirty = append(c.dirty, dirtyVisitor{sh.n, o, *sh.visitors.at(o)})
		}
		sh.dirty = map[uint32]struct{}{}
		c.days = append(c.days, sh.capture()...)
		sh.touched = append(sh.touched, interval{number: number + 1, visitors: map[uint32][]dayColumn{}})
	}
	for _, t := range s.tables() {
		t.drain(&sr)
	}
	c.state = sr.bytes()
	c.view = &View{
		number: number, clock: s.clock, position: c.manifest.Position, ruleVersion: s.ruleVersion,
		shards: make([]shardView, len(s.shards)), sets: map[string]denseSet{},
	}
	c.of = &viewed{consents: s.consents.all[:len(s.consents.all):len(s.consents.all)]}
	for i, sh := range s.shards {
		if sh != nil {
			c.view.shards[i] = shardView{visitors: sh.visitors.freeze(), gone: sh.gone.Clone(), off: s.offSets()[i], of: c.of}
			c.base = append(c.base, sh.days)
		} else {
			c.view.shards[i].gone = roaring.New()
			c.base = append(c.base, nil)
		}
	}
	s.captureRefold(c)
	s.changed = false
	return c
}

// capture takes the shard's pending columns, by day.
func (sh *shard) capture() []dayCapture {
	days := map[taxonomy.Day]map[column][]uint32{}
	at := func(d taxonomy.Day) map[column][]uint32 {
		m := days[d]
		if m == nil {
			m = map[column][]uint32{}
			days[d] = m
		}
		return m
	}
	for dc, list := range sh.pending {
		at(dc.day)[dc.col] = *list
	}
	for k, col := range sh.said {
		m := at(k.day)
		m[col] = append(m[col], k.ordinal)
	}
	sh.pending, sh.said = map[dayColumn]*[]uint32{}, map[saidKey]column{}
	return sh.byDay(days)
}

func (sh *shard) byDay(days map[taxonomy.Day]map[column][]uint32) (out []dayCapture) {
	for _, d := range slices.Sorted(maps.Keys(days)) {
		out = append(out, dayCapture{sh.n, d, days[d]})
	}
	return out
}

// stored is the checkpoint's files as they were last committed.
type stored struct {
	number   uint64
	version  uint64 // of the head
	visitors []fileRef
	state    []fileRef
	layers   map[*index.Layer]fileRef
	seen     map[int64][]fileRef
	name     string // of the manifest
	rules    map[uint32]rulesRef
	masks    []mask
}

// write writes a capture's files and commits them. It does not touch the state,
// and what it is given it leaves as it was, so that a failed write is repeated.
func (f *Fold) write(ctx context.Context, c *capture) (next stored, hours map[int64][]*seenFile, err error) {
	defer func() { err = errors.Join(err, f.files.aside.settle()) }()
	m := &c.manifest
	m.Epoch, m.Term = f.opt.Epoch, f.opt.Term
	m.Days, m.Seen = nil, nil
	c.view.epoch, c.of.fold = m.Epoch, f
	if c.visitors == nil && len(c.dirty) > 0 {
		var r runBuilder
		for i := range c.dirty {
			d := &c.dirty[i]
			if key := visitorKeyBytes(d.shard, d.ordinal); d.v.flags&isDropped != 0 {
				r.remove(key)
			} else {
				r.put(key, visitorVal(&d.v, c.of.consents))
			}
		}
		c.visitors, c.dirty = r.bytes(), nil
	}
	next = stored{number: m.Number, layers: map[*index.Layer]fileRef{}, seen: map[int64][]fileRef{}}
	if next.visitors, err = f.addRun(ctx, "visitors", f.stored.visitors, c.visitors, c.rewrite); err != nil {
		return next, nil, err
	}
	if next.state, err = f.addRun(ctx, "state", f.stored.state, c.state, c.rewrite); err != nil {
		return next, nil, err
	}
	m.Visitors, m.State = next.visitors, next.state
	if err := f.writeRules(ctx, c, &next); err != nil {
		return next, nil, err
	}
	if err := f.writeDays(ctx, c, &next); err != nil {
		return next, nil, err
	}
	f.keepMasks(c, &next)
	if hours, err = f.writeSeen(ctx, c, &next); err != nil {
		return next, nil, err
	}
	next.version, next.name, err = f.files.commit(ctx, f.opt.Keyed, m, f.stored.version)
	return next, hours, err
}

// addRun adds a run to a list of runs. Runs are merged while the newer of two
// neighbours has half the length of the older, so that there are few, and a
// small change never rewrites much; all of them if rewrite is set.
func (f *Fold) addRun(ctx context.Context, kind string, runs []fileRef, b []byte, rewrite bool) ([]fileRef, error) {
	runs = slices.Clone(runs)
	if b == nil && !(rewrite && len(runs) > 0) {
		return runs, nil
	}
	var parts [][]byte
	size := int64(0)
	if b != nil {
		parts, size = [][]byte{b}, int64(len(b))
	}
	for len(runs) > 0 && (rewrite || size*2 >= runs[len(runs)-1].Bytes) {
		last := runs[len(runs)-1]
		old, err := f.files.read(ctx, kind, last)
		if err != nil {
			return nil, err
		}
		parts = append([][]byte{old}, parts...)
		size += last.Bytes
		runs = runs[:len(runs)-1]
	}
	if len(parts) > 1 || rewrite {
		var err error
		if b, err = mergeRuns(parts, len(runs) == 0); err != nil {
			return nil, err
		}
	}
	if b == nil {
		return runs, nil
	}
	ref, err := f.files.write(ctx, kind, 0, b)
	return append(runs, ref), err
}

// writeDays seals the captured columns as layers, merges what has become many,
// and puts the result into the capture's view and manifest. In the checkpoint
// that ends a re-fold the new columns take the place of the old ones.
func (f *Fold) writeDays(ctx context.Context, c *capture, next *stored) error {
	m, r := &c.manifest, c.refold
	version := uint32(0)
	if c.rules != nil {
		version = m.RuleVersion
	}
	for i := range c.view.shards {
		s := &c.view.shards[i]
		w := dayWriter{f: f, c: c, next: next, shard: i, gone: s.gone, version: version}
		days, captured := c.base[i], of(c.days, i)
		if r != nil && r.switches {
			days, captured = w.replaced(days, captured)
		}
		var err error
		if s.days, m.Days, err = w.write(ctx, days, captured, m.Days); err != nil {
			return err
		}
		if r == nil || r.switches {
			continue
		}
		w.version = r.of.version
		if r.days[i], m.Refold.Days, err = w.write(ctx, r.base[i], of(r.captured, i), m.Refold.Days); err != nil {
			return err
		}
	}
	return nil
}

// of returns the captured days of a shard.
func of(all []dayCapture, shard int) (own []dayCapture) {
	for _, dc := range all {
		if dc.shard == shard {
			own = append(own, dc)
		}
	}
	return own
}

// dayWriter writes the layers of one shard.
type dayWriter struct {
	f       *Fold
	c       *capture
	next    *stored
	shard   int
	gone    *roaring.Bitmap
	version uint32                   // of the rules that its new layers hold
	hidden  map[*index.Layer]fileRef // layers that the checkpoint hides columns of
}

// write adds captured columns to days as layers and returns the days, whose
// layers have files then, with their entries for the manifest added to refs.
func (w *dayWriter) write(ctx context.Context, base index.Days, captured []dayCapture, refs []dayRef) (index.Days, []dayRef, error) {
	days := index.Days{}
	for d, layers := range base {
		if !d.Expired(w.c.manifest.Clock) {
			days[d] = layers
		}
	}
	for _, dc := range captured {
		if dc.day.Expired(w.c.manifest.Clock) {
			continue
		}
		b := index.NewBuilder(w.shard, dc.day)
		for col, events := range dc.columns {
			b.Add(w.f.columnName(col), events)
		}
		l, err := b.Build()
		if err != nil {
			return nil, nil, fmt.Errorf("build the layer of %s: %w", dc.day, err)
		}
		if l != nil {
			days[dc.day] = append(slices.Clone(days[dc.day]), l)
		}
	}
	for _, d := range slices.Sorted(maps.Keys(days)) {
		layers, err := tidy(days[d], w.gone, w.c.rewrite)
		if err != nil {
			return nil, nil, fmt.Errorf("merge the layers of %s: %w", d, err)
		}
		if len(layers) == 0 {
			delete(days, d)
			continue
		}
		ref := dayRef{Shard: w.shard, Day: d}
		for _, l := range layers {
			file, ok := w.hidden[l]
			if !ok {
				file, ok = w.f.stored.layers[l]
			}
			if !ok {
				if file, err = w.f.files.write(ctx, "day", d.Over(), l.Bytes()); err != nil {
					return nil, nil, err
				}
				file.Rules = w.version
			}
			w.next.layers[l] = file
			ref.Layers = append(ref.Layers, file)
		}
		days[d] = layers
		refs = append(refs, ref)
	}
	return days, refs, nil
}

// tidy merges layers of a day while the newer of the last two has half the
// length of the older, or there are too many. With rewrite, all become one,
// without those who are gone.
func tidy(layers []*index.Layer, gone *roaring.Bitmap, rewrite bool) ([]*index.Layer, error) {
	layers = slices.Clone(layers)
	merge := func(i, j int, drop *roaring.Bitmap) error {
		l, err := index.Merge(layers[i:j], drop)
		if err != nil {
			return err
		}
		layers = slices.Delete(layers, i, j)
		if l != nil {
			layers = slices.Insert(layers, i, l)
		}
		return nil
	}
	if rewrite {
		if err := merge(0, len(layers), gone); err != nil {
			return nil, err
		}
		return layers, nil
	}
	size := func(i int) int { return len(layers[i].Bytes()) }
	for n := len(layers); n >= 2 && size(n-1)*2 >= size(n-2); n = len(layers) {
		if err := merge(n-2, n, nil); err != nil {
			return nil, err
		}
	}
	for n := len(layers); n > maxLayers; n = len(layers) {
		least := 0
		for i := 1; i+1 < n; i++ {
			if size(i)+size(i+1) < size(least)+size(least+1) {
				least = i
			}
		}
		if err := merge(least, least+2, nil); err != nil {
			return nil, err
		}
	}
	return layers, nil
}

// writeSeen writes the new event IDs, a file an hour, and opens what the next
// Seen stands on. Files of one hour are merged like runs; those no copy can
// meet any more are left out.
func (f *Fold) writeSeen(ctx context.Context, c *capture, next *stored) (map[int64][]*seenFile, error) {
	byHour := map[int64][]seenItem{}
	for h, at := range c.seen {
		byHour[at.Hour()] = append(byHour[at.Hour()], seenItem{h, at})
	}
	oldest := (c.manifest.Clock - duplicateWindow).Hour() - 1
	hours := map[int64][]*seenFile{}
	for hour, files := range f.seen.hours {
		if hour >= oldest {
			hours[hour] = slices.Clone(files)
			next.seen[hour] = slices.Clone(f.stored.seen[hour])
		}
	}
	for _, hour := range slices.Sorted(maps.Keys(byHour)) {
		items := byHour[hour]
		for n := len(hours[hour]); n > 0 && len(items)*2 >= hours[hour][n-1].n; n = len(hours[hour]) {
			more, err := hours[hour][n-1].all()
			if err != nil {
				return nil, err
			}
			items = append(items, more...)
			hours[hour], next.seen[hour] = hours[hour][:n-1], next.seen[hour][:n-1]
		}
		over := taxonomy.Millis(hour+1)*taxonomy.Hour + duplicateWindow + taxonomy.OneDay
		ref, err := f.files.write(ctx, "seen", over, buildSeen(hour, items))
		if err != nil {
			return nil, err
		}
		file, err := f.openSeen(ctx, ref)
		if errors.Is(err, retention.ErrNotFound) {
			continue // the hour is so old that the file's life is over already
		}
		if err != nil {
			return nil, err
		}
		hours[hour] = append(hours[hour], file)
		next.seen[hour] = append(next.seen[hour], ref)
	}
	for _, hour := range slices.Sorted(maps.Keys(next.seen)) {
		if len(next.seen[hour]) > 0 {
			c.manifest.Seen = append(c.manifest.Seen, seenRef{hour, next.seen[hour]})
		}
	}
	return hours, nil
}

func (f *Fold) openSeen(ctx context.Context, ref fileRef) (*seenFile, error) {
	r, err := f.opt.Blobs.Open(ctx, f.files.name(ref.File, "seen"))
	if err != nil {
		return nil, fmt.Errorf("open event IDs: %w", err)
	}
	return openSeen(r)
}

// columnName returns the column of an interned number. It takes the lock: the
// table grows while a checkpoint is written.
func (f *Fold) columnName(c column) taxonomy.Column {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.state.columns.cols[c]
}
