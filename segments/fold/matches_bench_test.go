package fold

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// benchClaim is a match of a destination that knows each visitor by an ID of 36 bytes: a
// UUID, or one that cannot be packed.
func benchClaim(i int, uuid bool) claimKey {
	var k taxonomy.VisitorKey
	binary.BigEndian.PutUint64(k[:], uint64(i)*golden)
	if uuid {
		return claimKey{dest: "dsp", visitor: k, id: fmt.Sprintf("%08x-3c4d-4e5f-8a6b-%012x", i*7919, i)}
	}
	return claimKey{dest: "dsp", visitor: k, id: fmt.Sprintf("Y-%034d", i)}
}

// BenchmarkMatches prints how much memory a match takes in the fold's state.
func BenchmarkMatches(b *testing.B) {
	n := 200_000
	if os.Getenv("EBB_BENCH") == "full" {
		n = 10_000_000
	}
	for _, uuid := range []bool{true, false} {
		b.Run(map[bool]string{true: "UUIDs", false: "others of 36 bytes"}[uuid], func(b *testing.B) {
			var bytes float64
			for b.Loop() {
				was := allocated()
				m := newMatches()
				for i := range n {
					m.claim(benchClaim(i, uuid), taxonomy.Millis(i))
				}
				m.changed = nil // as after a checkpoint
				bytes = float64(allocated() - was)
				runtime.KeepAlive(m)
			}
			b.ReportMetric(bytes/float64(n), "bytes/match")
		})
	}
}

// BenchmarkMatchesAgainstMaps prints how many times as quick matches are as maps of
// claims: read from a run when a fold is opened (R35), asked for all visitors that a
// destination knows, and for one after the other.
func BenchmarkMatchesAgainstMaps(b *testing.B) {
	n := 100_000
	if os.Getenv("EBB_BENCH") == "full" {
		n = 1_000_000
	}
	m := newMatches()
	for i := range n {
		m.claim(benchClaim(i, true), taxonomy.Millis(1_700_000_000_000+i))
	}
	run, err := openRun(drained(m))
	if err != nil {
		b.Fatal(err)
	}
	var keys, vals [][]byte
	for {
		more, err := run.next()
		if err != nil {
			b.Fatal(err)
		}
		if !more {
			break
		}
		keys, vals = append(keys, run.cur.key[1:]), append(vals, run.cur.val)
	}
	times := func(what string, theirs, ours func()) {
		took := [2]time.Duration{1 << 62, 1 << 62}
		for range 3 {
			for i, fn := range []func(){theirs, ours} {
				runtime.GC()
				start := time.Now()
				fn()
				took[i] = min(took[i], time.Since(start))
			}
		}
		b.ReportMetric(float64(took[0])/float64(took[1]), "times-"+what)
		b.ReportMetric(float64(took[1])/float64(n), "ns/"+what)
	}
	for b.Loop() {
		var naive *naiveMatches
		times("load", func() {
			naive = newNaiveMatches()
			for i := range keys {
				if err := naive.claims.load(keys[i], vals[i]); err != nil {
					b.Fatal(err)
				}
			}
			naive.reindex()
		}, func() {
			m = newMatches()
			for i := range keys {
				if err := m.load(keys[i], vals[i]); err != nil {
					b.Fatal(err)
				}
			}
		})
		var found [2]int
		times("scan", func() {
			for dv := range naive.byVisitor {
				if _, _, ok := naive.of(dv.dest, dv.visitor); ok {
					found[0]++
				}
			}
		}, func() {
			for range m.knows("dsp") {
				found[1]++
			}
		})
		if found[0] != found[1] || found[0] == 0 {
			b.Fatalf("found %d and %d", found[0], found[1])
		}
		ask := func(of func(taxonomy.DestinationID, taxonomy.VisitorKey) (string, taxonomy.Millis, bool)) func() {
			return func() {
				for i := range n {
					var k taxonomy.VisitorKey
					binary.BigEndian.PutUint64(k[:], uint64(i)*golden)
					if _, _, ok := of("dsp", k); !ok {
						b.Fatal("a match is missing")
					}
				}
			}
		}
		times("ask", ask(naive.of), ask(m.of))
	}
	b.ReportMetric(0, "ns/op")
}

func allocated() uint64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}
