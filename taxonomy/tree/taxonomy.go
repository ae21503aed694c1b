// Package tree is what an event or a visitor can be about: taxonomies of
// categories, in which a category may have several parents.
package tree

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Bounds of a taxonomy, so that a definition cannot ask for memory without end.
const (
	MaxCategories = 100_000
	MaxAncestors  = 255  // of one category, over all its paths
	MaxParents    = 32   // of one category
	MaxTitle      = 256  // bytes
	MaxMerged     = 1000 // IDs that one category took over
)

// Taxonomy is a named set of categories.
type Taxonomy struct {
	ID      string `json:"id"` // a slug, part of each category's trait
	Title   string `json:"title"`
	Version string `json:"version,omitempty"`
	// Segtax is the number by which OpenRTB knows the taxonomy (AdCOM's list of
	// category taxonomies; from 500 on vendors' own), 0 for none.
	Segtax     int        `json:"segtax,omitempty"`
	Categories []Category `json:"categories"`
}

// Category is a place in a taxonomy.
type Category struct {
	// ID is 1 to 64 of a-z, A-Z, 0-9, '-', '_' and '.', beginning with a letter
	// or digit. Case matters: published taxonomies have IDs such as v9i3On.
	ID    string `json:"id"`
	Title string `json:"title"`
	// Parents are IDs of the same taxonomy. None: a root.
	Parents []string `json:"parents,omitempty"`
	// Sensitive marks special-category data. It holds for all below as well.
	Sensitive bool `json:"sensitive,omitempty"`
	// Tiers is the path that the publisher prints, where it is not the titles of
	// the ancestors. It decides nothing.
	Tiers []string `json:"tiers,omitempty"`
	// Note describes the category, or is the publisher's remark, such as how a value
	// is coded.
	Note string `json:"note,omitempty"`
	// Life is for how many days being in the category counts: of day d until the
	// end of day d+Life-1, 1 to 90. 0 means 90. It bounds all below as well, so
	// whoever is in a category is in every one above it.
	Life int `json:"life,omitempty"`
	// Archived is from when on, by the event's own time, nothing comes into the
	// category any more, as if it were not there; what was in stays for its life.
	// Zero means it is not archived. What is below must be archived no later.
	Archived taxonomy.Moment `json:"archived,omitzero"`
	// Merged are IDs of categories that became this one: whatever names one of
	// them means this one, also what was stored under it.
	Merged []string `json:"merged,omitempty"`
}

// CheckID returns an error that names what is wrong with s as a category's ID.
func CheckID(s string) error {
	if s == "" {
		return errors.New("must not be empty")
	}
	if len(s) > 64 {
		return fmt.Errorf("%.20q…: %d bytes long, at most 64", s, len(s))
	}
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '-' && c != '_' && c != '.') {
			return fmt.Errorf("%q: character %q at byte %d; use letters, digits, '-', '_' and '.', beginning with a letter or digit", s, c, i)
		}
	}
	return nil
}

// Slug turns a title or a property's value into an ID: ASCII letters in lower
// case, digits, and one '-' for everything between. "FRZN ICE" is frzn-ice.
// What has no letter or digit has the slug "".
func Slug(s string) string { return string(AppendSlug(nil, s)) }

