package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// definitions registers the resources that are documents.
func (a *API) definitions() {
	define(a, sites())
	define(a, sources())
	define(a, a.taxonomies())
	define(a, classifierRules())
	define(a, a.audiences("audiences", "audience", nil))
	define(a, a.audiences("lookalikes", "lookalike", isLookalike))
	define(a, a.destinations())
	define(a, a.keys())
}

func isLookalike(d *audience.Definition) bool { return d.Kind == audience.KindLookalike }

func sites() resource[taxonomy.Site, taxonomy.Site] {
	return resource[taxonomy.Site, taxonomy.Site]{
		path: "sites", one: "site", kind: defs.Site, area: "sites", own: ownSite, show: same[taxonomy.Site],
		id:    func(s *taxonomy.Site) *string { return (*string)(&s.ID) },
		check: checkSite, users: usersOfSite,
	}
}

func sources() resource[taxonomy.Source, taxonomy.Source] {
	return resource[taxonomy.Source, taxonomy.Source]{
		path: "sources", one: "source", kind: defs.Source, area: "sources", own: ownSource, show: same[taxonomy.Source],
		id:    func(s *taxonomy.Source) *string { return (*string)(&s.ID) },
		check: func(_ *world, s, _ *taxonomy.Source) error { return s.Validate() },
		users: usersOfSource,
	}
}

func classifierRules() resource[rules.Rule, rules.Rule] {
	return resource[rules.Rule, rules.Rule]{
		path: "rules", one: "rule", kind: defs.Rule, area: "taxonomies", own: ownRule, show: same[rules.Rule],
		id:    func(r *rules.Rule) *string { return &r.ID },
		check: checkRule, differ: rules.Differences,
	}
}

func same[T any](t *T, _ string) T { return *t }

// Sites.

func checkSite(w *world, s, _ *taxonomy.Site) error {
	errs := []error{s.Validate()}
	if _, ok := w.snap.Get(defs.Source, string(s.Source)); !(ok && w.p.Source(s.Source)) && taxonomy.CheckSlug("source", string(s.Source)) == nil {
		errs = append(errs, taxonomy.Invalid("source", "there is no source %q; make it first", s.Source))
	}
	return errors.Join(errs...)
}

func usersOfSite(w *world, s *taxonomy.Site) (users []tagserver.ProblemError, err error) {
	all, err := load[rules.Rule](w, defs.Rule)
	for i := range all {
		if slices.Contains(all[i].Sites, s.ID) {
			users = append(users, fault("rules/"+all[i].ID, "is for this site"))
		}
	}
	return users, err
}

// Sources.

func usersOfSource(w *world, s *taxonomy.Source) (users []tagserver.ProblemError, err error) {
	sites, err := load[taxonomy.Site](w, defs.Site)
	if err != nil {
		return nil, err
	}
	for i := range sites {
		if sites[i].Source == s.ID {
			users = append(users, fault("sites/"+string(sites[i].ID), "is of this source"))
		}
	}
	all, err := load[rules.Rule](w, defs.Rule)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if slices.Contains(all[i].Sites, taxonomy.ImportSite(s.ID)) {
			users = append(users, fault("rules/"+all[i].ID, "is for the imports of this source"))
		}
	}
	c, err := w.audiences()
	if err != nil {
		return nil, err
	}
	for _, d := range c.All() {
		if slices.ContainsFunc(traitsOf(c, d.ID), func(t query.Step) bool { return slices.Contains(t.Sources, s.ID) }) {
			users = append(users, fault("audiences/"+string(d.ID), "names this source in its rule"))
		}
	}
	keys, err := w.usersAmongKeys(func(k *AccessKey) bool { return slices.Contains(k.Sources, s.ID) })
	return append(users, keys...), err
}

// Rules.

