package fold

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"iter"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// claim is that a destination was seen to know a visitor by an ID, and when, at the
// latest. It takes 40 bytes and has no pointers, so that a collection of garbage
// passes it over.
//
// The claims of one visitor at a destination are a chain, and so are those of one ID.
// The newest of a chain is its head, the others are in no order: nobody asks for more
// than the head.
type claim struct {
	visitor taxonomy.VisitorKey
	at      taxonomy.Millis
	next    [2]uint32 // by side: ordinal + 1 of the next in the chain, or 0
	bits    uint64    // place of the ID, number of the destination, flags
}

// side is by what a chain goes: by visitor, or by ID.
type side int

const (
	ofVisitor side = iota
	ofID
)

// Flags of a claim; those of a chain are shifted by its side.
const (
	isHead  = 1 << 0 // of its chain
	leaves  = 1 << 2 // its chain, when that is swept
	isLive  = 1 << 4 // else the ordinal is free, and next[0] the next that is
	isDirty = 1 << 5 // changed since the last drain

	flagBits = 6
	destBits = 20
)

func (c *claim) is(flag uint64) bool { return c.bits&flag != 0 }
func (c *claim) dest() uint32        { return uint32(c.bits>>flagBits) & (1<<destBits - 1) }
func (c *claim) place() uint64       { return c.bits >> (flagBits + destBits) }

// move says where the ID is.
func (c *claim) move(place uint64) {
	c.bits = c.bits&(1<<(flagBits+destBits)-1) | place<<(flagBits+destBits)
}

// claimChunk is how many claims are allocated at once: 40 KiB of them.
const claimChunk = 1024

// claims is a list of claims by ordinal, with their IDs and two tables of heads. Who only reads may do so beside others.
type claims struct {
	chunks []*[claimChunk]claim
	n      uint32 // ordinals ever used
	free   uint32 // ordinal + 1 of the first free one, or 0
	live   int
	ids    arena
	heads  [2]ordinals // by side
	seed   maphash.Seed
	// mask is ANDed with every hash: all bits, unless a test wants keys to meet.
	mask uint64
}

func newClaims() claims { return claims{seed: maphash.MakeSeed(), mask: ^uint64(0)} }

func (l *claims) at(o uint32) *claim { return &l.chunks[o/claimChunk][o%claimChunk] }

// id is a claim's ID, packed. It is the arena's: whoever keeps it copies it.
func (l *claims) id(c *claim) []byte { return l.ids.get(c.place()) }

// pair is what a claim is of. Of a chain only the visitor or the ID matters, which is
// packed.
type pair struct {
	dest    uint32
	visitor taxonomy.VisitorKey
	id      []byte
}

// hash is that of what a chain is of. IDs come from outside, so that theirs is keyed.
func (l *claims) hash(s side, dest uint32, visitor *taxonomy.VisitorKey, id []byte) uint64 {
	h := uint64(dest) * golden
	if s == ofVisitor {
		h += keyHash(visitor)
	} else {
		h += maphash.Bytes(l.seed, id)
	}
	return h & l.mask
}

// hashOf returns the hash of a claim in a table.
func (l *claims) hashOf(s side) func(o uint32) uint64 {
	return func(o uint32) uint64 {
		c := l.at(o)
		if s == ofVisitor { // whose ID is not read
			return l.hash(s, c.dest(), &c.visitor, nil)
		}
		return l.hash(s, c.dest(), nil, l.id(c))
	}
}

// head returns the newest claim of a chain, and in which slot it is. It only reads.
func (l *claims) head(s side, p *pair) (slot uint64, o uint32, ok bool) {
	t := &l.heads[s]
	for i := t.home(l.hash(s, p.dest, &p.visitor, p.id)); t.taken(i); i = t.next(i) {
		o := t.at(i)
		c := l.at(o)
		if c.dest() == p.dest && (s == ofVisitor && c.visitor == p.visitor || s == ofID && bytes.Equal(l.id(c), p.id)) {
			return i, o, true
		}
	}
	return 0, 0, false
}

// find returns the claim of a visitor and an ID. It goes along both chains side by
// side and ends with the shorter one: many share an ID, or one has many. It only
// reads.
func (l *claims) find(p *pair) (uint32, bool) {
	_, a, ok := l.head(ofVisitor, p)
	if !ok {
		return 0, false
	}
	_, b, ok := l.head(ofID, p)
	for ok {
		x, y := l.at(a), l.at(b)
		if bytes.Equal(l.id(x), p.id) {
			return a, true
		}
		if y.visitor == p.visitor {
			return b, true
		}
		ok = x.next[ofVisitor] != 0 && y.next[ofID] != 0
		a, b = x.next[ofVisitor]-1, y.next[ofID]-1
	}
	return 0, false
}

// newer reports whether a claim comes before another of its chain. What is claimed
// breaks ties of receipt time.
func (l *claims) newer(s side, a, b *claim) bool {
	if a.at != b.at {
		return a.at > b.at
	}
	if s == ofVisitor {
		var x, y [64]byte // for most
		return bytes.Compare(unpackID(x[:0], l.id(a)), unpackID(y[:0], l.id(b))) > 0
	}
	return bytes.Compare(a.visitor[:], b.visitor[:]) > 0
}

