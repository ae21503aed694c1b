package cassandra

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// keep does what goes on while a writer of ours lives: it finds out about the
// earlier ones, uploads, and beats. It ends with ctx, or when another node has
// closed the writer; then the next one begins.
func (l *Log) keep(ctx context.Context, e *era) {
	if !l.insist(ctx, e, "register a writer", func() error { return l.register(ctx, e.writer) }) {
		return
	}
	if !l.insist(ctx, e, "look up earlier writers", func() error { return l.recover(ctx, e) }) {
		return
	}
	close(e.recovered)
	for g := range l.o.Groups {
		e.wg.Go(func() { l.upload(ctx, e, taxonomy.Group(g)) })
	}
	e.wg.Go(func() { l.finishDead(ctx, e) })
	renewed := l.st.o.Now()
	for {
		closed, err := l.beatOnce(ctx, e)
		if ctx.Err() != nil {
			return
		}
		if closed {
			l.logger.Warn("another node has closed our log, since it did not hear of us; going on as a new writer", "writer", e.writer)
			close(e.lost)
			return
		}
		l.trouble(e, "beat", err)
		if now := l.st.o.Now(); now-renewed > taxonomy.Hour {
			renewed = now
			l.renewBeside(ctx, e, now-renewAfter)
		}
		if err == nil && e.mended() {
			l.renewBeside(ctx, e, math.MaxInt64)
		}
		l.wait(ctx, l.o.Life/4)
	}
}

// supervise replaces a writer that another node has closed.
func (l *Log) supervise() {
	for {
		l.turn.RLock()
		e := l.era
		l.turn.RUnlock()
		select {
		case <-e.lost:
			if !l.next() {
				return
			}
		case <-l.ctx.Done():
			return
		}
	}
}

// next begins as a new writer.
func (l *Log) next() bool {
	l.turn.Lock()
	defer l.turn.Unlock()
	if l.ctx.Err() != nil {
		return false
	}
	if err := l.era.end(l.ctx); err != nil {
		l.logger.Error("closing the log of a writer that was closed by another node failed", "err", err)
	}
	if err := l.begin(); err != nil {
		l.logger.Error("the log cannot be opened again; restart ebb", "err", err)
		return false
	}
	return true
}

// mended reports whether an outage is over after which nothing was written again.
func (e *era) mended() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.broke && !e.failing && !e.renewing
}

// renewBeside is renew beside the beats, which must not wait for it. One at a time:
// what could not be done is done with the next.
func (l *Log) renewBeside(ctx context.Context, e *era, old taxonomy.Millis) {
	e.mu.Lock()
	if e.renewing {
		e.mu.Unlock()
		return
	}
	all := e.broke
	e.renewing, e.broke = true, false
	e.mu.Unlock()
	if all {
		old = math.MaxInt64
	}
	e.wg.Go(func() {
		err := l.renew(ctx, e, old)
		e.mu.Lock()
		e.renewing, e.broke = false, e.broke || all && err != nil
		e.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			l.logger.Error("rows of the log that no checkpoint covers could not be written again; it is tried again", "err", err)
		}
	})
}

// renew writes again the own rows that are older than a time and that no checkpoint
// covers: after renewAfter, so that they do not end before they are folded (R5),
// and all of them after an outage. For a cluster that was killed may have forgotten
// what it had acknowledged (commitlog_sync: periodic; a disk that was replaced), and
// at a hole everybody waits (R3) for who alone has the row.
func (l *Log) renew(ctx context.Context, e *era, old taxonomy.Millis) error {
	for g := range l.o.Groups {
		group := taxonomy.Group(g)
		l.mu.Lock()
		from := l.covered[writerGroup{e.writer, group}]
		l.mu.Unlock()
		e.mu.Lock()
		mark := e.marks[g]
		e.mu.Unlock()
		for from < mark {
			frames, err := l.localFrames(ctx, e, group, e.writer, from)
			if err != nil {
				return err
			}
			n := 0
			for n < len(frames) && frames[n].Time < old && frames[n].Last() <= mark {
				n++
			}
			if n == 0 {
				break
			}
			size, err := l.uploadFrames(ctx, frames[:n])
			if err != nil {
				return err
			}
			from = frames[n-1].Last()
			l.wait(ctx, time.Duration(size)*time.Second/time.Duration(l.o.UploadBytes))
		}
	}
	return nil
}

