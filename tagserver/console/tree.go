package console

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// treeRoutes are the pages of what can be said of a visitor.
func (c *Console) treeRoutes(admin func(string, func(echo.Context) (*page, error)) tagserver.Route) []tagserver.Route {
	return []tagserver.Route{
		admin("/taxonomies", c.trees), c.form("/taxonomies", c.newTree),
		admin("/taxonomies/:id", c.tree), c.form("/taxonomies/:id", c.changeTree),
		admin("/taxonomies/:id/:category", c.tree), c.form("/taxonomies/:id/:category", c.changeTree),
	}
}

type treesData struct {
	Own, Builtin []taxonomyDoc
	Drafts       []*draftItem
	ID, Title    string
	No           *refusal
}

func (c *Console) trees(e echo.Context) (*page, error) { return c.treesPage(e, &treesData{}) }

func (c *Console) treesPage(e echo.Context, d *treesData) (*page, error) {
	all, err := c.taxonomies(e)
	if err != nil {
		return nil, err
	}
	for _, t := range all {
		if t.Version == 0 {
			d.Builtin = append(d.Builtin, t)
		} else {
			d.Own = append(d.Own, t)
		}
	}
	if d.Drafts, err = c.drafts(e, "taxonomies"); err != nil {
		return nil, err
	}
	p := &page{Template: "trees", Title: "Taxonomies", Section: base + "/taxonomies", Data: d}
	if d.No != nil {
		p.Status = d.No.Status
	}
	return p, nil
}

func (c *Console) newTree(e echo.Context) (*page, error) {
	d := &treesData{ID: field(e, "id"), Title: field(e, "title")}
	id := cmp.Or(d.ID, tree.Slug(d.Title))
	_, no, err := c.ask(e, http.MethodPost, "/taxonomies", tree.Taxonomy{ID: id, Title: d.Title, Categories: []tree.Category{}}, nil)
	if err != nil {
		return nil, err
	}
	if d.No = no; no != nil {
		return c.treesPage(e, d)
	}
	return done(e, pathOf("taxonomies", id))
}

// treeData is the page of a taxonomy or of one of its categories.
type treeData struct {
	Taxonomy tree.Taxonomy
	Tag      string
	Builtin  bool
	At       *nodeRow // nil: the taxonomy itself
	Path     string
	Up       []nodeRow // the ways to a root, one after the other
	Rows     []nodeRow
	Whole    bool // Rows is the whole tree
	Parents  string
	Note     string
	Reach    *audience.Reach
	Rules    []usedBy
	Users    []usedBy // audiences
	Working  []Work
	// Drafted: it is the draft that is shown and changed; Wrong is why it could not be
	// published. Draft is the one that there is, or nil.
	Drafted bool
	Wrong   []tagserver.ProblemError
	Draft   *draftItem

	Edit, Add categoryForm
}

// categoryForm is a category as it was typed.
type categoryForm struct {
	ID, Title, Parents, Note string
	Life, Into               string
	Sensitive                bool
	No                       *refusal
}

// usedBy is who names a category.
type usedBy struct {
	ID, Title, Path string
	Pattern         string // of a rule that may give it, by a property
}

// nodeRow is a category in the tree.
type nodeRow struct {
	tree.Category
	Trait     taxonomy.Trait
	Path      string
	Depth     int
	Below     int // categories, each once
	Inherited bool
	Rules     int
	Users     int
	Reach     string
	Line      *spark
}

// In is the class of its depth.
func (r *nodeRow) In() int { return min(r.Depth, 6) }

// wholeTree is how many places a tree may have to be shown whole; of a larger one a
// level at a time. Each place shows the course of 90 days.
const wholeTree = 60

// maxLines bounds how many categories of a level have their course counted.
const maxLines = 120

func (c *Console) tree(e echo.Context) (*page, error) {
	d, err := c.treeOf(e)
	if err != nil {
		return nil, err
	}
	return c.treePage(e, d)
}

// treeOf reads the taxonomy that the path names, and where in it.
func (c *Console) treeOf(e echo.Context) (*treeData, error) {
	d := &treeData{Drafted: e.QueryParam("draft") != ""}
	draft, err := draftOf[tree.Taxonomy](c, e, "taxonomies", param(e, "id"))
	if err != nil {
		return nil, err
	}
	if draft != nil {
		d.Draft = &draft.draftItem
		d.Draft.Kind = "taxonomies"
	}
	if d.Drafted {
		if draft == nil {
			return nil, errNothing
		}
		d.Taxonomy, d.Tag, d.Wrong = draft.Definition, draft.tag, draft.Faults
	} else {
		h, err := c.get(e, "/taxonomies/"+url.PathEscape(param(e, "id")), &d.Taxonomy)
		if err != nil {
			return nil, err
		}
		d.Tag, d.Builtin = h.Get("ETag"), h.Get("ETag") == `"0"`
	}
	d.Path = d.Home()
	id := param(e, "category")
	if id == "" {
		return d, nil
	}
	i := slices.IndexFunc(d.Taxonomy.Categories, func(k tree.Category) bool { return k.ID == id })
	if i < 0 {
		return nil, errNothing
	}
	k := d.Taxonomy.Categories[i]
	row := d.row(&k, 0)
	d.At, d.Path = &row, row.Path
	d.Edit = categoryForm{ID: k.ID, Title: k.Title, Parents: strings.Join(k.Parents, " "), Note: k.Note, Sensitive: k.Sensitive}
	if k.Life != 0 {
		d.Edit.Life = strconv.Itoa(k.Life)
	}
	return d, nil
}

