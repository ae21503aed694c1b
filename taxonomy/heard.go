package taxonomy

import (
	"cmp"
	"slices"
)

// Verdict is what a consent signal says by itself, whatever is decided in the
// end. The numbers stand in files.
type Verdict uint8

// The verdicts.
const (
	SaysNothing    Verdict = iota // no signal at all: of SignalNone only
	SaysYes                       // it lets store and profile
	SaysNo                        // it does not
	SaysUnreadable                // malformed, cut, expired, contradictory: which is taken for a no
)

var verdictNames = [...]string{"nothing said", "yes", "no", "unreadable"}

func (v Verdict) String() string {
	if int(v) < len(verdictNames) {
		return verdictNames[v]
	}
	return "unknown"
}

// Heard is how many requests to a site on one day carried a signal that said the
// same. It is an aggregate: it names no visitor, and lives 90 days. Unlike Count
// it is no term of P2, since a request is no event.
type Heard struct {
	Day     Day
	Site    SiteID // "": requests that name no site
	Signal  Signal
	Verdict Verdict
	N       uint64
}

// SortHeard orders by day, site, signal and verdict.
func SortHeard(hs []Heard) {
	slices.SortFunc(hs, func(a, b Heard) int {
		return cmp.Or(cmp.Compare(a.Day, b.Day), cmp.Compare(a.Site, b.Site), cmp.Compare(a.Signal, b.Signal), cmp.Compare(a.Verdict, b.Verdict))
	})
}
