package tagserver

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/consent"
)

// Sighting is what became of one request of a site, for whoever looks at the
// site live. It holds no visitor, cookie, address or agent, and of a request
// without consent no event: only what was decided and how many events that cost.
type Sighting struct {
	At     taxonomy.Millis
	Route  string // of the table: "/v1/e", "/v1/n/:site"
	Test   bool   // from the console's test page
	Cookie string // none, new, returning, renewed, taken away
	// Signals are everything that spoke about consent, the page's own answer
	// included.
	Signals []SignalSeen
	May     taxonomy.Purposes // what was allowed
	// Reasons of the decision, the one that decided first.
	Reasons []consent.Reason
	// Refused, if the request was refused as a whole, says why.
	Refused *Refusal
	N       int         // events that it carried
	Events  []EventSeen // the first of them
}

// SignalSeen is who spoke, and what was understood.
type SignalSeen struct {
	Signal taxonomy.Signal
	// Verdict: yes, no, not asked (a sound string that nobody put us into),
	// unreadable.
	Verdict string
}

// EventSeen is what became of one event.
type EventSeen struct {
	// Outcome: stored, duplicate, rejected, dropped.
	Outcome string
	Refusal Refusal // if it was refused; At is not set
	// Event as it was kept, without ID, its texts cut; zero if it was refused.
	Event taxonomy.Event
}

// The bounds of what is remembered, in memory only.
const (
	sightingsPerSite = 64
	sightingBytes    = 256 << 10 // of a site's texts
	sightingSites    = 1024
	sightingAge      = 10 * taxonomy.Minute
	sightingGap      = taxonomy.Millis(100) // between two of a site, in the long run
	sightingBurst    = 20 * sightingGap     // what a quiet site has saved up
	eventsSeen       = 8                    // of a request
	cutText          = 128                  // bytes of a value
	cutAddress       = 512
)

// sightings remembers the last requests of each site for ten minutes, and of a
// site with many ten a second: what it costs does not grow with traffic.
type sightings struct {
	mu    sync.Mutex
	sites map[taxonomy.SiteID]*sightingRing
}

type sightingRing struct {
	last  taxonomy.Millis
	saved taxonomy.Millis // gaps that were not used
	bytes int
	all   []Sighting // oldest first
	sizes []int
}

// due reports whether a site's next request is to be remembered, and counts on
// it. Requests that were refused as a whole and those of the test page always
// are: they are what one looks for.
func (s *sightings) due(site taxonomy.SiteID, now taxonomy.Millis, always bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.sites[site]
	if r == nil {
		if s.sites == nil {
			s.sites = make(map[taxonomy.SiteID]*sightingRing)
		}
		if len(s.sites) >= sightingSites {
			s.forget()
		}
		r = &sightingRing{last: now, saved: sightingBurst}
		s.sites[site] = r
	}
	if now > r.last {
		r.saved, r.last = min(r.saved+now-r.last, sightingBurst), now
	}
	if r.saved < sightingGap {
		return always
	}
	r.saved -= sightingGap
	return true
}

// forget drops the site that was quiet for longest.
func (s *sightings) forget() {
	var oldest taxonomy.SiteID
	first := true
	for id, r := range s.sites {
		if first || r.last < s.sites[oldest].last {
			oldest, first = id, false
		}
	}
	delete(s.sites, oldest)
}

func (s *sightings) add(site taxonomy.SiteID, x Sighting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.sites[site]
	if r == nil {
		return // forgotten in between
	}
	n := x.size()
	r.all, r.sizes, r.bytes = append(r.all, x), append(r.sizes, n), r.bytes+n
	drop := 0
	for drop < len(r.all)-1 && (len(r.all)-drop > sightingsPerSite || r.bytes > sightingBytes || r.all[drop].At < x.At-sightingAge) {
		r.bytes -= r.sizes[drop]
		drop++
	}
	r.all, r.sizes = slices.Delete(r.all, 0, drop), slices.Delete(r.sizes, 0, drop)
}

// list returns a site's, newest first.
func (s *sightings) list(site taxonomy.SiteID, now taxonomy.Millis) []Sighting {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.sites[site]
	if r == nil {
		return nil
	}
	out := make([]Sighting, 0, len(r.all))
	for _, x := range slices.Backward(r.all) {
		if x.At >= now-sightingAge {
			out = append(out, x)
		}
	}
	return out
}

