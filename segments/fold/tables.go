package fold

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// The tables of the state and their bytes. Integers in keys are big endian, so
// that the order of bytes is the order of numbers. The layouts are part of the
// format of runs.

// erasure is that a key was erased, kept under HMAC(erasure key, visitor key).
type erasure struct {
	space taxonomy.Space
	at    taxonomy.Millis   // the newest erasure's receipt; 0 if there was none
	optin []taxonomy.Millis // authenticated opt-ins, rising (R24)
}

// covers reports whether a record received then is dropped: it came before the
// newest erasure, or after it without an opt-in in between.
func (e *erasure) covers(received taxonomy.Millis) bool {
	if e.at == 0 {
		return false
	}
	if received <= e.at {
		return true
	}
	for _, o := range e.optin {
		if o > e.at && o <= received {
			return false
		}
	}
	return true
}

type succession struct {
	old taxonomy.VisitorKey
	at  taxonomy.Millis
}

// claimKey is that a destination was seen to know a visitor by an ID; the value
// is when, at the latest.
type claimKey struct {
	dest    taxonomy.DestinationID
	visitor taxonomy.VisitorKey
	id      string
}

// importChunk is 4,096 rows of an import.
type importChunk struct {
	file  [16]byte
	chunk uint32
}

// statementPlace is where one statement of a day is newest.
type statementPlace struct {
	visitor taxonomy.VisitorKey
	day     taxonomy.Day
	source  taxonomy.SourceID
	key     string
}

type statement struct {
	at    taxonomy.Millis
	id    taxonomy.EventID
	trait taxonomy.Trait
}

var counterCodec = codec[taxonomy.SiteID, *Tally]{
	key:   func(b []byte, k taxonomy.SiteID) []byte { return append(b, k...) },
	unkey: func(b []byte) (taxonomy.SiteID, error) { return taxonomy.SiteID(b), nil },
	val: func(b []byte, t *Tally) []byte {
		b = binary.AppendUvarint(b, t.Received)
		b = binary.AppendUvarint(b, t.Stored)
		b = binary.AppendUvarint(b, t.Duplicate)
		for _, m := range []map[taxonomy.Reason]uint64{t.Rejected, t.Dropped} {
			b = binary.AppendUvarint(b, uint64(len(m)))
			for _, r := range slices.Sorted(maps.Keys(m)) {
				b = appendText(b, string(r))
				b = binary.AppendUvarint(b, m[r])
			}
		}
		return b
	},
	unval: func(b []byte) (*Tally, error) {
		d := fields{b: b}
		t := &Tally{Received: d.uvarint(), Stored: d.uvarint(), Duplicate: d.uvarint(),
			Rejected: map[taxonomy.Reason]uint64{}, Dropped: map[taxonomy.Reason]uint64{}}
		for _, m := range []map[taxonomy.Reason]uint64{t.Rejected, t.Dropped} {
			for n := d.uvarint(); n > 0 && d.err == nil; n-- {
				r := taxonomy.Reason(d.text())
				m[r] = d.uvarint()
			}
		}
		return t, d.end()
	},
}

var erasedCodec = codec[[16]byte, erasure]{
	key:   func(b []byte, k [16]byte) []byte { return append(b, k[:]...) },
	unkey: func(b []byte) (k [16]byte, err error) { return k, exactly(k[:], b) },
	val: func(b []byte, e erasure) []byte {
		b = appendText(b, string(e.space))
		b = binary.AppendVarint(b, int64(e.at))
		for _, o := range e.optin {
			b = binary.AppendVarint(b, int64(o))
		}
		return b
	},
	unval: func(b []byte) (e erasure, err error) {
		d := fields{b: b}
		e.space, e.at = taxonomy.Space(d.text()), taxonomy.Millis(d.varint())
		for len(d.b) > 0 && d.err == nil {
			e.optin = append(e.optin, taxonomy.Millis(d.varint()))
		}
		return e, d.end()
	},
}

