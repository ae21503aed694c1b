package tagserver

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// MaxPartnerID is how long a partner's ID may be, in bytes.
const MaxPartnerID = 256

// CheckPartnerID says what is wrong with a partner's ID of a visitor. It is
// opaque, but made of what such IDs are made of: letters, digits and a few signs.
// So macros that nobody filled, addresses of people, and what breaks a partner's
// file are none, and neither is what partners say when they have no ID.
func CheckPartnerID(id string) error {
	switch id {
	case "":
		return errors.New("is empty")
	case "0", "-1", "null", "undefined", "NULL", "nil", "none", "OPTOUT", "optout":
		return errors.New("says that there is no ID")
	}
	if len(id) > MaxPartnerID {
		return fmt.Errorf("has %d bytes, at most %d are allowed", len(id), MaxPartnerID)
	}
	for i := 0; i < len(id); i++ {
		switch c := id[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '-', c == '_', c == '.', c == '~', c == ':', c == '/', c == '+', c == '=', c == '*', c == '!':
		default:
			return fmt.Errorf("has byte %d at %d; letters, digits and -_.~:/+=*! are allowed", c, i)
		}
	}
	return nil
}

// SignMatch is how a destination signs that it knows a visitor by an ID: hex of
// HMAC-SHA-256 under SHA-256 of the destination's key, which is what is kept of it
// here, over the destination, the visitor's pseudonym there, the partner's ID and the
// millisecond since 1970 at which the signature ends, separated by zero bytes. It
// names the visitor, so nobody else can use it.
func SignMatch(keyHash string, dest taxonomy.DestinationID, ebbID, id string, expires taxonomy.Millis) (string, error) {
	secret, err := hex.DecodeString(keyHash)
	if err != nil || len(secret) != sha256.Size {
		return "", errors.New("sign a match: the destination has no key; make one")
	}
	m := hmac.New(sha256.New, secret)
	fmt.Fprintf(m, "ebb-match-1\x00%s\x00%s\x00%s\x00%d", dest, ebbID, id, expires)
	return hex.EncodeToString(m.Sum(nil)), nil
}

// signatureLife is how far ahead a signature may end.
const signatureLife = taxonomy.Hour

// matchBody is the body of POST /v1/match.
type matchBody struct {
	Site, Destination, ID, Signature string
	Expires                          int64
	Consent                          wireConsent
}

func parseMatch(body string, m *matchBody) error {
	p := jsonReader{s: body, event: -1}
	var seen uint
	p.whole(func(key string) {
		switch key {
		case "site":
			p.once(&seen, 0, key)
			m.Site = p.str(key)
		case "destination":
			p.once(&seen, 1, key)
			m.Destination = p.str(key)
		case "id":
			p.once(&seen, 2, key)
			m.ID = p.str(key)
		case "signature":
			p.once(&seen, 3, key)
			m.Signature = p.str(key)
		case "expires":
			p.once(&seen, 4, key)
			m.Expires = p.millis(key)
		case "consent":
			p.once(&seen, 5, key)
			p.consent(&m.Consent)
		default:
			p.skip(0)
		}
	})
	if p.err != nil {
		return p.err
	}
	return nil
}

// matchReply is the answer to POST /v1/match.
type matchReply struct {
	Matched bool   `json:"matched"`
	Durable string `json:"durable,omitempty"`
}

// handleMatch answers GET /v1/match?dest=DEST&id=ID, with the image, always: the
// last hop of a partner's sync brings its own ID of the visitor. Nothing proves
// that it is the partner who brings it, so it is taken only where the destination
// says so, from pages of its own list or of sites, and within the caps.
func (s *Server) handleMatch(c echo.Context) error {
	h := c.Response().Header()
	w := s.getWork()
	defer s.putWork(w)
	v := &w.visit
	v.now = s.o.Now()
	parseQuery(c.Request().URL.RawQuery, &w.query)
	dest, site, reason := s.synced(c.Request(), w, w.query.Destination)
	switch {
	case reason != "":
	case !dest.Pixel:
		reason = "no_pixel; the destination takes no IDs from browsers; set sync.pixel"
	default:
		_, reason = s.learn(c, w, &dest, site, w.query.Event.ID)
	}
	s.countSync("match", reason)
	if reason != "" {
		h.Set(headerReason, reason)
	}
	v.writeCookies(h)
	writeGIF(c)
	return nil
}

