// Package iab is the taxonomies of IAB Tech Lab that come with the program, and
// the loader that reads their files as published, faults included.
package iab

import (
	"bytes"
	"cmp"
	"compress/gzip"
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// Attribution must be shown wherever the taxonomies are.
const Attribution = "Audience Taxonomy 1.1, Content Taxonomy 3.1 and 1.0, Ad Product Taxonomy 2.0 and their mappings by IAB Tech Lab, licensed under CC BY 3.0 (https://creativecommons.org/licenses/by/3.0/)"

var (
	//go:embed audience-1.1.tsv.gz
	audience11 []byte
	//go:embed content-3.1.tsv.gz
	content31 []byte
	//go:embed ad-product-2.0.tsv.gz
	adProduct20 []byte
	//go:embed content-1.0.tsv.gz
	content10 []byte
)

// Format says where things stand in a published file: tab-separated, LF or
// CRLF, with or without a byte order mark. Columns count from 0.
type Format struct {
	ID      string // of the taxonomy
	Title   string
	Version string
	Segtax  int
	Headers int // lines before the first category
	Columns int
	Head    string // what the ID's column is called; "" is Unique ID
	CatID   int    // column of the category's ID
	Parent  int    // of its parent's ID; -1 if that is the ID up to its last "-"
	Tiers   [2]int // columns of the path; if Parent is -1, of the name alone
	Name    int    // column of the name, for rows without tiers; 0 for none
	Note    int    // -1 for none
	// Sensitive is the text in the note that marks special-category data, "" for
	// none.
	Sensitive string
}

// The formats of the published files that the loader was tried on. Segtax is
// the number in AdCOM's list of category taxonomies.
var (
	FormatAudience11 = Format{ID: "iab-audience-1.1", Title: "IAB Audience Taxonomy 1.1", Version: "1.1", Segtax: 4,
		Headers: 1, Columns: 11, CatID: 1, Parent: 2, Tiers: [2]int{4, 10}, Note: 10}
	FormatContent31 = Format{ID: "iab-content-3.1", Title: "IAB Content Taxonomy 3.1", Version: "3.1", Segtax: 9,
		Headers: 2, Columns: 8, CatID: 0, Parent: 1, Tiers: [2]int{3, 7}, Name: 2, Note: 7, Sensitive: "SCD"}
	FormatAdProduct20 = Format{ID: "iab-ad-product-2.0", Title: "IAB Ad Product Taxonomy 2.0", Version: "2.0", Segtax: 8,
		Headers: 1, Columns: 6, CatID: 0, Parent: 1, Tiers: [2]int{3, 6}, Note: -1}
	FormatAudience10 = Format{ID: "iab-audience-1.0", Title: "IAB Audience Taxonomy 1.0", Version: "1.0",
		Headers: 1, Columns: 11, CatID: 1, Parent: 2, Tiers: [2]int{4, 10}, Note: 10}
	FormatContent10 = Format{ID: "iab-content-1.0", Title: "IAB Content Taxonomy 1.0", Version: "1.0", Segtax: 1,
		Headers: 1, Columns: 3, Head: "IAB Code", CatID: 0, Parent: -1, Tiers: [2]int{2, 3}, Note: -1}
	FormatContent22 = Format{ID: "iab-content-2.2", Title: "IAB Content Taxonomy 2.2", Version: "2.2", Segtax: 6,
		Headers: 2, Columns: 8, CatID: 0, Parent: 1, Tiers: [2]int{3, 7}, Name: 2, Note: 7, Sensitive: "SCD"}
	FormatContent30 = Format{ID: "iab-content-3.0", Title: "IAB Content Taxonomy 3.0", Version: "3.0", Segtax: 7,
		Headers: 2, Columns: 8, CatID: 0, Parent: 1, Tiers: [2]int{3, 7}, Name: 2, Note: 7, Sensitive: "SCD"}
)

// DefectKind is what is wrong with a published row.
type DefectKind string

// The kinds of defects, and what is done about each.
const (
	// PathConflict: the tiers are not those of the parent with one more. The
	// parent decides; the tiers are kept as Category.Tiers.
	PathConflict DefectKind = "path_conflict"
	// OwnParent: the row names itself as parent. The tiers decide; without a row
	// of that path it is a root.
	OwnParent DefectKind = "own_parent"
	// UnknownParent: the row names a parent that is not in the file. As above.
	UnknownParent DefectKind = "unknown_parent"
	// DuplicateID: the ID has come before. The row is left out.
	DuplicateID DefectKind = "duplicate_id"
	// BadRow: the row has no ID, no name, or too few columns. It is left out.
	BadRow DefectKind = "bad_row"
	// NoTiers: the row has a name and no tiers, or only those of its parent. Its
	// name is taken for the tier that is missing.
	NoTiers DefectKind = "no_tiers"
	// NameMark: the name carries a footnote's asterisk, which is taken off.
	NameMark DefectKind = "name_mark"
)

// Defect is a published row that is not as it should be, and was handled.
type Defect struct {
	Line   int        `json:"line"` // of the file, from 1
	ID     string     `json:"id"`
	Kind   DefectKind `json:"kind"`
	Detail string     `json:"detail"`
}

// Audience11 returns IAB Audience Taxonomy 1.1, segtax 4, 1,558 categories, and
// the defects of the published file.
func Audience11() (tree.Taxonomy, []Defect, error) { return unpack(audience11, FormatAudience11) }

// Content31 returns IAB Content Taxonomy 3.1, segtax 9, 704 categories, and the
// defects of the published file.
func Content31() (tree.Taxonomy, []Defect, error) { return unpack(content31, FormatContent31) }

// AdProduct20 returns IAB Ad Product Taxonomy 2.0, segtax 8, 583 categories, and
// the defects of the published file.
func AdProduct20() (tree.Taxonomy, []Defect, error) { return unpack(adProduct20, FormatAdProduct20) }

// Content10 returns IAB Content Taxonomy 1.0, segtax 1, 392 categories, and the
// defects of the published file. Nothing is sold by it any more, but pages still
// carry its codes: see Crosswalk.
func Content10() (tree.Taxonomy, []Defect, error) { return unpack(content10, FormatContent10) }

func unpack(b []byte, f Format) (tree.Taxonomy, []Defect, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return tree.Taxonomy{}, nil, fmt.Errorf("unpack %s: %w", f.Title, err)
	}
	return Load(z, f)
}

