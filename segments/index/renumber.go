package index

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Numbering says where the visitors of one division into shards stand in
// another: for each shard and ordinal of the old, those of the new. It is made by
// one goroutine and then only read.
type Numbering struct {
	to   [][]Place
	next []uint32 // of each new shard
}

// Place is where a visitor stands.
type Place struct {
	Shard   int32 // nowhere is negative
	Ordinal uint32
}

var nowhere = Place{Shard: -1}

// NewNumbering returns the numbering of nobody between two divisions.
func NewNumbering(from, to int) *Numbering {
	return &Numbering{to: make([][]Place, from), next: make([]uint32, to)}
}

// Shards is how many the new division has.
func (n *Numbering) Shards() int { return len(n.next) }

// Next is the first ordinal of a new shard that nobody has.
func (n *Numbering) Next(shard int) uint32 { return n.next[shard] }

// Keep says that an old shard is the new one of the same number: everybody in
// it, up to an ordinal, stays in place.
func (n *Numbering) Keep(shard int, upTo uint32) {
	n.to[shard] = make([]Place, upTo)
	for o := range upTo {
		n.to[shard][o] = Place{int32(shard), o}
	}
	n.next[shard] = max(n.next[shard], upTo)
}

// Add gives whoever stands at an old place the next ordinal of a new shard.
// Ordinals of an old shard are added as they rise; who is passed over stands
// nowhere.
func (n *Numbering) Add(shard int, ordinal uint32, to int) {
	for uint32(len(n.to[shard])) < ordinal {
		n.to[shard] = append(n.to[shard], nowhere)
	}
	n.to[shard] = append(n.to[shard], Place{int32(to), n.next[to]})
	n.next[to]++
}

// Of returns the new place of an old one, false for who has none.
func (n *Numbering) Of(shard int, ordinal uint32) (Place, bool) {
	if shard >= len(n.to) || ordinal >= uint32(len(n.to[shard])) {
		return nowhere, false
	}
	p := n.to[shard][ordinal]
	return p, p.Shard >= 0
}

// Bitmap puts the visitors of an old shard to where they stand now, in to, which
// has a bitmap for each new shard or nil where there is none yet.
func (n *Numbering) Bitmap(shard int, b *roaring.Bitmap, to []*roaring.Bitmap) {
	if b == nil {
		return
	}
	// One list for each new shard: adding one at a time would look for its
	// container each time.
	lists := make([][]uint32, len(to))
	for it := b.Iterator(); it.HasNext(); {
		if p, ok := n.Of(shard, it.Next()); ok {
			lists[p.Shard] = append(lists[p.Shard], p.Ordinal)
		}
	}
	for s, list := range lists {
		if len(list) == 0 {
			continue
		}
		if to[s] == nil {
			to[s] = roaring.New()
		}
		to[s].AddMany(list)
	}
}

// Set returns a set as it is in the new division.
func (n *Numbering) Set(from Set) Set {
	to := NewSet(n.Shards())
	for shard, b := range from {
		n.Bitmap(shard, b, to)
	}
	return to
}

// Layers returns a layer as it is in the new division: one for each new shard
// that has something of it, nil for the others. Counts and statements stay as
// they are.
func (n *Numbering) Layers(l *Layer) ([]*Layer, error) {
	builders := make([]*Builder, n.Shards())
	for i := range l.cols {
		c := &l.cols[i]
		events := make([][]uint32, n.Shards())
		c.each(func(o uint32, count uint8) {
			if p, ok := n.Of(l.Shard, o); ok {
				for range count {
					events[p.Shard] = append(events[p.Shard], p.Ordinal)
				}
			}
		})
		for s, list := range events {
			if len(list) == 0 {
				continue
			}
			if builders[s] == nil {
				builders[s] = NewBuilder(s, l.Day)
			}
			builders[s].Add(taxonomy.Column{Trait: c.Trait, Source: c.Source}, list)
		}
	}
	out := make([]*Layer, n.Shards())
	for s, b := range builders {
		if b == nil {
			continue
		}
		var err error
		if out[s], err = b.Build(); err != nil {
			return nil, fmt.Errorf("renumber the layer of %s: %w", l.Day, err)
		}
	}
	return out, nil
}

// Sum is a hash of entries in no order: the sum of their hashes, so that an entry
// that is there twice counts twice. Two installations are compared by it.
type Sum [sha256.Size]byte

// Add adds an entry, which is its parts in their order.
func (s *Sum) Add(parts ...[]byte) {
	h := sha256.New()
	var n [4]byte
	for _, p := range parts {
		binary.BigEndian.PutUint32(n[:], uint32(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	var one Sum
	h.Sum(one[:0])
	carry := uint16(0)
	for i := range s {
		carry += uint16(s[i]) + uint16(one[i])
		s[i] = byte(carry)
		carry >>= 8
	}
}