// handleMatchSigned answers POST /v1/match: the same, signed by the destination
// for this visitor.
func (s *Server) handleMatchSigned(c echo.Context) error {
	r := c.Request()
	h := c.Response().Header()
	h[headerCORP] = sameOrigin
	w := s.getWork()
	defer s.putWork(w)
	v := &w.visit
	v.now = s.o.Now()
	if p := s.readBody(w, r); p != nil {
		return p
	}
	var m matchBody
	if err := parseMatch(string(w.body), &m); err != nil {
		return NewProblem(http.StatusBadRequest, string(taxonomy.ReasonMalformed), err.Error())
	}
	if err := CheckPartnerID(m.ID); err != nil {
		return NewProblem(http.StatusUnprocessableEntity, string(taxonomy.ReasonMalformed), "the partner's ID "+err.Error()).At("body.id", "no ID")
	}
	w.query.Site, w.query.Consent = m.Site, m.Consent
	dest, site, reason := s.synced(r, w, m.Destination)
	s.allowPage(h, r, &dest)
	reply := matchReply{}
	if reason == "" {
		until := taxonomy.Millis(m.Expires)
		want, err := SignMatch(dest.KeyHash, dest.ID, v.ring.Pseudonym(dest.ID, dest.Epoch, v.key), m.ID, until)
		if err != nil || until < v.now || until > v.now+signatureLife || !hmac.Equal([]byte(want), []byte(m.Signature)) {
			s.countSync("match_signed", "bad_signature")
			return NewProblem(http.StatusForbidden, "bad_signature",
				"the signature is not this destination's for this visitor and ID, or has ended, or ends in more than an hour").At("body.signature", "not valid")
		}
		reply.Durable, reason = s.learn(c, w, &dest, site, m.ID)
	}
	s.countSync("match_signed", reason)
	v.writeCookies(h)
	switch MatchVerdict(reason) {
	case "":
		reply.Matched = true
	case MatchIDs, MatchVisitors, MatchChanges:
		p := NewProblem(http.StatusTooManyRequests, "match_cap", "this destination's cap of "+reason+" is met; it begins anew at midnight UTC")
		p.RetryAfter = int(((v.now.Day()+1).Start()-v.now)/taxonomy.Second) + 1
		return p
	case codeUnavailable:
		return NewProblem(http.StatusServiceUnavailable, codeUnavailable, "the match could not be kept; send it again")
	default:
		h.Set(headerReason, reason)
	}
	return writeJSON(c, http.StatusOK, &reply)
}

// learn records that the destination knows the visitor by id. A pair that is the
// newest of both already is not written again on the same day: its life of 90
// days begins anew by what is written on others.
func (s *Server) learn(c echo.Context, w *work, dest *Destination, site *taxonomy.Site, id string) (durable, reason string) {
	v := &w.visit
	if CheckPartnerID(id) != nil {
		return "", "bad_id"
	}
	switch verdict := s.TakeMatch(dest, v.key, id); {
	case verdict.Refused():
		return "", string(verdict)
	case verdict == MatchKnown:
		return retention.AckLocal.String(), ""
	}
	rec := s.statement(v, taxonomy.RecordMatch, site)
	rec.Visitor, rec.Returning, rec.Match = v.key, true, &taxonomy.Match{Destination: dest.ID, ID: id}
	ctx, cancel := s.storeContext(c.Request().Context())
	defer cancel()
	reached, err := s.append(ctx, []taxonomy.Record{rec}, v.group, s.o.Ack)
	if err != nil {
		s.matches.giveBack(dest.ID, v.key, id)
		return "", codeUnavailable
	}
	return reached.String(), ""
}
