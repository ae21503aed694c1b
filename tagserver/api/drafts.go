package api

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/tagserver"
)

// A draft is a taxonomy or a rule on its way: kept beside what is published, in
// nobody's counts, until it is published or discarded. There is one for each ID, and
// it need not be right yet: what is wrong stands beside it.

// draftDoc is a draft as it is kept.
type draftDoc struct {
	// Base is the version that was published when the draft was first saved, 0 if
	// there was none.
	Base       uint64          `json:"base"`
	Definition json.RawMessage `json:"definition"`
	// Authors are the IDs of the keys that saved it, each once, who saved it last at
	// the end; the last maxAuthors.
	Authors []string `json:"authors,omitempty"`
}

const maxAuthors = 10

// savedBy adds who saves the draft.
func (d *draftDoc) savedBy(who string) {
	d.Authors = append(slices.DeleteFunc(d.Authors, func(a string) bool { return a == who }), who)
	d.Authors = d.Authors[max(0, len(d.Authors)-maxAuthors):]
}

type (
	draftView[R any] struct {
		ID         string                   `json:"id"`
		Kind       string                   `json:"kind"`
		Version    uint64                   `json:"version" doc:"Of the draft, as in its ETag."`
		Base       uint64                   `json:"base" doc:"The version that was published when the draft was begun, 0 if there was none."`
		Published  uint64                   `json:"published" doc:"The version that is published now: other than base if somebody else published meanwhile."`
		Stands     string                   `json:"stands" doc:"How it stands to what is published, in words."`
		Changed    time.Time                `json:"changed"`
		Authors    []string                 `json:"authors" doc:"Who saved it, by the IDs of their keys; who saved it last stands at the end."`
		Definition R                        `json:"definition"`
		Faults     []tagserver.ProblemError `json:"faults" doc:"Why it could not be published as it stands."`
	}
	draftItem struct {
		Kind      string    `json:"kind" doc:"taxonomies or rules"`
		ID        string    `json:"id"`
		Version   uint64    `json:"version" doc:"Of the draft."`
		Base      uint64    `json:"base"`
		Published uint64    `json:"published"`
		Stands    string    `json:"stands" doc:"How it stands to what is published, in words."`
		Changed   time.Time `json:"changed"`
		Authors   []string  `json:"authors" doc:"Who saved it; who saved it last stands at the end."`
	}
	draftOut[R any] struct {
		Status int
		ETag   string `header:"ETag" doc:"Of the draft."`
		Body   draftView[R]
	}
	publishIn struct {
		ID          string `path:"id" maxLength:"64"`
		IfMatch     string `header:"If-Match" maxLength:"256" doc:"The ETag of what is published: replaces that version only."`
		IfNoneMatch string `header:"If-None-Match" maxLength:"256" doc:"*, if nothing is published yet."`
		Draft       uint64 `query:"draft" doc:"The version of the draft that was looked at: if it was saved since, nothing is published. 0: whatever it says now."`
	}
)

// stands says how a draft that was begun from one version stands to the version that
// is published; 0 is none.
func stands(base, published uint64) string {
	switch {
	case base == published && base == 0:
		return "new"
	case base == published:
		return fmt.Sprintf("of version %d", base)
	case published == 0:
		return fmt.Sprintf("of version %d, which was deleted since", base)
	case base == 0:
		return fmt.Sprintf("begun as new; version %d was published since", published)
	}
	return fmt.Sprintf("of version %d; version %d was published since", base, published)
}

// draftKinds are where drafts of a kind are kept.
var draftKinds = map[defs.Kind]defs.Kind{defs.Taxonomy: defs.DraftTaxonomy, defs.Rule: defs.DraftRule}

