package cassandra

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync/atomic"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const (
	insertEvents = `INSERT INTO visitor_events (week, bucket, day, visitor, pack, n, payload) VALUES (?, ?, ?, ?, ?, ?, ?) USING TTL ?`
	selectWeek   = `SELECT day, payload, writetime(payload) FROM visitor_events WHERE week = ? AND bucket = ? AND day IN ? AND visitor = ?`
	deleteDay    = `DELETE FROM visitor_events WHERE week = ? AND bucket = ? AND day = ? AND visitor = ?`

	selectSetting = `SELECT value FROM setting WHERE name = ?`
	insertSetting = `INSERT INTO setting (name, value) VALUES (?, ?) IF NOT EXISTS`
	raiseSetting  = `UPDATE setting SET value = ? WHERE name = ? IF value < ?`
)

const (
	// copyDays is how many days apart the days of two copies can be: receipts at
	// most 48 h apart, an event at most 24 h before its receipt and 5 minutes
	// after (R20), so 72 h and 5 minutes, which may touch five days.
	copyDays = 4
	// aheadDays is how far ahead of our clock an event's day is looked for: an
	// event is at most 5 minutes ahead, a clock may have been set back.
	aheadDays = 8

	// packEvents bounds the events of a row, batchBytes and batchRows what goes
	// into one mutation of a partition.
	packEvents = 512
	batchBytes = 512 << 10
	batchRows  = 64
)

type events struct {
	st      *Store
	buckets int
	// floor is the day before which Expire has removed everything: the TTL has
	// removed it by the server's clock, and by ours nothing shall come back.
	floor atomic.Int32
}

var _ retention.Events = (*events)(nil)

func openEvents(ctx context.Context, st *Store) (*events, error) {
	e := &events{st: st}
	e.floor.Store(-1 << 31)
	var v int64
	switch err := st.s.serial(ctx, selectSetting, []any{"buckets"}, &v); {
	case errors.Is(err, retention.ErrNotFound):
		return nil, errors.New("the keyspace does not say into how many buckets its events are split; run `ebb migrate up`")
	case err != nil:
		return nil, err
	}
	e.buckets = int(v)
	switch err := st.s.serial(ctx, selectSetting, []any{"floor"}, &v); {
	case errors.Is(err, retention.ErrNotFound):
	case err != nil:
		return nil, err
	default:
		e.floor.Store(int32(v))
	}
	return e, nil
}

// weekOf returns the number of the 7 days that d lies in.
func weekOf(d taxonomy.Day) int16 {
	if d < 0 {
		d -= 6
	}
	return int16(d / 7)
}

// bucketOf returns the bucket of a visitor: a range of keys, since keys are
// keyed hashes and so spread evenly.
func (e *events) bucketOf(v taxonomy.VisitorKey) int {
	hi, _ := bits.Mul64(binary.BigEndian.Uint64(v[:8]), uint64(e.buckets))
	return int(hi)
}

// oldest returns the first day that is readable at now.
func (e *events) oldest(now taxonomy.Millis) taxonomy.Day {
	return max(now.Day().Oldest(), taxonomy.Day(e.floor.Load()))
}

func checkEvents(list []retention.StoredEvent) error {
	for i := range list {
		r := &list[i].Record
		if r.Kind != taxonomy.RecordEvent || r.Event == nil {
			return fmt.Errorf("put events: number %d is a record of kind %d, not an event", i, r.Kind)
		}
		if list[i].Ref.IsZero() {
			return fmt.Errorf("put events: number %d has no ref", i)
		}
	}
	return nil
}

// Put implements retention.Events. Events of one visitor and day share a row,
// rows of one partition a mutation.
func (e *events) Put(ctx context.Context, list []retention.StoredEvent) error {
	if err := checkEvents(list); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("put events: %w", err)
	}
	batches := e.batches(list)
	err := e.st.each(ctx, len(batches), func(ctx context.Context, i int) error { return e.st.s.writeAll(ctx, batches[i]) })
	if err != nil {
		return fmt.Errorf("put %d events: %w", len(list), err)
	}
	return nil
}