// Home is the page of the taxonomy, or of its draft.
func (d *treeData) Home() string { return pathOf("taxonomies", d.Taxonomy.ID) + d.mode() }

// mode makes a path that of the draft, if that is what is shown.
func (d *treeData) mode() string {
	if d.Drafted {
		return "?draft=1"
	}
	return ""
}

func (d *treeData) row(k *tree.Category, depth int) nodeRow {
	return nodeRow{Category: *k, Trait: taxonomy.CategoryTrait(d.Taxonomy.ID, k.ID), Depth: depth,
		Path: pathOf("taxonomies", d.Taxonomy.ID) + "/" + url.PathEscape(k.ID) + d.mode()}
}

// treePage lays the tree out, counts, and shows it.
func (c *Console) treePage(e echo.Context, d *treeData) (*page, error) {
	f, err := tree.New(d.Taxonomy)
	if err != nil && d.Drafted {
		f, err = tree.New() // what is wrong with it stands above; nothing is inherited until it is right
	}
	if err != nil {
		return nil, err
	}
	byID := map[string]*tree.Category{}
	below := map[string][]string{} // children in the order in which they stand
	for i := range d.Taxonomy.Categories {
		k := &d.Taxonomy.Categories[i]
		byID[k.ID] = k
		if len(k.Parents) == 0 {
			below[""] = append(below[""], k.ID)
		}
		for _, p := range k.Parents {
			below[p] = append(below[p], k.ID)
		}
	}
	top := ""
	if d.At != nil {
		top = d.At.ID
		for _, t := range f.Ancestors(d.At.Trait) {
			if _, k, ok := f.Category(t); ok {
				d.Up = append(d.Up, d.row(k, 0))
			}
		}
		d.At.Inherited = !d.At.Sensitive && f.Sensitive(d.At.Trait)
	}
	var lay func(id string, depth int, deep bool)
	lay = func(id string, depth int, deep bool) {
		for _, k := range below[id] {
			if len(d.Rows) > 10*wholeTree {
				return
			}
			r := d.row(byID[k], depth)
			r.Inherited, r.Below = !r.Sensitive && f.Sensitive(r.Trait), descendants(below, k)
			d.Rows = append(d.Rows, r)
			if deep {
				lay(k, depth+1, deep)
			}
		}
	}
	lay(top, 0, true)
	if d.Whole = len(d.Rows) <= wholeTree; !d.Whole {
		d.Rows = nil
		lay(top, 0, false)
	}
	if err := c.treeUsers(e, d); err != nil {
		return nil, err
	}
	if err := c.treeReach(e, d); err != nil {
		return nil, err
	}
	if c.o.Working != nil {
		d.Working = c.o.Working(e.Request().Context())
	}
	title := cmp.Or(d.Taxonomy.Title, d.Taxonomy.ID)
	if d.At != nil {
		title = cmp.Or(d.At.Title, d.At.ID)
	}
	p := &page{Template: "tree", Title: title, Section: base + "/taxonomies", Data: d}
	for _, no := range []*refusal{d.Edit.No, d.Add.No} {
		if no != nil {
			p.Status = no.Status
		}
	}
	return p, nil
}

// descendants counts what is below a category, each once however many paths lead to
// it.
func descendants(below map[string][]string, id string) int {
	seen := map[string]bool{}
	var walk func(string)
	walk = func(id string) {
		for _, k := range below[id] {
			if !seen[k] {
				seen[k] = true
				walk(k)
			}
		}
	}
	walk(id)
	return len(seen)
}

// treeUsers finds the rules that give the categories that are shown, and the audiences
// that ask for them.
func (c *Console) treeUsers(e echo.Context, d *treeData) error {
	all, err := every[document[rules.Rule]](c, e, "/rules")
	if err != nil {
		return err
	}
	shown := map[taxonomy.Trait][]*nodeRow{}
	for i := range d.Rows {
		shown[d.Rows[i].Trait] = append(shown[d.Rows[i].Trait], &d.Rows[i])
	}
	for _, r := range all {
		seen := map[taxonomy.Trait]bool{}
		for _, then := range r.Definition.Then {
			for _, row := range shown[taxonomy.Trait(then)] {
				row.Rules++
			}
			if d.At == nil {
				continue
			}
			fixed, _, pattern := strings.Cut(then, "{")
			if seen[d.At.Trait] || then != string(d.At.Trait) && !(pattern && strings.HasPrefix(string(d.At.Trait), fixed)) {
				continue
			}
			seen[d.At.Trait] = true
			u := usedBy{ID: r.ID, Title: r.Definition.Title, Path: pathOf("editor", r.ID)}
			if pattern {
				u.Pattern = then
			}
			d.Rules = append(d.Rules, u)
		}
	}
	for _, a := range c.o.Definitions.Audiences().All() {
		expr, err := a.Expr()
		if err != nil || expr == nil {
			continue // its own page says so
		}
		for _, t := range query.Traits(expr) {
			for _, row := range shown[t] {
				row.Users++
			}
			if d.At != nil && t == d.At.Trait {
				d.Users = append(d.Users, usedBy{ID: string(a.ID), Title: a.Title, Path: pathOf("audiences", string(a.ID))})
			}
		}
	}
	return nil
}

