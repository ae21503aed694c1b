package index

import (
	"slices"
	"sync"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Days answers the seam's questions from layers. It is one shard's part of an
// index: for each day the layers, the oldest first. It must not be changed
// while it is read.
type Days map[taxonomy.Day][]*Layer

// counters is scratch for questions that count; a block's worth is too large
// for a stack.
var counters = sync.Pool{New: func() any { return new([BlockSize]uint8) }}

// Leaf is the Leaf of Leaves for OpCount and OpNewest. Sets are not the days'.
func (d Days) Leaf(block int, op *Operand, dst *Words) int {
	clear(dst[:])
	switch op.Kind {
	case OpCount:
		switch {
		case op.Min <= 1:
			for day := op.From; day <= op.To; day++ {
				d.or(day, op.Columns, block, dst)
			}
		case op.Unit == DistinctDays:
			d.atLeast(block, op, dst, d.countDays)
		default:
			d.atLeast(block, op, dst, d.countEvents)
		}
	case OpNewest:
		d.newestStatement(block, op, dst)
	}
	return dst.Count()
}

// or adds to dst who is in one of the columns on a day.
func (d Days) or(day taxonomy.Day, columns []taxonomy.Column, block int, dst *Words) {
	for _, l := range d[day] {
		for _, c := range columns {
			if lc := l.column(c); lc != nil {
				lc.or(block, dst)
			}
		}
	}
}

func (d Days) atLeast(block int, op *Operand, dst *Words, count func(int, *Operand, *[BlockSize]uint8)) {
	counts := counters.Get().(*[BlockSize]uint8)
	clear(counts[:])
	count(block, op, counts)
	for i := range dst {
		var w uint64
		for j, n := range counts[i*64 : i*64+64] {
			if n >= op.Min {
				w |= 1 << j
			}
		}
		dst[i] = w
	}
	counters.Put(counts)
}

func (d Days) countEvents(block int, op *Operand, counts *[BlockSize]uint8) {
	for day := op.From; day <= op.To; day++ {
		for _, l := range d[day] {
			for _, c := range op.Columns {
				if lc := l.column(c); lc != nil {
					lc.add(block, counts)
				}
			}
		}
	}
}

func (d Days) countDays(block int, op *Operand, counts *[BlockSize]uint8) {
	var w Words
	for day := op.From; day <= op.To; day++ {
		if len(d[day]) == 0 {
			continue
		}
		clear(w[:])
		d.or(day, op.Columns, block, &w)
		w.each(func(v uint16) { counts[v]++ }) // at most 90 days: no overflow
	}
}

// newestStatement walks from the newest day back; the first day on which a
// source has a statement of the key about a visitor decides (R16): its newest
// layer, and of several sources the first in order. That order is arbitrary but
// fixed, so the answer does not depend on what was folded first (R8).
func (d Days) newestStatement(block int, op *Operand, dst *Words) {
	var all, yes, decided Words
	sources := SourcesOf(op.All)
	for day := op.AsOf; day >= max(op.AsOf.Oldest(), op.From); day-- {
		layers := d[day]
		if len(layers) == 0 {
			continue
		}
		for _, source := range sources {
			for i := len(layers) - 1; i >= 0; i-- {
				clear(all[:])
				clear(yes[:])
				layers[i].orOf(source, op.All, block, &all)
				layers[i].orOf(source, op.Columns, block, &yes)
				for w := range dst {
					dst[w] |= yes[w] &^ decided[w]
					decided[w] |= all[w]
				}
			}
		}
	}
}

// orOf adds to dst who is in those of the columns that are of a source.
func (l *Layer) orOf(source taxonomy.SourceID, columns []taxonomy.Column, block int, dst *Words) {
	for _, c := range columns {
		if c.Source != source {
			continue
		}
		if lc := l.column(c); lc != nil {
			lc.or(block, dst)
		}
	}
}

// SourcesOf returns the sources of columns, each once, in order.
func SourcesOf(columns []taxonomy.Column) []taxonomy.SourceID {
	var s []taxonomy.SourceID
	for _, c := range columns {
		if !slices.Contains(s, c.Source) {
			s = append(s, c.Source)
		}
	}
	slices.Sort(s)
	return s
}

// Newest is the Newest of Leaves.
func (d Days) Newest(block int, columns []taxonomy.Column, from, to taxonomy.Day, dst *[BlockSize]uint8) {
	clear(dst[:])
	var w, seen Words
	for day := to; day >= from; day-- {
		if len(d[day]) == 0 {
			continue
		}
		clear(w[:])
		d.or(day, columns, block, &w)
		for i := range w {
			w[i] &^= seen[i]
			seen[i] |= w[i]
		}
		age := uint8(to-day) + 1
		w.each(func(v uint16) { dst[v] = age })
	}
}

// Events returns how many events an ordinal has in a column on a day, at most
// 255: the question of one visitor.
func (d Days) Events(ordinal uint32, c taxonomy.Column, day taxonomy.Day) int {
	n := 0
	for _, l := range d[day] {
		if lc := l.column(c); lc != nil {
			n += lc.events(ordinal)
		}
	}
	return min(n, 255)
}

// AddColumns adds to into the visitor-days of each column from day from to day
// to. A visitor whose events of a day lie in several layers counts for each.
func (d Days) AddColumns(from, to taxonomy.Day, into map[taxonomy.Column]uint64) {
	for day := from; day <= to; day++ {
		for _, l := range d[day] {
			for i := range l.cols {
				into[l.cols[i].Column] += l.cols[i].visitors
			}
		}
	}
}

// VisitorDays is how many AddColumns adds for one column.
func (d Days) VisitorDays(c taxonomy.Column, from, to taxonomy.Day) (n uint64) {
	for day := from; day <= to; day++ {
		for _, l := range d[day] {
			if lc := l.column(c); lc != nil {
				n += lc.visitors
			}
		}
	}
	return n
}

// SortedColumns returns the columns of a map in order.
func SortedColumns(m map[taxonomy.Column]uint64) []taxonomy.Column {
	cols := make([]taxonomy.Column, 0, len(m))
	for c := range m {
		cols = append(cols, c)
	}
	slices.SortFunc(cols, taxonomy.Column.Compare)
	return cols
}

// Sum returns the events in a trait's columns, whatever their source and day. A
// visitor's events of a day and layer count at most 255 times.
func (d Days) Sum(trait taxonomy.Trait) (n uint64) {
	for _, layers := range d {
		for _, l := range layers {
			for i := range l.cols {
				if c := &l.cols[i]; c.Trait == trait {
					n += c.visitors
					for j := range c.multi {
						for _, k := range c.multi[j].counts {
							n += uint64(k) - 1
						}
					}
				}
			}
		}
	}
	return n
}
