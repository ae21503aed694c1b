package console

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// editorRoutes are the pages of rules, and of what follows when one is published.
func (c *Console) editorRoutes(admin func(string, func(echo.Context) (*page, error)) tagserver.Route) []tagserver.Route {
	return []tagserver.Route{
		admin("/rules", c.rules),
		admin("/editor", c.editor), c.form("/editor", c.edited),
		admin("/editor/:id", c.editor), c.form("/editor/:id", c.edited),
		admin("/operations", c.operations),
		admin("/operations/:id", c.operation), c.form("/operations/:id", c.steer),
	}
}

func (c *Console) rules(e echo.Context) (*page, error) {
	all, err := every[document[rules.Rule]](c, e, "/rules")
	if err != nil {
		return nil, err
	}
	var d rulesData
	if d.Drafts, err = c.drafts(e, "rules"); err != nil {
		return nil, err
	}
	for _, r := range all {
		row := ruleRow{document: r, Says: ruleWords(&r.Definition)}
		if i := slices.IndexFunc(d.Drafts, func(x *draftItem) bool { return x.ID == r.ID }); i >= 0 {
			row.Draft = d.Drafts[i]
		}
		d.Rules = append(d.Rules, row)
	}
	return &page{Template: "rules", Title: "Rules", Section: base + "/rules", Data: d}, nil
}

type (
	rulesData struct {
		Rules  []ruleRow
		Drafts []*draftItem
	}
	ruleRow struct {
		document[rules.Rule]
		Says  string
		Draft *draftItem // nil: there is none
	}
)

// ruleWords says what a rule asks.
func ruleWords(r *rules.Rule) string {
	if len(r.When) == 0 {
		return "every event"
	}
	var of []string
	for i := range r.When {
		of = append(of, r.When[i].Words())
	}
	return strings.Join(of, ", and ")
}

// condition is a condition as a form shows it, each field as it was typed.
type condition struct {
	N                                         int
	Field, Op, Values, Min, Max, Above, Below string
	Not                                       bool
	Faults                                    map[string]string
}

// Fault is the fault of a field.
func (c *condition) Fault(field string) string { return c.Faults[field] }

// ID is the id and the name of a field.
func (c *condition) ID(field string) string { return field + "." + strconv.Itoa(c.N) }

// Place is where it stands, counted as people count.
func (c *condition) Place() int { return c.N + 1 }

// Ops are the operators, in the words of people.
func (c *condition) Ops() []choice {
	return []choice{{"eq", "is"}, {"in", "is one of"}, {"ne", "is there and is none of"}, {"prefix", "begins with"}, {"suffix", "ends with"},
		{"contains", "contains"}, {"words", "contains the words"}, {"matches", "matches the expression"}, {"range", "is a number"}, {"exists", "is there"}}
}

// ruleDraft is a rule on the way: as JSON text and as fields, kept in step.
type ruleDraft struct {
	Text, Was              string
	ID, Title, Sites, Then string
	When                   []*condition
	Rule                   *rules.Rule // nil: what leads is no rule yet
	TextFault              string
	Note                   string
	Faults                 map[string]string // of fields beside the conditions
}

func lines(s string) (out []string) {
	for l := range strings.SplitSeq(strings.ReplaceAll(s, "\r", ""), "\n") {
		if l = strings.TrimSpace(l); l != "" {
			out = append(out, l)
		}
	}
	return out
}

// take shows a rule as fields.
func (d *ruleDraft) take(r *rules.Rule) {
	d.ID, d.Title, d.Then, d.When, d.Sites = r.ID, r.Title, strings.Join(r.Then, "\n"), nil, ""
	for i, s := range r.Sites {
		if i > 0 {
			d.Sites += " "
		}
		d.Sites += string(s)
	}
	num := func(v *float64) string {
		if v == nil {
			return ""
		}
		return strconv.FormatFloat(*v, 'g', -1, 64)
	}
	for i := range r.When {
		w := &r.When[i]
		values := w.Values
		if w.Value != "" {
			values = append([]string{w.Value}, values...)
		}
		d.When = append(d.When, &condition{N: i, Field: w.Field, Op: w.Op, Values: strings.Join(values, "\n"), Not: w.Not,
			Min: num(w.Min), Max: num(w.Max), Above: num(w.Above), Below: num(w.Below)})
	}
}

