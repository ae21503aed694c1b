package delivery

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"slices"
	"sort"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/ebb-dmp/ebb/retention"
)

// Spool is a file for the length of a delivery: written first, then read. Close
// removes it.
type Spool interface {
	io.Writer
	io.ReaderAt
	io.Closer
}

// spool makes one.
func (d *Deliverer) spool() (Spool, error) {
	if d.o.Spool == nil {
		return &memory{}, nil
	}
	s, err := d.o.Spool()
	if err != nil {
		return nil, fmt.Errorf("make a file for the partner's IDs: %w", err)
	}
	return s, nil
}

// memory is a Spool of who has no disk.
type memory struct{ b []byte }

func (m *memory) Write(p []byte) (int, error) { m.b = append(m.b, p...); return len(p), nil }
func (m *memory) Close() error                { m.b = nil; return nil }
func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.b).ReadAt(p, off)
}

// Matched is the partner's IDs of visitors, one each. They lie in a file, in the
// order of places, and in memory is no more than who has one and where every 64th
// lies: a partner may know ten million visitors, and an ID takes 30 bytes and more.
//
// Methods that read keep the first error for err, and from then on find nothing: so
// whoever plans need not ask after each ID, but must before anything is written.
// It is for one goroutine at a time.
type Matched struct {
	who []*roaring.Bitmap // of the file, which may have others too
	in  *idFile
	at  idCursor // where ID looked last
}

// ID returns the ID of a visitor. It is quick for places in ascending order.
func (m *Matched) ID(shard int, ordinal uint32) (string, bool) {
	if m == nil || shard >= len(m.who) || !m.who[shard].Contains(ordinal) {
		return "", false
	}
	c := &m.at
	c.f = m.in
	if !c.seek(shard, ordinal) {
		return "", false
	}
	return string(c.id), true
}

// walk goes through the IDs of a shard.
func (m *Matched) walk(shard int) idWalk {
	if m == nil || shard >= len(m.who) {
		return idWalk{}
	}
	return idWalk{idCursor: idCursor{f: m.in, shard: shard, block: -1}, who: m.who[shard].Iterator()}
}

// with is the same of others, all of whom are in the file.
func (m *Matched) with(who []*roaring.Bitmap) *Matched { return &Matched{who: who, in: m.in} }

// drop takes a visitor's ID out.
func (m *Matched) drop(shard int, ordinal uint32) {
	if m != nil && shard < len(m.who) {
		m.who[shard].Remove(ordinal)
	}
}

func (m *Matched) count() (n uint64) {
	if m != nil {
		for _, b := range m.who {
			n += b.GetCardinality()
		}
	}
	return n
}

// err is what kept an ID from being read.
func (m *Matched) err() error {
	if m == nil {
		return nil
	}
	return m.in.err
}

// matchedOf is IDs that are few enough for memory, by shard.
func matchedOf(ids []map[uint32]string) *Matched {
	if ids == nil {
		return nil
	}
	file := &memory{}
	w := newIDWriter(file, len(ids))
	for s := range ids {
		for _, o := range slices.Sorted(maps.Keys(ids[s])) {
			_ = w.add(s, o, ids[s][o]) // memory takes everything
		}
	}
	m, _ := w.end()
	return m
}

// blockIDs is how many IDs stand in a block.
const blockIDs = 64

// idFile is IDs in the order of shard and ordinal, each as its ordinal less the one
// before in the shard, a length, both uvarints, and its bytes: as in a ledger's file,
// which may be what they lie in.
type idFile struct {
	r      io.ReaderAt
	shards []idShard
	summed bool // blocks have checksums; else r checks what it reads
	err    error
}

type idShard struct {
	blocks []idBlock
	end    int64 // of the last
}

type idBlock struct {
	at     int64
	first  uint32 // its first ordinal
	before uint32 // that of the entry before it; 0: none
	sum    uint32
}

func (f *idFile) fail(err error) bool {
	if f.err == nil {
		f.err = fmt.Errorf("read the partner's IDs: %w", err)
	}
	return false
}

// idCursor goes through a shard's IDs.
type idCursor struct {
	f            *idFile
	shard, block int
	raw, rest    []byte
	begun        bool // an entry of the block has been read: these two
	ordinal      uint32
	id           []byte
}

// open goes to the begin of a block.
func (c *idCursor) open(shard, block int) bool {
	if c.f == nil || c.f.err != nil || shard >= len(c.f.shards) || block >= len(c.f.shards[shard].blocks) {
		return false
	}
	s := &c.f.shards[shard]
	b := &s.blocks[block]
	if c.raw == nil || c.shard != shard || c.block != block {
		end := s.end
		if block+1 < len(s.blocks) {
			end = s.blocks[block+1].at
		}
		c.block = -1 // until it is there
		c.raw = slices.Grow(c.raw[:0], int(end-b.at))[:end-b.at]
		if n, err := c.f.r.ReadAt(c.raw, b.at); err != nil && !(err == io.EOF && n == len(c.raw)) {
			return c.f.fail(err)
		}
		if c.f.summed && crc32.Checksum(c.raw, castagnoli) != b.sum {
			return c.f.fail(fmt.Errorf("a block does not match its checksum: %w", retention.ErrCorrupt))
		}
		c.shard, c.block = shard, block
	}
	c.rest, c.begun, c.ordinal = c.raw, false, b.before
	return true
}

