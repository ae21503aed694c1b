package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/cockroachdb/pebble/v2"
)

// snapshotName is the folder of a snapshot, within the data directory because
// hard links do not leave a file system.
const snapshotName = "snapshot"

// Snapshot makes a folder with the store as of one moment and returns its path:
// FORMAT, db and blobs, by hard links. Nobody waits for longer than the links
// take. There is one snapshot at a time; the caller removes it with
// DropSnapshot, and Open removes what a crash left. Until then what is deleted
// keeps its bytes there.
func (s *Store) Snapshot(ctx context.Context) (dir string, err error) {
	dir = s.fs.PathJoin(s.o.Dir, snapshotName)
	if _, err := s.fs.Stat(dir); err == nil {
		return "", errors.New("snapshot the store: there is one already; let it end first")
	}
	if err = s.snapshot(ctx, dir); err != nil {
		return "", errors.Join(fmt.Errorf("snapshot the store: %w", err), s.DropSnapshot())
	}
	return dir, nil
}

func (s *Store) snapshot(ctx context.Context, dir string) error {
	release, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := makeDir(s.fs, dir); err != nil {
		return err
	}
	if err := writeFile(s.fs, dir, formatName, []byte(formatLine(Format))); err != nil {
		return err
	}
	// While this is held no blob comes or goes. A head is swapped after the blobs
	// that it names were put and before those that it no longer names are
	// deleted, so the blobs of the moment hold all that the database names.
	s.blobs.changing.Lock()
	defer s.blobs.changing.Unlock()
	to := s.fs.PathJoin(dir, "blobs")
	if err := makeDir(s.fs, to); err != nil {
		return err
	}
	made := map[string]bool{}
	err = walkBlobs(s.fs, s.blobs.root, "", func(name, path string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		link := to + path[len(s.blobs.root):]
		if up := s.fs.PathDir(link); !made[up] {
			if err := s.fs.MkdirAll(up, 0o700); err != nil {
				return err
			}
			made[up] = true
		}
		return s.fs.Link(path, link)
	})
	if err != nil {
		return fmt.Errorf("link blobs: %w", err)
	}
	return s.guard(func() error { return s.db.Checkpoint(s.fs.PathJoin(dir, "db"), pebble.WithFlushedWAL()) })
}

// DropSnapshot removes the snapshot. Removing none is fine.
func (s *Store) DropSnapshot() error {
	if err := removeSnapshot(s.fs, s.o.Dir); err != nil {
		return fmt.Errorf("remove the snapshot of the store: %w", err)
	}
	return nil
}

func removeSnapshot(f fencedFS, dir string) error {
	path := f.PathJoin(dir, snapshotName)
	if _, err := f.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := f.RemoveAll(path); err != nil {
		return err
	}
	return syncDir(f, dir)
}
