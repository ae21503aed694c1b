package audience_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Now says of a view what a build on it would, and fails where a build leaves an
// audience empty.
func TestNowIsWhatABuildOnTheViewWouldSay(t *testing.T) {
	w, c := world(12), catalog()
	b := newBench(t)
	b.run(world(6), c) // an older generation, of fewer visitors
	basis := audience.Basis{View: w.View(), Catalog: c, Sources: w.Sources()}
	ids := []taxonomy.AudienceID{"neither", "two"}
	sets, err := audience.Now(context.Background(), basis, ids)
	if err != nil {
		t.Fatal(err)
	}
	b.run(w, c)
	for i, id := range ids {
		if got, want := w.View().Visitors(sets[i]), b.members(w, id); !slices.Equal(got, want) || len(got) == 0 {
			t.Errorf("%s: %v, built %v", id, got, want)
		}
	}
	if _, err := audience.Now(context.Background(), basis, []taxonomy.AudienceID{"two", "gone"}); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("an audience that there is none of: %v", err)
	}
	broken := basis
	broken.Catalog = audience.NewCatalog([]audience.Versioned{rule("two", `{"audience":"lost"}`)})
	if _, err := audience.Now(context.Background(), broken, []taxonomy.AudienceID{"two"}); err == nil {
		t.Error("an audience that cannot be evaluated passes for nobody")
	}
	like := basis
	like.Catalog = audience.NewCatalog([]audience.Versioned{rule("two", `{"trait":"c:p/two"}`), lookalike("like", "two", 3)})
	like.Members = func(_ context.Context, id taxonomy.AudienceID) (index.Set, error) {
		if id != "like" {
			t.Errorf("asked for %s", id)
		}
		return sets[1], nil
	}
	got, err := audience.Now(context.Background(), like, []taxonomy.AudienceID{"like"})
	if err != nil || !slices.Equal(w.View().Visitors(got[0]), w.View().Visitors(sets[1])) {
		t.Errorf("a lookalike is as of the last generation: %v", err)
	}
}