// rule returns the rule that the fields say; numbers that are none have a fault.
func (d *ruleDraft) rule() (*rules.Rule, bool) {
	good := true
	r := &rules.Rule{ID: d.ID, Title: d.Title, Then: lines(d.Then)}
	for _, s := range strings.FieldsFunc(d.Sites, func(r rune) bool { return r == ' ' || r == ',' }) {
		r.Sites = append(r.Sites, taxonomy.SiteID(s))
	}
	for _, k := range d.When {
		w := rules.Condition{Field: k.Field, Op: k.Op, Not: k.Not}
		num := func(field, s string) *float64 {
			if s == "" {
				return nil
			}
			v, err := strconv.ParseFloat(s, 64)
			if err != nil {
				k.fault(field, "want a number")
				good = false
				return nil
			}
			return &v
		}
		switch k.Op {
		case "exists":
		case "range":
			w.Min, w.Max, w.Above, w.Below = num("min", k.Min), num("max", k.Max), num("above", k.Above), num("below", k.Below)
		case "in":
			w.Values = lines(k.Values)
		default:
			if v := lines(k.Values); len(v) == 1 {
				w.Value = v[0]
			} else {
				w.Values = v
			}
		}
		r.When = append(r.When, w)
	}
	return r, good
}

func (c *condition) fault(field, says string) {
	if c.Faults == nil {
		c.Faults = map[string]string{}
	}
	if c.Faults[field] == "" {
		c.Faults[field] = says
	}
}

// ruleText is a rule as people read JSON.
func ruleText(r *rules.Rule) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil { // strings and numbers do not fail
		return ""
	}
	return strings.TrimSpace(b.String())
}

func parseRule(text string) (*rules.Rule, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	var r rules.Rule
	if err := d.Decode(&r); err != nil {
		return nil, fmt.Errorf("byte %d: %w", d.InputOffset(), err)
	}
	if d.More() {
		return nil, fmt.Errorf("byte %d: something is left over", d.InputOffset())
	}
	return &r, nil
}

func sameRule(a, b *rules.Rule) bool {
	norm := func(r *rules.Rule) any {
		var x any
		_ = json.Unmarshal([]byte(ruleText(r)), &x)
		return x
	}
	return reflect.DeepEqual(norm(a), norm(b))
}

// settle brings text and fields together, as draft.settle does.
func (d *ruleDraft) settle(lead string) {
	d.Rule, d.TextFault, d.Note = nil, "", ""
	fields, good := d.rule()
	if lead != "fields" && d.Text != d.Was {
		r, err := parseRule(d.Text)
		if err != nil {
			d.TextFault = err.Error()
			return
		}
		if was, err := parseRule(d.Was); good && (err != nil || !sameRule(fields, was)) && !sameRule(fields, r) {
			d.Note = "The fields had been changed too. They said: " + ruleText(fields)
		}
		d.take(r)
		d.Rule, d.Was = r, d.Text
		return
	}
	if !good {
		return
	}
	said, err := parseRule(d.Text)
	if d.Text != d.Was && strings.TrimSpace(d.Text) != "" && (err != nil || !sameRule(said, fields)) {
		d.Note = "The text had been changed too. It said: " + d.Text
	}
	if err != nil || !sameRule(said, fields) {
		d.Text = ruleText(fields)
	}
	d.Rule, d.Was = fields, d.Text
}

// place puts the faults of a rule at its fields and returns the rest.
func (d *ruleDraft) place(faults []taxonomy.FieldError) (rest []string) {
	d.Faults = map[string]string{}
	for _, f := range faults {
		var n int
		at, says := f.Field, f.Err.Error()
		if k, err := fmt.Sscanf(at, "when[%d]", &n); err == nil && k == 1 && n < len(d.When) {
			_, key, _ := strings.Cut(at, "].")
			key, _, _ = strings.Cut(key, "[")
			d.When[n].fault(cmp.Or(map[string]string{"field": "field", "op": "op", "value": "values", "values": "values", "min": "min", "max": "max", "above": "above", "below": "below"}[key], "field"), says)
			continue
		}
		key, _, _ := strings.Cut(at, "[")
		if !slices.Contains([]string{"id", "title", "sites", "then"}, key) {
			rest = append(rest, strings.TrimPrefix(at+": "+says, ": "))
		} else if d.Faults[key] == "" {
			if at != key {
				says = at + ": " + says
			}
			d.Faults[key] = says
		}
	}
	return rest
}

