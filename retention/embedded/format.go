package embedded

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/retention"
)

// Format is the version of the data directory that this program writes, and the
// newest that it reads.
const Format = 1

const (
	lockName   = "LOCK"
	formatName = "FORMAT"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// formatLine is the whole of the file FORMAT: words, so that who finds a data
// directory can read what it is.
func formatLine(version int) string {
	line := fmt.Sprintf("ebb-data %d", version)
	return fmt.Sprintf("%s %08x\n", line, crc32.Checksum([]byte(line), castagnoli))
}

// checkFormat reads FORMAT, or writes it in a directory that has no data yet.
func checkFormat(f vfs.FS, dir string) error {
	path := f.PathJoin(dir, formatName)
	b, err := readFile(f, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := f.Stat(f.PathJoin(dir, "db")); err == nil {
			return fmt.Errorf("%s holds data but no file %s: %w; restore a backup into an empty directory", dir, formatName, retention.ErrCorrupt)
		}
		return writeFile(f, dir, formatName, []byte(formatLine(Format)))
	case err != nil:
		return fmt.Errorf("read %s: %w", path, err)
	}
	var version int
	var sum uint32
	if n, _ := fmt.Sscanf(string(b), "ebb-data %d %x\n", &version, &sum); n != 2 || string(b) != formatLine(version) {
		return fmt.Errorf("%s is not what this program writes there: %w; restore a backup into an empty directory", path, retention.ErrCorrupt)
	}
	if version > Format {
		return fmt.Errorf("data directory %s is of format %d, this program reads up to %d: run the newer ebb that wrote it, or restore an older backup into an empty directory", dir, version, Format)
	}
	return nil
}

// readFile returns the bytes of a small file.
func readFile(f vfs.FS, path string) ([]byte, error) {
	r, err := f.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}

// writeFile writes a small file: whole or not at all, and durably.
func writeFile(f vfs.FS, dir, name string, b []byte) (err error) {
	path := f.PathJoin(dir, name)
	tmp := path + ".temp"
	w, err := f.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = w.Write(b)
	if err == nil {
		err = w.Sync()
	}
	if err = errors.Join(err, w.Close()); err == nil {
		if err = f.Rename(tmp, path); err == nil {
			err = syncDir(f, dir)
		}
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func syncDir(f vfs.FS, dir string) error {
	d, err := f.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// makeDir makes a directory and those above it, durably: a file in a directory
// that a crash takes away is not durable.
func makeDir(f vfs.FS, dir string) error {
	if err := f.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory %s: %w", dir, err)
	}
	for d := dir; ; {
		up := f.PathDir(d)
		if err := syncDir(f, up); err != nil {
			if errors.Is(err, fs.ErrPermission) || strings.Count(d, "/") <= 1 {
				return nil // above what is ours
			}
			return fmt.Errorf("make directory %s: sync %s: %w", dir, up, err)
		}
		if up == d || up == "." || up == "/" {
			return nil
		}
		d = up
	}
}
