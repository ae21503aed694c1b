package delivery

import (
	"io"
	"maps"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Held is members by expiry day, for each shard: the day at whose start a copy
// of the row ends. A visitor stands under one day only. Nil bitmaps and maps
// are empty.
type Held []map[taxonomy.Day]*roaring.Bitmap

// NewHeld returns an empty one over n shards.
func NewHeld(n int) Held {
	h := make(Held, n)
	for i := range h {
		h[i] = map[taxonomy.Day]*roaring.Bitmap{}
	}
	return h
}

// Add puts a visitor under a day; the caller sees to it that it stands under no
// other.
func (h Held) Add(shard int, ordinal uint32, d taxonomy.Day) {
	b := h[shard][d]
	if b == nil {
		b = roaring.New()
		h[shard][d] = b
	}
	b.Add(ordinal)
}

// After returns the visitors of a shard whose copy ends after a day. The caller
// owns it.
func (h Held) After(shard int, d taxonomy.Day) *roaring.Bitmap {
	u := roaring.New()
	if shard < len(h) {
		for day, b := range h[shard] {
			if day > d {
				u.Or(b)
			}
		}
	}
	return u
}

// Count returns how many members it holds.
func (h Held) Count() (n uint64) {
	for _, days := range h {
		for _, b := range days {
			n += b.GetCardinality()
		}
	}
	return n
}

// day returns the day under which a visitor stands.
func (h Held) day(shard int, ordinal uint32) (taxonomy.Day, bool) {
	if shard < len(h) {
		for d, b := range h[shard] {
			if b.Contains(ordinal) {
				return d, true
			}
		}
	}
	return 0, false
}

// or adds b to those of a day; b is copied.
func (h Held) or(shard int, d taxonomy.Day, b *roaring.Bitmap) {
	if b.IsEmpty() {
		return
	}
	if have := h[shard][d]; have != nil {
		have.Or(b)
	} else {
		h[shard][d] = b.Clone()
	}
}

// take is or for a b that nobody else has: it may be kept.
func (h Held) take(shard int, d taxonomy.Day, b *roaring.Bitmap) {
	if have := h[shard][d]; have != nil {
		have.Or(b)
	} else if !b.IsEmpty() {
		h[shard][d] = b
	}
}

// remove takes visitors of a shard out, and returns whether any was there.
func (h Held) remove(shard int, who *roaring.Bitmap) (any bool) {
	if shard >= len(h) {
		return false
	}
	for d, b := range h[shard] {
		if b.Intersects(who) {
			any = true
			b.AndNot(who)
		}
		if b.IsEmpty() {
			delete(h[shard], d)
		}
	}
	return any
}

// on returns who stands under a day, for each shard; nil for nobody.
func (h Held) on(d taxonomy.Day) []*roaring.Bitmap {
	sets := make([]*roaring.Bitmap, len(h))
	for s, days := range h {
		sets[s] = days[d]
	}
	return sets
}

// days returns every day that occurs, in order.
func (h Held) days() []taxonomy.Day {
	all := map[taxonomy.Day]bool{}
	for _, s := range h {
		for d, b := range s {
			if !b.IsEmpty() {
				all[d] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// Removal is a row that takes a partner's copy away, although its visitor may
// no longer be known to us: an entry of the outbox (R25).
type Removal struct {
	Audience taxonomy.AudienceID
	ID       string // the partner's
	// Until is the day at whose start the partner's copy ends by itself; from
	// then on the removal is not needed.
	Until taxonomy.Day
	// Shard and Ordinal are the visitor's, so that the file that carries the
	// removal is found when the eraser comes for its files.
	Shard   int
	Ordinal uint32
	// Forgotten: the eraser left it. It is kept until it is acknowledged, and
	// said once more with the next full; others with every full (Ledger.Said).
	Forgotten bool
	// Again: it was acknowledged before, and is said once more.
	Again bool
}

// Ledger is what the partner of one destination holds of us, as far as we know,
// and what it still has to be told. A visitor stands in Held or Maybe of an
// audience, never in both.
type Ledger struct {
	// Held is, for each audience, the rows that the partner surely has.
	Held map[taxonomy.AudienceID]Held
	// Maybe is what it may have, with the latest day on which such a copy ends:
	// rows that are under way, and rows whose answer never came. They are
	// removed if they must go, and sent again if they must be there. It is
	// empty for destinations that pull.
	Maybe map[taxonomy.AudienceID]Held
	// IDs is the ID under which each visitor's rows were sent. It
	// is kept for destinations by match only (nil otherwise): a match changes
	// and lapses, and then only we know the old ID. A pseudonym can always be
	// made again from the visitor key.
	IDs *Matched
	// Outbox is what has to be taken away, and not acknowledged: what the eraser
	// left, and removals that are under way. In order of audience, then ID.
	Outbox []Removal
	// Said is what was taken away and acknowledged, while a copy could still be
	// there: fulls say it once more, in case the partner lost it, or took
	// something that was late after it. In the same order.
	Said []Removal

	file io.Closer // where IDs lie; nil: in memory
}

// Close lets go of the file that IDs lie in.
func (l *Ledger) Close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

// NewLedger returns that of a partner who holds nothing.
func NewLedger() *Ledger {
	return &Ledger{Held: map[taxonomy.AudienceID]Held{}, Maybe: map[taxonomy.AudienceID]Held{}}
}

// Forget moves what is held of a visitor into the outbox, under the ID by which
// the partner knows it, and keeps nothing else of it. An ID that was kept here
// goes before id. It reports whether there was anything.
func (l *Ledger) Forget(shard int, ordinal uint32, id string, today taxonomy.Day) bool {
	who := roaring.BitmapOf(ordinal)
	if sent, ok := l.IDs.ID(shard, ordinal); ok {
		id = sent
		l.IDs.drop(shard, ordinal)
	}
	found := false
	for _, rows := range []map[taxonomy.AudienceID]Held{l.Held, l.Maybe} {
		for a, h := range rows {
			d, ok := h.day(shard, ordinal)
			if !ok {
				continue
			}
			found = true
			if d > today && id != "" {
				l.Outbox = append(l.Outbox, Removal{Audience: a, ID: id, Until: d, Shard: shard, Ordinal: ordinal, Forgotten: true})
			}
			h.remove(shard, who)
		}
	}
	for _, rs := range [][]Removal{l.Outbox, l.Said} {
		for i := range rs {
			if r := &rs[i]; r.Shard == shard && r.Ordinal == ordinal && !r.Forgotten {
				r.Forgotten, found = true, true
			}
		}
	}
	l.Outbox = ordered(l.Outbox)
	return found
}

// ordered puts removals in order; of two of one ID and audience it keeps one
// that ends last and is forgotten if either is.
func ordered(rs []Removal) []Removal {
	slices.SortStableFunc(rs, compareRemovals)
	out := rs[:0]
	for _, r := range rs {
		if n := len(out); n > 0 && compareRemovals(out[n-1], r) == 0 {
			out[n-1].Until = max(out[n-1].Until, r.Until)
			out[n-1].Forgotten = out[n-1].Forgotten || r.Forgotten
			out[n-1].Again = out[n-1].Again && r.Again
			continue
		}
		out = append(out, r)
	}
	return out
}

// retire takes away everything that is held, under the IDs by which it was
// sent: the partner's IDs are about to change. Who has no name any more stays
// until its copy ends.
func (l *Ledger) retire(name func(int, uint32) (string, bool), today taxonomy.Day) error {
	for _, rows := range []map[taxonomy.AudienceID]Held{l.Held, l.Maybe} {
		for a, h := range rows {
			for s, days := range h {
				for d, b := range days {
					for it := b.Iterator(); it.HasNext() && d > today; {
						o := it.Next()
						id, ok := "", false
						if l.IDs != nil {
							id, ok = l.IDs.ID(s, o)
						} else {
							id, ok = name(s, o)
						}
						if ok {
							l.Outbox = append(l.Outbox, Removal{Audience: a, ID: id, Until: d, Shard: s, Ordinal: o})
						}
					}
				}
			}
		}
	}
	l.Outbox = ordered(l.Outbox)
	err := l.IDs.err()
	l.Held, l.Maybe, l.IDs = map[taxonomy.AudienceID]Held{}, map[taxonomy.AudienceID]Held{}, nil
	return err
}

// settle takes in what one chunk says, once it is acknowledged: what it adds is
// held, what it takes away is no longer owed. Whoever has been forgotten in the
// meantime is no longer in Maybe, and stays out.
func (l *Ledger) settle(c *Ledger, today taxonomy.Day) {
	for a, h := range c.Held {
		maybe := l.Maybe[a]
		for s, days := range h {
			if s >= len(maybe) {
				continue
			}
			for d, b := range days {
				still := roaring.New()
				for _, m := range maybe[s] {
					still.Or(m)
				}
				still.And(b)
				maybe.remove(s, b)
				if l.Held[a] == nil {
					l.Held[a] = NewHeld(len(maybe))
				}
				l.Held[a].take(s, d, still)
			}
		}
	}
	if len(c.Outbox) == 0 {
		return
	}
	type row struct {
		a  taxonomy.AudienceID
		id string
	}
	told := make(map[row]bool, len(c.Outbox))
	for _, r := range c.Outbox {
		told[row{r.Audience, r.ID}] = true
	}
	l.Outbox = slices.DeleteFunc(l.Outbox, func(r Removal) bool {
		if !told[row{r.Audience, r.ID}] {
			return false
		}
		if r.Until > today && !(r.Forgotten && r.Again) {
			r.Again = false
			l.Said = append(l.Said, r)
		}
		return true
	})
	l.Said = ordered(l.Said)
}

// refuse takes in a chunk that the partner surely has not taken: what it would
// have added, and was not there before, is not there. Renewals stay in Maybe,
// and removals in the outbox.
func (l *Ledger) refuse(c *Ledger) {
	for a, h := range c.Held {
		before := c.Maybe[a]
		for s, days := range h {
			for _, b := range days {
				b = b.Clone()
				if s < len(before) {
					for _, m := range before[s] {
						b.AndNot(m)
					}
				}
				if m := l.Maybe[a]; m != nil {
					m.remove(s, b)
				}
			}
		}
	}
}

// prune drops what has ended for the partner by the start of today.
func (l *Ledger) prune(today taxonomy.Day) (changed bool) {
	for _, rows := range []map[taxonomy.AudienceID]Held{l.Held, l.Maybe} {
		for a, h := range rows {
			for _, s := range h {
				for d := range s {
					if d <= today {
						delete(s, d)
						changed = true
					}
				}
			}
			if h.Count() == 0 {
				delete(rows, a)
			}
		}
	}
	n := len(l.Outbox) + len(l.Said)
	over := func(r Removal) bool { return r.Until <= today }
	l.Outbox, l.Said = slices.DeleteFunc(l.Outbox, over), slices.DeleteFunc(l.Said, over)
	return l.keepIDs() || changed || n != len(l.Outbox)+len(l.Said)
}

// keepIDs drops the IDs of visitors of whom nothing is held.
func (l *Ledger) keepIDs() (changed bool) {
	if l.IDs == nil {
		return false
	}
	for s, who := range l.IDs.who {
		held := roaring.New()
		for _, rows := range []map[taxonomy.AudienceID]Held{l.Held, l.Maybe} {
			for _, h := range rows {
				if s < len(h) {
					for _, b := range h[s] {
						held.Or(b)
					}
				}
			}
		}
		n := who.GetCardinality()
		who.And(held)
		changed = changed || who.GetCardinality() < n
	}
	return changed
}

// oldest returns the day of the oldest behaviour that the ledger tells of: the
// least expiry day less the 90 days of a life.
func (l *Ledger) oldest() (least taxonomy.Day, ok bool) {
	see := func(d taxonomy.Day) {
		if d -= taxonomy.RetentionDays; !ok || d < least {
			least, ok = d, true
		}
	}
	for _, rows := range []map[taxonomy.AudienceID]Held{l.Held, l.Maybe} {
		for _, h := range rows {
			for _, d := range h.days() {
				see(d)
			}
		}
	}
	for _, rs := range [][]Removal{l.Outbox, l.Said} {
		for _, r := range rs {
			see(r.Until)
		}
	}
	return least, ok
}
