package rules

import (
	"slices"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

func TestALensShowsNearMissesAndUnusedKeys(t *testing.T) {
	f, err := tree.New(tree.Taxonomy{ID: "shop", Title: "Shop", Categories: []tree.Category{{ID: "shoes", Title: "Shoes"}, {ID: "hats", Title: "Hats"}}})
	if err != nil {
		t.Fatal(err)
	}
	low := 100.0
	c, err := Compile(1, f, []Rule{
		{ID: "dear", When: []Condition{{Field: "prop.price", Op: "range", Min: &low}, {Field: "path", Op: "prefix", Value: "/shoes"}}, Then: []string{"k:price=high"}},
		{ID: "shoes", When: []Condition{{Field: "path", Op: "prefix", Value: "/shoes"}}, Then: []string{"c:shop/shoes"}},
		{ID: "brand", When: []Condition{{Field: "prop.brand", Op: "eq", Value: "Acme"}}, Then: []string{"k:brand=acme"}},
		{ID: "by-department", Then: []string{"c:shop/{department}"}},
		{ID: "elsewhere", Sites: []taxonomy.SiteID{"other"}, When: []Condition{{Field: "prop.color", Op: "exists"}}, Then: []string{"k:x=y"}},
		{ID: "views", When: []Condition{{Field: "kind", Op: "eq", Value: "page"}, {Field: "path", Op: "eq", Value: "/never"}}, Then: []string{"k:x=y"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	l := c.Lens("shop")
	s := l.Look(&taxonomy.Event{Kind: taxonomy.EventPage, URL: "https://shop.example/shoes/red?q=1", Props: []taxonomy.Prop{
		{Key: "brand", Value: "ACME "}, {Key: "color", Value: "red"}, {Key: "department", Value: "Hats"}, {Key: "price", Value: "59"}}})
	if want := []string{"shoes", "by-department"}; !slices.Equal(s.Rules, want) {
		t.Errorf("rules %v, want %v", s.Rules, want)
	}
	if want := []taxonomy.Trait{"c:shop/hats", "c:shop/shoes"}; !slices.Equal(s.Traits, want) {
		t.Errorf("traits %v, want %v", s.Traits, want)
	}
	// The price is its first condition, though it is asked in another order.
	if want := []NearMiss{{"dear", 0, false}, {"brand", 0, true}}; !slices.Equal(s.Near, want) {
		t.Errorf("near misses %v, want %v", s.Near, want)
	}
	if want := []string{"prop.color", "query.q"}; !slices.Equal(s.Unused, want) {
		t.Errorf("unused %v, want %v", s.Unused, want)
	}
	if got := c.Lens("other").Look(&taxonomy.Event{Kind: taxonomy.EventPage, Props: []taxonomy.Prop{{Key: "color", Value: "red"}}}); len(got.Unused) != 0 || !slices.Contains(got.Rules, "elsewhere") {
		t.Errorf("of the other site: %+v", got)
	}
}
