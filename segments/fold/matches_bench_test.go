package fold

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// BenchmarkMatches prints how much memory a match takes in the fold's state, at
// a destination that knows each visitor by an ID as long as a UUID.
func BenchmarkMatches(b *testing.B) {
	const n = 200_000
	var bytes float64
	for b.Loop() {
		was := allocated()
		m := newMatches()
		for i := range n {
			var k taxonomy.VisitorKey
			binary.BigEndian.PutUint64(k[:], uint64(i)*0x9e3779b97f4a7c15)
			m.claim(claimKey{dest: "dsp", visitor: k, id: fmt.Sprintf("%036d", i)}, taxonomy.Millis(i))
		}
		clear(m.claims.dirty) // as after a checkpoint
		bytes = float64(allocated() - was)
		runtime.KeepAlive(m)
	}
	b.ReportMetric(bytes/n, "bytes/match")
}

func allocated() uint64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}
