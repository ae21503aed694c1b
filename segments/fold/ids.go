package fold

import (
	"encoding/binary"
	"math/bits"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// ordinals is an open-addressed table of ordinals of a list in which their keys
// stand. It takes 5 to 7 bytes an ordinal. Whoever looks for a key goes from the
// home of its hash on, slot by slot, as long as they are taken, and compares.
type ordinals struct {
	slots []uint32 // ordinal + 1, or 0
	n     int
}

// home is where a hash is looked for first; its high bits decide.
func (t *ordinals) home(hash uint64) uint64 {
	hi, _ := bits.Mul64(hash, uint64(len(t.slots)))
	return hi
}

func (t *ordinals) next(i uint64) uint64 {
	if i++; i == uint64(len(t.slots)) {
		return 0
	}
	return i
}

// taken reports whether there is something in a slot; an empty table has none.
func (t *ordinals) taken(i uint64) bool { return i < uint64(len(t.slots)) && t.slots[i] != 0 }

// at is the ordinal in a slot that is taken.
func (t *ordinals) at(i uint64) uint32 { return t.slots[i] - 1 }

// add puts in an ordinal under its hash; its key must not be in. hashOf is the hash
// of any ordinal that is in.
func (t *ordinals) add(o uint32, hash uint64, hashOf func(o uint32) uint64) {
	t.reserve(t.n+1, hashOf)
	t.put(o, hash)
	t.n++
}

func (t *ordinals) put(o uint32, hash uint64) {
	i := t.home(hash)
	for t.slots[i] != 0 {
		i = t.next(i)
	}
	t.slots[i] = o + 1
}

// reserve makes room for n ordinals: three of four slots are taken at most.
func (t *ordinals) reserve(n int, hashOf func(o uint32) uint64) {
	if n*4 <= len(t.slots)*3 {
		return
	}
	old := t.slots
	t.slots = make([]uint32, max(64, n/4*7))
	for _, s := range old {
		if s != 0 {
			t.put(s-1, hashOf(s-1))
		}
	}
}

// remove empties a slot that is taken.
func (t *ordinals) remove(i uint64, hashOf func(o uint32) uint64) {
	t.n--
	// Those behind it move up unless they would pass their home: no gap may lie
	// between a key and its home.
	for j := t.next(i); t.slots[j] != 0; j = t.next(j) {
		if home := t.home(hashOf(t.at(j))); t.distance(home, j) >= t.distance(i, j) {
			t.slots[i], i = t.slots[j], j
		}
	}
	t.slots[i] = 0
}

// distance is how many slots it is from one on to another.
func (t *ordinals) distance(from, to uint64) uint64 {
	if to < from {
		to += uint64(len(t.slots))
	}
	return to - from
}

// idMap finds the ordinal of a visitor key in the list of visitors. A restart fills
// it in a pass (R35).
//
// Every ordinal that is in the table is that of a visitor whose key is in the list.
type idMap struct{ ordinals }

// keyHash is a hash of a visitor key. Keys are keyed hashes, but those of one shard
// are alike in some bits of the first half: all bits of both halves decide, multiplied
// with 2^64 over the golden ratio.
func keyHash(k *taxonomy.VisitorKey) uint64 {
	return (binary.LittleEndian.Uint64(k[:8]) ^ bits.RotateLeft64(binary.LittleEndian.Uint64(k[8:]), 32)) * golden
}

const golden = 0x9e3779b97f4a7c15

// get returns the ordinal of a key in a list of visitors.
func (m *idMap) get(k taxonomy.VisitorKey, in *visitors) (uint32, bool) {
	for i := m.home(keyHash(&k)); m.taken(i); i = m.next(i) {
		if o := m.at(i); in.at(o).key == k {
			return o, true
		}
	}
	return 0, false
}

// add puts in the visitor at an ordinal, whose key must not be in.
func (m *idMap) add(o uint32, in *visitors) {
	m.ordinals.add(o, keyHash(&in.at(o).key), in.hash)
}

// reserve makes room for n visitors.
func (m *idMap) reserve(n int, in *visitors) { m.ordinals.reserve(n, in.hash) }

// remove takes out the visitor at an ordinal, if it is in. Its key must still stand
// in the list.
func (m *idMap) remove(o uint32, in *visitors) {
	for i := m.home(in.hash(o)); m.taken(i); i = m.next(i) {
		if m.at(i) == o {
			m.ordinals.remove(i, in.hash)
			return
		}
	}
}

// hash is that of an ordinal's key.
func (l *visitors) hash(o uint32) uint64 { return keyHash(&l.at(o).key) }