// batches returns the mutations that store the events.
func (e *events) batches(list []retention.StoredEvent) (out [][]statement) {
	now := e.st.o.Now()
	order := make([]int, 0, len(list))
	for i := range list {
		if d := list[i].Day(); !d.Expired(now) { // R17: what is over is no error
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int {
		x, y := &list[a], &list[b]
		if c := int(weekOf(x.Day())) - int(weekOf(y.Day())); c != 0 {
			return c
		}
		if c := bytes.Compare(x.Record.Visitor[:], y.Record.Visitor[:]); c != 0 {
			return c
		}
		if c := int(x.Day()) - int(y.Day()); c != 0 {
			return c
		}
		return x.Ref.Compare(y.Ref)
	})
	var batch []statement
	size, week, bucket := 0, int16(0), -1
	flush := func() {
		if len(batch) > 0 {
			out = append(out, batch)
			batch, size = nil, 0
		}
	}
	for len(order) > 0 {
		first := &list[order[0]]
		n := 1
		for n < len(order) && n < packEvents && list[order[n]].Record.Visitor == first.Record.Visitor && list[order[n]].Day() == first.Day() {
			n++
		}
		payload := appendPack(nil, list, order[:n])
		order = order[n:]
		w, b := weekOf(first.Day()), e.bucketOf(first.Record.Visitor)
		if w != week || b != bucket || len(batch) >= batchRows || size+len(payload) > batchBytes {
			flush()
			week, bucket = w, b
		}
		name := sha256.Sum256(payload)
		batch = append(batch, statement{insertEvents, []any{w, b, int32(first.Day()), first.Record.Visitor[:], name[:8], n, payload, e.st.ttl(first.Day().Over(), now)}})
		size += len(payload)
	}
	flush()
	return out
}

// found is an event as it stands in a row. Of rows that hold the same event the
// newest counts.
type found struct {
	retention.StoredEvent
	written int64
}

// visible sorts one visitor's events by day and ref, drops those that are there
// twice, and hides copies (R10). It reuses list.
func visible(list []found) []found {
	slices.SortFunc(list, func(a, b found) int {
		if c := int(a.Day()) - int(b.Day()); c != 0 {
			return c
		}
		if c := a.Ref.Compare(b.Ref); c != 0 {
			return c
		}
		switch { // the newest first
		case a.written != b.written:
			return int(min(1, max(-1, b.written-a.written)))
		default:
			return int(min(1, max(-1, int64(b.RuleVersion)-int64(a.RuleVersion))))
		}
	})
	list = slices.CompactFunc(list, func(a, b found) bool { return a.Day() == b.Day() && a.Ref == b.Ref })
	if len(list) < 2 {
		return list
	}
	type id struct {
		site taxonomy.SiteID
		id   taxonomy.EventID
	}
	hidden := make([]bool, len(list))
	at := make(map[id][]int, len(list))
	for i := range list {
		k := id{list[i].Record.Site, list[i].Record.Event.ID}
		for _, j := range at[k] {
			switch a, b := &list[i].StoredEvent, &list[j].StoredEvent; {
			case retention.Hides(a, b):
				hidden[j] = true
			case retention.Hides(b, a):
				hidden[i] = true
			}
		}
		at[k] = append(at[k], i)
	}
	out := list[:0]
	for i := range list {
		if !hidden[i] {
			out = append(out, list[i])
		}
	}
	return out
}

// Visitor implements retention.Events: one query a week.
func (e *events) Visitor(ctx context.Context, v taxonomy.VisitorKey, from, to taxonomy.Day, fn func(*retention.StoredEvent) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	now := e.st.o.Now()
	low := max(addDays(from, -copyDays), e.oldest(now))
	high := min(addDays(to, copyDays), now.Day()+aheadDays)
	if low > high {
		return nil
	}
	weeks := int(weekOf(high)-weekOf(low)) + 1
	parts := make([][]found, weeks)
	bucket := e.bucketOf(v)
	err := e.st.each(ctx, weeks, func(ctx context.Context, i int) error {
		week := weekOf(low) + int16(i)
		var days []int32
		for d := max(low, taxonomy.Day(week)*7); d <= high && weekOf(d) == week; d++ {
			days = append(days, int32(d))
		}
		return e.st.s.rows(ctx, func() { parts[i] = nil }, func(scan func(...any) error) error {
			var day int32
			var payload []byte
			var written int64
			if err := scan(&day, &payload, &written); err != nil {
				return err
			}
			list, err := decodePack(nil, payload, v)
			for k := range list {
				parts[i] = append(parts[i], found{list[k], written})
			}
			return err
		}, selectWeek, week, bucket, days, v[:])
	})
	if err != nil {
		return fmt.Errorf("read the events of a visitor: %w", err)
	}
	list := visible(slices.Concat(parts...))
	for i := range list {
		if d := list[i].Day(); d < from || d > to || d < low {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(&list[i].StoredEvent); err != nil {
			return err
		}
	}
	return nil
}

// Erase implements retention.Events: one deletion a day and visitor, those of a
// week in one mutation. Bytes go as the README says: by the weekly
// garbagecollect, at the latest with their day.
func (e *events) Erase(ctx context.Context, visitors []taxonomy.VisitorKey) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("erase events: %w", err)
	}
	now := e.st.o.Now().Day()
	// A day more at the old end: what our clock calls over may still lie there.
	low, high := now.Oldest()-7, now+aheadDays
	var batches [][]statement
	for _, v := range visitors {
		bucket := e.bucketOf(v)
		for week := weekOf(low); week <= weekOf(high); week++ {
			var b []statement
			for d := taxonomy.Day(week) * 7; weekOf(d) == week; d++ {
				b = append(b, statement{deleteDay, []any{week, bucket, int32(d), v[:]}})
			}
			batches = append(batches, b)
		}
	}
	if len(batches) == 0 {
		return nil
	}
	// Without a second node: a deletion that comes late would take what was put
	// after it.
	err := e.st.each(ctx, len(batches), func(ctx context.Context, i int) error { return e.st.s.rewriteAll(ctx, batches[i]) })
	if err != nil {
		return fmt.Errorf("erase the events of %d visitors: %w", len(visitors), err)
	}
	return nil
}

// Expire implements retention.Events. The TTL of each row ends with its day, so
// there is nothing to remove by hand; the day is noted, so that no clock that
// is set back brings anything back. Bytes of what is over leave the disk within
// the table's bound, those of what was erased with garbagecollect.
func (e *events) Expire(ctx context.Context, before taxonomy.Day) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("expire events before %s: %w", before, err)
	}
	for int32(before) > e.floor.Load() {
		ok, err := e.st.s.swap(ctx, insertSetting, "floor", int64(before))
		if err == nil && !ok {
			_, err = e.st.s.swap(ctx, raiseSetting, int64(before), "floor", int64(before))
		}
		if errors.Is(err, retention.ErrUnknown) && ctx.Err() == nil {
			continue // it only grows, so it may be said twice
		}
		if err != nil {
			return fmt.Errorf("expire events before %s: %w", before, err)
		}
		e.floor.Store(int32(before))
	}
	return nil
}

// addDays adds without leaving what a Day can say.
func addDays(d taxonomy.Day, n int64) taxonomy.Day {
	return taxonomy.Day(min(max(int64(d)+n, -1<<31), 1<<31-1))
}
