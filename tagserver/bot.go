package tagserver

import (
	"strings"
	"sync"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// The layers by which an event is flagged as a bot's, each a trait of its own
// beside taxonomy.TraitBot, so that it is known of every day who was flagged by
// what. The fourth layer is no flag: a visitor whose cookie never comes back gets
// no ordinal (R11).
const (
	botAgent    taxonomy.Trait = taxonomy.BotLayerPrefix + "agent"    // says itself what it is
	botCadence  taxonomy.Trait = taxonomy.BotLayerPrefix + "cadence"  // does more in a minute than a person can
	botHoneypot taxonomy.Trait = taxonomy.BotLayerPrefix + "honeypot" // took the bait
)

// BotLayers are the traits of the layers that flag, in the order in which they
// are asked.
var BotLayers = []taxonomy.Trait{botAgent, botCadence, botHoneypot}

// Bait is a key that no page sends by itself: a site hides a link with it
// (…?ebb_trap=1), which people do not see and programs follow. An event that
// carries it in its address or its props, or a pixel that is called with it, is
// a bot's. It is never kept.
const Bait = "ebb_trap"

// tookBait reports whether a query holds the bait as a key. A fragment or a path
// that mentions it is nobody's doing.
func tookBait(rawQuery string) bool {
	for rest := rawQuery; ; {
		at := strings.Index(rest, Bait)
		if at < 0 {
			return false
		}
		before, after := rest[:at], rest[at+len(Bait):]
		if (before == "" || before[len(before)-1] == '&' || before[len(before)-1] == '?') && (after == "" || after[0] == '=' || after[0] == '&' || after[0] == '#') {
			return true
		}
		rest = after
	}
}

// baited reports whether an event carries the bait.
func baited(e *wireEvent) bool {
	address, _, _ := strings.Cut(e.URL, "#")
	if _, q, ok := strings.Cut(address, "?"); ok && tookBait(q) {
		return true
	}
	for i := range e.Props {
		if e.Props[i].Key == Bait {
			return true
		}
	}
	return false
}

// flag marks a record as a bot's if one of the layers says so. A record is
// flagged by the first that does.
func (s *Server) flag(r *taxonomy.Record, agent, bait bool) {
	var layer taxonomy.Trait
	switch fast := s.cadence.over(r.Visitor, r.Event.Time); {
	case agent:
		layer = botAgent
	case bait:
		layer = botHoneypot
	case fast:
		layer = botCadence
	default:
		return
	}
	r.Bot = true
	r.Event.Traits = append(r.Event.Traits, layer)
	s.metrics.bots.WithLabelValues(strings.TrimPrefix(string(layer), taxonomy.BotLayerPrefix)).Inc()
}

// cadence counts the events of each visitor in each minute in which they
// happened: not in which they were received, so that a browser that was offline
// may bring what it kept. It lives in memory, in two generations of at most max
// entries: what is forgotten too early is a bot that is flagged a little later.
type cadence struct {
	limit uint32 // events a minute; 0: no limit
	max   int

	mu       sync.Mutex
	now, old map[beat]uint32
}

type beat struct {
	visitor taxonomy.VisitorKey
	minute  int64
}

func newCadence(limit, entries int) *cadence {
	return &cadence{limit: uint32(max(limit, 0)), max: entries, now: make(map[beat]uint32)}
}

// over counts an event and reports whether it is one too many of its minute.
func (c *cadence) over(v taxonomy.VisitorKey, at taxonomy.Millis) bool {
	if c.limit == 0 {
		return false
	}
	b := beat{v, int64(at / taxonomy.Minute)}
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.now[b]
	if !ok {
		n = c.old[b]
		if len(c.now) >= c.max {
			c.old, c.now = c.now, make(map[beat]uint32)
		}
	}
	c.now[b] = n + 1
	return n+1 > c.limit
}

// botWords stand in the user agents of crawlers and monitors that say what they
// are. Programs that browse like people (headless browsers, HTTP libraries) are
// not here: whether those are visitors is for the site's owner to say, and a
// crawler that hides is on no list.
var botWords = []string{
	"bot", "crawl", "spider", "slurp", "lighthouse", "pagespeed", "pingdom", "uptime", "facebookexternalhit",
	"embedly", "feedfetcher", "archiver",
}

// maxAgent is how much of a user agent is looked at: no browser sends more, and
// what sends more is no browser.
const maxAgent = 1024

// isBot reports whether a user agent says that it is a program's.
func isBot(agent string) bool {
	if len(agent) > maxAgent {
		return true
	}
	var a [maxAgent]byte
	lower := a[:len(agent)]
	for i := range lower {
		c := agent[i]
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		lower[i] = c
	}
	s := string(lower)
	for _, w := range botWords {
		// Cubot makes phones.
		if strings.Contains(s, w) && !(w == "bot" && strings.Count(s, "bot") == strings.Count(s, "cubot")) {
			return true
		}
	}
	return false
}
