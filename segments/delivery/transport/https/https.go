// Package https is the transport that posts chunks to a receiver's endpoint.
package https

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/transport"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Name in a URL is where the chunk's name goes; with it chunks are PUT, without
// it POSTed.
const Name = "${NAME}"

const (
	// mostAnswer is how much of an answer is read.
	mostAnswer = 1 << 20
	// mostSigned is how large a chunk may be that a format signs in memory.
	mostSigned = 64 << 20

	connectTimeout = 10 * time.Second
	answerTimeout  = 60 * time.Second
	wholeTimeout   = 15 * time.Minute
)

// Options are what the transport works with. Guard, Secret and Now are needed.
type Options struct {
	// Guard connects.
	Guard *transport.Guard
	// Secret returns the content of a credentials file, without space around it.
	Secret func(file string) (string, error)
	Now    func() taxonomy.Millis
	// Roots are the authorities that are trusted; nil: the system's.
	Roots *x509.CertPool
}

// Transport is the HTTPS transport.
type Transport struct {
	o      Options
	client *http.Client
}

var _ delivery.Transport = (*Transport)(nil)

// New returns the transport. It connects to nothing.
func New(o Options) *Transport { return &Transport{o: o, client: Client(o)} }

// Client returns an HTTP client that connects by the guard, follows no redirect
// and waits for nobody for ever. Whoever uses it bounds what it reads.
func Client(o Options) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, connectTimeout)
				defer cancel()
				return o.Guard.Dial(ctx, network, address)
			},
			TLSClientConfig:        &tls.Config{RootCAs: o.Roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    connectTimeout,
			ResponseHeaderTimeout:  answerTimeout,
			IdleConnTimeout:        90 * time.Second,
			MaxIdleConnsPerHost:    4,
			MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:      true,
			DisableCompression:     true, // an answer's bytes are bounded as they come
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       wholeTimeout,
	}
}

// Facts: chunks are pushed.
func (t *Transport) Facts() delivery.TransportFacts { return delivery.TransportFacts{} }

// Check looks at the destination's URL.
func (t *Transport) Check(d *delivery.Destination) error {
	u, err := target(d, "name")
	if err != nil {
		return &taxonomy.FieldError{Field: "url", Err: err}
	}
	switch host, ipErr := netip.ParseAddr(u.Hostname()); {
	case ipErr == nil && !t.o.Guard.Allows(host):
		return taxonomy.Invalid("url", "%s is no public address; which the configuration does not allow", host)
	case u.Scheme == "http" && ipErr == nil && !transport.Public(host):
		return nil // within the house, and allowed above
	case u.Scheme != "https":
		return taxonomy.Invalid("url", "scheme %q: want https", u.Scheme)
	}
	return nil
}

func target(d *delivery.Destination, name string) (*url.URL, error) {
	u, err := url.Parse(strings.ReplaceAll(d.URL, Name, url.PathEscape(name)))
	switch {
	case d.URL == "":
		return nil, errors.New("is empty: want where the receiver takes files")
	case err != nil:
		return nil, errors.New("is not a URL")
	case u.Hostname() == "":
		return nil, errors.New("has no host")
	case u.User != nil:
		return nil, errors.New("holds a user or password: they belong into credentials_file")
	}
	if h, err := url.Parse(strings.ReplaceAll(d.URL, Name, "other")); err != nil || h.Host != u.Host {
		return nil, fmt.Errorf("%s must not stand in the host", Name)
	}
	return u, nil
}

// Send posts or puts a chunk, and reads the receiver's answer.
func (t *Transport) Send(ctx context.Context, d *delivery.Destination, c *delivery.Chunk) error {
	if err := t.Check(d); err != nil {
		return err
	}
	u, err := target(d, c.Name)
	if err != nil {
		return err
	}
	secret := ""
	if d.CredentialsFile != "" {
		if secret, err = t.o.Secret(d.CredentialsFile); err != nil {
			return fmt.Errorf("read credentials: %w", err)
		}
	}
	method := http.MethodPost
	if strings.Contains(d.URL, Name) {
		method = http.MethodPut
	}
	body := io.NewSectionReader(c.Body, 0, c.Body.Size())
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return errors.New("make request: the URL is not one")
	}
	req.ContentLength = body.Size()
	req.GetBody = func() (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(c.Body, 0, c.Body.Size())), nil
	}
	req.Header.Set("Content-Type", c.MediaType)
	req.Header.Set("Idempotency-Key", c.Key)
	req.Header.Set("User-Agent", "ebb")
	switch {
	case c.Headers != nil:
		if body.Size() > mostSigned {
			return fmt.Errorf("a chunk of %d bytes is too large to be signed", body.Size())
		}
		b := new(bytes.Buffer)
		if _, err := io.Copy(b, io.NewSectionReader(c.Body, 0, c.Body.Size())); err != nil {
			return fmt.Errorf("read chunk: %w", err)
		}
		h, err := c.Headers(b.Bytes(), secret, t.o.Now())
		if err != nil {
			return err
		}
		for k, v := range h {
			req.Header.Set(k, v)
		}
	case secret != "":
		req.Header.Set("Authorization", "Bearer "+secret)
	}
	res, err := t.client.Do(req)
	if err != nil {
		return NoAnswer(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, mostAnswer+1))
	whole := err == nil && len(answer) <= mostAnswer
	return t.outcome(res, answer, whole, c)
}

// NoAnswer says what the error of a client means for what was sent.
func NoAnswer(err error) error {
	// The URL is not repeated: it may hold what should not be in a log.
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	var ce *transport.ConnectError
	if errors.As(err, &ce) {
		return ce
	}
	return fmt.Errorf("no answer: %v: %w", err, retention.ErrUnknown)
}

// outcome says what an answer means for the chunk.
func (t *Transport) outcome(res *http.Response, answer []byte, whole bool, c *delivery.Chunk) error {
	status := res.StatusCode
	if err := Status(res, t.o.Now()); err != nil || c.Judge == nil {
		return err
	}
	if !whole {
		return fmt.Errorf("the receiver answers %d and too much or not all of what it says: %w", status, retention.ErrUnknown)
	}
	_, err := c.Judge(status, answer)
	return err
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
