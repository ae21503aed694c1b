package app_test

import (
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"bytes"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
)

// dyingFS lets so many changes through and then none.
type dyingFS struct {
	vfs.FS
	left *atomic.Int64
}

var errDied = errors.New("the disk died here")

func (f dyingFS) change() error {
	if f.left.Add(-1) < 0 {
		return errDied
	}
	return nil
}

func (f dyingFS) file(open func() (vfs.File, error)) (vfs.File, error) {
	if err := f.change(); err != nil {
		return nil, err
	}
	file, err := open()
	if err != nil {
		return nil, err
	}
	return dyingFile{file, f}, nil
}

func (f dyingFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.file(func() (vfs.File, error) { return f.FS.Create(name, c) })
}

func (f dyingFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return f.file(func() (vfs.File, error) { return f.FS.OpenReadWrite(name, c, o...) })
}

func (f dyingFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.file(func() (vfs.File, error) { return f.FS.ReuseForWrite(from, to, c) })
}

func (f dyingFS) Rename(from, to string) error {
	if err := f.change(); err != nil {
		return err
	}
	return f.FS.Rename(from, to)
}

func (f dyingFS) Link(from, to string) error {
	if err := f.change(); err != nil {
		return err
	}
	return f.FS.Link(from, to)
}

func (f dyingFS) Remove(name string) error {
	if err := f.change(); err != nil {
		return err
	}
	return f.FS.Remove(name)
}

func (f dyingFS) RemoveAll(name string) error {
	if err := f.change(); err != nil {
		return err
	}
	return f.FS.RemoveAll(name)
}

func (f dyingFS) MkdirAll(dir string, perm os.FileMode) error {
	if err := f.change(); err != nil {
		return err
	}
	return f.FS.MkdirAll(dir, perm)
}

type dyingFile struct {
	vfs.File
	fs dyingFS
}

func (f dyingFile) Write(p []byte) (int, error) {
	if err := f.fs.change(); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f dyingFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.change(); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

// P6: wherever a restore is cut off, the directory that it leaves either does not
// open or holds nobody who was erased.
func TestARestoreThatIsCutOffBringsNobodyBack(t *testing.T) {
	m := newMachine(t)
	a := m.open("data")
	m.shop(a)
	if err := m.buy(a, 0, 60); err != nil {
		t.Fatal(err)
	}
	count(t, a)
	archive, _ := m.backup(a)
	m.now = m.now.Add(time.Hour)
	if _, err := a.Erase(ctx, "own:crm", "visitor-7"); err != nil {
		t.Fatal(err)
	}
	m.close(a)
	gone := m.key(7)

	attempt := func(data string, changes int64) (used int64, err error) {
		o := app.RestoreOptions{Options: m.options(data), Archive: bytes.NewReader(archive), Journal: journal}
		left := new(atomic.Int64)
		left.Store(changes)
		o.Env.FS = dyingFS{m.fs, left}
		_, err = app.Restore(ctx, o)
		return changes - left.Load(), err
	}
	const all = 1 << 40
	total, err := attempt("whole", all)
	if err != nil {
		t.Fatal(err)
	}
	// The last changes, when everything is moved into its place, one by one; those
	// before in strides.
	var at []int64
	for n := int64(0); n < total; n += max(1, min(total/10, total-20-n)) {
		at = append(at, n)
	}
	refused := 0
	for _, n := range at {
		data := "cut"
		if _, err := attempt(data, n); err == nil {
			continue // what it still had to remove is all that is missing
		}
		b, _, err := app.Open(ctx, m.options(data))
		if err != nil {
			refused++
		} else {
			m.close(b)
			if in := m.places(data, gone[:]); len(in) > 0 {
				t.Errorf("cut off after %d of %d changes: the erased visitor is in %v", n, total, in)
			}
		}
		if err := m.fs.RemoveAll(data); err != nil {
			t.Fatal(err)
		}
	}
	if refused < len(at)/2 {
		t.Errorf("of %d attempts that were cut off only %d left what does not open", len(at), refused)
	}
	t.Logf("%d changes; cut off at %d of them, %d times the directory does not open", total, len(at), refused)
}
