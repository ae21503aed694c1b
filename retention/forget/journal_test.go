package forget_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/retention/log/crashfs"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const path1, path2 = "/data/erasures.journal", "/other/erasures.journal"

func entry(n int) forget.Entry {
	space := taxonomy.SpaceCookie
	if n%3 == 0 {
		space = "own:crm"
	}
	return forget.Entry{Hash: [16]byte{byte(n), byte(n >> 8), 0x5a}, Space: space, At: storetest.Start + taxonomy.Millis(n)}
}

func entries(from, to int) (list []forget.Entry) {
	for n := from; n < to; n++ {
		list = append(list, entry(n))
	}
	return list
}

func newFS(t testing.TB) *crashfs.FS {
	t.Helper()
	fs := crashfs.New()
	for _, dir := range []string{"/data", "/other"} {
		if err := fs.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	root, err := fs.OpenDir("/")
	if err == nil {
		err = errors.Join(root.Sync(), root.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

func openJournal(t testing.TB, fs *crashfs.FS, paths ...string) *forget.Journal {
	t.Helper()
	j, err := forget.OpenJournal(fs, paths...)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func wantEntries(t testing.TB, got []forget.Entry, want []forget.Entry) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("got %d entries, want %d: %v", len(got), len(want), got)
	}
}

func contents(t testing.TB, fs *crashfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, fs *crashfs.FS, path string, b []byte) {
	t.Helper()
	f, err := fs.Create(path, "")
	if err == nil {
		_, err = f.Write(b)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheJournalOutlivesItsProcess(t *testing.T) { // R24
	fs := newFS(t)
	j := openJournal(t, fs, path1)
	for n := range 5 {
		if err := j.Append(t.Context(), entries(n, n+2)); err != nil { // each one twice
			t.Fatal(err)
		}
	}
	wantEntries(t, j.Entries(), entries(0, 6))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(t.Context(), entries(9, 10)); !errors.Is(err, retention.ErrClosed) {
		t.Fatalf("appending to a closed journal gave %v", err)
	}
	wantEntries(t, openJournal(t, fs, path1).Entries(), entries(0, 6))
	got, err := forget.ReadJournal(fs, path1)
	if err != nil {
		t.Fatal(err)
	}
	wantEntries(t, got, entries(0, 6))
}

func TestALaterErasureOfTheSameVisitorIsTheOneThatCounts(t *testing.T) {
	fs := newFS(t)
	j := openJournal(t, fs, path1)
	first, second := entry(1), entry(1)
	second.At += 1000
	if err := j.Append(t.Context(), []forget.Entry{second, first}); err != nil {
		t.Fatal(err)
	}
	j.Close()
	wantEntries(t, openJournal(t, fs, path1).Entries(), []forget.Entry{second})
}

func TestTwoPathsComeToTheirUnion(t *testing.T) { // R24
	fs := newFS(t)
	j := openJournal(t, fs, path1)
	if err := j.Append(t.Context(), entries(0, 3)); err != nil {
		t.Fatal(err)
	}
	j.Close()
	j = openJournal(t, fs, path2)
	if err := j.Append(t.Context(), entries(2, 5)); err != nil {
		t.Fatal(err)
	}
	j.Close()
	j = openJournal(t, fs, path1, path2)
	wantEntries(t, j.Entries(), entries(0, 5))
	if err := j.Append(t.Context(), entries(5, 6)); err != nil {
		t.Fatal(err)
	}
	j.Close()
	if !bytes.Equal(contents(t, fs, path1), contents(t, fs, path2)) {
		t.Fatal("the two paths differ")
	}
	// Either is enough.
	if err := fs.Remove(path1); err != nil {
		t.Fatal(err)
	}
	wantEntries(t, openJournal(t, fs, path1, path2).Entries(), entries(0, 6))
}

func TestPowerLossLosesNoErasureThatWasAcknowledged(t *testing.T) { // R24, P6
	fs := newFS(t)
	begin := fs.Len()      // the folders are there
	acked := map[int]int{} // moment → how many entries must be there
	note := func(n int) { acked[fs.Len()] = n }
	note(0)
	j := openJournal(t, fs, path1, path2)
	for n := range 4 {
		if err := j.Append(t.Context(), entries(n, n+1)); err != nil {
			t.Fatal(err)
		}
		note(n + 1)
	}
	j.Close()
	j = openJournal(t, fs, path1, path2)
	if err := j.Append(t.Context(), entries(4, 7)); err != nil {
		t.Fatal(err)
	}
	note(7)
	must, crashes := 0, 0
	for at := begin; at <= fs.Len(); at++ {
		if n, ok := acked[at]; ok {
			must = n
		}
		for k := 0; k <= fs.Steps(at); k++ { // every prefix of what was not synced, to the byte
			crashes++
			disk := fs.Crash(at, crashfs.Prefix(k))
			for _, paths := range [][]string{{path1, path2}, {path1}, {path2}} {
				j, err := forget.OpenJournal(disk, paths...)
				if err != nil {
					t.Fatalf("moment %d, %d steps kept, %s: %v", at, k, paths, err)
				}
				got := j.Entries()
				if len(got) < must || !slices.Equal(got, entries(0, len(got))) {
					t.Fatalf("moment %d, %d steps kept, %s: got %v, want the first %d at least", at, k, paths, got, must)
				}
				j.Close()
			}
		}
	}
	t.Logf("%d crashes", crashes)
}

func TestAFailedWriteIsNoAckAndTheJournalTakesNoMore(t *testing.T) {
	for n := range 40 {
		fs := newFS(t)
		j := openJournal(t, fs, path1, path2)
		if err := j.Append(t.Context(), entries(0, 1)); err != nil {
			t.Fatal(err)
		}
		ops := 0
		fs.SetFault(func(_ int, op crashfs.Op) *crashfs.Fault {
			if op.Kind == crashfs.Write || op.Kind == crashfs.Sync {
				if ops++; ops == n+1 {
					return &crashfs.Fault{Err: errors.New("the disk is gone"), Keep: n}
				}
			}
			return nil
		})
		err := j.Append(t.Context(), entries(1, 2))
		fs.SetFault(nil)
		if n >= 4 { // two files, a write and a sync each
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		if err == nil {
			t.Fatalf("operation %d failed, and the append said yes", n)
		}
		if err := j.Append(t.Context(), entries(2, 3)); err == nil {
			t.Fatal("a journal that failed takes more")
		}
		disk := fs.Crash(fs.Len(), crashfs.None)
		got := openJournal(t, disk, path1, path2).Entries()
		if len(got) < 1 || len(got) > 2 || !slices.Equal(got, entries(0, len(got))) {
			t.Fatalf("after a failure at operation %d: got %v", n, got)
		}
	}
	t.Fatal("no append ever went well")
}

func TestDamageInTheMiddleIsNamedAndATornTailIsCut(t *testing.T) {
	fs := newFS(t)
	j := openJournal(t, fs, path1)
	if err := j.Append(t.Context(), entries(0, 4)); err != nil {
		t.Fatal(err)
	}
	j.Close()
	whole := contents(t, fs, path1)
	const header = 12
	for n := header; n < len(whole); n++ { // cut anywhere behind the header
		write(t, fs, path1, whole[:n])
		got, err := forget.ReadJournal(fs, path1)
		if err != nil || !slices.Equal(got, entries(0, len(got))) || len(got) > 3 {
			t.Fatalf("cut at byte %d: got %v, %v", n, got, err)
		}
	}
	last := len(whole) - (2 + 16 + 8 + len(entry(3).Space) + 4)
	for n := range whole {
		b := bytes.Clone(whole)
		b[n] ^= 1 << (n % 8)
		write(t, fs, path1, b)
		got, err := forget.ReadJournal(fs, path1)
		switch {
		case n < last && !errors.Is(err, retention.ErrCorrupt):
			t.Fatalf("a bit of byte %d: got %v, %v; want corrupt", n, got, err)
		case n >= last && (err != nil || !slices.Equal(got, entries(0, 3))):
			t.Fatalf("a bit of byte %d, in the last entry: got %v, %v", n, got, err)
		}
	}
	for n := range header {
		write(t, fs, path1, whole[:n])
		if _, err := forget.OpenJournal(fs, path1); !errors.Is(err, retention.ErrCorrupt) {
			t.Fatalf("%d bytes of a header gave %v, want corrupt", n, err)
		}
	}
}

func TestAJournalThatCannotBeReadIsNotWrittenOver(t *testing.T) {
	fs := newFS(t)
	j := openJournal(t, fs, path1)
	if err := j.Append(t.Context(), entries(0, 2)); err != nil {
		t.Fatal(err)
	}
	j.Close()
	for _, kind := range []crashfs.Kind{crashfs.Open, crashfs.Read} {
		fs.SetFault(func(_ int, op crashfs.Op) *crashfs.Fault {
			if op.Kind == kind {
				return &crashfs.Fault{Err: errors.New("permission denied")}
			}
			return nil
		})
		_, err := forget.OpenJournal(fs, path1)
		fs.SetFault(nil)
		if err == nil {
			t.Fatalf("%s failed and the journal opened", kind)
		}
		wantEntries(t, openJournal(t, fs, path1).Entries(), entries(0, 2))
	}
}

func FuzzReadJournal(f *testing.F) {
	fs := newFS(f)
	j := openJournal(f, fs, path1)
	if err := j.Append(f.Context(), entries(0, 3)); err != nil {
		f.Fatal(err)
	}
	j.Close()
	f.Add(contents(f, fs, path1))
	f.Add([]byte("EBBERASE\x01\x00\x00\x00"))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		fs := newFS(t)
		write(t, fs, path1, b)
		got, err := forget.ReadJournal(fs, path1)
		if err != nil {
			if !errors.Is(err, retention.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		// What was read is what a journal of it reads.
		again := openJournal(t, fs, path1)
		want := map[[16]byte]forget.Entry{}
		for _, e := range got {
			if have, ok := want[e.Hash]; !ok || have.At < e.At {
				want[e.Hash] = e
			}
		}
		if len(again.Entries()) != len(want) {
			t.Fatalf("got %d entries, want %d", len(again.Entries()), len(want))
		}
		for _, e := range again.Entries() {
			if want[e.Hash] != e {
				t.Fatalf("got %v, want %v", e, want[e.Hash])
			}
		}
	})
}