// drafting registers drafts.
func (a *API) drafting() {
	draftsOf(a, a.taxonomies())
	draftsOf(a, classifierRules())
	operate(a, op{method: http.MethodGet, path: "/drafts", tag: "definitions", right: tagserver.May("taxonomies:read", tagserver.OfAll), ok: 200, errors: []int{400}, summary: "List the drafts of taxonomies and rules"},
		func(ctx context.Context, in *listIn) (*listOut[draftItem], error) {
			w := a.here(ctx)
			all := []draftItem{}
			for _, k := range []struct {
				kind defs.Kind
				path string
			}{{defs.Taxonomy, "taxonomies"}, {defs.Rule, "rules"}} {
				for _, doc := range w.snap.List(draftKinds[k.kind]) {
					d, err := defs.Decode[draftDoc](doc)
					if err != nil {
						return nil, a.fail("list the drafts", err)
					}
					now, _ := w.snap.Get(k.kind, doc.ID)
					all = append(all, draftItem{k.path, doc.ID, doc.Version, d.Base, now.Version, stands(d.Base, now.Version), doc.Changed.Time(), append([]string{}, d.Authors...)})
				}
			}
			key := func(d *draftItem) string { return d.Kind + "/" + d.ID }
			slices.SortFunc(all, func(x, y draftItem) int { return strings.Compare(key(&x), key(&y)) })
			return paged("/drafts", in, all, key)
		})
}

func draftsOf[T, R any](a *API, r resource[T, R]) {
	path := "/" + r.path + "/{id}/draft"
	read, write := tagserver.May("taxonomies:read", tagserver.OfAll), tagserver.May("taxonomies:write", tagserver.OfAll)
	noun := "the draft of " + article(r.one)
	var body T
	operate(a, op{method: http.MethodGet, path: path, tag: r.path, right: read, ok: 200, errors: []int{404}, summary: "Get " + noun},
		func(ctx context.Context, in *idIn) (*draftOut[R], error) {
			w := a.here(ctx)
			doc, d, t, err := r.draft(w, in.ID)
			if err != nil {
				return nil, a.fail("get "+r.draftName(in.ID), err)
			}
			return r.showDraft(w, doc, d, t)
		})
	operate(a, op{method: http.MethodPut, path: path, tag: r.path, right: write, ok: 200, errors: []int{400, 403, 404, 409, 412, 413, 415, 422, 428, 503}, body: body, summary: "Save " + noun + ", which changes nothing yet"},
		func(ctx context.Context, in *putIn) (*draftOut[R], error) { return r.saveDraft(ctx, a, in) })
	operate(a, op{method: http.MethodDelete, path: path, tag: r.path, right: write, ok: 204, errors: []int{400, 404, 412, 428, 503}, summary: "Discard " + noun},
		func(ctx context.Context, in *deleteIn) (*struct{}, error) {
			what := "discard " + r.draftName(in.ID)
			a.changing.Lock()
			defer a.changing.Unlock()
			w, err := a.world(ctx)
			if err != nil {
				return nil, a.fail(what, err)
			}
			doc, _, _, err := r.draft(w, in.ID)
			if err == nil {
				err = precondition(r.draftName(in.ID), in.IfMatch, doc.Version)
			}
			if err == nil {
				kind := draftKinds[r.kind]
				err = a.audited(ctx, document(kind, in.ID, doc.Version, 0), func() error { return a.o.Defs.Delete(ctx, kind, in.ID, doc.Version) })
			}
			if errors.Is(err, retention.ErrConflict) {
				err = newProblem(http.StatusPreconditionFailed, codeChanged, "%s: it was changed meanwhile; read it again", what)
			}
			if err != nil {
				return nil, a.fail(what, err)
			}
			return &struct{}{}, nil
		})
	operate(a, op{method: http.MethodGet, path: path + "/diff", tag: r.path, right: read, ok: 200, errors: []int{404}, summary: "Say what differs between what is published and " + noun},
		func(ctx context.Context, in *idIn) (*bodyOut[diffView], error) {
			what := "compare " + r.draftName(in.ID)
			w := a.here(ctx)
			doc, _, t, err := r.draft(w, in.ID)
			if err != nil {
				return nil, a.fail(what, err)
			}
			v := diffView{To: doc.Version}
			var before *T
			if now, ok := w.snap.Get(r.kind, in.ID); ok {
				if before, err = r.read(&now); err != nil {
					return nil, a.fail(what, err)
				}
				v.From = now.Version
			}
			if err := r.compare(&v, before, t); err != nil {
				return nil, a.fail(what, err)
			}
			return &bodyOut[diffView]{v}, nil
		})
	operatePlan(a, op{method: http.MethodPost, path: path + "/publish/dry-run", tag: r.path, right: write, ok: 200, errors: []int{403, 404, 409, 422, 503}, slow: true,
		summary: "Say exactly what publishing " + noun + " would change, without doing it"},
		func(ctx context.Context, in *planIDIn) (*planOut, error) {
			what := "plan " + r.draftName(in.ID)
			now, err := a.world(ctx)
			if err == nil {
				err = r.notBuiltin(in.ID)
			}
			var t *T
			if err == nil {
				_, _, t, err = r.draft(now, in.ID)
			}
			var d *draft
			if err == nil {
				d, err = draftOf(now, r, t, "definition")
			}
			if err != nil {
				return nil, a.fail(what, err)
			}
			return a.preview(ctx, in.Prefer, write, &set{now: now}, []*draft{d}, what, nil)
		})
	operate(a, op{method: http.MethodPost, path: path + "/publish", tag: r.path, right: write, ok: 200, errors: []int{400, 403, 404, 409, 412, 422, 428, 503}, summary: "Publish " + noun + ": it takes the place of what is published, and is a draft no more"},
		func(ctx context.Context, in *publishIn) (*docOut[R], error) { return r.publish(ctx, a, in) })
}

