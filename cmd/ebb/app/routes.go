package app

import (
	"context"
	"errors"
	"net/http"
	"net/netip"

	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/tagserver/api"
	"github.com/ebb-dmp/ebb/tagserver/console"
	"github.com/ebb-dmp/ebb/tagserver/partner"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// routes hands the edge the rows of its sub-folders, and who guards them.
func (s *Server) routes(o *tagserver.Options) error {
	files := partner.Options{Files: s.deliverer, KeyHash: func(id taxonomy.DestinationID) (string, bool) {
		d, ok := s.catalog.Load().destinations[id]
		return d.KeyHash, ok
	}}
	ad, err := api.New(s.apiOptions())
	if err != nil {
		return err
	}
	pages, err := console.New(s.consoleOptions())
	if err != nil {
		return err
	}
	o.Routes = append(o.Routes, partner.Routes(files)...)
	o.Routes = append(o.Routes, tagserver.OpsRoutes(tagserver.Ops{Metrics: s.registry, Ready: s.Ready})...)
	if s.alone || s.cfg.Has(config.RoleAPI) {
		o.Routes = append(o.Routes, ad.Routes()...)
		o.Routes = append(o.Routes, pages.Routes()...)
	}
	o.Guards = map[tagserver.Auth]tagserver.Guard{
		tagserver.AuthDestination: partner.Guard(files),
		// A session of the console reads; what changes something needs a key, or a form
		// of the console's, which calls the API as who is signed in.
		tagserver.AuthAdmin: pages.Guard(),
	}
	return nil
}

func (s *Server) apiOptions() api.Options {
	builtin, _ := builtinTaxonomies() // the catalog was made of them already
	return api.Options{
		Defs: s.defs, Builtin: builtin, Changed: s.refresh,
		Estimate: s.Estimate, Overlap: s.Overlap, Profile: s.Profile, Preview: s.Preview, Generations: s.generations, Build: s.Build, Deliveries: deliveries{s.App},
		Import: s.Import, Matches: matchFiles{s}, Operations: s.App,
		Erase: s.Erase, Receipt: s.Receipt, Audit: s.Audit,
		Night: s.night, Backup: s.writeBackup,
		Trail: s.trail, Used: s.used(), Answers: defs.Answers{Keyed: s.store.Keyed()},
		Accounts: s.Accounts,
		Refusals: func(id taxonomy.SiteID) []tagserver.Refusal { return s.edge.Refusals(id) },
		Explain:  s.ExplainConsent, Permits: s.Permits, Signals: s.Signals,
		Inspect: s.Inspect, Waterfall: s.Waterfall,
		Spool: s.uploadSpool, Rand: s.env.Rand, Now: s.env.millis, After: s.env.After, Logger: s.log,
	}
}

func (s *Server) consoleOptions() console.Options {
	return console.Options{
		Now: s.env.millis, Rand: s.env.Rand, Who: s.callers.Who,
		Definitions: definitions{s.App}, Generations: s.generations, Deliveries: s.deliverer,
		Accounts: s.Accounts,
		Refusals: func(id taxonomy.SiteID) []tagserver.Refusal { return s.edge.Refusals(id) },
		Explain:  s.ExplainConsent, Permits: s.Permits, Signals: s.Signals,
		Inspect: s.Inspect, Waterfall: s.Waterfall,
		Rehearse: func() tagserver.Rehearsal { return s.edge.Rehearse },
		Audit:    s.Audit, Receipt: s.Receipt,
		Public:   func() string { return s.origin(tagserver.Public) },
		Partner:  func() string { return s.origin(tagserver.Partner) },
		Problems: s.problems, Nights: s.lastNights, Working: s.working, Title: s.titleOf,
		API: func() http.Handler { return s.edge.Handler(tagserver.Private) }, Reach: s.Reach,
		Forest:  func() *tree.Forest { return s.catalog.Load().classifier.Forest() },
		Version: Version, Logger: s.log,
	}
}

// deliveries is the App's and the deliverer's part of delivering, together.
type deliveries struct{ a *App }

func (d deliveries) Check(x *delivery.Destination) error {
	return errors.Join(d.a.deliverer.Check(x), checkTimes(x, d.a.env.Now()))
}
func (d deliveries) Standing(ctx context.Context, id taxonomy.DestinationID) (delivery.Standing, error) {
	return d.a.deliverer.Standing(ctx, id)
}
func (d deliveries) Approve(ctx context.Context, id taxonomy.DestinationID) error {
	return d.a.deliverer.Approve(ctx, id)
}
func (d deliveries) Replay(ctx context.Context, id taxonomy.DestinationID) error {
	return d.a.deliverer.Replay(ctx, id)
}
func (d deliveries) Deliver(ctx context.Context, id taxonomy.DestinationID) (delivery.Delivery, error) {
	return d.a.Deliver(ctx, id)
}
func (d deliveries) Deliveries(ctx context.Context, id taxonomy.DestinationID) ([]delivery.Delivery, error) {
	return d.a.deliverer.Deliveries(ctx, id)
}
func (d deliveries) Drop(ctx context.Context, id taxonomy.DestinationID) error {
	return d.a.deliverer.Drop(ctx, id)
}

// definitions shows the console what is defined now.
type definitions struct{ a *App }

func (d definitions) Sites() []taxonomy.Site     { return sorted(d.a.catalog.Load().sites) }
func (d definitions) Sources() []taxonomy.Source { return sorted(d.a.catalog.Load().sources) }
func (d definitions) Destinations() []delivery.Destination {
	return sorted(d.a.catalog.Load().destinations)
}
func (d definitions) Audiences() *audience.Catalog { return d.a.catalog.Load().audiences }

// origin is under which callers reach a listener.
func (s *Server) origin(l tagserver.Listener) string {
	addr, err := netip.ParseAddrPort(s.addrs[l])
	if err != nil {
		return ""
	}
	if l == tagserver.Public {
		return s.cfg.Origin(addr)
	}
	if s.cfg.TLS.Cert != "" {
		return "https://" + s.addrs[l]
	}
	return "http://" + s.addrs[l]
}

// problems are what readyz would say, for the console.
func (s *Server) problems(ctx context.Context) []console.Problem {
	faults, warnings := s.Ready(ctx)
	var out []console.Problem
	for _, f := range append(faults, warnings...) {
		out = append(out, console.Problem{Title: f})
	}
	return out
}
