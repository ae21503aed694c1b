package taxonomy

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// VisitorKey is the only identifier of a visitor behind the edge: the first 16
// bytes of HMAC-SHA-256(store key, space ‖ 0 ‖ ID). See taxonomy/keys. It is
// pseudonymous, and it must never be logged or shown.
type VisitorKey [16]byte

// IsZero reports whether k is no key at all.
func (k VisitorKey) IsZero() bool { return k == VisitorKey{} }

// Shard returns the shard of k among n: the key is already a keyed hash, so its
// first bytes serve. n is fixed when a data directory or cluster is made.
func (k VisitorKey) Shard(n int) int {
	return int(binary.BigEndian.Uint32(k[:4]) % uint32(n))
}

// EventID identifies one event of one visitor: a keyed hash of what the caller
// gave as its id (taxonomy/keys), since a caller may put anything there.
type EventID [16]byte

// Space is the kind of an ID: "cookie", "device", "partner:<name>" or
// "own:<name>". Only authenticated callers use another space than "cookie".
type Space string

// SpaceCookie is the space of the signed cookie's IDs.
const SpaceCookie Space = "cookie"

// The names by which ad ops know things. Each is a slug: 1 to 64 of a-z, 0-9,
// '-', '_' and '.', beginning with a letter or digit (CheckSlug).
type (
	SiteID        string
	SourceID      string
	DestinationID string
	AudienceID    string
	ListID        string
)

// CheckSlug returns an error that names what is wrong with s as an identifier.
func CheckSlug(what, s string) error {
	if s == "" {
		return fmt.Errorf("%s: must not be empty", what)
	}
	if len(s) > 64 {
		return fmt.Errorf("%s %.20q…: %d bytes long, at most 64", what, s, len(s))
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		ok := c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || i > 0 && (c == '-' || c == '_' || c == '.')
		if !ok {
			return fmt.Errorf("%s %q: character %q at byte %d; use a-z, 0-9, '-', '_' and '.', beginning with a letter or digit", what, s, c, i)
		}
	}
	return nil
}

// WriterID names one start of one process that appends to the log (R1). It is
// random and never used again.
type WriterID [16]byte

func (w WriterID) String() string { return hex.EncodeToString(w[:]) }

// IsZero reports whether w names no writer.
func (w WriterID) IsZero() bool { return w == WriterID{} }

// ParseWriterID reads the 32 hex digits that String gives.
func ParseWriterID(s string) (w WriterID, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(w) {
		return w, fmt.Errorf("writer %q: want 32 hex digits", s)
	}
	copy(w[:], b)
	return w, nil
}

// MarshalText gives 32 hex digits.
func (w WriterID) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// UnmarshalText reads 32 hex digits.
func (w *WriterID) UnmarshalText(b []byte) (err error) {
	*w, err = ParseWriterID(string(b))
	return err
}

// Group is a set of shards folded by one node. One group, 0, is the default.
type Group uint16

// GroupOf returns the group of a shard when there are n groups.
func GroupOf(shard, n int) Group { return Group(shard % n) }

// Ref is the place of a record in the log: its writer and its number there.
// Records of a writer and group are numbered 1, 2, 3, … without holes (R1).
type Ref struct {
	Writer WriterID
	Seq    uint64
}

// IsZero reports whether r is no place.
func (r Ref) IsZero() bool { return r == Ref{} }

// Compare orders refs by writer, then by seq: the total order that ties fall
// back on where no time decides (R10).
func (r Ref) Compare(o Ref) int {
	for i := range r.Writer {
		if r.Writer[i] != o.Writer[i] {
			return int(r.Writer[i]) - int(o.Writer[i])
		}
	}
	switch {
	case r.Seq < o.Seq:
		return -1
	case r.Seq > o.Seq:
		return 1
	}
	return 0
}
