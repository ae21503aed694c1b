package console

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
	"golang.org/x/time/rate"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// CookieName is the session's cookie. Browsers take a __Host- cookie over https
// and from localhost only, and give it to no other host.
const CookieName = "__Host-ebb-console"

// SessionLife is how long a login lasts.
const SessionLife = 12 * taxonomy.Hour

// Failed logins: so many at once, then one each so often. The key has 256
// random bits, so this keeps the log and the processor quiet rather than the
// key secret. It is one count for all callers: no address is kept.
const (
	failBurst = 10
	failEvery = 6 * time.Second
)

// sessions makes and checks cookies. Its key lives in memory: a restart ends
// every session, and there is nothing on disk to steal.
//
// A cookie is base64url(8 bytes end ‖ 16 random bytes ‖ 32 bytes of
// HMAC-SHA-256 over both). Who logs out is remembered until the end.
type sessions struct {
	now  func() taxonomy.Millis
	rand io.Reader
	key  [32]byte

	mu    sync.Mutex
	over  map[[16]byte]taxonomy.Millis // logged out, until their end
	fails *rate.Limiter
}

func newSessions(rand io.Reader, now func() taxonomy.Millis) (*sessions, error) {
	s := &sessions{now: now, rand: rand, over: map[[16]byte]taxonomy.Millis{}, fails: rate.NewLimiter(rate.Every(failEvery), failBurst)}
	if _, err := io.ReadFull(rand, s.key[:]); err != nil {
		return nil, fmt.Errorf("draw the key of sessions: %w", err)
	}
	return s, nil
}

const sessionBytes = 8 + 16 + sha256.Size

func (s *sessions) mac(b []byte) []byte {
	h := hmac.New(sha256.New, s.key[:])
	h.Write([]byte("console session 1"))
	h.Write(b)
	return h.Sum(nil)
}

// make returns the value of a new session's cookie.
func (s *sessions) make() (string, error) {
	var b [24]byte
	binary.BigEndian.PutUint64(b[:8], uint64(s.now()+SessionLife))
	s.mu.Lock() // Rand need not be safe for concurrent use
	_, err := io.ReadFull(s.rand, b[8:])
	s.mu.Unlock()
	if err != nil {
		return "", fmt.Errorf("draw a session: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(append(b[:], s.mac(b[:])...)), nil
}

// parse returns a session's number and end; false if the value is not ours or
// over.
func (s *sessions) parse(value string) (id [16]byte, end taxonomy.Millis, ok bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(value)
	if err != nil || len(b) != sessionBytes || !hmac.Equal(b[24:], s.mac(b[:24])) {
		return id, 0, false
	}
	copy(id[:], b[8:24])
	end = taxonomy.Millis(binary.BigEndian.Uint64(b[:8]))
	s.mu.Lock()
	_, out := s.over[id]
	s.mu.Unlock()
	return id, end, s.now() < end && !out
}

// end ends a session. Only values that we made are remembered, so the table is
// no larger than the logins of twelve hours.
func (s *sessions) end(value string) {
	id, end, ok := s.parse(value)
	if !ok {
		return
	}
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, t := range s.over {
		if t <= now {
			delete(s.over, k)
		}
	}
	s.over[id] = end
}

// wait returns how long until a login may be tried; 0: now.
func (s *sessions) wait() time.Duration {
	short := 1 - s.fails.TokensAt(s.now().Time())
	if short <= 0 {
		return 0
	}
	return time.Duration(short * float64(failEvery))
}

// failed counts a failed login.
func (s *sessions) failed() { s.fails.AllowN(s.now().Time(), 1) }

// SignedIn reports whether the request has a session.
func (c *Console) SignedIn(r *http.Request) bool {
	k, err := r.Cookie(CookieName)
	if err != nil {
		return false
	}
	_, _, ok := c.sessions.parse(k.Value)
	return ok
}

// Guard lets through who shows the admin key as a bearer, and who has a session
// and only reads: a session is never enough to change something, so no foreign
// page can use it to. A browser that wants a page is sent to the login, everyone
// else gets 401.
func (c *Console) Guard() echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(e echo.Context) error {
			r := e.Request()
			if key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok && c.o.AdminOK(key) {
				return next(e)
			}
			reads := r.Method == http.MethodGet || r.Method == http.MethodHead
			if reads && c.SignedIn(r) {
				return next(e)
			}
			headers(e.Response().Header())
			if reads && below(r.URL.Path) {
				return e.Redirect(http.StatusSeeOther, base+"/login?next="+url.QueryEscape(r.URL.RequestURI()))
			}
			e.Response().Header().Set("WWW-Authenticate", `Bearer realm="ebb"`)
			return tagserver.NewProblem(http.StatusUnauthorized, "unauthorized", "send the admin key as Authorization: Bearer ebba_…")
		}
	}
}

