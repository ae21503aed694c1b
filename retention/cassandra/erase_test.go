package cassandra

import (
	"bytes"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// The weekly job of the README, twice: what was erased is in no file, what was
// not is.
func TestErasedKeysLeaveTheFiles(t *testing.T) { // R25, P6
	needCluster(t)
	const command = "../../deploy/cassandra/cass"
	if cluster.nodes != 1 || exec.Command(command, "nodetool", "1", "version").Run() != nil {
		t.Skip("the files can be read on one node of deploy/cassandra only")
	}
	st := openStore(t, realNow)
	empty(t, st, "visitor_events")
	alter := func(grace string) {
		t.Helper()
		if err := st.s.apply(t.Context(), "ALTER TABLE visitor_events WITH gc_grace_seconds = "+grace); err != nil {
			t.Fatal(err)
		}
	}
	alter("1")
	defer alter("86400")
	erased, kept := storetest.Visitor(40), storetest.Visitor(52)
	flush := func() { cass(t, "nodetool", "1", "flush", cluster.keyspace, "visitor_events") }
	for week := range taxonomy.Day(3) { // rows in several files and partitions
		for i, v := range []taxonomy.VisitorKey{erased, kept} {
			e := faultEvent(int(week)*2 + i + 1)
			e.Record.Visitor, e.Record.Event.Time = v, realNow()-taxonomy.Millis(week)*7*taxonomy.OneDay
			if err := st.Events().Put(t.Context(), []retention.StoredEvent{e}); err != nil {
				t.Fatal(err)
			}
		}
		flush()
	}
	var has func(v taxonomy.VisitorKey) bool
	has = func(v taxonomy.VisitorKey) bool {
		t.Helper()
		out, err := exec.Command(command, "files", "1", cluster.keyspace, "visitor_events").Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range strings.Fields(string(out)) {
			dump, err := exec.Command(command, "sstabledump", "1", f).Output()
			if _, gone := os.Stat(f); gone != nil {
				return has(v) // compaction has replaced it meanwhile: look at what there is now
			}
			if err != nil {
				t.Fatalf("sstabledump: %v", err)
			}
			if strings.Contains(string(dump), hex.EncodeToString(v[:])) {
				return true
			}
			beside, err := filepath.Glob(strings.TrimSuffix(f, "Data.db") + "*")
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range beside {
				if raw, err := os.ReadFile(b); err == nil && bytes.Contains(raw, v[:]) {
					return true
				}
			}
		}
		return false
	}
	if !has(erased) || !has(kept) {
		t.Fatal("the search finds nothing, so it would prove nothing")
	}
	if err := st.Events().Erase(t.Context(), []taxonomy.VisitorKey{erased}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		flush()
		<-time.After(2100 * time.Millisecond) // gc_grace_seconds, by the server's clock
		cass(t, "nodetool", "1", "garbagecollect", "-g", "ROW", cluster.keyspace, "visitor_events")
	}
	if has(erased) {
		t.Error("the erased key is still in a file")
	}
	if !has(kept) {
		t.Error("another key went with it")
	}
}
