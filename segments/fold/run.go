package fold

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/ebb-dmp/ebb/retention"
)

// A run is a file of keys in order with what became of them: a part of the
// state as it changed between two checkpoints, or several such parts merged.
// Later runs win. A run:
//
//	0  magic "EBBRUN", version u16 = 1
//	8  entries: key length uvarint, key; 0 for removed, or value length + 1
//	   uvarint, value
//	   number of entries u32 · CRC-32C of all before u32
const (
	runMagic   = "EBBRUN"
	runVersion = 1
	runHeader  = 8
	runTrailer = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type runEntry struct {
	key, val []byte
	removed  bool
}

// runBuilder collects entries in any order; a key is added once.
type runBuilder struct{ entries []runEntry }

func (r *runBuilder) put(key, val []byte) {
	r.entries = append(r.entries, runEntry{key: key, val: val})
}
func (r *runBuilder) remove(key []byte) {
	r.entries = append(r.entries, runEntry{key: key, removed: true})
}

// bytes returns the run's file, or nil if it has no entries.
func (r *runBuilder) bytes() []byte {
	if len(r.entries) == 0 {
		return nil
	}
	slices.SortFunc(r.entries, func(a, b runEntry) int { return bytes.Compare(a.key, b.key) })
	w := newRunWriter()
	for i := range r.entries {
		w.add(r.entries[i])
	}
	return w.bytes()
}

// runWriter writes entries that come in order.
type runWriter struct {
	b []byte
	n uint32
}

func newRunWriter() *runWriter {
	b := append(make([]byte, 0, 1024), runMagic...)
	return &runWriter{b: binary.LittleEndian.AppendUint16(b, runVersion)}
}

func (w *runWriter) add(e runEntry) {
	w.b = binary.AppendUvarint(w.b, uint64(len(e.key)))
	w.b = append(w.b, e.key...)
	if e.removed {
		w.b = append(w.b, 0)
	} else {
		w.b = binary.AppendUvarint(w.b, uint64(len(e.val))+1)
		w.b = append(w.b, e.val...)
	}
	w.n++
}

func (w *runWriter) bytes() []byte {
	w.b = binary.LittleEndian.AppendUint32(w.b, w.n)
	return binary.LittleEndian.AppendUint32(w.b, crc32.Checksum(w.b, castagnoli))
}

// runReader reads a run's entries in order.
type runReader struct {
	rest []byte
	left uint32
	cur  runEntry
}

func openRun(b []byte) (*runReader, error) {
	if len(b) < runHeader+runTrailer || string(b[:6]) != runMagic {
		return nil, fmt.Errorf("%w: no checkpoint run", retention.ErrCorrupt)
	}
	if v := binary.LittleEndian.Uint16(b[6:]); v != runVersion {
		return nil, fmt.Errorf("%w: checkpoint run of version %d, this program reads %d; use the newer program", retention.ErrCorrupt, v, runVersion)
	}
	if crc32.Checksum(b[:len(b)-4], castagnoli) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return nil, fmt.Errorf("%w: checkpoint run: checksum differs", retention.ErrCorrupt)
	}
	end := len(b) - runTrailer
	return &runReader{rest: b[runHeader:end], left: binary.LittleEndian.Uint32(b[end:])}, nil
}

// next steps to the next entry, which shares memory with the file.
func (r *runReader) next() (bool, error) {
	if r.left == 0 {
		if len(r.rest) != 0 {
			return false, fmt.Errorf("%w: checkpoint run: bytes behind the last entry", retention.ErrCorrupt)
		}
		return false, nil
	}
	r.left--
	k, n := binary.Uvarint(r.rest)
	if n <= 0 || k > uint64(len(r.rest)-n) {
		return false, fmt.Errorf("%w: checkpoint run: broken key", retention.ErrCorrupt)
	}
	r.cur.key, r.rest = r.rest[n:n+int(k)], r.rest[n+int(k):]
	v, n := binary.Uvarint(r.rest)
	if n <= 0 || v > uint64(len(r.rest)-n)+1 {
		return false, fmt.Errorf("%w: checkpoint run: broken value", retention.ErrCorrupt)
	}
	r.rest = r.rest[n:]
	r.cur.removed = v == 0
	r.cur.val = nil
	if v > 0 {
		r.cur.val, r.rest = r.rest[:v-1], r.rest[v-1:]
	}
	return true, nil
}

// mergeRuns returns one run for several, the newest last. whole says that there
// are no older ones, so that what was removed need not be remembered. The
// result is nil if nothing is left.
func mergeRuns(files [][]byte, whole bool) ([]byte, error) {
	readers := make([]*runReader, 0, len(files))
	for _, b := range files {
		r, err := openRun(b)
		if err != nil {
			return nil, err
		}
		more, err := r.next()
		if err != nil {
			return nil, err
		}
		if more {
			readers = append(readers, r)
		}
	}
	w := newRunWriter()
	for len(readers) > 0 {
		least := readers[len(readers)-1]
		for i := len(readers) - 2; i >= 0; i-- {
			if bytes.Compare(readers[i].cur.key, least.cur.key) < 0 {
				least = readers[i]
			}
		}
		// Among equal keys the newest wins: least is the last of them, since
		// only a smaller key displaced it.
		win := least.cur
		if !win.removed || !whole {
			w.add(win)
		}
		kept := readers[:0]
		for _, r := range readers {
			more := true
			if bytes.Equal(r.cur.key, win.key) {
				var err error
				if more, err = r.next(); err != nil {
					return nil, err
				}
			}
			if more {
				kept = append(kept, r)
			}
		}
		readers = kept
	}
	if w.n == 0 {
		return nil, nil
	}
	return w.bytes(), nil
}
