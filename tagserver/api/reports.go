package api

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/insight"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// What reports answer: numbers as insight tells them, which is never so that a group
// below the floor can be told (P7), and with what they are exact for.
type (
	// Told is a number of a report. It is exported for the sake of huma, which
	// describes what is embedded only then.
	Told struct {
		Shown   string  `json:"shown" doc:"The exact count; <50 if it is less; else within which bounds it is, such as 971–1020."`
		Count   *uint64 `json:"count,omitempty" doc:"The exact count, absent if it is not told."`
		AtLeast *uint64 `json:"at_least,omitempty" doc:"If the count is not told: the least that it can be."`
		AtMost  *uint64 `json:"at_most,omitempty" doc:"If the count is not told: the greatest that it can be."`
	}
	// ReportHead is what a report is exact for.
	ReportHead struct {
		AsOf     time.Time          `json:"as_of"`
		Position retention.Position `json:"position"`
		Day      taxonomy.Day       `json:"day" doc:"At whose end it was so. Consent, erasures and robots are always of as_of."`
		Base     Told               `json:"base"`
		BaseIs   string             `json:"base_is" doc:"Who the base is: nobody else is counted anywhere in the report."`
	}
	overlapView struct {
		ReportHead
		Groups       []groupView       `json:"groups"`
		Pairs        []pairView        `json:"pairs"`
		Combinations []combinationView `json:"combinations" doc:"Of at most five groups: who is in these and in none of the others; the greatest first."`
	}
	groupView struct {
		Audience  taxonomy.AudienceID `json:"audience,omitempty"`
		Trait     taxonomy.Trait      `json:"trait,omitempty"`
		Title     string              `json:"title"`
		Sensitive bool                `json:"sensitive,omitempty" doc:"The category is, or one above it."`
		Archived  bool                `json:"archived,omitempty" doc:"Nothing comes into the category any more."`
		Visitors  Told                `json:"visitors"`
	}
	pairView struct {
		Of      []int    `json:"of" doc:"Two places in groups, from 0."`
		Both    Told     `json:"both"`
		Jaccard *float64 `json:"jaccard,omitempty" doc:"Those in both as a part of those in either; absent if the counts are not told exactly."`
		Lift    *float64 `json:"lift,omitempty" doc:"How many times as many are in both as by chance; likewise."`
	}
	combinationView struct {
		Of       []int `json:"of" doc:"Places in groups, from 0: in all of these and in none of the others."`
		Visitors Told  `json:"visitors"`
	}
	profileBody struct {
		Audience  taxonomy.AudienceID `json:"audience"`
		Taxonomy  string              `json:"taxonomy,omitempty" doc:"Whose categories are counted; absent: those of all."`
		Sensitive bool                `json:"sensitive,omitempty" doc:"Count sensitive categories too."`
		Day       taxonomy.Day        `json:"day,omitempty" doc:"At whose end, one of the 90 to today; absent: today."`
		Sort      string              `json:"sort,omitempty" enum:"index,members" doc:"What comes first: the greatest index, or the most members."`
		Limit     int                 `json:"limit,omitempty" doc:"At most so many rows, 1 to 1000; absent: 100."`
	}
	profileView struct {
		ReportHead
		Audience   taxonomy.AudienceID `json:"audience"`
		Title      string              `json:"title"`
		Members    Told                `json:"members" doc:"Of the audience and of the base. Below the floor there are no rows."`
		Categories []profileRow        `json:"categories"`
		More       int                 `json:"more" doc:"How many rows there are beyond the limit."`
		Nobody     int                 `json:"nobody" doc:"How many categories nobody had."`
		LeftOut    int                 `json:"left_out" doc:"How many categories are left out, being sensitive."`
		LastSeen   []bandView          `json:"last_seen"`
	}
	profileRow struct {
		Trait     taxonomy.Trait `json:"trait"`
		Title     string         `json:"title"`
		Sensitive bool           `json:"sensitive,omitempty"`
		Archived  bool           `json:"archived,omitempty"`
		Members   Told           `json:"members"`
		Share     *float64       `json:"share,omitempty" doc:"Of the members; absent if the counts are not told exactly, as base_share and index."`
		Base      Told           `json:"base"`
		BaseShare *float64       `json:"base_share,omitempty"`
		Index     *float64       `json:"index,omitempty" doc:"100 times share by base_share: 100 is as the base."`
	}
	bandView struct {
		From    *int  `json:"from,omitempty" doc:"Days since the newest event, 0 being the day itself; absent: there was none in the 90 days."`
		To      *int  `json:"to,omitempty" doc:"To so many; absent: and those without an event in the 90 days."`
		Members Told  `json:"members"`
		Base    *Told `json:"base,omitempty" doc:"Absent if the base is not told exactly."`
	}
)

const (
	baseIs = "visitors who may be profiled and counted in insights, less robots, erased visitors and the holdout"

	sortIndex, sortMembers = "index", "members"

	// What a report may cost to answer.
	defaultRows, maxRows = 100, 1000
)

