package embedded_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/embedded"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

var writeFormat = flag.Bool("write-format", false, "write testdata/format1 anew; only before its release")

// Data directories of each released format open, and hold what they held.
func TestADirectoryOfEachReleasedFormatOpens(t *testing.T) {
	const dir = "testdata/format1"
	list := steps(t)
	p := &progress{out: make([]outcome, len(list))}
	if *writeFormat {
		mem := vfs.NewMem()
		s := open(t, options(mem, at0))
		if err := run(s, list, p); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		eachFile(t, mem, "/data", func(path string, b []byte) {
			path = filepath.Join(dir, strings.TrimPrefix(path, "/data"))
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o644)); err != nil {
				t.Fatal(err)
			}
		})
	}
	mem := vfs.NewMem()
	eachFile(t, vfs.Default, dir, func(path string, b []byte) {
		writeFile(t, mem, "/data/"+filepath.ToSlash(strings.TrimPrefix(path, dir)), b)
	})
	for i := range p.out {
		p.out[i] = acked
	}
	if err := checkAll(mem, list, p.out); err != nil {
		t.Fatal(err)
	}
}

func TestANewerFormatIsRefusedWithTheSentenceThatHelps(t *testing.T) {
	mem := vfs.NewMem()
	if err := open(t, options(mem, at0)).Close(); err != nil {
		t.Fatal(err)
	}
	for content, want := range map[string]string{
		embedded.FormatLine(2):  "run the newer ebb that wrote it",
		"ebb-data 1 00000000\n": "restore a backup",
		"":                      "restore a backup",
		"something else":        "restore a backup",
	} {
		writeFile(t, mem, "/data/FORMAT", []byte(content))
		if _, err := embedded.Open(options(mem, at0)); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "/data") {
			t.Errorf("FORMAT %q gave %v, want %q", content, err, want)
		}
	}
	if err := mem.Remove("/data/FORMAT"); err != nil {
		t.Fatal(err)
	}
	if _, err := embedded.Open(options(mem, at0)); !errors.Is(err, retention.ErrCorrupt) {
		t.Errorf("data without FORMAT gave %v, want corrupt", err)
	}
	writeFile(t, mem, "/data/FORMAT", []byte(embedded.FormatLine(embedded.Format)))
	if err := open(t, options(mem, at0)).Close(); err != nil { // and each refusal freed the lock
		t.Fatal(err)
	}
}

func TestADirectoryHasOneOwner(t *testing.T) {
	dir := t.TempDir()
	o := options(vfs.Default, at0)
	o.Dir = filepath.Join(dir, "new", "data")
	s := open(t, o)
	if _, err := embedded.Open(o); err == nil || !strings.Contains(err.Error(), "another process uses this data directory") {
		t.Fatalf("opening twice gave %v", err)
	}
	if err := s.Events().Put(t.Context(), []retention.StoredEvent{event(random(1), 1, 1)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(t.Context(), 0); err != nil { // opens Pebble anew, on a real disk
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Events().Put(t.Context(), nil); !errors.Is(err, retention.ErrClosed) {
		t.Fatalf("a closed store gave %v", err)
	}
	s = open(t, o)
	defer s.Close()
	n := 0
	if err := s.Events().Visitor(t.Context(), random(1), 0, 1<<20, func(*retention.StoredEvent) error { n++; return nil }); err != nil || n != 1 {
		t.Fatalf("got %d events, %v", n, err)
	}
}

// The layout of keys and values is the format: these bytes never change.
func TestTheLayoutOfKeysAndValues(t *testing.T) {
	e := event(taxonomy.VisitorKey{0x11, 0x22, 15: 0xff}, 0, 0x0102)
	e.RuleVersion = 7
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"event", embedded.EventKey(20_789, e.Record.Visitor, e.Ref), "45" + "80005135" + "112200000000000000000000000000ff" + "01020300000000000000000000000000" + "0000000000000102"},
		{"event before 1970", embedded.EventKey(-1, e.Record.Visitor, e.Ref)[:5], "45" + "7fffffff"},
		{"plain item", embedded.KeyedKey(retention.KeyedSpace{Name: "seg"}, retention.Key{Partition: "ab", Item: "c"}), "4b" + "03" + "736567" + "0002" + "6162" + "63"},
		{"swapped item", embedded.KeyedKey(retention.KeyedSpace{Name: "defs", Swapped: true}, retention.Key{Item: "c"}), "53" + "04" + "64656673" + "0000" + "63"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s: got key %s, want %s", c.name, got, c.want)
		}
	}
	e.Record.First = e.Ref
	v := embedded.EventValue(&e)
	if got := hex.EncodeToString(v[:6]); got != "010100000007" {
		t.Errorf("got the beginning of a value %s, want 010100000007", got)
	}
	if bytes.Contains(v, e.Record.Visitor[:]) || bytes.Contains(v, e.Ref.Writer[:]) {
		t.Error("a value repeats what its key says")
	}
}

// messages is what was logged. A store that could not be closed in order may
// still write.
type messages struct {
	mu  sync.Mutex
	all []byte
}

func (m *messages) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = append(m.all, b...)
	return len(b), nil
}

