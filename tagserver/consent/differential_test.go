package consent

import (
	"bufio"
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/gziptest"
)

// 100,000 strings of the IAB's own encoders, and what follows from what its
// decoders find in them, decided in JavaScript: testdata/generate.mjs.
func TestTheIABsOwnDecodersAgree(t *testing.T) {
	cases := gziptest.File(t, os.DirFS("testdata"), "differential.gz")
	r := mustReader(t, Options{
		Role: AsVendor, Vendor: 5,
		List: listOf(&Vendor{ID: 5, consent: purposesOf(1, 3, 4, 9), interest: purposesOf(10), flexible: purposesOf(9, 10)},
			&Vendor{ID: 7, consent: purposesOf(1, 4)}, &Vendor{ID: 3, consent: purposesOf(1)}),
		Destinations: []Destination{{ID: "seven", Vendor: 7}, {ID: "three", Vendor: 3}},
	})
	order := []taxonomy.Purposes{taxonomy.MayStore, taxonomy.MayProfile, taxonomy.MayExport, taxonomy.MayInsight, taxonomy.MayTrain}
	n, counts, faults := 0, map[string]int{}, 0
	for lines := bufio.NewScanner(bytes.NewReader(cases)); lines.Scan(); n++ {
		w := strings.Split(lines.Text(), " ")
		if len(w) != 3 {
			t.Fatalf("line %d: %q", n+1, lines.Text())
		}
		kind, s, want := w[0], w[1], w[2]
		got := ""
		if kind == "G" {
			var sid sids
			st, _ := r.readGPP(nil, s, &sid, now)
			switch {
			case len(st) != 1 || st[0].Stale:
				got = "unread"
			case st[0].Purposes == 0:
				got = "1"
			default:
				got = "0"
			}
		} else if st := r.readTCF(taxonomy.SignalTCF, s, now); st.Stale {
			got = "-"
		} else {
			bit := map[bool]string{true: "1", false: "0"}
			for _, p := range order {
				got += bit[st.Purposes.Has(p)]
			}
			for _, d := range []taxonomy.DestinationID{"seven", "three"} {
				c := taxonomy.Consent{Purposes: st.Purposes, Destinations: st.Destinations}
				got += bit[c.Allows(d)]
			}
		}
		counts[kind+" "+want]++
		same := got == want
		if kind == "M" { // spoilt: we may refuse what they repair, never the reverse
			same = true
			if want == "-" && (unknownSegment(s) || s == undefinedRestriction) {
				continue // what we pass over or take for "not allowed", and they refuse
			}
			for i := range got {
				same = same && (got[i] != '1' || want != "-" && want[i] == '1')
			}
		}
		if !same {
			if faults++; faults < 20 {
				t.Errorf("line %d: %s %s: we say %s, the IAB's decoder %s", n+1, kind, s, got, want)
			}
		}
	}
	if n != 100_000 || faults > 0 || counts["G 0"] < 1000 || counts["G 1"] < 1000 || counts["T -"] < 1000 || counts["T 1111110"] < 1000 {
		t.Errorf("%d strings, %d differ, %v", n, faults, counts)
	}
}

// unknownSegment reports whether a segment is of a kind that the TCF does not
// define.
func unknownSegment(s string) bool {
	for _, seg := range strings.Split(s, ".")[1:] {
		if seg != "" && sextet[seg[0]]>>3 > 3 {
			return true
		}
	}
	return false
}

// undefinedRestriction is the one spoilt string that became a restriction of the
// kind 3, which has no meaning: we take it for "not allowed".
const undefinedRestriction = "CQU5x4AQU5x4AAHABBENCWFgAH_gAAPgAAYgADioADioARIAEAAUAA4-ACAAUAAA.IADioAAA.dhgAAAAAAAAA"
