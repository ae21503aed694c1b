package embedded

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/cockroachdb/pebble/v2"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// The value of an event:
//
//	0     version, 1
//	1     flags: bit 0, Record.First is the key's writer and seq
//	2–5   rule version, big-endian
//	6–    the record (taxonomy.AppendRecord), without what the key says: the
//	      visitor, and First if bit 0 is set
const (
	eventVersion   = 1
	eventHeader    = 6
	flagFirstIsRef = 1
)

const (
	// copyDays is how many days apart the days of two copies can be: receipts at
	// most 48 h apart, an event at most 24 h before its receipt and 5 minutes
	// after (R20), so 72 h and 5 minutes, which may touch five days.
	copyDays = 4

	// scanBatch is about how many events of a scan are read before its function
	// is called: the function is not called while iterators are open, since an
	// open iterator keeps deleted files on disk.
	scanBatch = 512
	// eraseBatch bounds how many deletions are committed together.
	eraseBatch = 4096
)

type events struct{ s *Store }

var _ retention.Events = (*events)(nil)

func appendEventValue(b []byte, e *retention.StoredEvent) []byte {
	r := e.Record
	r.Visitor = taxonomy.VisitorKey{}
	var flags byte
	if r.First == e.Ref {
		flags |= flagFirstIsRef
		r.First = taxonomy.Ref{}
	}
	b = append(b, eventVersion, flags)
	b = binary.BigEndian.AppendUint32(b, e.RuleVersion)
	return taxonomy.AppendRecord(b, &r)
}

func decodeEvent(key, value []byte) (e retention.StoredEvent, err error) {
	_, v, ref, err := parseEventKey(key)
	if err != nil {
		return e, err
	}
	if len(value) < eventHeader || value[0] != eventVersion || value[1]&^flagFirstIsRef != 0 {
		return e, fmt.Errorf("%w: an event of an unknown form", retention.ErrCorrupt)
	}
	r, rest, err := taxonomy.DecodeRecord(value[eventHeader:])
	if err != nil || len(rest) != 0 || r.Event == nil {
		return e, fmt.Errorf("%w: an event whose record does not decode: %v", retention.ErrCorrupt, err)
	}
	r.Visitor = v
	if value[1]&flagFirstIsRef != 0 {
		r.First = ref
	}
	return retention.StoredEvent{Record: r, Ref: ref, RuleVersion: binary.BigEndian.Uint32(value[2:])}, nil
}

// Put implements retention.Events. One call is one commit and one fsync.
func (e *events) Put(ctx context.Context, list []retention.StoredEvent) error {
	for i := range list {
		ev := &list[i]
		if ev.Record.Kind != taxonomy.RecordEvent || ev.Record.Event == nil {
			return fmt.Errorf("put events: number %d is a record of kind %d, not an event", i, ev.Record.Kind)
		}
		if ev.Ref.IsZero() {
			return fmt.Errorf("put events: number %d has no ref", i)
		}
	}
	release, err := e.s.acquire(ctx)
	if err != nil {
		return fmt.Errorf("put events: %w", err)
	}
	defer release()
	now := e.s.o.Now()
	b := e.s.db.NewBatch()
	var value []byte
	for i := range list {
		ev := &list[i]
		day := ev.Day()
		if day.Expired(now) {
			continue // R17: its life is over, and that is no error
		}
		value = appendEventValue(value[:0], ev)
		if err := b.Set(eventKey(day, ev.Record.Visitor, ev.Ref), value, nil); err != nil {
			return fmt.Errorf("put events: %w", e.s.wrap(errors.Join(err, b.Close())))
		}
	}
	if err := e.s.commit(b); err != nil {
		return fmt.Errorf("put %d events: %w", len(list), err)
	}
	return nil
}