// insist repeats do until it succeeds, or ctx ends.
func (l *Log) insist(ctx context.Context, e *era, what string, do func() error) bool {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := do()
		if ctx.Err() != nil {
			return false
		}
		l.trouble(e, what, err)
		if err == nil {
			return true
		}
		l.wait(ctx, pause)
	}
}

// trouble logs that the cluster is not there, once, and that it is again.
func (l *Log) trouble(e *era, what string, err error) {
	e.mu.Lock()
	was := e.failing
	e.failing = err != nil
	e.broke = e.broke || e.failing
	e.mu.Unlock()
	switch {
	case err != nil && !was:
		l.logger.Error("the log cannot be copied to Cassandra; records are kept here and copied when it answers", "what", what, "err", err)
	case err == nil && was:
		l.logger.Info("the log is copied to Cassandra again")
	}
}

// beatOnce says that the writer lives, and up to where it is at quorum. closed:
// another node has closed it.
func (l *Log) beatOnce(ctx context.Context, e *era) (closed bool, err error) {
	e.mu.Lock()
	e.beatN++
	n := e.beatN
	marks := make(map[int]int64, len(e.marks))
	for g, m := range e.marks {
		marks[g] = int64(m)
	}
	e.mu.Unlock()
	now := l.st.o.Now() // before it is sent: the lease is younger than it looks to others
	ok, err := l.st.s.swap(ctx, beatWriter, n, int64(now+l.life()), marks, e.writer[:])
	if err != nil {
		return false, err // if it went through, no harm: the next is another
	}
	if ok {
		e.mu.Lock()
		e.beat = now
		e.mu.Unlock()
	}
	return !ok, nil
}

// upload copies the own writer's frames of a group, several side by side, and
// each until it is at quorum. The mark follows where none is missing (R3).
//
// Who reads also encodes, ahead of those who send: as soon as one is answered the
// next row is there, so what is under way stays Parallel.
func (l *Log) upload(ctx context.Context, e *era, g taxonomy.Group) {
	rows := make(chan *sending, l.st.o.Parallel)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(rows)
	var queue []*sending // in order; guarded by e.mu
	for range l.st.o.Parallel {
		wg.Go(func() {
			for s := range rows {
				// On failure the same row again, the same bytes.
				if !l.insist(ctx, e, "upload", func() error { return l.writeEncoded(ctx, s.frame, s.counts, s.payload) }) {
					continue // the era has ended
				}
				e.mu.Lock()
				s.done = true
				for len(queue) > 0 && queue[0].done {
					e.marks[g] = queue[0].frame.Last()
					queue = queue[1:]
					if len(queue) == 0 || !queue[0].done {
						close(e.moved)
						e.moved = make(chan struct{})
					}
				}
				e.mu.Unlock()
			}
		})
	}
	from := uint64(0)
	for ctx.Err() == nil {
		grown, err := e.local.Grown(g)
		var frames []retention.Frame
		var raw [][]byte
		if err == nil {
			frames, raw, err = l.localRaw(ctx, e, g, from)
		}
		if ctx.Err() != nil || errors.Is(err, retention.ErrClosed) {
			return
		}
		if err != nil {
			l.logger.Error("the log cannot be read to be copied", "err", err)
			l.wait(ctx, time.Second)
			continue
		}
		if len(frames) == 0 {
			select {
			case <-grown:
			case <-ctx.Done():
			}
			continue
		}
		size := 0
		for i := range frames {
			s := &sending{frame: &frames[i]}
			s.counts, s.payload = encodeRaw(s.frame, raw[i])
			e.mu.Lock()
			queue = append(queue, s)
			e.mu.Unlock()
			select {
			case rows <- s:
			case <-ctx.Done():
				return
			}
			from = s.frame.Last()
			size += s.frame.Bytes
		}
		if size >= pacedFrom {
			l.wait(ctx, time.Duration(size)*time.Second/time.Duration(l.o.UploadBytes))
		}
	}
}

