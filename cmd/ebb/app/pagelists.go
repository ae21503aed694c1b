package app

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/segments/fold"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// pageSpace holds the lists of visitors whose audiences for pages changed since
// the generation: the builder of their group writes them, every other node reads
// them (R33).
var pageSpace = retention.KeyedSpace{Name: "seg"}

const (
	// pageListLife is how long a list may be read: generations come long before.
	pageListLife = taxonomy.OneDay
	// pageListWithin is how long a page waits for one (R33).
	pageListWithin = 50 * time.Millisecond
)

// pageLists are the lists that this node has written of a group since it took it.
type pageLists struct {
	a     *App
	g     *group
	since uint64 // generation that stood when it did

	mu    sync.Mutex
	known map[taxonomy.VisitorKey]*pageList
	swept uint64 // generation up to which known was gone through
}

// pageList is a list: what a visitor is in, as of a time, and the last record of
// each writer that was about it and is taken into account.
type pageList struct {
	at   taxonomy.Millis
	ids  []taxonomy.AudienceID
	last map[taxonomy.WriterID]uint64
}

func newPageLists(a *App, g *group) *pageLists {
	l := &pageLists{a: a, g: g, known: map[taxonomy.VisitorKey]*pageList{}}
	if gen := a.current.Load(); gen != nil {
		l.since = gen.Number
	}
	return l
}

// folded writes the lists of visitors that a step was about, if they differ from
// what other nodes know.
func (l *pageLists) folded(ctx context.Context, about []fold.Folded) error {
	a := l.a
	st := a.seg.State()
	if st == nil {
		return nil // without a generation pages are told nothing
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	gen := st.Pages.Generation()
	if gen.Number > l.swept {
		for k, p := range l.known {
			if p.at < gen.Clock { // the generation has it
				delete(l.known, k)
			}
		}
		l.swept = gen.Number
	}
	clock := l.g.fold.Load().Clock()
	seen := map[taxonomy.VisitorKey]map[taxonomy.WriterID]uint64{}
	for _, f := range about {
		last := seen[f.Visitor]
		if last == nil {
			last = map[taxonomy.WriterID]uint64{}
			seen[f.Visitor] = last
		}
		if !f.Last.IsZero() {
			last[f.Last.Writer] = max(last[f.Last.Writer], f.Last.Seq)
		}
	}
	var items []retention.Item
	var ids []taxonomy.AudienceID
	for k, last := range seen {
		var err error
		if ids, err = a.seg.Visitor(ids[:0], k, clock.Day()); err != nil {
			return err
		}
		was := l.known[k]
		if was == nil {
			// Until a generation came that this tenure built, lists of the one before
			// may stand, and all are written.
			if gen.Number > l.since && slices.Equal(ids, st.Published(k)) {
				continue
			}
			was = &pageList{last: map[taxonomy.WriterID]uint64{}}
			l.known[k] = was
		}
		for w, seq := range last {
			was.last[w] = max(was.last[w], seq)
		}
		was.at, was.ids = clock, slices.Clone(ids)
		items = append(items, retention.Item{Key: retention.Key{Partition: string(k[:])}, Value: was.append(nil), Over: clock + pageListLife})
	}
	if len(items) == 0 {
		return nil
	}
	if err := a.store.Keyed().Put(ctx, pageSpace, items); err != nil {
		return fmt.Errorf("write the lists of %d visitors: %w", len(items), err)
	}
	return nil
}

// The value of a list: version 1, then uvarints: time, number of audiences, each
// with its length and bytes; number of writers, each 16 bytes and a uvarint.
const pageListVersion = 1

func (p *pageList) append(b []byte) []byte {
	b = append(b, pageListVersion)
	b = binary.AppendUvarint(b, uint64(p.at))
	b = binary.AppendUvarint(b, uint64(len(p.ids)))
	for _, id := range p.ids {
		b = binary.AppendUvarint(b, uint64(len(id)))
		b = append(b, id...)
	}
	b = binary.AppendUvarint(b, uint64(len(p.last)))
	for w, seq := range p.last {
		b = append(b, w[:]...)
		b = binary.AppendUvarint(b, seq)
	}
	return b
}

func parsePageList(b []byte) (*pageList, error) {
	bad := fmt.Errorf("a visitor's list: %w", retention.ErrCorrupt)
	if len(b) == 0 || b[0] != pageListVersion {
		return nil, bad
	}
	b = b[1:]
	next := func() (uint64, bool) {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			return 0, false
		}
		b = b[size:]
		return n, true
	}
	p := &pageList{last: map[taxonomy.WriterID]uint64{}}
	at, ok := next()
	n, ok2 := next()
	if !ok || !ok2 || n > uint64(len(b)) {
		return nil, bad
	}
	p.at = taxonomy.Millis(at)
	for range n {
		size, ok := next()
		if !ok || size > uint64(len(b)) {
			return nil, bad
		}
		p.ids, b = append(p.ids, taxonomy.AudienceID(b[:size])), b[size:]
	}
	if n, ok = next(); !ok || n > uint64(len(b)) {
		return nil, bad
	}
	for range n {
		var w taxonomy.WriterID
		if len(b) < len(w) {
			return nil, bad
		}
		copy(w[:], b)
		b = b[len(w):]
		seq, ok := next()
		if !ok {
			return nil, bad
		}
		p.last[w] = seq
	}
	if len(b) > 0 {
		return nil, bad
	}
	return p, nil
}

