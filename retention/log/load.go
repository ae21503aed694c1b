package log

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// load reads what is in the folder. Of a sealed file only header and seal are
// read: what is within is checked when it is followed. A file without a seal was
// being written when its process died; it is read whole, cut and sealed.
func (l *Log) load() error {
	fs, dir := l.o.FS, l.o.Dir
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := syncDir(fs, fs.PathDir(dir)); err != nil {
		return err
	}
	names, err := fs.List(dir)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		id, gid, ok := parseFolder(name)
		if !ok {
			continue
		}
		if int(gid) >= len(l.groups) {
			return fmt.Errorf("%s holds records of group %d, but there are %d groups; set the number of groups back", name, gid, len(l.groups))
		}
		if id == l.o.Writer {
			return fmt.Errorf("writer %s has been here before; a writer is one start of one process", id)
		}
		g := l.groups[gid]
		w := &writer{id: id, dir: fs.PathJoin(dir, name)}
		if err := g.loadWriter(w); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if len(w.segs) == 0 {
			if err := fs.Remove(w.dir); err != nil {
				return err
			}
			if err := syncDir(fs, dir); err != nil {
				return err
			}
			continue
		}
		g.writers = append(g.writers, w)
	}
	for _, g := range l.groups {
		// Closed writers come before the own one, in the order in which they
		// lived as far as their clocks tell: the fold then sees what is older
		// first. Nothing depends on it (R8).
		slices.SortStableFunc(g.writers, func(a, b *writer) int {
			return int(min(1, max(-1, a.segs[0].firstTime-b.segs[0].firstTime)))
		})
	}
	return l.loadQuarantine()
}

// loadWriter finds a writer's files and its end.
func (g *group) loadWriter(w *writer) error {
	fs := g.l.o.FS
	firsts, leftover, err := segmentFirsts(fs, w.dir)
	if err != nil {
		return err
	}
	for _, name := range leftover {
		if err := fs.Remove(fs.PathJoin(w.dir, name)); err != nil {
			return err
		}
	}
	for i, first := range firsts {
		p := place{w.id, g.id, first}
		s := &segment{place: p, salt: p.salt(), path: fs.PathJoin(w.dir, segmentName(first)), totals: tally{}, last: first - 1}
		var next uint64 // the number of the first record of the file behind
		if i+1 < len(firsts) {
			next = firsts[i+1]
		}
		empty, err := g.loadSegment(s, next)
		if err != nil {
			return fmt.Errorf("%s: %w", segmentName(first), err)
		}
		if empty {
			if err := fs.Remove(s.path); err != nil {
				return err
			}
			if err := syncDir(fs, w.dir); err != nil {
				return err
			}
			continue
		}
		if s.firstTime == 0 { // nothing in it says when it was
			s.firstTime = w.time
		}
		s.lastTime = max(s.lastTime, s.firstTime)
		w.segs = append(w.segs, s)
		w.last, w.time = s.last, s.lastTime
		g.l.bytes += s.size
	}
	if len(w.segs) > 0 {
		w.floor = w.segs[0].first - 1
		w.unknown = w.floor
	}
	return nil
}

// loadSegment reads what must be known of a file. Empty: it was made and then
// the process died, before there was a frame.
func (g *group) loadSegment(s *segment, next uint64) (empty bool, err error) {
	f, err := g.l.o.FS.Open(s.path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return false, err
	}
	s.size = st.Size()
	w := &window{f: f, limit: s.size, chunk: 4096}

	b, err := w.at(0, fileHeader)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	t, headErr := parseFileHeader(b, s.place)
	if errors.Is(headErr, errNewer) {
		return false, headErr
	}
	s.firstTime, s.lastTime = t, t
	h, ok, err := w.header(fileHeader, s.salt)
	if err != nil {
		return false, err
	}
	if ok && h.kind == kindData {
		s.firstTime = h.time
	}

	if s.firstTime == 0 { // both headers are damaged: the next frame's will do
		walker := &walker{window: window{f: f, limit: s.size, chunk: 1 << 20}, salt: s.salt, off: fileHeader, next: s.first}
		it, err := walker.step()
		if ignoreEOF(err) != nil {
			return false, err
		}
		s.firstTime = it.time
	}

	sealed, err := s.readSeal(w)
	if err != nil {
		return false, err
	}
	if !sealed {
		if empty, err = g.recover(s, next); empty || err != nil {
			return empty, err
		}
	}
	if headErr != nil {
		g.damaged(Problem{Writer: s.writer, Group: s.group, First: s.first, File: s.path, Bytes: fileHeader, Reason: headErr.Error()}, nil)
	}
	return false, nil
}

