package console

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
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

	"github.com/ebb-dmp/ebb/segments/delivery"
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
// A cookie is base64url(8 bytes end ‖ 16 random bytes ‖ the hash of the key that
// was shown ‖ 32 bytes of HMAC-SHA-256 over the three). The key's hash is there
// so that a session is worth what its key is worth at each request: nothing, once
// the key is revoked. Who logs out is remembered until the end.
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

const (
	signedBytes  = 8 + 16 + sha256.Size
	sessionBytes = signedBytes + sha256.Size
)

func (s *sessions) mac(b []byte) []byte {
	h := hmac.New(sha256.New, s.key[:])
	h.Write([]byte("console session 2"))
	h.Write(b)
	return h.Sum(nil)
}

// make returns the value of a new session's cookie, for whoever showed a key.
func (s *sessions) make(key string) (string, error) {
	var b [signedBytes]byte
	binary.BigEndian.PutUint64(b[:8], uint64(s.now()+SessionLife))
	hash := sha256.Sum256([]byte(key)) // the bytes of delivery.HashKey
	copy(b[24:], hash[:])
	s.mu.Lock() // Rand need not be safe for concurrent use
	_, err := io.ReadFull(s.rand, b[8:24])
	s.mu.Unlock()
	if err != nil {
		return "", fmt.Errorf("draw a session: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(append(b[:], s.mac(b[:])...)), nil
}

// parse returns a session's number, its end and the hash of its key; false if the
// value is not ours or over.
func (s *sessions) parse(value string) (id [16]byte, end taxonomy.Millis, keyHash string, ok bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(value)
	if err != nil || len(b) != sessionBytes || !hmac.Equal(b[signedBytes:], s.mac(b[:signedBytes])) {
		return id, 0, "", false
	}
	copy(id[:], b[8:24])
	end = taxonomy.Millis(binary.BigEndian.Uint64(b[:8]))
	s.mu.Lock()
	_, out := s.over[id]
	s.mu.Unlock()
	return id, end, hex.EncodeToString(b[24:signedBytes]), s.now() < end && !out
}

// end ends a session. Only values that we made are remembered, so the table is
// no larger than the logins of twelve hours.
func (s *sessions) end(value string) {
	id, end, _, ok := s.parse(value)
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
func (c *Console) SignedIn(r *http.Request) bool { return c.session(r) != nil }

// session returns who has the request's session, nil if there is none, or its key
// no longer opens the console.
func (c *Console) session(r *http.Request) *tagserver.Principal {
	k, err := r.Cookie(CookieName)
	if err != nil {
		return nil
	}
	_, _, hash, ok := c.sessions.parse(k.Value)
	if !ok {
		return nil
	}
	return c.mayLook(hash)
}

// lookRight is what the console's pages ask for: they show the whole installation.
var lookRight = tagserver.May("console:read", tagserver.OfAll)

func (c *Console) mayLook(keyHash string) *tagserver.Principal {
	if p := c.o.Who(keyHash); p != nil && p.May(lookRight) {
		return p
	}
	return nil
}

// Guard lets through who shows a key as a bearer, and who has a session and only
// reads: a session is never enough to change something, so no foreign page can
// use it to. A browser that wants a page is sent to the login, everyone else gets
// 401. What the caller may do is checked by the row's right.
func (c *Console) Guard() echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(e echo.Context) error {
			r := e.Request()
			// A call of our own, within the process, says whose it is. No request from
			// outside has a principal before a guard gave it one.
			if p := tagserver.PrincipalOf(r.Context()); p != nil {
				return tagserver.Enter(e, p, next)
			}
			if key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
				if p := c.o.Who(delivery.HashKey(key)); p != nil {
					return tagserver.Enter(e, p, next)
				}
			}
			reads := r.Method == http.MethodGet || r.Method == http.MethodHead
			if reads {
				if p := c.session(r); p != nil {
					return tagserver.Enter(e, p, next)
				}
			}
			headers(e.Response().Header())
			if reads && below(r.URL.Path) {
				return e.Redirect(http.StatusSeeOther, base+"/login?next="+url.QueryEscape(r.URL.RequestURI()))
			}
			e.Response().Header().Set("WWW-Authenticate", `Bearer realm="ebb"`)
			return tagserver.NewProblem(http.StatusUnauthorized, "unauthorized", "send a key as Authorization: Bearer ebba_…")
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
	// A path with a backslash is escaped there; a query is taken as it came.
	return (&url.URL{Path: u.Path, RawQuery: strings.ReplaceAll(u.RawQuery, `\`, "%5C")}).String()
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
	key := strings.TrimSpace(r.PostForm.Get("key"))
	if c.mayLook(delivery.HashKey(key)) == nil {
		c.sessions.failed()
		c.log.Warn("console login refused")
		return refuse(http.StatusUnauthorized, next, "This is no key that opens the console. Keys begin with ebba_; the first was printed once, at the first start.", true)
	}
	value, err := c.sessions.make(key)
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