// AppendSlug appends the slug of s to dst.
func AppendSlug(dst []byte, s string) []byte {
	start := len(dst)
	gap := false
	for i := range len(s) {
		c := s[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c < '0' || c > 'z' || c > '9' && c < 'a' {
			gap = true
			continue
		}
		if gap && len(dst) > start {
			dst = append(dst, '-')
		}
		gap = false
		dst = append(dst, c)
	}
	return dst
}

// Validate returns every fault of t, each a taxonomy.FieldError, joined.
func (t *Taxonomy) Validate() error {
	_, err := t.order()
	return err
}

// order checks t and returns the indexes of its categories so that parents come
// before children.
func (t *Taxonomy) order() ([]int, error) {
	var errs []error
	fault := func(field, format string, args ...any) {
		errs = append(errs, taxonomy.Invalid(field, format, args...))
	}
	if err := taxonomy.CheckSlug("id", t.ID); err != nil {
		errs = append(errs, &taxonomy.FieldError{Field: "id", Err: err})
	}
	if t.Title == "" || len(t.Title) > MaxTitle {
		fault("title", "is %d bytes long, want 1 to %d", len(t.Title), MaxTitle)
	}
	if t.Segtax < 0 {
		fault("segtax", "%d is negative", t.Segtax)
	}
	if len(t.Categories) > MaxCategories {
		fault("categories", "%d of them, at most %d", len(t.Categories), MaxCategories)
		return nil, errors.Join(errs...)
	}

	index := make(map[string]int, len(t.Categories))
	for i := range t.Categories {
		c := &t.Categories[i]
		at := func(f string) string { return fmt.Sprintf("categories[%d].%s", i, f) }
		if err := CheckID(c.ID); err != nil {
			errs = append(errs, &taxonomy.FieldError{Field: at("id"), Err: err})
			continue
		}
		if first, ok := index[c.ID]; ok {
			fault(at("id"), "%q is also the ID of categories[%d]", c.ID, first)
			continue
		}
		index[c.ID] = i
		if c.Title == "" || len(c.Title) > MaxTitle {
			fault(at("title"), "is %d bytes long, want 1 to %d", len(c.Title), MaxTitle)
		}
		if c.Life < 0 || c.Life > taxonomy.RetentionDays {
			fault(at("life"), "%d is not within 1 to %d days; leave it out for %[2]d", c.Life, taxonomy.RetentionDays)
		}
		if len(c.Merged) > MaxMerged {
			fault(at("merged"), "%d of them, at most %d", len(c.Merged), MaxMerged)
		}
	}
	errs = append(errs, t.checkMerged(index)...)

	// Kahn's algorithm: take away categories whose parents are all taken away;
	// what remains is a cycle or below one.
	waits := make([]int, len(t.Categories)) // parents not yet taken
	children := make([][]int, len(t.Categories))
	for i := range t.Categories {
		c := &t.Categories[i]
		if n := len(c.Parents); n > MaxParents {
			fault(fmt.Sprintf("categories[%d].parents", i), "%d of them, at most %d", n, MaxParents)
			continue
		}
		for j, p := range c.Parents {
			at := fmt.Sprintf("categories[%d].parents[%d]", i, j)
			k, ok := index[p]
			switch {
			case p == c.ID:
				fault(at, "%q is its own parent", p)
			case !ok:
				fault(at, "%q is not a category of %q", p, t.ID)
			case slices.Contains(c.Parents[:j], p):
				fault(at, "%q is named twice", p)
			default:
				if until := t.Categories[k].Archived; until != 0 && (c.Archived == 0 || c.Archived > until) {
					fault(fmt.Sprintf("categories[%d].archived", i), "%q is below %q, which is archived from %s on: archive it no later, or move it", c.ID, p, until)
				}
				waits[i]++
				children[k] = append(children[k], i)
			}
		}
	}
	order := make([]int, 0, len(t.Categories))
	for i, n := range waits {
		if n == 0 {
			order = append(order, i)
		}
	}
	for done := 0; done < len(order); done++ {
		for _, c := range children[order[done]] {
			if waits[c]--; waits[c] == 0 {
				order = append(order, c)
			}
		}
	}
	if len(order) < len(t.Categories) {
		errs = append(errs, t.cycles(waits, index)...)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return order, nil
}

// checkMerged says what is wrong with the IDs that categories took over: each is
// that of no category, and was taken over once.
func (t *Taxonomy) checkMerged(index map[string]int) (errs []error) {
	taken := map[string]int{}
	for i := range t.Categories {
		for j, id := range t.Categories[i].Merged {
			at := fmt.Sprintf("categories[%d].merged[%d]", i, j)
			if err := CheckID(id); err != nil {
				errs = append(errs, &taxonomy.FieldError{Field: at, Err: err})
			} else if k, ok := index[id]; ok {
				errs = append(errs, taxonomy.Invalid(at, "%q is the ID of categories[%d]", id, k))
			} else if k, ok := taken[id]; ok {
				errs = append(errs, taxonomy.Invalid(at, "%q became categories[%d] already", id, k))
			}
			taken[id] = i
		}
	}
	return errs
}

// cycles names each cycle once, at one of its categories.
func (t *Taxonomy) cycles(waits []int, index map[string]int) []error {
	var errs []error
	seen := make([]int, len(t.Categories)) // the walk that came by, from 1
	for i := range t.Categories {
		var walk []int
		for k := i; waits[k] > 0; {
			if seen[k] == i+1 { // this walk closed a cycle
				cycle := walk[slices.Index(walk, k):]
				var b strings.Builder
				for _, c := range append(cycle, k) {
					if b.Len() > 0 {
						b.WriteString(" → ")
					}
					b.WriteString(t.Categories[c].ID)
				}
				errs = append(errs, taxonomy.Invalid(fmt.Sprintf("categories[%d].parents", k), "a cycle: %s", b.String()))
				break
			}
			if seen[k] != 0 {
				break // an earlier walk went on from here
			}
			seen[k] = i + 1
			walk = append(walk, k)
			// What remains has a parent that remains: follow the first.
			next := -1
			for _, p := range t.Categories[k].Parents {
				if j, ok := index[p]; ok && j != k && waits[j] > 0 {
					next = j
					break
				}
			}
			if next < 0 {
				break
			}
			k = next
		}
	}
	return errs
}
