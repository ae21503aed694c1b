package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// ModelLog is a retention.Log in memory: one writer of several that share their
// frames. What was appended with AckNone becomes durable with the writer's next
// durable append, 100 ms later by the clock, or at Sync; until then nobody
// follows it and Crash loses it (R12).
type ModelLog struct {
	shared *sharedLog
	id     taxonomy.WriterID
}

var _ retention.Log = (*ModelLog)(nil)

// NewLog returns an empty log and its first writer. The seed decides the IDs of
// writers, and nothing else.
func NewLog(seed uint64, now func() taxonomy.Millis) *ModelLog {
	s := &sharedLog{now: now, rand: rand.New(rand.NewPCG(seed, 0x6562626c6f67)), writers: map[writerGroup]*modelWriter{}, running: map[taxonomy.WriterID]bool{}}
	return s.start()
}

// NewWriter returns a further writer of the same log, as a new process or node
// would be. Each follows the records of all.
func (l *ModelLog) NewWriter() *ModelLog {
	l.shared.mu.Lock()
	defer l.shared.mu.Unlock()
	return l.shared.start()
}

// Writer returns the ID under which the log appends.
func (l *ModelLog) Writer() taxonomy.WriterID { return l.id }

// Sync makes durable what this writer has appended.
func (l *ModelLog) Sync() {
	l.shared.mu.Lock()
	defer l.shared.mu.Unlock()
	l.shared.sync(l.id)
}

// Crash stops the writer, as kill -9 does: what was not durable is gone, and
// every later call returns ErrClosed. Others may then close it (CloseWriter).
func (l *ModelLog) Crash() {
	s := l.shared
	s.mu.Lock()
	defer s.mu.Unlock()
	s.age()
	delete(s.running, l.id)
	for k, w := range s.writers {
		if k.writer == l.id {
			w.frames = w.frames[:w.durable]
		}
	}
}

// Corrupt makes the durable frame that holds the given record unreadable: from
// now on it is followed as lost (R2). It reports whether there is such a frame.
func (l *ModelLog) Corrupt(group taxonomy.Group, at taxonomy.Ref) bool {
	s := l.shared
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.writers[writerGroup{at.Writer, group}]
	if w == nil {
		return false
	}
	for i := range w.frames[:w.durable] {
		f := &w.frames[i]
		if f.head.First <= at.Seq && at.Seq <= f.head.Last() {
			f.head.Lost = true
			return true
		}
	}
	return false
}

type writerGroup struct {
	writer taxonomy.WriterID
	group  taxonomy.Group
}

type modelFrame struct {
	head  retention.Frame // without records
	bytes []byte          // the records
}

// records returns the frame's records, none if it is lost. The caller owns them.
func (f *modelFrame) records() (list []taxonomy.Record, err error) {
	if f.head.Lost {
		return nil, nil
	}
	for rest := f.bytes; len(rest) > 0; {
		var r taxonomy.Record
		if r, rest, err = taxonomy.DecodeRecord(rest); err != nil {
			return nil, fmt.Errorf("model: a record of writer %s does not decode: %w", f.head.Writer, err)
		}
		list = append(list, r)
	}
	return list, nil
}

// modelWriter is what one writer wrote to one group.
type modelWriter struct {
	frames  []modelFrame // what is not trimmed
	durable int          // how many of them are
	last    uint64       // the number of the last durable record, trimmed or not
	time    taxonomy.Millis
	closed  bool // by CloseWriter, at last
}

type sharedLog struct {
	mu      sync.Mutex
	now     func() taxonomy.Millis
	rand    *rand.Rand
	writers map[writerGroup]*modelWriter
	order   []writerGroup // as they first appended
	running map[taxonomy.WriterID]bool
}

func (s *sharedLog) start() *ModelLog {
	var id taxonomy.WriterID
	for i := range id {
		id[i] = byte(s.rand.Uint32())
	}
	s.running[id] = true
	return &ModelLog{s, id}
}

// sync makes all frames of a writer durable.
func (s *sharedLog) sync(id taxonomy.WriterID) {
	for k, w := range s.writers {
		if k.writer == id {
			w.harden(len(w.frames))
		}
	}
}

// age makes durable what was appended 100 ms ago or earlier.
func (s *sharedLog) age() {
	now := s.now()
	for _, w := range s.writers {
		n := w.durable
		for n < len(w.frames) && w.frames[n].head.Time+100 <= now {
			n++
		}
		w.harden(n)
	}
}

func (w *modelWriter) harden(n int) {
	for ; w.durable < n; w.durable++ {
		f := &w.frames[w.durable].head
		w.last, w.time = f.Last(), f.Time
	}
}

