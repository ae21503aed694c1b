package api

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const (
	headerIdempotency = "Idempotency-Key"
	headerReplayed    = "Idempotency-Replayed"

	codeKeyReused = "idempotency_key_reused"

	maxIdempotencyKey = 255
	// answerLife is how long an answer is kept, and so how long a POST may be
	// repeated.
	answerLife = taxonomy.OneDay
	// maxAnswer is the largest answer that is kept.
	maxAnswer = 512 << 10
	// staleAfter is how long a request of another process may be under way before
	// it is taken for dead.
	staleAfter = 15 * taxonomy.Minute
)

// answers lets a POST be repeated: the same key with the same body gets the
// answer of the first, and nothing is done twice.
//
// What is kept is encrypted under a key that is made of the idempotency key,
// which is not kept itself: a key that is shown once lies nowhere readable, and
// neither does an ID that was sent to be erased.
type answers struct {
	a   *API
	run string // this process

	mu    sync.Mutex
	bytes int64 // kept by this process, and not over
	kept  []keptAnswer
}

type keptAnswer struct {
	over  taxonomy.Millis
	bytes int64
}

// answered is what is kept of an answer.
type answered struct {
	Status int         `json:"status"`
	Header http.Header `json:"header"`
	Body   []byte      `json:"body"`
	// TooLarge: it was answered, and is not kept.
	TooLarge bool `json:"too_large,omitempty"`
}

// room reports whether n more bytes may be kept, and counts them.
func (s *answers) room(n int64) bool {
	now := s.a.o.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.kept) > 0 && s.kept[0].over <= now {
		s.bytes -= s.kept[0].bytes
		s.kept = s.kept[1:]
	}
	if s.bytes+n > s.a.o.Limits.Answers {
		return false
	}
	s.bytes += n
	s.kept = append(s.kept, keptAnswer{now + answerLife, n})
	return true
}

// secrets returns the name under which an answer is kept, and the key that it is
// encrypted with.
func secrets(p *tagserver.Principal, r *http.Request, key string) (name string, secret []byte) {
	h := func(use string) []byte {
		s := sha256.New()
		fmt.Fprintf(s, "ebb answer %s 1\n%q %s %q\n%s", use, p.ID, r.Method, r.URL.Path, key)
		return s.Sum(nil)
	}
	return hex.EncodeToString(h("name")), h("secret")
}

// idempotent surrounds a POST.
func (s *answers) idempotent(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		keys := c.Request().Header.Values(headerIdempotency)
		if len(keys) == 0 {
			return next(c)
		}
		key := keys[0]
		if len(keys) > 1 || key == "" || !printable(key) || len(key) > maxIdempotencyKey {
			return tagserver.NewProblem(http.StatusBadRequest, codeBadRequest, fmt.Sprintf("%s is not one value of 1 to %d printable characters; a random UUID is right", headerIdempotency, maxIdempotencyKey))
		}
		err := s.serve(c, key, next)
		var p problem
		if errors.As(err, &p) {
			return p.Problem
		}
		return err
	}
}

func printable(s string) bool {
	for _, b := range []byte(s) {
		if b < 0x21 || b > 0x7e {
			return false
		}
	}
	return true
}

func (s *answers) serve(c echo.Context, key string, next echo.HandlerFunc) error {
	const what = "repeat a request"
	r := c.Request()
	p := tagserver.PrincipalOf(r.Context())
	name, secret := secrets(p, r, key)
	kept, version, err := s.a.o.Answers.Get(r.Context(), name)
	now := s.a.o.Now()
	switch {
	case errors.Is(err, retention.ErrNotFound):
		version = 0
	case err != nil:
		return s.a.fail(what, err)
	case kept.Sealed != nil:
		return s.replay(c, &kept, secret)
	case now-kept.Since < staleAfter || kept.Run == s.run:
		q := newProblem(http.StatusConflict, codeBusy, "a request with this %s is under way; repeat it later", headerIdempotency)
		q.RetryAfter = 5
		return q
	}
	if !s.room(1 << 10) {
		return s.full()
	}
	mine := defs.Answer{Since: now, Run: s.run}
	version, err = s.a.o.Answers.Swap(r.Context(), name, &mine, now+answerLife, version)
	if errors.Is(err, retention.ErrConflict) {
		q := newProblem(http.StatusConflict, codeBusy, "a request with this %s is under way; repeat it later", headerIdempotency)
		q.RetryAfter = 5
		return q
	}
	if err != nil {
		return s.a.fail(what, err)
	}
	print := hmac.New(sha256.New, secret)
	io.WriteString(print, r.URL.RawQuery+"\n")
	r.Body = &hashing{r.Body, print}
	rec := &recording{ResponseWriter: c.Response().Writer}
	c.Response().Writer = rec
	err = next(c)
	c.Response().Writer = rec.ResponseWriter
	// Whatever becomes of the caller, what was done is kept.
	ctx := r.Context()
	if ctx.Err() != nil {
		ctx = detached(ctx)
	}
	if status := c.Response().Status; err != nil || status/100 != 2 {
		// What was refused was not done: the key is free for another try.
		if _, serr := s.a.o.Answers.Swap(detached(ctx), name, nil, 0, version); serr != nil {
			s.a.log.Warn("an idempotency key is not free again", "error", serr)
		}
		return err
	}
	// The handler need not have read all of it.
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		s.a.log.Warn("the rest of a body cannot be read", "error", err)
	}
	done := answered{Status: c.Response().Status, Header: keptHeaders(c.Response().Header()), Body: rec.body.Bytes()}
	if rec.over || !s.room(int64(rec.body.Len())) {
		done = answered{Status: done.Status, TooLarge: true}
	}
	if mine.Sealed, err = seal(s.a.o.Rand, secret, done); err == nil {
		mine.Body = print.Sum(nil)
		_, err = s.a.o.Answers.Swap(detached(ctx), name, &mine, now+answerLife, version)
	}
	if err != nil {
		// It was done and answered; a repetition is told that it is under way.
		s.a.log.Error("an answer is not kept", "error", err)
	}
	return nil
}