// reports registers what is told of audiences together. Their right is that of
// estimates, which ask no less.
func (a *API) reports() {
	right := tagserver.May("audiences:write", tagserver.OfAll)
	operate(a, op{method: http.MethodPost, path: "/reports/overlap", tag: "reports", right: right, ok: 200, errors: []int{413, 415, 422, 503}, body: insight.OverlapQuery{}, slow: true, csv: true,
		summary: "How far 2 to 10 audiences or categories overlap: each, each pair, and of up to five each combination"}, a.overlap)
	operate(a, op{method: http.MethodPost, path: "/reports/profile", tag: "reports", right: right, ok: 200, errors: []int{413, 415, 422, 503}, body: profileBody{}, slow: true, csv: true,
		summary: "What the members of an audience are like: how many have each category, beside everybody"}, a.profile)
}

func tell(n insight.Number) Told {
	t := Told{Shown: n.String()}
	switch n.Kind {
	case insight.Exact:
		t.Count = &n.N
	case insight.AtLeast:
		t.AtLeast = &n.N
	case insight.Between:
		t.AtLeast, t.AtMost = &n.N, &n.Most
	}
	return t
}

func headOf(at *insight.At, base insight.Number) ReportHead {
	return ReportHead{AsOf: at.AsOf.Time(), Position: at.Position.Clone(), Day: at.Day, Base: tell(base), BaseIs: baseIs}
}

// names says what groups are called.
type names struct {
	audiences *audience.Catalog
	forest    *tree.Forest
}

func (a *API) names(ctx context.Context) (n names, err error) {
	w := a.here(ctx)
	if n.audiences, err = w.audiences(); err == nil {
		n.forest, err = w.forest(nil, "")
	}
	return n, err
}

func (n *names) audience(id taxonomy.AudienceID) string {
	if d, ok := n.audiences.Get(id); ok {
		return cmp.Or(d.Title, string(id))
	}
	return string(id)
}

func (n *names) category(t taxonomy.Trait) (title string, archived bool) {
	_, k, ok := n.forest.Category(t)
	if !ok {
		return string(t), false
	}
	return cmp.Or(strings.TrimSpace(k.Title), k.ID), k.Archived != 0
}

func (a *API) overlap(ctx context.Context, in *postIn) (*bodyOut[overlapView], error) {
	const what = "the overlap"
	var q insight.OverlapQuery
	if faults := decode("body", in.RawBody, &q, nil); len(faults) > 0 {
		return nil, invalid(what, faults)
	}
	n, err := a.names(ctx)
	if err != nil {
		return nil, a.fail("count "+what, err)
	}
	var faults []tagserver.ProblemError
	for i, g := range q.Of {
		if _, _, ok := n.forest.Category(g.Trait); g.Trait != "" && !ok {
			faults = append(faults, fault(fmt.Sprintf("body.of[%d].trait", i), "there is no category %q", cut(string(g.Trait))))
		}
	}
	if len(faults) > 0 {
		return nil, invalid(what, faults)
	}
	o, err := a.o.Overlap(ctx, q)
	if err != nil {
		if f, ok := faultsOf("body", err); ok {
			return nil, invalid(what, f)
		}
		return nil, a.fail("count "+what, err)
	}
	return &bodyOut[overlapView]{viewOverlap(o.Tell(audience.ShownFloor), &n)}, nil
}

func viewOverlap(t *insight.OverlapTold, n *names) overlapView {
	v := overlapView{ReportHead: headOf(&t.At, t.Base), Groups: []groupView{}, Pairs: []pairView{}, Combinations: []combinationView{}}
	for i, g := range t.Groups {
		one := groupView{Audience: g.Audience, Trait: g.Trait, Visitors: tell(t.Sizes[i])}
		if g.Audience != "" {
			one.Title = n.audience(g.Audience)
		} else {
			one.Title, one.Archived = n.category(g.Trait)
			one.Sensitive = n.forest.Sensitive(g.Trait)
		}
		v.Groups = append(v.Groups, one)
	}
	for _, p := range t.Pairs {
		v.Pairs = append(v.Pairs, pairView{Of: []int{p.A, p.B}, Both: tell(p.Both), Jaccard: p.Jaccard, Lift: p.Lift})
	}
	for _, c := range t.Exclusive {
		one := combinationView{Of: []int{}, Visitors: tell(c.N)}
		for i := range t.Groups {
			if c.In.Has(i) {
				one.Of = append(one.Of, i)
			}
		}
		v.Combinations = append(v.Combinations, one)
	}
	return v
}