// ruleReach is the API's dry run of a rule.
type ruleReach struct {
	Events       uint64                `json:"events"`
	Columns      []taxonomy.Trait      `json:"columns"`
	Prefixes     []string              `json:"prefixes"`
	EvaluateOnly []string              `json:"evaluate_only"`
	Audiences    []taxonomy.AudienceID `json:"audiences"`
}

// match is an event of live traffic that a rule holds for, or nearly.
type match struct {
	At     taxonomy.Millis
	Site   taxonomy.SiteID
	What   string
	Where  string
	Traits []traitView
	But    string // the condition that does not hold, in words
	Case   bool
}

type editorData struct {
	ruleDraft
	Path string
	New  bool
	Tag  string
	// Drafted: it is the draft that is changed. DraftTag is the version of it that was
	// opened; Draft is the one that there is, of a rule that is not changed as one.
	Drafted  bool
	DraftTag string
	Draft    *draftItem

	Matched, Near []match
	Hits, Of      int
	Live          bool // there is traffic to look at
	Reach         *ruleReach
	No            *refusal
	Others        []string
	SiteChoices   []taxonomy.Site
	Traits        []choice
	Fields        []string
}

func (c *Console) editor(e echo.Context) (*page, error) {
	d := &editorData{New: param(e, "id") == ""}
	if d.New {
		r := &rules.Rule{When: []rules.Condition{{Field: "path", Op: "prefix"}}}
		if s := e.QueryParam("json"); s != "" {
			if x, err := parseRule(s); err == nil {
				r = x
			}
		}
		if t := e.QueryParam("then"); t != "" {
			r.Then = []string{t}
		}
		if s := e.QueryParam("site"); s != "" {
			r.Sites = []taxonomy.SiteID{taxonomy.SiteID(s)}
		}
		d.take(r)
		d.Text = ruleText(r)
		d.Was = d.Text
		return c.editorPage(e, d, len(r.Then) > 0 && e.QueryParam("json") != "")
	}
	draft, err := draftOf[rules.Rule](c, e, "rules", param(e, "id"))
	if err != nil {
		return nil, err
	}
	var r rules.Rule
	if d.Drafted = e.QueryParam("draft") != ""; d.Drafted {
		if draft == nil {
			return nil, errNothing
		}
		r, d.DraftTag = draft.Definition, draft.tag
	} else {
		h, err := c.get(e, "/rules/"+url.PathEscape(param(e, "id")), &r)
		if err != nil {
			return nil, err
		}
		if d.Tag = h.Get("ETag"); draft != nil {
			d.Draft = &draft.draftItem
			d.Draft.Kind = "rules"
		}
	}
	d.take(&r)
	d.Text = ruleText(&r)
	d.Was = d.Text
	return c.editorPage(e, d, true)
}

func (c *Console) edited(e echo.Context) (*page, error) {
	form := e.Request().PostForm
	clean := func(s string) string { return strings.ReplaceAll(s, "\r\n", "\n") }
	d := &editorData{New: param(e, "id") == "", Tag: field(e, "tag"), Drafted: e.QueryParam("draft") != "", DraftTag: field(e, "draft"), ruleDraft: ruleDraft{Text: clean(form.Get("text")), Was: clean(form.Get("was")),
		ID: field(e, "id"), Title: field(e, "title"), Sites: field(e, "sites"), Then: clean(form.Get("then"))}}
	if !d.New {
		d.ID = param(e, "id")
	}
	for n := range rules.MaxConditions {
		at := func(name string) string { return strings.TrimSpace(form.Get(name + "." + strconv.Itoa(n))) }
		if !form.Has("field." + strconv.Itoa(n)) {
			break
		}
		d.When = append(d.When, &condition{N: n, Field: at("field"), Op: at("op"), Values: clean(at("values")), Min: at("min"), Max: at("max"), Above: at("above"), Below: at("below"), Not: at("not") != ""})
	}
	do, lead := form.Get("do"), ""
	verb, num, _ := strings.Cut(do, ":")
	switch n, err := strconv.Atoi(num); {
	case verb == "cond":
		d.When, lead = append(d.When, &condition{N: len(d.When), Field: "path", Op: "prefix"}), "fields"
	case verb == "drop" && err == nil && n >= 0 && n < len(d.When):
		d.When, lead = slices.Delete(d.When, n, n+1), "fields"
		for i, k := range d.When {
			k.N = i
		}
	case verb == "fields":
		lead = "fields"
	}
	d.settle(lead)
	if d.Rule != nil && !d.New {
		d.Rule.ID, d.ID = param(e, "id"), param(e, "id")
	}
	if d.Rule != nil && (do == "save" && !d.Drafted || do == "dry" || do == "draft") {
		if d.New && d.Rule.ID == "" {
			d.ID = tree.Slug(d.Title)
			d.Rule.ID = d.ID
		}
		to, err := c.publish(e, d, do)
		if err != nil || to != "" {
			if err != nil {
				return nil, err
			}
			return done(e, to)
		}
	}
	return c.editorPage(e, d, true)
}