func (x *Sighting) size() int {
	n := 256 + 64*len(x.Signals) + 128*len(x.Reasons)
	for i := range x.Events {
		e := &x.Events[i]
		n += 128 + len(e.Event.Name) + len(e.Event.URL) + len(e.Event.Ref) + len(e.Refusal.Where) + len(e.Refusal.Why) + len(e.Refusal.Sample)
		for _, p := range e.Event.Props {
			n += 48 + len(p.Key) + len(p.Value)
		}
	}
	return n
}

// see remembers a request that was decided. Texts of a batch share memory with
// its body, which is used again, so all that is kept is copied.
func (s *Server) see(w *work, hd *head, c *wireConsent, route string, n int) *Sighting {
	v := &w.visit
	if !s.seen.due(w.site.ID, v.now, w.test) {
		return nil
	}
	x := &Sighting{At: v.now, Route: route, Test: w.test, N: n, May: v.decision.Consent.Purposes, Cookie: "none"}
	switch {
	case v.decision.Expire && v.n > 0:
		x.Cookie = "taken away"
	case v.returning && slices.ContainsFunc(v.records, func(r taxonomy.Record) bool { return r.Kind == taxonomy.RecordSucceeds }):
		x.Cookie = "renewed"
	case v.returning:
		x.Cookie = "returning"
	case v.known:
		x.Cookie = "new"
	}
	for _, r := range v.decision.Reasons {
		r.Code, r.Why, r.Mend = strings.Clone(r.Code), strings.Clone(r.Why), strings.Clone(r.Mend)
		x.Reasons = append(x.Reasons, r)
	}
	// Read once more rather than kept by every request for the few that are seen.
	cookies := readCookies(hd.cookies, v.mode, v.ring, v.now.Day())
	x.Signals = signalsSeen(s.signals(new(visit), hd, c, &cookies, &w.site, v.now.Day()))
	return x
}

func signalsSeen(sig consent.Signals) (seen []SignalSeen) {
	verdicts(&sig, func(s taxonomy.Signal, v taxonomy.Verdict) { seen = append(seen, SignalSeen{s, v.String()}) })
	return seen
}

// seeBatch remembers a batch whose statements are in the log.
func (s *Server) seeBatch(w *work, hd *head, refusals []refusal) {
	x := s.see(w, hd, &w.batch.Consent, "/v1/e", w.batch.N)
	if x == nil {
		return
	}
	if w.visit.known { // else what the events were is nobody's business
		for i := range w.batch.Events[:min(len(w.batch.Events), eventsSeen)] {
			if j := slices.IndexFunc(refusals, func(r refusal) bool { return r.i == i }); j >= 0 {
				x.refuse(refusals[j].f)
				continue
			}
			if w.stored(i) {
				x.Events = append(x.Events, EventSeen{Outcome: taxonomy.Stored.String(), Event: cutEvent(&w.events[i])})
			} else {
				x.Events = append(x.Events, EventSeen{Outcome: taxonomy.Duplicate.String()})
			}
		}
	}
	s.seen.add(w.site.ID, *x)
}

// stored reports whether event i of the batch became a record.
func (w *work) stored(i int) bool {
	return slices.ContainsFunc(w.records, func(r taxonomy.Record) bool { return r.Event == &w.events[i] })
}

// seePixel remembers a call of the pixel; e is its event if it was recorded, f
// why it was not.
func (s *Server) seePixel(w *work, hd *head, e *taxonomy.Event, f *fault) {
	x := s.see(w, hd, &w.query.Consent, pathPixel, 1)
	if x == nil {
		return
	}
	switch {
	case f != nil:
		x.refuse(f)
	case e != nil:
		x.Events = []EventSeen{{Outcome: taxonomy.Stored.String(), Event: cutEvent(e)}}
	}
	s.seen.add(w.site.ID, *x)
}

func (x *Sighting) refuse(f *fault) {
	x.Events = append(x.Events, EventSeen{Outcome: outcomeOf(f.reason).String(),
		Refusal: Refusal{Code: string(f.reason), Where: cut(f.field, cutText), Why: cut(f.why, cutAddress), Sample: cut(f.sample, cutText)}})
}

// seeRefused remembers a request that was refused as a whole.
func (s *Server) seeRefused(site taxonomy.SiteID, route string, f *fault, now taxonomy.Millis, n int) {
	if site == "" || !s.seen.due(site, now, true) {
		return
	}
	s.seen.add(site, Sighting{At: now, Route: route, Cookie: "not read", N: n,
		Refused: &Refusal{At: now, Code: string(f.reason), Where: cut(f.field, cutText), Why: cut(f.why, cutAddress)}})
}

