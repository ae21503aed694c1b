package consent

import (
	"slices"
	"time"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// writer makes strings bit by bit, with what encoders refuse to write.
type writer struct{ bits []byte }

func (w *writer) num(v uint64, n int) *writer {
	for i := n - 1; i >= 0; i-- {
		w.bits = append(w.bits, byte(v>>uint(i)&1))
	}
	return w
}

func (w *writer) String() string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	b := slices.Clone(w.bits)
	for len(b)%24 != 0 { // as the IAB pads, which other readers need
		b = append(b, 0)
	}
	out := make([]byte, 0, len(b)/6)
	for i := 0; i < len(b); i += 6 {
		v := 0
		for _, x := range b[i : i+6] {
			v = v<<1 | int(x)
		}
		out = append(out, alphabet[v])
	}
	return string(out)
}

func at(y int, m time.Month, d int) time.Time { return time.Date(y, m, d, 0, 0, 0, 0, time.UTC) }

// made is a TC string to be written.
type made struct {
	version, policy   uint64
	created           time.Time
	updated           time.Time // zero: as created
	cmp               uint64
	global            bool
	consent, interest []int
	one               bool
	country           string
	vendors, interests,
	disclosed []int // nil disclosed: no segment
	publisher    []int // nil: no segment
	restrictions []restriction
	extra        string // more segments
}

type restriction struct {
	purpose, kind, first, last int
}

func field24(ps []int) (v uint64) {
	for _, p := range ps {
		v |= 1 << uint(24-p)
	}
	return v
}

func (w *writer) vendors(ids []int) {
	most := 0
	if len(ids) > 0 {
		most = slices.Max(ids)
	}
	w.num(uint64(most), 16).num(0, 1)
	for v := 1; v <= most; v++ {
		bit := uint64(0)
		if slices.Contains(ids, v) {
			bit = 1
		}
		w.num(bit, 1)
	}
}

// good is a string that allows vendors 5 and 7 everything; tests spoil it.
func good() made {
	return made{version: 2, policy: 5, created: at(2026, 3, 10), cmp: 7, consent: []int{1, 2, 3, 4, 7, 9, 10}, interest: []int{2, 7, 9, 10},
		country: "DE", vendors: []int{5, 7}, interests: []int{5, 7}, disclosed: []int{5, 7}, publisher: []int{1, 3, 4, 9, 10}}
}

func (m made) String() string {
	w := &writer{}
	ds := func(t time.Time) uint64 { return uint64(t.Unix() * 10) }
	updated := m.updated
	if updated.IsZero() {
		updated = m.created
	}
	w.num(m.version, 6).num(ds(m.created), 36).num(ds(updated), 36).num(m.cmp, 12).num(1, 12).num(1, 6).num(4, 6).num(13, 6).num(150, 12).num(m.policy, 6)
	bit := map[bool]uint64{true: 1}
	w.num(bit[!m.global], 1).num(0, 1).num(0, 12).num(field24(m.consent), 24).num(field24(m.interest), 24).num(bit[m.one], 1)
	w.num(uint64(m.country[0]-'A'), 6).num(uint64(m.country[1]-'A'), 6)
	w.vendors(m.vendors)
	w.vendors(m.interests)
	w.num(uint64(len(m.restrictions)), 12)
	for _, r := range m.restrictions {
		w.num(uint64(r.purpose), 6).num(uint64(r.kind), 2).num(1, 12).num(1, 1).num(uint64(r.first), 16).num(uint64(r.last), 16)
	}
	s := w.String()
	if m.disclosed != nil {
		d := (&writer{}).num(1, 3)
		d.vendors(m.disclosed)
		s += "." + d.String()
	}
	if m.publisher != nil {
		s += "." + (&writer{}).num(3, 3).num(field24(m.publisher), 24).num(0, 24).num(0, 6).String()
	}
	return s + m.extra
}

// allowed returns what a reader lets a string do, nothing if it does not count.
func allowed(r *Reader, s string) taxonomy.Purposes {
	st := r.readTCF(taxonomy.SignalTCF, s, now)
	if st.Stale {
		return 0
	}
	return st.Purposes
}
