package tsv

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/ebb-dmp/ebb/segments/delivery"
)

// template writes gzip by hand for lines of one shape: 32 hex digits that no
// compressor can shorten below 4 bits each, and a tail that is that of the line
// before. So instead of searching for what repeats, it says it: each digit by a
// Huffman code of 4 bits (one of them has 5), the tail by one match. It is many
// times as fast as a general deflate, and smaller. Any other byte may occur
// too, at 14 or 15 bits.
//
// One deflate block holds any number of runs; a long run whose tail has another
// length begins a block of its own, in which that length has the short code.
type template struct {
	acc  uint64 // bits not yet written, the first lowest
	n    uint   // how many: fewer than 8 between calls
	open bool   // the header is out
	code *codes // of the block that is open; nil: none

	prev   []byte // the tail of the line before
	crc    uint32
	size   uint32
	text   []byte
	tail   []byte
	tables map[[2]int]*codes
}

const (
	idBytes = 32
	// newBlock is the least number of lines for which a block's header (some 60
	// bytes) pays.
	newBlock = 256

	symbols   = 286 // literals, end of block, lengths
	endBlock  = 256
	distances = 30
)

// codes are the Huffman codes of a block, written so that the first bit of a
// code is the lowest.
type codes struct {
	lit    [symbols]bits
	dist   [distances]bits
	pair   [256]bits // two hex digits
	header []bits    // of the block
	length int       // the length whose symbol has the short code
}

type bits struct {
	v uint32
	n uint32
}

// Append writes a line for each ID.
func (t *template) Append(dst []byte, run delivery.Run, ids []string) ([]byte, error) {
	if len(ids) == 0 {
		return dst, nil
	}
	if !t.open {
		// Magic, deflate, no flags, no time, fastest, unknown system.
		dst = append(dst, 0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255)
		t.open = true
	}
	t.tail = AppendTail(t.tail[:0], run)
	if t.code == nil || len(ids) >= newBlock && t.code.length != len(t.tail) {
		dst = t.begin(dst, len(t.tail))
	}
	length, distance := lengthSymbol(len(t.tail)), distanceSymbol(idBytes+len(t.tail))
	// The match as one code: length, its extra bits, distance, its extra bits.
	match := join(join(t.code.lit[length.symbol], bits{length.extra, length.bits}),
		join(t.code.dist[distance.symbol], bits{distance.extra, distance.bits}))
	t.text = slices.Grow(t.text[:0], len(ids)*(idBytes+len(t.tail)))
	for len(ids) > 0 {
		if string(t.prev) == string(t.tail) {
			n := 0
			if dst, n = t.lines(dst, ids, match); n > 0 {
				ids = ids[n:]
				continue
			}
		}
		// The first line of a run, or an ID of another shape.
		id := ids[0]
		ids = ids[1:]
		if !valid(id) {
			return dst, fmt.Errorf("tsv: an ID of audience %s is empty or holds a tab or a line's end", run.Audience)
		}
		dst = t.literals(t.literals(dst, id), string(t.tail))
		t.text = append(append(t.text, id...), t.tail...)
		t.prev = append(t.prev[:0], t.tail...)
	}
	t.crc = crc32.Update(t.crc, crc32.IEEETable, t.text)
	t.size += uint32(len(t.text))
	return dst, nil
}

// lineRoom is what lines may write for one line: five times eight bytes.
const lineRoom = 5 * 8

