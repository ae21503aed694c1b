package cassandra

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// ttlLife is the life of a row of event_log in the test.
const ttlLife = 75 * time.Second

// With short settings, beside whatever else happens to the cluster: rows are
// unreadable when their time has come, and not before; their files are dropped
// whole; the disk shrinks. Events of one day end together at the start of day
// d+90, and so does one that came late, among those of a later day.
func TestLongTTLDropsWhatIsOver(t *testing.T) { // P5, R17
	needThree(t)
	st := ownKeyspace(t)
	const short = ` AND gc_grace_seconds = 10 AND memtable_flush_period_in_ms = 8000 AND compaction = {'class': 'TimeWindowCompactionStrategy',
		'compaction_window_unit': 'MINUTES', 'compaction_window_size': '1', 'expired_sstable_check_frequency_seconds': '5'}`
	mustApply(t, st, `ALTER TABLE event_log WITH default_time_to_live = `+strconv.Itoa(int(ttlLife/time.Second))+short)
	mustApply(t, st, `ALTER TABLE visitor_events WITH default_time_to_live = 7776000`+short)

	// A clock at which today's day minus 89 is over in 60 s.
	today := realNow().Day()
	over := (today + 1).Start()
	shift := over - 60*taxonomy.Second - realNow()
	shifted := func() taxonomy.Millis { return realNow() + shift }
	o := st.o
	o.Now, o.AnyClock, o.shared = shifted, true, st.s
	days, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	old := today.Oldest()
	n := 0
	event := func(d taxonomy.Day) retention.StoredEvent {
		n++
		e := faultEvent(n)
		e.Record.Event.Time, e.Record.Received = d.Start()+taxonomy.Millis(n), shifted()
		return e
	}
	insist := func(list ...retention.StoredEvent) {
		for days.Events().Put(t.Context(), list) != nil {
			<-time.After(time.Second) // the cluster is being broken
		}
	}
	put := func(d taxonomy.Day) { insist(event(d)) }
	var list []retention.StoredEvent
	for range 300 {
		list = append(list, event(old))
	}
	insist(list...) // at once: on a slow machine one by one takes longer than the day has

	// The log, a frame each 200 ms while the test goes on.
	l := &Log{st: st, o: LogOptions{Groups: 1}}
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; !stop.Load(); i++ {
			f := &retention.Frame{Writer: taxonomy.WriterID{4}, First: uint64(1 + 20*i), N: 20, Time: realNow(), Records: logEvents(i%50_000, 20)}
			for !stop.Load() && l.writeRow(context.Background(), f) != nil {
				<-time.After(time.Second)
				f.Time = realNow() // a row that was written twice has the time of the last
			}
			<-time.After(200 * time.Millisecond)
		}
	}()
	defer func() { stop.Store(true); <-done }()

	first := map[string]bool{} // the files of the first events
	size := func(table string) (bytes int64, files map[string]bool) {
		files = map[string]bool{}
		for node := range 3 {
			out, err := exec.Command("../../deploy/cassandra/cass", "files", strconv.Itoa(node+1), st.o.Keyspace, table).Output()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range strings.Fields(string(out)) {
				files[f] = true
				all, _ := filepath.Glob(strings.TrimSuffix(f, "Data.db") + "*")
				for _, g := range all {
					if fi, err := os.Stat(g); err == nil {
						bytes += fi.Size()
					}
				}
			}
		}
		return bytes, files
	}
	readable := func() (n int, err error) {
		err = days.Events().Scan(t.Context(), 0, 1, old, old, func(*retention.StoredEvent) error { n++; return nil })
		return n, err
	}
	bare := func(cql string, args ...any) (n int, err error) {
		err = st.s.cql.Query(cql, args...).Scan(&n)
		return n, err
	}
	const count = `SELECT COUNT(*) FROM visitor_events WHERE day = ? ALLOW FILTERING`
	reads, gone, overAt := 0, false, taxonomy.Millis(0)
	var ended map[string]bool // the files when the day ended
	var full, peakLog int64
	late := false
	for begun, end := time.Now(), time.Now().Add(2*patience); ; {
		if time.Now().After(end) {
			t.Fatalf("after %s: gone %t, %d reads, of the first files %d are left, of those at its end %d", time.Since(begun).Round(time.Second), gone, reads, len(first), len(ended))
		}
		<-time.After(time.Second)
		before := shifted()
		if n, err := readable(); err == nil {
			after := shifted()
			reads++
			// Lives are whole seconds and never too long, so they may end a second early.
			if after < over-2*taxonomy.Second && n < 300 || before >= over && n > 0 {
				t.Fatalf("between %s and %s, the day being over at %s, %d of its events are readable", before, after, over, n)
			}
		}
		bytes, files := size("visitor_events")
		logBytes, _ := size("event_log")
		peakLog = max(peakLog, logBytes)
		switch {
		case before >= over && !late:
			t.Fatalf("the cluster did not answer in the last 40 s of the day, so that nothing could come late; %d reads went through", reads)
		case over-before < 40*taxonomy.Second && !late:
			// One that comes late, and those of the day after, in a window of their own.
			// Early enough that no cluster which is broken beside us makes us miss it.
			late = true
			for f := range files {
				first[f] = true
			}
			put(old)
		case before >= over:
			put(old + 1) // so that there is something to flush
			if overAt == 0 {
				overAt, ended, full = before, files, bytes
			}
			left, err := bare(count, int32(old))
			switch {
			case err != nil:
			case left == 0:
				gone = true
			case before > over+5*taxonomy.Second:
				t.Fatalf("%s after its end the bare driver reads %d rows of the day", span(before-over), left)
			}
		}
		for _, old := range []map[string]bool{first, ended} {
			for f := range old {
				if !files[f] {
					delete(old, f)
				}
			}
		}
		// Files went whole. Rows may be left in files with younger ones, of the window in
		// which the day ended or from a commit log that was replayed: until those end.
		if gone && len(first)+len(ended) == 0 && filesOfDay(t, files, old) == 0 {
			t.Logf("%s after the day's end all its %d KB are dropped; %d reads", span(before-overAt), full/1024, reads)
			break
		}
	}
	if reads < 5 {
		t.Fatalf("%d reads went through", reads)
	}
	// The log holds no more than what is younger than its life, its grace, a
	// window, and what waits for a flush.
	_, files := size("event_log")
	for end := time.Now().Add(patience); ; <-time.After(2 * time.Second) {
		var oldest *int64 // nil of an empty table: a broken cluster took no frame for as long as one lives
		err := st.s.cql.Query(`SELECT MIN(time) FROM event_log`).Scan(&oldest)
		if err == nil && oldest != nil && realNow()-taxonomy.Millis(*oldest) > taxonomy.Millis(ttlLife.Milliseconds())+5*taxonomy.Second {
			t.Fatalf("a row of the log is readable %s after it was written", span(realNow()-taxonomy.Millis(*oldest)))
		}
		bytes, present := size("event_log")
		peakLog = max(peakLog, bytes)
		for f := range files {
			if !present[f] {
				delete(files, f)
			}
		}
		if err == nil && len(files) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d files of the log are not dropped", len(files))
		}
	}
	bytes, _ := size("event_log")
	t.Logf("event_log, while it is written: %d KB, at most %d KB; no file of it is older", bytes/1024, peakLog/1024)
}

// filesOfDay returns how many files of visitor_events of a cluster on this machine
// have rows of a day, over or not, and of no other. Files that went meanwhile have
// none.
func filesOfDay(t *testing.T, files map[string]bool, d taxonomy.Day) (n int) {
	t.Helper()
	for f := range files {
		dump, err := exec.Command("../../deploy/cassandra/cass", "sstabledump", "1", f).Output()
		if _, gone := os.Stat(f); gone != nil {
			continue
		}
		if err != nil {
			t.Fatalf("sstabledump: %v", err)
		}
		all := strings.Count(string(dump), `"clustering" : [ `)
		if own := strings.Count(string(dump), `"clustering" : [ `+strconv.Itoa(int(d))+`, `); own > 0 && own == all {
			n++
		}
	}
	return n
}
