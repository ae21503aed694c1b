// Package api is what ad ops and operators call: definitions, estimates,
// generations, deliveries, imports, erasures and accounts, as JSON over HTTP on
// the private listener, under the admin key.
//
// Handlers are thin: they parse, call, and answer. What happens stands in the
// packages behind Options.
package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"mime"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humaecho"
	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/insight"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/tagserver/consent"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// ErrRefused is wrapped by what stands behind Options to say that the request
// cannot be done as asked, for a reason that the caller can do something about;
// the text is shown. Any other error that is neither one of retention's nor made
// of taxonomy.FieldErrors is logged, and the caller hears "internal error".
var ErrRefused = errors.New("refused")

// Definitions is what keeps documents: a *defs.Store.
type Definitions interface {
	Snapshot() *defs.Snapshot
	Refresh(context.Context) (changed bool, err error)
	Put(ctx context.Context, kind defs.Kind, id string, body []byte, expect uint64) (version uint64, err error)
	Delete(ctx context.Context, kind defs.Kind, id string, expect uint64) error
	// History returns all versions of a document, the oldest first.
	History(ctx context.Context, kind defs.Kind, id string) ([]defs.Doc, error)
	// Apply makes all of the changes or none.
	Apply(ctx context.Context, name string, changes []defs.Change) error
}

// Generations is what keeps generations: an *audience.Generations.
type Generations interface {
	List(context.Context) ([]audience.Ref, error)
	Open(context.Context, audience.Ref) (*audience.Generation, error)
}

// Deliveries is what delivers: Check, Deliveries and Drop are those of a
// *delivery.Deliverer; Deliver delivers the current generation.
type Deliveries interface {
	Check(*delivery.Destination) error
	Deliver(context.Context, taxonomy.DestinationID) (delivery.Delivery, error)
	Deliveries(context.Context, taxonomy.DestinationID) ([]delivery.Delivery, error)
	Drop(context.Context, taxonomy.DestinationID) error
	Standing(context.Context, taxonomy.DestinationID) (delivery.Standing, error)
	Approve(context.Context, taxonomy.DestinationID) error
	Replay(context.Context, taxonomy.DestinationID) error
	// DryRun says what a delivery to a destination, which need not be defined, would
	// do now.
	DryRun(context.Context, delivery.Destination) (delivery.DryRun, error)
	// OpenSent opens what a delivery sent, by its file.
	OpenSent(context.Context, taxonomy.DestinationID, string) (*delivery.Sent, error)
}

// Account is what became of a site's events (P2).
type Account = tagserver.Account

