package console

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// builderRoutes are the pages on which audiences are made.
func (c *Console) builderRoutes(admin func(string, func(echo.Context) (*page, error)) tagserver.Route) []tagserver.Route {
	return []tagserver.Route{
		admin("/builder", c.builder), c.form("/builder", c.build),
		admin("/builder/:id", c.builder), c.form("/builder/:id", c.build),
		admin("/extend/:id", c.extend), c.form("/extend/:id", c.extended),
		c.form("/generations", c.buildNow),
	}
}

// draft is an audience's rule on the way: as text and as blocks. One of them leads,
// the other follows.
type draft struct {
	// Text is as it was typed; Was is what the blocks said when the form was made, so
	// that a form tells which of the two was changed.
	Text, Was string
	Root      *block
	Expr      query.Expr // nil: the one that leads is no rule yet
	Faults    []taxonomy.FieldError
	// Note tells what was put aside, since both had been changed.
	Note string
}

// settle brings text and blocks together. The text leads if it was changed, unless
// lead is "blocks". What leads and is no rule leaves the other alone.
func (d *draft) settle(lead string) {
	d.Expr, d.Faults, d.Note = nil, nil, ""
	blocks := d.Root.expr()
	var was string
	if e, err := query.ParseText(d.Was); err == nil {
		was = query.Text(e)
	}
	if lead != "blocks" && d.Text != d.Was {
		e, err := query.ParseText(d.Text)
		if err != nil {
			d.Faults = taxonomy.Faults(err)
			return
		}
		if blocks != nil && query.Text(blocks) != was && query.Text(blocks) != query.Text(e) {
			d.Note = "The blocks had been changed too. They said: " + query.Text(blocks)
		}
		d.Root, d.Was, d.Expr = blockOf(e), d.Text, e
		d.Root.number()
		return
	}
	if blocks == nil {
		return
	}
	now := query.Text(blocks)
	said, err := query.ParseText(d.Text)
	if d.Text != d.Was && strings.TrimSpace(d.Text) != "" && (err != nil || query.Text(said) != now) {
		d.Note = "The text had been changed too. It said: " + d.Text
	}
	if err != nil || query.Text(said) != now {
		d.Text = now
	}
	d.Was, d.Expr = d.Text, blocks
}

// blank reports whether nothing was put in yet.
func (d *draft) blank() bool {
	return strings.TrimSpace(d.Text) == "" && d.Root.Kind == "trait" && d.Root.Trait == ""
}

// counted is a number of visitors as the API shows it.
type counted struct {
	Shown string  `json:"shown"`
	Count *uint64 `json:"count"`
}

func (n counted) String() string {
	if n.Count != nil {
		return number(*n.Count)
	}
	return n.Shown
}

// estimate is the API's.
type estimate struct {
	counted
	Eligible counted   `json:"eligible"`
	AsOf     time.Time `json:"as_of"`
	Clauses  []struct {
		Path string `json:"path"`
		What string `json:"what"`
		counted
		Kept *counted `json:"kept"`
	} `json:"clauses"`
	WhyEmpty []query.Reason `json:"why_empty"`
}

// radius is what a change would do, as the API says it.
type radius struct {
	Before       *counted                 `json:"before"`
	After        counted                  `json:"after"`
	Added        counted                  `json:"added"`
	Removed      counted                  `json:"removed"`
	Audiences    []taxonomy.AudienceID    `json:"audiences"`
	Destinations []taxonomy.DestinationID `json:"destinations"`
}

// builderData is the builder's page.
type builderData struct {
	draft
	Path string // of the form
	New  bool
	Tag  string // the version that is changed

	ID, Title, Description, Floor string
	Page                          bool

	Sentence string
	Estimate *estimate
	AsOf     taxonomy.Millis
	Clauses  []clauseRow
	Radius   *radius
	No       *refusal // of what was asked last
	Kept     string   // another's rule that is kept since, if it changed meanwhile
	Traits   []choice
	Choices  [2][]choice // audiences, lists
}

// clauseRow is one part of the rule and what it keeps.
type clauseRow struct {
	What, Count, Kept string
	Gauge             gauge
	Depth             int
}

type choice struct{ Value, Title string }

// builder is the empty page, or that of an audience to change.
func (c *Console) builder(e echo.Context) (*page, error) {
	d := &builderData{draft: draft{Root: newTraitBlock()}, New: param(e, "id") == ""}
	if d.New {
		if t := e.QueryParam("trait"); t != "" {
			d.Root.Trait = t
		}
		return c.builderPage(e, d)
	}
	def, tag, err := c.ruleAudience(e)
	if err != nil {
		return nil, err
	}
	d.take(def)
	d.Tag = tag
	if expr, err := def.Expr(); err == nil {
		d.Text = query.Text(expr)
	}
	return c.builderPage(e, d)
}

