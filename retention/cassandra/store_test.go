package cassandra

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

func TestStartSaysWhatIsWrongAndHowToMendIt(t *testing.T) {
	needCluster(t)
	ctx := t.Context()
	s := sharedSession(t)
	bare := func(name, replication string) string {
		t.Helper()
		name = cluster.keyspace + name
		if err := s.apply(ctx, fmt.Sprintf("CREATE KEYSPACE %s WITH replication = %s", name, replication)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			o := testOptions(realNow)
			o.Keyspace = name
			if err := Drop(context.Background(), o); err != nil {
				t.Error(err)
			}
		})
		return name
	}
	one := fmt.Sprintf("{'class': 'NetworkTopologyStrategy', '%s': 1}", cluster.dc)
	for name, c := range map[string]struct {
		change func(*Options)
		want   []string
	}{
		"data centre": {func(o *Options) { o.DataCenter = "nowhere" }, []string{`in data centre "` + cluster.dc + `", not "nowhere"`, "nodetool status"}},
		"keyspace":    {func(o *Options) { o.Keyspace = "ebb_never_made" }, []string{"ebb_never_made", "ebb migrate up"}},
		"schema":      {func(o *Options) { o.Keyspace = bare("a", one) }, []string{"001_log.cql) is not applied", "ebb migrate up"}},
		"clock": {func(o *Options) { o.Now = func() taxonomy.Millis { return realNow() + 10*taxonomy.Second } },
			[]string{"clock is", "NTP"}},
		"quorum":   {func(o *Options) { o.Keyspace = bare("b", strings.Replace(one, ": 1", ": 9", 1)) }, []string{"wants 9 replicas", "no quorum is possible"}},
		"strategy": {func(o *Options) { o.Keyspace = bare("c", "{'class': 'SimpleStrategy', 'replication_factor': 1}") }, []string{"knows no data centres", "ALTER KEYSPACE"}},
		"durable": {func(o *Options) {
			o.Keyspace = bare("d", one+" AND durable_writes = false")
		}, []string{"durable_writes = false", "ALTER KEYSPACE"}},
		"nobody": {func(o *Options) { o.Hosts = []string{"127.0.0.1:1"} }, []string{"127.0.0.1:1", "is the cluster up"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := testOptions(realNow)
			c.change(&o)
			st, err := Open(ctx, o)
			if err == nil {
				st.Close()
				t.Fatal("it was opened")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("the error does not say %q: %v", w, err)
				}
			}
		})
	}
}

func TestMigrateIsDoneOnceAndKnowsOtherHands(t *testing.T) {
	needCluster(t)
	ctx := t.Context()
	o := testOptions(realNow)
	o.Buckets = 99 // fixed when the keyspace was made
	done, err := Up(ctx, o)
	if err != nil || len(done) != 0 {
		t.Fatalf("again: got %v, %v; want nothing to do", done, err)
	}
	st, err := Open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if st.events.buckets != 4 {
		t.Fatalf("got %d buckets, want those that were fixed", st.events.buckets)
	}
	list, err := Status(ctx, o)
	if err != nil || len(list) < 5 {
		t.Fatalf("got %v, %v", list, err)
	}
	for i, s := range list {
		if s.N != i+1 || s.Applied == 0 || s.Changed || s.Newer {
			t.Fatalf("got %+v", s)
		}
	}
	// Another program's hands.
	put := func(n int, name, sum string) {
		t.Helper()
		if err := st.s.write(ctx, `INSERT INTO schema_version (n, name, sum, at) VALUES (?, ?, ?, 1)`, n, name, sum); err != nil {
			t.Fatal(err)
		}
	}
	own, err := steps()
	if err != nil {
		t.Fatal(err)
	}
	put(2, own[1].Name, "other")
	if _, err := Open(ctx, o); err == nil || !strings.Contains(err.Error(), "another text") {
		t.Fatalf("a changed step: got %v", err)
	}
	put(2, own[1].Name, own[1].sum)
	put(77, "077_new.cql", "x")
	if _, err := Open(ctx, o); err == nil || !strings.Contains(err.Error(), "newer Ebb; run that version") {
		t.Fatalf("a newer step: got %v", err)
	}
	if err := st.s.rewrite(ctx, `DELETE FROM schema_version WHERE n = 77`); err != nil {
		t.Fatal(err)
	}
}

