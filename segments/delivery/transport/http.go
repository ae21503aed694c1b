package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const (
	connectTimeout = 10 * time.Second
	answerTimeout  = 60 * time.Second
	wholeTimeout   = 15 * time.Minute
)

// HTTP is what transports over HTTP work with. Guard, Secret and Now are needed.
type HTTP struct {
	// Guard connects.
	Guard *Guard
	// Secret returns the content of a credentials file, without space around it.
	Secret func(file string) (string, error)
	Now    func() taxonomy.Millis
	// Roots are the authorities that are trusted; nil: the system's.
	Roots *x509.CertPool
}

// Client returns an HTTP client that connects by the guard, follows no redirect
// and waits for nobody for ever. Whoever uses it bounds what it reads.
func (o HTTP) Client() *http.Client {
	t := RoundTripper(o.Guard, o.Roots)
	t.ForceAttemptHTTP2 = true
	return &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       wholeTimeout,
	}
}

// RoundTripper returns what makes single requests: it connects by the guard,
// trusts roots (nil: the system's), and bounds the wait for a connection and for
// the head of an answer, and that head. The whole of an answer is the caller's to
// bound, in time and bytes.
func RoundTripper(g *Guard, roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, connectTimeout)
			defer cancel()
			return g.Dial(ctx, network, address)
		},
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    connectTimeout,
		ResponseHeaderTimeout:  answerTimeout,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    4,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // an answer's bytes are bounded as they come
	}
}

// NoAnswer says what the error of a client means for what was sent.
func NoAnswer(err error) error {
	// The URL is not repeated: it may hold what should not be in a log.
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	var ce *ConnectError
	if errors.As(err, &ce) {
		return ce
	}
	return fmt.Errorf("no answer: %v: %w", err, retention.ErrUnknown)
}

// Status says what an answer's status means for what was sent: nil for 2xx.
func Status(res *http.Response, now taxonomy.Millis) error {
	status := res.StatusCode
	said := fmt.Errorf("the receiver answers %d", status)
	switch {
	case status >= 200 && status < 300:
		return nil
	case status >= 300 && status < 400:
		return fmt.Errorf("%w, a redirect, which is not followed: set url to where it leads", said)
	case status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable:
		return &delivery.Later{After: retryAfter(res.Header.Get("Retry-After"), now), Err: said}
	case status >= 500:
		// It may have come as far as being stored.
		return &delivery.Later{After: retryAfter(res.Header.Get("Retry-After"), now), Err: fmt.Errorf("%w: %w", said, retention.ErrUnknown)}
	case status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusProxyAuthRequired:
		return fmt.Errorf("%w: look at credentials_file", said)
	case status == http.StatusNotFound || status == http.StatusMethodNotAllowed || status == http.StatusGone:
		return fmt.Errorf("%w: look at url", said)
	case status == http.StatusRequestTimeout || status == http.StatusTooEarly || status == http.StatusConflict || status == http.StatusLocked:
		return said
	case status >= 400:
		return fmt.Errorf("%w: %w", said, delivery.ErrRefused)
	}
	return fmt.Errorf("%w: %w", said, retention.ErrUnknown)
}

// retryAfter reads a Retry-After: seconds or a date.
func retryAfter(s string, now taxonomy.Millis) time.Duration {
	if n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 32); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(0, at.Sub(now.Time()))
	}
	return 0
}
