package log

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/klauspost/compress/s2"
)

// commit is what will be one frame: whole batches, in the order of their
// numbers. Fields but err are guarded by group.mu until it leaves the queue;
// err is written before done is closed.
type commit struct {
	first  uint64
	n      int
	raw    []byte
	counts tally
	room   int64 // what was set aside of MaxBytes
	done   chan struct{}
	err    error
}

var encodings = sync.Pool{New: func() any { return new([]byte) }}

// Append is retention.Log's. AckQuorum is answered by AckLocal: there is no
// cluster behind this log. A batch is at most 16 MiB when encoded. If ctx ends
// while the batch is on its way to the disk, the error is ErrUnknown. When the
// disk turns out to be full, batches that were appended with AckNone and not
// yet written go with those that are refused: they were never received (R12).
func (l *Log) Append(ctx context.Context, id taxonomy.Group, records []taxonomy.Record, ack retention.Ack) (taxonomy.Ref, retention.Ack, error) {
	fail := func(err error) (taxonomy.Ref, retention.Ack, error) {
		return taxonomy.Ref{}, retention.AckNone, fmt.Errorf("append to log: %w", err)
	}
	g, err := l.group(id)
	if err != nil {
		return fail(err)
	}
	if len(records) == 0 {
		return fail(errors.New("the batch is empty"))
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	pooled := encodings.Get().(*[]byte)
	defer encodings.Put(pooled)
	b, privileged := (*pooled)[:0], true
	for i := range records {
		b = taxonomy.AppendRecord(b, &records[i])
		privileged = privileged && (records[i].Kind == taxonomy.RecordTick || records[i].Kind == taxonomy.RecordErasure)
	}
	*pooled = b
	if len(b) > maxBatch {
		return fail(fmt.Errorf("the batch has %d bytes, at most %d; append it in parts", len(b), maxBatch))
	}
	c, first, err := g.enqueue(b, records, privileged, ack > retention.AckNone)
	if err != nil {
		return fail(err)
	}
	ref := taxonomy.Ref{Writer: g.own.id, Seq: first}
	if ack == retention.AckNone {
		return ref, retention.AckNone, nil
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		return fail(fmt.Errorf("%w: %w", retention.ErrUnknown, ctx.Err()))
	}
	if c.err != nil {
		return fail(c.err)
	}
	return ref, retention.AckLocal, nil
}

// enqueue adds a batch to what is written next and gives it its numbers.
func (g *group) enqueue(b []byte, records []taxonomy.Record, privileged, wait bool) (*commit, uint64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.queued > 0 && g.queued+int64(len(b)) > g.l.o.QueueBytes {
		return nil, 0, fmt.Errorf("%d bytes wait for the disk: %w", g.queued, retention.ErrFull)
	}
	// Room is set aside for the worst case, so that nothing that was let in here
	// can pass the bound when it is written.
	room := int64(len(b)) + frameHeader
	for i := range records {
		room += int64(len(records[i].Site)) + 12
		for j := range records[i].Counts {
			room += int64(len(records[i].Counts[j].Site)) + 12
		}
	}
	if err := g.l.setAside(room, privileged); err != nil {
		return nil, 0, err
	}
	var c *commit
	if k := len(g.queue); k > 0 && len(g.queue[k-1].raw)+len(b) <= frameTarget {
		c = g.queue[k-1]
	} else {
		c = &commit{first: g.next, done: make(chan struct{}), counts: tally{}}
		g.queue = append(g.queue, c)
	}
	first := g.next
	g.next += uint64(len(records))
	g.queued += int64(len(b))
	c.n += len(records)
	c.raw = append(c.raw, b...)
	c.room += room
	for i := range records {
		switch r := &records[i]; r.Kind {
		case taxonomy.RecordEvent:
			c.counts[r.Site]++
		case taxonomy.RecordCounts:
			for j := range r.Counts {
				c.counts[r.Counts[j].Site] += r.Counts[j].N
			}
		}
	}
	switch {
	case wait || len(c.raw) >= frameTarget/2:
		signal(g.wake)
	case c.first == first: // the first of a commit for which nobody waits
		signal(g.lazy)
	}
	return c, first, nil
}

// setAside takes n bytes of what the log may occupy.
func (l *Log) setAside(n int64, privileged bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return fmt.Errorf("the log is %w", retention.ErrClosed)
	case l.failed != nil:
		return fmt.Errorf("the log is %w since %w; restart ebb", retention.ErrClosed, l.failed)
	}
	bound := l.o.MaxBytes
	if privileged {
		bound += l.o.ReserveBytes
	}
	if l.bytes+l.queued+n > bound {
		return fmt.Errorf("the log holds %d of %d bytes: %w; is the fold behind?", l.bytes, l.o.MaxBytes, retention.ErrFull)
	}
	l.queued += n
	return nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// recent reports whether something was appended at or after t, or waits.
func (g *group) recent(t taxonomy.Millis) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.own.time >= t || len(g.queue) > 0
}

