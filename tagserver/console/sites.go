package console

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// siteRow is a site, an import or what named no site, with its account.
type siteRow struct {
	ID      taxonomy.SiteID
	Title   string
	Site    *taxonomy.Site // nil for imports, deleted sites and no site
	Import  bool
	Snippet string
	Account accountView
}

// Href is the page of the row, empty for no site.
func (r *siteRow) Href() string {
	if r.ID == "" {
		return ""
	}
	return pathOf("sites", string(r.ID))
}

// accountView is an account as it is shown.
type accountView struct {
	Received, Stored, Duplicate, Rejected, Dropped, Queued uint64
	Bar                                                    bar
	Refused                                                []refusedRow
	Balanced                                               bool
}

type refusedRow struct {
	Outcome string // rejected, dropped
	Code    taxonomy.Reason
	N       uint64
	Share   string // of received
	reason
}

func newAccountView(a Account) accountView {
	v := accountView{Received: a.Received, Stored: a.Stored, Duplicate: a.Duplicate, Queued: a.Queued}
	add := func(outcome string, m map[taxonomy.Reason]uint64) (sum uint64) {
		for code, n := range m {
			if n > 0 {
				v.Refused = append(v.Refused, refusedRow{outcome, code, n, percent(n, a.Received), reasonOf(code)})
			}
			sum += n
		}
		return sum
	}
	v.Rejected, v.Dropped = add("rejected", a.Rejected), add("dropped", a.Dropped)
	slices.SortFunc(v.Refused, func(x, y refusedRow) int {
		return cmp.Or(cmp.Compare(y.N, x.N), cmp.Compare(x.Outcome, y.Outcome), cmp.Compare(x.Code, y.Code))
	})
	v.Balanced = v.Received == v.Stored+v.Duplicate+v.Rejected+v.Dropped+v.Queued
	v.Bar = newBar(barPart{Class: "stored", Name: "stored", N: v.Stored}, barPart{Class: "duplicate", Name: "duplicate", N: v.Duplicate},
		barPart{Class: "queued", Name: "queued", N: v.Queued}, barPart{Class: "dropped", Name: "dropped", N: v.Dropped},
		barPart{Class: "rejected", Name: "rejected", N: v.Rejected})
	return v
}

// total adds accounts up.
func total(accounts map[taxonomy.SiteID]Account) Account {
	sum := Account{Rejected: map[taxonomy.Reason]uint64{}, Dropped: map[taxonomy.Reason]uint64{}}
	for _, a := range accounts {
		sum.Received += a.Received
		sum.Stored += a.Stored
		sum.Duplicate += a.Duplicate
		sum.Queued += a.Queued
		for r, n := range a.Rejected {
			sum.Rejected[r] += n
		}
		for r, n := range a.Dropped {
			sum.Dropped[r] += n
		}
	}
	return sum
}

// siteRows are the defined sites by title, then whatever else has an account.
func (c *Console) siteRows(ctx context.Context) ([]siteRow, error) {
	accounts, err := c.o.Accounts(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the accounts: %w", err)
	}
	var rows []siteRow
	defined := map[taxonomy.SiteID]bool{}
	for _, s := range c.o.Definitions.Sites() {
		defined[s.ID] = true
		rows = append(rows, siteRow{ID: s.ID, Title: cmp.Or(s.Title, string(s.ID)), Site: &s, Snippet: c.snippet(s.ID), Account: newAccountView(accounts[s.ID])})
	}
	slices.SortStableFunc(rows, func(x, y siteRow) int {
		return cmp.Or(cmp.Compare(strings.ToLower(x.Title), strings.ToLower(y.Title)), cmp.Compare(x.ID, y.ID))
	})
	own := len(rows)
	for id, a := range accounts {
		if defined[id] {
			continue
		}
		r := siteRow{ID: id, Title: string(id), Account: newAccountView(a)}
		if source, ok := strings.CutPrefix(string(id), taxonomy.ImportSitePrefix); ok {
			r.Import, r.Title = true, "Imports from "+source
		}
		if id == "" {
			r.Title = "No known site"
		}
		rows = append(rows, r)
	}
	slices.SortFunc(rows[own:], func(x, y siteRow) int { return cmp.Compare(x.ID, y.ID) })
	return rows, nil
}

// snippet is the one line to paste.
func (c *Console) snippet(id taxonomy.SiteID) string {
	origin := "https://YOUR-PUBLIC-HOST"
	if c.o.Public != nil {
		origin = cmp.Or(c.o.Public(), origin)
	}
	return `<script async src="` + origin + `/t/1/ebb.js" data-site="` + string(id) + `"></script>`
}

func (c *Console) sites(e echo.Context) (*page, error) {
	rows, err := c.siteRows(e.Request().Context())
	if err != nil {
		return nil, err
	}
	return &page{Template: "sites", Title: "Sites", Section: base + "/sites", Data: struct {
		Rows     []siteRow
		Defined  int
		Refusals []tagserver.Refusal // of no known site
	}{rows, len(c.o.Definitions.Sites()), c.o.Refusals("")}}, nil
}

func (c *Console) site(e echo.Context) (*page, error) {
	rows, err := c.siteRows(e.Request().Context())
	if err != nil {
		return nil, err
	}
	id := taxonomy.SiteID(param(e, "id"))
	i := slices.IndexFunc(rows, func(r siteRow) bool { return r.ID == id && id != "" })
	if i < 0 {
		return nil, errNothing
	}
	row := rows[i]
	var source *taxonomy.Source
	if row.Site != nil {
		for _, s := range c.o.Definitions.Sources() {
			if s.ID == row.Site.Source {
				source = &s
			}
		}
	}
	falls, err := c.waterfall(e.Request().Context(), row.Site)
	if err != nil {
		return nil, err
	}
	return &page{Template: "site", Title: row.Title, Section: base + "/sites", Data: struct {
		siteRow
		Source    *taxonomy.Source
		Waterfall *waterfallView
		Refusals  []tagserver.Refusal
	}{row, source, falls, c.o.Refusals(id)}}, nil
}
