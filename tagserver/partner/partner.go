// Package partner is what DSPs pull: a destination's manifest and its segment
// files, each under the destination's own key.
package partner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Files is what a partner may have: a delivery.Deliverer.
type Files interface {
	Manifest(context.Context, taxonomy.DestinationID) (delivery.Manifest, error)
	Open(context.Context, taxonomy.DestinationID, string) (retention.BlobReader, delivery.File, delivery.FileState, error)
}

// Options are what the partner routes need. Both must be set.
type Options struct {
	Files Files
	// KeyHash returns the hash of a destination's key, and false if there is no
	// such destination.
	KeyHash func(taxonomy.DestinationID) (string, bool)
}

const param = "destination"

// Routes are the rows of the table that answer partners.
func Routes(o Options) []tagserver.Route {
	h := &handlers{o}
	base := "/v1/destinations/:" + param + "/files"
	var rows []tagserver.Route
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		rows = append(rows,
			tagserver.Route{Method: method, Path: base, Listener: tagserver.Partner, Auth: tagserver.AuthDestination, Handler: h.manifest},
			tagserver.Route{Method: method, Path: base + "/:name", Listener: tagserver.Partner, Auth: tagserver.AuthDestination, Handler: h.file},
		)
	}
	return rows
}

// Guard lets through who shows the key of the destination in the path. A wrong
// key, no key and no such destination are one answer: it tells nobody which
// destinations there are.
func Guard(o Options) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			key, _ := strings.CutPrefix(c.Request().Header.Get("Authorization"), "Bearer ")
			hash, ok := o.KeyHash(taxonomy.DestinationID(c.Param(param)))
			if !delivery.CheckKey(hash, key) || !ok {
				c.Response().Header().Set("WWW-Authenticate", `Bearer realm="ebb"`)
				return tagserver.NewProblem(http.StatusUnauthorized, "unauthorized", "send the destination's key as Authorization: Bearer "+delivery.KeyPrefix+"…")
			}
			return next(c)
		}
	}
}

type handlers struct{ o Options }

func (h *handlers) manifest(c echo.Context) error {
	m, err := h.o.Files.Manifest(c.Request().Context(), taxonomy.DestinationID(c.Param(param)))
	if err != nil {
		return err
	}
	c.Response().Header().Set("Vary", "Accept")
	if wantsTSV(c.Request().Header.Values("Accept")) {
		return c.Blob(http.StatusOK, delivery.ManifestTSV, m.TSV())
	}
	b, err := m.JSON()
	if err != nil {
		return fmt.Errorf("print the manifest: %w", err)
	}
	return c.Blob(http.StatusOK, delivery.ManifestJSON, b)
}

// wantsTSV reports whether Accept names TSV before JSON and before everything.
func wantsTSV(accept []string) bool {
	for _, part := range strings.Split(strings.Join(accept, ","), ",") {
		kind, _, _ := strings.Cut(part, ";")
		switch strings.ToLower(strings.TrimSpace(kind)) {
		case delivery.ManifestTSV:
			return true
		case delivery.ManifestJSON, "application/*", "*/*":
			return false
		}
	}
	return false
}

// file serves a segment file. Its name never comes again with other bytes, so it
// may be kept and asked for in parts.
func (h *handlers) file(c echo.Context) error {
	r, f, state, err := h.o.Files.Open(c.Request().Context(), taxonomy.DestinationID(c.Param(param)), c.Param("name"))
	switch {
	case errors.Is(err, retention.ErrCorrupt):
		return tagserver.NewProblem(http.StatusServiceUnavailable, "unavailable", "the file is damaged here and is not served; a new full follows with the next delivery")
	case err != nil:
		return err
	case state == delivery.FileWithdrawn:
		return tagserver.NewProblem(http.StatusGone, "withdrawn", "the file is withdrawn; read the manifest and begin with the full that it names")
	case state != delivery.FileServed:
		return tagserver.NewProblem(http.StatusNotFound, "not_found", "there is no such file; read the manifest")
	}
	defer r.Close()
	head := c.Response().Header()
	head.Set("Cache-Control", "private, max-age=1209600, immutable")
	head.Set("Content-Type", "application/gzip")
	head.Set("ETag", `"`+f.SHA256+`"`)
	head.Set("X-Ebb-SHA256", f.SHA256)
	head.Set("Content-Disposition", `attachment; filename="`+f.Name+`"`)
	http.ServeContent(c.Response(), c.Request(), "", time.Time{}, io.NewSectionReader(r, 0, r.Blob().Bytes))
	return nil
}
