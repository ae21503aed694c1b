package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/insight"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
	"github.com/labstack/echo/v4"
)

const (
	adminKey = "ebba_the-admins"
	now      = 20_000*taxonomy.OneDay + 12*taxonomy.Hour
)

// stage is the API behind the real edge, over real definitions, with what the
// program does stood in for.
type stage struct {
	works works
	t     testing.TB
	api   *API
	edge  http.Handler
	defs  *defs.Store
	keys  retention.Keyed // what is kept beside the definitions
	later taxonomy.Millis // than now

	callers *Callers

	mu       sync.Mutex
	changes  int // calls of Changed
	inForce  uint64
	dropped  []taxonomy.DestinationID
	erased   []string
	received []ImportRequest
	files    []string
	spools   []*memSpool

	// What the stand-ins answer.
	changed     error
	estimate    func(query.Expr) (*audience.Estimate, error)
	generations []*audience.Generation // newest first; nil cannot be read
	imported    func(ImportRequest) (ImportReceipt, error)
	preview     func(*defs.Snapshot) (*Reach, error)
	slowly      func(context.Context, *defs.Snapshot) (*Reach, error) // in its place
	eraseErr    error
	nightErr    error
	backup      func(io.Writer) error
}

// current hands on to the definitions that the stage has at the moment.
type current struct{ s *stage }

func (c current) Snapshot() *defs.Snapshot                  { return c.s.defs.Snapshot() }
func (c current) Refresh(ctx context.Context) (bool, error) { return c.s.defs.Refresh(ctx) }
func (c current) Put(ctx context.Context, kind defs.Kind, id string, body []byte, expect uint64) (uint64, error) {
	return c.s.defs.Put(ctx, kind, id, body, expect)
}
func (c current) History(ctx context.Context, kind defs.Kind, id string) ([]defs.Doc, error) {
	return c.s.defs.History(ctx, kind, id)
}
func (c current) Apply(ctx context.Context, name string, changes []defs.Change) error {
	return c.s.defs.Apply(ctx, name, changes)
}
func (c current) Delete(ctx context.Context, kind defs.Kind, id string, expect uint64) error {
	return c.s.defs.Delete(ctx, kind, id, expect)
}

// empty takes all definitions away.
func (s *stage) empty() {
	s.t.Helper()
	clock := func() taxonomy.Millis { return now }
	d, err := defs.Open(context.Background(), storetest.NewModel(clock).Keyed(), clock)
	if err != nil {
		s.t.Fatal(err)
	}
	s.defs = d
	b, err := json.Marshal(AccessKey{ID: "admin", Role: tagserver.RoleAdmin, KeyHash: delivery.HashKey(adminKey)})
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := d.Put(context.Background(), defs.APIKey, "admin", b, 0); err != nil {
		s.t.Fatal(err)
	}
}

type gens struct{ s *stage }

func (g gens) List(context.Context) (refs []audience.Ref, err error) {
	for i := range g.s.generations {
		refs = append(refs, audience.Ref{Epoch: 1, Number: uint64(len(g.s.generations) - i), Built: now})
	}
	return refs, nil
}

func (g gens) Open(_ context.Context, r audience.Ref) (*audience.Generation, error) {
	gen := g.s.generations[uint64(len(g.s.generations))-r.Number]
	if gen == nil {
		return nil, fmt.Errorf("manifest: %w", retention.ErrCorrupt)
	}
	return gen, nil
}

type deliveries struct{ s *stage }