// ruleAudience gets an audience that has a rule.
func (c *Console) ruleAudience(e echo.Context) (*audience.Definition, string, error) {
	var def audience.Definition
	h, err := c.get(e, "/audiences/"+url.PathEscape(param(e, "id")), &def)
	if err == nil && def.Kind != audience.KindRule {
		err = errNothing
	}
	if err != nil {
		return nil, "", err
	}
	return &def, h.Get("ETag"), nil
}

func (d *builderData) take(def *audience.Definition) {
	d.ID, d.Title, d.Description, d.Page = string(def.ID), def.Title, def.Description, def.Page
	if def.Floor > 0 {
		d.Floor = strconv.FormatUint(def.Floor, 10)
	}
}

// build takes the form: it brings text and blocks together and counts, and does what
// the button says.
func (c *Console) build(e echo.Context) (*page, error) {
	form := e.Request().PostForm
	d := &builderData{New: param(e, "id") == "", Tag: field(e, "tag"), Page: form.Get("page") != "",
		ID: field(e, "id"), Title: field(e, "title"), Description: field(e, "description"), Floor: field(e, "floor")}
	if !d.New {
		d.ID = param(e, "id")
	}
	clean := func(s string) string { return strings.ReplaceAll(s, "\r\n", "\n") } // as browsers send lines
	d.Text, d.Was = clean(form.Get("text")), clean(form.Get("was"))
	if d.Root = readBlocks(form); d.Root == nil {
		d.Root = newTraitBlock()
	}
	do, lead := form.Get("do"), ""
	if root, ok := d.Root.change(do); ok {
		d.Root, lead = root, "blocks"
	} else if do == "blocks" {
		lead = "blocks"
	}
	d.settle(lead)
	if d.Expr != nil {
		switch do {
		case "save":
			if to, err := c.saveAudience(e, d); err != nil || to != "" {
				if err != nil {
					return nil, err
				}
				return done(e, to)
			}
		case "dry":
			def, no := d.definition(nil)
			if no == nil {
				var r radius
				var err error
				if _, no, err = c.ask(e, http.MethodPost, "/audiences/"+url.PathEscape(cmp.Or(d.ID, "draft"))+"/dry-run", def, &r); err != nil {
					return nil, err
				}
				if no == nil {
					d.Radius = &r
				}
			}
			d.No = no
		}
	} else if do == "save" || do == "dry" {
		d.No = &refusal{Problem: tagserver.Problem{Status: http.StatusUnprocessableEntity, Detail: "The rule is not complete; what is missing stands at its place."}}
	}
	return c.builderPage(e, d)
}

// definition is what the form says, over what is kept: what the form does not show
// stays.
func (d *builderData) definition(kept *audience.Definition) (audience.Definition, *refusal) {
	def := audience.Definition{Kind: audience.KindRule}
	if kept != nil {
		def = *kept
	}
	if d.New && d.ID == "" {
		d.ID = tree.Slug(d.Title)
	}
	def.ID, def.Title, def.Description, def.Page = taxonomy.AudienceID(cmp.Or(d.ID, "draft")), cmp.Or(d.Title, d.ID), d.Description, d.Page
	def.Rule, def.Floor = query.Print(d.Expr), 0
	if d.Floor != "" {
		n, err := strconv.ParseUint(d.Floor, 10, 32)
		if err != nil {
			return def, &refusal{Problem: tagserver.Problem{Status: http.StatusUnprocessableEntity, Detail: "The audience is not valid; see its fields."}, At: map[string]string{"floor": "want a whole number of members, or nothing"}}
		}
		def.Floor = n
	}
	return def, nil
}

