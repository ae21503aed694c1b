package tree

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Forest is all taxonomies of an installation, with what follows from them
// worked out. It is immutable and safe for concurrent use; it shares nothing
// with what it was made of. Slices that its methods return must not be changed.
type Forest struct {
	taxonomies []Taxonomy                // by ID
	nodes      []node                    // by trait
	index      map[taxonomy.Trait]uint32 // into nodes, also of what became one
	traits     []taxonomy.Trait          // of nodes, sorted
	former     []taxonomy.Trait          // of what became one, sorted
	lives      map[taxonomy.Trait]int    // of those that are shorter than 90 days
	archives   bool                      // something is archived
}

type node struct {
	taxonomy  int // index into taxonomies
	category  int // index into its Categories
	ancestors []taxonomy.Trait
	closure   []uint32 // itself and its ancestors, sorted
	children  []taxonomy.Trait
	sensitive bool
	life      int // days, of it and all above
	archived  taxonomy.Millis
}

// New checks the taxonomies and works out every category's ancestors. Faults
// are taxonomy.FieldErrors, joined; their fields begin with "taxonomies[i].".
func New(ts ...Taxonomy) (*Forest, error) {
	f := new(Forest)
	var errs []error
	orders := make(map[string][]int)
	for i := range ts {
		order, err := ts[i].order()
		if err != nil {
			errs = append(errs, taxonomy.Under(fmt.Sprintf("taxonomies[%d].", i), err))
			continue
		}
		if _, ok := orders[ts[i].ID]; ok {
			errs = append(errs, taxonomy.Invalid(fmt.Sprintf("taxonomies[%d].id", i), "%q is taken", ts[i].ID))
			continue
		}
		orders[ts[i].ID] = order
		f.taxonomies = append(f.taxonomies, clone(ts[i]))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	slices.SortFunc(f.taxonomies, func(a, b Taxonomy) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})

	for i := range f.taxonomies {
		t := &f.taxonomies[i]
		for j := range t.Categories {
			f.traits = append(f.traits, taxonomy.CategoryTrait(t.ID, t.Categories[j].ID))
		}
	}
	slices.Sort(f.traits)
	f.nodes = make([]node, len(f.traits))
	f.index = make(map[taxonomy.Trait]uint32, len(f.traits))
	f.lives = map[taxonomy.Trait]int{}
	for i, t := range f.traits {
		f.index[t] = uint32(i)
	}
	for i := range f.taxonomies {
		t := &f.taxonomies[i]
		for j := range t.Categories {
			for _, was := range t.Categories[j].Merged {
				former := taxonomy.CategoryTrait(t.ID, was)
				f.index[former] = f.index[taxonomy.CategoryTrait(t.ID, t.Categories[j].ID)]
				f.former = append(f.former, former)
			}
		}
	}
	slices.Sort(f.former)
	for i := range f.taxonomies {
		if err := f.grow(i, orders[f.taxonomies[i].ID]); err != nil {
			errs = append(errs, err)
		}
	}
	return f, errors.Join(errs...)
}

// grow works out the nodes of one taxonomy, parents first.
func (f *Forest) grow(tax int, order []int) error {
	t := &f.taxonomies[tax]
	for _, i := range order {
		c := &t.Categories[i]
		self := f.index[taxonomy.CategoryTrait(t.ID, c.ID)]
		n := &f.nodes[self]
		n.taxonomy, n.category, n.sensitive = tax, i, c.Sensitive
		n.life, n.archived = cmp.Or(c.Life, taxonomy.RetentionDays), taxonomy.Millis(c.Archived)
		f.archives = f.archives || n.archived != 0
		n.closure = []uint32{self}
		for _, p := range c.Parents {
			pi := f.index[taxonomy.CategoryTrait(t.ID, p)]
			parent := &f.nodes[pi]
			parent.children = append(parent.children, f.traits[self])
			n.closure = append(n.closure, parent.closure...)
			n.sensitive = n.sensitive || parent.sensitive
			n.life = min(n.life, parent.life)
		}
		if n.life < taxonomy.RetentionDays {
			f.lives[f.traits[self]] = n.life
		}
		slices.Sort(n.closure)
		n.closure = slices.Compact(n.closure)
		if len(n.closure) > MaxAncestors+1 {
			return taxonomy.Invalid("taxonomies."+t.ID, "category %q has %d ancestors, at most %d", c.ID, len(n.closure)-1, MaxAncestors)
		}
		for _, a := range n.closure {
			if a != self {
				n.ancestors = append(n.ancestors, f.traits[a])
			}
		}
	}
	for i := range f.nodes {
		if f.nodes[i].taxonomy == tax {
			slices.Sort(f.nodes[i].children)
		}
	}
	return nil
}

