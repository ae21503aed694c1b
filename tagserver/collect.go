package tagserver

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// work is what a request needs for a while: its memory is used again.
type work struct {
	body    []byte
	batch   wireBatch
	query   wireQuery
	visit   visit
	site    taxonomy.Site
	events  []taxonomy.Event
	records []taxonomy.Record
	seen    []string // event IDs of this request
	unzip   *gzip.Reader
	test    bool // from the console's test page
}

func (s *Server) getWork() *work { return s.work.Get().(*work) }

// putWork clears what the request carried, so that nothing of a visitor lies in
// memory that another request gets.
func (s *Server) putWork(w *work) {
	clear(w.body)
	w.body = w.body[:0]
	props := w.batch.Events
	for i := range props {
		clear(props[i].Props)
		props[i] = wireEvent{Props: props[i].Props[:0]}
	}
	w.batch = wireBatch{Events: props[:0]}
	w.query = wireQuery{}
	w.visit = visit{}
	w.site, w.test = taxonomy.Site{}, false
	for i := range w.events {
		p := w.events[i].Props
		clear(p)
		w.events[i] = taxonomy.Event{Props: p[:0]}
	}
	w.events = w.events[:0]
	clear(w.records)
	w.records = w.records[:0]
	clear(w.seen)
	w.seen = w.seen[:0]
	s.work.Put(w)
}

// event returns room for one more event. The records point to it, so the slice
// never grows under them: it is as long as a batch can be.
func (w *work) event() *taxonomy.Event {
	if w.events == nil {
		w.events = make([]taxonomy.Event, 0, maxEvents)
	}
	n := len(w.events)
	w.events = w.events[:n+1]
	e := &w.events[n]
	return e
}

// collectReply is the answer to POST /v1/e (R34).
type collectReply struct {
	Stored    int            `json:"stored"`
	Duplicate int            `json:"duplicate"`
	Refused   []refusedEvent `json:"refused"`
	Durable   string         `json:"durable"`
}

type refusedEvent struct {
	I    int    `json:"i"`
	Code string `json:"code"`
	Why  string `json:"why"`
}

// handleCollect answers POST /v1/e: parse, decide, identify, clean, record,
// answer.
func (s *Server) handleCollect(c echo.Context) error { return s.collect(c, false) }

// collect is handleCollect; test: the batch comes from the console's test page.
func (s *Server) collect(c echo.Context, test bool) error {
	r := c.Request()
	h := c.Response().Header()
	h[headerCORP] = crossOrigin
	s.allowOrigin(h, r)
	w := s.getWork()
	defer s.putWork(w)
	now := s.o.Now()
	w.visit.now, w.test = now, test

	if p := s.readBody(w, r); p != nil {
		return s.refuseBody("", p, now)
	}
	if err := parseBatch(string(w.body), &w.batch); err != nil {
		var we *wireError
		errors.As(err, &we)
		where := fmt.Sprintf("body: line %d, column %d", we.Line, we.Column)
		p := NewProblem(http.StatusBadRequest, string(taxonomy.ReasonMalformed), "the body is not a batch of events: "+we.Error()).
			At(where, strings.TrimPrefix(we.Path+": "+we.Why, ": "))
		return s.refuseBody(s.knownSite(we.Site), p, now)
	}
	if p := s.checkSite(w, w.batch.Site, r, "body.site"); p != nil {
		return s.refuseRequest(w.site.ID, p, now, w.batch.N)
	}
	if w.batch.N > maxEvents {
		p := NewProblem(http.StatusRequestEntityTooLarge, string(taxonomy.ReasonTooMany),
			fmt.Sprintf("the batch has %d events, at most %d; send several", w.batch.N, maxEvents)).At("body.events", "too many")
		return s.refuseRequest(w.site.ID, p, now, w.batch.N)
	}

	hd := headOf(r)
	if !s.mayAsk(w.site.ID, &hd, now) {
		p := NewProblem(http.StatusTooManyRequests, string(taxonomy.ReasonRateLimit), tooOften)
		p.RetryAfter = 10
		return s.refuseRequest(w.site.ID, p, now, w.batch.N)
	}
	ctx, cancel := s.storeContext(r.Context())
	defer cancel()
	if err := s.identify(&w.visit, &hd, &w.batch.Consent, &w.site, true); err != nil {
		return s.unavailable(err)
	}
	v := &w.visit
	if v.limited {
		p := NewProblem(http.StatusTooManyRequests, string(taxonomy.ReasonRateLimit),
			"too many new visitors from this network at once; the cookie of a known one still passes")
		p.RetryAfter = 10
		return s.refuseRequest(w.site.ID, p, now, w.batch.N)
	}
	reply := collectReply{Refused: []refusedEvent{}, Durable: retention.AckLocal.String()}
	refusals := s.prepare(w, &hd, &reply)
	asked := s.o.Ack
	if w.visit.erased {
		asked = max(asked, s.o.EraseAck)
	}
	reached := asked
	if len(w.records) > 0 {
		var err error
		if reached, err = s.append(ctx, w.records, v.group, asked); err != nil {
			s.log.Warn("batch not taken", "error", err)
			return storeProblem(err)
		}
	}
	// Counted only now: a batch that was not taken comes again.
	s.settle(w.site.ID, refusals, &reply, now)
	s.seeBatch(w, &hd, refusals)
	reply.Durable = reached.String()

	status := http.StatusOK
	if v.erased && reached < asked {
		status = http.StatusAccepted // R24: the receipt is pending
	}
	if !v.decision.Store() {
		h.Set(headerReason, v.reason())
	} else if len(reply.Refused) > 0 {
		h.Set(headerReason, reply.Refused[0].Code)
	}
	v.writeCookies(h)
	return writeJSON(c, status, &reply)
}

