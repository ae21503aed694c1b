package audience

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Kind is where an audience's members come from.
type Kind string

// The kinds of audiences.
const (
	KindRule      Kind = "rule"      // a question in the audience language
	KindLookalike Kind = "lookalike" // the extension of a seed
	KindUpload    Kind = "upload"    // a static list
)

// ShownFloor is the smallest number of visitors that is shown as such to people;
// below it they see "<50". What is stored and computed with is exact.
const ShownFloor = 50

// Definition is an audience as ad ops save it.
type Definition struct {
	ID          taxonomy.AudienceID `json:"id"`
	Slug        string              `json:"slug,omitempty"` // what pages and partners see; absent: the ID
	Title       string              `json:"title"`
	Description string              `json:"description,omitempty"`
	Segtax      int                 `json:"segtax,omitempty"` // IAB's number of the taxonomy its ID is of, 0 for none
	Kind        Kind                `json:"kind"`
	Rule        json.RawMessage     `json:"rule,omitempty"` // of KindRule: see segments/query
	// RuleText says the rule as text instead. It is how a rule may be handed in,
	// never how it is kept: see ReadText.
	RuleText  string          `json:"rule_text,omitempty" doc:"The rule as text, instead of rule; it is kept as rule." writeOnly:"true"`
	List      taxonomy.ListID `json:"list,omitempty"`      // of KindUpload
	Lookalike *LookalikeSpec  `json:"lookalike,omitempty"` // of KindLookalike
	// Page lets the visitor's own page read the audience at /v1/seg.
	Page bool `json:"page,omitempty"`
	// Floor, if above the installation's, is the smallest size at which it is
	// exported.
	Floor uint64 `json:"floor,omitempty"`
}

// LookalikeSpec says what to extend, and how far: to Size visitors, or to Share
// of those who may be in an audience (0 < Share ≤ 0.5), exactly one of the two.
type LookalikeSpec struct {
	Seed  taxonomy.AudienceID `json:"seed"`
	Size  uint64              `json:"size,omitempty"`
	Share float64             `json:"share,omitempty"`
	// WithSeed keeps the seed's own members in the result; they are left out
	// otherwise, and count for neither Size nor Share.
	WithSeed bool `json:"with_seed,omitempty"`
	// Exclude are traits that the scorer must not learn from, beside those that
	// define the seed.
	Exclude []taxonomy.Trait `json:"exclude,omitempty"`
}

// Versioned is a definition with its version among the definitions.
type Versioned struct {
	Definition
	Version uint64 `json:"version"`
}

// PublicSlug is what pages and partners see.
func (d *Definition) PublicSlug() string { return cmp.Or(d.Slug, string(d.ID)) }

// ReadText makes Rule of RuleText, if there is one, and returns the faults of the
// text. So the definitions that are kept have one form.
func (d *Definition) ReadText() error {
	if d.RuleText == "" {
		return nil
	}
	if len(d.Rule) > 0 {
		return taxonomy.Invalid("rule_text", "give either rule or rule_text, not both")
	}
	e, err := query.ParseTextAt("rule_text", d.RuleText)
	if err != nil {
		return err
	}
	d.Rule, d.RuleText = query.Print(e), ""
	return nil
}

// Expr returns the expression of a rule or an upload, nil for a lookalike, and
// the faults of the rule, with fields below "rule".
func (d *Definition) Expr() (query.Expr, error) {
	switch d.Kind {
	case KindRule:
		if len(d.Rule) == 0 {
			return nil, taxonomy.Invalid("rule", "is missing")
		}
		return query.ParseAt("rule", d.Rule)
	case KindUpload:
		return query.List{List: d.List}, nil
	}
	return nil, nil
}

