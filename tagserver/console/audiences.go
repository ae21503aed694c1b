package console

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/lookalike"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// trend is how many generations a line shows.
const trend = 14

// generationCache keeps the manifests that were read last: they never change.
type generationCache struct {
	mu sync.Mutex
	m  map[string]*audience.Generation // by hash
}

// generations returns the last generations, the newest first, at most n. One
// that cannot be read is left out of a line, for the newest it is an error.
func (c *Console) generations(ctx context.Context, n int) ([]*audience.Generation, error) {
	refs, err := c.o.Generations.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the generations: %w", err)
	}
	refs = refs[:min(n, len(refs))]
	c.kept.mu.Lock()
	defer c.kept.mu.Unlock()
	next := map[string]*audience.Generation{}
	var gens []*audience.Generation
	for i, r := range refs {
		g := c.kept.m[r.SHA256]
		if g == nil {
			if g, err = c.o.Generations.Open(ctx, r); err != nil {
				if i > 0 && (errors.Is(err, retention.ErrNotFound) || errors.Is(err, retention.ErrCorrupt)) {
					continue
				}
				return nil, fmt.Errorf("open generation %s: %w", r, err)
			}
		}
		next[r.SHA256] = g
		gens = append(gens, g)
	}
	if n >= trend { // not for the page that wants the newest only
		c.kept.m = next
	}
	return gens, nil
}

// audienceRow is an audience and its state in the newest generation.
type audienceRow struct {
	audience.Versioned
	Built bool // it is in the newest generation
	entryView
	Fault string
	Trend *spark
	// AUC of a lookalike, nil if it has none.
	AUC *float64
}

// Href is the audience's page.
func (r *audienceRow) Href() string { return pathOf("audiences", string(r.ID)) }

// entryView is an entry as it is shown: below the floor neither the count nor
// what it was before can be told from it (P7).
type entryView struct {
	Generation     uint64
	Epoch          uint64
	Built          taxonomy.Millis
	Clock          taxonomy.Millis
	Version        uint64
	Count          uint64
	Shown          string
	Added, Removed string
}

const hidden = "–"

func newEntryView(g *audience.Generation, e audience.Entry) entryView {
	v := entryView{Generation: g.Number, Epoch: g.Epoch, Built: g.Built, Clock: g.Clock, Version: e.Version,
		Count: e.Count, Shown: shown(e.Count), Added: hidden, Removed: hidden}
	before := e.Count + e.Removed - min(e.Added, e.Count+e.Removed)
	if e.Count >= audience.ShownFloor && (before >= audience.ShownFloor || before == 0) {
		v.Added, v.Removed = "+"+number(e.Added), "−"+number(e.Removed)
	}
	return v
}

func (c *Console) audienceRows(gens []*audience.Generation) []audienceRow {
	var rows []audienceRow
	for _, d := range c.o.Definitions.Audiences().All() {
		r := audienceRow{Versioned: d}
		if len(gens) > 0 {
			if e, ok := gens[0].Entry(d.ID); ok {
				r.Built, r.entryView, r.Fault = true, newEntryView(gens[0], e), e.Fault
				if e.Evidence != nil {
					r.AUC = &e.Evidence.AUC
				}
			}
		}
		var counts []uint64
		for _, g := range slices.Backward(gens) {
			if e, ok := g.Entry(d.ID); ok {
				counts = append(counts, e.Count)
			}
		}
		r.Trend = newSpark(counts)
		rows = append(rows, r)
	}
	slices.SortStableFunc(rows, func(x, y audienceRow) int {
		return cmp.Or(cmp.Compare(strings.ToLower(x.Title), strings.ToLower(y.Title)), cmp.Compare(x.ID, y.ID))
	})
	return rows
}

func (c *Console) audiences(e echo.Context) (*page, error) {
	gens, err := c.generations(e.Request().Context(), trend)
	if err != nil {
		return nil, err
	}
	var newest *audience.Generation
	if len(gens) > 0 {
		newest = gens[0]
	}
	return &page{Template: "audiences", Title: "Audiences", Section: base + "/audiences", Data: struct {
		Generation *audience.Generation
		Rows       []audienceRow
	}{newest, c.audienceRows(gens)}}, nil
}

// audienceData is the page of one audience.
type audienceData struct {
	audienceRow
	Generation   *audience.Generation
	Rule         *clause
	Sentence     string
	Text, JSON   string
	RuleFault    string
	History      []entryView
	UsedBy       []taxonomy.AudienceID
	Destinations []taxonomy.DestinationID
	Secret       taxonomy.Trait // what keeps it from pages though it is marked for them
	Evidence     *evidenceView
}

// evidenceView is what a lookalike's scorer says of itself.
type evidenceView struct {
	audience.Evidence
	*lookalike.Detail       // nil if the scorer gave none, or another's
	Interval          gauge // of the AUC
	Drivers           []driverRow
}

type driverRow struct {
	lookalike.Driver
	Title string
	Gauge gauge
	For   bool
}

func (c *Console) audience(e echo.Context) (*page, error) {
	id := taxonomy.AudienceID(param(e, "id"))
	gens, err := c.generations(e.Request().Context(), trend)
	if err != nil {
		return nil, err
	}
	rows := c.audienceRows(gens)
	i := slices.IndexFunc(rows, func(r audienceRow) bool { return r.ID == id })
	if i < 0 {
		return nil, errNothing
	}
	d := audienceData{audienceRow: rows[i], UsedBy: c.o.Definitions.Audiences().Dependents(id)}
	if len(gens) > 0 {
		d.Generation = gens[0]
	}
	expr, err := d.Expr()
	switch {
	case err != nil:
		d.RuleFault = err.Error()
	case expr != nil:
		cl := c.explain(expr)
		d.Rule = &cl
		d.Sentence, d.Text = query.Sentence(expr, c.o.Title), query.Text(expr)
	}
	if len(d.Versioned.Rule) > 0 {
		d.JSON = indent(d.Versioned.Rule)
	}
	for _, g := range gens {
		if en, ok := g.Entry(id); ok {
			d.History = append(d.History, newEntryView(g, en))
			if d.Evidence == nil && g == gens[0] && en.Evidence != nil {
				d.Evidence = c.evidence(en.Evidence)
			}
		}
	}
	if d.Page && c.o.Forest != nil {
		d.Secret = c.o.Definitions.Audiences().TellsOf(id, c.o.Forest().Sensitive)
	}
	for _, dest := range c.o.Definitions.Destinations() {
		if dest.Names(id) {
			d.Destinations = append(d.Destinations, dest.ID)
		}
	}
	return &page{Template: "audience", Title: cmp.Or(d.Title, string(d.ID)), Section: base + "/audiences", Data: d}, nil
}

func (c *Console) evidence(ev *audience.Evidence) *evidenceView {
	v := &evidenceView{Evidence: *ev}
	if len(ev.Detail) == 0 {
		return v
	}
	d := new(lookalike.Detail)
	if err := json.Unmarshal(ev.Detail, d); err != nil {
		return v
	}
	v.Detail = d
	v.Interval = aucGauge(d.AUCLow, ev.AUC, d.AUCHigh)
	add := func(drivers []lookalike.Driver, speaksFor bool) {
		for _, dr := range drivers[:min(10, len(drivers))] {
			v.Drivers = append(v.Drivers, driverRow{dr, c.title(dr.Trait), shareGauge(dr.Part), speaksFor})
		}
	}
	add(d.For, true)
	add(d.Against, false)
	return v
}

// indent prints JSON for reading; what is not JSON as it is.
func indent(raw json.RawMessage) string {
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return string(raw)
	}
	return b.String()
}
