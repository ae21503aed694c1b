package embedded_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/embedded"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// places returns where the bytes are, in the files as they are and in the dump,
// which sees through compression.
func places(t *testing.T, s *embedded.Store, fs vfs.FS, what []byte) (in []string) {
	t.Helper()
	var dump bytes.Buffer
	if err := s.Dump(t.Context(), &dump); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(dump.Bytes(), what) {
		in = append(in, "dump")
	}
	return append(in, onDisk(t, fs, what)...)
}

// Bytes of what is erased, expired, replaced or deleted are gone from every file
// when the nightly pass has returned, whether compressed or not; what stays is
// found by the same search, so that the search means something.
func TestTheNightlyPassRemovesTheBytes(t *testing.T) { // P5, P6, R25
	for _, compress := range []bool{false, true} {
		for _, size := range []int{1, 150} { // in the log file only; in many tables
			t.Run(fmt.Sprintf("compress=%t/size=%d", compress, size), func(t *testing.T) {
				ctx := t.Context()
				fs := vfs.NewMem()
				clock := storetest.NewClock(storetest.Start)
				o := options(fs, clock.Now)
				o.Compress, o.MemTableBytes = compress, 64<<10
				s := open(t, o)
				defer s.Close()
				today := clock.Now().Day()
				gone, stays, old := random(100_000), random(100_001), random(100_002)
				seq := 0
				put := func(v taxonomy.VisitorKey, daysAgo int) {
					seq++
					if err := s.Events().Put(ctx, []retention.StoredEvent{event(v, daysAgo, seq)}); err != nil {
						t.Fatal(err)
					}
				}
				for i := range size {
					put(gone, i%80)
					put(stays, i%80)
					put(old, 89)
					for j := range 3 {
						put(random(i*3+j), i%89)
					}
				}
				items := []retention.Item{
					{Key: retention.Key{Partition: "a", Item: "deleted"}, Value: []byte("value-that-is-deleted")},
					{Key: retention.Key{Partition: "a", Item: "replaced"}, Value: []byte("value-that-is-replaced")},
					{Key: retention.Key{Partition: "a", Item: "over"}, Value: []byte("value-that-is-over"), Over: clock.Now() + 1},
					{Key: retention.Key{Partition: "a", Item: "kept"}, Value: []byte("value-that-is-kept")},
				}
				for _, err := range []error{
					s.Keyed().Put(ctx, plain, items),
					s.Keyed().Delete(ctx, plain, []retention.Key{items[0].Key}),
					s.Keyed().Put(ctx, plain, []retention.Item{{Key: items[1].Key, Value: []byte("x")}}),
					second(s.Keyed().Swap(ctx, swapped, retention.Item{Key: items[0].Key, Value: []byte("swapped-that-is-over"), Over: clock.Now() + 1})),
					second(s.Blobs().Put(ctx, "day/over", clock.Now()+1, strings.NewReader("blob-that-is-over"))),
					second(s.Blobs().Put(ctx, "day/kept", 0, strings.NewReader("blob-that-is-kept"))),
				} {
					if err != nil {
						t.Fatal(err)
					}
				}
				words := func(v taxonomy.VisitorKey) []byte { return v[:] }
				goes := map[string][]byte{
					"erased visitor": words(gone), "expired visitor": words(old), "deleted": []byte("value-that-is-deleted"), "replaced": []byte("value-that-is-replaced"),
					"over": []byte("value-that-is-over"), "swapped over": []byte("swapped-that-is-over"), "blob over": []byte("blob-that-is-over"),
				}
				keeps := map[string][]byte{
					"visitor": words(stays), "canary": []byte("canary-2-end"), "kept": []byte("value-that-is-kept"), "blob kept": []byte("blob-that-is-kept"),
				}
				for what, b := range goes {
					if len(places(t, s, fs, b)) == 0 {
						t.Fatalf("%s is not found before: the search does not see it", what)
					}
				}
				clock.Set((today + 1).Start() + taxonomy.Hour)
				if err := s.Events().Erase(ctx, []taxonomy.VisitorKey{gone}); err != nil {
					t.Fatal(err)
				}
				if err := s.Sweep(ctx, clock.Now().Day().Oldest()); err != nil {
					t.Fatal(err)
				}
				for what, b := range goes {
					if in := places(t, s, fs, b); len(in) != 0 {
						t.Errorf("%s is still in %s", what, in)
					}
				}
				for what, b := range keeps {
					in := places(t, s, fs, b)
					if len(in) == 0 || in[0] != "dump" {
						t.Errorf("%s is gone too, or the dump does not see it: %s", what, in)
					}
					if !compress && len(in) < 2 {
						t.Errorf("%s is not found in the files, though compression is off", what)
					}
				}
			})
		}
	}
}