// lines writes lines whose tail is that of the line before them, up to the
// first ID that is not 32 lower-case hex digits, and returns how many.
func (t *template) lines(dst []byte, ids []string, match bits) ([]byte, int) {
	dst = slices.Grow(dst, len(ids)*lineRoom)
	out := dst[len(dst):cap(dst)]
	acc, n, pair, at := t.acc, t.n, &t.code.pair, 0
	done := 0
	for _, id := range ids {
		if len(id) != idBytes {
			break
		}
		a, b, c, d := load(id[0:8]), load(id[8:16]), load(id[16:24]), load(id[24:32])
		va, vb, vc, vd := values(a), values(b), values(c), values(d)
		if digits(va) != a || digits(vb) != b || digits(vc) != c || digits(vd) != d {
			break
		}
		for _, v := range [4]uint64{va, vb, vc, vd} {
			// Two digits to a byte, at the low end of each 16 bits.
			v = (v<<4 | v>>8) & 0x00ff00ff00ff00ff
			p0, p1, p2, p3 := pair[uint8(v)], pair[uint8(v>>16)], pair[uint8(v>>32)], pair[uint8(v>>48)]
			// 7 bits that are left and 4 times at most 10.
			acc |= uint64(p0.v) << (n & 63)
			n += uint(p0.n)
			acc |= uint64(p1.v) << (n & 63)
			n += uint(p1.n)
			acc |= uint64(p2.v) << (n & 63)
			n += uint(p2.n)
			acc |= uint64(p3.v) << (n & 63)
			n += uint(p3.n)
			binary.LittleEndian.PutUint64(out[at:], acc)
			at += int(n >> 3)
			acc >>= n &^ 7 & 63
			n &= 7
		}
		acc |= uint64(match.v) << (n & 63)
		n += uint(match.n)
		binary.LittleEndian.PutUint64(out[at:], acc)
		at += int(n >> 3)
		acc >>= n &^ 7 & 63
		n &= 7
		t.text = append(append(t.text, id...), t.tail...)
		done++
	}
	t.acc, t.n = acc, n
	return dst[:len(dst)+at], done
}

// values turns eight digits into their values at once: '0' to '9' have theirs in
// the low nibble, and 'a' to 'f' theirs less 9, and bit 6 set.
func values(x uint64) uint64 {
	return x&0x0f0f0f0f0f0f0f0f + x>>6&0x0101010101010101*9
}

// digits is the reverse; bytes that were no lower-case digits do not come back.
func digits(v uint64) uint64 {
	return v + 0x3030303030303030 + (v+0x0606060606060606)>>4&0x0101010101010101*39
}

// Close ends the block, the deflate stream and the gzip member.
func (t *template) Close(dst []byte) ([]byte, error) {
	if !t.open {
		dst = append(dst, 0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255)
		t.open = true
	}
	if t.code != nil {
		dst = t.put(dst, t.code.lit[endBlock])
	}
	// The last block is an empty one of fixed codes: 1, 01, and 7 zeros.
	dst = t.put(dst, bits{0b011, 10})
	dst = t.put(dst, bits{0, uint32(-t.n & 7)})
	dst = binary.LittleEndian.AppendUint32(dst, t.crc)
	return binary.LittleEndian.AppendUint32(dst, t.size), nil
}

