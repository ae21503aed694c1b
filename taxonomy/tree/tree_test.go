package tree

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

func cat(id string, parents ...string) Category { return Category{ID: id, Title: id, Parents: parents} }

func sports() Taxonomy {
	return Taxonomy{ID: "t", Title: "T", Categories: []Category{
		cat("ski", "winter", "outdoor"), cat("winter", "sport"), cat("outdoor", "sport", "travel"),
		cat("sport"), cat("travel"), cat("chess", "sport"),
	}}
}

func traits(ids ...string) []taxonomy.Trait {
	var ts []taxonomy.Trait
	for _, id := range ids {
		ts = append(ts, taxonomy.CategoryTrait("t", id))
	}
	return ts
}

func TestAnAncestorCountsOnceOverAllPaths(t *testing.T) {
	f, err := New(sports())
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string][]string{
		"ski": {"outdoor", "sport", "travel", "winter"}, "outdoor": {"sport", "travel"}, "sport": nil, "none": nil,
	} {
		if got := f.Ancestors(traits(id)[0]); !slices.Equal(got, traits(want...)) {
			t.Errorf("ancestors of %s: got %v, want %v", id, got, want)
		}
	}
	if got := f.Children("c:t/sport"); !slices.Equal(got, traits("chess", "outdoor", "winter")) {
		t.Errorf("children: %v", got)
	}
	if tax, c, ok := f.Category("c:t/ski"); !ok || tax.ID != "t" || c.ID != "ski" {
		t.Errorf("category: %v %v %v", tax, c, ok)
	}
	if _, _, ok := f.Category("c:u/ski"); ok {
		t.Error("a category of no taxonomy")
	}
}

func TestSensitiveHoldsForAllBelow(t *testing.T) {
	x := sports()
	x.Categories[4].Sensitive = true // travel
	f, err := New(x)
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]bool{"travel": true, "outdoor": true, "ski": true, "sport": false, "winter": false, "none": false} {
		if got := f.Sensitive(traits(id)[0]); got != want {
			t.Errorf("%s: %v", id, got)
		}
	}
}