func (m *messages) copy() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.all)
}

// Neither keys nor values are in any message, whatever goes wrong.
func TestNoMessageHoldsAKey(t *testing.T) { // P4
	list := steps(t)
	v := random(3)
	secrets := [][]byte{v[:], []byte(hex.EncodeToString(v[:])), []byte(fmt.Sprintf("%q", v[:8])), []byte(fmt.Sprintf("%x", v[:4])), []byte("canary-")}
	var logs messages
	var texts []string
	for _, compress := range []bool{true, false} {
		mem := vfs.NewMem()
		o := options(mem, at0)
		o.Compress = compress
		o.Logger = slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
		s := open(t, o)
		p := &progress{out: make([]outcome, len(list))}
		if err := run(s, list, p); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		// Damage every table, in the middle, and read.
		eachFile(t, mem, "/data/db", func(path string, b []byte) {
			if strings.HasSuffix(path, ".sst") && len(b) > 200 {
				b[len(b)/4]++
				b[len(b)/2]++
				writeFile(t, mem, path, b)
			}
		})
		s, err := embedded.Open(o)
		if err != nil {
			texts = append(texts, err.Error())
			continue
		}
		for _, err := range []error{
			s.Events().Scan(t.Context(), 0, 1, 0, 1<<20, func(*retention.StoredEvent) error { return nil }),
			s.Events().Visitor(t.Context(), v, 0, 1<<20, func(*retention.StoredEvent) error { return nil }),
			s.Keyed().Scan(t.Context(), plain, nil, func(retention.Item) error { return nil }),
			s.Events().Erase(t.Context(), []taxonomy.VisitorKey{v}),
			s.Sweep(t.Context(), storetest.Start.Day().Oldest()),
			s.Close(),
		} {
			if err != nil {
				texts = append(texts, err.Error())
			}
		}
	}
	all := logs.copy()
	if len(all) < 1000 || len(texts) == 0 {
		t.Fatalf("there are %d bytes of messages and %d errors: the test shows nothing", len(all), len(texts))
	}
	all = append(all, strings.Join(texts, "\n")...)
	for _, s := range secrets {
		if i := bytes.Index(all, s); i >= 0 {
			t.Errorf("a message holds %q: …%s…", s, all[max(0, i-200):min(len(all), i+100)])
		}
	}
}

// Whatever bytes lie where a blob should: an error, or the blob.
func FuzzBlobFile(f *testing.F) {
	mem := vfs.NewMem()
	s, err := embedded.Open(options(mem, at0))
	if err != nil {
		f.Fatal(err)
	}
	for i, content := range []string{"", "x", strings.Repeat("0123456789", 4000)} {
		if _, err := s.Blobs().Put(f.Context(), "a/x", taxonomy.Millis(i), strings.NewReader(content)); err != nil {
			f.Fatal(err)
		}
		eachFile(f, mem, "/data/blobs", func(_ string, b []byte) { f.Add(b) })
		if err := s.Blobs().Delete(f.Context(), []string{"a/x"}); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		writeFile(t, mem, "/data/blobs/a/x=blob", b)
		r, err := s.Blobs().Open(t.Context(), "a/x")
		if err == nil {
			var content []byte
			if content, err = io.ReadAll(io.NewSectionReader(r, 0, r.Blob().Bytes)); err == nil && int64(len(content)) != r.Blob().Bytes {
				t.Fatalf("read %d bytes of %d", len(content), r.Blob().Bytes)
			}
			if cerr := r.Close(); cerr != nil {
				t.Fatal(cerr)
			}
		}
		if err != nil && !errors.Is(err, retention.ErrCorrupt) {
			t.Fatal(err)
		}
	})
}
