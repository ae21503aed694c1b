package index

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/ebb-dmp/ebb/retention"
)

// portable is a bitmap in roaring's portable format, read in place.
//
// The format is specified at github.com/RoaringBitmap/RoaringFormatSpec; any
// roaring library reads the same bytes. We read it ourselves because a question
// wants one container of each of hundreds of bitmaps, as words, without an
// object for each (an object a bitmap costs twice the file; see README.md).
type portable struct {
	data   []byte
	blocks []container // by key
}

// container is one block of a portable bitmap.
type container struct {
	key  uint16
	kind containerKind
	n    uint32 // array: values; bitmap: set bits; run: runs
	off  uint32 // of the first byte in data
}

type containerKind uint8

const (
	arrayContainer containerKind = iota
	bitmapContainer
	runContainer
)

const (
	cookieNoRuns   = 12346
	cookieRuns     = 12347
	maxArray       = 4096
	bitmapBytes    = BlockSize / 8
	noOffsetBlocks = 4 // with runs, fewer containers than this have no offsets
)

// parsePortable checks every bound of b and returns a view of it. The bytes
// must not change while the view is used. Values within an array are checked to
// rise, so that what is read is a set.
func parsePortable(b []byte) (portable, error) {
	bad := func(what string) (portable, error) {
		return portable{}, fmt.Errorf("%w: bitmap: %s", retention.ErrCorrupt, what)
	}
	if len(b) < 8 {
		return bad("cut short")
	}
	cookie := binary.LittleEndian.Uint32(b)
	var n, pos int
	var runFlags []byte
	switch {
	case cookie == cookieNoRuns:
		n, pos = int(binary.LittleEndian.Uint32(b[4:])), 8
	case cookie&0xffff == cookieRuns:
		n, pos = int(cookie>>16)+1, 4
		if len(b) < pos+(n+7)/8 {
			return bad("cut short in the run flags")
		}
		runFlags = b[pos : pos+(n+7)/8]
		pos += (n + 7) / 8
	default:
		return bad("not in roaring's portable format")
	}
	if n > BlockSize || len(b) < pos+4*n {
		return bad("too many containers for its length")
	}
	p := portable{data: b, blocks: make([]container, n)}
	cards := b[pos : pos+4*n]
	pos += 4 * n
	if runFlags == nil || n >= noOffsetBlocks {
		pos += 4 * n // the offsets, which we compute
	}
	for i := range p.blocks {
		c := &p.blocks[i]
		c.key = binary.LittleEndian.Uint16(cards[4*i:])
		card := uint32(binary.LittleEndian.Uint16(cards[4*i+2:])) + 1
		if i > 0 && c.key <= p.blocks[i-1].key {
			return bad("keys do not rise")
		}
		var size int
		switch {
		case runFlags != nil && runFlags[i/8]&(1<<(i%8)) != 0:
			if len(b) < pos+2 {
				return bad("cut short in a run container")
			}
			c.kind, c.n = runContainer, uint32(binary.LittleEndian.Uint16(b[pos:]))
			pos += 2
			size = 4 * int(c.n)
		case card <= maxArray:
			c.kind, c.n, size = arrayContainer, card, 2*int(card)
		default:
			c.kind, c.n, size = bitmapContainer, card, bitmapBytes
		}
		if pos < 0 || len(b)-pos < size {
			return bad("cut short in a container")
		}
		c.off = uint32(pos)
		if err := p.check(c); err != nil {
			return bad(err.Error())
		}
		pos += size
	}
	if pos != len(b) {
		return bad("bytes behind the last container")
	}
	return p, nil
}

func (p *portable) check(c *container) error {
	switch c.kind {
	case arrayContainer:
		last := -1
		for i := uint32(0); i < c.n; i++ {
			v := int(binary.LittleEndian.Uint16(p.data[c.off+2*i:]))
			if v <= last {
				return fmt.Errorf("values do not rise")
			}
			last = v
		}
	case bitmapContainer:
		n := 0
		for i := uint32(0); i < bitmapBytes; i += 8 {
			n += bits.OnesCount64(binary.LittleEndian.Uint64(p.data[c.off+i:]))
		}
		if n != int(c.n) {
			return fmt.Errorf("cardinality differs")
		}
	case runContainer:
		last := -1
		for i := uint32(0); i < c.n; i++ {
			from := int(binary.LittleEndian.Uint16(p.data[c.off+4*i:]))
			to := from + int(binary.LittleEndian.Uint16(p.data[c.off+4*i+2:]))
			if from <= last || to >= BlockSize {
				return fmt.Errorf("runs do not rise")
			}
			last = to
		}
	}
	return nil
}