func (deliveries) Check(d *delivery.Destination) error {
	if d.Format != "tsv" {
		return taxonomy.Invalid("format", "there is no format %q", d.Format)
	}
	return nil
}
func (deliveries) Deliver(_ context.Context, id taxonomy.DestinationID) (delivery.Delivery, error) {
	return delivery.Delivery{Destination: id, Generation: 3, At: now, Result: delivery.ResultFull, Rows: 1234}, nil
}
func (deliveries) Deliveries(_ context.Context, id taxonomy.DestinationID) ([]delivery.Delivery, error) {
	return []delivery.Delivery{{Destination: id, Generation: 3, At: now}, {Destination: id, Generation: 2, At: now - 1}}, nil
}
func (deliveries) Standing(context.Context, taxonomy.DestinationID) (delivery.Standing, error) {
	return delivery.Standing{Held: 7, Allowed: 9, Hold: &delivery.Hold{At: now, Generation: 3, Changed: 40, Of: 100}, Letters: []delivery.Letter{{At: now, Name: "part-1", Key: "k", Rows: 3, Fault: "400"}}, At: now}, nil
}
func (deliveries) Approve(context.Context, taxonomy.DestinationID) error { return nil }
func (deliveries) Replay(context.Context, taxonomy.DestinationID) error  { return nil }
func (deliveries) DryRun(_ context.Context, d delivery.Destination) (delivery.DryRun, error) {
	return delivery.DryRun{Delivery: delivery.Delivery{Destination: d.ID, At: now, Result: delivery.ResultDelta, Rows: 90, Adds: 80, Removes: 10},
		Visitors: []delivery.SampleRow{{ID: "1111111111", Audience: "bees", Segment: "7", Minutes: 60}},
		Files:    []delivery.SampleFile{{MediaType: "text/plain", Rows: 1, Body: []byte("1111111111\t7\n")}, {MediaType: "application/octet-stream", Body: []byte{0, 255}}}}, nil
}
func (d deliveries) Drop(_ context.Context, id taxonomy.DestinationID) error {
	d.s.dropped = append(d.s.dropped, id)
	return nil
}

func (d deliveries) OpenSent(_ context.Context, _ taxonomy.DestinationID, file string) (*delivery.Sent, error) {
	switch file {
	case "old":
		return nil, fmt.Errorf("open: %w", delivery.ErrNotKept)
	case "damaged":
		return nil, fmt.Errorf("open: %w", retention.ErrCorrupt)
	case "three", "one":
	default:
		return nil, fmt.Errorf("open: %w", retention.ErrNotFound)
	}
	s := &delivery.Sent{File: file, MediaType: "text/plain", SHA256: "whole", Expires: now, Content: memBlob{strings.NewReader("abcdefghi")}, Chunks: []delivery.SentChunk{
		{Name: `p"1`, Rows: 2, Bytes: 4, SHA256: "first", Outcome: delivery.ChunkAcknowledged},
		{Name: "p2", Rows: 1, Bytes: 3, SHA256: "second", Outcome: delivery.ChunkRefused, From: 4},
		{Name: "p3", Rows: 1, Bytes: 2, SHA256: "third", Outcome: delivery.ChunkNotSent, From: 7},
	}}
	if file == "one" {
		s.Chunks = s.Chunks[:1]
	}
	return s, nil
}

type memBlob struct{ *strings.Reader }

func (memBlob) Close() error         { return nil }
func (memBlob) Blob() retention.Blob { return retention.Blob{} }

// memSpool is a Spool that remembers what was in it.
type memSpool struct {
	bytes.Buffer
	closed bool
}

func (m *memSpool) ReadAt(b []byte, off int64) (int, error) {
	return bytes.NewReader(m.Bytes()).ReadAt(b, off)
}
func (m *memSpool) Close() error { m.closed = true; return nil }

var builtin = []tree.Taxonomy{{ID: "iab", Title: "Built in", Categories: []tree.Category{
	{ID: "1", Title: "News"}, {ID: "2", Title: "Sport", Parents: []string{"1"}}, {ID: "3", Title: "Tennis", Parents: []string{"2"}}}}}

// The tagserver's own needs, of which the private listener uses none.
type nothing struct{}

func (nothing) Site(taxonomy.SiteID) (taxonomy.Site, bool)       { return taxonomy.Site{}, false }
func (nothing) HasOrigin(string) bool                            { return false }
func (nothing) Source(taxonomy.SourceID) (taxonomy.Source, bool) { return taxonomy.Source{}, false }
func (nothing) Destination(taxonomy.DestinationID) (tagserver.Destination, bool) {
	return tagserver.Destination{}, false
}
func (nothing) Erased(taxonomy.VisitorKey) bool { return false }
func (nothing) Page(context.Context, taxonomy.VisitorKey, taxonomy.SiteID) (tagserver.PageAnswer, error) {
	return tagserver.PageAnswer{}, nil
}

type noLog struct{ retention.Log }

