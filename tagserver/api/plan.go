package api

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/tagserver"
)

// A whole set of definitions is planned and applied as one: what is checked is the
// state that all of them lead to, what is shown is exact, and what is applied is
// what was planned or nothing.

type (
	planBody struct {
		Definitions []planDefinition `json:"definitions"`
		Prune       bool             `json:"prune,omitempty" doc:"Delete every definition of these kinds that is not among them. Without it nothing is deleted."`
		Hash        string           `json:"hash,omitempty" doc:"Of the plan that is to be applied; for apply alone, where it must be there."`
	}
	planDefinition struct {
		Kind       string          `json:"kind" doc:"source, site, taxonomy, rule, audience (lookalikes too) or destination."`
		Definition json.RawMessage `json:"definition" doc:"As for the kind's own PUT."`
	}
	planIn struct {
		Prefer  string `header:"Prefer" maxLength:"256" doc:"respond-async (RFC 7240): answer 202 with an operation at once, or after wait=N seconds if the plan is not there by then."`
		RawBody []byte `contentType:"application/json"`
	}
	applyIn struct {
		RawBody []byte `contentType:"application/json"`
	}
	// planIDIn and planBodyIn are of the plans of one definition.
	planIDIn struct {
		ID     string `path:"id" maxLength:"64"`
		Prefer string `header:"Prefer" maxLength:"256" doc:"respond-async, as of a plan."`
	}
	planBodyIn struct {
		ID      string `path:"id" maxLength:"64"`
		Prefer  string `header:"Prefer" maxLength:"256" doc:"respond-async, as of a plan."`
		RawBody []byte `contentType:"application/json"`
	}
	changeView struct {
		Kind    string   `json:"kind"`
		ID      string   `json:"id"`
		What    string   `json:"what" doc:"make, change or delete"`
		Version uint64   `json:"version" doc:"That is kept now, 0 if there is none; of what was applied, the new one, 0 if it was deleted."`
		Fields  []string `json:"fields" doc:"Of a change: the fields that differ."`
	}
	planView struct {
		Hash    string       `json:"hash" doc:"Names the plan: send it with the same body to apply exactly this."`
		Changes []changeView `json:"changes"`
		Same    int          `json:"same" doc:"How many are as they are kept."`
		Reach   reachView    `json:"reach"`
		// Delivery is of a dry run of one destination alone.
		Delivery *tryView `json:"delivery,omitempty" doc:"Of a destination's own dry run: what a delivery under this definition would send now. Absent before the first generation."`
	}
	applyView struct {
		Hash      string       `json:"hash"`
		Changes   []changeView `json:"changes"`
		Same      int          `json:"same"`
		Keys      []newKeyView `json:"keys" doc:"Of destinations that were made: the key by which the partner pulls, shown this once."`
		Operation string       `json:"operation,omitempty" doc:"Where the re-fold is told of that brings changed rules and taxonomies into force."`
	}
	newKeyView struct {
		Destination string `json:"destination"`
		Key         string `json:"key"`
	}
)

// tries registers the dry runs of what can change members and has no richer one of
// its own.
func (a *API) tries() {
	try(a, sources())
	try(a, a.taxonomies())
	try(a, a.destinations())
	tryDeletion(a, sources())
	tryDeletion(a, a.taxonomies())
	tryDeletion(a, classifierRules())
	tryDeletion(a, a.audiences("audiences", "audience", nil))
	tryDeletion(a, a.destinations())
}

func (r *resource[T, R]) mayTry() tagserver.Right {
	_, write := r.rights()
	return tagserver.May(write.Scope, tagserver.OfAll) // its numbers are of the whole
}

