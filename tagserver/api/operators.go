package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/tagserver"
)

// ErrBusy is wrapped by what stands behind Options to say that the same is under
// way already; the text is shown.
var ErrBusy = errors.New("busy")

// nightView says what a nightly pass did, and what the audit finds after it.
type nightView struct {
	Erased int           `json:"erased" doc:"Visitors whose bytes it removed."`
	Audit  retentionView `json:"audit"`
}

const backupPath = "/backups"

// operators registers what operators have done by hand that is otherwise done by
// schedule.
func (a *API) operators() {
	operate(a, op{method: http.MethodPost, path: "/nightly-passes", tag: "operation", right: tagserver.May("operation:write", tagserver.OfAll), ok: 200, errors: []int{503}, slow: true, summary: "Run the nightly pass now: erase, forget, and audit"},
		func(ctx context.Context, _ *struct{}) (*bodyOut[nightView], error) {
			var n nightView
			err := a.audited(ctx, defs.Entry{What: "run", Kind: "nightly-pass"}, func() (err error) {
				n.Erased, err = a.o.Night(ctx)
				return err
			})
			if err != nil {
				return nil, a.fail("run the nightly pass", err)
			}
			n.Audit = a.retention(ctx)
			return &bodyOut[nightView]{n}, nil
		})

	// A backup is a stream, which huma does not know.
	right := tagserver.May("backups:write", tagserver.OfAll)
	a.row(http.MethodPost, base+backupPath, right, patient(a.handleBackup))
	responses := map[string]*huma.Response{"200": {Description: "A tar of every byte that is kept. It is cut off if the backup fails, and then does not verify.",
		Content: map[string]*huma.MediaType{"application/x-tar": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}}}
	for _, code := range failures(http.MethodPost, nil) {
		responses[strconv.Itoa(code)] = problemResponse(code)
	}
	a.huma.OpenAPI().AddOperation(&huma.Operation{
		OperationID: operationID(http.MethodPost, backupPath), Method: http.MethodPost, Path: base + backupPath, Tags: []string{"operation"},
		Summary: "Make a backup", Parameters: []*huma.Param{idempotencyParam()}, Responses: responses, Extensions: described(right),
	})
}

func problemResponse(code int) *huma.Response {
	return &huma.Response{Description: http.StatusText(code), Content: map[string]*huma.MediaType{
		"application/problem+json": {Schema: &huma.Schema{Ref: "#/components/schemas/Problem"}}}}
}

// handleBackup answers with a backup. One that fails is cut off, and so never ends
// as one that is whole.
func (a *API) handleBackup(c echo.Context) error {
	if err := checkQuery(c.Request(), nil); err != nil {
		return err
	}
	w := &lazy{c.Response()}
	err := a.audited(c.Request().Context(), defs.Entry{What: "make", Kind: "backup"}, func() error { return a.o.Backup(c.Request().Context(), w) })
	switch {
	case err == nil:
		return nil
	case c.Response().Committed:
		a.log.Error("backup", "error", err)
		panic(http.ErrAbortHandler)
	}
	var p problem
	if errors.As(a.fail("make a backup", err), &p) {
		return p.Problem
	}
	return err
}

// lazy says of what type an answer is when its first byte comes.
type lazy struct{ w http.ResponseWriter }

func (l *lazy) Write(p []byte) (int, error) {
	l.w.Header().Set("Content-Type", "application/x-tar")
	return l.w.Write(p)
}

var _ io.Writer = (*lazy)(nil)
