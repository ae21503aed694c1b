package delivery

import (
	"cmp"
	"context"
	"hash/fnv"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// grouping hands over the rows of a plan so that those of one ID stand together,
// and IDs in an order that says nothing of ordinals.
//
// A bucket of IDs at a time is named and sorted, so that memory is a byte for
// each ordinal and a bucket's rows, however many there are. A visitor is named
// twice: to learn its bucket, and to be written.
type grouping struct {
	e       *Effects
	name    func(shard int, ordinal uint32) (string, bool)
	created taxonomy.Millis
	delay   int // minutes: who leaves before that is not added
	// unknown is told of rows whose visitor has no name any more; may be nil.
	unknown func(taxonomy.AudienceID, int, uint32)
}

// nobody is the bucket of ordinals that are not added, or have no name.
const nobody = 255

func bucketOf(id string, of int) uint8 {
	h := fnv.New32a()
	h.Write([]byte(id)) // never fails
	return uint8(uint64(h.Sum32()) * uint64(of) >> 32)
}

// each calls fn with the rows of one bucket after another, sorted by ID, then
// audience. It may keep nothing of them.
func (g *grouping) each(ctx context.Context, adds, removes bool, fn func([]said) error) error {
	total := uint64(0)
	if adds {
		total += g.e.added()
	}
	if removes {
		total += uint64(len(g.e.Removes))
	}
	of := int(min(total/bucketRows+1, nobody))
	var of1, of2 [][]uint8
	if adds {
		var err error
		if of1, err = g.buckets(ctx, of); err != nil {
			return err
		}
	}
	if removes {
		of2 = [][]uint8{make([]uint8, len(g.e.Removes))}
		for i := range g.e.Removes {
			of2[0][i] = bucketOf(g.e.Removes[i].ID, of)
		}
	}
	audiences := slices.Sorted(maps.Keys(g.e.Adds))
	var rows []said
	for b := range of {
		rows = rows[:0]
		names := map[at]string{}
		for _, a := range audiences {
			if !adds {
				break
			}
			for _, d := range g.e.Adds[a].days() {
				if err := ctx.Err(); err != nil {
					return err
				}
				minutes := int((d.Start() - g.created) / taxonomy.Minute)
				if minutes <= g.delay {
					continue // as in files by audience
				}
				for s, days := range g.e.Adds[a] {
					if days[d] == nil {
						continue
					}
					for it := days[d].Iterator(); it.HasNext(); {
						o := it.Next()
						if of1[s][o] != uint8(b) {
							continue
						}
						id, ok := names[at{s, o}]
						if !ok {
							if id, ok = g.name(s, o); !ok {
								g.lose(a, s, o)
								continue
							}
							names[at{s, o}] = id
						}
						rows = append(rows, said{Run{Audience: a, Minutes: minutes}, id, d, s, o})
					}
				}
			}
		}
		for i := range g.e.Removes {
			if removes && of2[0][i] == uint8(b) {
				m := &g.e.Removes[i]
				rows = append(rows, said{Run{Audience: m.Audience, Remove: true}, m.ID, m.Until, m.Shard, m.Ordinal})
			}
		}
		slices.SortFunc(rows, func(x, y said) int {
			return cmp.Or(strings.Compare(x.id, y.id), strings.Compare(string(x.Audience), string(y.Audience)))
		})
		if len(rows) > 0 {
			if err := fn(rows); err != nil {
				return err
			}
		}
	}
	if adds {
		g.nameless(of1)
	}
	return nil
}

func (g *grouping) lose(a taxonomy.AudienceID, s int, o uint32) {
	if g.unknown != nil {
		g.unknown(a, s, o)
	}
}

// nameless tells of the rows that were in no bucket.
func (g *grouping) nameless(buckets [][]uint8) {
	if g.unknown == nil {
		return
	}
	for a, h := range g.e.Adds {
		for s, days := range h {
			for _, b := range days {
				for it := b.Iterator(); it.HasNext(); {
					if o := it.Next(); buckets[s][o] == nobody {
						g.lose(a, s, o)
					}
				}
			}
		}
	}
}

// buckets returns the bucket of each ordinal that is added.
func (g *grouping) buckets(ctx context.Context, of int) ([][]uint8, error) {
	var by [][]uint8
	for _, h := range g.e.Adds {
		for s, days := range h {
			for len(by) <= s {
				by = append(by, nil)
			}
			for _, b := range days {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				if b.IsEmpty() {
					continue
				}
				for most := int(b.Maximum()); len(by[s]) <= most; {
					by[s] = slices.Grow(by[s], most+1-len(by[s]))
					was := len(by[s])
					by[s] = by[s][:most+1]
					for i := was; i <= most; i++ {
						by[s][i] = nobody
					}
				}
				for it := b.Iterator(); it.HasNext(); {
					o := it.Next()
					if by[s][o] != nobody {
						continue
					}
					if id, ok := g.name(s, o); ok {
						by[s][o] = bucketOf(id, of)
					}
				}
			}
		}
	}
	return by, nil
}

// writeByID writes the rows of one ID together.
func (r *rows) writeByID(ctx context.Context, w io.Writer) (err error) {
	for _, h := range r.e.Adds {
		for s, days := range h {
			for _, b := range days {
				r.members[s].Or(b)
			}
		}
	}
	g := grouping{e: r.e, name: r.name, created: r.created, delay: -1, unknown: func(a taxonomy.AudienceID, s int, o uint32) {
		r.next.Held[a].remove(s, roaring.BitmapOf(o))
	}}
	err = g.each(ctx, true, true, func(rows []said) error {
		for i := range rows {
			m := &rows[i]
			if m.Remove {
				r.members[m.shard].Add(m.ordinal)
				r.removes++
			} else {
				r.adds++
			}
			r.oldest = min(r.oldest, m.until-taxonomy.RetentionDays)
			if r.out, err = r.encoder.Append(r.out, m.Run, []string{m.id}); err != nil {
				return err
			}
			if len(r.out) >= flushAt {
				if err := r.flush(w); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if r.out, err = r.encoder.Close(r.out); err != nil {
		return err
	}
	return r.flush(w)
}
