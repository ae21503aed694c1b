package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Matches takes ID-sync files in and writes them.
type Matches interface {
	// Import takes a file of a destination in; a name that does not fit is a
	// taxonomy.FieldError.
	Import(context.Context, MatchRequest) (MatchReceipt, error)
	// Export writes the file of a destination to what begin returns, which is called
	// with the file's name before the first byte.
	Export(ctx context.Context, dest taxonomy.DestinationID, begin func(name string) io.Writer) error
}

// MatchRequest is an ID-sync file to take in.
type MatchRequest struct {
	Destination taxonomy.DestinationID
	// Name is what the file is called; if it is one of an ID-sync file, its numbers
	// must be the destination's.
	Name string
	// File is read twice: once for its hash, which names the import (R13).
	File io.ReadSeeker
	// Bad is told each line that was refused.
	Bad func(delivery.MatchFault)
}

// MatchReceipt says what became of a file: Rows is the sum of the numbers behind it.
type MatchReceipt struct {
	Import      string                 `json:"import" doc:"What names the import: of the file's bytes and the destination."`
	Destination taxonomy.DestinationID `json:"destination"`
	Rows        uint64                 `json:"rows"`
	Stored      uint64                 `json:"stored" doc:"Learnt."`
	Unchanged   uint64                 `json:"unchanged" doc:"Learnt today already."`
	Duplicate   uint64                 `json:"duplicate" doc:"Of a file that was taken in before."`
	Unmatched   uint64                 `json:"unmatched" doc:"The first column is nobody's ID at this destination: unknown, forgotten, or of former pseudonyms."`
	Consent     uint64                 `json:"consent" doc:"The visitor's consent does not reach the destination."`
	Capped      uint64                 `json:"capped" doc:"A cap of sync was met."`
	Malformed   uint64                 `json:"malformed" doc:"Not a line of an ID-sync file."`
}

type matchView struct {
	MatchReceipt
	Faults []delivery.MatchFault `json:"faults" doc:"The first 100 lines that were refused: place and reason, never the value."`
}

// matchFiles registers the ID-sync files of destinations.
func (a *API) matchFiles() {
	const path = "/destinations/{id}/matches"
	right := tagserver.May("destinations:write", tagserver.OfOwn)
	a.row(http.MethodPost, base+path, right, patient(a.handleMatches(a.takeMatches)))
	a.row(http.MethodGet, base+path, right, patient(a.handleMatches(a.writeMatches)))
	doc := a.huma.OpenAPI()
	file := &huma.Schema{Type: huma.TypeString, Format: "binary"}
	id := &huma.Param{Name: "id", In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString}}
	with := func(method string, codes []int, ok *huma.Response) map[string]*huma.Response {
		responses := map[string]*huma.Response{"200": ok}
		for _, code := range failures(method, codes) {
			responses[strconv.Itoa(code)] = problemResponse(code)
		}
		return responses
	}
	doc.AddOperation(&huma.Operation{
		OperationID: operationID(http.MethodPost, path), Method: http.MethodPost, Path: base + path, Tags: []string{"destinations"},
		Summary:     "Take an ID-sync file in",
		Description: "A line for each match: Ebb's ID of the visitor at this destination, a tab, the destination's own ID. The file may be gzip. Refused lines keep none of the others back. A file says nothing of anybody's consent, and one that is given again changes nothing.",
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/octet-stream": {Schema: file}}},
		Parameters: []*huma.Param{id, {Name: "name", In: "query", Description: "What the file is called. If it is MASTERDPID_DPID_TIMESTAMP.sync, MASTERDPID must be 0 and DPID the destination's account.DPID.",
			Schema: &huma.Schema{Type: huma.TypeString}}, idempotencyParam()},
		Responses:  with(http.MethodPost, []int{404, 413}, &huma.Response{Description: "OK", Content: map[string]*huma.MediaType{"application/json": {Schema: doc.Components.Schemas.Schema(reflect.TypeOf(matchView{}), true, "")}}}),
		Extensions: described(right),
	})
	doc.AddOperation(&huma.Operation{
		OperationID: operationID(http.MethodGet, path), Method: http.MethodGet, Path: base + path, Tags: []string{"destinations"},
		Summary:     "Get the ID-sync file of a destination",
		Description: "Everyone whom it knows by an ID of its own, and whose consent reaches it, in the columns that are taken in. It is cut off if it fails.",
		Parameters:  []*huma.Param{id},
		Responses:   with(http.MethodGet, []int{404}, &huma.Response{Description: "OK", Content: map[string]*huma.MediaType{matchType: {Schema: file}}}),
		Extensions:  described(right),
	})
}

const matchType = "text/tab-separated-values"

func (a *API) handleMatches(h func(echo.Context, string) error) echo.HandlerFunc {
	return func(c echo.Context) error {
		id := c.Param("id")
		err := meets(c.Request().Context(), a, a.destinations(), id)
		if err == nil {
			err = h(c, id)
		}
		var p problem
		if errors.As(err, &p) {
			return p.Problem
		}
		return err
	}
}

func (a *API) takeMatches(c echo.Context, id string) error {
	if err := checkQuery(c.Request(), []string{"name"}); err != nil {
		return err
	}
	file, err := a.spool(c.Request().Body)
	if err != nil {
		return a.fail("keep the file for the time of the import", err)
	}
	defer file.Close()
	if file.size == 0 {
		return newProblem(http.StatusBadRequest, codeBadRequest, "take matches in: there is no line; send the file as the body of the request")
	}
	view := matchView{Faults: []delivery.MatchFault{}}
	ctx := c.Request().Context()
	err = a.audited(ctx, defs.Entry{What: "take matches in", Kind: string(defs.Destination), Object: id}, func() (err error) {
		view.MatchReceipt, err = a.o.Matches.Import(ctx, MatchRequest{Destination: taxonomy.DestinationID(id), Name: c.QueryParam("name"), File: file,
			Bad: func(f delivery.MatchFault) {
				if len(view.Faults) < maxBad {
					view.Faults = append(view.Faults, f)
				}
			}})
		return err
	})
	if err != nil {
		if faults, ok := faultsOf("query", err); ok {
			return invalid("the file's name", faults)
		}
		return a.fail("take the matches in", err)
	}
	b, err := encode(view)
	if err != nil {
		return a.fail("print the receipt", err)
	}
	return c.JSONBlob(http.StatusOK, b)
}

func (a *API) writeMatches(c echo.Context, id string) error {
	if err := checkQuery(c.Request(), nil); err != nil {
		return err
	}
	ctx := c.Request().Context()
	err := a.audited(ctx, defs.Entry{What: "hand matches out", Kind: string(defs.Destination), Object: id}, func() error {
		return a.o.Matches.Export(ctx, taxonomy.DestinationID(id), func(name string) io.Writer {
			h := c.Response().Header()
			h.Set("Content-Type", matchType)
			h.Set("Content-Disposition", `attachment; filename="`+name+`"`)
			return c.Response()
		})
	})
	if err != nil && c.Response().Committed {
		a.log.Error("write an ID-sync file", "destination", id, "error", err)
		panic(http.ErrAbortHandler) // cut off, so it never passes for whole
	}
	return a.fail("write the matches", err)
}