func try[T, R any](a *API, r resource[T, R]) {
	var body T
	operatePlan(a, op{method: http.MethodPost, path: "/" + r.path + "/{id}/dry-run", tag: r.path, right: r.mayTry(), ok: 200, errors: []int{409, 413, 415, 422, 503}, body: body, slow: true,
		summary: "Say what a change of " + article(r.one) + " would do, without making it"},
		func(ctx context.Context, in *planBodyIn) (*planOut, error) {
			now, err := a.world(ctx)
			if err != nil {
				return nil, a.fail("try "+r.name(in.ID), err)
			}
			d, faults, err := definableOf(r).read(now, "body", in.RawBody, in.ID)
			if err != nil {
				return nil, a.fail("try "+r.name(in.ID), err)
			}
			if len(faults) > 0 {
				return nil, invalid("the "+r.one, faults)
			}
			var more func(context.Context, *planView) error
			if r.kind == defs.Destination {
				more = func(ctx context.Context, v *planView) (err error) {
					if v.Delivery, err = a.tryDraft(ctx, d); err != nil {
						err = a.fail("try a delivery to "+in.ID, err)
					}
					return err
				}
			}
			return a.preview(ctx, in.Prefer, r.mayTry(), &set{now: now}, []*draft{d}, "try "+r.name(in.ID), more)
		})
}

func tryDeletion[T, R any](a *API, r resource[T, R]) {
	operatePlan(a, op{method: http.MethodPost, path: "/" + r.path + "/{id}/deletion/dry-run", tag: r.path, right: r.mayTry(), ok: 200, errors: []int{403, 404, 409, 422, 503}, slow: true,
		summary: "Say what the deletion of " + article(r.one) + " would do, without making it"},
		func(ctx context.Context, in *planIDIn) (*planOut, error) {
			what := "try to delete " + r.name(in.ID)
			now, err := a.world(ctx)
			if err == nil {
				err = r.notBuiltin(in.ID)
			}
			var t *T
			if err == nil {
				t, _, err = r.find(now, in.ID)
			}
			var d *draft
			if err == nil {
				d, err = draftOf(now, r, t, r.path+"/"+in.ID)
			}
			if err != nil {
				return nil, a.fail(what, err)
			}
			return a.preview(ctx, in.Prefer, r.mayTry(), &set{now: now, gone: []*draft{d}}, nil, what, nil)
		})
}

// preview checks a set and says what it changes; more, if it is not nil, adds to
// that. The checks are before the answer in any case: only counting takes long.
func (a *API) preview(ctx context.Context, prefer string, right tagserver.Right, s *set, drafts []*draft, what string, more func(context.Context, *planView) error) (*planOut, error) {
	if err := s.lead(drafts); err != nil {
		return nil, a.fail(what, err)
	}
	if err := s.check(a.definables(), drafts); err != nil {
		return nil, a.fail(what, err)
	}
	if err := s.compare(drafts); err != nil {
		return nil, a.fail(what, err)
	}
	return a.answerPlan(ctx, prefer, right, func(ctx context.Context) (*planView, error) {
		v, err := a.shownPlan(ctx, s)
		if err == nil && more != nil {
			err = more(ctx, v)
		}
		return v, err
	})
}

// shownPlan counts what a set changes.
func (a *API) shownPlan(ctx context.Context, s *set) (*planView, error) {
	v := planView{Hash: s.hash, Changes: s.shown, Same: s.same}
	r, err := a.o.Preview(ctx, s.next.snap)
	if err != nil {
		return nil, a.fail("count what the plan changes", err)
	}
	v.Reach = r.view()
	return &v, nil
}

// maxSet is how many bytes a set may have.
const maxSet = 32 << 20

// mayPlan is the right to plan and apply a set.
var mayPlan = tagserver.May("definitions:write", tagserver.OfAll)

// planning registers plan and apply.
func (a *API) planning() {
	right := mayPlan
	operatePlan(a, op{method: http.MethodPost, path: "/plan", tag: "definitions", right: right, ok: 200, errors: []int{409, 413, 415, 422, 503}, body: planBody{}, most: maxSet, slow: true,
		summary: "Say exactly what a set of definitions would change: definitions, the members of every audience, and what is delivered"}, a.plan)
	operate(a, op{method: http.MethodPost, path: "/apply", tag: "definitions", right: right, ok: 200, errors: []int{409, 413, 415, 422, 503}, body: planBody{}, most: maxSet, slow: true,
		summary: "Make all changes of a plan at once, or none"}, a.apply)
}

