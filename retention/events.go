package retention

import (
	"context"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// StoredEvent is an event as it is kept for its 90 days: the record, where it
// first stood in the log, and the rule version that classified it.
type StoredEvent struct {
	Record taxonomy.Record // Kind is RecordEvent
	// Ref is Record.First if that is set, else the place it was read from. With
	// day and visitor it is the key: putting it again changes nothing.
	Ref         taxonomy.Ref
	RuleVersion uint32
}

// Day returns the event's UTC day, which decides its life.
func (e *StoredEvent) Day() taxonomy.Day { return e.Record.Event.Time.Day() }

// CopiesApart is how far apart in receipt two copies of an event may be (R10).
const CopiesApart = 48 * taxonomy.Hour

// Hides reports whether readers see the first of two events with one site, visitor
// and event ID in place of the second: it goes before it by (receipt, writer, seq),
// and they are copies, by at most CopiesApart, or, as the same row of a file, at
// whatever distance (R13): a fold that began again may have met them in another
// order, and stored the one and then the other.
func Hides(a, b *StoredEvent) bool {
	apart := b.Record.Received - a.Record.Received
	if apart < 0 || apart == 0 && a.Ref.Compare(b.Ref) >= 0 {
		return false
	}
	row := a.Record.Import
	return apart <= CopiesApart || !row.IsZero() && row == b.Record.Import
}

// Events keeps what visitors did, by (day, visitor, writer, seq), each to the
// start of day d+90. What is over is never returned, also before it is removed.
//
// Copies of one event (site, visitor, event ID) may both be stored; readers see
// one, that with the least (receipt, writer, seq): that is the engine's part, by
// Hides.
type Events interface {
	// Put stores events and returns when they are durable. Those whose life is
	// over are skipped (R17). The engine keeps no reference to them.
	Put(ctx context.Context, events []StoredEvent) error

	// Visitor calls fn with each event of a visitor from day from to day to,
	// both included, by day and then by ref. fn may keep the event. An error of
	// fn ends the walk and is returned.
	Visitor(ctx context.Context, v taxonomy.VisitorKey, from, to taxonomy.Day, fn func(*StoredEvent) error) error

	// Scan calls fn with every event of part of parts (0 ≤ part < parts), each
	// event being in exactly one part and all events of a visitor in the same,
	// by day within a part. It sees at least what was put before it began. fn
	// must not keep the event. An error of fn ends the walk and is returned.
	Scan(ctx context.Context, part, parts int, from, to taxonomy.Day, fn func(*StoredEvent) error) error

	// Erase removes every event of the visitors, readable at once no more; the
	// bytes are gone when Expire has returned after it, or by the engine's
	// stated bound.
	Erase(ctx context.Context, visitors []taxonomy.VisitorKey) error

	// Expire removes the days before the given one, and the bytes of what was
	// erased.
	Expire(ctx context.Context, before taxonomy.Day) error
}
