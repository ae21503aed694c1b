package query

import (
	"errors"
	"fmt"

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
