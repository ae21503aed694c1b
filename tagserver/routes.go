package tagserver

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync/atomic"

	"github.com/labstack/echo/v4"
)

// Listener is one of the three doors. A mistake behind one cannot open another:
// each has its own router.
type Listener uint8

// The listeners.
const (
	Public  Listener = iota // browsers, and servers of sites
	Partner                 // DSPs
	Private                 // ad ops and operators
	listeners
)

func (l Listener) String() string { return [...]string{"public", "partner", "private"}[l] }

// Auth names how a route knows its caller.
type Auth string

// The ways.
const (
	AuthOpen        Auth = "open"        // nobody: the same bytes for everyone
	AuthSite        Auth = "site"        // the site's own origin, and for the visitor its cookie and signals
	AuthOrigin      Auth = "origin"      // a site's origin or our own: no other page may post
	AuthDestination Auth = "destination" // the destination's key
	AuthAdmin       Auth = "admin"       // an admin's key
)

// Route is a row of the table.
type Route struct {
	Method   string
	Path     string // echo's form; a ":name" is a parameter
	Listener Listener
	Auth     Auth
	Handler  echo.HandlerFunc
	// Right is what a caller behind AuthAdmin must have; of other rows, nothing.
	Right Right
}

// table is every route that this folder itself answers. Sub-folders hand
// theirs to New; Routes has all.
func (s *Server) table() []Route {
	return []Route{
		{http.MethodPost, "/v1/e", Public, AuthSite, s.handleCollect, Right{}},
		{http.MethodOptions, "/v1/e", Public, AuthOpen, s.handlePreflight, Right{}},
		{http.MethodGet, pathPixel, Public, AuthSite, s.handlePixel, Right{}},
		{http.MethodGet, "/v1/seg", Public, AuthSite, s.handleSeg, Right{}},
		{http.MethodOptions, "/v1/seg", Public, AuthOpen, s.handlePreflight, Right{}},
		{http.MethodGet, "/v1/sync/:destination", Public, AuthSite, s.handleSync, Right{}},
		{http.MethodGet, "/v1/sync/:destination/frame", Public, AuthSite, s.handleFrame, Right{}},
		{http.MethodGet, "/v1/uid/:destination", Public, AuthSite, s.handleUID, Right{}},
		{http.MethodGet, "/v1/match", Public, AuthSite, s.handleMatch, Right{}},
		{http.MethodPost, "/v1/match", Public, AuthSite, s.handleMatchSigned, Right{}},
		{http.MethodOptions, "/v1/match", Public, AuthOpen, s.handlePreflight, Right{}},
		{http.MethodPost, "/v1/optout", Public, AuthOrigin, s.handleOptOut, Right{}},
		{http.MethodOptions, "/v1/optout", Public, AuthOpen, s.handlePreflight, Right{}},
		{http.MethodPost, "/v1/optin", Public, AuthOrigin, s.handleOptIn, Right{}},
		{http.MethodOptions, "/v1/optin", Public, AuthOpen, s.handlePreflight, Right{}},
		{http.MethodGet, "/privacy", Public, AuthSite, s.handlePrivacy, Right{}},
		{http.MethodGet, "/privacy/status", Public, AuthSite, s.handleStatus, Right{}},
		{http.MethodGet, "/privacy/data", Public, AuthSite, s.handleKnown, Right{}},
		{http.MethodPost, "/privacy/erase", Public, AuthOrigin, s.handleErase, Right{}},
		{http.MethodPost, "/privacy/category", Public, AuthOrigin, s.handleCategory, Right{}},
		{http.MethodGet, "/.well-known/ebb-receipts.json", Public, AuthOpen, s.handleReceiptKey, Right{}},
		{http.MethodGet, "/.well-known/gpc.json", Public, AuthOpen, s.handleGPC, Right{}},
	}
}

// Routes returns every route, of all listeners.
func (s *Server) Routes() []Route { return s.routes }

