package cassandra

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
)

// disks are small disks of nodes, each for all that a node keeps: memory, mounted
// where nobody sees it but a shell that waits for us and the nodes that are started
// beside it. They end when the last of these does, so that nothing stays mounted
// however the test ends, and no other disk is ever filled.
type disks struct {
	t     *testing.T
	shell *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	nodes []string // their folders
}

const makeDisks = `set -e
for node; do
	cd "$node"
	mkdir -p disk
	mount -t tmpfs -o size=$(($(du -sk data commitlog hints saved_caches | awk '{n += $1} END {print n}') + 196608))k tmpfs disk
	for d in data commitlog hints saved_caches; do cp -a $d disk/; mount --bind disk/$d $d; done
done
echo mounted
read -r word
for node; do
	cd "$node"
	rm -f disk/data/ballast
	for d in data commitlog hints saved_caches; do
		for try in $(seq 300); do umount $d 2>/dev/null && break; sleep 0.2; done # a node that has ended may hold it for a moment
		rm -rf $d
		cp -a disk/$d .
	done
	umount disk
	rmdir disk
done
echo unmounted`

// onSmallDisks moves nodes of the cluster onto disks with 192 MiB to spare, and starts
// them there. At the end of the test they are moved back, with what they have.
func onSmallDisks(t *testing.T, nodes ...string) *disks {
	t.Helper()
	needThree(t)
	if out, err := exec.Command("unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt").CombinedOutput(); err != nil {
		unmet(t, fmt.Sprintf("needs to mount: run it as root on Linux (%v: %s)", err, out))
	}
	d := &disks{t: t}
	for _, n := range nodes {
		d.nodes = append(d.nodes, folder(t, n))
	}
	cass(t, append([]string{"stop"}, nodes...)...)
	d.shell = exec.Command("unshare", append([]string{"--mount", "sh", "-c", makeDisks, "sh"}, d.nodes...)...)
	d.shell.Stderr = os.Stderr
	var err error
	if d.in, err = d.shell.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := d.shell.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.out = bufio.NewReader(out)
	if err := d.shell.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, n := range nodes {
			_, _ = tryCass("stop", n) // if it runs
		}
		_, _ = io.WriteString(d.in, "back\n")
		if line, err := d.out.ReadString('\n'); line != "unmounted\n" {
			t.Errorf("the disks of nodes %v are not back: %q, %v", nodes, line, err)
		}
		_ = d.shell.Wait()
		cass(t, append([]string{"start"}, nodes...)...)
	})
	if line, err := d.out.ReadString('\n'); line != "mounted\n" {
		t.Fatalf("mount disks: %q, %v", line, err)
	}
	if out, err := d.cass(nil, append([]string{"start"}, nodes...)...); err != nil {
		t.Fatalf("start nodes %v on small disks: %v: %s", nodes, err, out)
	}
	return d
}

