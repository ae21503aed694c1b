package log

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

func diskOptions(dir string) Options {
	o := Options{FS: vfs.Default, Dir: dir, Now: func() taxonomy.Millis { return taxonomy.MillisOf(time.Now()) }, After: time.After, SegmentBytes: 64 << 10}
	_, _ = rand.Read(o.Writer[:])
	return o
}

// killed is the child: it appends from several goroutines until it is killed,
// and prints each batch once it is acknowledged.
func killed(dir string) {
	l, err := Open(diskOptions(dir))
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	lines := make(chan string)
	for k := range 8 {
		go func() {
			for i := 0; ; i++ {
				n := 1 + i%5
				at := k*10_000_000 + i*10
				ref, _, err := l.Append(ctx, 0, events(at, n), retention.AckLocal)
				if err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				lines <- fmt.Sprintf("%s %d %d %d", ref.Writer, ref.Seq, at, n)
			}
		}()
	}
	for line := range lines {
		fmt.Println(line) // one write each: what is printed was acknowledged
	}
}

// F1: kill −9 at random moments. Every acknowledged record is there, once, and
// nothing half-written is. EBB_TEST_KILLS=n kills n times.
func TestKilledProcessLosesNothing(t *testing.T) {
	kills := 3
	if s := os.Getenv("EBB_TEST_KILLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		kills = n
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	want := map[taxonomy.Ref]taxonomy.Record{}
	for k := range kills {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), "EBB_LOG_KILLED="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		after := 1 + mrand.IntN(400)
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if n == after {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			// What stands in the pipe after the kill was acknowledged too.
			f := strings.Fields(lines.Text())
			if len(f) != 4 {
				if n > after {
					break // cut by the kill
				}
				t.Fatalf("the child says %q", lines.Text())
			}
			w, err := taxonomy.ParseWriterID(f[0])
			seq, err2 := strconv.ParseUint(f[1], 10, 64)
			at, err3 := strconv.Atoi(f[2])
			count, err4 := strconv.Atoi(f[3])
			if err := errors.Join(err, err2, err3, err4); err != nil {
				if n > after {
					break
				}
				t.Fatal(err)
			}
			add(want, taxonomy.Ref{Writer: w, Seq: seq}, events(at, count))
		}
		_ = cmd.Wait()

		l := mustOpen(t, diskOptions(dir))
		got := records(follow(t, l, nil, 1<<20))
		for ref, r := range want {
			g, ok := got[ref]
			if !ok {
				t.Fatalf("kill %d: acknowledged record %v is lost (of %d, %d found)", k, ref, len(want), len(got))
			}
			if !r.Consent.Equal(g.Consent) || r.Visitor != g.Visitor || r.Event.Name != g.Event.Name {
				t.Fatalf("kill %d: record %v is another one", k, ref)
			}
		}
		seen := map[taxonomy.VisitorKey]taxonomy.WriterID{}
		for ref, g := range got {
			if w, twice := seen[g.Visitor]; twice && w == ref.Writer {
				t.Fatalf("kill %d: a record is there twice", k)
			}
			seen[g.Visitor] = ref.Writer
		}
		for _, p := range l.Problems() {
			if !p.Torn {
				t.Fatalf("kill %d: %+v", k, p)
			}
		}
		mustClose(t, l)
	}
	t.Logf("%d kills, %d acknowledged records", kills, len(want))
}
