package audience_test

import (
	"errors"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// fields returns the path of every fault in err.
func fields(err error) []string {
	var out []string
	var f *taxonomy.FieldError
	if m, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range m.Unwrap() {
			out = append(out, fields(e)...)
		}
	} else if errors.As(err, &f) {
		out = append(out, f.Field)
	}
	return out
}
