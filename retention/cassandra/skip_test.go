package cassandra

import (
	"errors"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// R5: a hole that will not fill stops those who follow, until it is skipped by
// command; what was in it is known as lost.
func TestAHoleIsPassedByCommandOnly(t *testing.T) {
	needCluster(t)
	st := openStore(t, realNow)
	empty(t, st, "event_log", "log_writer")
	l := st.follower()
	w := taxonomy.WriterID{9, 9}
	l.o.Groups = 1
	if err := l.register(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	old := realNow() - rowLife - taxonomy.Hour
	write := func(first uint64, at taxonomy.Millis) {
		t.Helper()
		records := []taxonomy.Record{{Kind: taxonomy.RecordTick, Received: at}, {Kind: taxonomy.RecordTick, Received: at}}
		f := retention.Frame{Writer: w, First: first, N: 2, Time: at, Records: records}
		if err := l.writeRow(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
	}
	write(1, old)
	write(7, old)
	frames, err := l.readRows(t.Context(), w, 0, 1, 10)
	if err != nil || len(frames) != 1 {
		t.Fatalf("before: %d frames, %v", len(frames), err)
	}
	holes, err := st.Holes(t.Context(), 0, retention.Position{})
	if err != nil || len(holes) != 1 || holes[0].Next != 3 || holes[0].Behind != 7 || !holes[0].Lost {
		t.Fatalf("holes %+v, %v", holes, err)
	}
	if err := st.Skip(t.Context(), holes[0], false); err != nil {
		t.Fatal(err)
	}
	if err := st.Skip(t.Context(), holes[0], false); !errors.Is(err, ErrNoHole) {
		t.Errorf("skipped again: %v", err)
	}
	frames, err = l.readRows(t.Context(), w, 0, 1, 10)
	if err != nil || len(frames) != 3 {
		t.Fatalf("after: %d frames, %v", len(frames), err)
	}
	if f := frames[1]; !f.Lost || !f.Skipped || f.First != 3 || f.N != 4 || len(f.Counts) != 1 || f.Counts[0] != (retention.SiteCount{N: 4}) {
		t.Errorf("in its place stands %+v", f)
	}

	// A young one may still fill.
	write(11, realNow())
	holes, err = st.Holes(t.Context(), 0, retention.Position{w: 8})
	if err != nil || len(holes) != 1 || holes[0].Lost {
		t.Fatalf("holes %+v, %v", holes, err)
	}
	if err := st.Skip(t.Context(), holes[0], false); err == nil {
		t.Error("a young hole was skipped")
	}
	if err := st.Skip(t.Context(), holes[0], true); err != nil {
		t.Errorf("by force: %v", err)
	}
}

// R24: what is told of an erasure is seen by every other store, from the instant
// at which it was written.
func TestEveryNodeIsToldOfErasures(t *testing.T) {
	needCluster(t)
	a, b := openStore(t, realNow), openStore(t, realNow)
	empty(t, a, "erasure")
	from := realNow()
	want := Erasure{Hash: [16]byte(storetest.Visitor(7)), Space: taxonomy.SpaceCookie, Asked: from - taxonomy.Hour}
	if err := a.PutErasures(t.Context(), []Erasure{want}); err != nil {
		t.Fatal(err)
	}
	read := func(at taxonomy.Millis) (got []Erasure) {
		t.Helper()
		if err := b.Erasures(t.Context(), at, func(e Erasure) { got = append(got, e) }); err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := read(from - taxonomy.OneDay); len(got) != 1 || got[0] != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := read(realNow() + taxonomy.Second); len(got) != 0 {
		t.Errorf("from later on: %+v", got)
	}
}
