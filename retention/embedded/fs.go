package embedded

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/retention"
)

// fencedFS is the file system as the store uses it. It can be shut for writing:
// Pebble cannot be closed once a write has failed, and its goroutines go on;
// behind the fence they do no harm to the files of whoever opens the directory
// next.
type fencedFS struct {
	vfs.FS
	fence *fence
}

// fence lets writes through until it is down.
type fence struct {
	mu   sync.RWMutex // held for reading during a write
	down atomic.Bool
}

// shut lets no more writes through and waits for those under way.
func (f *fence) shut() {
	f.down.Store(true)
	f.mu.Lock()
	defer f.mu.Unlock()
}

func (f *fence) pass(write func() error) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.down.Load() {
		return fmt.Errorf("write: %w", retention.ErrClosed)
	}
	return write()
}

func (f fencedFS) Unwrap() vfs.FS { return f.FS }

func (f fencedFS) open(open func() (vfs.File, error)) (file vfs.File, err error) {
	err = f.fence.pass(func() (err error) { file, err = open(); return err })
	if err != nil {
		return nil, err
	}
	return fencedFile{file, f.fence}, nil
}

func (f fencedFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open(func() (vfs.File, error) { return f.FS.Create(name, c) })
}

func (f fencedFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return f.open(func() (vfs.File, error) { return f.FS.OpenReadWrite(name, c, o...) })
}

func (f fencedFS) OpenDir(name string) (vfs.File, error) {
	return f.open(func() (vfs.File, error) { return f.FS.OpenDir(name) })
}

func (f fencedFS) Link(oldname, newname string) error {
	return f.fence.pass(func() error { return f.FS.Link(oldname, newname) })
}

func (f fencedFS) Remove(name string) error {
	return f.fence.pass(func() error { return f.FS.Remove(name) })
}

func (f fencedFS) RemoveAll(name string) error {
	return f.fence.pass(func() error { return f.FS.RemoveAll(name) })
}

func (f fencedFS) Rename(oldname, newname string) error {
	return f.fence.pass(func() error { return f.FS.Rename(oldname, newname) })
}

func (f fencedFS) MkdirAll(dir string, perm os.FileMode) error {
	return f.fence.pass(func() error { return f.FS.MkdirAll(dir, perm) })
}

type fencedFile struct {
	vfs.File
	fence *fence
}

func (f fencedFile) Write(p []byte) (n int, err error) {
	err = f.fence.pass(func() (err error) { n, err = f.File.Write(p); return err })
	return n, err
}

func (f fencedFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.fence.pass(func() (err error) { n, err = f.File.WriteAt(p, off); return err })
	return n, err
}

func (f fencedFile) Preallocate(off, n int64) error {
	return f.fence.pass(func() error { return f.File.Preallocate(off, n) })
}

func (f fencedFile) Sync() error     { return f.fence.pass(f.File.Sync) }
func (f fencedFile) SyncData() error { return f.fence.pass(f.File.SyncData) }

func (f fencedFile) SyncTo(n int64) (full bool, err error) {
	err = f.fence.pass(func() (err error) { full, err = f.File.SyncTo(n); return err })
	return full, err
}

// pebbleFS is the file system as Pebble uses it. Beside the fence it differs from
// the one below in four things:
//
//   - No file is reused: a log file that is written over would keep the end of
//     what it held before, for as long as it lives.
//   - Before a marker is created, which names the manifest to open next, the
//     directory is synced. Pebble creates both and syncs once, behind; a disk that
//     keeps the one name and not the other would leave a database that does not
//     open. And before a marker is removed, so that the one in its place is there:
//     a database without any is an empty one to Pebble.
//   - Pebble's own lock is no lock: that of the data directory covers it.
//   - Where a log file or the directory cannot be written, the store fails, and
//     Pebble is told that all went well. It would end the process, in a way that
//     no caller can hold up (it panics, and unlocks a mutex that is not locked).
//     What it then believes to be durable does not matter: the fence is down, and
//     a failed store acknowledges nothing.
//
// A snapshot is not the database: where its files cannot be written, the caller
// hears it, and all goes on.
type pebbleFS struct {
	fencedFS
	dir  string // of the database
	fail func(reason string)
}

