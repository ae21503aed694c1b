package dir_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/retention/log"
	"github.com/ebb-dmp/ebb/retention/log/crashfs"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/dir"
	"github.com/ebb-dmp/ebb/taxonomy"
)

func chunk(body string) *delivery.Chunk {
	return &delivery.Chunk{Name: "e0-g1-full.tsv.gz", Body: io.NewSectionReader(strings.NewReader(body), 0, int64(len(body)))}
}

func names(t *testing.T, fs log.FS) []string {
	t.Helper()
	list, err := fs.List("out/dsp/incoming")
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func read(t *testing.T, fs log.FS, name string) string {
	t.Helper()
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Who looks into the folder sees a whole file or none, and sent twice it is one.
func TestAFileIsThereWholeOrNotAtAll(t *testing.T) {
	fs := crashfs.New()
	tr := dir.Transport{FS: fs, Root: "out"}
	d := &delivery.Destination{ID: "dsp", URL: "dsp/incoming"}
	broken := chunk("rows")
	broken.Body = io.NewSectionReader(failing{}, 0, 4)
	if err := tr.Send(context.Background(), d, broken); err == nil {
		t.Fatal("a chunk that cannot be read was sent")
	}
	if got := names(t, fs); len(got) != 0 {
		t.Fatalf("the folder holds %v", got)
	}
	stopped, cancel := context.WithCancel(context.Background())
	cancel()
	if err := tr.Send(stopped, d, chunk("rows")); !errors.Is(err, context.Canceled) || len(names(t, fs)) != 0 {
		t.Fatalf("after a stop: %v, %v", err, names(t, fs))
	}
	for range 2 {
		if err := tr.Send(context.Background(), d, chunk("rows")); err != nil {
			t.Fatal(err)
		}
		if got := names(t, fs); len(got) != 1 || read(t, fs, "out/dsp/incoming/"+got[0]) != "rows" {
			t.Fatalf("the folder holds %v", got)
		}
	}
}

type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) { return 0, errors.New("disk") }

func TestAFolderCannotLeaveTheRoot(t *testing.T) {
	tr := dir.Transport{FS: crashfs.New(), Root: "out"}
	for _, bad := range []string{"", ".", "..", "/etc", "../keys", "a/../../b", "a/", "a//b", `a\b`, "c:x"} {
		var fe *taxonomy.FieldError
		if err := tr.Check(&delivery.Destination{URL: bad}); !errors.As(err, &fe) || fe.Field != "url" {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := tr.Check(&delivery.Destination{URL: "dsp/incoming"}); err != nil {
		t.Error(err)
	}
	if (dir.Transport{}).Check(&delivery.Destination{URL: "dsp"}) == nil {
		t.Error("without a root everything is allowed")
	}
}