func checkRule(w *world, r, _ *rules.Rule) error {
	f, err := w.forest(nil, "")
	if err != nil {
		return err
	}
	errs := []error{r.Validate(f)}
	for i, s := range r.Sites {
		at := fmt.Sprintf("sites[%d]", i)
		if source, ok := strings.CutPrefix(string(s), taxonomy.ImportSitePrefix); ok {
			if _, ok := w.snap.Get(defs.Source, source); !ok || !w.p.Source(taxonomy.SourceID(source)) {
				errs = append(errs, taxonomy.Invalid(at, "there is no source %q whose imports the rule could be for", source))
			}
		} else if _, ok := w.snap.Get(defs.Site, string(s)); !(ok && w.ownAccount(s)) && taxonomy.CheckSlug("site", string(s)) == nil {
			errs = append(errs, taxonomy.Invalid(at, "there is no site %q", s))
		}
	}
	for i, then := range r.Then {
		if t, err := w.archived([]taxonomy.Trait{taxonomy.Trait(then)}); err != nil {
			return err
		} else if t != "" {
			errs = append(errs, taxonomy.Invalid(fmt.Sprintf("then[%d]", i), "%s is archived: nothing comes into it any more; restore it, or name another", t))
		}
	}
	if _, is := w.snap.Get(defs.Rule, r.ID); !is && len(w.snap.List(defs.Rule)) >= rules.MaxRules {
		errs = append(errs, taxonomy.Invalid("id", "there are %d rules already, which is the most there can be", rules.MaxRules))
	}
	return errors.Join(errs...)
}

// ownRule: a restricted caller meets the rules that are for its own sites alone.
func ownRule(w *world, r *rules.Rule) bool {
	return len(r.Sites) > 0 && !slices.ContainsFunc(r.Sites, func(s taxonomy.SiteID) bool { return !w.ownAccount(s) })
}

// Taxonomies.

// taxonomyView is a taxonomy as it is shown. Lists leave the categories out:
// there may be thousands.
type taxonomyView struct {
	tree.Taxonomy
	Categories []tree.Category `json:"categories,omitempty"`
}

func (a *API) taxonomies() resource[tree.Taxonomy, taxonomyView] {
	return resource[tree.Taxonomy, taxonomyView]{
		path: "taxonomies", one: "taxonomy", kind: defs.Taxonomy, area: "taxonomies", builtin: a.o.Builtin,
		id:   func(t *tree.Taxonomy) *string { return &t.ID },
		show: func(t *tree.Taxonomy, _ string) taxonomyView { return taxonomyView{*t, t.Categories} },
		brief: func(t *tree.Taxonomy) taxonomyView {
			return taxonomyView{Taxonomy: *t}
		},
		check: checkTaxonomy, differ: tree.Differences,
		users: func(w *world, t *tree.Taxonomy) ([]tagserver.ProblemError, error) {
			without, err := w.forest(nil, t.ID)
			if err != nil {
				return nil, err
			}
			return w.broken(without)
		},
	}
}

func checkTaxonomy(w *world, t, _ *tree.Taxonomy) error {
	if t.Categories == nil {
		t.Categories = []tree.Category{}
	}
	if err := t.Validate(); err != nil {
		return err
	}
	f, err := w.forest(t, "")
	if err != nil {
		// Alone it is sound: what is left is how many ancestors a category has.
		if f, ok := faultsOf("", err); ok {
			return taxonomy.Invalid("categories", "%s", f[0].Message)
		}
		return err
	}
	users, err := w.broken(f)
	if err == nil && len(users) > 0 {
		return inUse("a category that would go", users)
	}
	if err != nil {
		return err
	}
	if users, err = w.usersOfArchived(t); err == nil && len(users) > 0 {
		err = inUse("a category that would be archived", users)
	}
	return err
}

// forest grows all taxonomies, with one in the place of that of its ID, or
// without one.
func (w *world) forest(with *tree.Taxonomy, without string) (f *tree.Forest, err error) {
	if with == nil && without == "" {
		if w.grown != nil {
			return w.grown, nil
		}
		defer func() { w.grown = f }()
	}
	own, err := load[tree.Taxonomy](w, defs.Taxonomy)
	if err != nil {
		return nil, err
	}
	all := slices.Concat(w.a.o.Builtin, own)
	all = slices.DeleteFunc(all, func(t tree.Taxonomy) bool { return t.ID == without || with != nil && t.ID == with.ID })
	if with != nil {
		all = append(all, *with)
	}
	return tree.New(all...)
}

// broken says which rules and audiences name a category that is in the present
// forest and not in the next.
func (w *world) broken(next *tree.Forest) (users []tagserver.ProblemError, err error) {
	now, err := w.forest(nil, "")
	if err != nil {
		return nil, err
	}
	return w.brokenFrom(now, next)
}

