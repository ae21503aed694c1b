package taxonomy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxTextFaults bounds how many faults of one text are told.
const maxTextFaults = 32

// TextFaults collects what is wrong with a text, so that whoever reads it goes
// on behind a fault and all are told at once.
type TextFaults struct {
	Text string
	// Path, if not empty, is where the text stands in a larger document; fields
	// are then "rule_text: line 1, column 8".
	Path  string
	found []textFault
}

type textFault struct {
	at  int
	err error
}

// Add says what is wrong at a byte of the text.
func (f *TextFaults) Add(at int, format string, args ...any) {
	f.found = append(f.found, textFault{at, fmt.Errorf(format, args...)})
}

// Len returns how many there are.
func (f *TextFaults) Len() int { return len(f.found) }

// Place says where a byte of the text is: "line 1, column 8". Columns count
// characters from 1.
func (f *TextFaults) Place(at int) string {
	before := f.Text[:min(at, len(f.Text))]
	s := fmt.Sprintf("line %d, column %d", 1+strings.Count(before, "\n"), 1+utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]))
	if f.Path != "" {
		s = f.Path + ": " + s
	}
	return s
}

// Err joins them in order of their places, each a FieldError whose field is its
// place; nil if there are none. Of more than 32 the last error says how many.
func (f *TextFaults) Err() error {
	slices.SortStableFunc(f.found, func(a, b textFault) int { return cmp.Compare(a.at, b.at) })
	var errs []error
	for _, x := range f.found[:min(len(f.found), maxTextFaults)] {
		errs = append(errs, &FieldError{Field: f.Place(x.at), Err: x.err})
	}
	if more := len(f.found) - len(errs); more > 0 {
		errs = append(errs, fmt.Errorf("and %d more faults", more))
	}
	return errors.Join(errs...)
}
