package near

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The table is compared with the plain definition, by recursion.
func TestSlipsAreTheLeastNumber(t *testing.T) {
	var naive func(a, b string) int
	naive = func(a, b string) int {
		if a == "" || b == "" {
			return len(a) + len(b)
		}
		cost := 1
		if a[0] == b[0] {
			cost = 0
		}
		d := min(naive(a[1:], b)+1, naive(a, b[1:])+1, naive(a[1:], b[1:])+cost)
		if len(a) > 1 && len(b) > 1 && a[0] == b[1] && a[1] == b[0] {
			d = min(d, naive(a[2:], b[2:])+1)
		}
		return d
	}
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.StringMatching(`[abc]{0,6}`).Draw(t, "a")
		b := rapid.StringMatching(`[abc]{0,6}`).Draw(t, "b")
		if got, want := Slips(a, b), naive(a, b); got != want {
			t.Fatalf("Slips(%q, %q) = %d, want %d", a, b, got, want)
		}
	})
}

func TestTheNearestWordIsTheOneMeant(t *testing.T) {
	known := []string{"id", "title", "origins", "query_keys"}
	for s, want := range map[string]string{"tiltle": "title", "TITEL": "title", "orgins": "origins", "quer_keys": "query_keys", "zebra": "", "": "", strings.Repeat("x", 1000): ""} {
		if got, ok := Word(s, known, 2); got != want && !(s == "" && got == "id") || ok != (got != "") {
			t.Errorf("%q: %q", s, got)
		}
	}
}