var succeedsCodec = codec[taxonomy.VisitorKey, succession]{
	key:   func(b []byte, k taxonomy.VisitorKey) []byte { return append(b, k[:]...) },
	unkey: func(b []byte) (k taxonomy.VisitorKey, err error) { return k, exactly(k[:], b) },
	val: func(b []byte, s succession) []byte {
		return binary.AppendVarint(append(b, s.old[:]...), int64(s.at))
	},
	unval: func(b []byte) (s succession, err error) {
		d := fields{b: b}
		d.copy(s.old[:])
		s.at = taxonomy.Millis(d.varint())
		return s, d.end()
	},
}

// appendClaim appends the key of a claim in a run: the destination with its length,
// the visitor, the ID.
func appendClaim(b []byte, dest taxonomy.DestinationID, v taxonomy.VisitorKey, id []byte) []byte {
	return append(append(appendText(b, string(dest)), v[:]...), id...)
}

// cutClaim is the reverse. The destination and the ID share memory with the key.
func cutClaim(b []byte) (dest []byte, v taxonomy.VisitorKey, id []byte, err error) {
	d := fields{b: b}
	dest = d.bytes()
	d.copy(v[:])
	return dest, v, d.b, d.err
}

func claimVal(at taxonomy.Millis) []byte { return binary.AppendVarint(nil, int64(at)) }

// importCodec's chunk number 2^32-1 holds no rows but the day of the first
// receipt, from which the life of the bitmap counts.
var importCodec = codec[importChunk, *[512]byte]{
	key: func(b []byte, k importChunk) []byte {
		return binary.BigEndian.AppendUint32(append(b, k.file[:]...), k.chunk)
	},
	unkey: func(b []byte) (k importChunk, err error) {
		if len(b) != 20 {
			return k, fmt.Errorf("%w: key of an import has %d bytes", retention.ErrCorrupt, len(b))
		}
		copy(k.file[:], b)
		k.chunk = binary.BigEndian.Uint32(b[16:])
		return k, nil
	},
	val:   func(b []byte, v *[512]byte) []byte { return append(b, v[:]...) },
	unval: func(b []byte) (*[512]byte, error) { v := new([512]byte); return v, exactly(v[:], b) },
}

var statementCodec = codec[statementPlace, statement]{
	key: func(b []byte, k statementPlace) []byte {
		b = binary.BigEndian.AppendUint32(b, uint32(k.day)^1<<31)
		b = append(b, k.visitor[:]...)
		return append(appendText(b, string(k.source)), k.key...)
	},
	unkey: func(b []byte) (k statementPlace, err error) {
		if len(b) < 20 {
			return k, fmt.Errorf("%w: key of a statement is cut short", retention.ErrCorrupt)
		}
		k.day = taxonomy.Day(int32(binary.BigEndian.Uint32(b) ^ 1<<31))
		copy(k.visitor[:], b[4:])
		d := fields{b: b[20:]}
		k.source = taxonomy.SourceID(d.text())
		k.key = string(d.b)
		return k, d.err
	},
	val: func(b []byte, s statement) []byte {
		b = binary.AppendVarint(b, int64(s.at))
		b = append(b, s.id[:]...)
		return append(b, s.trait...)
	},
	unval: func(b []byte) (s statement, err error) {
		d := fields{b: b}
		s.at = taxonomy.Millis(d.varint())
		d.copy(s.id[:])
		s.trait = taxonomy.Trait(d.b)
		return s, d.err
	},
}

// visitorKeyBytes is the key of an ordinal in the visitors' runs: shard u16,
// ordinal u32, both big endian.
func visitorKeyBytes(shard int, o uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(nil, uint16(shard)), o)
}

