package cassandra

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// A pack is the payload of a row of visitor_events: events of one visitor and
// day, as they came in one batch.
//
//	0  'E' 'V' · version u8, 1
//	3  for each event
//	     flags u8: bit 0, Record.First is the ref; bit 1, the writer of the ref
//	     is that of the event before; bit 2, so is the rule version
//	     writer [16], unless bit 1
//	     seq uvarint; with bit 1, varint: less that of the event before
//	     rule version uvarint, unless bit 2
//	     length uvarint, and the record as taxonomy.AppendRecord writes it,
//	     without the visitor, and without First if bit 0
//	   CRC-32C of all before u32, big-endian
const (
	packVersion   = 1
	packHead      = 3
	flagFirst     = 1
	flagSameFrom  = 2
	flagSameRules = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendPack appends the pack of the events of list at the given places.
func appendPack(b []byte, list []retention.StoredEvent, at []int) []byte {
	start := len(b)
	b = append(b, 'E', 'V', packVersion)
	var before taxonomy.Ref
	var rules uint32
	var record []byte
	for k, i := range at {
		e := &list[i]
		r := e.Record
		r.Visitor = taxonomy.VisitorKey{}
		var flags byte
		if r.First == e.Ref {
			flags |= flagFirst
			r.First = taxonomy.Ref{}
		}
		if k > 0 && e.Ref.Writer == before.Writer {
			flags |= flagSameFrom
		}
		if k > 0 && e.RuleVersion == rules {
			flags |= flagSameRules
		}
		b = append(b, flags)
		if flags&flagSameFrom == 0 {
			b = append(b, e.Ref.Writer[:]...)
			b = binary.AppendUvarint(b, e.Ref.Seq)
		} else {
			b = binary.AppendVarint(b, int64(e.Ref.Seq-before.Seq))
		}
		if flags&flagSameRules == 0 {
			b = binary.AppendUvarint(b, uint64(e.RuleVersion))
		}
		record = taxonomy.AppendRecord(record[:0], &r)
		b = binary.AppendUvarint(b, uint64(len(record)))
		b = append(b, record...)
		before, rules = e.Ref, e.RuleVersion
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

var errPack = errors.New("a row of events does not decode")

// decodePack appends the events of a pack of visitor v to list.
func decodePack(list []retention.StoredEvent, b []byte, v taxonomy.VisitorKey) ([]retention.StoredEvent, error) {
	bad := func(why string) ([]retention.StoredEvent, error) {
		return nil, fmt.Errorf("%w: %w: %s", retention.ErrCorrupt, errPack, why)
	}
	if len(b) < packHead+4 || b[0] != 'E' || b[1] != 'V' {
		return bad("no pack")
	}
	if b[2] != packVersion {
		return bad(fmt.Sprintf("version %d; run the version of Ebb that wrote it", b[2]))
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return bad("wrong checksum")
	}
	body = body[packHead:]
	var ref taxonomy.Ref
	var rules uint32
	for first := true; len(body) > 0; first = false {
		flags := body[0]
		body = body[1:]
		if flags&^(flagFirst|flagSameFrom|flagSameRules) != 0 || first && flags&(flagSameFrom|flagSameRules) != 0 {
			return bad("flags")
		}
		if flags&flagSameFrom == 0 {
			if len(body) < 16 {
				return bad("writer")
			}
			ref.Writer = taxonomy.WriterID(body[:16])
			seq, n := binary.Uvarint(body[16:])
			if n <= 0 {
				return bad("seq")
			}
			ref.Seq, body = seq, body[16+n:]
		} else {
			d, n := binary.Varint(body)
			if n <= 0 {
				return bad("seq")
			}
			ref.Seq, body = ref.Seq+uint64(d), body[n:]
		}
		if flags&flagSameRules == 0 {
			u, n := binary.Uvarint(body)
			if n <= 0 || u > 1<<32-1 {
				return bad("rule version")
			}
			rules, body = uint32(u), body[n:]
		}
		length, n := binary.Uvarint(body)
		if n <= 0 || length > uint64(len(body)-n) {
			return bad("length")
		}
		r, rest, err := taxonomy.DecodeRecord(body[n : n+int(length)])
		if err != nil || len(rest) != 0 || r.Event == nil || r.Kind != taxonomy.RecordEvent {
			return bad("record")
		}
		body = body[n+int(length):]
		r.Visitor = v
		if flags&flagFirst != 0 {
			r.First = ref
		}
		if ref.IsZero() {
			return bad("no ref")
		}
		list = append(list, retention.StoredEvent{Record: r, Ref: ref, RuleVersion: rules})
	}
	return list, nil
}