// sending is a frame that is on its way to the cluster.
type sending struct {
	frame           *retention.Frame
	counts, payload []byte
	done            bool
}

func (l *Log) uploadFrames(ctx context.Context, frames []retention.Frame) (n int, err error) {
	for i := range frames {
		n += frames[i].Bytes
	}
	return n, l.st.each(ctx, len(frames), func(ctx context.Context, i int) error { return l.writeRow(ctx, &frames[i]) })
}

// rawLog is a local log that gives frames without decoding their records: most of
// what copying them costs this node.
type rawLog interface {
	Raw(ctx context.Context, g taxonomy.Group, from retention.Position, maxBytes int) ([]retention.Frame, [][]byte, error)
}

// localRaw returns frames of the own writer, with the bytes of their records
// where the local log gives them.
func (l *Log) localRaw(ctx context.Context, e *era, g taxonomy.Group, from uint64) ([]retention.Frame, [][]byte, error) {
	local, ok := e.local.(rawLog)
	if !ok {
		frames, err := l.localFrames(ctx, e, g, e.writer, from)
		return frames, make([][]byte, len(frames)), err
	}
	return local.Raw(ctx, g, e.only(e.writer, from), uploadBatch)
}

// only is the position from which a local log gives what one writer has beyond
// from, and nothing of the others.
func (e *era) only(id taxonomy.WriterID, from uint64) retention.Position {
	at := retention.Position{e.writer: math.MaxInt64}
	for w := range e.dead {
		at[w] = math.MaxInt64
	}
	at[id] = from
	return at
}

// localFrames returns frames of one writer of this folder.
func (l *Log) localFrames(ctx context.Context, e *era, g taxonomy.Group, id taxonomy.WriterID, from uint64) ([]retention.Frame, error) {
	return e.local.Follow(ctx, g, e.only(id, from), uploadBatch)
}

// recover finds out, for each earlier writer of this folder, whether another
// node has closed it. What such a writer had beyond its end is brought back by
// the own writer; all others are ours, and are uploaded under their own name.
func (l *Log) recover(ctx context.Context, e *era) error {
	for id, d := range e.dead {
		w, err := l.writer(ctx, id)
		if errors.Is(err, retention.ErrNotFound) {
			if err := l.register(ctx, id); err != nil {
				return err
			}
			d.ours = true
			continue
		}
		if err != nil {
			return err
		}
		if !w.closed {
			for g := range d.marks {
				d.marks[g] = uint64(w.marks[g])
			}
			d.ours = true // and if another is closing it, the first to store the end decides
			if !w.closing {
				continue
			}
			// Nobody must read it from here while another may end it lower.
			if err := l.closeDead(ctx, e, id, d); err != nil {
				return err
			}
			continue
		}
		if err := l.settleDead(ctx, e, id, d, w.ends); err != nil {
			return err
		}
	}
	return nil
}

// settleDead notes the end of an earlier writer and brings back what it had
// beyond it.
func (l *Log) settleDead(ctx context.Context, e *era, id taxonomy.WriterID, d *deadWriter, ends map[int]int64) error {
	whole := true
	for g, last := range d.last {
		whole = whole && uint64(ends[g]) >= last
	}
	if !whole {
		e.mu.Lock()
		d.ours = false
		e.mu.Unlock()
		if err := l.bringBack(ctx, e, id, d, ends); err != nil {
			return fmt.Errorf("bring back the rest of writer %s: %w", id, err)
		}
	}
	e.mu.Lock()
	d.ours, d.closed, d.ends = whole, true, ends
	e.mu.Unlock()
	return nil
}

// finishDead uploads and closes the earlier writers of this folder.
func (l *Log) finishDead(ctx context.Context, e *era) {
	for id, d := range e.dead {
		if !l.insist(ctx, e, "close an earlier writer", func() error { return l.closeDead(ctx, e, id, d) }) {
			return
		}
	}
	if err := l.forget(ctx); err != nil && ctx.Err() == nil {
		l.logger.Warn("rows of writers that ended long ago stay", "err", err)
	}
}

