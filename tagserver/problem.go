package tagserver

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"
)

// Problem is an error as HTTP says it (RFC 9457): a stable code, and the place
// of the fault. It never holds a value that was sent.
type Problem struct {
	Type   string `json:"type"` // "about:blank": the code tells problems apart
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail,omitempty"`
	// Errors are the single faults, each with its place.
	Errors []ProblemError `json:"errors,omitempty"`
	// RetryAfter, in seconds, becomes the header of that name.
	RetryAfter int `json:"-"`
}

// ProblemError is one fault.
type ProblemError struct {
	Location string `json:"location"` // "body.events[2].t", "body: line 1, column 7"
	Message  string `json:"message"`
}

func (p *Problem) Error() string { return p.Code + ": " + p.Detail }

// NewProblem returns a problem. The detail says what was attempted and what is
// wrong, and ends with what to do, if that is not plain.
func NewProblem(status int, code, detail string) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code, Detail: detail}
}

// At adds a fault with its place.
func (p *Problem) At(location, message string) *Problem {
	p.Errors = append(p.Errors, ProblemError{location, message})
	return p
}

// Codes of problems that are no taxonomy.Reason.
const (
	codeNotFound    = "not_found"
	codeMethod      = "method_not_allowed"
	codeType        = "unsupported_type"
	codeFull        = "full"
	codeUnavailable = "unavailable"
	codeInternal    = "internal"
)

// handleError is the one place where an error becomes an answer.
func (s *Server) handleError(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	var p *Problem
	var he *echo.HTTPError
	switch {
	case errors.As(err, &p):
	case errors.As(err, &he) && he.Code == http.StatusNotFound:
		p = NewProblem(he.Code, codeNotFound, "there is nothing at this path")
	case errors.As(err, &he) && he.Code == http.StatusMethodNotAllowed:
		p = NewProblem(he.Code, codeMethod, "this path does not answer "+methodName(c.Request().Method)+"; see the Allow header")
	default:
		// The full line stands in our log, nothing of it outside.
		s.log.Error("request failed", "route", c.Path(), "error", err)
		p = NewProblem(http.StatusInternalServerError, codeInternal, "internal error")
	}
	writeProblem(c, p)
}

func writeProblem(c echo.Context, p *Problem) {
	h := c.Response().Header()
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(p.RetryAfter))
	}
	if h.Get(headerReason) == "" {
		h.Set(headerReason, p.Code)
	}
	b, err := json.Marshal(p)
	if err != nil {
		b = []byte(`{"code":"internal"}`)
	}
	h.Set(echo.HeaderContentType, "application/problem+json")
	c.Response().WriteHeader(p.Status)
	if c.Request().Method != http.MethodHead {
		// The client may be gone; there is nobody left to tell.
		_, _ = c.Response().Write(b)
	}
}

// methodName keeps a made-up method out of the answer.
func methodName(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return m
	}
	return "this method"
}
