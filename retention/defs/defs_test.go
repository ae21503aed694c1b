package defs

import (
	"context"
	"errors"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/storetest"
)

var ctx = context.Background()

func open(t *testing.T, keyed retention.Keyed) *Store {
	t.Helper()
	s, err := Open(ctx, keyed, storetest.NewClock(1_000_000).Now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAChangeNamesTheVersionItWasMadeFrom(t *testing.T) {
	keyed := storetest.NewModel(storetest.NewClock(1_000_000).Now).Keyed()
	a, b := open(t, keyed), open(t, keyed)
	one, err := a.Put(ctx, Site, "shop", []byte(`{"title":"one"}`), 0)
	if err != nil || one.Version != 1 {
		t.Fatalf("first version: %+v, %v", one, err)
	}
	if _, err := a.Put(ctx, Site, "shop", []byte(`{}`), 0); !errors.Is(err, retention.ErrConflict) {
		t.Errorf("made twice: %v", err)
	}
	if _, ok := b.Snapshot().Get(Site, "shop"); ok {
		t.Error("another process knows it without looking")
	}
	if err := b.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(ctx, Site, "shop", []byte(`{"title":"two"}`), one.Version); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Put(ctx, Site, "shop", []byte(`{"title":"lost update"}`), one.Version); !errors.Is(err, retention.ErrConflict) {
		t.Errorf("from an old version: %v", err)
	}
	n := a.Snapshot().Number
	if err := a.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	if d, _ := a.Snapshot().Get(Site, "shop"); string(d.Body) != `{"title":"two"}` || d.Version != 2 {
		t.Errorf("after the refresh: %s, version %d", d.Body, d.Version)
	}
	if a.Snapshot().Number == n {
		t.Error("the snapshot changed and kept its number")
	}
}

func TestHistoryKeepsEveryVersionAlsoOfWhatIsDeleted(t *testing.T) {
	s := open(t, storetest.NewModel(storetest.NewClock(1_000_000).Now).Keyed())
	var v uint64
	for _, body := range []string{`1`, `2`, `3`} {
		d, err := s.Put(ctx, Audience, "tennis", []byte(body), v)
		if err != nil {
			t.Fatal(err)
		}
		v = d.Version
	}
	if err := s.Delete(ctx, Audience, "tennis", v-1); !errors.Is(err, retention.ErrConflict) {
		t.Errorf("deleted from an old version: %v", err)
	}
	if err := s.Delete(ctx, Audience, "tennis", v); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Snapshot().Get(Audience, "tennis"); ok {
		t.Error("it is deleted and still there")
	}
	docs, err := s.History(ctx, Audience, "tennis")
	if err != nil || len(docs) != 3 || string(docs[1].Body) != "2" {
		t.Fatalf("history %v, %v", docs, err)
	}
	again, err := s.Put(ctx, Audience, "tennis", []byte(`4`), 0)
	if err != nil || again.Version <= v {
		t.Errorf("made again as version %d after %d, %v", again.Version, v, err)
	}
}

func TestListAndLoadAreByKind(t *testing.T) {
	s := open(t, storetest.NewModel(storetest.NewClock(1_000_000).Now).Keyed())
	for _, d := range []struct {
		kind Kind
		id   string
	}{{Site, "b"}, {Source, "x"}, {Site, "a"}, {Setting, "y"}} {
		if _, err := s.Put(ctx, d.kind, d.id, []byte(`{"id":"`+d.id+`"}`), 0); err != nil {
			t.Fatal(err)
		}
	}
	type named struct{ ID string }
	got, err := Load[named](s.Snapshot(), Site)
	if err != nil || len(got) != 2 || got[0].ID != "a" || got[1].ID != "b" {
		t.Errorf("sites %v, %v", got, err)
	}
	if _, err := Load[int](s.Snapshot(), Site); err == nil {
		t.Error("a document that is no number was read as one")
	}
	if _, err := s.Put(ctx, Site, "c", []byte(`{`), 0); err == nil {
		t.Error("a body that is no JSON was taken")
	}
}
