package log

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"syscall"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/log/crashfs"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/google/go-cmp/cmp"
)

// history is what was done to a log, and when it was acknowledged.
type history struct {
	fs      *crashfs.FS
	batches []batch
	trims   []trim
}

type batch struct {
	ref     taxonomy.Ref // zero if it was not told
	records []taxonomy.Record
	acked   int // the moment, or -1
}

type trim struct {
	began int
	to    retention.Position
}

// record plays two writers' lives, with batches of every kind of fate.
func record(t *testing.T) *history {
	h := &history{fs: crashfs.New()}
	for w := range 2 {
		l := mustOpen(t, options(h.fs, w))
		for i := range 24 {
			rs := events(w*1000+i*10, 1+i%3)
			if i%5 == 4 {
				ref, _, err := l.Append(ctx, 0, rs, retention.AckNone)
				if err != nil {
					t.Fatal(err)
				}
				h.batches = append(h.batches, batch{ref, rs, -1})
				continue
			}
			ref := mustAppend(t, l, rs)
			h.batches = append(h.batches, batch{ref, rs, h.fs.Len()})
			if i%9 == 8 || w == 1 && i == 12 {
				to := retention.Position{writerID(0): ref.Seq - 2}
				if w == 1 {
					to = retention.Position{writerID(0): 44, writerID(1): ref.Seq}
				}
				h.trims = append(h.trims, trim{h.fs.Len(), to})
				if err := l.Trim(ctx, 0, to); err != nil {
					t.Fatal(err)
				}
			}
		}
		if w == 0 {
			mustClose(t, l)
		}
	}
	return h
}

// check opens what a crash left and compares it with what was acknowledged.
func (h *history) check(fs *crashfs.FS, at, writer int) error {
	o := options(fs, writer)
	l, err := Open(o)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer l.Close(ctx)
	from := retention.Position{}
	for _, tr := range h.trims {
		if tr.began <= at {
			from = tr.to
		}
	}
	frames, err := tryFollow(l, from, 300)
	if err != nil {
		return err
	}
	for _, f := range frames {
		if f.Lost {
			return fmt.Errorf("records %d to %d are said to be lost", f.First, f.Last())
		}
	}
	got := records(frames)
	n := 0
	for _, b := range h.batches {
		here := 0
		for i, r := range b.records {
			ref := taxonomy.Ref{Writer: b.ref.Writer, Seq: b.ref.Seq + uint64(i)}
			g, ok := got[ref]
			if ref.Seq <= from[ref.Writer] {
				continue
			}
			switch {
			case ok && !reflect.DeepEqual(g, r):
				return fmt.Errorf("record %d is another one: %s", ref.Seq, cmp.Diff(r, g))
			case ok:
				here++
				n++
			case b.acked >= 0 && b.acked <= at:
				return fmt.Errorf("record %d was acknowledged and is lost", ref.Seq)
			case here > 0:
				return fmt.Errorf("record %d is missing, the one before is there: half a batch", ref.Seq)
			}
		}
	}
	if n != len(got) {
		return fmt.Errorf("%d records are read, %d were appended", len(got), n)
	}
	for _, p := range l.Problems() {
		if !p.Torn {
			return fmt.Errorf("a crash is taken for damage: %+v", p)
		}
	}
	return nil
}

// F2: at every moment, with every prefix of what was not synced (a write torn
// at any byte), nothing acknowledged is lost, nothing half-written is read, and
// no crash is taken for damage. EBB_TEST_FAULTS=all tries every byte.
func TestPowerLossAtEveryMoment(t *testing.T) {
	h := record(t)
	tried := 0
	for at := 0; at <= h.fs.Len(); at++ {
		steps := h.fs.Steps(at)
		for k := 0; k <= steps; k += stride(37) {
			if err := h.check(h.fs.Crash(at, crashfs.Prefix(k)), at, 5); err != nil {
				t.Fatalf("power lost at %d of %d, %d of %d steps kept: %v", at, h.fs.Len(), k, steps, err)
			}
			tried++
		}
		if err := h.check(h.fs.Crash(at, crashfs.All), at, 5); err != nil {
			t.Fatalf("killed at %d of %d: %v", at, h.fs.Len(), err)
		}
	}
	t.Logf("%d crashes", tried)
}

// F2: disks also reorder what is not synced.
func TestPowerLossWithReorderedWrites(t *testing.T) {
	h := record(t)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for at := 0; at <= h.fs.Len(); at++ {
		for range 40 / stride(20) {
			if err := h.check(h.fs.Crash(at, crashfs.Some(random.IntN)), at, 5); err != nil {
				t.Fatalf("seed %d: power lost at %d: %v", seed, at, err)
			}
		}
	}
}

