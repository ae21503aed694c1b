package iab

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/gziptest"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

func load(t testing.TB, f func() (tree.Taxonomy, []Defect, error)) (tree.Taxonomy, *tree.Forest, []Defect) {
	t.Helper()
	x, defects, err := f()
	if err != nil {
		t.Fatal(err)
	}
	forest, err := tree.New(x)
	if err != nil {
		t.Fatal(err)
	}
	return x, forest, defects
}

func ids(ds []Defect, kind DefectKind) (out []string) {
	for _, d := range ds {
		if d.Kind == kind {
			out = append(out, d.ID)
		}
	}
	return out
}

// The sums are those of the files in IAB Tech Lab's repository Taxonomies, at
// commit b7acdca.
func TestTheEmbeddedFilesAreThePublishedOnes(t *testing.T) {
	for want, b := range map[string][]byte{
		"0216547402f3dc028f5ec1bb78c648eed68a81ea3b3b94862e6f6caa9db3ad3b": audience11,
		"7212cdc496ba347a03e703b1932bdcdd4fd29089b058f4edeb4d3da1f1222ea7": content31,
	} {
		sum := sha256.Sum256(gziptest.Plain(t, b))
		if got := hex.EncodeToString(sum[:]); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestAudienceTaxonomyHas1558Categories(t *testing.T) {
	x, f, defects := load(t, Audience11)
	if len(x.Categories) != 1558 || x.Segtax != 4 || x.ID != "iab-audience-1.1" {
		t.Errorf("%d categories, segtax %d, ID %s", len(x.Categories), x.Segtax, x.ID)
	}
	var roots []string
	below := map[taxonomy.Trait]int{}
	for _, c := range x.Categories {
		if len(c.Parents) == 0 {
			roots = append(roots, c.ID+" "+c.Title)
		}
		for _, a := range f.Ancestors(taxonomy.CategoryTrait(x.ID, c.ID)) {
			below[a]++
		}
	}
	if want := []string{"1 Demographic", "206 Interest", "752 Purchase Intent"}; !slices.Equal(roots, want) {
		t.Errorf("roots %q, want %q", roots, want)
	}
	// With themselves: 197, 497, 864.
	if below["c:iab-audience-1.1/1"] != 196 || below["c:iab-audience-1.1/206"] != 496 || below["c:iab-audience-1.1/752"] != 863 {
		t.Errorf("below the roots: %d, %d, %d", below["c:iab-audience-1.1/1"], below["c:iab-audience-1.1/206"], below["c:iab-audience-1.1/752"])
	}
	want := strings.Fields("94 96 98 99 100 101 158 1172 1173 1174 1175 1176 1177 1178 1391 1392 1393")
	if got := ids(defects, PathConflict); !slices.Equal(got, want) {
		t.Errorf("paths that disagree: %v, want %v", got, want)
	}
	for _, k := range []DefectKind{OwnParent, UnknownParent, DuplicateID, BadRow} {
		if got := ids(defects, k); got != nil {
			t.Errorf("%s: %v", k, got)
		}
	}
	if got := ids(defects, NameMark); !slices.Equal(got, strings.Fields("55 56 57 58 59 158 752")) {
		t.Errorf("footnote marks: %v", got)
	}
	// Both stories of a conflict are kept.
	_, c, ok := f.Category("c:iab-audience-1.1/94")
	if !ok || !slices.Equal(c.Parents, []string{"53"}) || strings.Join(c.Tiers, "|") != "Demographic|Household Data|Life Stage|Other" {
		t.Errorf("%+v", c)
	}
	if _, c, _ := f.Category("c:iab-audience-1.1/3"); c.Title != "18-20" || c.Tiers != nil {
		t.Errorf("%+v", c)
	}
	for id, note := range map[string]string{"55": "ISO-3166-1-alpha-3", "59": "Zip or postal code", "158": "See ISO-639-1-alpha-2"} {
		if _, c, _ := f.Category(taxonomy.CategoryTrait(x.ID, id)); c.Note != note {
			t.Errorf("%s: note %q, want %q", id, c.Note, note)
		}
	}
}

func TestContentTaxonomyHas704Categories(t *testing.T) {
	x, f, defects := load(t, Content31)
	if len(x.Categories) != 704 || x.Segtax != 9 {
		t.Errorf("%d categories, segtax %d", len(x.Categories), x.Segtax)
	}
	letters, marked, sensitive := 0, 0, 0
	for _, c := range x.Categories {
		if strings.ContainsFunc(c.ID, func(r rune) bool { return r > '9' }) {
			letters++
		}
		if c.Sensitive {
			marked++
		}
		if f.Sensitive(taxonomy.CategoryTrait(x.ID, c.ID)) {
			sensitive++
		}
	}
	if letters != 31 || marked != 63 || sensitive < 63 {
		t.Errorf("%d IDs with letters, %d marked as special, %d with those below", letters, marked, sensitive)
	}
	if got := ids(defects, PathConflict); !slices.Equal(got, []string{"497", "376"}) && !slices.Equal(got, []string{"376", "497"}) {
		t.Errorf("paths that disagree: %v", got)
	}
	if len(defects) != 2 {
		t.Errorf("%d defects: %+v", len(defects), defects)
	}
	if _, c, ok := f.Category("c:iab-content-3.1/v9i3On"); !ok || c.Title != "Sensitive Topics" {
		t.Errorf("%+v", c)
	}
	if got := f.Ancestors("c:iab-content-3.1/151"); !slices.Equal(got, []taxonomy.Trait{"c:iab-content-3.1/150"}) {
		t.Errorf("ancestors of Amusement and Theme Parks: %v", got)
	}
}

// Two rows of Ad Product Taxonomy 2.0 as published, among their neighbours, and
// rows with the other faults.
func TestFaultyRowsAreHandledAndReported(t *testing.T) {
	file := "\ufeffUnique ID\tParent ID\tName\tTier 1\tTier 2\tTier 3\r\n" +
		"1000\t1000\tAd Safety Risk\tAd Safety Risk\t\t\r\n" +
		"1010\t\tBusiness and Industrial\tBusiness and Industrial\t\t\r\n" +
		"1036\t1010\tIndustrials\tBusiness and Industrial\tIndustrials\t\r\n" +
		"1037\t1037\tAerospace and Defense\tBusiness and Industrial\tIndustrials\tAerospace and Defense\r\n" +
		"1038\t9999\tChemicals\tBusiness and Industrial\tIndustrials\tChemicals\r\n" +
		"1039\t9999\tLost\tNowhere\tLost\t\r\n" +
		"1036\t1010\tAgain\tBusiness and Industrial\tAgain\t\r\n" +
		"\t1010\tNo ID\tBusiness and Industrial\tNo ID\t\r\n" +
		"1040\t1010\tNo tiers\t\t\t\r\n" +
		"1041\t1010\r\n" +
		"\t\t\t\t\t\r\n" +
		"1042\t\tRoot that is none\tBusiness and Industrial\tX\t\r\n"
	x, defects, err := Load(strings.NewReader(file), FormatAdProduct20)
	if err != nil {
		t.Fatal(err)
	}
	want := []Defect{
		{2, "1000", OwnParent, "so it is a root"}, {5, "1037", OwnParent, "belongs to 1036"}, {6, "1038", UnknownParent, "belongs to 1036"},
		{7, "1039", UnknownParent, "so it is a root"}, {8, "1036", DuplicateID, "line 4"}, {9, "", BadRow, "id: "}, {10, "1040", BadRow, "no name"},
		{11, "", BadRow, "2 columns, want 6"}, {13, "1042", PathConflict, "no parent"},
	}
	if len(defects) != len(want) {
		t.Fatalf("got %+v", defects)
	}
	for i, w := range want {
		if d := defects[i]; d.Line != w.Line || d.ID != w.ID || d.Kind != w.Kind || !strings.Contains(d.Detail, w.Detail) {
			t.Errorf("got %+v, want %+v", d, w)
		}
	}
	parents := map[string]string{}
	for _, c := range x.Categories {
		parents[c.ID] = strings.Join(c.Parents, ",")
	}
	for id, p := range map[string]string{"1000": "", "1010": "", "1036": "1010", "1037": "1036", "1038": "1036", "1039": "", "1042": ""} {
		if got, ok := parents[id]; !ok || got != p {
			t.Errorf("%s: parent %q, want %q", id, got, p)
		}
	}
	if len(parents) != 7 {
		t.Errorf("%v", parents)
	}
}

func TestAnotherFileIsRefused(t *testing.T) {
	for _, s := range []string{"", "a\tb\n1\t2\n", "<html>\n<body>\n"} {
		if _, _, err := Load(strings.NewReader(s), FormatContent31); err == nil {
			t.Errorf("%q is accepted", s)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte("Unique ID\tParent ID\tName\tTier 1\tTier 2\tTier 3\n1\t2\ta\ta\n2\t1\tb\tb\t\t\n"))
	f.Add([]byte("Unique ID\tParent ID\tName\tTier 1\tTier 2\tTier 3\r\n1\t1\ta\ta\t\t\r\n2\t1\tb\ta\tb*\t\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, _, err := Load(bytes.NewReader(b), FormatAdProduct20)
		if err != nil {
			return
		}
		if _, err := tree.New(x); err != nil && !strings.Contains(err.Error(), "ancestors") {
			t.Fatalf("loaded, but no forest: %v", err)
		}
	})
}