func below(p string) bool { return p == base || strings.HasPrefix(p, base+"/") }

// target returns where to go after a login: a page of the console, whatever was
// asked for.
func target(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || u.Opaque != "" || !below(u.Path) || path.Clean(u.Path) != u.Path || u.Path == base+"/login" {
		return base
	}
	return (&url.URL{Path: u.Path, RawQuery: u.RawQuery}).String()
}

// fromUs reports whether a POST comes from a page of ours. All current browsers
// say so by Sec-Fetch-Site or by Origin; what says neither is no browser's form
// and is refused too, since scripts have the API.
func fromUs(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin"
	}
	u, err := url.Parse(r.Header.Get("Origin"))
	return err == nil && u.Host != "" && u.Host == r.Host
}

type loginData struct {
	Next    string
	Fault   string
	Refused bool // the key was wrong, rather than something else
	NoHTTPS bool // the browser did not keep the cookie
}

const maxLogin = 4 << 10

func (c *Console) loginForm(e echo.Context) (*page, error) {
	q := e.QueryParams()
	next := target(q.Get("next"))
	if c.SignedIn(e.Request()) {
		return nil, e.Redirect(http.StatusSeeOther, next)
	}
	d := loginData{Next: next}
	// A login just went well, and the cookie did not come back.
	d.NoHTTPS = q.Get("kept") == "1"
	return &page{Template: "login", Title: "Sign in", Bare: true, Data: d}, nil
}

func (c *Console) login(e echo.Context) (*page, error) {
	r := e.Request()
	r.Body = http.MaxBytesReader(e.Response(), r.Body, maxLogin)
	refuse := func(status int, next, fault string, wrong bool) (*page, error) {
		return &page{Status: status, Template: "login", Title: "Sign in", Bare: true, Data: loginData{Next: next, Fault: fault, Refused: wrong}}, nil
	}
	if !fromUs(r) {
		return refuse(http.StatusForbidden, base, "This form was sent from another page. Sign in from here.", false)
	}
	if err := r.ParseForm(); err != nil {
		return refuse(http.StatusBadRequest, base, "The form could not be read. Try again.", false)
	}
	next := target(r.PostForm.Get("next"))
	if w := c.sessions.wait(); w > 0 {
		seconds := int(w/time.Second) + 1
		e.Response().Header().Set("Retry-After", strconv.Itoa(seconds))
		return refuse(http.StatusTooManyRequests, next, fmt.Sprintf("Too many failed tries. Wait %d seconds.", seconds), false)
	}
	if !c.o.AdminOK(strings.TrimSpace(r.PostForm.Get("key"))) {
		c.sessions.failed()
		c.log.Warn("console login refused")
		return refuse(http.StatusUnauthorized, next, "This is not the admin key. It begins with ebba_ and was printed once, at the first start.", true)
	}
	value, err := c.sessions.make()
	if err != nil {
		return nil, err
	}
	e.SetCookie(&http.Cookie{Name: CookieName, Value: value, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		MaxAge: int(SessionLife / taxonomy.Second)})
	c.log.Info("console login")
	return nil, e.Redirect(http.StatusSeeOther, base+"/login?kept=1&next="+url.QueryEscape(next))
}

func (c *Console) logout(e echo.Context) (*page, error) {
	if !fromUs(e.Request()) {
		return &page{Status: http.StatusForbidden, Template: "message", Title: "Not signed out", Bare: true,
			Data: message{"This was sent from another page. Sign out with the button of the console."}}, nil
	}
	if k, err := e.Cookie(CookieName); err == nil {
		c.sessions.end(k.Value)
	}
	e.SetCookie(&http.Cookie{Name: CookieName, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: -1})
	return nil, e.Redirect(http.StatusSeeOther, base+"/login")
}