// draft is a definition of a set, of whichever kind.
type draft struct {
	at   string // its place in what was sent
	kind defs.Kind
	one  string
	id   string
	old  *defs.Doc // nil: there is none

	check  func(w *world) error           // and completes it
	body   func() ([]byte, error)         // as it is now
	before func(w *world) ([]byte, error) // as the kept one would be if it were sent
	create func() (string, error)         // nil: nothing is made with it
	users  func(w *world) ([]tagserver.ProblemError, error)
	gone   func(context.Context, string) error // nil: nothing goes with it
}

// draftOf makes a draft of t, which takes the place of what world w has of its ID.
func draftOf[T, R any](w *world, r resource[T, R], t *T, at string) (*draft, error) {
	d := &draft{at: at, kind: r.kind, one: r.one, id: *r.id(t), create: nil, gone: r.deleted}
	var old *T
	if doc, ok := w.snap.Get(r.kind, d.id); ok {
		var err error
		if old, err = r.read(&doc); err != nil {
			return nil, err
		}
		d.old = &doc
	} else if r.created != nil {
		d.create = func() (string, error) { return r.created(t) }
	}
	d.check = func(w *world) error {
		if err := r.notBuiltin(d.id); err != nil {
			return err
		}
		return r.check(w, t, old)
	}
	normal := func(t *T) ([]byte, error) {
		if r.normal != nil {
			r.normal(t)
		}
		return encode(t)
	}
	d.body = func() ([]byte, error) { return normal(t) }
	d.before = func(w *world) ([]byte, error) {
		same, err := r.read(d.old)
		if err != nil {
			return nil, err
		}
		_ = r.check(w, same, old) // for what it completes; what is kept may have become wrong
		return normal(same)
	}
	d.users = func(w *world) ([]tagserver.ProblemError, error) {
		if r.users == nil {
			return nil, nil
		}
		return r.users(w, t)
	}
	return d, nil
}

// definable is what reads definitions of one kind.
type definable struct {
	kind defs.Kind
	one  string
	// read decodes one that was sent, keep one that is kept.
	// The ID is the one it says, or id if it says none.
	read func(w *world, at string, raw json.RawMessage, id string) (*draft, []tagserver.ProblemError, error)
	keep func(w *world, doc defs.Doc) (*draft, error)
}

func definableOf[T, R any](r resource[T, R]) definable {
	return definable{kind: r.kind, one: r.one,
		read: func(w *world, at string, raw json.RawMessage, id string) (*draft, []tagserver.ProblemError, error) {
			t := new(T)
			if faults := decode(at, raw, t, r.readOnly); len(faults) > 0 {
				return nil, faults, nil
			}
			if is := r.id(t); *is == "" {
				*is = id
			} else if id != "" && *is != id {
				return nil, []tagserver.ProblemError{fault(at+".id", "%q is not the ID in the path, %q", cut(*is), id)}, nil
			}
			if *r.id(t) == "" {
				return nil, []tagserver.ProblemError{fault(at+".id", "must not be empty")}, nil
			}
			if r.prepare != nil {
				if err := r.prepare(t); err != nil {
					if f, ok := faultsOf(at, err); ok {
						return nil, f, nil
					}
					return nil, nil, err
				}
			}
			d, err := draftOf(w, r, t, at)
			return d, nil, err
		},
		keep: func(w *world, doc defs.Doc) (*draft, error) {
			t, err := r.read(&doc)
			if err != nil {
				return nil, err
			}
			return draftOf(w, r, t, r.path+"/"+doc.ID)
		},
	}
}

