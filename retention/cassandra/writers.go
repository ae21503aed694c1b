package cassandra

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const (
	selectWriters = `SELECT writer, node, started, beat, until, life, marks, closing, closed, ends FROM log_writer`
	selectWriter  = selectWriters + ` WHERE writer = ?`
	insertWriter  = `INSERT INTO log_writer (writer, node, started, beat, until, life, marks, closing, closed, ends) VALUES (?, ?, ?, 0, ?, ?, ?, false, false, {}) IF NOT EXISTS`
	beatWriter    = `UPDATE log_writer SET beat = ?, until = ?, marks = ? WHERE writer = ? IF closing = false`
	takeWriter    = `UPDATE log_writer SET closing = true WHERE writer = ? IF closing = false AND beat = ?`
	endWriter     = `UPDATE log_writer SET closing = true, closed = true, ends = ? WHERE writer = ? IF closed = false`
	forgetWriter  = `DELETE FROM log_writer WHERE writer = ? IF closed = true`

	insertFrame    = `INSERT INTO event_log (writer, grp, chunk, seq, n, time, counts, bytes, payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`
	selectLog      = `SELECT seq, n, time, counts, payload FROM event_log WHERE writer = ? AND grp = ? AND chunk = ? AND seq >= ? LIMIT ?`
	selectLogHeads = `SELECT seq, n, time, counts, bytes FROM event_log WHERE writer = ? AND grp = ? AND chunk = ? AND seq >= ? LIMIT ?`
	selectFrom     = `SELECT seq, n FROM event_log WHERE writer = ? AND grp = ? AND chunk = ? AND seq <= ? ORDER BY seq DESC LIMIT 1`
)

const (
	chunkBits = 16 // chunk = seq div 65,536
	// forgetAfter is how long a closed writer's row stays: longer than its rows
	// in event_log.
	forgetAfter = 14 * taxonomy.OneDay
)

// writerRow is a row of log_writer.
type writerRow struct {
	id              taxonomy.WriterID
	node            string
	started         taxonomy.Millis
	beat            int64
	until, life     taxonomy.Millis
	marks, ends     map[int]int64
	closing, closed bool
}

// end returns up to which number a group of the writer may be read.
func (w *writerRow) end(g taxonomy.Group) uint64 {
	if !w.closed {
		return math.MaxInt64
	}
	return uint64(w.ends[int(g)])
}

func scanWriter(w *writerRow) (id *[]byte, dest []any) {
	id = new([]byte)
	return id, []any{id, &w.node, (*int64)(&w.started), &w.beat, (*int64)(&w.until), (*int64)(&w.life), &w.marks, &w.closing, &w.closed, &w.ends}
}

// writers returns all writers that are known, by when they started.
func (l *Log) writers(ctx context.Context) (list []writerRow, err error) {
	err = l.st.s.rows(ctx, func() { list = nil }, func(scan func(...any) error) error {
		var w writerRow
		id, dest := scanWriter(&w)
		if err := scan(dest...); err != nil {
			return err
		}
		if len(*id) != len(w.id) {
			return fmt.Errorf("%w: a writer of %d bytes", retention.ErrCorrupt, len(*id))
		}
		w.id = taxonomy.WriterID(*id)
		list = append(list, w)
		return nil
	}, selectWriters)
	slices.SortFunc(list, func(a, b writerRow) int {
		if a.started != b.started {
			return int(min(1, max(-1, a.started-b.started)))
		}
		return taxonomy.Ref{Writer: a.id}.Compare(taxonomy.Ref{Writer: b.id})
	})
	return list, err
}

// writer reads one, after every transaction that is under way.
func (l *Log) writer(ctx context.Context, id taxonomy.WriterID) (w writerRow, err error) {
	_, dest := scanWriter(&w)
	err = l.st.s.serial(ctx, selectWriter, []any{id[:]}, dest...)
	w.id = id
	return w, err
}

// register makes the row of a writer. Doing it again is fine.
func (l *Log) register(ctx context.Context, id taxonomy.WriterID) error {
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		now := l.st.o.Now()
		_, err := l.st.s.swap(ctx, insertWriter, id[:], l.o.Node, int64(now), int64(now+l.life()), int64(l.life()), map[int]int64{})
		if err == nil {
			return nil
		}
		if _, e := l.writer(ctx, id); e == nil {
			return nil
		}
		if !errors.Is(err, retention.ErrUnknown) || ctx.Err() != nil {
			return err
		}
		l.wait(ctx, pause)
	}
}

// closeAt stores the ends of a writer, unless it has some, and returns those
// that count.
func (l *Log) closeAt(ctx context.Context, id taxonomy.WriterID, ends map[int]int64) (writerRow, error) {
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		_, err := l.st.s.swap(ctx, endWriter, ends, id[:])
		if err != nil && !errors.Is(err, retention.ErrUnknown) {
			return writerRow{}, err
		}
		w, e := l.writer(ctx, id)
		if e == nil && w.closed {
			return w, nil
		}
		if e == nil {
			e = err
		}
		if ctx.Err() != nil {
			return writerRow{}, errors.Join(e, ctx.Err())
		}
		l.wait(ctx, pause)
	}
}

