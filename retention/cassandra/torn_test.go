package cassandra

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// statusLine is what cass says of a node.
func statusLine(t *testing.T, node string) string {
	t.Helper()
	for line := range strings.Lines(cass(t, "status")) {
		if strings.HasPrefix(line, "node "+node+": ") {
			return line
		}
	}
	t.Fatalf("there is no node %s", node)
	return ""
}

func runs(t *testing.T, node string) bool {
	t.Helper()
	return !strings.Contains(statusLine(t, node), ", stopped, ")
}

// folder is where a node of the cluster lives on this machine.
func folder(t *testing.T, node string) string {
	t.Helper()
	f := strings.Fields(statusLine(t, node))
	return f[len(f)-1]
}

// messages is what a node has logged since its last start.
func messages(t *testing.T, node string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(folder(t, node), "logs", "system.log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// segment is the newest file of a dead node's commit log that has rows, as far as it
// is written: files are made ahead, whole and of zeros.
func segment(t *testing.T, node string) (file string, written []byte) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder(t, node), "commitlog", "CommitLog-*.log"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	for _, file := range slices.Backward(files) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if b = bytes.TrimRight(b, "\x00"); len(b) > 4<<10 {
			return file, b
		}
	}
	t.Fatalf("the commit log of node %s has no rows: %v", node, files)
	return "", nil
}

// sections are where the sections of a segment begin, one for each sync: with the
// place of the next one and a checksum of that, then rows.
func sections(written []byte) (list []int) {
	const header = 20
	for at := header; at+8 <= len(written); {
		list = append(list, at)
		next := int(binary.BigEndian.Uint32(written[at:]))
		if next <= at {
			break
		}
		at = next
	}
	return list
}

// garble puts other bytes into a file, as a disk does that fails.
func garble(t *testing.T, file string, at, n int) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(bytes.Repeat([]byte{0xa5}, n), int64(at))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

const (
	// refuses says a node that does not start on its commit log, and leftOut one that
	// did not read all of it: because it was told to, or by itself.
	refuses = "Exiting due to error while processing commit log during initialization"
	leftOut = "Ignoring commit log replay error"
)

// startAgain starts nodes that died, as the README tells an operator: those that
// refuse their commit log once more, told to leave out what they cannot read. It
// returns them, and those that left something out, which want a repair.
func startAgain(t *testing.T, cass func(settings []string, args ...string) (string, error), nodes ...string) (refused, left []string) {
	t.Helper()
	out, err := cass(nil, append([]string{"start"}, nodes...)...)
	if err != nil {
		for _, n := range nodes {
			if !runs(t, n) {
				refused = append(refused, n)
			}
			if !runs(t, n) && !strings.Contains(messages(t, n), refuses) {
				t.Fatalf("node %s does not start: %s", n, out)
			}
		}
		if len(refused) == 0 {
			t.Fatalf("start nodes %v: %v: %s", nodes, err, out)
		}
		settings := []string{"CASS_JVM_EXTRA=" + os.Getenv("CASS_JVM_EXTRA") + " -Dcassandra.commitlog.ignorereplayerrors=true"}
		if out, err := cass(settings, append([]string{"start"}, refused...)...); err != nil {
			t.Fatalf("start nodes %v without what they cannot read: %v: %s", refused, err, out)
		}
	}
	for _, n := range nodes {
		if strings.Contains(messages(t, n), leftOut) {
			left = append(left, n)
		}
	}
	t.Logf("nodes %v start again; %v refused their commit log, %v left something of it out", nodes, refused, left)
	return refused, left
}

// K3: a node that was killed finds its commit log damaged. If the end is gone, as
// after a power cut, or rows are garbled, it starts with an ERROR in its log and
// without the rest of that section; if the head of one is garbled, it refuses, and
// starts when it is told to leave out what it cannot read. Each way it lacks rows that
// it had acknowledged, and gets them by a repair. Who reads at LOCAL_QUORUM misses
// nothing of what the other two have; and where all were killed at once, so that the
// last rows may be with one alone, nothing after the repair.
func TestLongFaultATornCommitLogLosesNothing(t *testing.T) {
	const kib = 1 << 10
	cut := func(t *testing.T, file string, written []byte) { // of what was synced, and so may be acknowledged
		list := sections(written)
		if err := os.Truncate(file, int64(list[len(list)-1]-kib)); err != nil {
			t.Fatal(err)
		}
	}
	// The last quarter is of this load.
	rows := func(t *testing.T, file string, written []byte) { // of the longest section, from its first on
		list := sections(written)
		at, size := 0, 0
		for i := len(list) * 3 / 4; i < len(list)-1; i++ {
			if n := list[i+1] - list[i] - 8; n > size {
				at, size = list[i]+8, n
			}
		}
		garble(t, file, at, min(kib, size))
	}
	head := func(t *testing.T, file string, written []byte) {
		list := sections(written)
		garble(t, file, list[len(list)*3/4], kib)
	}
	for _, c := range []struct {
		name   string
		killed []string
		damage func(t *testing.T, file string, written []byte)
		starts bool
	}{
		{"one node, the end is gone", []string{"3"}, cut, true},
		{"one node, rows are garbled", []string{"3"}, rows, true},
		{"one node, a head is garbled", []string{"3"}, head, false},
		{"all nodes, the end of one is gone", []string{"1", "2", "3"}, cut, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			needThree(t)
			st, h, end := loaded(t, 1000)
			cass(t, append([]string{"kill"}, c.killed...)...)
			file, written := segment(t, "3")
			c.damage(t, file, written)
			refused, left := startAgain(t, cassWith, c.killed...)
			if c.starts == slices.Contains(refused, "3") {
				t.Errorf("nodes %v refuse their commit log", refused)
			}
			if !slices.Contains(left, "3") {
				t.Error("node 3 does not say that it left something out")
			}
			h.more(t, 200, "after it")
			end()
			lacks := h.missing(alone(t, "3"))
			t.Logf("of a commit log of %d KiB in %d sections 1 KiB is damaged: node 3 alone lacks %d of %d events",
				len(written)/kib, len(sections(written)), lacks, h.acked())
			if lacks == 0 {
				t.Error("node 3 alone lacks nothing, so nothing was damaged")
			}
			if len(c.killed) == 1 {
				h.check(t, st)
			} else {
				there, err := stored(t.Context(), st)
				t.Logf("before a repair a reader at LOCAL_QUORUM misses %d events, %v", h.missing(there), err)
			}
			repair(t, "3")
			if lacks := h.missing(alone(t, "3")); lacks > 0 {
				t.Errorf("after a repair node 3 alone lacks %d events", lacks)
			}
			h.check(t, st)
		})
	}
}