// Also when every night is a power loss: opening again and sweeping again ends
// in the same.
func TestAPurgeThatCrashedIsRepeated(t *testing.T) {
	ctx := t.Context()
	mem := vfs.NewCrashableMem()
	o := options(mem, at0)
	o.Compress = false
	s := open(t, o)
	v := random(7)
	if err := s.Events().Put(ctx, []retention.StoredEvent{event(v, 1, 1), event(random(8), 1, 2)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Events().Erase(ctx, []taxonomy.VisitorKey{v}); err != nil {
		t.Fatal(err)
	}
	crashed := mem.CrashClone(vfs.CrashCloneCfg{}) // before the purge
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	o.FS = crashed
	s = open(t, o)
	defer s.Close()
	if len(places(t, s, crashed, v[:])) == 0 {
		t.Fatal("the bytes are gone before the purge: the test shows nothing")
	}
	if err := s.Events().Expire(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if in := places(t, s, crashed, v[:]); len(in) != 0 {
		t.Fatalf("the erased visitor is still in %s", in)
	}
}

func TestTheOldestDayIsThatOfTheBytes(t *testing.T) { // P5
	ctx := t.Context()
	fs := vfs.NewMem()
	clock := storetest.NewClock(storetest.Start)
	s := open(t, options(fs, clock.Now))
	defer s.Close()
	day := clock.Now().Day()
	want := func(what string, oldest func() (taxonomy.Day, bool, error), want taxonomy.Day, there bool) {
		t.Helper()
		got, found, err := oldest()
		if err != nil || found != there || there && got != want {
			t.Fatalf("oldest %s: got %s, %t, %v; want %s, %t", what, got, found, err, want, there)
		}
	}
	event_ := func() (taxonomy.Day, bool, error) { return s.OldestEvent(ctx) }
	item := func() (taxonomy.Day, bool, error) { return s.OldestItem(ctx) }
	blob := func() (taxonomy.Day, bool, error) { return s.OldestBlob(ctx) }
	want("event", event_, 0, false)
	want("item", item, 0, false)
	want("blob", blob, 0, false)
	for _, err := range []error{
		s.Events().Put(ctx, []retention.StoredEvent{event(random(1), 80, 1), event(random(1), 3, 2)}),
		s.Keyed().Put(ctx, plain, []retention.Item{{Key: retention.Key{Item: "x"}, Over: (day - 70).Over()}, {Key: retention.Key{Item: "y"}}}),
		second(s.Blobs().Put(ctx, "a/x", (day - 60).Over(), strings.NewReader("x"))),
		second(s.Blobs().Put(ctx, "a/y", 0, strings.NewReader("y"))),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want("event in the log file", event_, day-80, true)
	want("item in the log file", item, day-70, true)
	want("blob", blob, day-60, true)
	// Erased and deleted, but on disk still: it is the bytes that count.
	if err := s.Events().Erase(ctx, []taxonomy.VisitorKey{random(1)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Keyed().Delete(ctx, plain, []retention.Key{{Item: "x"}}); err != nil {
		t.Fatal(err)
	}
	want("erased event", event_, day-80, true)
	want("deleted item", item, day-70, true)
	if err := s.Events().Expire(ctx, 0); err != nil {
		t.Fatal(err)
	}
	want("event after the purge", event_, 0, false)
	want("item after the purge", item, 0, false)
	// In a table.
	if err := s.Events().Put(ctx, []retention.StoredEvent{event(random(1), 40, 1), event(random(1), 3, 2)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Events().Expire(ctx, 0); err != nil {
		t.Fatal(err)
	}
	want("event in a table", event_, day-40, true)
	clock.Set((day - 60).Over() + 1)
	for _, h := range s.Holders() {
		if err := h.ExpireBefore(ctx, day-20); err != nil {
			t.Fatal(err)
		}
	}
	want("event", event_, day-3, true)
	want("blob", blob, 0, false)
}