// Options are what the API answers with. All but Builtin, Logger and Limits must
// be set, and be safe for concurrent use.
type Options struct {
	Defs Definitions
	// Builtin are the taxonomies that every installation has; they cannot be
	// changed here.
	Builtin []tree.Taxonomy
	// Changed is called after every change of a definition, and returns when the
	// change is in force here, so that whoever made it sees it at once.
	Changed func(context.Context) error

	// Estimate counts a rule as of now. Faults of the rule are
	// taxonomy.FieldErrors with paths in it.
	Estimate func(context.Context, query.Expr) (*audience.Estimate, error)
	// Overlap and Profile count reports on audiences as of now. Faults of the query are
	// taxonomy.FieldErrors with paths in it.
	Overlap func(context.Context, insight.OverlapQuery) (*insight.Overlap, error)
	Profile func(context.Context, insight.ProfileQuery) (*insight.Profile, error)
	// Preview says what other definitions would make of what is known now.
	Preview     func(context.Context, *defs.Snapshot) (*Reach, error)
	Generations Generations
	// Build builds and publishes a generation now.
	Build      func(context.Context) (*audience.Built, error)
	Deliveries Deliveries
	Import     func(context.Context, ImportRequest) (ImportReceipt, error)
	Matches    Matches
	// Operations is what runs after a request was answered.
	Operations Operations
	// Erase records the erasure of whom an ID names in a space, durably, and
	// returns the name of its receipt (R24). Erasing whom nobody knows is fine.
	// The ID is kept nowhere.
	Erase func(ctx context.Context, space taxonomy.Space, id string) (receipt string, err error)
	// Receipt returns what was done of an erasure, or retention.ErrNotFound.
	Receipt func(ctx context.Context, id string) (forget.Receipt, error)
	// Audit looks at every place where data of visitors lies.
	Audit func(context.Context) forget.Report
	// Night runs the nightly pass now, and returns how many visitors it erased.
	Night func(context.Context) (erased int, err error)
	// Backup writes a backup. It writes nothing if it cannot begin; ErrRefused
	// says why.
	Backup   func(context.Context, io.Writer) error
	Accounts func(context.Context) (map[taxonomy.SiteID]Account, error)
	// Refusals are the last refusals of a site, newest first.
	Refusals func(taxonomy.SiteID) []tagserver.Refusal
	// Waterfall counts the visitors of a site's source, from seen to reached.
	Waterfall func(context.Context, taxonomy.SiteID) (tagserver.Waterfall, error)
	// Inspect shows what became of a site's last requests.
	Inspect func(taxonomy.SiteID) tagserver.Inspection

	// Trail is the audit log, Used keeps when keys were last used, and Answers the
	// answers to requests that may be repeated.
	Trail   Trail
	Used    defs.Used
	Answers defs.Answers

	// Explain decodes a consent string into words, and decides on it for each
	// destination. Permits counts what visitors allow: all, or those of an audience
	// of the current generation, else retention.ErrNotFound. Signals says what the
	// signals of requests said on the last days, at a site or at all ("").
	Explain func(string) consent.Explanation
	Permits func(context.Context, taxonomy.AudienceID) (consent.Permits, error)
	Signals func(site taxonomy.SiteID, days int) (consent.Signals, error)

	// Spool returns an empty file that lasts as long as one request. What is
	// written to it is encrypted with a key that is nowhere else.
	Spool func() (Spool, error)
	// Rand is a cryptographic source.
	Rand io.Reader
	Now  func() taxonomy.Millis
	// After is a timer; nil: nobody who prefers an operation waits for a quick answer.
	After func(time.Duration) <-chan time.Time

	Logger *slog.Logger // nil: none
	Limits Limits
}

// Limits bound what a request may cost. Zero fields take their default.
type Limits struct {
	// File is the greatest file of an import, in bytes, before and after gzip.
	// 1 GiB.
	File int64
	// Lookup is the greatest table that an import joins with, likewise; it is
	// held in memory. 64 MiB.
	Lookup int64
	// Imports is how many may be taken in at the same time; more are told to
	// come again. 2.
	Imports int
	// Plans is how many may be counted in the background at the same time; more are
	// told to come again. 2.
	Plans int
	// Answers is how many bytes of answers this process keeps for requests that
	// may be repeated; with more, Idempotency-Key is refused. 64 MiB.
	Answers int64
}

func (l *Limits) setDefaults() {
	if l.File <= 0 {
		l.File = 1 << 30
	}
	if l.Lookup <= 0 {
		l.Lookup = 64 << 20
	}
	if l.Imports <= 0 {
		l.Imports = 2
	}
	if l.Plans <= 0 {
		l.Plans = 2
	}
	if l.Answers <= 0 {
		l.Answers = 64 << 20
	}
}

// Bounds of a definition: as sent, and as kept (a value of retention.Keyed has
// at most 1 MiB, with what the store puts around it).
const (
	maxBody = 1<<20 + 1
	maxKept = 1<<20 - 1<<10
)

// base begins every path.
const base = "/api/v1"

