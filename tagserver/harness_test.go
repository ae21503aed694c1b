package tagserver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

// What no record, log line, metric or answer may ever hold: checked after every
// test.
const (
	canaryAgent = "Mozilla/5.0 (X11; Linux x86_64) CanaryBrowser/77.0"
	canaryAddr  = "198.51.100.77"
)

// edge is a Server over the model of the log, with a clock that stands still.
type edge struct {
	*Server
	t     *testing.T
	clock *storetest.Clock
	log   *storetest.ModelLog
	o     Options
	reg   *prometheus.Registry
	lines *lockedBuffer

	sites  map[taxonomy.SiteID]taxonomy.Site
	src    map[taxonomy.SourceID]taxonomy.Source
	dest   map[taxonomy.DestinationID]Destination
	erased map[taxonomy.VisitorKey]bool
	page   func(taxonomy.VisitorKey) (PageAnswer, error)
	// sent is how many events were sent, by the site that they count for: the
	// test's own book, against which P2 is held.
	sent     map[taxonomy.SiteID]int
	canaries []string
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (e *edge) Site(id taxonomy.SiteID) (taxonomy.Site, bool) { s, ok := e.sites[id]; return s, ok }
func (e *edge) HasOrigin(o string) bool {
	for _, s := range e.sites {
		if slices.Contains(s.Origins, o) {
			return true
		}
	}
	return false
}
func (e *edge) Source(id taxonomy.SourceID) (taxonomy.Source, bool) { s, ok := e.src[id]; return s, ok }
func (e *edge) Destination(id taxonomy.DestinationID) (Destination, bool) {
	d, ok := e.dest[id]
	return d, ok
}
func (e *edge) Erased(k taxonomy.VisitorKey) bool { return e.erased[k] }
func (e *edge) Page(_ context.Context, v taxonomy.VisitorKey, _ taxonomy.SiteID) (PageAnswer, error) {
	return e.page(v)
}

const shop = "https://shop.example"

// seeded is a source of randomness that repeats, for tests only.
func seeded(n byte) io.Reader { return &lockedReader{r: rand.NewChaCha8([32]byte{n})} }

type lockedReader struct {
	mu sync.Mutex
	r  io.Reader
}

func (l *lockedReader) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(p)
}

func newEdge(t *testing.T, change ...func(*Options)) *edge {
	t.Helper()
	clock := storetest.NewClock(storetest.Start)
	ring, err := keys.Generate(seeded(1), clock.Now().Day())
	if err != nil {
		t.Fatal(err)
	}
	ended := clock.Now().Day()
	e := &edge{
		t: t, clock: clock, log: storetest.NewLog(1, clock.Now), reg: prometheus.NewRegistry(), lines: &lockedBuffer{},
		sites: map[taxonomy.SiteID]taxonomy.Site{
			"shop":  {ID: "shop", Origins: []string{shop, "http://localhost:8080"}, Source: "own", Consent: taxonomy.ModeOptIn, QueryKeys: []string{"cat", "utm_source"}},
			"news":  {ID: "news", Origins: []string{"https://news.example"}, Source: "own", Consent: taxonomy.ModeByCountry},
			"ended": {ID: "ended", Origins: []string{shop}, Source: "own", Consent: taxonomy.ModeOptIn, Ends: &ended},
			"gone":  {ID: "gone", Origins: []string{shop}, Source: "withdrawn", Consent: taxonomy.ModeOptIn},
		},
		src:    map[taxonomy.SourceID]taxonomy.Source{"own": {ID: "own", Party: 1}, "withdrawn": {ID: "withdrawn", Party: 2, Withdrawn: true}},
		dest:   map[taxonomy.DestinationID]Destination{"dsp": {ID: "dsp", Sync: "https://sync.dsp.example/in?id=${EBB_ID}&p=ebb", Epoch: 3}, "nosync": {ID: "nosync"}},
		erased: map[taxonomy.VisitorKey]bool{},
		sent:   map[taxonomy.SiteID]int{},
	}
	e.page = func(taxonomy.VisitorKey) (PageAnswer, error) { return PageAnswer{AsOf: clock.Now()}, nil }
	e.o = Options{
		Now: clock.Now, Rand: seeded(2), Log: e.log, Keys: func() *keys.Ring { return ring }, Shards: 4, Groups: 1,
		Sites: e, Sources: e, Destinations: e, Erased: e, Audiences: e,
		Metrics: e.reg, Logger: slog.New(slog.NewTextHandler(e.lines, nil)),
	}
	for _, f := range change {
		f(&e.o)
	}
	if e.Server, err = New(e.o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.check)
	return e
}

