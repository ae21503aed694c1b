package log

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/klauspost/compress/s2"
)

// A segment file, little endian:
//
//	file header (64 bytes)
//	   0  "EBBLOG\r\n"
//	   8  version u16 · group u16 · 0 u32
//	  16  writer [16]
//	  32  number of the first record u64
//	  40  time i64: no frame of the file is older
//	  48  0 [12]
//	  60  CRC-32C of bytes 0 to 59
//	frame, as many as there are
//	   0  "EFRM"
//	   4  kind u8 · codec u8 · 0 u16
//	   8  number of the first record u64
//	  16  records u32 · raw length u32 · stored length u32
//	  28  CRC-32C of the stored payload
//	  32  time i64, never less than the frame before
//	  40  offset of this frame in the file u64
//	  48  offset up to which the file was synced when this was written u64
//	  56  length of the counts u32
//	  60  CRC-32C of bytes 0 to 59 and the counts
//	  64  counts: for each site its name (uvarint length, bytes) and number uvarint
//	      payload: records as taxonomy.AppendRecord writes them, stored by codec
//	seal: a frame of kind 2, without records, that ends the file
//	      first is the last number + 1, counts are those of the whole file, and
//	      the payload is zeros and then, as the last 24 bytes of the file,
//	      offset of the seal u64 · "EBBSEAL\n" · CRC-32C of both u32 · 0 u32
//
// All frame checksums of a file begin from the checksum of its writer, group
// and first number. So bytes that stand in a payload, or were left by another
// file, are never taken for a frame: who sends events does not know the writer.
const (
	version = 1

	fileHeader  = 64
	frameHeader = 64
	trailer     = 24

	kindData = 1
	kindSeal = 2

	codecRaw = 0
	codecS2  = 1

	// maxBatch bounds the encoded bytes of one batch, and so a frame.
	maxBatch = 16 << 20
	// frameTarget is the raw size at which a frame takes no further batch.
	frameTarget = 1 << 20
)

var (
	fileMagic  = []byte("EBBLOG\r\n")
	frameMagic = []byte("EFRM")
	sealMagic  = []byte("EBBSEAL\n")

	castagnoli = crc32.MakeTable(crc32.Castagnoli)

	errNewer = errors.New("written by a newer version of Ebb; run that version, or restore a backup made by this one")
)

// place is what a segment file's name and folder say of it.
type place struct {
	writer taxonomy.WriterID
	group  taxonomy.Group
	first  uint64
}

// salt is what the frame checksums of the file begin from.
func (p place) salt() uint32 {
	var b [26]byte
	copy(b[:], p.writer[:])
	binary.LittleEndian.PutUint16(b[16:], uint16(p.group))
	binary.LittleEndian.PutUint64(b[18:], p.first)
	return crc32.Checksum(b[:], castagnoli)
}

func appendFileHeader(b []byte, p place, t taxonomy.Millis) []byte {
	n := len(b)
	b = append(b, fileMagic...)
	b = binary.LittleEndian.AppendUint16(b, version)
	b = binary.LittleEndian.AppendUint16(b, uint16(p.group))
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = append(b, p.writer[:]...)
	b = binary.LittleEndian.AppendUint64(b, p.first)
	b = binary.LittleEndian.AppendUint64(b, uint64(t))
	b = append(b, make([]byte, 12)...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[n:], castagnoli))
}

// parseFileHeader reads a file header and its time. An error says what is wrong
// with it; errNewer, that it is whole and not for us.
func parseFileHeader(b []byte, p place) (taxonomy.Millis, error) {
	if len(b) < fileHeader {
		return 0, errors.New("file header: cut short")
	}
	b = b[:fileHeader]
	if crc32.Checksum(b[:60], castagnoli) != binary.LittleEndian.Uint32(b[60:]) {
		return 0, errors.New("file header: wrong checksum")
	}
	if string(b[:8]) != string(fileMagic) {
		return 0, errors.New("file header: not a log file")
	}
	if v := binary.LittleEndian.Uint16(b[8:]); v != version {
		return 0, fmt.Errorf("format %d: %w", v, errNewer)
	}
	if got := (place{taxonomy.WriterID(b[16:32]), taxonomy.Group(binary.LittleEndian.Uint16(b[10:])), binary.LittleEndian.Uint64(b[32:])}); got != p {
		return 0, fmt.Errorf("file header: is of writer %s, group %d, record %d", got.writer, got.group, got.first)
	}
	return taxonomy.Millis(binary.LittleEndian.Uint64(b[40:])), nil
}

