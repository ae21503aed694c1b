package fold

import (
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Consents calls fn with each distinct consent summary of the view and how many
// visitors have it as their newest: of all visitors that are not gone, or of a
// set of them. It is for questions such as who would be lost without a purpose.
// fn must not change the summary.
func (v *View) Consents(of index.Set, fn func(c *taxonomy.Consent, n uint64)) {
	for i := range v.shards {
		s := &v.shards[i]
		if s.of == nil {
			continue
		}
		counts := make([]uint64, len(s.of.consents))
		add := func(o uint32) {
			if x := s.visitors.at(o); !x.key.IsZero() && !s.gone.Contains(o) {
				counts[x.consent]++
			}
		}
		switch {
		case of == nil:
			for o := uint32(0); o < s.visitors.n; o++ {
				add(o)
			}
		case i < len(of) && of[i] != nil:
			for it := of[i].Iterator(); it.HasNext(); {
				if o := it.Next(); o < s.visitors.n {
					add(o)
				}
			}
		}
		for c, n := range counts {
			if n > 0 {
				fn(&s.of.consents[c], n)
			}
		}
	}
}