// saveAudience keeps the audience and returns where to go, or leaves in d why not.
func (c *Console) saveAudience(e echo.Context, d *builderData) (to string, err error) {
	var kept *audience.Definition
	if !d.New {
		if kept, _, err = c.ruleAudience(e); err != nil {
			return "", err
		}
	}
	def, no := d.definition(kept)
	switch {
	case no != nil:
	case d.Title == "":
		no = &refusal{Problem: tagserver.Problem{Status: http.StatusUnprocessableEntity, Detail: "The audience needs a title."}, At: map[string]string{"title": "say in a few words who they are"}}
	case d.New:
		_, no, err = c.ask(e, http.MethodPost, "/audiences", def, nil)
	default:
		_, no, err = c.ask(e, http.MethodPut, "/audiences/"+url.PathEscape(d.ID), def, nil, "If-Match", d.Tag)
	}
	if err != nil || no == nil {
		return pathOf("audiences", string(def.ID)), err
	}
	d.No = no
	if no.Status == http.StatusPreconditionFailed {
		// Somebody else changed it meanwhile: show what, and let this one go on from there.
		now, tag, err := c.ruleAudience(e)
		if err != nil {
			return "", err
		}
		if expr, err := now.Expr(); err == nil {
			d.Kept = query.Text(expr)
		}
		d.Tag = tag
		no.Detail = "Somebody changed this audience since you opened it. What they kept stands below; save again to put yours in its place."
	}
	return "", nil
}

// builderPage counts the rule and shows it.
func (c *Console) builderPage(e echo.Context, d *builderData) (*page, error) {
	d.Path = base + "/builder"
	title := "New audience"
	if !d.New {
		d.Path, title = pathOf("builder", d.ID), "Change "+cmp.Or(d.Title, d.ID)
	}
	if e.Request().Method == http.MethodGet {
		d.settle("")
		if d.blank() {
			d.Root.Faults = nil // nothing is wrong before anything was typed
		}
	}
	all := d.Root.number()
	if d.Expr != nil {
		d.Sentence = query.Sentence(d.Expr, c.o.Title)
		if err := c.count(e, d, all); err != nil {
			return nil, err
		}
	}
	var err error
	if d.Traits, err = c.traitChoices(e); err != nil {
		return nil, err
	}
	for _, a := range c.o.Definitions.Audiences().All() {
		if string(a.ID) != d.ID || d.New {
			d.Choices[0] = append(d.Choices[0], choice{string(a.ID), a.Title})
		}
		if a.List != "" {
			d.Choices[1] = append(d.Choices[1], choice{string(a.List), a.Title})
		}
	}
	p := &page{Template: "builder", Title: title, Section: base + "/audiences", Data: d}
	if d.No != nil && e.Request().Method == http.MethodPost {
		p.Status = d.No.Status
	}
	if e.Request().Header.Get("HX-Request") != "" {
		p.Status = 0 // what is wrong stands in the part that is taken over
	}
	c.follow(e, p, "htmx")
	return p, nil
}

// count asks how many the rule is true of, and what each part keeps.
func (c *Console) count(e echo.Context, d *builderData, all []*block) error {
	var est estimate
	_, no, err := c.ask(e, http.MethodPost, "/estimates", map[string]any{"rule": json.RawMessage(query.Print(d.Expr))}, &est)
	if err != nil {
		return err
	}
	if no != nil {
		if d.No == nil {
			d.No = no
		}
		return nil
	}
	d.Estimate, d.AsOf = &est, taxonomy.MillisOf(est.AsOf)
	at := map[string]*block{}
	for _, b := range all {
		at[b.Path] = b
	}
	whole := uint64(0)
	for i := range est.Clauses {
		if n := est.Clauses[i].Count; n != nil {
			whole = max(whole, *n)
		}
	}
	for i := range est.Clauses {
		cl := &est.Clauses[i]
		row := clauseRow{What: c.clauseWords(cl.What), Count: cl.String(), Depth: min(4, strings.Count(cl.Path, "[")+strings.Count(cl.Path, "not"))}
		if cl.Kept != nil {
			row.Kept = cl.Kept.String()
		}
		if cl.Count != nil && whole > 0 {
			row.Gauge = shareGauge(float64(*cl.Count) / float64(whole))
		}
		if b := at[strings.TrimPrefix(cl.Path, ".")]; b != nil {
			b.Count, b.Kept = row.Count, row.Kept
		}
		d.Clauses = append(d.Clauses, row)
	}
	return nil
}

// clauseWords is what a part asks, with the title of its category.
func (c *Console) clauseWords(what string) string {
	code, rest, _ := strings.Cut(what, ",")
	if t := c.title(taxonomy.Trait(code)); t != "" {
		return t + "," + rest
	}
	return what
}

// maxChoices bounds how many categories a page offers; the tree has all of them.
const maxChoices = 2000