// treeReach counts the visitors of what is shown.
func (c *Console) treeReach(e echo.Context, d *treeData) error {
	if c.o.Reach == nil || len(d.Rows) == 0 && d.At == nil {
		return nil
	}
	var rows []*nodeRow
	if d.At != nil {
		rows = append(rows, d.At)
	}
	for i := range d.Rows[:min(maxLines, len(d.Rows))] {
		rows = append(rows, &d.Rows[i])
	}
	var traits []taxonomy.Trait
	for _, r := range rows {
		traits = append(traits, r.Trait)
	}
	reach, err := c.o.Reach(e.Request().Context(), traits)
	if err != nil {
		return err
	}
	d.Reach = reach
	for i, r := range rows {
		r.Reach, r.Line = shown(reach.Courses[i].Visitors), newLine(reach.Courses[i].Days[:], "days")
	}
	return nil
}

// changeTree adds, changes or deletes a category.
func (c *Console) changeTree(e echo.Context) (*page, error) {
	d, err := c.treeOf(e)
	if err != nil {
		return nil, err
	}
	f := categoryForm{ID: field(e, "id"), Title: field(e, "title"), Parents: field(e, "parents"), Note: field(e, "note"), Life: field(e, "life"), Into: field(e, "into"), Sensitive: field(e, "sensitive") != ""}
	k := tree.Category{ID: f.ID, Title: f.Title, Sensitive: f.Sensitive, Note: f.Note, Parents: strings.FieldsFunc(f.Parents, func(r rune) bool { return r == ' ' || r == ',' })}
	if f.Life != "" {
		if k.Life, err = strconv.Atoi(f.Life); err != nil {
			k.Life = -1 // no number of days: the answer says so
		}
	}
	if d.Drafted {
		return c.changeDraft(e, d, field(e, "do"), k, f)
	}
	of := "/taxonomies/" + url.PathEscape(d.Taxonomy.ID)
	home := pathOf("taxonomies", d.Taxonomy.ID)
	switch do := field(e, "do"); {
	case do == "add":
		k.ID = cmp.Or(k.ID, tree.Slug(k.Title), "new")
		_, f.No, err = c.ask(e, http.MethodPut, of+"/categories/"+url.PathEscape(k.ID), k, nil, "If-None-Match", "*")
		if err == nil && f.No == nil {
			return done(e, home+"/"+url.PathEscape(k.ID))
		}
		d.Add = f
	case do == "save" && d.At != nil:
		k.ID, k.Tiers, k.Archived, k.Merged = d.At.ID, d.At.Tiers, d.At.Archived, d.At.Merged
		_, f.No, err = c.ask(e, http.MethodPut, of+"/categories/"+url.PathEscape(k.ID), k, nil, "If-Match", field(e, "tag"))
		if err == nil && f.No == nil {
			return done(e, d.At.Path)
		}
		f.ID = d.At.ID
		d.Edit = f
	case do == "delete" && d.At != nil:
		_, f.No, err = c.ask(e, http.MethodDelete, of+"/categories/"+url.PathEscape(d.At.ID), nil, nil, "If-Match", field(e, "tag"))
		if err == nil && f.No == nil {
			return done(e, home)
		}
		d.Edit.No = f.No
	case (do == "archive" || do == "restore") && d.At != nil:
		_, f.No, err = c.ask(e, http.MethodPost, of+"/categories/"+url.PathEscape(d.At.ID)+"/"+do, struct{}{}, nil, "If-Match", field(e, "tag"))
		if err == nil && f.No == nil {
			return done(e, d.At.Path)
		}
		d.Edit.No = f.No
	case do == "merge" && d.At != nil:
		_, f.No, err = c.ask(e, http.MethodPost, of+"/categories/"+url.PathEscape(d.At.ID)+"/merge", map[string]string{"into": f.Into}, nil, "If-Match", field(e, "tag"))
		if err == nil && f.No == nil {
			return done(e, home+"/"+url.PathEscape(f.Into))
		}
		d.Edit.No, d.Edit.Into = f.No, f.Into
	case do == "drop" && d.At == nil:
		_, f.No, err = c.ask(e, http.MethodDelete, of, nil, nil, "If-Match", field(e, "tag"))
		if err == nil && f.No == nil {
			return done(e, base+"/taxonomies")
		}
		d.Edit.No = f.No
	default:
		return nil, errNothing
	}
	if err != nil {
		return nil, err
	}
	return c.treePage(e, d)
}
