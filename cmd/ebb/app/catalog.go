package app

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/tagserver/consent"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// catalog is what the definitions mean, as of one snapshot. It is immutable and
// replaced whole, so a request, a step or a build sees one state of it.
type catalog struct {
	snap         *defs.Snapshot
	day          taxonomy.Day // agreements end with days
	sites        map[taxonomy.SiteID]taxonomy.Site
	origins      map[string]bool
	sources      map[taxonomy.SourceID]taxonomy.Source
	inUse        []taxonomy.SourceID // for profiling: not withdrawn, its agreement not ended
	training     []taxonomy.SourceID // those of them that may be learnt from
	destinations map[taxonomy.DestinationID]delivery.Destination
	audiences    *audience.Catalog
	classifier   *rules.Classifier // of the definitions; what is in force the fold says
	ruleText     []byte            // of the classifier
	// queryKeys are, by site, the keys of the query that it keeps, and those
	// beyond them that rules ask for; only of sites where there are any of these.
	queryKeys map[taxonomy.SiteID][]string
	strings   *consent.Reader // of consent strings
	// bidders are made when they are first asked for.
	bidders atomic.Pointer[[]tagserver.Bidder]
	// secrets are the audiences that tell of something sensitive: see sensitive.
	secretsMade sync.Once
	secrets     map[taxonomy.AudienceID]taxonomy.Trait
}

// Site is tagserver.Sites.
func (c *catalog) Site(id taxonomy.SiteID) (taxonomy.Site, bool) { s, ok := c.sites[id]; return s, ok }

// HasOrigin is tagserver.Sites.
func (c *catalog) HasOrigin(o string) bool { return c.origins[o] }

// Source is tagserver.Sources.
func (c *catalog) Source(id taxonomy.SourceID) (taxonomy.Source, bool) {
	s, ok := c.sources[id]
	return s, ok
}

// Destination is tagserver.Destinations.
func (c *catalog) Destination(id taxonomy.DestinationID) (tagserver.Destination, bool) {
	d, ok := c.destinations[id]
	return tagserver.Destination{ID: d.ID, Sync: d.SyncURL, Epoch: d.PseudonymEpoch, GVLID: d.GVLID, Hosts: d.Sync.Hosts, Pixel: d.Sync.Pixel,
		Caps:    tagserver.MatchCaps{IDsPerVisitor: d.Sync.IDsPerVisitor, VisitorsPerID: d.Sync.VisitorsPerID, Changes: d.Sync.ChangesPerDay},
		KeyHash: d.KeyHash}, ok
}

// live hands the catalog of the moment to whoever asks in the middle of a
// request: the interfaces of tagserver are answered by what is in force now.
type live struct{ a *App }

func (l live) Site(id taxonomy.SiteID) (taxonomy.Site, bool) { return l.a.catalog.Load().Site(id) }
func (l live) HasOrigin(o string) bool                       { return l.a.catalog.Load().HasOrigin(o) }
func (l live) Source(id taxonomy.SourceID) (taxonomy.Source, bool) {
	return l.a.catalog.Load().Source(id)
}
func (l live) Destination(id taxonomy.DestinationID) (tagserver.Destination, bool) {
	return l.a.catalog.Load().Destination(id)
}
func (l live) QueryKeys(s taxonomy.SiteID) []string { return l.a.catalog.Load().queryKeys[s] }

// Evaluate is tagserver.Evaluator. It goes by the definitions, not by the rules
// that the fold has in force: what is never stored cannot be read again (R18).
func (l live) Evaluate(site taxonomy.SiteID, full, kept *taxonomy.Event, dst []taxonomy.Trait) []taxonomy.Trait {
	return l.a.catalog.Load().classifier.Evaluate(site, full, kept, dst)
}
func (l live) Erased(k taxonomy.VisitorKey) bool { return l.a.erasedNow(k) }

// ruleVersion is the number of the taxonomy and classifier rules in force. It
// rises when their text changes and is kept, since it stands in records and
// checkpoints.
type ruleVersion struct {
	Version uint32 `json:"version"`
	SHA256  string `json:"sha256"`
}

const ruleVersionID = "rules"

// refresh makes the catalog of the current definitions, if they changed.
func (a *App) refresh(ctx context.Context) error {
	a.refreshing.Lock()
	defer a.refreshing.Unlock()
	snap := a.defs.Snapshot()
	if old := a.catalog.Load(); old != nil && old.snap == snap && old.day == a.env.millis().Day() {
		return nil
	}
	c, err := a.compile(ctx, snap)
	if err != nil {
		return err
	}
	a.catalog.Store(c)
	return a.swapSeg(ctx)
}