// cass is cassWith where the disks are.
func (d *disks) cass(settings []string, args ...string) (string, error) {
	path, err := filepath.Abs("../../deploy/cassandra/cass")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("nsenter", append([]string{"--target", strconv.Itoa(d.shell.Process.Pid), "--mount", path}, args...)...)
	cmd.Env = append(os.Environ(), settings...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (d *disks) ballast(node string) string {
	return fmt.Sprintf("/proc/%d/root%s/disk/data/ballast", d.shell.Process.Pid, node)
}

// fill leaves no byte on any of the disks.
func (d *disks) fill() {
	d.t.Helper()
	for _, n := range d.nodes {
		f, err := os.OpenFile(d.ballast(n), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			d.t.Fatal(err)
		}
		for err == nil {
			_, err = f.Write(make([]byte, 64<<10))
		}
		if e := f.Close(); !errors.Is(err, syscall.ENOSPC) || e != nil {
			d.t.Fatalf("fill %s: %v, %v", n, err, e)
		}
	}
}

// makeRoom takes away what fill put there.
func (d *disks) makeRoom() {
	d.t.Helper()
	for _, n := range d.nodes {
		if err := os.Remove(d.ballast(n)); err != nil {
			d.t.Fatal(err)
		}
	}
}

// ended waits until nodes have ended by themselves.
func ended(t *testing.T, nodes ...string) {
	t.Helper()
	for end := time.Now().Add(patience); slices.ContainsFunc(nodes, func(n string) bool { return runs(t, n) }); wait(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("of nodes %v some go on", nodes)
		}
	}
}

// D1: a node whose disk is full is dead as a whole: the JVM, which writes the commit
// log through a mapping, gets SIGBUS. The others go on. It does not start until there
// is room, and then as after a kill.
func TestLongFaultAFullDiskOfOneNodeLosesNothing(t *testing.T) {
	d := onSmallDisks(t, "3")
	st, h, end := loaded(t, 200)
	begin := time.Now()
	d.fill()
	ended(t, "3")
	t.Logf("node 3 ended %s after its disk was full", time.Since(begin).Round(100*time.Millisecond))
	h.more(t, 500, "with a node whose disk is full")
	if _, err := d.cass(nil, "start", "3"); err == nil {
		t.Error("node 3 starts on a full disk")
	}
	d.makeRoom()
	_, left := startAgain(t, d.cass, "3")
	h.more(t, 200, "after it")
	end()
	h.check(t, st)
	for _, n := range left {
		repair(t, n)
	}
	if lacks := h.missing(alone(t, "3")); lacks > 0 {
		t.Errorf("node 3 alone lacks %d events when it has what was kept for it", lacks)
	}
}

// D1: with all disks full nothing is acknowledged that is not there: the log goes on
// in this node's files and says so, and is copied when there is room, without a
// restart of Ebb.
func TestLongFaultFullDisksAreToldAndLoseNothing(t *testing.T) { // P1, R2, R3
	d := onSmallDisks(t, three...)
	st, err := Open(t.Context(), testOptions(realNow))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	empty(t, st, "visitor_events", "event_log", "log_writer")
	a, b := startNode(t, st, realNow, nil), startNode(t, st, realNow, nil)
	defer a.stop()
	defer b.stop()
	n := 0
	put := func(times int, ack retention.Ack) (quorum int) {
		for range times {
			if _, reached := appendLog(t, a.log, logEvents(n, 3), ack); reached == retention.AckQuorum {
				quorum++
			}
			n += 3
		}
		return quorum
	}
	h := newHistory()
	end := h.begin(st)
	defer end()
	h.more(t, 200, "before")
	for begin := time.Now(); put(1, retention.AckQuorum) == 0; {
		if time.Since(begin) > patience {
			t.Fatal("no append reaches quorum while there is room")
		}
	}
	d.fill()
	begin := time.Now()
	ended(t, three...)
	h.quiet(t)
	t.Logf("%s after the disks were full nothing was acknowledged for 3 s", time.Since(begin).Round(100*time.Millisecond))
	acked := h.acked()
	put(200, retention.AckLocal)
	if claimed := put(10, retention.AckQuorum); claimed > 0 {
		t.Errorf("%d of 10 appends claim quorum where nobody can write", claimed)
	}
	if got := h.acked() - acked; got > 0 {
		t.Errorf("%d events are acknowledged where nobody can write", got)
	}
	d.makeRoom()
	_, left := startAgain(t, d.cass, three...)
	h.more(t, 200, "after it")
	put(20, retention.AckLocal)
	end()
	arrives(t, b.log, n)
	for _, n := range left {
		repair(t, n)
	}
	h.check(t, st)
}

// quiet waits until nothing is acknowledged for 3 s.
func (h *history) quiet(t *testing.T) {
	t.Helper()
	end := time.Now().Add(patience)
	for last, since := h.acked(), time.Now(); time.Since(since) < 3*time.Second; wait(50 * time.Millisecond) {
		if n := h.acked(); n != last {
			last, since = n, time.Now()
		}
		if time.Now().After(end) {
			t.Fatal("events are still acknowledged")
		}
	}
}
