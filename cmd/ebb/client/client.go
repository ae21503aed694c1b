// Package client speaks to the API: over the network to a running server, or
// within the process to what has the data directory open. What comes back is the
// same, so a command need not know which it is.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/ebb-dmp/ebb/tagserver"
)

// Client is safe for concurrent use.
type Client struct {
	base string // without a slash at its end
	key  string
	http *http.Client
	stop func() error
}

// New returns a client of the server whose private listener is at base, with the
// admin key. The http client must set no timeout: a build or a backup takes as
// long as it takes, and the context ends it.
func New(base, key string, h *http.Client) *Client {
	return &Client{base: strings.TrimSuffix(base, "/"), key: key, http: h, stop: func() error { return nil }}
}

// Within returns a client of a handler of this process. It speaks HTTP over pipes
// in memory, so that streams flow both ways as they do over a network.
func Within(h http.Handler) *Client {
	l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	srv := &http.Server{Handler: h}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	t := &http.Transport{DialContext: l.dial}
	// Nobody looks at the key; that one is sent tells a program from a page.
	c := New("http://ebb.local", "within", &http.Client{Transport: t})
	c.stop = func() error {
		t.CloseIdleConnections()
		err := srv.Close()
		if serr := <-ended; !errors.Is(serr, http.ErrServerClosed) && err == nil {
			err = serr
		}
		return err
	}
	return c
}

// Close frees what the client holds.
func (c *Client) Close() error { return c.stop() }

// Refused is an answer of the server that is not success.
type Refused struct {
	tagserver.Problem
	Key bool // a key was sent
}

// Error says what was refused, with every place of a fault on a line of its own.
func (e *Refused) Error() string {
	if e.Status == http.StatusUnauthorized {
		if e.Key {
			return "the server does not take this key; give one that `ebb access create` made, or the one that was printed when the installation was made, as EBB_ADMIN_KEY"
		}
		return needsKey
	}
	s := e.Detail
	if s == "" {
		s = e.Title
	}
	for _, f := range e.Errors {
		s += fmt.Sprintf("\n    %s: %s", f.Location, f.Message)
	}
	return s
}

const needsKey = "the server asks for an API key: one that `ebb access create` made, or the one that was printed when the installation was made; give it as EBB_ADMIN_KEY"

// Do sends a request and returns the answer if it is success; its body is the
// caller's to close. Any other answer is a *Refused.
func (c *Client) Do(ctx context.Context, method, path, contentType string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, fmt.Errorf("ask the API: %w", err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	return c.send(req)
}

func (c *Client) send(req *http.Request) (*http.Response, error) {
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	res, err := c.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, fmt.Errorf("ask the API at %s: %w", c.base, err)
	}
	if res.StatusCode/100 == 2 {
		return res, nil
	}
	defer res.Body.Close()
	e := &Refused{Key: c.key != ""}
	b, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20)) // what can be read of it is told
	if t, _, err := mime.ParseMediaType(res.Header.Get("Content-Type")); err != nil || t != "application/problem+json" || json.Unmarshal(b, &e.Problem) != nil || e.Status == 0 {
		e.Problem = tagserver.Problem{Status: res.StatusCode, Title: http.StatusText(res.StatusCode), Detail: fmt.Sprintf("the answer of %s was %s; is it Ebb's private listener?", c.base, res.Status)}
	}
	return nil, e
}

// JSON sends in, if it is not nil, and reads the answer's document.
func (c *Client) JSON(ctx context.Context, method, path string, in any) (json.RawMessage, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("ask the API: %w", err)
		}
		body = bytes.NewReader(b)
	}
	// The type is sent without a body too: it tells a program from a page.
	res, err := c.Do(ctx, method, path, "application/json", body)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("read the API's answer: %w", err)
	}
	return b, nil
}

