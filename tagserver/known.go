package tagserver

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Known is what is known of one visitor, in the visitor's words.
type Known struct {
	Audiences []string    `json:"audiences"` // titles
	Events    []KnownPart `json:"events"`    // by day, oldest first
	// Categories are what the events say of the visitor, by title, and what it has
	// switched off.
	Categories []KnownCategory `json:"categories"`
}

// KnownPart is one event of a visitor.
type KnownPart struct {
	Day  taxonomy.Day `json:"day"`
	Site string       `json:"site"`
	What string       `json:"what"`            // its kind, and name if it has one
	Page string       `json:"page,omitempty"`  // the cleaned address
	Also []string     `json:"also,omitempty"`  // key=value
	Till taxonomy.Day `json:"forgotten_after"` // the last day on which it is readable
}

// KnownCategory is a category that a visitor's events are in.
type KnownCategory struct {
	ID    string        `json:"id"` // taxonomy/category
	Title string        `json:"title"`
	Of    string        `json:"of,omitempty"`   // the taxonomy's title
	N     int           `json:"events"`         // events in it, or below it
	Last  *taxonomy.Day `json:"last,omitempty"` // day of the newest of them
	// Off: the visitor has switched it off, or one above it: nobody reads it.
	Off bool `json:"off"`
	// With is the title of the category above that is off, if this one itself is
	// not: its switch is there.
	With string `json:"off_with,omitempty"`
}

// Visitors tells what is known of a visitor. It keeps within the context's
// deadline and returns an error rather than half of it.
type Visitors interface {
	Known(ctx context.Context, v taxonomy.VisitorKey) (Known, error)
	// Off returns the categories that a visitor has switched off, as far as is
	// known here. The caller must not change the list.
	Off(v taxonomy.VisitorKey) []taxonomy.Trait
}

// status is the answer to GET /privacy/status. It says how this browser stands,
// and never which ID it has.
type status struct {
	OptedOut bool `json:"opted_out"`
	GPC      bool `json:"gpc"`
	// Cookie: none, valid, or invalid: it is not ours, and will be replaced.
	Cookie string `json:"cookie"`
	// Since is the day on which the ID was made, if there is one.
	Since *taxonomy.Day `json:"since,omitempty"`
	// Erased: what this ID stood for has been erased.
	Erased bool `json:"erased"`
	// Off are the categories that are switched off in this browser.
	Off []string `json:"off"`
	// chose: the cookie says so, which is newer than what is folded.
	chose bool
}

// visitorOf reads the cookie of somebody who asks about itself. The signed
// cookie is what proves who asks, so no consent is needed to read it, and
// nothing else is accepted: no parameter names a visitor.
func (s *Server) visitorOf(r *http.Request) (st status, key taxonomy.VisitorKey, ok bool, err error) {
	hd := headOf(r)
	ring := s.o.Keys()
	cookies := readCookies(hd.cookies, cookieMode{}, ring, s.o.Now().Day())
	st = status{OptedOut: cookies.optOut, Cookie: "none", Off: []string{}}
	st.chose = cookies.chose
	for _, t := range cookies.off {
		st.Off = append(st.Off, strings.TrimPrefix(string(t), "c:"))
	}
	for _, v := range hd.gpc {
		st.GPC = st.GPC || v == "1"
	}
	if !cookies.any {
		return st, key, false, nil
	}
	if cookies.n != 1 {
		st.Cookie = "invalid"
		return st, key, false, nil
	}
	i := &cookies.ids[0]
	if key, err = ring.VisitorKey(taxonomy.SpaceCookie, i.id[:], i.issued); err != nil {
		return st, key, false, err
	}
	st.Cookie, st.Since, st.Erased = "valid", &i.issued, s.o.Erased.Erased(key)
	return st, key, !st.Erased, nil
}

// ownPage lets through who comes from our own page, or from none: another site
// can neither read what is known nor tell whether anything is.
func (s *Server) ownPage(r *http.Request) *Problem {
	own := len(r.Header["Origin"]) == 0 || len(r.Header["Origin"]) == 1 && sameHost(r.Header["Origin"][0], r.Host)
	if f := first(r.Header["Sec-Fetch-Site"]); own && (f == "" || f == "none" || f == "same-origin") {
		return nil
	}
	s.metrics.refused.WithLabelValues(string(taxonomy.ReasonWrongOrigin)).Inc()
	return NewProblem(http.StatusForbidden, string(taxonomy.ReasonWrongOrigin), "only this host's own page may ask this; open /privacy")
}

