package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Manifest is what a partner reads to learn what there is: one full and the
// deltas since, to be applied in this order. After a file was withdrawn it may
// begin with a delta, or be empty, until the next full.
type Manifest struct {
	Destination taxonomy.DestinationID `json:"destination"`
	Generation  uint64                 `json:"generation"`
	AsOf        time.Time              `json:"as_of"`
	Audiences   []AudienceInfo         `json:"audiences"`
	Files       []ManifestFile         `json:"files"`
}

// ManifestFile is a file as the partner sees it.
type ManifestFile struct {
	Name       string    `json:"name"`
	URL        string    `json:"url"` // from the root of the partner listener
	Kind       Kind      `json:"kind"`
	Base       uint64    `json:"base"`
	Generation uint64    `json:"generation"`
	Rows       uint64    `json:"rows"`
	Bytes      int64     `json:"bytes"`
	SHA256     string    `json:"sha256"`
	Created    time.Time `json:"created"` // remaining minutes count from here
	Expires    time.Time `json:"expires"`
}

// FilesPath is where the partner listener serves a destination's manifest, and
// below it the files.
func FilesPath(dest taxonomy.DestinationID) string {
	return "/v1/destinations/" + string(dest) + "/files"
}

// Manifest returns what a destination's partner may pull now. A destination to
// which nothing was delivered has an empty one, of generation 0.
func (d *Deliverer) Manifest(ctx context.Context, dest taxonomy.DestinationID) (Manifest, error) {
	h, err := d.readHead(ctx, dest)
	if err != nil {
		return Manifest{}, fmt.Errorf("manifest of %s: %w", dest, err)
	}
	m := Manifest{
		Destination: dest, Generation: h.Generation, AsOf: h.AsOf.Time(),
		Audiences: append([]AudienceInfo{}, h.Audiences...), Files: []ManifestFile{},
	}
	now := d.o.Now()
	for _, f := range h.Files {
		if now >= f.Expires {
			m.Files = m.Files[:0] // what follows a missing file is of no use
			continue
		}
		m.Files = append(m.Files, ManifestFile{
			f.Name, FilesPath(dest) + "/" + f.Name, f.Kind, f.Base, f.Generation,
			f.Rows, f.Bytes, f.SHA256, f.Created.Time(), f.Expires.Time(),
		})
	}
	return m, nil
}

// The two forms of a manifest, for Accept.
const (
	ManifestJSON = "application/json"
	ManifestTSV  = "text/tab-separated-values"
)

// JSON returns the manifest as JSON.
func (m *Manifest) JSON() ([]byte, error) { return json.Marshal(m) }

// TSV returns the manifest for scripts: a line for each thing, the first column
// saying what it is.
//
//	destination  id
//	generation   number
//	as_of        time
//	audience     id  slug  title  segtax
//	file         name  url  kind  base  generation  rows  bytes  sha256  created  expires
//
// Times are RFC 3339 in UTC to the second. Tabs and line ends within a title
// become spaces.
func (m *Manifest) TSV() []byte {
	var b []byte
	line := func(columns ...string) {
		for i, c := range columns {
			if i > 0 {
				b = append(b, '\t')
			}
			b = append(b, strings.Map(func(r rune) rune {
				if r < ' ' || r == 0x7f {
					return ' '
				}
				return r
			}, c)...)
		}
		b = append(b, '\n')
	}
	number := func(n uint64) string { return strconv.FormatUint(n, 10) }
	stamp := func(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }
	line("destination", string(m.Destination))
	line("generation", number(m.Generation))
	line("as_of", stamp(m.AsOf))
	for _, a := range m.Audiences {
		line("audience", string(a.ID), a.Slug, a.Title, strconv.Itoa(a.Segtax))
	}
	for _, f := range m.Files {
		line("file", f.Name, f.URL, string(f.Kind), number(f.Base), number(f.Generation), number(f.Rows),
			strconv.FormatInt(f.Bytes, 10), f.SHA256, stamp(f.Created), stamp(f.Expires))
	}
	return b
}

// FileState says whether a file may be fetched.
type FileState string

// The states of a file.
const (
	FileServed    FileState = "served"
	FileWithdrawn FileState = "withdrawn" // or replaced, or over: answer 410
	FileUnknown   FileState = "unknown"   // answer 404
)

// Open opens a file for the partner, who may read it at any place; the caller
// closes it. If the state is not FileServed there is no reader. Every name of
// the form that files have and that is not served counts as withdrawn: which
// ones there were is not kept.
func (d *Deliverer) Open(ctx context.Context, dest taxonomy.DestinationID, name string) (retention.BlobReader, File, FileState, error) {
	for range 2 {
		h, err := d.readHead(ctx, dest)
		if err != nil {
			return nil, File{}, "", fmt.Errorf("open a file of %s: %w", dest, err)
		}
		i := slices.IndexFunc(h.Files, func(f File) bool { return f.Name == name })
		if i < 0 || d.o.Now() >= h.Files[i].Expires {
			if _, ok := parseName(name); ok && h.Seq > 0 {
				return nil, File{}, FileWithdrawn, nil
			}
			return nil, File{}, FileUnknown, nil
		}
		r, err := d.o.Blobs.Open(ctx, folder(dest)+"/"+name)
		if errors.Is(err, retention.ErrNotFound) {
			continue // replaced since the head was read: look again
		}
		if err != nil {
			return nil, File{}, "", fmt.Errorf("open a file of %s: %w", dest, err)
		}
		return r, h.Files[i], FileServed, nil
	}
	return nil, File{}, "", fmt.Errorf("open a file of %s: the head names it, but it is not there: %w; `ebb deliver` with a new generation makes a full", dest, retention.ErrCorrupt)
}

// Deliveries returns the last deliveries to a destination, the newest first.
func (d *Deliverer) Deliveries(ctx context.Context, dest taxonomy.DestinationID) ([]Delivery, error) {
	h, err := d.readHead(ctx, dest)
	if err != nil {
		return nil, fmt.Errorf("deliveries to %s: %w", dest, err)
	}
	runs := slices.Clone(h.Runs)
	slices.Reverse(runs)
	return runs, nil
}