// records returns everything in the log, in order.
func (e *edge) records() (out []taxonomy.Record) {
	e.t.Helper()
	e.log.Sync()
	for g := range taxonomy.Group(e.Server.o.Groups) {
		frames, err := e.log.Follow(context.Background(), g, nil, 1<<30)
		if err != nil {
			e.t.Fatal(err)
		}
		for i := range frames {
			out = append(out, frames[i].Records...)
		}
	}
	return out
}

func (e *edge) kinds() (out []taxonomy.RecordKind) {
	for _, r := range e.records() {
		if r.Kind != taxonomy.RecordCounts {
			out = append(out, r.Kind)
		}
	}
	return out
}

// last returns the last record of a kind.
func (e *edge) last(kind taxonomy.RecordKind) taxonomy.Record {
	e.t.Helper()
	rs := e.records()
	for i := len(rs) - 1; i >= 0; i-- {
		if rs[i].Kind == kind {
			return rs[i]
		}
	}
	e.t.Fatalf("no record of kind %d in the log", kind)
	return taxonomy.Record{}
}

// check holds P2 (what was sent is what the frames of the log and the edge's
// counters say, by site: R12) and P4 (no canary anywhere).
func (e *edge) check() {
	e.t.Helper()
	got := map[taxonomy.SiteID]int{}
	e.log.Sync()
	var logged []byte
	for g := range taxonomy.Group(e.Server.o.Groups) {
		frames, err := e.log.Follow(context.Background(), g, nil, 1<<30)
		if err != nil {
			return // the test crashed the log
		}
		for i := range frames {
			for _, c := range frames[i].Counts {
				got[c.Site] += int(c.N)
			}
			for j := range frames[i].Records {
				logged = taxonomy.AppendRecord(logged, &frames[i].Records[j])
			}
		}
	}
	for _, c := range e.Counters() {
		got[c.Site] += int(c.N)
	}
	for site, n := range e.sent {
		if got[site] != n {
			e.t.Errorf("P2: site %q: sent %d events, the log and the counters have %d", site, n, got[site])
		}
		delete(got, site)
	}
	for site, n := range got {
		if n != 0 {
			e.t.Errorf("P2: site %q: sent none, the log and the counters have %d", site, n)
		}
	}
	everything := string(logged) + e.lines.b.String() + e.metricsText()
	for site := range e.sites {
		everything += fmt.Sprint(e.Refusals(site))
		everything += fmt.Sprintf("%+v", e.seen.list(site, 0))
	}
	everything += fmt.Sprint(e.Refusals(""))
	for _, c := range append([]string{"CanaryBrowser", canaryAddr, "1." + ringID(e)}, e.canaries...) {
		if strings.Contains(everything, c) {
			e.t.Errorf("P4: %q was kept, logged or measured", c)
		}
	}
}

// ringID is how every cookie's value of the ring begins, after its version.
func ringID(e *edge) string {
	v := e.Server.o.Keys().SignCookie(CookieID, [16]byte{}, 0)
	id, _, _ := strings.Cut(v[2:], ".")
	return id
}

func (e *edge) metricsText() string {
	families, err := e.reg.Gather()
	if err != nil {
		e.t.Fatal(err)
	}
	return fmt.Sprint(families)
}