// publish keeps the rule and returns where to go, or leaves in d why not; a dry run
// leaves there what it would do.
func (c *Console) publish(e echo.Context, d *editorData, do string) (to string, err error) {
	var h http.Header
	of := "/rules/" + url.PathEscape(d.Rule.ID)
	switch {
	case do == "draft":
		return c.keepDraft(e, d)
	case do == "dry":
		var reach ruleReach
		if _, d.No, err = c.ask(e, http.MethodPost, "/rules/"+url.PathEscape(cmp.Or(d.Rule.ID, "draft"))+"/dry-run", d.Rule, &reach); err == nil && d.No == nil {
			d.Reach = &reach
		}
		return "", err
	case d.New:
		h, d.No, err = c.ask(e, http.MethodPost, "/rules", d.Rule, nil)
	default:
		h, d.No, err = c.ask(e, http.MethodPut, of, d.Rule, nil, "If-Match", d.Tag)
	}
	if err != nil || d.No != nil {
		if d.No != nil && d.No.Status == http.StatusPreconditionFailed {
			var now rules.Rule
			h, err := c.get(e, of, &now)
			if err != nil {
				return "", err
			}
			d.Tag = h.Get("ETag")
			d.Note = "Somebody changed this rule since you opened it; they kept: " + ruleText(&now) + " Publish again to put yours in its place."
		}
		return "", err
	}
	if op, ok := strings.CutPrefix(h.Get("Operation-Location"), "/api/v1/operations/"); ok {
		return base + "/operations/" + op, nil
	}
	return base + "/rules", nil
}

// editorPage looks for the rule in live traffic and shows it. Checked: its faults are
// shown; those of a page that was just opened are not.
func (c *Console) editorPage(e echo.Context, d *editorData, checked bool) (*page, error) {
	d.Path = base + "/editor"
	title := "New rule"
	if !d.New {
		d.Path, title = pathOf("editor", d.ID), "Change "+cmp.Or(d.Title, d.ID)
	}
	if d.Drafted {
		d.Path, title = d.Path+"?draft=1", "Change the draft of "+cmp.Or(d.Title, d.ID)
	}
	if e.Request().Method == http.MethodGet {
		d.settle("")
	}
	if d.Rule != nil && c.o.Forest != nil {
		r := *d.Rule
		r.ID = cmp.Or(r.ID, "draft")
		classifier, err := rules.Compile(1, c.o.Forest(), []rules.Rule{r})
		if err == nil {
			c.lookLive(d, classifier)
		} else if checked {
			var faults []taxonomy.FieldError
			for _, f := range taxonomy.Faults(err) {
				_, f.Field, _ = strings.Cut(f.Field, ".") // rules[0].
				faults = append(faults, f)
			}
			d.Others = d.place(faults)
		}
	}
	if d.No != nil {
		var faults []taxonomy.FieldError
		for _, f := range d.No.Errors {
			faults = append(faults, taxonomy.FieldError{Field: strings.TrimPrefix(f.Location, "body."), Err: fmt.Errorf("%s", f.Message)})
		}
		d.Others = d.place(faults)
	}
	d.SiteChoices = c.o.Definitions.Sites()
	var err error
	if d.Traits, err = c.traitChoices(e); err != nil {
		return nil, err
	}
	p := &page{Template: "editor", Title: title, Section: base + "/rules", Data: d}
	if d.No != nil && e.Request().Header.Get("HX-Request") == "" {
		p.Status = d.No.Status
	}
	c.follow(e, p, "htmx")
	return p, nil
}

