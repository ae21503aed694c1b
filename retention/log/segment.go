package log

import (
	"bytes"
	"errors"
	"io"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// segment is a file of the log. place, salt and path never change; the rest is
// guarded by group.mu, and of a file that is not being written it is fixed.
type segment struct {
	place
	salt  uint32
	path  string
	last  uint64 // number of the last durable record; first-1 if there is none
	limit int64  // frames stand in [fileHeader, limit)
	size  int64  // bytes on disk

	firstTime, lastTime taxonomy.Millis
	totals              tally // events by site of all its records

	// marks are places where readers stopped, the newest last. A reader that
	// comes back goes on from there, so that polling costs what is new and not
	// what is old.
	marks []mark
}

// mark is a place between two frames.
type mark struct {
	off    int64
	next   uint64 // number of the record that follows
	time   taxonomy.Millis
	before tally // events of the file before it
}

const maxMarks = 4

// view is a segment as it was at one moment.
type view struct {
	*segment
	last                uint64
	limit, size         int64
	firstTime, lastTime taxonomy.Millis
}

// view returns the segment as it is. The caller holds group.mu.
func (s *segment) view() view {
	return view{s, s.last, s.limit, s.size, s.firstTime, s.lastTime}
}

// nearest returns the last known place at or before the end of record seq. The
// caller holds group.mu.
func (s *segment) nearest(seq uint64) mark {
	best := mark{off: fileHeader, next: s.first, time: s.firstTime}
	for _, m := range s.marks {
		if m.next <= seq+1 && m.next > best.next {
			best = m
		}
	}
	t := make(tally, len(best.before)) // whoever reads on adds to it
	for site, n := range best.before {
		t[site] = n
	}
	best.before = t
	return best
}

// remember keeps a place. The caller holds group.mu.
func (s *segment) remember(m mark) {
	for i := range s.marks {
		if s.marks[i].next == m.next {
			return
		}
	}
	if len(s.marks) >= maxMarks {
		s.marks = append(s.marks[:0], s.marks[1:]...)
	}
	s.marks = append(s.marks, m)
}

// window reads a file in pieces of at least chunk bytes.
type window struct {
	f     io.ReaderAt
	limit int64 // nothing is read beyond
	chunk int64
	base  int64
	buf   []byte
}

// at returns the n bytes at off, valid until the next call, or io.EOF if the
// file ends before them.
func (w *window) at(off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || n > w.limit-off {
		return nil, io.EOF
	}
	if off >= w.base && off+n <= w.base+int64(len(w.buf)) {
		return w.buf[off-w.base:][:n], nil
	}
	want := min(max(n, w.chunk), w.limit-off)
	if int64(cap(w.buf)) < want {
		w.buf = make([]byte, want)
	}
	w.buf = w.buf[:want]
	got, err := w.f.ReadAt(w.buf, off)
	w.base, w.buf = off, w.buf[:got]
	if err != nil && !errors.Is(err, io.EOF) {
		w.buf = w.buf[:0]
		return nil, err
	}
	if int64(got) < n {
		return nil, io.EOF
	}
	return w.buf[:n], nil
}

// header reads the header of the frame at off. Not ok means that there is none;
// an error, that the file could not be read.
func (w *window) header(off int64, salt uint32) (h header, ok bool, err error) {
	b, err := w.at(off, frameHeader)
	if err == nil {
		n, is := countsLen(b)
		if !is {
			return h, false, nil
		}
		b, err = w.at(off, frameHeader+n)
	}
	if errors.Is(err, io.EOF) {
		return h, false, nil
	}
	if err != nil {
		return h, false, err
	}
	h, ok = parseHeader(b, salt, off)
	return h, ok && h.end() <= w.limit, nil
}

// find returns the first whole header at or after off that has a number of at
// least next, or not ok if there is none up to the limit.
func (w *window) find(off int64, next uint64, salt uint32) (h header, ok bool, err error) {
	for off+frameHeader <= w.limit {
		b, err := w.at(off, min(w.limit-off, w.chunk))
		if errors.Is(err, io.EOF) { // the file is shorter than it was
			b, err = w.at(off, frameHeader)
		}
		if errors.Is(err, io.EOF) {
			return h, false, nil
		}
		if err != nil {
			return h, false, err
		}
		i := bytes.Index(b, frameMagic)
		if i < 0 {
			off += int64(len(b) - len(frameMagic) + 1)
			continue
		}
		off += int64(i)
		h, ok, err := w.header(off, salt)
		if err != nil || ok && h.first >= next {
			return h, ok, err
		}
		off++
	}
	return h, false, nil
}

// item is a frame, or bytes in which there should have been one.
type item struct {
	header
	off, end int64
	// bad: there is no header. first and n say which numbers are missing, which
	// may be none (n 0).
	bad bool
}

// walker goes through a file from frame to frame, by their headers alone, and
// finds its way again behind damage.
type walker struct {
	window
	salt uint32
	off  int64
	next uint64 // the number expected there
	last uint64 // the file's last, 0 if that is not known
	time taxonomy.Millis

	close func() error
}

// step returns the next item, or io.EOF.
func (w *walker) step() (item, error) {
	if w.off >= w.limit {
		if w.next <= w.last {
			return w.skip(w.limit, w.last+1, w.time), nil
		}
		return item{}, io.EOF
	}
	h, ok, err := w.header(w.off, w.salt)
	if err != nil {
		return item{}, err
	}
	if ok && h.first == w.next && h.kind == kindData {
		it := item{header: h, off: w.off, end: h.end()}
		w.off, w.next, w.time = it.end, h.next(), h.time
		return it, nil
	}
	if !ok || h.first < w.next {
		h, ok, err = w.find(w.off+1, w.next, w.salt)
		if err != nil {
			return item{}, err
		}
	}
	switch {
	case !ok && w.last == 0:
		return w.skip(w.limit, w.next, w.time), nil
	case !ok || h.kind == kindSeal:
		end := w.limit
		if ok {
			end = h.offset
		}
		w.limit = end // nothing of ours follows a seal
		it := w.skip(end, max(w.last+1, h.first, w.next), w.time)
		it.synced = h.synced
		return it, nil
	}
	return w.skip(h.offset, h.first, h.time), nil
}

// skip steps over what is damaged.
func (w *walker) skip(end int64, next uint64, t taxonomy.Millis) item {
	it := item{off: w.off, end: end, bad: true}
	it.first, it.n, it.time = w.next, uint32(next-w.next), t
	w.off, w.next, w.time = end, next, t
	return it
}

// walk opens a walker over a view from a mark on. The caller closes it.
func (v view) walk(fs FS, from mark, chunk int64) (*walker, error) {
	f, err := fs.Open(v.path)
	if err != nil {
		return nil, err
	}
	return &walker{close: f.Close, window: window{f: f, limit: v.limit, chunk: chunk}, salt: v.salt, off: from.off, next: from.next, last: v.last, time: from.time}, nil
}
