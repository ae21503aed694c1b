package audience_test

import (
	"testing"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// R22, purpose 9: who may be profiled and not counted in insights is in an audience
// and in its estimate, and in no reach; nor is who may be counted and not profiled.
func TestReachIsOfWhoMayBeCountedInInsights(t *testing.T) {
	w := world(12) // c:p/two have 0, 2, 4, 6, 8, 10
	w.Sets[index.SetInsight] = []int{1, 2, 3, 4, 10}
	w.Sets[index.SetProfile] = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11}
	b := audience.Basis{View: w.View(), Catalog: audience.NewCatalog(nil), Sources: w.Sources()}
	reach, err := audience.NewReach(t.Context(), b, []taxonomy.Trait{"c:p/two"})
	if err != nil {
		t.Fatal(err)
	}
	if n := reach.Courses[0].Visitors; n != 2 { // 2 and 4
		t.Errorf("reach %d", n)
	}
	x, err := audience.NewEstimate(t.Context(), b, query.Had("c:p/two"))
	if err != nil {
		t.Fatal(err)
	}
	if x.Count != 5 {
		t.Errorf("estimate %d", x.Count)
	}
}
