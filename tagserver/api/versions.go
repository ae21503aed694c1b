package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

type (
	// userView is what names a thing.
	userView struct {
		Kind string `json:"kind" doc:"The list that it stands in, such as audiences."`
		ID   string `json:"id"`
		Why  string `json:"why"`
	}
	usageView struct {
		Users []userView `json:"users" doc:"What names it: as long as there is any, it cannot be deleted."`
	}
	versionIn struct {
		ID      string `path:"id" maxLength:"64"`
		Version uint64 `path:"version" minimum:"1"`
	}
	diffIn struct {
		ID   string `path:"id" maxLength:"64"`
		From uint64 `query:"from" minimum:"1" doc:"A version; absent: the one before to."`
		To   uint64 `query:"to" minimum:"1" doc:"A version; absent: the present one."`
	}
	differenceView struct {
		Field  string          `json:"field" doc:"Its place, such as origins[1]."`
		Before json.RawMessage `json:"before,omitempty" doc:"Absent if it was not there."`
		After  json.RawMessage `json:"after,omitempty" doc:"Absent if it is not there."`
	}
	diffView struct {
		From   uint64           `json:"from"`
		To     uint64           `json:"to"`
		Fields []differenceView `json:"fields"`
		Says   []string         `json:"says,omitempty" doc:"Of rules and taxonomies: what differs in plain English, the first 200 sentences."`
	}
	rollbackIn struct {
		ID      string `path:"id" maxLength:"64"`
		IfMatch string `header:"If-Match" maxLength:"256" doc:"The ETag that was read."`
		RawBody []byte `contentType:"application/json"`
	}
	rollbackBody struct {
		Version uint64 `json:"version" doc:"The former version whose definition shall be the present one."`
	}
)

// versionItem is a version of a document, as it was.
type versionItem[R any] struct {
	Version    uint64    `json:"version"`
	Changed    time.Time `json:"changed"`
	Definition R         `json:"definition"`
}

// versions registers the history of a resource, and who uses it.
func versions[T, R any](a *API, r resource[T, R]) {
	read, write := r.rights()
	one := "/" + r.path + "/{id}"
	operate(a, op{method: http.MethodGet, path: one + "/usage", tag: r.path, right: read, ok: 200, errors: []int{404}, summary: "Say what names " + article(r.one)},
		func(ctx context.Context, in *idIn) (*bodyOut[usageView], error) {
			w := a.here(ctx)
			t, _, err := r.find(w, in.ID)
			if err != nil {
				return nil, a.fail("find "+r.name(in.ID), err)
			}
			v := &bodyOut[usageView]{usageView{Users: []userView{}}}
			if r.users == nil {
				return v, nil
			}
			users, err := r.users(w, t)
			if err != nil {
				return nil, a.fail("find the users of "+r.name(in.ID), err)
			}
			v.Body = w.usage(users)
			return v, nil
		})
	operate(a, op{method: http.MethodGet, path: one + "/versions", tag: r.path, right: read, ok: 200, errors: []int{400, 404, 503}, summary: "List the versions of " + article(r.one) + ", newest first"},
		func(ctx context.Context, in *listOfIn) (*listOut[versionItem[R]], error) {
			docs, err := r.history(ctx, a, in.ID)
			if err != nil {
				return nil, err
			}
			all := []versionItem[R]{}
			for _, d := range slices.Backward(docs) {
				t, err := r.read(&d)
				if err != nil {
					return nil, a.fail("list the versions of "+r.name(in.ID), err)
				}
				all = append(all, versionItem[R]{d.Version, d.Changed.Time(), r.inList(t)})
			}
			return pagedBy("/"+r.path+"/"+in.ID+"/versions", &listIn{in.Limit, in.Cursor}, all, func(v *versionItem[R]) string { return strconv.FormatUint(v.Version, 10) })
		})
	operate(a, op{method: http.MethodGet, path: one + "/versions/{version}", tag: r.path, right: read, ok: 200, errors: []int{404, 422, 503}, summary: "Get a version of " + article(r.one)},
		func(ctx context.Context, in *versionIn) (*bodyOut[versionItem[R]], error) {
			d, t, err := r.version(ctx, a, in.ID, in.Version)
			if err != nil {
				return nil, err
			}
			return &bodyOut[versionItem[R]]{versionItem[R]{d.Version, d.Changed.Time(), r.show(t, "")}}, nil
		})
	operate(a, op{method: http.MethodGet, path: one + "/diff", tag: r.path, right: read, ok: 200, errors: []int{404, 422, 503}, summary: "Say what differs between two versions of " + article(r.one)},
		func(ctx context.Context, in *diffIn) (*bodyOut[diffView], error) { return r.diff(ctx, a, in) })
	operate(a, op{method: http.MethodPost, path: one + "/rollback", tag: r.path, right: write, ok: 200, errors: []int{400, 403, 404, 409, 412, 413, 415, 422, 428, 503}, body: rollbackBody{},
		summary: "Make a former version of " + article(r.one) + " the present one"},
		func(ctx context.Context, in *rollbackIn) (*docOut[R], error) { return r.rollback(ctx, a, in) })
}

