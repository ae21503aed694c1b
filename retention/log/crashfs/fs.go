package crashfs

import (
	"errors"
	"io"
	"os"
	"slices"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Create is vfs.FS's.
func (fs *FS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.create(fs.clean(name), func(name string) (vfs.File, error) { return fs.mem.Create(name, c) })
}

func (fs *FS) create(name string, how func(string) (vfs.File, error)) (vfs.File, error) {
	var f vfs.File
	n := fs.count + 1
	err := fs.do(Op{Kind: Create, Path: name, file: n}, func() (err error) {
		f, err = how(name)
		return err
	})
	if err != nil {
		return nil, err
	}
	fs.count, fs.files[name] = n, n
	return &file{File: f, fs: fs, path: name, n: n}, nil
}

// OpenReadWrite is vfs.FS's.
func (fs *FS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	name = fs.clean(name)
	how := func(name string) (vfs.File, error) { return fs.mem.OpenReadWrite(name, c, opts...) }
	if _, err := fs.mem.Stat(name); oserror.IsNotExist(err) {
		return fs.create(name, how)
	}
	if f := fs.ask(Op{Kind: Open, Path: name}); f != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: f.Err}
	}
	f, err := how(name)
	if err != nil {
		return nil, err
	}
	return &file{File: f, fs: fs, path: name, n: fs.files[name]}, nil
}

// Open is vfs.FS's.
func (fs *FS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	name = fs.clean(name)
	if f := fs.ask(Op{Kind: Open, Path: name}); f != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: f.Err}
	}
	f, err := fs.mem.Open(name, opts...)
	if err != nil {
		return nil, err
	}
	return &file{File: f, fs: fs, path: name, n: fs.files[name]}, nil
}

// OpenDir is vfs.FS's.
func (fs *FS) OpenDir(name string) (vfs.File, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	name = fs.clean(name)
	if f := fs.ask(Op{Kind: Open, Path: name}); f != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: f.Err}
	}
	if isRoot(name) {
		return &file{File: vfs.NewMemFile(nil), fs: fs, path: name, dir: true}, nil
	}
	f, err := fs.mem.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &file{File: f, fs: fs, path: name, dir: true}, nil
}

// Link is vfs.FS's.
func (fs *FS) Link(from, to string) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	from, to = fs.clean(from), fs.clean(to)
	op := Op{Kind: Link, Path: from, To: to, file: fs.files[from]}
	if err := fs.do(op, func() error { return fs.mem.Link(from, to) }); err != nil {
		return err
	}
	fs.files[to] = op.file
	return nil
}

// Rename is vfs.FS's.
func (fs *FS) Rename(from, to string) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	from, to = fs.clean(from), fs.clean(to)
	op := Op{Kind: Rename, Path: from, To: to, file: fs.files[from]}
	if err := fs.do(op, func() error { return fs.mem.Rename(from, to) }); err != nil {
		return err
	}
	if op.file != 0 {
		fs.files[to] = op.file
		delete(fs.files, from)
		return nil
	}
	moved := state{dirs: map[string]bool{}, names: fs.files}
	moved.apply(op, 1)
	return nil
}

// ReuseForWrite is vfs.FS's.
func (fs *FS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := fs.Rename(from, to); err != nil {
		return nil, err
	}
	return fs.OpenReadWrite(to, c)
}

// Remove is vfs.FS's.
func (fs *FS) Remove(name string) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.remove(fs.clean(name))
}

func (fs *FS) remove(name string) error {
	err := fs.do(Op{Kind: Remove, Path: name}, func() error { return fs.mem.Remove(name) })
	if err == nil {
		delete(fs.files, name)
	}
	return err
}

// RemoveAll is vfs.FS's: a crash may leave any part of it undone.
func (fs *FS) RemoveAll(name string) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	err := fs.removeAll(fs.clean(name))
	if oserror.IsNotExist(err) {
		return nil
	}
	return err
}

func (fs *FS) removeAll(name string) error {
	st, err := fs.mem.Stat(name)
	if err != nil {
		return err
	}
	if st.IsDir() {
		names, err := fs.mem.List(name)
		if err != nil {
			return err
		}
		slices.Sort(names)
		for _, n := range names {
			if err := fs.removeAll(fs.mem.PathJoin(name, n)); err != nil {
				return err
			}
		}
	}
	return fs.remove(name)
}