func (a *API) profile(ctx context.Context, in *postIn) (*bodyOut[profileView], error) {
	const what = "the profile"
	b := profileBody{Sort: sortIndex, Limit: defaultRows}
	faults := decode("body", in.RawBody, &b, nil)
	if b.Sort != sortIndex && b.Sort != sortMembers {
		faults = append(faults, fault("body.sort", "%q is neither %s nor %s", cut(b.Sort), sortIndex, sortMembers))
	}
	if b.Limit < 1 || b.Limit > maxRows {
		faults = append(faults, fault("body.limit", "%d is not within 1 to %d", b.Limit, maxRows))
	}
	if len(faults) > 0 {
		return nil, invalid(what, faults)
	}
	n, err := a.names(ctx)
	if err != nil {
		return nil, a.fail("count "+what, err)
	}
	p, err := a.o.Profile(ctx, insight.ProfileQuery{Audience: b.Audience, Taxonomy: b.Taxonomy, Sensitive: b.Sensitive, Day: b.Day})
	if err != nil {
		if f, ok := faultsOf("body", err); ok {
			return nil, invalid(what, f)
		}
		return nil, a.fail("count "+what, err)
	}
	t := p.Tell(audience.ShownFloor)
	if b.Sort == sortMembers { // by what is told, or the order would tell the rest
		slices.SortStableFunc(t.Rows, func(x, y insight.Row) int { return cmp.Compare(y.Members.Least(), x.Members.Least()) })
	}
	return &bodyOut[profileView]{viewProfile(t, &n, b.Limit)}, nil
}

func viewProfile(t *insight.ProfileTold, n *names, limit int) profileView {
	v := profileView{ReportHead: headOf(&t.At, t.Base), Audience: t.Audience, Title: n.audience(t.Audience), Members: tell(t.Members),
		Categories: []profileRow{}, Nobody: t.Nobody, LeftOut: t.LeftOut, LastSeen: []bandView{}}
	rows := t.Rows[:min(limit, len(t.Rows))]
	v.More = len(t.Rows) - len(rows)
	for _, r := range rows {
		title, _ := n.category(r.Trait)
		v.Categories = append(v.Categories, profileRow{Trait: r.Trait, Title: title, Sensitive: r.Sensitive, Archived: r.Archived,
			Members: tell(r.Members), Share: r.Share, Base: tell(r.Base), BaseShare: r.BaseShare, Index: r.Index})
	}
	for _, b := range t.Seen {
		one := bandView{Members: tell(b.Members)}
		if b.From >= 0 {
			one.From = &b.From
		}
		if b.To >= 0 {
			one.To = &b.To
		}
		if b.Base.Kind != insight.Withheld {
			base := tell(b.Base)
			one.Base = &base
		}
		v.LastSeen = append(v.LastSeen, one)
	}
	return v
}

// As CSV.

// table is an answer that can be had as CSV: rows with a head.
type table interface{ table() [][]string }

func (t *Told) cells() []string {
	n := func(p *uint64) string {
		if p == nil {
			return ""
		}
		return strconv.FormatUint(*p, 10)
	}
	return []string{t.Shown, n(t.Count), n(t.AtLeast), n(t.AtMost)}
}

func decimal(v *float64) string {
	if v == nil {
		return ""
	}
	return strconv.FormatFloat(*v, 'g', 6, 64)
}

func (h *ReportHead) cells() []string { return []string{h.Day.String(), h.AsOf.Format(time.RFC3339)} }

func (v overlapView) table() [][]string {
	rows := [][]string{{"what", "of", "titles", "shown", "count", "at_least", "at_most", "jaccard", "lift", "day", "as_of"}}
	add := func(what string, of []int, n *Told, jaccard, lift *float64) {
		var ids, titles []string
		for _, i := range of {
			g := &v.Groups[i]
			ids, titles = append(ids, cmp.Or(string(g.Audience), string(g.Trait))), append(titles, g.Title)
		}
		row := append([]string{what, text(strings.Join(ids, " & ")), text(strings.Join(titles, " & "))}, n.cells()...)
		rows = append(rows, append(append(row, decimal(jaccard), decimal(lift)), v.cells()...))
	}
	add("base", nil, &v.Base, nil, nil)
	for i := range v.Groups {
		add("group", []int{i}, &v.Groups[i].Visitors, nil, nil)
	}
	for i := range v.Pairs {
		p := &v.Pairs[i]
		add("pair", p.Of, &p.Both, p.Jaccard, p.Lift)
	}
	for i := range v.Combinations {
		add("only", v.Combinations[i].Of, &v.Combinations[i].Visitors, nil, nil)
	}
	return rows
}

func (v profileView) table() [][]string {
	rows := [][]string{{"trait", "title", "members", "members_count", "members_at_least", "members_at_most", "share", "base", "base_count", "base_at_least", "base_at_most", "base_share", "index", "sensitive", "archived", "day", "as_of"}}
	add := func(trait, title string, r *profileRow) {
		row := append([]string{text(trait), text(title)}, r.Members.cells()...)
		row = append(append(row, decimal(r.Share)), r.Base.cells()...)
		row = append(row, decimal(r.BaseShare), decimal(r.Index), strconv.FormatBool(r.Sensitive), strconv.FormatBool(r.Archived))
		rows = append(rows, append(row, v.cells()...))
	}
	add("", "all", &profileRow{Members: v.Members, Base: v.Base})
	for i := range v.Categories {
		r := &v.Categories[i]
		add(string(r.Trait), r.Title, r)
	}
	return rows
}

// text is a cell that people wrote: one that a spreadsheet would take for a formula
// begins with an apostrophe.
func text(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}
