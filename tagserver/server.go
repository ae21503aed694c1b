// Package tagserver is the edge: everything that answers HTTP.
//
// A request is parsed, decided, identified, cleaned, recorded and answered, in
// that order, and what it carried of its visitor (address, user agent, cookie)
// ends with it: behind the edge there is only the visitor key.
package tagserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/consent"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

// Sites knows the sites. What it returns is never changed afterwards. It is
// asked on every request, so it answers from memory.
type Sites interface {
	Site(taxonomy.SiteID) (taxonomy.Site, bool)
	// HasOrigin reports whether any site lists the origin: what a preflight,
	// which names no site, goes by.
	HasOrigin(origin string) bool
}

// Sources knows where data comes from.
type Sources interface {
	Source(taxonomy.SourceID) (taxonomy.Source, bool)
}

// Destination is what the edge needs to know of a receiver.
type Destination struct {
	ID taxonomy.DestinationID
	// Sync is the https template of /v1/sync with ${EBB_ID} where the pseudonym
	// goes; empty: the destination does not sync.
	Sync string
	// Epoch is the number of the destination's pseudonyms.
	Epoch uint32
	// GVLID is its vendor ID in the Global Vendor List, 0 for none: consent macros
	// that name a vendor are filled for it alone.
	GVLID int
	// Hosts are the partner's own, with a port if it is another than 443: where a
	// request may ask to be sent, and whose pages may sync.
	Hosts []string
	// Pixel: browsers may bring the partner's IDs, unsigned, by GET /v1/match.
	Pixel bool
	// Caps bound what is learnt a day.
	Caps MatchCaps
	// KeyHash is the hash of its key, by which it signs matches.
	KeyHash string
}

// Destinations knows the receivers.
type Destinations interface {
	Destination(taxonomy.DestinationID) (Destination, bool)
}

// Erased knows the erasures that this node has followed (R25).
type Erased interface {
	Erased(taxonomy.VisitorKey) bool
}

// PageAudience is one audience as a page sees it.
type PageAudience struct {
	ID   taxonomy.AudienceID `json:"id"`
	Slug string              `json:"slug"`
	// Segtax is the IAB's number of the taxonomy that it is of, 0 for none.
	Segtax int `json:"-"`
}

// PageAnswer is the answer to /v1/seg.
type PageAnswer struct {
	Audiences []PageAudience
	AsOf      taxonomy.Millis
	// Stale: it is the last known list and not the present one.
	Stale bool
}

// Audiences answers for a visitor which of the audiences marked page: true it
// is in. It keeps within the context's deadline, with a stale answer if need be.
type Audiences interface {
	Page(ctx context.Context, v taxonomy.VisitorKey, site taxonomy.SiteID) (PageAnswer, error)
}

// Limits bound what a request may cost. Zero fields take their default.
type Limits struct {
	// Body is the greatest body of a POST, before and after gzip. 64 KiB.
	Body int
	// Header is the greatest head of a request, for HTTP. 16 KiB.
	Header int
	// Answer is how long the store may take. 900 ms: the edge answers within a
	// second whatever the store does.
	Answer time.Duration
	// Read, Write and Idle are the times of a connection. 5 s, 10 s, 75 s.
	Read, Write, Idle time.Duration
	// NewIDs is how many new IDs a second an address class (/24 or /48) gets in
	// the long run, NewIDBurst how many at once (R34). 20 and 600: a carrier's
	// many phones behind one address pass, a script does not fill the log.
	// NewIDs < 0 is no limit, for demo and replay, which say so; then Requests and
	// Cadence have none either unless they are set.
	NewIDs     float64
	NewIDBurst int
	// Requests is how many batches and pixels a second a site takes from an
	// address class in the long run, RequestBurst how many at once. 200 and 2,000, or
	// ten times those of new IDs if that is more: one address may flood a site, and the others' requests still find room.
	// Requests < 0 is no limit.
	Requests     float64
	RequestBurst int
	// Cadence is how many events a visitor may do in a minute; what is beyond is
	// flagged as a bot's. 300: five a second for a whole minute, which no person
	// does and no page should count. Cadence < 0 is no limit.
	Cadence int
	// Classes is how many address classes are remembered, and how many minutes of
	// visitors. 65,536.
	Classes int
	// InFlight is how many requests of a listener are worked on at once. 4,096;
	// with Body it bounds what requests hold in memory. One more is answered 503,
	// the pixel with its image.
	InFlight int
	// Connections is how many a listener holds. 16,384; beyond it the one that has
	// waited longest without a request is closed.
	Connections int
}

