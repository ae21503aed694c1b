package cassandra

import (
	"context"
	"fmt"
	"math"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// localPosition returns from with everything that is not read from this node's
// files taken out, and the writers that are.
func (e *era) localPosition(from retention.Position) (at retention.Position, local map[taxonomy.WriterID]bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	at, local = from.Clone(), map[taxonomy.WriterID]bool{e.writer: true}
	for id, d := range e.dead {
		if d.ours {
			local[id] = true
		} else {
			at[id] = math.MaxInt64
		}
	}
	return at, local
}

// Follow is retention.Log's. Frames of this node come from its files as soon as
// they are fsynced; those of others when their row, and all before it, can be
// read at LOCAL_QUORUM. A hole means wait (R3). Each writer has an equal share
// of maxBytes.
func (l *Log) Follow(ctx context.Context, g taxonomy.Group, from retention.Position, maxBytes int) ([]retention.Frame, error) {
	e, err := l.ready(ctx)
	if err != nil {
		return nil, fmt.Errorf("follow log: %w", err)
	}
	defer l.turn.RUnlock()
	list, err := l.writers(ctx)
	if err != nil {
		return nil, fmt.Errorf("follow log: %w", err)
	}
	at, local := e.localPosition(from)
	others := list[:0]
	for _, w := range list {
		if !local[w.id] && from[w.id] < w.end(g) {
			others = append(others, w)
		}
	}
	share := maxBytes / (len(others) + 1)
	frames, err := e.local.Follow(ctx, g, at, share)
	if err != nil {
		return nil, fmt.Errorf("follow log: %w", err)
	}
	parts := make([][]retention.Frame, len(others))
	if len(others) > 0 {
		err = l.st.each(ctx, len(others), func(ctx context.Context, i int) (err error) {
			parts[i], err = l.followOne(ctx, &others[i], g, from[others[i].id], share)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("follow log: %w", err)
		}
	}
	for i, p := range parts {
		k := writerGroup{others[i].id, g}
		l.mu.Lock()
		l.given[k] = from[k.writer]
		if len(p) > 0 {
			l.borders[k] = p[len(p)-1].Last()
			l.given[k] = l.borders[k]
		}
		l.mu.Unlock()
		frames = append(frames, p...)
	}
	return frames, nil
}

// followOne reads the frames of a writer of another node.
func (l *Log) followOne(ctx context.Context, w *writerRow, g taxonomy.Group, from uint64, maxBytes int) ([]retention.Frame, error) {
	next := from + 1
	l.mu.Lock()
	border := from == 0 || l.borders[writerGroup{w.id, g}] == from
	l.mu.Unlock()
	if !border { // it may lie within a frame
		var err error
		if next, err = l.frameAt(ctx, w.id, g, next); err != nil {
			return nil, err
		}
	}
	var out []retention.Frame
	for size := 0; size < maxBytes || len(out) == 0; {
		frames, err := l.readRows(ctx, w.id, g, next, 16)
		if err != nil {
			return nil, err
		}
		if len(frames) == 0 {
			break
		}
		for _, f := range frames {
			next = f.Last() + 1
			if f.First > w.end(g) {
				return out, nil // beyond the agreed end: never read (R4)
			}
			out = append(out, f.From(from+1))
			size += f.Bytes
			if size >= maxBytes {
				break
			}
		}
	}
	return out, nil
}

// End is retention.Log's.
func (l *Log) End(ctx context.Context, g taxonomy.Group, from retention.Position) ([]retention.WriterEnd, error) {
	e, err := l.ready(ctx)
	if err != nil {
		return nil, fmt.Errorf("end of log: %w", err)
	}
	defer l.turn.RUnlock()
	list, err := l.writers(ctx)
	if err != nil {
		return nil, fmt.Errorf("end of log: %w", err)
	}
	at, local := e.localPosition(from)
	own, err := e.local.End(ctx, g, at)
	if err != nil {
		return nil, fmt.Errorf("end of log: %w", err)
	}
	var ends []retention.WriterEnd
	here := map[taxonomy.WriterID]bool{}
	for _, end := range own {
		if !local[end.Writer] {
			continue
		}
		here[end.Writer] = true
		if d := e.deadWriter(end.Writer); d != nil {
			e.mu.Lock()
			end.Open = !d.closed
			e.mu.Unlock()
		}
		ends = append(ends, end)
	}
	for i := range list {
		w := &list[i]
		// One of this node whose files are trimmed has its rows still: a follower who
		// forgot how far it has come would read them again (R1).
		if here[w.id] || w.closed && w.end(g) == 0 || local[w.id] && !w.closed {
			continue
		}
		end, err := l.endOf(ctx, w, g, from[w.id])
		if err != nil {
			return nil, fmt.Errorf("end of log: %w", err)
		}
		if end.Last == 0 && !end.Open {
			continue
		}
		ends = append(ends, end)
	}
	return ends, nil
}

// endOf tells of a writer of another node. It reads the heads of rows that are
// new since it was asked before.
func (l *Log) endOf(ctx context.Context, w *writerRow, g taxonomy.Group, from uint64) (retention.WriterEnd, error) {
	k := writerGroup{w.id, g}
	l.mu.Lock()
	t := l.tails[k]
	if t == nil || from+1 < t.start {
		t = &tail{start: from + 1, next: from + 1, last: from}
		l.tails[k] = t
	}
	next := t.next
	l.mu.Unlock()
	if next == from+1 {
		var err error
		if next, err = l.frameAt(ctx, w.id, g, next); err != nil {
			return retention.WriterEnd{}, err
		}
	}
	for {
		heads, err := l.readHeads(ctx, w.id, g, next)
		if err != nil {
			return retention.WriterEnd{}, err
		}
		if len(heads) == 0 {
			break
		}
		l.mu.Lock()
		for _, h := range heads {
			if h.Last() < t.next || h.First > w.end(g) { // another was faster, or beyond the agreed end
				continue
			}
			t.heads = append(t.heads, h)
			t.next, t.last, t.time = h.Last()+1, h.Last(), h.Time
		}
		l.mu.Unlock()
		next = heads[len(heads)-1].Last() + 1
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	end := retention.WriterEnd{Writer: w.id, Last: t.last, Open: !w.closed, Time: max(t.time, w.started)}
	for i := range t.heads {
		h := &t.heads[i]
		end.Bytes += int64(h.Bytes)
		if h.Last() <= from {
			continue
		}
		if end.Oldest == 0 {
			end.Oldest = h.Time
		}
		for _, c := range h.Counts {
			end.Unfolded = addCount(end.Unfolded, c)
		}
	}
	return end, nil
}

// cut drops the heads up to record seq, which nobody asks for any more.
func (t *tail) cut(seq uint64) {
	n := 0
	for n < len(t.heads) && t.heads[n].Last() <= seq {
		n++
	}
	if n > 0 {
		t.start = t.heads[n-1].Last() + 1
		t.heads = append([]retention.Frame(nil), t.heads[n:]...)
	}
}

func addCount(to []retention.SiteCount, c retention.SiteCount) []retention.SiteCount {
	for i := range to {
		if to[i].Site == c.Site {
			to[i].N += c.N
			return to
		}
	}
	return append(to, c)
}