func newStage(t testing.TB, change ...func(*Options)) *stage {
	t.Helper()
	s := &stage{t: t}
	clock := func() taxonomy.Millis { return now + s.later }
	s.keys = storetest.NewModel(clock).Keyed()
	s.empty()
	s.callers = &Callers{Defs: current{s}, Used: defs.Used{Keyed: s.keys}, Now: clock, Log: slog.New(slog.DiscardHandler)}
	s.backup = func(w io.Writer) error { _, err := io.WriteString(w, "a tar"); return err }
	s.preview = func(*defs.Snapshot) (*Reach, error) { return &Reach{AsOf: now}, nil }
	s.estimate = func(query.Expr) (*audience.Estimate, error) { return &audience.Estimate{AsOf: now}, nil }
	s.imported = func(q ImportRequest) (ImportReceipt, error) {
		return ImportReceipt{Import: strings.Repeat("ab", 16), Source: q.Source}, nil
	}
	s.works.list = []Operation{{ID: "mine", Kind: KindRefold, State: OperationDone}}
	o := Options{
		Defs: current{s}, Builtin: builtin, Now: clock, Rand: rand.Reader,
		Trail: defs.NewTrail(s.keys, rand.Reader, clock), Used: defs.Used{Keyed: s.keys}, Answers: defs.Answers{Keyed: s.keys},
		Night:  func(context.Context) (int, error) { return 3, s.nightErr },
		Backup: func(_ context.Context, w io.Writer) error { return s.backup(w) },
		Changed: func(context.Context) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.changes++
			s.inForce = s.defs.Version()
			return s.changed
		},
		Estimate: func(_ context.Context, e query.Expr) (*audience.Estimate, error) { return s.estimate(e) },
		Overlap: func(ctx context.Context, q insight.OverlapQuery) (*insight.Overlap, error) {
			return insight.NewOverlap(ctx, s.basis(), q)
		},
		Profile: func(ctx context.Context, q insight.ProfileQuery) (*insight.Profile, error) {
			f, err := s.api.here(ctx).forest(nil, "")
			if err != nil {
				return nil, err
			}
			return insight.NewProfile(ctx, s.basis(), f, q)
		},
		Preview: func(ctx context.Context, next *defs.Snapshot) (*Reach, error) {
			if s.slowly != nil {
				return s.slowly(ctx, next)
			}
			return s.preview(next)
		},
		Generations: gens{s},
		Build: func(context.Context) (*audience.Built, error) {
			g := &audience.Generation{Epoch: 1, Number: uint64(len(s.generations)) + 1, Built: now, Clock: now - 1, Audiences: []audience.Entry{{ID: "a", Count: 49}, {ID: "b", Count: 50, Added: 2}}}
			s.generations = append([]*audience.Generation{g}, s.generations...)
			return &audience.Built{Generation: g}, nil
		},
		Deliveries: deliveries{s},
		Operations: &s.works,
		Import: func(_ context.Context, q ImportRequest) (ImportReceipt, error) {
			b, err := io.ReadAll(q.File)
			if err != nil {
				return ImportReceipt{}, err
			}
			s.mu.Lock()
			s.received, s.files = append(s.received, q), append(s.files, string(b))
			s.mu.Unlock()
			return s.imported(q)
		},
		Matches: matchLines{},
		Erase: func(_ context.Context, space taxonomy.Space, id string) (string, error) {
			s.erased = append(s.erased, string(space)+" "+id)
			return "00ff", s.eraseErr
		},
		Receipt: func(_ context.Context, id string) (forget.Receipt, error) {
			if id != "00ff" {
				return forget.Receipt{}, retention.ErrNotFound
			}
			return forget.Receipt{ID: id, Space: "own:crm", At: now, Soon: now + 1, Places: []string{"delivery"}, Bound: now.Day() + 4}, nil
		},
		Audit: func(context.Context) forget.Report {
			return forget.Report{At: now, OK: true, Places: []forget.Place{{Name: "events", Bound: 91, OK: true}}}
		},
		Accounts: func(context.Context) (map[taxonomy.SiteID]Account, error) {
			return map[taxonomy.SiteID]Account{"shop": {Received: 5, Stored: 3, Rejected: map[taxonomy.Reason]uint64{"too_old": 2}}, "": {}}, nil
		},
		Refusals: func(taxonomy.SiteID) []tagserver.Refusal {
			return []tagserver.Refusal{{At: now, Code: "pii", Where: "props.mail", Why: "looks like an e-mail address", Sample: "aaa@aaa.aa"}}
		},
		Explain: explained, Permits: permitted, Signals: signalled,
		Inspect: inspected, Waterfall: fallen,
		Spool: func() (Spool, error) {
			m := &memSpool{}
			s.mu.Lock()
			s.spools = append(s.spools, m)
			s.mu.Unlock()
			return m, nil
		},
	}
	for _, c := range change {
		c(&o)
	}
	var err error
	if s.api, err = New(o); err != nil {
		t.Fatal(err)
	}
	edge, err := tagserver.New(tagserver.Options{
		Now: clock, Rand: rand.Reader, Log: noLog{}, Keys: func() *keys.Ring { return nil },
		Sites: nothing{}, Sources: nothing{}, Destinations: nothing{}, Erased: nothing{}, Audiences: nothing{},
		Routes: s.api.Routes(),
		Guards: map[tagserver.Auth]tagserver.Guard{tagserver.AuthAdmin: s.guard},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.edge = edge.Handler(tagserver.Private)
	return s
}

// guard stands in for the console's, which an installation has: it lets in who shows
// a key. That every row of an installation has a guard is tested there.
func (s *stage) guard(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		key, _ := strings.CutPrefix(c.Request().Header.Get("Authorization"), "Bearer ")
		if p := s.callers.Who(delivery.HashKey(key)); p != nil {
			return tagserver.Enter(c, p, next)
		}
		return tagserver.NewProblem(http.StatusUnauthorized, "unauthorized", "send a key")
	}
}

