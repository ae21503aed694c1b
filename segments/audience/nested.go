package audience

import (
	"context"
	"fmt"
	"math/bits"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// nested is leaves that also answer for audiences without a rule, by their
// members in the last generation. The index itself knows no audiences.
type nested struct {
	index.Leaves
	sets map[string][][]uint64 // name → shard → words
}

// withLookalikes reads the members of those lookalikes that a rule names.
func withLookalikes(ctx context.Context, leaves index.Leaves, c *Catalog, members func(context.Context, taxonomy.AudienceID) (index.Set, error), more ...query.Expr) (index.Leaves, error) {
	n := nested{leaves, map[string][][]uint64{}}
	add := func(e query.Expr) error {
		for _, id := range query.References(e) {
			name := index.SetAudience + string(id)
			if _, done := n.sets[name]; done {
				continue
			}
			if rule, ok := c.Audience(id); !ok || rule != nil {
				continue
			}
			set, err := members(ctx, id)
			if err != nil {
				return fmt.Errorf("read the members of %q: %w", id, err)
			}
			n.sets[name] = dense(set)
		}
		return nil
	}
	for i := range c.all {
		if e := c.exprs[c.all[i].ID]; e != nil {
			more = append(more, e)
		}
	}
	for _, e := range more {
		if err := add(e); err != nil {
			return nil, err
		}
	}
	if len(n.sets) == 0 {
		return leaves, nil
	}
	return n, nil
}

// dense is a bit a visitor, from which a block is a copy: roaring has no way to
// read one container without walking there.
func dense(s index.Set) [][]uint64 {
	out := make([][]uint64, len(s))
	for i, b := range s {
		if b != nil {
			out[i] = b.ToDense()
		}
	}
	return out
}

// Leaf is that of index.Leaves.
func (n nested) Leaf(shard, block int, op *index.Operand, dst *index.Words) (int, error) {
	if op.Kind != index.OpSet || !strings.HasPrefix(op.Set, index.SetAudience) {
		return n.Leaves.Leaf(shard, block, op, dst)
	}
	set, ok := n.sets[op.Set]
	if !ok {
		return n.Leaves.Leaf(shard, block, op, dst)
	}
	clear(dst[:])
	if from := block * len(dst); shard < len(set) && from < len(set[shard]) {
		copy(dst[:], set[shard][from:])
	}
	count := 0
	for _, w := range dst {
		count += bits.OnesCount64(w)
	}
	return count, nil
}

// leafSet reads a whole named set of leaves.
func leafSet(leaves index.Leaves, name string) (index.Set, error) {
	s := index.NewSet(leaves.Shards())
	op := index.Operand{Kind: index.OpSet, Set: name}
	var w index.Words
	for shard := range s {
		var ids []uint32
		for block := range leaves.Blocks(shard) {
			if _, err := leaves.Leaf(shard, block, &op, &w); err != nil {
				return nil, fmt.Errorf("read set %s, shard %d, block %d: %w", name, shard, block, err)
			}
			for i, v := range w {
				for ; v != 0; v &= v - 1 {
					ids = append(ids, uint32(block*index.BlockSize+64*i+bits.TrailingZeros64(v)))
				}
			}
		}
		s[shard] = roaring.BitmapOf(ids...)
	}
	return s, nil
}
