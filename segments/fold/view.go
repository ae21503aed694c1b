package fold

import (
	"strings"
	"sync"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// View is the index and its visitors as of one committed checkpoint. It is
// immutable and safe for concurrent use.
type View struct {
	number      uint64
	clock       taxonomy.Millis
	position    retention.Position
	ruleVersion uint32
	words       Words                  // nil: categories live for 90 days, and have one name
	lives       map[taxonomy.Trait]int // of words
	epoch       uint64
	shards      []shardView

	mu   sync.Mutex
	sets map[string]denseSet
	// hidden is who has switched off a trait, made at its first use; nil: nobody.
	hidden map[shardTrait]*roaring.Bitmap
}

type shardView struct {
	visitors visitors
	gone     *roaring.Bitmap
	days     index.Days
	off      map[taxonomy.Trait]*roaring.Bitmap // who has switched off what
	of       *viewed                            // nil: a shard that the view has nothing of
}

// viewed is what the shards of one fold have in common.
type viewed struct {
	consents []taxonomy.Consent
	fold     *Fold // for keys and matches: see Ordinal and MatchID
}

// denseSet is a set as the seam hands it out: for each shard the words of its
// blocks. It costs a bit a visitor, and a leaf is a copy.
type denseSet [][]index.Words

// Position is what the view has seen.
func (v *View) Position() retention.Position { return v.position }

// Clock is the fold's time at the checkpoint.
func (v *View) Clock() taxonomy.Millis { return v.clock }

// RuleVersion is the version of the classifier in force there.
func (v *View) RuleVersion() uint32 { return v.ruleVersion }

// Number is the checkpoint's.
func (v *View) Number() uint64 { return v.number }

// Epoch is the number of restores of this installation (R29).
func (v *View) Epoch() uint64 { return v.epoch }

// OldestDay is the oldest day that has a layer; false if there is none, or the days
// cannot be read.
func (v *View) OldestDay() (oldest taxonomy.Day, ok bool) {
	if v.ready() != nil {
		return 0, false
	}
	for i := range v.shards {
		for d := range v.shards[i].days {
			if !ok || d < oldest {
				oldest, ok = d, true
			}
		}
	}
	return oldest, ok
}

// Shards is part of index.Leaves.
func (v *View) Shards() int { return len(v.shards) }

// Blocks is part of index.Leaves.
func (v *View) Blocks(shard int) int {
	return int((v.shards[shard].visitors.n + index.BlockSize - 1) / index.BlockSize)
}

// Leaf is part of index.Leaves.
func (v *View) Leaf(shard, block int, op *index.Operand, dst *index.Words) (int, error) {
	if op.Kind == index.OpSet {
		if set := v.set(op.Set); shard < len(set) && block < len(set[shard]) {
			*dst = set[shard][block]
		} else {
			clear(dst[:])
		}
		return dst.Count(), nil
	}
	if err := v.shards[shard].ready(); err != nil {
		return 0, err
	}
	n := v.shards[shard].days.Leaf(block, v.within(op), dst)
	if less, changed := v.hide(shard, block, op, dst); changed {
		n = less
	}
	return n, nil
}

// Newest is part of index.Leaves.
func (v *View) Newest(shard, block int, columns []taxonomy.Column, from, to taxonomy.Day, dst *[index.BlockSize]uint8) error {
	if err := v.shards[shard].ready(); err != nil {
		return err
	}
	v.newest(shard, block, columns, from, to, dst)
	return nil
}

// Columns is part of index.Leaves.
func (v *View) Columns(from, to taxonomy.Day, fn func(taxonomy.Column, uint64)) error {
	if err := v.ready(); err != nil {
		return err
	}
	sums := map[taxonomy.Column]uint64{}
	for i := range v.shards {
		v.shards[i].days.AddColumns(from, to, sums)
	}
	if len(v.lives) > 0 {
		v.withoutOver(from, to, sums)
	}
	for _, c := range index.SortedColumns(sums) {
		fn(c, sums[c])
	}
	return nil
}

// Key is part of index.Visitors.
func (v *View) Key(shard int, o uint32) (taxonomy.VisitorKey, bool) {
	s := &v.shards[shard]
	if o >= s.visitors.n {
		return taxonomy.VisitorKey{}, false
	}
	x := s.visitors.at(o)
	return x.key, !x.key.IsZero() && x.flags == 0
}

// Ordinal is part of index.Visitors. It finds an erased visitor too, until the
// eraser has removed it: whoever erases must know what to erase.
func (v *View) Ordinal(k taxonomy.VisitorKey) (int, uint32, bool) {
	shard := k.Shard(len(v.shards))
	s := &v.shards[shard]
	if s.of == nil {
		return 0, 0, false
	}
	// A key keeps its ordinal as long as it has one, so the present map serves
	// a view of any age; the view itself says if it had the key then.
	f := s.of.fold
	f.mu.RLock()
	o, ok := uint32(0), false
	if sh := f.state.shards[shard]; sh != nil {
		o, ok = sh.find(k)
	}
	f.mu.RUnlock()
	if !ok || o >= s.visitors.n || s.visitors.at(o).key != k {
		return 0, 0, false
	}
	return shard, o, true
}

// Consent is part of index.Visitors.
func (v *View) Consent(shard int, o uint32) (taxonomy.Consent, bool) {
	s := &v.shards[shard]
	if o >= s.visitors.n {
		return taxonomy.Consent{}, false
	}
	x := s.visitors.at(o)
	if x.key.IsZero() {
		return taxonomy.Consent{}, false
	}
	return s.of.consents[x.consent], true
}

// MatchID is part of index.Visitors. It answers as of now, not as of the view:
// an ID that changed since must not be sent.
func (v *View) MatchID(d taxonomy.DestinationID, shard int, o uint32) (string, taxonomy.Day, bool) {
	s := &v.shards[shard]
	if s.of == nil {
		return "", 0, false
	}
	k, f := s.visitors.at(o).key, s.of.fold
	f.mu.RLock()
	defer f.mu.RUnlock()
	id, at, ok := f.state.matches.of(d, k)
	return id, at.Day(), ok
}

// consentLife is how many days a summary lasts for export (R31).
const consentLife = 30

// set returns a named set, made at its first use.
func (v *View) set(name string) denseSet {
	v.mu.Lock()
	defer v.mu.Unlock()
	s, ok := v.sets[name]
	if !ok {
		s = v.makeSet(name)
		v.sets[name] = s
	}
	return s
}

func (v *View) makeSet(name string) denseSet {
	if d, ok := strings.CutPrefix(name, index.SetAllow); ok {
		today := v.clock.Day()
		return v.permitted(func(c *taxonomy.Consent) bool {
			return c.Day+consentLife > today && c.Allows(taxonomy.DestinationID(d))
		})
	}
	if d, ok := strings.CutPrefix(name, index.SetMatched); ok {
		return v.matched(taxonomy.DestinationID(d))
	}
	switch name {
	case index.SetGone:
		s := v.none()
		for i := range v.shards {
			for it := v.shards[i].gone.Iterator(); it.HasNext(); {
				s.add(i, it.Next())
			}
		}
		return s
	case index.SetProfile:
		return v.permitted(func(c *taxonomy.Consent) bool { return c.Purposes.Has(taxonomy.MayProfile) })
	case index.SetInsight:
		return v.permitted(func(c *taxonomy.Consent) bool { return c.Purposes.Has(taxonomy.MayInsight) })
	case index.SetTraining:
		return v.permitted(func(c *taxonomy.Consent) bool { return c.Purposes.Has(taxonomy.MayTrain) })
	}
	return nil // holdout, and what nobody declared: empty
}

func (v *View) none() denseSet {
	s := make(denseSet, len(v.shards))
	for i := range s {
		s[i] = make([]index.Words, v.Blocks(i))
	}
	return s
}

func (s denseSet) add(shard int, o uint32) {
	s[shard][o/index.BlockSize][o%index.BlockSize>>6] |= 1 << (o & 63)
}

// permitted is the visitors whose summary passes: each of the few distinct
// summaries is asked once.
func (v *View) permitted(passes func(*taxonomy.Consent) bool) denseSet {
	var ok []bool
	var asked *viewed
	s := v.none()
	for i := range v.shards {
		of := v.shards[i].of
		if of == nil {
			continue
		}
		if of != asked {
			asked, ok = of, make([]bool, len(of.consents))
			for i := range of.consents {
				ok[i] = passes(&of.consents[i])
			}
		}
		l := &v.shards[i].visitors
		for o := uint32(0); o < l.n; o++ {
			if x := l.at(o); !x.key.IsZero() && ok[x.consent] {
				s.add(i, o)
			}
		}
	}
	return s
}

func (v *View) matched(d taxonomy.DestinationID) denseSet {
	s := v.none()
	done := map[*Fold]bool{}
	for i := range v.shards {
		if of := v.shards[i].of; of != nil && !done[of.fold] {
			done[of.fold] = true
			v.addMatched(s, of.fold, d)
		}
	}
	return s
}

func (v *View) addMatched(s denseSet, f *Fold, d taxonomy.DestinationID) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	st := f.state
	for k := range st.matches.knows(d) {
		n := k.Shard(len(v.shards))
		if sh := st.shards[n]; sh != nil {
			if o, ok := sh.find(k); ok && o < v.shards[n].visitors.n {
				s.add(n, o)
			}
		}
	}
}
