package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// resource is one kind of definition: T is the document as it is kept, R as it
// is shown.
type resource[T, R any] struct {
	path string // "sites"
	one  string // "site"
	kind defs.Kind
	id   func(*T) *string
	// area is the first half of its scopes. own says whether a restricted caller
	// meets a document; nil: it meets all and changes none, or in the area keys
	// nothing at all. common: it may not change its own either, since others have
	// to do with it too.
	area   string
	own    func(w *world, t *T) bool
	common bool
	// has says whether a document belongs here; nil: all of the kind do.
	has      func(*T) bool
	readOnly map[string]string
	// check returns every fault of a new document; old is nil if it is made. It
	// may complete the document.
	check func(w *world, t, old *T) error
	// users says who would miss it; nil: nobody can.
	users func(w *world, t *T) ([]tagserver.ProblemError, error)
	// created and deleted are called before a document is first kept, and after
	// it is gone; either may be nil.
	created func(*T) (once string, err error)
	deleted func(context.Context, string) error
	builtin []T
	// prepare is called on a document of a set before any is checked, since others
	// look at it; normal brings what is said in two ways into one, so that two
	// documents can be compared. Either may be nil.
	prepare func(*T) error
	normal  func(*T)
	// differ says in words what differs between two documents, before being nil if
	// there was none; nil: only the fields are told.
	differ func(before, after *T) []string
	// show gives the shown form; once is what created returned. brief is the
	// form for lists, show's without once if nil.
	show  func(t *T, once string) R
	brief func(*T) R
}

// world is what a definition is checked against.
type world struct {
	a    *API
	snap *defs.Snapshot
	p    *tagserver.Principal // who asks

	// Made once they are asked for: a snapshot does not change.
	grown   *tree.Forest
	catalog *audience.Catalog
}

func load[T any](w *world, kind defs.Kind) ([]T, error) { return defs.LoadAll[T](w.snap, kind) }

type (
	docOut[R any] struct {
		Status   int
		ETag     string `header:"ETag"`
		Location string `header:"Location"`
		// Operation is of rules and taxonomies: with it the change comes into force.
		Operation string `header:"Operation-Location"`
		Body      R
	}
	deletedOut struct {
		// Operation is of rules and taxonomies: with it the deletion comes into force.
		Operation string `header:"Operation-Location"`
	}
	// listOut is a page of a list.
	listOut[E any] struct {
		Link string `header:"Link"`
		Body page[E]
	}
	page[E any] struct {
		Items []E    `json:"items"`
		Next  string `json:"next,omitempty" doc:"The cursor of the next page; absent on the last."`
	}
	// item is a document in a list, with what its ETag would say.
	item[R any] struct {
		ID         string     `json:"id"`
		Version    uint64     `json:"version" doc:"0 for what is built in."`
		Changed    *time.Time `json:"changed,omitempty"`
		Definition R          `json:"definition"`
	}
	listIn struct {
		Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
		Cursor string `query:"cursor" maxLength:"256"`
	}
	getIn struct {
		ID          string `path:"id" maxLength:"64"`
		IfNoneMatch string `header:"If-None-Match" maxLength:"256"`
	}
	postIn struct {
		RawBody []byte `contentType:"application/json"`
	}
	putIn struct {
		ID          string `path:"id" maxLength:"64"`
		IfMatch     string `header:"If-Match" maxLength:"256" doc:"The ETag that was read: changes that version only."`
		IfNoneMatch string `header:"If-None-Match" maxLength:"256" doc:"*, to make it if it is not there."`
		RawBody     []byte `contentType:"application/json"`
	}
	deleteIn struct {
		ID      string `path:"id" maxLength:"64"`
		IfMatch string `header:"If-Match" maxLength:"256"`
	}
)

// inList is the form of a document in a list.
func (r *resource[T, R]) inList(t *T) R {
	if r.brief != nil {
		return r.brief(t)
	}
	return r.show(t, "")
}

