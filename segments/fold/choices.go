package fold

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// A visitor may switch categories off: then nobody reads them, or what is below
// them, of this visitor. The columns stay as they are, and every reader finds
// them without the visitor, through View and Facts; so a choice holds at once for
// what was there before it, survives whatever folds the columns anew, and is
// taken back as easily. The obvious way, to keep the events out of the columns
// when they are folded, would do none of these.

// choice is what a visitor has switched off, as of a receipt.
type choice struct {
	at  taxonomy.Millis
	off []taxonomy.Trait // sorted
}

// choose keeps the newest choice; of two with one receipt time, what either
// switches off (R8). It acts on the IDs that this one succeeded, too (R27).
func (s *State) choose(k taxonomy.VisitorKey, at taxonomy.Millis, off []taxonomy.Trait) {
	have, ok := s.choices.get(k)
	if ok && at < have.at {
		return
	}
	off = slices.Clone(off)
	if ok && at == have.at {
		off = append(off, have.off...)
	}
	slices.Sort(off)
	off = slices.Compact(off)
	if ok && at == have.at && slices.Equal(off, have.off) {
		return
	}
	s.choices.put(k, choice{at, off})
	s.off = nil
	if suc, ok := s.succeeds.get(k); ok {
		s.choose(suc.old, at, off)
	}
}

// dropChoices removes the choices of whom gone says so.
func (s *State) dropChoices(gone func(taxonomy.VisitorKey) bool) {
	removeIf(s, s.choices, func(k taxonomy.VisitorKey, _ choice) bool {
		if !gone(k) {
			return false
		}
		s.off = nil
		return true
	})
}

// known reports whether a key has an ordinal.
func (s *State) known(k taxonomy.VisitorKey) bool {
	sh := s.shards[k.Shard(s.cfg.Shards)]
	if sh == nil {
		return false
	}
	_, ok := sh.find(k)
	return ok
}

// offSets is who has switched off what, by shard, for views. It is made anew when
// a choice changed; views share it and nobody changes it.
func (s *State) offSets() []map[taxonomy.Trait]*roaring.Bitmap {
	if s.off != nil {
		return s.off
	}
	s.off = make([]map[taxonomy.Trait]*roaring.Bitmap, len(s.shards))
	for k, c := range s.choices.m {
		n := k.Shard(s.cfg.Shards)
		sh := s.shards[n]
		if sh == nil || len(c.off) == 0 {
			continue
		}
		o, ok := sh.find(k)
		if !ok {
			continue
		}
		if s.off[n] == nil {
			s.off[n] = map[taxonomy.Trait]*roaring.Bitmap{}
		}
		for _, t := range c.off {
			if s.off[n][t] == nil {
				s.off[n][t] = roaring.New()
			}
			s.off[n][t].Add(o)
		}
	}
	return s.off
}

// covers reports whether a category that is switched off covers a trait: it is
// the category, or below it.
func covers(off, t taxonomy.Trait, above func(taxonomy.Trait) []taxonomy.Trait) bool {
	return off == t || above != nil && strings.HasPrefix(string(t), "c:") && slices.Contains(above(t), off)
}