// shownMatches bounds how many events of live traffic a page shows.
const shownMatches = 12

// lookLive asks the rule about the last requests of its sites.
func (c *Console) lookLive(d *editorData, classifier *rules.Classifier) {
	if c.o.Inspect == nil {
		return
	}
	fields := map[string]bool{}
	for _, s := range c.o.Definitions.Sites() {
		if len(d.Rule.Sites) > 0 && !slices.Contains(d.Rule.Sites, s.ID) {
			continue
		}
		lens := classifier.Lens(s.ID)
		for _, sight := range c.o.Inspect(s.ID).Sightings {
			for i := range sight.Events {
				if sight.Events[i].Outcome != "stored" {
					continue
				}
				ev := &sight.Events[i].Event
				d.Of++
				for _, p := range ev.Props {
					fields["prop."+p.Key] = true
				}
				seen := lens.Look(ev)
				m := match{At: sight.At, Site: s.ID, What: strings.TrimSpace(ev.Kind.String() + " " + ev.Name)}
				_, m.Where, _ = strings.Cut(ev.URL, "://")
				switch {
				case len(seen.Rules) > 0:
					d.Hits++
					for _, t := range seen.Traits {
						m.Traits = append(m.Traits, traitView{t, c.title(t)})
					}
					d.Matched = append(d.Matched, m)
				case len(seen.Near) > 0:
					m.But, m.Case = d.Rule.When[seen.Near[0].When].Words(), seen.Near[0].Case
					d.Near = append(d.Near, m)
				}
			}
		}
	}
	d.Live = d.Of > 0
	newest := func(a, b match) int { return cmp.Compare(b.At, a.At) }
	slices.SortStableFunc(d.Matched, newest)
	slices.SortStableFunc(d.Near, newest)
	d.Matched, d.Near = d.Matched[:min(shownMatches, len(d.Matched))], d.Near[:min(shownMatches, len(d.Near))]
	for f := range fields {
		d.Fields = append(d.Fields, f)
	}
	slices.Sort(d.Fields)
}

// operationDoc is the API's operation.
type operationDoc struct {
	ID       string  `json:"id"`
	Kind     string  `json:"kind"`
	State    string  `json:"state"`
	Progress float64 `json:"progress"`
	Read     uint64  `json:"events_read"`
	Total    uint64  `json:"events_total"`
	Columns  int     `json:"columns"`
}

// operationData is the page of an operation; Counting is of one that is a plan.
type operationData struct {
	*operationDoc
	Counting *counting
}

// Running reports whether it is not over.
func (o *operationDoc) Running() bool { return o.State == "waiting" || o.State == "running" }

// Percent is its progress.
func (o *operationDoc) Percent() int { return int(100 * o.Progress) }

// Bar is its progress as a gauge.
func (o *operationDoc) Bar() gauge { return shareGauge(o.Progress) }

func (c *Console) operations(e echo.Context) (*page, error) {
	all, err := every[*operationDoc](c, e, "/operations")
	if err != nil {
		return nil, err
	}
	return &page{Template: "operations", Title: "Operations", Section: base + "/rules", Data: all}, nil
}

func (c *Console) operation(e echo.Context) (*page, error) {
	var o operationDoc
	if _, err := c.get(e, "/operations/"+url.PathEscape(param(e, "id")), &o); err != nil {
		return nil, err
	}
	d := operationData{operationDoc: &o}
	p := &page{Template: "operation", Title: "A re-fold", Section: base + "/rules", Data: &d}
	if o.Kind == "plan" {
		p.Title = "A plan"
		k, err := c.counted(e, o.ID, pathOf("operations", o.ID))
		if err != nil {
			return nil, err
		}
		d.Counting = k
	}
	c.follow(e, p, "htmx")
	return p, nil
}

// steer cancels an operation or begins it again.
func (c *Console) steer(e echo.Context) (*page, error) {
	id, do := param(e, "id"), field(e, "do")
	if do != "cancel" && do != "resume" {
		return nil, errNothing
	}
	_, no, err := c.ask(e, http.MethodPost, "/operations/"+url.PathEscape(id)+"/"+do, nil, nil)
	if err != nil {
		return nil, err
	}
	if no != nil && no.Status != http.StatusConflict { // it was over already: its page says so
		return nil, no
	}
	return done(e, pathOf("operations", id))
}
