package log

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Dump calls fn with everything that the log in dir holds, decompressed: for
// each frame the file it stands in, the number of its first record (0 for what
// is no frame) and its raw bytes, which fn must not keep. What cannot be read as
// a frame, and what is quarantined, is given as it is. It shows what stands on
// the disk, also what was cut or trimmed and not removed: a search through it
// proves that something is not there.
func Dump(fs FS, dir string, fn func(file string, first uint64, raw []byte) error) error {
	names, err := fs.List(dir)
	if err != nil {
		return fmt.Errorf("dump log: %w", err)
	}
	slices.Sort(names)
	for _, name := range names {
		path := fs.PathJoin(dir, name)
		w, g, ok := parseFolder(name)
		switch {
		case ok:
			err = dumpWriter(fs, path, w, g, fn)
		case name == quarantine:
			err = dumpFolder(fs, path, fn)
		default:
			var b []byte
			if b, err = readFile(fs, path); err == nil {
				err = fn(path, 0, b)
			}
		}
		if err != nil {
			return fmt.Errorf("dump log: %s: %w", path, err)
		}
	}
	return nil
}

func dumpFolder(fs FS, dir string, fn func(string, uint64, []byte) error) error {
	names, err := fs.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		b, err := readFile(fs, fs.PathJoin(dir, name))
		if err == nil {
			err = fn(fs.PathJoin(dir, name), 0, b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func dumpWriter(fs FS, dir string, id taxonomy.WriterID, g taxonomy.Group, fn func(string, uint64, []byte) error) error {
	firsts, _, err := segmentFirsts(fs, dir)
	if err != nil {
		return err
	}
	for _, first := range firsts {
		path := fs.PathJoin(dir, segmentName(first))
		b, err := readFile(fs, path)
		if err != nil {
			return err
		}
		if err := fn(path, 0, b[:min(fileHeader, len(b))]); err != nil {
			return err
		}
		if err := dumpSegment(path, place{id, g, first}, b, fn); err != nil {
			return err
		}
	}
	return nil
}

func dumpSegment(path string, p place, b []byte, fn func(string, uint64, []byte) error) error {
	v := &walker{window: window{f: bytes.NewReader(b), limit: int64(len(b)), chunk: 1 << 20}, salt: p.salt(), off: fileHeader, next: p.first}
	end := int64(fileHeader)
	for {
		it, err := v.step()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		end = it.end
		raw := b[it.off:it.end]
		first := uint64(0)
		if !it.bad {
			if err := fn(path, 0, b[it.off:it.off+int64(it.head)]); err != nil {
				return err
			}
			raw = b[it.off+int64(it.head) : it.end]
			if plain, err := expand(nil, &it.header, v.salt, raw); err == nil {
				raw, first = plain, it.first
			}
		}
		if err := fn(path, first, raw); err != nil {
			return err
		}
	}
	if end < int64(len(b)) { // the seal and what was cut
		return fn(path, 0, b[end:])
	}
	return nil
}
