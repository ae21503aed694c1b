package iab

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/gziptest"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

func published(t testing.TB, name, sum string) []byte {
	t.Helper()
	b := gziptest.File(t, os.DirFS("."), name)
	if h := sha256.Sum256(b); hex.EncodeToString(h[:])[:16] != sum {
		t.Errorf("%s: SHA-256 %x, want %s…", name, h, sum)
	}
	return b
}

// Row counts, sums and defects of the published files (IAB Tech Lab's repository
// Taxonomies at commit b7acdca). Those of Audience 1.1 and Content 3.1 are held
// in iab_test.go.
func TestEveryPublishedTaxonomyLoadsWithItsDefects(t *testing.T) {
	sensitive := "Rm3SiT avbNf2 XtODT3 I4GWl6 mm3UXx HxqYV1 j9PaO9 pg0WhF 6i4dB6 8FD8nI Z7rJBM"
	for _, c := range []struct {
		file, sum string
		f         Format
		rows      int
		roots     int
		defects   map[DefectKind]string
	}{
		{"content-1.0.tsv.gz", "e1840441dd0fa3b3", FormatContent10, 392, 26, nil},
		{"ad-product-2.0.tsv.gz", "cf5fafb5204e0cd0", FormatAdProduct20, 583, 45, map[DefectKind]string{
			OwnParent: "1000 1037", PathConflict: "1038 1039 1040 1041 1426"}},
		{"testdata/audience-1.0.tsv.gz", "18015d6803db0379", FormatAudience10, 1679, 3, map[DefectKind]string{
			NameMark: "55 56 57 58 59 158 752", OwnParent: "1379",
			PathConflict: "94 96 98 99 100 101 158 344 1172 1173 1174 1175 1176 1177 1178 1380 1381 1382 1391 1392 1393"}},
		{"testdata/content-2.2.tsv.gz", "f2ae63567f2ad21c", FormatContent22, 1196, 37, map[DefectKind]string{
			PathConflict: "497", NoTiers: "v9i3On " + sensitive + " MRkz4Q bsr001 bsr002 bsr003 bsr004"}},
		{"testdata/content-3.0.tsv.gz", "a3e177900f0c2fc2", FormatContent30, 703, 37, nil},
	} {
		x, defects, err := Load(bytes.NewReader(published(t, c.file, c.sum)), c.f)
		if err != nil {
			t.Errorf("%s: %v", c.file, err)
			continue
		}
		roots := 0
		for _, cat := range x.Categories {
			if len(cat.Parents) == 0 {
				roots++
			}
		}
		if len(x.Categories) != c.rows || roots != c.roots || x.Segtax != c.f.Segtax {
			t.Errorf("%s: %d categories, %d roots", c.file, len(x.Categories), roots)
		}
		if _, err := tree.New(x); err != nil {
			t.Errorf("%s: %v", c.file, err)
		}
		n := 0
		for kind, want := range c.defects {
			n += len(strings.Fields(want))
			if got := ids(defects, kind); !slices.Equal(got, strings.Fields(want)) {
				t.Errorf("%s: %s: %v, want %s", c.file, kind, got, want)
			}
		}
		if len(defects) != n {
			t.Errorf("%s: %d defects, want %d: %+v", c.file, len(defects), n, defects)
		}
		for _, cat := range x.Categories {
			if cat.ID == "Rm3SiT" && (cat.Title != "Adult & Explicit Sexual Content" || !slices.Equal(cat.Parents, []string{"v9i3On"})) {
				t.Errorf("%s: %+v", c.file, cat)
			}
		}
	}
}

func TestEveryPublishedMappingLoadsWithItsDefects(t *testing.T) {
	c10, _, err1 := Content10()
	ad, _, err2 := AdProduct20()
	c22, _, err3 := Load(bytes.NewReader(published(t, "testdata/content-2.2.tsv.gz", "f2ae63567f2ad21c")), FormatContent22)
	if err1 != nil || err2 != nil || err3 != nil {
		t.Fatal(err1, err2, err3)
	}
	for _, c := range []struct {
		file, sum       string
		f               MappingFormat
		from, to        *tree.Taxonomy
		rows, codes, no int
		defects         string
	}{
		{"content-1.0-to-2.0.tsv.gz", "81ba2c11585733a3", MapContent10to20, &c10, &c22, 392, 377, 15, "85 AB7 unknown_code"},
		{"content-1.0-to-ad-product-2.0.tsv.gz", "99e50c2c05d9a08d", MapContent10toAdProduct20, &c10, &ad, 392, 392, 0, ""},
		{"testdata/content-2.0-to-2.1.tsv.gz", "0ee2a3e3405bf433", MapContent10to21, &c10, &c22, 351, 344, 48, ""},
		{"testdata/ad-product-2.0-to-content-1.0.tsv.gz", "da604588e4f4400b", MapAdProduct20toContent10, &ad, &c10, 583, 583, 0, ""},
	} {
		m, defects, err := LoadMapping(bytes.NewReader(published(t, c.file, c.sum)), c.f, c.from, c.to)
		if err != nil {
			t.Errorf("%s: %v", c.file, err)
			continue
		}
		var got []string
		for _, d := range defects {
			got = append(got, fmt.Sprint(d.Line, " ", d.ID, " ", d.Kind))
		}
		if m.Rows != c.rows || len(m.To) != c.codes || len(m.Not) != c.no || strings.Join(got, ", ") != c.defects {
			t.Errorf("%s: %d rows, %d codes mapped, %d not, defects %q", c.file, m.Rows, len(m.To), len(m.Not), got)
		}
	}
}

