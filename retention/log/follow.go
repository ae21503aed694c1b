package log

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// buffers are a walker's window and the memory into which payloads expand.
type buffers struct{ window, raw []byte }

var readers = sync.Pool{New: func() any { return new(buffers) }}

// minRead and maxRead bound what is read from a file at once.
const (
	minRead = 64 << 10
	maxRead = 4 << 20
)

// Follow is retention.Log's. Closed writers come first, then the own one. It
// holds no file open in between, and with nothing new it reads no file. A
// position that lies within a frame gives the rest of that frame.
func (l *Log) Follow(ctx context.Context, id taxonomy.Group, from retention.Position, maxBytes int) ([]retention.Frame, error) {
	return l.follow(ctx, id, from, maxBytes, nil)
}

// Raw is Follow for whoever copies frames without a look at their records: those
// of a whole frame come as their bytes, one record behind the other as
// taxonomy.AppendRecord writes them, checked by the frame's checksum, and
// Records is nil. raw has an element for each frame, nil where the frame is lost
// or a part, whose Records are there then. The caller owns both.
func (l *Log) Raw(ctx context.Context, id taxonomy.Group, from retention.Position, maxBytes int) (frames []retention.Frame, raw [][]byte, err error) {
	if frames, err = l.follow(ctx, id, from, maxBytes, &raw); err != nil {
		return nil, nil, err
	}
	return frames, align(raw, len(frames)), nil
}

// align makes raw as long as there are frames.
func align(raw [][]byte, frames int) [][]byte {
	for len(raw) < frames {
		raw = append(raw, nil)
	}
	return raw
}

func (l *Log) follow(ctx context.Context, id taxonomy.Group, from retention.Position, maxBytes int, raws *[][]byte) ([]retention.Frame, error) {
	g, err := l.group(id)
	if err != nil {
		return nil, fmt.Errorf("follow log: %w", err)
	}
	g.files.RLock() // Trim waits until we have read
	defer g.files.RUnlock()

	var frames []retention.Frame
	budget := int64(maxBytes)
	for i := 0; ; i++ {
		g.mu.Lock()
		if i >= len(g.writers) {
			g.mu.Unlock()
			return frames, nil
		}
		w := g.writers[i]
		next, views, gap := w.beyond(from[w.id])
		g.mu.Unlock()
		if gap > 0 {
			frames = append(frames, g.hole(w, from[w.id]+1, gap, views))
		}
		for _, v := range views {
			if budget <= 0 && len(frames) > 0 {
				return frames, nil
			}
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("follow log: %w", err)
			}
			if v.first > next {
				frames = append(frames, g.hole(w, next, v.first-next, []view{v}))
				next = v.first
			}
			if frames, budget, err = g.read(v, next, budget, frames, raws); err != nil {
				return nil, fmt.Errorf("follow log: %w", err)
			}
			if n := len(frames); n > 0 && frames[n-1].Writer == w.id {
				next = max(next, frames[n-1].Last()+1)
			}
			if next <= v.last { // the budget is used up
				return frames, nil
			}
		}
	}
}

// beyond returns the files that hold records behind seq, and the first number
// that can be there. gap is how many before it are gone for no known reason: a
// file was removed by other hands. The caller holds group.mu.
func (w *writer) beyond(seq uint64) (next uint64, views []view, gap uint64) {
	if w.last <= seq {
		return seq + 1, nil, 0
	}
	next = seq + 1
	if seq > 0 && seq < w.unknown {
		gap = w.unknown - seq
	}
	next = max(next, w.floor+1)
	for _, s := range w.segs {
		if s.last >= next && s.last >= s.first {
			views = append(views, s.view())
		}
	}
	return next, views, gap
}

// hole reports numbers of which there is no file.
func (g *group) hole(w *writer, first, n uint64, behind []view) retention.Frame {
	f := retention.Frame{Writer: w.id, Group: g.id, First: first, N: int(n), Lost: true}
	if len(behind) > 0 {
		f.Time = behind[0].firstTime
	}
	g.damaged(Problem{Writer: w.id, Group: g.id, First: first, Last: first + n - 1, File: w.dir, Reason: "a file is missing"}, nil)
	return f
}

