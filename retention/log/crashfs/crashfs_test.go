package crashfs

import (
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func create(t *testing.T, fs *FS, path, text string) vfs.File {
	t.Helper()
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return f
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func syncFolder(t *testing.T, fs *FS, dir string) {
	t.Helper()
	d, err := fs.OpenDir(dir)
	do(t, err)
	do(t, d.Sync())
	do(t, d.Close())
}

// text is what a file holds, or "-" if there is none.
func text(t *testing.T, fs *FS, path string) string {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		return "-"
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	do(t, err)
	return string(b)
}

func TestOnlyWhatWasSyncedSurvives(t *testing.T) {
	fs := New()
	do(t, fs.MkdirAll("a/b", 0o755))
	f := create(t, fs, "a/b/f", "one")
	do(t, f.Sync())
	if got := text(t, fs.Crash(fs.Len(), None), "a/b/f"); got != "-" {
		t.Errorf("without its names the file holds %q", got)
	}
	for _, dir := range []string{".", "a", "a/b"} {
		syncFolder(t, fs, dir)
	}
	_, err := f.Write([]byte("two"))
	do(t, err)
	at := fs.Len()
	for k, want := range []string{"one", "onet", "onetw", "onetwo"} {
		if got := text(t, fs.Crash(at, Prefix(k)), "a/b/f"); got != want {
			t.Errorf("%d steps kept: %q, want %q", k, got, want)
		}
	}
	if n := fs.Steps(at); n != 3 {
		t.Errorf("%d steps, want 3", n)
	}
	do(t, f.SyncData())
	if got := text(t, fs.Crash(fs.Len(), None), "a/b/f"); got != "onetwo" {
		t.Errorf("after a sync: %q", got)
	}
	if got := text(t, fs.Crash(at, None), "a/b/f"); got != "one" {
		t.Errorf("the moment before: %q", got)
	}
	// What a crash left is durable, and a file system like any other.
	again := fs.Crash(at, Prefix(1))
	if got := text(t, again.Crash(again.Len(), None), "a/b/f"); got != "onet" {
		t.Errorf("a crash of a crash: %q", got)
	}
}

func TestRenamesAndRemovalsNeedTheirFolder(t *testing.T) {
	fs := New()
	f := create(t, fs, "new", "new")
	do(t, f.Sync())
	do(t, create(t, fs, "old", "old").Sync())
	syncFolder(t, fs, ".")
	do(t, fs.Rename("new", "old"))
	un := fs.Crash(fs.Len(), None)
	if text(t, un, "old") != "old" || text(t, un, "new") != "new" {
		t.Error("a rename was durable by itself")
	}
	done := fs.Crash(fs.Len(), All)
	if text(t, done, "old") != "new" || text(t, done, "new") != "-" {
		t.Error("a rename that was kept did not happen")
	}
	syncFolder(t, fs, ".")
	do(t, fs.Remove("old"))
	if got := text(t, fs.Crash(fs.Len(), None), "old"); got != "new" {
		t.Errorf("a removal was durable by itself: %q", got)
	}
	do(t, fs.MkdirAll("d/e", 0o755))
	create(t, fs, "d/e/f", "deep")
	do(t, fs.RemoveAll("d"))
	do(t, fs.RemoveAll("d"))
	if names, err := fs.List("."); err == nil && slices.Contains(names, "d") {
		t.Errorf("left: %v", names)
	}
}

func TestAFailedFsyncNeverBecomesDurable(t *testing.T) {
	fs := New()
	f := create(t, fs, "f", "one")
	do(t, f.Sync())
	syncFolder(t, fs, ".")
	_, err := f.Write([]byte("two"))
	do(t, err)
	bad := errors.New("bad")
	fs.SetFault(func(_ int, op Op) *Fault {
		if op.Kind == Sync {
			return &Fault{Err: bad}
		}
		return nil
	})
	if err := f.Sync(); !errors.Is(err, bad) {
		t.Fatal(err)
	}
	fs.SetFault(nil)
	do(t, f.Sync()) // claims success, as Linux does
	if text(t, fs, "f") != "onetwo" || text(t, fs.Crash(fs.Len(), None), "f") != "one" {
		t.Errorf("in memory %q, on disk %q", text(t, fs, "f"), text(t, fs.Crash(fs.Len(), None), "f"))
	}
}

func TestAFaultTakesPartOfAWrite(t *testing.T) {
	fs := New()
	f := create(t, fs, "f", "")
	var seen []int
	fs.SetFault(func(n int, op Op) *Fault {
		seen = append(seen, n)
		return &Fault{Err: ErrNoSpace, Keep: 2}
	})
	if n, err := f.Write([]byte("abcd")); n != 2 || !errors.Is(err, ErrNoSpace) {
		t.Errorf("wrote %d, %v", n, err)
	}
	if _, err := fs.Create("g", vfs.WriteCategoryUnspecified); !errors.Is(err, ErrNoSpace) {
		t.Errorf("create: %v", err)
	}
	if err := fs.Rename("f", "g"); !errors.Is(err, ErrNoSpace) {
		t.Errorf("rename: %v", err)
	}
	if len(seen) != 3 || seen[1] != seen[0]+1 {
		t.Errorf("asked for %v", seen)
	}
	fs.SetFault(nil)
	if got := text(t, fs, "f"); got != "ab" {
		t.Errorf("the file holds %q", got)
	}
}

func TestSomeKeepsPartsInNoOrder(t *testing.T) {
	fs := New()
	f := create(t, fs, "f", "")
	syncFolder(t, fs, ".")
	for _, s := range []string{"aaaa", "bbbb"} {
		_, err := f.Write([]byte(s))
		do(t, err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	seen := map[string]bool{}
	for range 500 {
		seen[text(t, fs.Crash(fs.Len(), Some(random.IntN)), "f")] = true
	}
	for _, want := range []string{"", "aaaa", "aaaabbbb", "\x00\x00\x00\x00bbbb", "aa\x00\x00bb"} {
		if !seen[want] {
			t.Errorf("%q never came", want)
		}
	}
}
