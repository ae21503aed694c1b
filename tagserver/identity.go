package tagserver

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/consent"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

// The cookies. The prefix makes the browser itself refuse them without https,
// with a domain, or for a part of the host: no other host can plant one.
const (
	CookieID     = "__Host-ebb"
	CookieOptOut = "__Host-ebbo"
)

// optOutSeconds is 400 days, the longest life that browsers grant; each visit
// begins it anew.
const optOutSeconds = 400 * 24 * 3600

// maxCookies is how many different valid ID cookies a request may carry and
// have erased; more is an attack, and what is beyond was not read.
const maxCookies = 4

// head is what is read of a request besides its own fields. It ends with the
// request.
type head struct {
	cookies   []string // the Cookie lines
	gpc, dnt  []string // the Sec-GPC and DNT lines
	referer   string
	agent     string
	fetchSite string
	peer      string
	forwarded []string // the X-Forwarded-For lines
}

func headOf(r *http.Request) head {
	return head{
		cookies: r.Header["Cookie"], gpc: r.Header["Sec-Gpc"], dnt: r.Header["Dnt"], peer: r.RemoteAddr, forwarded: r.Header["X-Forwarded-For"],
		referer: first(r.Header["Referer"]), agent: first(r.Header["User-Agent"]), fetchSite: first(r.Header["Sec-Fetch-Site"]),
	}
}

func first(v []string) string {
	if len(v) == 0 {
		return ""
	}
	return v[0]
}

func (s *Server) addr(h *head) netip.Addr {
	return clientAddr(h.peer, h.forwarded, s.o.TrustedProxies)
}

// carried is what the cookies of a request say.
type carried struct {
	optOut bool
	any    bool // an ID cookie is there, valid or not
	n      int
	ids    [maxCookies]ident // the different valid ones
	// off is what the visitor has switched off, if its cookie is there.
	chose bool
	off   []taxonomy.Trait
}

type ident struct {
	id     [16]byte
	issued taxonomy.Day
	// old: signed with a key that signs no more.
	old bool
}

// readCookies scans the Cookie lines by hand: net/http takes the first of two
// cookies of a name, trims what it does not like, and allocates for each.
func readCookies(lines []string, m cookieMode, ring *keys.Ring, today taxonomy.Day) (c carried) {
	for _, line := range lines {
		for more := true; more; {
			var pair string
			pair, line, more = strings.Cut(line, ";")
			name, value, _ := strings.Cut(strings.Trim(pair, " \t"), "=")
			switch name {
			case CookieOptOut:
				// Whatever its value: a doubt is an opt-out.
				c.optOut = true
			case CookieOff:
				c.chose = true
				c.off = append(c.off, parseOff(value)...) // of two, what either says
			case m.id():
				c.any = true
				id, issued, ok := ring.VerifyCookie(m.id(), value, today)
				if ok {
					c.addID(ident{id, issued, !ring.SignedByCurrent(value)})
				}
			}
		}
	}
	return c
}

func (c *carried) addID(i ident) {
	for _, o := range c.ids[:c.n] {
		if o.id == i.id && o.issued == i.issued {
			return
		}
	}
	if c.n < maxCookies {
		c.ids[c.n] = i
		c.n++
	}
}

// visit is one request after it was decided and identified.
type visit struct {
	now      taxonomy.Millis
	mode     cookieMode
	ring     *keys.Ring
	decision consent.Decision
	// Room for what speaks and for why.
	statements [6]consent.Statement
	why        [6]consent.Reason

	// known: there is a visitor, and key and issued are its. returning: the
	// request carried our valid cookie, so the record adopts the visitor.
	known     bool
	returning bool
	key       taxonomy.VisitorKey
	issued    taxonomy.Day
	group     taxonomy.Group
	// limited: a new ID was due and the address class had too many.
	limited bool
	erased  bool // an erasure is among the records

	cookies [3]string // Set-Cookie values
	n       int
	// records are statements to be appended with or before the answer: erasures
	// and a succession.
	records []taxonomy.Record
}

func (v *visit) set(cookie string) { v.cookies[v.n] = cookie; v.n++ }

func (v *visit) writeCookies(h http.Header) {
	if v.n > 0 {
		h["Set-Cookie"] = append([]string(nil), v.cookies[:v.n]...)
	}
}

// Strings are the consent strings of a request, as they came; empty: none. GDPR
// is "1" if the request says that the GDPR applies.
type Strings struct{ TCF, GPP, GPPSID, USP, GDPR string }

