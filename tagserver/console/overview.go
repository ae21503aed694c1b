package console

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Work is what runs in the background.
type Work struct {
	Title    string
	Progress float64 // 0 to 1
	Next     string  // what to do about it
}

// Percent is the progress in whole percent.
func (w Work) Percent() int { return int(100 * w.Progress) }

type overviewData struct {
	Working      []Work
	Problems     []Problem
	Generation   *audience.Generation
	Visitors     string // empty: not known
	Sites        int
	Audiences    []audienceRow
	Lookalikes   int
	Destinations []destinationRow
	Account      accountView
	Report       forget.Report
	Places       []placeRow
	Oldest       *taxonomy.Day // of all places
}

// lateBuild: a generation is built at every midnight, whatever the schedule
// (R21), so an older one means that building fails.
const lateBuild = 25 * taxonomy.Hour

// overview gathers from everywhere. It is what one looks at when something is
// wrong, so a part that fails becomes a problem on it and not the end of it.
func (c *Console) overview(e echo.Context) (*page, error) {
	ctx := e.Request().Context()
	d := &overviewData{Sites: len(c.o.Definitions.Sites())}
	if c.o.Problems != nil {
		d.Problems = c.o.Problems(ctx)
	}
	if c.o.Visitors != nil {
		d.Visitors = shown(c.o.Visitors())
	}
	if c.o.Working != nil {
		d.Working = c.o.Working(ctx)
	}
	c.addAudiences(ctx, d)
	c.addAccounts(ctx, d)
	c.addPlaces(ctx, d)
	if rows, err := c.destinationRows(ctx); err != nil {
		c.failed(d, "The deliveries could not be read", err)
	} else {
		d.Destinations = rows
	}
	for i := range d.Destinations {
		if r := &d.Destinations[i]; r.KeyHash == "" {
			d.Problems = append(d.Problems, Problem{Title: fmt.Sprintf("Destination %s has no key", r.ID), Detail: "Its partner can pull nothing.",
				Next: "Make one: POST /api/v1/destinations/" + string(r.ID) + "/key."})
		}
	}
	if c.o.Nights != nil {
		if nights := c.o.Nights(ctx); len(nights) > 0 && nights[0].Error != "" {
			d.Problems = append(d.Problems, Problem{At: nights[0].At, Title: "The last nightly pass did not do everything", Detail: nights[0].Error,
				Next: "It is tried again tonight; ebb retention audit says whether anything is past its bound."})
		}
	}
	return &page{Template: "overview", Title: "Overview", Section: base, Data: d}, nil
}

func (c *Console) failed(d *overviewData, title string, err error) {
	c.log.Error("overview is incomplete", "error", err)
	d.Problems = append(d.Problems, Problem{Title: title, Detail: "The program's messages say why.", Next: "If it stays so, look at the disk and restart."})
}

func (c *Console) addAudiences(ctx context.Context, d *overviewData) {
	gens, err := c.generations(ctx, trend)
	if err != nil {
		c.failed(d, "The generations could not be read", err)
	}
	d.Audiences = c.audienceRows(gens)
	for i := range d.Audiences {
		r := &d.Audiences[i]
		if r.Kind == audience.KindLookalike {
			d.Lookalikes++
		}
		if r.Fault != "" {
			d.Problems = append(d.Problems, Problem{At: r.entryView.Built, Title: fmt.Sprintf("Audience %s could not be built and is empty", r.ID), Detail: r.Fault,
				Next: "Mend its definition; the next build takes it up."})
		}
	}
	if len(gens) == 0 {
		return
	}
	d.Generation = gens[0]
	if age := c.o.Now() - gens[0].Built; age > lateBuild {
		d.Problems = append(d.Problems, Problem{At: gens[0].Built, Title: "Audiences were last built " + ago(c.o.Now(), gens[0].Built),
			Detail: "A build is due at least at every midnight, UTC.", Next: "The program's messages say why builds fail."})
	}
}

func (c *Console) addAccounts(ctx context.Context, d *overviewData) {
	accounts, err := c.o.Accounts(ctx)
	if err != nil {
		c.failed(d, "The accounts could not be read", err)
		return
	}
	d.Account = newAccountView(total(accounts))
	var off []string
	for id, a := range accounts {
		if v := newAccountView(a); !v.Balanced {
			off = append(off, cmp.Or(string(id), "no site"))
		}
	}
	if len(off) > 0 {
		slices.Sort(off)
		d.Problems = append(d.Problems, Problem{Title: "Accounts do not add up", Detail: "Of " + strings.Join(off, ", ") + ": received is not the sum of what became of it.",
			Next: "This is a fault of Ebb. Please report it with the numbers."})
	}
}

func (c *Console) addPlaces(ctx context.Context, d *overviewData) {
	d.Report = c.o.Audit(ctx)
	d.Places = places(d.Report)
	for _, p := range d.Report.Places {
		if p.Oldest != nil && (d.Oldest == nil || *p.Oldest < *d.Oldest) {
			d.Oldest = p.Oldest
		}
		switch {
		case p.Error != "":
			d.Problems = append(d.Problems, Problem{Title: fmt.Sprintf("How old things are in %s could not be read", p.Name), Detail: p.Error,
				Next: "Run ebb retention audit; what cannot be read cannot be shown to be gone."})
		case !p.OK:
			d.Problems = append(d.Problems, Problem{Title: fmt.Sprintf("Something in %s is older than it may be", p.Name),
				Detail: fmt.Sprintf("The oldest day is %s, %s ago; the bound is %s.", p.Oldest, plural(p.Age, "day"), plural(p.Bound, "day")),
				Next:   "Look at the last nightly passes, and run ebb retention audit after the next."})
		}
	}
}