// usage shows users, without another's names.
func (w *world) usage(users []tagserver.ProblemError) usageView {
	v := usageView{Users: []userView{}}
	for _, u := range w.ownUsers(users) {
		kind, id, _ := strings.Cut(u.Location, "/")
		id, _, _ = strings.Cut(id, ".")
		one := userView{kind, id, u.Message}
		if !slices.Contains(v.Users, one) {
			v.Users = append(v.Users, one)
		}
	}
	return v
}

// history returns all versions that a caller may see: those of what it sees now.
func (r *resource[T, R]) history(ctx context.Context, a *API, id string) ([]defs.Doc, error) {
	if err := meets(ctx, a, *r, id); err != nil {
		return nil, err
	}
	docs, err := a.o.Defs.History(ctx, r.kind, id)
	if err != nil {
		return nil, a.fail("read the versions of "+r.name(id), err)
	}
	return docs, nil // of what is built in: none
}

func (r *resource[T, R]) version(ctx context.Context, a *API, id string, version uint64) (*defs.Doc, *T, error) {
	docs, err := r.history(ctx, a, id)
	if err != nil {
		return nil, nil, err
	}
	for i := range docs {
		if docs[i].Version == version {
			t, err := r.read(&docs[i])
			if err != nil {
				return nil, nil, a.fail("read a version of "+r.name(id), err)
			}
			return &docs[i], t, nil
		}
	}
	return nil, nil, newProblem(http.StatusNotFound, codeNotFound, "%s has no version %d", r.name(id), version)
}

func (r *resource[T, R]) diff(ctx context.Context, a *API, in *diffIn) (*bodyOut[diffView], error) {
	docs, err := r.history(ctx, a, in.ID)
	if err != nil {
		return nil, err
	}
	if len(docs) == 0 {
		return nil, newProblem(http.StatusNotFound, codeNotFound, "%s has no versions", r.name(in.ID))
	}
	v := diffView{From: in.From, To: in.To}
	if v.To == 0 {
		v.To = docs[len(docs)-1].Version
	}
	at := func(version uint64) int {
		return slices.IndexFunc(docs, func(d defs.Doc) bool { return d.Version == version })
	}
	to := at(v.To)
	if v.From == 0 && to > 0 {
		v.From = docs[to-1].Version
	}
	former := func(version uint64) (*T, error) {
		if version == 0 {
			return nil, nil // before it was made
		}
		i := at(version)
		if i < 0 {
			return nil, newProblem(http.StatusNotFound, codeNotFound, "%s has no version %d", r.name(in.ID), version)
		}
		t, err := r.read(&docs[i])
		if err != nil {
			return nil, a.fail("compare versions of "+r.name(in.ID), err)
		}
		return t, nil
	}
	before, err := former(v.From)
	if err != nil {
		return nil, err
	}
	after, err := former(v.To)
	if err != nil {
		return nil, err
	}
	if err := r.compare(&v, before, after); err != nil {
		return nil, a.fail("compare versions of "+r.name(in.ID), err)
	}
	return &bodyOut[diffView]{v}, nil
}

// maxSaid bounds the sentences of a comparison: a taxonomy that is loaded anew may
// have thousands, and its fields are told all the same.
const maxSaid = 200

// compare says what differs between two documents. Before is nil if there was none.
func (r *resource[T, R]) compare(v *diffView, before, after *T) (err error) {
	was := json.RawMessage(`{}`)
	if before != nil {
		if was, err = encode(r.show(before, "")); err != nil {
			return err
		}
	}
	is, err := encode(r.show(after, ""))
	if err != nil {
		return err
	}
	if v.Fields, err = differences(was, is); err != nil {
		return err
	}
	if r.differ != nil {
		if v.Says = r.differ(before, after); len(v.Says) > maxSaid {
			v.Says = append(v.Says[:maxSaid:maxSaid], fmt.Sprintf("And %d more.", len(v.Says)-maxSaid))
		}
	}
	return nil
}

