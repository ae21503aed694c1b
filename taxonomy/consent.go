package taxonomy

import (
	"slices"
	"strings"
)

// Purposes is the set of things that may be done with a visitor's data.
type Purposes uint16

// The purposes. Each grants itself only: who may profile must also be allowed
// to store, and Decide sees to it.
const (
	MayStore   Purposes = 1 << iota // set and read a cookie, keep events
	MayProfile                      // build audiences from them
	MayInsight                      // count them in insights
	MayTrain                        // learn lookalikes from them
	MayExport                       // send audiences to destinations (Consent.Destinations says which)

	// MayAll is every purpose.
	MayAll = MayStore | MayProfile | MayInsight | MayTrain | MayExport
)

var purposeNames = []struct {
	p Purposes
	s string
}{{MayStore, "store"}, {MayProfile, "profile"}, {MayInsight, "insight"}, {MayTrain, "training"}, {MayExport, "export"}}

// Has reports whether all of q are in p.
func (p Purposes) Has(q Purposes) bool { return p&q == q }

func (p Purposes) String() string {
	var b []string
	for _, n := range purposeNames {
		if p.Has(n.p) {
			b = append(b, n.s)
		}
	}
	return strings.Join(b, "+")
}

// Regime is the body of law that the decision followed.
type Regime uint8

// The regimes.
const (
	RegimeUnknown  Regime = iota // unknown means strict
	RegimeOptIn                  // nothing without a yes (GDPR and its like)
	RegimeOptOut                 // allowed until a no (US states)
	RegimeContract               // asserted by a source's agreement (R13)
)

// Consent is the summary that every record of a visitor carries (R22): what the
// signals allowed on the day they were given. Decide (taxonomy/consent) makes
// it; the fold keeps the newest.
type Consent struct {
	Day      Day
	Regime   Regime
	Signal   Signal // the signal that decided
	Purposes Purposes
	// Destinations that MayExport reaches: nil means every one; else exactly
	// these, sorted. It has no meaning without MayExport.
	Destinations []DestinationID
}

// Signal names what decided a consent. The numbers stand in files.
type Signal uint8

// The signals, the strictest last among equals.
const (
	SignalNone     Signal = iota // nothing was said
	SignalMode                   // the site's mode and the visitor's country
	SignalExplicit               // the page said granted: true or false
	SignalTCF
	SignalGPP
	SignalUSP
	SignalAsserted // a source's agreement (R13)
	SignalGPC      // Sec-GPC: 1
	SignalOptOut   // the opt-out cookie
	// SignalDNT is DNT: 1, in counts of signals only: it decides as Sec-GPC does,
	// and a summary names that.
	SignalDNT
)

var signalNames = [...]string{"none", "mode", "explicit", "tcf", "gpp", "usp", "asserted", "gpc", "optout", "dnt"}

func (s Signal) String() string {
	if int(s) < len(signalNames) {
		return signalNames[s]
	}
	return "unknown"
}

// Allows reports whether the summary lets d be sent to.
func (c *Consent) Allows(d DestinationID) bool {
	if !c.Purposes.Has(MayExport) {
		return false
	}
	if c.Destinations == nil {
		return true
	}
	_, ok := slices.BinarySearch(c.Destinations, d)
	return ok
}

// Meet returns what both summaries allow. It is commutative, associative and
// idempotent, so two statements with the same receipt time give the same
// result in either order: the stricter wins (R8).
func (c Consent) Meet(o Consent) Consent {
	r := Consent{
		Day:      min(c.Day, o.Day),
		Regime:   min(c.Regime, o.Regime),
		Signal:   max(c.Signal, o.Signal),
		Purposes: c.Purposes & o.Purposes,
	}
	switch {
	case c.Destinations == nil:
		r.Destinations = o.Destinations
	case o.Destinations == nil:
		r.Destinations = c.Destinations
	default:
		r.Destinations = []DestinationID{}
		for _, d := range c.Destinations {
			if _, ok := slices.BinarySearch(o.Destinations, d); ok {
				r.Destinations = append(r.Destinations, d)
			}
		}
	}
	return r
}

// Equal reports whether both summaries say the same.
func (c Consent) Equal(o Consent) bool {
	return c.Day == o.Day && c.Regime == o.Regime && c.Signal == o.Signal && c.Purposes == o.Purposes &&
		(c.Destinations == nil) == (o.Destinations == nil) && slices.Equal(c.Destinations, o.Destinations)
}
