package delivery

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Every file and value of this package is sealed alike:
//
//	magic 8 bytes · version u8 · body · CRC-32C of all before it, u32 little endian
//
// The body of a ledger, integers being uvarints and days varints:
//
//	shards
//	number of audiences, and for each: ID · rows
//	  rows: for each shard: number of days, and for each: day · length · roaring's portable format
//	1 if it has IDs, and then for each shard: number, and for each: ordinal less the one before · ID
//	number of removals, and for each: audience · ID · day · shard · ordinal
//
// and, in version 2 only, which is written if there is anything of it,
//
//	rows that may be held: number of audiences, and for each: ID · rows
//	removals that were acknowledged, as above
//	which removals of the outbox are of the forgotten, which of them are said
//	again, and which of the acknowledged are of the forgotten: for each length
//	and roaring's portable format
//
// The body of a file's members: shards, and for each: length · roaring's
// portable format. A string is a length and its bytes.
const (
	ledgerMagic  = "EBBLEDGR"
	membersMagic = "EBBDMEMB"
	headMagic    = "EBBDHEAD"
	sealVersion  = 1
	// ledgerVersion is that of a ledger of a destination that pushes.
	ledgerVersion = 2

	maxShards = 1 << 12
	maxName   = 1 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func seal(magic string, body []byte) []byte { return sealAs(magic, sealVersion, body) }

func sealAs(magic string, version byte, body []byte) []byte {
	b := make([]byte, 0, len(magic)+1+len(body)+4)
	b = append(append(b, magic...), version)
	return withSum(append(b, body...))
}

// withSum ends a file with its checksum.
func withSum(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func unseal(magic string, b []byte) ([]byte, error) {
	_, body, err := unsealUpTo(magic, sealVersion, b)
	return body, err
}

func unsealUpTo(magic string, newest byte, b []byte) (version byte, _ []byte, _ error) {
	n := len(magic)
	if len(b) < n+5 || string(b[:n]) != magic {
		return 0, nil, fmt.Errorf("no %s file: %w", magic, retention.ErrCorrupt)
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return 0, nil, fmt.Errorf("%s file: checksum does not match: %w", magic, retention.ErrCorrupt)
	}
	version, err := versionUpTo(magic, newest, body[n])
	return version, body[n+1:], err
}

// marshal returns the ledger's file. Equal ledgers give equal bytes.
func (l *Ledger) marshal(shards int) ([]byte, error) {
	var b bytes.Buffer
	if err := l.write(&b, shards); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// write writes the ledger's file, and no more than a block of IDs is in memory.
func (l *Ledger) write(to io.Writer, shards int) error {
	version, size := byte(sealVersion), uint64(1024)
	for _, rows := range []map[taxonomy.AudienceID]Held{l.Held, l.Maybe} {
		for _, h := range rows {
			for _, days := range h {
				for _, m := range days {
					m.RunOptimize()
					size += m.GetSerializedSizeInBytes() + 16
				}
			}
		}
	}
	flags := [3]*roaring.Bitmap{
		flagged(l.Outbox, func(r *Removal) *bool { return &r.Forgotten }),
		flagged(l.Outbox, func(r *Removal) *bool { return &r.Again }),
		flagged(l.Said, func(r *Removal) *bool { return &r.Forgotten }),
	}
	if len(l.Maybe) > 0 || len(l.Said) > 0 || !flags[0].IsEmpty() || !flags[1].IsEmpty() {
		version = ledgerVersion
	}
	b := append(append(make([]byte, 0, size), ledgerMagic...), version)
	var sum uint32
	flush := func() error {
		sum = crc32.Update(sum, castagnoli, b)
		_, err := to.Write(b)
		b = b[:0]
		return err
	}
	b, err := appendRows(binary.AppendUvarint(b, uint64(shards)), l.Held, shards)
	if err != nil {
		return err
	}
	if l.IDs == nil {
		b = append(b, 0)
	} else {
		b = append(b, 1)
		for s := range shards {
			var n uint64
			if s < len(l.IDs.who) {
				n = l.IDs.who[s].GetCardinality()
			}
			b = binary.AppendUvarint(b, n)
			var last uint32
			for w := l.IDs.walk(s); w.next(); last = w.ordinal {
				b = appendID(b, w.ordinal-last, w.id)
				if len(b) < flushAt {
					continue
				}
				if err := flush(); err != nil {
					return err
				}
			}
		}
		if err := l.IDs.err(); err != nil {
			return err
		}
	}
	b = appendRemovals(b, l.Outbox)
	if version > sealVersion {
		if b, err = appendRows(b, l.Maybe, shards); err != nil {
			return err
		}
		b = appendRemovals(b, l.Said)
		for _, f := range flags {
			if b, err = appendBitmap(b, f); err != nil {
				return err
			}
		}
	}
	b = binary.LittleEndian.AppendUint32(b, crc32.Update(sum, castagnoli, b))
	_, err = to.Write(b)
	return err
}

func flagged(rs []Removal, flag func(*Removal) *bool) *roaring.Bitmap {
	b := roaring.New()
	for i := range rs {
		if *flag(&rs[i]) {
			b.Add(uint32(i))
		}
	}
	return b
}

func appendRows(b []byte, rows map[taxonomy.AudienceID]Held, shards int) (_ []byte, err error) {
	b = binary.AppendUvarint(b, uint64(len(rows)))
	for _, a := range slices.Sorted(maps.Keys(rows)) {
		b = appendString(b, string(a))
		for s := range shards {
			var days map[taxonomy.Day]*roaring.Bitmap
			if h := rows[a]; s < len(h) {
				days = h[s]
			}
			b = binary.AppendUvarint(b, uint64(len(days)))
			for _, d := range slices.Sorted(maps.Keys(days)) {
				b = binary.AppendVarint(b, int64(d))
				if b, err = appendBitmap(b, days[d]); err != nil {
					return nil, fmt.Errorf("audience %s: %w", a, err)
				}
			}
		}
	}
	return b, nil
}

func appendRemovals(b []byte, rs []Removal) []byte {
	b = binary.AppendUvarint(b, uint64(len(rs)))
	for _, r := range rs {
		b = appendString(b, string(r.Audience))
		b = appendString(b, r.ID)
		b = binary.AppendVarint(b, int64(r.Until))
		b = binary.AppendUvarint(b, uint64(r.Shard))
		b = binary.AppendUvarint(b, uint64(r.Ordinal))
	}
	return b
}

// unmarshalLedger reads a ledger's file that is at hand.
func unmarshalLedger(b []byte) (*Ledger, error) { return openLedger(bytes.NewReader(b), int64(len(b))) }

// openLedger reads a ledger's file of so many bytes, but for the IDs: they stay in
// the file, which must be there for as long as the ledger is used.
func openLedger(file io.ReaderAt, size int64) (*Ledger, error) {
	version, err := checkSeal(ledgerMagic, ledgerVersion, file, size)
	if err != nil {
		return nil, err
	}
	head := int64(len(ledgerMagic)) + 1
	r := reader{at: head, src: io.NewSectionReader(file, head, size-head-4), more: size - head - 4}
	shards := int(r.uvarint(maxShards))
	l := NewLedger()
	r.rows(l.Held, shards)
	if r.uvarint(1) == 1 {
		l.IDs = r.ids(file, shards)
	}
	l.Outbox = r.removals()
	if version >= ledgerVersion {
		r.rows(l.Maybe, shards)
		l.Said = r.removals()
		r.flags(l.Outbox, func(r *Removal) *bool { return &r.Forgotten })
		r.flags(l.Outbox, func(r *Removal) *bool { return &r.Again })
		r.flags(l.Said, func(r *Removal) *bool { return &r.Forgotten })
	}
	if r.err == nil && r.left() != 0 {
		r.fail("bytes behind its end")
	}
	if r.err != nil {
		return nil, r.err
	}
	return l, nil
}

// checkSeal is unsealUpTo for a file that is not in memory.
func checkSeal(magic string, newest byte, file io.ReaderAt, size int64) (version byte, err error) {
	n := int64(len(magic))
	start, sum := make([]byte, n+1), make([]byte, 4)
	if size < n+5 {
		return 0, fmt.Errorf("no %s file: %w", magic, retention.ErrCorrupt)
	}
	if _, err := io.ReadFull(io.NewSectionReader(file, 0, n+1), start); err != nil {
		return 0, err
	}
	if string(start[:n]) != magic {
		return 0, fmt.Errorf("no %s file: %w", magic, retention.ErrCorrupt)
	}
	all := crc32.New(castagnoli)
	if _, err := io.CopyBuffer(all, io.NewSectionReader(file, 0, size-4), make([]byte, min(size, flushAt))); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(io.NewSectionReader(file, size-4, 4), sum); err != nil {
		return 0, err
	}
	if all.Sum32() != binary.LittleEndian.Uint32(sum) {
		return 0, fmt.Errorf("%s file: checksum does not match: %w", magic, retention.ErrCorrupt)
	}
	return versionUpTo(magic, newest, start[n])
}

func versionUpTo(magic string, newest, version byte) (byte, error) {
	if version == 0 || version > newest {
		return 0, fmt.Errorf("%s file: version %d, this program reads up to %d: use the program that wrote it, or a newer one", magic, version, newest)
	}
	return version, nil
}

// ids notes where IDs lie.
func (r *reader) ids(file io.ReaderAt, shards int) *Matched {
	in := &idFile{r: file, shards: make([]idShard, shards)}
	who := make([]*roaring.Bitmap, shards)
	for s := range shards {
		who[s] = roaring.New()
		var last uint64
		for i := range r.uvarint(r.left()) {
			at, before := r.at, uint32(last)
			last += r.uvarint(1<<32 - 1 - last)
			r.take(r.uvarint(maxName))
			if r.err != nil {
				return nil
			}
			if i%blockIDs == 0 {
				in.shards[s].blocks = append(in.shards[s].blocks, idBlock{at: at, first: uint32(last), before: before})
			}
			who[s].Add(uint32(last))
		}
		in.shards[s].end = r.at
	}
	return &Matched{who: who, in: in}
}

func (r *reader) rows(rows map[taxonomy.AudienceID]Held, shards int) {
	for range r.uvarint(r.left()) {
		a, h := taxonomy.AudienceID(r.string()), NewHeld(shards)
		for s := range shards {
			for range r.uvarint(r.left()) {
				d := taxonomy.Day(r.varint())
				h[s][d] = r.bitmap()
				if r.err != nil {
					return
				}
			}
		}
		if r.err != nil {
			return
		}
		rows[a] = h
	}
}

func (r *reader) flags(rs []Removal, flag func(*Removal) *bool) {
	for it := r.bitmap().Iterator(); it.HasNext(); {
		i := it.Next()
		if uint64(i) >= uint64(len(rs)) {
			r.fail("a flag of a removal that is not there")
			return
		}
		*flag(&rs[i]) = true
	}
}

func (r *reader) removals() (rs []Removal) {
	for range r.uvarint(r.left()) {
		m := Removal{Audience: taxonomy.AudienceID(r.string()), ID: r.string(), Until: taxonomy.Day(r.varint())}
		m.Shard, m.Ordinal = int(r.uvarint(maxShards)), uint32(r.uvarint(1<<32-1))
		if r.err != nil {
			return nil
		}
		rs = append(rs, m)
	}
	return rs
}

// marshalMembers writes whose rows a file holds.
func marshalMembers(who []*roaring.Bitmap) ([]byte, error) {
	b := binary.AppendUvarint(nil, uint64(len(who)))
	var err error
	for _, m := range who {
		if b, err = appendBitmap(b, m); err != nil {
			return nil, fmt.Errorf("write members of a file: %w", err)
		}
	}
	return seal(membersMagic, b), nil
}

func unmarshalMembers(b []byte) ([]*roaring.Bitmap, error) {
	body, err := unseal(membersMagic, b)
	if err != nil {
		return nil, err
	}
	r := reader{b: body}
	var who []*roaring.Bitmap
	for range r.uvarint(maxShards) {
		who = append(who, r.bitmap())
		if r.err != nil {
			return nil, r.err
		}
	}
	if r.err == nil && r.left() != 0 {
		r.fail("bytes behind its end")
	}
	return who, r.err
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendBitmap(b []byte, m *roaring.Bitmap) ([]byte, error) {
	if m == nil {
		m = roaring.New()
	}
	m.RunOptimize()
	bytes, err := m.ToBytes()
	if err != nil {
		return nil, err
	}
	return append(binary.AppendUvarint(b, uint64(len(bytes))), bytes...), nil
}

// reader takes values off bytes; after its first error it gives zeros.
type reader struct {
	b    []byte
	err  error
	at   int64     // of b in the file
	src  io.Reader // what comes behind b
	more int64     // how many bytes of it
}

func (r *reader) fail(what string) {
	r.end(fmt.Errorf("delivery ledger: %s: %w", what, retention.ErrCorrupt))
}

func (r *reader) end(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b, r.more = nil, 0
}

// left is how many bytes have not been taken.
func (r *reader) left() uint64 { return uint64(len(r.b)) + uint64(r.more) }

// need brings as many bytes to hand, or all that are left.
func (r *reader) need(n uint64) {
	if uint64(len(r.b)) >= n || r.more == 0 {
		return
	}
	// A new one each time: what was taken is of the old.
	b := make([]byte, min(max(n, flushAt), r.left()))
	k := copy(b, r.b)
	if _, err := io.ReadFull(r.src, b[k:]); err != nil {
		r.end(fmt.Errorf("delivery ledger: %w", err))
		return
	}
	r.b, r.more = b, r.more-int64(len(b)-k)
}

func (r *reader) skip(n int) { r.b, r.at = r.b[n:], r.at+int64(n) }

func (r *reader) uvarint(most uint64) uint64 {
	r.need(binary.MaxVarintLen64)
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > most {
		r.fail("a number is cut off or too large")
		return 0
	}
	r.skip(n)
	return v
}

func (r *reader) varint() int64 {
	r.need(binary.MaxVarintLen64)
	v, n := binary.Varint(r.b)
	if n <= 0 || v != int64(int32(v)) {
		r.fail("a day is cut off or too large")
		return 0
	}
	r.skip(n)
	return v
}

func (r *reader) take(n uint64) []byte {
	if n > r.left() {
		r.fail("cut off")
		return nil
	}
	if r.need(n); r.err != nil {
		return nil
	}
	t := r.b[:n:n]
	r.skip(int(n))
	return t
}

func (r *reader) string() string { return string(r.take(r.uvarint(maxName))) }

func (r *reader) bitmap() *roaring.Bitmap {
	m, b := roaring.New(), r.take(r.uvarint(1<<40))
	if r.err != nil {
		return m
	}
	if err := m.UnmarshalBinary(b); err != nil {
		r.fail("a bitmap is broken")
		return roaring.New()
	}
	if err := m.Validate(); err != nil {
		r.fail("a bitmap is broken")
		return roaring.New()
	}
	return m
}