// Visitor implements retention.Events.
func (e *events) Visitor(ctx context.Context, v taxonomy.VisitorKey, from, to taxonomy.Day, fn func(*retention.StoredEvent) error) error {
	list, err := e.visitor(ctx, v, from, to)
	if err != nil {
		return fmt.Errorf("read the events of a visitor: %w", err)
	}
	for i := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(&list[i]); err != nil {
			return err
		}
	}
	return nil
}

func (e *events) visitor(ctx context.Context, v taxonomy.VisitorKey, from, to taxonomy.Day) ([]retention.StoredEvent, error) {
	release, err := e.s.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	now := e.s.o.Now()
	it, err := e.s.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: dayKey(now.Day().Oldest()), UpperBound: []byte{tableEvents + 1}})
	if err != nil {
		return nil, e.s.wrap(err)
	}
	var list []retention.StoredEvent
	// From one day that has events to the next: seeking the visitor in a day lands
	// on the visitor, or on the first event beyond, which tells the next day.
	last := addDays(to, copyDays)
	for ok := it.SeekGE(visitorKey(addDays(from, -copyDays), v)); ok; {
		day, at, _, err := parseEventKey(it.Key())
		if err != nil {
			return nil, errors.Join(err, it.Close())
		}
		switch {
		case day > last:
			ok = false
			continue
		case at == v:
			value, err := it.ValueAndErr()
			if err != nil {
				return nil, errors.Join(e.s.wrap(err), it.Close())
			}
			ev, err := decodeEvent(it.Key(), value)
			if err != nil {
				return nil, errors.Join(err, it.Close())
			}
			list = append(list, ev)
			ok = it.Next()
			continue
		case bytes.Compare(at[:], v[:]) < 0:
			ok = it.SeekGE(visitorKey(day, v))
		default:
			ok = it.SeekGE(visitorKey(day+1, v))
		}
	}
	if err := it.Close(); err != nil {
		return nil, e.s.wrap(err)
	}
	hidden := copies(list)
	visible := list[:0]
	for i := range list {
		if d := list[i].Day(); !hidden[i] && from <= d && d <= to {
			visible = append(visible, list[i])
		}
	}
	return visible, nil
}

// copies says which of one visitor's events are hidden: those that have a copy
// which is seen in their place (R10).
func copies(list []retention.StoredEvent) (hidden []bool) {
	hidden = make([]bool, len(list))
	type id struct {
		site taxonomy.SiteID
		id   taxonomy.EventID
	}
	var at map[id][]int
	if len(list) > 1 {
		at = make(map[id][]int, len(list))
	}
	for i := range list {
		if at == nil {
			break
		}
		k := id{list[i].Record.Site, list[i].Record.Event.ID}
		for _, j := range at[k] {
			switch a, b := &list[i], &list[j]; {
			case retention.Hides(a, b):
				hidden[j] = true
			case retention.Hides(b, a):
				hidden[i] = true
			}
		}
		at[k] = append(at[k], i)
	}
	return hidden
}

