package fold

import (
	"iter"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// matches is which visitor a destination knows by which ID (R32). It keeps
// every claim of the last 90 days and answers from all of them: a visitor's
// newest ID and an ID's newest visitor belong together if they are each other.
// Both are maxima, so the order in which records and erasures are folded does
// not matter (R8).
//
// It is a table of the state by itself (anyTable), under the keys of claimKey.
type matches struct {
	claims
	dests destinations
	// changed are the ordinals of claims that are dirty, perhaps with others; removed
	// are the keys in a run of those that were removed and are not there again.
	changed []uint32
	removed map[string]struct{}
}

func newMatches() *matches {
	return &matches{claims: newClaims(), dests: destinations{of: map[taxonomy.DestinationID]uint32{}}, removed: map[string]struct{}{}}
}

// claim takes a sync.
func (m *matches) claim(k claimKey, at taxonomy.Millis) {
	var buf [64]byte // for most
	p := pair{m.dests.number(k.dest), k.visitor, packID(buf[:0], k.id)}
	o, ok := m.find(&p)
	switch {
	case !ok:
		o = m.add(&p, at)
		m.dests.known[p.dest].claims++
		if len(m.removed) > 0 {
			delete(m.removed, string(m.key(nil, m.at(o))))
		}
	case at > m.at(o).at:
		m.set(o, at)
	default:
		return
	}
	if c := m.at(o); !c.is(isDirty) {
		c.bits |= isDirty
		m.changed = append(m.changed, o)
	}
}

// drop removes the claims for which over is true.
func (m *matches) drop(over func(taxonomy.VisitorKey, taxonomy.Millis) bool) (any bool) {
	var list []uint32
	for o := range m.n {
		if c := m.at(o); c.is(isLive) && over(c.visitor, c.at) {
			list = append(list, o)
		}
	}
	m.removeAll(list)
	return len(list) > 0
}

// forget removes the claims of a visitor, without a look at those of others.
func (m *matches) forget(v taxonomy.VisitorKey) {
	var list []uint32
	for d := range m.dests.known {
		_, o, ok := m.head(ofVisitor, &pair{dest: uint32(d), visitor: v})
		for ok {
			list = append(list, o)
			next := m.at(o).next[ofVisitor]
			o, ok = next-1, next != 0
		}
	}
	m.removeAll(list)
}

// removeAll removes claims, each once, and remembers it for the next run.
func (m *matches) removeAll(list []uint32) {
	for _, o := range list {
		m.removed[string(m.key(nil, m.at(o)))] = struct{}{}
	}
	m.takeOut(list)
}

func (m *matches) takeOut(list []uint32) {
	for _, o := range list {
		m.dests.leave(m.at(o).dest())
	}
	m.remove(list)
	m.tidy()
}

// tidy gives memory back when more ordinals are free than in use, or an eighth of the
// IDs' bytes belongs to nobody.
func (m *matches) tidy() {
	if free := int(m.n) - m.live; free > 4*claimChunk && free > m.live {
		old := m.claims
		m.claims, m.changed = claims{seed: old.seed, mask: old.mask}, nil
		for c := range old.all() {
			o := m.add(&pair{c.dest(), c.visitor, old.id(c)}, c.at)
			if c.is(isDirty) {
				m.at(o).bits |= isDirty
				m.changed = append(m.changed, o)
			}
		}
		old.ids.clear()
	} else if m.ids.dead > arenaChunk && m.ids.dead > m.ids.used/8 {
		m.pack()
	}
}

// of returns the ID by which a destination knows a visitor, and when it was
// synced last.
func (m *matches) of(dest taxonomy.DestinationID, v taxonomy.VisitorKey) (id string, at taxonomy.Millis, ok bool) {
	d, known := m.dests.of[dest]
	if !known {
		return "", 0, false
	}
	_, o, claimed := m.head(ofVisitor, &pair{dest: d, visitor: v})
	if !claimed {
		return "", 0, false
	}
	c := m.at(o)
	return m.partnerID(c), c.at, c.is(isHead << ofID)
}

// matched reports whether a destination knows a visitor.
func (m *matches) matched(dest taxonomy.DestinationID, v taxonomy.VisitorKey) bool {
	d, known := m.dests.of[dest]
	if !known {
		return false
	}
	_, o, claimed := m.head(ofVisitor, &pair{dest: d, visitor: v})
	return claimed && m.at(o).is(isHead<<ofID)
}

// knows is the visitors that a destination knows, each once.
func (m *matches) knows(dest taxonomy.DestinationID) iter.Seq[taxonomy.VisitorKey] {
	return func(yield func(taxonomy.VisitorKey) bool) {
		d, known := m.dests.of[dest]
		if !known {
			return
		}
		const match = isLive | isHead<<ofVisitor | isHead<<ofID
		for c := range m.all() {
			if c.bits&match == match && c.dest() == d && !yield(c.visitor) {
				return
			}
		}
	}
}

// holder returns the visitor that an ID belongs to.
func (m *matches) holder(dest taxonomy.DestinationID, id string) (holder taxonomy.VisitorKey, ok bool) {
	d, known := m.dests.of[dest]
	if !known {
		return holder, false
	}
	var buf [64]byte
	_, o, ok := m.head(ofID, &pair{dest: d, id: packID(buf[:0], id)})
	if ok {
		holder = m.at(o).visitor
	}
	return holder, ok
}

func (m *matches) first() byte { return 'm' }

// drain adds what changed since the last drain to a run.
func (m *matches) drain(r *runBuilder) {
	for _, o := range m.changed {
		if c := m.at(o); c.is(isDirty) {
			c.bits &^= isDirty
			r.put(m.key([]byte{m.first()}, c), claimVal(c.at))
		}
	}
	for k := range m.removed {
		r.remove(append([]byte{m.first()}, k...))
	}
	m.changed, m.removed = nil, map[string]struct{}{}
}

// load takes an entry of a run, without the table's first byte.
func (m *matches) load(key, val []byte) error {
	dest, v, id, err := cutClaim(key)
	if err != nil {
		return err
	}
	d := fields{b: val}
	at := taxonomy.Millis(d.varint())
	if err := d.end(); err != nil {
		return err
	}
	var buf [64]byte
	p := pair{m.dests.numberOf(dest), v, packID(buf[:0], id)}
	if o, ok := m.find(&p); ok {
		m.set(o, at)
		return nil
	}
	m.add(&p, at)
	m.dests.known[p.dest].claims++
	return nil
}

// unload takes a removed entry of a run, without the table's first byte.
func (m *matches) unload(key []byte) error {
	dest, v, id, err := cutClaim(key)
	if err != nil {
		return err
	}
	d, known := m.dests.of[taxonomy.DestinationID(dest)]
	if !known {
		return nil
	}
	var buf [64]byte
	if o, ok := m.find(&pair{d, v, packID(buf[:0], id)}); ok {
		m.takeOut([]uint32{o})
	}
	return nil
}

// each calls fn with every entry, in no order, the key without the table's first
// byte.
func (m *matches) each(fn func(key, val []byte)) {
	for c := range m.all() {
		fn(m.key(nil, c), claimVal(c.at))
	}
}

// key appends a claim's key in a run, without the table's first byte.
func (m *matches) key(b []byte, c *claim) []byte {
	var buf [64]byte
	return appendClaim(b, m.destination(c), c.visitor, unpackID(buf[:0], m.id(c)))
}

// partnerID is a claim's ID, a copy.
func (m *matches) partnerID(c *claim) string {
	var buf [64]byte
	return string(unpackID(buf[:0], m.id(c)))
}

func (m *matches) destination(c *claim) taxonomy.DestinationID { return m.dests.known[c.dest()].id }

// destinations numbers those that have a claim.
type destinations struct {
	of    map[taxonomy.DestinationID]uint32
	known []knownDestination // by number
	free  []uint32           // numbers that nobody has any more
}

type knownDestination struct {
	id     taxonomy.DestinationID
	claims int
}

// number returns a destination's number, a new one if it has none.
func (d *destinations) number(id taxonomy.DestinationID) uint32 {
	n, ok := d.of[id]
	if ok {
		return n
	}
	if last := len(d.free) - 1; last >= 0 {
		n, d.free = d.free[last], d.free[:last]
	} else {
		n = uint32(len(d.known))
		if n == 1<<destBits {
			panic("fold: more than a million destinations have matches")
		}
		d.known = append(d.known, knownDestination{})
	}
	d.known[n].id, d.of[id] = id, n
	return n
}

// numberOf is number of bytes, which it does not keep.
func (d *destinations) numberOf(id []byte) uint32 {
	if n, ok := d.of[taxonomy.DestinationID(id)]; ok {
		return n
	}
	return d.number(taxonomy.DestinationID(id))
}

// leave takes a claim off a destination; with its last one the number goes.
func (d *destinations) leave(n uint32) {
	k := &d.known[n]
	if k.claims--; k.claims == 0 {
		delete(d.of, k.id)
		*k = knownDestination{}
		d.free = append(d.free, n)
	}
}