// closeForeign ends a writer of another node whose lease has run out (R4): it
// takes the lease away, reads to the first hole at LOCAL_QUORUM, writes what
// lies beyond the last known quorum mark once more, since rows that were not
// acknowledged come and go between reads, and stores the end, which is never below
// what a checkpoint covers.
func (l *Log) closeForeign(ctx context.Context, id taxonomy.WriterID) (writerRow, error) {
	for {
		w, err := l.writer(ctx, id)
		if err != nil {
			return w, err
		}
		if w.closed {
			return w, nil
		}
		if w.closing { // another closes it, or died while doing so: we all find the same rows
			break
		}
		now := l.st.o.Now()
		if since := l.seen(id, w.beat, now); now-since < w.life && now <= w.until+maxSkew {
			return w, fmt.Errorf("it still runs on node %q: %w", w.node, retention.ErrHeld)
		}
		ok, err := l.st.s.swap(ctx, takeWriter, id[:], w.beat)
		if err != nil && !errors.Is(err, retention.ErrUnknown) {
			return w, err
		}
		if ok && err == nil {
			break
		}
		if err := ctx.Err(); err != nil {
			return w, err
		}
		l.wait(ctx, 50*time.Millisecond)
	}
	// The marks as they were when nobody could move them any more.
	w, err := l.writer(ctx, id)
	if err != nil || w.closed {
		return w, err
	}
	ends := map[int]int64{}
	for g := range l.o.Groups {
		end := uint64(w.marks[g])
		k := writerGroup{id, taxonomy.Group(g)}
		l.mu.Lock()
		covered, given := l.covered[k], l.given[k]
		l.mu.Unlock()
		for again := 0; ; {
			frames, err := l.readRows(ctx, id, taxonomy.Group(g), end+1, 64)
			if err != nil {
				return w, err
			}
			if len(frames) == 0 && end < given && again < 5 && ctx.Err() == nil {
				again++ // it was read, so it is on a replica, which another read may ask
				l.wait(ctx, 100*time.Millisecond)
				continue
			}
			if len(frames) == 0 {
				break
			}
			if err := l.st.each(ctx, len(frames), func(ctx context.Context, i int) error { return l.writeRow(ctx, &frames[i]) }); err != nil {
				return w, err
			}
			end = frames[len(frames)-1].Last()
		}
		// What a committed checkpoint covers must not come back, though its rows may
		// never have come to a quorum: the writer's own node may have folded it, or a
		// row that was read is not seen any more.
		if end = max(end, covered); given > end {
			return w, fmt.Errorf("what was read of it to record %d is in no checkpoint yet: %w", given, retention.ErrHeld)
		}
		ends[g] = int64(end)
	}
	return l.closeAt(ctx, id, ends)
}

// seen returns when a writer was first seen with its beat.
func (l *Log) seen(id taxonomy.WriterID, beat int64, now taxonomy.Millis) taxonomy.Millis {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.beats[id]
	if !ok || s.beat != beat {
		s = seenBeat{beat, now}
		l.beats[id] = s
	}
	return s.at
}

type seenBeat struct {
	beat int64
	at   taxonomy.Millis
}

