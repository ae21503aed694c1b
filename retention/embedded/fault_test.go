package embedded_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/embedded"
	"github.com/ebb-dmp/ebb/retention/log/crashfs"
)

// Power loss before any write, with nothing, all, or some of what was not synced
// kept: what was acknowledged is there, and nothing is there by half.
func TestPowerLossLosesNothingAcknowledged(t *testing.T) {
	type crash struct {
		fs   *vfs.MemFS
		out  []outcome
		what string
	}
	list := steps(t)
	p := &progress{out: make([]outcome, len(list))}
	mem := vfs.NewCrashableMem()
	var mu sync.Mutex
	var crashes []crash
	n := 0
	every := stride(5)
	rng := rand.New(rand.NewPCG(1, 2))
	hook := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsRead {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		if n++; n%every == 0 {
			out := p.snapshot() // before the clone: what is acknowledged by now must be in it
			for _, kept := range []int{0, 100, 10 + rng.IntN(80), 10 + rng.IntN(80)} {
				crashes = append(crashes, crash{mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: kept, RNG: rng}), out,
					fmt.Sprintf("power loss before write %d (kind %d of %s), %d%% kept", n, op.Kind, op.Path, kept)})
			}
		}
		return nil
	})
	s := open(t, options(errorfs.Wrap(mem, hook), at0))
	if err := run(s, list, p); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range crashes {
		if err := checkAll(c.fs, list, c.out); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
	}
	if n < 100 {
		t.Fatalf("only %d writes: the hook does not see the store's files", n)
	}
	t.Logf("%d writes, %d crashes", n, len(crashes))
}

// An error at the n-th write or sync, once or from then on: whatever was
// acknowledged is there when the disk is well again, and also if the power went
// at the end.
func TestAWriteErrorGivesNoFalseAck(t *testing.T) {
	total := faultRun(t, -1, false)
	if total < 100 {
		t.Fatalf("only %d writes: the injector does not see the store's files", total)
	}
	n := 0
	for at := 1; at <= total; at += stride(13) {
		faultRun(t, at, false)
		faultRun(t, at, true)
		n += 2
	}
	t.Logf("%d writes, %d runs", total, n)
}

// faultRun does the steps with an error at write number at, and for ever behind
// it if sticky, and checks what is left. It returns how many writes there were.
func faultRun(t *testing.T, at int, sticky bool) int {
	t.Helper()
	list := steps(t)
	p := &progress{out: make([]outcome, len(list))}
	mem := vfs.NewCrashableMem()
	var n, ops atomic.Int64
	var healed atomic.Bool
	inj := errorfs.InjectorFunc(func(op errorfs.Op) error {
		ops.Add(1)
		if op.Kind.ReadOrWrite() == errorfs.OpIsRead || op.Kind == errorfs.OpFileClose || healed.Load() {
			return nil
		}
		if i := int(n.Add(1)); i == at || sticky && i > at && at > 0 {
			return errorfs.ErrInjected
		}
		return nil
	})
	s, err := embedded.Open(options(errorfs.Wrap(mem, inj), at0))
	if err == nil {
		err = run(s, list, p)
		// The disk being broken, closing may fail; it must end, and free the lock.
		_ = s.Close()
	}
	if at < 0 && err != nil {
		t.Fatal(err)
	}
	if err != nil && strings.Contains(err.Error(), "panic") {
		t.Fatal(err)
	}
	healed.Store(true)
	out := p.snapshot()
	lost := mem.CrashClone(vfs.CrashCloneCfg{})
	for what, fs := range map[string]vfs.FS{"power loss": lost, "all kept": mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})} {
		if err := checkAll(fs, list, out); err != nil {
			t.Fatalf("error at write %d (sticky %t), then %s: %v", at, sticky, what, err)
		}
	}
	return int(n.Load())
}

