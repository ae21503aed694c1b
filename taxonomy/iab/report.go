package iab

import "slices"

// Report is what was found in a published file that comes with the program.
type Report struct {
	File    string   `json:"file"`         // as published
	Of      string   `json:"of,omitempty"` // the taxonomy's ID, or that which a mapping is from
	To      string   `json:"to,omitempty"` // of a mapping
	Segtax  int      `json:"segtax,omitempty"`
	Rows    int      `json:"rows"`    // that were read: categories, or codes that are mapped or said to have no place
	Lost    []Lost   `json:"lost"`    // of a mapping: codes that have no place, with the reason
	Defects []Defect `json:"defects"` // each was handled as its kind says
}

// Lost is a code that has no place in another taxonomy.
type Lost struct {
	Code string `json:"code"`
	Why  string `json:"why"`
}

// Reports reads every file that comes with the program and reports. The way of a
// code of Content 1.0 into Content 3.1 is the last.
func Reports() ([]Report, error) {
	out := []Report{}
	for _, f := range []struct {
		file   string
		bytes  []byte
		format Format
	}{
		{"Audience Taxonomy 1.1.tsv", audience11, FormatAudience11}, {"Content Taxonomy 3.1.tsv", content31, FormatContent31},
		{"Ad Product Taxonomy 2.0.tsv", adProduct20, FormatAdProduct20}, {"Content Taxonomy 1.0.tsv", content10, FormatContent10},
	} {
		t, defects, err := unpack(f.bytes, f.format)
		if err != nil {
			return nil, err
		}
		out = append(out, Report{File: f.file, Of: t.ID, Segtax: t.Segtax, Rows: len(t.Categories), Defects: append([]Defect{}, defects...), Lost: []Lost{}})
	}
	c10, _, err := Content10()
	if err != nil {
		return nil, err
	}
	for _, f := range []struct {
		file, to string
		bytes    []byte
		format   MappingFormat
	}{{"Content 1.0 to Content 2.0.tsv", "iab-content-2.0", content10to20, MapContent10to20}, {"Content 1.0 to Ad Product 2.0.tsv", FormatAdProduct20.ID, content10toAdProduct20, MapContent10toAdProduct20}} {
		m, defects, err := unpackMapping(f.bytes, f.format, &c10, nil)
		if err != nil {
			return nil, err
		}
		out = append(out, Report{File: f.file, Of: c10.ID, To: f.to, Rows: len(m.To) + len(m.Not), Lost: lost(m.Not), Defects: append([]Defect{}, defects...)})
	}
	x, err := NewCrosswalk()
	if err != nil {
		return nil, err
	}
	return append(out, Report{File: "Content 1.0 to Content 2.0.tsv, and the same ID in Content Taxonomy 3.1.tsv", Of: c10.ID, To: FormatContent31.ID,
		Rows: len(x.Content31) + len(x.Lost), Lost: lost(x.Lost), Defects: []Defect{}}), nil
}

func lost(not map[string]string) []Lost {
	out := []Lost{}
	for code, why := range not {
		out = append(out, Lost{code, why})
	}
	slices.SortFunc(out, func(a, b Lost) int {
		if a.Code < b.Code {
			return -1
		}
		return 1
	})
	return out
}
