package cassandra

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// sstable is what sstablemetadata says of a file.
type sstable struct {
	name     string
	min, max taxonomy.Millis // write timestamps
	// over is when its last row is over, 0 if one has no end.
	over taxonomy.Millis
	// known: the tool said all of it.
	known int
}

// never is the least number of seconds that says "no end" in Cassandra's files:
// an end that was capped is not to be told from none.
const never = math.MaxInt32

var inBrackets = regexp.MustCompile(`\((-?\d+)\)\s*$`)

// readMetadata reads what sstablemetadata prints of one or more files.
func readMetadata(out []byte) (list []sstable, err error) {
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		key, value, ok := strings.Cut(lines.Text(), ":")
		if !ok {
			continue
		}
		if key == "SSTable" {
			list = append(list, sstable{name: strings.TrimSpace(value)})
			continue
		}
		if len(list) == 0 || key != "Minimum timestamp" && key != "Maximum timestamp" && key != "SSTable max local deletion time" {
			continue
		}
		f := &list[len(list)-1]
		n := int64(math.MaxInt64) // "no tombstones": a row without an end
		if m := inBrackets.FindStringSubmatch(value); m != nil {
			if n, err = strconv.ParseInt(m[1], 10, 64); err != nil {
				return nil, fmt.Errorf("sstablemetadata: %s: %w", lines.Text(), err)
			}
		}
		f.known++
		switch key {
		case "Minimum timestamp":
			f.min = taxonomy.Millis(n / 1000)
		case "Maximum timestamp":
			f.max = taxonomy.Millis(n / 1000)
		default:
			if n < never {
				f.over = taxonomy.Millis(n) * taxonomy.Second
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("sstablemetadata: %w", err)
	}
	for i := range list {
		if list[i].known != 3 {
			return nil, fmt.Errorf("sstablemetadata does not say timestamps and ends of %s; is it of another version of Cassandra?", list[i].name)
		}
	}
	return list, nil
}

// auditFiles looks at all files of a table on a node.
func (st *Store) auditFiles(ctx context.Context, r *TableReport, t auditTable, s schemaOf, tools Tools) error {
	files, err := tools.Files(ctx, st.o.Keyspace, t.name)
	if err != nil {
		return fmt.Errorf("list the files of %s: %w", t.name, err)
	}
	if len(files) == 0 {
		return nil
	}
	list, err := st.metadata(ctx, t, tools, files)
	if err != nil {
		return err
	}
	now := st.o.Now()
	window := windowOf(s)
	for _, f := range list {
		r.Files++
		where := fmt.Sprintf("node %s, %s", tools.Node, path.Base(f.name))
		r.wrote(f.min)
		r.wrote(f.max)
		if f.max > now+stampSlack {
			r.add(where, fmt.Sprintf("its newest write has the timestamp %s, which is to come: no deletion reaches it before", stamp(f.max)), findWriter)
		}
		if t.bound > 0 && t.ends && now-f.min > taxonomy.Millis(t.bound)*taxonomy.OneDay {
			r.add(where, fmt.Sprintf("its oldest write has the timestamp %s; nothing may lie here for more than %d days", stamp(f.min), t.bound), findWriter)
		}
		switch {
		case !t.ends:
		case f.over == 0:
			r.add(where, "it holds a row without an end, so it stays for ever", "delete the row that the table's lines name, then run `nodetool garbagecollect` on the table")
		case window > 0 && now-f.over > taxonomy.Millis(s.grace)*taxonomy.Second+2*window+taxonomy.OneDay:
			r.add(where, fmt.Sprintf("its last row was over at %s and it is still there", stamp(f.over)), "look for what blocks it below; if nothing does, run `nodetool flush` and the weekly `nodetool garbagecollect` on the table")
		}
		if window > 0 && f.max-f.min > 3*window {
			r.add(where, fmt.Sprintf("it holds writes of %s, a window is %s: it was compacted by hand, or one row has a wrong timestamp; it goes when its newest row is over", span(f.max-f.min), span(window)),
				"never run `nodetool compact` on this table")
		}
	}
	if window == 0 {
		return nil
	}
	out, err := tools.Run(ctx, "sstableexpiredblockers", st.o.Keyspace, t.name)
	if err != nil {
		return fmt.Errorf("sstableexpiredblockers %s: %w", t.name, err)
	}
	for _, b := range readBlockers(out) {
		r.add(fmt.Sprintf("node %s, %s", tools.Node, b.file), fmt.Sprintf("it keeps %d files that are over from being dropped", b.blocks), findWriter)
	}
	return nil
}

// metadata asks for all files at once; one that compaction takes meanwhile fails
// the tool, so those that are still there are asked for again.
func (st *Store) metadata(ctx context.Context, t auditTable, tools Tools, files []string) (list []sstable, err error) {
	for range 5 {
		var out []byte
		if out, err = tools.Run(ctx, "sstablemetadata", files...); err == nil {
			if list, err = readMetadata(out); err == nil && len(list) == len(files) {
				return list, nil
			}
		}
		if err == nil {
			err = fmt.Errorf("it tells of %d of %d files", len(list), len(files))
		}
		again, e := tools.Files(ctx, st.o.Keyspace, t.name)
		if e != nil {
			return nil, e
		}
		files = again
		if len(files) == 0 {
			return nil, nil
		}
	}
	return nil, fmt.Errorf("sstablemetadata of %s: %w", t.name, err)
}

// windowOf is the length of a table's windows as it is set, 0 if it has none.
func windowOf(s schemaOf) taxonomy.Millis {
	if !strings.HasSuffix(s.options["class"], "TimeWindowCompactionStrategy") {
		return 0
	}
	n, err := strconv.Atoi(s.options["compaction_window_size"])
	if err != nil {
		n = 1
	}
	unit := map[string]taxonomy.Millis{"MINUTES": 60 * taxonomy.Second, "HOURS": taxonomy.Hour, "DAYS": taxonomy.OneDay}[s.options["compaction_window_unit"]]
	if unit == 0 {
		unit = taxonomy.OneDay
	}
	return taxonomy.Millis(n) * unit
}

func span(m taxonomy.Millis) string {
	switch {
	case m >= taxonomy.OneDay:
		return fmt.Sprintf("%.1f days", float64(m)/float64(taxonomy.OneDay))
	case m >= taxonomy.Hour:
		return fmt.Sprintf("%.1f hours", float64(m)/float64(taxonomy.Hour))
	}
	return fmt.Sprintf("%.1f minutes", float64(m)/float64(60*taxonomy.Second))
}

// blocker is a file that keeps others from being dropped.
type blocker struct {
	file   string
	blocks int
}

var blockerLine = regexp.MustCompile(`path='([^']*)'.*blocks (\d+) expired sstables`)

// readBlockers reads what sstableexpiredblockers prints: a line a blocker.
func readBlockers(out []byte) (list []blocker) {
	for line := range bytes.Lines(out) {
		if m := blockerLine.FindSubmatch(line); m != nil {
			n, _ := strconv.Atoi(string(m[2]))
			list = append(list, blocker{path.Base(string(m[1])), n})
		}
	}
	return list
}