// signals gathers everything that speaks about a request.
func (s *Server) signals(v *visit, h *head, c *wireConsent, cookies *carried, site *taxonomy.Site, day taxonomy.Day) consent.Signals {
	sig := consent.Signals{OptOutCookie: cookies.optOut, Explicit: c.Granted, Day: day, Mode: taxonomy.ModeOptIn}
	for _, line := range h.gpc {
		sig.GPC = sig.GPC || line == "1"
	}
	for _, line := range h.dnt {
		sig.DNT = sig.DNT || line == "1" && !s.o.IgnoreDNT
	}
	sig.Child = c.Child
	if site != nil {
		sig.Mode = site.Consent
		sig.ShareOnly = site.GPCMode == taxonomy.GPCShareOnly
		sig.OptOutCountries = site.OptOutCountries
		sig.NoGDPR = site.TrustGDPRZero && c.GDPR == "0"
		sig.Child = sig.Child || site.ChildDirected
	}
	if c.GDPR != "" && c.GDPR != "0" {
		// The page says that the GDPR applies, or something nobody understands:
		// then the country does not grant anything.
		sig.Mode = taxonomy.ModeOptIn
	}
	if sig.Mode == taxonomy.ModeByCountry && s.o.Country != nil {
		sig.Country = s.o.Country(s.addr(h))
	}
	t := Strings{TCF: c.TCF, GPP: c.GPP, GPPSID: c.GPPSID, USP: c.USP}
	if c.GDPR == "1" {
		t.GDPR = c.GDPR
	}
	sig.Statements = v.statements[:0]
	if t != (Strings{}) {
		sig.Statements = s.o.Strings(sig.Statements, t, day)
	}
	if c.Conflict {
		sig.Statements = append(sig.Statements, consent.Statement{Signal: taxonomy.SignalTCF, Stale: true, Reason: consent.Reason{
			Code: "signals_conflict", Why: "a consent signal is given twice with different values, or cannot be read",
			Mend: "send each signal once",
		}})
	}
	return sig
}

// unread is Options.Strings where nobody reads them: each is a statement that
// says nothing reliable, and what nobody can read means no.
func unread(out []consent.Statement, t Strings, _ taxonomy.Day) []consent.Statement {
	add := func(sig taxonomy.Signal, name, s string) {
		if s != "" {
			out = append(out, consent.Statement{Signal: sig, Stale: true, Reason: consent.Reason{
				Code: "string_unread", Why: "the request carries a " + name + " string, which this version does not read; unknown means no",
				Mend: "have the page send the visitor's answer as consent.granted, without the string",
			}})
		}
	}
	add(taxonomy.SignalTCF, "TCF", t.TCF)
	add(taxonomy.SignalGPP, "GPP", t.GPP+t.GPPSID)
	add(taxonomy.SignalUSP, "US Privacy", t.USP)
	return out
}

// identify decides, and then finds the visitor: not before, and not at all if
// it may not. With mint it gives a new ID where one is due. site may be nil
// where a request names none.
//
//	refused by somebody       every valid ID is erased, the cookie taken away
//	allowed, cookie ours      that visitor; an old ID is followed by a new one
//	allowed, anything else    a new ID; what does not verify is never adopted
//	not allowed               the cookie is neither used nor touched
//
// Statements that must be in the log before the answer are left in v.records.
func (s *Server) identify(v *visit, h *head, c *wireConsent, site *taxonomy.Site, mint bool) error {
	v.ring, v.mode = s.o.Keys(), s.modeOf(h)
	cookies := readCookies(h.cookies, v.mode, v.ring, v.now.Day())
	if err := s.identifyBy(v, &cookies, h, c, site, mint); err != nil {
		return err
	}
	if cookies.chose && v.known && mint {
		// A new ID begins with what is off, and the cookie's life begins anew.
		s.choose(v, v.key, cookies.off, v.returning, site)
		v.set(v.mode.cookie(CookieOff, offValue(cookies.off), optOutSeconds))
	}
	return nil
}

