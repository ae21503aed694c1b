// Package backup is the form of a backup: one tar file, the manifest first, then
// the files of a data directory in the manifest's order.
//
// Everything of it is checked. The manifest carries its own SHA-256 and that of
// each file, and headers, padding and end are compared with what Write writes
// there. So a byte that changed is found wherever it stands, and the file that
// is bad is named; reading goes on behind it.
package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/retention"
)

// Format is the version that Write writes, and the newest that is read.
const Format = 1

// manifestName is the first entry of the archive: the line
// "ebb-backup VERSION SHA-256 of what follows", then JSON.
const (
	manifestName  = "MANIFEST"
	manifestMagic = "ebb-backup"
	maxManifest   = 64 << 20
)

// Manifest says what a backup holds. It names keys by ID and no visitor.
type Manifest struct {
	// Created is when the data was as it is in here.
	Created time.Time `json:"created"`
	// DataFormat is the format of the data directory.
	DataFormat int `json:"data_format"`
	// Epoch is the number of restores before (R29).
	Epoch uint64 `json:"epoch"`
	// Keys are the IDs of the keys on which the data depends (R29, R30).
	Keys []string `json:"keys"`
	// Checkpoint and Position are the committed checkpoint in here and what it
	// covers. The log in here may reach further.
	Checkpoint uint64             `json:"checkpoint"`
	Position   retention.Position `json:"position"`
	Files      []File             `json:"files"`
}

// File is a file in a backup.
type File struct {
	Name   string `json:"name"` // with slashes, below the data directory
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Bytes is the sum of the files.
func (m *Manifest) Bytes() (n int64) {
	for i := range m.Files {
		n += m.Files[i].Bytes
	}
	return n
}

func (m *Manifest) encode() ([]byte, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("print the manifest: %w", err)
	}
	sum := sha256.Sum256(b)
	return append(fmt.Appendf(nil, "%s %d %s\n", manifestMagic, Format, hex.EncodeToString(sum[:])), b...), nil
}

func parseManifest(b []byte) (*Manifest, error) {
	line, rest, ok := bytes.Cut(b, []byte("\n"))
	var version int
	var want string
	if n, _ := fmt.Sscanf(string(line), manifestMagic+" %d %s", &version, &want); !ok || n != 2 {
		return nil, fmt.Errorf("%w: it is no manifest of a backup", retention.ErrCorrupt)
	}
	if version > Format {
		return nil, fmt.Errorf("the backup is of format %d, this program reads up to %d: run the newer ebb that wrote it", version, Format)
	}
	if sum := sha256.Sum256(rest); hex.EncodeToString(sum[:]) != want || string(line) != fmt.Sprintf("%s %d %s", manifestMagic, version, want) {
		return nil, fmt.Errorf("%w: it does not match its SHA-256", retention.ErrCorrupt)
	}
	m := new(Manifest)
	if err := json.Unmarshal(rest, m); err != nil {
		return nil, fmt.Errorf("%w: %w", retention.ErrCorrupt, err)
	}
	seen := map[string]bool{}
	for i := range m.Files {
		f := &m.Files[i]
		if f.Bytes < 0 || seen[f.Name] || !allowed(f.Name) {
			return nil, fmt.Errorf("%w: it lists %.100q, which no backup holds", retention.ErrCorrupt, f.Name)
		}
		seen[f.Name] = true
	}
	return m, nil
}

// parts are what of a data directory is in a backup: not its lock, and not the
// journal of erasures, which must be newer than any backup.
var parts = []string{"FORMAT", "db", "blobs", "log"}

// allowed reports whether a backup may hold a file of that name. A signature is
// none of a manifest's checks, so it must not be able to write elsewhere.
func allowed(name string) bool {
	if name != path.Clean(name) || strings.ContainsAny(name, "\\\x00") {
		return false
	}
	top, rest, below := strings.Cut(name, "/")
	for _, p := range parts {
		if top == p {
			return below == (p != "FORMAT") && (!below || rest != "")
		}
	}
	return false
}