// Validate returns every fault of d taken alone, each a taxonomy.FieldError,
// joined. Catalog.Validate also looks at the other audiences.
func (d *Definition) Validate() error {
	var errs []error
	slug := func(field, what, s string) {
		if err := taxonomy.CheckSlug(what, s); err != nil {
			errs = append(errs, &taxonomy.FieldError{Field: field, Err: err})
		}
	}
	slug("id", "id", string(d.ID))
	if d.Slug != "" {
		slug("slug", "slug", d.Slug)
	}
	if d.Title == "" || len(d.Title) > 200 {
		errs = append(errs, taxonomy.Invalid("title", "want 1 to 200 bytes, got %d", len(d.Title)))
	}
	if len(d.Description) > 4000 {
		errs = append(errs, taxonomy.Invalid("description", "is %d bytes long, at most 4000", len(d.Description)))
	}
	belongs := func(field string, set bool, kind Kind) {
		if set && d.Kind != kind {
			errs = append(errs, taxonomy.Invalid(field, "belongs to an audience of kind %q, not %q", kind, d.Kind))
		}
	}
	belongs("rule", len(d.Rule) > 0, KindRule)
	if d.RuleText != "" { // a caller that did not read it
		errs = append(errs, taxonomy.Invalid("rule_text", "is not kept; read it into rule first"))
	}
	belongs("list", d.List != "", KindUpload)
	belongs("lookalike", d.Lookalike != nil, KindLookalike)
	switch d.Kind {
	case KindRule:
		if _, err := d.Expr(); err != nil {
			errs = append(errs, err)
		}
	case KindUpload:
		slug("list", "list", string(d.List))
	case KindLookalike:
		errs = append(errs, d.Lookalike.validate(d.ID)...)
	default:
		errs = append(errs, taxonomy.Invalid("kind", "%.40q is not one of rule, lookalike, upload", string(d.Kind)))
	}
	return errors.Join(errs...)
}

func (l *LookalikeSpec) validate(id taxonomy.AudienceID) (errs []error) {
	if l == nil {
		return []error{taxonomy.Invalid("lookalike", "is missing")}
	}
	if err := taxonomy.CheckSlug("seed", string(l.Seed)); err != nil {
		errs = append(errs, &taxonomy.FieldError{Field: "lookalike.seed", Err: err})
	} else if l.Seed == id {
		errs = append(errs, taxonomy.Invalid("lookalike.seed", "an audience cannot be its own seed"))
	}
	switch {
	case l.Size > 0 && l.Share != 0:
		errs = append(errs, taxonomy.Invalid("lookalike.share", "give either size or share, not both"))
	case l.Size == 0 && l.Share == 0:
		errs = append(errs, taxonomy.Invalid("lookalike.size", "give size (visitors) or share (such as 0.05)"))
	case l.Size == 0 && !(l.Share > 0 && l.Share <= 0.5):
		errs = append(errs, taxonomy.Invalid("lookalike.share", "%v is not above 0 and at most 0.5", l.Share))
	}
	return errs
}

// Catalog is all definitions, as of one moment. It is immutable.
type Catalog struct {
	all   []Versioned // by ID
	exprs map[taxonomy.AudienceID]query.Expr
	errs  map[taxonomy.AudienceID]error
}

// NewCatalog returns the catalog of definitions. One whose rule cannot be read
// is in it: where it is used, its fault is.
func NewCatalog(defs []Versioned) *Catalog {
	c := &Catalog{all: slices.Clone(defs), exprs: map[taxonomy.AudienceID]query.Expr{}, errs: map[taxonomy.AudienceID]error{}}
	slices.SortFunc(c.all, func(a, b Versioned) int { return cmp.Compare(a.ID, b.ID) })
	for i := range c.all {
		c.read(&c.all[i])
	}
	return c
}

// read takes a definition's expression, or its fault.
func (c *Catalog) read(d *Versioned) {
	if e, err := d.Expr(); err != nil {
		c.errs[d.ID] = err
	} else {
		c.exprs[d.ID] = e
	}
}

// All returns the definitions by ID. They must not be changed.
func (c *Catalog) All() []Versioned { return c.all }

// Get returns a definition.
func (c *Catalog) Get(id taxonomy.AudienceID) (*Versioned, bool) {
	i, ok := slices.BinarySearchFunc(c.all, id, func(d Versioned, id taxonomy.AudienceID) int { return cmp.Compare(d.ID, id) })
	if !ok {
		return nil, false
	}
	return &c.all[i], true
}