func (s *Server) identifyBy(v *visit, cookies *carried, h *head, c *wireConsent, site *taxonomy.Site, mint bool) error {
	today := v.now.Day()
	sig := s.signals(v, h, c, cookies, site, today)
	v.decision = consent.DecideWith(v.why[:0], sig)
	verdicts(&sig, s.metrics.says)
	s.heard.hear(&sig, site, today)

	if v.decision.Expire {
		if cookies.optOut {
			v.set(v.mode.cookie(CookieOptOut, "1", optOutSeconds))
		}
		return s.expire(v, cookies, site)
	}
	if !v.decision.ReadCookie() {
		return nil
	}
	if cookies.n == 1 {
		i := &cookies.ids[0]
		key, err := v.ring.VisitorKey(taxonomy.SpaceCookie, i.id[:], i.issued)
		switch {
		case err != nil:
			return fmt.Errorf("derive the visitor key: %w", err)
		case s.o.Erased.Erased(key):
			s.metrics.cookies.WithLabelValues(cookieErased).Inc()
		default:
			v.known, v.returning, v.key, v.issued = true, true, key, i.issued
			v.group = s.group(key)
			if mint && v.decision.SetCookie() && today >= keys.RotationDay(i.id, i.issued) {
				return s.rotate(v, today, site)
			}
			if left := int(i.issued + keys.CookieDays - today); i.old && left > 0 && mint && v.decision.SetCookie() {
				// The same ID with its day, under the key that signs now: what
				// is left of its life, not a new one.
				v.set(v.mode.cookie(v.mode.id(), v.ring.SignCookie(v.mode.id(), i.id, i.issued), left*24*3600))
			}
			s.metrics.cookies.WithLabelValues(cookieReturning).Inc()
			return nil
		}
	} else if cookies.n > 1 {
		s.metrics.cookies.WithLabelValues(cookieDouble).Inc()
	} else if cookies.any {
		s.metrics.cookies.WithLabelValues(cookieInvalid).Inc()
	}
	if !mint || !v.decision.SetCookie() {
		return nil
	}
	if !s.newIDs.allow(addressClass(s.addr(h)), v.now) {
		s.metrics.cookies.WithLabelValues(cookieLimited).Inc()
		v.limited = true
		return nil
	}
	key, err := s.newID(v, today)
	if err != nil {
		return err
	}
	v.known, v.key, v.issued, v.group = true, key, today, s.group(key)
	s.metrics.cookies.WithLabelValues(cookieNew).Inc()
	return nil
}

// newID draws an ID, sets its cookie and returns its visitor key.
func (s *Server) newID(v *visit, today taxonomy.Day) (taxonomy.VisitorKey, error) {
	var id [16]byte
	if _, err := io.ReadFull(s.o.Rand, id[:]); err != nil {
		return taxonomy.VisitorKey{}, fmt.Errorf("draw an ID: %w", err)
	}
	key, err := v.ring.VisitorKey(taxonomy.SpaceCookie, id[:], today)
	if err != nil {
		return key, fmt.Errorf("derive the visitor key: %w", err)
	}
	v.set(v.mode.cookie(v.mode.id(), v.ring.SignCookie(v.mode.id(), id, today), keys.CookieDays*24*3600))
	return key, nil
}

// rotate gives the browser a new ID (R27). This request still belongs to the
// old one, which it proved to have: so nothing of it waits for a cookie that may
// come back, and two requests that rotate at once leave no visitor that did
// something once and was never seen again.
func (s *Server) rotate(v *visit, today taxonomy.Day, site *taxonomy.Site) error {
	key, err := s.newID(v, today)
	if err != nil {
		return err
	}
	r := s.statement(v, taxonomy.RecordSucceeds, site)
	r.Visitor, r.Succeeds = key, v.key
	v.records = append(v.records, r)
	s.metrics.cookies.WithLabelValues(cookieRotated).Inc()
	return nil
}

// expire takes the ID cookie away and makes an erasure of every ID that it
// held (R23).
func (s *Server) expire(v *visit, cookies *carried, site *taxonomy.Site) error {
	if !cookies.any {
		return nil
	}
	v.set(v.mode.cookie(v.mode.id(), "", 0))
	s.metrics.cookies.WithLabelValues(cookieExpired).Inc()
	for _, i := range cookies.ids[:cookies.n] {
		key, err := v.ring.VisitorKey(taxonomy.SpaceCookie, i.id[:], i.issued)
		if err != nil {
			return fmt.Errorf("derive the visitor key: %w", err)
		}
		r := s.statement(v, taxonomy.RecordErasure, site)
		r.Visitor, r.Returning = key, true
		v.records = append(v.records, r)
		v.group = s.group(key)
		v.erased = true
	}
	return nil
}

// statement returns a record of the visit without a visitor.
func (s *Server) statement(v *visit, kind taxonomy.RecordKind, site *taxonomy.Site) taxonomy.Record {
	r := taxonomy.Record{Kind: kind, Received: v.now, Space: taxonomy.SpaceCookie, Consent: v.decision.Consent}
	if site != nil {
		r.Site, r.Source = site.ID, site.Source
	}
	return r
}

// reason is what the answer says of a decision that refused: the signal's code,
// why, and how to mend it.
func (v *visit) reason() string {
	r := &v.decision.Reasons[0]
	text := "consent; code=" + r.Code + "; " + r.Why
	if r.Mend != "" {
		text += "; " + r.Mend
	}
	return text
}
