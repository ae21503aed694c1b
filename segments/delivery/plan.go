package delivery

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// slack is how many days a partner's copy may end before ours without the row
// being sent again (R31): without it everyone who comes daily would be sent
// daily, with it every eighth day.
const slack = 7

// Input is what one delivery knows besides the ledger. The planner changes
// nothing in it.
type Input struct {
	// Today is the day of the delivery; it never goes back between plans.
	Today  taxonomy.Day
	Shards int
	// Full: say everything anew. The partner drops what it held; if it is pushed
	// to, it does not, so that all removals since the last full are said too.
	Full bool
	// Push: what is said may or may not arrive.
	Push bool
	// Floor: an audience with fewer targets is delivered empty.
	Floor uint64
	// Target is, for each audience of the destination, who must be held and
	// until which day: all of them after Today.
	Target map[taxonomy.AudienceID]Held
	// IDs is the ID of each target, no ID twice; nil for destinations by pseudonym.
	// It answers for as long as what Plan returns is used.
	IDs *Matched
	// Name returns the pseudonym of a visitor, or false if the visitor is gone.
	// It answers the same for the length of a plan. Unused if IDs is set.
	Name func(shard int, ordinal uint32) (string, bool)
}

// Effects is what a plan says to the partner.
type Effects struct {
	Full bool
	// Adds are rows to write, by audience and the day until which they hold.
	Adds map[taxonomy.AudienceID]Held
	// Removes are in order of audience, then ID.
	Removes []Removal
	// Owed is how many rows must go whose visitor is gone and whose ID only the
	// eraser can still tell: they stay held until it has (Ledger.Forget).
	Owed uint64
	// ends is the latest day on which a copy may end that a row of Adds is to
	// replace, where that is of another visitor or another life.
	ends map[taxonomy.AudienceID]map[at]taxonomy.Day
	// Floored are the audiences that were delivered empty for being too small.
	Floored []taxonomy.AudienceID
}

// Empty reports whether there is nothing to say.
func (e *Effects) Empty() bool { return !e.Full && len(e.Removes) == 0 && e.added() == 0 }

func (e *Effects) added() (n uint64) {
	for _, h := range e.Adds {
		n += h.Count()
	}
	return n
}

// Plan compares what the partner holds with what it must hold. It returns what
// to say and what the partner will hold when it has heard it: what was held,
// less removes, plus adds. It is pure, and l is left as it was.
//
// No (ID, audience) stands in the effects both as an add and as a removal, so
// that the order of rows has no meaning.
func Plan(l *Ledger, in *Input) (next *Ledger, e Effects) {
	p := planner{in: in, was: l, next: NewLedger(), target: maps.Clone(in.Target)}
	p.e = Effects{Full: in.Full, Adds: map[taxonomy.AudienceID]Held{}, ends: map[taxonomy.AudienceID]map[at]taxonomy.Day{}}
	for _, a := range slices.Sorted(maps.Keys(p.target)) {
		if n := p.target[a].Count(); n < in.Floor && n > 0 {
			p.e.Floored = append(p.e.Floored, a)
			delete(p.target, a)
		}
	}
	if in.Full && !in.Push {
		p.full()
	} else {
		p.delta()
	}
	if in.IDs != nil {
		who := make([]*roaring.Bitmap, in.Shards)
		for s := range who {
			if who[s] = roaring.New(); s < len(in.IDs.who) {
				who[s].Or(in.IDs.who[s])
			}
		}
		p.next.IDs = in.IDs.with(who)
		p.next.keepIDs()
	}
	return p.next, p.e
}

type planner struct {
	in        *Input
	was, next *Ledger
	target    map[taxonomy.AudienceID]Held
	e         Effects

	owner   map[string]at     // by match: whose an ID is now, of those that may be taken away
	changed []*roaring.Bitmap // by match: whose ID is not the one they were sent under
}

type at struct {
	shard   int
	ordinal uint32
}

