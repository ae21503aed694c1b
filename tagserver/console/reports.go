package console

import (
	"cmp"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/segments/insight"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// reportRoutes are the reports on audiences. They are addresses, so they can be sent
// on, and change nothing; what may be told the API decides.
func (c *Console) reportRoutes(admin func(string, func(echo.Context) (*page, error)) tagserver.Route) []tagserver.Route {
	return []tagserver.Route{admin("/overlap", c.overlap), admin("/audiences/:id/profile", c.profile)}
}

// told is a number of a report, as the API tells it.
type told struct {
	Shown   string  `json:"shown"`
	Count   *uint64 `json:"count"`
	AtLeast *uint64 `json:"at_least"`
	AtMost  *uint64 `json:"at_most"`
}

// number is the number as insight tells it.
func (t *told) number() insight.Number {
	switch {
	case t.Count != nil:
		return insight.Number{Kind: insight.Exact, N: *t.Count}
	case t.AtLeast != nil && t.AtMost != nil:
		return insight.Number{Kind: insight.Between, N: *t.AtLeast, Most: *t.AtMost}
	case t.AtLeast != nil:
		return insight.Number{Kind: insight.AtLeast, N: *t.AtLeast}
	}
	return insight.Number{}
}

// String prints it as the console prints numbers.
func (t told) String() string {
	if n := t.number(); n.Kind != insight.Withheld {
		return n.Format(number[uint64])
	}
	return t.Shown
}

// most is the greatest that it can be, for the length of a bar.
func (t *told) most() uint64 {
	switch n := t.number(); n.Kind {
	case insight.Exact, insight.AtLeast:
		return n.N
	case insight.Between:
		return n.Most
	}
	return 0
}

// span draws a number against a whole: what is sure, and what may be.
type span struct{ Sure, Maybe string }

func newSpan(t *told, whole uint64) span {
	if whole == 0 {
		return span{"0", "0"}
	}
	at := func(n uint64) float64 { return min(100, 100*float64(n)/float64(whole)) }
	n := t.number()
	return span{coordinate(at(n.Least())), coordinate(at(t.most()))}
}

// part says which part of a whole a number is, as exactly as it is told.
func part(t, whole *told) string {
	w := whole.number()
	if w.Kind != insight.Exact || w.N == 0 {
		return hidden
	}
	of := func(n uint64) string { return share(float64(n) / float64(w.N)) }
	switch n := t.number(); n.Kind {
	case insight.Exact:
		return of(n.N)
	case insight.Between:
		return strings.TrimSuffix(of(n.N), " %") + "–" + of(min(n.Most, w.N))
	}
	return hidden
}

// reportHead is what a report is exact for.
type reportHead struct {
	At     time.Time `json:"as_of"`
	Day    string    `json:"day"`
	Base   told      `json:"base"`
	BaseIs string    `json:"base_is"`
}

// AsOf is when, as pages show it.
func (h *reportHead) AsOf() taxonomy.Millis { return taxonomy.MillisOf(h.At) }

type overlapData struct {
	Choices    []reportChoice
	Categories string // as typed
	Day        string
	First      string // the oldest day that may be asked for
	Today      string
	No         *refusal
	Report     *overlapReport
}

type reportChoice struct {
	ID, Title string
	Chosen    bool
}

type overlapReport struct {
	reportHead
	Groups       []overlapGroup    `json:"groups"`
	Pairs        []overlapPair     `json:"pairs"`
	Combinations []overlapCombined `json:"combinations"`
}

type overlapGroup struct {
	Audience  string `json:"audience"`
	Trait     string `json:"trait"`
	Title     string `json:"title"`
	Sensitive bool   `json:"sensitive"`
	Archived  bool   `json:"archived"`
	Visitors  told   `json:"visitors"`

	Letter, Path, Part string `json:"-"`
	Span               span   `json:"-"`
}

type overlapPair struct {
	Of      []int    `json:"of"`
	Both    told     `json:"both"`
	Jaccard *float64 `json:"jaccard"`
	Lift    *float64 `json:"lift"`

	A, B              *overlapGroup `json:"-"`
	PartOfA, PartOfB  string        `json:"-"`
	JaccardIs, LiftIs string        `json:"-"`
}

type overlapCombined struct {
	Of       []int `json:"of"`
	Visitors told  `json:"visitors"`

	Dots  []bool   `json:"-"` // by group, whether it is in
	Names []string `json:"-"`
	Span  span     `json:"-"`
}

func (c *Console) overlap(e echo.Context) (*page, error) {
	q := e.QueryParams()
	today := c.o.Now().Day()
	d := &overlapData{Categories: strings.Join(split(strings.Join(q["categories"], " ")), " "), Day: q.Get("day"), First: today.Oldest().String(), Today: today.String()}
	var of []map[string]string
	for _, id := range q["of"] {
		of = append(of, map[string]string{"audience": id})
	}
	for _, t := range split(d.Categories) {
		of = append(of, map[string]string{"trait": t})
	}
	for _, a := range c.o.Definitions.Audiences().All() {
		d.Choices = append(d.Choices, reportChoice{string(a.ID), cmp.Or(a.Title, string(a.ID)), slices.Contains(q["of"], string(a.ID))})
	}
	slices.SortStableFunc(d.Choices, func(x, y reportChoice) int {
		return cmp.Compare(strings.ToLower(x.Title), strings.ToLower(y.Title))
	})
	p := &page{Template: "overlap", Title: "Overlap", Section: base + "/audiences", Data: d}
	if len(of) < 2 {
		return p, nil // the form
	}
	var r overlapReport
	var err error
	if d.No, err = c.report(e, p, "overlap", d.Day, map[string]any{"of": of}, &r); err != nil {
		return nil, err
	}
	if d.No == nil {
		d.Report = &r
	}
	return p, nil
}

// report asks for a report of a day, "" being today, and lays it out, unless it is
// refused.
func (c *Console) report(e echo.Context, p *page, name, day string, body map[string]any, r interface{ lay() }) (*refusal, error) {
	if day != "" {
		body["day"] = day
	}
	_, no, err := c.ask(e, http.MethodPost, "/reports/"+name, body, r)
	if err != nil {
		return nil, err
	}
	if no != nil {
		p.Status = no.Status
		return no, nil
	}
	r.lay()
	return nil, nil
}

// categoryPath is the page of a category.
func categoryPath(trait string) string {
	tax, category, _ := strings.Cut(strings.TrimPrefix(trait, "c:"), "/")
	return pathOf("taxonomies", tax) + "/" + url.PathEscape(category)
}

// lay works out what the page shows beside the numbers.
func (r *overlapReport) lay() {
	var widest uint64
	for i := range r.Groups {
		widest = max(widest, r.Groups[i].Visitors.most())
	}
	for i := range r.Groups {
		g := &r.Groups[i]
		g.Letter, g.Part, g.Span = string(rune('A'+i)), part(&g.Visitors, &r.Base), newSpan(&g.Visitors, widest)
		if g.Path = pathOf("audiences", g.Audience); g.Audience == "" {
			g.Path = categoryPath(g.Trait)
		}
	}
	for i := range r.Pairs {
		p := &r.Pairs[i]
		p.A, p.B, p.JaccardIs, p.LiftIs = &r.Groups[p.Of[0]], &r.Groups[p.Of[1]], hidden, hidden
		p.PartOfA, p.PartOfB = part(&p.Both, &p.A.Visitors), part(&p.Both, &p.B.Visitors)
		if p.Jaccard != nil {
			p.JaccardIs = decimal(*p.Jaccard, 3)
		}
		if p.Lift != nil {
			p.LiftIs = decimal(*p.Lift, 2)
		}
	}
	widest = 0
	for i := range r.Combinations {
		widest = max(widest, r.Combinations[i].Visitors.most())
	}
	for i := range r.Combinations {
		k := &r.Combinations[i]
		k.Dots, k.Span = make([]bool, len(r.Groups)), newSpan(&k.Visitors, widest)
		for _, g := range k.Of {
			k.Dots[g] = true
			k.Names = append(k.Names, r.Groups[g].Title)
		}
	}
}

type profileData struct {
	ID, Title  string
	Taxonomies []reportChoice
	Taxonomy   string
	Sort       string
	Day        string
	First      string
	Today      string
	Sensitive  bool
	No         *refusal
	Report     *profileReport
}

type profileReport struct {
	reportHead
	Members    told          `json:"members"`
	Categories []profileRow  `json:"categories"`
	More       int           `json:"more"`
	Nobody     int           `json:"nobody"`
	LeftOut    int           `json:"left_out"`
	LastSeen   []profileBand `json:"last_seen"`
	Part       string        `json:"-"`
}

type profileRow struct {
	Trait     string   `json:"trait"`
	Title     string   `json:"title"`
	Sensitive bool     `json:"sensitive"`
	Archived  bool     `json:"archived"`
	Members   told     `json:"members"`
	Base      told     `json:"base"`
	Index     *float64 `json:"index"`

	Path, Share, BaseShare, IndexIs string `json:"-"`
	Lean                            *lean  `json:"-"`
}

// between is within which bounds the index is, if the members are told within bounds
// and the rest exactly.
func (k *profileRow) between(r *profileReport) (low, high float64, ok bool) {
	n, of, base, whole := k.Members.number(), r.Members.number(), k.Base.number(), r.Base.number()
	if n.Kind != insight.Between || of.Kind != insight.Exact || base.Kind != insight.Exact || whole.Kind != insight.Exact {
		return 0, 0, false
	}
	index := func(n uint64) float64 { return 100 * float64(n) / float64(of.N) / (float64(base.N) / float64(whole.N)) }
	return index(n.N), index(n.Most), true
}

type profileBand struct {
	From    *int  `json:"from"`
	To      *int  `json:"to"`
	Members told  `json:"members"`
	Base    *told `json:"base"`

	When, Share, BaseShare string `json:"-"`
	Span                   span   `json:"-"`
}

// lean draws an index around 100: to the right what members have more often than
// everybody, each half of the way being eight times.
type lean struct{ X, W string }

func newLean(index float64) *lean {
	const most = 3 // doublings
	by := max(-most, min(most, math.Log2(index/100)))
	if by < 0 {
		return &lean{coordinate(50 + 50*by/most), coordinate(-50 * by / most)}
	}
	return &lean{"50.0", coordinate(50 * by / most)}
}

// profileRows is how many categories a page shows.
const profileRows = 100

func (c *Console) profile(e echo.Context) (*page, error) {
	id := taxonomy.AudienceID(param(e, "id"))
	a, ok := c.o.Definitions.Audiences().Get(id)
	if !ok {
		return nil, errNothing
	}
	q := e.QueryParams()
	today := c.o.Now().Day()
	d := &profileData{ID: string(id), Title: cmp.Or(a.Title, string(id)), Taxonomy: q.Get("taxonomy"), Sort: cmp.Or(q.Get("sort"), "index"),
		Day: q.Get("day"), First: today.Oldest().String(), Today: today.String(), Sensitive: q.Get("sensitive") != ""}
	all, err := c.taxonomies(e)
	if err != nil {
		return nil, err
	}
	for _, t := range all {
		d.Taxonomies = append(d.Taxonomies, reportChoice{t.ID, cmp.Or(t.Definition.Title, t.ID), t.ID == d.Taxonomy})
	}
	p := &page{Template: "profile", Title: "Profile of " + d.Title, Section: base + "/audiences", Data: d}
	body := map[string]any{"audience": id, "sort": d.Sort, "limit": profileRows, "sensitive": d.Sensitive}
	if d.Taxonomy != "" {
		body["taxonomy"] = d.Taxonomy
	}
	var r profileReport
	if d.No, err = c.report(e, p, "profile", d.Day, body, &r); err != nil {
		return nil, err
	}
	if d.No == nil {
		d.Report = &r
	}
	return p, nil
}

func (r *profileReport) lay() {
	r.Part = part(&r.Members, &r.Base)
	for i := range r.Categories {
		k := &r.Categories[i]
		k.Path = categoryPath(k.Trait)
		k.Share, k.BaseShare, k.IndexIs = part(&k.Members, &r.Members), part(&k.Base, &r.Base), hidden
		if k.Index != nil {
			k.IndexIs, k.Lean = number(uint64(math.Round(*k.Index))), newLean(*k.Index)
		} else if low, high, ok := k.between(r); ok {
			k.IndexIs, k.Lean = number(uint64(low))+"–"+number(uint64(math.Ceil(high))), newLean(low)
		}
	}
	var widest uint64
	for i := range r.LastSeen {
		widest = max(widest, r.LastSeen[i].Members.most())
	}
	for i := range r.LastSeen {
		b := &r.LastSeen[i]
		b.Share, b.BaseShare, b.Span = part(&b.Members, &r.Members), hidden, newSpan(&b.Members, widest)
		if b.Base != nil {
			b.BaseShare = part(b.Base, &r.Base)
		}
		switch {
		case b.From == nil:
			b.When = "no event in 90 days"
		case b.To == nil && *b.From == 0:
			b.When = "at any time"
		case b.To == nil:
			b.When = plural(*b.From, "day") + " before, or earlier"
		case *b.To == 0:
			b.When = "on the day itself"
		case *b.From == *b.To:
			b.When = plural(*b.To, "day") + " before"
		default:
			b.When = number(*b.From) + " to " + plural(*b.To, "day") + " before"
		}
	}
}