func visitorVal(v *visitor, consents []taxonomy.Consent) []byte {
	b := append(make([]byte, 0, 64), v.key[:]...)
	b = binary.AppendVarint(b, int64(v.adopted))
	b = binary.AppendVarint(b, int64(v.consentAt))
	b = binary.AppendVarint(b, int64(v.newest))
	b = append(b, v.flags)
	return taxonomy.AppendConsent(b, &consents[v.consent])
}

// loadVisitor takes an entry of a run of visitors; shard.loaded follows the last.
func (s *State) loadVisitor(key, val []byte) error {
	if len(key) != 6 {
		return fmt.Errorf("%w: key of a visitor has %d bytes", retention.ErrCorrupt, len(key))
	}
	n, o := int(binary.BigEndian.Uint16(key)), binary.BigEndian.Uint32(key[2:])
	if n >= len(s.shards) || s.shards[n] == nil {
		return fmt.Errorf("%w: a visitor of shard %d in a checkpoint of group %d", retention.ErrCorrupt, n, s.cfg.Group)
	}
	sh := s.shards[n]
	sh.visitors.grow(o + 1)
	v := sh.visitors.edit(o)
	d := fields{b: val}
	d.copy(v.key[:])
	v.adopted, v.consentAt = taxonomy.Millis(d.varint()), taxonomy.Millis(d.varint())
	v.newest = taxonomy.Day(d.varint())
	v.flags = d.byte()
	if d.err != nil {
		return d.err
	}
	c, err := s.consents.load(d.b)
	v.consent = c
	return err
}

// unloadVisitor takes a removed entry: the ordinal stays used.
func (s *State) unloadVisitor(key []byte) error {
	if len(key) != 6 {
		return fmt.Errorf("%w: key of a visitor has %d bytes", retention.ErrCorrupt, len(key))
	}
	n, o := int(binary.BigEndian.Uint16(key)), binary.BigEndian.Uint32(key[2:])
	if n >= len(s.shards) || s.shards[n] == nil {
		return fmt.Errorf("%w: a visitor of shard %d in a checkpoint of group %d", retention.ErrCorrupt, n, s.cfg.Group)
	}
	sh := s.shards[n]
	sh.visitors.grow(o + 1)
	*sh.visitors.edit(o) = visitor{flags: isDropped}
	return nil
}

// loaded makes what follows from the visitors, when the last run is loaded: a later
// run may know of one that it was forgotten, or has gone.
func (sh *shard) loaded() {
	n := 0
	for o := range sh.visitors.n {
		v := sh.visitors.at(o)
		if !v.key.IsZero() {
			n++
		}
		if v.flags&isGone != 0 {
			sh.gone.Add(o)
		}
	}
	sh.ids = idMap{}
	sh.ids.reserve(n, &sh.visitors)
	for o := range sh.visitors.n {
		if !sh.visitors.at(o).key.IsZero() {
			sh.ids.add(o, &sh.visitors)
		}
	}
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func exactly(dst, b []byte) error {
	if len(b) != len(dst) {
		return fmt.Errorf("%w: %d bytes where %d belong", retention.ErrCorrupt, len(b), len(dst))
	}
	copy(dst, b)
	return nil
}

// fields takes fields off the front of b; the first fault stays.
type fields struct {
	b   []byte
	err error
}

func (d *fields) fail() {
	if d.err == nil {
		d.err = fmt.Errorf("%w: checkpoint entry is cut short", retention.ErrCorrupt)
	}
	d.b = nil
}

func (d *fields) end() error {
	if d.err == nil && len(d.b) != 0 {
		return fmt.Errorf("%w: bytes behind a checkpoint entry", retention.ErrCorrupt)
	}
	return d.err
}

func (d *fields) byte() byte {
	if len(d.b) < 1 {
		d.fail()
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *fields) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *fields) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *fields) text() string { return string(d.bytes()) }

// bytes is a text that shares memory with the entry.
func (d *fields) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *fields) copy(dst []byte) {
	if len(d.b) < len(dst) {
		d.fail()
		return
	}
	copy(dst, d.b)
	d.b = d.b[len(dst):]
}
