package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// Categories are moved (by a change of their parents), merged, archived and
// restored. Each is as if it had always been so (R18), but for an archived one: that
// takes in nothing from a moment on, and keeps what it had.

type (
	categoryTry struct {
		ID       string `path:"id" maxLength:"64"`
		Category string `path:"category" maxLength:"64"`
		Prefer   string `header:"Prefer" maxLength:"256" doc:"respond-async, as of a plan."`
		RawBody  []byte `contentType:"application/json"`
	}
	categoryDo struct {
		ID       string `path:"id" maxLength:"64"`
		Category string `path:"category" maxLength:"64"`
		IfMatch  string `header:"If-Match" maxLength:"256" doc:"The ETag of the taxonomy."`
		RawBody  []byte `contentType:"application/json"`
	}
	mergeBody struct {
		Into string `json:"into" doc:"The category of the same taxonomy that this one becomes."`
	}
	archiveBody struct {
		At taxonomy.Moment `json:"at,omitzero" doc:"From when on, by the event's own time, nothing comes into it. Absent: from now on."`
	}
	restoreBody struct{}
	mergedOut   struct {
		ETag      string `header:"ETag" doc:"Of the taxonomy."`
		Operation string `header:"Operation-Location"`
		Body      mergedView
	}
	mergedView struct {
		Changes []changeView `json:"changes" doc:"The taxonomy, and every rule and audience that named the category and now names the other."`
	}
)

// mayRestructure is the right to what is done to categories as wholes.
var mayRestructure = tagserver.May("taxonomies:write", tagserver.OfAll)

// restructuring registers what is done to categories as wholes.
func (a *API) restructuring() {
	const path = "/taxonomies/{id}/categories/{category}"
	may := mayRestructure
	failures := []int{400, 403, 404, 409, 412, 413, 415, 422, 428, 503}
	trying := []int{403, 404, 409, 413, 415, 422, 503}
	operatePlan(a, op{method: http.MethodPost, path: path + "/dry-run", tag: "taxonomies", right: may, ok: 200, errors: trying, body: tree.Category{}, slow: true,
		summary: "Say what adding, changing or moving a category would do, without doing it"}, a.tryCategory)
	operate(a, op{method: http.MethodPost, path: path + "/merge", tag: "taxonomies", right: may, ok: 200, errors: failures, body: mergeBody{}, slow: true,
		summary: "Make a category part of another: all that named it names the other, as if it had always been so"}, a.mergeCategory)
	operatePlan(a, op{method: http.MethodPost, path: path + "/merge/dry-run", tag: "taxonomies", right: may, ok: 200, errors: trying, body: mergeBody{}, slow: true,
		summary: "Say what merging a category into another would do, without doing it"}, a.tryMerge)
	operate(a, op{method: http.MethodPost, path: path + "/archive", tag: "taxonomies", right: may, ok: 200, errors: failures, body: archiveBody{},
		summary: "Archive a category that nothing uses: what was in it stays for its life, and nothing more comes in"}, a.archiveCategory)
	operate(a, op{method: http.MethodPost, path: path + "/restore", tag: "taxonomies", right: may, ok: 200, errors: failures, body: restoreBody{},
		summary: "Restore an archived category, as if it had never been archived"}, a.restoreCategory)
}

// there is edit for a category that must be there.
func (a *API) there(ctx context.Context, id, category string) (*edit, error) {
	e, err := a.edit(ctx, id, category)
	if err == nil && e.at < 0 {
		err = newProblem(http.StatusNotFound, codeNotFound, "%s has no category %q", e.r.name(id), cut(category))
	}
	return e, err
}

func (a *API) tryCategory(ctx context.Context, in *categoryTry) (*planOut, error) {
	c, err := readCategory(in.RawBody, in.Category)
	if err != nil {
		return nil, err
	}
	e, err := a.edit(ctx, in.ID, in.Category)
	if err != nil {
		return nil, err
	}
	e.put(*c)
	d, err := draftOf(e.w, e.r, e.t, "body")
	if err != nil {
		return nil, a.fail("try "+e.r.name(in.ID), err)
	}
	return a.preview(ctx, in.Prefer, mayRestructure, &set{now: e.w}, []*draft{d}, "try "+e.r.name(in.ID), nil)
}

// readCategory reads a category that is sent to its own path.
func readCategory(raw []byte, id string) (*tree.Category, error) {
	c := new(tree.Category)
	if faults := decode("body", raw, c, nil); len(faults) > 0 {
		return nil, invalid("the category", faults)
	}
	if c.ID = cmp.Or(c.ID, id); c.ID != id {
		return nil, invalid("the category", []tagserver.ProblemError{fault("body.id", "%q is not the ID in the path, %q", cut(c.ID), id)})
	}
	return c, nil
}

