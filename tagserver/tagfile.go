package tagserver

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/sha512"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"
)

// TagVersion is the version of the browser tag. /t/1/ebb.js is always the
// newest of its major version; /t/VERSION/ebb.js never changes.
const TagVersion = "1.0.0"

//go:embed tag/ebb.js
var tagSource []byte

// tagFile is the tag as it is served.
type tagFile struct {
	plain, packed []byte
	etag          string // strong, of the plain bytes
}

func newTagFile() (*tagFile, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, fmt.Errorf("pack the tag: %w", err)
	}
	if _, err := z.Write(tagSource); err != nil {
		return nil, fmt.Errorf("pack the tag: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("pack the tag: %w", err)
	}
	sum := sha256.Sum256(tagSource)
	return &tagFile{plain: tagSource, packed: b.Bytes(), etag: base64.RawURLEncoding.EncodeToString(sum[:12])}, nil
}

// TagIntegrity is the tag's Subresource Integrity hash, for pages that load the
// frozen version.
func TagIntegrity() string {
	sum := sha512.Sum384(tagSource)
	return "sha384-" + base64.StdEncoding.EncodeToString(sum[:])
}

// Snippet returns what a site's owner pastes into a page: the queue, which takes
// calls before the tag is there, and the tag. host is the public listener's
// origin.
func Snippet(host, site string) string {
	return `<script>window.ebb=window.ebb||function(){(ebb.q=ebb.q||[]).push(arguments)}</script>` + "\n" +
		`<script async src="` + html.EscapeString(host) + `/t/1/ebb.js" data-site="` + html.EscapeString(site) + `"></script>` + "\n"
}

// handleTag serves the newest tag: pages see a fix within the hour.
func (s *Server) handleTag(c echo.Context) error {
	return s.serveTag(c, "public, max-age=3600, stale-while-revalidate=86400")
}

// handleTagFrozen serves this version for ever.
func (s *Server) handleTagFrozen(c echo.Context) error {
	return s.serveTag(c, "public, max-age=31536000, immutable")
}

func (s *Server) serveTag(c echo.Context, cache string) error {
	r, res := c.Request(), c.Response()
	h := res.Header()
	h.Set("Cache-Control", cache)
	h.Set("Vary", "Accept-Encoding")
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Timing-Allow-Origin", "*")
	h[headerCORP] = crossOrigin
	body, etag := s.tag.plain, `"`+s.tag.etag+`"`
	if acceptsGzip(r.Header.Get("Accept-Encoding")) {
		// Another representation, so another strong tag.
		body, etag = s.tag.packed, `"`+s.tag.etag+`-gz"`
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("ETag", etag)
	for _, t := range strings.Split(r.Header.Get("If-None-Match"), ",") {
		if t = strings.TrimPrefix(strings.TrimSpace(t), "W/"); t == etag || t == "*" {
			h.Del("Content-Encoding")
			res.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	h.Set(echo.HeaderContentType, "text/javascript; charset=utf-8")
	h.Set(echo.HeaderContentLength, itoa(len(body)))
	res.WriteHeader(http.StatusOK)
	// The client may be gone; there is nobody left to tell.
	_, _ = res.Write(body)
	return nil
}

// acceptsGzip reads as much of Accept-Encoding as browsers use: a list, in which
// q=0 refuses.
func acceptsGzip(accept string) bool {
	for _, e := range strings.Split(accept, ",") {
		name, q, _ := strings.Cut(e, ";")
		if strings.TrimSpace(name) == "gzip" {
			q = strings.ReplaceAll(q, " ", "")
			return q != "q=0" && q != "q=0.0" && q != "q=0.00" && q != "q=0.000"
		}
	}
	return false
}