// readSeal looks for the seal at the end of a file and believes it.
func (s *segment) readSeal(w *window) (bool, error) {
	b, err := w.at(w.limit-trailer, trailer)
	if err != nil {
		return false, ignoreEOF(err)
	}
	off, ok := parseTrailer(b, s.salt)
	if !ok {
		return false, nil
	}
	h, ok, err := w.header(off, s.salt)
	if !ok || err != nil {
		return false, err
	}
	if h.kind != kindSeal || h.first <= s.first || h.end() != w.limit {
		return false, nil
	}
	payload, err := w.at(off+int64(h.head), int64(h.stored))
	if err != nil {
		return false, ignoreEOF(err)
	}
	if _, err := expand(nil, &h, s.salt, payload); err != nil {
		return false, nil
	}
	s.limit, s.last, s.lastTime = off, h.first-1, h.time
	s.totals.add(h.counts)
	return true, nil
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// recover finds the end of a file that has no seal (R2). What is bad below an
// offset that a later frame knew to be synced was whole once: that is damage,
// and it is left for Follow to report. What is bad above them all was never
// acknowledged, or only just when the power went: it is cut.
//
// If there is a file behind it, all of this one was synced, and only its seal is
// damaged or its end missing: next is what that file begins with, 0 if none.
func (g *group) recover(s *segment, next uint64) (empty bool, err error) {
	fs := g.l.o.FS
	f, err := fs.OpenReadWrite(s.path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return false, err
	}
	defer f.Close()
	w := &walker{window: window{f: f, limit: s.size, chunk: 1 << 20}, salt: s.salt, off: fileHeader, next: s.first}
	var items []item
	var synced int64
	for {
		it, err := w.step()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return false, err
		}
		items = append(items, it)
		synced = max(synced, it.synced)
	}
	if next > 0 {
		synced = s.size
	}
	cut := s.size
	var expanded []byte
	for _, it := range items {
		good := !it.bad
		if good && it.off >= synced { // below, Follow looks at the payload
			stored, err := w.at(it.off+int64(it.head), int64(it.stored))
			if err != nil {
				return false, err
			}
			expanded, err = expand(expanded[:0], &it.header, s.salt, stored)
			good = err == nil
			if it.codec == codecRaw {
				expanded = nil // it is the window's
			}
		}
		if !good && it.off >= synced {
			cut = it.off
			break
		}
		s.last, s.lastTime = it.first+uint64(it.n)-1, max(s.lastTime, it.time)
		s.totals.add(it.counts)
	}
	s.limit = max(cut, fileHeader)
	if next > 0 {
		s.last = next - 1
		g.damaged(Problem{Writer: s.writer, Group: s.group, First: next, File: s.path, Offset: s.size, Reason: "the seal is damaged or missing"}, nil)
		return s.last < s.first, nil
	}
	if cut < s.size {
		g.damaged(Problem{Writer: s.writer, Group: s.group, First: s.last + 1, File: s.path, Offset: cut, Bytes: s.size - cut, Torn: true, Reason: "torn tail"}, nil)
	}
	if s.last < s.first {
		return true, nil
	}
	return false, g.reseal(s, f, synced)
}

// reseal writes the seal over what was cut. What no frame says to have been
// synced is first written again: the dead process may have had an fsync that
// failed, and then these bytes are in memory, look clean, and are on no disk.
func (g *group) reseal(s *segment, f vfs.File, synced int64) error {
	from := min(max(synced, 0), s.limit)
	b := make([]byte, s.limit-from)
	if _, err := f.ReadAt(b, from); err != nil && !(errors.Is(err, io.EOF)) {
		return err
	}
	if err := g.rewrite(f, b, from); err != nil {
		return fmt.Errorf("end the file: %w", err)
	}
	seal := appendSeal(nil, s.salt, s.limit, s.size, s.last, s.lastTime, s.totals.list())
	if err := g.rewrite(f, seal, s.limit); err != nil {
		return fmt.Errorf("end the file: %w", err)
	}
	s.size = s.limit + int64(len(seal))
	return nil
}

// rewrite writes and syncs. On a full disk it gives up the reserve; if that is
// not enough, the start fails and says so.
func (g *group) rewrite(f vfs.File, b []byte, off int64) error {
	_, err := f.WriteAt(b, off)
	if isFull(err) && g.l.diskFull(err) {
		_, err = f.WriteAt(b, off)
	}
	if isFull(err) {
		return fmt.Errorf("%w; free some space on the disk and start again", err)
	}
	if err != nil {
		return err
	}
	return f.SyncData()
}

// oldestOf returns the time of a writer's first frame on disk.
func (w *writer) oldest() (taxonomy.Millis, bool) {
	if len(w.segs) == 0 {
		return 0, false
	}
	return w.segs[0].firstTime, true
}
