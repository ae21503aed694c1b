package api

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/onboard"
)

// ImportRequest is a file to take in.
type ImportRequest struct {
	Source  taxonomy.SourceID
	Mapping onboard.Mapping
	// File is read twice: once for its hash, which names the import (R13). It is
	// without gzip, so that packing a file makes no other import of it.
	File    io.ReadSeeker
	Lookups map[string]*onboard.Lookup
	// Again makes it a new import although the file was taken in before.
	Again bool
	// Bad is told each row that was refused.
	Bad func(onboard.Fault)
}

// ImportReceipt says what became of a file.
type ImportReceipt struct {
	Import string            `json:"import"` // 32 hex digits
	Source taxonomy.SourceID `json:"source"`
	onboard.Report
	Stored    uint64 `json:"stored"`
	Duplicate uint64 `json:"duplicate"`
	Dropped   uint64 `json:"dropped"`
	// Visitors is how many distinct visitors the accepted rows name.
	Visitors int `json:"visitors"`
}

// maxBad is how many refused rows a receipt names.
const maxBad = 100

// maxRuns is how many runs of the same file its document remembers.
const maxRuns = 20

type (
	// importDoc is the document of an import: of one file into one source.
	importDoc struct {
		ID      string            `json:"id"`
		Source  taxonomy.SourceID `json:"source"`
		Mapping onboard.Mapping   `json:"mapping"`
		// Runs are the times that the file was given, the newest last.
		Runs []importRun `json:"runs"`
	}
	importRun struct {
		At taxonomy.Millis `json:"at"`
		ImportReceipt
		Faults []onboard.Fault `json:"faults,omitempty"`
	}
	importView struct {
		ID      string            `json:"id"`
		Source  taxonomy.SourceID `json:"source"`
		Mapping onboard.Mapping   `json:"mapping"`
		Runs    []runView         `json:"runs" doc:"The times that the file was given, the newest last."`
	}
	runView struct {
		At time.Time `json:"at"`
		ImportReceipt
		Faults []onboard.Fault `json:"faults" doc:"The first 100 rows that were refused: place and reason, never the value. Only the newest run has them."`
	}
)

func (r importRun) view() runView {
	return runView{At: r.At.Time(), ImportReceipt: r.ImportReceipt, Faults: append([]onboard.Fault{}, r.Faults...)}
}

func (d *importDoc) view() importView {
	v := importView{ID: d.ID, Source: d.Source, Mapping: d.Mapping, Runs: []runView{}}
	for _, r := range d.Runs {
		v.Runs = append(v.Runs, r.view())
	}
	return v
}

// importing registers imports. They are made by taking a file in, and are not
// changed or deleted: they say what happened.
func (a *API) importing() {
	r := resource[importDoc, importView]{path: "imports", one: "import", kind: defs.Import, area: "imports",
		own: func(w *world, d *importDoc) bool { return w.p.Source(d.Source) },
		id:  func(d *importDoc) *string { return &d.ID }, show: func(d *importDoc, _ string) importView { return d.view() },
		brief: func(d *importDoc) importView {
			v := d.view()
			for i := range v.Runs {
				v.Runs[i].Faults = []onboard.Fault{}
			}
			return v
		}}
	read, write := r.rights()
	operate(a, op{method: http.MethodGet, path: "/imports", tag: "imports", right: read, ok: 200, errors: []int{400}, summary: "List imports, without the rows that were refused"},
		func(ctx context.Context, in *listIn) (*listOut[item[importView]], error) { return r.list(ctx, a, in) })
	operate(a, op{method: http.MethodGet, path: "/imports/{id}", tag: "imports", right: read, ok: 200, errors: []int{404}, summary: "Get an import"},
		func(ctx context.Context, in *getIn) (*docOut[importView], error) { return r.get(ctx, a, in) })

	// A body of a gibibyte is a stream, which huma does not know.
	a.row(http.MethodPost, base+"/imports", write, patient(a.handleImport))
	doc := a.huma.OpenAPI()
	schema := func(v any) *huma.Schema { return doc.Components.Schemas.Schema(reflect.TypeOf(v), true, "") }
	file := &huma.Schema{Type: huma.TypeString, Format: "binary"}
	responses := map[string]*huma.Response{"201": {Description: "Created", Content: map[string]*huma.MediaType{"application/json": {Schema: schema(runView{})}}}}
	for _, code := range failures(http.MethodPost, []int{413, 415}) {
		responses[strconv.Itoa(code)] = problemResponse(code)
	}
	doc.AddOperation(&huma.Operation{
		OperationID: operationID(http.MethodPost, "/imports"), Method: http.MethodPost, Path: base + "/imports", Tags: []string{"imports"},
		Summary:     "Take a file in",
		Description: "Parts in this order: source, mapping, again, a lookup.NAME for each join of the mapping, and file last. Files may be gzip. The same file into the same source is the same import: its rows count once.",
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"multipart/form-data": {Schema: &huma.Schema{
			Type: huma.TypeObject, Required: []string{"source", "mapping", "file"},
			Properties: map[string]*huma.Schema{
				"source": schema(""), "mapping": schema(onboard.Mapping{}), "file": file,
				"again": {Type: huma.TypeString, Enum: []any{"true", "false"}, Description: "true makes it a new import although the file was taken in before."},
			},
			AdditionalProperties: file,
		}, Encoding: map[string]*huma.Encoding{"mapping": {ContentType: "application/json"}}}}},
		Parameters: []*huma.Param{idempotencyParam()}, Responses: responses, Extensions: described(write),
	})
}

