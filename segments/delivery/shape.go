package delivery

import (
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Namer may be implemented by a format whose receiver reads the names of files.
type Namer interface {
	// Name returns the name of a part: from 0 to of-1, with the same f for all
	// of a delivery. No two parts, and no two deliveries, have the same: of the
	// latter f.Serial differs.
	Name(f FileInfo, part, of int) string
}

// IDTaker may be implemented by a format that cannot write every ID. Whoever has
// one that it does not take counts as not matched: an ID comes from outside, and
// one that is none must not keep all others from being sent.
type IDTaker interface {
	TakesID(kind IDs, id string) bool
}

// Controller may be implemented by a format whose receiver wants a file beside
// the parts that lists them. It is sent when all of them have been taken.
type Controller interface {
	// Control returns the name and bytes of that file. parts has at least one.
	Control(f FileInfo, parts []Part) (name string, body []byte, err error)
}

// Liner may be implemented by an encoder of lines, for a Controller that counts
// them.
type Liner interface {
	// Lines is how many lines have been written since the encoder began.
	Lines() uint64
}

// Part is a chunk, as a control file lists it.
type Part struct {
	Name   string
	Rows   uint64 // (ID, audience)
	Lines  uint64 // Rows, unless the encoder is a Liner
	Bytes  int64
	SHA256 [32]byte
	MD5    [16]byte
}

// Segment returns the receiver's name of an audience: what the destination says,
// or the audience's own ID.
func (f *FileInfo) Segment(a taxonomy.AudienceID) string {
	if s, ok := f.Segments[a]; ok {
		return s
	}
	return string(a)
}

// manifestOf is the control file for transports that want one where the format
// has none: what a receiver needs to know that it has everything.
func manifestOf(f FileInfo, stem string, parts []Part) (string, []byte, error) {
	type file struct {
		Name   string `json:"name"`
		Rows   uint64 `json:"rows"`
		Bytes  int64  `json:"bytes"`
		SHA256 string `json:"sha256"`
	}
	m := struct {
		Destination taxonomy.DestinationID `json:"destination"`
		Kind        Kind                   `json:"kind"`
		Generation  uint64                 `json:"generation"`
		Created     string                 `json:"created"`
		Files       []file                 `json:"files"`
	}{f.Destination, f.Kind, f.Generation, f.Created.Time().UTC().Format("2006-01-02T15:04:05Z"), nil}
	for _, p := range parts {
		m.Files = append(m.Files, file{p.Name, p.Rows, p.Bytes, hex.EncodeToString(p.SHA256[:])})
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return "", nil, fmt.Errorf("write manifest: %w", err)
	}
	return stem + "-manifest.json", append(b, '\n'), nil
}

// takenBy is the source as a format can write it.
func (s *Source) takenBy(f Format) *Source {
	with := *s
	with.taker, _ = f.(IDTaker)
	return &with
}
