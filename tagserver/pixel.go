package tagserver

import (
	"context"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// gif is the smallest transparent image that every browser takes: 43 bytes.
var gif = []byte("GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff\x21\xf9\x04\x01\x00\x00\x00\x00\x2c\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02\x44\x01\x00\x3b")

// pixelRequest is what the pixel needs of a request, whoever parsed it.
type pixelRequest struct {
	site  string // the last part of the path
	query string // as it came
	head  head
	page  pageHeaders
}

// pixelAnswer is what the pixel adds to its 43 bytes.
type pixelAnswer struct {
	reason  string // X-Ebb-Reason; empty: recorded
	cookies [3]string
	n       int
}

// pixel is the core of GET /v1/n/SITE. It knows nothing of echo or net/http's
// writer, so that a listener with its own parser can answer by it and answer the
// same. It never fails: what is refused is counted, and the reason says why.
// Its records are fsynced within 100 ms (AckNone), except an erasure, which is in
// the log before the answer (R24).
func (s *Server) pixel(ctx context.Context, r *pixelRequest, w *work, a *pixelAnswer) {
	v := &w.visit
	v.now = s.o.Now()
	refuse := func(site taxonomy.SiteID, f *fault) {
		a.reason = string(f.reason)
		s.refuse(site, f, v.now, 1)
		if v.known {
			s.seePixel(w, &r.head, nil, f)
		} else {
			s.seeRefused(site, pathPixel, f, v.now, 1)
		}
	}
	site, ok := s.o.Sites.Site(siteOf(r.site))
	if !ok {
		refuse("", &fault{reason: taxonomy.ReasonUnknownSite, field: "path", why: "there is no such site"})
		return
	}
	w.site = site
	if p := s.siteEnded(&site, v.now.Day(), "path"); p != nil {
		refuse(site.ID, &fault{reason: taxonomy.ReasonSource, field: "path", why: p.Detail})
		return
	}
	if !fromSite(&site, r.page) {
		refuse(site.ID, &fault{reason: taxonomy.ReasonWrongOrigin, field: "header.Referer", why: "this page's origin is not one of the site's"})
		return
	}
	if !s.mayAsk(site.ID, &r.head, v.now) {
		refuse(site.ID, &fault{reason: taxonomy.ReasonRateLimit, field: "", why: tooOften})
		return
	}
	q := &w.query
	parseQuery(r.query, q)
	err := s.identify(v, &r.head, &q.Consent, &w.site, true)
	if err != nil {
		a.reason = codeUnavailable
		s.log.Error("request not answered", "error", err)
		return
	}
	a.cookies, a.n = v.cookies, v.n
	switch {
	case v.limited:
		refuse(site.ID, &fault{reason: taxonomy.ReasonRateLimit, field: "", why: "too many new visitors from this network at once"})
	case !v.known:
		if len(v.records) > 0 {
			if _, err := s.append(ctx, v.records, v.group, s.o.Ack); err != nil {
				// Not erased, so the cookie must come again: it stays.
				a.reason, a.n = codeUnavailable, 0
				s.log.Warn("erasure or consent not taken", "error", err)
				return
			}
		}
		s.count(site.ID, taxonomy.ReasonConsent, 1)
		s.seePixel(w, &r.head, nil, nil)
		a.reason = v.reason()
	default:
		s.pixelEvent(ctx, r, w, a, refuse)
	}
}

func (s *Server) pixelEvent(ctx context.Context, r *pixelRequest, w *work, a *pixelAnswer, refuse func(taxonomy.SiteID, *fault)) {
	v, q := &w.visit, &w.query
	if q.Event.URL == "" {
		// The page that holds the pixel. A browser sends no more than its origin
		// across sites, which is still a page view.
		q.Event.URL = r.head.referer
	}
	e := w.event()
	f := (*fault)(nil)
	if q.Fault != "" {
		f = &fault{reason: taxonomy.ReasonMalformed, field: "query", why: q.Fault}
	} else if f = cleanEvent(e, &q.Event, &w.site, v.now, 0); f == nil {
		s.evaluate(e, q.Event.URL, &w.site)
		f = s.eventID(e, q.Event.ID, v, w.site.ID)
	}
	w.records = append(w.records, v.records...)
	rec := s.statement(v, taxonomy.RecordEvent, &w.site)
	rec.Visitor, rec.Returning = v.key, v.returning
	if f != nil {
		rec.Kind = taxonomy.RecordConsent
	} else {
		rec.Event = e
		s.flag(&rec, isBot(r.head.agent), tookBait(r.query) || baited(&q.Event))
	}
	w.records = append(w.records, rec)
	ack := retention.AckNone
	if len(v.records) > 0 {
		ack = s.o.Ack // a succession must not be lost: erasures go by it (R27)
	}
	if _, err := s.append(ctx, w.records, v.group, ack); err != nil {
		// Never received, then (R12): the image promises nothing.
		a.reason, a.n = storeProblem(err).Code, 0
		return
	}
	if f != nil {
		refuse(w.site.ID, f)
		return
	}
	s.metrics.events.WithLabelValues(taxonomy.Stored.String(), "").Inc()
	s.seePixel(w, &r.head, e, nil)
}

// handlePixel answers GET /v1/n/SITE through echo.
func (s *Server) handlePixel(c echo.Context) error {
	r := c.Request()
	w := s.getWork()
	defer s.putWork(w)
	ctx, cancel := s.storeContext(r.Context())
	defer cancel()
	if isPrefetch(r.Header["Sec-Purpose"]) {
		// Fetched ahead of a visit that may never come: it is none, and not received.
		c.Response().Header()[headerReason] = []string{"prefetch"}
		writeGIF(c)
		return nil
	}
	req := pixelRequest{site: c.Param("site"), query: r.URL.RawQuery, head: headOf(r), page: pageOf(r.Header)}
	var a pixelAnswer
	s.pixel(ctx, &req, w, &a)
	h := c.Response().Header()
	if a.reason != "" {
		h[headerReason] = []string{a.reason}
	}
	if a.n > 0 {
		h["Set-Cookie"] = append([]string(nil), a.cookies[:a.n]...)
	}
	writeGIF(c)
	return nil
}

// isPrefetch reports whether the browser says that it fetches ahead.
func isPrefetch(purpose []string) bool {
	for _, p := range purpose {
		if len(p) >= len("prefetch") && strings.EqualFold(p[:len("prefetch")], "prefetch") {
			return true
		}
	}
	return false
}

func writeGIF(c echo.Context) {
	res := c.Response()
	h := res.Header()
	h[headerCORP] = crossOrigin
	h[echo.HeaderContentType] = gifType
	h[echo.HeaderContentLength] = gifLength
	res.WriteHeader(http.StatusOK)
	// The client may be gone; there is nobody left to tell.
	_, _ = res.Write(gif)
}
