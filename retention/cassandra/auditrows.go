package cassandra

import (
	"context"
	"fmt"
	"math"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// auditRanges is into how many parts the ring is cut, so that the rows that are
// looked at are spread over it.
const auditRanges = 16

// auditRows looks at a sample of rows. What Ebb cannot see here, because it was
// erased or is over, the files show.
func (st *Store) auditRows(ctx context.Context, r *TableReport, t auditTable, s schemaOf, limit int) error {
	now := st.o.Now()
	var cql string
	switch t.name {
	case "event_log":
		cql = `SELECT seq, n, TTL(payload), WRITETIME(payload) FROM event_log WHERE token(writer, grp, chunk) >= ? AND token(writer, grp, chunk) <= ? LIMIT ?`
	case "visitor_events":
		cql = `SELECT week, bucket, day, visitor, payload, TTL(payload), WRITETIME(payload) FROM visitor_events WHERE token(week, bucket) >= ? AND token(week, bucket) <= ? LIMIT ?`
	case "erasure":
		cql = `SELECT day, TTL(asked), WRITETIME(asked) FROM erasure WHERE token(day) >= ? AND token(day) <= ? LIMIT ?`
	case "keyed_mortal":
		cql = `SELECT space, TTL(over), WRITETIME(over) FROM keyed_mortal WHERE token(space, partition) >= ? AND token(space, partition) <= ? LIMIT ?`
	case "blob_part":
		cql = `SELECT part, TTL(sum), WRITETIME(sum) FROM blob_part WHERE token(id, part) >= ? AND token(id, part) <= ? LIMIT ?`
	default:
		return nil
	}
	step := uint64(math.MaxUint64)/auditRanges + 1
	for i := range uint64(auditRanges) {
		from := int64(i*step) ^ math.MinInt64
		to := from + int64(step-1)
		before := *r
		err := st.s.rows(ctx, func() { *r = before }, func(scan func(...any) error) error {
			var ttl *int
			var written int64
			var where string
			var err error
			received, over := taxonomy.Millis(0), taxonomy.Millis(0)
			switch t.name {
			case "event_log":
				var seq int64
				var n int
				err = scan(&seq, &n, &ttl, &written)
				where = fmt.Sprintf("event_log, records %d to %d of a writer", seq, seq+int64(n)-1)
			case "visitor_events":
				var week int16
				var bucket int
				var d int32
				var visitor, payload []byte
				if err = scan(&week, &bucket, &d, &visitor, &payload, &ttl, &written); err != nil {
					return err
				}
				where = fmt.Sprintf("visitor_events, week %d bucket %d, a row of %s", week, bucket, taxonomy.Day(d))
				over = taxonomy.Day(d).Over()
				var list []retention.StoredEvent
				if len(visitor) != len(taxonomy.VisitorKey{}) {
					r.add(where, fmt.Sprintf("a visitor key of %d bytes", len(visitor)), "find out who else writes to the keyspace")
				} else if list, err = decodePack(nil, payload, taxonomy.VisitorKey(visitor)); err != nil {
					r.add(where, "the row does not decode: its bytes are damaged", "run `nodetool scrub` on its replicas")
					err = nil
				}
				for j := range list {
					received = max(received, list[j].Record.Received)
				}
			case "erasure":
				var d int32
				err = scan(&d, &ttl, &written)
				where = fmt.Sprintf("erasure, a row of %s", taxonomy.Day(d))
			case "keyed_mortal":
				var space string
				err = scan(&space, &ttl, &written)
				where = "keyed_mortal, space " + space
			default:
				var part int
				err = scan(&part, &ttl, &written)
				where = fmt.Sprintf("%s, part %d of a blob", t.name, part)
			}
			if err != nil {
				return err
			}
			r.Rows++
			st.auditRow(r, t, s, where, now, ttl, taxonomy.Millis(written/1000), received, over)
			return nil
		}, cql, from, to, max(1, limit/auditRanges))
		if err != nil {
			return err
		}
	}
	return nil
}

const (
	findWriter = "find out who writes to the table beside Ebb; `sstableexpiredblockers` names the files that it keeps from going, and `nodetool compact` is the way out once everything else in them is over"
	noEnd      = "the row has no end: it stays, and keeps its file, for ever"
)

// auditRow looks at the end and the write timestamp of a row.
func (st *Store) auditRow(r *TableReport, t auditTable, s schemaOf, where string, now taxonomy.Millis, ttl *int, written, received, over taxonomy.Millis) {
	r.wrote(written)
	slack := stampSlack + taxonomy.Millis(st.o.slack.Milliseconds())
	if ttl == nil || *ttl == 0 {
		if t.ends {
			r.add(where, noEnd, "delete it, and find out who wrote it")
		}
		return
	}
	ends := now + taxonomy.Millis(*ttl)*taxonomy.Second
	switch {
	case over != 0 && ends > over+slack:
		r.add(where, fmt.Sprintf("it ends at %s, its day is over at %s", stamp(ends), stamp(over)), "delete the row, and find out who wrote it")
	case written > now+stampSlack:
		r.add(where, fmt.Sprintf("it was written with the timestamp %s, which is to come: no deletion reaches it before, and its file is dropped after it", stamp(written)), findWriter)
	case (t.name == "event_log" || t.name == "erasure") && s.ttl == t.life && apart(written, ends-taxonomy.Millis(t.life)*taxonomy.Second) > slack:
		// A row of these tables has the table's life, so its end tells when it was written.
		r.add(where, fmt.Sprintf("it was written at %s with the timestamp %s: it keeps older files from being dropped", stamp(ends-taxonomy.Millis(t.life)*taxonomy.Second), stamp(written)), findWriter)
	case received != 0 && written < received-stampSlack:
		// Nothing is stored before it was received.
		r.add(where, fmt.Sprintf("it was received at %s and has the timestamp %s: it keeps older files from being dropped", stamp(received), stamp(written)), findWriter)
	}
}

func apart(a, b taxonomy.Millis) taxonomy.Millis {
	if a < b {
		return b - a
	}
	return a - b
}

func stamp(m taxonomy.Millis) string { return m.Time().UTC().Format("2006-01-02 15:04:05") }