// brokenFrom says it of two forests.
func (w *world) brokenFrom(now, next *tree.Forest) (users []tagserver.ProblemError, err error) {
	all, err := load[rules.Rule](w, defs.Rule)
	if err != nil {
		return nil, err
	}
	for i := range all {
		err := all[i].Validate(next)
		if err == nil || all[i].Validate(now) != nil {
			continue
		}
		if f, ok := faultsOf("rules/"+all[i].ID, err); ok {
			users = append(users, f...)
		}
	}
	gone := func(t taxonomy.Trait) bool {
		_, was := now.Index(t)
		_, is := next.Index(t)
		return was && !is
	}
	c, err := w.audiences()
	if err != nil {
		return nil, err
	}
	for _, d := range c.All() {
		for _, t := range traitsOf(c, d.ID) {
			if gone(t.Trait) {
				users = append(users, fault("audiences/"+string(d.ID), "names %s in its rule", t.Trait))
				break
			}
		}
		if d.Lookalike != nil && slices.ContainsFunc(d.Lookalike.Exclude, gone) {
			users = append(users, fault("audiences/"+string(d.ID), "names it in lookalike.exclude"))
		}
	}
	return users, nil
}

// Audiences, and lookalikes, which are the audiences of that kind.

func (a *API) audiences(path, one string, has func(*audience.Definition) bool) resource[audience.Definition, audience.Definition] {
	return resource[audience.Definition, audience.Definition]{
		path: path, one: one, kind: defs.Audience, area: "audiences", common: true, has: has, show: same[audience.Definition],
		id:      func(d *audience.Definition) *string { return (*string)(&d.ID) },
		own:     func(w *world, d *audience.Definition) bool { return w.ownAudience(d.ID) },
		prepare: (*audience.Definition).ReadText,
		normal: func(d *audience.Definition) {
			if e, err := d.Expr(); err == nil && len(d.Rule) > 0 {
				d.Rule = query.Print(e)
			}
		},
		check: func(w *world, d, _ *audience.Definition) error {
			if err := d.ReadText(); err != nil {
				return err
			}
			if has != nil {
				d.Kind = cmp.Or(d.Kind, audience.KindLookalike)
				if !has(d) {
					return taxonomy.Invalid("kind", "%q is not %q; other audiences are made at %s/audiences", cut(string(d.Kind)), audience.KindLookalike, base)
				}
			}
			return checkAudience(w, d)
		},
		users: usersOfAudience,
	}
}

func (w *world) audiences() (*audience.Catalog, error) {
	if w.catalog != nil {
		return w.catalog, nil
	}
	list, err := load[audience.Definition](w, defs.Audience)
	if err != nil {
		return nil, err
	}
	versioned := make([]audience.Versioned, len(list))
	for i, d := range w.snap.List(defs.Audience) {
		versioned[i] = audience.Versioned{Definition: list[i], Version: d.Version}
	}
	w.catalog = audience.NewCatalog(versioned)
	return w.catalog, nil
}

func checkAudience(w *world, d *audience.Definition) error {
	c, err := w.audiences()
	if err != nil {
		return err
	}
	errs := []error{c.Validate(d)}
	if e, err := d.Expr(); err == nil && e != nil {
		if t, err := w.archived(query.Traits(e)); err != nil {
			return err
		} else if t != "" {
			errs = append(errs, taxonomy.Invalid("rule", "%s is archived: nothing comes into it any more; restore it, or leave it out", t))
		}
	}
	for _, o := range c.All() {
		if o.ID != d.ID && o.PublicSlug() == d.PublicSlug() {
			field := "slug"
			if d.Slug == "" {
				field = "id"
			}
			errs = append(errs, taxonomy.Invalid(field, "%q is what pages and partners know audience %q by", d.PublicSlug(), o.ID))
		}
	}
	secret, err := w.secret(c, d)
	if err != nil {
		return err
	}
	return errors.Join(append(errs, secret...)...)
}

// secret returns the faults of telling pages of something sensitive: by d, or by
// an audience for pages that d stands behind. A category that is marked sensitive
// later on makes no fault of what is there: /v1/seg leaves it out from then on.
func (w *world) secret(c *audience.Catalog, d *audience.Definition) (errs []error, err error) {
	f, err := w.forest(nil, "")
	if err != nil {
		return nil, err
	}
	with := c.With(d)
	seen := map[taxonomy.AudienceID]bool{}
	var visit func(taxonomy.AudienceID)
	visit = func(id taxonomy.AudienceID) {
		if seen[id] {
			return
		}
		seen[id] = true
		t := with.TellsOf(id, f.Sensitive)
		if t == "" {
			return // and whoever names it learns nothing from it
		}
		switch o, _ := with.Get(id); {
		case o.Page && id == d.ID:
			errs = append(errs, taxonomy.Invalid("page", "the audience tells of %s, which is sensitive, and no page is told of that; leave out page, or %s", t, t))
		case o.Page && c.TellsOf(id, f.Sensitive) == "":
			errs = append(errs, taxonomy.Invalid("id", "audience %q, which pages are told of, would tell of %s, which is sensitive; take it out of this audience, or page out of that one", id, t))
		}
		for _, o := range with.Dependents(id) {
			visit(o)
		}
	}
	visit(d.ID)
	return errs, nil
}

