package consent

import (
	"cmp"
	"slices"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// exportDays is how many days a summary lets a visitor be sent (R31).
const exportDays = 30

// Permits is what visitors allow, by their newest summaries. Counts are exact;
// who shows them to people keeps to the floor.
type Permits struct {
	AsOf     taxonomy.Millis
	Visitors uint64
	// Who lets what be done. Export counts those whom at least one destination may
	// get, now: their summary is not older than 30 days.
	Profile, Insight, Training, Export uint64
	Destinations                       []DestinationPermit // by ID
	Signals                            []SignalPermit      // by what decided, the most frequent first
	Without                            []Without           // by number of the TCF purpose
}

// DestinationPermit is how many visitors a destination may get.
type DestinationPermit struct {
	Destination taxonomy.DestinationID
	Allowed     uint64
}

// SignalPermit is how many visitors were decided by a signal, and of those how
// many are profiled.
type SignalPermit struct {
	Signal            taxonomy.Signal
	Visitors, Profile uint64
}

// Without is what would be lost if nobody agreed to a purpose.
type Without struct {
	Purpose int    // of the TCF
	Name    string // what it lets Ebb do
	Lost    uint64 // visitors
	From    string // what they would be lost to
}

// Tally counts summaries.
type Tally struct {
	p   Permits
	day taxonomy.Day
	by  [256]SignalPermit
}

// NewTally begins a tally as of a moment, for these destinations.
func NewTally(asOf taxonomy.Millis, destinations []taxonomy.DestinationID) *Tally {
	t := &Tally{p: Permits{AsOf: asOf, Destinations: []DestinationPermit{}, Signals: []SignalPermit{}}, day: asOf.Day()}
	for _, d := range destinations {
		t.p.Destinations = append(t.p.Destinations, DestinationPermit{Destination: d})
	}
	return t
}

// Add counts n visitors with a summary.
func (t *Tally) Add(c *taxonomy.Consent, n uint64) {
	p, by := &t.p, &t.by[c.Signal]
	p.Visitors += n
	by.Signal, by.Visitors = c.Signal, by.Visitors+n
	if !c.Purposes.Has(taxonomy.MayStore | taxonomy.MayProfile) {
		return
	}
	p.Profile += n
	by.Profile += n
	if c.Purposes.Has(taxonomy.MayInsight) {
		p.Insight += n
	}
	if c.Purposes.Has(taxonomy.MayTrain) {
		p.Training += n
	}
	if c.Day+exportDays <= t.day {
		return
	}
	reached := false
	for i := range p.Destinations {
		if d := &p.Destinations[i]; c.Allows(d.Destination) {
			d.Allowed += n
			reached = true
		}
	}
	if reached {
		p.Export += n
	}
}

// Permits returns what was counted.
func (t *Tally) Permits() Permits {
	p := t.p
	for _, by := range t.by {
		if by.Visitors > 0 {
			p.Signals = append(p.Signals, by)
		}
	}
	slices.SortStableFunc(p.Signals, func(a, b SignalPermit) int { return cmp.Compare(b.Visitors, a.Visitors) })
	p.Without = []Without{
		{1, "store and read a cookie", p.Profile, "audiences"},
		{3, "build audiences", p.Profile, "audiences"},
		{4, "send audiences to destinations", p.Export, "destinations"},
		{9, "count in the reach of categories", p.Insight, "insights"},
		{10, "learn lookalikes", p.Training, "training"},
	}
	return p
}
