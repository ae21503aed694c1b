package embedded_test

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/embedded"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

// options are those of a small store in memory.
func options(fs vfs.FS, now func() taxonomy.Millis) embedded.Options {
	return embedded.Options{FS: fs, Dir: "/data", Now: now, Compress: true, CacheBytes: 1 << 20, MemTableBytes: 256 << 10}
}

func open(t rapid.TB, o embedded.Options) *embedded.Store {
	t.Helper()
	s, err := embedded.Open(o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return s
}

// opener opens stores on memory for the suite.
func opener[C any](pick func(*embedded.Store) C) storetest.Opener[C] {
	return func(t rapid.TB, now func() taxonomy.Millis) storetest.Engine[C] {
		o := options(vfs.NewMem(), now)
		s := open(t, o)
		shut := func(t rapid.TB) {
			if err := s.Close(); err != nil {
				t.Fatalf("close: %v", err)
			}
		}
		return storetest.Engine[C]{
			Contract: pick(s),
			Reopen:   func(t rapid.TB) C { shut(t); s = open(t, o); return pick(s) },
			Close:    shut,
		}
	}
}

func TestEvents(t *testing.T) {
	storetest.Events(t, opener(func(s *embedded.Store) retention.Events { return s.Events() }))
}

func TestKeyed(t *testing.T) {
	storetest.Keyed(t, opener(func(s *embedded.Store) retention.Keyed { return s.Keyed() }))
}

func TestBlobs(t *testing.T) {
	storetest.Blobs(t, opener(func(s *embedded.Store) retention.Blobs { return s.Blobs() }))
}

func TestLeases(t *testing.T) {
	storetest.Leases(t, opener(func(s *embedded.Store) retention.Leases { return s.Leases() }))
}
