package log

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/errors/oserror"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Trim is retention.Log's. Bytes go by whole files, so what is trimmed may
// still be followed until its file goes. The file that is being written goes too
// when all of it is covered: the next record begins another.
func (l *Log) Trim(ctx context.Context, id taxonomy.Group, to retention.Position) error {
	g, err := l.group(id)
	if err != nil {
		return fmt.Errorf("trim log: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("trim log: %w", err)
	}
	g.files.Lock() // waits for readers, while appends go on
	defer g.files.Unlock()

	g.mu.Lock()
	writers := append([]*writer(nil), g.writers...)
	g.mu.Unlock()
	for _, w := range writers {
		if err := g.trim(w, to[w.id]); err != nil {
			return fmt.Errorf("trim log: %w", err)
		}
	}
	l.mu.Lock()
	full := l.full
	l.mu.Unlock()
	if full {
		_ = l.writable() // there may be room again; if not, Append tries too
	}
	return nil
}

// trim removes a writer's files up to record to, the oldest first, so that what
// is left after a crash has no hole. The names are gone for good when it
// returns: only then may a checkpoint leave the writer out (R1).
func (g *group) trim(w *writer, to uint64) error {
	fs := g.l.o.FS
	removed := 0
	for {
		s, err := g.removeFirst(w, to)
		if err != nil {
			return err
		}
		if s == nil {
			break
		}
		removed++
		g.mu.Lock()
		w.segs = w.segs[1:]
		w.floor = s.last
		g.mu.Unlock()
		g.l.grow(-s.size)
	}
	gone := !w.open && len(w.segs) == 0
	if removed == 0 && !gone {
		return nil
	}
	if !gone {
		return syncDir(fs, w.dir)
	}
	if err := remove(fs, w.dir); err != nil {
		return err
	}
	if err := syncDir(fs, g.l.o.Dir); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, o := range g.writers {
		if o == w {
			g.writers = append(g.writers[:i:i], g.writers[i+1:]...)
			break
		}
	}
	return nil
}

// removeFirst removes a writer's oldest file if it is covered, and returns it.
func (g *group) removeFirst(w *writer, to uint64) (*segment, error) {
	if w.open {
		g.io.Lock() // it may be the file that is being written
		defer g.io.Unlock()
	}
	g.mu.Lock()
	var s *segment
	if len(w.segs) > 0 && w.segs[0].last <= to {
		s = w.segs[0]
	}
	g.mu.Unlock()
	if s == nil {
		return nil, nil
	}
	if s == g.active {
		g.closeFile()
		g.active = nil
	}
	return s, remove(g.l.o.FS, s.path)
}

func remove(fs FS, path string) error {
	if err := fs.Remove(path); err != nil && !oserror.IsNotExist(err) {
		return err
	}
	return nil
}

// CloseWriter is retention.Log's. Every earlier writer of this folder is closed
// since Open, so this only tells its end; a writer whose records are all trimmed,
// or that was never here, gives ErrNotFound.
func (l *Log) CloseWriter(ctx context.Context, id taxonomy.Group, w taxonomy.WriterID) (uint64, error) {
	g, err := l.group(id)
	if err != nil {
		return 0, fmt.Errorf("close writer: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("close writer: %w", err)
	}
	if w == l.o.Writer {
		return 0, errors.New("close writer: it is this log's own, which is running")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, o := range g.writers {
		if o.id == w {
			return o.last, nil
		}
	}
	return 0, fmt.Errorf("close writer %s: %w", w, retention.ErrNotFound)
}

// Oldest returns the day of the oldest byte of the log on disk, quarantine
// included, or ok false if there is none: for the audit (P5).
func (l *Log) Oldest() (day taxonomy.Day, ok bool) {
	var oldest taxonomy.Millis
	add := func(t taxonomy.Millis) {
		if !ok || t < oldest {
			oldest, ok = t, true
		}
	}
	for _, g := range l.groups {
		g.mu.Lock()
		for _, w := range g.writers {
			if t, has := w.oldest(); has {
				add(t)
			}
		}
		g.mu.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.problems {
		if p.Kept != "" {
			add(p.At)
		}
	}
	return oldest.Day(), ok
}