// Copy sends in and writes the answer, of the type that is asked for, to w.
func (c *Client) Copy(ctx context.Context, method, path, accept string, in any, w io.Writer) error {
	b, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("ask the API: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("ask the API: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", accept)
	res, err := c.send(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(w, res.Body); err != nil {
		return fmt.Errorf("read the API's answer: %w", err)
	}
	return nil
}

// Get is JSON of a GET, read into out too.
func (c *Client) Get(ctx context.Context, path string, out any) (json.RawMessage, error) {
	return c.ask(ctx, http.MethodGet, path, nil, out)
}

// Post is JSON of a POST, read into out too.
func (c *Client) Post(ctx context.Context, path string, in, out any) (json.RawMessage, error) {
	return c.ask(ctx, http.MethodPost, path, in, out)
}

func (c *Client) ask(ctx context.Context, method, path string, in, out any) (json.RawMessage, error) {
	b, err := c.JSON(ctx, method, path, in)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, out); err != nil {
		return nil, fmt.Errorf("read the API's answer: %w; is the server of another version?", err)
	}
	return b, nil
}

// PostAsync is Post to what may take long: if the answer is not there within some
// seconds, it returns where the operation is that makes it, and neither document.
func (c *Client) PostAsync(ctx context.Context, path string, in any) (doc json.RawMessage, operation string, err error) {
	doc, res, err := c.with(ctx, http.MethodPost, path, "Prefer", "respond-async, wait=2", in)
	if err == nil && res.StatusCode == http.StatusAccepted {
		return nil, res.Header.Get("Operation-Location"), nil
	}
	return doc, "", err
}

// with sends in, if it is not nil, under one more header, and reads the answer, whose
// body is closed.
func (c *Client) with(ctx context.Context, method, path, header, value string, in any) (json.RawMessage, *http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, nil, fmt.Errorf("ask the API: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, nil, fmt.Errorf("ask the API: %w", err)
	}
	req.Header.Set(header, value)
	req.Header.Set("Content-Type", "application/json") // tells a program from a page
	res, err := c.send(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	doc, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("read the API's answer: %w", err)
	}
	return doc, res, nil
}

// Send sends in, if it is not nil, under a condition such as If-Match, and reads the
// answer into out. It returns the document's ETag.
func (c *Client) Send(ctx context.Context, method, path, condition, value string, in, out any) (doc json.RawMessage, etag string, err error) {
	doc, res, err := c.with(ctx, method, path, condition, value, in)
	if err != nil {
		return nil, "", err
	}
	if err := json.Unmarshal(doc, out); err != nil {
		return nil, "", fmt.Errorf("read the API's answer: %w; is the server of another version?", err)
	}
	return doc, res.Header.Get("ETag"), nil
}

// Delete deletes what is at a path, of whatever version.
func (c *Client) Delete(ctx context.Context, path string) error {
	res, err := c.anyVersion(ctx, http.MethodDelete, path, nil)
	if err == nil {
		err = res.Body.Close()
	}
	return err
}

// PostAny is Post of a change to whatever version is kept.
func (c *Client) PostAny(ctx context.Context, path string, in, out any) (json.RawMessage, error) {
	b, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("ask the API: %w", err)
	}
	res, err := c.anyVersion(ctx, http.MethodPost, path, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if b, err = io.ReadAll(res.Body); err == nil {
		err = json.Unmarshal(b, out)
	}
	if err != nil {
		return nil, fmt.Errorf("read the API's answer: %w; is the server of another version?", err)
	}
	return b, nil
}

func (c *Client) anyVersion(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, fmt.Errorf("ask the API: %w", err)
	}
	req.Header.Set("If-Match", "*")
	req.Header.Set("Content-Type", "application/json") // tells a program from a page
	return c.send(req)
}

// Item is a definition in a list.
type Item struct {
	ID         string          `json:"id"`
	Version    uint64          `json:"version"`
	Definition json.RawMessage `json:"definition"`
}

// List returns all pages of a list of definitions.
func (c *Client) List(ctx context.Context, path string) ([]Item, error) {
	return ListOf[Item](ctx, c, path)
}

// ListOf returns all pages of a list, never nil.
func ListOf[T any](ctx context.Context, c *Client, path string) ([]T, error) {
	all := []T{}
	for cursor := ""; ; {
		var page struct {
			Items []T    `json:"items"`
			Next  string `json:"next"`
		}
		if _, err := c.Get(ctx, path+"?limit=1000&cursor="+url.QueryEscape(cursor), &page); err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if cursor = page.Next; cursor == "" {
			return all, nil
		}
	}
}

// pipes is a listener whose connections are made by dial.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "ebb.local" }
