package log

import (
	"bytes"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/log/crashfs"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// The bytes that are copied are those of the records that are followed, frame by
// frame, from wherever one begins.
func TestRawIsWhatIsFollowed(t *testing.T) { // R2
	for _, plain := range []bool{false, true} {
		o := options(crashfs.New(), 0)
		o.NoCompression = plain
		l := mustOpen(t, o)
		last := uint64(0)
		for i := range 60 {
			n := 1 + i%7
			last = mustAppend(t, l, events(i*10, n)).Seq + uint64(n) - 1
		}
		whole, parts := 0, 0
		for from := range last {
			at := retention.Position{writerID(0): from}
			for _, maxBytes := range []int{1, 700, 1 << 20} {
				want, err := l.Follow(ctx, 0, at, maxBytes)
				if err != nil {
					t.Fatal(err)
				}
				got, raw, err := l.Raw(ctx, 0, at, maxBytes)
				if err != nil || len(got) != len(want) || len(raw) != len(got) {
					t.Fatalf("from %d: %d frames and %d of bytes, want %d; %v", from, len(got), len(raw), len(want), err)
				}
				for i := range got {
					if got[i].First != want[i].First || got[i].N != want[i].N || got[i].Time != want[i].Time || got[i].Bytes != want[i].Bytes {
						t.Fatalf("from %d: frame %d is %+v, want %+v", from, i, got[i], want[i])
					}
					if raw[i] == nil {
						parts++
						if len(got[i].Records) != got[i].N || got[i].First != from+1 {
							t.Fatalf("from %d: frame %d has neither bytes nor records", from, i)
						}
						continue
					}
					whole++
					var b []byte
					for j := range want[i].Records {
						b = taxonomy.AppendRecord(b, &want[i].Records[j])
					}
					if !bytes.Equal(raw[i], b) || got[i].Records != nil {
						t.Fatalf("from %d: frame %d has other bytes than its records", from, i)
					}
				}
			}
		}
		if whole == 0 || parts == 0 {
			t.Errorf("%d whole frames and %d parts were met", whole, parts)
		}
	}
}

func TestRawTellsOfLostFramesAsFollowDoes(t *testing.T) { // R2
	fs := crashfs.New()
	l := mustOpen(t, options(fs, 0))
	for i := range 4 {
		mustAppend(t, l, events(i*10, 3))
	}
	mustClose(t, l)
	name := files(t, fs, "log")[0]
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, info.Size())
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	b[len(b)/2] ^= 1
	w, err := fs.Create(name, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Sync(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	l = mustOpen(t, options(fs, 1))
	frames, raw, err := l.Raw(ctx, 0, nil, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	want, err := l.Follow(ctx, 0, nil, 1<<20)
	if err != nil || len(want) != len(frames) {
		t.Fatalf("%d frames, want %d; %v", len(frames), len(want), err)
	}
	lost := 0
	for i := range frames {
		if frames[i].Lost != want[i].Lost || frames[i].Lost && raw[i] != nil || !frames[i].Lost && raw[i] == nil {
			t.Errorf("frame %d: lost %t, want %t; bytes %t", i, frames[i].Lost, want[i].Lost, raw[i] != nil)
		}
		if frames[i].Lost {
			lost++
		}
	}
	if lost == 0 {
		t.Error("no frame is lost")
	}
}
