package tagserver

import (
	"errors"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// segReply is the answer to GET /v1/seg.
type segReply struct {
	Audiences []PageAudience  `json:"audiences"`
	AsOf      taxonomy.Millis `json:"as_of"`
	Stale     bool            `json:"stale"`
}

// handleSeg answers GET /v1/seg?site=…: the visitor's audiences, for the page.
// It gives no new ID: who has none is in no audience. Consent is in the query
// (R33), and no answer is kept by any cache. With as=ortb2 it answers with what
// each bidder may be told, in the form in which Prebid.js passes it on.
func (s *Server) handleSeg(c echo.Context) error {
	r := c.Request()
	h := c.Response().Header()
	// A page reads it by CORS or not at all: never as an image or a script.
	h[headerCORP] = sameOrigin
	s.allowOrigin(h, r)
	w := s.getWork()
	defer s.putWork(w)
	v := &w.visit
	v.now = s.o.Now()
	parseQuery(r.URL.RawQuery, &w.query)
	if p := s.checkSite(w, w.query.Site, r, "query.site"); p != nil {
		s.metrics.refused.WithLabelValues(p.Code).Inc()
		return p
	}
	if w.query.As != "" && w.query.As != asORTB {
		return NewProblem(http.StatusBadRequest, string(taxonomy.ReasonMalformed), "as: want "+asORTB+", or leave it out").At("query.as", "unknown form")
	}
	hd := headOf(r)
	if !s.mayAsk(w.site.ID, &hd, v.now) {
		s.metrics.refused.WithLabelValues(string(taxonomy.ReasonRateLimit)).Inc()
		p := NewProblem(http.StatusTooManyRequests, string(taxonomy.ReasonRateLimit), tooOften)
		p.RetryAfter = 10
		return p
	}
	ctx, cancel := s.storeContext(r.Context())
	defer cancel()
	if err := s.identify(v, &hd, &w.query.Consent, &w.site, false); err != nil {
		return s.unavailable(err)
	}
	reply := segReply{Audiences: []PageAudience{}, AsOf: v.now}
	status := http.StatusOK
	switch {
	case len(v.records) > 0:
		asked := s.o.Ack
		if v.erased {
			asked = max(asked, s.o.EraseAck)
		}
		reached, err := s.append(ctx, v.records, v.group, asked)
		if err != nil {
			return storeProblem(err)
		}
		if v.erased && reached < asked {
			status = http.StatusAccepted
		}
		h.Set(headerReason, v.reason())
	case !v.decision.Profile():
		h.Set(headerReason, v.reason())
	case !v.known:
		h.Set(headerReason, "no_visitor")
	default:
		a, err := s.o.Audiences.Page(ctx, v.key, w.site.ID)
		if err != nil {
			return s.unavailable(err)
		}
		reply.AsOf, reply.Stale = a.AsOf, a.Stale
		if a.Audiences != nil {
			reply.Audiences = a.Audiences
		}
	}
	v.writeCookies(h)
	if w.query.As == asORTB {
		f := ortbFragments{Bidder: map[string]ortb2{}, AsOf: reply.AsOf, Stale: reply.Stale}
		if s.o.Bidders != nil && len(reply.Audiences) > 0 {
			f.Bidder = fragments(r.Host, reply.Audiences, s.o.Bidders(), v.decision.ExportTo)
		}
		return writeJSON(c, status, &f)
	}
	return writeJSON(c, status, &reply)
}

// asORTB asks for what bidders may be told.
const asORTB = "ortb2"

// CheckSyncTemplate says what is wrong with a destination's sync template: it
// must be an absolute https address without user, with ${EBB_ID} in its path or
// query and nowhere else, and with nothing that a header cannot hold. The edge
// checks it once more before each redirect.
func CheckSyncTemplate(t string) error {
	if t == "" {
		return errors.New("sync template: is empty; the destination does not sync")
	}
	if len(t) > maxURL {
		return errors.New("sync template: longer than " + itoa(maxURL) + " bytes")
	}
	for i := 0; i < len(t); i++ {
		if t[i] <= ' ' || t[i] >= 0x7f || t[i] == '\\' {
			return errors.New("sync template: character " + itoa(int(t[i])) + " at byte " + itoa(i) + "; percent-encode it")
		}
	}
	rest, ok := strings.CutPrefix(t, "https://")
	if !ok {
		return errors.New("sync template: must begin with https://")
	}
	end := strings.IndexAny(rest, "/?#")
	host := rest
	if end >= 0 {
		host = rest[:end]
	}
	switch {
	case host == "" || strings.ContainsAny(host, "@$%{}"):
		return errors.New("sync template: the host must be plain, without user or macro")
	case end < 0 || !strings.Contains(rest[end:], idMacro):
		return errors.New("sync template: must have " + idMacro + " in its path or query")
	case strings.Contains(rest, "#"):
		return errors.New("sync template: must have no fragment")
	}
	return nil
}

// sameHost reports whether an origin is this host itself, as the privacy page's
// is. The scheme may differ from what we see behind a proxy.
func sameHost(origin, host string) bool {
	o, ok := strings.CutPrefix(origin, "https://")
	if !ok {
		o, ok = strings.CutPrefix(origin, "http://")
	}
	return ok && o != "" && strings.EqualFold(o, host)
}

// ownOrigin returns whether an origin is a site's, or that of this host.
func (s *Server) ownOrigin(host string) func(string) bool {
	return func(o string) bool { return s.o.Sites.HasOrigin(o) || sameHost(o, host) }
}

// mayChoose reports whether a page may post a visitor's choice: one of a site's
// or our own. A browser names the page's origin with every post, so another
// site's page cannot opt a visitor out, nor, worse, in.
func (s *Server) mayChoose(r *http.Request) bool {
	page := pageOf(r.Header)
	return fromPage(&page, s.ownOrigin(r.Host))
}
