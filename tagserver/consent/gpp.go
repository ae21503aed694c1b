package consent

import "strings"

// maxSections bounds the sections of a GPP string.
const maxSections = 64

// The sections of GPP that are not of a state.
const (
	sectionTCF = 2
	sectionUSP = 6
)

func nextSegment(s string) (segment, rest string, more bool) { return strings.Cut(s, ".") }

// gppHeader reads the header of a GPP string: the numbers of its sections, which
// rise. The counts in it come from anybody, so each is held against what may be.
func gppHeader(s string, ids *[maxSections]uint16) (n int, ok bool) {
	if !wellFormed(s) {
		return 0, false
	}
	b := bits{s: s}
	if b.num(6) != 3 || b.num(6) != 1 {
		return 0, false
	}
	last := 0
	for count := b.num(12); count > 0; count-- {
		group := b.flag()
		from, ok := b.fibonacci()
		if !ok {
			return 0, false
		}
		from += last
		to := from
		if group {
			length, ok := b.fibonacci()
			if !ok {
				return 0, false
			}
			to += length
		}
		for ; from <= to; from++ {
			if n == maxSections || from > 0xffff {
				return 0, false
			}
			ids[n] = uint16(from)
			n++
		}
		last = to
	}
	return n, !b.short && b.padded()
}

// fibonacci reads a number in Fibonacci coding: the sum of the Fibonacci numbers
// whose bits are set, ended by two ones. It is at least 1, and at most 0xffff.
func (b *bits) fibonacci() (v int, ok bool) {
	before := false
	for f, next := 1, 2; f <= 0xffff; f, next = next, f+next {
		bit := b.flag()
		switch {
		case b.short:
			return 0, false
		case bit && before:
			return v, v <= 0xffff
		case bit:
			v += f
		}
		before = bit
	}
	// The two ones may end at the bit above the last number.
	return v, before && b.flag() && !b.short && v <= 0xffff
}

// sids is gpp_sid: the sections that apply, one or two; n is 0 if it was not
// given.
type sids struct {
	id   [2]uint16
	seen [2]bool
	n    int
}

func parseSIDs(s string) (x sids, ok bool) {
	for more := s != ""; more; {
		var word string
		word, s, more = strings.Cut(s, ",")
		if x.n == 2 || len(word) < 1 || len(word) > 4 || word[0] == '0' {
			return x, false
		}
		v := 0
		for i := 0; i < len(word); i++ {
			if word[i] < '0' || word[i] > '9' {
				return x, false
			}
			v = v*10 + int(word[i]-'0')
		}
		if x.n == 1 && x.id[0] == uint16(v) {
			return x, false
		}
		x.id[x.n] = uint16(v)
		x.n++
	}
	return x, true
}

// applies reports whether a section applies: those that gpp_sid names, or all
// without it.
func (x *sids) applies(id uint16) bool {
	for i := range x.n {
		if x.id[i] == id {
			x.seen[i] = true
			return true
		}
	}
	return x.n == 0
}