// handleStatus answers GET /privacy/status.
func (s *Server) handleStatus(c echo.Context) error {
	c.Response().Header()[headerCORP] = sameOrigin
	if p := s.ownPage(c.Request()); p != nil {
		return p
	}
	st, _, _, err := s.visitorOf(c.Request())
	if err != nil {
		return s.unavailable(err)
	}
	return writeJSON(c, http.StatusOK, &st)
}

// handleKnown answers GET /privacy/data: what is known, to take away.
func (s *Server) handleKnown(c echo.Context) error {
	h := c.Response().Header()
	h[headerCORP] = sameOrigin
	if p := s.ownPage(c.Request()); p != nil {
		return p
	}
	st, k, err := s.known(c.Request())
	if err != nil {
		return s.unavailable(err)
	}
	h.Set("Content-Disposition", `attachment; filename="what-ebb-knows.json"`)
	return writeJSON(c, http.StatusOK, &struct {
		Status status `json:"status"`
		Known  Known  `json:"known"`
	}{st, k})
}

func (s *Server) known(r *http.Request) (st status, k Known, err error) {
	st, key, ok, err := s.visitorOf(r)
	if err != nil || !ok || s.o.Visitors == nil {
		return st, k, err
	}
	ctx, cancel := s.storeContext(r.Context())
	defer cancel()
	if k, err = s.o.Visitors.Known(ctx, key); err != nil {
		return st, k, err
	}
	if !st.chose {
		for _, t := range s.o.Visitors.Off(key) {
			st.Off = append(st.Off, strings.TrimPrefix(string(t), "c:"))
		}
	}
	return st, k, err
}

// switches are the categories of the page: those that are known, and those that
// are off in this browser though nothing of them is known.
func switches(st *status, k *Known) []KnownCategory {
	out := slices.Clone(k.Categories)
	for _, id := range st.Off {
		at := slices.IndexFunc(out, func(c KnownCategory) bool { return c.ID == id })
		if at < 0 {
			out = append(out, KnownCategory{ID: id, Title: id, Off: true})
			continue
		}
		out[at].Off, out[at].With = true, ""
	}
	for i := range out {
		if c := &out[i]; st.chose && c.Off && c.With == "" && !slices.Contains(st.Off, c.ID) {
			c.Off = false // switched on a moment ago
		}
	}
	return out
}

//go:embed privacy.html
var privacyHTML string

var privacyPage = template.Must(template.New("privacy").Parse(privacyHTML))

// privacyStyle is the page's one style as its policy names it.
var privacyStyle = func() string {
	_, style, _ := strings.Cut(privacyHTML, "<style>")
	style, _, _ = strings.Cut(style, "</style>")
	sum := sha256.Sum256([]byte(style))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}()

// handlePrivacy answers GET /privacy, the visitor's own page. It works without
// script and loads nothing; a link from anywhere may lead here, but no page may
// show it in a frame.
func (s *Server) handlePrivacy(c echo.Context) error {
	h := c.Response().Header()
	h[headerCORP] = sameOrigin
	h.Set("Content-Security-Policy", "default-src 'none'; style-src '"+privacyStyle+"'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Frame-Options", "DENY")
	// A form's answer must name where it came from, or it is refused.
	h["Referrer-Policy"] = sameOrigin
	st, k, err := s.known(c.Request())
	if err != nil {
		return s.unavailable(err)
	}
	var b strings.Builder
	page := struct {
		Status     status
		Known      Known
		Categories []KnownCategory
		Receipt    string
	}{Status: st, Known: k, Categories: switches(&st, &k)}
	// Only what we signed is shown: nobody can put words into this page.
	if token := c.QueryParam("receipt"); token != "" {
		if _, err := VerifyReceipt(s.o.Keys().ReceiptKey(), token); err == nil {
			page.Receipt = token
		}
	}
	if err := privacyPage.Execute(&b, &page); err != nil {
		return err
	}
	h.Set(echo.HeaderContentType, "text/html; charset=utf-8")
	c.Response().WriteHeader(http.StatusOK)
	_, _ = c.Response().Write([]byte(b.String())) // the client may be gone
	return nil
}

// handleErase answers POST /privacy/erase: the erasure of the IDs that the
// request carries, without an opt-out: the next visit that consents is a new
// visitor's.
func (s *Server) handleErase(c echo.Context) error {
	w := s.getWork()
	defer s.putWork(w)
	form, err := s.choice(c, w)
	if err != nil {
		return err
	}
	hd := headOf(c.Request())
	no := false
	v := &w.visit
	if err := s.identify(v, &hd, &wireConsent{Granted: &no}, nil, false); err != nil {
		return s.unavailable(err)
	}
	return s.answerErasure(c, w, form, "What was known of this browser is being erased.")
}
