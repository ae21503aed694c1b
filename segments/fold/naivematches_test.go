package fold

import (
	"encoding/binary"
	"slices"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// naiveMatches is matches in Go's maps, as they were until 2026-11-26: what the
// compact ones must answer, and write.
type naiveMatches struct {
	claims    *table[claimKey, taxonomy.Millis]
	byVisitor map[destVisitor][]string
	byID      map[destID][]taxonomy.VisitorKey
}

type destVisitor struct {
	dest    taxonomy.DestinationID
	visitor taxonomy.VisitorKey
}

type destID struct {
	dest taxonomy.DestinationID
	id   string
}

var naiveClaimCodec = codec[claimKey, taxonomy.Millis]{
	key: func(b []byte, k claimKey) []byte {
		return append(append(appendText(b, string(k.dest)), k.visitor[:]...), k.id...)
	},
	unkey: func(b []byte) (k claimKey, err error) {
		d := fields{b: b}
		k.dest = taxonomy.DestinationID(d.text())
		d.copy(k.visitor[:])
		k.id = string(d.b)
		return k, d.err
	},
	val: func(b []byte, at taxonomy.Millis) []byte { return binary.AppendVarint(b, int64(at)) },
	unval: func(b []byte) (taxonomy.Millis, error) {
		d := fields{b: b}
		at := taxonomy.Millis(d.varint())
		return at, d.end()
	},
}

func newNaiveMatches() *naiveMatches {
	return &naiveMatches{newTable('m', naiveClaimCodec), map[destVisitor][]string{}, map[destID][]taxonomy.VisitorKey{}}
}

func (m *naiveMatches) claim(k claimKey, at taxonomy.Millis) {
	have, ok := m.claims.get(k)
	if ok && have >= at {
		return
	}
	m.claims.put(k, at)
	if !ok {
		m.index(k)
	}
}

func (m *naiveMatches) index(k claimKey) {
	v, i := destVisitor{k.dest, k.visitor}, destID{k.dest, k.id}
	m.byVisitor[v] = append(m.byVisitor[v], k.id)
	m.byID[i] = append(m.byID[i], k.visitor)
}

// reindex makes the lists anew, as after loading.
func (m *naiveMatches) reindex() {
	clear(m.byVisitor)
	clear(m.byID)
	for k := range m.claims.m {
		m.index(k)
	}
}

func (m *naiveMatches) drop(over func(taxonomy.VisitorKey, taxonomy.Millis) bool) (any bool) {
	for k, at := range m.claims.m {
		if over(k.visitor, at) {
			any = true
			m.remove(k)
		}
	}
	return any
}

func (m *naiveMatches) forget(v taxonomy.VisitorKey) {
	m.drop(func(k taxonomy.VisitorKey, _ taxonomy.Millis) bool { return k == v })
}

func (m *naiveMatches) remove(k claimKey) {
	m.claims.remove(k)
	v, i := destVisitor{k.dest, k.visitor}, destID{k.dest, k.id}
	if m.byVisitor[v] = slices.DeleteFunc(m.byVisitor[v], func(id string) bool { return id == k.id }); len(m.byVisitor[v]) == 0 {
		delete(m.byVisitor, v)
	}
	if m.byID[i] = slices.DeleteFunc(m.byID[i], func(o taxonomy.VisitorKey) bool { return o == k.visitor }); len(m.byID[i]) == 0 {
		delete(m.byID, i)
	}
}

func (m *naiveMatches) of(dest taxonomy.DestinationID, v taxonomy.VisitorKey) (id string, at taxonomy.Millis, ok bool) {
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

func (m *naiveMatches) holder(dest taxonomy.DestinationID, id string) (holder taxonomy.VisitorKey, ok bool) {
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
