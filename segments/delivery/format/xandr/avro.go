package xandr

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"github.com/klauspost/compress/flate"

	"github.com/ebb-dmp/ebb/segments/delivery"
)

// schema is Xandr's, as github.com/milla-v/xandr has it (MIT): it is written at
// the head of each file, and readers go by it.
//
//go:embed xandr_schema.avsc
var schema []byte

// The places in the schema's union of user IDs.
const (
	unionANID       = 0
	unionExternalID = 4
)

// blockBytes is how large a block gets before it is packed.
const blockBytes = 64 << 10

// Avro is the Avro format. The zero value is ready.
type Avro struct{}

var (
	_ delivery.Format  = Avro{}
	_ delivery.Checker = Avro{}
	_ delivery.IDTaker = Avro{}
)

// Facts are those of avro.yaml.
func (Avro) Facts() delivery.FormatFacts {
	f := knownAvro.Format()
	f.ByID = true
	return f
}

// TakesID reports whether an ID can stand in a record.
func (Avro) TakesID(kind delivery.IDs, id string) bool { return TakesID(kind, id) }

// Check looks at the account and the names of segments.
func (Avro) Check(d *delivery.Destination) error { return errors.Join(check(d, &knownAvro)...) }

// New begins a file: an Avro object container with deflated blocks.
func (Avro) New(f delivery.FileInfo) delivery.Encoder {
	e := &avro{info: f}
	// Any 16 bytes will do that are unlikely within a file; the same for the same
	// delivery, since a format has no randomness.
	sum := sha256.Sum256(fmt.Appendf(nil, "ebb avro\n%s\n%d\n%d", f.Destination, f.Serial, f.Created))
	copy(e.sync[:], sum[:])
	e.deflate, _ = flate.NewWriter(&e.packed, 1) // 1 is a level
	return e
}

type avro struct {
	info     delivery.FileInfo
	begun    bool
	sync     [16]byte
	id       string
	n        int    // segments of the record
	segments []byte // of the record
	records  int    // of the block
	block    []byte
	packed   bytes.Buffer
	deflate  *flate.Writer
}

func appendBytes(b []byte, s string) []byte {
	return append(binary.AppendVarint(b, int64(len(s))), s...)
}

func (e *avro) begin(dst []byte) []byte {
	if e.begun {
		return dst
	}
	e.begun = true
	dst = append(dst, 'O', 'b', 'j', 1)
	dst = binary.AppendVarint(dst, 2) // a map of two
	dst = appendBytes(appendBytes(dst, "avro.codec"), "deflate")
	dst = appendBytes(appendBytes(dst, "avro.schema"), string(schema))
	dst = append(dst, 0)
	return append(dst, e.sync[:]...)
}

// Append gathers segments of an ID, and writes its record when the next comes.
func (e *avro) Append(dst []byte, run delivery.Run, ids []string) ([]byte, error) {
	dst = e.begin(dst)
	s, err := say(&e.info, run, &knownAvro, true)
	if err != nil {
		return dst, err
	}
	for _, id := range ids {
		if !TakesID(e.info.IDs, id) {
			return dst, fmt.Errorf("xandr: an ID of audience %s is none of theirs", run.Audience)
		}
		if id != e.id || e.n == knownAvro.Limits["segments"] {
			if err := e.end(); err != nil {
				return dst, err
			}
			e.id = id
		}
		e.n++
		b := binary.AppendVarint(e.segments, s.id)
		b = appendBytes(b, s.name)
		b = binary.AppendVarint(b, s.member)
		b = binary.AppendVarint(b, s.expiration)
		b = binary.AppendVarint(b, s.timestamp)
		e.segments = binary.AppendVarint(b, 0) // value
		if len(e.block)+len(e.segments) >= blockBytes && e.records > 0 {
			if dst, err = e.pack(dst); err != nil {
				return dst, err
			}
		}
	}
	return dst, nil
}

// end puts the record of the ID into the block.
func (e *avro) end() error {
	if e.n == 0 {
		return nil
	}
	if e.info.IDs == delivery.ByMatch {
		anid, err := strconv.ParseInt(e.id, 10, 64)
		if err != nil {
			return errors.New("xandr: an ID is no number")
		}
		e.block = binary.AppendVarint(binary.AppendVarint(e.block, unionANID), anid)
	} else {
		member, err := strconv.ParseInt(e.info.Account[MemberID], 10, 32)
		if err != nil {
			return errors.New("xandr: the account has no member's number")
		}
		e.block = appendBytes(binary.AppendVarint(e.block, unionExternalID), e.id)
		e.block = binary.AppendVarint(e.block, member)
	}
	e.block = binary.AppendVarint(e.block, int64(e.n))
	e.block = append(append(e.block, e.segments...), 0)
	e.records++
	e.n, e.segments = 0, e.segments[:0]
	return nil
}

// pack writes the block.
func (e *avro) pack(dst []byte) ([]byte, error) {
	if e.records == 0 {
		return dst, nil
	}
	e.packed.Reset()
	e.deflate.Reset(&e.packed)
	_, err := e.deflate.Write(e.block)
	if err = errors.Join(err, e.deflate.Close()); err != nil {
		return dst, fmt.Errorf("xandr: pack a block: %w", err)
	}
	dst = binary.AppendVarint(dst, int64(e.records))
	dst = binary.AppendVarint(dst, int64(e.packed.Len()))
	dst = append(append(dst, e.packed.Bytes()...), e.sync[:]...)
	e.records, e.block = 0, e.block[:0]
	return dst, nil
}

// Close writes the last block.
func (e *avro) Close(dst []byte) ([]byte, error) {
	dst = e.begin(dst)
	if err := e.end(); err != nil {
		return dst, err
	}
	return e.pack(dst)
}
