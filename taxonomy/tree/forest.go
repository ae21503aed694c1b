package tree

import (
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
	index      map[taxonomy.Trait]uint32 // into nodes
	traits     []taxonomy.Trait          // of nodes, sorted
}

type node struct {
	taxonomy  int // index into taxonomies
	category  int // index into its Categories
	ancestors []taxonomy.Trait
	closure   []uint32 // itself and its ancestors, sorted
	children  []taxonomy.Trait
	sensitive bool
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
	for i, t := range f.traits {
		f.index[t] = uint32(i)
	}
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
		n.closure = []uint32{self}
		for _, p := range c.Parents {
			pi := f.index[taxonomy.CategoryTrait(t.ID, p)]
			parent := &f.nodes[pi]
			parent.children = append(parent.children, f.traits[self])
			n.closure = append(n.closure, parent.closure...)
			n.sensitive = n.sensitive || parent.sensitive
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
		c.Parents, c.Tiers = slices.Clone(c.Parents), slices.Clone(c.Tiers)
	}
	return t
}

// Taxonomies returns all taxonomies by ID.
func (f *Forest) Taxonomies() []Taxonomy { return f.taxonomies }

// Traits returns the traits of all categories, sorted.
func (f *Forest) Traits() []taxonomy.Trait { return f.traits }

// Index returns the place of a category in Traits, and whether there is one.
func (f *Forest) Index(t taxonomy.Trait) (uint32, bool) {
	i, ok := f.index[t]
	return i, ok
}

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
