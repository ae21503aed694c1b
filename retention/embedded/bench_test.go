package embedded_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/embedded"
)

const benchEvents = 200_000

// benchBatch returns events as they come: many visitors, the last days.
func benchBatch(from, n int) []retention.StoredEvent {
	list := make([]retention.StoredEvent, n)
	for i := range list {
		seq := from + i
		list[i] = event(random(seq*7919%50_000), seq%5, seq+1)
	}
	return list
}

// Putting and scanning events, against Pebble writing and reading the same bytes
// with the same commits: what the contract costs. It prints the ratio.
func BenchmarkEvents(b *testing.B) {
	for range b.N {
		o := options(vfs.Default, at0)
		o.Dir, o.CacheBytes, o.MemTableBytes = filepath.Join(b.TempDir(), "store"), 0, 0
		s := open(b, o)
		bare, err := pebble.Open(filepath.Join(b.TempDir(), "bare"), embedded.PebbleOptions(vfs.Default, true))
		if err != nil {
			b.Fatal(err)
		}
		var ours, theirs time.Duration
		const batch = 2000
		for from := 0; from < benchEvents; from += batch {
			list := benchBatch(from, batch)
			start := time.Now()
			if err := s.Events().Put(b.Context(), list); err != nil {
				b.Fatal(err)
			}
			ours += time.Since(start)
			keys, values := make([][]byte, batch), make([][]byte, batch)
			for i := range list {
				keys[i] = embedded.EventKey(list[i].Day(), list[i].Record.Visitor, list[i].Ref)
				values[i] = embedded.EventValue(&list[i])
			}
			start = time.Now()
			w := bare.NewBatch()
			for i := range keys {
				if err := w.Set(keys[i], values[i], nil); err != nil {
					b.Fatal(err)
				}
			}
			if err := w.Commit(pebble.Sync); err != nil {
				b.Fatal(err)
			}
			theirs += time.Since(start)
		}
		fmt.Printf("put: %.0f events/s, %.2f of bare Pebble\n", benchEvents/ours.Seconds(), theirs.Seconds()/ours.Seconds())

		start := time.Now()
		n := 0
		if err := s.Events().Scan(b.Context(), 0, 1, 0, 1<<20, func(*retention.StoredEvent) error { n++; return nil }); err != nil || n != benchEvents {
			b.Fatal(n, err)
		}
		ours = time.Since(start)
		start = time.Now()
		it, err := bare.NewIter(nil)
		if err != nil {
			b.Fatal(err)
		}
		for ok := it.First(); ok; ok = it.Next() {
			if _, err := it.ValueAndErr(); err != nil {
				b.Fatal(err)
			}
		}
		if err := it.Close(); err != nil {
			b.Fatal(err)
		}
		theirs = time.Since(start)
		fmt.Printf("scan: %.0f events/s, %.2f of a bare iterator, which decodes nothing and looks for no copies\n", benchEvents/ours.Seconds(), theirs.Seconds()/ours.Seconds())

		start = time.Now()
		if err := s.Sweep(b.Context(), 0); err != nil {
			b.Fatal(err)
		}
		fmt.Printf("nightly purge of %d events: %s\n", benchEvents, time.Since(start).Round(time.Millisecond))
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		if err := bare.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
