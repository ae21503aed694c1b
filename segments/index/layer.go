package index

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Layer is what the visitors of one shard did on one day, or a later part of
// it: an immutable file. A day is one blob and at most four layers of late
// arrivals, the newest last (R17); what a visitor did is their sum, and among
// statements of one key the newest layer that has one wins.
//
// The file, little endian:
//
//	0   magic "EBBDAY", version u16 = 1
//	8   shard u32 · day i32 · columns u32 · offset of the directory u64
//	28  for each column: its visitors in roaring's portable format, then the
//	    counts of those with more than one event: for each block that has any,
//	    key u16 · n-1 u16 · n places u16, rising · n counts u8 (2..255)
//	    directory: for each column, in order (Column.Compare), as uvarints:
//	    trait, source (length, bytes) · visitors · offset and length of the
//	    bitmap · length of the counts, which follow it
//	    CRC-32C of all before, u32
type Layer struct {
	Shard int
	Day   taxonomy.Day
	bytes []byte
	cols  []layerColumn // by Column.Compare
}

type layerColumn struct {
	taxonomy.Column
	visitors uint64
	bitmap   portable
	multi    []multiBlock // by key
}

// multiBlock is the counts of those of a block that have more than one event.
type multiBlock struct {
	key    uint16
	places []byte // uint16 each
	counts []byte
}

const (
	layerMagic   = "EBBDAY"
	layerVersion = 1
	layerHeader  = 28
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Bytes is the layer's file. It must not be changed.
func (l *Layer) Bytes() []byte { return l.bytes }

// Columns is how many columns the layer has.
func (l *Layer) Columns() int { return len(l.cols) }

// Without returns the layer without some of its columns, over the same bytes:
// Bytes still holds what it hides, a Merge with others does not. It is l itself
// if nothing is to be hidden.
func (l *Layer) Without(hide func(taxonomy.Column) bool) *Layer {
	if !slices.ContainsFunc(l.cols, func(c layerColumn) bool { return hide(c.Column) }) {
		return l
	}
	w := *l
	w.cols = slices.DeleteFunc(slices.Clone(l.cols), func(c layerColumn) bool { return hide(c.Column) })
	return &w
}

// OpenLayer reads a layer's file, which it keeps. Bytes that are not exactly
// what a builder wrote give retention.ErrCorrupt.
func OpenLayer(b []byte) (*Layer, error) {
	bad := func(format string, args ...any) (*Layer, error) {
		return nil, fmt.Errorf("%w: day layer: %s", retention.ErrCorrupt, fmt.Sprintf(format, args...))
	}
	if len(b) < layerHeader+4 || string(b[:6]) != layerMagic {
		return bad("no day layer")
	}
	if v := binary.LittleEndian.Uint16(b[6:]); v != layerVersion {
		return bad("version %d, this program reads %d; use the newer program", v, layerVersion)
	}
	body := b[:len(b)-4]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return bad("checksum differs")
	}
	l := &Layer{
		Shard: int(binary.LittleEndian.Uint32(b[8:])),
		Day:   taxonomy.Day(int32(binary.LittleEndian.Uint32(b[12:]))),
		bytes: b,
	}
	n := binary.LittleEndian.Uint32(b[16:])
	off := binary.LittleEndian.Uint64(b[20:])
	if off < layerHeader || off > uint64(len(body)) || uint64(n) > uint64(len(body)) {
		return bad("directory lies outside the file")
	}
	dir := body[off:]
	data := body[:off]
	failed := false
	number := func() uint64 {
		v, k := binary.Uvarint(dir)
		if k <= 0 {
			failed, dir = true, nil
			return 0
		}
		dir = dir[k:]
		return v
	}
	text := func() string {
		k := number()
		if k > uint64(len(dir)) {
			failed = true
			return ""
		}
		s := string(dir[:k])
		dir = dir[k:]
		return s
	}
	l.cols = make([]layerColumn, n)
	for i := range l.cols {
		c := &l.cols[i]
		c.Trait, c.Source = taxonomy.Trait(text()), taxonomy.SourceID(text())
		c.visitors = number()
		at, size, multi := number(), number(), number()
		if failed || at > uint64(len(data)) || size > uint64(len(data))-at || multi > uint64(len(data))-at-size {
			return bad("directory entry %d is broken", i)
		}
		if i > 0 && l.cols[i-1].Compare(c.Column) >= 0 {
			return bad("columns do not rise")
		}
		var err error
		if c.bitmap, err = parsePortable(data[at : at+size]); err != nil {
			return bad("column %d: %v", i, err)
		}
		if c.multi, err = parseMulti(data[at+size : at+size+multi]); err != nil {
			return bad("column %d: %v", i, err)
		}
	}
	return l, nil
}