// traitChoices are the categories of the installation's own taxonomies.
func (c *Console) traitChoices(e echo.Context) ([]choice, error) {
	if c.o.API == nil {
		return nil, nil
	}
	ts, err := c.taxonomies(e)
	if err != nil {
		return nil, err
	}
	var out []choice
	for _, t := range ts {
		if t.Version == 0 {
			continue
		}
		cats, err := every[categoryDoc](c, e, "/taxonomies/"+url.PathEscape(t.ID)+"/categories")
		if err != nil {
			return nil, err
		}
		for _, k := range cats {
			if len(out) == maxChoices {
				return out, nil
			}
			out = append(out, choice{string(k.Trait), k.Title})
		}
	}
	return out, nil
}

// taxonomyDoc is a taxonomy in the API's list; categoryDoc one of its categories.
type (
	taxonomyDoc = document[struct {
		Title   string `json:"title"`
		Version string `json:"version"`
		Segtax  int    `json:"segtax"`
	}]
	categoryDoc struct {
		tree.Category
		Trait     taxonomy.Trait   `json:"trait"`
		Ancestors []taxonomy.Trait `json:"ancestors"`
	}
)

func (c *Console) taxonomies(e echo.Context) ([]taxonomyDoc, error) {
	return every[taxonomyDoc](c, e, "/taxonomies")
}

// extendData is the page that makes a lookalike.
type extendData struct {
	Seed                  audienceRow
	ID, Title, Size, Unit string
	Exclude               string
	WithSeed              bool
	No                    *refusal
}

func (c *Console) seed(e echo.Context) (*extendData, error) {
	id := taxonomy.AudienceID(param(e, "id"))
	gens, err := c.generations(e.Request().Context(), 1)
	if err != nil {
		return nil, err
	}
	rows := c.audienceRows(gens)
	i := slices.IndexFunc(rows, func(r audienceRow) bool { return r.ID == id })
	if i < 0 {
		return nil, errNothing
	}
	return &extendData{Seed: rows[i]}, nil
}

func (c *Console) extend(e echo.Context) (*page, error) {
	d, err := c.seed(e)
	if err != nil {
		return nil, err
	}
	d.ID, d.Title, d.Size, d.Unit = "like-"+string(d.Seed.ID), "Like "+cmp.Or(d.Seed.Title, string(d.Seed.ID)), "5", "share"
	return c.extendPage(d), nil
}

func (c *Console) extendPage(d *extendData) *page {
	p := &page{Template: "extend", Title: "Extend " + cmp.Or(d.Seed.Title, string(d.Seed.ID)), Section: base + "/audiences", Data: d}
	if d.No != nil {
		p.Status = d.No.Status
	}
	return p
}

func (c *Console) extended(e echo.Context) (*page, error) {
	d, err := c.seed(e)
	if err != nil {
		return nil, err
	}
	d.ID, d.Title, d.Size, d.Unit, d.Exclude = field(e, "id"), field(e, "title"), field(e, "size"), field(e, "unit"), field(e, "exclude")
	d.WithSeed = field(e, "with_seed") != ""
	spec := &audience.LookalikeSpec{Seed: d.Seed.ID, WithSeed: d.WithSeed}
	for _, t := range strings.Fields(d.Exclude) {
		spec.Exclude = append(spec.Exclude, taxonomy.Trait(t))
	}
	n, err := strconv.ParseFloat(d.Size, 64)
	switch {
	case err != nil || n <= 0:
		err = errors.New("want a number above 0")
	case d.Unit == "share":
		spec.Share = n / 100
	default:
		spec.Size = uint64(n)
	}
	if err != nil {
		d.No = &refusal{Problem: tagserver.Problem{Status: http.StatusUnprocessableEntity, Detail: "The lookalike is not valid; see its fields."}, At: map[string]string{"lookalike.size": err.Error()}}
		return c.extendPage(d), nil
	}
	def := audience.Definition{ID: taxonomy.AudienceID(d.ID), Title: d.Title, Kind: audience.KindLookalike, Lookalike: spec}
	_, no, err := c.ask(e, http.MethodPost, "/lookalikes", def, nil)
	if err != nil {
		return nil, err
	}
	if d.No = no; no != nil {
		if at := no.At["lookalike.share"]; at != "" {
			no.At["lookalike.size"] = at
		}
		return c.extendPage(d), nil
	}
	return done(e, pathOf("audiences", d.ID))
}

// buildNow builds a generation, so that new audiences have members.
func (c *Console) buildNow(e echo.Context) (*page, error) {
	to := target(field(e, "next"))
	_, no, err := c.ask(e, http.MethodPost, "/generations", nil, nil)
	if err != nil {
		return nil, err
	}
	if no != nil {
		return nil, no
	}
	return done(e, to)
}