func (p *planner) full() {
	for a, h := range p.target {
		if h.Count() == 0 {
			continue
		}
		p.e.Adds[a] = h
		kept := NewHeld(p.in.Shards)
		for s, days := range h {
			for d, b := range days {
				kept.or(s, d, b)
			}
		}
		p.next.Held[a] = kept
	}
}

func (p *planner) delta() {
	p.matches()
	// An outbox row whose ID is a target's again must not take that row away:
	// the row is sent once more instead.
	again := map[taxonomy.AudienceID][]at{}
	for _, r := range p.owed() {
		if r.Until <= p.in.Today {
			continue
		}
		if o, ok := p.owner[r.ID]; ok && p.targets(r.Audience, o) {
			again[r.Audience] = append(again[r.Audience], o)
			p.ends1(r.Audience, o, r.Until)
			continue
		}
		p.e.Removes = append(p.e.Removes, r)
	}
	all := map[taxonomy.AudienceID]bool{}
	for a := range p.was.Held {
		all[a] = true
	}
	for a := range p.was.Maybe {
		all[a] = true
	}
	for a := range p.target {
		all[a] = true
	}
	for _, a := range slices.Sorted(maps.Keys(all)) {
		adds, next, maybe := NewHeld(p.in.Shards), NewHeld(p.in.Shards), NewHeld(p.in.Shards)
		for s := range p.in.Shards {
			force := roaring.New()
			for _, o := range again[a] {
				if o.shard == s {
					force.Add(o.ordinal)
				}
			}
			p.shard(a, s, force, adds, next, maybe)
		}
		if adds.Count() > 0 {
			p.e.Adds[a] = adds
		}
		if next.Count() > 0 {
			p.next.Held[a] = next
		}
		if maybe.Count() > 0 {
			p.next.Maybe[a] = maybe
		}
	}
	p.returned()
	p.e.Removes = ordered(p.e.Removes)
	if !p.in.Full {
		// What was acknowledged stays to be said with the next full, unless the
		// row is being added.
		p.next.Said = p.kept(p.was.Said)
	}
}

// owed is what has to be taken away whatever is held.
func (p *planner) owed() []Removal {
	if !p.in.Full || len(p.was.Said) == 0 {
		return p.was.Outbox
	}
	said := slices.Clone(p.was.Said)
	for i := range said {
		said[i].Again = true
	}
	return ordered(slices.Concat(p.was.Outbox, said))
}

// kept drops removals whose row is a target's now. A copy of it may still come up,
// so that a row which is refused is no proof that there is none.
func (p *planner) kept(rs []Removal) (kept []Removal) {
	back := p.back(rs)
	for _, r := range rs {
		if r.Until <= p.in.Today {
			continue
		}
		if o, ok := p.owner[r.ID]; ok && p.targets(r.Audience, o) {
			p.ends1(r.Audience, o, r.Until)
		} else if o := back[row{r.Audience, r.ID}]; o != nil {
			p.ends1(r.Audience, *o, r.Until)
		} else {
			kept = append(kept, r)
		}
	}
	return kept
}

type row struct {
	audience taxonomy.AudienceID
	id       string
}

// ends1 notes that a row to be added stands for a copy that may end on a day.
func (p *planner) ends1(a taxonomy.AudienceID, o at, end taxonomy.Day) {
	if p.e.ends[a] == nil {
		p.e.ends[a] = map[at]taxonomy.Day{}
	}
	p.e.ends[a][o] = max(p.e.ends[a][o], end)
}

// returned drops removals of visitors by pseudonym who are being added: those
// who were erased and have been let in again by an authenticated opt-in, under
// another ordinal, but the same key and so the same pseudonym; and those whose
// removal was never acknowledged, and who must be there after all.
func (p *planner) returned() {
	owed := p.owed()
	if p.in.IDs != nil || len(p.e.Removes) == 0 || len(owed) == 0 {
		return
	}
	back := p.back(owed)
	p.e.Removes = slices.DeleteFunc(p.e.Removes, func(r Removal) bool {
		o := back[row{r.Audience, r.ID}]
		if o != nil {
			p.ends1(r.Audience, *o, r.Until)
		}
		return o != nil
	})
}