func (a *App) compile(ctx context.Context, snap *defs.Snapshot) (*catalog, error) {
	c, err := a.definitionsOf(snap)
	if err != nil {
		return nil, err
	}
	if c.classifier, err = a.compileRules(ctx, snap); err != nil {
		return nil, err
	}
	c.queryKeys = map[taxonomy.SiteID][]string{}
	for id, s := range c.sites {
		keys := slices.Clone(s.QueryKeys)
		for _, k := range c.classifier.QueryKeys(id) {
			if !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
		if len(keys) > len(s.QueryKeys) {
			c.queryKeys[id] = keys
		}
	}
	if old := a.catalog.Load(); old != nil && old.classifier == c.classifier {
		c.ruleText = old.ruleText
	} else {
		c.ruleText, err = textOf(snap)
	}
	return c, err
}

// definitionsOf is a catalog without its classifier.
func (a *App) definitionsOf(snap *defs.Snapshot) (*catalog, error) {
	c := &catalog{snap: snap, day: a.env.millis().Day(), sites: map[taxonomy.SiteID]taxonomy.Site{}, origins: map[string]bool{},
		sources: map[taxonomy.SourceID]taxonomy.Source{}, destinations: map[taxonomy.DestinationID]delivery.Destination{}}
	sites, err := defs.LoadAll[taxonomy.Site](snap, defs.Site)
	if err != nil {
		return nil, err
	}
	for _, s := range sites {
		c.sites[s.ID] = s
		for _, o := range s.Origins {
			c.origins[o] = true
		}
	}
	sources, err := defs.LoadAll[taxonomy.Source](snap, defs.Source)
	if err != nil {
		return nil, err
	}
	today := c.day
	for _, s := range sources {
		c.sources[s.ID] = s
		// A source without an agreement is a site's own: what may be done with its
		// data each visitor's consent says.
		uses := taxonomy.MayAll
		if ag := s.Agreement; ag != nil {
			if uses, err = taxonomy.ParsePurposes(ag.Uses); err != nil {
				return nil, fmt.Errorf("read source %q: %w", s.ID, err)
			}
			if ag.Ends != nil && today >= *ag.Ends {
				uses = 0
			}
		}
		if s.Withdrawn || !uses.Has(taxonomy.MayProfile) {
			continue
		}
		c.inUse = append(c.inUse, s.ID)
		if uses.Has(taxonomy.MayTrain) {
			c.training = append(c.training, s.ID)
		}
	}
	slices.Sort(c.inUse)
	slices.Sort(c.training)
	destinations, err := defs.LoadAll[delivery.Destination](snap, defs.Destination)
	if err != nil {
		return nil, err
	}
	for _, d := range destinations {
		c.destinations[d.ID] = d
	}
	if c.strings, err = newReader(&a.cfg.Consent, a.lists, destinations); err != nil {
		return nil, err
	}
	var audiences []audience.Versioned
	for _, d := range snap.List(defs.Audience) {
		v := audience.Versioned{Version: d.Version}
		if err := json.Unmarshal(d.Body, &v.Definition); err != nil {
			return nil, fmt.Errorf("read audience %q: %w", d.ID, err)
		}
		audiences = append(audiences, v)
	}
	c.audiences = audience.NewCatalog(audiences)
	return c, nil
}

// compileRules compiles the classifier under the version of its text.
func (a *App) compileRules(ctx context.Context, snap *defs.Snapshot) (*rules.Classifier, error) {
	h := sha256.New()
	for _, kind := range []defs.Kind{defs.Taxonomy, defs.Rule} {
		for _, d := range snap.List(kind) {
			fmt.Fprintf(h, "%s %q %d\n%s\n", kind, d.ID, len(d.Body), d.Body)
		}
	}
	text := hex.EncodeToString(h.Sum(nil))
	if old := a.catalog.Load(); old != nil && a.rules.SHA256 == text {
		return old.classifier, nil
	}
	var v ruleVersion
	doc, ok := snap.Get(defs.Setting, ruleVersionID)
	if ok {
		if err := json.Unmarshal(doc.Body, &v); err != nil {
			return nil, fmt.Errorf("read the version of the rules: %w", err)
		}
	}
	if v.SHA256 != text {
		v = ruleVersion{Version: v.Version + 1, SHA256: text}
		body, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		if _, err := a.defs.Put(ctx, defs.Setting, ruleVersionID, body, doc.Version); err != nil && !errors.Is(err, retention.ErrConflict) {
			return nil, fmt.Errorf("keep the version of the rules: %w", err)
		}
	}
	a.rules = v
	forest, err := Forest(snap)
	if err != nil {
		return nil, err
	}
	list, err := defs.LoadAll[rules.Rule](snap, defs.Rule)
	if err != nil {
		return nil, err
	}
	c, err := rules.Compile(v.Version, forest, list)
	if err != nil {
		return nil, fmt.Errorf("compile the rules: %w", err)
	}
	return c, nil
}

// Forest is the categories in force: the built-in taxonomies and the
// operator's.
func Forest(snap *defs.Snapshot) (*tree.Forest, error) {
	own, err := defs.LoadAll[tree.Taxonomy](snap, defs.Taxonomy)
	if err != nil {
		return nil, err
	}
	return grow(own)
}

func grow(own []tree.Taxonomy) (*tree.Forest, error) {
	builtin, err := builtinTaxonomies()
	if err != nil {
		return nil, err
	}
	all := append(slices.Clone(builtin), own...)
	slices.SortFunc(all, func(x, y tree.Taxonomy) int { return cmp.Compare(x.ID, y.ID) })
	f, err := tree.New(all...)
	if err != nil {
		return nil, fmt.Errorf("grow the taxonomies: %w", err)
	}
	return f, nil
}
