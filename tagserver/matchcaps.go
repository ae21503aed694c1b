package tagserver

import (
	"hash/maphash"
	"slices"
	"sync"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// MatchCaps are the most that a destination's matches may change on one UTC day.
// Zero fields take their default.
type MatchCaps struct {
	// IDsPerVisitor is how many IDs of the partner one visitor may be given. 5.
	IDsPerVisitor int
	// VisitorsPerID is to how many visitors one ID of the partner may be given. 10.
	VisitorsPerID int
	// Changes is how many pairs are learnt in all. 200,000; it also bounds memory,
	// at about 200 bytes a change.
	Changes int
}

// Defaults of MatchCaps.
const (
	DefaultIDsPerVisitor = 5
	DefaultVisitorsPerID = 10
	DefaultMatchChanges  = 200_000
)

func (c *MatchCaps) setDefaults() {
	def(&c.IDsPerVisitor, DefaultIDsPerVisitor)
	def(&c.VisitorsPerID, DefaultVisitorsPerID)
	def(&c.Changes, DefaultMatchChanges)
}

// MatchVerdict is what becomes of a pair of a visitor and a partner's ID.
type MatchVerdict string

// The verdicts. The last three are alarms: whoever can have browsers bring IDs
// can try to hang one ID on many visitors, or many on one, and so spoil a
// partner's table.
const (
	MatchNew      MatchVerdict = "new"
	MatchKnown    MatchVerdict = "known" // the newest of both already: nothing to write
	MatchIDs      MatchVerdict = "ids_per_visitor"
	MatchVisitors MatchVerdict = "visitors_per_id"
	MatchChanges  MatchVerdict = "changes_per_day"
)

// Refused reports whether a cap was met.
func (v MatchVerdict) Refused() bool { return v != MatchNew && v != MatchKnown }

// MatchAlarm says that a cap was met at a destination.
type MatchAlarm struct {
	Destination taxonomy.DestinationID
	Day         taxonomy.Day
	Cap         MatchVerdict
	Refused     uint64 // pairs, on that day
}

// matchGuard holds the caps. It remembers hashes of the pairs of the present day
// in memory: a restart, and each edge of a cluster, begins at nothing, so that a
// cap times the number of edges is the most that gets through. It is safe for
// concurrent use.
type matchGuard struct {
	seed  maphash.Seed
	mu    sync.Mutex
	day   taxonomy.Day
	dests map[taxonomy.DestinationID]*matchDay
	// alarms are of the present day and the one before.
	alarms []MatchAlarm
}

type matchDay struct {
	changes   int
	ofVisitor map[uint64][]uint64 // hashes of its IDs, the newest last
	ofID      map[uint64][]uint64 // hashes of its visitors, the newest last
}

func newMatchGuard() *matchGuard {
	return &matchGuard{seed: maphash.MakeSeed(), dests: map[taxonomy.DestinationID]*matchDay{}}
}

// take judges a pair, and remembers it if it is new.
func (g *matchGuard) take(dest taxonomy.DestinationID, caps MatchCaps, v taxonomy.VisitorKey, id string, now taxonomy.Millis) MatchVerdict {
	caps.setDefaults()
	g.mu.Lock()
	defer g.mu.Unlock()
	if today := now.Day(); today > g.day { // a clock that is set back begins no new day
		g.day = today
		clear(g.dests)
		g.alarms = slices.DeleteFunc(g.alarms, func(a MatchAlarm) bool { return a.Day < today-1 })
	}
	d := g.dests[dest]
	if d == nil {
		d = &matchDay{ofVisitor: map[uint64][]uint64{}, ofID: map[uint64][]uint64{}}
		g.dests[dest] = d
	}
	hv, hi := maphash.Bytes(g.seed, v[:]), maphash.String(g.seed, id)
	ids, visitors := d.ofVisitor[hv], d.ofID[hi]
	has := slices.Contains(ids, hi)
	verdict := MatchNew
	switch {
	case has && ids[len(ids)-1] == hi && visitors[len(visitors)-1] == hv:
		return MatchKnown
	case !has && len(ids) >= caps.IDsPerVisitor:
		verdict = MatchIDs
	case !has && len(visitors) >= caps.VisitorsPerID:
		verdict = MatchVisitors
	case d.changes >= caps.Changes:
		verdict = MatchChanges
	}
	if verdict.Refused() {
		g.alarm(dest, verdict)
		return verdict
	}
	d.changes++
	d.ofVisitor[hv] = toEnd(ids, hi)
	d.ofID[hi] = toEnd(visitors, hv)
	return MatchNew
}

// giveBack forgets a pair that take called new and that was not recorded.
func (g *matchGuard) giveBack(dest taxonomy.DestinationID, v taxonomy.VisitorKey, id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.dests[dest]
	if d == nil {
		return
	}
	hv, hi := maphash.Bytes(g.seed, v[:]), maphash.String(g.seed, id)
	d.changes = max(0, d.changes-1)
	d.ofVisitor[hv] = without(d.ofVisitor[hv], hi)
	d.ofID[hi] = without(d.ofID[hi], hv)
}

func (g *matchGuard) alarm(dest taxonomy.DestinationID, c MatchVerdict) {
	for i := range g.alarms {
		if a := &g.alarms[i]; a.Destination == dest && a.Day == g.day && a.Cap == c {
			a.Refused++
			return
		}
	}
	g.alarms = append(g.alarms, MatchAlarm{dest, g.day, c, 1})
}

func (g *matchGuard) list() []MatchAlarm {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.alarms)
}

func toEnd(list []uint64, x uint64) []uint64 { return append(without(list, x), x) }

func without(list []uint64, x uint64) []uint64 {
	return slices.DeleteFunc(list, func(y uint64) bool { return y == x })
}

// MatchAlarms returns the caps that were met at destinations today and
// yesterday (UTC), oldest first.
func (s *Server) MatchAlarms() []MatchAlarm { return s.matches.list() }

// TakeMatch judges a pair that comes by another way than a browser, such as a
// file, by the same caps.
func (s *Server) TakeMatch(dest *Destination, v taxonomy.VisitorKey, id string) MatchVerdict {
	verdict := s.matches.take(dest.ID, dest.Caps, v, id, s.o.Now())
	s.metrics.matches.WithLabelValues(string(verdict)).Inc()
	return verdict
}