// The server drops rows by itself no later than their day ends, late events
// sooner, and nothing is written at the time of an event.
func TestRowsEndWithTheirDay(t *testing.T) { // R17, P5
	needCluster(t)
	ctx := t.Context()
	st := openStore(t, realNow)
	st.o.slack = 0
	empty(t, st, "visitor_events", "keyed_mortal", "keyed_lasting", "blob_head")
	now := realNow()
	var list []retention.StoredEvent
	for back := range taxonomy.Day(95) {
		list = append(list, retention.StoredEvent{Ref: taxonomy.Ref{Writer: taxonomy.WriterID{1}, Seq: uint64(back) + 1},
			Record: taxonomy.Record{Kind: taxonomy.RecordEvent, Received: now, Site: "shop", Visitor: storetest.Visitor(1),
				Event: &taxonomy.Event{ID: taxonomy.EventID{byte(back)}, Time: (now.Day() - back).Start(), Kind: taxonomy.EventPage}}})
	}
	if err := st.Events().Put(ctx, list); err != nil {
		t.Fatal(err)
	}
	rows := 0
	err := st.s.rows(ctx, func() { rows = 0 }, func(scan func(...any) error) error {
		var day int32
		var ttl *int
		var written int64
		if err := scan(&day, &ttl, &written); err != nil {
			return err
		}
		rows++
		left := int((taxonomy.Day(day).Over() - realNow()) / taxonomy.Second)
		switch {
		case ttl == nil:
			t.Errorf("the row of %s never ends", taxonomy.Day(day))
		case *ttl > left+2 || *ttl < left-60:
			t.Errorf("the row of %s ends in %d s, its life in %d", taxonomy.Day(day), *ttl, left)
		}
		if age := realNow() - taxonomy.Millis(written/1000); age < -taxonomy.Minute || age > 10*taxonomy.Minute {
			t.Errorf("the row of %s was written %d ms ago", taxonomy.Day(day), age)
		}
		return nil
	}, `SELECT day, ttl(payload), writetime(payload) FROM visitor_events`)
	if err != nil || rows != 90 {
		t.Fatalf("got %d rows, %v; want those of 90 days", rows, err)
	}
	oldest, ok, err := st.OldestEvent(ctx)
	if err != nil || !ok || oldest != now.Day().Oldest() {
		t.Fatalf("the oldest day is %s, %t, %v; want %s", oldest, ok, err, now.Day().Oldest())
	}

	match := retention.KeyedSpace{Name: "match"}
	for i, over := range []taxonomy.Millis{0, now + taxonomy.Hour, now + 500*taxonomy.OneDay} {
		if err := st.Keyed().Put(ctx, match, []retention.Item{{Key: retention.Key{Partition: fmt.Sprint(i)}, Value: []byte("x"), Over: over}}); err != nil {
			t.Fatal(err)
		}
		var ttl *int
		if err := st.s.one(ctx, `SELECT ttl(value) FROM keyed_mortal WHERE space = 'match' AND partition = ? AND item = ?`, []any{[]byte(fmt.Sprint(i)), []byte{}}, &ttl); err != nil {
			t.Fatal(err)
		}
		if ttl == nil || *ttl > 90*86400 || i == 1 && *ttl > 3600 {
			t.Fatalf("an item of a mortal space with over %s ends in %v s", over, ttl)
		}
	}
	if _, err := st.Blobs().Put(ctx, "a/b", now+taxonomy.Hour, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	h, err := st.blobs.head(ctx, "a/b")
	if err != nil {
		t.Fatal(err)
	}
	for cql, args := range map[string][]any{`SELECT ttl(parts) FROM blob_head WHERE root = ? AND name = ?`: {"a", "a/b"}, `SELECT ttl(data) FROM blob_part WHERE id = ? AND part = 0`: {h.id}} {
		var ttl *int
		if err := st.s.one(ctx, cql, args, &ttl); err != nil || ttl == nil || *ttl > 3601 {
			t.Fatalf("%s gave %v, %v", cql, ttl, err)
		}
	}
}

func TestPartsThatNobodyPointsToGo(t *testing.T) {
	needCluster(t)
	ctx := t.Context()
	clock := storetest.NewClock(storetest.Start)
	st := openStore(t, clock.Now)
	empty(t, st, "blob_head", "blob_gone")
	parts := func() (n int) {
		t.Helper()
		if err := st.s.one(ctx, `SELECT count(*) FROM blob_part`, nil, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := parts() // of other tests
	content := bytes.Repeat([]byte("ebb "), 3*partBytes/4+1)
	put := func(name string, over taxonomy.Millis, r io.Reader) error {
		_, err := st.Blobs().Put(ctx, name, over, r)
		return err
	}
	if err := errors.Join(put("a/kept", 0, bytes.NewReader(content)), put("a/gone", 0, bytes.NewReader(content))); err != nil {
		t.Fatal(err)
	}
	if err := put("a/kept", 0, strings.NewReader("other")); !errors.Is(err, retention.ErrConflict) {
		t.Fatalf("got %v, want a conflict", err)
	}
	// A put that died: its parts without an end, its note, no head.
	dead := head{Blob: retention.Blob{Name: "a/died"}, id: make([]byte, 16), parts: unknownParts}
	if err := errors.Join(st.blobs.gone(ctx, dead), st.blobs.writeParts(ctx, &head{Blob: dead.Blob, id: dead.id}, bytes.NewReader(content))); err != nil {
		t.Fatal(err)
	}
	r, err := st.Blobs().Open(ctx, "a/gone")
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Blobs().Delete(ctx, []string{"a/gone"}); err != nil {
		t.Fatal(err)
	}
	if err := st.blobs.sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(io.NewSectionReader(r, 0, r.Blob().Bytes)); err != nil {
		t.Fatalf("a blob that is open went with the sweep: %v", err)
	}
	clock.Advance(openFor)
	if err := st.blobs.sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if n := parts() - before; n != 4 {
		t.Fatalf("%d parts are left, want the 4 of the blob that is kept", n)
	}
	r, err = st.Blobs().Open(ctx, "a/kept")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(io.NewSectionReader(r, 0, r.Blob().Bytes)); err != nil || !bytes.Equal(b, content) {
		t.Fatalf("what is kept is not whole: %d bytes, %v", len(b), err)
	}
}

func TestFlippedBytesOfABlobAreFound(t *testing.T) {
	needCluster(t)
	ctx := t.Context()
	st := openStore(t, realNow)
	empty(t, st, "blob_head", "blob_gone")
	if _, err := st.Blobs().Put(ctx, "x", realNow()+taxonomy.Hour, strings.NewReader("content")); err != nil {
		t.Fatal(err)
	}
	h, err := st.blobs.head(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	if err := st.s.rewrite(ctx, `UPDATE blob_part SET data = ? WHERE id = ? AND part = 0`, []byte("kontent"), h.id); err != nil {
		t.Fatal(err)
	}
	r, err := st.Blobs().Open(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadAt(make([]byte, 1), 0); !errors.Is(err, retention.ErrCorrupt) {
		t.Fatalf("got %v, want corrupt", err)
	}
}

func TestValuesThatAreOverLeaveSwappedItems(t *testing.T) {
	needCluster(t)
	ctx := t.Context()
	clock := storetest.NewClock(storetest.Start)
	st := openStore(t, clock.Now)
	empty(t, st, "keyed_swapped")
	s, k := retention.KeyedSpace{Name: "test-swapped", Swapped: true}, retention.Key{Partition: "p"}
	v, err := st.Keyed().Swap(ctx, s, retention.Item{Key: k, Value: []byte("x"), Over: clock.Now() + taxonomy.Hour})
	if err != nil {
		t.Fatal(err)
	}
	clock.Advance(taxonomy.Hour)
	if err := st.keyed.sweep(ctx); err != nil {
		t.Fatal(err)
	}
	row, err := st.keyed.row(ctx, []any{s.Name, []byte("p"), []byte{}})
	if err != nil || row.value != nil || row.version != v {
		t.Fatalf("got %+v, %v; want version %d without a value", row, err, v)
	}
	if next, err := st.Keyed().Swap(ctx, s, retention.Item{Key: k, Value: []byte("y")}); err != nil || next != v+1 {
		t.Fatalf("got version %d, %v; want %d", next, err, v+1)
	}
}

func TestHolesAreNamed(t *testing.T) { // R5
	needCluster(t)
	clock := storetest.NewClock(realNow())
	st := openStore(t, clock.Now)
	empty(t, st, "event_log", "log_writer")
	n := startNode(t, st, clock.Now, func(o *LogOptions) { o.Life = time.Hour })
	defer n.stop()
	other := taxonomy.WriterID{7}
	if err := n.log.register(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	for _, first := range []uint64{1, 5} {
		f := retention.Frame{Writer: other, First: first, N: 2, Time: clock.Now(), Records: logEvents(int(first), 2)}
		if err := n.log.writeRow(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
	}
	for _, lost := range []bool{false, true} {
		holes, err := n.log.Holes(t.Context(), 0, nil)
		if err != nil || len(holes) != 1 || holes[0].Writer != other || holes[0].Next != 3 || holes[0].Behind != 5 || holes[0].Lost != lost {
			t.Fatalf("got %+v, %v; want numbers 3 and 4 missing, lost %t", holes, err, lost)
		}
		clock.Advance(rowLife + 1)
	}
}
