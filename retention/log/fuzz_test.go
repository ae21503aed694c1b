package log

import (
	"bytes"
	"testing"

	"github.com/ebb-dmp/ebb/retention/log/crashfs"
)

// Whatever bytes stand in a segment file, opening and following neither fails
// nor panics nor asks for memory without end, numbers have no holes, and a
// second start says the same.
func FuzzSegment(f *testing.F) {
	fs := crashfs.New()
	l := mustOpen(f, options(fs, 0))
	for i := range 5 {
		mustAppend(f, l, events(i*10, 2))
	}
	open, err := readFile(fs, files(f, fs, "log")[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.Clone(open))
	mustClose(f, l)
	path := files(f, fs, "log")[0]
	sealed, err := readFile(fs, path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add(sealed[:len(sealed)-30])
	f.Add([]byte{})
	f.Add(open[:fileHeader+20])
	f.Fuzz(func(t *testing.T, b []byte) {
		fs := fs.Crash(0, crashfs.All)
		if err := fs.MkdirAll(fs.PathDir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, fs, path, b)
		var first int
		for n := range 2 {
			l, err := load(options(fs, 5+n)) // without goroutines: fuzzing wants the same way twice
			if err != nil {
				t.Fatal(err)
			}
			frames, err := tryFollow(l, nil, 500)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				first = len(frames)
			} else if len(frames) != first {
				t.Fatalf("%d frames, then %d", first, len(frames))
			}
			if _, err := l.End(ctx, 0, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := Dump(fs, "log", func(string, uint64, []byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
	})
}
