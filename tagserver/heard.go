package tagserver

import (
	"sync"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/consent"
)

// verdicts tells what each signal of a request says, by itself.
func verdicts(sig *consent.Signals, say func(taxonomy.Signal, taxonomy.Verdict)) {
	said := len(sig.Statements) > 0
	no := func(s taxonomy.Signal, spoke bool) {
		if spoke {
			said = true
			say(s, taxonomy.SaysNo)
		}
	}
	no(taxonomy.SignalOptOut, sig.OptOutCookie)
	no(taxonomy.SignalGPC, sig.GPC)
	no(taxonomy.SignalDNT, sig.DNT)
	if sig.Explicit != nil {
		no(taxonomy.SignalExplicit, !*sig.Explicit)
		if *sig.Explicit {
			said = true
			say(taxonomy.SignalExplicit, taxonomy.SaysYes)
		}
	}
	for i := range sig.Statements {
		t := &sig.Statements[i]
		switch {
		case t.Stale:
			say(t.Signal, taxonomy.SaysUnreadable)
		case t.Purposes.Has(taxonomy.MayStore | taxonomy.MayProfile):
			say(t.Signal, taxonomy.SaysYes)
		default:
			say(t.Signal, taxonomy.SaysNo)
		}
	}
	if !said {
		say(taxonomy.SignalNone, taxonomy.SaysNothing)
	}
}

// heard holds what signals said and is not yet in the log. It travels with the
// flush of each second, not with batches: it is owed to nobody, and would make
// each of them longer. So what the last second heard dies with the process, as a
// tally does, and was then never received (R12). Sites are those that exist, and
// "", so the map is bounded.
type heard struct {
	mu      sync.Mutex
	pending map[heardKey]uint64
}

type heardKey struct {
	day     taxonomy.Day
	site    taxonomy.SiteID
	signal  taxonomy.Signal
	verdict taxonomy.Verdict
}

// hear counts a request that was decided, once for each signal that spoke. Of
// those who opted out only that is counted, and of children nothing: they asked
// for no daily counters, or nobody may ask them. P2 has their events all the same.
func (h *heard) hear(sig *consent.Signals, site *taxonomy.Site, day taxonomy.Day) {
	if sig.Child {
		return
	}
	k := heardKey{day: day}
	if site != nil {
		k.site = site.ID
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pending == nil {
		h.pending = make(map[heardKey]uint64)
	}
	if sig.OptOutCookie {
		k.signal, k.verdict = taxonomy.SignalOptOut, taxonomy.SaysNo
		h.pending[k]++
		return
	}
	verdicts(sig, func(s taxonomy.Signal, v taxonomy.Verdict) {
		k.signal, k.verdict = s, v
		h.pending[k]++
	})
}

// heardAtOnce is how many counts a record takes: a list in a record is bounded.
const heardAtOnce = 1 << 14

// take removes what is pending, as much as a record holds, and returns it in
// order. The caller appends it or gives it back.
func (h *heard) take() []taxonomy.Heard {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.pending) == 0 {
		return nil
	}
	out := make([]taxonomy.Heard, 0, min(len(h.pending), heardAtOnce))
	for k, n := range h.pending {
		if len(out) == heardAtOnce {
			break
		}
		out = append(out, taxonomy.Heard{Day: k.day, Site: k.site, Signal: k.signal, Verdict: k.verdict, N: n})
		delete(h.pending, k)
	}
	taxonomy.SortHeard(out)
	return out
}

func (h *heard) giveBack(out []taxonomy.Heard) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pending == nil && len(out) > 0 {
		h.pending = make(map[heardKey]uint64)
	}
	for _, x := range out {
		h.pending[heardKey{x.Day, x.Site, x.Signal, x.Verdict}] += x.N
	}
}
