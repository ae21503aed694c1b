// Package crashfs is a file system in memory that remembers every change made
// to it, and can show what a disk may hold if the power fails at any moment:
// all that was synced, and of the rest whatever the test asks for. It can also
// let any single operation fail, and models a failed fsync as Linux does: the
// bytes stay readable, look clean, and reach the disk no more.
//
// It is for tests. See README.md.
package crashfs

import (
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Kind is what an operation does.
type Kind uint8

// The kinds of operations.
const (
	Create Kind = iota + 1 // a new, empty file at Path
	Write                  // Data at Offset of a file
	Sync                   // of a file
	SyncDir
	Rename // from Path to To
	Link   // a second name, To, for the file at Path
	Remove
	Mkdir
	Open // for reading; recorded by no crash, but it may be made to fail
	Read // likewise
)

var kinds = [...]string{Create: "create", Write: "write", Sync: "sync", SyncDir: "syncdir", Rename: "rename", Link: "link", Remove: "remove", Mkdir: "mkdir", Open: "open", Read: "read"}

func (k Kind) String() string { return kinds[k] }

// Op is one operation. A test must not change Data.
type Op struct {
	Kind     Kind
	Path, To string
	Offset   int64
	Data     []byte
	file     int  // the file's number
	lost     bool // an fsync failed after it: no later one makes it durable
}

// size is in how many steps the operation can be kept: bytes of a write.
func (o Op) size() int {
	if o.Kind == Write {
		return len(o.Data)
	}
	return 1
}

// Fault is how an operation fails. Of a Write the first Keep bytes are done.
type Fault struct {
	Err  error
	Keep int
}

// ErrNoSpace is what a full disk says.
var ErrNoSpace error = syscall.ENOSPC

// FS is a vfs.FS in memory. Use New. It is safe for concurrent use; operations
// are recorded in the order in which they took effect.
type FS struct {
	mem *vfs.MemFS

	mu    sync.Mutex
	ops   []Op
	base  state // what was durable at the beginning
	files map[string]int
	count int // of files ever
	tried int // of operations ever asked for
	fault func(n int, op Op) *Fault
}

// state is what a disk holds.
type state struct {
	dirs  map[string]bool
	names map[string]int // the number of the file with that name
	bytes map[int][]byte
}

// New returns an empty file system.
func New() *FS {
	return &FS{mem: vfs.NewMem(), files: map[string]int{}, base: state{map[string]bool{}, map[string]int{}, map[int][]byte{}}}
}

// Len returns how many changes were recorded: the moments at which the power
// can fail are 0 (before the first) to Len (after the last).
func (fs *FS) Len() int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return len(fs.ops)
}

// SetFault sets the function that is asked before every operation; it returns
// nil to let it be. n counts all operations from 0, those that change nothing
// too. It is called with the file system locked. nil ends all faults.
func (fs *FS) SetFault(fault func(n int, op Op) *Fault) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.fault = fault
}

// Unsynced returns the changes before moment at that were not durable then, in
// order. Those of a file become durable by a sync of the file, those of names by
// a sync of the folder. A file whose name is not durable is not there, whatever
// was synced of it.
func (fs *FS) Unsynced(at int) []Op {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	var un []Op
	durable := fs.durable(at)
	for i, op := range fs.ops[:at] {
		if !durable[i] && op.Kind != Sync && op.Kind != SyncDir {
			un = append(un, op)
		}
	}
	return un
}

// durable tells which of the first at operations are durable.
func (fs *FS) durable(at int) []bool {
	d := make([]bool, at)
	files, dirs := map[int]bool{}, map[string]bool{} // synced later on
	for i := at - 1; i >= 0; i-- {
		switch op := fs.ops[i]; op.Kind {
		case Sync:
			files[op.file] = true
		case SyncDir:
			dirs[op.Path] = true
		case Write:
			d[i] = files[op.file] && !op.lost
		case Rename, Link:
			d[i] = dirs[parent(op.To)]
		default:
			d[i] = dirs[parent(op.Path)]
		}
	}
	return d
}

// Keep says how much is kept of each operation that is not durable: of a write
// that many bytes, of others nothing (0) or all (else). It is asked in order.
type Keep func(Op) int

// None keeps nothing that was not synced.
func None(Op) int { return 0 }

// All keeps everything, as after a kill.
func All(op Op) int { return op.size() }

// Prefix keeps the first n steps of what was not synced, in order, where every
// byte of a write is a step, and everything else one: so a write is torn.
func Prefix(n int) Keep {
	return func(op Op) int {
		k := min(n, op.size())
		n -= k
		return k
	}
}

