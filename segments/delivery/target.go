package delivery

import (
	"context"
	"fmt"
	"hash/maphash"
	"maps"
	"math/bits"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// consentLife is how many days a consent summary allows export (R31).
const consentLife = 30

// Source is what a delivery reads: a generation, and a view of the index at or
// beyond its position.
type Source struct {
	// Term is that of the lease under which this is delivered, fixed before it
	// begins. 0, of a command or where there are no leases: the term that is in
	// force then.
	Term       uint64
	Generation *audience.Generation
	View       audience.View
	// Members returns who is in an audience of the generation. The set is not
	// changed.
	Members func(context.Context, audience.Entry) (index.Set, error)
	// Info returns what the partner is told about an audience; nil: its ID.
	Info func(taxonomy.AudienceID) AudienceInfo
	// taker tells which IDs the format can write; nil: all.
	taker IDTaker
	// Withhold returns why nobody of an audience may be sent to the destination,
	// whatever the visitors agreed to, or "". Such an audience is delivered empty,
	// so who was sent before is taken back. Nil: nothing is withheld.
	Withhold func(taxonomy.AudienceID) string
	// Suppressed returns who is in an audience of Destination.Suppress as of the
	// newest view, and so in none that is delivered. It is asked when a plan is made,
	// which may be minutes after Run was called. Nil: nobody is.
	Suppressed func(context.Context) (index.Set, error)

	out          index.Set // what Suppressed returned, or
	unsuppressed string    // why it could not: then nobody is sent who is not held already
	back         bool      // its members are those that are held already
}

// Withheld is an audience that was delivered empty, and why.
type Withheld struct {
	Audience taxonomy.AudienceID `json:"audience"`
	Why      string              `json:"why"`
}

// target is everyone whom a destination must hold, before the floor.
type target struct {
	held map[taxonomy.AudienceID]Held
	ids  *Matched // by match
	// taker tells which IDs the format can write; nil: all.
	taker IDTaker
	// allowed is how many (member, audience) consent lets go, before it is asked
	// whether the partner knows them: the rest to held's count is the match rate.
	allowed    uint64
	withheld   []Withheld
	suppressed uint64 // (member, audience) that consent lets go and Suppress does not
}

// gather asks the view for the targets: members ∧ allow ∧ matched − gone, each
// with the day until which it may be held.
//
// Who is gone or no longer allowed in the newest view is left out too. The
// source may be older than an erasure that Forget has already dealt with: the
// visitor would be sent once more, and later there would be nobody left who
// knows its ID.
func gather(ctx context.Context, dest *Destination, src *Source, newest audience.View, today taxonomy.Day, spool func() (Spool, error)) (*target, error) {
	v, shards := src.View, src.View.Shards()
	t := &target{held: map[taxonomy.AudienceID]Held{}}
	t.taker = src.taker
	if newest.Shards() != shards {
		return nil, fmt.Errorf("the source has %d shards, the newest view %d", shards, newest.Shards())
	}
	any, err := anyColumns(v, src.Generation.Sources, today)
	if err != nil {
		return nil, fmt.Errorf("read columns: %w", err)
	}
	type wanted struct {
		entry   audience.Entry
		members index.Set
	}
	var list []wanted
	for _, a := range dest.Audiences {
		if src.Withhold != nil {
			if why := src.Withhold(a); why != "" {
				t.withheld = append(t.withheld, Withheld{a, why})
				continue
			}
		}
		e, ok := src.Generation.Entry(a)
		if !ok {
			continue // not built yet, or no longer: nobody is in it
		}
		m, err := src.Members(ctx, e)
		if err != nil {
			return nil, fmt.Errorf("read members of %s: %w", a, err)
		}
		list = append(list, wanted{e, m})
		t.held[a] = NewHeld(shards)
	}
	for s := range shards {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		may, matched, err := eligible(v, dest, s)
		if err != nil {
			return nil, err
		}
		now, _, err := eligible(newest, dest, s)
		if err != nil {
			return nil, err
		}
		may.And(now)
		g := life{view: v, any: any, shard: s, today: today}
		for _, w := range list {
			if s >= len(w.members) || w.members[s] == nil {
				continue
			}
			who := roaring.And(w.members[s], may)
			if out := src.suppressedIn(s); out != nil {
				t.suppressed += who.AndCardinality(out)
				who.AndNot(out)
			}
			t.allowed += who.GetCardinality()
			if matched != nil {
				who.And(matched)
			}
			if err := g.each(who, w.entry.Positive, func(o uint32, until taxonomy.Day) {
				t.held[w.entry.ID].Add(s, o, until)
			}); err != nil {
				return nil, err
			}
		}
	}
	if dest.IDs == ByMatch {
		if err := t.match(ctx, v, dest.ID, spool); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// match asks for the partner's ID of everybody, once, and takes out who has none:
// what is asked again may have changed, and a file must agree with its ledger.
func (t *target) match(ctx context.Context, v audience.View, dest taxonomy.DestinationID, spool func() (Spool, error)) error {
	file, err := spool()
	if err != nil {
		return err
	}
	w := newIDWriter(file, v.Shards())
	for s := range v.Shards() {
		all, lost := roaring.New(), roaring.New()
		for _, h := range t.held {
			for _, b := range h[s] {
				all.Or(b)
			}
		}
		n := 0
		for it := all.Iterator(); it.HasNext(); n++ {
			if n%bucketRows == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			o := it.Next()
			id, _, ok := v.MatchID(dest, s, o)
			if !ok || id == "" || t.taker != nil && !t.taker.TakesID(ByMatch, id) {
				lost.Add(o)
			} else if err := w.add(s, o, id); err != nil {
				return err
			}
		}
		t.lose(s, lost)
	}
	if t.ids, err = w.end(); err != nil {
		return err
	}
	return t.once(ctx, func(x at) taxonomy.Day {
		_, synced, _ := v.MatchID(dest, x.shard, x.ordinal)
		return synced
	})
}

func (t *target) lose(shard int, who *roaring.Bitmap) {
	for _, h := range t.held {
		h.remove(shard, who)
	}
}

// hashedAtOnce is how many IDs are looked through at once for two that are alike.
const hashedAtOnce = 1 << 20

// once leaves an ID that two visitors have to the newest sync (R32). A view gives no
// ID twice, but matches change while it is asked.
func (t *target) once(ctx context.Context, synced func(at) taxonomy.Day) error {
	seed := maphash.MakeSeed()
	twice := map[uint64]bool{}
	parts := t.ids.count()/hashedAtOnce + 1
	var seen []uint64
	for part := range parts {
		seen = seen[:0]
		for s := range t.ids.who {
			if err := ctx.Err(); err != nil {
				return err
			}
			for w := t.ids.walk(s); w.next(); {
				h := maphash.Bytes(seed, w.id)
				if of, _ := bits.Mul64(h, parts); of == part {
					seen = append(seen, h)
				}
			}
		}
		slices.Sort(seen)
		for i := 1; i < len(seen); i++ {
			if seen[i] == seen[i-1] {
				twice[seen[i]] = true
			}
		}
	}
	if len(twice) == 0 {
		return t.ids.err()
	}
	owner, lost := map[string]at{}, make([]*roaring.Bitmap, len(t.ids.who))
	for s := range lost {
		lost[s] = roaring.New()
	}
	for s := range t.ids.who {
		for w := t.ids.walk(s); w.next(); {
			if !twice[maphash.Bytes(seed, w.id)] {
				continue
			}
			x, loser := at{s, w.ordinal}, at{s, w.ordinal}
			if other, taken := owner[string(w.id)]; !taken {
				owner[string(w.id)] = x
				continue
			} else if synced(x) > synced(other) {
				loser, owner[string(w.id)] = other, x
			}
			lost[loser.shard].Add(loser.ordinal)
		}
	}
	for s, who := range lost {
		t.ids.who[s].AndNot(who)
		t.lose(s, who)
	}
	return t.ids.err()
}

// eligible returns who of a shard may be sent at all, and who is matched (nil
// if that is not asked for).
func eligible(v audience.View, dest *Destination, shard int) (may, matched *roaring.Bitmap, err error) {
	if may, err = readSet(v, shard, index.SetAllow+string(dest.ID)); err != nil {
		return nil, nil, err
	}
	gone, err := readSet(v, shard, index.SetGone)
	if err != nil {
		return nil, nil, err
	}
	may.AndNot(gone)
	if dest.IDs == ByMatch || dest.RequireSync {
		if matched, err = readSet(v, shard, index.SetMatched+string(dest.ID)); err != nil {
			return nil, nil, err
		}
	}
	return may, matched, nil
}

// readSet loads a whole set of a shard.
func readSet(v index.Leaves, shard int, set string) (*roaring.Bitmap, error) {
	op := index.Operand{Kind: index.OpSet, Set: set}
	var w index.Words
	dense := make([]uint64, 0, v.Blocks(shard)*len(w))
	for b := range v.Blocks(shard) {
		if _, err := v.Leaf(shard, b, &op, &w); err != nil {
			return nil, fmt.Errorf("read set %s: %w", set, err)
		}
		dense = append(dense, w[:]...)
	}
	return roaring.FromDense(dense, false), nil
}

// anyColumns returns the columns of TraitAny of the sources that the generation was
// built with: what another one saw, withdrawn by now, lets nobody be held longer.
func anyColumns(v audience.View, sources []taxonomy.SourceID, today taxonomy.Day) (any []taxonomy.Column, err error) {
	err = v.Columns(today-taxonomy.RetentionDays, today+1, func(c taxonomy.Column, _ uint64) {
		if c.Trait == taxonomy.TraitAny && slices.Contains(sources, c.Source) {
			any = append(any, c)
		}
	})
	return any, err
}

// life finds until which day a visitor may be held (R31).
type life struct {
	view  audience.View
	any   []taxonomy.Column
	shard int
	today taxonomy.Day

	positive, fallback [index.BlockSize]uint8
}

// each calls fn with the members who may still be held, and until which day:
// 90 days from the newest day in a column that the rule uses positively, or
// else of any event; less if a statement ends sooner; and never past the day on
// which the consent summary turns 30 days old.
func (g *life) each(who *roaring.Bitmap, positive []taxonomy.Column, fn func(uint32, taxonomy.Day)) error {
	columns, ending := byEnd(positive)
	columns, short := byLife(g.view, columns)
	// A browser's clock may be ahead by minutes, over midnight: tomorrow's day
	// is looked at too.
	to := g.today + 1
	from := to - taxonomy.RetentionDays
	block := -1
	for it := who.Iterator(); it.HasNext(); {
		o := it.Next()
		if b := int(o / index.BlockSize); b != block {
			block = b
			if err := g.load(b, columns, ending, short, from, to); err != nil {
				return err
			}
		}
		i := o % index.BlockSize
		var until taxonomy.Day
		if n := g.positive[i]; n > 0 {
			until = to - taxonomy.Day(n-1) + taxonomy.RetentionDays
		} else if n := g.fallback[i]; n > 0 {
			until = to - taxonomy.Day(n-1) + taxonomy.RetentionDays
		} else {
			continue
		}
		c, ok := g.view.Consent(g.shard, o)
		if !ok {
			continue // nothing is known that would allow it
		}
		if until = min(until, c.Day+consentLife); until > g.today {
			fn(o, until)
		}
	}
	return nil
}

// keyed is the columns of one statement key, by the end that they state; 0: none.
type keyed map[taxonomy.Day][]taxonomy.Column

// byEnd takes the keys out of columns that have a statement with an end of its own
// (R16). There a newer day is no longer life, so the newest statement must be known.
func byEnd(positive []taxonomy.Column) (columns []taxonomy.Column, ending []keyed) {
	keys := map[string]keyed{}
	for _, c := range positive {
		if key, ok := c.Trait.Statement(); ok {
			if _, _, ends := c.Trait.Ends(); ends {
				keys[key] = keyed{}
			}
		}
	}
	if len(keys) == 0 {
		return positive, nil
	}
	for _, c := range positive {
		key, _ := c.Trait.Statement()
		k, ok := keys[key]
		if !ok {
			columns = append(columns, c)
			continue
		}
		_, until, _ := c.Trait.Ends()
		k[until] = append(k[until], c)
	}
	return columns, slices.Collect(maps.Values(keys))
}

// byLife takes the columns out of which a member has fewer than 90 days, by how
// many.
func byLife(leaves any, columns []taxonomy.Column) (rest []taxonomy.Column, short map[int][]taxonomy.Column) {
	for i, c := range columns {
		n := index.LifeOf(leaves, c.Trait)
		switch {
		case n >= taxonomy.RetentionDays && short != nil:
			rest = append(rest, c)
		case n < taxonomy.RetentionDays:
			if short == nil {
				rest, short = slices.Clone(columns[:i]), map[int][]taxonomy.Column{}
			}
			short[n] = append(short[n], c)
		}
	}
	if short == nil {
		return columns, nil
	}
	return rest, short
}

func (g *life) load(block int, columns []taxonomy.Column, ending []keyed, short map[int][]taxonomy.Column, from, to taxonomy.Day) error {
	g.positive, g.fallback = [index.BlockSize]uint8{}, [index.BlockSize]uint8{}
	if len(columns) > 0 {
		if err := g.view.Newest(g.shard, block, columns, from, to, &g.positive); err != nil {
			return fmt.Errorf("read newest days: %w", err)
		}
	}
	for _, k := range ending {
		if err := g.ends(block, k, from, to); err != nil {
			return err
		}
	}
	for days, columns := range short {
		var age [index.BlockSize]uint8
		if err := g.view.Newest(g.shard, block, columns, from, to, &age); err != nil {
			return fmt.Errorf("read newest days: %w", err)
		}
		for i, n := range age {
			if n == 0 {
				continue
			}
			// As if it had happened so much earlier that 90 days end with its life.
			if as := uint8(min(int(n)+taxonomy.RetentionDays-days, 255)); g.positive[i] == 0 || as < g.positive[i] {
				g.positive[i] = as
			}
		}
	}
	if len(g.any) > 0 {
		if err := g.view.Newest(g.shard, block, g.any, from, to, &g.fallback); err != nil {
			return fmt.Errorf("read newest days: %w", err)
		}
	}
	return nil
}

// ends lets the newest statement of a key count: one that ends before its 90 days
// as if it had been made so much earlier. Of two of one day the sooner end counts.
func (g *life) ends(block int, k keyed, from, to taxonomy.Day) error {
	var age, newest, life [index.BlockSize]uint8
	for until, columns := range k {
		if err := g.view.Newest(g.shard, block, columns, from, to, &age); err != nil {
			return fmt.Errorf("read newest days: %w", err)
		}
		for i, n := range age {
			if n == 0 || newest[i] > 0 && n > newest[i] {
				continue
			}
			as := n
			if until != 0 {
				// An end that has come is as old as can be.
				as = uint8(min(max(int(n), int(to+taxonomy.RetentionDays+1-until)), 255))
			}
			if newest[i] == n {
				as = max(as, life[i])
			}
			newest[i], life[i] = n, as
		}
	}
	for i, n := range life {
		if n > 0 && (g.positive[i] == 0 || n < g.positive[i]) {
			g.positive[i] = n
		}
	}
	return nil
}