// metric returns the sum of a counter over the label values given.
func (e *edge) metric(name string, labels ...string) float64 {
	families, err := e.reg.Gather()
	if err != nil {
		e.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != "ebb_tagserver_"+name {
			continue
		}
		for _, m := range f.Metric {
			if hasLabels(m, labels) {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func hasLabels(m *dto.Metric, want []string) bool {
	for i := 0; i < len(want); i += 2 {
		if !slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool { return l.GetName() == want[i] && l.GetValue() == want[i+1] }) {
			return false
		}
	}
	return true
}

// browser is a client that keeps cookies as a browser does.
type browser struct {
	e       *edge
	origin  string
	peer    string
	header  http.Header // added to every request
	cookies map[string]string
}

func (e *edge) browser() *browser {
	return &browser{e: e, origin: shop, peer: canaryAddr + ":4711", header: http.Header{}, cookies: map[string]string{}}
}

func (b *browser) do(method, path, body string, header ...string) *httptest.ResponseRecorder {
	b.e.t.Helper()
	r := httptest.NewRequest(method, "http://edge.example"+path, strings.NewReader(body))
	r.RemoteAddr = b.peer
	r.Header.Set("User-Agent", canaryAgent)
	if b.origin != "" && method != http.MethodGet {
		r.Header.Set("Origin", b.origin)
	}
	if b.origin != "" && method == http.MethodGet {
		r.Header.Set("Referer", b.origin+"/")
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "text/plain;charset=UTF-8")
	}
	for k, v := range b.header {
		r.Header[k] = v
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Del(header[i])
		if header[i+1] != "" {
			r.Header.Set(header[i], header[i+1])
		}
	}
	if r.Header.Get("Cookie") == "" {
		for k, v := range b.cookies {
			r.AddCookie(&http.Cookie{Name: k, Value: v})
		}
	}
	w := httptest.NewRecorder()
	b.e.Handler(Public).ServeHTTP(w, r)
	b.keep(w)
	return w
}

// keep does with Set-Cookie what a browser does, and checks what each must be.
func (b *browser) keep(w *httptest.ResponseRecorder) {
	b.e.t.Helper()
	site := http.SameSiteLaxMode
	if b.e.Server.o.Partitioned && b.header.Get("Sec-Fetch-Site") == "cross-site" {
		site = http.SameSiteNoneMode
	}
	seen := map[string]bool{}
	for _, line := range w.Result().Header["Set-Cookie"] {
		c, err := http.ParseSetCookie(line)
		if err != nil {
			b.e.t.Fatalf("Set-Cookie %q: %v", line, err)
		}
		if !c.Secure || !c.HttpOnly || c.Path != "/" || c.Domain != "" || c.SameSite != site || c.Partitioned != (site == http.SameSiteNoneMode) || c.MaxAge > optOutSeconds || seen[c.Name] {
			b.e.t.Errorf("Set-Cookie is not as a __Host- cookie must be: %q", line)
		}
		seen[c.Name] = true
		if c.MaxAge < 0 || c.MaxAge == 0 {
			delete(b.cookies, c.Name)
		} else {
			b.cookies[c.Name] = c.Value
		}
	}
}

// post sends a batch that counts for site as n events.
func (b *browser) post(site taxonomy.SiteID, n int, body string, header ...string) *httptest.ResponseRecorder {
	b.e.t.Helper()
	b.e.sent[site] += n
	return b.do(http.MethodPost, "/v1/e", body, header...)
}

// get asks for the pixel.
func (b *browser) get(site taxonomy.SiteID, path string, header ...string) *httptest.ResponseRecorder {
	b.e.t.Helper()
	b.e.sent[site]++
	w := b.do(http.MethodGet, path, "", header...)
	if w.Code != http.StatusOK || !bytes.Equal(w.Body.Bytes(), gif) {
		b.e.t.Errorf("GET %s: %d, %d bytes; want the image whatever happens", path, w.Code, w.Body.Len())
	}
	return w
}

// yes posts one page view with consent.
func (b *browser) yes() *httptest.ResponseRecorder {
	b.e.t.Helper()
	return b.post("shop", 1, `{"site":"shop","consent":{"granted":true},"events":[{"url":"https://shop.example/a"}]}`)
}

func reply(t *testing.T, w *httptest.ResponseRecorder) (r collectReply) {
	t.Helper()
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil {
		t.Fatalf("answer %d %q: %v", w.Code, w.Body, err)
	}
	return r
}

func problem(t *testing.T, w *httptest.ResponseRecorder) (p Problem) {
	t.Helper()
	if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
		t.Fatalf("answer %d has type %q, want a problem: %s", w.Code, ct, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatal(err)
	}
	if p.Status != w.Code {
		t.Errorf("problem says status %d, the answer %d", p.Status, w.Code)
	}
	return p
}

// appendLog is a log whose Append can be made to fail.
type appendLog struct {
	retention.Log
	err     error
	reached retention.Ack // if not 0, what is claimed at most
	acks    []retention.Ack
}

func (l *appendLog) Append(ctx context.Context, g taxonomy.Group, r []taxonomy.Record, ack retention.Ack) (taxonomy.Ref, retention.Ack, error) {
	l.acks = append(l.acks, ack)
	if l.err != nil {
		return taxonomy.Ref{}, 0, l.err
	}
	ref, got, err := l.Log.Append(ctx, g, r, ack)
	if l.reached != 0 {
		got = min(got, l.reached)
	}
	return ref, got, err
}

type netipAddr = netip.Addr

func mustPrefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func newRecorder() *httptest.ResponseRecorder { return httptest.NewRecorder() }

func newRequest(method, path string) *http.Request { return httptest.NewRequest(method, path, nil) }