func parseMulti(b []byte) (blocks []multiBlock, err error) {
	for len(b) > 0 {
		if len(b) < 4 {
			return nil, fmt.Errorf("counts are cut short")
		}
		m := multiBlock{key: binary.LittleEndian.Uint16(b)}
		n := int(binary.LittleEndian.Uint16(b[2:])) + 1
		b = b[4:]
		if len(b) < 3*n {
			return nil, fmt.Errorf("counts are cut short")
		}
		m.places, m.counts, b = b[:2*n], b[2*n:3*n], b[3*n:]
		blocks = append(blocks, m)
	}
	return blocks, nil
}

// column returns a column of the layer, or nil.
func (l *Layer) column(c taxonomy.Column) *layerColumn {
	i, ok := slices.BinarySearchFunc(l.cols, c, func(a layerColumn, b taxonomy.Column) int { return a.Compare(b) })
	if !ok {
		return nil
	}
	return &l.cols[i]
}

// or adds the column's visitors of a block to dst.
func (c *layerColumn) or(block int, dst *Words) {
	if k := c.bitmap.block(block); k != nil {
		c.bitmap.or(k, dst)
	}
}

// add adds the column's events of a block to counts, saturating at 255.
func (c *layerColumn) add(block int, counts *[BlockSize]uint8) {
	k := c.bitmap.block(block)
	if k == nil {
		return
	}
	c.bitmap.add(k, counts)
	i, ok := slices.BinarySearchFunc(c.multi, block, func(m multiBlock, b int) int { return cmp.Compare(int(m.key), b) })
	if !ok {
		return
	}
	m := &c.multi[i]
	for i, n := range m.counts {
		v := binary.LittleEndian.Uint16(m.places[2*i:])
		counts[v] = uint8(min(255, int(counts[v])+int(n)-1))
	}
}

// events returns the number of events of an ordinal in the column, at most 255.
func (c *layerColumn) events(ordinal uint32) int {
	block, place := int(ordinal>>16), uint16(ordinal)
	k := c.bitmap.block(block)
	if k == nil || !c.bitmap.contains(k, place) {
		return 0
	}
	i, ok := slices.BinarySearchFunc(c.multi, block, func(m multiBlock, b int) int { return cmp.Compare(int(m.key), b) })
	if !ok {
		return 1
	}
	m := &c.multi[i]
	lo, hi := 0, len(m.counts)
	for lo < hi {
		mid := (lo + hi) / 2
		if binary.LittleEndian.Uint16(m.places[2*mid:]) < place {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(m.counts) && binary.LittleEndian.Uint16(m.places[2*lo:]) == place {
		return int(m.counts[lo])
	}
	return 1
}

// each calls fn with the ordinals of the column, rising, and their counts.
func (c *layerColumn) each(fn func(ordinal uint32, events uint8)) {
	multi := c.multi
	for i := range c.bitmap.blocks {
		k := &c.bitmap.blocks[i]
		base := uint32(k.key) << 16
		for len(multi) > 0 && multi[0].key < k.key {
			multi = multi[1:]
		}
		var places, counts []byte
		if len(multi) > 0 && multi[0].key == k.key {
			places, counts = multi[0].places, multi[0].counts
		}
		one := func(v uint16) {
			n := uint8(1)
			if len(counts) > 0 && binary.LittleEndian.Uint16(places) == v {
				n, places, counts = counts[0], places[2:], counts[1:]
			}
			fn(base|uint32(v), n)
		}
		switch k.kind {
		case arrayContainer:
			for j := uint32(0); j < k.n; j++ {
				one(binary.LittleEndian.Uint16(c.bitmap.data[k.off+2*j:]))
			}
		default:
			var w Words
			c.bitmap.or(k, &w)
			w.each(one)
		}
	}
}

// each calls fn with the places of the set bits, rising.
func (w *Words) each(fn func(uint16)) {
	for i, x := range w {
		for ; x != 0; x &= x - 1 {
			fn(uint16(i*64 + trailing(x)))
		}
	}
}

func fits(n int) error {
	if n > math.MaxUint32 {
		return fmt.Errorf("day layer would have %d bytes, at most 4 GiB", n)
	}
	return nil
}

// ColumnNames returns the layer's columns in order. The caller owns the list.
func (l *Layer) ColumnNames() []taxonomy.Column {
	names := make([]taxonomy.Column, len(l.cols))
	for i := range l.cols {
		names[i] = l.cols[i].Column
	}
	return names
}

// Each calls fn with the visitors of each column, rising, and how many events they
// have in it, at most 255.
func (l *Layer) Each(fn func(c taxonomy.Column, ordinal uint32, events uint8)) {
	for i := range l.cols {
		c := &l.cols[i]
		c.each(func(o uint32, n uint8) { fn(c.Column, o, n) })
	}
}