func (l *Limits) setDefaults() {
	def(&l.Body, 64<<10)
	def(&l.Header, 16<<10)
	def(&l.Answer, 900*time.Millisecond)
	def(&l.Read, 5*time.Second)
	def(&l.Write, 10*time.Second)
	def(&l.Idle, 75*time.Second)
	if l.NewIDs < 0 {
		def(&l.Requests, -1)
		def(&l.Cadence, -1)
	}
	def(&l.NewIDs, 20)
	def(&l.NewIDBurst, 600)
	// Who lets more visitors begin lets them ask, too.
	def(&l.Requests, max(200, 10*l.NewIDs))
	def(&l.RequestBurst, max(2000, 10*l.NewIDBurst))
	def(&l.Cadence, 300)
	def(&l.Classes, 1<<16)
	def(&l.InFlight, 4096)
	def(&l.Connections, 1<<14)
	for _, perSecond := range []*float64{&l.NewIDs, &l.Requests} {
		if *perSecond < 0 {
			*perSecond = float64(rate.Inf)
		}
	}
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Options are what the edge needs. Now, Rand, Log, Keys, Sites, Sources,
// Destinations, Erased and Audiences must be set; all must be safe for
// concurrent use.
type Options struct {
	Now func() taxonomy.Millis
	// Rand makes IDs: a cryptographic source.
	Rand io.Reader
	// Timeout is context.WithTimeout; nil means that the store is waited for.
	Timeout func(context.Context, time.Duration) (context.Context, context.CancelFunc)

	Log retention.Log
	// Ack is how far an event must have come before /v1/e answers: AckLocal
	// (also if zero) or AckQuorum.
	Ack retention.Ack
	// EraseAck is how far an erasure must have come to be answered as done, if that
	// is further; else it is answered 202 (R24).
	EraseAck retention.Ack
	// Keys returns the ring in force.
	Keys func() *keys.Ring
	// Shards and Groups as they were fixed at init. Zero is 1.
	Shards, Groups int

	Sites        Sites
	Sources      Sources
	Destinations Destinations
	Erased       Erased
	Audiences    Audiences
	// Evaluator decides what is said by keys that are never stored; nil: they go
	// unasked.
	Evaluator Evaluator
	// Visitors tells visitors what is known of them; nil: /privacy says only how
	// the browser stands.
	Visitors Visitors

	// Bidders returns who may be told of audiences in bid requests; nil: nobody.
	Bidders func() []Bidder

	// Partitioned turns third-party mode on: pages of other sites get an ID in a
	// partitioned cookie, one for each such site. Off, they get none.
	Partitioned bool
	// TrustedProxies may say in X-Forwarded-For whom they speak for.
	TrustedProxies []netip.Prefix
	// IgnoreDNT: DNT: 1 says nothing. Without it, it is obeyed as Sec-GPC: 1 is.
	IgnoreDNT bool
	// Country returns the ISO 3166 code of an address, or "". Nil: unknown.
	Country func(netip.Addr) string
	// Strings reads the consent strings of a request; it is called only if there
	// is one, and appends a statement of each. Nil: nobody reads them, and a
	// request that carries one is refused.
	Strings func([]consent.Statement, Strings, taxonomy.Day) []consent.Statement

	Metrics prometheus.Registerer // nil: none
	Logger  *slog.Logger          // nil: none
	Limits  Limits

	// Routes are rows of the table whose handlers live in sub-folders (the API,
	// the console, the partner's files): a sub-folder imports its parent, so the
	// parent is handed them.
	Routes []Route
	// Guards check who calls; New refuses a row whose Auth has none.
	Guards map[Auth]echo.MiddlewareFunc
}

// Server answers HTTP on three listeners. It starts nothing and listens on
// nothing; it is safe for concurrent use.
type Server struct {
	o       Options
	log     *slog.Logger
	metrics *metrics
	tally   tally
	heard   heard
	samples samples
	seen    sightings
	newIDs  *limiter[netip.Prefix]
	asks    *limiter[siteClass]
	cadence *cadence
	matches *matchGuard
	tags    []*tagFile
	routes  []Route
	echos   [listeners]*echo.Echo
	paths   map[string]bool // of the table, for the label route
	work    sync.Pool       // *work
}

// New returns the edge. It fails if an option is missing or the table of routes
// is not sound.
func New(o Options) (*Server, error) {
	for _, need := range []struct {
		name string
		ok   bool
	}{
		{"Now", o.Now != nil}, {"Rand", o.Rand != nil}, {"Log", o.Log != nil}, {"Keys", o.Keys != nil}, {"Sites", o.Sites != nil},
		{"Sources", o.Sources != nil}, {"Destinations", o.Destinations != nil}, {"Erased", o.Erased != nil}, {"Audiences", o.Audiences != nil},
	} {
		if !need.ok {
			return nil, fmt.Errorf("make the edge: option %s is not set", need.name)
		}
	}
	if o.Timeout == nil {
		o.Timeout = func(ctx context.Context, _ time.Duration) (context.Context, context.CancelFunc) {
			return ctx, func() {}
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Strings == nil {
		o.Strings = unread
	}
	o.Ack = max(o.Ack, retention.AckLocal)
	def(&o.Shards, 1)
	def(&o.Groups, 1)
	o.Limits.setDefaults()
	tags, err := newTagFiles()
	if err != nil {
		return nil, fmt.Errorf("make the edge: %w", err)
	}
	s := &Server{
		o: o, log: o.Logger.With("component", "tagserver"), metrics: newMetrics(o.Metrics), tags: tags,
		newIDs:  newLimiter[netip.Prefix](o.Limits.NewIDs, o.Limits.NewIDBurst, o.Limits.Classes),
		asks:    newLimiter[siteClass](o.Limits.Requests, o.Limits.RequestBurst, o.Limits.Classes),
		cadence: newCadence(o.Limits.Cadence, o.Limits.Classes), matches: newMatchGuard(),
		paths: make(map[string]bool),
	}
	s.work.New = func() any { return new(work) }
	s.routes = slices.Concat(s.table(), s.tagRoutes(), o.Routes)
	if err := s.mount(); err != nil {
		return nil, fmt.Errorf("make the edge: %w", err)
	}
	return s, nil
}

// Handler returns what answers on a listener.
func (s *Server) Handler(l Listener) http.Handler { return s.echos[l] }

// HTTP returns a server for a listener with the limits set. The caller serves,
// with a net.Listener of its own, and shuts down.
func (s *Server) HTTP(l Listener) *http.Server {
	lim := &s.o.Limits
	return &http.Server{
		Handler:           s.Handler(l),
		ReadHeaderTimeout: lim.Read,
		ReadTimeout:       lim.Read,
		WriteTimeout:      lim.Write,
		IdleTimeout:       lim.Idle,
		MaxHeaderBytes:    lim.Header,
		ConnState:         newConnections(lim.Connections, s.metrics.shed).state,
		// net/http writes the peer's address into its lines, which nothing may
		// log (P4). They are counted.
		ErrorLog: log.New(countWriter{s.metrics.server}, "", 0),
	}
}

type countWriter struct{ c prometheus.Counter }

func (w countWriter) Write(b []byte) (int, error) { w.c.Inc(); return len(b), nil }

// Counters returns what was refused and is not yet in the log: with the counts
// of the log's frames it is what P2 calls received (R12).
func (s *Server) Counters() []taxonomy.Count { return s.tally.snapshot() }

// Refusals returns the last refusals of a site, newest first; of no site, those
// that named none that exists. They live in memory only.
func (s *Server) Refusals(site taxonomy.SiteID) []Refusal { return s.samples.list(site) }

// Flush appends the pending counts if there are any, so that they do not wait
// for the next event. The wiring calls it each second and at the end.
func (s *Server) Flush(ctx context.Context) error {
	for {
		counts, heard := s.tally.take(), s.heard.take()
		if counts == nil && heard == nil {
			return nil
		}
		r := s.countRecord(counts)
		r.Heard = heard
		_, _, err := s.o.Log.Append(ctx, 0, []taxonomy.Record{r}, retention.AckNone)
		if s.appended(err, counts) {
			s.heard.giveBack(heard)
		}
		if err != nil {
			return fmt.Errorf("append the edge's counts: %w", err)
		}
	}
}

func (s *Server) countRecord(counts []taxonomy.Count) taxonomy.Record {
	return taxonomy.Record{Kind: taxonomy.RecordCounts, Received: s.o.Now(), Counts: counts}
}

// appended notes how an append ended, and reports whether it certainly wrote
// nothing. Counts that were not written go back; where that is unknown they do
// not, since the log may bring them back itself: what is lost then was never
// received (R12).
func (s *Server) appended(err error, counts []taxonomy.Count) (nothing bool) {
	switch {
	case err == nil:
		s.metrics.appends.WithLabelValues("ok").Inc()
	case errors.Is(err, retention.ErrUnknown):
		s.metrics.appends.WithLabelValues("unknown").Inc()
	case errors.Is(err, retention.ErrFull):
		s.metrics.appends.WithLabelValues("full").Inc()
		nothing = true
	default:
		s.metrics.appends.WithLabelValues("failed").Inc()
		nothing = true
	}
	if nothing {
		s.tally.giveBack(counts)
	}
	return nothing
}

// append gives records to the log, each to the group of its visitor, and
// returns how far all of them came. Those of the group last go last and take
// the pending counts along, unless they are erasures only: the others are
// statements (an erasure, a succession), which may be repeated, so a request
// that fails halfway may be repeated too.
func (s *Server) append(ctx context.Context, records []taxonomy.Record, last taxonomy.Group, ack retention.Ack) (retention.Ack, error) {
	reached := ack
	if s.o.Groups > 1 {
		var rest []taxonomy.Record
		other := make(map[taxonomy.Group][]taxonomy.Record)
		for i := range records {
			r := &records[i]
			g := s.group(r.Visitor)
			if g == last {
				rest = append(rest, *r)
			} else {
				other[g] = append(other[g], *r)
			}
			// Both groups learn of a succession: the old key's to act on it.
			if r.Kind == taxonomy.RecordSucceeds && s.group(r.Succeeds) != g {
				if og := s.group(r.Succeeds); og == last {
					rest = append(rest, *r)
				} else {
					other[og] = append(other[og], *r)
				}
			}
		}
		for g := range taxonomy.Group(s.o.Groups) {
			if len(other[g]) == 0 {
				continue
			}
			_, r, err := s.o.Log.Append(ctx, g, other[g], ack)
			s.appended(err, nil)
			if err != nil {
				return 0, err
			}
			reached = min(reached, r)
		}
		records = rest
	}
	if len(records) == 0 {
		return reached, nil
	}
	var counts []taxonomy.Count
	if !onlyErasures(records) {
		if counts = s.tally.take(); counts != nil {
			records = append(records, s.countRecord(counts))
		}
	}
	_, r, err := s.o.Log.Append(ctx, last, records, ack)
	s.appended(err, counts)
	if err != nil {
		return 0, err
	}
	return min(reached, r), nil
}

// onlyErasures reports whether a batch is nothing but a visitor's wish, for
// which a full log keeps room: then nothing may travel along that has none.
func onlyErasures(records []taxonomy.Record) bool {
	for i := range records {
		if records[i].Kind != taxonomy.RecordErasure {
			return false
		}
	}
	return true
}

func (s *Server) group(k taxonomy.VisitorKey) taxonomy.Group {
	if s.o.Groups == 1 {
		return 0
	}
	return taxonomy.GroupOf(k.Shard(s.o.Shards), s.o.Groups)
}

// storeProblem is what a caller hears when the log does not take its records.
func storeProblem(err error) *Problem {
	if errors.Is(err, retention.ErrFull) {
		p := NewProblem(http.StatusServiceUnavailable, codeFull, "the log is full for the moment; send it again later, with the same ids")
		p.RetryAfter = 5
		return p
	}
	p := NewProblem(http.StatusServiceUnavailable, codeUnavailable, "the log did not take it in time; send it again, with the same ids")
	p.RetryAfter = 2
	return p
}