// refusal is a fault of event i.
type refusal struct {
	i int
	f *fault
}

// prepare fills w.records with what is to be appended, and reply with what is
// not. It counts nothing yet.
func (s *Server) prepare(w *work, hd *head, reply *collectReply) (refusals []refusal) {
	v := &w.visit
	w.records = append(w.records, v.records...)
	if !v.known {
		f := &fault{reason: taxonomy.ReasonConsent, why: strings.TrimPrefix(v.reason(), "consent; ")}
		for i := range w.batch.Events {
			refusals = append(refusals, refusal{i, f})
		}
		reply.refuse(refusals)
		return refusals
	}
	agent := isBot(hd.agent)
	for i := range w.batch.Events {
		e := &w.batch.Events[i]
		dst := w.event()
		if f := cleanEvent(dst, e, &w.site, v.now, w.batch.Sent); f != nil {
			refusals = append(refusals, refusal{i, f})
			continue
		}
		s.evaluate(dst, e.URL, &w.site)
		if e.ID != "" {
			if slices.Contains(w.seen, e.ID) {
				reply.Duplicate++
				continue
			}
			w.seen = append(w.seen, e.ID)
		}
		if f := s.eventID(dst, e.ID, v, w.site.ID); f != nil {
			refusals = append(refusals, refusal{i, f})
			continue
		}
		r := s.statement(v, taxonomy.RecordEvent, &w.site)
		r.Visitor, r.Returning, r.Event = v.key, v.returning, dst
		s.flag(&r, agent, baited(e))
		w.records = append(w.records, r)
		reply.Stored++
	}
	if reply.Stored == 0 {
		r := s.statement(v, taxonomy.RecordConsent, &w.site)
		r.Visitor, r.Returning = v.key, v.returning
		w.records = append(w.records, r)
	}
	reply.refuse(refusals)
	return refusals
}

func (r *collectReply) refuse(refusals []refusal) {
	for _, x := range refusals {
		r.Refused = append(r.Refused, refusedEvent{x.i, string(x.f.reason), x.f.why})
	}
}

// eventID derives an event's ID from what the caller named it, or draws one.
func (s *Server) eventID(dst *taxonomy.Event, id string, v *visit, site taxonomy.SiteID) *fault {
	var drawn [32]byte
	if id == "" {
		var raw [16]byte
		if _, err := io.ReadFull(s.o.Rand, raw[:]); err != nil {
			return malformed("id", "is missing, and none could be made")
		}
		id = string(hex.AppendEncode(drawn[:0], raw[:]))
	}
	e, err := v.ring.EventID(taxonomy.SpaceCookie, v.issued, site, id)
	if err != nil {
		return malformed("id", "cannot be used")
	}
	dst.ID = e
	return nil
}

// settle counts a batch whose statements are in the log.
func (s *Server) settle(site taxonomy.SiteID, refusals []refusal, reply *collectReply, now taxonomy.Millis) {
	for _, r := range refusals {
		f := *r.f
		f.field = fmt.Sprintf("events[%d].%s", r.i, f.field)
		s.refuse(site, &f, now, 1)
	}
	if reply.Duplicate > 0 {
		s.count(site, "", reply.Duplicate)
	}
	if reply.Stored > 0 {
		s.metrics.events.WithLabelValues(taxonomy.Stored.String(), "").Add(float64(reply.Stored))
	}
}

