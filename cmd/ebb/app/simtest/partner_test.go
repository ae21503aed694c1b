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

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/deliverytest"
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
	return d.pull(w.now(), func(path string) ([]byte, error) {
		code, b := w.file(d, path)
		if code != http.StatusOK {
			return nil, fmt.Errorf("answer %d: %s", code, b)
		}
		return b, nil
	})
}

// pull brings its copy up to what is published where read reads.
func (d *dsp) pull(now taxonomy.Millis, read func(path string) ([]byte, error)) error {
	b, err := read(delivery.FilesPath(d.id))
	var m delivery.Manifest
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
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
			break // its base was withdrawn; a full will follow
		}
		b, err := read(f.URL)
		if err != nil {
			return fmt.Errorf("file %s of the manifest: %w", f.Name, err)
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
		if ends <= now {
			delete(d.holds, r)
		}
	}
	return nil
}

func (d *dsp) apply(f delivery.ManifestFile, b []byte) error {
	rows, err := deliverytest.ReadRows(bytes.NewReader(b))
	if err != nil {
		return err
	}
	if uint64(len(rows)) != f.Rows {
		return fmt.Errorf("%d rows, the manifest says %d", len(rows), f.Rows)
	}
	if f.Kind == delivery.Full {
		clear(d.holds)
		d.full = f.Name
	}
	for _, r := range rows {
		if r.Remove {
			delete(d.holds, row{r.ID, r.Audience})
		} else {
			d.holds[row{r.ID, r.Audience}] = taxonomy.MillisOf(f.Created) + taxonomy.Millis(r.Minutes)*taxonomy.Minute
		}
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
