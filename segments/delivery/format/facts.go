// Package format has what the formats of receivers share: what each of them
// demands, read from the file beside its code.
package format

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/segments/delivery"
)

// Facts are what a receiver demands: numbers and words that change by the
// receiver's doing and not by ours, with the source of each.
type Facts struct {
	Receiver      string
	Specification string
	Read          string // the day on which it was read
	Extension     string
	MediaType     string
	IDs           string // in words: which kinds of IDs there are
	LifeUnit      string
	LifeMax       int    // in that unit; 0: none known
	Removal       string // how a row says that someone leaves; empty: it cannot
	MaxRows       int    // of a chunk; 0: no bound
	MaxBytes      int    // of a chunk; 0: no bound
	Retry         string // in words
	// Limits are the format's own, named with a dot before: "limit.name".
	Limits map[string]int
}

// Parse reads facts from the simplest YAML there is: comments, and lines of a
// key, a colon, a blank and a plain value. What it does not know, or lacks, is
// an error.
func Parse(b []byte) (Facts, error) {
	f := Facts{Limits: map[string]int{}}
	words := map[string]*string{
		"receiver": &f.Receiver, "specification": &f.Specification, "read": &f.Read, "extension": &f.Extension, "media_type": &f.MediaType,
		"ids": &f.IDs, "life_unit": &f.LifeUnit, "removal": &f.Removal, "retry": &f.Retry,
	}
	numbers := map[string]*int{"life_max": &f.LifeMax, "max_rows": &f.MaxRows, "max_bytes": &f.MaxBytes}
	var errs []error
	seen := map[string]bool{}
	for i, line := range strings.Split(string(b), "\n") {
		line, _, _ = strings.Cut(line, " #")
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, ": ")
		value = strings.TrimSpace(value)
		limit, isLimit := strings.CutPrefix(key, "limit.")
		n, nErr := strconv.ParseUint(value, 10, 31)
		switch {
		case !ok || value == "" || seen[key] || strings.ContainsAny(value[:1], `"'[{&*!|>%@`+"`") || strings.Contains(value, ": "):
			errs = append(errs, fmt.Errorf("read facts: line %d: want a key, a colon, a blank and a plain value, each key once", i+1))
		case words[key] != nil:
			*words[key] = value
		case numbers[key] == nil && !isLimit:
			errs = append(errs, fmt.Errorf("read facts: line %d: there is no %q", i+1, key))
		case nErr != nil:
			errs = append(errs, fmt.Errorf("read facts: line %d: %q is no number", i+1, value))
		case isLimit:
			f.Limits[limit] = int(n)
		default:
			*numbers[key] = int(n)
		}
		seen[key] = true
	}
	for name := range words {
		if !seen[name] && name != "removal" {
			errs = append(errs, fmt.Errorf("read facts: %s is missing", name))
		}
	}
	if _, err := time.Parse(time.DateOnly, f.Read); err != nil {
		errs = append(errs, fmt.Errorf("read facts: read: %w", err))
	}
	return f, errors.Join(errs...)
}

// MustParse is Parse for files that are built in, and that tests read.
func MustParse(b []byte) Facts {
	f, err := Parse(b)
	if err != nil {
		panic(err)
	}
	return f
}

// Format returns them as delivery wants them.
func (f *Facts) Format() delivery.FormatFacts {
	return delivery.FormatFacts{
		Extension: f.Extension, MediaType: f.MediaType, Removes: f.Removal != "",
		MaxRows: f.MaxRows, MaxBytes: int64(f.MaxBytes),
	}
}
