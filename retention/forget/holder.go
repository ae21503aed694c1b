// Package forget is how data ends: it sweeps what is over, erases who asked to
// be forgotten, and proves both. It knows data only as a list of Holders.
package forget

import (
	"context"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Holder is a place that keeps visitor data. Whatever keeps any registers one;
// sweeper, eraser and audit know nothing else. Holders are called in the order
// in which they were registered: delivery, matches, fold, stores (R25).
type Holder struct {
	Name string
	// Bound is how many days something may lie on disk here, counted from its
	// day, the nightly pass included: what the audit prints and checks.
	Bound int
	// EraseBound is how many days after it was asked for bytes of an erased
	// visitor may lie here; 0: no longer than the eraser's last night.
	EraseBound int
	// Oldest returns the day of the oldest thing that still has bytes on disk,
	// and false if there is nothing.
	Oldest func(ctx context.Context) (taxonomy.Day, bool, error)
	// ExpireBefore removes what belongs to days before the given one.
	ExpireBefore func(ctx context.Context, before taxonomy.Day) error
	// Soon, if set, is what the first pass of an erasure does in the place of
	// Erase: it makes sure that nobody is told of the visitors any more, where
	// removing every byte would be too dear to do for each of them at once. It
	// must leave whatever Erase needs to find them by.
	Soon func(ctx context.Context, visitors []taxonomy.VisitorKey) error
	// Erase removes every byte of the visitors. It is called again on the
	// following nights, so erasing who is not there is fine.
	Erase func(ctx context.Context, visitors []taxonomy.VisitorKey) error
}
