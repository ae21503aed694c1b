package audience

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Pages is, for each visitor, the list of its audiences among those that pages
// may read: the members of one generation, turned round. A list is a run of
// uint16 in one array of its shard, so that looking one up is two loads, where
// asking each bitmap would be a search for each audience. It is immutable.
type Pages struct {
	gen       *Generation
	audiences []taxonomy.AudienceID // by number in the lists
	shards    []invertedShard
	// nested are the members of lookalikes: rules may name them, and one visitor
	// is asked about without a leaf.
	nested map[taxonomy.AudienceID]index.Set
}

// invertedShard holds the list of ordinal o in lists[ends[o-1]:ends[o]].
type invertedShard struct {
	ends  []uint32
	lists []uint16
}

// NewPages reads the members of those audiences of a generation that pages may
// read, in a catalog, and turns them round. An error leaves the caller with the
// pages it had.
func NewPages(ctx context.Context, gen *Generation, c *Catalog, members func(context.Context, Entry) (index.Set, error)) (*Pages, error) {
	var ids []taxonomy.AudienceID
	var sets []index.Set
	named := map[taxonomy.AudienceID]bool{}
	for i := range c.all {
		if x := c.exprs[c.all[i].ID]; x != nil {
			for _, id := range query.References(x) {
				named[id] = true
			}
		}
	}
	nested := map[taxonomy.AudienceID]index.Set{}
	for i := range gen.Audiences {
		e := gen.Audiences[i]
		d, ok := c.Get(e.ID)
		within := ok && d.Kind == KindLookalike && named[e.ID]
		if !ok || !d.Page && !within {
			continue
		}
		set, err := members(ctx, e)
		if err != nil {
			return nil, fmt.Errorf("turn generation %d.%d round: %w", gen.Epoch, gen.Number, err)
		}
		if within {
			nested[e.ID] = set
		}
		if d.Page {
			ids, sets = append(ids, e.ID), append(sets, set)
		}
	}
	p, err := invert(gen, ids, sets)
	if err != nil {
		return nil, err
	}
	p.nested = nested
	return p, nil
}

func invert(gen *Generation, ids []taxonomy.AudienceID, sets []index.Set) (*Pages, error) {
	if len(ids) > math.MaxUint16 {
		return nil, fmt.Errorf("%d audiences are for pages, at most %d", len(ids), math.MaxUint16)
	}
	p := &Pages{gen: gen, audiences: ids, shards: make([]invertedShard, gen.Shards)}
	var buf [4096]uint32
	for s := range p.shards {
		top, total := -1, uint64(0)
		for _, set := range sets {
			if b := set[s]; b != nil && !b.IsEmpty() {
				top = max(top, int(b.Maximum()))
				total += b.GetCardinality()
			}
		}
		if total > math.MaxUint32 {
			return nil, fmt.Errorf("shard %d has %d memberships, at most %d", s, total, uint32(math.MaxUint32))
		}
		// Count, sum up, and fill: two passes over each bitmap. ends[o] first
		// counts o's list, then is where it begins, and ends as where it ends.
		sh := invertedShard{ends: make([]uint32, top+1), lists: make([]uint16, total)}
		each := func(set index.Set, fn func(o uint32)) {
			if set[s] == nil {
				return
			}
			for it := set[s].ManyIterator(); ; {
				n := it.NextMany(buf[:])
				if n == 0 {
					return
				}
				for _, o := range buf[:n] {
					fn(o)
				}
			}
		}
		for _, set := range sets {
			each(set, func(o uint32) { sh.ends[o]++ })
		}
		at := uint32(0)
		for o, n := range sh.ends {
			sh.ends[o] = at
			at += n
		}
		for i, set := range sets {
			each(set, func(o uint32) {
				sh.lists[sh.ends[o]] = uint16(i)
				sh.ends[o]++
			})
		}
		p.shards[s] = sh
	}
	return p, nil
}

// Generation is that whose members these are.
func (p *Pages) Generation() *Generation { return p.gen }

// Of returns the numbers of a visitor's audiences, rising; ID names them. It
// allocates nothing, and the list must not be changed.
func (p *Pages) Of(shard int, ordinal uint32) []uint16 {
	if shard >= len(p.shards) {
		return nil
	}
	sh := &p.shards[shard]
	if int(ordinal) >= len(sh.ends) {
		return nil
	}
	from := uint32(0)
	if ordinal > 0 {
		from = sh.ends[ordinal-1]
	}
	return sh.lists[from:sh.ends[ordinal]]
}

// ID is the audience of a number in a list.
func (p *Pages) ID(n uint16) taxonomy.AudienceID { return p.audiences[n] }

// number is the reverse.
func (p *Pages) number(id taxonomy.AudienceID) (uint16, bool) {
	i, ok := slices.BinarySearch(p.audiences, id)
	return uint16(i), ok
}
