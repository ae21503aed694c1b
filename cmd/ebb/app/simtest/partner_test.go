package simtest

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// dsp is a partner that pulls, applies what it pulled, and forgets what has
// ended.
type dsp struct {
	id      taxonomy.DestinationID
	key     string
	full    string // the full that it began with
	applied string // the last file that it applied
	at      uint64 // generation of that
	holds   map[row]taxonomy.Millis
}

// row is an ID in an audience.
type row struct{ id, audience string }

func newDSP(id taxonomy.DestinationID) *dsp {
	return &dsp{id: id, key: delivery.KeyPrefix + "simulated-" + string(id), holds: map[row]taxonomy.Millis{}}
}

func (w *world) file(d *dsp, path string) (int, []byte) {
	rec := w.get(tagserver.Partner, path, "Authorization", "Bearer "+d.key)
	return rec.Code, rec.Body.Bytes()
}

// pull brings the partner's copy up to what is published.
func (w *world) pull(d *dsp) error {
	code, b := w.file(d, delivery.FilesPath(d.id))
	var m delivery.Manifest
	if code != http.StatusOK {
		return fmt.Errorf("manifest: %d %s", code, b)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	files := m.Files
	for i, f := range files {
		if f.Name == d.applied && (files[0].Kind == delivery.Delta || files[0].Name == d.full) {
			files = files[i+1:]
			break
		}
	}
	for _, f := range files {
		if f.Kind == delivery.Delta && f.Base != d.at {
			return nil // its base was withdrawn; a full will follow
		}
		code, b := w.file(d, f.URL)
		if code != http.StatusOK {
			return fmt.Errorf("file %s of the manifest: %d %s", f.Name, code, b)
		}
		if int64(len(b)) < f.Bytes {
			return fmt.Errorf("file %s was cut short: %d of %d bytes", f.Name, len(b), f.Bytes) // and no connection takes it for whole
		}
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != f.SHA256 {
			return fmt.Errorf("P8: file %s does not hash to what the manifest says", f.Name)
		}
		if err := d.apply(f, b); err != nil {
			return fmt.Errorf("file %s: %w", f.Name, err)
		}
	}
	for r, ends := range d.holds {
		if ends <= w.now() {
			delete(d.holds, r)
		}
	}
	return nil
}

func (d *dsp) apply(f delivery.ManifestFile, b []byte) error {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return err
	}
	text, err := io.ReadAll(z)
	if err != nil {
		return err
	}
	if f.Kind == delivery.Full {
		clear(d.holds)
		d.full = f.Name
	}
	n := uint64(0)
	for line := range strings.Lines(string(text)) {
		c := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(c) != 4 {
			return fmt.Errorf("a line has %d columns", len(c))
		}
		n++
		minutes, err := strconv.Atoi(c[3])
		if err != nil {
			return err
		}
		r := row{c[0], c[1]}
		switch {
		case c[2] == "-":
			delete(d.holds, r)
		case c[2] == "+" && minutes > 0:
			d.holds[r] = taxonomy.MillisOf(f.Created) + taxonomy.Millis(minutes)*taxonomy.Minute
		default:
			return fmt.Errorf("a line says %q, %d minutes", c[2], minutes)
		}
	}
	if n != f.Rows {
		return fmt.Errorf("%d rows, the manifest says %d", n, f.Rows)
	}
	d.applied, d.at = f.Name, f.Generation
	return nil
}

// gunzip unpacks b if it is gzip.
func gunzip(b []byte) ([]byte, bool) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, false
	}
	plain, err := io.ReadAll(z)
	return plain, err == nil
}
