package retention

import (
	"context"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Ack is how far a record must have come before Append returns.
type Ack uint8

// The levels, each including those before it.
const (
	// AckNone: in memory, fsynced within 100 ms. It may die with the process;
	// then it was never received (R12).
	AckNone Ack = iota
	// AckLocal: fsynced in this node's log.
	AckLocal
	// AckQuorum: in Cassandra at LOCAL_QUORUM, with all records before it (R3).
	AckQuorum
)

func (a Ack) String() string {
	switch a {
	case AckNone:
		return "none"
	case AckLocal:
		return "local"
	case AckQuorum:
		return "quorum"
	}
	return "unknown"
}

// Log is everything that happens to visitors, in order. Records are appended in
// batches; the records of one batch have consecutive numbers and stand in one
// frame, whole or not at all.
//
// A writer is one start of one process (R1). It numbers its records of each
// group 1, 2, 3, … Other writers' records are followed but never changed.
type Log interface {
	// Append appends records, which must be of the given group, and returns the
	// place of the first and how far they came, which may be less than ack asks
	// for (R3) but never less than AckLocal when ack is AckLocal or AckQuorum.
	// The log keeps no reference to records. Errors: ErrFull (the caller answers
	// 503), ErrClosed, ErrUnknown (an fsync failed: the records may come back
	// after a restart, and the log takes no more). An empty batch is an error.
	Append(ctx context.Context, group taxonomy.Group, records []taxonomy.Record, ack Ack) (taxonomy.Ref, Ack, error)

	// Follow returns durable frames of the group that lie beyond from, of each
	// writer in order and without holes, about maxBytes of them (at least one
	// frame if there is any). It returns at once, with none if there are none.
	// A quarantined range is returned as a frame without records but with Lost
	// set (R2). The caller owns the frames.
	Follow(ctx context.Context, group taxonomy.Group, from Position, maxBytes int) ([]Frame, error)

	// End tells, for each writer of the group that is open or has records, how
	// far it has come, and what lies beyond from.
	End(ctx context.Context, group taxonomy.Group, from Position) ([]WriterEnd, error)

	// Trim says that every record up to the position is in a committed
	// checkpoint, so that its bytes may go (R5). Trimming again, or less, is
	// fine. It is the only way in which records go.
	Trim(ctx context.Context, group taxonomy.Group, to Position) error

	// CloseWriter ends a writer that no longer runs and returns its agreed end
	// (R4). Closing it again returns the same end. Closing the log's own writer
	// is an error.
	CloseWriter(ctx context.Context, group taxonomy.Group, w taxonomy.WriterID) (end uint64, err error)
}

// Position is "everything up to here": for each writer the number of the last
// record included (R1). A writer that is missing is at 0.
type Position map[taxonomy.WriterID]uint64

// Clone returns a copy that shares nothing with p.
func (p Position) Clone() Position {
	c := make(Position, len(p))
	for w, s := range p {
		c[w] = s
	}
	return c
}

// Covers reports whether everything up to o is included in p.
func (p Position) Covers(o Position) bool {
	for w, s := range o {
		if p[w] < s {
			return false
		}
	}
	return true
}

// JoinPositions returns one position for those of several groups, in order of
// groups. A writer numbers its records in each group anew, so in the joined one
// it stands under an ID for each: its own, with the group's number folded into
// the last two bytes by exclusive or. Group 0 keeps the ID.
func JoinPositions(groups []Position) Position {
	p := Position{}
	for g, of := range groups {
		for w, seq := range of {
			w[len(w)-2] ^= byte(g >> 8)
			w[len(w)-1] ^= byte(g)
			p[w] = seq
		}
	}
	return p
}

// Frame is a run of records of one writer and group as it was fsynced.
type Frame struct {
	Writer  taxonomy.WriterID
	Group   taxonomy.Group
	First   uint64 // the number of the first record
	N       int    // how many records: numbers First to First+N-1
	Time    taxonomy.Millis
	Records []taxonomy.Record // N of them, or none if Lost
	// Counts is how many received events of each site the frame stands for, as
	// its header says: the sum of Record.EventCount by site. They are known even
	// when the records are lost.
	Counts []SiteCount
	// Lost: the frame's records were corrupt and are quarantined. They count
	// as received and dropped{corrupt}; the fold goes on behind them (R2).
	Lost bool
	// Skipped: Lost by command, since its rows ended before anyone had folded them
	// (R5). They count as dropped{log_expired}.
	Skipped bool
	// Bytes is the frame's size in the log.
	Bytes int
}

// Last returns the number of the frame's last record.
func (f *Frame) Last() uint64 { return f.First + uint64(f.N) - 1 }

// From returns what of the frame lies at or behind number next, which the frame
// must reach. A lost frame keeps its counts: nobody knows whose they were.
func (f *Frame) From(next uint64) Frame {
	r := *f
	if f.First >= next {
		return r
	}
	cut := int(next - f.First)
	r.First, r.N = next, f.N-cut
	if !f.Lost {
		r.Records = f.Records[cut:]
		r.Counts = CountSites(r.Records)
	}
	return r
}

// SiteCount is a number of received events of a site.
type SiteCount struct {
	Site taxonomy.SiteID
	N    uint64
}

// CountSites returns the events of records by site, in order of first sight.
func CountSites(records []taxonomy.Record) []SiteCount {
	var counts []SiteCount
	add := func(site taxonomy.SiteID, n uint64) {
		for i := range counts {
			if counts[i].Site == site {
				counts[i].N += n
				return
			}
		}
		counts = append(counts, SiteCount{site, n})
	}
	for i := range records {
		r := &records[i]
		switch r.Kind {
		case taxonomy.RecordEvent:
			add(r.Site, 1)
		case taxonomy.RecordCounts:
			for j := range r.Counts {
				add(r.Counts[j].Site, r.Counts[j].N)
			}
		}
	}
	return counts
}

// WriterEnd is how far a writer of a group has come.
type WriterEnd struct {
	Writer taxonomy.WriterID
	Last   uint64 // the number of its last durable record, 0 if none
	Open   bool   // it may still append
	// Time is that of its last frame: the fold's clock is the least over open
	// writers (R7).
	Time taxonomy.Millis
	// Oldest is the time of its first frame beyond the asked position, or 0.
	Oldest taxonomy.Millis
	// Unfolded is what lies beyond the asked position, by site: the greater
	// part of queued (R12).
	Unfolded []SiteCount
	// Bytes is what the writer's frames occupy.
	Bytes int64
}