// definables are the kinds that a set may have, in an order in which each names
// only those before it, or its own.
func (a *API) definables() []definable {
	return []definable{
		definableOf(sources()), definableOf(sites()), definableOf(a.taxonomies()), definableOf(classifierRules()),
		definableOf(a.audiences("audiences", "audience", nil)), definableOf(a.destinations()),
	}
}

// set is a set of definitions against what is kept.
type set struct {
	now, next *world
	made      []*draft // made or changed
	gone      []*draft
	same      int
	changes   []defs.Change
	shown     []changeView
	hash      string
}

// readSet reads a set and checks the state that it leads to.
func (a *API) readSet(ctx context.Context, body *planBody) (*set, error) {
	now, err := a.world(ctx)
	if err != nil {
		return nil, err
	}
	s := &set{now: now}
	kinds := a.definables()
	var faults []tagserver.ProblemError
	var drafts []*draft
	seen := map[string]string{} // kind/id → place
	for i, d := range body.Definitions {
		at := fmt.Sprintf("body.definitions[%d]", i)
		k := slices.IndexFunc(kinds, func(k definable) bool { return k.one == d.Kind })
		if k < 0 {
			faults = append(faults, fault(at+".kind", "%q is not one of source, site, taxonomy, rule, audience, destination", cut(d.Kind)))
			continue
		}
		if len(d.Definition) == 0 {
			faults = append(faults, fault(at+".definition", "is missing"))
			continue
		}
		one, f, err := kinds[k].read(now, at+".definition", d.Definition, "")
		if err != nil {
			return nil, err
		}
		if faults = append(faults, f...); one == nil {
			continue
		}
		name := d.Kind + "/" + one.id
		if first := seen[name]; first != "" {
			faults = append(faults, fault(at+".definition.id", "%s %q stands twice: here and at %s", d.Kind, cut(one.id), first))
			continue
		}
		seen[name] = at
		drafts = append(drafts, one)
	}
	if len(faults) > 0 {
		return nil, invalid("the set of definitions", faults[:min(len(faults), maxFaults)])
	}
	if body.Prune {
		for _, k := range kinds {
			for _, doc := range now.snap.List(k.kind) {
				if seen[k.one+"/"+doc.ID] == "" {
					d, err := k.keep(now, doc)
					if err != nil {
						return nil, err
					}
					s.gone = append(s.gone, d)
				}
			}
		}
	}
	if err := s.lead(drafts); err != nil {
		return nil, err
	}
	if err := s.check(kinds, drafts); err != nil {
		return nil, err
	}
	return s, s.compare(drafts)
}

// lead makes the world that the drafts lead to, as far as they are complete.
func (s *set) lead(drafts []*draft) error {
	var changes []defs.Change
	for _, d := range drafts {
		b, err := d.body()
		if err != nil {
			return err
		}
		changes = append(changes, d.change(b))
	}
	for _, d := range s.gone {
		changes = append(changes, d.change(nil))
	}
	s.next = &world{a: s.now.a, p: s.now.p, snap: s.now.snap.With(changes, s.now.a.o.Now())}
	return nil
}

func (d *draft) change(body []byte) defs.Change {
	c := defs.Change{Kind: d.kind, ID: d.id, Body: body}
	if d.old != nil {
		c.Expect = d.old.Version
	}
	return c
}

