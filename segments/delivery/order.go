package delivery

import (
	"context"
	"slices"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"
)

// member is a visitor under the ID by which its row is written.
type member struct {
	id string
	at
}

const (
	// bucketRows is about how many rows are named and sorted at once.
	bucketRows = 100_000
	// samples is how many IDs are looked at to divide many into buckets.
	samples = 16_384
)

// order hands over members in the order of their IDs, a bucket at a time. So
// memory is that of a bucket and a byte for each ordinal, however many there are;
// the price is that each is named twice, once to learn its bucket.
//
// It may be used again and again, for one set after another.
type order struct {
	name func(shard int, ordinal uint32) (string, bool)
	most int // rows of a bucket; 0: bucketRows

	bucket [][]uint8 // of each ordinal of the set
	list   []member
}

// each calls fn with the members of sets, one set for each shard, in the order of
// their IDs, and lost (if not nil) with those who have no name any more. fn may keep
// nothing.
func (o *order) each(ctx context.Context, sets []*roaring.Bitmap, lost func(at), fn func([]member) error) error {
	if lost == nil {
		lost = func(at) {}
	}
	var total uint64
	for _, b := range sets {
		if b != nil {
			total += b.GetCardinality()
		}
	}
	most := uint64(o.most)
	if most == 0 {
		most = bucketRows
	}
	of := int(min(total/most+1, nobody))
	var bounds []string
	if of > 1 {
		bounds = o.divide(sets, total, of)
		if err := o.assign(ctx, sets, bounds, lost); err != nil {
			return err
		}
	}
	for b := range of {
		if err := ctx.Err(); err != nil {
			return err
		}
		o.list = o.list[:0]
		for s, set := range sets {
			if set == nil {
				continue
			}
			for it := set.Iterator(); it.HasNext(); {
				n := it.Next()
				if of > 1 && o.bucket[s][n] != uint8(b) {
					continue
				}
				id, ok := o.name(s, n)
				if !ok {
					lost(at{s, n})
					continue
				}
				o.list = append(o.list, member{id, at{s, n}})
			}
		}
		slices.SortFunc(o.list, func(x, y member) int { return strings.Compare(x.id, y.id) })
		if len(o.list) == 0 {
			continue
		}
		if err := fn(o.list); err != nil {
			return err
		}
	}
	return nil
}

// divide returns where buckets end that are about as large: the last has no end.
func (o *order) divide(sets []*roaring.Bitmap, total uint64, of int) []string {
	step := max(total/samples, 1)
	seen := make([]string, 0, total/step+1)
	var n uint64
	for s, set := range sets {
		if set == nil {
			continue
		}
		for it := set.Iterator(); it.HasNext(); n++ {
			ordinal := it.Next()
			if n%step != 0 {
				continue
			}
			if id, ok := o.name(s, ordinal); ok {
				seen = append(seen, id)
			}
		}
	}
	slices.Sort(seen)
	var bounds []string
	for b := 1; b < of && len(seen) > 0; b++ {
		bounds = append(bounds, seen[b*len(seen)/of])
	}
	return bounds
}

// assign notes the bucket of each member: the number of bounds that are not above
// its ID.
func (o *order) assign(ctx context.Context, sets []*roaring.Bitmap, bounds []string, lost func(at)) error {
	for s, set := range sets {
		for len(o.bucket) <= s {
			o.bucket = append(o.bucket, nil)
		}
		if set == nil || set.IsEmpty() {
			continue
		}
		if most := int(set.Maximum()) + 1; len(o.bucket[s]) < most {
			o.bucket[s] = make([]uint8, most)
		}
		i := 0
		for it := set.Iterator(); it.HasNext(); i++ {
			if i%bucketRows == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			n := it.Next()
			id, ok := o.name(s, n)
			if !ok {
				lost(at{s, n})
				o.bucket[s][n] = nobody
				continue
			}
			b, found := slices.BinarySearch(bounds, id)
			if found {
				b++
			}
			o.bucket[s][n] = uint8(b)
		}
	}
	return nil
}
