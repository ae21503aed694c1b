package query

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/ebb-dmp/ebb/segments/index"
)

// piece is one block of a result as a container of roaring's portable format: a
// sorted array of uint16 up to 4,096 visitors, else a bitmap. It is written
// while the words are hot, and the bitmap is only put together at the end.
type piece struct {
	count int
	bytes []byte
}

const (
	maxArray   = 4096
	arenaBytes = 1 << 20
)

func (w *worker) piece(x *index.Words, count int) piece {
	size := 2 * count
	if count > maxArray {
		size = len(x) * 8
	}
	if len(w.arena) < size {
		w.arena = make([]byte, arenaBytes)
	}
	b := w.arena[:size:size]
	w.arena = w.arena[size:]
	if count > maxArray {
		for i, v := range x {
			binary.LittleEndian.PutUint64(b[8*i:], v)
		}
		return piece{count, b}
	}
	at := 0
	for i, v := range x {
		for ; v != 0; v &= v - 1 {
			binary.LittleEndian.PutUint16(b[at:], uint16(64*i+bits.TrailingZeros64(v)))
			at += 2
		}
	}
	return piece{count, b}
}

// assemble puts the pieces of one root together. Units are in order of shard
// and block, so a shard's pieces are too.
func assemble(shards int, units []unit, out []piece, root, roots int) (index.Set, error) {
	set := index.NewSet(shards)
	for i := 0; i < len(units); {
		shard, end := units[i].shard, i
		var n, size int
		for ; end < len(units) && units[end].shard == shard; end++ {
			if c := &out[end*roots+root]; c.count > 0 {
				n++
				size += len(c.bytes)
			}
		}
		if n > 0 {
			const cookieNoRuns = 12346
			b := make([]byte, 0, 8+8*n+size)
			b = binary.LittleEndian.AppendUint32(b, cookieNoRuns)
			b = binary.LittleEndian.AppendUint32(b, uint32(n))
			for j := i; j < end; j++ {
				if c := &out[j*roots+root]; c.count > 0 {
					b = binary.LittleEndian.AppendUint16(b, uint16(units[j].block))
					b = binary.LittleEndian.AppendUint16(b, uint16(c.count-1))
				}
			}
			off := 8 + 8*n
			for j := i; j < end; j++ {
				if c := &out[j*roots+root]; c.count > 0 {
					b = binary.LittleEndian.AppendUint32(b, uint32(off))
					off += len(c.bytes)
				}
			}
			for j := i; j < end; j++ {
				b = append(b, out[j*roots+root].bytes...)
			}
			bm := roaring.New()
			if err := bm.UnmarshalBinary(b); err != nil {
				return nil, fmt.Errorf("put together a result of shard %d: %w", shard, err)
			}
			set[shard] = bm
		}
		i = end
	}
	return set, nil
}