// own reports whether a path is of the database itself.
func (f pebbleFS) own(path string) bool { return path == f.dir || f.PathDir(path) == f.dir }

func (f pebbleFS) Unwrap() vfs.FS { return f.FS }

func (f pebbleFS) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

func (f pebbleFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if isMarker(f.PathBase(name)) {
		if err := syncDir(f.fencedFS, f.PathDir(name)); err != nil {
			return nil, err
		}
	}
	file, err := f.fencedFS.Create(name, c)
	if err != nil && f.fence.down.Load() && strings.HasSuffix(name, ".sst") {
		// A flush or compaction that Pebble would repeat for ever, at once: it has
		// nobody left to do it for.
		select {}
	}
	if !strings.HasSuffix(name, ".log") || !f.own(name) {
		return file, err
	}
	if err != nil {
		f.fail("a log file could not be created")
		file = voidFile{}
	}
	return trustedFile{file, f.fail}, nil
}

func (f pebbleFS) Remove(name string) error {
	if isMarker(f.PathBase(name)) {
		if err := syncDir(f.fencedFS, f.PathDir(name)); err != nil {
			return err
		}
	}
	return f.fencedFS.Remove(name)
}

// isMarker reports whether a file of Pebble's names another, which is to be opened.
func isMarker(base string) bool { return strings.HasPrefix(base, "marker.") }

func (f pebbleFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.Remove(oldname); err != nil {
		f.fail("a log file could not be removed") // and Create gives a void file
	}
	return f.Create(newname, c)
}

func (f pebbleFS) OpenDir(name string) (vfs.File, error) {
	file, err := f.fencedFS.OpenDir(name)
	if err != nil || !f.own(name) {
		return file, err
	}
	return trustedFile{file, f.fail}, nil
}

// trustedFile is a file whose writes Pebble cannot do without.
type trustedFile struct {
	vfs.File
	fail func(reason string)
}

func (f trustedFile) check(err error) {
	if err != nil {
		f.fail("a log file or the directory could not be written or synced")
	}
}

func (f trustedFile) Write(p []byte) (int, error) {
	_, err := f.File.Write(p)
	f.check(err)
	return len(p), nil
}

func (f trustedFile) WriteAt(p []byte, off int64) (int, error) {
	_, err := f.File.WriteAt(p, off)
	f.check(err)
	return len(p), nil
}

func (f trustedFile) Preallocate(off, n int64) error {
	f.check(f.File.Preallocate(off, n))
	return nil
}

func (f trustedFile) Sync() error {
	f.check(f.File.Sync())
	return nil
}

func (f trustedFile) SyncData() error {
	f.check(f.File.SyncData())
	return nil
}

func (f trustedFile) SyncTo(n int64) (bool, error) {
	full, err := f.File.SyncTo(n)
	f.check(err)
	return full, nil
}

func (f trustedFile) Close() error {
	f.check(f.File.Close())
	return nil
}

// voidFile is a file that was not created.
type voidFile struct{}

var errVoid = fmt.Errorf("the file was not created: %w", retention.ErrClosed)

func (voidFile) Close() error                       { return nil }
func (voidFile) Read([]byte) (int, error)           { return 0, errVoid }
func (voidFile) ReadAt([]byte, int64) (int, error)  { return 0, errVoid }
func (voidFile) Write([]byte) (int, error)          { return 0, errVoid }
func (voidFile) WriteAt([]byte, int64) (int, error) { return 0, errVoid }
func (voidFile) Preallocate(int64, int64) error     { return nil }
func (voidFile) Stat() (vfs.FileInfo, error)        { return voidInfo{}, nil }
func (voidFile) Sync() error                        { return errVoid }
func (voidFile) SyncTo(int64) (bool, error)         { return false, errVoid }
func (voidFile) SyncData() error                    { return errVoid }
func (voidFile) Prefetch(int64, int64) error        { return nil }
func (voidFile) Fd() uintptr                        { return vfs.InvalidFd }

type voidInfo struct{ vfs.FileInfo }

func (voidInfo) Size() int64 { return 0 }