// define registers the operations of a resource.
func define[T, R any](a *API, r resource[T, R]) {
	one := "/" + r.path + "/{id}"
	read, write := r.rights()
	var body T
	operate(a, op{method: http.MethodGet, path: "/" + r.path, tag: r.path, right: read, ok: 200, errors: []int{400}, summary: "List " + r.path},
		func(ctx context.Context, in *listIn) (*listOut[item[R]], error) { return r.list(ctx, a, in) })
	operate(a, op{method: http.MethodGet, path: one, tag: r.path, right: read, ok: 200, errors: []int{404}, summary: "Get " + article(r.one)},
		func(ctx context.Context, in *getIn) (*docOut[R], error) { return r.get(ctx, a, in) })
	operate(a, op{method: http.MethodPost, path: "/" + r.path, tag: r.path, right: write, ok: 201, errors: []int{409, 413, 415, 422, 503}, body: body, summary: "Make " + article(r.one)},
		func(ctx context.Context, in *postIn) (*docOut[R], error) { return r.post(ctx, a, in.RawBody) })
	operate(a, op{method: http.MethodPut, path: one, tag: r.path, right: write, ok: 200, errors: []int{400, 403, 404, 409, 412, 413, 415, 422, 428, 503}, body: body, summary: "Make or change " + article(r.one)},
		func(ctx context.Context, in *putIn) (*docOut[R], error) { return r.put(ctx, a, in) })
	operate(a, op{method: http.MethodDelete, path: one, tag: r.path, right: write, ok: 204, errors: []int{400, 403, 404, 409, 412, 428, 503}, summary: "Delete " + article(r.one)},
		func(ctx context.Context, in *deleteIn) (*deletedOut, error) { return r.delete(ctx, a, in) })
}

// rights are those of reading and of changing.
func (r *resource[T, R]) rights() (read, write tagserver.Right) {
	reach := tagserver.OfOwn
	if r.own == nil {
		reach = tagserver.OfCommon
	}
	if r.area == "keys" {
		reach = tagserver.OfAll
	}
	read = tagserver.May(tagserver.Scope(r.area+":read"), reach)
	if r.common || r.own == nil {
		reach = tagserver.OfAll
	}
	return read, tagserver.May(tagserver.Scope(r.area+":write"), reach)
}

func article(noun string) string {
	if strings.ContainsRune("aeiou", rune(noun[0])) {
		return "an " + noun
	}
	return "a " + noun
}

func (r *resource[T, R]) name(id string) string { return fmt.Sprintf("%s %q", r.one, cut(id)) }

func (r *resource[T, R]) missing(id string) error {
	return newProblem(http.StatusNotFound, codeNotFound, "there is no %s", r.name(id))
}

// find returns a document that is kept, or one that is built in (version 0). What
// is another's is not there.
func (r *resource[T, R]) find(w *world, id string) (t *T, version uint64, err error) {
	for i := range r.builtin {
		if *r.id(&r.builtin[i]) == id {
			return &r.builtin[i], 0, nil
		}
	}
	d, ok := w.snap.Get(r.kind, id)
	if !ok {
		return nil, 0, r.missing(id)
	}
	t, err = r.read(&d)
	if err == nil && !r.shows(w, t) {
		err = r.missing(id)
	}
	return t, d.Version, err
}

func (r *resource[T, R]) read(d *defs.Doc) (*T, error) {
	t, err := defs.Decode[T](*d)
	return &t, err
}

// shows reports whether a document is of this resource and of the caller.
func (r *resource[T, R]) shows(w *world, t *T) bool {
	return (r.has == nil || r.has(t)) && (r.own == nil || w.p.Whole() || r.own(w, t))
}

func (r *resource[T, R]) list(ctx context.Context, a *API, in *listIn) (*listOut[item[R]], error) {
	var all []item[R]
	w := a.here(ctx)
	for i := range r.builtin {
		all = append(all, item[R]{ID: *r.id(&r.builtin[i]), Definition: r.inList(&r.builtin[i])})
	}
	for _, d := range w.snap.List(r.kind) {
		t, err := r.read(&d)
		if err != nil {
			return nil, a.fail("list "+r.path, err)
		}
		if r.shows(w, t) {
			at := d.Changed.Time()
			all = append(all, item[R]{ID: d.ID, Version: d.Version, Changed: &at, Definition: r.inList(t)})
		}
	}
	slices.SortFunc(all, func(x, y item[R]) int { return cmp.Compare(x.ID, y.ID) })
	return paged("/"+r.path, in, all, func(it *item[R]) string { return it.ID })
}

// paged cuts the page that is asked for out of a list in order of a key.
func paged[E any](list string, in *listIn, all []E, key func(*E) string) (*listOut[E], error) {
	last, err := after(list, in.Cursor)
	if err != nil {
		return nil, err
	}
	from := 0
	if in.Cursor != "" {
		from, _ = slices.BinarySearchFunc(all, last, func(e E, last string) int {
			if key(&e) <= last {
				return -1
			}
			return 1
		})
	}
	out := &listOut[E]{Body: page[E]{Items: all[from:min(from+in.Limit, len(all))]}}
	if out.Body.Items == nil {
		out.Body.Items = []E{}
	}
	if n := len(out.Body.Items); n > 0 && from+n < len(all) {
		out.follow(list, in.Limit, key(&out.Body.Items[n-1]))
	}
	return out, nil
}

