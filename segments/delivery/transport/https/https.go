// Package https is the transport that posts chunks to a receiver's endpoint.
package https

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

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
)

// Options are what the transport works with. Guard, Secret and Now are needed.
type Options = transport.HTTP

// Transport is the HTTPS transport.
type Transport struct {
	o      Options
	client *http.Client
}

var _ delivery.Transport = (*Transport)(nil)

// New returns the transport. It connects to nothing.
func New(o Options) *Transport { return &Transport{o: o, client: o.Client()} }

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
		return transport.NoAnswer(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, mostAnswer+1))
	whole := err == nil && len(answer) <= mostAnswer
	return t.outcome(res, answer, whole, c)
}

// outcome says what an answer means for the chunk.
func (t *Transport) outcome(res *http.Response, answer []byte, whole bool, c *delivery.Chunk) error {
	status := res.StatusCode
	if err := transport.Status(res, t.o.Now()); err != nil || c.Judge == nil {
		return err
	}
	if !whole {
		return fmt.Errorf("the receiver answers %d and too much or not all of what it says: %w", status, retention.ErrUnknown)
	}
	_, err := c.Judge(status, answer)
	return err
}