// add takes a claim that is not there, and returns its ordinal. It copies the ID.
func (l *claims) add(p *pair, at taxonomy.Millis) uint32 {
	o := l.free - 1
	if l.free != 0 {
		l.free = l.at(o).next[0]
	} else {
		if o = l.n; o%claimChunk == 0 {
			if o == 1<<32-claimChunk {
				panic("fold: more than 4 billion matches in a group")
			}
			l.chunks = append(l.chunks, new([claimChunk]claim))
		}
		l.n++
	}
	l.live++
	c := l.at(o)
	*c = claim{visitor: p.visitor, at: at, bits: uint64(p.dest)<<flagBits | isLive}
	c.move(l.ids.put(p.id))
	l.link(ofVisitor, o)
	l.link(ofID, o)
	return o
}

// link puts a claim into its chain.
func (l *claims) link(s side, o uint32) {
	c := l.at(o)
	p := pair{c.dest(), c.visitor, l.id(c)}
	slot, h, ok := l.head(s, &p)
	if !ok {
		c.next[s] = 0
		c.bits |= isHead << s
		l.heads[s].add(o, l.hash(s, p.dest, &p.visitor, p.id), l.hashOf(s))
		return
	}
	head := l.at(h)
	if !l.newer(s, c, head) {
		c.next[s], head.next[s] = head.next[s], o+1
		return
	}
	head.bits &^= isHead << s
	c.next[s] = h + 1
	c.bits |= isHead << s
	l.heads[s].slots[slot] = o + 1
}

// set changes when a claim was seen.
func (l *claims) set(o uint32, at taxonomy.Millis) {
	c := l.at(o)
	if c.at == at {
		return
	}
	rises := at > c.at
	// The chains are gone along while it has its old place in them.
	var moves [2]bool
	for s := range side(2) {
		// A head that rises stays one, and who is none and falls becomes none.
		if moves[s] = rises != c.is(isHead<<s); moves[s] {
			c.bits |= leaves << s
			l.sweep(s, o)
		}
	}
	c.at = at
	for s := range side(2) {
		if moves[s] {
			l.link(s, o)
		}
	}
}

// remove takes out claims, each once. It goes along each chain once, however many of
// it leave.
func (l *claims) remove(all []uint32) {
	for _, o := range all {
		l.at(o).bits |= leaves<<ofVisitor | leaves<<ofID
	}
	for _, o := range all {
		for s := range side(2) {
			if l.at(o).is(leaves << s) {
				l.sweep(s, o)
			}
		}
	}
	for _, o := range all {
		c := l.at(o)
		l.ids.remove(c.place())
		*c = claim{next: [2]uint32{l.free}}
		l.free = o + 1
		l.live--
	}
}

// sweep takes everybody out of the chain of a claim who leaves it.
func (l *claims) sweep(s side, of uint32) {
	c := l.at(of)
	p := pair{c.dest(), c.visitor, l.id(c)}
	slot, o, ok := l.head(s, &p)
	var first *claim
	var f uint32
	for ok {
		c := l.at(o)
		this, next := o, c.next[s]
		c.next[s] = 0
		c.bits &^= isHead << s
		switch {
		case c.is(leaves << s):
			c.bits &^= leaves << s
		case first == nil:
			first, f = c, this
		case l.newer(s, c, first):
			c.next[s] = f + 1
			first, f = c, this
		default:
			c.next[s], first.next[s] = first.next[s], this+1
		}
		o, ok = next-1, next != 0
	}
	if first == nil {
		l.heads[s].remove(slot, l.hashOf(s))
		return
	}
	first.bits |= isHead << s
	l.heads[s].slots[slot] = f + 1
}

// pack gives back the memory of IDs that were removed.
func (l *claims) pack() {
	old := l.ids
	l.ids = arena{}
	for c := range l.all() {
		c.move(l.ids.put(old.get(c.place())))
	}
	old.clear()
}

// all is every claim, in the order of ordinals. It only reads.
func (l *claims) all() iter.Seq[*claim] {
	return func(yield func(*claim) bool) {
		for o := range l.n {
			if c := l.at(o); c.is(isLive) && !yield(c) {
				return
			}
		}
	}
}

// arena is packed IDs one behind the other, each with its length before it.
type arena struct {
	chunks     [][]byte
	used, dead int // bytes of all that were put in, and of those that were removed
}

// arenaChunk is how many bytes are allocated at once. An ID that is longer has a chunk
// of its own.
const (
	arenaBits  = 16
	arenaChunk = 1 << arenaBits
)

func (a *arena) put(id []byte) (place uint64) {
	var length [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(length[:], uint64(len(id)))
	size := n + len(id)
	i := len(a.chunks) - 1
	if i < 0 || len(a.chunks[i])+size > cap(a.chunks[i]) {
		if i++; i == 1<<(64-flagBits-destBits-arenaBits) {
			panic("fold: more than 256 GiB of partners' IDs in a group")
		}
		a.chunks = append(a.chunks, make([]byte, 0, max(arenaChunk, size)))
	}
	place = uint64(i)<<arenaBits | uint64(len(a.chunks[i]))
	a.chunks[i] = append(append(a.chunks[i], length[:n]...), id...)
	a.used += size
	return place
}

func (a *arena) entry(place uint64) (b []byte, id int) {
	b = a.chunks[place>>arenaBits][place&(arenaChunk-1):]
	n, id := binary.Uvarint(b)
	return b[:id+int(n)], id
}

func (a *arena) get(place uint64) []byte {
	b, id := a.entry(place)
	return b[id:len(b):len(b)]
}

// remove overwrites an ID: whose it was may have been erased.
func (a *arena) remove(place uint64) {
	b, _ := a.entry(place)
	clear(b)
	a.dead += len(b)
}

// clear overwrites everything.
func (a *arena) clear() {
	for _, b := range a.chunks {
		clear(b)
	}
}
