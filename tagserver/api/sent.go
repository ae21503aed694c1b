package api

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

type (
	sentIn struct {
		ID   string `path:"id" maxLength:"128"`
		File string `path:"file" maxLength:"256" doc:"The file of a delivery, as the list of deliveries names it."`
	}
	sentView struct {
		File      string          `json:"file"`
		MediaType string          `json:"media_type"`
		SHA256    string          `json:"sha256" doc:"Of all chunks, one behind the other: the delivery's own."`
		Expires   time.Time       `json:"expires" doc:"Not kept longer; less if somebody in it is erased or no longer allows it."`
		Chunks    []sentChunkView `json:"chunks"`
	}
	sentChunkView struct {
		Chunk   int    `json:"chunk"`
		Name    string `json:"name"`
		Rows    uint64 `json:"rows"`
		Bytes   int64  `json:"bytes"`
		SHA256  string `json:"sha256"`
		Outcome string `json:"outcome" doc:"acknowledged, refused, unanswered, not sent, or published for the partner to pull."`
		Control bool   `json:"control,omitempty" doc:"It lists the others."`
	}
)

const (
	codeGone    = "gone"
	codeDamaged = "damaged"

	// Paths of what was sent.
	sentPath    = "/destinations/{id}/deliveries/{file}"
	contentPath = sentPath + "/content"
)

// sents registers what was sent: what there is, and the bytes.
func (a *API) sents() {
	operate(a, op{method: http.MethodGet, path: sentPath, tag: "destinations", right: tagserver.May("deliveries:read", tagserver.OfOwn), ok: 200, errors: []int{404, 410, 503}, slow: true,
		summary: "What a delivery sent, chunk by chunk, and what came of each"},
		func(ctx context.Context, in *sentIn) (*bodyOut[sentView], error) {
			s, err := a.openSent(ctx, in.ID, in.File)
			if err != nil {
				return nil, err
			}
			defer s.Close()
			v := sentView{File: s.File, MediaType: s.MediaType, SHA256: s.SHA256, Expires: s.Expires.Time(), Chunks: []sentChunkView{}}
			for i, c := range s.Chunks {
				v.Chunks = append(v.Chunks, sentChunkView{i, c.Name, c.Rows, c.Bytes, c.SHA256, c.Outcome, c.Control})
			}
			return &bodyOut[sentView]{v}, nil
		})

	// The bytes are a stream, which huma does not know.
	right := tagserver.May("deliveries:write", tagserver.OfOwn)
	a.row(http.MethodGet, base+contentPath, right, patient(a.handleSent))
	stream := &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}
	responses := map[string]*huma.Response{"200": {Description: "The bytes of the one chunk that was asked for, or that there is; else a tar of all that were sent, under their names.",
		Content: map[string]*huma.MediaType{"application/octet-stream": stream, "application/x-tar": stream}}}
	for _, code := range failures(http.MethodGet, []int{404, 410}) {
		responses[strconv.Itoa(code)] = problemResponse(code)
	}
	param := func(name, in string, schema *huma.Schema, doc string) *huma.Param {
		return &huma.Param{Name: name, In: in, Required: in == "path", Schema: schema, Description: doc}
	}
	a.huma.OpenAPI().AddOperation(&huma.Operation{
		OperationID: operationID(http.MethodGet, contentPath), Method: http.MethodGet, Path: base + contentPath, Tags: []string{"destinations"},
		Summary: "Download exactly what a delivery sent", Responses: responses, Extensions: described(right),
		Parameters: []*huma.Param{
			param("id", "path", &huma.Schema{Type: huma.TypeString}, ""), param("file", "path", &huma.Schema{Type: huma.TypeString}, "The file of a delivery, as the list of deliveries names it."),
			param("chunk", "query", &huma.Schema{Type: huma.TypeInteger}, "The number of a chunk, from 0."),
		},
	})
}

func (a *API) openSent(ctx context.Context, id, file string) (*delivery.Sent, error) {
	if err := meets(ctx, a, a.destinations(), id); err != nil {
		return nil, err
	}
	s, err := a.o.Deliveries.OpenSent(ctx, taxonomy.DestinationID(id), file)
	switch {
	case errors.Is(err, delivery.ErrNotKept):
		return nil, newProblem(http.StatusGone, codeGone, "what was sent is not kept any more: its time is over, or somebody in it was erased or no longer allows it")
	case errors.Is(err, retention.ErrCorrupt):
		a.log.Error("what was sent is damaged here", "destination", id, "error", err)
		return nil, newProblem(http.StatusServiceUnavailable, codeDamaged, "what is kept is not what was sent, by its SHA-256, and so is not shown as that")
	case err != nil:
		return nil, a.fail("open what "+id+" was sent", err)
	}
	return s, nil
}

// handleSent answers with the bytes that were sent. That somebody had them is in the
// audit log.
func (a *API) handleSent(c echo.Context) error {
	r := c.Request()
	err := a.serveSent(c, r.Context(), c.Param("id"), c.Param("file"))
	if c.Response().Committed && err != nil {
		a.log.Error("what was sent could not be shown whole", "error", err)
		panic(http.ErrAbortHandler) // so that what came does not pass for all of it
	}
	var p problem
	if errors.As(err, &p) {
		return p.Problem
	}
	return err
}

func (a *API) serveSent(c echo.Context, ctx context.Context, id, file string) error {
	if err := checkQuery(c.Request(), []string{"chunk"}); err != nil {
		return err
	}
	s, err := a.openSent(ctx, id, file)
	if err != nil {
		return err
	}
	defer s.Close()
	var which []int
	if text := c.QueryParam("chunk"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n >= len(s.Chunks) {
			return newProblem(http.StatusNotFound, codeNotFound, "there is no chunk %.20q; there are %d, from 0", text, len(s.Chunks))
		}
		which = []int{n}
	} else {
		for i := range s.Chunks {
			if s.Chunks[i].WasSent() {
				which = append(which, i)
			}
		}
	}
	entry := defs.Entry{What: "download", Kind: string(defs.Destination), Object: id, Detail: file}
	return a.audited(ctx, entry, func() error {
		h := c.Response().Header()
		h.Set("Cache-Control", "private, no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Ebb-SHA256", s.SHA256)
		if len(which) == 1 {
			one := &s.Chunks[which[0]]
			h.Set("X-Ebb-SHA256", one.SHA256)
			h.Set("Content-Type", "application/octet-stream")
			h.Set("Content-Length", strconv.FormatInt(one.Bytes, 10))
			h.Set("Content-Disposition", attachment(one.Name))
			_, err := io.Copy(c.Response(), s.Body(which[0]))
			return err
		}
		h.Set("Content-Type", "application/x-tar")
		h.Set("Content-Disposition", attachment(s.File+".tar"))
		t := tar.NewWriter(c.Response())
		for _, i := range which {
			one := &s.Chunks[i]
			if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: one.Name, Size: one.Bytes, Mode: 0o600, Format: tar.FormatPAX}); err != nil {
				return err
			}
			if _, err := io.Copy(t, s.Body(i)); err != nil {
				return err
			}
		}
		return t.Close()
	})
}

// attachment is a Content-Disposition. Names are of formats and of ours, and hold
// nothing that would have to be quoted but what is left out here.
func attachment(name string) string {
	b := []byte(name)
	for i, c := range b {
		if c < ' ' || c == '"' || c == '\\' || c == '/' || c >= 0x7f {
			b[i] = '_'
		}
	}
	return `attachment; filename="` + string(b) + `"`
}
