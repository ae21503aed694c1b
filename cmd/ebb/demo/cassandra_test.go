package demo_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/app/clustertest"
	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/cmd/ebb/demo"
)

// The demo counts the same on a cluster, whose keyspace goes with it.
func TestCassandraDemoCountsTheSame(t *testing.T) {
	settings := clustertest.Empty(t)
	r, err := config.Load(config.Input{CheckSchedule: app.CheckSchedule, Flags: settings})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	var counts []map[string]uint64
	for _, c := range []*config.Config{nil, &r.Config} {
		d, err := demo.Start(ctx, demo.Options{Env: app.System(), Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler), Quiet: true, Cluster: c})
		if err != nil {
			t.Fatal(err)
		}
		of := map[string]uint64{"visitors": d.Info.Counts.Visitors, "events": d.Info.Counts.Events}
		for _, e := range d.Generation().Audiences {
			of[string(e.ID)] = e.Count
		}
		counts = append(counts, of)
		if err := d.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for id, n := range counts[0] {
		if counts[1][id] != n {
			t.Errorf("%s: %d embedded, %d in Cassandra", id, n, counts[1][id])
		}
	}
	if len(counts[0]) < 10 || counts[0]["events"] == 0 {
		t.Errorf("the demo counts %v", counts[0])
	}
}
