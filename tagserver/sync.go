package tagserver

import (
	"html/template"
	"net/http"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Reasons of syncs and matches that go nowhere, for X-Ebb-Reason.
const (
	noDestination = "unknown_destination"
	noVisitor     = "no_visitor"
	noSync        = "no_sync"
	noExport      = "consent; code=no_export; the visitor's consent does not reach this destination"
)

// synced is who is synced with a destination, or why not: it has found the
// destination and the page, decided, recorded what the decision made, and asked
// both parties' leave: ours to read and to profile, the destination's to be told.
// A reason that is not empty means that nothing may be said to anybody.
func (s *Server) synced(r *http.Request, w *work, id string) (dest Destination, site *taxonomy.Site, reason string) {
	v := &w.visit
	ok := false
	if taxonomy.CheckSlug("destination", id) == nil {
		dest, ok = s.o.Destinations.Destination(taxonomy.DestinationID(id))
	}
	if !ok {
		return dest, nil, noDestination
	}
	if w.query.Site != "" {
		if p := s.checkSite(w, w.query.Site, r, "query.site"); p != nil {
			return dest, nil, p.Code
		}
		site = &w.site
	} else {
		page, own := pageOf(r.Header), s.ownOrigin(r.Host)
		if !fromPage(&page, func(o string) bool { return own(o) || dest.hasHost(hostOf(o)) }) {
			return dest, nil, string(taxonomy.ReasonWrongOrigin)
		}
	}
	hd := headOf(r)
	ctx, cancel := s.storeContext(r.Context())
	defer cancel()
	if err := s.identify(v, &hd, &w.query.Consent, site, false); err != nil {
		s.log.Error("request not answered", "error", err)
		return dest, site, codeUnavailable
	}
	if len(v.records) > 0 {
		if _, err := s.append(ctx, v.records, v.group, s.o.Ack); err != nil {
			v.n = 0 // not erased, so the cookie must come again: it stays
			return dest, site, codeUnavailable
		}
	}
	switch {
	case v.decision.Expire, !v.decision.ReadCookie():
		return dest, site, v.reason()
	case !v.decision.ExportTo(dest.ID):
		return dest, site, noExport
	case !v.known:
		return dest, site, noVisitor
	case w.query.Fault != "":
		return dest, site, string(taxonomy.ReasonMalformed) + "; " + w.query.Fault
	}
	return dest, site, ""
}

func (d *Destination) hasHost(h string) bool {
	return h != "" && slices.ContainsFunc(d.Hosts, func(x string) bool { return strings.EqualFold(x, h) })
}

// target is where a sync sends the browser: redirect= of the request if there is
// one, else the destination's template.
func (s *Server) target(w *work, dest *Destination) (address, reason string) {
	v := &w.visit
	template := dest.Sync
	if w.query.Redirect != "" {
		var err error
		if template, err = redirectOf(w.query.Redirect, dest); err != nil {
			return "", "bad_redirect; " + err.Error()
		}
	} else if CheckSyncTemplate(template) != nil {
		return "", noSync
	}
	return expand(template, v.ring.Pseudonym(dest.ID, dest.Epoch, v.key), dest, &w.query.Consent), ""
}

func (s *Server) countSync(route, reason string) {
	result := "sent"
	if reason != "" {
		result, _, _ = strings.Cut(reason, ";")
	}
	s.metrics.syncs.WithLabelValues(route, result).Inc()
}

// aim decides a sync and returns the address to which it leads, "" if it leads
// nowhere: then the answer's head says why.
func (s *Server) aim(c echo.Context, way string) (address string) {
	w := s.getWork()
	defer s.putWork(w)
	v := &w.visit
	v.now = s.o.Now()
	parseQuery(c.Request().URL.RawQuery, &w.query)
	dest, _, reason := s.synced(c.Request(), w, c.Param("destination"))
	if reason == "" {
		address, reason = s.target(w, &dest)
	}
	s.countSync(way, reason)
	if reason != "" {
		h := c.Response().Header()
		h.Set(headerReason, reason)
		v.writeCookies(h)
		return ""
	}
	return address
}

// handleSync answers GET /v1/sync/DEST: a redirect to the destination with the
// visitor's pseudonym for it, if the visitor is known and its consent reaches the
// destination; else the image. It goes to the destination's own template, or to
// redirect= of the request if that is a host that the destination lists: it
// redirects nowhere that no operator wrote.
func (s *Server) handleSync(c echo.Context) error {
	h := c.Response().Header()
	address := s.aim(c, "redirect")
	if address == "" {
		writeGIF(c)
		return nil
	}
	h.Set(echo.HeaderLocation, address)
	h[headerCORP] = crossOrigin
	c.Response().WriteHeader(http.StatusFound)
	return nil
}

// frame is what an iframe sync shows: the sync's image, and nothing else.
var frame = template.Must(template.New("frame").Parse(`<!doctype html><meta charset="utf-8"><title></title>{{if .}}<img src="{{.}}" width="1" height="1" alt="" referrerpolicy="no-referrer">{{end}}
`))

// handleFrame answers GET /v1/sync/DEST/frame: the same as an HTML document for
// an iframe. It has no script, and may load that one image.
func (s *Server) handleFrame(c echo.Context) error {
	h := c.Response().Header()
	address := s.aim(c, "frame")
	images := "'none'"
	if address != "" {
		scheme, rest, _ := strings.Cut(address, "://")
		images = scheme + "://" + rest[:strings.IndexAny(rest+"/", "/?")]
	}
	h.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; img-src "+images)
	h[headerCORP] = crossOrigin
	h.Set(echo.HeaderContentType, "text/html; charset=utf-8")
	c.Response().WriteHeader(http.StatusOK)
	// The browser may be gone; there is nobody left to tell.
	_ = frame.Execute(c.Response(), address)
	return nil
}

// uidReply is the answer to GET /v1/uid/DEST.
type uidReply struct {
	UID string `json:"uid"` // empty: none may be told
}

// handleUID answers GET /v1/uid/DEST: the visitor's pseudonym for the destination
// as JSON, for scripts of the site's pages and of hosts that the destination lists.
func (s *Server) handleUID(c echo.Context) error {
	r := c.Request()
	h := c.Response().Header()
	h[headerCORP] = sameOrigin
	w := s.getWork()
	defer s.putWork(w)
	v := &w.visit
	v.now = s.o.Now()
	parseQuery(r.URL.RawQuery, &w.query)
	dest, _, reason := s.synced(r, w, c.Param("destination"))
	s.allowPage(h, r, &dest)
	s.countSync("uid", reason)
	reply := uidReply{}
	if reason == "" {
		reply.UID = v.ring.Pseudonym(dest.ID, dest.Epoch, v.key)
	} else {
		h.Set(headerReason, reason)
		v.writeCookies(h)
	}
	return writeJSON(c, http.StatusOK, &reply)
}

// allowPage is allowOrigin for pages of sites and of hosts that a destination
// lists.
func (s *Server) allowPage(h http.Header, r *http.Request, dest *Destination) {
	if s.allowOrigin(h, r) {
		return
	}
	if o := r.Header["Origin"]; len(o) == 1 && dest.hasHost(hostOf(o[0])) {
		h.Set("Access-Control-Allow-Origin", o[0])
		h.Set("Access-Control-Allow-Credentials", "true")
		h.Set("Access-Control-Expose-Headers", headerReason)
	}
}
