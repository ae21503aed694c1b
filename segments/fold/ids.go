package fold

import (
	"encoding/binary"
	"math/bits"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// idMap finds the ordinal of a visitor key: an open-addressed table of ordinals,
// whose keys stand in the list of visitors. It takes 5 to 11 bytes a visitor, and a
// restart fills it in a pass (R35).
//
// Every ordinal that is in the table is that of a visitor whose key is in the list.
type idMap struct {
	slots []uint32 // ordinal + 1, or 0; a power of two of them
	n     int
}

// home is where a key is looked for first. Keys are keyed hashes, but those of one
// shard are alike in some bits of the first half: all bits of both decide, multiplied
// with 2^64 over the golden ratio.
func (m *idMap) home(k taxonomy.VisitorKey) uint64 {
	h := (binary.LittleEndian.Uint64(k[:8]) ^ bits.RotateLeft64(binary.LittleEndian.Uint64(k[8:]), 32)) * 0x9e3779b97f4a7c15
	return h >> (64 - bits.TrailingZeros(uint(len(m.slots))))
}

// get returns the ordinal of a key in a list of visitors.
func (m *idMap) get(k taxonomy.VisitorKey, in *visitors) (uint32, bool) {
	if len(m.slots) == 0 {
		return 0, false
	}
	for i := m.home(k); m.slots[i] != 0; i = (i + 1) & uint64(len(m.slots)-1) {
		if o := m.slots[i] - 1; in.at(o).key == k {
			return o, true
		}
	}
	return 0, false
}

// add puts in the visitor at an ordinal, whose key must not be in.
func (m *idMap) add(o uint32, in *visitors) {
	m.reserve(m.n+1, in)
	m.put(o, in)
	m.n++
}

func (m *idMap) put(o uint32, in *visitors) {
	i := m.home(in.at(o).key)
	for m.slots[i] != 0 {
		i = (i + 1) & uint64(len(m.slots)-1)
	}
	m.slots[i] = o + 1
}

// reserve makes room for n visitors: three of four slots are taken at most.
func (m *idMap) reserve(n int, in *visitors) {
	size := max(len(m.slots), 64)
	for size*3 < n*4 {
		size *= 2
	}
	if size == len(m.slots) {
		return
	}
	old := m.slots
	m.slots = make([]uint32, size)
	for _, s := range old {
		if s != 0 {
			m.put(s-1, in)
		}
	}
}

// remove takes out the visitor at an ordinal, if it is in. Its key must still stand
// in the list.
func (m *idMap) remove(o uint32, in *visitors) {
	if len(m.slots) == 0 {
		return
	}
	mask := uint64(len(m.slots) - 1)
	i := m.home(in.at(o).key)
	for m.slots[i] != o+1 {
		if m.slots[i] == 0 {
			return
		}
		i = (i + 1) & mask
	}
	m.n--
	// Those behind it move up unless they would pass their home: no gap may lie
	// between a key and its home.
	for j := i; ; {
		j = (j + 1) & mask
		if m.slots[j] == 0 {
			break
		}
		if h := m.home(in.at(m.slots[j] - 1).key); (j-h)&mask >= (j-i)&mask {
			m.slots[i], i = m.slots[j], j
		}
	}
	m.slots[i] = 0
}
