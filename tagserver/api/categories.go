package api

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"

	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

type (
	// categoryView is a category with what follows from its place.
	categoryView struct {
		tree.Category
		Trait     taxonomy.Trait   `json:"trait" doc:"What rules and audiences call it."`
		Ancestors []taxonomy.Trait `json:"ancestors"`
	}
	categoriesIn struct {
		ID     string `path:"id" maxLength:"64"`
		Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
		Cursor string `query:"cursor" maxLength:"256"`
	}
	categoriesOut struct {
		ETag string `header:"ETag" doc:"Of the taxonomy."`
		Link string `header:"Link"`
		Body page[categoryView]
	}
	categoryPut struct {
		ID          string `path:"id" maxLength:"64"`
		Category    string `path:"category" maxLength:"64"`
		IfMatch     string `header:"If-Match" maxLength:"256" doc:"The ETag of the taxonomy."`
		IfNoneMatch string `header:"If-None-Match" maxLength:"256" doc:"*, to add it if it is not there."`
		RawBody     []byte `contentType:"application/json"`
	}
	categoryDelete struct {
		ID       string `path:"id" maxLength:"64"`
		Category string `path:"category" maxLength:"64"`
		IfMatch  string `header:"If-Match" maxLength:"256" doc:"The ETag of the taxonomy."`
	}
	categoryOut struct {
		Status int
		ETag   string `header:"ETag" doc:"Of the taxonomy."`
		// Operation brings the change into force.
		Operation string `header:"Operation-Location"`
		Body      tree.Category
	}
	versionOut struct {
		ETag      string `header:"ETag" doc:"Of the taxonomy."`
		Operation string `header:"Operation-Location"`
	}
)

// categories registers the categories of a taxonomy. They are parts of its
// document: their version is the taxonomy's.
func (a *API) categories() {
	const path = "/taxonomies/{id}/categories"
	operate(a, op{method: http.MethodGet, path: path, tag: "taxonomies", right: tagserver.May("taxonomies:read", tagserver.OfCommon), ok: 200, errors: []int{400, 404}, summary: "List the categories of a taxonomy"}, a.listCategories)
	operate(a, op{method: http.MethodPut, path: path + "/{category}", tag: "taxonomies", right: tagserver.May("taxonomies:write", tagserver.OfAll), ok: 200, errors: []int{400, 403, 404, 409, 412, 413, 415, 422, 428, 503}, body: tree.Category{}, summary: "Add or change a category"}, a.putCategory)
	operate(a, op{method: http.MethodDelete, path: path + "/{category}", tag: "taxonomies", right: tagserver.May("taxonomies:write", tagserver.OfAll), ok: 204, errors: []int{400, 403, 404, 409, 412, 428, 503}, summary: "Delete a category"}, a.deleteCategory)
}

func (a *API) listCategories(ctx context.Context, in *categoriesIn) (*categoriesOut, error) {
	r := a.taxonomies()
	t, version, err := r.find(a.here(ctx), in.ID)
	if err != nil {
		return nil, a.fail("list the categories of "+r.name(in.ID), err)
	}
	f, err := tree.New(*t)
	if err != nil {
		return nil, a.fail("list the categories of "+r.name(in.ID), err)
	}
	all := slices.Clone(t.Categories)
	slices.SortFunc(all, func(x, y tree.Category) int { return cmp.Compare(x.ID, y.ID) })
	list, err := paged("/taxonomies/"+in.ID+"/categories", &listIn{in.Limit, in.Cursor}, all, func(c *tree.Category) string { return c.ID })
	if err != nil {
		return nil, err
	}
	out := &categoriesOut{ETag: etag(version), Link: list.Link, Body: page[categoryView]{Items: []categoryView{}, Next: list.Body.Next}}
	for _, c := range list.Body.Items {
		v := categoryView{Category: c, Trait: taxonomy.CategoryTrait(t.ID, c.ID)}
		v.Ancestors = append([]taxonomy.Trait{}, f.Ancestors(v.Trait)...)
		v.Sensitive = f.Sensitive(v.Trait)
		out.Body.Items = append(out.Body.Items, v)
	}
	return out, nil
}

// edit is a taxonomy that is about to change.
type edit struct {
	w       *world
	r       resource[tree.Taxonomy, taxonomyView]
	t       *tree.Taxonomy
	version uint64
	at      int // of the category, -1 if it is not there
}