// follow says where a list goes on after the last entry of the page.
func (o *listOut[E]) follow(list string, limit int, last string) {
	o.Body.Next = cursor(list, last)
	o.Link = fmt.Sprintf(`<%s%s?limit=%d&cursor=%s>; rel="next"`, base, list, limit, url.QueryEscape(o.Body.Next))
}

func (r *resource[T, R]) get(ctx context.Context, a *API, in *getIn) (*docOut[R], error) {
	t, version, err := r.find(a.here(ctx), in.ID)
	if err != nil {
		return nil, a.fail("get "+r.name(in.ID), err)
	}
	out := &docOut[R]{Status: http.StatusOK, ETag: etag(version), Body: r.show(t, "")}
	if match, _ := matches(in.IfNoneMatch, version, true); match && in.IfNoneMatch != "" {
		out.Status = http.StatusNotModified
	}
	return out, nil
}

func (r *resource[T, R]) post(ctx context.Context, a *API, body []byte) (*docOut[R], error) {
	t, faults := r.decode(body)
	if len(faults) > 0 {
		return nil, invalid("the "+r.one, faults)
	}
	id := *r.id(t)
	if id == "" {
		return nil, invalid("the "+r.one, []tagserver.ProblemError{fault("body.id", "must not be empty")})
	}
	a.changing.Lock()
	defer a.changing.Unlock()
	w, err := a.world(ctx)
	if err != nil {
		return nil, a.fail("make "+r.name(id), err)
	}
	if err := r.mayBeMade(w, id, http.StatusConflict, codeExists); err != nil {
		return nil, err
	}
	return r.keep(ctx, w, t, nil, 0)
}

// mayBeMade returns an error if there is a document of the ID.
func (r *resource[T, R]) mayBeMade(w *world, id string, status int, code string) error {
	if err := r.notBuiltin(id); err != nil {
		return err
	}
	if d, ok := w.snap.Get(r.kind, id); ok {
		return newProblem(status, code, "there is %s already, of version %d; to change it, PUT it with If-Match", r.name(id), d.Version)
	}
	return nil
}

func (r *resource[T, R]) notBuiltin(id string) error {
	for i := range r.builtin {
		if *r.id(&r.builtin[i]) == id {
			return newProblem(http.StatusForbidden, codeBuiltIn, "%s is built in and cannot be changed; make one of your own", r.name(id))
		}
	}
	return nil
}

func (r *resource[T, R]) put(ctx context.Context, a *API, in *putIn) (*docOut[R], error) {
	if in.IfNoneMatch != "" && (in.IfNoneMatch != "*" || in.IfMatch != "") {
		return nil, newProblem(http.StatusBadRequest, codeBadRequest, "send either If-None-Match: * to make %s, or If-Match with its ETag to change it", r.name(in.ID))
	}
	t, faults := r.decode(in.RawBody)
	if len(faults) > 0 {
		return nil, invalid("the "+r.one, faults)
	}
	if id := r.id(t); *id == "" {
		*id = in.ID
	} else if *id != in.ID {
		return nil, invalid("the "+r.one, []tagserver.ProblemError{fault("body.id", "%q is not the ID in the path, %q", cut(*id), in.ID)})
	}
	a.changing.Lock()
	defer a.changing.Unlock()
	w, err := a.world(ctx)
	if err != nil {
		return nil, a.fail("change "+r.name(in.ID), err)
	}
	if in.IfNoneMatch == "*" {
		if err := r.mayBeMade(w, in.ID, http.StatusPreconditionFailed, codeChanged); err != nil {
			return nil, err
		}
		return r.keep(ctx, w, t, nil, 0)
	}
	old, version, err := r.changeable(w, in.ID, in.IfMatch)
	if err != nil {
		return nil, a.fail("change "+r.name(in.ID), err)
	}
	return r.keep(ctx, w, t, old, version)
}

// changeable returns the document that If-Match names.
func (r *resource[T, R]) changeable(w *world, id, ifMatch string) (*T, uint64, error) {
	if err := r.notBuiltin(id); err != nil {
		return nil, 0, err
	}
	old, version, err := r.find(w, id)
	if err != nil {
		// Without a condition the caller may have meant to make it.
		if ifMatch == "" {
			return nil, 0, newProblem(http.StatusPreconditionRequired, codeNeedsMatch, "there is no %s; send If-None-Match: * to make it", r.name(id))
		}
		return nil, 0, err
	}
	return old, version, precondition(r.name(id), ifMatch, version)
}

func (r *resource[T, R]) decode(body []byte) (*T, []tagserver.ProblemError) {
	t := new(T)
	return t, decode("body", body, t, r.readOnly)
}

