// Package console is what ad ops and operators look at: pages that show what
// Ebb holds, what it refused, who is in each audience, what was delivered and
// how old the oldest thing in every place is; and where they define audiences,
// categories and rules, by way of the API.
package console

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/tagserver/consent"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

//go:embed templates assets help
var embedded embed.FS

// Account is what became of a site's events (P2).
type Account = tagserver.Account

// Problem is something that an operator should know of, in words that hold
// nothing of a visitor.
type Problem struct {
	At     taxonomy.Millis // 0: since when is not known
	Title  string          // what is wrong: "12 records of the log are damaged"
	Detail string          // where, and what it means
	Next   string          // what to do
}

// Night is one nightly pass.
type Night struct {
	At     taxonomy.Millis // when it began
	Took   taxonomy.Millis
	Erased int    // visitors whose bytes it removed
	Error  string // empty: all of it was done
}

// Definitions are what ad ops defined, as of now. What it returns is not
// changed, by neither side.
type Definitions interface {
	Sites() []taxonomy.Site
	Sources() []taxonomy.Source
	Audiences() *audience.Catalog
	Destinations() []delivery.Destination
}

// Generations are the states of all audiences that are kept, the newest first:
// an *audience.Generations.
type Generations interface {
	List(context.Context) ([]audience.Ref, error)
	Open(context.Context, audience.Ref) (*audience.Generation, error)
}

// Deliveries are what was sent: a *delivery.Deliverer.
type Deliveries interface {
	// Deliveries returns the last runs, the newest last.
	Deliveries(context.Context, taxonomy.DestinationID) ([]delivery.Delivery, error)
	Manifest(context.Context, taxonomy.DestinationID) (delivery.Manifest, error)
	// Standing is what waits, and for what.
	Standing(context.Context, taxonomy.DestinationID) (delivery.Standing, error)
}

// Options are what the console needs: everything up to Receipt must be set.
// Functions are called on every page that shows what they return, and must be
// safe for concurrent use.
type Options struct {
	Now func() taxonomy.Millis
	// Rand is a cryptographic source, for sessions.
	Rand io.Reader
	// Who returns whose key has a hash (delivery.HashKey), nil if it is nobody's.
	Who func(keyHash string) *tagserver.Principal

	Definitions Definitions
	Generations Generations
	Deliveries  Deliveries
	// Accounts returns the account of every site, of every import (see
	// taxonomy.ImportSite) and, under "", of requests that named no known site.
	Accounts func(context.Context) (map[taxonomy.SiteID]Account, error)
	// Refusals returns the last refusals of a site, newest first, or of no site:
	// tagserver.Server.Refusals.
	Refusals func(taxonomy.SiteID) []tagserver.Refusal
	// Explain decodes a consent string into words, and decides on it for each
	// destination; Permits counts what visitors allow: all, or those of an audience.
	// Without both there is no page about consent. Signals says what the signals of
	// requests said on the last days, at a site or at all (""); nil: the page is
	// without it.
	Explain func(string) consent.Explanation
	Permits func(context.Context, taxonomy.AudienceID) (consent.Permits, error)
	Signals func(site taxonomy.SiteID, days int) (consent.Signals, error)
	// Inspect shows what became of a site's last requests, and Rehearse returns
	// what answers the tag on the test page: tagserver.Server.Rehearse. Nil: there is no
	// inspector, or no test page.
	Inspect  func(taxonomy.SiteID) tagserver.Inspection
	Rehearse func() tagserver.Rehearsal
	// Audit looks at every place where data of visitors lies.
	Audit func(context.Context) forget.Report
	// Receipt returns what was done of an erasure, or retention.ErrNotFound.
	Receipt func(ctx context.Context, id string) (forget.Receipt, error)

	// Waterfall counts the visitors of a site's source from seen to reached; nil: it
	// is not shown.
	Waterfall func(context.Context, taxonomy.SiteID) (tagserver.Waterfall, error)
	// Public returns the origin under which browsers reach the public listener,
	// and Partner the one for DSPs; nil or empty: a placeholder is shown.
	Public, Partner func() string
	// Visitors returns how many visitors are known; nil: not shown.
	Visitors func() uint64
	// Problems returns what is wrong beside what the console sees itself (faults
	// of audiences, places past their bound, accounts that do not add up).
	Problems func(context.Context) []Problem
	// Working returns what runs in the background now; nil: nothing ever does.
	Working func(context.Context) []Work
	// Nights returns the last nightly passes, the newest first.
	Nights func(context.Context) []Night
	// API returns what answers the private listener; what ad ops define, the console
	// has it do, as who is signed in. Nil: nothing is defined here.
	API func() http.Handler
	// Forest returns all taxonomies as they are defined; nil: rules are not tried on
	// live traffic.
	Forest func() *tree.Forest
	// Reach counts the visitors of traits, in the 90 days and day by day; nil: trees
	// are shown without.
	Reach func(context.Context, []taxonomy.Trait) (*audience.Reach, error)
	// Title says a trait in people's words, "" if there are none.
	Title func(taxonomy.Trait) string
	// Version of the program, for the foot of the page.
	Version string
	Logger  *slog.Logger // nil: none
}

