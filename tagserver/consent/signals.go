package consent

import (
	"cmp"
	"slices"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Signals is what the consent signals of requests said on the days From to To:
// of all requests, or of those to a site. A request counts once for each signal
// that it carried. Counts are exact; who shows them to people keeps to the floor.
type Signals struct {
	AsOf     taxonomy.Millis
	From, To taxonomy.Day
	Lines    []SignalLine // by signal, and within one the most frequent verdict first
}

// SignalLine is how often a signal said one thing.
type SignalLine struct {
	Signal  taxonomy.Signal
	Verdict taxonomy.Verdict
	N       uint64
	Days    []uint64 // of each day from From to To
}

// SumSignals adds up counts of the last days, at most 90, today included; of nil
// all sites, and the requests that name none.
func SumSignals(heard []taxonomy.Heard, site *taxonomy.SiteID, asOf taxonomy.Millis, days int) Signals {
	to := asOf.Day()
	s := Signals{AsOf: asOf, From: to - taxonomy.Day(min(max(days, 1), taxonomy.RetentionDays)-1), To: to, Lines: []SignalLine{}}
	for _, h := range heard {
		if h.Day < s.From || h.Day > to || site != nil && h.Site != *site {
			continue
		}
		i := slices.IndexFunc(s.Lines, func(l SignalLine) bool { return l.Signal == h.Signal && l.Verdict == h.Verdict })
		if i < 0 {
			i = len(s.Lines)
			s.Lines = append(s.Lines, SignalLine{Signal: h.Signal, Verdict: h.Verdict, Days: make([]uint64, to-s.From+1)})
		}
		s.Lines[i].N += h.N
		s.Lines[i].Days[h.Day-s.From] += h.N
	}
	slices.SortFunc(s.Lines, func(a, b SignalLine) int {
		return cmp.Or(cmp.Compare(a.Signal, b.Signal), cmp.Compare(b.N, a.N), cmp.Compare(a.Verdict, b.Verdict))
	})
	return s
}