// block returns the container of a block, or nil if it is empty.
func (p *portable) block(key int) *container {
	lo, hi := 0, len(p.blocks)
	for lo < hi {
		m := (lo + hi) / 2
		if int(p.blocks[m].key) < key {
			lo = m + 1
		} else {
			hi = m
		}
	}
	if lo < len(p.blocks) && int(p.blocks[lo].key) == key {
		return &p.blocks[lo]
	}
	return nil
}

// or adds the visitors of c to dst.
func (p *portable) or(c *container, dst *Words) {
	switch c.kind {
	case arrayContainer:
		b := p.data[c.off : c.off+2*c.n]
		for len(b) >= 2 {
			v := binary.LittleEndian.Uint16(b)
			dst[v>>6] |= 1 << (v & 63)
			b = b[2:]
		}
	case bitmapContainer:
		b := p.data[c.off : c.off+bitmapBytes]
		for i := range dst {
			dst[i] |= binary.LittleEndian.Uint64(b[8*i:])
		}
	case runContainer:
		p.runs(c, func(from, to int) { setRange(dst, from, to) })
	}
}

// add adds one to the counter of each visitor of c, saturating at 255.
func (p *portable) add(c *container, counts *[BlockSize]uint8) {
	switch c.kind {
	case arrayContainer:
		b := p.data[c.off : c.off+2*c.n]
		for len(b) >= 2 {
			v := binary.LittleEndian.Uint16(b)
			if counts[v] < 255 {
				counts[v]++
			}
			b = b[2:]
		}
	case bitmapContainer:
		b := p.data[c.off : c.off+bitmapBytes]
		for i := 0; i < len(b); i += 8 {
			for w := binary.LittleEndian.Uint64(b[i:]); w != 0; w &= w - 1 {
				if v := i*8 + bits.TrailingZeros64(w); counts[v] < 255 {
					counts[v]++
				}
			}
		}
	case runContainer:
		p.runs(c, func(from, to int) {
			for v := from; v <= to; v++ {
				if counts[v] < 255 {
					counts[v]++
				}
			}
		})
	}
}

func (p *portable) runs(c *container, fn func(from, to int)) {
	for i := uint32(0); i < c.n; i++ {
		from := int(binary.LittleEndian.Uint16(p.data[c.off+4*i:]))
		fn(from, from+int(binary.LittleEndian.Uint16(p.data[c.off+4*i+2:])))
	}
}

// contains reports whether a place of a block is in c.
func (p *portable) contains(c *container, v uint16) bool {
	switch c.kind {
	case bitmapContainer:
		return p.data[c.off+uint32(v>>3)]&(1<<(v&7)) != 0
	case arrayContainer:
		lo, hi := uint32(0), c.n
		for lo < hi {
			m := (lo + hi) / 2
			if binary.LittleEndian.Uint16(p.data[c.off+2*m:]) < v {
				lo = m + 1
			} else {
				hi = m
			}
		}
		return lo < c.n && binary.LittleEndian.Uint16(p.data[c.off+2*lo:]) == v
	default:
		in := false
		p.runs(c, func(from, to int) { in = in || int(v) >= from && int(v) <= to })
		return in
	}
}

// setRange sets the bits from and to and those between.
func setRange(dst *Words, from, to int) {
	first, last := from>>6, to>>6
	head := ^uint64(0) << (from & 63)
	tail := ^uint64(0) >> (63 - to&63)
	if first == last {
		dst[first] |= head & tail
		return
	}
	dst[first] |= head
	for i := first + 1; i < last; i++ {
		dst[i] = ^uint64(0)
	}
	dst[last] |= tail
}

// Count is the number of set bits.
func (w *Words) Count() (n int) {
	for _, x := range w {
		n += bits.OnesCount64(x)
	}
	return n
}