// Audience returns the expression of an audience, nil for a lookalike: it is
// what query.Resolver asks for.
func (c *Catalog) Audience(id taxonomy.AudienceID) (query.Expr, bool) {
	e, ok := c.exprs[id]
	return e, ok
}

// Validate returns every fault of d, alone and among the others: audiences that
// it names and that do not exist, rings, a seed that is itself a lookalike. d
// takes the place of the definition with its ID, if there is one.
func (c *Catalog) Validate(d *Definition) error {
	if err := d.Validate(); err != nil {
		return err
	}
	with := c.With(d)
	// d may close a ring through others, or become a lookalike that is a seed.
	var errs []error
	for i := range with.all {
		o := &with.all[i]
		if o.ID == d.ID {
			errs = append(errs, with.check(o))
		} else if o.Lookalike != nil && o.Lookalike.Seed == d.ID && d.Kind == KindLookalike {
			errs = append(errs, taxonomy.Invalid("kind", "audience %q is the seed of lookalike %q, so it cannot be a lookalike itself", d.ID, o.ID))
		}
	}
	return errors.Join(errs...)
}

// Check returns why an audience cannot be evaluated: that there is none of this ID,
// or its fault, and nil if it can.
func (c *Catalog) Check(id taxonomy.AudienceID) error {
	d, ok := c.Get(id)
	if !ok {
		return fmt.Errorf("there is no audience %q", id)
	}
	return c.check(d)
}

// check returns the faults of a definition that lie in what it refers to.
func (c *Catalog) check(d *Versioned) error {
	if err := c.errs[d.ID]; err != nil {
		return err
	}
	if d.Kind == KindLookalike {
		seed, ok := c.Get(d.Lookalike.Seed)
		if !ok {
			return taxonomy.Invalid("lookalike.seed", "there is no audience %q", d.Lookalike.Seed)
		}
		if seed.Kind == KindLookalike {
			return taxonomy.Invalid("lookalike.seed", "audience %q is a lookalike itself; extend its seed, %q", seed.ID, seed.Lookalike.Seed)
		}
		return nil
	}
	// Ask for the audience by name, so that a ring through d itself is found.
	_, err := query.NewPlan(0, onlyAudiences{c}).Add(query.Audience{ID: d.ID})
	return under(err)
}

// under moves faults found below {"audience": d} to d's field "rule".
func under(err error) error {
	switch e := err.(type) {
	case nil:
		return nil
	case *taxonomy.FieldError:
		field, ok := e.Field, false
		const prefix = "audience"
		if len(field) > len(prefix) && field[:len(prefix)+1] == prefix+"." {
			field, ok = field[len(prefix):], true
		}
		if !ok {
			field = ""
		}
		return &taxonomy.FieldError{Field: "rule" + field, Err: e.Err}
	case interface{ Unwrap() []error }:
		var errs []error
		for _, k := range e.Unwrap() {
			errs = append(errs, under(k))
		}
		return errors.Join(errs...)
	}
	return taxonomy.Invalid("rule", "%v", err)
}

// Dependents returns the audiences that name another, in their rule or as their
// seed, sorted: as long as there are any, it should not be deleted.
func (c *Catalog) Dependents(id taxonomy.AudienceID) []taxonomy.AudienceID {
	var out []taxonomy.AudienceID
	for i := range c.all {
		d := &c.all[i]
		e := c.exprs[d.ID]
		if d.Lookalike != nil && d.Lookalike.Seed == id || e != nil && slices.Contains(query.References(e), id) {
			out = append(out, d.ID)
		}
	}
	return out
}

// onlyAudiences resolves no traits: enough to follow references.
type onlyAudiences struct{ c *Catalog }

func (onlyAudiences) Columns(taxonomy.Trait) []taxonomy.Column  { return nil }
func (onlyAudiences) AllSources() []taxonomy.SourceID           { return nil }
func (onlyAudiences) StatementColumns(string) []taxonomy.Column { return nil }
func (o onlyAudiences) Audience(id taxonomy.AudienceID) (query.Expr, bool) {
	return o.c.Audience(id)
}