// API answers. It is safe for concurrent use and starts nothing.
type API struct {
	o       Options
	log     *slog.Logger
	inner   *echo.Echo
	huma    huma.API
	routes  []tagserver.Route
	openapi func() ([]byte, error) // the description, printed once
	imports chan struct{}          // a place for each import that runs
	answers *answers
	plans   plans

	// changing is held from the check of a change to the moment it is in force:
	// two changes that are each fine may not be together. Another node's change
	// can still slip between the two; see the README.
	changing sync.Mutex
}

// New returns the API over o.
func New(o Options) (*API, error) {
	for _, need := range []struct {
		name string
		ok   bool
	}{
		{"Defs", o.Defs != nil}, {"Changed", o.Changed != nil}, {"Estimate", o.Estimate != nil}, {"Overlap", o.Overlap != nil}, {"Profile", o.Profile != nil}, {"Preview", o.Preview != nil},
		{"Generations", o.Generations != nil}, {"Build", o.Build != nil}, {"Deliveries", o.Deliveries != nil}, {"Import", o.Import != nil}, {"Matches", o.Matches != nil}, {"Operations", o.Operations != nil},
		{"Erase", o.Erase != nil}, {"Receipt", o.Receipt != nil}, {"Audit", o.Audit != nil}, {"Accounts", o.Accounts != nil}, {"Refusals", o.Refusals != nil}, {"Inspect", o.Inspect != nil}, {"Waterfall", o.Waterfall != nil},
		{"Night", o.Night != nil}, {"Backup", o.Backup != nil}, {"Trail", o.Trail != nil}, {"Used", o.Used.Keyed != nil}, {"Answers", o.Answers.Keyed != nil},
		{"Explain", o.Explain != nil}, {"Permits", o.Permits != nil}, {"Signals", o.Signals != nil}, {"Spool", o.Spool != nil}, {"Rand", o.Rand != nil}, {"Now", o.Now != nil},
	} {
		if !need.ok {
			return nil, fmt.Errorf("make the API: option %s is not set", need.name)
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Limits.setDefaults()
	if _, err := tree.New(o.Builtin...); err != nil {
		return nil, fmt.Errorf("make the API: built-in taxonomies: %w", err)
	}
	a := &API{o: o, log: o.Logger.With("component", "api"), inner: echo.New(), imports: make(chan struct{}, o.Limits.Imports)}
	a.inner.Logger.SetOutput(io.Discard)
	var run [8]byte
	if _, err := io.ReadFull(o.Rand, run[:]); err != nil {
		return nil, fmt.Errorf("make the API: %w", err)
	}
	a.answers = &answers{a: a, run: hex.EncodeToString(run[:])}
	a.huma = humaecho.New(a.inner, config())
	a.definitions()
	a.categories()
	a.restructuring()
	a.drafting()
	a.published()
	a.estimates()
	a.reports()
	a.dryRuns()
	a.operations()
	a.generations()
	a.deliveries()
	a.standings()
	a.tryDeliveries()
	a.sents()
	a.importing()
	a.matchFiles()
	a.operating()
	a.operators()
	a.auditing()
	a.planning()
	a.tries()
	a.histories()
	a.inspecting()
	a.consents()
	a.falling()
	if err := a.describe(); err != nil {
		return nil, fmt.Errorf("make the API: %w", err)
	}
	return a, nil
}

func config() huma.Config {
	c := huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{Title: "Ebb", Version: "1",
				Description: "Definitions, estimates, generations, deliveries, imports and erasures of an Ebb installation. Unknown fields are refused in what is sent; answers may get more fields.",
				License:     &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", schemaName),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"key": {Type: "http", Scheme: "bearer", Description: "An API key, which begins with ebba_. What it must have is in x-ebb-scope; with x-ebb-reach all, a key that is restricted to sources or destinations may not."},
				},
			},
			Security: []map[string][]string{{"key": {}}},
		},
		Formats:       map[string]huma.Format{jsonType: jsonFormat, "json": jsonFormat, csvType: csvFormat},
		DefaultFormat: jsonType,
		Transformers:  []huma.Transformer{transform},
	}
	// What must be there is said by describe, from the same knowledge as the
	// checks; Go's types do not know it.
	c.FieldsOptionalByDefault = true
	return c
}