func (r *resource[T, R]) draftName(id string) string { return "the draft of " + r.name(id) }

// draft returns the draft of an ID.
func (r *resource[T, R]) draft(w *world, id string) (doc defs.Doc, d draftDoc, t *T, err error) {
	doc, ok := w.snap.Get(draftKinds[r.kind], id)
	if !ok {
		return doc, d, nil, newProblem(http.StatusNotFound, codeNotFound, "there is no draft of %s", r.name(id))
	}
	if d, err = defs.Decode[draftDoc](doc); err == nil {
		t = new(T)
		err = json.Unmarshal(d.Definition, t)
	}
	return doc, d, t, err
}

// showDraft shows a draft with what is wrong with it.
func (r *resource[T, R]) showDraft(w *world, doc defs.Doc, d draftDoc, t *T) (*draftOut[R], error) {
	now, ok := w.snap.Get(r.kind, doc.ID)
	v := draftView[R]{ID: doc.ID, Kind: r.path, Version: doc.Version, Base: d.Base, Published: now.Version, Stands: stands(d.Base, now.Version), Changed: doc.Changed.Time(), Authors: append([]string{}, d.Authors...), Definition: r.show(t, ""), Faults: []tagserver.ProblemError{}}
	var old *T
	if ok {
		var err error
		if old, err = r.read(&now); err != nil {
			return nil, w.a.fail("show "+r.draftName(doc.ID), err)
		}
	}
	again := new(T) // a check completes what it checks
	if err := json.Unmarshal(d.Definition, again); err != nil {
		return nil, w.a.fail("show "+r.draftName(doc.ID), err)
	}
	if err := r.check(w, again, old); err != nil {
		var p problem
		switch f, ok := faultsOf("definition", err); {
		case ok:
			v.Faults = f
		case errors.As(err, &p):
			v.Faults = append([]tagserver.ProblemError{fault("definition", "%s", p.Detail)}, p.Errors...)
		default:
			return nil, w.a.fail("show "+r.draftName(doc.ID), err)
		}
	}
	return &draftOut[R]{Status: http.StatusOK, ETag: etag(doc.Version), Body: v}, nil
}

func (r *resource[T, R]) saveDraft(ctx context.Context, a *API, in *putIn) (*draftOut[R], error) {
	what := "save " + r.draftName(in.ID)
	if in.IfNoneMatch != "" && (in.IfNoneMatch != "*" || in.IfMatch != "") {
		return nil, newProblem(http.StatusBadRequest, codeBadRequest, "send either If-None-Match: * to begin %s, or If-Match with its ETag to change it", r.draftName(in.ID))
	}
	t, faults := r.decode(in.RawBody)
	if len(faults) == 0 {
		if id := r.id(t); *id == "" {
			*id = in.ID
		} else if *id != in.ID {
			faults = append(faults, fault("body.id", "%q is not the ID in the path, %q", cut(*id), in.ID))
		}
	}
	if len(faults) > 0 {
		return nil, invalid("the "+r.one, faults)
	}
	a.changing.Lock()
	defer a.changing.Unlock()
	w, err := a.world(ctx)
	if err == nil {
		err = r.notBuiltin(in.ID)
	}
	if err != nil {
		return nil, a.fail(what, err)
	}
	published, _ := w.snap.Get(r.kind, in.ID)
	d := draftDoc{Base: published.Version}
	doc, is := w.snap.Get(draftKinds[r.kind], in.ID)
	switch {
	case in.IfNoneMatch == "*" && is:
		return nil, newProblem(http.StatusPreconditionFailed, codeChanged, "there is a draft of %s already, of version %d; to change it, PUT it with If-Match", r.name(in.ID), doc.Version)
	case in.IfNoneMatch != "*" && !is && in.IfMatch == "":
		return nil, newProblem(http.StatusPreconditionRequired, codeNeedsMatch, "there is no draft of %s; send If-None-Match: * to begin it", r.name(in.ID))
	case in.IfNoneMatch != "*":
		_, old, _, err := r.draft(w, in.ID)
		if err == nil {
			err = precondition(r.draftName(in.ID), in.IfMatch, doc.Version)
		}
		if err != nil {
			return nil, a.fail(what, err)
		}
		d.Base, d.Authors = old.Base, old.Authors
	}
	d.savedBy(w.p.ID)
	if d.Definition, err = encode(t); err != nil {
		return nil, a.fail(what, err)
	}
	if _, err = a.keep(ctx, draftKinds[r.kind], in.ID, what, d, doc.Version); err != nil {
		return nil, err
	}
	w = a.here(ctx)
	kept, d, t, err := r.draft(w, in.ID)
	if err != nil {
		return nil, a.fail(what, err)
	}
	out, err := r.showDraft(w, kept, d, t)
	if err == nil && !is {
		out.Status = http.StatusCreated
	}
	return out, err
}

