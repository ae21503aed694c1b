package defs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

func open(t rapid.TB, k retention.Keyed) *defs.Store {
	t.Helper()
	s, err := defs.Open(context.Background(), k, storetest.NewClock(storetest.Start).Now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func model() retention.Keyed {
	return storetest.NewModel(storetest.NewClock(storetest.Start).Now).Keyed()
}

func put(t *testing.T, s *defs.Store, id, body string, expect uint64) uint64 {
	t.Helper()
	v, err := s.Put(t.Context(), defs.Site, id, []byte(body), expect)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAWriteIsInTheSnapshotAtOnce(t *testing.T) {
	s := open(t, model())
	before, v0 := s.Snapshot(), s.Version()
	if v := put(t, s, "shop", `{"id":"shop","title":"Shop"}`, 0); v != 1 {
		t.Fatalf("got version %d, want 1", v)
	}
	site, version, err := defs.Load[taxonomy.Site](s, defs.Site, "shop")
	if err != nil || site.Title != "Shop" || version != 1 || s.Version() == v0 {
		t.Fatalf("got %+v, %d, %v, snapshot %d", site, version, err, s.Version())
	}
	if _, ok := before.Get(defs.Site, "shop"); ok {
		t.Fatal("a snapshot that was taken before has changed")
	}
	if _, _, err := defs.Load[taxonomy.Site](before, defs.Site, "shop"); !errors.Is(err, retention.ErrNotFound) {
		t.Fatalf("got %v, want not found", err)
	}
	put(t, s, "news", `{"id":"news"}`, 0)
	all, err := defs.LoadAll[taxonomy.Site](s, defs.Site)
	if err != nil || len(all) != 2 || all[0].ID != "news" || all[1].ID != "shop" {
		t.Fatalf("got %+v, %v; want news and shop", all, err)
	}
}

func TestAStaleVersionConflicts(t *testing.T) {
	s := open(t, model())
	put(t, s, "shop", `1`, 0)
	put(t, s, "shop", `2`, 1)
	for _, stale := range []uint64{0, 1, 3} {
		if _, err := s.Put(t.Context(), defs.Site, "shop", []byte(`3`), stale); !errors.Is(err, retention.ErrConflict) {
			t.Fatalf("put at version %d gave %v, want a conflict", stale, err)
		}
		if err := s.Delete(t.Context(), defs.Site, "shop", stale); !errors.Is(err, retention.ErrConflict) {
			t.Fatalf("delete at version %d gave %v, want a conflict", stale, err)
		}
	}
	if d, err := s.Get(t.Context(), defs.Site, "shop"); err != nil || string(d.Body) != "2" || d.Changed != storetest.Start {
		t.Fatalf("got %+v, %v", d, err)
	}
}

func TestFormerBodiesAreKept(t *testing.T) {
	s := open(t, model())
	put(t, s, "shop", `1`, 0)
	put(t, s, "shop", `2`, 1)
	put(t, s, "shop2", `9`, 0)
	if err := s.Delete(t.Context(), defs.Site, "shop", 2); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), defs.Site, "shop", 2); !errors.Is(err, retention.ErrNotFound) {
		t.Fatalf("deleting again gave %v, want not found", err)
	}
	v := put(t, s, "shop", `4`, 0)
	docs, err := s.History(t.Context(), defs.Site, "shop")
	if err != nil || len(docs) != 3 || string(docs[0].Body) != "1" || string(docs[1].Body) != "2" || string(docs[2].Body) != "4" || docs[2].Version != v || docs[1].Version != 2 || v <= 2 {
		t.Fatalf("got %+v, %v", docs, err)
	}
}

func TestANodeSeesOthersWritesByRefreshing(t *testing.T) {
	k := model()
	a, b := open(t, k), open(t, k)
	put(t, a, "shop", `{"id":"shop"}`, 0)
	if _, ok := b.Snapshot().Get(defs.Site, "shop"); ok {
		t.Fatal("another node saw the write before it looked")
	}
	for i, want := range []bool{true, false} {
		if changed, err := b.Refresh(t.Context()); err != nil || changed != want {
			t.Fatalf("refresh %d: changed %t, %v; want %t", i, changed, err, want)
		}
	}
	if _, ok := b.Snapshot().Get(defs.Site, "shop"); !ok {
		t.Fatal("the write is not seen after refreshing")
	}
	if err := b.Delete(t.Context(), defs.Site, "shop", 1); err != nil {
		t.Fatal(err)
	}
	if changed, err := a.Refresh(t.Context()); err != nil || !changed || len(a.List(defs.Site)) != 0 {
		t.Fatalf("a deletion: changed %t, %v, %d left", changed, err, len(a.List(defs.Site)))
	}
}

func TestBadInputIsNamed(t *testing.T) {
	s := open(t, model())
	for _, c := range []struct {
		kind     defs.Kind
		id, body string
	}{{"sites", "x", `{}`}, {defs.Site, "No", `{}`}, {defs.Site, "", `{}`}, {defs.Site, "x", `{`}, {defs.Site, "x", ``}, {defs.Site, "x", `{} {}`}} {
		if _, err := s.Put(t.Context(), c.kind, c.id, []byte(c.body), 0); err == nil || errors.Is(err, retention.ErrUnknown) {
			t.Errorf("put %q %q %q gave %v, want an error that says what is wrong", c.kind, c.id, c.body, err)
		}
	}
	put(t, s, "shop", `{"id":"shop","of_a_newer_program":1}`, 0)
	if _, _, err := defs.Load[taxonomy.Site](s, defs.Site, "shop"); err == nil {
		t.Error("a field that would be lost was accepted")
	}
}

// unknown is a Keyed whose Swap does its work and then says that it may or may
// not have.
type unknown struct {
	retention.Keyed
	times int
}

func (u *unknown) Swap(ctx context.Context, s retention.KeyedSpace, it retention.Item) (uint64, error) {
	v, err := u.Keyed.Swap(ctx, s, it)
	if err == nil && u.times > 0 {
		u.times--
		return 0, fmt.Errorf("timed out: %w", retention.ErrUnknown)
	}
	return v, err
}

func TestAnUnknownPutMayBeRepeated(t *testing.T) {
	s := open(t, &unknown{model(), 1})
	if _, err := s.Put(t.Context(), defs.Rule, "r", []byte(`{"a":1}`), 0); !errors.Is(err, retention.ErrUnknown) {
		t.Fatalf("got %v, want unknown", err)
	}
	if v, err := s.Put(t.Context(), defs.Rule, "r", []byte(`{"a":1}`), 0); err != nil || v != 1 {
		t.Fatalf("got %d, %v; want version 1 of the first", v, err)
	}
	if d, ok := s.Snapshot().Get(defs.Rule, "r"); !ok || d.Version != 1 {
		t.Fatalf("the snapshot has %+v", d)
	}
	if _, err := s.Put(t.Context(), defs.Rule, "r", []byte(`{"a":2}`), 0); !errors.Is(err, retention.ErrConflict) {
		t.Fatalf("another body gave %v, want a conflict", err)
	}
}

// Two nodes do random things; each write is seen by its node at once, and after
// refreshing both have what a map has.
func TestNodesAgreeAfterRefreshing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		k := model()
		nodes := []*defs.Store{open(t, k), open(t, k)}
		want := map[string]string{}
		versions := map[string]uint64{}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			s := nodes[rapid.IntRange(0, 1).Draw(t, "node")]
			kind := rapid.SampledFrom([]defs.Kind{defs.Site, defs.Rule}).Draw(t, "kind")
			id := rapid.SampledFrom([]string{"a", "b", "a.b"}).Draw(t, "id")
			name := string(kind) + "/" + id
			expect := versions[name]
			if rapid.IntRange(0, 4).Draw(t, "stale") == 0 {
				expect = uint64(rapid.IntRange(0, 6).Draw(t, "expect"))
			}
			switch rapid.SampledFrom([]string{"put", "put", "delete", "refresh"}).Draw(t, "op") {
			case "put":
				body, _ := json.Marshal(rapid.String().Draw(t, "body"))
				v, err := s.Put(ctx, kind, id, body, expect)
				if repeated := expect+1 == versions[name] && want[name] == string(body); (err == nil) != (expect == versions[name] || repeated) {
					t.Fatalf("put at %d, kept %d: %v", expect, versions[name], err)
				}
				if err == nil {
					want[name], versions[name] = string(body), v
					if d, ok := s.Snapshot().Get(kind, id); !ok || string(d.Body) != string(body) || d.Version != v {
						t.Fatalf("the node's own write is not in its snapshot: %+v", d)
					}
				}
			case "delete":
				err := s.Delete(ctx, kind, id, expect)
				if (err == nil) != (versions[name] != 0 && expect == versions[name]) {
					t.Fatalf("delete at %d, kept %d: %v", expect, versions[name], err)
				}
				if err == nil {
					delete(want, name)
					delete(versions, name)
				}
			case "refresh":
				if _, err := s.Refresh(ctx); err != nil {
					t.Fatal(err)
				}
			}
		}
		for i, s := range nodes {
			if _, err := s.Refresh(ctx); err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, kind := range defs.Kinds {
				for _, d := range s.List(kind) {
					got[string(kind)+"/"+d.ID] = string(d.Body)
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("node %d has %v, want %v", i, got, want)
			}
		}
	})
}

func TestManyMayWriteAndRead(t *testing.T) {
	s := open(t, model())
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for g := range errs {
		wg.Go(func() {
			for i := range 20 {
				_, err := s.Put(t.Context(), defs.Rule, fmt.Sprintf("r%d-%d", g, i), []byte(`{}`), 0)
				_, rerr := s.Refresh(t.Context())
				errs[g] = errors.Join(errs[g], err, rerr)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if n := len(s.List(defs.Rule)); n != 80 {
		t.Fatalf("got %d documents, want 80", n)
	}
}
