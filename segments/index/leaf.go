// Package index is the columns of the visitors by day: immutable files in
// roaring's portable format with counts, and the one seam through which every
// question reads them.
package index

import (
	"fmt"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// BlockSize is the number of ordinals of a block: one roaring container.
const BlockSize = 1 << 16

// Words is the visitors of one block, a bit each: ordinal block·65536 + 64·i + j
// is bit j of word i.
type Words [BlockSize / 64]uint64

// Unit says what a Count operand counts.
type Unit uint8

// The units.
const (
	Events       Unit = iota // events, saturating at 255 a visitor, day and column
	DistinctDays             // distinct days with at least one event
)

func (u Unit) String() string {
	if u == DistinctDays {
		return "days"
	}
	return "events"
}

// OperandKind is one of the three questions that the seam answers (R14).
type OperandKind uint8

// The kinds.
const (
	// OpCount: who has at least Min in Columns, summed, from day From to day To.
	OpCount OperandKind = iota + 1
	// OpNewest: whose newest statement of the key (All: every column of it) in
	// the 90 days to AsOf is one of Columns (R16).
	OpNewest
	// OpSet: who is in the named set.
	OpSet
)

// Operand is one leaf of a rule, as the planner gives it to the index.
type Operand struct {
	Kind    OperandKind
	Columns []taxonomy.Column // OpCount, OpNewest; sorted
	All     []taxonomy.Column // OpNewest; sorted
	From    taxonomy.Day      // OpCount, included; OpNewest: nothing before it, if it is not 0
	To      taxonomy.Day      // OpCount, included
	Unit    Unit              // OpCount
	Min     uint8             // OpCount: 1..255
	AsOf    taxonomy.Day      // OpNewest
	Set     string            // OpSet: see the Set… names
}

// The names of sets. What is "any" or "bot" is columns, not sets: see
// taxonomy.TraitAny and taxonomy.TraitBot.
const (
	SetProfile  = "permit:profile"
	SetInsight  = "permit:insight"
	SetTraining = "permit:training"
	SetGone     = "gone"
	SetHoldout  = "holdout"
	// SetAllow + destination: whose consent, not older than 30 days, lets the
	// destination have them (R31).
	SetAllow = "allow:"
	// SetMatched + destination: whom the destination knows by an ID of its own.
	SetMatched = "matched:"
	// SetAudience + audience: the members in the last generation, for nested
	// audiences that cannot be inlined (uploads, lookalikes).
	SetAudience = "audience:"
)

// Key is a string that is equal exactly for operands that mean the same, by
// which a leaf is loaded once for all audiences.
func (o *Operand) Key() string {
	var b strings.Builder
	cols := func(cs []taxonomy.Column) {
		for _, c := range cs {
			fmt.Fprintf(&b, "%q@%q,", c.Trait, c.Source)
		}
	}
	switch o.Kind {
	case OpCount:
		fmt.Fprintf(&b, "count %d..%d %d %s ", o.From, o.To, o.Min, o.Unit)
		cols(o.Columns)
	case OpNewest:
		fmt.Fprintf(&b, "newest %d..%d ", o.From, o.AsOf)
		cols(o.Columns)
		b.WriteString("of ")
		cols(o.All)
	case OpSet:
		b.WriteString("set " + o.Set)
	}
	return b.String()
}

// Leaves is the seam: everything that evaluates rules reads the index through
// it, and every representation of the index (day files, roll-ups, last-seen
// levels) stands behind it.
//
// An implementation is an immutable view as of one position; it is safe for
// concurrent use.
type Leaves interface {
	// Shards is the number of shards.
	Shards() int
	// Blocks is the number of blocks of a shard that have ordinals.
	Blocks(shard int) int
	// Leaf overwrites dst with the visitors of a block that op is true of, and
	// returns how many they are. Unknown columns and sets are empty. It fails
	// only if bytes cannot be read or are corrupt.
	Leaf(shard, block int, op *Operand, dst *Words) (int, error)
	// Newest sets dst[i], for ordinal block·65536+i, to 1 + the number of days
	// from its newest day in one of the columns to day to (so 1 is day to
	// itself), or to 0 if there is none from day from to day to.
	Newest(shard, block int, columns []taxonomy.Column, from, to taxonomy.Day, dst *[BlockSize]uint8) error
	// Columns calls fn with every column that has a visitor on one of the days,
	// each once, in order, with the number of visitor-days in it.
	Columns(from, to taxonomy.Day, fn func(c taxonomy.Column, visitorDays uint64)) error
}

// Lives is Leaves of which some traits are read for less than 90 days: of day d
// until the end of day d+Life-1. Leaf, Newest and Columns leave the older days out.
type Lives interface {
	Life(t taxonomy.Trait) int
}

// LifeOf returns for how many days leaves read a trait.
func LifeOf(leaves any, t taxonomy.Trait) int {
	if l, ok := leaves.(Lives); ok {
		return l.Life(t)
	}
	return taxonomy.RetentionDays
}

// Renamed is Leaves of which a trait may be called otherwise than it was: whoever
// looks for its columns asks for Now.
type Renamed interface {
	Now(t taxonomy.Trait) taxonomy.Trait
}

// Visitors maps ordinals to visitor keys and back, in a view as of one
// position. It is safe for concurrent use.
type Visitors interface {
	// Key returns the visitor key of an ordinal; false if there is none or the
	// visitor is gone.
	Key(shard int, ordinal uint32) (taxonomy.VisitorKey, bool)
	// Ordinal is the reverse.
	Ordinal(k taxonomy.VisitorKey) (shard int, ordinal uint32, ok bool)
	// Consent returns the newest consent summary of an ordinal.
	Consent(shard int, ordinal uint32) (taxonomy.Consent, bool)
	// MatchID returns the ID by which a destination knows an ordinal, and the
	// day of its last sync.
	MatchID(d taxonomy.DestinationID, shard int, ordinal uint32) (id string, synced taxonomy.Day, ok bool)
}

// Set is some visitors: a bitmap of ordinals for each shard. A nil bitmap is
// empty.
type Set []*roaring.Bitmap

// NewSet returns an empty set over n shards.
func NewSet(n int) Set {
	s := make(Set, n)
	for i := range s {
		s[i] = roaring.New()
	}
	return s
}

// Count is the number of visitors in the set.
func (s Set) Count() (n uint64) {
	for _, b := range s {
		if b != nil {
			n += b.GetCardinality()
		}
	}
	return n
}

// Contains reports whether a visitor is in the set.
func (s Set) Contains(shard int, ordinal uint32) bool {
	return shard < len(s) && s[shard] != nil && s[shard].Contains(ordinal)
}
