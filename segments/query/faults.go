package query

import (
	"errors"
	"fmt"
	"strings"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// maxFaults bounds how many faults of one expression are reported.
const maxFaults = 32

// faults collects what is wrong with an expression, each with its place.
type faults struct {
	errs []error
	more int
}

func (f *faults) add(path, format string, args ...any) {
	if len(f.errs) >= maxFaults {
		f.more++
		return
	}
	if path == "" {
		path = "." // the expression itself
	}
	f.errs = append(f.errs, taxonomy.Invalid(path, format, args...))
}

func (f *faults) err() error {
	if f.more > 0 {
		return errors.Join(append(f.errs, fmt.Errorf("and %d more faults", f.more))...)
	}
	return errors.Join(f.errs...)
}

// join appends a key to a path as it reads in the JSON form.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// nearest returns the known word that is closest to s, if any is close enough
// to be what was meant.
func nearest(s string, known []string) (string, bool) {
	best, at := "", len(s)/2+2
	for _, k := range known {
		if d := distance(strings.ToLower(s), k); d < at {
			best, at = k, d
		}
	}
	return best, best != ""
}

// distance is Levenshtein's. Long words are cut: they are no near misses.
func distance(a, b string) int {
	a, b = a[:min(len(a), 32)], b[:min(len(b), 32)]
	var row [33]int
	for j := range len(b) + 1 {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diag := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			d := diag
			if a[i-1] != b[j-1] {
				d++
			}
			diag = row[j]
			row[j] = min(d, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
