package main

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
)

type reportCommand struct {
	Overlap reportOverlap `cmd:"" help:"Say how far audiences and categories overlap."`
	Profile reportProfile `cmd:"" help:"Say what the members of an audience are like."`
}

// reportHead is what a report is exact for, as the API says it.
type reportHead struct {
	AsOf   time.Time  `json:"as_of"`
	Day    string     `json:"day"`
	Base   shownCount `json:"base"`
	BaseIs string     `json:"base_is"`
}

func (h *reportHead) add(rows *cli.Rows) {
	rows.Add("base", h.Base.Shown, h.BaseIs)
	rows.Add("as of", when(h.AsOf), "the end of "+h.Day)
}

type reportOverlap struct {
	Of  []string `arg:"" help:"Two to ten: the IDs of audiences, and categories, which begin with c:."`
	Day string   `help:"At whose end, such as 2026-11-01; today if none is given." placeholder:"DAY"`
	CSV bool     `name:"csv" help:"Answer in CSV."`
}

func (reportOverlap) Help() string {
	return `Counts each of the audiences and categories, each pair, and of at most five each combination: who is in these and in none of the others. Jaccard is those in both as a part of those in either; lift, how many times as many are in both as by chance.

Counts are exact, of visitors who may be profiled and counted in insights. Fewer than 50 are shown as <50; a number from which fewer could be told, as bounds: 971–1020.

Examples:

    ebb report overlap regulars lapsing
    ebb report overlap regulars lapsing c:products/grocery --day 2026-11-01
    ebb report overlap regulars lapsing --csv`
}

// Run reports.
func (r reportOverlap) Run(c *cli.Context) error {
	var of []map[string]string
	for _, g := range r.Of {
		kind := "audience"
		if strings.HasPrefix(g, "c:") {
			kind = "trait"
		}
		of = append(of, map[string]string{kind: g})
	}
	body := map[string]any{"of": of}
	if r.Day != "" {
		body["day"] = r.Day
	}
	type pair struct {
		Of       []int      `json:"of"`
		Both     shownCount `json:"both"`
		Visitors shownCount `json:"visitors"`
		Jaccard  *float64   `json:"jaccard"`
		Lift     *float64   `json:"lift"`
	}
	var o struct {
		reportHead
		Groups []struct {
			Audience string     `json:"audience"`
			Trait    string     `json:"trait"`
			Visitors shownCount `json:"visitors"`
		} `json:"groups"`
		Pairs        []pair `json:"pairs"`
		Combinations []pair `json:"combinations"`
	}
	return answerReport(c, "overlap", r.CSV, body, &o, func() (rows cli.Rows) {
		name := func(of []int) string {
			var names []string
			for _, i := range of {
				names = append(names, o.Groups[i].Audience+o.Groups[i].Trait)
			}
			return strings.Join(names, " & ")
		}
		rows.Head = []string{"WHAT", "VISITORS", "OF", "JACCARD", "LIFT"}
		o.add(&rows)
		for i, g := range o.Groups {
			rows.Add("in", g.Visitors.Shown, name([]int{i}))
		}
		for _, p := range o.Pairs {
			rows.Add("in both", p.Both.Shown, name(p.Of), rounded(p.Jaccard, 3), rounded(p.Lift, 2))
		}
		for _, p := range o.Combinations {
			rows.Add("only in", p.Visitors.Shown, name(p.Of))
		}
		return rows
	})
}

type reportProfile struct {
	Audience  string `arg:"" help:"The audience."`
	Taxonomy  string `help:"Count the categories of this taxonomy; those of all if none is named." placeholder:"ID"`
	Sort      string `help:"What comes first: the greatest index, or the most members." enum:"index,members" default:"index"`
	Limit     int    `help:"At most so many categories, 1 to 1000." default:"30"`
	Sensitive bool   `help:"Count sensitive categories too."`
	Day       string `help:"At whose end, such as 2026-11-01; today if none is given." placeholder:"DAY"`
	CSV       bool   `name:"csv" help:"Answer in CSV."`
}