func (s *answers) full() error {
	q := newProblem(http.StatusServiceUnavailable, codeFull, "too many answers are kept for repetition; leave %s out, or come again later", headerIdempotency)
	q.RetryAfter = 60
	return q
}

// replay answers as before, if the request is the one of before.
func (s *answers) replay(c echo.Context, kept *defs.Answer, secret []byte) error {
	r := c.Request()
	print := hmac.New(sha256.New, secret)
	io.WriteString(print, r.URL.RawQuery+"\n")
	if _, err := io.Copy(print, r.Body); err != nil {
		return newProblem(http.StatusBadRequest, codeBadRequest, "the body cannot be read to its end")
	}
	if !hmac.Equal(print.Sum(nil), kept.Body) {
		return newProblem(http.StatusUnprocessableEntity, codeKeyReused, "this %s was used for a request with another body; take a new one for each request", headerIdempotency)
	}
	done, err := unseal(secret, kept.Sealed)
	if err != nil {
		return s.a.fail("repeat a request", err)
	}
	if done.TooLarge {
		return newProblem(http.StatusConflict, codeConflict, "this was done already; its answer was too large to be kept")
	}
	h := c.Response().Header()
	for name, values := range done.Header {
		h[name] = values
	}
	h.Set(headerReplayed, "true")
	c.Response().WriteHeader(done.Status)
	_, err = c.Response().Write(done.Body)
	return err
}

// keptHeaders are the headers that an answer has by what it says.
func keptHeaders(h http.Header) http.Header {
	kept := http.Header{}
	for _, name := range []string{"Content-Type", "ETag", "Location", "Link", "Operation-Location", "Preference-Applied"} {
		if v, ok := h[http.CanonicalHeaderKey(name)]; ok {
			kept[http.CanonicalHeaderKey(name)] = v
		}
	}
	return kept
}

func seal(rand io.Reader, secret []byte, v answered) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	g, err := gcm(secret)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, g.NonceSize())
	if _, err := io.ReadFull(rand, nonce); err != nil {
		return nil, err
	}
	return g.Seal(nonce, nonce, b, nil), nil
}

func unseal(secret, b []byte) (v answered, err error) {
	g, err := gcm(secret)
	if err != nil {
		return v, err
	}
	if len(b) < g.NonceSize() {
		return v, retention.ErrCorrupt
	}
	if b, err = g.Open(nil, b[:g.NonceSize()], b[g.NonceSize():], nil); err != nil {
		return v, fmt.Errorf("a kept answer: %w", retention.ErrCorrupt)
	}
	return v, json.Unmarshal(b, &v)
}

func gcm(secret []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// hashing hashes a body while it is read.
type hashing struct {
	io.ReadCloser
	h hash.Hash
}

func (b *hashing) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.h.Write(p[:n])
	return n, err
}

// Close leaves the body open: what the handler did not read is hashed after it.
func (b *hashing) Close() error { return nil }

// recording keeps the first bytes of an answer while it is written.
type recording struct {
	http.ResponseWriter
	body bytes.Buffer
	over bool
}

func (r *recording) Write(p []byte) (int, error) {
	if r.over = r.over || r.body.Len()+len(p) > maxAnswer; !r.over {
		r.body.Write(p)
	}
	return r.ResponseWriter.Write(p)
}

// Unwrap is http.ResponseController's.
func (r *recording) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// idempotencyParam describes the header, for every POST.
func idempotencyParam() *huma.Param {
	one, most := 1, maxIdempotencyKey
	return &huma.Param{Name: headerIdempotency, In: "header", Schema: &huma.Schema{Type: huma.TypeString, MinLength: &one, MaxLength: &most, Pattern: `^[!-~]+$`},
		Description: "Makes the request safe to repeat for 24 hours: with the same body it gets the same answer and does nothing again; with another body, 422. What was refused does not use it up."}
}