// run commits what is queued: at once if someone waits, else within 100 ms.
func (g *group) run() {
	defer g.flush()
	var timer <-chan time.Time
	for {
		select {
		case <-g.lazy:
			if timer == nil {
				timer = g.l.o.After(flushEvery)
			}
		case <-g.wake:
			timer = nil
			g.flush()
		case <-timer:
			timer = nil
			g.flush()
		case <-g.l.stop:
			return
		}
	}
}

// flush writes all that is queued.
func (g *group) flush() {
	g.io.Lock()
	defer g.io.Unlock()
	for {
		g.mu.Lock()
		if len(g.queue) == 0 {
			g.mu.Unlock()
			return
		}
		c := g.queue[0]
		g.queue = g.queue[1:]
		g.queued -= int64(len(c.raw))
		g.mu.Unlock()

		err := g.l.writable()
		if err == nil {
			err = g.write(c)
		}
		if err != nil {
			g.refuse(c, err)
			continue
		}
		g.l.settle(c.room)
		close(c.done)
	}
}

// refuse ends a commit that was not written, and those behind it: they have
// numbers that would leave a hole.
func (g *group) refuse(c *commit, err error) {
	g.mu.Lock()
	rest := g.queue
	g.queue, g.queued, g.next = nil, 0, g.own.last+1
	g.mu.Unlock()
	c.err = err
	if errors.Is(err, retention.ErrUnknown) {
		err = g.l.usable() // of those behind it nothing can have been written
	}
	for _, r := range rest {
		r.err = err
	}
	for _, r := range append(rest, c) {
		g.l.settle(r.room)
		close(r.done)
	}
}

func (l *Log) settle(room int64) {
	l.mu.Lock()
	l.queued -= room
	l.mu.Unlock()
}

// resize notes that a file reaches to size, if it did not before.
func (g *group) resize(s *segment, size int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := size - s.size; n > 0 {
		s.size = size
		g.l.grow(n)
	}
}

// grow adds to what is on disk, or takes away.
func (l *Log) grow(n int64) {
	l.mu.Lock()
	l.bytes += n
	l.mu.Unlock()
}

// write makes a commit durable as one frame. Its errors: ErrFull when nothing
// of it can come back, ErrUnknown when it may, which stops the log.
func (g *group) write(c *commit) error {
	g.mu.Lock()
	t := max(g.l.o.Now(), g.own.time)
	g.mu.Unlock()

	h := header{kind: kindData, first: c.first, n: uint32(c.n), raw: uint32(len(c.raw)), time: t, counts: c.counts.list()}
	payload := c.raw
	if !g.l.o.NoCompression {
		g.packed = s2.Encode(g.packed[:cap(g.packed)], c.raw)
		if len(g.packed) < len(c.raw) {
			h.codec, payload = codecS2, g.packed
		}
	}
	if g.active != nil && g.active.limit+frameHeader+int64(len(payload)) > g.l.o.SegmentBytes {
		if err := g.seal(false); err != nil {
			return err
		}
	}
	if g.active == nil {
		if err := g.create(c.first, t); err != nil {
			return err
		}
	}
	s := g.active
	isNew := s.last < s.first
	at := s.limit
	b := g.frame[:0]
	if isNew {
		b = appendFileHeader(b, s.place, s.firstTime)
		at = 0
	}
	h.offset, h.synced = s.limit, s.limit
	b = appendFrame(b, s.salt, &h, payload)
	g.frame = b
	size := at + int64(len(b))

	if err := g.put(b, at); err != nil {
		return err
	}
	if err := g.file.SyncData(); err != nil {
		return g.broken("sync", err)
	}

	g.resize(s, size)
	g.mu.Lock()
	if isNew {
		g.own.segs = append(g.own.segs, s)
	}
	s.limit = size
	s.last, s.lastTime = h.next()-1, t
	s.totals.add(h.counts)
	g.own.last, g.own.time = s.last, t
	grown := g.grown
	g.grown = nil
	g.mu.Unlock()
	if grown != nil {
		close(grown)
	}
	return nil
}

