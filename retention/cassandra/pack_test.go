package cassandra

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

func drawStored(t *rapid.T, v taxonomy.VisitorKey) retention.StoredEvent {
	e := retention.StoredEvent{
		Ref:         taxonomy.Ref{Writer: taxonomy.WriterID{rapid.ByteRange(0, 2).Draw(t, "writer")}, Seq: rapid.Uint64Range(1, 1<<62).Draw(t, "seq")},
		RuleVersion: rapid.Uint32Range(0, 3).Draw(t, "rules"),
		Record: taxonomy.Record{Kind: taxonomy.RecordEvent, Received: taxonomy.Millis(rapid.Int64Range(0, 1<<41).Draw(t, "received")), Site: "shop", Visitor: v,
			Event: &taxonomy.Event{Time: taxonomy.Millis(rapid.Int64Range(0, 1<<41).Draw(t, "time")), Kind: taxonomy.EventTrack, Name: rapid.String().Draw(t, "name")}},
	}
	if rapid.Bool().Draw(t, "first") {
		e.Record.First = e.Ref
	}
	return e
}

func sameEvent(a, b *retention.StoredEvent) bool {
	return a.Ref == b.Ref && a.RuleVersion == b.RuleVersion && bytes.Equal(taxonomy.AppendRecord(nil, &a.Record), taxonomy.AppendRecord(nil, &b.Record))
}

func TestAPackComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := storetest.Visitor(3)
		list := make([]retention.StoredEvent, rapid.IntRange(1, 8).Draw(t, "n"))
		at := make([]int, len(list))
		for i := range list {
			list[i], at[i] = drawStored(t, v), i
		}
		b := appendPack([]byte("before"), list, at)[len("before"):]
		if bytes.Contains(b, v[:]) {
			t.Fatal("the pack holds the visitor, which is the row's key")
		}
		got, err := decodePack(nil, b, v)
		if err != nil || len(got) != len(list) {
			t.Fatalf("got %d events, %v; want %d", len(got), err, len(list))
		}
		for i := range list {
			if !sameEvent(&got[i], &list[i]) {
				t.Fatalf("event %d: got %+v, want %+v", i, got[i], list[i])
			}
		}
		// Any flipped bit is found.
		i := rapid.IntRange(0, len(b)-1).Draw(t, "byte")
		b[i] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := decodePack(nil, b, v); !errors.Is(err, retention.ErrCorrupt) {
			t.Fatalf("a flipped bit of byte %d: got %v, want corrupt", i, err)
		}
	})
}

func drawFrame(t *rapid.T) retention.Frame {
	f := retention.Frame{Writer: taxonomy.WriterID{rapid.Byte().Draw(t, "writer")}, Group: taxonomy.Group(rapid.Uint16().Draw(t, "group")),
		First: rapid.Uint64Range(1, 1<<62).Draw(t, "first"), Time: taxonomy.Millis(rapid.Int64().Draw(t, "time"))}
	for range rapid.IntRange(1, 8).Draw(t, "n") {
		f.Records = append(f.Records, drawStored(t, storetest.Visitor(1)).Record)
	}
	f.N, f.Counts = len(f.Records), retention.CountSites(f.Records)
	if rapid.IntRange(0, 5).Draw(t, "lost") == 0 {
		f.Lost, f.Records = true, nil
	}
	return f
}