// put puts the category in its place, or beside the others.
func (e *edit) put(c tree.Category) {
	if e.at >= 0 {
		e.t.Categories[e.at] = c
	} else {
		e.at = len(e.t.Categories)
		e.t.Categories = append(e.t.Categories, c)
	}
}

// merging is the set that merges a category of e into another.
func (a *API) merging(e *edit, raw []byte) (*set, []*draft, error) {
	var b mergeBody
	faults := decode("body", raw, &b, nil)
	into := slices.IndexFunc(e.t.Categories, func(c tree.Category) bool { return c.ID == b.Into })
	from := e.t.Categories[e.at]
	f, err := e.w.forest(nil, "")
	if err != nil {
		return nil, nil, err
	}
	was, is := taxonomy.CategoryTrait(e.t.ID, from.ID), taxonomy.CategoryTrait(e.t.ID, b.Into)
	switch {
	case len(faults) > 0:
	case into < 0:
		faults = append(faults, fault("body.into", "%s has no category %q", e.r.name(e.t.ID), cut(b.Into)))
	case into == e.at:
		faults = append(faults, fault("body.into", "is the category itself"))
	case slices.Contains(f.Ancestors(is), was):
		faults = append(faults, fault("body.into", "%q is below %q; merge it the other way round, or move it first", b.Into, from.ID))
	case e.t.Categories[into].Archived != 0:
		faults = append(faults, fault("body.into", "%q is archived; restore it first", b.Into))
	}
	if len(faults) > 0 {
		return nil, nil, invalid("the merge", faults)
	}
	to := &e.t.Categories[into]
	to.Merged = append(slices.Clone(to.Merged), append([]string{from.ID}, from.Merged...)...)
	// Nothing is read for longer, or called less than it was.
	to.Sensitive = to.Sensitive || f.Sensitive(was)
	if n, ok := f.Lives()[was]; ok && (to.Life == 0 || n < to.Life) {
		to.Life = n
	}
	for i := range e.t.Categories {
		c := &e.t.Categories[i]
		c.Parents = renamed(c.Parents, from.ID, b.Into)
	}
	e.t.Categories = slices.Delete(e.t.Categories, e.at, e.at+1)

	d, err := draftOf(e.w, e.r, e.t, "taxonomies/"+e.t.ID)
	if err != nil {
		return nil, nil, err
	}
	drafts := []*draft{d}
	all, err := load[rules.Rule](e.w, defs.Rule)
	if err != nil {
		return nil, nil, err
	}
	for i := range all {
		r := &all[i]
		if !slices.Contains(r.Then, string(was)) {
			continue
		}
		r.Then = renamed(r.Then, string(was), string(is))
		if d, err = draftOf(e.w, classifierRules(), r, "rules/"+r.ID); err != nil {
			return nil, nil, err
		}
		drafts = append(drafts, d)
	}
	now := func(t taxonomy.Trait) taxonomy.Trait {
		if t == was {
			return is
		}
		return t
	}
	audiences, err := load[audience.Definition](e.w, defs.Audience)
	if err != nil {
		return nil, nil, err
	}
	for i := range audiences {
		x := &audiences[i]
		changed := false
		if expr, err := x.Expr(); err == nil && len(x.Rule) > 0 {
			if expr, changed = query.Rename(expr, now); changed {
				x.Rule = query.Print(expr)
			}
		}
		if x.Lookalike != nil && slices.Contains(x.Lookalike.Exclude, was) {
			like := *x.Lookalike
			like.Exclude = renamed(like.Exclude, was, is)
			x.Lookalike, changed = &like, true
		}
		if !changed {
			continue
		}
		if d, err = draftOf(e.w, a.audiences("audiences", "audience", nil), x, "audiences/"+string(x.ID)); err != nil {
			return nil, nil, err
		}
		drafts = append(drafts, d)
	}
	return &set{now: e.w}, drafts, nil
}