// differences lists the innermost places in which two JSON values differ.
func differences(before, after json.RawMessage) ([]differenceView, error) {
	out := []differenceView{}
	var walk func(at string, a, b json.RawMessage) error
	walk = func(at string, a, b json.RawMessage) error {
		if bytes.Equal(a, b) {
			return nil
		}
		switch {
		case len(a) > 0 && len(b) > 0 && a[0] == '{' && b[0] == '{':
			var x, y map[string]json.RawMessage
			if err := json.Unmarshal(a, &x); err != nil {
				return err
			}
			if err := json.Unmarshal(b, &y); err != nil {
				return err
			}
			keys := slices.AppendSeq(slices.Collect(maps.Keys(x)), maps.Keys(y))
			slices.Sort(keys)
			for _, k := range slices.Compact(keys) {
				if err := walk(under(at, k), x[k], y[k]); err != nil {
					return err
				}
			}
		case len(a) > 0 && len(b) > 0 && a[0] == '[' && b[0] == '[':
			var x, y []json.RawMessage
			if err := json.Unmarshal(a, &x); err != nil {
				return err
			}
			if err := json.Unmarshal(b, &y); err != nil {
				return err
			}
			for i := range max(len(x), len(y)) {
				var p, q json.RawMessage
				if i < len(x) {
					p = x[i]
				}
				if i < len(y) {
					q = y[i]
				}
				if err := walk(fmt.Sprintf("%s[%d]", at, i), p, q); err != nil {
					return err
				}
			}
		default:
			out = append(out, differenceView{at, a, b})
		}
		return nil
	}
	return out, walk("", before, after)
}

// rollback makes a former definition the present one: a new version, checked as
// any change is, since what it names may be gone.
func (r *resource[T, R]) rollback(ctx context.Context, a *API, in *rollbackIn) (*docOut[R], error) {
	var b rollbackBody
	faults := decode("body", in.RawBody, &b, nil)
	if len(faults) == 0 && b.Version == 0 {
		faults = append(faults, fault("body.version", "is missing"))
	}
	if len(faults) > 0 {
		return nil, invalid("the rollback", faults)
	}
	a.changing.Lock()
	defer a.changing.Unlock()
	w, err := a.world(ctx)
	if err != nil {
		return nil, a.fail("roll back "+r.name(in.ID), err)
	}
	old, version, err := r.changeable(w, in.ID, in.IfMatch)
	if err != nil {
		return nil, a.fail("roll back "+r.name(in.ID), err)
	}
	_, t, err := r.version(ctx, a, in.ID, b.Version)
	if err != nil {
		return nil, err
	}
	return r.keep(ctx, w, t, old, version)
}

// usersOfCategory says what names a category, or a category below it.
func (w *world) usersOfCategory(t *tree.Taxonomy, category string) (users []tagserver.ProblemError, err error) {
	for _, c := range t.Categories {
		if slices.Contains(c.Parents, category) {
			users = append(users, fault(fmt.Sprintf("categories/%s", c.ID), "is below it"))
		}
	}
	trait := taxonomy.CategoryTrait(t.ID, category)
	all, err := load[rules.Rule](w, defs.Rule)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if slices.Contains(all[i].Then, string(trait)) {
			users = append(users, fault("rules/"+all[i].ID, "puts events into it"))
		}
	}
	c, err := w.audiences()
	if err != nil {
		return nil, err
	}
	for _, d := range c.All() {
		if slices.ContainsFunc(traitsOf(c, d.ID), func(x query.Step) bool { return x.Trait == trait }) {
			users = append(users, fault("audiences/"+string(d.ID), "names it in its rule"))
		}
		if d.Lookalike != nil && slices.Contains(d.Lookalike.Exclude, trait) {
			users = append(users, fault("audiences/"+string(d.ID), "names it in lookalike.exclude"))
		}
	}
	return users, nil
}

// usersAmongKeys says which API keys are restricted to something.
func (w *world) usersAmongKeys(names func(*AccessKey) bool) (users []tagserver.ProblemError, err error) {
	all, err := load[AccessKey](w, defs.APIKey)
	for i := range all {
		if names(&all[i]) {
			users = append(users, fault("keys/"+all[i].ID, "is restricted to it"))
		}
	}
	return users, err
}

// histories registers the versions of everything that ad ops define.
func (a *API) histories() {
	versions(a, sites())
	versions(a, sources())
	versions(a, a.taxonomies())
	versions(a, classifierRules())
	versions(a, a.audiences("audiences", "audience", nil))
	versions(a, a.destinations())
	type in struct {
		ID       string `path:"id" maxLength:"64"`
		Category string `path:"category" maxLength:"64"`
	}
	operate(a, op{method: http.MethodGet, path: "/taxonomies/{id}/categories/{category}/usage", tag: "taxonomies", right: tagserver.May("taxonomies:read", tagserver.OfAll), ok: 200, errors: []int{404}, summary: "Say what names a category"},
		func(ctx context.Context, in *in) (*bodyOut[usageView], error) {
			w, r := a.here(ctx), a.taxonomies()
			t, _, err := r.find(w, in.ID)
			if err == nil && !slices.ContainsFunc(t.Categories, func(c tree.Category) bool { return c.ID == in.Category }) {
				err = newProblem(http.StatusNotFound, codeNotFound, "%s has no category %q", r.name(in.ID), cut(in.Category))
			}
			if err != nil {
				return nil, a.fail("find "+r.name(in.ID), err)
			}
			users, err := w.usersOfCategory(t, in.Category)
			if err != nil {
				return nil, a.fail("find the users of a category", err)
			}
			return &bodyOut[usageView]{w.usage(users)}, nil
		})
}