// form is what an import's parts said, before its file.
type form struct {
	source  taxonomy.SourceID
	mapping *onboard.Mapping
	lookups map[string]*onboard.Lookup
	again   bool
}

func badForm(location, format string, args ...any) error {
	return invalid("the form", []tagserver.ProblemError{fault(location, format, args...)})
}

// handleImport takes a file in. Its parts are read in order and only once, so
// what the file needs must stand before it.
func (a *API) handleImport(c echo.Context) error {
	err := a.takeIn(c)
	var p problem
	if errors.As(err, &p) {
		return p.Problem
	}
	return err
}

func (a *API) takeIn(c echo.Context) error {
	select {
	case a.imports <- struct{}{}:
		defer func() { <-a.imports }()
	default:
		p := newProblem(http.StatusServiceUnavailable, codeBusy, "%d imports are under way, which is the most at the same time; repeat it later", cap(a.imports))
		p.RetryAfter = 5
		return p
	}
	parts, err := c.Request().MultipartReader()
	if err != nil {
		return newProblem(http.StatusUnsupportedMediaType, codeType, "send Content-Type: multipart/form-data, with the parts source, mapping and file")
	}
	f := form{lookups: map[string]*onboard.Lookup{}}
	for {
		part, err := parts.NextPart()
		switch {
		case err == io.EOF:
			return badForm("form.file", "is missing")
		case err != nil:
			return cutOff(err)
		}
		if part.FormName() == "file" {
			return a.takeFile(c, &f, part)
		}
		if err := a.readPart(&f, part); err != nil {
			return err
		}
	}
}

func cutOff(err error) error {
	return newProblem(http.StatusBadRequest, codeBadRequest, "the form cannot be read to its end: %s", strings.TrimPrefix(err.Error(), "multipart: "))
}

var formParts = []string{"source", "mapping", "again", "lookup.NAME", "file"}

func (a *API) readPart(f *form, part *multipart.Part) error {
	const small = 256 << 10
	name := part.FormName()
	at := "form." + cut(name)
	table, isLookup := strings.CutPrefix(name, "lookup.")
	if isLookup {
		return a.readLookup(f, table, part)
	}
	if !slices.Contains(formParts, name) {
		return badForm(at, "unknown part; known here: %s", strings.Join(formParts, ", "))
	}
	b, err := io.ReadAll(io.LimitReader(part, small+1))
	switch {
	case err != nil:
		return cutOff(err)
	case len(b) > small:
		return newProblem(http.StatusRequestEntityTooLarge, codeTooLarge, "%s is larger than %d bytes", at, small)
	}
	switch name {
	case "source":
		f.source = taxonomy.SourceID(strings.TrimSpace(string(b)))
	case "again":
		if f.again, err = strconv.ParseBool(strings.TrimSpace(string(b))); err != nil {
			return badForm(at, "want true or false")
		}
	case "mapping":
		m := new(onboard.Mapping)
		if faults := decode(at, b, m, nil); len(faults) > 0 {
			return invalid("the mapping", faults)
		}
		if faults, ok := faultsOf(at, m.Validate()); ok {
			return invalid("the mapping", faults)
		}
		f.mapping = m
	}
	return nil
}