// readBody reads the body into w.body, or says why it is refused.
func (s *Server) readBody(w *work, r *http.Request) *Problem {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/json" && media != "text/plain" {
		return NewProblem(http.StatusUnsupportedMediaType, codeType, "the body's Content-Type must be application/json or text/plain").
			At("header.Content-Type", "not supported")
	}
	return s.readBytes(w, r)
}

func (s *Server) readBytes(w *work, r *http.Request) *Problem {
	limit := s.o.Limits.Body
	tooLarge := func(what string) *Problem {
		return NewProblem(http.StatusRequestEntityTooLarge, string(taxonomy.ReasonTooLarge),
			fmt.Sprintf("the body%s has more than %d bytes; send several batches", what, limit)).At("body", "too large")
	}
	if r.ContentLength > int64(limit) {
		return tooLarge("")
	}
	cut := func(err error) *Problem {
		return NewProblem(http.StatusBadRequest, string(taxonomy.ReasonMalformed), "the body could not be read to its end").At("body", "cut short")
	}
	var src io.Reader = r.Body
	inflated := ""
	switch enc := strings.ToLower(r.Header.Get("Content-Encoding")); enc {
	case "", "identity":
	case "gzip":
		// Both sides of the bomb are bounded: what is read and what comes out.
		packed := &io.LimitedReader{R: r.Body, N: int64(limit) + 1}
		var err error
		if w.unzip == nil {
			w.unzip, err = gzip.NewReader(packed)
		} else {
			err = w.unzip.Reset(packed)
		}
		if err != nil {
			return NewProblem(http.StatusBadRequest, string(taxonomy.ReasonMalformed), "the body is not gzip, as its Content-Encoding says").At("body", "not gzip")
		}
		src, inflated = w.unzip, ", unpacked,"
	default:
		return NewProblem(http.StatusUnsupportedMediaType, codeType, "the body's Content-Encoding must be gzip, or none").
			At("header.Content-Encoding", "not supported")
	}
	b := w.body[:0]
	if cap(b) == 0 {
		b = make([]byte, 0, 4<<10)
	}
	for {
		if len(b) == cap(b) {
			b = slices.Grow(b, len(b))
		}
		n, err := src.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		w.body = b
		if len(b) > limit {
			return tooLarge(inflated)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return cut(err)
		}
	}
}

// knownSite returns the ID of a site if it exists, else "": counts and samples
// are kept for sites that are, so that what is made up takes no room, and is
// written nowhere.
func (s *Server) knownSite(id string) taxonomy.SiteID {
	slug := siteOf(id)
	if slug == "" {
		return ""
	}
	if _, ok := s.o.Sites.Site(slug); !ok {
		return ""
	}
	return slug
}

// checkSite finds the site and checks that it takes this request: that it
// exists, has not ended, that its source stands, and that the page is its own.
// w.site is set as far as it is known.
func (s *Server) checkSite(w *work, id string, r *http.Request, where string) *Problem {
	site, ok := s.o.Sites.Site(siteOf(id))
	if !ok {
		return NewProblem(http.StatusNotFound, string(taxonomy.ReasonUnknownSite), "there is no such site; see the snippet of the site in the console").
			At(where, "unknown")
	}
	w.site = site
	if p := s.siteEnded(&site, w.visit.now.Day(), where); p != nil {
		return p
	}
	if !fromSite(&site, pageOf(r.Header)) {
		return NewProblem(http.StatusForbidden, string(taxonomy.ReasonWrongOrigin), "this page's origin is not one of the site's; add it to the site's origins if it should be").
			At("header.Origin", "not listed")
	}
	return nil
}

func (s *Server) siteEnded(site *taxonomy.Site, today taxonomy.Day, where string) *Problem {
	ended := func(why string) *Problem {
		return NewProblem(http.StatusGone, string(taxonomy.ReasonSource), why).At(where, "ended")
	}
	if site.Ends != nil && today >= *site.Ends {
		return ended("the site has ended on " + site.Ends.String())
	}
	src, ok := s.o.Sources.Source(site.Source)
	switch {
	case !ok:
		return ended("the site's source does not exist")
	case src.Withdrawn:
		return ended("the site's source is withdrawn")
	case src.Agreement != nil && src.Agreement.Ends != nil && today >= *src.Agreement.Ends:
		return ended("the agreement of the site's source has ended on " + src.Agreement.Ends.String())
	}
	return nil
}