// Scan implements retention.Events. A part is a range of visitor keys, which are
// keyed hashes and so spread evenly.
func (e *events) Scan(ctx context.Context, part, parts int, from, to taxonomy.Day, fn func(*retention.StoredEvent) error) error {
	if parts < 1 || part < 0 || part >= parts {
		return fmt.Errorf("scan events: there is no part %d of %d", part, parts)
	}
	c := scanCursor{low: partStart(part, parts), day: from, to: to}
	if part+1 < parts {
		h := partStart(part+1, parts)
		c.high = &h
	}
	c.at = c.low
	for !c.done {
		batch, err := e.scanSome(ctx, &c)
		if err != nil {
			return fmt.Errorf("scan events: %w", err)
		}
		for i := range batch {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(&batch[i]); err != nil {
				return err
			}
		}
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

// scanCursor is how far a scan has come: the next visitor of a day.
type scanCursor struct {
	low  taxonomy.VisitorKey  // the part's first
	high *taxonomy.VisitorKey // the next part's first; nil: none
	day  taxonomy.Day
	to   taxonomy.Day
	at   taxonomy.VisitorKey
	done bool
}

// scanSome reads on from c, some visitors of one day, each whole.
func (e *events) scanSome(ctx context.Context, c *scanCursor) (out []retention.StoredEvent, err error) {
	release, err := e.s.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	oldest := e.s.o.Now().Day().Oldest()
	if c.day < oldest {
		c.day, c.at = oldest, c.low
	}
	// The next day that has an event, in this part or in another.
	it, err := e.s.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: []byte{tableEvents}, UpperBound: []byte{tableEvents + 1}})
	if err != nil {
		return nil, e.s.wrap(err)
	}
	if !it.SeekGE(visitorKey(c.day, c.at)) {
		c.done = true
		return nil, e.s.wrap(it.Close())
	}
	day, _, _, perr := parseEventKey(it.Key())
	if err := errors.Join(perr, it.Close()); err != nil {
		return nil, e.s.wrap(err)
	}
	if day != c.day {
		c.day, c.at = day, c.low
	}
	if c.day > c.to {
		c.done = true
		return nil, nil
	}

	// The day itself, and beside it the days on which a copy may lie, each read
	// forward in step with it.
	main, err := e.dayReader(ctx, c.day, c.at, c.high)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, main.close()) }()
	var beside []*dayReader
	for d := max(c.day-copyDays, oldest); d <= c.day+copyDays; d++ {
		if d == c.day {
			continue
		}
		r, rerr := e.dayReader(ctx, d, c.at, c.high)
		if rerr != nil {
			return nil, rerr
		}
		defer func() { err = errors.Join(err, r.close()) }()
		if r.valid() {
			beside = append(beside, r)
		}
	}
	var list []retention.StoredEvent
	for len(out) < scanBatch {
		if err := main.err(); err != nil {
			return nil, err
		}
		if !main.valid() {
			c.day, c.at = c.day+1, c.low
			return out, nil
		}
		v := main.visitor()
		if list, err = main.take(v, list[:0]); err != nil {
			return nil, err
		}
		own := len(list)
		for _, r := range beside {
			if r.seek(v) {
				if list, err = r.take(v, list); err != nil {
					return nil, err
				}
			}
			if err := r.err(); err != nil {
				return nil, err
			}
		}
		hidden := copies(list)
		for i := range list[:own] {
			if !hidden[i] {
				out = append(out, list[i])
			}
		}
		next, ok := nextVisitor(v)
		if !ok {
			c.day, c.at = c.day+1, c.low
			return out, nil
		}
		c.at = next
	}
	return out, nil
}

// dayReader reads one day's events, visitor by visitor.
type dayReader struct {
	e   *events
	day taxonomy.Day
	it  *pebble.Iterator
}

func (e *events) dayReader(ctx context.Context, d taxonomy.Day, from taxonomy.VisitorKey, high *taxonomy.VisitorKey) (*dayReader, error) {
	upper := dayKey(d + 1)
	if high != nil {
		upper = visitorKey(d, *high)
	}
	it, err := e.s.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: visitorKey(d, from), UpperBound: upper})
	if err != nil {
		return nil, e.s.wrap(err)
	}
	it.First()
	return &dayReader{e, d, it}, nil
}

func (r *dayReader) valid() bool  { return r.it.Valid() }
func (r *dayReader) err() error   { return r.e.s.wrap(r.it.Error()) }
func (r *dayReader) close() error { return r.e.s.wrap(r.it.Close()) }

func (r *dayReader) visitor() (v taxonomy.VisitorKey) {
	copy(v[:], r.it.Key()[5:])
	return v
}

// seek moves forward to v, and reports whether it is there.
func (r *dayReader) seek(v taxonomy.VisitorKey) bool {
	if !r.it.Valid() {
		return false
	}
	at := r.visitor()
	if c := bytes.Compare(at[:], v[:]); c >= 0 {
		return c == 0
	}
	return r.it.SeekGE(visitorKey(r.day, v)) && r.visitor() == v
}