func usersOfAudience(w *world, d *audience.Definition) (users []tagserver.ProblemError, err error) {
	c, err := w.audiences()
	if err != nil {
		return nil, err
	}
	for _, id := range c.Dependents(d.ID) {
		users = append(users, fault("audiences/"+string(id), "names this audience"))
	}
	all, err := load[delivery.Destination](w, defs.Destination)
	for i := range all {
		if slices.Contains(all[i].Audiences, d.ID) {
			users = append(users, fault("destinations/"+string(all[i].ID), "gets this audience"))
		}
		if slices.Contains(all[i].Suppress, d.ID) {
			users = append(users, fault("destinations/"+string(all[i].ID), "suppresses by this audience"))
		}
	}
	return users, err
}

// traitsOf returns the traits that an audience's own rule names.
func traitsOf(c *audience.Catalog, id taxonomy.AudienceID) []query.Step {
	e, ok := c.Audience(id)
	if !ok {
		return nil
	}
	return query.Named(e)
}

// Destinations.

// destinationView is a destination as it is shown: without the hash of its key,
// and with the key when it is new.
type destinationView struct {
	delivery.Destination
	KeyHash string `json:"-"`
	Key     string `json:"key,omitempty" doc:"The key by which the partner pulls, shown once: when the destination is made."`
}

func showDestination(d *delivery.Destination, key string) destinationView {
	v := destinationView{Destination: *d, Key: key}
	v.Destination.KeyHash = ""
	return v
}

func (a *API) destinations() resource[delivery.Destination, destinationView] {
	return resource[delivery.Destination, destinationView]{
		path: "destinations", one: "destination", kind: defs.Destination, area: "destinations", own: ownDestination, show: showDestination,
		id: func(d *delivery.Destination) *string { return (*string)(&d.ID) },
		readOnly: map[string]string{
			"key_hash": "is not set here; POST to the destination's /key makes a new key",
			"key":      "is not set here; POST to the destination's /key makes a new key",
		},
		check: checkDestination,
		users: func(w *world, d *delivery.Destination) ([]tagserver.ProblemError, error) {
			return w.usersAmongKeys(func(k *AccessKey) bool { return slices.Contains(k.Destinations, d.ID) })
		},
		created: func(d *delivery.Destination) (key string, err error) {
			key, d.KeyHash, err = delivery.NewKey(a.o.Rand)
			return key, err
		},
		deleted: func(ctx context.Context, id string) error {
			return a.o.Deliveries.Drop(ctx, taxonomy.DestinationID(id))
		},
	}
}

func checkDestination(w *world, d, old *delivery.Destination) error {
	var errs []error
	was := uint32(0)
	if old != nil {
		d.KeyHash, was = old.KeyHash, old.PseudonymEpoch
		if d.PseudonymEpoch == 0 {
			d.PseudonymEpoch = was
		}
	}
	if d.PseudonymEpoch != was {
		errs = append(errs, taxonomy.Invalid("pseudonym_epoch", "%d is not %d: it changes by command only, since that changes everybody's pseudonym", d.PseudonymEpoch, was))
	}
	if d.Title == "" || len(d.Title) > 200 {
		errs = append(errs, taxonomy.Invalid("title", "want 1 to 200 bytes, got %d", len(d.Title)))
	}
	*d = d.WithDefaults()
	if d.Audiences == nil {
		d.Audiences = []taxonomy.AudienceID{}
	}
	errs = append(errs, d.Validate(), w.a.o.Deliveries.Check(d))
	exist := func(field string, ids []taxonomy.AudienceID) {
		for i, id := range ids {
			if _, ok := w.snap.Get(defs.Audience, string(id)); !(ok && w.ownAudience(id)) && taxonomy.CheckSlug("audience", string(id)) == nil {
				errs = append(errs, taxonomy.Invalid(field+"["+strconv.Itoa(i)+"]", "there is no audience %q", id))
			}
		}
	}
	exist("audiences", d.Audiences)
	exist("suppress", d.Suppress)
	return errors.Join(errs...)
}

