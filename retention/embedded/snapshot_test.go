package embedded_test

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/embedded"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// A snapshot is the store as it was: what comes and goes afterwards, whole files
// too, changes nothing in it, and a crash leaves nothing of it behind.
func TestASnapshotIsOfOneMoment(t *testing.T) {
	ctx := t.Context()
	fs := vfs.NewMem()
	clock := storetest.NewClock(storetest.Start)
	s := open(t, options(fs, clock.Now))
	fill := func(from, to int) {
		for i := from; i < to; i++ {
			if err := s.Events().Put(ctx, []retention.StoredEvent{event(random(i), i%5, i+1)}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Blobs().Put(ctx, fmt.Sprintf("some/blob-%d", i), 0, strings.NewReader(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(0, 20)
	dir, err := s.Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Snapshot(ctx); err == nil {
		t.Error("there were two snapshots at once")
	}
	fill(20, 40)
	var all []taxonomy.VisitorKey
	for i := range 40 {
		all = append(all, random(i))
	}
	for _, h := range s.Holders() {
		if err := h.Erase(ctx, all); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Blobs().Delete(ctx, []string{"some/blob-3"}); err != nil {
		t.Fatal(err)
	}

	// The copy, before anybody opens it: opening writes.
	copied := vfs.NewMem()
	if _, err := vfs.Clone(fs, copied, dir, "copy"); err != nil {
		t.Fatal(err)
	}
	o := options(copied, clock.Now)
	o.Dir = "copy"
	then, err := embedded.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer then.Close()
	n := 0
	err = then.Events().Scan(ctx, 0, 1, clock.Now().Day().Oldest(), clock.Now().Day(), func(*retention.StoredEvent) error { n++; return nil })
	if err != nil || n != 20 {
		t.Errorf("%d events, %v; want 20", n, err)
	}
	list, err := then.Blobs().List(ctx, "some")
	if err != nil || len(list) != 20 {
		t.Errorf("%d blobs, %v; want 20", len(list), err)
	}
	r, err := then.Blobs().Open(ctx, "some/blob-3")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(io.NewSectionReader(r, 0, r.Blob().Bytes)); err != nil || string(b) != "3" {
		t.Errorf("blob 3 has %q, %v", b, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}

	// The process dies with its snapshot in place: the next start removes it.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, options(fs, clock.Now))
	defer s.Close()
	if _, err := fs.Stat(dir); err == nil {
		t.Error("a snapshot outlived its process")
	}
}