var jsonFormat = huma.Format{
	Marshal: func(w io.Writer, v any) error {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		return e.Encode(v)
	},
	Unmarshal: json.Unmarshal,
}

const jsonType, csvType = "application/json", "text/csv"

var csvFormat = huma.Format{
	Marshal: func(w io.Writer, v any) error {
		t, ok := v.(table)
		if !ok { // a problem
			return jsonFormat.Marshal(w, v)
		}
		c := csv.NewWriter(w)
		c.UseCRLF = true // RFC 4180
		return c.WriteAll(t.table())
	},
	Unmarshal: func([]byte, any) error { return errors.New("nothing is read as CSV") },
}

// accepted is what is answered with: CSV if that is offered, and is named before JSON
// and before everything.
func accepted(accept []string, offered bool) string {
	for _, part := range strings.Split(strings.Join(accept, ","), ",") {
		kind, _, _ := strings.Cut(part, ";")
		switch strings.ToLower(strings.TrimSpace(kind)) {
		case csvType:
			if offered {
				return csvType
			}
		case jsonType, "application/*", "*/*":
			return jsonType
		}
	}
	return jsonType
}

// Routes are the rows of the table that the API answers. All are for whoever
// the guard of tagserver.AuthAdmin lets through, and has the row's right.
func (a *API) Routes() []tagserver.Route { return a.routes }

// row adds a row to the table. Path is in OpenAPI's form.
func (a *API) row(method, path string, right tagserver.Right, h echo.HandlerFunc) {
	path = strings.NewReplacer("{", ":", "}", "").Replace(path)
	if method == http.MethodPost {
		h = a.answers.idempotent(h)
	}
	a.routes = append(a.routes, tagserver.Route{Method: method, Path: path, Listener: tagserver.Private, Auth: tagserver.AuthAdmin, Right: right, Handler: func(c echo.Context) error {
		if err := sameSite(c.Request()); err != nil {
			return err
		}
		return h(c)
	}})
}

// sameSite refuses what another site's page could make a browser send: such a
// page can set neither Authorization nor a JSON type. The admin key goes in
// Authorization, so this is for a guard that also lets a session's cookie in.
func sameSite(r *http.Request) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return nil
	}
	if r.Header.Get("Authorization") == "" && !isJSON(r) {
		return tagserver.NewProblem(http.StatusUnsupportedMediaType, codeType, "send Content-Type: application/json")
	}
	return nil
}

func isJSON(r *http.Request) bool {
	t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && t == "application/json"
}

// patient takes the deadlines off a request that may take long: a build, or an
// import, is not over when a page's request would be. Whoever calls is an admin.
func patient(h echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		rc := http.NewResponseController(c.Response())
		// A test's recorder has no deadlines, and then needs none taken off.
		_ = rc.SetReadDeadline(time.Time{})
		_ = rc.SetWriteDeadline(time.Time{})
		return h(c)
	}
}

// op is an operation of the API.
type op struct {
	method, path, summary string
	tag                   string
	right                 tagserver.Right
	ok                    int   // status of success
	errors                []int // of failure; 401 and 403 always are among them
	body                  any   // a value of the body's type, for the description; nil: it takes none
	slow                  bool  // takes as long as it takes
	csv                   bool  // its answer, a table, is CSV too, by Accept
	most                  int64 // bytes of the body; 0: maxBody
}

