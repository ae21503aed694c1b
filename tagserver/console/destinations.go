package console

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// destinationRow is a destination and how its last delivery went.
type destinationRow struct {
	delivery.Destination
	Runs []runRow // the newest first
	Last *runRow
}

// runRow is a delivery as it is shown. What a receiver holds of few visitors is
// not told by any of its numbers (P7): with a low floor they would be the size
// of an audience.
type runRow struct {
	delivery.Delivery
	Holds, May, Share  string
	Lines, Plus, Minus string
	Out                string // kept out by suppression
}

func newRunRow(d delivery.Delivery) runRow {
	r := runRow{Delivery: d, Holds: shown(d.Held), May: shown(d.Allowed), Share: hidden, Lines: hidden, Plus: hidden, Minus: hidden, Out: shown(d.Suppressed)}
	if d.Held < audience.ShownFloor {
		return r
	}
	r.Share = percent(d.Held, d.Allowed)
	if before := d.Held + d.Removes - min(d.Adds, d.Held+d.Removes); before == 0 || before >= audience.ShownFloor {
		r.Lines, r.Plus, r.Minus = number(d.Rows), number(d.Adds), number(d.Removes)
	}
	return r
}

// Href is the destination's page.
func (r *destinationRow) Href() string { return pathOf("destinations", string(r.ID)) }

// resultWords says what the results of deliveries mean.
var resultWords = map[string]string{
	delivery.ResultFull:      "everything was said anew",
	delivery.ResultDelta:     "what changed was said",
	delivery.ResultSame:      "nothing changed for this destination",
	delivery.ResultDelivered: "had been delivered before",
	delivery.ResultWaiting:   "waits for the receiver, which is asked again",
}

func (c *Console) destinationRow(ctx context.Context, d delivery.Destination) (destinationRow, error) {
	r := destinationRow{Destination: d.WithDefaults()}
	r.Title = cmp.Or(d.Title, string(d.ID))
	runs, err := c.o.Deliveries.Deliveries(ctx, d.ID)
	if err != nil {
		return r, fmt.Errorf("read the deliveries of %s: %w", d.ID, err)
	}
	for _, run := range slices.Backward(runs) {
		r.Runs = append(r.Runs, newRunRow(run))
	}
	if len(r.Runs) > 0 {
		r.Last = &r.Runs[0]
	}
	return r, nil
}

func (c *Console) destinationRows(ctx context.Context) ([]destinationRow, error) {
	var rows []destinationRow
	for _, d := range c.o.Definitions.Destinations() {
		r, err := c.destinationRow(ctx, d)
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	slices.SortStableFunc(rows, func(x, y destinationRow) int {
		return cmp.Or(cmp.Compare(strings.ToLower(x.Title), strings.ToLower(y.Title)), cmp.Compare(x.ID, y.ID))
	})
	return rows, nil
}

func (c *Console) destinations(e echo.Context) (*page, error) {
	rows, err := c.destinationRows(e.Request().Context())
	if err != nil {
		return nil, err
	}
	return &page{Template: "destinations", Title: "Destinations", Section: base + "/destinations", Data: struct{ Rows []destinationRow }{rows}}, nil
}

// runsShown is how many deliveries a page lists.
const runsShown = 30

type destinationAudience struct {
	ID      taxonomy.AudienceID
	Title   string
	Shown   string
	Floored bool // below the destination's floor, so delivered empty
	// Withheld is why it may not be sent there, or "".
	Withheld string
	Missing  bool // no longer defined
}

func (c *Console) destination(e echo.Context) (*page, error) {
	ctx := e.Request().Context()
	id := taxonomy.DestinationID(param(e, "id"))
	all := c.o.Definitions.Destinations()
	i := slices.IndexFunc(all, func(d delivery.Destination) bool { return d.ID == id })
	if i < 0 {
		return nil, errNothing
	}
	row, err := c.destinationRow(ctx, all[i])
	if err != nil {
		return nil, err
	}
	m, err := c.o.Deliveries.Manifest(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read the manifest of %s: %w", id, err)
	}
	st, err := c.o.Deliveries.Standing(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read how %s stands: %w", id, err)
	}
	g, err := c.generation(ctx)
	if err != nil {
		return nil, err
	}
	var audiences []destinationAudience
	for _, a := range row.Audiences {
		da := destinationAudience{ID: a, Title: string(a), Shown: hidden}
		if def, ok := c.o.Definitions.Audiences().Get(a); ok {
			da.Title = cmp.Or(def.Title, string(a))
		} else {
			da.Missing = true
		}
		if g != nil {
			if en, ok := g.Entry(a); ok {
				da.Shown = shown(en.Count)
			}
		}
		da.Floored = row.Last != nil && slices.Contains(row.Last.Floored, a)
		if row.Last != nil {
			if i := slices.IndexFunc(row.Last.Withheld, func(w delivery.Withheld) bool { return w.Audience == a }); i >= 0 {
				da.Withheld = row.Last.Withheld[i].Why
			}
		}
		audiences = append(audiences, da)
	}
	origin := "https://YOUR-PARTNER-HOST"
	if c.o.Partner != nil {
		origin = cmp.Or(c.o.Partner(), origin)
	}
	row.Runs = row.Runs[:min(runsShown, len(row.Runs))]
	return &page{Template: "destination", Title: row.Title, Section: base + "/destinations", Data: struct {
		destinationRow
		Manifest delivery.Manifest
		Standing delivery.Standing
		Few      bool // it holds too few visitors for numbers
		Members  []destinationAudience
		URL      string
		Words    map[string]string
		Others   []choice // audiences that it neither gets nor suppresses by
		No       *refusal
		Prompt   bool              // it is pushed to
		Kept     map[string]string // where what was sent is, by the file of its delivery
	}{row, m, st, row.Last == nil || row.Last.Held < audience.ShownFloor, audiences, origin + delivery.FilesPath(id), resultWords,
		undelivered(c.o.Definitions.Audiences(), &row.Destination), refused(e), row.Transport != delivery.DefaultTransport, keptOf(id, &st)}}, nil
}

// keptOf is where the bytes of deliveries are downloaded.
func keptOf(id taxonomy.DestinationID, st *delivery.Standing) map[string]string {
	at := map[string]string{}
	for _, f := range st.Kept {
		at[f] = "/api/v1/destinations/" + url.PathEscape(string(id)) + "/deliveries/" + url.PathEscape(f) + "/content"
	}
	return at
}
