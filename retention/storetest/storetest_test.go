package storetest_test

import (
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

// The model passes its own suite: a statement that it fails would be a
// statement about nothing. Reopening keeps the model, since it has no disk.
func model[C any](pick func(*storetest.Model) C) storetest.Opener[C] {
	return func(_ rapid.TB, now func() taxonomy.Millis) storetest.Engine[C] {
		c := pick(storetest.NewModel(now))
		return storetest.Engine[C]{Contract: c, Reopen: func(rapid.TB) C { return c }}
	}
}

func TestModelEvents(t *testing.T) {
	storetest.Events(t, model(func(m *storetest.Model) retention.Events { return m.Events() }))
}

func TestModelKeyed(t *testing.T) {
	storetest.Keyed(t, model(func(m *storetest.Model) retention.Keyed { return m.Keyed() }))
}

func TestModelBlobs(t *testing.T) {
	storetest.Blobs(t, model(func(m *storetest.Model) retention.Blobs { return m.Blobs() }))
}

func TestModelLeases(t *testing.T) {
	storetest.Leases(t, model(func(m *storetest.Model) retention.Leases { return m.Leases() }))
}

func TestModelLog(t *testing.T) {
	storetest.Log(t, func(_ rapid.TB, now func() taxonomy.Millis) storetest.LogEngine {
		l := storetest.NewLog(1, now)
		return storetest.LogEngine{Log: l, Restart: func(rapid.TB) retention.Log {
			l.Crash()
			l = l.NewWriter()
			return l
		}}
	})
}

// The model of the cluster passes the suite too, as a cluster in which all is well
// and every uploader is done at once.
func TestModelClusterLog(t *testing.T) {
	storetest.Log(t, func(_ rapid.TB, now func() taxonomy.Millis) storetest.LogEngine {
		n := storetest.NewCluster(1, now, 10*time.Second).NewNode(true)
		return storetest.LogEngine{Log: n, Restart: func(rapid.TB) retention.Log { n.Kill(); n.Start(); return n }}
	})
}

func TestModelClusterStores(t *testing.T) {
	cluster := func(now func() taxonomy.Millis) *storetest.Cluster { return storetest.NewCluster(1, now, time.Second) }
	t.Run("Events", func(t *testing.T) {
		storetest.Events(t, func(_ rapid.TB, now func() taxonomy.Millis) storetest.Engine[retention.Events] {
			return storetest.Engine[retention.Events]{Contract: cluster(now).Events()}
		})
	})
	t.Run("Keyed", func(t *testing.T) {
		storetest.Keyed(t, func(_ rapid.TB, now func() taxonomy.Millis) storetest.Engine[retention.Keyed] {
			return storetest.Engine[retention.Keyed]{Contract: cluster(now).Keyed()}
		})
	})
	t.Run("Blobs", func(t *testing.T) {
		storetest.Blobs(t, func(_ rapid.TB, now func() taxonomy.Millis) storetest.Engine[retention.Blobs] {
			return storetest.Engine[retention.Blobs]{Contract: cluster(now).Blobs()}
		})
	})
	t.Run("Leases", func(t *testing.T) {
		storetest.Leases(t, func(_ rapid.TB, now func() taxonomy.Millis) storetest.Engine[retention.Leases] {
			return storetest.Engine[retention.Leases]{Contract: cluster(now).Leases()}
		})
	})
}

func TestModelLogLosesOnlyWhatIsNotDurable(t *testing.T) { // R12
	clock := storetest.NewClock(storetest.Start)
	l := storetest.NewLog(1, clock.Now)
	other := l.NewWriter()
	tick := []taxonomy.Record{{Kind: taxonomy.RecordTick}}
	seen := func() int {
		frames, err := other.Follow(t.Context(), 0, nil, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		return len(frames)
	}
	for i, durable := range []func(){func() { l.Sync() }, func() { clock.Advance(100) }} {
		if _, _, err := l.Append(t.Context(), 0, tick, retention.AckNone); err != nil {
			t.Fatal(err)
		}
		if seen() != i {
			t.Fatalf("a record that is not durable was followed")
		}
		durable()
		if seen() != i+1 {
			t.Fatalf("got %d frames, want %d", seen(), i+1)
		}
	}
	if _, _, err := l.Append(t.Context(), 0, tick, retention.AckNone); err != nil {
		t.Fatal(err)
	}
	l.Crash()
	if end, err := other.CloseWriter(t.Context(), 0, l.Writer()); err != nil || end != 2 {
		t.Fatalf("closing gave end %d, %v; want 2", end, err)
	}
	if !l.Corrupt(0, taxonomy.Ref{Writer: l.Writer(), Seq: 1}) {
		t.Fatal("there is no frame to corrupt")
	}
	frames, err := other.Follow(t.Context(), 0, nil, 1<<20)
	if err != nil || len(frames) != 2 || !frames[0].Lost || frames[0].Records != nil || frames[0].N != 1 || frames[1].Lost {
		t.Fatalf("got %+v, %v; want the first of two lost", frames, err) // R2
	}
}
