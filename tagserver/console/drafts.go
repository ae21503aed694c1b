package console

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// draftRoutes are the pages of rules and taxonomies on their way.
func (c *Console) draftRoutes(admin func(string, func(echo.Context) (*page, error)) tagserver.Route) []tagserver.Route {
	return []tagserver.Route{admin("/drafts/:kind/:id", c.draft), c.form("/drafts/:kind/:id", c.drafted)}
}

// drafting are the kinds that have drafts: one of them in words, and the page on
// which it is changed.
var drafting = map[string]struct{ one, editor string }{"rules": {"rule", "editor"}, "taxonomies": {"taxonomy", "taxonomies"}}

// draftItem is a draft in the API's list, and the head of one.
type draftItem struct {
	Kind      string    `json:"kind"`
	ID        string    `json:"id"`
	Version   uint64    `json:"version"`
	Base      uint64    `json:"base"`
	Published uint64    `json:"published"`
	Stands    string    `json:"stands"`
	Changed   time.Time `json:"changed"`
	Authors   []string  `json:"authors"`
}

// Time is when it was saved last.
func (d *draftItem) Time() taxonomy.Millis { return taxonomy.MillisOf(d.Changed) }

// By is whose changes it has, who saved it last at the end.
func (d *draftItem) By() string { return cmp.Or(andList(d.Authors), "nobody that is known") }

// Last is who saved it last.
func (d *draftItem) Last() string {
	if len(d.Authors) == 0 {
		return "Somebody"
	}
	return d.Authors[len(d.Authors)-1]
}