func clone(t Taxonomy) Taxonomy {
	t.Categories = slices.Clone(t.Categories)
	for i := range t.Categories {
		c := &t.Categories[i]
		c.Parents, c.Tiers, c.Merged = slices.Clone(c.Parents), slices.Clone(c.Tiers), slices.Clone(c.Merged)
	}
	return t
}

// Taxonomies returns all taxonomies by ID.
func (f *Forest) Taxonomies() []Taxonomy { return f.taxonomies }

// Traits returns the traits of all categories, sorted.
func (f *Forest) Traits() []taxonomy.Trait { return f.traits }

// Index returns the place of a category in Traits, and whether there is one. For
// one that became another it is the other's.
func (f *Forest) Index(t taxonomy.Trait) (uint32, bool) {
	i, ok := f.index[t]
	return i, ok
}

// Now returns what a trait is called now: of a category that became another the
// other, and everything else as it is.
func (f *Forest) Now(t taxonomy.Trait) taxonomy.Trait {
	if i, ok := f.index[t]; ok {
		return f.traits[i]
	}
	return t
}

// Former returns the traits of all categories that became others, sorted.
func (f *Forest) Former() []taxonomy.Trait { return f.former }

// Above returns the ancestors of a category, with all that became one of them or
// the category.
func (f *Forest) Above(t taxonomy.Trait) []taxonomy.Trait {
	above := f.Ancestors(t)
	if len(f.former) == 0 {
		return above
	}
	own := above
	above = slices.Clone(above)
	for _, was := range f.former {
		if now := f.Now(was); now == t || slices.Contains(own, now) {
			above = append(above, was)
		}
	}
	return above
}

// Lives returns for how many days being in a category counts, of those where that
// is less than 90: their own life or that of one above, whichever is shorter.
func (f *Forest) Lives() map[taxonomy.Trait]int { return f.lives }

// Archives reports whether any category is archived.
func (f *Forest) Archives() bool { return f.archives }

// Archived returns from when on nothing comes into the category at place i, 0 for
// never.
func (f *Forest) Archived(i uint32) taxonomy.Millis { return f.nodes[i].archived }

// IndexBytes is Index for text that is not a string yet. It does not allocate.
func (f *Forest) IndexBytes(b []byte) (uint32, bool) {
	i, ok := f.index[taxonomy.Trait(b)]
	return i, ok
}

// Closure returns the places in Traits of the category at place i and of all
// its ancestors, sorted.
func (f *Forest) Closure(i uint32) []uint32 { return f.nodes[i].closure }

// Ancestors returns every ancestor of a category over all paths, once, without
// itself, sorted. A trait that is no category here has none.
func (f *Forest) Ancestors(t taxonomy.Trait) []taxonomy.Trait {
	if i, ok := f.index[t]; ok {
		return f.nodes[i].ancestors
	}
	return nil
}

// Children returns the categories right below one, sorted.
func (f *Forest) Children(t taxonomy.Trait) []taxonomy.Trait {
	if i, ok := f.index[t]; ok {
		return f.nodes[i].children
	}
	return nil
}

// Category returns a category and its taxonomy, and whether there is one. The
// caller must not change what they point to.
func (f *Forest) Category(t taxonomy.Trait) (*Taxonomy, *Category, bool) {
	i, ok := f.index[t]
	if !ok {
		return nil, nil, false
	}
	n := &f.nodes[i]
	tax := &f.taxonomies[n.taxonomy]
	return tax, &tax.Categories[n.category], true
}

// Sensitive reports whether a category or one of its ancestors is marked so.
func (f *Forest) Sensitive(t taxonomy.Trait) bool {
	i, ok := f.index[t]
	return ok && f.nodes[i].sensitive
}