// cut copies a text, and not more than n bytes of it.
func cut(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + "…"
	}
	return strings.Clone(s)
}

func cutEvent(e *taxonomy.Event) taxonomy.Event {
	c := taxonomy.Event{Time: e.Time, Kind: e.Kind, Name: cut(e.Name, cutText), URL: cut(e.URL, cutAddress), Ref: cut(e.Ref, cutText), Traits: slices.Clone(e.Traits)}
	for _, p := range e.Props {
		c.Props = append(c.Props, taxonomy.Prop{Key: cut(p.Key, cutText), Value: cut(p.Value, cutText)})
	}
	return c
}

// Sight is what the rules make of an event: rules.Sight in words.
type Sight struct {
	Rules  []string
	Traits []taxonomy.Trait
	Near   []NearMiss
	Unused []string // keys that no rule asks for: "prop.sku"
}

// NearMiss is a rule that does not hold for one reason alone.
type NearMiss struct {
	Rule  string
	Wants string // the condition that does not hold: path begins with “/shoes”
	Case  bool   // it would hold if capital letters and spaces at the ends did not count
}

// Inspection is a site as it was seen in the last ten minutes.
type Inspection struct {
	At        taxonomy.Millis // of this look
	Sightings []Sighting      // newest first
	Sights    [][]Sight       // of Sightings[i].Events[j]; no rules for what was not stored
	Findings  []Finding
	Signals   []SignalCount
	Unused    []KeyCount // most frequent first
}

// Finding is something that keeps events out, and what helps.
type Finding struct {
	Code  string
	N     int // requests or events of those that were seen
	Last  taxonomy.Millis
	Where string
	Why   string
	Mend  string // empty: nothing is to be mended, or Why says it
}

// SignalCount is how often a signal gave a verdict.
type SignalCount struct {
	SignalSeen
	N int
}

// KeyCount is how many stored events had a key.
type KeyCount struct {
	Key string
	N   int
}

// Inspect looks at a site. look says what its rules make of an event; nil: not
// asked. It is for people: it asks all rules about every event that is shown.
func (s *Server) Inspect(site taxonomy.SiteID, look func(*taxonomy.Event) Sight) Inspection {
	in := Inspection{At: s.o.Now()}
	in.Sightings = s.seen.list(site, in.At)
	findings := map[string]*Finding{}
	find := func(at taxonomy.Millis, code, where, why, mend string, n int) {
		f := findings[code]
		if f == nil { // the newest comes first
			f = &Finding{Code: code, Last: at, Where: where, Why: why, Mend: mend}
			findings[code] = f
		}
		f.N += n
	}
	signals, unused := map[SignalSeen]int{}, map[string]int{}
	for i := range in.Sightings {
		x := &in.Sightings[i]
		sights := make([]Sight, len(x.Events))
		for _, v := range x.Signals {
			signals[v]++
		}
		if x.Refused != nil {
			find(x.At, x.Refused.Code, x.Refused.Where, x.Refused.Why, "", max(x.N, 1))
		} else if !x.May.Has(taxonomy.MayStore|taxonomy.MayProfile) && len(x.Reasons) > 0 {
			r := &x.Reasons[0]
			find(x.At, "consent/"+r.Code, r.Signal.String(), r.Why, r.Mend, max(x.N, 1))
		}
		for j := range x.Events {
			e := &x.Events[j]
			if e.Refusal.Code != "" {
				find(x.At, e.Refusal.Code, e.Refusal.Where, e.Refusal.Why, "", 1)
			}
			if look != nil && e.Outcome == taxonomy.Stored.String() {
				sights[j] = look(&e.Event)
				for _, k := range sights[j].Unused {
					unused[k]++
				}
			}
		}
		in.Sights = append(in.Sights, sights)
	}
	for _, f := range findings {
		in.Findings = append(in.Findings, *f)
	}
	slices.SortFunc(in.Findings, func(a, b Finding) int { return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(a.Code, b.Code)) })
	for v, n := range signals {
		in.Signals = append(in.Signals, SignalCount{v, n})
	}
	slices.SortFunc(in.Signals, func(a, b SignalCount) int {
		return cmp.Or(cmp.Compare(a.Signal, b.Signal), cmp.Compare(a.Verdict, b.Verdict))
	})
	for k, n := range unused {
		in.Unused = append(in.Unused, KeyCount{k, n})
	}
	slices.SortFunc(in.Unused, func(a, b KeyCount) int { return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(a.Key, b.Key)) })
	return in
}