// check checks all that will be there: what was sent, and what was not and must go
// on being right.
func (s *set) check(kinds []definable, drafts []*draft) error {
	var faults []tagserver.ProblemError
	add := func(at string, err error) error {
		var p problem
		f, ok := faultsOf(at, err)
		switch {
		case err == nil:
		case ok:
			faults = append(faults, f...)
		case errors.As(err, &p):
			faults = append(faults, fault(at, "%s", p.Detail))
			faults = append(faults, p.Errors...)
		default:
			return err
		}
		return nil
	}
	sent := map[string]bool{}
	for _, d := range drafts {
		sent[string(d.kind)+"/"+d.id] = true
		if err := add(d.at, d.check(s.next)); err != nil {
			return err
		}
	}
	for _, d := range s.gone {
		users, err := d.users(s.next)
		if err != nil {
			if err := add(d.at, err); err != nil {
				return err
			}
			continue
		}
		for _, u := range users {
			faults = append(faults, fault(u.Location, "%s, %s %q, which would be deleted", u.Message, d.one, d.id))
		}
	}
	for _, k := range kinds {
		for _, doc := range s.next.snap.List(k.kind) {
			if sent[string(k.kind)+"/"+doc.ID] {
				continue
			}
			d, err := k.keep(s.now, doc)
			if err != nil {
				return err
			}
			if err := d.check(s.next); err != nil {
				was, werr := k.keep(s.now, doc)
				if werr != nil {
					return werr
				}
				if was.check(s.now) != nil {
					continue // it was wrong before, and is no matter of this set
				}
				if err := add(d.at, err); err != nil {
					return err
				}
			}
		}
	}
	if len(faults) == 0 {
		before, err := s.now.forest(nil, "")
		if err != nil {
			return err
		}
		after, err := s.next.forest(nil, "")
		if err != nil {
			return err
		}
		if faults, err = s.next.brokenFrom(before, after); err != nil {
			return err
		}
	}
	if len(faults) > 0 {
		return invalid("the set of definitions", faults[:min(len(faults), maxFaults)])
	}
	return nil
}

// compare finds what differs, and names the plan.
func (s *set) compare(drafts []*draft) error {
	for _, d := range drafts {
		after, err := d.body()
		if err != nil {
			return err
		}
		if len(after) > maxKept {
			return newProblem(http.StatusRequestEntityTooLarge, codeTooLarge, "%s %q has %d bytes, at most %d", d.one, d.id, len(after), maxKept)
		}
		v := changeView{Kind: d.one, ID: d.id, What: "make", Fields: []string{}}
		if d.old != nil {
			before, err := d.before(s.now)
			if err != nil {
				return err
			}
			if bytes.Equal(before, after) {
				s.same++
				continue
			}
			v.What, v.Version = "change", d.old.Version
			if v.Fields, err = differing(before, after); err != nil {
				return err
			}
		}
		s.made = append(s.made, d)
		s.changes, s.shown = append(s.changes, d.change(after)), append(s.shown, v)
	}
	for _, d := range s.gone {
		s.changes = append(s.changes, d.change(nil))
		s.shown = append(s.shown, changeView{Kind: d.one, ID: d.id, What: "delete", Version: d.old.Version, Fields: []string{}})
	}
	if s.shown == nil {
		s.shown = []changeView{}
	}
	// The plan is of these changes to these documents, all of them: a definition
	// that somebody else changed meanwhile may give the same change other
	// consequences.
	h := sha256.New()
	fmt.Fprintln(h, "ebb plan 1")
	for _, k := range s.now.a.definables() {
		for _, doc := range s.now.snap.List(k.kind) {
			fmt.Fprintf(h, "%s %s %d\n", k.kind, doc.ID, doc.Version)
		}
	}
	for _, c := range s.changes {
		fmt.Fprintf(h, "%s %s %d %d %s\n", c.Kind, c.ID, c.Expect, len(c.Body), c.Body)
	}
	s.hash = hex.EncodeToString(h.Sum(nil))
	s.next = &world{a: s.now.a, p: s.now.p, snap: s.now.snap.With(s.changes, s.now.a.o.Now())}
	return nil
}

// differing returns the fields in which two objects differ, sorted.
func differing(a, b []byte) ([]string, error) {
	var x, y map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(a, &x), json.Unmarshal(b, &y)); err != nil {
		return nil, err
	}
	fields := []string{}
	for f := range x {
		if !bytes.Equal(x[f], y[f]) {
			fields = append(fields, f)
		}
	}
	for f := range y {
		if _, ok := x[f]; !ok {
			fields = append(fields, f)
		}
	}
	slices.Sort(fields)
	return fields, nil
}