func (a *API) readLookup(f *form, table string, part *multipart.Part) error {
	at := "form.lookup." + cut(table)
	if f.mapping == nil {
		return badForm(at, "stands before the part mapping, which says how to read it; send mapping first")
	}
	i := slices.IndexFunc(f.mapping.Joins, func(j onboard.Join) bool { return j.Name == table })
	if i < 0 {
		return badForm(at, "the mapping has no join of that name")
	}
	in := newPlain(part, a.o.Limits.Lookup, at)
	l, err := onboard.NewLookup(in, f.mapping.Comma, f.mapping.Joins[i])
	if in.err != nil {
		return in.err
	}
	if err != nil {
		return badForm(at, "%s", err)
	}
	f.lookups[table] = l
	return nil
}

// takeFile spools the file and takes it in.
func (a *API) takeFile(c echo.Context, f *form, part *multipart.Part) error {
	ctx := c.Request().Context()
	if err := a.ready(ctx, f); err != nil {
		return err
	}
	file, err := a.spool(part)
	if err != nil {
		return a.fail("keep the file for the time of the import", err)
	}
	defer file.Close()
	if err := fits(f, file); err != nil {
		return badForm("form.file", "%s", err)
	}
	if err := file.Rewind(); err != nil {
		return a.fail("read the file again", err)
	}
	run := importRun{At: a.o.Now()}
	err = a.audited(ctx, defs.Entry{What: "take in", Kind: string(defs.Source), Object: string(f.source)}, func() (err error) {
		run.ImportReceipt, err = a.o.Import(ctx, ImportRequest{
			Source: f.source, Mapping: *f.mapping, File: file, Lookups: f.lookups, Again: f.again,
			Bad: func(b onboard.Fault) {
				if len(run.Faults) < maxBad {
					// A receipt has a bound, and a column may have any name.
					b.Column, b.Why = short(b.Column), short(b.Why)
					run.Faults = append(run.Faults, b)
				}
			},
		})
		return err
	})
	if err != nil {
		if faults, ok := faultsOf("form.mapping", err); ok {
			return invalid("the mapping", faults)
		}
		return a.fail("take the file in", err)
	}
	if err := a.keepImport(context.WithoutCancel(ctx), f, run); err != nil {
		return err
	}
	b, err := encode(run.view())
	if err != nil {
		return a.fail("print the receipt", err)
	}
	c.Response().Header().Set("Location", base+"/imports/"+run.Import)
	return c.JSONBlob(http.StatusCreated, b)
}

// ready checks what can be known before the file is read.
func (a *API) ready(ctx context.Context, f *form) error {
	var faults []tagserver.ProblemError
	w := a.here(ctx)
	d, ok := w.snap.Get(defs.Source, string(f.source))
	ok = ok && w.p.Source(f.source)
	switch {
	case f.source == "":
		faults = append(faults, fault("form.source", "is missing; it must stand before the file"))
	case !ok:
		faults = append(faults, fault("form.source", "there is no source %q; make it first", cut(string(f.source))))
	default:
		var s taxonomy.Source
		if err := json.Unmarshal(d.Body, &s); err != nil {
			return a.fail("read the source", err)
		}
		if why := asserts(&s, a.o.Now().Day()); why != "" {
			faults = append(faults, fault("form.source", "%s", why))
		}
	}
	if f.mapping == nil {
		faults = append(faults, fault("form.mapping", "is missing; it must stand before the file"))
	} else {
		for i, j := range f.mapping.Joins {
			if f.lookups[j.Name] == nil {
				faults = append(faults, fault(fmt.Sprintf("form.mapping.joins[%d]", i), "there is no part lookup.%s before the file", j.Name))
			}
		}
	}
	if len(faults) > 0 {
		return invalid("the form", faults)
	}
	return nil
}