// keep checks a document and keeps it in the place of version, 0 to make it.
func (r *resource[T, R]) keep(ctx context.Context, w *world, t, old *T, version uint64) (*docOut[R], error) {
	id := *r.id(t)
	what := "keep " + r.name(id)
	if err := r.check(w, t, old); err != nil {
		if f, ok := faultsOf("body", err); ok {
			return nil, invalid("the "+r.one, f)
		}
		return nil, w.a.fail(what, err)
	}
	if r.own != nil && !w.p.Whole() && !r.own(w, t) {
		return nil, newProblem(http.StatusForbidden, codeForbidden, "%s: the key %q is restricted, and this would not be its own", what, w.p.ID)
	}
	once := ""
	if old == nil && r.created != nil {
		var err error
		if once, err = r.created(t); err != nil {
			return nil, w.a.fail(what, err)
		}
	}
	kept, err := w.a.keep(ctx, r.kind, id, what, t, version)
	if err != nil {
		return nil, err
	}
	out := &docOut[R]{Status: http.StatusOK, ETag: etag(kept), Body: r.show(t, once)}
	out.Operation = w.a.follows(ctx, r.kind)
	if version == 0 {
		out.Status, out.Location = http.StatusCreated, base+"/"+r.path+"/"+url.PathEscape(id)
	}
	return out, nil
}

// keep stores a document that was checked in the place of version, brings it
// into force, and returns its new version.
func (a *API) keep(ctx context.Context, kind defs.Kind, id, what string, t any, version uint64) (uint64, error) {
	body, err := encode(t)
	if err != nil {
		return 0, a.fail(what, err)
	}
	if len(body) > maxKept {
		return 0, newProblem(http.StatusRequestEntityTooLarge, codeTooLarge, "%s: it has %d bytes, at most %d", what, len(body), maxKept)
	}
	var kept uint64
	err = a.audited(ctx, document(kind, id, version, version+1), func() (err error) {
		kept, err = a.o.Defs.Put(ctx, kind, id, body, version)
		return err
	})
	if errors.Is(err, retention.ErrConflict) {
		return 0, newProblem(http.StatusPreconditionFailed, codeChanged, "%s: it was changed meanwhile; read it again", what)
	}
	if err != nil {
		return 0, a.fail(what, err)
	}
	return kept, a.changed(ctx, what)
}

func (r *resource[T, R]) delete(ctx context.Context, a *API, in *deleteIn) (*deletedOut, error) {
	what := "delete " + r.name(in.ID)
	a.changing.Lock()
	defer a.changing.Unlock()
	w, err := a.world(ctx)
	if err != nil {
		return nil, a.fail(what, err)
	}
	if err := r.notBuiltin(in.ID); err != nil {
		return nil, err
	}
	t, version, err := r.find(w, in.ID)
	if err == nil {
		err = precondition(r.name(in.ID), in.IfMatch, version)
	}
	if err != nil {
		return nil, a.fail(what, err)
	}
	if r.users != nil {
		users, err := r.users(w, t)
		if err != nil {
			return nil, a.fail(what, err)
		}
		if len(users) > 0 {
			return nil, inUse(r.name(in.ID), w.ownUsers(users))
		}
	}
	err = a.audited(ctx, document(r.kind, in.ID, version, 0), func() error { return a.o.Defs.Delete(ctx, r.kind, in.ID, version) })
	if err != nil {
		if errors.Is(err, retention.ErrConflict) {
			return nil, newProblem(http.StatusPreconditionFailed, codeChanged, "%s: it was changed meanwhile; read it again", what)
		}
		return nil, a.fail(what, err)
	}
	if err := a.changed(ctx, what); err != nil {
		return nil, err
	}
	if r.deleted != nil {
		if err := r.deleted(context.WithoutCancel(ctx), in.ID); err != nil {
			return nil, a.fail(what, err)
		}
	}
	return &deletedOut{a.follows(ctx, r.kind)}, nil
}

func inUse(what string, users []tagserver.ProblemError) error {
	p := newProblem(http.StatusConflict, codeInUse, "%s is in use; change or delete its users first, which are in errors", what)
	p.Errors = users
	return p
}

// world reads what is there now, so that a check sees other nodes' changes.
func (a *API) world(ctx context.Context) (*world, error) {
	if _, err := a.o.Defs.Refresh(ctx); err != nil {
		return nil, err
	}
	return a.here(ctx), nil
}

// here is what this node knows, for whoever only reads.
func (a *API) here(ctx context.Context) *world {
	return &world{a: a, snap: a.o.Defs.Snapshot(), p: callerOf(ctx)}
}
