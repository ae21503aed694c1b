package consent

import "slices"

// maxVendors is how many vendors a Reader can ask about: ourselves and the
// destinations. It bounds what a string costs.
const maxVendors = 256

// set is a set of the vendors that a Reader asks about, by their place in its
// sorted list. A string names up to 65,535 vendors; only these matter, so a
// string is read without a list of its own.
type set [maxVendors / 64]uint64

func (s *set) add(i int)      { s[i>>6&(len(s)-1)] |= 1 << uint(i&63) }
func (s *set) has(i int) bool { return i >= 0 && s[i>>6]>>uint(i&63)&1 == 1 }

// addRange adds those of the asked vendors that are between first and last.
func (s *set) addRange(asked []uint16, first, last uint16) {
	i, _ := slices.BinarySearch(asked, first)
	for ; i < len(asked) && asked[i] <= last; i++ {
		s.add(i)
	}
}

// vendors reads a list of vendors: MaxVendorId, then a bit for each or ranges.
// It reports whether the list is sound.
func (b *bits) vendors(asked []uint16, out *set) bool {
	most := uint16(b.num(16))
	if b.flag() {
		return b.ranges(asked, most, out)
	}
	begin := b.at
	if b.skip(int(most)); b.short {
		return false
	}
	for i, v := range asked {
		if v > most {
			break // they are sorted
		}
		if b.bit(begin + int(v) - 1) {
			out.add(i)
		}
	}
	return true
}

// ranges reads entries of one vendor or of a first and a last, none above most.
// A backward range, vendor 0 and one above most make the whole list unsound:
// nobody knows what was meant.
func (b *bits) ranges(asked []uint16, most uint16, out *set) bool {
	if len(asked) == 0 {
		asked = []uint16{0} // which is in no range
	}
	least, greatest := asked[0], asked[len(asked)-1]
	n := b.num(12)
	// Long strings are long for their ranges, so these are read four characters at
	// a time into a word whose low bits are those that are not used yet.
	var word uint64
	have, next := 0, b.at
	if n > 0 && !b.short && next%6 != 0 {
		have = 6 - next%6
		word = uint64(sextet[b.s[next/6]]) & (1<<uint(have) - 1)
		next += have
	}
	for s, i := b.s, next/6; n > 0; n-- {
		const entry = 1 + 16 + 16
		for have < entry && i+4 <= len(s) {
			word = word<<24 | uint64(sextet[s[i]])<<18 | uint64(sextet[s[i+1]])<<12 | uint64(sextet[s[i+2]])<<6 | uint64(sextet[s[i+3]])
			have, i = have+24, i+4
		}
		for have < entry && i < len(s) {
			word = word<<6 | uint64(sextet[s[i]])
			have, i = have+6, i+1
		}
		if have < 17 {
			b.short = true
			return false
		}
		have -= 17
		first := uint16(word >> uint(have))
		last := first
		if word>>uint(have+16)&1 == 1 {
			if have < 16 {
				b.short = true
				return false
			}
			have -= 16
			last = uint16(word >> uint(have))
		}
		if first == 0 || first > last || last > most {
			return false
		}
		if last >= least && first <= greatest {
			out.addRange(asked, first, last)
		}
		b.at = 6*i - have
	}
	return !b.short
}