// read appends the frames of a file from number next on. budget is how many
// bytes may still be read; the first frame of all is read whatever it is. raws,
// if not nil, takes the records' bytes of whole frames, which are not decoded.
func (g *group) read(v view, next uint64, budget int64, frames []retention.Frame, raws *[][]byte) ([]retention.Frame, int64, error) {
	g.mu.Lock()
	m := v.nearest(next - 1)
	g.mu.Unlock()

	pool := readers.Get().(*buffers)
	defer readers.Put(pool)
	w, err := v.walk(g.l.o.FS, m, min(max(budget, minRead), maxRead))
	if err != nil {
		return nil, 0, err
	}
	defer w.close()
	w.buf = pool.window[:0]
	defer func() {
		pool.window = w.buf[:0]
		if cap(pool.window) > maxRead || cap(pool.raw) > maxRead {
			*pool = buffers{} // a rare big frame's memory is not kept
		}
	}()

	for {
		if budget <= 0 && len(frames) > 0 {
			break
		}
		it, err := w.step()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, 0, err
		}
		f := retention.Frame{Writer: v.writer, Group: v.group, First: it.first, N: int(it.n), Time: it.time, Counts: it.counts, Bytes: int(it.end - it.off)}
		reason := "frame header"
		var whole []byte
		if it.bad {
			if f.Counts, err = g.missing(v, it.off); err != nil {
				return nil, 0, err
			}
			f.Lost = true
		} else if it.first+uint64(it.n) > next {
			stored, err := w.at(it.off+int64(it.head), int64(it.stored))
			if err != nil {
				return nil, 0, err
			}
			raw, err := expand(pool.raw[:0], &it.header, v.salt, stored)
			if err == nil && raws != nil && it.first >= next {
				whole = bytes.Clone(raw)
			} else if err == nil {
				f.Records, err = decode(raw, f.N)
			}
			if err == nil && it.codec == codecS2 {
				pool.raw = raw[:0]
			}
			if err != nil {
				f.Lost, f.Records, reason = true, nil, err.Error()
			}
		}
		if f.Lost {
			g.damaged(Problem{Writer: v.writer, Group: v.group, First: f.First, Last: f.First + uint64(f.N) - 1, Counts: f.Counts,
				File: v.path, Offset: it.off, Bytes: it.end - it.off, Reason: reason}, w)
		}
		m.before.add(f.Counts)
		m.off, m.next, m.time = w.off, w.next, w.time
		if f.N == 0 || f.Last() < next {
			continue
		}
		if raws != nil {
			*raws = append(align(*raws, len(frames)), whole)
		}
		frames = append(frames, f.From(next))
		budget -= int64(f.Bytes)
	}
	g.mu.Lock()
	v.remember(m)
	g.mu.Unlock()
	return frames, budget, nil
}

// missing returns the events that the headers of a file do not account for: the
// counts of frames whose own header is damaged. If there are several, the first
// stands for all.
func (g *group) missing(v view, at int64) ([]retention.SiteCount, error) {
	g.mu.Lock()
	v = v.segment.view() // as it is now, so that the totals are of the same moment
	totals := v.totals.minus(nil)
	g.mu.Unlock()
	w, err := v.walk(g.l.o.FS, mark{off: fileHeader, next: v.first, time: v.firstTime}, 1<<20)
	if err != nil {
		return nil, err
	}
	defer w.close()
	first, seen := int64(-1), tally{}
	for {
		it, err := w.step()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if it.bad && it.n > 0 && first < 0 {
			first = it.off
		}
		seen.add(it.counts)
	}
	if first != at {
		return nil, nil
	}
	return totals.minus(seen).list(), nil
}

// End is retention.Log's. It reads headers only, and of a file of which
// everything or nothing lies beyond from, not even those. The own writer is
// always there; before its first frame its Time is 0.
func (l *Log) End(ctx context.Context, id taxonomy.Group, from retention.Position) ([]retention.WriterEnd, error) {
	g, err := l.group(id)
	if err != nil {
		return nil, fmt.Errorf("end of log: %w", err)
	}
	g.files.RLock()
	defer g.files.RUnlock()

	var ends []retention.WriterEnd
	for i := 0; ; i++ {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("end of log: %w", err)
		}
		g.mu.Lock()
		if i >= len(g.writers) {
			g.mu.Unlock()
			return ends, nil
		}
		w := g.writers[i]
		e := retention.WriterEnd{Writer: w.id, Last: w.last, Open: w.open, Time: w.time}
		unfolded, seq := tally{}, from[w.id]
		var split *view
		for _, s := range w.segs {
			e.Bytes += s.size
			if s.last <= seq {
				continue
			}
			for site, n := range s.totals {
				unfolded[site] += n
			}
			if s.first <= seq {
				v := s.view()
				split = &v
			} else if e.Oldest == 0 {
				e.Oldest = s.firstTime
			}
		}
		g.mu.Unlock()
		if split != nil {
			before, oldest, err := g.split(*split, seq)
			if err != nil {
				return nil, fmt.Errorf("end of log: %w", err)
			}
			unfolded, e.Oldest = unfolded.minus(before), oldest
		}
		e.Unfolded = unfolded.list()
		ends = append(ends, e)
	}
}

// split returns the events of a file up to record seq, and the time of the
// frame behind it.
func (g *group) split(v view, seq uint64) (tally, taxonomy.Millis, error) {
	g.mu.Lock()
	m := v.nearest(seq)
	g.mu.Unlock()
	w, err := v.walk(g.l.o.FS, m, minRead)
	if err != nil {
		return nil, 0, err
	}
	defer w.close()
	for {
		it, err := w.step()
		if err != nil {
			return nil, 0, ignoreEOF(err)
		}
		if it.first+uint64(it.n) > seq+1 {
			g.mu.Lock()
			v.remember(m)
			g.mu.Unlock()
			return m.before, it.time, nil
		}
		counts := it.counts
		if it.bad {
			if counts, err = g.missing(v, it.off); err != nil {
				return nil, 0, err
			}
		}
		m.before.add(counts)
		m.off, m.next, m.time = w.off, w.next, w.time
	}
}