func TestAFailedStoreRefusesEverything(t *testing.T) {
	mem := vfs.NewMem()
	var broken atomic.Bool
	inj := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) {
			return errorfs.ErrInjected
		}
		return nil
	})
	s := open(t, options(errorfs.Wrap(mem, inj), at0))
	if err := s.Events().Put(t.Context(), []retention.StoredEvent{event(random(1), 1, 1)}); err != nil {
		t.Fatal(err)
	}
	broken.Store(true)
	if err := s.Events().Put(t.Context(), []retention.StoredEvent{event(random(1), 1, 2)}); !errors.Is(err, retention.ErrUnknown) {
		t.Fatalf("a put whose fsync failed gave %v, want unknown", err)
	}
	<-s.Failed()
	broken.Store(false) // the next fsync would lie: the kernel has dropped the pages
	for what, err := range map[string]error{
		"put":  s.Events().Put(t.Context(), []retention.StoredEvent{event(random(1), 1, 3)}),
		"scan": s.Events().Scan(t.Context(), 0, 1, 0, 1<<20, func(*retention.StoredEvent) error { return nil }),
		"blob": second(s.Blobs().List(t.Context(), "")),
	} {
		if !errors.Is(err, retention.ErrClosed) {
			t.Fatalf("%s on a failed store gave %v, want closed", what, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, options(mem, at0)) // the lock is free
	defer again.Close()
	n := 0
	if err := again.Events().Visitor(t.Context(), random(1), 0, 1<<20, func(*retention.StoredEvent) error { n++; return nil }); err != nil || n < 1 {
		t.Fatalf("got %d events, %v", n, err)
	}
}

func second[T any](_ T, err error) error { return err }

// A bit flipped in any table or blob: it is found and the file named, or it was
// in a place that does not matter; nothing wrong is served.
func TestLongFaultsOfABitAreFoundAndNamed(t *testing.T) {
	mem := vfs.NewMem()
	s := open(t, options(mem, at0))
	list := steps(t)
	p := &progress{out: make([]outcome, len(list))}
	if err := run(s, list, p); err != nil {
		t.Fatal(err)
	}
	if err := s.Events().Expire(t.Context(), 0); err != nil { // everything into tables
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	found, checked := 0, 0
	eachFile(t, mem, "/data", func(path string, b []byte) {
		name := path[strings.LastIndex(path, "/")+1:]
		if !strings.HasSuffix(name, ".sst") && !strings.HasSuffix(name, "=blob") && name != "FORMAT" {
			return
		}
		step := max(len(b)/stride(40), 1)
		if allFaults {
			step = max(len(b)/1000, 1)
		}
		for pos := 0; pos < len(b); pos += step {
			checked++
			fs := copyFS(t, mem)
			flipped := append([]byte(nil), b...)
			flipped[pos] ^= 1 << (pos % 8)
			writeFile(t, fs, path, flipped)
			err := checkAll(fs, list, p.snapshot())
			if err == nil {
				continue // nothing wrong was served
			}
			found++
			if !errors.Is(err, retention.ErrCorrupt) {
				t.Fatalf("a bit of byte %d of %s: got %v, want corrupt", pos, path, err)
			}
			named := name
			if strings.HasSuffix(name, "=blob") {
				named = strings.TrimSuffix(strings.TrimPrefix(path, "/data/blobs/"), "=blob")
			}
			if !strings.Contains(err.Error(), named) {
				t.Fatalf("a bit of byte %d of %s: the error does not name it: %v", pos, path, err)
			}
		}
	})
	if found*2 < checked {
		t.Fatalf("of %d flipped bits %d were found", checked, found)
	}
	t.Logf("%d bits flipped, %d found, the others did no harm", checked, found)
}

func copyFS(t testing.TB, from vfs.FS) *vfs.MemFS {
	t.Helper()
	to := vfs.NewMem()
	eachFile(t, from, "/", func(path string, b []byte) { writeFile(t, to, path, b) })
	return to
}

func writeFile(t testing.TB, fs vfs.FS, path string, b []byte) {
	t.Helper()
	if err := fs.MkdirAll(fs.PathDir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// A disk may keep the removal of a name and not the creation of another before it,
// or the other way round, as long as the folder is not synced. At every moment of a
// purge, which opens the database anew three times, one of them must be durable.
func TestAPurgeSurvivesNamesThatAreKeptInNoOrder(t *testing.T) {
	ctx := t.Context()
	fs := crashfs.New()
	o := options(fs, at0)
	s := open(t, o)
	v := random(1)
	if err := s.Events().Put(ctx, []retention.StoredEvent{event(v, 1, 1)}); err != nil {
		t.Fatal(err)
	}
	begin := fs.Len()
	if err := s.Events().Expire(ctx, 0); err != nil {
		t.Fatal(err)
	}
	end := fs.Len()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	only := func(kinds ...crashfs.Kind) crashfs.Keep {
		return func(op crashfs.Op) int {
			if slices.Contains(kinds, op.Kind) {
				return crashfs.All(op)
			}
			return 0
		}
	}
	keeps := map[string]crashfs.Keep{"only removals": only(crashfs.Remove), "only creations": only(crashfs.Create, crashfs.Rename)}
	for at := begin; at <= end; at++ {
		for what, keep := range keeps {
			o.FS = fs.Crash(at, keep)
			s, err := embedded.Open(o)
			if err != nil {
				t.Fatalf("power loss at change %d of %d, %s kept: %v", at-begin, end-begin, what, err)
			}
			n := 0
			err = s.Events().Visitor(ctx, v, -1<<20, 1<<20, func(*retention.StoredEvent) error { n++; return nil })
			if err := errors.Join(err, s.Close()); err != nil || n != 1 {
				t.Fatalf("power loss at change %d of %d, %s kept: %d events are there, want 1; %v", at-begin, end-begin, what, n, err)
			}
		}
	}
	t.Logf("%d changes", end-begin)
}

// To Pebble a database without a marker is a new one, of which it removes all.
func TestADatabaseThatLostItsMarkerIsRefused(t *testing.T) {
	o := options(vfs.NewMem(), at0)
	s := open(t, o)
	if err := s.Events().Put(t.Context(), []retention.StoredEvent{event(random(1), 1, 1)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := o.FS.List("/data/db")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "marker.manifest.") {
			if err := o.FS.Remove("/data/db/" + name); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, err = embedded.Open(o)
	if !errors.Is(err, retention.ErrCorrupt) || !strings.Contains(err.Error(), "no marker.manifest file") {
		t.Fatalf("it opens: %v", err)
	}
	if after, err := o.FS.List("/data/db"); err != nil || len(after) != len(names)-1 {
		t.Fatalf("of %d files %d are left, %v", len(names)-1, len(after), err)
	}
}