// closeDead uploads all of an earlier writer of this folder and closes it at
// its last record, unless another node was faster.
func (l *Log) closeDead(ctx context.Context, e *era, id taxonomy.WriterID, d *deadWriter) error {
	d.closing.Lock()
	defer d.closing.Unlock()
	if d.closed {
		return nil
	}
	ends := make(map[int]int64, len(d.last))
	for g, last := range d.last {
		for from := d.marks[g]; from < last; {
			frames, err := l.localFrames(ctx, e, taxonomy.Group(g), id, from)
			if err != nil {
				return err
			}
			if len(frames) == 0 {
				break
			}
			n, err := l.uploadFrames(ctx, frames)
			if err != nil {
				return err
			}
			from = frames[len(frames)-1].Last()
			if n >= pacedFrom {
				l.wait(ctx, time.Duration(n)*time.Second/time.Duration(l.o.UploadBytes))
			}
		}
		ends[g] = int64(last)
	}
	w, err := l.closeAt(ctx, id, ends)
	if err != nil {
		return err
	}
	return l.settleDead(ctx, e, id, d, w.ends)
}

// bringBack appends what a writer of this folder had beyond the end at which
// another node closed it, each record with its first place. It can be done
// again after a crash: what has come back already is found by its first place.
func (l *Log) bringBack(ctx context.Context, e *era, id taxonomy.WriterID, d *deadWriter, ends map[int]int64) error {
	for g, last := range d.last {
		group := taxonomy.Group(g)
		from, err := l.cameBack(ctx, e, group, id, uint64(ends[g]))
		if err != nil {
			return err
		}
		for from < last {
			frames, err := l.localFrames(ctx, e, group, id, from)
			if err != nil {
				return err
			}
			if len(frames) == 0 {
				break
			}
			for _, f := range frames {
				var records []taxonomy.Record
				for i := range f.Records {
					r := f.Records[i]
					if r.Kind == taxonomy.RecordTick {
						continue // says only that time passed
					}
					if r.First.IsZero() {
						r.First = taxonomy.Ref{Writer: id, Seq: f.First + uint64(i)}
					}
					records = append(records, r)
				}
				if f.Lost {
					records = lostCounts(&f, l.st.o.Now())
				}
				if len(records) > 0 {
					if _, _, err := e.local.Append(ctx, group, records, retention.AckLocal); err != nil {
						return err
					}
				}
				from = f.Last()
			}
		}
		if err := e.local.Trim(ctx, group, retention.Position{id: last}); err != nil {
			return err
		}
	}
	return nil
}

// lostCounts stands for a damaged frame: its events were received, and are
// dropped (R2).
func lostCounts(f *retention.Frame, now taxonomy.Millis) []taxonomy.Record {
	r := taxonomy.Record{Kind: taxonomy.RecordCounts, Received: now, First: taxonomy.Ref{Writer: f.Writer, Seq: f.Last()}}
	for _, c := range f.Counts {
		r.Counts = append(r.Counts, taxonomy.Count{Site: c.Site, Outcome: taxonomy.Dropped, Reason: taxonomy.ReasonCorrupt, N: c.N})
	}
	if len(r.Counts) == 0 {
		return nil
	}
	return []taxonomy.Record{r}
}

// cameBack returns up to which number a writer's records came back already.
func (l *Log) cameBack(ctx context.Context, e *era, g taxonomy.Group, id taxonomy.WriterID, end uint64) (uint64, error) {
	at := retention.Position{id: math.MaxInt64}
	for {
		frames, err := e.local.Follow(ctx, g, at, uploadBatch)
		if err != nil {
			return 0, err
		}
		if len(frames) == 0 {
			return end, nil
		}
		for i := range frames {
			f := &frames[i]
			at[f.Writer] = f.Last()
			for j := range f.Records {
				if r := &f.Records[j]; r.First.Writer == id {
					end = max(end, r.First.Seq)
				}
			}
		}
	}
}