// operate registers an operation: with huma, which parses, answers and
// describes, and as a row of the table.
func operate[I, O any](a *API, o op, h func(context.Context, *I) (*O, error)) {
	hop := huma.Operation{
		OperationID: operationID(o.method, o.path), Method: o.method, Path: base + o.path, Summary: o.summary, Tags: []string{o.tag},
		DefaultStatus: o.ok, SkipValidateBody: true, MaxBodyBytes: cmp.Or(o.most, maxBody),
		Errors: failures(o.method, o.errors), Extensions: described(o.right),
	}
	if o.method == http.MethodPost {
		hop.Parameters = append(hop.Parameters, idempotencyParam())
	}
	huma.Register(a.huma, hop, h)
	if o.body != nil {
		a.bodyIs(hop.Method, hop.Path, o.body)
	}
	if o.csv {
		a.operation(hop.Method, hop.Path).Responses[strconv.Itoa(o.ok)].Content[csvType] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Description: "The same as a table with a head, by RFC 4180."}}
	}
	known := queryOf(reflect.TypeFor[I]())
	row := func(c echo.Context) error {
		if err := checkQuery(c.Request(), known); err != nil {
			return err
		}
		if o.body != nil && !isJSON(c.Request()) {
			return tagserver.NewProblem(http.StatusUnsupportedMediaType, codeType, "send Content-Type: application/json")
		}
		if o.csv {
			c.Response().Header().Set("Vary", "Accept")
		}
		c.Request().Header.Set("Accept", accepted(c.Request().Header.Values("Accept"), o.csv))
		a.inner.ServeHTTP(c.Response(), c.Request())
		return nil
	}
	if o.slow {
		row = patient(row)
	}
	a.row(hop.Method, hop.Path, o.right, row)
}

// failures are the statuses that an operation may fail with: its own, and what
// any may meet.
func failures(method string, own []int) []int {
	all := append([]int{http.StatusUnauthorized, http.StatusForbidden, http.StatusBadRequest, http.StatusInternalServerError, http.StatusServiceUnavailable}, own...)
	if method == http.MethodPost { // an Idempotency-Key may be in use, or used up
		all = append(all, http.StatusConflict, http.StatusUnprocessableEntity)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// described is a right as the description has it.
func described(r tagserver.Right) map[string]any {
	return map[string]any{"x-ebb-scope": string(r.Scope), "x-ebb-reach": [...]string{"", "all", "common", "own"}[r.Reach]}
}

// queryOf returns the parameters that an operation's input takes from the query.
func queryOf(t reflect.Type) (known []string) {
	for i := range t.NumField() {
		if q := t.Field(i).Tag.Get("query"); q != "" {
			known = append(known, q)
		}
	}
	return known
}

const maxLimit = 1000 // entries of a page

// checkQuery refuses parameters that are not known, or not what they must be.
// huma would too, but as of a body that cannot be processed.
func checkQuery(r *http.Request, known []string) error {
	p := tagserver.NewProblem(http.StatusBadRequest, codeBadRequest, "the query is not valid; see errors")
	q := r.URL.Query()
	for _, name := range slices.Sorted(maps.Keys(q)) {
		at, values := "query."+cut(name), q[name]
		switch {
		case !slices.Contains(known, name):
			p.At(at, "unknown parameter; known here: "+cmp.Or(strings.Join(known, ", "), "none"))
		case len(values) > 1:
			p.At(at, "stands twice")
		case name == "limit":
			if n, err := strconv.Atoi(values[0]); err != nil || n < 1 || n > maxLimit {
				p.At(at, fmt.Sprintf("want a number from 1 to %d", maxLimit))
			}
		}
	}
	if len(p.Errors) > 0 {
		return p
	}
	return nil
}

// changed brings a change into force before it is answered.
func (a *API) changed(ctx context.Context, what string) error {
	// The change is kept; a caller that hangs up must not leave it out of force.
	if err := a.o.Changed(context.WithoutCancel(ctx)); err != nil {
		a.log.Error("a change is kept and not yet in force", "what", what, "error", err)
		p := newProblem(http.StatusServiceUnavailable, codeUnavailable, "%s: the change is kept, but not in force yet; see the server's log, and read it again before you repeat it", what)
		p.RetryAfter = 2
		return p
	}
	return nil
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