// Steps returns how many steps Prefix can take at a moment.
func (fs *FS) Steps(at int) int {
	n := 0
	for _, op := range fs.Unsynced(at) {
		n += op.size()
	}
	return n
}

// Some keeps each operation wholly, torn or not at all, in no order, as random
// (which returns 0 to n-1) decides: disks may reorder what is not synced.
func Some(random func(n int) int) Keep {
	return func(op Op) int {
		switch random(3) {
		case 0:
			return 0
		case 1:
			return op.size()
		}
		return random(op.size() + 1)
	}
}

// Crash returns what the disk holds if the power fails at a moment and keep
// decides over what was not synced. All of it is durable in the new FS.
func (fs *FS) Crash(at int, keep Keep) *FS {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	s := state{maps.Clone(fs.base.dirs), maps.Clone(fs.base.names), map[int][]byte{}}
	for n, b := range fs.base.bytes {
		s.bytes[n] = slices.Clone(b)
	}
	durable := fs.durable(at)
	for i, op := range fs.ops[:at] {
		if op.Kind == Sync || op.Kind == SyncDir {
			continue
		}
		n := op.size()
		if !durable[i] {
			n = keep(op)
		}
		if n > 0 {
			s.apply(op, n)
		}
	}
	return s.open()
}

func (s *state) apply(op Op, n int) {
	switch op.Kind {
	case Create:
		s.names[op.Path] = op.file
	case Write:
		b := s.bytes[op.file]
		if grow := int(op.Offset) + n - len(b); grow > 0 {
			b = append(b, make([]byte, grow)...)
		}
		copy(b[op.Offset:], op.Data[:n])
		s.bytes[op.file] = b
	case Rename:
		if op.file == 0 { // a folder
			for name, f := range maps.Clone(s.names) {
				if rest, ok := strings.CutPrefix(name, op.Path+"/"); ok {
					delete(s.names, name)
					s.names[op.To+"/"+rest] = f
				}
			}
			for name := range maps.Clone(s.dirs) {
				if rest, ok := strings.CutPrefix(name+"/", op.Path+"/"); ok {
					delete(s.dirs, name)
					s.dirs[strings.TrimSuffix(op.To+"/"+rest, "/")] = true
				}
			}
			return
		}
		delete(s.names, op.Path)
		s.names[op.To] = op.file
	case Link:
		s.names[op.To] = op.file
	case Remove:
		delete(s.names, op.Path)
		delete(s.dirs, op.Path)
	case Mkdir:
		s.dirs[op.Path] = true
	}
}

// open makes a file system that holds the state: names in folders that are not
// there are not reachable, so they are gone.
func (s *state) open() *FS {
	fs := New()
	for _, dir := range slices.Sorted(maps.Keys(s.dirs)) {
		if p := parent(dir); isRoot(p) || fs.base.dirs[p] {
			fs.base.dirs[dir] = true
			must(fs.mem.MkdirAll(dir, 0o755))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.names)) {
		if p := parent(name); !isRoot(p) && !fs.base.dirs[p] {
			continue
		}
		n := s.names[name]
		fs.base.names[name], fs.base.bytes[n] = n, s.bytes[n]
		fs.files[name], fs.count = n, max(fs.count, n)
		f, err := fs.mem.Create(name, vfs.WriteCategoryUnspecified)
		must(err)
		_, err = f.Write(slices.Clone(s.bytes[n]))
		must(err)
		must(f.Close())
	}
	return fs
}

func must(err error) {
	if err != nil {
		panic(err) // memory does not fail
	}
}

func parent(path string) string {
	i := strings.LastIndexByte(path, '/')
	switch {
	case i < 0:
		return "."
	case i == 0:
		return "/"
	}
	return path[:i]
}

func isRoot(dir string) bool { return dir == "." || dir == "/" }

// clean gives every path one form.
func (fs *FS) clean(path string) string {
	if path == "" {
		return "."
	}
	return fs.mem.PathJoin(path)
}

// ask returns the fault of the operation, if it has one. The caller holds mu.
func (fs *FS) ask(op Op) *Fault {
	n := fs.tried
	fs.tried++
	if fs.fault == nil {
		return nil
	}
	return fs.fault(n, op)
}

// do asks, does and records an operation. The caller holds mu.
func (fs *FS) do(op Op, how func() error) error {
	if f := fs.ask(op); f != nil {
		return &os.PathError{Op: op.Kind.String(), Path: op.Path, Err: f.Err}
	}
	if err := how(); err != nil {
		return err
	}
	fs.ops = append(fs.ops, op)
	return nil
}

var _ vfs.FS = (*FS)(nil)