// header is a frame's header.
type header struct {
	kind, codec byte
	first       uint64
	n           uint32
	raw, stored uint32
	crc         uint32 // of the stored payload
	time        taxonomy.Millis
	offset      int64
	synced      int64
	counts      []retention.SiteCount
	head        int // bytes of the header, counts included
}

func (h *header) next() uint64 { return h.first + uint64(h.n) }
func (h *header) end() int64   { return h.offset + int64(h.head) + int64(h.stored) }

// appendFrame appends h, completed by what payload needs, and the payload.
func appendFrame(b []byte, salt uint32, h *header, payload []byte) []byte {
	at := len(b)
	b = append(b, frameMagic...)
	b = append(b, h.kind, h.codec, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, h.first)
	b = binary.LittleEndian.AppendUint32(b, h.n)
	b = binary.LittleEndian.AppendUint32(b, h.raw)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Update(salt, castagnoli, payload))
	b = binary.LittleEndian.AppendUint64(b, uint64(h.time))
	b = binary.LittleEndian.AppendUint64(b, uint64(h.offset))
	b = binary.LittleEndian.AppendUint64(b, uint64(h.synced))
	b = append(b, make([]byte, 8)...)
	for _, c := range h.counts {
		b = binary.AppendUvarint(b, uint64(len(c.Site)))
		b = append(b, c.Site...)
		b = binary.AppendUvarint(b, c.N)
	}
	f := b[at:]
	binary.LittleEndian.PutUint32(f[56:], uint32(len(f)-frameHeader))
	binary.LittleEndian.PutUint32(f[60:], headCRC(salt, f))
	return append(b, payload...)
}

func headCRC(salt uint32, f []byte) uint32 {
	return crc32.Update(crc32.Update(salt, castagnoli, f[:60]), castagnoli, f[frameHeader:])
}

// countsLen returns the length of the counts of the frame that b begins with,
// or false if b is no frame. b holds at least frameHeader bytes.
func countsLen(b []byte) (int64, bool) {
	return int64(binary.LittleEndian.Uint32(b[56:])), string(b[:4]) == string(frameMagic)
}

// parseHeader reads the header at offset off of a file; b is the header with
// its counts and nothing more. ok says that every checksum holds.
func parseHeader(b []byte, salt uint32, off int64) (h header, ok bool) {
	if len(b) < frameHeader || string(b[:4]) != string(frameMagic) ||
		headCRC(salt, b) != binary.LittleEndian.Uint32(b[60:]) {
		return header{}, false
	}
	le := binary.LittleEndian
	h = header{
		kind: b[4], codec: b[5],
		first: le.Uint64(b[8:]), n: le.Uint32(b[16:]), raw: le.Uint32(b[20:]), stored: le.Uint32(b[24:]), crc: le.Uint32(b[28:]),
		time: taxonomy.Millis(le.Uint64(b[32:])), offset: int64(le.Uint64(b[40:])), synced: int64(le.Uint64(b[48:])),
		head: len(b),
	}
	if h.offset != off || h.kind != kindData && h.kind != kindSeal || (h.kind == kindData) != (h.n > 0) {
		return header{}, false
	}
	for c := b[frameHeader:]; len(c) > 0; {
		l, k := binary.Uvarint(c)
		if k <= 0 || l > uint64(len(c)-k) {
			return header{}, false
		}
		site := string(c[k : k+int(l)])
		c = c[k+int(l):]
		n, k := binary.Uvarint(c)
		if k <= 0 {
			return header{}, false
		}
		c = c[k:]
		h.counts = append(h.counts, retention.SiteCount{Site: taxonomy.SiteID(site), N: n})
	}
	return h, true
}