// remotePage answers for a visitor of a group that another node builds: the list
// that its builder published, with what this node's own log changes in it. If the
// cluster does not answer in time, that is the list which was last read, or else
// the generation's, and marked stale: what other nodes did since may be missing.
func (a *App) remotePage(ctx context.Context, v taxonomy.VisitorKey) (ids []taxonomy.AudienceID, asOf taxonomy.Millis, stale bool, err error) {
	g := a.fold.of(v, a.install.Shards)
	asOf = g.fold.Load().View().Clock()
	own, err := a.seg.Visitor(nil, v, a.env.millis().Day())
	if err != nil {
		return nil, 0, false, err
	}
	st := a.seg.State()
	if st == nil {
		return own, asOf, false, nil
	}
	gen := st.Pages.Generation()
	// A generation that is ahead of the checkpoint that this node follows knows
	// more than what corrects it here: until the checkpoint is read, a second later,
	// or for as long as it cannot be.
	stale = asOf < gen.Clock
	if a.cluster.withdrawn.Load() {
		return own, asOf, stale, nil
	}
	list, err := a.readList(ctx, v)
	if err != nil {
		// What changed at other nodes between the generation and the checkpoint is
		// in lists alone.
		asOf, stale = min(asOf, gen.Clock), true
		list = a.cluster.read.of(v)
	}
	if list == nil || list.at < gen.Clock || a.env.millis() >= list.at+pageListLife {
		return own, asOf, stale, nil // the generation is newer, or all there is
	}
	asOf = list.at
	if o := a.cluster.own[g.n].Load(); o != nil {
		if ref, ok := o.of(v); ok && list.last[ref.Writer] < ref.Seq {
			return applied(list.ids, st.Published(v), own), asOf, stale, nil
		}
	}
	return list.ids, asOf, stale, nil
}

// readList reads the list of a visitor, nil if there is none, and remembers it.
func (a *App) readList(ctx context.Context, v taxonomy.VisitorKey) (*pageList, error) {
	ctx, cancel := context.WithTimeout(ctx, pageListWithin)
	defer cancel()
	it, err := a.store.Keyed().Get(ctx, pageSpace, retention.Key{Partition: string(v[:])})
	if errors.Is(err, retention.ErrNotFound) {
		a.cluster.read.keep(v, nil)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := parsePageList(it.Value)
	if err == nil {
		a.cluster.read.keep(v, list)
	}
	return list, err
}

// heardLists are lists that were read, by visitor, for when the cluster does not
// answer: those of the last visitors who asked, between keptLists and twice as
// many. Its zero value is empty. It is safe for concurrent use.
type heardLists struct {
	mu         sync.Mutex
	young, old map[taxonomy.VisitorKey]*pageList
}

// keptLists is about 4 MB of lists.
const keptLists = 1 << 13

// keep remembers the list of a visitor; nil forgets it.
func (r *heardLists) keep(v taxonomy.VisitorKey, l *pageList) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l == nil {
		delete(r.young, v)
		delete(r.old, v)
		return
	}
	if r.young == nil || len(r.young) >= keptLists {
		r.young, r.old = make(map[taxonomy.VisitorKey]*pageList), r.young
	}
	r.young[v] = l
}

func (r *heardLists) of(v taxonomy.VisitorKey) *pageList {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.young[v]; l != nil {
		return l
	}
	return r.old[v]
}

// applied is a list with the same changes made that lead from before to after.
func applied(list, before, after []taxonomy.AudienceID) []taxonomy.AudienceID {
	out := slices.DeleteFunc(slices.Clone(list), func(id taxonomy.AudienceID) bool {
		return slices.Contains(before, id) && !slices.Contains(after, id)
	})
	for _, id := range after {
		if !slices.Contains(before, id) && !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// clusterPage is Page on a node that does not build the visitor's group.
func (p pages) clusterPage(ctx context.Context, v taxonomy.VisitorKey) (tagserver.PageAnswer, error) {
	if p.a.erasedNow(v) {
		p.a.cluster.read.keep(v, nil)
		return tagserver.PageAnswer{AsOf: p.a.fold.Clock(), Audiences: []tagserver.PageAudience{}}, nil
	}
	ids, asOf, stale, err := p.a.remotePage(ctx, v)
	if err != nil {
		return tagserver.PageAnswer{}, err
	}
	ans := p.answer(ids, asOf)
	ans.Stale = stale
	return ans, nil
}

// pageListHolder registers the lists with sweeper, eraser and audit. They end by
// themselves after a day; an erased visitor's goes with the eraser.
func (a *App) pageListHolder() forget.Holder {
	return forget.Holder{
		// The row ends after a day; its bytes go when Cassandra compacts them.
		Name: "page lists", Bound: taxonomy.RetentionDays, EraseBound: taxonomy.RetentionDays,
		Oldest:       func(ctx context.Context) (taxonomy.Day, bool, error) { return 0, false, ctx.Err() },
		ExpireBefore: func(ctx context.Context, _ taxonomy.Day) error { return ctx.Err() },
		Soon:         nothing, // whoever is gone has an empty list, which must be read
		Erase: func(ctx context.Context, visitors []taxonomy.VisitorKey) error {
			list := make([]retention.Key, len(visitors))
			for i, k := range visitors {
				list[i].Partition = string(k[:])
			}
			return a.store.Keyed().Delete(ctx, pageSpace, list)
		},
	}
}
