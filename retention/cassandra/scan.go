package cassandra

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const (
	selectPartitions = `SELECT DISTINCT week, bucket FROM visitor_events`
	selectDay        = `SELECT visitor, payload, writetime(payload) FROM visitor_events WHERE week = ? AND bucket = ? AND day = ?`

	// keptEvents bounds how many events of days already read a scan keeps, to
	// look for copies in: with it a day is read once, beyond it up to nine times.
	keptEvents = 1 << 18
)

// Scan implements retention.Events. A part is a range of visitor keys. It goes
// through the days, and in a day through the buckets of the part; copies are
// looked for in the four days on either side.
//
// A caller that asks for as many parts as the keyspace has buckets reads each
// row once.
func (e *events) Scan(ctx context.Context, part, parts int, from, to taxonomy.Day, fn func(*retention.StoredEvent) error) error {
	if parts < 1 || part < 0 || part >= parts {
		return fmt.Errorf("scan events: there is no part %d of %d", part, parts)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	sc := &scanner{e: e, low: partStart(part, parts), kept: map[cell][]found{}}
	if part+1 < parts {
		h := partStart(part+1, parts)
		sc.high = &h
	}
	if err := sc.partitions(ctx); err != nil {
		return fmt.Errorf("scan events: %w", err)
	}
	now := e.st.o.Now()
	sc.oldest, sc.newest = e.oldest(now), now.Day()+aheadDays
	for d := max(from, sc.oldest); d <= min(to, sc.newest); d++ {
		for _, b := range sc.buckets {
			if !sc.has[cell{int32(weekOf(d)), b}] {
				continue
			}
			list, err := sc.day(ctx, d, b)
			if err != nil {
				return fmt.Errorf("scan events: %w", err)
			}
			for i := range list {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := fn(&list[i].StoredEvent); err != nil {
					return err
				}
			}
		}
		sc.forget(d - copyDays)
	}
	return nil
}

// partStart returns the least visitor key of a part: the key's first 8 bytes
// are at least part × 2⁶⁴ ÷ parts, rounded up.
func partStart(part, parts int) (v taxonomy.VisitorKey) {
	q, r := bits.Div64(uint64(part), 0, uint64(parts))
	if r > 0 {
		q++
	}
	binary.BigEndian.PutUint64(v[:], q)
	return v
}

// cell is a week or a day, and a bucket.
type cell struct {
	when   int32
	bucket int
}

type scanner struct {
	e              *events
	low            taxonomy.VisitorKey
	high           *taxonomy.VisitorKey
	oldest, newest taxonomy.Day
	buckets        []int         // of the part, those that have anything
	has            map[cell]bool // weeks and buckets that have anything
	kept           map[cell][]found
	n              int // events kept
}

func (sc *scanner) in(v []byte) bool {
	return bytes.Compare(v, sc.low[:]) >= 0 && (sc.high == nil || bytes.Compare(v, sc.high[:]) < 0)
}

// partitions finds what there is, so that the days of an empty bucket are not
// asked for one by one.
func (sc *scanner) partitions(ctx context.Context) error {
	first, last := sc.e.bucketOf(sc.low), sc.e.buckets-1
	if sc.high != nil {
		last = sc.e.bucketOf(*sc.high)
	}
	err := sc.e.st.s.rows(ctx, func() { sc.has, sc.buckets = map[cell]bool{}, nil }, func(scan func(...any) error) error {
		var week int16
		var bucket int
		if err := scan(&week, &bucket); err != nil {
			return err
		}
		if bucket >= first && bucket <= last {
			sc.has[cell{int32(week), bucket}] = true
			sc.buckets = append(sc.buckets, bucket)
		}
		return nil
	}, selectPartitions)
	slices.Sort(sc.buckets)
	sc.buckets = slices.Compact(sc.buckets)
	return err
}

// day returns the visible events of a day and bucket, by visitor and ref.
func (sc *scanner) day(ctx context.Context, d taxonomy.Day, bucket int) ([]found, error) {
	first, last := max(d-copyDays, sc.oldest), min(d+copyDays, sc.newest)
	days := make([][]found, last-first+1)
	err := sc.e.st.each(ctx, len(days), func(ctx context.Context, i int) (err error) {
		days[i], err = sc.read(ctx, first+taxonomy.Day(i), bucket)
		return err
	})
	if err != nil {
		return nil, err
	}
	own := days[d-first]
	if len(own) == 0 {
		return nil, nil
	}
	for i := range days {
		sc.keep(cell{int32(first) + int32(i), bucket}, days[i])
	}
	// Days are in order of visitors: step through them together.
	var out []found
	at := make([]int, len(days))
	for at[d-first] < len(own) {
		v := own[at[d-first]].Record.Visitor
		var list []found
		for i := range days {
			for at[i] < len(days[i]) && bytes.Compare(days[i][at[i]].Record.Visitor[:], v[:]) < 0 {
				at[i]++
			}
			for at[i] < len(days[i]) && days[i][at[i]].Record.Visitor == v {
				list = append(list, days[i][at[i]])
				at[i]++
			}
		}
		for _, f := range visible(list) {
			if f.Day() == d {
				out = append(out, f)
			}
		}
	}
	return out, nil
}

// read returns a day and bucket as it is stored, by visitor. It is called for
// several days at once; what is kept is only read meanwhile.
func (sc *scanner) read(ctx context.Context, d taxonomy.Day, bucket int) (list []found, err error) {
	if l, ok := sc.kept[cell{int32(d), bucket}]; ok {
		return l, nil
	}
	if !sc.has[cell{int32(weekOf(d)), bucket}] {
		return nil, nil
	}
	var some []retention.StoredEvent
	err = sc.e.st.s.rows(ctx, func() { list = nil }, func(scan func(...any) error) error {
		var visitor, payload []byte
		var written int64
		if err := scan(&visitor, &payload, &written); err != nil {
			return err
		}
		if !sc.in(visitor) {
			return nil
		}
		if len(visitor) != len(taxonomy.VisitorKey{}) {
			return fmt.Errorf("%w: a visitor of %d bytes", retention.ErrCorrupt, len(visitor))
		}
		var err error
		some, err = decodePack(some[:0], payload, taxonomy.VisitorKey(visitor))
		for i := range some {
			list = append(list, found{some[i], written})
		}
		return err
	}, selectDay, weekOf(d), bucket, int32(d))
	return list, err
}

func (sc *scanner) keep(c cell, list []found) {
	if _, ok := sc.kept[c]; !ok && sc.n+len(list) <= keptEvents {
		sc.kept[c] = list
		sc.n += len(list)
	}
}

// forget drops days of which no copy can be of interest any more.
func (sc *scanner) forget(upTo taxonomy.Day) {
	for c, list := range sc.kept {
		if c.when <= int32(upTo) {
			delete(sc.kept, c)
			sc.n -= len(list)
		}
	}
}