// expand returns the raw payload: in dst's memory, or stored itself. Bytes that
// fail any check give ErrCorrupt.
func expand(dst []byte, h *header, salt uint32, stored []byte) ([]byte, error) {
	if crc32.Update(salt, castagnoli, stored) != h.crc {
		return nil, fmt.Errorf("payload: wrong checksum: %w", retention.ErrCorrupt)
	}
	switch h.codec {
	case codecRaw:
		return stored, nil
	case codecS2:
		if n, err := s2.DecodedLen(stored); err != nil || n != int(h.raw) {
			return nil, fmt.Errorf("payload: wrong length: %w", retention.ErrCorrupt)
		}
		raw, err := s2.Decode(dst[:cap(dst)], stored)
		if err != nil {
			return nil, fmt.Errorf("payload: %v: %w", err, retention.ErrCorrupt)
		}
		return raw, nil
	}
	return nil, fmt.Errorf("payload: codec %d: %w", h.codec, retention.ErrCorrupt)
}

// decode reads the n records of a raw payload.
func decode(raw []byte, n int) ([]taxonomy.Record, error) {
	if n > len(raw) { // every record has bytes: a lie must not ask for memory
		return nil, fmt.Errorf("payload: %d records in %d bytes: %w", n, len(raw), retention.ErrCorrupt)
	}
	records := make([]taxonomy.Record, n)
	var err error
	for i := range records {
		if records[i], raw, err = taxonomy.DecodeRecord(raw); err != nil {
			return nil, fmt.Errorf("record %d: %v: %w", i, err, retention.ErrCorrupt)
		}
	}
	if len(raw) > 0 {
		return nil, fmt.Errorf("payload: %d bytes too many: %w", len(raw), retention.ErrCorrupt)
	}
	return records, nil
}

// appendSeal appends the seal of a file whose last record is last, to stand at
// offset off and to reach at least to offset reach.
func appendSeal(b []byte, salt uint32, off, reach int64, last uint64, t taxonomy.Millis, counts []retention.SiteCount) []byte {
	h := header{kind: kindSeal, first: last + 1, time: t, offset: off, synced: off, counts: counts}
	head := int64(len(appendFrame(nil, salt, &h, nil)))
	payload := make([]byte, max(0, reach-off-head-trailer), max(0, reach-off-head-trailer)+trailer)
	payload = appendTrailer(payload, salt, off)
	h.raw = uint32(len(payload))
	return appendFrame(b, salt, &h, payload)
}

func appendTrailer(b []byte, salt uint32, off int64) []byte {
	at := len(b)
	b = binary.LittleEndian.AppendUint64(b, uint64(off))
	b = append(b, sealMagic...)
	b = binary.LittleEndian.AppendUint32(b, crc32.Update(salt, castagnoli, b[at:]))
	return append(b, 0, 0, 0, 0)
}

// parseTrailer reads the last bytes of a file and returns where its seal is.
func parseTrailer(b []byte, salt uint32) (off int64, ok bool) {
	if len(b) != trailer || string(b[8:16]) != string(sealMagic) ||
		crc32.Update(salt, castagnoli, b[:16]) != binary.LittleEndian.Uint32(b[16:]) {
		return 0, false
	}
	return int64(binary.LittleEndian.Uint64(b)), true
}

// tally adds up events by site.
type tally map[taxonomy.SiteID]uint64

func (t tally) add(counts []retention.SiteCount) {
	for _, c := range counts {
		t[c.Site] += c.N
	}
}

// minus returns what t has and o has not.
func (t tally) minus(o tally) tally {
	r := make(tally, len(t))
	for s, n := range t {
		if n > o[s] {
			r[s] = n - o[s]
		}
	}
	return r
}

// list returns the sums, by site. No sums are nil.
func (t tally) list() []retention.SiteCount {
	if len(t) == 0 {
		return nil
	}
	l := make([]retention.SiteCount, 0, len(t))
	for s, n := range t {
		l = append(l, retention.SiteCount{Site: s, N: n})
	}
	slices.SortFunc(l, func(a, b retention.SiteCount) int { return strings.Compare(string(a.Site), string(b.Site)) })
	return l
}
