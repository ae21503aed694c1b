package defs_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/retention/storetest"
)

func opened(t *testing.T, keyed retention.Keyed) *defs.Store {
	t.Helper()
	s, err := defs.Open(context.Background(), keyed, clock)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// shape is what a store has of the four documents of the set, by another reader.
func shape(t *testing.T, s *defs.Store) string {
	t.Helper()
	if _, err := s.Refresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	out := ""
	for _, id := range []string{"a", "b", "c", "d"} {
		d, ok := s.Snapshot().Get(defs.Site, id)
		out += fmt.Sprintf("%s:%v:%s ", id, ok, d.Body)
	}
	return out
}

// P10: whichever write is the last before a crash, another node sees all of the
// set or nothing, before it is brought to its end and after.
func TestASetOfDefinitionsIsMadeWholeOrNotAtAll(t *testing.T) {
	ctx := context.Background()
	set := []defs.Change{
		{Kind: defs.Site, ID: "a", Body: []byte(`{"v":2}`), Expect: 1},
		{Kind: defs.Site, ID: "b", Body: nil, Expect: 1},
		{Kind: defs.Site, ID: "c", Body: []byte(`{"v":1}`), Expect: 0},
		{Kind: defs.Site, ID: "d", Body: []byte(`{"v":3}`), Expect: 2},
	}
	var before, after string
	whole := false
	for left := 0; !whole; left++ {
		keyed := storetest.NewModel(clock).Keyed()
		s := opened(t, keyed)
		for _, id := range []string{"a", "b", "d", "d"} {
			d, _ := s.Snapshot().Get(defs.Site, id)
			if _, err := s.Put(ctx, defs.Site, id, fmt.Appendf(nil, `{"v":%d}`, d.Version+1), d.Version); err != nil {
				t.Fatal(err)
			}
		}
		reader := opened(t, keyed)
		before = shape(t, reader)
		breaking := &crashing{keyed, left}
		err := opened(t, breaking).Apply(ctx, "set-1", set)
		whole = err == nil
		got := shape(t, reader)
		if whole {
			after = got
		}
		const done = `a:true:{"v":2} b:false: c:true:{"v":1} d:true:{"v":3} `
		if got != before && got != done {
			t.Fatalf("after %d writes a reader sees %s", left, got)
		}
		// Whoever opens brings it to its end, and sees the same.
		again := opened(t, keyed)
		if end := shape(t, again); end != got {
			t.Fatalf("after %d writes: %s, and when it is opened again %s", left, got, end)
		}
		for _, id := range []string{"a", "c", "d"} {
			d, ok := again.Snapshot().Get(defs.Site, id)
			kept, err := again.Get(ctx, defs.Site, id)
			if ok != (err == nil) || ok && (kept.Version != d.Version || string(kept.Body) != string(d.Body)) {
				t.Fatalf("after %d writes %s is shown as %d %s and kept as %d %s", left, id, d.Version, d.Body, kept.Version, kept.Body)
			}
		}
		// The next change goes on from there.
		d, _ := again.Snapshot().Get(defs.Site, "a")
		if _, err := again.Put(ctx, defs.Site, "a", []byte(`{"v":9}`), d.Version); err != nil {
			t.Fatalf("after %d writes: %v", left, err)
		}
		if left > 40 {
			t.Fatal("it never ends")
		}
	}
	if before == after {
		t.Fatal("the set changed nothing")
	}
}

func TestASetOfAnotherVersionIsRefused(t *testing.T) {
	ctx := context.Background()
	keyed := storetest.NewModel(clock).Keyed()
	s := opened(t, keyed)
	if _, err := s.Put(ctx, defs.Site, "a", []byte(`{}`), 0); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]defs.Change{
		"there already":     {Kind: defs.Site, ID: "a", Body: []byte(`{}`), Expect: 0},
		"a later version":   {Kind: defs.Site, ID: "a", Body: []byte(`{}`), Expect: 2},
		"not there":         {Kind: defs.Site, ID: "x", Body: []byte(`{}`), Expect: 1},
		"nothing to delete": {Kind: defs.Site, ID: "x"},
	} {
		err := s.Apply(ctx, "set-"+c.ID, []defs.Change{{Kind: defs.Site, ID: "other", Body: []byte(`{}`)}, c})
		if !errors.Is(err, retention.ErrConflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(s.List(defs.Site)); n != 1 {
		t.Errorf("%d documents", n)
	}
}
