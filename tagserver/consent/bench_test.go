package consent

import (
	"fmt"
	"testing"
	"time"

	"github.com/prebid/go-gdpr/consentconstants"
	"github.com/prebid/go-gdpr/vendorconsent"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	decide "github.com/ebb-dmp/ebb/taxonomy/consent"
)

// long is a string of 1.8 kB: 330 ranges of vendors, and those disclosed.
func long() string {
	m := good()
	core := m
	core.vendors, core.interests = nil, nil
	s := core.String()
	b := &writer{}
	for i := range 213 {
		b.num(uint64(sextet[s[i/6]]>>uint(5-i%6)&1), 1)
	}
	b.num(2000, 16).num(1, 1).num(330, 12)
	for i := range uint64(330) {
		b.num(1, 1).num(5+6*i, 16).num(7+6*i, 16)
	}
	d := &writer{}
	d.num(1, 3).vendors([]int{5, 6, 7, 8, 100})
	return b.num(0, 17+12).String() + "." + d.String()
}

var benchStrings = []struct{ name, s string }{{"short", good().String()}, {"long", long()}}

func benchReader(t testing.TB) *Reader {
	r := asVendor(t, 5, 6, 7, 8, 100)
	return r
}

// P9: what a string costs is bounded, and nothing is left for the collector.
func TestReadingAndDecidingAllocatesNothing(t *testing.T) {
	r := benchReader(t)
	statements, why := make([]decide.Statement, 0, 6), make([]decide.Reason, 0, 6)
	in := func(s tagserver.Strings) func() {
		return func() {
			decide.DecideWith(why[:0], decide.Signals{Mode: taxonomy.ModeOptIn, Day: now, Statements: r.Read(statements, s, now)})
		}
	}
	for _, b := range benchStrings {
		for name, s := range map[string]tagserver.Strings{"TCF": {TCF: b.s}, "GPP": {GPP: "DBABMA~" + b.s, GPPSID: "2"}, "all": {TCF: b.s, GPP: "DBABLA~CAAqAAAAAACA.QA", GPPSID: "7", USP: "1YNN"}} {
			if d := decide.Decide(decide.Signals{Day: now, Statements: r.Read(nil, s, now)}); !d.Store() {
				t.Errorf("%s %s, %d bytes: %+v", b.name, name, len(b.s), d.Reasons)
			}
			if n := testing.AllocsPerRun(100, in(s)); n != 0 {
				t.Errorf("%s %s: %v allocations", b.name, name, n)
			}
		}
	}
	for _, v := range vectors {
		if n := testing.AllocsPerRun(10, in(tagserver.Strings{TCF: v.s})); n != 0 {
			t.Errorf("%s: %v allocations", v.name, n)
		}
	}
}

// peer reads a string with go-gdpr as a server would: the same questions, as far
// as it can answer them.
func peer(s string) (ok bool, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	c, err := vendorconsent.ParseString(s)
	if err != nil {
		return false, err
	}
	for _, p := range []int{1, 3, 4, 9, 10} {
		ok = c.PurposeAllowed(consentconstants.Purpose(p))
	}
	for _, v := range []uint16{5, 6, 7, 8, 100} {
		ok = c.VendorConsent(v) && ok
	}
	return ok, nil
}

// best is what one call takes in the best of many short turns, taken by turns so
// that other work of the machine meets both alike.
func best(a, b func()) (ofA, ofB time.Duration) {
	ofA, ofB = time.Hour, time.Hour
	turn := func(f func(), least *time.Duration) {
		const calls = 200
		begin := time.Now()
		for range calls {
			f()
		}
		*least = min(*least, time.Since(begin)/calls)
	}
	for range 300 {
		turn(a, &ofA)
		turn(b, &ofB)
	}
	return ofA, ofB
}

// BenchmarkRead reads and decides, and prints what go-gdpr takes for the same
// string, as a ratio: over 1, we are the faster. That reads the core only and
// decides nothing, so reading alone, segments included, has a ratio of its own.
func BenchmarkRead(b *testing.B) {
	r := benchReader(b)
	for _, x := range benchStrings {
		b.Run(fmt.Sprintf("%s-%dB", x.name, len(x.s)), func(b *testing.B) {
			statements, why := make([]decide.Statement, 0, 6), make([]decide.Reason, 0, 6)
			if _, err := peer(x.s); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			us := func() {
				decide.DecideWith(why[:0], decide.Signals{Mode: taxonomy.ModeOptIn, Day: now, Statements: r.Read(statements, tagserver.Strings{TCF: x.s}, now)})
			}
			for b.Loop() {
				us()
			}
			b.StopTimer()
			ours, theirs := best(us, func() { _, _ = peer(x.s) })
			b.ReportMetric(float64(theirs)/float64(ours), "times-as-fast-as-go-gdpr")
			b.ReportMetric(float64(ours), "best-ns/op")
			reading, theirs := best(func() { r.Read(statements, tagserver.Strings{TCF: x.s}, now) }, func() { _, _ = peer(x.s) })
			b.ReportMetric(float64(theirs)/float64(reading), "reading-alone-times-as-fast")
			b.ReportMetric(testing.AllocsPerRun(10, func() { _, _ = peer(x.s) }), "go-gdpr-allocs/op")
		})
	}
}
