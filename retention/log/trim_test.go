package log

import (
	"bytes"
	"errors"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/log/crashfs"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/google/go-cmp/cmp"
)

func TestTheBoundIsCheckedBeforeAnythingIsWritten(t *testing.T) {
	fs := crashfs.New()
	o := options(fs, 0)
	o.MaxBytes = 8 << 10
	l := mustOpen(t, o)
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		at := fs.Len()
		if _, _, err = l.Append(ctx, 0, events(n, 1), retention.AckLocal); err != nil && fs.Len() != at {
			t.Error("a refused batch touched the disk")
		}
	}
	if !errors.Is(err, retention.ErrFull) {
		t.Fatalf("after %d records: %v", n, err)
	}
	if u := l.Usage(); u.Bytes > o.MaxBytes+1024 || u.Bytes < o.MaxBytes/2 {
		t.Errorf("the log holds %d bytes, the bound is %d", u.Bytes, o.MaxBytes)
	}
	// Ticks and erasures have some more.
	for _, k := range []taxonomy.RecordKind{taxonomy.RecordTick, taxonomy.RecordErasure} {
		if _, _, err := l.Append(ctx, 0, []taxonomy.Record{{Kind: k}}, retention.AckLocal); err != nil {
			t.Errorf("%d: %v", k, err)
		}
	}
	// R5: what a checkpoint covers makes room.
	end, err := l.End(ctx, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Trim(ctx, 0, retention.Position{writerID(0): end[0].Last}); err != nil {
		t.Fatal(err)
	}
	if u := l.Usage(); u.Bytes != 0 {
		t.Errorf("%d bytes after all was trimmed", u.Bytes)
	}
	mustAppend(t, l, events(0, 1))
}

// Appends, trims and what is counted as occupied agree with the disk.
func TestUsageIsWhatIsOnDisk(t *testing.T) {
	fs := crashfs.New()
	check := func(l *Log) {
		t.Helper()
		var sum int64
		for _, p := range files(t, fs, "log") {
			st, _ := fs.Stat(p)
			sum += st.Size()
		}
		if u := l.Usage(); u.Bytes != sum {
			t.Fatalf("usage says %d bytes, the disk has %d", u.Bytes, sum)
		}
	}
	for w := range 3 {
		l := mustOpen(t, options(fs, w))
		for i := range 30 {
			mustAppend(t, l, events(i, 3))
			check(l)
		}
		if err := l.Trim(ctx, 0, retention.Position{writerID(w): 50}); err != nil {
			t.Fatal(err)
		}
		check(l)
		mustClose(t, l)
		check(l)
	}
}

// R5, and R1: a writer whose records are all trimmed is gone.
func TestTrimRemovesWholeFiles(t *testing.T) {
	fs := crashfs.New()
	l := mustOpen(t, options(fs, 0))
	for i := range 60 {
		mustAppend(t, l, events(i, 1))
	}
	n := len(files(t, fs, "log"))
	if n < 3 {
		t.Fatalf("only %d files", n)
	}
	mustClose(t, l)
	l = mustOpen(t, options(fs, 1))
	mustAppend(t, l, events(100, 1))
	if err := l.Trim(ctx, 0, retention.Position{writerID(0): 40}); err != nil {
		t.Fatal(err)
	}
	got := records(follow(t, l, retention.Position{writerID(0): 40}, 1000))
	if len(got) != 21 {
		t.Fatalf("%d records beyond 40, want 21", len(got))
	}
	if m := len(files(t, fs, "log")); m >= n+1 {
		t.Errorf("%d files after a trim, %d before", m, n)
	}
	for range 2 { // again is fine
		if err := l.Trim(ctx, 0, retention.Position{writerID(0): 60, writerID(1): 1}); err != nil {
			t.Fatal(err)
		}
	}
	if left := files(t, fs, "log"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	ends, err := l.End(ctx, 0, nil)
	if err != nil || len(ends) != 1 || ends[0].Writer != writerID(1) || ends[0].Last != 1 || !ends[0].Open {
		t.Errorf("ends: %+v, %v", ends, err)
	}
	if ref := mustAppend(t, l, events(101, 1)); ref.Seq != 2 {
		t.Errorf("numbers go on with %d", ref.Seq)
	}
	if _, ok := l.Oldest(); !ok {
		t.Error("no oldest day though there is a frame")
	}
}

// The nightly pass: bytes of a half-full file can go once it is rotated and
// covered, while newer records stay.
func TestRotateLetsAHalfFullFileGo(t *testing.T) {
	fs := crashfs.New()
	l := mustOpen(t, options(fs, 0))
	mustAppend(t, l, events(0, 1))
	if err := l.Rotate(ctx, 0); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, events(1, 1))
	if err := l.Trim(ctx, 0, retention.Position{writerID(0): 1}); err != nil {
		t.Fatal(err)
	}
	err := Dump(fs, "log", func(file string, _ uint64, raw []byte) error {
		if bytes.Contains(raw, []byte("event number 0")) {
			t.Errorf("%s still holds it", file)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(records(follow(t, l, retention.Position{writerID(0): 1}, 1000))); n != 1 {
		t.Errorf("%d records are left, want 1", n)
	}
}

// R12: what lies beyond a position, by site, at every position.
func TestEndCountsWhatLiesBeyond(t *testing.T) {
	fs := crashfs.New()
	for w := range 2 {
		l := mustOpen(t, options(fs, w))
		for i := range 40 {
			rs := append(events(i, i%3), taxonomy.Record{Kind: taxonomy.RecordCounts, Counts: []taxonomy.Count{{Site: "site-1", Outcome: taxonomy.Rejected, N: 2}, {Site: "", Outcome: taxonomy.Rejected, N: 1}}},
				taxonomy.Record{Kind: taxonomy.RecordTick})
			mustAppend(t, l, rs)
		}
		mustClose(t, l)
	}
	l := mustOpen(t, options(fs, 2))
	frames := follow(t, l, nil, 1<<20)
	for range 2 { // forth, and with marks that lie anywhere
		for i := 0; i <= len(frames); i += 3 {
			pos := retention.Position{}
			want := map[taxonomy.WriterID]tally{}
			oldest := map[taxonomy.WriterID]taxonomy.Millis{}
			for k, f := range frames {
				if k < i {
					pos[f.Writer] = f.Last()
					continue
				}
				if want[f.Writer] == nil {
					want[f.Writer], oldest[f.Writer] = tally{}, f.Time
				}
				want[f.Writer].add(retention.CountSites(f.Records))
			}
			ends, err := l.End(ctx, 0, pos)
			if err != nil || len(ends) != 3 {
				t.Fatal(ends, err)
			}
			for _, e := range ends {
				if d := cmp.Diff(want[e.Writer].list(), e.Unfolded); d != "" {
					t.Fatalf("unfolded beyond frame %d (-want +got):\n%s", i, d)
				}
				if e.Oldest != oldest[e.Writer] || e.Open != (e.Writer == writerID(2)) {
					t.Fatalf("end: %+v, want oldest %v", e, oldest[e.Writer])
				}
			}
		}
	}
}