// back finds, by pseudonym, whose removals are of rows that are being added.
func (p *planner) back(rs []Removal) map[row]*at {
	if p.in.IDs != nil || len(rs) == 0 {
		return nil
	}
	out := map[row]bool{}
	for _, r := range rs {
		out[row{r.Audience, r.ID}] = true
	}
	back := map[row]*at{}
	for i, r := range rs {
		if i > 0 && rs[i-1].Audience == r.Audience {
			continue // they are in order of audience
		}
		for s, days := range p.e.Adds[r.Audience] {
			for _, b := range days {
				for it := b.Iterator(); it.HasNext(); {
					o := it.Next()
					if id, ok := p.in.Name(s, o); ok && out[row{r.Audience, id}] {
						back[row{r.Audience, id}] = &at{s, o}
					}
				}
			}
		}
	}
	return back
}

// matches finds whose ID changed since it was sent, and whose an ID is now that may
// have to be taken away. What stays as it is is only read by.
func (p *planner) matches() {
	if p.in.IDs == nil {
		return
	}
	p.owner = map[string]at{}
	for _, rs := range [][]Removal{p.was.Outbox, p.was.Said} {
		for i := range rs {
			p.owner[rs[i].ID] = nowhere
		}
	}
	p.changed = make([]*roaring.Bitmap, p.in.Shards)
	for s := range p.in.Shards {
		p.changed[s] = roaring.New()
		was, now := p.was.IDs.walk(s), p.in.IDs.walk(s)
		more := now.next()
		for was.next() {
			for more && now.ordinal < was.ordinal {
				more = now.next()
			}
			has := more && now.ordinal == was.ordinal
			if has && bytes.Equal(now.id, was.id) {
				continue
			}
			p.owner[string(was.id)] = nowhere
			if has {
				p.changed[s].Add(was.ordinal)
			}
		}
	}
	for s := 0; s < p.in.Shards && len(p.owner) > 0; s++ {
		for now := p.in.IDs.walk(s); now.next(); {
			if _, ok := p.owner[string(now.id)]; ok {
				p.owner[string(now.id)] = at{s, now.ordinal}
			}
		}
	}
	maps.DeleteFunc(p.owner, func(_ string, o at) bool { return o == nowhere })
}

// nowhere is where an ID is that is nobody's.
var nowhere = at{-1, 0}

// shard compares one audience in one shard.
func (p *planner) shard(a taxonomy.AudienceID, s int, force *roaring.Bitmap, adds, next, maybe Held) {
	today := p.in.Today
	var was, perhaps, target map[taxonomy.Day]*roaring.Bitmap
	if h := p.was.Held[a]; s < len(h) {
		was = h[s]
	}
	if h := p.was.Maybe[a]; s < len(h) {
		perhaps = h[s]
	}
	if h := p.target[a]; s < len(h) {
		target = h[s]
	}
	must := roaring.New()
	for _, b := range target {
		must.Or(b)
	}
	// leave removes who must go, and whose ID is another now.
	leave := func(end taxonomy.Day, b *roaring.Bitmap, owed Held) {
		out := b.Clone()
		if p.changed != nil {
			out.AndNot(roaring.AndNot(must, p.changed[s]))
		} else {
			out.AndNot(must)
		}
		p.remove(a, s, end, out, owed)
	}
	stay := roaring.New()
	for end, b := range was {
		if end <= today {
			continue // the partner's copy has ended by itself
		}
		// What may stay as it is: a copy that ends no later than ours, nor more
		// than 7 days earlier; one that ends tonight stays only if ours does.
		ok := roaring.New()
		last := end + slack
		if end == today+1 {
			last = end
		}
		for d := end; d <= last && !p.in.Full; d++ {
			if t := target[d]; t != nil {
				ok.Or(t)
			}
		}
		ok.And(b)
		ok.AndNot(force)
		if p.changed != nil {
			ok.AndNot(p.changed[s])
		}
		next.or(s, end, ok)
		stay.Or(ok)
		leave(end, b, next)
	}
	// What the partner may have goes as if it had it, and comes as if it had not.
	for end, b := range perhaps {
		if end > today {
			leave(end, b, maybe)
		}
	}
	for d, b := range target {
		add := roaring.AndNot(b, stay)
		next.or(s, d, add)
		adds.take(s, d, add)
	}
}

