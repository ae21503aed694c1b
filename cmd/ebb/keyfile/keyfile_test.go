package keyfile

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

const today = taxonomy.Day(20782) // 2026-11-25

func newFile(t *testing.T) (string, *keys.Ring) {
	t.Helper()
	ring, err := keys.Generate(rand.Reader, today)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "sub", "ebb.keys.json")
	if err := Create(path, ring); err != nil {
		t.Fatal(err)
	}
	return path, ring
}

func TestKeysComeBackAndOnlyTheirOwnerMayReadThem(t *testing.T) {
	path, ring := newFile(t)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %04o, want 0600", info.Mode().Perm())
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.KeyIDs(), ring.KeyIDs()) {
		t.Error("other keys came back")
	}
}

func TestCreateNeverReplacesKeys(t *testing.T) {
	path, ring := newFile(t)
	other, err := keys.Generate(rand.Reader, today)
	if err != nil {
		t.Fatal(err)
	}
	if err := Create(path, other); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("got %v, want fs.ErrExist", err)
	}
	got, err := Read(path)
	if err != nil || !slices.Equal(got.KeyIDs(), ring.KeyIDs()) {
		t.Fatalf("the keys changed (%v)", err)
	}
	onlyFile(t, path)
}

func TestUpdateWritesAllOrNothing(t *testing.T) {
	path, ring := newFile(t)
	fault := errors.New("no")
	err := Update(path, func(r *keys.Ring) (*keys.Ring, error) { return nil, fault })
	if !errors.Is(err, fault) {
		t.Fatalf("got %v, want the fault of the change", err)
	}
	if got, err := Read(path); err != nil || !slices.Equal(got.KeyIDs(), ring.KeyIDs()) {
		t.Fatalf("a failed change left a trace (%v)", err)
	}
	err = Update(path, func(r *keys.Ring) (*keys.Ring, error) { return r.WithSpace(rand.Reader, "own:crm") })
	if err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil || len(got.Spaces()) != 1 {
		t.Fatalf("got %v, %v, want a key for one space", got, err)
	}
	onlyFile(t, path)
}

// No change is lost: each of many that run at once is in the file, or was told
// that it failed.
func TestUpdatesDoNotOverwriteEachOther(t *testing.T) {
	path, _ := newFile(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var done []taxonomy.Space
	for i := range 16 {
		space := taxonomy.Space("own:s" + string(rune('a'+i)))
		wg.Go(func() {
			err := Update(path, func(r *keys.Ring) (*keys.Ring, error) { return r.WithSpace(rand.Reader, space) })
			if err == nil {
				mu.Lock()
				done = append(done, space)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(done)
	if !slices.Equal(got.Spaces(), done) || len(done) == 0 {
		t.Errorf("the file has %v, acknowledged were %v", got.Spaces(), done)
	}
	onlyFile(t, path)
}

// An operator is often root, and the server never.
func TestUpdateKeepsTheOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give a file away; CI runs as root")
	}
	path, _ := newFile(t)
	if err := os.Chown(path, 65532, 65531); err != nil {
		t.Fatal(err)
	}
	if err := Update(path, func(r *keys.Ring) (*keys.Ring, error) { return r.Stage(rand.Reader) }); err != nil {
		t.Fatal(err)
	}
	if got, err := owner(path); err != nil || got != [2]uint32{65532, 65531} {
		t.Errorf("the owner is %v (%v), want 65532 and 65531", got, err)
	}
}

func TestUnsafeOrBrokenFilesAreRefused(t *testing.T) {
	path, _ := newFile(t)
	if _, err := Read(path + ".none"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "ebb init") {
		t.Errorf("missing file: %v, want the next step", err)
	}
	if err := Update(path+".none", func(r *keys.Ring) (*keys.Ring, error) { return r, nil }); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("readable by a group: %v, want the next step", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a flipped bit: %v, want an error that names the file", err)
	}
	if _, err := Read(filepath.Dir(path)); err == nil {
		t.Error("a folder was read as keys")
	}
}

// onlyFile fails if anything lies beside the keys: a copy left behind is a copy
// of all secrets.
func onlyFile(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("got %v, want only %s", entries, filepath.Base(path))
	}
}