// edit finds the taxonomy and category of a change. a.changing is held.
func (a *API) edit(ctx context.Context, id, category string) (*edit, error) {
	e := &edit{r: a.taxonomies()}
	var err error
	if e.w, err = a.world(ctx); err == nil {
		if err = e.r.notBuiltin(id); err == nil {
			e.t, e.version, err = e.r.find(e.w, id)
		}
	}
	if err != nil {
		return nil, a.fail("change "+e.r.name(id), err)
	}
	e.t.Categories = slices.Clone(e.t.Categories)
	e.at = slices.IndexFunc(e.t.Categories, func(c tree.Category) bool { return c.ID == category })
	return e, nil
}

func (a *API) putCategory(ctx context.Context, in *categoryPut) (*categoryOut, error) {
	c, err := readCategory(in.RawBody, in.Category)
	if err != nil {
		return nil, err
	}
	a.changing.Lock()
	defer a.changing.Unlock()
	e, err := a.edit(ctx, in.ID, in.Category)
	if err != nil {
		return nil, err
	}
	out := &categoryOut{Status: http.StatusOK, Body: *c}
	switch {
	case in.IfNoneMatch == "*" && in.IfMatch == "":
		if e.at >= 0 {
			return nil, newProblem(http.StatusPreconditionFailed, codeChanged, "there is a category %q already", in.Category)
		}
	case in.IfNoneMatch != "":
		return nil, newProblem(http.StatusBadRequest, codeBadRequest, "send either If-None-Match: * to add the category, or If-Match with the taxonomy's ETag")
	default:
		if err := precondition(e.r.name(in.ID), in.IfMatch, e.version); err != nil {
			return nil, err
		}
	}
	if e.at < 0 {
		out.Status = http.StatusCreated
	}
	e.put(*c)
	if out.ETag, err = a.keepEdit(ctx, e); err != nil {
		return nil, err
	}
	out.Operation = a.follows(ctx, defs.Taxonomy)
	return out, nil
}

func (a *API) deleteCategory(ctx context.Context, in *categoryDelete) (*versionOut, error) {
	a.changing.Lock()
	defer a.changing.Unlock()
	e, err := a.edit(ctx, in.ID, in.Category)
	if err != nil {
		return nil, err
	}
	if e.at < 0 {
		return nil, newProblem(http.StatusNotFound, codeNotFound, "%s has no category %q", e.r.name(in.ID), cut(in.Category))
	}
	if err := precondition(e.r.name(in.ID), in.IfMatch, e.version); err != nil {
		return nil, err
	}
	var children []tagserver.ProblemError
	for _, c := range e.t.Categories {
		if slices.Contains(c.Parents, in.Category) {
			children = append(children, fault(fmt.Sprintf("taxonomies/%s/categories/%s", in.ID, c.ID), "is below it"))
		}
	}
	if len(children) > 0 {
		return nil, inUse(fmt.Sprintf("category %q", in.Category), children)
	}
	e.t.Categories = slices.Delete(e.t.Categories, e.at, e.at+1)
	tag, err := a.keepEdit(ctx, e)
	if err != nil {
		return nil, err
	}
	return &versionOut{tag, a.follows(ctx, defs.Taxonomy)}, nil
}

// keepEdit checks and keeps the taxonomy. Faults of the category are placed in
// the body that was sent, which is the category alone.
func (a *API) keepEdit(ctx context.Context, e *edit) (string, error) {
	what := "keep " + e.r.name(e.t.ID)
	if err := e.r.check(e.w, e.t, e.t); err != nil {
		own := fmt.Sprintf("categories[%d]", e.at)
		faults, ok := faultsOf("", err)
		if !ok {
			return "", a.fail(what, err)
		}
		for i := range faults {
			f := &faults[i]
			if rest, ok := cutPlace(f.Location, own); ok {
				f.Location = under("body", rest)
			} else {
				f.Location = "taxonomies/" + e.t.ID + "." + f.Location
			}
		}
		return "", invalid("the category", faults)
	}
	kept, err := a.keep(ctx, defs.Taxonomy, e.t.ID, what, e.t, e.version)
	return etag(kept), err
}

func cutPlace(location, prefix string) (string, bool) {
	if len(location) < len(prefix) || location[:len(prefix)] != prefix {
		return "", false
	}
	rest := location[len(prefix):]
	if rest != "" && rest[0] == '.' {
		rest = rest[1:]
	}
	return rest, true
}
