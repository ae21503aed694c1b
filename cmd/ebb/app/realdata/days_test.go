package realdata

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// cell is one trait on one day.
type cell struct {
	day   taxonomy.Day
	trait string
}

func day(t *testing.T, v any) taxonomy.Day {
	t.Helper()
	d, err := taxonomy.ParseDay(v.(string))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// everyDay asks, for every trait and every day of the 90, for who had it on that
// very day, and compares with the counts of the other engine: a cell that it
// does not name is empty. All are audiences of one build.
func (w *world) everyDay(want map[cell]int, sources ...taxonomy.SourceID) {
	w.t.Helper()
	traits := map[string]bool{}
	for c := range want {
		traits[c.trait] = true
	}
	var all []audience.Versioned
	cells := map[taxonomy.AudienceID]cell{}
	for trait := range traits {
		for d := today.Oldest(); d <= today; d++ {
			id := taxonomy.AudienceID(fmt.Sprintf("a%d", len(cells)))
			cells[id] = cell{d, trait}
			all = append(all, audience.Versioned{Version: 1, Definition: audience.Definition{ID: id, Title: string(id), Kind: audience.KindRule,
				Rule: fmt.Appendf(nil, `{"trait": %q, "window": {"from": %q, "to": %q}}`, trait, d, d)}})
		}
	}
	slices.SortFunc(all, func(a, b audience.Versioned) int { return cmp.Compare(a.ID, b.ID) })
	built, err := audience.Build(ctx, audience.Input{View: w.View(), Catalog: audience.NewCatalog(all), Sources: sources, Number: 1, Built: w.View().Clock()})
	if err != nil {
		w.t.Fatal(err)
	}
	if len(built.Faults) > 0 {
		w.t.Fatalf("faults: %v", built.Faults)
	}
	wrong, filled := 0, 0
	for id, c := range cells {
		got := int(built.Sets[id].Count())
		if got > 0 {
			filled++
		}
		if got != want[c] {
			if wrong++; wrong <= 5 {
				w.t.Errorf("%s on %s: %d visitors, DuckDB counts %d", c.trait, c.day, got, want[c])
			}
		}
	}
	if wrong > 0 {
		w.t.Errorf("%d of %d traits by day differ", wrong, len(cells))
	}
	w.t.Logf("%d traits on 90 days: %d counts equal, %d of them above 0", len(traits), len(cells)-wrong, filled)
}
