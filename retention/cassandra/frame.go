package cassandra

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sync"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/klauspost/compress/s2"
)

// The payload of a row of event_log:
//
//	0  'E' 'L' · version u8, 1 · kind u8: 0 records, 1 lost, 2 skipped
//	4  length of the records before compression u32
//	8  records as taxonomy.AppendRecord writes them, by s2; of a lost frame none
//	   CRC-32C of all before, and of writer, group, first, n, time and counts
//
// counts is, for each site, its name (uvarint length, bytes) and number uvarint.
// Both are made from the frame alone, so that whoever writes a frame again
// writes the same bytes (R2).
const (
	frameVersion = 1
	frameHead    = 8
	kindRecords  = 0
	kindLost     = 1
	kindSkipped  = 2
)

func appendCounts(b []byte, counts []retention.SiteCount) []byte {
	for _, c := range counts {
		b = binary.AppendUvarint(b, uint64(len(c.Site)))
		b = append(b, c.Site...)
		b = binary.AppendUvarint(b, c.N)
	}
	return b
}

func decodeCounts(b []byte) (counts []retention.SiteCount, err error) {
	for len(b) > 0 {
		l, n := binary.Uvarint(b)
		if n <= 0 || l > uint64(len(b)-n) {
			return nil, fmt.Errorf("counts of a frame: %w", retention.ErrCorrupt)
		}
		site := taxonomy.SiteID(b[n : n+int(l)])
		b = b[n+int(l):]
		c, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, fmt.Errorf("counts of a frame: %w", retention.ErrCorrupt)
		}
		b = b[n:]
		counts = append(counts, retention.SiteCount{Site: site, N: c})
	}
	return counts, nil
}

func frameSum(f *retention.Frame, counts, payload []byte) uint32 {
	var b [42]byte
	copy(b[:], f.Writer[:])
	binary.BigEndian.PutUint16(b[16:], uint16(f.Group))
	binary.BigEndian.PutUint64(b[18:], f.First)
	binary.BigEndian.PutUint64(b[26:], uint64(f.N))
	binary.BigEndian.PutUint64(b[34:], uint64(f.Time))
	return crc32.Update(crc32.Update(crc32.Checksum(b[:], castagnoli), castagnoli, counts), castagnoli, payload)
}

// encodeFrame returns a frame's counts and payload.
func encodeFrame(f *retention.Frame) (counts, payload []byte) { return encodeRaw(f, nil) }

// encodeRaw is encodeFrame with the records' bytes, if they are known.
func encodeRaw(f *retention.Frame, records []byte) (counts, payload []byte) {
	counts = appendCounts([]byte{}, f.Counts)
	kind := byte(kindRecords)
	scratch := frameScratch.Get().(*[]byte)
	defer frameScratch.Put(scratch)
	raw := (*scratch)[:0]
	if f.Lost {
		kind = kindLost
		if f.Skipped {
			kind = kindSkipped
		}
	} else {
		for i := range f.Records {
			raw = taxonomy.AppendRecord(raw, &f.Records[i])
		}
	}
	*scratch = raw
	if records != nil {
		raw = records
	}
	payload = make([]byte, frameHead+s2.MaxEncodedLen(len(raw))+4)
	payload[0], payload[1], payload[2], payload[3] = 'E', 'L', frameVersion, kind
	binary.BigEndian.PutUint32(payload[4:], uint32(len(raw)))
	n := 0
	if !f.Lost {
		n = len(s2.Encode(payload[frameHead:], raw))
	}
	payload = payload[:frameHead+n]
	return counts, binary.BigEndian.AppendUint32(payload, frameSum(f, counts, payload))
}

// frameScratch holds records before compression: each uploader needs one at a
// time.
var frameScratch = sync.Pool{New: func() any { return new([]byte) }}

// decodeFrame completes a frame that has its place, n and time.
func decodeFrame(f *retention.Frame, counts, payload []byte) error {
	bad := func(why string) error {
		return fmt.Errorf("record %d of writer %s: %w: %s", f.First, f.Writer, retention.ErrCorrupt, why)
	}
	if len(payload) < frameHead+4 || payload[0] != 'E' || payload[1] != 'L' {
		return bad("no frame")
	}
	if payload[2] != frameVersion {
		return bad(fmt.Sprintf("version %d; run the version of Ebb that wrote it", payload[2]))
	}
	body := payload[:len(payload)-4]
	if frameSum(f, counts, body) != binary.BigEndian.Uint32(payload[len(body):]) {
		return bad("wrong checksum")
	}
	var err error
	if f.Counts, err = decodeCounts(counts); err != nil {
		return bad("counts")
	}
	f.Bytes = len(payload)
	if payload[3] == kindLost || payload[3] == kindSkipped {
		f.Lost, f.Skipped = true, payload[3] == kindSkipped
		return nil
	}
	size := binary.BigEndian.Uint32(body[4:])
	if n, err := s2.DecodedLen(body[frameHead:]); err != nil || n != int(size) {
		return bad("length")
	}
	raw, err := s2.Decode(nil, body[frameHead:])
	if err != nil {
		return bad("compression")
	}
	if f.N < 1 || f.N > len(raw) { // a lie must not ask for memory
		return bad("number of records")
	}
	f.Records = make([]taxonomy.Record, f.N)
	for i := range f.Records {
		if f.Records[i], raw, err = taxonomy.DecodeRecord(raw); err != nil {
			return bad("record")
		}
	}
	if len(raw) > 0 {
		return bad("bytes behind the records")
	}
	return nil
}
