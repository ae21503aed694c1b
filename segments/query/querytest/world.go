// Package querytest is the obvious index: a view computed from a list of what
// happened, by loops over it. Other packages test their fast ways against it.
package querytest

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Fact is that a visitor had N events in a column on a day (N < 1 means one).
type Fact struct {
	Visitor int
	Day     taxonomy.Day
	Column  taxonomy.Column
	N       int
}

// Statement is an attribute's value or a list's membership, stated on a day.
// Of two statements of a key about a visitor the one with the later day is
// newer; on the same day that of the first source in order; of the same source
// the one that stands later in World.Stated.
type Statement struct {
	Visitor int
	Day     taxonomy.Day
	Column  taxonomy.Column
}

// Match is the ID by which a destination knows a visitor.
type Match struct {
	Visitor     int
	Destination taxonomy.DestinationID
	ID          string
	Synced      taxonomy.Day
}

// World is everything that a view is made of. Visitors are numbers from 0;
// whoever is named anywhere exists.
type World struct {
	Shards   int    // 0 means 1
	Stride   uint32 // distance of ordinals within a shard, to fill more blocks with few visitors; 0 means 1
	Now      taxonomy.Millis
	Facts    []Fact
	Stated   []Statement
	Sets     map[string][]int // permit:profile, gone, holdout, allow:…, matched:…, audience:…
	Consents map[int]taxonomy.Consent
	Matches  []Match
	At       retention.Position
	Version  uint32
}

// Key returns the visitor key of a visitor's number.
func Key(visitor int) taxonomy.VisitorKey {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(visitor))
	h := sha256.Sum256(append([]byte("querytest"), b[:]...))
	return taxonomy.VisitorKey(h[:16])
}

// place is a shard and ordinal.
type place struct {
	shard   int
	ordinal uint32
}

// View is a World as of its clock. It keeps audience.View and is immutable.
type View struct {
	w        *World
	places   map[int]place
	visitors map[place]int
	keys     map[taxonomy.VisitorKey]int
	ends     []uint32                  // by shard, one beyond the last ordinal
	facts    map[int][]Fact            // by visitor
	stated   map[int][]Statement       // by visitor, oldest first
	sets     map[string]map[int]bool   //
	blocks   map[place][]int           // (shard, block) → visitors
	matches  map[int][]Match           //
	mu       sync.Mutex                // guards asked
	asked    map[string]map[[2]int]int // operand → (shard, block) → times
}

// View makes the view. The world must not be changed afterwards.
func (w *World) View() *View {
	v := &View{w: w, places: map[int]place{}, visitors: map[place]int{}, keys: map[taxonomy.VisitorKey]int{},
		ends: make([]uint32, max(w.Shards, 1)), facts: map[int][]Fact{}, stated: map[int][]Statement{},
		sets: map[string]map[int]bool{}, blocks: map[place][]int{}, matches: map[int][]Match{}, asked: map[string]map[[2]int]int{}}
	var all []int
	for _, f := range w.Facts {
		f.N = max(f.N, 1)
		v.facts[f.Visitor] = append(v.facts[f.Visitor], f)
		all = append(all, f.Visitor)
	}
	for _, s := range w.Stated {
		v.stated[s.Visitor] = append(v.stated[s.Visitor], s)
		all = append(all, s.Visitor)
	}
	for name, members := range w.Sets {
		v.sets[name] = map[int]bool{}
		for _, m := range members {
			v.sets[name][m] = true
		}
		all = append(all, members...)
	}
	for _, m := range w.Matches {
		v.matches[m.Visitor] = append(v.matches[m.Visitor], m)
		all = append(all, m.Visitor)
	}
	for m := range w.Consents {
		all = append(all, m)
	}
	slices.Sort(all)
	for _, n := range slices.Compact(all) {
		k := Key(n)
		at := place{shard: k.Shard(len(v.ends))}
		at.ordinal = v.ends[at.shard]
		v.ends[at.shard] += max(w.Stride, 1)
		v.places[n], v.visitors[at], v.keys[k] = at, n, n
		b := place{at.shard, at.ordinal / index.BlockSize}
		v.blocks[b] = append(v.blocks[b], n)
	}
	for _, ss := range v.stated {
		slices.SortStableFunc(ss, func(a, b Statement) int {
			return cmp.Or(cmp.Compare(a.Day, b.Day), cmp.Compare(b.Column.Source, a.Column.Source))
		})
	}
	return v
}

// Place returns the shard and ordinal of a visitor.
func (v *View) Place(visitor int) (shard int, ordinal uint32, ok bool) {
	p, ok := v.places[visitor]
	return p.shard, p.ordinal, ok
}

// VisitorAt returns the number of the visitor at a place.
func (v *View) VisitorAt(shard int, ordinal uint32) (int, bool) {
	n, ok := v.visitors[place{shard, ordinal}]
	return n, ok
}

// Visitors returns the numbers in a set, sorted.
func (v *View) Visitors(s index.Set) []int {
	out := []int{}
	for n, p := range v.places {
		if s.Contains(p.shard, p.ordinal) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// Set returns the set of some visitors.
func (v *View) Set(visitors ...int) index.Set {
	s := index.NewSet(v.Shards())
	for _, n := range visitors {
		if p, ok := v.places[n]; ok {
			s[p.shard].Add(p.ordinal)
		}
	}
	return s
}

// Sources returns the sources of all columns, sorted.
func (w *World) Sources() []taxonomy.SourceID {
	var ids []taxonomy.SourceID
	for _, f := range w.Facts {
		ids = append(ids, f.Column.Source)
	}
	for _, s := range w.Stated {
		ids = append(ids, s.Column.Source)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// Position, Clock and RuleVersion are those of audience.View.
func (v *View) Position() retention.Position { return v.w.At }

// Clock is the fold's clock.
func (v *View) Clock() taxonomy.Millis { return v.w.Now }

// RuleVersion is the version in force.
func (v *View) RuleVersion() uint32 { return v.w.Version }

// Key is that of index.Visitors.
func (v *View) Key(shard int, ordinal uint32) (taxonomy.VisitorKey, bool) {
	n, ok := v.visitors[place{shard, ordinal}]
	if !ok || v.sets[index.SetGone][n] {
		return taxonomy.VisitorKey{}, false
	}
	return Key(n), true
}

// Ordinal is that of index.Visitors.
func (v *View) Ordinal(k taxonomy.VisitorKey) (shard int, ordinal uint32, ok bool) {
	n, ok := v.keys[k]
	if !ok || v.sets[index.SetGone][n] {
		return 0, 0, false
	}
	p := v.places[n]
	return p.shard, p.ordinal, true
}

// Consent is that of index.Visitors.
func (v *View) Consent(shard int, ordinal uint32) (taxonomy.Consent, bool) {
	n, ok := v.visitors[place{shard, ordinal}]
	if !ok {
		return taxonomy.Consent{}, false
	}
	c, ok := v.w.Consents[n]
	return c, ok
}

// MatchID is that of index.Visitors.
func (v *View) MatchID(d taxonomy.DestinationID, shard int, ordinal uint32) (string, taxonomy.Day, bool) {
	if n, ok := v.visitors[place{shard, ordinal}]; ok {
		for _, m := range v.matches[n] {
			if m.Destination == d {
				return m.ID, m.Synced, true
			}
		}
	}
	return "", 0, false
}
