package rules

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
	"pgregory.net/rapid"
)

// anyForest is the forest with categories moved, gone, added, archived, and become
// others.
func anyForest(t *rapid.T) *tree.Forest {
	products := tree.Taxonomy{ID: "products", Title: "Products", Categories: []tree.Category{{ID: "grocery", Title: "Grocery"}, {ID: "grocery.frzn-ice", Title: "Ice"}}}
	news := tree.Taxonomy{ID: "news", Title: "News"}
	for _, id := range []string{"sport", "winter", "travel", "ski"} {
		c := tree.Category{ID: id, Title: id}
		for _, p := range news.Categories {
			if rapid.Bool().Draw(t, "below "+p.ID) {
				c.Parents = append(c.Parents, p.ID)
			}
		}
		news.Categories = append(news.Categories, c)
	}
	if rapid.Bool().Draw(t, "ice below grocery") {
		products.Categories[1].Parents = []string{"grocery"}
	}
	for _, id := range []string{"frzn-ice", "frzn ice", "GROCERY", "other", "sport", "v9i3On"} {
		if rapid.Bool().Draw(t, "has "+id) {
			c := tree.Category{ID: id, Title: id}
			if rapid.Bool().Draw(t, "below grocery") {
				c.Parents = []string{"grocery"}
			}
			products.Categories = append(products.Categories, c)
		}
	}
	merge := func(x *tree.Taxonomy, ids ...string) {
		for _, id := range ids {
			if i := rapid.IntRange(-1, len(x.Categories)-1).Draw(t, id+" became"); i >= 0 && !slices.ContainsFunc(x.Categories, func(c tree.Category) bool { return c.ID == id }) {
				x.Categories[i].Merged = append(x.Categories[i].Merged, id)
			}
		}
	}
	merge(&products, "other", "GROCERY", "gro", "groceries")
	merge(&news, "none")
	for _, x := range []*tree.Taxonomy{&products, &news} {
		for i := len(x.Categories) - 1; i >= 0; i-- { // leaves first: parents stand before them
			c := &x.Categories[i]
			if rapid.IntRange(0, 3).Draw(t, "archived") == 0 && !slices.ContainsFunc(x.Categories, func(b tree.Category) bool { return b.Archived == 0 && slices.Contains(b.Parents, c.ID) }) {
				c.Archived = taxonomy.Moment(rapid.IntRange(1, 3).Draw(t, "from"))
				for _, b := range x.Categories {
					if slices.Contains(b.Parents, c.ID) {
						c.Archived = max(c.Archived, b.Archived)
					}
				}
			}
		}
	}
	f, err := tree.New(news, products)
	if err != nil {
		t.Skip() // an ID that no taxonomy may have
	}
	return f
}

// R18: events differ between two sets of rules only in the reach of the change,
// and within it the part gives what the whole gives.
func TestAChangeReachesAllThatDiffers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		compile := func(version uint32) *Classifier {
			f := anyForest(t)
			c, err := Compile(version, f, anyRules(t, f))
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		old, now := compile(1), compile(2)
		if rapid.Bool().Draw(t, "few changes") {
			few := slices.Clone(old.given)
			if len(few) > 0 {
				few = few[1:]
			}
			var kept []Rule
			for _, r := range few {
				if r.Validate(now.forest) == nil {
					kept = append(kept, r)
				}
			}
			var err error
			if now, err = Compile(2, now.forest, kept); err != nil {
				t.Fatal(err)
			}
		}
		r := old.Change(now)
		part, err := now.Part(&r)
		if err != nil {
			t.Fatal(err)
		}
		without := func(list []taxonomy.Trait, has bool) []taxonomy.Trait {
			return slices.DeleteFunc(slices.Clone(list), func(t taxonomy.Trait) bool { return r.Has(t) == has })
		}
		for range 8 {
			e, site := anyEvent.Draw(t, "event"), rapid.SampledFrom(sites).Draw(t, "site")
			a, b, p := old.Classify(site, e, nil), now.Classify(site, e, nil), part.Classify(site, e, nil)
			if !slices.Equal(without(a, true), without(b, true)) {
				x, _ := json.Marshal([2][]Rule{old.given, now.given})
				t.Fatalf("beyond the reach %+v\nof rules %s\nevent %+v\nwas %v\nis %v", r, x, e, a, b)
			}
			if !slices.Equal(without(b, false), without(p, false)) {
				t.Fatalf("the part gives %v, the whole %v in the reach %+v", p, b, r)
			}
		}
		if again := now.Change(now); !again.Empty() {
			t.Fatalf("no change reaches %+v", again)
		}
	})
}

func TestOnlyWhatChangedIsReached(t *testing.T) {
	rule := func(id, title string, then ...string) Rule { return Rule{ID: id, Title: title, Then: then} }
	old := compile(t, rule("a", "A", "c:news/ski"), rule("b", "B", "k:x=1", "k:brand={brand}"), rule("c", "C", "c:products/grocery"))
	for _, x := range []struct {
		name string
		to   *Classifier
		want Reach
	}{
		{"a title", compile(t, rule("a", "Other", "c:news/ski"), rule("b", "B", "k:x=1", "k:brand={brand}"), rule("c", "C", "c:products/grocery")), Reach{}},
		{"a rule that goes", compile(t, rule("a", "A", "c:news/ski"), rule("c", "C", "c:products/grocery")), Reach{Traits: []taxonomy.Trait{"k:x=1"}, Prefixes: []string{"k:brand="}}},
		{"a rule that comes", compile(t, rule("a", "A", "c:news/ski"), rule("b", "B", "k:x=1", "k:brand={brand}"), rule("c", "C", "c:products/grocery"), rule("d", "D", "c:news/winter")),
			Reach{Traits: []taxonomy.Trait{"c:news/sport", "c:news/winter"}}},
	} {
		got := old.Change(x.to)
		if !slices.Equal(got.Traits, x.want.Traits) || !slices.Equal(got.Prefixes, x.want.Prefixes) {
			t.Errorf("%s: reaches %+v, want %+v", x.name, got, x.want)
		}
	}
}
