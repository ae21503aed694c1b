// Package keyfile keeps keys.json on disk: mode 0600, changed whole or not at
// all, by one command at a time.
package keyfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

// maxSize bounds what is read: a ring of a thousand keys is well below.
const maxSize = 1 << 20

// Read returns the keys in the file. A file that others may read is refused,
// since then its keys are no secret. Errors show no key.
func Read(path string) (*keys.Ring, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read keys: there is no %s: %w; put back your copy, or make a new installation with `ebb init`", path, fs.ErrNotExist)
	case err != nil:
		return nil, fmt.Errorf("read keys: %w", err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("read keys: %s is no regular file", path)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("read keys: %s has mode %04o, so that others may read it; run `chmod 600 %s`", path, info.Mode().Perm(), path)
	case info.Size() > maxSize:
		return nil, fmt.Errorf("read keys: %s has %d bytes; is this another file?", path, info.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	ring, err := keys.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return ring, nil
}

// Create writes the keys of a new installation. It never replaces a file: then
// the error is fs.ErrExist. When it returns nil the file is on disk for good.
func Create(path string, ring *keys.Ring) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("create keys: %w", err)
	}
	next, err := stage(path, ring)
	if err != nil {
		return fmt.Errorf("create keys: %w", err)
	}
	defer os.Remove(next)
	// A link, not a rename: it fails if path exists, without a moment between
	// looking and writing.
	if err := os.Link(next, path); err != nil {
		return fmt.Errorf("create keys: %w", err)
	}
	return syncDir(path)
}

// Update replaces the keys by what change makes of them. If change returns an
// error or the ring it was given, nothing is written. Two updates do not run at
// once: the later one fails. A crash at any moment leaves the old file or the
// new one.
func Update(path string, change func(*keys.Ring) (*keys.Ring, error)) error {
	release, err := lock(path)
	if err != nil {
		return fmt.Errorf("change keys: %w", err)
	}
	defer release()
	ring, err := Read(path)
	if err != nil {
		return err
	}
	changed, err := change(ring)
	if err != nil || changed == ring {
		return err
	}
	next, err := stage(path, changed)
	if err != nil {
		return fmt.Errorf("change keys: %w", err)
	}
	// An operator who is root must not take the file away from the server's
	// user.
	if err := sameOwner(next, path); err != nil {
		os.Remove(next)
		return fmt.Errorf("change keys: keep their owner: %w", err)
	}
	if err := os.Rename(next, path); err != nil {
		os.Remove(next)
		return fmt.Errorf("change keys: %w", err)
	}
	return syncDir(path)
}

// stage writes the ring to a synced file of its own beside path.
func stage(path string, ring *keys.Ring) (string, error) {
	b, err := ring.Marshal()
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.new") // made with mode 0600
	if err != nil {
		return "", err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// lock takes the right to change the file. The lock is the kernel's, so that a
// command that was killed leaves none behind.
func lock(path string) (release func(), err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		_, err = Read(path) // for its words
		return nil, err
	} else if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("another command is changing %s: %w; try again when it is done", path, err)
	}
	// The file may have been replaced between opening and locking; then the lock
	// is on one that nobody will look at again.
	held, err1 := f.Stat()
	now, err2 := os.Stat(path)
	if err := errors.Join(err1, err2); err != nil {
		f.Close()
		return nil, err
	}
	if !os.SameFile(held, now) {
		f.Close()
		return nil, fmt.Errorf("another command has just changed %s; try again", path)
	}
	return func() { f.Close() }, nil
}

func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("sync the folder of the keys: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync the folder of the keys: %w", err)
	}
	return nil
}
