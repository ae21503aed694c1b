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
	// Most numbers are short and not at the end: they lie in the next four
	// characters.
	if i := uint(b.at) / 6; n <= 18 && i+4 <= uint(len(b.s)) {
		v := four(b.s[i:])
		used := uint(b.at) - 6*i + uint(n)
		b.at += n
		return v >> (24 - used) & (1<<uint(n) - 1)
	}
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

// four is the first four characters of s as one number, which must have them.
func four(s string) uint64 {
	_ = s[3]
	return uint64(sextet[s[0]])<<18 | uint64(sextet[s[1]])<<12 | uint64(sextet[s[2]])<<6 | uint64(sextet[s[3]])
}

// six is the first six likewise.
func six(s string) uint64 {
	_ = s[5]
	return four(s)<<12 | uint64(sextet[s[4]])<<6 | uint64(sextet[s[5]])
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
func (b *bits) bit(at int) bool {
	i := uint(at) / 6
	return sextet[b.s[i]]>>(5-(uint(at)-6*i))&1 == 1
}

// padded reports whether nothing but zeros is left: encoders fill up to 6, 8 or
// 24 bits.
func (b *bits) padded() bool {
	i := b.at / 6
	if i >= len(b.s) {
		return true
	}
	or := sextet[b.s[i]] & (1<<uint(6-b.at%6) - 1)
	for i++; i < len(b.s); i++ {
		or |= sextet[b.s[i]]
	}
	b.at = 6 * len(b.s)
	return or == 0
}
