package iab

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

var (
	//go:embed content-1.0-to-2.0.tsv.gz
	content10to20 []byte
	//go:embed content-1.0-to-ad-product-2.0.tsv.gz
	content10toAdProduct20 []byte
)

// MappingFormat says where things stand in a published mapping. Columns count
// from 0.
type MappingFormat struct {
	Title   string
	Headers int
	Columns int
	Head    string // what column From is called
	From    int    // the code that is mapped
	Name    int    // what the code is called, to mend a mistyped one
	To      int    // what it is mapped to
	Note    int    // how well; -1 for none
	// Gone is the column of a second table beside the first, of codes that are
	// not mapped at all; 0 for none.
	Gone int
}

// The formats of the published mappings. What is published as "Content 2.0 to
// Content 2.1" is from the codes of Content 1.0 to the IDs of 2.1.
var (
	MapContent10to20          = MappingFormat{Title: "Content 1.0 to Content 2.0", Headers: 1, Columns: 11, Head: "Content 1.0 Unique ID", From: 0, Name: 1, To: 3, Note: 10}
	MapContent10toAdProduct20 = MappingFormat{Title: "Content 1.0 to Ad Product 2.0", Headers: 1, Columns: 7, Head: "Content Taxonomy 1.0 Unique ID",
		From: 0, Name: 2, To: 3, Note: -1}
	MapAdProduct20toContent10 = MappingFormat{Title: "Ad Product 2.0 to Content 1.0", Headers: 2, Columns: 9, Head: "Unique ID", From: 1, Name: 0, To: 6, Note: -1}
	MapContent10to21          = MappingFormat{Title: "Content 2.0 to Content 2.1", Headers: 1, Columns: 8, Head: "OLD RTB ID", From: 1, Name: 2, To: 0, Note: -1, Gone: 7}
)

// More kinds of defects, of mappings.
const (
	// UnknownCode: the code is not in the taxonomy. If its name is that of exactly
	// one category that the mapping does not name otherwise, it is read as that.
	UnknownCode DefectKind = "unknown_code"
	// UnknownTarget: what the code is mapped to is not in the taxonomy. It is kept.
	UnknownTarget DefectKind = "unknown_target"
)

// Mapping is from the codes of one taxonomy to those of another.
type Mapping struct {
	Rows int
	// To has for each code what it is mapped to, in order of the file.
	To map[string][]string
	// Not has the codes that the file says are mapped to nothing, and why.
	Not map[string]string
}

// LoadMapping reads a mapping as published. from and to are the taxonomies that
// it is between; a nil one is not compared with.
func LoadMapping(r io.Reader, f MappingFormat, from, to *tree.Taxonomy) (*Mapping, []Defect, error) {
	b, err := io.ReadAll(io.LimitReader(r, 64<<20))
	if err != nil {
		return nil, nil, fmt.Errorf("read mapping %s: %w", f.Title, err)
	}
	lines := strings.Split(strings.TrimPrefix(string(b), "\ufeff"), "\n")
	if len(lines) < f.Headers {
		return nil, nil, fmt.Errorf("read mapping %s: %d lines, but there should be %d of headers alone", f.Title, len(lines), f.Headers)
	}
	if h := cells(lines[f.Headers-1]); len(h) != f.Columns || h[f.From] != f.Head {
		return nil, nil, fmt.Errorf("read mapping %s: the header is not that of this format: want the column %q and %d columns", f.Title, f.Head, f.Columns)
	}
	m := &Mapping{To: map[string][]string{}, Not: map[string]string{}}
	var defects []Defect
	type line struct {
		n int
		c []string
	}
	var rows []line
	named := map[string]bool{}
	for i, s := range lines[f.Headers:] {
		c := cells(s)
		if !slices.ContainsFunc(c, func(s string) bool { return s != "" }) {
			continue
		}
		n := i + f.Headers + 1
		if len(c) < f.Columns {
			defects = append(defects, Defect{n, "", BadRow, fmt.Sprintf("%d columns, want %d", len(c), f.Columns)})
			continue
		}
		if f.Gone > 0 && c[f.Gone] != "" {
			m.Not[c[f.Gone]] = "not mapped (deprecated)"
		}
		if c[f.From] == "" {
			if c[f.To] != "" {
				defects = append(defects, Defect{n, "", BadRow, "no code"})
			}
			continue
		}
		named[c[f.From]] = true
		rows = append(rows, line{n, c})
	}
	knows := func(t *tree.Taxonomy, id string) bool {
		return t == nil || slices.ContainsFunc(t.Categories, func(c tree.Category) bool { return c.ID == id })
	}
	for _, l := range rows {
		m.Rows++
		code, target := l.c[f.From], l.c[f.To]
		if !knows(from, code) {
			meant := ""
			for _, c := range from.Categories {
				if c.Title == l.c[f.Name] && !named[c.ID] {
					if meant != "" {
						meant = ""
						break
					}
					meant = c.ID
				}
			}
			if meant == "" {
				defects = append(defects, Defect{l.n, code, UnknownCode, fmt.Sprintf("%q is no category of %s", l.c[f.Name], from.Title)})
			} else {
				defects = append(defects, Defect{l.n, code, UnknownCode, fmt.Sprintf("read as %s, whose name %q it has", meant, l.c[f.Name])})
				code = meant
			}
		}
		if target == "" {
			why := "mapped to nothing"
			if f.Note >= 0 && l.c[f.Note] != "" {
				why = l.c[f.Note]
			}
			m.Not[code] = why
			continue
		}
		if !knows(to, target) {
			defects = append(defects, Defect{l.n, code, UnknownTarget, fmt.Sprintf("%q is not in %s", target, to.Title)})
		}
		if !slices.Contains(m.To[code], target) {
			m.To[code] = append(m.To[code], target)
		}
	}
	for code := range m.To {
		delete(m.Not, code)
	}
	return m, defects, nil
}