// row is a line of the file that has an ID.
type row struct {
	line   int
	id     string
	parent string
	path   []string // the tiers that are filled
	name   string   // of the column Name
	note   string
}

// Load reads a file as published. Defects are handled as DefectKind says and
// returned, in order of the lines; an error means that the file cannot be read
// or is of another format.
func Load(r io.Reader, f Format) (tree.Taxonomy, []Defect, error) {
	t := tree.Taxonomy{ID: f.ID, Title: f.Title, Version: f.Version, Segtax: f.Segtax}
	b, err := io.ReadAll(io.LimitReader(r, 64<<20))
	if err != nil {
		return tree.Taxonomy{}, nil, fmt.Errorf("read %s: %w", f.Title, err)
	}
	l := &loader{f: f, byID: make(map[string]*row), byPath: make(map[string]*row)}
	if err := l.read(string(b)); err != nil {
		return tree.Taxonomy{}, nil, fmt.Errorf("read %s: %w", f.Title, err)
	}
	for _, x := range l.rows {
		t.Categories = append(t.Categories, l.category(x))
	}
	slices.SortStableFunc(l.defects, func(a, b Defect) int { return a.Line - b.Line })
	if err := t.Validate(); err != nil {
		return tree.Taxonomy{}, l.defects, fmt.Errorf("read %s: %w", f.Title, err)
	}
	return t, l.defects, nil
}

type loader struct {
	f       Format
	rows    []*row
	byID    map[string]*row
	byPath  map[string]*row
	defects []Defect
}

func (l *loader) defect(line int, id string, kind DefectKind, format string, args ...any) {
	l.defects = append(l.defects, Defect{line, id, kind, fmt.Sprintf(format, args...)})
}

func pathKey(path []string) string { return strings.Join(path, "\t") }

