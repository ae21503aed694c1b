package storetest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// copiesApart is how far apart in receipt two copies of an event must be to be
// two events (R10).
const copiesApart = 48 * taxonomy.Hour

type eventKey struct {
	day     taxonomy.Day
	visitor taxonomy.VisitorKey
	ref     taxonomy.Ref
}

// eventRow holds an event as bytes, so that it shares no memory with anyone.
type eventRow struct {
	record []byte
	rule   uint32
}

type modelEvents struct {
	mu   sync.Mutex
	now  func() taxonomy.Millis
	rows map[eventKey]eventRow
}

func (m *modelEvents) Put(ctx context.Context, events []retention.StoredEvent) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for i := range events {
		e := &events[i]
		if e.Record.Kind != taxonomy.RecordEvent || e.Record.Event == nil {
			return fmt.Errorf("put events: number %d is a record of kind %d, not an event", i, e.Record.Kind)
		}
		if e.Ref.IsZero() {
			return fmt.Errorf("put events: number %d has no ref", i)
		}
	}
	for i := range events {
		e := &events[i]
		if e.Day().Expired(now) {
			continue
		}
		k := eventKey{e.Day(), e.Record.Visitor, e.Ref}
		m.rows[k] = eventRow{taxonomy.AppendRecord(nil, &e.Record), e.RuleVersion}
	}
	return nil
}

func (m *modelEvents) Visitor(ctx context.Context, v taxonomy.VisitorKey, from, to taxonomy.Day, fn func(*retention.StoredEvent) error) error {
	return m.walk(ctx, from, to, func(k taxonomy.VisitorKey) bool { return k == v }, fn)
}

func (m *modelEvents) Scan(ctx context.Context, part, parts int, from, to taxonomy.Day, fn func(*retention.StoredEvent) error) error {
	if parts < 1 || part < 0 || part >= parts {
		return fmt.Errorf("scan events: part %d of %d", part, parts)
	}
	return m.walk(ctx, from, to, func(k taxonomy.VisitorKey) bool { return k.Shard(parts) == part }, fn)
}

// walk calls fn with the visible events of the visitors that are wanted, by
// day, visitor and ref.
func (m *modelEvents) walk(ctx context.Context, from, to taxonomy.Day, want func(taxonomy.VisitorKey) bool, fn func(*retention.StoredEvent) error) error {
	m.mu.Lock()
	now := m.now()
	type copyOf struct {
		site    taxonomy.SiteID
		visitor taxonomy.VisitorKey
		id      taxonomy.EventID
	}
	copies := map[copyOf][]*retention.StoredEvent{}
	for k, row := range m.rows {
		if !want(k.visitor) || k.day.Expired(now) {
			continue
		}
		r, rest, err := taxonomy.DecodeRecord(row.record)
		if err != nil || len(rest) != 0 {
			m.mu.Unlock()
			return fmt.Errorf("model: a stored record does not decode: %v", err)
		}
		c := copyOf{r.Site, r.Visitor, r.Event.ID}
		copies[c] = append(copies[c], &retention.StoredEvent{Record: r, Ref: k.ref, RuleVersion: row.rule})
	}
	m.mu.Unlock()

	var visible []*retention.StoredEvent
	for _, c := range copies {
		slices.SortFunc(c, func(a, b *retention.StoredEvent) int {
			if a.Record.Received != b.Record.Received {
				return cmpInt(a.Record.Received, b.Record.Received)
			}
			return a.Ref.Compare(b.Ref)
		})
		// A copy is hidden by any that came before it by at most 48 h, hidden or
		// not, so that one needs to look no further than that; and by the same row of
		// a file, whenever that came.
		kept := c[:0:0]
		rows := map[taxonomy.ImportRow]bool{}
		for i := range c {
			row := c[i].Record.Import
			if (i == 0 || c[i].Record.Received-c[i-1].Record.Received > copiesApart) && (row.IsZero() || !rows[row]) {
				kept = append(kept, c[i])
			}
			rows[row] = true
		}
		for _, e := range kept {
			if from <= e.Day() && e.Day() <= to {
				visible = append(visible, e)
			}
		}
	}
	slices.SortFunc(visible, func(a, b *retention.StoredEvent) int {
		if a.Day() != b.Day() {
			return cmpInt(a.Day(), b.Day())
		}
		if c := bytes.Compare(a.Record.Visitor[:], b.Record.Visitor[:]); c != 0 {
			return c
		}
		return a.Ref.Compare(b.Ref)
	})
	for _, e := range visible {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

func (m *modelEvents) Erase(ctx context.Context, visitors []taxonomy.VisitorKey) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.rows, func(k eventKey, _ eventRow) bool { return slices.Contains(visitors, k.visitor) })
	return nil
}

func (m *modelEvents) Expire(ctx context.Context, before taxonomy.Day) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.rows, func(k eventKey, _ eventRow) bool { return k.day < before })
	return nil
}

func cmpInt[T ~int64 | ~int32 | ~uint64](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
