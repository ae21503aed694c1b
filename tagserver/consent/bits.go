package consent

// sextet is the value of each character of base64url, 0xff for all others. It is
// our own table because encoding/base64 skips line breaks, and drops the last
// bits of a string that is not padded to whole bytes, as GPP's are not.
var sextet = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" {
		t[c] = byte(i)
	}
	return t
}()

// wellFormed reports whether s has characters, and only those of base64url.
func wellFormed(s string) bool {
	var or byte
	for i := 0; i < len(s); i++ {
		or |= sextet[s[i]]
	}
	return s != "" && or < 0x40
}

// bits reads big-endian numbers from a well-formed string, six bits a character.
// Reading beyond the end gives zeros and sets short.
type bits struct {
	s     string
	at    int // of the next bit
	short bool
}

func (b *bits) left() int { return 6*len(b.s) - b.at }

// num reads n bits, at most 36.
func (b *bits) num(n int) uint64 {
	if n > b.left() {
		b.short, b.at = true, 6*len(b.s)
		return 0
	}
	first, last := uint(b.at)/6, uint(b.at+n-1)/6
	var v uint64
	for _, c := range []byte(b.s[first : last+1]) {
		v = v<<6 | uint64(sextet[c])
	}
	b.at += n
	return v >> (6*(last+1) - uint(b.at)) & (1<<uint(n) - 1)
}

func (b *bits) flag() bool { return b.num(1) == 1 }

func (b *bits) skip(n int) {
	if n > b.left() {
		b.short, b.at = true, 6*len(b.s)
		return
	}
	b.at += n
}

// bit returns the bit at a place before the end.
func (b *bits) bit(at int) bool { return sextet[b.s[at/6]]>>uint(5-at%6)&1 == 1 }

// padded reports whether nothing but zeros is left: encoders fill up to 6, 8 or
// 24 bits.
func (b *bits) padded() bool {
	for b.left() > 0 {
		if b.num(min(36, b.left())) != 0 {
			return false
		}
	}
	return true
}