func (reportProfile) Help() string {
	return `Counts for each category how many members of the audience have it, beside everybody. An index of 100 is as everybody, 300 three times as often.

Counts are exact, of visitors who may be profiled and counted in insights. Fewer than 50 are shown as <50; a number from which fewer could be told, as bounds: 451–500.

Examples:

    ebb report profile regulars
    ebb report profile regulars --taxonomy products --sort members --limit 100
    ebb report profile regulars -o json`
}

// Run reports.
func (r reportProfile) Run(c *cli.Context) error {
	body := map[string]any{"audience": r.Audience, "sort": r.Sort, "limit": r.Limit, "sensitive": r.Sensitive}
	if r.Taxonomy != "" {
		body["taxonomy"] = r.Taxonomy
	}
	if r.Day != "" {
		body["day"] = r.Day
	}
	var p struct {
		reportHead
		Members    shownCount `json:"members"`
		Categories []struct {
			Trait   string     `json:"trait"`
			Title   string     `json:"title"`
			Members shownCount `json:"members"`
			Share   *float64   `json:"share"`
			Base    shownCount `json:"base"`
			Index   *float64   `json:"index"`
		} `json:"categories"`
		More     int `json:"more"`
		LeftOut  int `json:"left_out"`
		LastSeen []struct {
			From    *int       `json:"from"`
			To      *int       `json:"to"`
			Members shownCount `json:"members"`
		} `json:"last_seen"`
	}
	return answerReport(c, "profile", r.CSV, body, &p, func() (rows cli.Rows) {
		rows.Head = []string{"WHAT", "MEMBERS", "SHARE", "BASE", "INDEX", "TITLE"}
		rows.Add("members", p.Members.Shown, "", p.Base.Shown, "", p.BaseIs)
		rows.Add("as of", when(p.AsOf), "", "", "", "the end of "+p.Day)
		for _, k := range p.Categories {
			share := ""
			if k.Share != nil {
				share = fmt.Sprintf("%.1f %%", 100**k.Share)
			}
			rows.Add(k.Trait, k.Members.Shown, share, k.Base.Shown, rounded(k.Index, 0), k.Title)
		}
		if p.More > 0 {
			rows.Add("more", p.More, "", "", "", "categories; --limit shows them")
		}
		if p.LeftOut > 0 {
			rows.Add("left out", p.LeftOut, "", "", "", "sensitive categories; --sensitive counts them")
		}
		for _, b := range p.LastSeen {
			rows.Add("last seen", b.Members.Shown, "", "", "", days(b.From, b.To))
		}
		return rows
	})
}

// days says a band of days since the newest event.
func days(from, to *int) string {
	switch {
	case from == nil:
		return "no event in 90 days"
	case to == nil:
		return fmt.Sprintf("%d or more days before, or no event in 90 days", *from)
	case *from == *to:
		return fmt.Sprintf("%d days before", *from)
	}
	return fmt.Sprintf("%d to %d days before", *from, *to)
}

func rounded(v *float64, digits int) string {
	if v == nil {
		return ""
	}
	return strconv.FormatFloat(*v, 'f', digits, 64)
}

// answerReport asks for a report and answers with it.
func answerReport(c *cli.Context, name string, asCSV bool, body, doc any, rows func() cli.Rows) error {
	path := "/api/v1/reports/" + name
	return reach(c, func(cl *client.Client) error {
		if asCSV {
			if err := cl.Copy(c, http.MethodPost, path, "text/csv", body, c.Stdout); err != nil {
				return fmt.Errorf("report the %s: %w", name, err)
			}
			return nil
		}
		raw, err := cl.Post(c, path, body, doc)
		if err != nil {
			return fmt.Errorf("report the %s: %w", name, err)
		}
		return c.Print(raw, rows())
	})
}
