package cassandra

import (
	"context"
	"fmt"

	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Bounds on disk, in days from an event's day. A row lives to the start of day
// d+90; an SSTable goes whole when its newest row is over by gc_grace (a day),
// and its window spans three.
const (
	eventBound = taxonomy.RetentionDays + 5
	otherBound = taxonomy.RetentionDays + 11 // without windows: what compaction gets to
	// eraseBound: a weekly flush and garbagecollect, and a second where the first was
	// missed. The mark of the deletion may stay longer (README, erasure).
	eraseBound = 15
)

// Holders returns the store's places, for sweeper, eraser and audit, last in
// order. Cassandra removes bytes by itself and on its own time; the bounds say
// by when, if the operator's weekly job runs (README).
func (st *Store) Holders() []forget.Holder {
	return []forget.Holder{
		{
			Name: "events", Bound: eventBound, EraseBound: eraseBound,
			Oldest:       st.OldestEvent,
			ExpireBefore: st.events.Expire,
			Erase:        st.events.Erase,
		},
		{
			Name: "keyed", Bound: otherBound, EraseBound: eraseBound,
			Oldest: func(ctx context.Context) (taxonomy.Day, bool, error) { return 0, false, ctx.Err() },
			// Swapped rows have no TTL, for their versions go on: what is over in
			// them loses its value here.
			ExpireBefore: func(ctx context.Context, _ taxonomy.Day) error { return st.keyed.sweep(ctx) },
			// Which items are a visitor's, only the owner of a space knows.
			Erase: func(ctx context.Context, _ []taxonomy.VisitorKey) error { return ctx.Err() },
		},
		{
			Name: "blobs", Bound: otherBound, EraseBound: eraseBound,
			Oldest:       func(ctx context.Context) (taxonomy.Day, bool, error) { return st.blobs.oldest(ctx) },
			ExpireBefore: func(ctx context.Context, _ taxonomy.Day) error { return st.blobs.sweep(ctx) },
			// A blob is immutable: who wrote it replaces and deletes it.
			Erase: func(ctx context.Context, _ []taxonomy.VisitorKey) error { return ctx.Err() },
		},
	}
}

// OldestEvent returns the oldest day of which an event can be read from the
// table, by whatever clock. What lies in SSTables and cannot be read any more
// only sstablemetadata shows.
func (st *Store) OldestEvent(ctx context.Context) (oldest taxonomy.Day, found bool, err error) {
	weeks := map[int16][]int{}
	err = st.s.rows(ctx, func() { clear(weeks) }, func(scan func(...any) error) error {
		var week int16
		var bucket int
		if err := scan(&week, &bucket); err != nil {
			return err
		}
		weeks[week] = append(weeks[week], bucket)
		return nil
	}, selectPartitions)
	if err != nil {
		return 0, false, fmt.Errorf("oldest event: %w", err)
	}
	if len(weeks) == 0 {
		return 0, false, nil
	}
	first := int16(1<<15 - 1)
	for w := range weeks {
		first = min(first, w)
	}
	for _, b := range weeks[first] {
		var day int32
		err := st.s.rows(ctx, func() {}, func(scan func(...any) error) error {
			err := scan(&day)
			if d := taxonomy.Day(day); err == nil && (!found || d < oldest) {
				oldest, found = d, true
			}
			return err
		}, `SELECT day FROM visitor_events WHERE week = ? AND bucket = ? LIMIT 1`, first, b)
		if err != nil {
			return 0, false, fmt.Errorf("oldest event: %w", err)
		}
	}
	return oldest, found, nil
}

// oldest returns the day whose life of 90 days ends with the first blob's.
func (b *blobs) oldest(ctx context.Context) (oldest taxonomy.Day, found bool, err error) {
	list, err := b.List(ctx, "")
	if err != nil {
		return 0, false, err
	}
	for i := range list {
		over := list[i].Over
		if over == 0 {
			continue
		}
		d := over.Day()
		if d.Start() < over {
			d++
		}
		if d -= taxonomy.RetentionDays; !found || d < oldest {
			oldest, found = d, true
		}
	}
	return oldest, found, nil
}

// sweep takes the values of swapped items that are over.
func (k *keyed) sweep(ctx context.Context) error {
	type row struct {
		space           string
		partition, item []byte
		version         int64
		over            taxonomy.Millis
	}
	var over []row
	for state := []byte(nil); ; {
		var some []row
		next, err := k.st.s.page(ctx, state, pageRows, func(scan func(...any) error) error {
			var r row
			var value []byte
			err := scan(&r.space, &r.partition, &r.item, &r.version, &value, (*int64)(&r.over))
			if len(value) > 0 && !readable(r.over, k.st.o.Now()) {
				some = append(some, r)
			}
			return err
		}, func() { some = nil }, allSwapped)
		if err != nil {
			return fmt.Errorf("sweep swapped items: %w", err)
		}
		over = append(over, some...)
		if next == nil {
			break
		}
		state = next
	}
	for _, r := range over {
		// Its version stays: an item that is over is none, and its versions go on.
		if _, err := k.st.s.swap(ctx, `UPDATE keyed_swapped SET value = null WHERE space = ? AND partition = ? AND item = ? IF version = ?`, r.space, there(r.partition), there(r.item), r.version); err != nil {
			return fmt.Errorf("sweep swapped items: %w", err)
		}
	}
	return nil
}
