package partner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

type files struct{}

type blob struct {
	*bytes.Reader
	b retention.Blob
}

func (blob) Close() error           { return nil }
func (b blob) Blob() retention.Blob { return b.b }

var content = []byte("a segment file of twenty-eight.")

func (files) Manifest(_ context.Context, d taxonomy.DestinationID) (delivery.Manifest, error) {
	return delivery.Manifest{Destination: d, Generation: 7, Audiences: []delivery.AudienceInfo{}, Files: []delivery.ManifestFile{}}, nil
}

func (files) Open(_ context.Context, _ taxonomy.DestinationID, name string) (retention.BlobReader, delivery.File, delivery.FileState, error) {
	switch name {
	case "here":
		return blob{bytes.NewReader(content), retention.Blob{Bytes: int64(len(content))}}, delivery.File{Name: name, SHA256: "abc"}, delivery.FileServed, nil
	case "gone":
		return nil, delivery.File{}, delivery.FileWithdrawn, nil
	case "bad":
		return nil, delivery.File{}, "", fmt.Errorf("open: %w", retention.ErrCorrupt)
	}
	return nil, delivery.File{}, delivery.FileUnknown, nil
}

func TestAPartnerSeesItsOwnFilesOnly(t *testing.T) {
	o := Options{Files: files{}, KeyHash: func(d taxonomy.DestinationID) (string, bool) {
		return delivery.HashKey("ebbp_" + string(d)), d == "dsp" || d == "other"
	}}
	e := echo.New()
	guard := Guard(o)
	for _, r := range Routes(o) {
		e.Add(r.Method, r.Path, guard(r.Handler))
	}
	e.HTTPErrorHandler = func(err error, c echo.Context) {
		_ = c.String(status(err), err.Error())
	}
	for _, c := range []struct {
		path, key, rng, accept string
		want                   int
		body                   string
	}{
		{"/v1/destinations/dsp/files", "", "", "", 401, ""},
		{"/v1/destinations/dsp/files", "ebbp_other", "", "", 401, ""},
		{"/v1/destinations/nobody/files", "ebbp_nobody", "", "", 401, ""},
		{"/v1/destinations/dsp/files", "ebbp_dsp", "", "", 200, `{"destination":"dsp","generation":7`},
		{"/v1/destinations/dsp/files", "ebbp_dsp", "", "text/tab-separated-values, */*", 200, "destination\tdsp\n"},
		{"/v1/destinations/dsp/files", "ebbp_dsp", "", "*/*, text/tab-separated-values", 200, "{"},
		{"/v1/destinations/dsp/files/here", "ebbp_other", "", "", 401, ""},
		{"/v1/destinations/dsp/files/here", "ebbp_dsp", "", "", 200, string(content)},
		{"/v1/destinations/dsp/files/here", "ebbp_dsp", "bytes=2-8", "", 206, "segment"},
		{"/v1/destinations/dsp/files/gone", "ebbp_dsp", "", "", 410, ""},
		{"/v1/destinations/dsp/files/bad", "ebbp_dsp", "", "", 503, ""},
		{"/v1/destinations/dsp/files/never", "ebbp_dsp", "", "", 404, ""},
	} {
		req := httptest.NewRequest(http.MethodGet, c.path, nil)
		if c.key != "" {
			req.Header.Set("Authorization", "Bearer "+c.key)
		}
		if c.rng != "" {
			req.Header.Set("Range", c.rng)
		}
		if c.accept != "" {
			req.Header.Set("Accept", c.accept)
		}
		w := httptest.NewRecorder()
		e.ServeHTTP(w, req)
		body, _ := io.ReadAll(w.Result().Body)
		if w.Code != c.want || !bytes.HasPrefix(body, []byte(c.body)) {
			t.Errorf("%s with key %q: %d %.60s; want %d %s", c.path, c.key, w.Code, body, c.want, c.body)
		}
	}
}

func status(err error) int {
	var p *tagserver.Problem
	if errors.As(err, &p) {
		return p.Status
	}
	return http.StatusInternalServerError
}