// forget removes the rows of writers that were closed long ago.
func (l *Log) forget(ctx context.Context) error {
	list, err := l.writers(ctx)
	if err != nil {
		return err
	}
	for _, w := range list {
		if w.closed && l.st.o.Now()-w.until > forgetAfter {
			if _, err := l.st.s.swap(ctx, forgetWriter, w.id[:]); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeRow writes a frame to event_log. Doing it again writes the same.
func (l *Log) writeRow(ctx context.Context, f *retention.Frame) error {
	counts, payload := encodeFrame(f)
	return l.writeEncoded(ctx, f, counts, payload)
}

func (l *Log) writeEncoded(ctx context.Context, f *retention.Frame, counts, payload []byte) error {
	return l.st.s.write(ctx, insertFrame, f.Writer[:], int(f.Group), int64(f.First>>chunkBits), int64(f.First), f.N, int64(f.Time), counts, len(payload), payload)
}

// readRows reads the frames of a writer from number next on, in order, to the
// first hole (R3), about limit of them.
func (l *Log) readRows(ctx context.Context, id taxonomy.WriterID, g taxonomy.Group, next uint64, limit int) (frames []retention.Frame, err error) {
	err = l.contiguous(ctx, selectLog, id, g, next, limit, func(f retention.Frame, counts, payload []byte) error {
		if err := decodeFrame(&f, counts, payload); err != nil {
			return err
		}
		frames = append(frames, f)
		return nil
	})
	return frames, err
}

// readHeads is readRows for all that End needs.
func (l *Log) readHeads(ctx context.Context, id taxonomy.WriterID, g taxonomy.Group, next uint64) (heads []retention.Frame, err error) {
	err = l.contiguous(ctx, selectLogHeads, id, g, next, 1000, func(f retention.Frame, counts, _ []byte) (err error) {
		f.Counts, err = decodeCounts(counts)
		heads = append(heads, f)
		return err
	})
	return heads, err
}

// contiguous calls fn with rows from next on until there is a hole or the limit
// is reached. The last column of the statement is the payload or its size.
func (l *Log) contiguous(ctx context.Context, cql string, id taxonomy.WriterID, g taxonomy.Group, next uint64, limit int, fn func(f retention.Frame, counts, payload []byte) error) error {
	type row struct {
		f               retention.Frame
		counts, payload []byte
	}
	for n := 0; n < limit; {
		chunk := next >> chunkBits
		var rows []row
		err := l.st.s.rows(ctx, func() { rows = nil }, func(scan func(...any) error) error {
			r := row{f: retention.Frame{Writer: id, Group: g}}
			var seq int64
			var last any = &r.payload
			if cql == selectLogHeads {
				last = &r.f.Bytes
			}
			if err := scan(&seq, &r.f.N, (*int64)(&r.f.Time), &r.counts, last); err != nil {
				return err
			}
			r.f.First = uint64(seq)
			rows = append(rows, r)
			if r.f.N < 1 {
				return fmt.Errorf("record %d of writer %s: %w: a frame of %d records", seq, id, retention.ErrCorrupt, r.f.N)
			}
			return nil
		}, cql, id[:], int(g), int64(chunk), int64(next), limit-n)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r.f.First != next {
				return nil // a hole: wait
			}
			if err := fn(r.f, r.counts, r.payload); err != nil {
				return err
			}
			next = r.f.Last() + 1
			n++
		}
		if next>>chunkBits == chunk {
			return nil
		}
	}
	return nil
}

// frameAt returns the number of the first record of the frame that holds record
// seq, or seq itself if none does.
func (l *Log) frameAt(ctx context.Context, id taxonomy.WriterID, g taxonomy.Group, seq uint64) (uint64, error) {
	for chunk, tries := int64(seq>>chunkBits), 0; chunk >= 0 && tries < 3; chunk, tries = chunk-1, tries+1 {
		var first int64
		var n int
		err := l.st.s.one(ctx, selectFrom, []any{id[:], int(g), chunk, int64(seq)}, &first, &n)
		if errors.Is(err, retention.ErrNotFound) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if uint64(first)+uint64(n) > seq {
			return uint64(first), nil
		}
		return seq, nil
	}
	return seq, nil
}

// Hole is a place where a writer's rows do not go on though there are later
// ones: followers wait there (R3).
type Hole struct {
	Writer taxonomy.WriterID
	Group  taxonomy.Group
	// Next is the number that is missing, Behind that of the first row beyond,
	// written at Since or before.
	Next, Behind uint64
	Since        taxonomy.Millis
	// Lost: the row beyond is older than a row lives, so what is missing will not
	// come. The group stands still until the hole is skipped by command (R5).
	Lost bool
}

// rowLife is the life of a row of event_log.
const rowLife = 7 * taxonomy.OneDay

// Holes returns where following of other nodes' writers from the position would
// stop before their end. A hole that is young is normal: rows go up side by
// side.
func (l *Log) Holes(ctx context.Context, g taxonomy.Group, from retention.Position) (holes []Hole, err error) {
	e, err := l.ready(ctx)
	if err != nil {
		return nil, fmt.Errorf("holes of the log: %w", err)
	}
	defer l.turn.RUnlock()
	_, local := e.localPosition(from)
	return l.holes(ctx, g, from, local)
}

// Holes is Log.Holes for who has no log of its own.
func (st *Store) Holes(ctx context.Context, g taxonomy.Group, from retention.Position) ([]Hole, error) {
	return st.follower().holes(ctx, g, from, nil)
}

// follower is a log that only follows.
func (st *Store) follower() *Log {
	return &Log{st: st, logger: st.logger, tails: map[writerGroup]*tail{}, borders: map[writerGroup]uint64{}}
}

func (l *Log) holes(ctx context.Context, g taxonomy.Group, from retention.Position, local map[taxonomy.WriterID]bool) (holes []Hole, err error) {
	list, err := l.writers(ctx)
	if err != nil {
		return nil, fmt.Errorf("holes of the log: %w", err)
	}
	now := l.st.o.Now()
	for i := range list {
		w := &list[i]
		if local[w.id] || from[w.id] >= w.end(g) {
			continue
		}
		end, err := l.endOf(ctx, w, g, from[w.id])
		if err != nil {
			return nil, fmt.Errorf("holes of the log: %w", err)
		}
		next := max(end.Last, from[w.id]) + 1
		var seq, at int64
		err = l.st.s.one(ctx, `SELECT seq, time FROM event_log WHERE writer = ? AND grp = ? AND chunk = ? AND seq >= ? LIMIT 1`,
			[]any{w.id[:], int(g), int64(next >> chunkBits), int64(next)}, &seq, &at)
		switch {
		case errors.Is(err, retention.ErrNotFound):
			continue
		case err != nil:
			return nil, fmt.Errorf("holes of the log: %w", err)
		case uint64(seq) == next || uint64(seq) > w.end(g):
			continue
		}
		holes = append(holes, Hole{w.id, g, next, uint64(seq), taxonomy.Millis(at), now-taxonomy.Millis(at) > rowLife})
	}
	return holes, nil
}
