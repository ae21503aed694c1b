package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/batchrepr"
	"github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/wal"
)

// entry is one key on disk and what stands under it: also what a later entry
// hides, and the key of a tombstone. It is valid until the next one.
type entry struct {
	key, value []byte
}

// errNextFile, returned by a walk's function, skips the rest of a file.
var errNextFile = errors.New("next file")

// walkTables calls fn with every entry of every table in dir that is at or above
// from, table by table in key order: also of tables that nothing refers to any
// more. It reads the files themselves and so sees what the database would not
// show. Files that are removed meanwhile are skipped. A file that is no whole
// table is given to odd: it may be one that is being written.
func walkTables(ctx context.Context, f vfs.FS, dir string, from []byte, fn func(path string, e entry) error, odd func(path string, err error) error) error {
	names, err := f.List(dir)
	if err != nil {
		return err
	}
	slices.Sort(names)
	o := pebbleOptions(f, true)
	o.EnsureDefaults()
	for _, name := range names {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		path := f.PathJoin(dir, name)
		err := walkTable(ctx, f, path, o.MakeReaderOptions(), from, func(e entry) error { return fn(path, e) })
		switch {
		case err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNextFile):
		case pebble.IsCorruptionError(err):
			if err := odd(path, err); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		default:
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
	return nil
}

func walkTable(ctx context.Context, f vfs.FS, path string, o sstable.ReaderOptions, from []byte, fn func(entry) error) (err error) {
	file, err := f.Open(path)
	if err != nil {
		return err
	}
	readable, err := sstable.NewSimpleReadable(file)
	if err != nil {
		return errors.Join(err, file.Close())
	}
	r, err := sstable.NewReader(ctx, readable, o)
	if err != nil {
		return errors.Join(err, readable.Close())
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	it, err := r.NewIter(sstable.NoTransforms, from, nil, sstable.AssertNoBlobHandles)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	kv := it.First()
	if from != nil {
		kv = it.SeekGE(from, 0)
	}
	for ; kv != nil; kv = it.Next() {
		value, _, err := kv.Value(nil)
		if err != nil {
			return err
		}
		if err := fn(entry{kv.K.UserKey, value}); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if err := it.Error(); err != nil {
		return err
	}
	spans, err := r.NewRawRangeDelIter(ctx, sstable.NoFragmentTransforms, sstable.NoReadEnv)
	if err != nil || spans == nil {
		return err
	}
	defer spans.Close()
	span, err := spans.First()
	for ; span != nil && err == nil; span, err = spans.Next() {
		if err := fn(entry{key: span.Start}); err != nil {
			return err
		}
		if err := fn(entry{key: span.End}); err != nil {
			return err
		}
	}
	return err
}

// walkLogs calls fn with every entry of every log file in dir, also of those that
// are flushed and wait to be removed.
func walkLogs(ctx context.Context, f vfs.FS, dir string, fn func(path string, e entry) error) error {
	logs, err := wal.Scan(wal.Dir{FS: f, Dirname: dir})
	if err != nil {
		return err
	}
	for _, l := range logs {
		_, path := l.SegmentLocation(0)
		err := walkLog(ctx, l.OpenForRead(), func(e entry) error { return fn(path, e) })
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNextFile) {
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
	return nil
}

func walkLog(ctx context.Context, r wal.Reader, fn func(entry) error) (err error) {
	defer func() { err = errors.Join(err, r.Close()) }()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		rec, _, err := r.NextRecord()
		if err == io.EOF || record.IsInvalidRecord(err) {
			return nil // its end, perhaps being written
		}
		if err != nil {
			return err
		}
		b, err := io.ReadAll(rec)
		if err == io.EOF || record.IsInvalidRecord(err) {
			return nil
		}
		if err != nil {
			return err
		}
		batch := batchrepr.Read(b)
		for {
			_, key, value, ok, err := batch.Next()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if err := fn(entry{key, value}); err != nil {
				return err
			}
		}
	}
}

// Dump writes to w all that lies in a data directory, nothing compressed: each
// key and value of each table and log file of Pebble, dead or alive, the content
// of each blob, and every other file as it is (also what should be a table and is
// not a whole one). It is what a search for something that must not be there
// searches. The store may be open or closed.
func Dump(ctx context.Context, f vfs.FS, dir string, w io.Writer) error {
	d := &dump{f: f, w: w}
	db := f.PathJoin(dir, "db")
	if _, err := f.Stat(db); err == nil {
		show := func(path string, e entry) error {
			d.title(path)
			d.bytes(e.key)
			d.bytes(e.value)
			return d.err
		}
		raw := func(path string, _ error) error { return d.file(path, false) }
		if err := walkTables(ctx, f, db, nil, show, raw); err != nil {
			return fmt.Errorf("dump %s: %w", dir, err)
		}
		if err := walkLogs(ctx, f, db, show); err != nil {
			return fmt.Errorf("dump %s: %w", dir, err)
		}
	}
	if err := d.files(ctx, dir); err != nil {
		return fmt.Errorf("dump %s: %w", dir, err)
	}
	return d.err
}

type dump struct {
	f   vfs.FS
	w   io.Writer
	at  string
	err error
}

func (d *dump) bytes(b []byte) {
	if d.err == nil {
		_, d.err = d.w.Write(append(b[:len(b):len(b)], '\n'))
	}
}

// title writes a file's name when its first bytes come.
func (d *dump) title(path string) {
	if path != d.at {
		d.at = path
		d.bytes([]byte("\n== " + path))
	}
}

// files writes every file below dir but tables and log files, which were decoded.
func (d *dump) files(ctx context.Context, dir string) error {
	names, err := d.f.List(dir)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		path := d.f.PathJoin(dir, name)
		info, err := d.f.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		switch {
		case err != nil:
			return err
		case info.IsDir():
			err = d.files(ctx, path)
		case strings.HasSuffix(name, ".sst") || strings.HasSuffix(name, ".log") || name == lockName:
		default:
			err = d.file(path, strings.HasPrefix(name, "MANIFEST-"))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return d.err
}

func (d *dump) file(path string, records bool) (err error) {
	file, err := d.f.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	d.title(path)
	if !records {
		b, err := io.ReadAll(file)
		d.bytes(b)
		return err
	}
	// A manifest's records may be cut by the blocks they are written in.
	for r := record.NewReader(file, 0); ; {
		rec, err := r.Next()
		if err == nil {
			var b []byte
			b, err = io.ReadAll(rec)
			d.bytes(b)
		}
		if err == io.EOF || record.IsInvalidRecord(err) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Dump writes all that lies in the store's data directory: see the function.
func (s *Store) Dump(ctx context.Context, w io.Writer) error {
	release, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	return Dump(ctx, s.fs, s.o.Dir, w)
}
