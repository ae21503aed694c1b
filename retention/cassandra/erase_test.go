package cassandra

import (
	"encoding/hex"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// The weekly job of the README: what was erased has no row in any file, what was
// not has. Of an erased key there is only the mark of its deletion, and that goes
// with the second run where no older file has rows of its partition.
func TestErasedRowsLeaveTheFiles(t *testing.T) { // R25, P6
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
	// Another of the erased one's partition, and one of another's.
	erased, beside, kept := storetest.Visitor(40), storetest.Visitor(41), storetest.Visitor(52)
	// Files of one window would be merged some time, those of different windows are not.
	cass(t, "nodetool", "1", "disableautocompaction", cluster.keyspace, "visitor_events")
	defer cass(t, "nodetool", "1", "enableautocompaction", cluster.keyspace, "visitor_events")
	flush := func() { cass(t, "nodetool", "1", "flush", cluster.keyspace, "visitor_events") }
	for week := range taxonomy.Day(3) { // rows in several files and partitions
		visitors := []taxonomy.VisitorKey{erased, kept}
		if week == 0 {
			visitors = append(visitors, beside)
		}
		for i, v := range visitors {
			e := faultEvent(int(week)*3 + i + 1)
			e.Record.Visitor, e.Record.Event.Time = v, realNow()-taxonomy.Millis(week)*7*taxonomy.OneDay
			if err := st.Events().Put(t.Context(), []retention.StoredEvent{e}); err != nil {
				t.Fatal(err)
			}
		}
		flush()
	}
	// dumped is all that the sstable tools say of the files.
	var dumped func() string
	dumped = func() string {
		t.Helper()
		out, err := exec.Command(command, "files", "1", cluster.keyspace, "visitor_events").Output()
		if err != nil {
			t.Fatal(err)
		}
		var all strings.Builder
		for _, f := range strings.Fields(string(out)) {
			dump, err := exec.Command(command, "sstabledump", "1", f).Output()
			if _, gone := os.Stat(f); gone != nil {
				return dumped() // compaction has replaced it meanwhile: look at what there is now
			}
			if err != nil {
				t.Fatalf("sstabledump: %v", err)
			}
			all.Write(dump)
		}
		return all.String()
	}
	// A mark of deletion ends in "*" where a row has the name of its pack.
	rows := func(dump string, v taxonomy.VisitorKey) int {
		return strings.Count(dump, `"0x`+hex.EncodeToString(v[:])+`", "0x`)
	}
	for _, v := range []taxonomy.VisitorKey{erased, beside, kept} {
		if rows(dumped(), v) == 0 {
			t.Fatal("the search finds nothing, so it would prove nothing")
		}
	}
	if err := st.Events().Erase(t.Context(), []taxonomy.VisitorKey{erased}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		flush()
		<-time.After(2100 * time.Millisecond) // gc_grace_seconds, by the server's clock
		cass(t, "nodetool", "1", "garbagecollect", "-g", "ROW", cluster.keyspace, "visitor_events")
	}
	dump := dumped()
	if n := rows(dump, erased); n > 0 {
		t.Errorf("%d rows of the erased visitor are still in the files", n)
	}
	if rows(dump, beside) != 1 || rows(dump, kept) != 3 {
		t.Errorf("rows of others went with it: %d of 1, %d of 3 are left", rows(dump, beside), rows(dump, kept))
	}
	// The older file of this week has the partition still, so that the marks for its
	// seven days stay; those for all other weeks are gone.
	if n := strings.Count(dump, hex.EncodeToString(erased[:])); n != 2*7 {
		t.Errorf("%d bounds of deletions are left, want those of 7 days", n)
	}
}