func TestAFrameComesBackAsItWasAndIsAlwaysTheSameBytes(t *testing.T) { // R2
	rapid.Check(t, func(t *rapid.T) {
		f := drawFrame(t)
		counts, payload := encodeFrame(&f)
		counts2, payload2 := encodeFrame(&f)
		if !bytes.Equal(counts, counts2) || !bytes.Equal(payload, payload2) {
			t.Fatal("the same frame gave other bytes")
		}
		blank := func() retention.Frame {
			return retention.Frame{Writer: f.Writer, Group: f.Group, First: f.First, N: f.N, Time: f.Time}
		}
		got := blank()
		if err := decodeFrame(&got, counts, payload); err != nil {
			t.Fatal(err)
		}
		if got.Lost != f.Lost || len(got.Records) != len(f.Records) || len(got.Counts) != len(f.Counts) || got.Bytes != len(payload) {
			t.Fatalf("got %+v, want %+v", got, f)
		}
		for i := range f.Records {
			if !bytes.Equal(taxonomy.AppendRecord(nil, &got.Records[i]), taxonomy.AppendRecord(nil, &f.Records[i])) {
				t.Fatalf("record %d: got %+v, want %+v", i, got.Records[i], f.Records[i])
			}
		}
		// A frame is not taken for another, nor with a bit that flipped.
		other := blank()
		other.First++
		if err := decodeFrame(&other, counts, payload); !errors.Is(err, retention.ErrCorrupt) {
			t.Fatalf("another frame's bytes: got %v, want corrupt", err)
		}
		payload[rapid.IntRange(0, len(payload)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		other = blank()
		if err := decodeFrame(&other, counts, payload); !errors.Is(err, retention.ErrCorrupt) {
			t.Fatalf("a flipped bit: got %v, want corrupt", err)
		}
	})
}

// What a released version wrote is read for as long as it may lie somewhere.
func TestRowsOfVersionOneAreRead(t *testing.T) {
	e := retention.StoredEvent{Ref: taxonomy.Ref{Writer: taxonomy.WriterID{1, 2}, Seq: 77}, RuleVersion: 5, Record: taxonomy.Record{
		Kind: taxonomy.RecordEvent, Received: 1_790_000_000_123, Site: "shop", Source: "web", Space: taxonomy.SpaceCookie, Visitor: storetest.Visitor(2), Returning: true,
		Event: &taxonomy.Event{ID: taxonomy.EventID{9}, Time: 1_790_000_000_000, Kind: taxonomy.EventPage, URL: "https://shop.example/"}}}
	f := retention.Frame{Writer: e.Ref.Writer, Group: 1, First: 77, N: 1, Time: e.Record.Received, Records: []taxonomy.Record{e.Record}}
	f.Counts = retention.CountSites(f.Records)
	counts, payload := encodeFrame(&f)
	golden := func(name string, made []byte) []byte {
		t.Helper()
		path := "testdata/v1-" + name
		if os.Getenv("EBB_WRITE_GOLDEN") != "" {
			if err := os.WriteFile(path, made, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	list, err := decodePack(nil, golden("pack", appendPack(nil, []retention.StoredEvent{e}, []int{0})), e.Record.Visitor)
	if err != nil || len(list) != 1 || !sameEvent(&list[0], &e) {
		t.Fatalf("got %+v, %v", list, err)
	}
	got := retention.Frame{Writer: f.Writer, Group: f.Group, First: f.First, N: f.N, Time: f.Time}
	if err := decodeFrame(&got, golden("counts", counts), golden("frame", payload)); err != nil || len(got.Records) != 1 || got.Counts[0].N != 1 {
		t.Fatalf("got %+v, %v", got, err)
	}
}

func FuzzPack(f *testing.F) {
	b, err := os.ReadFile("testdata/v1-pack")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := decodePack(nil, b, storetest.Visitor(2))
		if err != nil {
			return
		}
		at := make([]int, len(list))
		for i := range at {
			at[i] = i
		}
		again, err := decodePack(nil, appendPack(nil, list, at), storetest.Visitor(2))
		if err != nil || len(again) != len(list) {
			t.Fatalf("what was read does not come back: %d of %d, %v", len(again), len(list), err)
		}
	})
}

func FuzzFrame(f *testing.F) {
	counts, err := os.ReadFile("testdata/v1-counts")
	if err != nil {
		f.Fatal(err)
	}
	payload, err := os.ReadFile("testdata/v1-frame")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(counts, payload, uint64(77), 1)
	f.Fuzz(func(t *testing.T, counts, payload []byte, first uint64, n int) {
		fr := retention.Frame{Writer: taxonomy.WriterID{1, 2}, Group: 1, First: first, N: n}
		if err := decodeFrame(&fr, counts, payload); err == nil && !fr.Lost && len(fr.Records) != n {
			t.Fatalf("got %d records, want %d", len(fr.Records), n)
		}
	})
}