// MkdirAll is vfs.FS's.
func (fs *FS) MkdirAll(dir string, perm os.FileMode) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.mkdirAll(fs.clean(dir), perm)
}

func (fs *FS) mkdirAll(dir string, perm os.FileMode) error {
	if isRoot(dir) {
		return nil
	}
	if st, err := fs.mem.Stat(dir); err == nil && st.IsDir() {
		return nil
	}
	if err := fs.mkdirAll(parent(dir), perm); err != nil {
		return err
	}
	return fs.do(Op{Kind: Mkdir, Path: dir}, func() error { return fs.mem.MkdirAll(dir, perm) })
}

// Lock is vfs.FS's. A lock is no change: it does not outlive its process.
func (fs *FS) Lock(name string) (io.Closer, error) { return fs.mem.Lock(fs.clean(name)) }

// List is vfs.FS's.
func (fs *FS) List(dir string) ([]string, error) { return fs.mem.List(fs.clean(dir)) }

// Stat is vfs.FS's.
func (fs *FS) Stat(name string) (vfs.FileInfo, error) { return fs.mem.Stat(fs.clean(name)) }

// PathBase is vfs.FS's.
func (fs *FS) PathBase(path string) string { return fs.mem.PathBase(path) }

// PathJoin is vfs.FS's.
func (fs *FS) PathJoin(elem ...string) string { return fs.mem.PathJoin(elem...) }

// PathDir is vfs.FS's.
func (fs *FS) PathDir(path string) string { return fs.mem.PathDir(path) }

// GetDiskUsage is vfs.FS's.
func (fs *FS) GetDiskUsage(path string) (vfs.DiskUsage, error) { return fs.mem.GetDiskUsage(path) }

// Unwrap returns nil: what is beneath does not record.
func (fs *FS) Unwrap() vfs.FS { return nil }

// file records what is written through it.
type file struct {
	vfs.File
	fs   *FS
	path string
	n    int
	dir  bool
	pos  int64 // of Write, which is sequential
}

func (f *file) Write(p []byte) (int, error) {
	n, err := f.write(p, f.pos, func(p []byte) (int, error) { return f.File.Write(p) })
	f.pos += int64(n)
	return n, err
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	return f.write(p, off, func(p []byte) (int, error) { return f.File.WriteAt(p, off) })
}

func (f *file) write(p []byte, off int64, how func([]byte) (int, error)) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	op := Op{Kind: Write, Path: f.path, Offset: off, Data: slices.Clone(p), file: f.n}
	fault := f.fs.ask(op)
	if fault != nil {
		p = p[:min(fault.Keep, len(p))]
		op.Data = op.Data[:len(p)]
	}
	if len(p) > 0 {
		n, err := how(slices.Clone(p)) // vfs lets Write change what it is given
		if err != nil || n < len(p) {
			return n, errors.Join(err, io.ErrShortWrite)
		}
		f.fs.ops = append(f.fs.ops, op)
	}
	if fault != nil {
		return len(p), &os.PathError{Op: "write", Path: f.path, Err: fault.Err}
	}
	return len(p), nil
}

func (f *file) Sync() error     { return f.sync() }
func (f *file) SyncData() error { return f.sync() }

// SyncTo promises nothing, as vfs allows.
func (f *file) SyncTo(int64) (bool, error) { return false, nil }

func (f *file) sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	op := Op{Kind: Sync, Path: f.path, file: f.n}
	if f.dir {
		op.Kind = SyncDir
	}
	err := f.fs.do(op, func() error { return nil })
	if err != nil && !f.dir {
		durable := f.fs.durable(len(f.fs.ops))
		for i := range f.fs.ops {
			if o := &f.fs.ops[i]; o.Kind == Write && o.file == f.n && !durable[i] {
				o.lost = true
			}
		}
	}
	return err
}

func (f *file) Read(p []byte) (int, error) {
	if err := f.readable(); err != nil {
		return 0, err
	}
	return f.File.Read(p)
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.readable(); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *file) readable() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if fault := f.fs.ask(Op{Kind: Read, Path: f.path, file: f.n}); fault != nil {
		return &os.PathError{Op: "read", Path: f.path, Err: fault.Err}
	}
	return nil
}
