package tagserver

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Rehearsal is Server.Rehearse, for options of sub-folders.
type Rehearsal func(c echo.Context, site taxonomy.SiteID, call, prefix string) error

// Rehearse answers a call of the tag on the console's test page as the public
// listener would answer it from a page of the site: the events go the whole way,
// from the decision to the log, and are shown as a test's. path is the call:
// "e", "seg", "optout" or "optin". prefix is the address below which the test
// page lies ("http://localhost:8082/console/sites/shop/try"); what is below it
// counts as the same path of the site's first origin, so that rules of paths can
// be tried. The caller has checked who calls, and that its own page did.
func (s *Server) Rehearse(c echo.Context, id taxonomy.SiteID, path, prefix string) error {
	site, ok := s.o.Sites.Site(id)
	if !ok || len(site.Origins) == 0 {
		return NewProblem(http.StatusNotFound, string(taxonomy.ReasonUnknownSite), "there is no such site, or it lists no origin")
	}
	origin := site.Origins[0]
	r := c.Request().Clone(c.Request().Context())
	r.Header.Set("Origin", origin)
	r.Header.Del("Referer")
	if r.Body != nil && path == "e" && r.Header.Get("Content-Encoding") == "" {
		b, err := io.ReadAll(io.LimitReader(r.Body, int64(s.o.Limits.Body)+1))
		if err != nil {
			return NewProblem(http.StatusBadRequest, string(taxonomy.ReasonMalformed), "the body could not be read to its end")
		}
		b = bytes.ReplaceAll(b, []byte(strconv.Quote(prefix)), []byte(strconv.Quote(origin+"/")))
		b = bytes.ReplaceAll(b, []byte(strings.TrimSuffix(strconv.Quote(prefix), `"`)+"/"), []byte(strings.TrimSuffix(strconv.Quote(origin), `"`)+"/"))
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
	}
	c.SetRequest(r)
	switch path {
	case "e":
		return s.collect(c, true)
	case "seg":
		return s.handleSeg(c)
	case "optout":
		return s.handleOptOut(c)
	case "optin":
		return s.handleOptIn(c)
	}
	return NewProblem(http.StatusNotFound, codeNotFound, "there is nothing at this path")
}

// TagFile returns a file of the newest tag ("ebb.js", "ads.js"), for pages of
// ours that carry it.
func TagFile(name string) []byte { return tagSource(name) }