// Append implements retention.Log. AckQuorum is reached, as if there were one
// node.
func (l *ModelLog) Append(ctx context.Context, group taxonomy.Group, records []taxonomy.Record, ack retention.Ack) (taxonomy.Ref, retention.Ack, error) {
	if err := ctx.Err(); err != nil {
		return taxonomy.Ref{}, 0, err
	}
	if len(records) == 0 {
		return taxonomy.Ref{}, 0, errors.New("append: an empty batch")
	}
	s := l.shared
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running[l.id] {
		return taxonomy.Ref{}, 0, fmt.Errorf("append: %w", retention.ErrClosed)
	}
	s.age()
	k := writerGroup{l.id, group}
	w := s.writers[k]
	if w == nil {
		w = &modelWriter{}
		s.writers[k] = w
		s.order = append(s.order, k)
	}
	first, now := w.last+1, max(s.now(), w.time)
	if n := len(w.frames); n > 0 {
		h := &w.frames[n-1].head
		first, now = h.Last()+1, max(now, h.Time)
	}
	f := modelFrame{head: retention.Frame{Writer: l.id, Group: group, First: first, N: len(records), Time: now, Counts: retention.CountSites(records)}}
	for i := range records {
		f.bytes = taxonomy.AppendRecord(f.bytes, &records[i])
	}
	f.head.Bytes = 64 + len(f.bytes)
	w.frames = append(w.frames, f)
	if ack >= retention.AckLocal {
		s.sync(l.id)
	}
	return taxonomy.Ref{Writer: l.id, Seq: first}, ack, nil
}

// Follow implements retention.Log.
func (l *ModelLog) Follow(ctx context.Context, group taxonomy.Group, from retention.Position, maxBytes int) ([]retention.Frame, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := l.shared
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running[l.id] {
		return nil, fmt.Errorf("follow: %w", retention.ErrClosed)
	}
	s.age()
	var out []retention.Frame
	size := 0
	for _, k := range s.order {
		if k.group != group {
			continue
		}
		w := s.writers[k]
		for i := range w.frames[:w.durable] {
			f := &w.frames[i]
			if f.head.Last() <= from[k.writer] {
				continue
			}
			if len(out) > 0 && size+f.head.Bytes > maxBytes {
				break
			}
			size += f.head.Bytes
			g := f.head
			g.Counts = slices.Clone(g.Counts)
			var err error
			if g.Records, err = f.records(); err != nil {
				return nil, err
			}
			out = append(out, g)
		}
	}
	return out, nil
}

// End implements retention.Log. A writer that runs but has not appended to the
// group yet is not open there: nobody has to wait for it.
func (l *ModelLog) End(ctx context.Context, group taxonomy.Group, from retention.Position) ([]retention.WriterEnd, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := l.shared
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running[l.id] {
		return nil, fmt.Errorf("end: %w", retention.ErrClosed)
	}
	s.age()
	var ends []retention.WriterEnd
	for _, k := range s.order {
		w := s.writers[k]
		if k.group != group || w.closed && len(w.frames) == 0 {
			continue
		}
		e := retention.WriterEnd{Writer: k.writer, Last: w.last, Open: !w.closed, Time: w.time}
		for i := range w.frames[:w.durable] {
			f := &w.frames[i].head
			e.Bytes += int64(f.Bytes)
			if f.Last() <= from[k.writer] {
				continue
			}
			if e.Oldest == 0 {
				e.Oldest = f.Time
			}
			for _, c := range f.Counts {
				e.Unfolded = addCount(e.Unfolded, c)
			}
		}
		ends = append(ends, e)
	}
	return ends, nil
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

// Trim implements retention.Log.
func (l *ModelLog) Trim(ctx context.Context, group taxonomy.Group, to retention.Position) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s := l.shared
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running[l.id] {
		return fmt.Errorf("trim: %w", retention.ErrClosed)
	}
	s.age()
	for id, seq := range to {
		w := s.writers[writerGroup{id, group}]
		if w == nil {
			continue
		}
		n := 0
		for n < w.durable && w.frames[n].head.Last() <= seq {
			n++
		}
		w.frames, w.durable = w.frames[n:], w.durable-n
	}
	return nil
}

// CloseWriter implements retention.Log.
func (l *ModelLog) CloseWriter(ctx context.Context, group taxonomy.Group, id taxonomy.WriterID) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s := l.shared
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.running[l.id]:
		return 0, fmt.Errorf("close writer: %w", retention.ErrClosed)
	case id == l.id:
		return 0, fmt.Errorf("close writer %s: it is this log's own", id)
	case s.running[id]:
		return 0, fmt.Errorf("close writer %s: it still runs: %w", id, retention.ErrHeld)
	}
	w := s.writers[writerGroup{id, group}]
	if w == nil {
		return 0, fmt.Errorf("close writer %s: it wrote nothing to group %d: %w", id, group, retention.ErrNotFound)
	}
	w.closed = true
	return w.last, nil
}
