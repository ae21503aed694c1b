package consenttest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// What signals said is counted by site and day, outlives a restart and a second
// one over the same log, and is over after 90 days. DNT has its own line.
func TestWhatSignalsSaidOutlivesARestartForNinetyDays(t *testing.T) {
	w := asVendor(t, vendorList(t, ours(5), dsp(7), dsp(8)))
	for range 3 {
		w.visitor().buys("tea", tcf(everyone))
	}
	w.visitor().buys("tea", tcf(withoutThree))
	w.visitor().buys("tea", tcf("CPXx"))
	gpc, dnt := w.visitor(), w.visitor()
	gpc.header.Set("Sec-GPC", "1")
	gpc.buys("tea", tcf(everyone))
	dnt.header.Set("DNT", "1")
	dnt.buys("tea", `{"granted":true}`)
	dnt.cookies["__Host-ebbo"] = "1" // an opt-out: of this request nothing else is counted
	dnt.buys("tea", `{"granted":true}`)
	says := func(days int) string {
		t.Helper()
		if err := w.server.Fold(ctx); err != nil {
			t.Fatal(err)
		}
		s, err := w.server.Signals("shop", days)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, l := range s.Lines {
			fmt.Fprintf(&b, "%s %s %d, ", l.Signal, l.Verdict, l.N)
		}
		return b.String()
	}
	const want = "explicit yes 1, tcf yes 4, tcf no 1, tcf unreadable 1, gpc no 1, optout no 1, dnt no 1, "
	for range 2 {
		w.again(nil)
		if got := says(1); got != want {
			t.Fatalf("after a restart: %s, want %s", got, want)
		}
	}
	w.later(89 * 24 * time.Hour)
	if got := says(taxonomy.RetentionDays); got != want {
		t.Errorf("on the 90th day: %s", got)
	}
	w.later(24 * time.Hour)
	if got := says(taxonomy.RetentionDays); got != "" {
		t.Errorf("after 90 days: %s", got)
	}
	if _, err := w.server.Signals("nowhere", 1); err == nil {
		t.Error("a site that is not there has signals")
	}
}