// andList joins names as a sentence does.
func andList(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// Behind reports whether somebody published, or deleted, since it was begun.
func (d *draftItem) Behind() bool { return d.Base != d.Published }

// Path is its page, Edit the page on which it is changed.
func (d *draftItem) Path() string { return pathOf("drafts/"+d.Kind, d.ID) }
func (d *draftItem) Edit() string { return pathOf(drafting[d.Kind].editor, d.ID) + "?draft=1" }

// draftDoc is a draft as the API shows it.
type draftDoc[T any] struct {
	draftItem
	Definition T                        `json:"definition"`
	Faults     []tagserver.ProblemError `json:"faults"`
	tag        string
}

// draftOf reads a draft; nil if there is none, or none for who is signed in.
func draftOf[T any](c *Console, e echo.Context, kind, id string) (*draftDoc[T], error) {
	d := &draftDoc[T]{}
	h, no, err := c.ask(e, http.MethodGet, "/"+kind+"/"+url.PathEscape(id)+"/draft", nil, d)
	if err != nil || no != nil && (no.Status == http.StatusNotFound || no.Status == http.StatusForbidden) {
		return nil, err
	}
	if no != nil {
		return nil, no
	}
	d.tag = h.Get("ETag")
	return d, nil
}

// drafts lists those of a kind. Who may not see them has none.
func (c *Console) drafts(e echo.Context, kind string) ([]*draftItem, error) {
	all, err := every[*draftItem](c, e, "/drafts")
	var no *refusal
	if errors.As(err, &no) && no.Status == http.StatusForbidden {
		return nil, nil
	}
	return slices.DeleteFunc(all, func(d *draftItem) bool { return d.Kind != kind }), err
}

// difference is a field that differs.
type difference struct {
	Field  string `json:"field"`
	Before value  `json:"before"`
	After  value  `json:"after"`
}

// planDoc is the API's plan.
type planDoc struct {
	Changes []struct {
		Kind   string   `json:"kind"`
		ID     string   `json:"id"`
		What   string   `json:"what"`
		Fields []string `json:"fields"`
	} `json:"changes"`
	Reach struct {
		AsOf         time.Time   `json:"as_of"`
		Audiences    []*reachRow `json:"audiences"`
		Unchanged    int         `json:"unchanged"`
		Destinations []struct {
			ID        string      `json:"id"`
			Audiences []*reachRow `json:"audiences"`
		} `json:"destinations"`
	} `json:"reach"`
}

// AsOf is the moment that its numbers are exact for.
func (p *planDoc) AsOf() taxonomy.Millis { return taxonomy.MillisOf(p.Reach.AsOf) }

// Refold reports whether some of it holds only once the 90 days are folded again.
func (p *planDoc) Refold() bool {
	return slices.ContainsFunc(p.Reach.Audiences, func(r *reachRow) bool { return r.Refold })
}

// reachRow is what a plan makes of one audience.
type reachRow struct {
	ID      string   `json:"id"`
	Before  *counted `json:"before"`
	After   *counted `json:"after"`
	Added   counted  `json:"added"`
	Removed counted  `json:"removed"`
	Fault   string   `json:"fault"`
	Refold  bool     `json:"refold"`
}

// counting is a plan that is counted, or was.
type counting struct {
	ID   string
	Work *operationDoc
	Plan *planDoc
	Why  string // there is no plan
	Path string // of the page that follows it
}

// Running reports whether it is not over.
func (k *counting) Running() bool { return k.Work != nil && k.Work.Running() }

// counted reads what has become of a plan.
func (c *Console) counted(e echo.Context, id, path string) (*counting, error) {
	k := &counting{ID: id, Path: path}
	var o operationDoc
	of := "/operations/" + url.PathEscape(id)
	_, no, err := c.ask(e, http.MethodGet, of, nil, &o)
	if err != nil {
		return nil, err
	}
	if no != nil || o.Kind != "plan" {
		k.Why = "What was counted is no longer kept. Count again."
		return k, nil
	}
	if k.Work = &o; o.Running() {
		return k, nil
	}
	var p planDoc
	if _, no, err = c.ask(e, http.MethodGet, of+"/result", nil, &p); err != nil {
		return nil, err
	}
	if no != nil {
		k.Why = no.Detail
	} else {
		k.Plan = &p
	}
	return k, nil
}

type draftData struct {
	draftItem
	One, Title string
	Tag        string // of what is published, "" if nothing is
	Back       string
	Faults     []tagserver.ProblemError
	Says       []string
	Fields     []difference
	Counting   *counting
	Stale      bool // it was saved after it was counted
	No         *refusal
	Note       string
}

func (c *Console) draft(e echo.Context) (*page, error) { return c.draftPage(e, &draftData{}) }

// draftPage reads the draft anew, so that what it says is what is there now.
func (c *Console) draftPage(e echo.Context, d *draftData) (*page, error) {
	kind, id := param(e, "kind"), param(e, "id")
	of, ok := drafting[kind]
	if !ok {
		return nil, errNothing
	}
	doc, err := draftOf[struct {
		Title string `json:"title"`
	}](c, e, kind, id)
	if err == nil && doc == nil {
		err = errNothing
	}
	if err != nil {
		return nil, err
	}
	d.draftItem, d.Faults = doc.draftItem, doc.Faults
	d.draftItem.Kind, d.One, d.Title, d.Back = kind, of.one, cmp.Or(doc.Definition.Title, id), base+"/"+kind
	if d.Published > 0 {
		d.Tag = fmt.Sprintf("%q", strconv.FormatUint(d.Published, 10))
	}
	var diff struct {
		Fields []difference `json:"fields"`
		Says   []string     `json:"says"`
	}
	if _, err := c.get(e, "/"+kind+"/"+url.PathEscape(id)+"/draft/diff", &diff); err != nil {
		return nil, err
	}
	d.Fields, d.Says = diff.Fields, diff.Says
	if plan := e.QueryParam("plan"); plan != "" {
		if d.Counting, err = c.counted(e, plan, d.Path()+"?"+e.QueryString()); err != nil {
			return nil, err
		}
		d.Stale = e.QueryParam("of") != strconv.FormatUint(d.Version, 10)
	}
	p := &page{Template: "draft", Title: "Draft of " + d.Title, Section: base + "/" + kind, Data: d}
	if d.No != nil {
		p.Status = d.No.Status
	}
	c.follow(e, p, "htmx")
	return p, nil
}

// drafted does what a button of the draft's page says.
func (c *Console) drafted(e echo.Context) (*page, error) {
	kind, id := param(e, "kind"), param(e, "id")
	if _, ok := drafting[kind]; !ok {
		return nil, errNothing
	}
	of, home := "/"+kind+"/"+url.PathEscape(id)+"/draft", pathOf("drafts/"+kind, id)
	d := &draftData{}
	var h http.Header
	var err error
	switch do := field(e, "do"); do {
	case "begin":
		if kind != "taxonomies" {
			return nil, errNothing
		}
		var t tree.Taxonomy
		if _, err := c.get(e, "/taxonomies/"+url.PathEscape(id), &t); err != nil {
			return nil, err
		}
		_, d.No, err = c.ask(e, http.MethodPut, of, t, nil, "If-None-Match", "*")
		if err == nil && d.No == nil {
			return done(e, pathOf("taxonomies", id)+"?draft=1")
		}
		if err == nil && d.No.Status != http.StatusPreconditionFailed { // there is one: its page says whose
			return nil, d.No
		}
		if err == nil {
			return done(e, home)
		}
	case "plan":
		h, d.No, err = c.ask(e, http.MethodPost, of+"/publish/dry-run", nil, nil, "Prefer", "respond-async, wait=2")
		if plan, ok := strings.CutPrefix(h.Get("Operation-Location"), "/api/v1/operations/"); ok && err == nil && d.No == nil {
			return done(e, home+"?plan="+url.QueryEscape(plan)+"&of="+url.QueryEscape(field(e, "draft")))
		}
	case "publish", "discard":
		// What is published, or discarded, is what was looked at.
		seen := field(e, "draft")
		if do == "discard" {
			_, d.No, err = c.ask(e, http.MethodDelete, of, nil, nil, "If-Match", strconv.Quote(seen))
		} else if tag := field(e, "tag"); tag != "" {
			h, d.No, err = c.ask(e, http.MethodPost, of+"/publish?draft="+url.QueryEscape(seen), nil, nil, "If-Match", tag)
		} else {
			h, d.No, err = c.ask(e, http.MethodPost, of+"/publish?draft="+url.QueryEscape(seen), nil, nil, "If-None-Match", "*")
		}
		if err != nil {
			return nil, err
		}
		if d.No == nil {
			if do == "discard" {
				return done(e, base+"/"+kind)
			}
			if op, ok := strings.CutPrefix(h.Get("Operation-Location"), "/api/v1/operations/"); ok {
				return done(e, base+"/operations/"+op)
			}
			return done(e, pathOf(drafting[kind].editor, id))
		}
		if d.No.Status == http.StatusPreconditionFailed || d.No.Status == http.StatusNotFound {
			now, err := draftOf[json.RawMessage](c, e, kind, id)
			switch {
			case err != nil:
				return nil, err
			case now == nil:
				return nil, errNothing
			case strconv.FormatUint(now.Version, 10) != seen:
				d.Note = now.Last() + " saved this draft since you looked at it. What it says now stands below."
			default:
				d.Note = "Somebody published or deleted this " + drafting[kind].one + " since you looked at it. What would change now stands below; publish again to put the draft in its place."
			}
			d.No.Status = http.StatusPreconditionFailed
		}
	default:
		return nil, errNothing
	}
	if err != nil {
		return nil, err
	}
	return c.draftPage(e, d)
}

// keepDraft saves the rule as a draft and returns where to go, or leaves in d why
// not.
func (c *Console) keepDraft(e echo.Context, d *editorData) (to string, err error) {
	of := "/rules/" + url.PathEscape(d.Rule.ID) + "/draft"
	condition := []string{"If-None-Match", "*"}
	if d.DraftTag != "" {
		condition = []string{"If-Match", d.DraftTag}
	}
	_, no, err := c.ask(e, http.MethodPut, of, d.Rule, nil, condition...)
	if err != nil {
		return "", err
	}
	if no == nil {
		return pathOf("drafts/rules", d.Rule.ID), nil
	}
	d.No = no
	if no.Status != http.StatusPreconditionFailed && !(no.Status == http.StatusNotFound && d.DraftTag != "") {
		return "", nil
	}
	now, err := draftOf[json.RawMessage](c, e, "rules", d.Rule.ID)
	if err != nil {
		return "", err
	}
	if now == nil {
		d.DraftTag, no.Detail = "", "The draft was published or discarded since you opened it. Save again to begin another."
		return "", nil
	}
	what := "saved this draft since you opened it"
	if d.DraftTag == "" {
		what = "has saved a draft of this rule already"
	}
	d.DraftTag = now.tag
	no.Detail = now.Last() + " " + what + ". Save again to put yours in its place."
	d.Note = "The draft that is kept says: " + strings.TrimSpace(string(now.Definition))
	return "", nil
}

// changeDraft makes a change of the tree's forms in the draft that d shows.
func (c *Console) changeDraft(e echo.Context, d *treeData, do string, k tree.Category, f categoryForm) (*page, error) {
	t := d.Taxonomy
	t.Categories = slices.Clone(t.Categories)
	at := -1
	if d.At != nil {
		at = slices.IndexFunc(t.Categories, func(x tree.Category) bool { return x.ID == d.At.ID })
	}
	refuse := func(field, format string, args ...any) *refusal {
		says := fmt.Sprintf(format, args...)
		return &refusal{Problem: tagserver.Problem{Status: http.StatusUnprocessableEntity, Detail: "The draft was not changed: " + says + "."}, At: map[string]string{field: says}}
	}
	to, tag := pathOf("taxonomies", t.ID), field(e, "tag")
	switch {
	case do == "add":
		k.ID = cmp.Or(k.ID, tree.Slug(k.Title), "new")
		tag = d.Tag // what somebody else added meanwhile stays
		if err := tree.CheckID(k.ID); err != nil {
			f.No = refuse("id", "%v", err)
		} else if slices.ContainsFunc(t.Categories, func(x tree.Category) bool { return x.ID == k.ID }) {
			f.No = refuse("id", "there is a category %q already", k.ID)
		}
		t.Categories, to = append(t.Categories, k), to+"/"+url.PathEscape(k.ID)
	case do == "save" && at >= 0:
		was := t.Categories[at]
		k.ID, k.Tiers, k.Archived, k.Merged = was.ID, was.Tiers, was.Archived, was.Merged
		t.Categories[at], to = k, to+"/"+url.PathEscape(k.ID)
	case do == "delete" && at >= 0:
		if i := slices.IndexFunc(t.Categories, func(x tree.Category) bool { return slices.Contains(x.Parents, d.At.ID) }); i >= 0 {
			f.No = refuse("", "%q is below it; move or delete that first", t.Categories[i].ID)
		}
		t.Categories = slices.Delete(t.Categories, at, at+1)
	case (do == "archive" || do == "restore") && at >= 0:
		t.Categories[at].Archived = 0
		if do == "archive" {
			t.Categories[at].Archived = taxonomy.Moment(c.o.Now())
		}
		to += "/" + url.PathEscape(d.At.ID)
	default:
		return nil, errNothing
	}
	var err error
	if f.No == nil {
		_, f.No, err = c.ask(e, http.MethodPut, "/taxonomies/"+url.PathEscape(t.ID)+"/draft", t, nil, "If-Match", tag)
	}
	if err != nil {
		return nil, err
	}
	if f.No == nil {
		return done(e, to+"?draft=1")
	}
	if f.No.Status == http.StatusPreconditionFailed {
		f.No.Detail = d.Draft.Last() + " saved this draft since you opened it. What it says now stands on this page; send yours again to put it into that."
	}
	if do == "add" {
		d.Add = f
	} else {
		f.ID = d.At.ID
		d.Edit = f
	}
	return c.treePage(e, d)
}
