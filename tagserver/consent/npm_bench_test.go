package consent

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	decide "github.com/ebb-dmp/ebb/taxonomy/consent"
)

// timed decodes a string many times and prints the nanoseconds of one, after as
// many to warm up: the same questions as peer's.
const timed = `
const { TCString } = require('@iabtechlabtcf/core');
const s = process.argv[1], n = +process.argv[2];
let ok = 0;
const run = () => { for (let i = 0; i < n; i++) { const m = TCString.decode(s); for (const p of [1, 3, 4, 9, 10]) ok += m.purposeConsents.has(p); for (const v of [5, 6, 7, 8, 100]) ok += m.vendorConsents.has(v); } };
run();
const begin = process.hrtime.bigint();
run();
console.log(String((process.hrtime.bigint() - begin) / BigInt(n)));
`

// BenchmarkReadBesideNPM reads and decides, and prints what the IAB's own decoder
// takes in Node.js for the same string, as a ratio. deploy/test fetches it.
func BenchmarkReadBesideNPM(b *testing.B) {
	dir, err := filepath.Abs("../../.cache/cmp")
	if err != nil {
		b.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules/@iabtechlabtcf/core")); err != nil {
		b.Skip("no @iabtechlabtcf/core here; `deploy/test tools` fetches it")
	}
	r := benchReader(b)
	for _, x := range benchStrings {
		b.Run(fmt.Sprintf("%s-%dB", x.name, len(x.s)), func(b *testing.B) {
			statements, why := make([]decide.Statement, 0, 6), make([]decide.Reason, 0, 6)
			b.ReportAllocs()
			for b.Loop() {
				decide.DecideWith(why[:0], decide.Signals{Mode: taxonomy.ModeOptIn, Day: now, Statements: r.Read(statements, tagserver.Strings{TCF: x.s}, now)})
			}
			ours := b.Elapsed() / time.Duration(b.N)
			b.StopTimer()
			cmd := exec.Command("node", "-e", timed, x.s, "2000")
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			if err != nil {
				b.Fatalf("node: %v\n%s", err, out)
			}
			theirs, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(theirs/float64(ours), "times-as-fast-as-npm")
		})
	}
}
