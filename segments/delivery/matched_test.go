package delivery

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// The IDs that lie in a file are those of a map: asked for in whatever order, gone
// through, when some were taken out, and in a ledger's file once and again.
func TestMatchedIDsAreThoseOfAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shards := rapid.IntRange(1, 3).Draw(t, "shards")
		want := make([]map[uint32]string, shards)
		var asked []at
		for s := range want {
			want[s] = map[uint32]string{}
			o, step := uint32(0), rapid.SampledFrom([]uint32{1, 2, 1000, 1 << 20}).Draw(t, "step")
			for range rapid.IntRange(0, 3*blockIDs+1).Draw(t, "visitors") {
				o += rapid.Uint32Range(0, step).Draw(t, "after the last")
				want[s][o] = fmt.Sprint(rapid.IntRange(0, 1<<30).Draw(t, "id"))
				asked = append(asked, at{s, o}, at{s, o + 1})
				o++
			}
		}
		got := matchedOf(want)
		for round := range 3 {
			if rapid.Bool().Draw(t, "in any order") {
				asked = rapid.Permutation(asked).Draw(t, "order")
			}
			for _, x := range asked {
				has, ok := want[x.shard][x.ordinal]
				if id, k := got.ID(x.shard, x.ordinal); k != ok || id != has {
					t.Fatalf("round %d: %v has %q, %v; want %q, %v", round, x, id, k, has, ok)
				}
			}
			for s := range want {
				there := map[uint32]string{}
				for w := got.walk(s); w.next(); {
					there[w.ordinal] = string(w.id)
				}
				if !maps.Equal(there, want[s]) {
					t.Fatalf("round %d: shard %d has %v, want %v", round, s, there, want[s])
				}
			}
			if err := got.err(); err != nil {
				t.Fatal(err)
			}
			for _, x := range asked {
				if rapid.IntRange(0, 9).Draw(t, "goes") == 0 {
					got.drop(x.shard, x.ordinal)
					delete(want[x.shard], x.ordinal)
				}
			}
			l := NewLedger()
			l.IDs = got
			b, err := l.marshal(shards)
			if err != nil {
				t.Fatal(err)
			}
			if l, err = unmarshalLedger(b); err != nil {
				t.Fatal(err)
			}
			got = l.IDs
		}
	})
}

// R32: of two visitors with one ID the newest sync has it; the other is not sent.
func TestAnIDOfTwoIsTheNewestSyncs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := []map[uint32]string{{}, {}}
		days := map[at]taxonomy.Day{}
		newest := map[string]taxonomy.Day{}
		held := NewHeld(2)
		for s := range ids {
			for o := range uint32(rapid.IntRange(0, 6).Draw(t, "visitors")) {
				id, day := fmt.Sprint(rapid.IntRange(0, 4).Draw(t, "id")), taxonomy.Day(rapid.IntRange(0, 3).Draw(t, "synced"))
				ids[s][o], days[at{s, o}] = id, day
				newest[id] = max(newest[id], day)
				held.Add(s, o, 100)
			}
		}
		got := &target{held: map[taxonomy.AudienceID]Held{"a": held}, ids: matchedOf(ids)}
		if err := got.once(t.Context(), func(x at) taxonomy.Day { return days[x] }); err != nil {
			t.Fatal(err)
		}
		owners := map[string][]at{}
		for s := range ids {
			for o, id := range ids[s] {
				_, stays := held.day(s, o)
				if _, ok := got.ids.ID(s, o); ok != stays {
					t.Fatalf("%d/%d is held: %v, and has an ID: %v", s, o, stays, ok)
				}
				if stays {
					owners[id] = append(owners[id], at{s, o})
				}
			}
		}
		for id, day := range newest {
			if o := owners[id]; len(o) != 1 || days[o[0]] != day {
				t.Fatalf("%s, synced last on %d, is of %v", id, day, o)
			}
		}
	})
}

// What is not what was written is found, and nothing is written of it.
func TestADamagedFileOfIDsStopsTheLedger(t *testing.T) {
	ids := []map[uint32]string{{}}
	for o := range uint32(200) {
		ids[0][o] = fmt.Sprint("id", o)
	}
	whole := &memory{}
	w := newIDWriter(whole, 1)
	for _, o := range slices.Sorted(maps.Keys(ids[0])) {
		if err := w.add(0, o, ids[0][o]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.end(); err != nil {
		t.Fatal(err)
	}
	for i := range whole.b {
		for _, b := range [][]byte{slices.Concat(whole.b[:i], []byte{whole.b[i] ^ 1}, whole.b[i+1:]), whole.b[:i]} {
			in := *w.file
			in.r = &memory{b}
			l := NewLedger()
			l.IDs = &Matched{who: []*roaring.Bitmap{w.who[0]}, in: &in}
			if _, err := l.marshal(1); err == nil {
				t.Fatalf("byte %d: %d of %d bytes were taken for the IDs", i, len(b), len(whole.b))
			} else if len(b) == len(whole.b) && !errors.Is(err, retention.ErrCorrupt) {
				t.Fatalf("byte %d: %v", i, err)
			}
		}
	}
}
