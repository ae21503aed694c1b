package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/tagserver"
)

// Trail is the audit log: a *defs.Trail.
type Trail interface {
	Append(context.Context, defs.Entry) (defs.Link, error)
	Before(ctx context.Context, seq uint64, limit int) ([]defs.Link, error)
	Verify(ctx context.Context, noted map[uint64]string) (defs.TrailReport, error)
}

// audited writes that something is done, and does it. The entry comes first:
// nothing is done that is not in the log, whatever happens in between. What then
// was not done has a second entry that says so.
func (a *API) audited(ctx context.Context, e defs.Entry, do func() error) error {
	e.Who = callerOf(ctx).ID
	l, err := a.o.Trail.Append(ctx, e)
	if err != nil {
		return a.fail("write the audit log, and so nothing was done", err)
	}
	err = do()
	if err == nil {
		return nil
	}
	then := defs.Entry{Who: e.Who, What: "failed", Kind: e.Kind, Object: e.Object, Of: l.Seq}
	if errors.Is(err, retention.ErrUnknown) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		then.What = "unknown"
	}
	if _, aerr := a.o.Trail.Append(detached(ctx), then); aerr != nil {
		a.log.Error("the audit log does not say that something failed", "of", l.Seq, "error", aerr)
	}
	return err
}

// detached is for what must be done although the caller has hung up.
func detached(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }

type (
	linkView struct {
		Seq    uint64    `json:"seq"`
		At     time.Time `json:"at"`
		Who    string    `json:"who" doc:"The ID of the key that asked for it; local for a command beside the data."`
		What   string    `json:"what" doc:"make, change, delete, deliver and so on; failed and unknown tell the outcome of the entry in of."`
		Kind   string    `json:"kind,omitempty"`
		Object string    `json:"object,omitempty"`
		Before uint64    `json:"before,omitempty" doc:"The version of the definition before; absent if there was none."`
		After  uint64    `json:"after,omitempty" doc:"The version after; absent if there is none."`
		Detail string    `json:"detail,omitempty"`
		Of     uint64    `json:"of,omitempty"`
		Hash   string    `json:"hash" doc:"Over the entry and the hash before it."`
	}
	verifyIn struct {
		Seq  uint64 `query:"seq" minimum:"1" doc:"The number of an entry that was noted before."`
		Hash string `query:"hash" maxLength:"64" doc:"Its hash."`
	}
)

const trailPath = "/audit"

// auditing registers the audit log.
func (a *API) auditing() {
	right := tagserver.May("audit:read", tagserver.OfAll)
	operate(a, op{method: http.MethodGet, path: trailPath, tag: "audit", right: right, ok: 200, errors: []int{400, 503}, summary: "List who changed what, the newest first"},
		func(ctx context.Context, in *listIn) (*listOut[linkView], error) {
			last, err := after(trailPath, in.Cursor)
			if err != nil {
				return nil, err
			}
			seq := uint64(0)
			if in.Cursor != "" {
				if seq, err = strconv.ParseUint(last, 10, 64); err != nil {
					return nil, badCursor()
				}
			}
			out := &listOut[linkView]{Body: page[linkView]{Items: []linkView{}}}
			if in.Cursor != "" && seq <= 1 {
				return out, nil
			}
			links, err := a.o.Trail.Before(ctx, seq, in.Limit)
			if err != nil {
				return nil, a.fail("read the audit log", err)
			}
			for _, l := range links {
				out.Body.Items = append(out.Body.Items, linkView{l.Seq, l.At.Time(), l.Who, l.What, l.Kind, l.Object, l.Before, l.After, l.Detail, l.Of, l.Hash})
			}
			if n := len(links); n > 0 && links[n-1].Seq > 1 {
				out.follow(trailPath, in.Limit, strconv.FormatUint(links[n-1].Seq, 10))
			}
			return out, nil
		})
	operate(a, op{method: http.MethodGet, path: trailPath + "/verification", tag: "audit", right: right, ok: 200, errors: []int{400, 422, 503}, slow: true, summary: "Walk the whole audit log, and say where it was altered"},
		func(ctx context.Context, in *verifyIn) (*bodyOut[defs.TrailReport], error) {
			noted := map[uint64]string{}
			if (in.Seq == 0) != (in.Hash == "") {
				return nil, newProblem(http.StatusUnprocessableEntity, codeInvalid, "seq and hash belong together: send both as they were noted, or neither")
			}
			if in.Seq > 0 {
				noted[in.Seq] = in.Hash
			}
			r, err := a.o.Trail.Verify(ctx, noted)
			if err != nil {
				return nil, a.fail("verify the audit log", err)
			}
			return &bodyOut[defs.TrailReport]{r}, nil
		})
}

// document is the entry of a change of a definition from one version to another.
func document(kind defs.Kind, id string, before, after uint64) defs.Entry {
	what := "change"
	switch {
	case after == 0:
		what = "delete"
	case before == 0:
		what = "make"
	}
	return defs.Entry{What: what, Kind: string(kind), Object: id, Before: before, After: after}
}

func badCursor() error {
	p := newProblem(http.StatusBadRequest, codeBadRequest, "the cursor is not of this list")
	p.At("query.cursor", "take it from next in the page before, or leave it out to begin")
	return p
}
