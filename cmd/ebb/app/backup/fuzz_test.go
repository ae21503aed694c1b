package backup

import (
	"bytes"
	"context"
	"io"
	"path"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// small is a backup of three small files.
func small(t testing.TB) []byte {
	t.Helper()
	fs := vfs.NewMem()
	for name, content := range map[string]string{"FORMAT": "ebb-data 1\n", "db/000001.sst": strings.Repeat("x", 700), "blobs/fold/0/1.day=blob": ""} {
		if err := fs.MkdirAll(fs.PathJoin("d", path.Dir(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := fs.Create(fs.PathJoin("d", name), vfs.WriteCategoryUnspecified)
		if err == nil {
			_, err = io.WriteString(f, content)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if _, err := Write(context.Background(), &b, fs, "d", Manifest{Epoch: 3, Keys: []string{"erasure/1"}}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Whatever the bytes are, reading them ends with an error or with files that a
// backup may hold, whole, within the data directory.
func FuzzRead(f *testing.F) {
	ok := small(f)
	f.Add(ok)
	f.Add(ok[:len(ok)-600])
	f.Add([]byte("hello"))
	evil := bytes.Replace(ok, []byte(`"db/000001.sst"`), []byte(`"../0000001.sst`), 1)
	f.Add(evil)
	f.Fuzz(func(t *testing.T, b []byte) {
		got := map[string]*bytes.Buffer{}
		m, err := Read(bytes.NewReader(b), nil, func(x *File) (io.WriteCloser, error) {
			if !allowed(x.Name) || strings.Contains(x.Name, "..") || path.IsAbs(x.Name) {
				t.Errorf("it writes %q", x.Name)
			}
			w := new(bytes.Buffer)
			got[x.Name] = w
			return nopClose{w}, nil
		})
		if err != nil {
			return
		}
		for _, x := range m.Files {
			if int64(got[x.Name].Len()) != x.Bytes {
				t.Errorf("%s has %d bytes, its manifest says %d", x.Name, got[x.Name].Len(), x.Bytes)
			}
		}
	})
}

type nopClose struct{ io.Writer }

func (nopClose) Close() error { return nil }

func TestOnlyDataMayBeInABackup(t *testing.T) {
	for name, want := range map[string]bool{
		"FORMAT": true, "db/1.sst": true, "blobs/a/b=blob": true, "log/w-1/2.log": true,
		"": false, ".": false, "db": false, "db/": false, "FORMAT/x": false, "LOCK": false, "erasures.journal": false, "keys.json": false,
		"../db/x": false, "db/../../x": false, "/db/x": false, "db//x": false, "db\\x": false, "restoring/db/x": false,
	} {
		if allowed(name) != want {
			t.Errorf("%q: allowed is %t", name, !want)
		}
	}
}

// The bytes of a header are part of the format: a newer Go must not change them.
func TestTheHeaderOfAnEntryIsPinned(t *testing.T) {
	h, err := header("db/000001.sst", 700)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 512)
	for at, text := range map[int]string{0: "db/000001.sst", 100: "0000600\x000000000\x000000000\x0000000001274\x0000000000000\x00011060\x00 0", 257: "ustar\x0000", 329: "0000000\x000000000\x00"} {
		copy(want[at:], text)
	}
	sum := 0
	for i, c := range want {
		if i >= 148 && i < 156 {
			c = ' '
		}
		sum += int(c)
	}
	copy(want[148:], []byte{'0' + byte(sum>>15&7), '0' + byte(sum>>12&7), '0' + byte(sum>>9&7), '0' + byte(sum>>6&7), '0' + byte(sum>>3&7), '0' + byte(sum&7), 0, ' '})
	if !bytes.Equal(h, want) {
		t.Errorf("got  %q\nwant %q", h, want)
	}
}