func load(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

func (t *template) literals(dst []byte, s string) []byte {
	for i := range len(s) {
		dst = t.put(dst, t.code.lit[s[i]])
	}
	return dst
}

func (t *template) put(dst []byte, b bits) []byte {
	t.acc |= uint64(b.v) << t.n
	t.n += uint(b.n)
	return t.flush(dst)
}

func (t *template) flush(dst []byte) []byte {
	for t.n >= 8 {
		dst = append(dst, byte(t.acc))
		t.acc >>= 8
		t.n -= 8
	}
	return dst
}

// begin ends the block that is open and begins one for tails of a length.
func (t *template) begin(dst []byte, length int) []byte {
	if t.code != nil {
		dst = t.put(dst, t.code.lit[endBlock])
	}
	hot := [2]int{lengthSymbol(length).symbol, distanceSymbol(idBytes + length).symbol}
	if t.tables[hot] == nil {
		if t.tables == nil {
			t.tables = map[[2]int]*codes{}
		}
		t.tables[hot] = makeCodes(hot[0], hot[1])
	}
	t.code = t.tables[hot]
	t.code.length = length
	for _, b := range t.code.header {
		dst = t.put(dst, b)
	}
	return dst
}

func join(a, b bits) bits { return bits{a.v | b.v<<a.n, a.n + b.n} }

// coded is a length or distance in deflate's terms.
type coded struct {
	symbol      int
	extra, bits uint32
}

// lengthSymbol codes a match length from 3 to 257 (RFC 1951, 3.2.5).
func lengthSymbol(l int) coded {
	l -= 3
	if l < 8 {
		return coded{symbol: 257 + l}
	}
	n := uint32(0)
	for l>>(n+3) != 0 {
		n++
	}
	return coded{257 + int(n)*4 + l>>n, uint32(l) & (1<<n - 1), n}
}

// distanceSymbol codes a distance from 1 to 32768.
func distanceSymbol(d int) coded {
	d--
	if d < 4 {
		return coded{symbol: d}
	}
	n := uint32(0)
	for d>>(n+2) != 0 {
		n++
	}
	return coded{int(n)*2 + d>>n, uint32(d) & (1<<n - 1), n}
}

// makeCodes makes the codes of a block in which one length and one distance are
// frequent. Their lengths are fixed so that each set is complete, as inflate
// demands:
//
//	15 digits of 4 bits, 1 of 5, the length of 6, 243 symbols of 14, 26 of 15
//	the distance of 1 bit, 3 of 5, 26 of 6
func makeCodes(length, distance int) *codes {
	var lit [symbols]uint8
	for i, c := range "0123456789abcdef" {
		lit[c] = 4
		if i == 15 {
			lit[c] = 5
		}
	}
	lit[length] = 6
	rest := 243
	for s := range lit {
		if lit[s] != 0 {
			continue
		}
		lit[s] = 15
		if rest > 0 {
			lit[s], rest = 14, rest-1
		}
	}
	var dist [distances]uint8
	dist[distance] = 1
	rest = 3
	for s := range dist {
		if dist[s] != 0 {
			continue
		}
		dist[s] = 6
		if rest > 0 {
			dist[s], rest = 5, rest-1
		}
	}
	c := new(codes)
	huffman(lit[:], c.lit[:])
	huffman(dist[:], c.dist[:])
	for i := range c.pair {
		const digits = "0123456789abcdef"
		c.pair[i] = join(c.lit[digits[i>>4]], c.lit[digits[i&15]])
	}
	c.header = blockHeader(append(lit[:], dist[:]...))
	return c
}

// huffman gives symbols the canonical codes of the given lengths (RFC 1951,
// 3.2.2), turned so that they can be written lowest bit first.
func huffman(lengths []uint8, out []bits) {
	code := uint32(0)
	for l := uint8(1); l <= 15; l++ {
		code <<= 1
		for s, n := range lengths {
			if n != l {
				continue
			}
			var turned uint32
			for i := range l {
				turned |= code >> i & 1 << (l - 1 - i)
			}
			out[s] = bits{turned, uint32(l)}
			code++
		}
	}
}

// blockHeader writes the head of a dynamic block: the lengths of its codes, a
// repeated one as "the one before, 3 to 6 times".
func blockHeader(lengths []uint8) []bits {
	const again = 16
	// The code of the code lengths, complete too.
	var cl [19]uint8
	cl[again], cl[14], cl[15], cl[6], cl[4], cl[5], cl[1] = 1, 3, 3, 3, 4, 5, 5
	var clCode [19]bits
	huffman(cl[:], clCode[:])
	h := []bits{
		{0b100, 3},         // not the last; dynamic
		{symbols - 257, 5}, // literals and lengths
		{distances - 1, 5}, // distances
		{19 - 4, 4},        // code lengths
	}
	for _, s := range [19]int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15} {
		h = append(h, bits{uint32(cl[s]), 3})
	}
	for i := 0; i < len(lengths); {
		l := lengths[i]
		h = append(h, clCode[l])
		i++
		run := 0
		for i+run < len(lengths) && lengths[i+run] == l {
			run++
		}
		for run >= 3 {
			n := min(run, 6)
			h = append(h, clCode[again], bits{uint32(n - 3), 2})
			run -= n
			i += n
		}
	}
	return h
}