type (
	idIn struct {
		ID string `path:"id" maxLength:"64"`
	}
	keyOut struct {
		ETag string `header:"ETag"`
		Body keyView
	}
	keyView struct {
		Key string `json:"key" doc:"Shown this once; only its hash is kept. The key before it is void."`
	}
)

// newKey gives a destination another key. It needs no If-Match: who asks for a
// new key wants the old one void whatever else has changed.
func (a *API) newKey(ctx context.Context, in *idIn) (*keyOut, error) {
	r := a.destinations()
	what := "make a key for " + r.name(in.ID)
	a.changing.Lock()
	defer a.changing.Unlock()
	w, err := a.world(ctx)
	if err != nil {
		return nil, a.fail(what, err)
	}
	d, version, err := r.find(w, in.ID)
	if err != nil {
		return nil, a.fail(what, err)
	}
	var key string
	if key, d.KeyHash, err = delivery.NewKey(a.o.Rand); err != nil {
		return nil, a.fail(what, err)
	}
	kept, err := a.keep(ctx, r.kind, in.ID, what, d, version)
	if err != nil {
		return nil, err
	}
	return &keyOut{ETag: etag(kept), Body: keyView{key}}, nil
}

// deliveries registers what destinations are asked to do.
func (a *API) deliveries() {
	operate(a, op{method: http.MethodPost, path: "/destinations/{id}/key", tag: "destinations", right: tagserver.May("destinations:write", tagserver.OfOwn), ok: 200, errors: []int{404, 412, 503}, summary: "Make a new key for a destination"}, a.newKey)
	operate(a, op{method: http.MethodPost, path: "/destinations/{id}/deliveries", tag: "destinations", right: tagserver.May("deliveries:write", tagserver.OfOwn), ok: 200, errors: []int{404, 409, 503}, slow: true, summary: "Deliver the current generation now"},
		func(ctx context.Context, in *idIn) (*bodyOut[deliveryView], error) {
			what := "deliver to " + in.ID
			if err := meets(ctx, a, a.destinations(), in.ID); err != nil {
				return nil, err
			}
			if refs, err := a.o.Generations.List(ctx); err != nil {
				return nil, a.fail(what, err)
			} else if len(refs) == 0 {
				return nil, newProblem(http.StatusConflict, codeConflict, "there is no generation to deliver yet; POST to %s/generations builds one", base)
			}
			var d delivery.Delivery
			err := a.audited(ctx, defs.Entry{What: "deliver", Kind: string(defs.Destination), Object: in.ID}, func() (err error) {
				d, err = a.o.Deliveries.Deliver(ctx, taxonomy.DestinationID(in.ID))
				return err
			})
			if err != nil {
				return nil, a.fail(what, err)
			}
			return &bodyOut[deliveryView]{showDelivery(d)}, nil
		})
	operate(a, op{method: http.MethodGet, path: "/destinations/{id}/deliveries", tag: "destinations", right: tagserver.May("deliveries:read", tagserver.OfOwn), ok: 200, errors: []int{400, 404}, summary: "List the last deliveries, newest first"},
		func(ctx context.Context, in *listOfIn) (*listOut[deliveryView], error) {
			if err := meets(ctx, a, a.destinations(), in.ID); err != nil {
				return nil, err
			}
			list, err := a.o.Deliveries.Deliveries(ctx, taxonomy.DestinationID(in.ID))
			if err != nil {
				return nil, a.fail("list deliveries to "+in.ID, err)
			}
			all := []deliveryView{}
			for _, d := range list {
				all = append(all, showDelivery(d))
			}
			slices.SortStableFunc(all, func(x, y deliveryView) int { return y.At.Compare(x.At) })
			return newestFirst("/destinations/"+in.ID+"/deliveries", in.Limit, in.Cursor, all, func(d *deliveryView) int64 { return d.At.UnixMilli() })
		})
}

type (
	bodyOut[B any] struct{ Body B }
	// listOfIn asks for a list that belongs to one thing.
	listOfIn struct {
		ID     string `path:"id" maxLength:"64"`
		Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
		Cursor string `query:"cursor" maxLength:"256"`
	}
	deliveryView struct {
		delivery.Delivery
		At time.Time `json:"at"`
	}
)

func showDelivery(d delivery.Delivery) deliveryView { return deliveryView{d, d.At.Time()} }

// meets returns the problem of a document that is not there for the caller.
func meets[T, R any](ctx context.Context, a *API, r resource[T, R], id string) error {
	_, _, err := r.find(a.here(ctx), id)
	return a.fail("find "+r.name(id), err)
}