func (l *loader) read(text string) error {
	lines := strings.Split(strings.TrimPrefix(text, "\ufeff"), "\n")
	if len(lines) < l.f.Headers {
		return fmt.Errorf("%d lines, but there should be %d of headers alone", len(lines), l.f.Headers)
	}
	if h := strings.Split(strings.TrimSuffix(lines[l.f.Headers-1], "\r"), "\t"); len(h) != l.f.Columns || !strings.EqualFold(strings.TrimSpace(h[l.f.CatID]), cmp.Or(l.f.Head, "Unique ID")) {
		return fmt.Errorf("the header is not that of this format: want the column %q and as many columns as the format has", cmp.Or(l.f.Head, "Unique ID"))
	}
	for i, s := range lines[l.f.Headers:] {
		line := i + l.f.Headers + 1
		cells := strings.Split(strings.TrimSuffix(s, "\r"), "\t")
		for j := range cells {
			cells[j] = strings.TrimSpace(cells[j])
		}
		if !slices.ContainsFunc(cells, func(c string) bool { return c != "" }) {
			continue
		}
		if len(cells) < l.f.Columns {
			l.defect(line, "", BadRow, "%d columns, want %d", len(cells), l.f.Columns)
			continue
		}
		x := &row{line: line, id: cells[l.f.CatID]}
		if l.f.Parent >= 0 {
			x.parent = cells[l.f.Parent]
		} else if i := strings.LastIndexByte(x.id, '-'); i >= 0 {
			x.parent = x.id[:i]
		}
		for _, c := range cells[l.f.Tiers[0]:l.f.Tiers[1]] {
			if c != "" {
				x.path = append(x.path, c)
			}
		}
		if l.f.Name > 0 {
			x.name = cells[l.f.Name]
		}
		if len(x.path) == 0 && x.name != "" {
			x.path = []string{x.name}
			l.defect(line, x.id, NoTiers, "only the name, %q", x.name)
		}
		if l.f.Note >= 0 {
			x.note = cells[l.f.Note]
		}
		if err := tree.CheckID(x.id); err != nil {
			l.defect(line, "", BadRow, "id: %v", err)
			continue
		}
		if len(x.path) == 0 || len(x.path[len(x.path)-1]) > tree.MaxTitle {
			l.defect(line, x.id, BadRow, "no name, or one of more than %d bytes", tree.MaxTitle)
			continue
		}
		if first, ok := l.byID[x.id]; ok {
			l.defect(line, x.id, DuplicateID, "stands on line %d already", first.line)
			continue
		}
		l.byID[x.id] = x
		if _, ok := l.byPath[pathKey(x.path)]; !ok {
			l.byPath[pathKey(x.path)] = x
		}
		l.rows = append(l.rows, x)
	}
	return nil
}

func (l *loader) category(x *row) tree.Category {
	if p := l.byID[x.parent]; p != nil && p != x && x.name != "" && slices.Equal(p.path, x.path) {
		x.path = append(slices.Clone(x.path), x.name)
		l.defect(x.line, x.id, NoTiers, "the tiers end with the parent's, %q; the name is %q", p.path[len(p.path)-1], x.name)
	}
	name := x.path[len(x.path)-1]
	c := tree.Category{ID: x.id, Title: strings.Trim(name, "* "), Note: x.note}
	if c.Title != name {
		l.defect(x.line, x.id, NameMark, "%q has the mark of a footnote", name)
	}
	if c.Title == "" {
		c.Title = x.id
	}
	if l.f.Sensitive != "" && x.note == l.f.Sensitive {
		c.Sensitive = true
	}

	above := x.path[:len(x.path)-1]
	parent := l.byID[x.parent]
	switch {
	case x.parent == x.id:
		parent = l.fromPath(x, OwnParent, "is its own parent")
	case x.parent != "" && parent == nil:
		parent = l.fromPath(x, UnknownParent, fmt.Sprintf("the parent %.80q is not in the file", x.parent))
	case l.f.Parent < 0: // the tiers are no path
	case parent != nil && !slices.Equal(parent.path, above):
		l.defect(x.line, x.id, PathConflict, "the parent %s stands at %q, the tiers say %q", parent.id, strings.Join(parent.path, " | "), strings.Join(x.path, " | "))
		c.Tiers = x.path
	case parent == nil && len(above) > 0:
		l.defect(x.line, x.id, PathConflict, "no parent, but the tiers say %q", strings.Join(x.path, " | "))
		c.Tiers = x.path
	}
	if parent != nil {
		c.Parents = []string{parent.id}
	}
	return c
}

// fromPath finds the parent by the tiers where the ID of the parent is useless.
func (l *loader) fromPath(x *row, kind DefectKind, what string) *row {
	parent := l.byPath[pathKey(x.path[:len(x.path)-1])]
	if parent == nil || parent == x {
		l.defect(x.line, x.id, kind, "%s; no row has its tiers but the last, so it is a root", what)
		return nil
	}
	l.defect(x.line, x.id, kind, "%s; by its tiers it belongs to %s", what, parent.id)
	return parent
}
