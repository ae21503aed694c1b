package consent

import (
	"testing"

	"pgregory.net/rapid"
)

// The short way through a string says of a purpose what the long way says, or
// nothing: over every vector and what a letter makes of it, for each vendor.
func TestTheShortWayAgreesWithTheLong(t *testing.T) {
	r := asVendor(t, 5, 12, 1111)
	short, long := 0, 0
	look := func(s string) {
		var p tcf
		if p.parse(s, r.asked, nil, now) != nil {
			return
		}
		for i := range r.asked {
			v := r.listed[i]
			may := p.plainly(i, v)
			for n := 1; n <= lastPurpose; n++ {
				g := p.vendor(n, i, v, now, false)
				if may.has(n) && g != grounded {
					t.Fatalf("%s: purpose %d of vendor %d is %s", s, n, r.asked[i], groundWords[g])
				}
				if g == grounded {
					long++
					if may.has(n) {
						short++
					}
				}
			}
		}
		p.release()
	}
	for _, v := range vectors {
		look(v.s)
	}
	if short == 0 || short > long {
		t.Errorf("%d of %d grounds by the short way", short, long)
	}
	rapid.Check(t, func(t *rapid.T) { look(anyText.Draw(t, "string")) })
}

// A table of restrictions that was used serves the next string without a trace.
func TestATableOfRestrictionsIsGivenBackEmpty(t *testing.T) {
	r := asVendor(t, 5, 12, 1111)
	for range 50 {
		for _, v := range vectors {
			var p tcf
			_ = p.parse(v.s, r.asked, nil, now)
			p.release()
		}
		if x := tables.Get().(*restricted); *x != (restricted{}) {
			t.Fatal("not empty")
		} else {
			tables.Put(x)
		}
	}
	if nobody != (restricted{}) {
		t.Error("who is restricted by nothing was changed")
	}
}