// remove says that visitors whose copy ends on a day are to be taken out.
func (p *planner) remove(a taxonomy.AudienceID, s int, end taxonomy.Day, out *roaring.Bitmap, next Held) {
	for it := out.Iterator(); it.HasNext(); {
		o := it.Next()
		id, ok := "", false
		if p.in.IDs != nil {
			id, ok = p.was.IDs.ID(s, o)
		} else {
			id, ok = p.in.Name(s, o)
		}
		if !ok {
			p.e.Owed++
			next.Add(s, o, end)
			continue
		}
		// The ID has gone over to another target, whose own row is being added:
		// it is new there or its ID has changed.
		if to, ok := p.owner[id]; ok && p.targets(a, to) {
			p.ends1(a, to, end)
			continue
		}
		p.e.Removes = append(p.e.Removes, Removal{Audience: a, ID: id, Until: end, Shard: s, Ordinal: o})
	}
}

// underWay returns the ledger while e is being said: nothing of it is
// acknowledged, all of it may have arrived. next is what Plan returned, and is
// not to be used any more.
func (l *Ledger) underWay(next *Ledger, e *Effects, shards int) *Ledger {
	way := NewLedger()
	way.IDs, way.Outbox, way.Said = next.IDs, e.Removes, next.Said
	for a, h := range next.Held {
		way.Held[a] = NewHeld(shards)
		for s, days := range h {
			for d, b := range days {
				way.Held[a].take(s, d, b)
			}
		}
	}
	for a, h := range next.Maybe {
		way.Maybe[a] = NewHeld(shards)
		for s, days := range h {
			for d, b := range days {
				way.Maybe[a].take(s, d, b)
			}
		}
	}
	for a, h := range e.Adds {
		maybe := way.Maybe[a]
		if maybe == nil {
			maybe = NewHeld(shards)
			way.Maybe[a] = maybe
		}
		for s, days := range h {
			for d, b := range days {
				way.Held[a].remove(s, b)
				// The copy that the partner has may end later than the new one.
				rest := b.Clone()
				for _, was := range []Held{l.Held[a], l.Maybe[a]} {
					if s >= len(was) {
						continue
					}
					for end, w := range was[s] {
						if later := roaring.And(rest, w); end > d && !later.IsEmpty() {
							rest.AndNot(later)
							maybe.take(s, end, later)
						}
					}
				}
				maybe.take(s, d, rest)
			}
		}
		for o, end := range e.ends[a] {
			d, ok := maybe.day(o.shard, o.ordinal)
			if ok && end > d {
				maybe.remove(o.shard, roaring.BitmapOf(o.ordinal))
				maybe.Add(o.shard, o.ordinal, end)
			}
		}
	}
	for a, h := range way.Held {
		if h.Count() == 0 {
			delete(way.Held, a)
		}
	}
	return way
}

func (p *planner) targets(a taxonomy.AudienceID, o at) bool {
	h, ok := p.target[a]
	if !ok {
		return false
	}
	_, ok = h.day(o.shard, o.ordinal)
	return ok
}

func compareRemovals(a, b Removal) int {
	return cmp.Or(strings.Compare(string(a.Audience), string(b.Audience)), strings.Compare(a.ID, b.ID))
}