func TestALifeHoldsForAllBelow(t *testing.T) {
	x := sports()
	x.Categories[3].Life, x.Categories[1].Life, x.Categories[4].Life = 60, 90, 7 // sport, winter, travel
	f, err := New(x)
	if err != nil {
		t.Fatal(err)
	}
	want := map[taxonomy.Trait]int{"c:t/sport": 60, "c:t/winter": 60, "c:t/travel": 7, "c:t/outdoor": 7, "c:t/ski": 7, "c:t/chess": 60}
	if got := f.Lives(); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWhatBecameAnotherIsTheOther(t *testing.T) {
	x := sports()
	x.Categories[1].Merged = []string{"snow", "ice"} // winter
	x.Categories[3].Sensitive = true                 // sport
	f, err := New(x)
	if err != nil {
		t.Fatal(err)
	}
	for _, was := range []taxonomy.Trait{"c:t/snow", "c:t/ice"} {
		if f.Now(was) != "c:t/winter" || !slices.Equal(f.Ancestors(was), traits("sport")) || !f.Sensitive(was) {
			t.Errorf("%s is %s, below %v", was, f.Now(was), f.Ancestors(was))
		}
		if slices.Contains(f.Traits(), was) {
			t.Errorf("%s is a category of its own", was)
		}
		if _, c, ok := f.Category(was); !ok || c.ID != "winter" {
			t.Errorf("%s: %v", was, c)
		}
	}
	if got := f.Above("c:t/ski"); !slices.Equal(got, append(traits("outdoor", "sport", "travel", "winter"), traits("ice", "snow")...)) {
		t.Errorf("what ski is switched off with: %v", got)
	}
	if f.Now("c:t/none") != "c:t/none" || f.Now("any") != "any" || !slices.Equal(f.Former(), traits("ice", "snow")) {
		t.Error("what became nothing is something else")
	}
}

func TestAForestKeepsNothingOfWhatItWasMadeOf(t *testing.T) {
	x := sports()
	f, err := New(x)
	if err != nil {
		t.Fatal(err)
	}
	x.Categories[0].Parents[0] = "chess"
	x.Categories[0].ID = "gone"
	if _, c, ok := f.Category("c:t/ski"); !ok || c.Parents[0] != "winter" {
		t.Error("it changed")
	}
}

func TestFaultsNameTheirPlace(t *testing.T) {
	tax := func(cs ...Category) Taxonomy { return Taxonomy{ID: "t", Title: "T", Categories: cs} }
	for name, c := range map[string]struct {
		t    Taxonomy
		want []string
	}{
		"no names":   {Taxonomy{}, []string{"id: ", "title: "}},
		"bad segtax": {Taxonomy{ID: "t", Title: "T", Segtax: -1}, []string{"segtax: -1"}},
		"category's names": {tax(Category{}, cat("a b"), cat("a/b"), cat("-a"), cat(strings.Repeat("a", 65)), Category{ID: "a"}),
			[]string{"categories[0].id: ", "categories[1].id: ", "categories[2].id: ", "categories[3].id: ", "categories[4].id: ", "categories[5].title: "}},
		"twice":               {tax(cat("a"), cat("b"), cat("a")), []string{`categories[2].id: "a" is also the ID of categories[0]`}},
		"unknown parent":      {tax(cat("a"), cat("b", "a", "x")), []string{`categories[1].parents[1]: "x" is not a category of "t"`}},
		"parent twice":        {tax(cat("a"), cat("b", "a", "a")), []string{`categories[1].parents[1]: "a" is named twice`}},
		"parents without end": {tax(cat("a", make([]string, 33)...)), []string{"categories[0].parents: 33 of them, at most 32"}},
		"a life":              {tax(Category{ID: "a", Title: "a", Life: 91}, Category{ID: "b", Title: "b", Life: -1}), []string{"categories[0].life: 91 is not within 1 to 90 days", "categories[1].life: -1"}},
		"merged": {tax(Category{ID: "a", Title: "a", Merged: []string{"b", "x", "y z"}}, Category{ID: "b", Title: "b", Merged: []string{"x"}}),
			[]string{`categories[0].merged[0]: "b" is the ID of categories[1]`, `categories[0].merged[2]: "y z"`, `categories[1].merged[0]: "x" became categories[0] already`}},
		"below an archived one": {tax(Category{ID: "a", Title: "a", Archived: 5}, cat("b", "a"), Category{ID: "c", Title: "c", Parents: []string{"a"}, Archived: 6}, Category{ID: "d", Title: "d", Parents: []string{"a"}, Archived: 5}),
			[]string{`categories[1].archived: "b" is below "a", which is archived from 1970-01-01T00:00:00.005Z on`, `categories[2].archived: "c" is below "a"`}},
		"own parent": {tax(cat("a", "a")), []string{`categories[0].parents[0]: "a" is its own parent`}},
		"a cycle":    {tax(cat("r"), cat("a", "r", "b"), cat("b", "c"), cat("c", "a"), cat("below", "c")), []string{"a cycle: a → b → c → a"}},
		"two cycles": {tax(cat("a", "b"), cat("b", "a"), cat("c", "d"), cat("d", "c")), []string{"a cycle: a → b → a", "a cycle: c → d → c"}},
	} {
		err := c.t.Validate()
		if err == nil {
			t.Errorf("%s: no fault", name)
			continue
		}
		lines := strings.Split(err.Error(), "\n")
		if len(lines) != len(c.want) {
			t.Errorf("%s: got %q, want %q", name, lines, c.want)
			continue
		}
		for i, w := range c.want {
			if !strings.Contains(lines[i], w) {
				t.Errorf("%s: got %q, want %q", name, lines[i], w)
			}
		}
		var fe *taxonomy.FieldError
		if !errors.As(err, &fe) {
			t.Errorf("%s: no FieldError", name)
		}
		if _, err := New(sports2(), c.t); err == nil || !strings.Contains(err.Error(), "taxonomies[1].") {
			t.Errorf("%s in a forest: %v", name, err)
		}
	}
	if _, err := New(sports(), sports()); err == nil || !strings.Contains(err.Error(), `taxonomies[1].id: "t" is taken`) {
		t.Errorf("the same taxonomy twice: %v", err)
	}
}

func sports2() Taxonomy {
	t := sports()
	t.ID = "first"
	return t
}

func TestADepthWithoutEndIsRefused(t *testing.T) {
	chain := Taxonomy{ID: "t", Title: "T", Categories: []Category{cat("c0")}}
	for i := 1; i <= MaxAncestors; i++ {
		chain.Categories = append(chain.Categories, cat(fmt.Sprint("c", i), fmt.Sprint("c", i-1)))
	}
	if _, err := New(chain); err != nil {
		t.Fatalf("%d ancestors: %v", MaxAncestors, err)
	}
	chain.Categories = append(chain.Categories, cat("last", fmt.Sprint("c", MaxAncestors)))
	if _, err := New(chain); err == nil || !strings.Contains(err.Error(), `category "last" has 256 ancestors`) {
		t.Errorf("one more: %v", err)
	}
	big := Taxonomy{ID: "t", Title: "T", Categories: make([]Category, MaxCategories+1)}
	if err := big.Validate(); err == nil || strings.Count(err.Error(), "\n") > 0 {
		t.Errorf("too many categories: %.200v", err)
	}
}

// anyTaxonomy draws graphs, acyclic or not.
var anyTaxonomy = rapid.Custom(func(t *rapid.T) Taxonomy {
	n := rapid.IntRange(0, 12).Draw(t, "n")
	x := Taxonomy{ID: "t", Title: "T"}
	back := rapid.Bool().Draw(t, "also forward")
	for i := range n {
		c := cat(fmt.Sprint("c", i))
		for j := range n {
			if j != i && (j < i || back) && rapid.IntRange(0, 4).Draw(t, "edge") == 0 {
				c.Parents = append(c.Parents, fmt.Sprint("c", j))
			}
		}
		x.Categories = append(x.Categories, c)
	}
	x.Categories = rapid.Permutation(x.Categories).Draw(t, "order")
	return x
})

// reach is the naive model: repeat until nothing changes.
func reach(x Taxonomy) map[string]map[string]bool {
	up := map[string]map[string]bool{}
	for _, c := range x.Categories {
		up[c.ID] = map[string]bool{}
		for _, p := range c.Parents {
			up[c.ID][p] = true
		}
	}
	for changed := true; changed; {
		changed = false
		for _, as := range up {
			for a := range as {
				for b := range up[a] {
					if !as[b] {
						as[b], changed = true, true
					}
				}
			}
		}
	}
	return up
}

func TestAncestorsEqualTheNaiveModelAndCyclesAreFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := anyTaxonomy.Draw(t, "taxonomy")
		up := reach(x)
		cyclic := false
		for id, as := range up {
			cyclic = cyclic || as[id]
		}
		f, err := New(x)
		if (err != nil) != cyclic {
			t.Fatalf("cyclic: %v, err: %v", cyclic, err)
		}
		if cyclic {
			for _, line := range strings.Split(err.Error(), "\n") {
				_, path, ok := strings.Cut(line, "a cycle: ")
				if !ok {
					t.Fatalf("got %q", line)
				}
				ids := strings.Split(path, " → ")
				for i := 1; i < len(ids); i++ {
					k := slices.IndexFunc(x.Categories, func(c Category) bool { return c.ID == ids[i-1] })
					if !slices.Contains(x.Categories[k].Parents, ids[i]) {
						t.Fatalf("%q is not a cycle", path)
					}
				}
				if ids[0] != ids[len(ids)-1] {
					t.Fatalf("%q does not close", path)
				}
			}
			return
		}
		for id, as := range up {
			var want []taxonomy.Trait
			for a := range as {
				want = append(want, taxonomy.CategoryTrait("t", a))
			}
			slices.Sort(want)
			if got := f.Ancestors(taxonomy.CategoryTrait("t", id)); !slices.Equal(got, want) {
				t.Fatalf("%s: got %v, want %v", id, got, want)
			}
			i, ok := f.Index(taxonomy.CategoryTrait("t", id))
			if j, ok2 := f.IndexBytes([]byte("c:t/" + id)); !ok || !ok2 || i != j || len(f.Closure(i)) != len(want)+1 {
				t.Fatalf("%s: place %d, %d", id, i, j)
			}
		}
	})
}

func TestSlugs(t *testing.T) {
	for in, want := range map[string]string{
		"GROCERY": "grocery", "FRZN ICE": "frzn-ice", "ICE - CRUSHED/CUBED": "ice-crushed-cubed", "  a  ": "a",
		"": "", "--": "", "Käse": "k-se", "65+": "65", "a.b_c": "a-b-c",
	} {
		if got := Slug(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringN(0, 40, 60).Draw(t, "s")
		x := Slug(s)
		if x != "" && CheckID(x) != nil {
			t.Fatalf("%q has the slug %q: %v", s, x, CheckID(x))
		}
		if Slug(x) != x {
			t.Fatalf("the slug of %q is %q", x, Slug(x))
		}
	})
}
