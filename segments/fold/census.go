package fold

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Census is how much an installation knows, in numbers that depend neither on its
// shards and groups nor on its ordinals.
type Census struct {
	Visitors    uint64 `json:"visitors"` // who are not gone
	Gone        uint64 `json:"gone"`     // erased, and still to be subtracted
	Facts       uint64 `json:"facts"`    // of a visitor, column and day
	Waiting     uint64 `json:"waiting"`  // records
	Erasures    uint64 `json:"erasures"`
	Matches     uint64 `json:"matches"`
	Successions uint64 `json:"successions"`
	Statements  uint64 `json:"statements"`
	Choices     uint64 `json:"choices"`
	Imports     uint64 `json:"imports"` // chunks of rows
	// Sum is over every entry of all of these and every counter, in no order: two
	// installations with one sum know the same of the same visitors.
	Sum index.Sum `json:"-"`
}

// TakeCensus counts what all groups of an installation know, in their order. They
// must rest, as for Carry. It goes through the whole index.
func TakeCensus(folds []*Fold) (c Census, err error) {
	if len(folds) == 0 {
		return c, nil
	}
	// The tables of all groups as one has them.
	all := NewState(Config{Shards: 1, Groups: 1, Erasure: folds[0].opt.Erasure, WaitingBytes: 1 << 62})
	for _, f := range folds {
		err := f.resting(func(s *State) error {
			all.takeTables(s)
			return c.visitors(s)
		})
		if err != nil {
			return c, fmt.Errorf("count group %d: %w", f.opt.Group, err)
		}
	}
	for _, t := range all.tables() {
		n := uint64(0)
		t.each(func(key, val []byte) {
			n++
			c.Sum.Add([]byte{t.first()}, key, val)
		})
		switch t.first() {
		case all.waiting.id:
			c.Waiting = n
		case all.erased.id:
			c.Erasures = n
		case all.matches.first():
			c.Matches = n
		case all.succeeds.id:
			c.Successions = n
		case all.newest.id:
			c.Statements = n
		case all.choices.id:
			c.Choices = n
		case all.imports.id:
			c.Imports = n
		}
	}
	return c, nil
}

// visitors counts a group's visitors and what they did. Who is gone and forgotten
// has no key to be told by, so only the number counts.
func (c *Census) visitors(s *State) error {
	for _, sh := range s.shards {
		if sh == nil {
			continue
		}
		for o := range sh.visitors.n {
			v := sh.visitors.at(o)
			switch {
			case v.flags&isGone != 0:
				c.Gone++
			case !v.key.IsZero():
				c.Visitors++
			}
			if !v.key.IsZero() {
				c.Sum.Add([]byte{'v'}, visitorVal(v, s.consents.all))
			}
		}
		for _, day := range slices.Sorted(maps.Keys(sh.days)) {
			l, err := index.Merge(sh.days[day], sh.gone)
			if err != nil {
				return fmt.Errorf("the layers of %s: %w", day, err)
			}
			if l == nil {
				continue
			}
			l.Each(func(col taxonomy.Column, o uint32, n uint8) {
				k := sh.visitors.at(o).key
				if k.IsZero() {
					return // its life is over
				}
				c.Facts++
				c.Sum.Add([]byte{'d'}, binary.BigEndian.AppendUint32(k[:], uint32(day)), []byte(col.Source), []byte(col.Trait), []byte{n})
			})
		}
	}
	return nil
}
