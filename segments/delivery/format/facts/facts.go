// Package facts reads what a receiver demands of a format from the YAML file
// beside the format's code: numbers and words that change by the receiver's
// doing and not by ours, with the source of each.
package facts

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"go.yaml.in/yaml/v3"
)

// Facts are those of one format.
type Facts struct {
	Receiver      string `yaml:"receiver"`
	Specification string `yaml:"specification"`
	Read          string `yaml:"read"` // the day on which it was read
	Extension     string `yaml:"extension"`
	MediaType     string `yaml:"media_type"`
	IDs           string `yaml:"ids"` // in words: which kinds of IDs there are
	Life          struct {
		Unit string `yaml:"unit"`
		Max  int    `yaml:"max"` // in that unit; 0: none known
	} `yaml:"life"`
	Removal string `yaml:"removal"` // how a row says that someone leaves; empty: it cannot
	Chunk   struct {
		MaxRows  int   `yaml:"max_rows"`
		MaxBytes int64 `yaml:"max_bytes"`
	} `yaml:"chunk"`
	Limits map[string]int `yaml:"limits"` // the format's own
	Retry  string         `yaml:"retry"`  // in words
}

// Parse reads facts; what it does not know, or lacks, is an error.
func Parse(b []byte) (Facts, error) {
	var f Facts
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&f); err != nil {
		return f, fmt.Errorf("read facts: %w", err)
	}
	var errs []error
	for name, s := range map[string]string{
		"receiver": f.Receiver, "specification": f.Specification, "extension": f.Extension, "media_type": f.MediaType,
		"ids": f.IDs, "life.unit": f.Life.Unit, "retry": f.Retry,
	} {
		if s == "" {
			errs = append(errs, fmt.Errorf("read facts: %s is missing", name))
		}
	}
	if _, err := time.Parse(time.DateOnly, f.Read); err != nil {
		errs = append(errs, fmt.Errorf("read facts: read: %w", err))
	}
	if f.Chunk.MaxRows < 0 || f.Chunk.MaxBytes < 0 {
		errs = append(errs, errors.New("read facts: a bound is negative"))
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
func (f Facts) Format() delivery.FormatFacts {
	return delivery.FormatFacts{
		Extension: f.Extension, MediaType: f.MediaType, Removes: f.Removal != "",
		MaxRows: f.Chunk.MaxRows, MaxBytes: f.Chunk.MaxBytes,
	}
}
