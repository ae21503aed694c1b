package realdata

import (
	"bytes"
	"compress/gzip"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/app/clustertest"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

// The same purchases, statements and definitions give the same audiences on both
// stores, visitor by visitor, and with the same keys and clock the same segment
// files but for the order of their lines: one has one shard, the other eight.
func TestCassandraGivesWhatTheEmbeddedStoreGives(t *testing.T) {
	cassandra := clustertest.Keyspace(t)
	ring, err := keys.Generate(app.System().Rand, today)
	if err != nil {
		t.Fatal(err)
	}
	// An import makes the store key of its space; on a cluster nobody does by
	// himself.
	if ring, err = ring.WithSpace(app.System().Rand, household); err != nil {
		t.Fatal(err)
	}
	stores := []map[string]string{{}, cassandra}
	var sets []map[string]visitors
	var counts []map[string]int
	var files []map[string][]string
	for _, settings := range stores {
		settings["export_floor"] = "1"
		if settings["store"] != "" {
			settings["shards"] = "8" // a cluster's 64 write eight times as many files
		}
		j := newJourneyIn(t, newWorldIn(t, noon(today), ring, settings), (*journey).defineRules)
		var ids []taxonomy.AudienceID
		for _, r := range j.rules {
			ids = append(ids, r.id)
		}
		for _, d := range []delivery.Destination{
			{ID: "pseudonyms", Title: "By pseudonym", Audiences: ids, Floor: 1, KeyHash: delivery.HashKey("ebbp_x"), Transport: "dir", URL: "pseudonyms"},
			{ID: "some", Title: "Some, by pseudonym", Audiences: ids[:5], Floor: 50, KeyHash: delivery.HashKey("ebbp_y"), Transport: "dir", URL: "some"},
		} {
			j.define(defs.Destination, string(d.ID), d)
		}
		sets = append(sets, j.build())
		counts = append(counts, j.estimates())
		j.balanced()
		lines := map[string][]string{}
		for _, id := range []taxonomy.DestinationID{"pseudonyms", "some"} {
			done, err := j.Deliver(ctx, id)
			if err != nil {
				t.Fatal(err)
			}
			lines[string(id)] = j.outgoing(string(id))
			if n := len(lines[string(id)]); uint64(n) != done.Rows || n == 0 {
				t.Errorf("%s: %d lines, the delivery says %+v", id, n, done)
			}
		}
		files = append(files, lines)
		j.telling(sets[len(sets)-1], 2_039)
	}
	for id, of := range sets[0] {
		if !slices.Equal(of, sets[1][id]) {
			t.Errorf("%s: %d visitors embedded, %d in Cassandra; missing %v, too many %v", id, len(of), len(sets[1][id]), some(minus(of, sets[1][id])), some(minus(sets[1][id], of)))
		}
	}
	if !maps.Equal(counts[0], counts[1]) {
		t.Errorf("estimates differ: %v and %v", counts[0], counts[1])
	}
	for id, of := range files[0] {
		if !slices.Equal(of, files[1][id]) {
			t.Errorf("segment files of %s differ: %d and %d lines", id, len(of), len(files[1][id]))
		} else {
			t.Logf("segment files of %s: %d lines, equal", id, len(of))
		}
	}
}

// outgoing returns the lines of all files that left for a destination, sorted.
func (w *world) outgoing(id string) (lines []string) {
	w.t.Helper()
	return w.outgoingIn(w.FS.PathJoin("ebb-data.outgoing", id))
}

func (w *world) outgoingIn(folder string) (lines []string) {
	w.t.Helper()
	names, err := w.FS.List(folder)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, n := range names {
		f, err := w.FS.Open(w.FS.PathJoin(folder, n))
		if err != nil {
			w.t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		if err != nil {
			w.t.Fatal(err)
		}
		_ = f.Close()
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			w.t.Fatalf("%s: %v", n, err)
		}
		text, err := io.ReadAll(z)
		if err != nil {
			w.t.Fatalf("%s: %v", n, err)
		}
		for l := range strings.Lines(string(text)) {
			lines = append(lines, l)
		}
	}
	slices.Sort(lines)
	return lines
}
