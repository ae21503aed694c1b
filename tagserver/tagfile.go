package tagserver

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/sha512"
	"embed"
	"encoding/base64"
	"fmt"
	"html"
	"io/fs"
	"net/http"
	"path"
	"strings"

	"github.com/labstack/echo/v4"
)

// TagVersion is the version of the browser tag. /t/1/ebb.js is always the
// newest of its major version; /t/VERSION/ebb.js never changes, and every
// version that was released stays.
const TagVersion = "1.3.0"

//go:embed tag/frozen
var frozenFiles embed.FS

// tagFile is a file of the tag as it is served.
type tagFile struct {
	path          string // "1.1.0/ebb.js"
	plain, packed []byte
	etag          string // strong, of the plain bytes
}

// newTagFiles returns all files of all versions.
func newTagFiles() (files []*tagFile, err error) {
	err = fs.WalkDir(frozenFiles, "tag/frozen", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(name) != ".js" {
			return err
		}
		b, err := frozenFiles.ReadFile(name)
		if err != nil {
			return err
		}
		f, err := newTagFile(strings.TrimPrefix(name, "tag/frozen/"), b)
		files = append(files, f)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the tag: %w", err)
	}
	return files, nil
}

func newTagFile(name string, source []byte) (*tagFile, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", name, err)
	}
	if _, err := z.Write(source); err != nil {
		return nil, fmt.Errorf("pack %s: %w", name, err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("pack %s: %w", name, err)
	}
	sum := sha256.Sum256(source)
	return &tagFile{path: name, plain: source, packed: b.Bytes(), etag: base64.RawURLEncoding.EncodeToString(sum[:12])}, nil
}

// tagSource returns a file of the newest tag: "ebb.js", or "ads.js".
func tagSource(file string) []byte {
	// Embedded, so it is there or the build was not.
	b, _ := frozenFiles.ReadFile("tag/frozen/" + TagVersion + "/" + file)
	return b
}

// TagIntegrity is the Subresource Integrity hash of a file of the tag ("ebb.js",
// "ads.js"), for pages that load the frozen version.
func TagIntegrity(file string) string {
	sum := sha512.Sum384(tagSource(file))
	return "sha384-" + base64.StdEncoding.EncodeToString(sum[:])
}

// TagStub is the queue, which takes calls before the tag is there. It is an
// inline script; a page whose policy forbids those loads the tag without async
// instead, or serves the line as a file of its own.
const TagStub = `window.ebb=window.ebb||function(){(ebb.q=ebb.q||[]).push(arguments)}`

// Snippet returns what a site's owner pastes into a page: the queue, and the
// tag. host is the public listener's origin.
func Snippet(host, site string) string {
	return "<script>" + TagStub + "</script>\n" +
		`<script async src="` + html.EscapeString(host) + `/t/1/ebb.js" data-site="` + html.EscapeString(site) + `"></script>` + "\n"
}

// FrozenSnippet is Snippet for a version that never changes, whose bytes the
// browser checks.
func FrozenSnippet(host, site string) string {
	return "<script>" + TagStub + "</script>\n" +
		`<script async src="` + html.EscapeString(host) + "/t/" + TagVersion + `/ebb.js" integrity="` + TagIntegrity("ebb.js") +
		`" crossorigin="anonymous" data-site="` + html.EscapeString(site) + `"></script>` + "\n"
}

// tagRoutes are the routes of the tag's files: each version for ever, and the
// newest, of which pages see a fix within the hour.
func (s *Server) tagRoutes() (routes []Route) {
	for _, f := range s.tags {
		routes = append(routes, Route{Method: http.MethodGet, Path: "/t/" + f.path, Listener: Public, Auth: AuthOpen, Handler: serveTag(f, "public, max-age=31536000, immutable")})
		if version, file := path.Split(f.path); version == TagVersion+"/" {
			routes = append(routes, Route{Method: http.MethodGet, Path: "/t/1/" + file, Listener: Public, Auth: AuthOpen, Handler: serveTag(f, "public, max-age=3600, stale-while-revalidate=86400")})
		}
	}
	return routes
}

func serveTag(f *tagFile, cache string) echo.HandlerFunc {
	return func(c echo.Context) error { return f.serve(c, cache) }
}

func (f *tagFile) serve(c echo.Context, cache string) error {
	r, res := c.Request(), c.Response()
	h := res.Header()
	h.Set("Cache-Control", cache)
	h.Set("Vary", "Accept-Encoding")
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Timing-Allow-Origin", "*")
	h[headerCORP] = crossOrigin
	body, etag := f.plain, `"`+f.etag+`"`
	if acceptsGzip(r.Header.Get("Accept-Encoding")) {
		// Another representation, so another strong tag.
		body, etag = f.packed, `"`+f.etag+`-gz"`
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
