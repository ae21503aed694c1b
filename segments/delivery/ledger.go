package delivery

import (
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
}

// Ledger is what the partner of one destination holds of us: the acknowledged
// rows, and what it still has to be told.
type Ledger struct {
	// Held is, for each audience, the rows that the partner has.
	Held map[taxonomy.AudienceID]Held
	// IDs is, for each shard, the ID under which a visitor's rows were sent. It
	// is kept for destinations by match only (nil otherwise): a match changes
	// and lapses, and then only we know the old ID. A pseudonym can always be
	// made again from the visitor key.
	IDs []map[uint32]string
	// Outbox is what the eraser left: in order of audience, then ID.
	Outbox []Removal
}

// NewLedger returns that of a partner who holds nothing.
func NewLedger() *Ledger { return &Ledger{Held: map[taxonomy.AudienceID]Held{}} }

// Forget moves what is held of a visitor into the outbox, under the ID by which
// the partner knows it, and keeps nothing else of it. An ID that was kept here
// goes before id. It reports whether there was anything.
func (l *Ledger) Forget(shard int, ordinal uint32, id string, today taxonomy.Day) bool {
	who := roaring.BitmapOf(ordinal)
	if shard < len(l.IDs) {
		if sent, ok := l.IDs[shard][ordinal]; ok {
			id = sent
			delete(l.IDs[shard], ordinal)
		}
	}
	found := false
	for a, h := range l.Held {
		d, ok := h.day(shard, ordinal)
		if !ok {
			continue
		}
		found = true
		if d > today && id != "" {
			l.Outbox = append(l.Outbox, Removal{a, id, d, shard, ordinal})
		}
		h.remove(shard, who)
	}
	l.sortOutbox()
	return found
}

func (l *Ledger) sortOutbox() {
	slices.SortFunc(l.Outbox, compareRemovals)
	l.Outbox = slices.CompactFunc(l.Outbox, func(a, b Removal) bool { return a.Audience == b.Audience && a.ID == b.ID })
}

// prune drops what has ended for the partner by the start of today.
func (l *Ledger) prune(today taxonomy.Day) (changed bool) {
	for a, h := range l.Held {
		for _, s := range h {
			for d := range s {
				if d <= today {
					delete(s, d)
					changed = true
				}
			}
		}
		if h.Count() == 0 {
			delete(l.Held, a)
		}
	}
	n := len(l.Outbox)
	l.Outbox = slices.DeleteFunc(l.Outbox, func(r Removal) bool { return r.Until <= today })
	return l.keepIDs() || changed || n != len(l.Outbox)
}

// keepIDs drops the IDs of visitors of whom nothing is held.
func (l *Ledger) keepIDs() (changed bool) {
	for s, ids := range l.IDs {
		held := roaring.New()
		for _, h := range l.Held {
			if s < len(h) {
				for _, b := range h[s] {
					held.Or(b)
				}
			}
		}
		for o := range ids {
			if !held.Contains(o) {
				delete(ids, o)
				changed = true
			}
		}
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
	for _, h := range l.Held {
		for _, d := range h.days() {
			see(d)
		}
	}
	for _, r := range l.Outbox {
		see(r.Until)
	}
	return least, ok
}