// answer is what came back.
type answer struct {
	code int
	head http.Header
	body []byte
}

func (a *answer) problem(t testing.TB) tagserver.Problem {
	t.Helper()
	var p tagserver.Problem
	if ct := a.head.Get("Content-Type"); ct != "application/problem+json" {
		t.Fatalf("%d %s is of type %q, not a problem", a.code, a.body, ct)
	}
	if err := json.Unmarshal(a.body, &p); err != nil || p.Status != a.code || p.Code == "" || p.Type != "about:blank" || a.head.Get("X-Ebb-Reason") != p.Code {
		t.Fatalf("%d %s (%s) is no problem: %v", a.code, a.body, a.head, err)
	}
	return p
}

func (a *answer) into(t testing.TB, v any) {
	t.Helper()
	if ct := a.head.Get("Content-Type"); ct != "application/json" {
		t.Fatalf("%d %s is of type %q", a.code, a.body, ct)
	}
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Fatalf("%s: %v", a.body, err)
	}
}

// call sends a request. Headers are "Name: value"; a body is JSON unless they
// say otherwise.
func (s *stage) call(method, path, body string, headers ...string) *answer {
	r := httptest.NewRequest(method, base+path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+adminKey)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if value == "" {
			r.Header.Del(name)
		} else {
			r.Header.Set(name, value)
		}
	}
	w := httptest.NewRecorder()
	s.edge.ServeHTTP(w, r)
	return &answer{w.Code, w.Result().Header, w.Body.Bytes()}
}

// must sends a request and wants a status.
func (s *stage) must(code int, method, path, body string, headers ...string) *answer {
	s.t.Helper()
	a := s.call(method, path, body, headers...)
	if a.code != code {
		s.t.Fatalf("%s %s %s: %d %s, want %d", method, path, body, a.code, a.body, code)
	}
	return a
}

// furnish makes one of everything.
func (s *stage) furnish() {
	s.t.Helper()
	for _, d := range []struct{ path, body string }{
		{"/sources", `{"id":"own","title":"Ours","party":1,"agreement":{"uses":["store","profile"]}}`},
		{"/sources", `{"id":"bare","party":2}`},
		{"/sites", `{"id":"shop","title":"Shop","origins":["https://shop.example"],"source":"own","consent":"opt-in"}`},
		{"/taxonomies", `{"id":"mine","title":"Mine","categories":[{"id":"a","title":"A"},{"id":"b","title":"B","parents":["a"]},{"id":"free","title":"Free"}]}`},
		{"/rules", `{"id":"r1","sites":["shop"],"when":[{"field":"path","op":"prefix","value":"/b"}],"then":["c:mine/b"]}`},
		{"/audiences", `{"id":"bees","title":"Bees","kind":"rule","rule":{"trait":"c:mine/b","sources":["own"]}}`},
		{"/audiences", `{"id":"not-bees","title":"Others","kind":"rule","rule":{"not":{"audience":"bees"}}}`},
		{"/lookalikes", `{"id":"like-bees","title":"Like bees","lookalike":{"seed":"bees","size":1000}}`},
		{"/destinations", `{"id":"dsp","title":"A DSP","audiences":["not-bees"]}`},
	} {
		s.must(201, http.MethodPost, d.path, d.body)
	}
}

var errBoom = errors.New("boom: a secret of the inside")
