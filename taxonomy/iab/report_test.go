package iab

import (
	"fmt"
	"slices"
	"testing"
)

// The rows and defects of what comes with the program are those of formats that were
// counted by hand: see the README.
func TestEveryPublishedFileIsReported(t *testing.T) {
	all, err := Reports()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range all {
		got = append(got, fmt.Sprint(r.Of, " ", r.To, " ", r.Segtax, " ", r.Rows, " ", len(r.Defects), " ", len(r.Lost)))
	}
	want := []string{
		"iab-audience-1.1  4 1558 24 0", "iab-content-3.1  9 704 2 0", "iab-ad-product-2.0  8 583 7 0", "iab-content-1.0  1 392 0 0",
		"iab-content-1.0 iab-content-2.0 0 392 1 15", "iab-content-1.0 iab-ad-product-2.0 0 392 0 0", "iab-content-1.0 iab-content-3.1 0 392 0 24",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
}