// entry reads the next entry of the block.
func (c *idCursor) entry() bool {
	if len(c.rest) == 0 {
		return false
	}
	d, n := binary.Uvarint(c.rest)
	if n <= 0 {
		return c.f.fail(retention.ErrCorrupt)
	}
	l, k := binary.Uvarint(c.rest[n:])
	if k <= 0 || l > uint64(len(c.rest)-n-k) {
		return c.f.fail(retention.ErrCorrupt)
	}
	c.id, c.rest = c.rest[n+k:n+k+int(l)], c.rest[n+k+int(l):]
	c.ordinal, c.begun = c.ordinal+uint32(d), true
	return true
}

// seek goes to the entry of an ordinal, if there is one.
func (c *idCursor) seek(shard int, ordinal uint32) bool {
	if shard >= len(c.f.shards) {
		return false
	}
	blocks := c.f.shards[shard].blocks
	has := func(b int) bool {
		return b >= 0 && b < len(blocks) && blocks[b].first <= ordinal && (b+1 == len(blocks) || ordinal < blocks[b+1].first)
	}
	switch here := c.raw != nil && c.shard == shard; {
	case here && has(c.block) && c.begun && c.ordinal <= ordinal:
		if c.ordinal == ordinal {
			return true
		}
	case here && has(c.block+1):
		if !c.open(shard, c.block+1) {
			return false
		}
	default:
		if !c.open(shard, sort.Search(len(blocks), func(b int) bool { return blocks[b].first > ordinal })-1) {
			return false
		}
	}
	for c.entry() {
		if c.ordinal >= ordinal {
			return c.ordinal == ordinal
		}
	}
	return false
}

// idWalk goes through the IDs of those in a set.
type idWalk struct {
	idCursor
	who roaring.IntPeekable
}

// next reads the next, if there is one.
func (w *idWalk) next() bool {
	if w.who == nil || !w.who.HasNext() {
		return false
	}
	if w.seek(w.shard, w.who.Next()) {
		return true
	}
	w.who = nil
	return w.f.fail(fmt.Errorf("one is missing: %w", retention.ErrCorrupt))
}

// idWriter writes an idFile.
type idWriter struct {
	to   io.Writer
	file *idFile
	who  []*roaring.Bitmap
	buf  []byte // the block that is being written, behind others
	open int    // where it begins in buf
	n    int    // entries in it
	s    int    // its shard
	last uint32
	at   int64 // of buf in the file
}

// newIDWriter writes into an empty spool.
func newIDWriter(to Spool, shards int) *idWriter {
	w := &idWriter{to: to, file: &idFile{r: to, shards: make([]idShard, shards), summed: true}, who: make([]*roaring.Bitmap, shards)}
	for s := range w.who {
		w.who[s] = roaring.New()
	}
	return w
}

// add takes an ID; places come in ascending order.
func (w *idWriter) add(shard int, ordinal uint32, id string) error {
	if shard != w.s || w.n == blockIDs {
		if err := w.seal(shard); err != nil {
			return err
		}
	}
	s := &w.file.shards[shard]
	if w.n == 0 {
		s.blocks = append(s.blocks, idBlock{at: w.at + int64(len(w.buf)), first: ordinal, before: w.last})
	}
	w.buf = appendID(w.buf, ordinal-w.last, id)
	w.who[shard].Add(ordinal)
	w.last, w.n = ordinal, w.n+1
	return nil
}

// appendID appends an entry.
func appendID[S string | []byte](b []byte, delta uint32, id S) []byte {
	return append(binary.AppendUvarint(binary.AppendUvarint(b, uint64(delta)), uint64(len(id))), id...)
}

// seal ends the block; the next is of a shard.
func (w *idWriter) seal(next int) error {
	if w.n > 0 {
		s := &w.file.shards[w.s]
		s.blocks[len(s.blocks)-1].sum = crc32.Checksum(w.buf[w.open:], castagnoli)
		s.end = w.at + int64(len(w.buf))
	}
	if next != w.s {
		w.last = 0
	}
	w.s, w.n, w.open = next, 0, len(w.buf)
	if len(w.buf) < flushAt {
		return nil
	}
	return w.flush()
}

func (w *idWriter) flush() error {
	n, err := w.to.Write(w.buf)
	w.at += int64(n)
	w.buf, w.open = w.buf[:0], 0
	if err != nil {
		return fmt.Errorf("write the partner's IDs: %w", err)
	}
	return nil
}

// end returns what was written.
func (w *idWriter) end() (*Matched, error) {
	if err := w.seal(w.s); err != nil {
		return nil, err
	}
	return &Matched{who: w.who, in: w.file}, w.flush()
}