// renamed is a list with one of it called otherwise, each once.
func renamed[E comparable](list []E, was, is E) []E {
	if !slices.Contains(list, was) {
		return list
	}
	var out []E
	for _, x := range list {
		if x == was {
			x = is
		}
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

func (a *API) tryMerge(ctx context.Context, in *categoryTry) (*planOut, error) {
	e, err := a.there(ctx, in.ID, in.Category)
	if err != nil {
		return nil, err
	}
	what := "try to merge a category of " + e.r.name(in.ID)
	s, drafts, err := a.merging(e, in.RawBody)
	if err != nil {
		return nil, a.fail(what, err)
	}
	return a.preview(ctx, in.Prefer, mayRestructure, s, drafts, what, nil)
}

func (a *API) mergeCategory(ctx context.Context, in *categoryDo) (*mergedOut, error) {
	a.changing.Lock()
	defer a.changing.Unlock()
	e, err := a.there(ctx, in.ID, in.Category)
	if err != nil {
		return nil, err
	}
	what := "merge a category of " + e.r.name(in.ID)
	if err := precondition(e.r.name(in.ID), in.IfMatch, e.version); err != nil {
		return nil, err
	}
	s, drafts, err := a.merging(e, in.RawBody)
	if err == nil {
		err = s.lead(drafts)
	}
	if err == nil {
		err = s.check(a.definables(), drafts)
	}
	if err == nil {
		err = s.compare(drafts)
	}
	if err == nil {
		err = a.applySet(ctx, s)
	}
	if errors.Is(err, retention.ErrConflict) {
		return nil, newProblem(http.StatusPreconditionFailed, codeChanged, "%s: it was changed meanwhile; read it again", what)
	}
	if err != nil {
		return nil, a.fail(what, err)
	}
	if err := a.changed(ctx, what); err != nil {
		return nil, err
	}
	out := &mergedOut{Operation: a.follows(ctx, defs.Taxonomy), Body: mergedView{s.shown}}
	for i := range s.shown {
		doc, _ := a.o.Defs.Snapshot().Get(s.changes[i].Kind, s.changes[i].ID)
		s.shown[i].Version = doc.Version
		if s.changes[i].Kind == defs.Taxonomy {
			out.ETag = etag(doc.Version)
		}
	}
	return out, nil
}

func (a *API) archiveCategory(ctx context.Context, in *categoryDo) (*categoryOut, error) {
	var b archiveBody
	if faults := decode("body", in.RawBody, &b, nil); len(faults) > 0 {
		return nil, invalid("the archiving", faults)
	}
	if b.At == 0 {
		b.At = taxonomy.Moment(a.o.Now())
	}
	return a.date(ctx, in, b.At)
}

func (a *API) restoreCategory(ctx context.Context, in *categoryDo) (*categoryOut, error) {
	if faults := decode("body", in.RawBody, &restoreBody{}, nil); len(faults) > 0 {
		return nil, invalid("the restoring", faults)
	}
	return a.date(ctx, in, 0)
}

// date archives a category from a moment on, or restores it.
func (a *API) date(ctx context.Context, in *categoryDo, at taxonomy.Moment) (*categoryOut, error) {
	a.changing.Lock()
	defer a.changing.Unlock()
	e, err := a.there(ctx, in.ID, in.Category)
	if err != nil {
		return nil, err
	}
	if err := precondition(e.r.name(in.ID), in.IfMatch, e.version); err != nil {
		return nil, err
	}
	c := &e.t.Categories[e.at]
	if at != 0 {
		var below []tagserver.ProblemError
		for _, x := range e.t.Categories {
			if slices.Contains(x.Parents, c.ID) && (x.Archived == 0 || x.Archived > at) {
				below = append(below, fault(fmt.Sprintf("taxonomies/%s/categories/%s", in.ID, x.ID), "is below it and not archived by then"))
			}
		}
		if len(below) > 0 {
			return nil, inUse(fmt.Sprintf("category %q", in.Category), below)
		}
	}
	c.Archived = at
	out := &categoryOut{Status: http.StatusOK, Body: *c}
	if out.ETag, err = a.keepEdit(ctx, e); err != nil {
		return nil, err
	}
	out.Operation = a.follows(ctx, defs.Taxonomy)
	return out, nil
}

// usersOfArchived says what names a category that is archived in t: nothing may,
// since nothing comes into it any more.
func (w *world) usersOfArchived(t *tree.Taxonomy) (users []tagserver.ProblemError, err error) {
	is := map[taxonomy.Trait]bool{}
	for i := range t.Categories {
		if c := &t.Categories[i]; c.Archived != 0 {
			for _, id := range append([]string{c.ID}, c.Merged...) {
				is[taxonomy.CategoryTrait(t.ID, id)] = true
			}
		}
	}
	if len(is) == 0 {
		return nil, nil
	}
	all, err := load[rules.Rule](w, defs.Rule)
	if err != nil {
		return nil, err
	}
	for i := range all {
		for _, then := range all[i].Then {
			if is[taxonomy.Trait(then)] {
				users = append(users, fault("rules/"+all[i].ID, "puts events into %s", then))
			}
		}
	}
	c, err := w.audiences()
	if err != nil {
		return nil, err
	}
	for _, d := range c.All() {
		for _, x := range traitsOf(c, d.ID) {
			if is[x.Trait] {
				users = append(users, fault("audiences/"+string(d.ID), "names %s in its rule", x.Trait))
			}
		}
	}
	return users, nil
}

// archived returns the first of traits that is an archived category, "" if none is.
func (w *world) archived(traits []taxonomy.Trait) (taxonomy.Trait, error) {
	f, err := w.forest(nil, "")
	if err != nil || !f.Archives() {
		return "", err
	}
	for _, t := range traits {
		if i, ok := f.Index(t); ok && f.Archived(i) != 0 {
			return t, nil
		}
	}
	return "", nil
}