// publish checks a draft as any change is, and makes it what is published; the draft
// goes with it, or neither happens.
func (r *resource[T, R]) publish(ctx context.Context, a *API, in *publishIn) (*docOut[R], error) {
	what := "publish " + r.draftName(in.ID)
	if in.IfNoneMatch != "" && (in.IfNoneMatch != "*" || in.IfMatch != "") {
		return nil, newProblem(http.StatusBadRequest, codeBadRequest, "send either If-None-Match: * if nothing is published yet, or If-Match with the ETag of what is")
	}
	a.changing.Lock()
	defer a.changing.Unlock()
	w, err := a.world(ctx)
	if err == nil {
		err = r.notBuiltin(in.ID)
	}
	var doc defs.Doc
	var t, old *T
	if err == nil {
		doc, _, t, err = r.draft(w, in.ID)
	}
	if err == nil && in.Draft != 0 && in.Draft != doc.Version {
		err = newProblem(http.StatusPreconditionFailed, codeChanged, "%s is of version %d now, not %d: somebody saved it since; read it again", r.draftName(in.ID), doc.Version, in.Draft)
	}
	version := uint64(0)
	if err == nil && in.IfNoneMatch == "*" {
		err = r.mayBeMade(w, in.ID, http.StatusPreconditionFailed, codeChanged)
	} else if err == nil {
		old, version, err = r.changeable(w, in.ID, in.IfMatch)
	}
	if err != nil {
		return nil, a.fail(what, err)
	}
	if err := r.check(w, t, old); err != nil {
		if f, ok := faultsOf("body", err); ok {
			return nil, invalid("the "+r.one, f)
		}
		return nil, a.fail(what, err)
	}
	body, err := encode(t)
	var name [16]byte
	if err == nil {
		_, err = io.ReadFull(a.o.Rand, name[:])
	}
	if err != nil {
		return nil, a.fail(what, err)
	}
	draft := draftKinds[r.kind]
	e := document(r.kind, in.ID, version, version+1)
	e.Detail = "from a draft"
	err = a.audited(ctx, e, func() error {
		return a.audited(ctx, document(draft, in.ID, doc.Version, 0), func() error {
			return a.o.Defs.Apply(ctx, hex.EncodeToString(name[:]), []defs.Change{
				{Kind: r.kind, ID: in.ID, Body: body, Expect: version}, {Kind: draft, ID: in.ID, Expect: doc.Version}})
		})
	})
	if errors.Is(err, retention.ErrConflict) {
		err = newProblem(http.StatusPreconditionFailed, codeChanged, "%s: it was changed meanwhile; read it again", what)
	}
	if err != nil {
		return nil, a.fail(what, err)
	}
	if err := a.changed(ctx, what); err != nil {
		return nil, err
	}
	kept, _ := a.o.Defs.Snapshot().Get(r.kind, in.ID)
	return &docOut[R]{Status: http.StatusOK, ETag: etag(cmp.Or(kept.Version, version+1)), Body: r.show(t, ""), Operation: a.follows(ctx, r.kind)}, nil
}