// asserts says why nothing can be imported from a source (R13), or "".
func asserts(s *taxonomy.Source, today taxonomy.Day) string {
	switch g := s.Agreement; {
	case s.Withdrawn:
		return "the source is withdrawn"
	case g == nil:
		return "the source has no agreement that asserts its visitors' consent; add agreement with its uses to the source"
	case g.Ends != nil && today >= *g.Ends:
		return fmt.Sprintf("the source's agreement ended on %s", *g.Ends)
	}
	return ""
}

// short cuts text to what a receipt has room for.
func short(s string) string {
	const most = 200
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

var errFits = errors.New("it fits")

// fits returns why the mapping does not fit the file's columns.
func fits(f *form, file io.Reader) error {
	const enough = 1 << 20 // a row is much shorter
	_, err := onboard.Parse(io.LimitReader(file, enough), f.mapping, onboard.Input{Lookups: f.lookups, Now: taxonomy.RetentionDays * taxonomy.OneDay},
		func(*onboard.Fact) error { return errFits }, nil)
	if errors.Is(err, errFits) {
		return nil
	}
	return err
}

// keepImport keeps the document of an import, or adds a run to it.
func (a *API) keepImport(ctx context.Context, f *form, run importRun) error {
	what := fmt.Sprintf("keep the receipt of import %q, whose rows are taken in", run.Import)
	a.changing.Lock()
	defer a.changing.Unlock()
	w, err := a.world(ctx)
	if err != nil {
		return a.fail(what, err)
	}
	doc := importDoc{ID: run.Import, Source: run.Source}
	old, ok := w.snap.Get(defs.Import, run.Import)
	if ok {
		if err := json.Unmarshal(old.Body, &doc); err != nil {
			return a.fail(what, err)
		}
	}
	doc.Mapping = *f.mapping
	// The newest run tells its faults: a document has a bound, and those before
	// were of the same file.
	for i := range doc.Runs {
		doc.Runs[i].Faults = nil
	}
	doc.Runs = append(doc.Runs, run)
	doc.Runs = doc.Runs[max(0, len(doc.Runs)-maxRuns):]
	_, err = a.keep(ctx, defs.Import, run.Import, what, doc, old.Version)
	return err
}

// plain reads a part without its gzip, if it has one, and not beyond a limit.
type plain struct {
	src  source
	r    io.Reader
	left int64
	at   string
	err  error // what the caller is to hear, once there is something
}

// source is what came over the wire: its own errors are told from those of the
// gzip in it.
type source struct {
	r    io.Reader
	left int64
	err  error
}

func (s *source) Read(b []byte) (int, error) {
	if s.left <= 0 {
		s.err = errTooLarge
		return 0, s.err
	}
	n, err := s.r.Read(b[:min(int64(len(b)), s.left)])
	s.left -= int64(n)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

var errTooLarge = errors.New("too large")

func newPlain(part io.Reader, limit int64, at string) *plain {
	// What gzip adds to bytes that cannot be made smaller is less than this.
	p := &plain{src: source{r: part, left: limit + limit/1000 + 1<<10}, left: limit, at: at}
	b := bufio.NewReaderSize(&p.src, 32<<10)
	p.r = b
	if magic, err := b.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(b)
		if err != nil {
			p.err = p.fault(err)
			return p
		}
		p.r = z
	}
	return p
}

func (p *plain) Read(b []byte) (int, error) {
	if p.err != nil {
		return 0, p.err
	}
	if int64(len(b)) > p.left+1 {
		b = b[:p.left+1]
	}
	n, err := p.r.Read(b)
	if p.left -= int64(n); p.left < 0 {
		err = errTooLarge
	}
	if err != nil && err != io.EOF {
		p.err = p.fault(err)
		return 0, p.err
	}
	return n, err
}

func (p *plain) fault(err error) error {
	switch {
	case errors.Is(err, errTooLarge) || errors.Is(p.src.err, errTooLarge):
		return newProblem(http.StatusRequestEntityTooLarge, codeTooLarge, "%s is larger than the limit, before or after gzip", p.at)
	case p.src.err != nil:
		return cutOff(p.src.err)
	}
	return badForm(p.at, "begins as gzip, which is damaged")
}