// mount builds a router for each listener from the table.
func (s *Server) mount() error {
	for l := range s.echos {
		e := echo.New()
		e.HideBanner, e.HidePort = true, true
		e.Logger.SetOutput(io.Discard)
		e.HTTPErrorHandler = s.handleError
		// echo's default believes X-Forwarded-For of anyone.
		e.IPExtractor = echo.ExtractIPDirect()
		e.Use(s.around(new(atomic.Int64)))
		s.echos[l] = e
	}
	seen := make(map[string]bool)
	for _, r := range s.routes {
		name := fmt.Sprintf("%s %s (%s)", r.Method, r.Path, r.Listener)
		if seen[name] {
			return fmt.Errorf("route %s stands in the table twice", name)
		}
		seen[name] = true
		if r.Handler == nil {
			return fmt.Errorf("route %s has no handler", name)
		}
		if err := r.checkRight(); err != nil {
			return fmt.Errorf("route %s %w", name, err)
		}
		h := r.Handler
		if r.Auth == AuthAdmin {
			h = entitled(r.Right, h)
		}
		switch r.Auth {
		case AuthOpen, AuthSite, AuthOrigin: // checked in the handler, which knows the site
		default:
			guard := s.o.Guards[r.Auth]
			if guard == nil {
				return fmt.Errorf("route %s: nothing guards auth %q", name, r.Auth)
			}
			h = guard(h)
		}
		s.paths[r.Path] = true
		s.echos[r.Listener].Add(r.Method, r.Path, h)
	}
	return nil
}

// around is what surrounds every handler: the headers that all answers have,
// panics, measurement, and the bound on what is worked on at once.
func (s *Server) around(inFlight *atomic.Int64) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error { return s.serve(inFlight, next, c) }
	}
}

func (s *Server) serve(inFlight *atomic.Int64, next echo.HandlerFunc, c echo.Context) (err error) {
	begin := s.o.Now()
	h := c.Response().Header()
	h["X-Content-Type-Options"] = nosniff
	h["Referrer-Policy"] = noReferrer
	h["Cache-Control"] = noStore
	defer func() {
		if r := recover(); r != nil {
			if r == http.ErrAbortHandler {
				panic(r)
			}
			s.metrics.panics.Inc()
			// What is panicked with may hold anything; only the runtime's
			// own words are known to hold no data.
			what := "a value of type " + fmt.Sprintf("%T", r)
			if re, ok := r.(runtime.Error); ok {
				what = re.Error()
			}
			s.log.Error("handler panicked", "route", s.route(c), "panic", what, "stack", string(debug.Stack()))
			err = NewProblem(http.StatusInternalServerError, codeInternal, "internal error")
		}
		switch {
		case err == nil:
		case c.Path() == pathPixel && c.Request().Method == http.MethodGet && !c.Response().Committed:
			// Whatever happens, the page gets its image.
			h.Set(headerReason, codeInternal)
			writeGIF(c)
		default:
			s.handleError(err, c)
		}
		err = nil
		route := s.route(c)
		s.metrics.requests.WithLabelValues(route, strconv.Itoa(c.Response().Status/100)+"xx").Inc()
		s.metrics.seconds.WithLabelValues(route).Observe(float64(s.o.Now()-begin) / 1000)
	}()
	defer inFlight.Add(-1)
	if inFlight.Add(1) > int64(s.o.Limits.InFlight) {
		return s.tooBusy(c)
	}
	return next(c)
}

// tooBusy answers a request that is one too many. It is not read, so it is not
// received either.
func (s *Server) tooBusy(c echo.Context) error {
	s.metrics.refused.WithLabelValues(codeFull).Inc()
	if c.Path() == pathPixel {
		c.Response().Header().Set(headerReason, codeFull)
		writeGIF(c)
		return nil
	}
	p := NewProblem(http.StatusServiceUnavailable, codeFull, "too many requests at once; send it again later, with the same ids")
	p.RetryAfter = 1
	return p
}

// route is the label of a request: a path of the table, or "none", so that
// whoever scans for paths does not make series.
func (s *Server) route(c echo.Context) string {
	if p := c.Path(); s.paths[p] {
		return p
	}
	return "none"
}

// Header values that every answer shares.
var (
	nosniff     = []string{"nosniff"}
	noReferrer  = []string{"no-referrer"}
	noStore     = []string{"private, no-store"}
	crossOrigin = []string{"cross-origin"}
	sameOrigin  = []string{"same-origin"}
	gifType     = []string{"image/gif"}
	gifLength   = []string{"43"}
)

const (
	pathPixel    = "/v1/n/:site"
	headerReason = "X-Ebb-Reason"
	headerCORP   = "Cross-Origin-Resource-Policy"
)

func itoa(n int) string { return strconv.Itoa(n) }