// fromPage reports whether a request comes from a page whose origin is listed:
// its Origin, or its Referer if it has none, is exactly one. "null" (a sandboxed
// frame, a file) is no origin. Without either it is no browser, or one that was
// told to keep the page to itself: then it passes unless the browser says that it
// comes from another site, as a link elsewhere does, which would bring the
// visitor's cookie along.
func fromPage(r *pageHeaders, listed func(origin string) bool) bool {
	switch {
	case len(r.origin) == 1:
		return r.origin[0] != "null" && listed(r.origin[0])
	case len(r.origin) > 1:
		return false
	case first(r.referer) != "":
		return listed(originOf(r.referer[0]))
	}
	return first(r.fetchSite) != "cross-site"
}

// pageHeaders are the lines of a request that say where it comes from.
type pageHeaders struct{ origin, referer, fetchSite []string }

func pageOf(h http.Header) pageHeaders {
	return pageHeaders{h["Origin"], h["Referer"], h["Sec-Fetch-Site"]}
}

func fromSite(site *taxonomy.Site, r pageHeaders) bool {
	return fromPage(&r, func(o string) bool { return slices.Contains(site.Origins, o) })
}

// refuseBody counts a body that could not be parsed: one received and one
// rejected, of the site that it named or of none (R12).
func (s *Server) refuseBody(site taxonomy.SiteID, p *Problem, now taxonomy.Millis) error {
	return s.refuseRequest(site, p, now, 1)
}

// refuseRequest counts a refused request and its n events.
func (s *Server) refuseRequest(site taxonomy.SiteID, p *Problem, now taxonomy.Millis, n int) error {
	reason := taxonomy.Reason(p.Code)
	if p.Code == codeType {
		reason = taxonomy.ReasonMalformed
	}
	s.metrics.refused.WithLabelValues(string(reason)).Inc()
	f := &fault{reason: reason, why: p.Detail}
	if len(p.Errors) > 0 {
		f.field = p.Errors[0].Location
	}
	s.refuse(site, f, now, n)
	s.seeRefused(site, "/v1/e", f, now, n)
	return p
}

// unavailable is for what is broken on our side: keys, randomness.
func (s *Server) unavailable(err error) error {
	s.log.Error("request not answered", "error", err)
	return NewProblem(http.StatusServiceUnavailable, codeUnavailable, "this node cannot take it now; send it again later")
}

// storeContext bounds how long the store is waited for. It does not end with
// the connection: a page that is left closes it, and its events count.
func (s *Server) storeContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return s.o.Timeout(context.WithoutCancel(ctx), s.o.Limits.Answer)
}

func writeJSON(c echo.Context, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	res := c.Response()
	res.Header()[echo.HeaderContentType] = jsonType
	res.WriteHeader(status)
	// The client may be gone; there is nobody left to tell.
	_, _ = res.Write(b)
	return nil
}

var jsonType = []string{"application/json"}

// allowOrigin lets a page of a listed origin read the answer. Which site it
// belongs to is checked by the handler; that any site lists it is enough to read
// why it was refused. The origin is never echoed unless it is listed.
func (s *Server) allowOrigin(h http.Header, r *http.Request) bool {
	h.Add("Vary", "Origin")
	o := r.Header["Origin"]
	if len(o) != 1 || o[0] == "null" || !s.o.Sites.HasOrigin(o[0]) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", o[0])
	h.Set("Access-Control-Allow-Credentials", "true")
	h.Set("Access-Control-Expose-Headers", headerReason+", Retry-After")
	return true
}

// handlePreflight answers the browser's question before a post that is not
// simple. The tag never asks it.
func (s *Server) handlePreflight(c echo.Context) error {
	h := c.Response().Header()
	if !s.allowOrigin(h, c.Request()) {
		return NewProblem(http.StatusForbidden, string(taxonomy.ReasonWrongOrigin), "no site lists this origin").At("header.Origin", "not listed")
	}
	h.Set("Access-Control-Allow-Methods", "GET, POST")
	h.Set("Access-Control-Allow-Headers", "Content-Type, Content-Encoding")
	h.Set("Access-Control-Max-Age", "600")
	c.Response().WriteHeader(http.StatusNoContent)
	return nil
}