// off returns who of a shard has switched a trait off, nil if nobody has.
func (v *View) off(shard int, t taxonomy.Trait) *roaring.Bitmap {
	s := &v.shards[shard]
	if len(s.off) == 0 || !strings.HasPrefix(string(t), "c:") {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	key := shardTrait{shard, t}
	b, ok := v.hidden[key]
	if !ok {
		for off, who := range s.off {
			if !covers(off, t, s.of.fold.opt.Above) {
				continue
			}
			if b == nil {
				b = who
			} else {
				b = roaring.Or(b, who)
			}
		}
		if v.hidden == nil {
			v.hidden = map[shardTrait]*roaring.Bitmap{}
		}
		// The trait's text may lie in a file that is unmapped with the view.
		key.trait = taxonomy.Trait(strings.Clone(string(t)))
		v.hidden[key] = b
	}
	return b
}

type shardTrait struct {
	shard int
	trait taxonomy.Trait
}

// inBlock calls fn with the places of a block that are in a set.
func inBlock(b *roaring.Bitmap, block int, fn func(uint32)) {
	it := b.Iterator()
	it.AdvanceIfNeeded(uint32(block) * index.BlockSize)
	for it.HasNext() {
		o := it.Next()
		if int(o/index.BlockSize) != block {
			return
		}
		fn(o % index.BlockSize)
	}
}

// hide takes those out of a leaf who have switched its trait off. A leaf that
// counts has columns of one trait, from several sources.
func (v *View) hide(shard, block int, op *index.Operand, dst *index.Words) (n int, changed bool) {
	if op.Kind != index.OpCount || len(op.Columns) == 0 {
		return 0, false
	}
	b := v.off(shard, op.Columns[0].Trait)
	if b == nil {
		return 0, false
	}
	inBlock(b, block, func(o uint32) { dst[o>>6] &^= 1 << (o & 63) })
	return dst.Count(), true
}

// newest is the shard's Newest without what was switched off and what is over:
// each trait that somebody has switched off, or that lives for less than 90 days,
// is asked by itself.
func (v *View) newest(shard, block int, columns []taxonomy.Column, from, to taxonomy.Day, dst *[index.BlockSize]uint8) {
	var rest, single []taxonomy.Column
	var part *[index.BlockSize]uint8
	for i, c := range columns {
		b := v.off(shard, c.Trait)
		if b == nil && v.since(c.Trait, from) == from {
			if single != nil {
				rest = append(rest, c)
			}
			continue
		}
		if single == nil {
			rest = append(rest, columns[:i]...)
			part = new([index.BlockSize]uint8)
		}
		single = append(single, c)
	}
	days := v.shards[shard].days
	if single == nil {
		days.Newest(block, columns, from, to, dst)
		return
	}
	days.Newest(block, rest, from, to, dst)
	for i := range single {
		days.Newest(block, single[i:i+1], v.since(single[i].Trait, from), to, part)
		if b := v.off(shard, single[i].Trait); b != nil {
			inBlock(b, block, func(o uint32) { part[o] = 0 })
		}
		for o, age := range part {
			if age != 0 && (dst[o] == 0 || age < dst[o]) {
				dst[o] = age
			}
		}
	}
}

// Off returns what a visitor has switched off, as of now. The caller must not
// change it.
func (f *Fold) Off(k taxonomy.VisitorKey) []taxonomy.Trait {
	f.mu.RLock()
	defer f.mu.RUnlock()
	c, _ := f.state.choices.get(k)
	return c.off
}

// chose reports whether what an ordinal has switched off is other than in a view.
func (s *shardView) chose(o uint32, off []taxonomy.Trait) bool {
	n := 0
	for _, who := range s.off {
		if who.Contains(o) {
			n++
		}
	}
	for _, t := range off {
		if who := s.off[t]; who == nil || !who.Contains(o) {
			return true
		}
	}
	return n != len(off)
}

var choiceCodec = codec[taxonomy.VisitorKey, choice]{
	key:   func(b []byte, k taxonomy.VisitorKey) []byte { return append(b, k[:]...) },
	unkey: func(b []byte) (k taxonomy.VisitorKey, err error) { return k, exactly(k[:], b) },
	val: func(b []byte, c choice) []byte {
		b = binary.AppendVarint(b, int64(c.at))
		for _, t := range c.off {
			b = appendText(b, string(t))
		}
		return b
	},
	unval: func(b []byte) (c choice, err error) {
		d := fields{b: b}
		c.at = taxonomy.Millis(d.varint())
		for len(d.b) > 0 && d.err == nil {
			c.off = append(c.off, taxonomy.Trait(d.text()))
		}
		if d.err == nil && !slices.IsSorted(c.off) {
			return c, fmt.Errorf("%w: a visitor's choices are not in order", retention.ErrCorrupt)
		}
		return c, d.end()
	},
}