// Console answers below /console on the private listener. It is safe for
// concurrent use, starts nothing and writes nothing.
type Console struct {
	o        Options
	log      *slog.Logger
	pages    map[string]*template.Template
	assets   map[string]asset
	help     []helpPage
	sessions *sessions
	kept     generationCache
}

type asset struct {
	body []byte
	kind string
}

// New returns a console. It fails if an option is missing or what is embedded
// does not hold together.
func New(o Options) (*Console, error) {
	for _, need := range []struct {
		name string
		ok   bool
	}{
		{"Now", o.Now != nil}, {"Rand", o.Rand != nil}, {"Who", o.Who != nil}, {"Definitions", o.Definitions != nil},
		{"Generations", o.Generations != nil}, {"Deliveries", o.Deliveries != nil}, {"Accounts", o.Accounts != nil},
		{"Refusals", o.Refusals != nil}, {"Audit", o.Audit != nil}, {"Receipt", o.Receipt != nil},
	} {
		if !need.ok {
			return nil, fmt.Errorf("make the console: option %s is not set", need.name)
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Console{o: o, log: o.Logger.With("component", "console"), assets: map[string]asset{}}
	var err error
	if c.sessions, err = newSessions(o.Rand, o.Now); err != nil {
		return nil, fmt.Errorf("make the console: %w", err)
	}
	if err := c.loadAssets(); err != nil {
		return nil, fmt.Errorf("make the console: %w", err)
	}
	if c.help, err = loadHelp(embedded); err != nil {
		return nil, fmt.Errorf("make the console: %w", err)
	}
	if c.pages, err = c.parse(); err != nil {
		return nil, fmt.Errorf("make the console: %w", err)
	}
	return c, nil
}

// loadAssets names each asset by its hash, so that it may be kept for ever and
// a new one is fetched at once.
func (c *Console) loadAssets() error {
	const script = "text/javascript; charset=utf-8"
	for _, a := range []struct{ file, name, ext, kind string }{
		{"assets/console.css", "console", ".css", "text/css; charset=utf-8"},
		{"assets/ebb.svg", "ebb", ".svg", "image/svg+xml"},
		{"assets/htmx.js", "htmx", ".js", script},
		{"assets/try.js", "try", ".js", script},
		{"", "ebb", ".js", script}, // the tag itself
	} {
		b := tagserver.TagFile("ebb.js")
		if a.file != "" {
			var err error
			if b, err = embedded.ReadFile(a.file); err != nil {
				return err
			}
		}
		sum := sha256.Sum256(b)
		c.assets[a.name+"-"+hex.EncodeToString(sum[:6])+a.ext] = asset{b, a.kind}
	}
	return nil
}

// asset is the path of the asset whose name begins and ends so.
func (c *Console) asset(name, ext string) string {
	for file := range c.assets {
		if strings.HasPrefix("/"+file, name+"-") && strings.HasSuffix(file, ext) {
			return base + "/assets/" + file
		}
	}
	return ""
}

// base is where the console lives.
const base = "/console"

// Routes are the rows of the table.
func (c *Console) Routes() []tagserver.Route {
	admin := func(path string, h func(echo.Context) (*page, error)) tagserver.Route {
		return tagserver.Route{Method: http.MethodGet, Path: base + path, Listener: tagserver.Private, Auth: tagserver.AuthAdmin, Right: lookRight, Handler: c.show(h)}
	}
	return slices.Concat(c.inspectorRoutes(admin), c.builderRoutes(admin), c.treeRoutes(admin), c.editorRoutes(admin), c.draftRoutes(admin), c.accessRoutes(admin), c.versionRoutes(admin), c.reportRoutes(admin), []tagserver.Route{
		admin("", c.overview),
		admin("/sites", c.sites),
		admin("/sites/:id", c.site),
		admin("/audiences", c.audiences),
		admin("/audiences/:id", c.audience),
		admin("/destinations", c.destinations),
		admin("/destinations/:id", c.destination),
		admin("/consent", c.consent),
		admin("/retention", c.retention),
		admin("/help", c.helpIndex),
		admin("/help/:page", c.helpPage),
		admin("/*", c.nothing),
		{Method: http.MethodGet, Path: base + "/login", Listener: tagserver.Private, Auth: tagserver.AuthOpen, Handler: c.show(c.loginForm)},
		{Method: http.MethodPost, Path: base + "/login", Listener: tagserver.Private, Auth: tagserver.AuthOrigin, Handler: c.show(c.login)},
		{Method: http.MethodPost, Path: base + "/logout", Listener: tagserver.Private, Auth: tagserver.AuthOrigin, Handler: c.show(c.logout)},
		{Method: http.MethodGet, Path: base + "/assets/:name", Listener: tagserver.Private, Auth: tagserver.AuthOpen, Handler: c.serveAsset},
	})
}

// policy lets a page use our own style sheet, pictures and forms, and nothing
// else: no script at all.
const policy = "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

func headers(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "private, no-store")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	// Not no-referrer: under it a browser sends our own forms with the origin
	// "null", which could not be told from a foreign page's.
	h.Set("Referrer-Policy", "same-origin")
}

func (c *Console) serveAsset(e echo.Context) error {
	headers(e.Response().Header())
	a, ok := c.assets[e.Param("name")]
	if !ok {
		return tagserver.NewProblem(http.StatusNotFound, "not_found", "there is nothing at this path")
	}
	e.Response().Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	return e.Blob(http.StatusOK, a.kind, a.body)
}

// errNothing: what the path names does not exist.
var errNothing = errors.New("there is nothing here")

// show turns what a handler gathers into HTML. A page is rendered whole before
// its first byte goes out, so that an error is a page too.
func (c *Console) show(h func(echo.Context) (*page, error)) echo.HandlerFunc {
	return func(e echo.Context) error {
		headers(e.Response().Header())
		p, err := h(e)
		var no *refusal
		switch {
		case errors.Is(err, errNothing):
			p = &page{Status: http.StatusNotFound, Template: "message", Title: "Not here", Data: message{
				"There is nothing at this address. It may have been deleted, or the link is mistyped."}}
		case errors.As(err, &no):
			p = &page{Status: no.Status, Template: "message", Title: "Not for this key", Data: message{"The API says: " + no.Detail}}
		case err != nil:
			// The full line stands in our log, nothing of it outside.
			c.log.Error("page failed", "route", e.Path(), "error", err)
			p = &page{Status: http.StatusInternalServerError, Template: "message", Title: "This page failed", Data: message{
				"Ebb could not gather what belongs here. Its messages say why; the other pages are not affected."}}
		case p == nil: // answered already
			return nil
		}
		b, err := c.render(e, p)
		if err != nil {
			return fmt.Errorf("render %s: %w", p.Template, err)
		}
		return e.HTMLBlob(max(p.Status, http.StatusOK), b)
	}
}

func (c *Console) nothing(e echo.Context) (*page, error) {
	if e.Request().URL.Path == base+"/" {
		return nil, e.Redirect(http.StatusMovedPermanently, base)
	}
	return nil, errNothing
}

// generation is the newest generation, nil before the first.
func (c *Console) generation(ctx context.Context) (*audience.Generation, error) {
	gens, err := c.generations(ctx, 1)
	if err != nil || len(gens) == 0 {
		return nil, err
	}
	return gens[0], nil
}

// Seconds is how long a pass took, rounded up.
func (n Night) Seconds() int { return int((n.Took + taxonomy.Second - 1) / taxonomy.Second) }