func cells(line string) []string {
	c := strings.Split(strings.TrimSuffix(line, "\r"), "\t")
	for i := range c {
		c[i] = strings.TrimSpace(c[i])
	}
	return c
}

// Crosswalk is where the codes of Content 1.0, which pages carry, lie in the
// taxonomies that are in use.
type Crosswalk struct {
	// Content31 and AdProduct20 have IDs of these taxonomies for each code.
	Content31, AdProduct20 map[string][]string
	// Lost has the codes that have no place in Content 3.1, and why.
	Lost    map[string]string
	Defects []Defect // of the published mappings
}

// NewCrosswalk makes the crosswalk of the published files: Content 1.0 to 2.0 by
// the official mapping, and from there to the category of Content 3.1 with the
// same ID, where there is one; Content 1.0 to Ad Product 2.0 by the official
// mapping.
func NewCrosswalk() (*Crosswalk, error) {
	c10, _, err := Content10()
	if err != nil {
		return nil, err
	}
	c31, _, err := Content31()
	if err != nil {
		return nil, err
	}
	ad20, _, err := AdProduct20()
	if err != nil {
		return nil, err
	}
	to20, d1, err := unpackMapping(content10to20, MapContent10to20, &c10, nil)
	if err != nil {
		return nil, err
	}
	toAd, d2, err := unpackMapping(content10toAdProduct20, MapContent10toAdProduct20, &c10, &ad20)
	if err != nil {
		return nil, err
	}
	x := &Crosswalk{Content31: map[string][]string{}, AdProduct20: toAd.To, Lost: to20.Not, Defects: append(d1, d2...)}
	in31 := map[string]bool{}
	for _, c := range c31.Categories {
		in31[c.ID] = true
	}
	for code, ids := range to20.To {
		for _, id := range ids {
			if in31[id] {
				x.Content31[code] = append(x.Content31[code], id)
			}
		}
		if x.Content31[code] == nil {
			x.Lost[code] = fmt.Sprintf("Content 2.0 has it as %s, which Content 3.1 does not have", strings.Join(ids, ", "))
		}
	}
	return x, nil
}

func unpackMapping(b []byte, f MappingFormat, from, to *tree.Taxonomy) (*Mapping, []Defect, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, nil, fmt.Errorf("unpack mapping %s: %w", f.Title, err)
	}
	return LoadMapping(z, f, from, to)
}

// Rules returns classifier rules by which a page whose field, such as prop.iab,
// has a code of Content 1.0 is about the categories that the crosswalk has for
// it. The IDs of the rules begin with id. One field has one code: a page with
// several sends them in several properties, each with its rules.
func (x *Crosswalk) Rules(id, field string) []rules.Rule {
	codes := slices.Sorted(maps.Keys(x.AdProduct20))
	for code := range x.Content31 {
		if x.AdProduct20[code] == nil {
			codes = append(codes, code)
		}
	}
	slices.Sort(codes)
	var out []rules.Rule
	for _, code := range codes {
		r := rules.Rule{ID: id + "-" + strings.ToLower(code), Title: "Content 1.0 " + code, When: []rules.Condition{{Field: field, Op: "eq", Value: code}}}
		for _, c := range x.Content31[code] {
			r.Then = append(r.Then, string(taxonomy.CategoryTrait(FormatContent31.ID, c)))
		}
		for _, c := range x.AdProduct20[code] {
			r.Then = append(r.Then, string(taxonomy.CategoryTrait(FormatAdProduct20.ID, c)))
		}
		out = append(out, r)
	}
	return out
}
