package tagserver

import (
	"slices"
	"strings"
	"sync"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// tally holds what was refused and is not yet in the log (R12): it travels in
// the next frame that this edge appends, and dies with the process if there is
// none, and then it was never received. Sites are those that exist, and "", so
// the map is bounded.
type tally struct {
	mu      sync.Mutex
	pending map[tallyKey]uint64
}

type tallyKey struct {
	site    taxonomy.SiteID
	outcome taxonomy.Outcome
	reason  taxonomy.Reason
}

func (t *tally) add(site taxonomy.SiteID, o taxonomy.Outcome, r taxonomy.Reason, n int) {
	if n <= 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pending == nil {
		t.pending = make(map[tallyKey]uint64)
	}
	t.pending[tallyKey{site, o, r}] += uint64(n)
}

// take removes what is pending and returns it, ordered. The caller appends it
// or gives it back.
func (t *tally) take() []taxonomy.Count {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.pending) == 0 {
		return nil
	}
	counts := t.list()
	clear(t.pending)
	return counts
}

func (t *tally) giveBack(counts []taxonomy.Count) {
	for i := range counts {
		c := &counts[i]
		t.add(c.Site, c.Outcome, c.Reason, int(c.N))
	}
}

func (t *tally) snapshot() []taxonomy.Count {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.list()
}

func (t *tally) list() []taxonomy.Count {
	counts := make([]taxonomy.Count, 0, len(t.pending))
	for k, n := range t.pending {
		counts = append(counts, taxonomy.Count{Site: k.site, Outcome: k.outcome, Reason: k.reason, N: n})
	}
	slices.SortFunc(counts, func(a, b taxonomy.Count) int {
		if c := strings.Compare(string(a.Site), string(b.Site)); c != 0 {
			return c
		}
		if a.Outcome != b.Outcome {
			return int(a.Outcome) - int(b.Outcome)
		}
		return strings.Compare(string(a.Reason), string(b.Reason))
	})
	return counts
}

// outcomeOf says which term of P2 a refusal adds to: rejected is the caller's
// fault, dropped our policy.
func outcomeOf(r taxonomy.Reason) taxonomy.Outcome {
	switch r {
	case "":
		return taxonomy.Duplicate
	case taxonomy.ReasonConsent, taxonomy.ReasonErased, taxonomy.ReasonNotAdopted, taxonomy.ReasonProvisionalFull,
		taxonomy.ReasonRateLimit, taxonomy.ReasonSource:
		return taxonomy.Dropped
	}
	return taxonomy.Rejected
}

// Refusal is one thing that was refused, as the console shows it. It holds
// nothing of the value: Sample is its shape, letters as a and digits as 0.
type Refusal struct {
	At     taxonomy.Millis
	Code   string
	Where  string // field or place
	Why    string
	Sample string
}

// samples keeps the last refusals of each site, in memory only.
type samples struct {
	mu    sync.Mutex
	sites map[taxonomy.SiteID]*sampleRing
}

const samplesPerSite = 32

type sampleRing struct {
	at   [samplesPerSite]Refusal
	next int
	n    int
}

func (s *samples) add(site taxonomy.SiteID, r Refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sites == nil {
		s.sites = make(map[taxonomy.SiteID]*sampleRing)
	}
	ring := s.sites[site]
	if ring == nil {
		ring = new(sampleRing)
		s.sites[site] = ring
	}
	ring.at[ring.next] = r
	ring.next = (ring.next + 1) % samplesPerSite
	ring.n = min(ring.n+1, samplesPerSite)
}

func (s *samples) list(site taxonomy.SiteID) []Refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	ring := s.sites[site]
	if ring == nil {
		return nil
	}
	out := make([]Refusal, 0, ring.n)
	for i := range ring.n {
		out = append(out, ring.at[(ring.next-1-i+2*samplesPerSite)%samplesPerSite])
	}
	return out
}