// take appends the events of v, at which it stands, and moves beyond them.
func (r *dayReader) take(v taxonomy.VisitorKey, list []retention.StoredEvent) ([]retention.StoredEvent, error) {
	for r.it.Valid() && r.visitor() == v {
		value, err := r.it.ValueAndErr()
		if err != nil {
			return nil, r.e.s.wrap(err)
		}
		ev, err := decodeEvent(r.it.Key(), value)
		if err != nil {
			return nil, err
		}
		list = append(list, ev)
		r.it.Next()
	}
	return list, r.err()
}

func nextVisitor(v taxonomy.VisitorKey) (taxonomy.VisitorKey, bool) {
	for i := len(v) - 1; i >= 0; i-- {
		if v[i]++; v[i] != 0 {
			return v, true
		}
	}
	return v, false
}

// addDays adds without leaving what a key can say.
func addDays(d taxonomy.Day, n int32) taxonomy.Day {
	return taxonomy.Day(min(max(int64(d)+int64(n), -1<<31), 1<<31-1))
}

// Erase implements retention.Events. It walks the days, two seeks each, and
// deletes what it finds; the tombstones, which hold keys too, go with Expire.
func (e *events) Erase(ctx context.Context, visitors []taxonomy.VisitorKey) error {
	release, err := e.s.acquire(ctx)
	if err != nil {
		return fmt.Errorf("erase events: %w", err)
	}
	defer release()
	for _, v := range visitors {
		if err := e.erase(ctx, v); err != nil {
			return fmt.Errorf("erase the events of %d visitors: %w", len(visitors), err)
		}
	}
	return nil
}

func (e *events) erase(ctx context.Context, v taxonomy.VisitorKey) error {
	it, err := e.s.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: []byte{tableEvents}, UpperBound: []byte{tableEvents + 1}})
	if err != nil {
		return e.s.wrap(err)
	}
	b := e.s.db.NewBatch()
	fail := func(err error) error { return errors.Join(err, it.Close(), b.Close()) }
	for ok := it.First(); ok; {
		day, at, _, err := parseEventKey(it.Key())
		if err != nil {
			return fail(err)
		}
		switch c := bytes.Compare(at[:], v[:]); {
		case c < 0:
			ok = it.SeekGE(visitorKey(day, v))
		case c > 0:
			if day == 1<<31-1 {
				ok = false
				break
			}
			ok = it.SeekGE(visitorKey(day+1, v))
		default:
			if err := b.Delete(it.Key(), nil); err != nil {
				return fail(e.s.wrap(err))
			}
			if b.Count() >= eraseBatch {
				if err := e.s.commit(b); err != nil {
					return errors.Join(err, it.Close())
				}
				b = e.s.db.NewBatch()
			}
			ok = it.Next()
		}
	}
	if err := it.Close(); err != nil {
		return errors.Join(e.s.wrap(err), b.Close())
	}
	return e.s.commit(b)
}

// Expire implements retention.Events. The bytes of what is over and of what was
// erased are gone when it returns: see Store.purge.
func (e *events) Expire(ctx context.Context, before taxonomy.Day) error {
	if err := e.s.deleteDays(ctx, before); err != nil {
		return fmt.Errorf("expire events before %s: %w", before, err)
	}
	if err := e.s.purge(ctx); err != nil {
		return fmt.Errorf("expire events before %s: %w", before, err)
	}
	return nil
}

func (s *Store) deleteDays(ctx context.Context, before taxonomy.Day) error {
	release, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	b := s.db.NewBatch()
	if err := b.DeleteRange([]byte{tableEvents}, dayKey(before), nil); err != nil {
		return errors.Join(s.wrap(err), b.Close())
	}
	return s.commit(b)
}