func TestAFaultyMappingIsReported(t *testing.T) {
	from := &tree.Taxonomy{Title: "F", Categories: []tree.Category{{ID: "a", Title: "A"}, {ID: "b", Title: "B"}, {ID: "c", Title: "Same"}, {ID: "d", Title: "Same"}}}
	to := &tree.Taxonomy{Title: "T", Categories: []tree.Category{{ID: "1"}}}
	f := MappingFormat{Headers: 1, Columns: 4, Head: "From", From: 0, Name: 1, To: 2, Note: 3}
	m, defects, err := LoadMapping(strings.NewReader("From\tName\tTo\tNote\na\tA\t1\t\nbb\tB\t1\t\ncc\tSame\t1\t\na\tA\t9\t\nx\n\tN\t1\t\nd\tSame\t\tno\n\t\t\t\n"), f, from, to)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range defects {
		got = append(got, fmt.Sprint(d.Line, d.ID, d.Kind))
	}
	slices.Sort(got)
	if want := []string{"3bbunknown_code", "4ccunknown_code", "5aunknown_target", "6bad_row", "7bad_row"}; !slices.Equal(got, want) {
		t.Errorf("defects %q, want %q", got, want)
	}
	if !slices.Equal(m.To["a"], []string{"1", "9"}) || !slices.Equal(m.To["b"], []string{"1"}) || m.Not["d"] != "no" || len(m.To) != 3 {
		t.Errorf("%+v", m)
	}
	if _, _, err := LoadMapping(strings.NewReader("x\ty\n"), f, nil, nil); err == nil {
		t.Error("another file is accepted")
	}
}

// A page with a code of Content 1.0 lands in Content 3.1 and in Ad Product 2.0.
func TestAPageWithAContent10CodeLandsInBothTaxonomies(t *testing.T) {
	x, err := NewCrosswalk()
	if err != nil {
		t.Fatal(err)
	}
	if len(x.Content31) != 368 || len(x.AdProduct20) != 392 || len(x.Lost) != 24 {
		t.Errorf("%d codes have a category in Content 3.1, %d in Ad Product 2.0, %d are lost", len(x.Content31), len(x.AdProduct20), len(x.Lost))
	}
	c31, _, err1 := Content31()
	ad, _, err2 := AdProduct20()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	forest, err := tree.New(c31, ad)
	if err != nil {
		t.Fatal(err)
	}
	c, err := rules.Compile(1, forest, x.Rules("iab", "prop.iab"))
	if err != nil {
		t.Fatal(err)
	}
	page := func(code string) []taxonomy.Trait {
		return c.Classify("s", &taxonomy.Event{Kind: taxonomy.EventPage, Props: []taxonomy.Prop{{Key: "iab", Value: code}}}, nil)
	}
	for code, want := range map[string][]string{
		"IAB2-1":   {"c:iab-content-3.1/32", "c:iab-content-3.1/1", "c:iab-ad-product-2.0/1558"},
		"IAB17-12": {"c:iab-content-3.1/484", "c:iab-content-3.1/483", "c:iab-ad-product-2.0/1510"},
		"IAB19-1":  {"c:iab-content-3.1/603", "c:iab-ad-product-2.0/1097"},
		"IAB7":     {"c:iab-content-3.1/223"}, // mistyped as AB7 in the mapping
		"IAB12":    {"c:iab-ad-product-2.0/1432"},
	} {
		got := page(code)
		for _, w := range want {
			if !slices.Contains(got, taxonomy.Trait(w)) {
				t.Errorf("%s: %v, want %s", code, got, w)
			}
		}
	}
	for code, why := range x.Lost {
		for _, trait := range page(code) {
			if strings.HasPrefix(string(trait), "c:iab-content") {
				t.Errorf("%s is lost (%s), but a page with it is about %s", code, why, trait)
			}
		}
	}
	if x.Lost["IAB12"] == "" || x.Lost["IAB25-3"] != "Uncategorized" || x.Lost["IAB14-8"] == "" {
		t.Errorf("lost: %v", x.Lost)
	}
	if got := page("IAB99"); got != nil {
		t.Errorf("no code: %v", got)
	}
}

func FuzzLoadMapping(f *testing.F) {
	f.Add([]byte("Unique ID\t\t\n"))
	f.Add([]byte("a\tb\tOLD\nx\ty\tz\n\t\t\n1\t2\t3\r\n1\t\t4"))
	format := MappingFormat{Headers: 1, Columns: 3, Head: "a", From: 0, Name: 1, To: 2, Note: 1, Gone: 2}
	from := &tree.Taxonomy{Categories: []tree.Category{{ID: "1", Title: "2"}}}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, _, err := LoadMapping(bytes.NewReader(b), format, from, from)
		if err != nil {
			return
		}
		for code := range m.Not {
			if m.To[code] != nil {
				t.Fatalf("%q is mapped and not mapped", code)
			}
		}
	})
}
