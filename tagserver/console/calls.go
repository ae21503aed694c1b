package console

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/tagserver"
)

// What the console changes, it changes through the API, within the process and as
// whoever is signed in: the same checks, the same rights, the same entry in the
// audit log. Nothing is defined here a second time.

// answer is what the API said.
type answer struct {
	status int
	header http.Header
	bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.Buffer.Write(b)
}

// refusal is what the API would not do, as it says it.
type refusal struct {
	tagserver.Problem
	// At has the faults of fields, by their place in what was sent: "id", "rule.and[0]".
	At map[string]string
}

// Says is the refusal in one sentence, for faults that have no field of their own.
func (r *refusal) Says() string {
	if r == nil {
		return ""
	}
	return r.Detail
}

// Others are the faults whose places are none of these fields.
func (r *refusal) Others(fields ...string) (out []tagserver.ProblemError) {
	if r == nil {
		return nil
	}
next:
	for _, e := range r.Errors {
		at := strings.TrimPrefix(e.Location, "body.")
		for _, f := range fields {
			if at == f {
				continue next
			}
		}
		out = append(out, tagserver.ProblemError{Location: at, Message: e.Message})
	}
	return out
}

// ask calls the API and reads its answer into out, unless that is nil. A refusal is
// no error: it is for who asked.
func (c *Console) ask(e echo.Context, method, path string, in, out any, header ...string) (http.Header, *refusal, error) {
	what := method + " " + path
	if c.o.API == nil || tagserver.PrincipalOf(e.Request().Context()) == nil {
		return nil, nil, fmt.Errorf("%s: there is no API, or nobody is signed in", what)
	}
	// A person waits, and the answer may take longer than a page's.
	rc := http.NewResponseController(e.Response())
	_ = rc.SetWriteDeadline(time.Time{}) // a test's recorder has none
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", what, err)
		}
	}
	r, err := http.NewRequestWithContext(e.Request().Context(), method, "/api/v1"+path, &body)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", what, err)
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	a := &answer{header: http.Header{}}
	c.o.API().ServeHTTP(a, r)
	if a.status >= http.StatusBadRequest {
		no := &refusal{At: map[string]string{}}
		if err := json.Unmarshal(a.Bytes(), &no.Problem); err != nil {
			return nil, nil, fmt.Errorf("%s: status %d: %w", what, a.status, err)
		}
		if no.Status >= http.StatusInternalServerError {
			c.log.Error("the console's call failed", "what", method, "code", no.Code)
		}
		for _, f := range no.Errors {
			at := strings.TrimPrefix(f.Location, "body.")
			if no.At[at] == "" {
				no.At[at] = f.Message
			}
		}
		return a.header, no, nil
	}
	if out != nil && a.Len() > 0 {
		if err := json.Unmarshal(a.Bytes(), out); err != nil {
			return nil, nil, fmt.Errorf("read the answer of %s: %w", what, err)
		}
	}
	return a.header, nil, nil
}

// get reads what must be there: what is not is a page that says so.
func (c *Console) get(e echo.Context, path string, out any) (http.Header, error) {
	h, no, err := c.ask(e, http.MethodGet, path, nil, out)
	switch {
	case err != nil:
		return nil, err
	case no != nil && no.Status == http.StatusNotFound:
		return nil, errNothing
	case no != nil:
		return nil, no
	}
	return h, nil
}

// Error makes a refusal an error where a page cannot do without the answer.
func (r *refusal) Error() string { return r.Code + ": " + r.Detail }

// listed is a page of a list of the API.
type listed[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next"`
}

// document is a definition in a list.
type document[T any] struct {
	ID         string `json:"id"`
	Version    uint64 `json:"version"`
	Definition T      `json:"definition"`
}

// every reads a whole list.
func every[T any](c *Console, e echo.Context, path string) ([]T, error) {
	var all []T
	for cursor := ""; ; {
		var l listed[T]
		q := url.Values{"limit": {"1000"}}
		if cursor != "" {
			q.Set("cursor", cursor)
		}
		if _, err := c.get(e, path+"?"+q.Encode(), &l); err != nil {
			return nil, err
		}
		all = append(all, l.Items...)
		if cursor = l.Next; cursor == "" {
			return all, nil
		}
	}
}

// maxForm is the greatest form: a rule's text and its blocks.
const maxForm = 1 << 20

// form is a row for a form of ours. It checks the session itself, since the guard
// opens nothing but reading to one: the form must have come from a page of this
// host, which browsers say and no page can make them say of itself, and the cookie
// is Strict. What may be changed, the API decides.
func (c *Console) form(path string, h func(echo.Context) (*page, error)) tagserver.Route {
	return tagserver.Route{Method: http.MethodPost, Path: base + path, Listener: tagserver.Private, Auth: tagserver.AuthOrigin, Handler: func(e echo.Context) error {
		r := e.Request()
		refuse := func(status int, title, why string) error {
			return c.show(func(echo.Context) (*page, error) {
				return &page{Status: status, Template: "message", Title: title, Bare: true, Data: message{why}}, nil
			})(e)
		}
		if !fromUs(r) {
			return refuse(http.StatusForbidden, "Nothing was changed", "This form was sent from another page. Do it on the page of the console.")
		}
		p := c.session(r)
		if p == nil {
			return refuse(http.StatusUnauthorized, "Nothing was changed", "Your session is over. Sign in in another tab, come back here and send the form again: nothing that you typed is lost.")
		}
		r.Body = http.MaxBytesReader(e.Response(), r.Body, maxForm)
		if err := r.ParseForm(); err != nil {
			return refuse(http.StatusBadRequest, "Nothing was changed", "The form could not be read, or is larger than 1 MB.")
		}
		e.SetRequest(r.WithContext(tagserver.WithPrincipal(r.Context(), p)))
		return c.show(h)(e)
	}}
}

// field is a field of a form that was sent.
func field(e echo.Context, name string) string {
	return strings.TrimSpace(e.Request().PostForm.Get(name))
}

// done leads to another page after a change, so that loading again repeats nothing.
func done(e echo.Context, to string) (*page, error) { return nil, e.Redirect(http.StatusSeeOther, to) }
