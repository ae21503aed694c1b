package fold

import (
	"slices"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// matches is which visitor a destination knows by which ID (R32). It keeps
// every claim of the last 90 days and answers from all of them: a visitor's
// newest ID and an ID's newest visitor belong together if they are each other.
// Both are maxima, so the order in which records and erasures are folded does
// not matter (R8).
type matches struct {
	claims    *table[claimKey, taxonomy.Millis]
	byVisitor map[destVisitor][]string
	byID      map[destID][]taxonomy.VisitorKey
	dests     map[taxonomy.DestinationID]bool // with a claim, or with one before
}

type destVisitor struct {
	dest    taxonomy.DestinationID
	visitor taxonomy.VisitorKey
}

type destID struct {
	dest taxonomy.DestinationID
	id   string
}

func newMatches() *matches {
	return &matches{
		claims:    newTable('m', claimCodec),
		byVisitor: map[destVisitor][]string{},
		byID:      map[destID][]taxonomy.VisitorKey{},
		dests:     map[taxonomy.DestinationID]bool{},
	}
}

// claim takes a sync.
func (m *matches) claim(k claimKey, at taxonomy.Millis) {
	have, ok := m.claims.get(k)
	if ok && have >= at {
		return
	}
	m.claims.put(k, at)
	if !ok {
		m.index(k)
	}
}

func (m *matches) index(k claimKey) {
	v, i := destVisitor{k.dest, k.visitor}, destID{k.dest, k.id}
	m.byVisitor[v] = append(m.byVisitor[v], k.id)
	m.byID[i] = append(m.byID[i], k.visitor)
	m.dests[k.dest] = true
}

// drop removes the claims for which over is true.
func (m *matches) drop(over func(claimKey, taxonomy.Millis) bool) (any bool) {
	for k, at := range m.claims.m {
		if !over(k, at) {
			continue
		}
		any = true
		m.remove(k)
	}
	return any
}

// forget removes the claims of a visitor, without a look at those of others.
func (m *matches) forget(v taxonomy.VisitorKey) {
	for d := range m.dests {
		for _, id := range slices.Clone(m.byVisitor[destVisitor{d, v}]) {
			m.remove(claimKey{d, v, id})
		}
	}
}

func (m *matches) remove(k claimKey) {
	m.claims.remove(k)
	v, i := destVisitor{k.dest, k.visitor}, destID{k.dest, k.id}
	if m.byVisitor[v] = slices.DeleteFunc(m.byVisitor[v], func(id string) bool { return id == k.id }); len(m.byVisitor[v]) == 0 {
		delete(m.byVisitor, v)
	}
	if m.byID[i] = slices.DeleteFunc(m.byID[i], func(o taxonomy.VisitorKey) bool { return o == k.visitor }); len(m.byID[i]) == 0 {
		delete(m.byID, i)
	}
}

// of returns the ID by which a destination knows a visitor, and when it was
// synced last.
func (m *matches) of(dest taxonomy.DestinationID, v taxonomy.VisitorKey) (id string, at taxonomy.Millis, ok bool) {
	for _, c := range m.byVisitor[destVisitor{dest, v}] {
		t, _ := m.claims.get(claimKey{dest, v, c})
		if !ok || newer(t, c, at, id) {
			id, at, ok = c, t, true
		}
	}
	if !ok {
		return "", 0, false
	}
	holder, _ := m.holder(dest, id)
	return id, at, holder == v
}

// holder returns the visitor that an ID belongs to.
func (m *matches) holder(dest taxonomy.DestinationID, id string) (holder taxonomy.VisitorKey, ok bool) {
	var at taxonomy.Millis
	for _, v := range m.byID[destID{dest, id}] {
		t, _ := m.claims.get(claimKey{dest, v, id})
		if !ok || newer(t, string(v[:]), at, string(holder[:])) {
			holder, at, ok = v, t, true
		}
	}
	return holder, ok
}

// newer breaks ties of receipt time by what is claimed.
func newer(at taxonomy.Millis, by string, than taxonomy.Millis, thanBy string) bool {
	return at > than || at == than && by > thanBy
}