// A second power loss, at any moment of the recovery from the first.
func TestPowerLossDuringRecovery(t *testing.T) {
	h := record(t)
	for at := 0; at <= h.fs.Len(); at += stride(7) {
		for _, keep := range []int{0, 40, 90, 150, 1 << 20} {
			first := h.fs.Crash(at, crashfs.Prefix(keep))
			if err := h.check(first, at, 5); err != nil {
				t.Fatal(err)
			}
			for again := 0; again <= first.Len(); again++ {
				for k := 0; k <= first.Steps(again); k += stride(101) {
					if err := h.check(first.Crash(again, crashfs.Prefix(k)), at, 6); err != nil {
						t.Fatalf("power lost at %d with %d steps, then at %d with %d: %v", at, keep, again, k, err)
					}
				}
			}
		}
	}
}

// play appends until the end or the first error, and says what was
// acknowledged and which errors came.
func play(l *Log, w int, n int) (h history, errs []error) {
	for i := range n {
		rs := events(w*1000+i*10, 1+i%3)
		ref, _, err := l.Append(ctx, 0, rs, retention.AckLocal)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		h.batches = append(h.batches, batch{ref, rs, 0})
		if i%6 == 5 {
			if err := l.Rotate(ctx, 0); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return h, errs
}

var errDisk = errors.New("the disk is on fire")

// F3: whichever fsync, write or other operation fails, what was acknowledged
// before is there after a restart with power loss, what came after is refused
// and never claimed, and a failed fsync is not tried again.
func TestEveryOperationFailsOnce(t *testing.T) {
	for _, kind := range []crashfs.Kind{crashfs.Sync, crashfs.SyncDir, crashfs.Write, crashfs.Create, crashfs.Mkdir, crashfs.Open} {
		for n := 0; ; n++ {
			fs := crashfs.New()
			l, err := Open(options(fs, 0))
			if err != nil {
				t.Fatal(err)
			}
			seen, failed := 0, ""
			fs.SetFault(func(_ int, op crashfs.Op) *crashfs.Fault {
				if op.Kind != kind {
					return nil
				}
				if failed != "" && (kind == crashfs.Sync || kind == crashfs.SyncDir) && op.Path == failed {
					t.Errorf("%v %d: %s was synced again after a failed sync", kind, n, op.Path)
				}
				if seen++; seen-1 == n {
					failed = op.Path
					return &crashfs.Fault{Err: errDisk, Keep: len(op.Data) / 2}
				}
				return nil
			})
			h, errs := play(l, 0, 20)
			fs.SetFault(nil)
			if failed == "" {
				if len(errs) > 0 {
					t.Fatalf("%v: errors without a fault: %v", kind, errs)
				}
				mustClose(t, l)
				break
			}
			if len(errs) == 0 {
				t.Errorf("%v %d: nobody was told", kind, n)
			}
			stopped := l.Err() != nil
			if stop := kind == crashfs.Sync || kind == crashfs.SyncDir || kind == crashfs.Write; stopped != stop {
				t.Errorf("%v %d: stopped %v", kind, n, stopped)
			}
			for i, err := range errs {
				unknown, closed, full := errors.Is(err, retention.ErrUnknown), errors.Is(err, retention.ErrClosed), errors.Is(err, retention.ErrFull)
				if stopped && (unknown != (i == 0) || closed != (i > 0)) || !stopped && !full {
					t.Errorf("%v %d: error %d is %v", kind, n, i, err)
				}
			}
			if f, err := tryFollow(l, nil, 1000); err != nil || len(records(f)) != h.size() {
				t.Errorf("%v %d: %d records are followed, %d acknowledged, %v", kind, n, len(records(f)), h.size(), err)
			}
			_ = l.Close(ctx)
			for _, keep := range []crashfs.Keep{crashfs.None, crashfs.All, crashfs.Prefix(100)} {
				h := h
				// The one batch whose outcome is unknown may be there too.
				if err := h.checkAtLeast(fs.Crash(fs.Len(), keep)); err != nil {
					t.Errorf("%v %d: %v", kind, n, err)
				}
			}
		}
	}
}

func (h *history) size() (n int) {
	for _, b := range h.batches {
		n += len(b.records)
	}
	return n
}

// checkAtLeast opens fs and finds all of the history, and at most one whole
// batch beside it.
func (h *history) checkAtLeast(fs *crashfs.FS) error {
	l, err := Open(options(fs, 5))
	if err != nil {
		return err
	}
	defer l.Close(ctx)
	frames, err := tryFollow(l, nil, 1000)
	if err != nil {
		return err
	}
	got := records(frames)
	for _, b := range h.batches {
		for i, r := range b.records {
			ref := taxonomy.Ref{Writer: b.ref.Writer, Seq: b.ref.Seq + uint64(i)}
			if g, ok := got[ref]; !ok || !reflect.DeepEqual(g, r) {
				return fmt.Errorf("record %d was acknowledged and is lost or another", ref.Seq)
			}
		}
	}
	if more := len(got) - h.size(); more > 3 {
		return fmt.Errorf("%d records too many", more)
	}
	for _, p := range l.Problems() {
		if !p.Torn {
			return fmt.Errorf("%+v", p)
		}
	}
	return nil
}

// F4: the disk is full from the nth write on, having taken part of it. The log
// answers ErrFull, holds what it acknowledged, also through a power loss, and
// goes on by itself when there is space, with numbers without holes.
func TestDiskFullAtEveryWrite(t *testing.T) {
	for n := 0; ; n++ {
		for _, part := range []int{0, 3, 70} {
			fs := crashfs.New()
			l, err := Open(options(fs, 0))
			if err != nil {
				t.Fatal(err)
			}
			writes := 0
			hit := false
			fs.SetFault(func(_ int, op crashfs.Op) *crashfs.Fault {
				grows := op.Kind == crashfs.Write || op.Kind == crashfs.Create
				if op.Kind == crashfs.Write {
					writes++
				}
				if !grows || writes <= n {
					return nil
				}
				hit = true
				return &crashfs.Fault{Err: syscall.ENOSPC, Keep: min(part, max(0, len(op.Data)-1))}
			})
			h, errs := play(l, 0, 20)
			if !hit {
				fs.SetFault(nil)
				mustClose(t, l)
				return
			}
			if len(errs) == 0 {
				t.Fatalf("write %d: nobody was told", n)
			}
			for _, err := range errs {
				if !errors.Is(err, retention.ErrFull) {
					t.Fatalf("write %d: %v", n, err)
				}
			}
			if l.Err() != nil || !l.Usage().Full {
				t.Fatalf("write %d: %v, full %v", n, l.Err(), l.Usage().Full)
			}
			for _, keep := range []crashfs.Keep{crashfs.None, crashfs.All} {
				if err := h.check(fs.Crash(fs.Len(), keep), 0, 5); err != nil {
					t.Fatalf("write %d: after a power loss: %v", n, err)
				}
			}
			fs.SetFault(nil)
			more, errs := play(l, 1, 20)
			if len(errs) > 0 || l.Usage().Full {
				t.Fatalf("write %d: there is space again, and: %v", n, errs)
			}
			h.batches = append(h.batches, more.batches...)
			for _, keep := range []crashfs.Keep{crashfs.None, crashfs.All} {
				if err := h.check(fs.Crash(fs.Len(), keep), 0, 5); err != nil {
					t.Fatalf("write %d: at the end: %v", n, err)
				}
			}
			mustClose(t, l)
			if err := h.check(fs.Crash(fs.Len(), crashfs.None), 0, 6); err != nil {
				t.Fatalf("write %d: after Close: %v", n, err)
			}
		}
	}
}

// The reserve is given up when the disk is full, so that trimming can go on.
func TestTrimGoesOnWithAFullDisk(t *testing.T) {
	fs := crashfs.New()
	l := mustOpen(t, options(fs, 0))
	ref := mustAppend(t, l, events(0, 5))
	full := true
	fs.SetFault(func(_ int, op crashfs.Op) *crashfs.Fault {
		if _, err := fs.Stat("log/reserve"); err == nil && full && op.Kind == crashfs.Write {
			return &crashfs.Fault{Err: syscall.ENOSPC}
		}
		return nil
	})
	if _, _, err := l.Append(ctx, 0, events(5, 1), retention.AckLocal); !errors.Is(err, retention.ErrFull) {
		t.Fatal(err)
	}
	if _, err := fs.Stat("log/reserve"); err == nil {
		t.Error("the reserve is still there")
	}
	if err := l.Rotate(ctx, 0); err != nil {
		t.Errorf("rotate: %v", err)
	}
	if err := l.Trim(ctx, 0, retention.Position{ref.Writer: ref.Seq + 4}); err != nil {
		t.Errorf("trim: %v", err)
	}
	full = false
	mustAppend(t, l, events(6, 1))
	if _, err := fs.Stat("log/reserve"); err != nil {
		t.Error("the reserve was not made again")
	}
	fs.SetFault(nil)
}

// A process whose fsync failed dies; the next one finds in memory what is not
// on disk, and writes it again before it shows it to anyone.
func TestWhatAFailedFsyncLeftIsWrittenAgain(t *testing.T) {
	fs := crashfs.New()
	l := mustOpen(t, options(fs, 0))
	mustAppend(t, l, events(0, 1))
	fs.SetFault(func(_ int, op crashfs.Op) *crashfs.Fault {
		if op.Kind == crashfs.Sync {
			return &crashfs.Fault{Err: errDisk}
		}
		return nil
	})
	if _, _, err := l.Append(ctx, 0, events(1, 1), retention.AckLocal); !errors.Is(err, retention.ErrUnknown) {
		t.Fatal(err)
	}
	fs.SetFault(nil)
	_ = l.Close(ctx)
	l = mustOpen(t, options(fs, 1)) // the same disk: the page is in memory
	shown := records(follow(t, l, nil, 1000))
	lost := mustOpen(t, options(fs.Crash(fs.Len(), crashfs.None), 2))
	wantRecords(t, records(follow(t, lost, nil, 1000)), shown)
}
