package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// problem is a tagserver.Problem that huma can write: every error of the API
// has the one form that all errors of the edge have.
type problem struct{ *tagserver.Problem }

// GetStatus is huma.StatusError.
func (p problem) GetStatus() int { return p.Status }

// ContentType is huma.ContentTypeFilter.
func (problem) ContentType(string) string { return "application/problem+json" }

func newProblem(status int, code, format string, args ...any) problem {
	return problem{tagserver.NewProblem(status, code, fmt.Sprintf(format, args...))}
}

// Codes of problems. They are stable: callers decide by them.
const (
	codeBadRequest  = "bad_request"
	codeBuiltIn     = "built_in"
	codeForbidden   = "forbidden"
	codeNotFound    = "not_found"
	codeExists      = "exists"
	codeInUse       = "in_use"
	codeConflict    = "conflict"
	codeChanged     = "changed"
	codeTooLarge    = "too_large"
	codeType        = "unsupported_type"
	codeInvalid     = "invalid"
	codeNeedsMatch  = "precondition_required"
	codeFull        = "full"
	codeUnavailable = "unavailable"
	codeBusy        = "busy"
	codeInternal    = "internal"
)

// invalid is the answer to a body with faults.
func invalid(what string, faults []tagserver.ProblemError) problem {
	p := newProblem(http.StatusUnprocessableEntity, codeInvalid, "%s is not valid; see errors", what)
	p.Errors = faults
	return p
}

func fault(location, format string, args ...any) tagserver.ProblemError {
	return tagserver.ProblemError{Location: location, Message: fmt.Sprintf(format, args...)}
}

// faultsOf takes a joined error apart. Every taxonomy.FieldError becomes a fault
// with its place below prefix; it returns false if there is none, for then the
// error is no matter of what was sent.
func faultsOf(prefix string, err error) (faults []tagserver.ProblemError, ok bool) {
	switch e := err.(type) {
	case nil:
		return nil, false
	case *taxonomy.FieldError:
		return []tagserver.ProblemError{{Location: under(prefix, e.Field), Message: e.Err.Error()}}, true
	case interface{ Unwrap() []error }:
		var rest []tagserver.ProblemError
		for _, k := range e.Unwrap() {
			f, is := faultsOf(prefix, k)
			if ok = ok || is; is {
				faults = append(faults, f...)
			} else {
				rest = append(rest, tagserver.ProblemError{Location: prefix, Message: k.Error()})
			}
		}
		return append(faults, rest...), ok
	case interface{ Unwrap() error }:
		return faultsOf(prefix, e.Unwrap())
	}
	return nil, false
}

// under is the place of a field within a larger one.
func under(prefix, field string) string {
	switch {
	case field == "" || field == ".":
		return prefix
	case prefix == "" || field[0] == '[':
		return prefix + field
	}
	return prefix + "." + field
}

// fail turns an error into what the caller hears. What is neither the caller's
// fault nor one of the store's known conditions stands in our log only.
func (a *API) fail(what string, err error) error {
	var p problem
	var tp *tagserver.Problem
	switch {
	case err == nil:
		return nil
	case errors.As(err, &p):
		return p
	case errors.As(err, &tp):
		return problem{tp}
	case errors.Is(err, ErrRefused):
		return newProblem(http.StatusUnprocessableEntity, codeInvalid, "%s: %s", what, refusal(err))
	case errors.Is(err, ErrBusy):
		return newProblem(http.StatusConflict, codeBusy, "%s: %s", what, strings.TrimSuffix(strings.TrimPrefix(err.Error(), ErrBusy.Error()+": "), ": "+ErrBusy.Error()))
	case errors.Is(err, retention.ErrNotFound):
		return newProblem(http.StatusNotFound, codeNotFound, "%s: there is nothing of that name", what)
	case errors.Is(err, retention.ErrConflict):
		return newProblem(http.StatusConflict, codeConflict, "%s: another change was made at the same time; read it again and repeat", what)
	case errors.Is(err, retention.ErrFull):
		p = newProblem(http.StatusServiceUnavailable, codeFull, "%s: the store is full for the moment; repeat it later", what)
		p.RetryAfter = 5
		return p
	case errors.Is(err, retention.ErrUnknown), errors.Is(err, retention.ErrClosed), errors.Is(err, retention.ErrHeld),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		a.log.Warn("request not finished", "what", what, "error", err)
		p = newProblem(http.StatusServiceUnavailable, codeUnavailable, "%s: it was not finished; repeating it is safe", what)
		p.RetryAfter = 2
		return p
	}
	if f, ok := faultsOf("body", err); ok {
		return invalid(what, f)
	}
	a.log.Error("request failed", "what", what, "error", err)
	return newProblem(http.StatusInternalServerError, codeInternal, "internal error; the log of the server says more")
}

// refusal is an ErrRefused's text without the sentinel's own.
func refusal(err error) string {
	return strings.TrimSuffix(strings.TrimPrefix(err.Error(), ErrRefused.Error()+": "), ": "+ErrRefused.Error())
}

// transform makes a problem of what huma itself refuses, and sets the headers
// that go with one. huma calls it before the head is written.
func transform(ctx huma.Context, _ string, v any) (any, error) {
	if m, ok := v.(*huma.ErrorModel); ok {
		v = ofModel(m)
	}
	if p, ok := v.(problem); ok {
		ctx.SetHeader("X-Ebb-Reason", p.Code)
		if p.RetryAfter > 0 {
			ctx.SetHeader("Retry-After", fmt.Sprint(p.RetryAfter))
		}
	}
	return v, nil
}

var codeOfStatus = map[int]string{
	http.StatusBadRequest: codeBadRequest, http.StatusRequestEntityTooLarge: codeTooLarge, http.StatusRequestTimeout: codeUnavailable,
	http.StatusUnsupportedMediaType: codeType, http.StatusUnprocessableEntity: codeInvalid,
}

func ofModel(m *huma.ErrorModel) problem {
	p := newProblem(m.Status, codeOfStatus[m.Status], "%s", m.Detail)
	if p.Code == "" {
		// huma says 500 of a body that ends too early, which is the caller's.
		p = newProblem(http.StatusBadRequest, codeBadRequest, "%s", m.Detail)
		return p
	}
	for _, e := range m.Errors {
		p.Errors = append(p.Errors, tagserver.ProblemError{Location: e.Location, Message: e.Message})
	}
	return p
}