// put writes b at an offset of the active file. If the disk is full, the log
// goes on as if nothing had been written: what was is beyond the last good
// frame, is no whole frame, and is overwritten by the next.
func (g *group) put(b []byte, at int64) error {
	n, err := g.file.WriteAt(b, at)
	if err == nil {
		return nil
	}
	if !isFull(err) || n >= len(b) {
		return g.broken("write", err)
	}
	g.l.diskFull(err)
	if s := g.active; s.last < s.first { // made for this frame: leave no empty file
		g.closeFile()
		g.active = nil
		if err := g.l.o.FS.Remove(s.path); err != nil {
			return g.broken("remove", err)
		}
	} else {
		g.resize(s, at+int64(n))
	}
	return fmt.Errorf("write %s: %w: %w", g.name(), retention.ErrFull, err)
}

// name names the group in errors.
func (g *group) name() string { return fmt.Sprintf("log of group %d", g.id) }

// broken stops the log.
func (g *group) broken(what string, err error) error {
	err = fmt.Errorf("%s %s: %w", what, g.name(), err)
	g.l.fail(err)
	return fmt.Errorf("%w: %w", retention.ErrUnknown, err)
}

// create makes the file that begins with the given record. Nothing is written
// yet: its header goes with the first frame.
func (g *group) create(first uint64, t taxonomy.Millis) error {
	fs := g.l.o.FS
	if !g.dirs {
		if err := fs.MkdirAll(g.own.dir, 0o755); err != nil {
			return g.noFile(err)
		}
		if err := syncDir(fs, g.l.o.Dir); errors.Is(err, errNoDir) {
			return g.noFile(err)
		} else if err != nil {
			return g.broken("make a folder for", err)
		}
		g.dirs = true
	}
	p := place{g.own.id, g.id, first}
	s := &segment{place: p, salt: p.salt(), path: fs.PathJoin(g.own.dir, segmentName(first)),
		last: first - 1, limit: fileHeader, firstTime: t, lastTime: t, totals: tally{}}
	f, err := fs.OpenReadWrite(s.path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return g.noFile(err)
	}
	if err := syncDir(fs, g.own.dir); err != nil {
		if !errors.Is(err, errNoDir) {
			return g.broken("make a file for", err)
		}
		if err := errors.Join(f.Close(), fs.Remove(s.path)); err != nil {
			return g.broken("remove a file of", err)
		}
		return g.noFile(err)
	}
	g.active, g.file = s, f
	return nil
}

// noFile is the outcome when a file could not be made: nothing was written, so
// the log may go on when there is space, or descriptors, again.
func (g *group) noFile(err error) error {
	g.l.diskFull(err)
	return fmt.Errorf("make a file for %s: %w: %w", g.name(), retention.ErrFull, err)
}

// seal ends the active file, if there is one. The caller holds io. With last
// set nothing more is to be written, and a stopped log only closes the file.
func (g *group) seal(last bool) error {
	s := g.active
	if s == nil {
		return nil
	}
	if last && g.l.Err() != nil {
		g.closeFile()
		g.active = nil
		return nil
	}
	b := appendSeal(g.frame[:0], s.salt, s.limit, s.size, s.last, s.lastTime, s.totals.list())
	if err := g.put(b, s.limit); err != nil {
		if last {
			g.closeFile() // without a seal the next start scans the file: no harm
			g.active = nil
		}
		return err
	}
	if err := g.file.SyncData(); err != nil {
		return g.broken("sync", err)
	}
	g.resize(s, s.limit+int64(len(b)))
	g.closeFile()
	g.active = nil
	return nil
}

func (g *group) closeFile() {
	if err := g.file.Close(); err != nil { // all that was acknowledged is synced
		g.l.logger.Warn("closing a log file failed", "err", err)
	}
	g.file = nil
}

// Rotate seals the group's file, so that Trim can remove it: the nightly pass
// calls it, for bytes of an erased visitor to go though the file is not full.
func (l *Log) Rotate(ctx context.Context, id taxonomy.Group) error {
	g, err := l.group(id)
	if err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	g.io.Lock()
	defer g.io.Unlock()
	if err := errors.Join(ctx.Err(), l.usable()); err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	if err := g.seal(false); err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	return nil
}