func (a *API) planOf(ctx context.Context, raw []byte) (*planBody, *set, error) {
	var body planBody
	if faults := decode("body", raw, &body, nil); len(faults) > 0 {
		return nil, nil, invalid("the set of definitions", faults)
	}
	s, err := a.readSet(ctx, &body)
	if err != nil {
		return nil, nil, a.fail("plan", err)
	}
	return &body, s, nil
}

func (a *API) plan(ctx context.Context, in *planIn) (*planOut, error) {
	body, s, err := a.planOf(ctx, in.RawBody)
	if err != nil {
		return nil, err
	}
	if body.Hash != "" {
		return nil, invalid("the set of definitions", []tagserver.ProblemError{fault("body.hash", "is for apply; a plan has one in its answer")})
	}
	return a.answerPlan(ctx, in.Prefer, mayPlan, func(ctx context.Context) (*planView, error) { return a.shownPlan(ctx, s) })
}

func (a *API) apply(ctx context.Context, in *applyIn) (*bodyOut[applyView], error) {
	a.changing.Lock()
	defer a.changing.Unlock()
	body, s, err := a.planOf(ctx, in.RawBody)
	if err != nil {
		return nil, err
	}
	if body.Hash == "" {
		return nil, invalid("the set of definitions", []tagserver.ProblemError{fault("body.hash", "is missing: POST the same body to %s/plan, look at what it says, and send its hash", base)})
	}
	if body.Hash != s.hash {
		return nil, newProblem(http.StatusConflict, codeChanged, "this is not what was planned: the definitions, here or there, were changed since; plan again")
	}
	v := applyView{Hash: s.hash, Changes: s.shown, Same: s.same, Keys: []newKeyView{}}
	if len(s.changes) == 0 {
		return &bodyOut[applyView]{v}, nil
	}
	for i, d := range s.made {
		if d.create == nil {
			continue
		}
		key, err := d.create()
		if err != nil {
			return nil, a.fail("apply", err)
		}
		b, err := d.body()
		if err != nil {
			return nil, a.fail("apply", err)
		}
		s.changes[i].Body = b
		v.Keys = append(v.Keys, newKeyView{d.id, key})
	}
	if err := a.applySet(ctx, s); err != nil {
		if errors.Is(err, retention.ErrConflict) {
			return nil, newProblem(http.StatusConflict, codeChanged, "a definition was changed meanwhile; plan again")
		}
		return nil, a.fail("apply", err)
	}
	if err := a.changed(ctx, "apply"); err != nil {
		return nil, err
	}
	for i := range v.Changes {
		doc, _ := a.o.Defs.Snapshot().Get(s.changes[i].Kind, s.changes[i].ID)
		v.Changes[i].Version = doc.Version
	}
	for _, d := range s.gone {
		if d.gone != nil {
			if err := d.gone(detached(ctx), d.id); err != nil {
				return nil, a.fail("apply", err)
			}
		}
	}
	v.Operation = cmp.Or(a.follows(ctx, defs.Rule), "")
	return &bodyOut[applyView]{v}, nil
}

// applySet writes every change into the audit log, and makes them.
func (a *API) applySet(ctx context.Context, s *set) error {
	var name [16]byte
	if _, err := io.ReadFull(a.o.Rand, name[:]); err != nil {
		return err
	}
	// The entries stand before the changes; each tells of which plan it is.
	do := func() error { return a.o.Defs.Apply(ctx, hex.EncodeToString(name[:]), s.changes) }
	for _, c := range slices.Backward(s.changes) {
		after := c.Expect + 1
		if c.Body == nil {
			after = 0
		}
		e, rest := document(c.Kind, c.ID, c.Expect, after), do
		e.Detail = "plan " + s.hash[:16]
		do = func() error { return a.audited(ctx, e, rest) }
	}
	return do()
}
