package simtest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// model is the obvious Ebb: a list of what was acknowledged, and answers by
// loops over it.
type model struct {
	visitors map[taxonomy.VisitorKey]*visitor
	order    []*visitor // by birth, so that a seed repeats
	imports  map[string]bool
	// received is, by site, how many events were acknowledged; tried, how many
	// were sent at all: the log may have any number between.
	received, tried map[taxonomy.SiteID]uint64

	withdrawn map[taxonomy.SourceID]bool
	pathRule  bool // the classifier rule that a step turns on and off is on
	audiences map[string]*node
	dests     map[taxonomy.DestinationID]*destModel
}

type destModel struct {
	audiences []string
	floor     int
}

type visitor struct {
	key      taxonomy.VisitorKey
	adopted  taxonomy.Millis // earliest receipt with its cookie; 0: never came back
	events   []*event
	byID     map[string]*event
	consent  taxonomy.Day // of the newest summary
	at       taxonomy.Millis
	limited  []taxonomy.DestinationID // whom its consent reaches; nil: everyone
	erased   bool
	succeeds *visitor
}

type event struct {
	site     taxonomy.SiteID
	source   taxonomy.SourceID
	id       string
	at       taxonomy.Millis
	received taxonomy.Millis
	bot      bool
	cat      string // what it says that it is about
	news     bool   // it stands below /news
	counts   bool   // it is folded: its visitor is known
}

func newModel() *model {
	return &model{visitors: map[taxonomy.VisitorKey]*visitor{}, imports: map[string]bool{}, received: map[taxonomy.SiteID]uint64{},
		tried: map[taxonomy.SiteID]uint64{}, withdrawn: map[taxonomy.SourceID]bool{}, audiences: map[string]*node{},
		dests: map[taxonomy.DestinationID]*destModel{}}
}

func (m *model) visitor(k taxonomy.VisitorKey) *visitor {
	v := m.visitors[k]
	if v == nil {
		v = &visitor{key: k, byID: map[string]*event{}}
		m.visitors[k] = v
		m.order = append(m.order, v)
	}
	return v
}

// came notes that a record of the visitor was received: with its cookie it makes
// the visitor known, and what waited no longer than a day counts (R11).
func (m *model) came(v *visitor, received taxonomy.Millis, returning bool, limited []taxonomy.DestinationID) {
	if v.erased {
		return
	}
	if returning && (v.adopted == 0 || received < v.adopted) {
		v.adopted = received
	}
	for x := v; x != nil && !x.erased; x = x.succeeds { // R27: consent acts on the IDs before
		if received >= x.at {
			x.at, x.consent, x.limited = received, received.Day(), limited
		}
		if v.adopted == 0 {
			break // it waits
		}
	}
	for _, e := range v.events {
		if !e.counts && v.adopted != 0 && v.adopted <= e.received+24*taxonomy.Hour {
			e.counts = true
		}
	}
}

// add notes an event, unless it is a copy of one of the last 48 h (R10).
func (m *model) add(v *visitor, e event) {
	id := string(e.site) + "/" + e.id
	if old := v.byID[id]; old != nil && e.received-old.received <= 48*taxonomy.Hour {
		if !old.counts && e.received > old.received {
			// It waits, and the later copy waits in its place (R11).
			old.at, old.received = e.at, e.received
		}
		return
	}
	v.events = append(v.events, &e)
	v.byID[id] = &e
}

// parents are the ancestors of a category, by its name.
func parents(cat string) (out []string) {
	for ; cat != ""; cat = cat[:max(0, strings.LastIndexByte(cat, '.'))] {
		out = append(out, "c:sim/"+cat)
	}
	return out
}

var categories = []string{"sport", "sport.tennis", "sport.golf", "travel", "travel.sea", "news"}

// classify says what an event is about, by the rules in force now: as if they had
// always been (R18).
func (m *model) classify(e *event) []string {
	out := parents(e.cat)
	if e.news && m.pathRule {
		out = append(out, "c:sim/news")
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// erase forgets a visitor and those whom it succeeds (R27).
func (m *model) erase(v *visitor) {
	for ; v != nil; v = v.succeeds {
		v.erased = true
	}
}

// has is how many events with a trait a visitor had from day to day, and on how
// many days; "" is every event.
func (m *model) has(v *visitor, trait string, from, to taxonomy.Day) (n int, days map[taxonomy.Day]bool) {
	days = map[taxonomy.Day]bool{}
	for _, e := range v.events {
		d := e.at.Day()
		if !e.counts || m.withdrawn[e.source] || d < from || d > to || trait != "" && !slices.Contains(m.classify(e), trait) {
			continue
		}
		n++
		days[d] = true
	}
	return n, days
}

// eligible: known, not gone, no bot, with an event in the 90 days.
func (m *model) eligible(v *visitor, today taxonomy.Day) bool {
	if v.erased || v.adopted == 0 {
		return false
	}
	some := false
	for _, e := range v.events {
		if e.counts && !m.withdrawn[e.source] && e.at.Day() >= today.Oldest() && e.at.Day() <= today {
			if some = true; e.bot {
				return false
			}
		}
	}
	return some
}

// members are the visitors of an audience as of a day.
func (m *model) members(n *node, today taxonomy.Day) map[taxonomy.VisitorKey]*visitor {
	out := map[taxonomy.VisitorKey]*visitor{}
	for _, v := range m.order {
		if m.eligible(v, today) && n.holds(m, v, today) {
			out[v.key] = v
		}
	}
	return out
}

// until is the day to which a partner may hold a member (R31); 0: not at all.
func (m *model) until(n *node, v *visitor, today taxonomy.Day) taxonomy.Day {
	newest := func(traits []string) (d taxonomy.Day) {
		for _, e := range v.events {
			if e.counts && !m.withdrawn[e.source] && e.at.Day() > today-taxonomy.RetentionDays && e.at.Day() <= today+1 &&
				(traits == nil || slices.ContainsFunc(traits, func(t string) bool { return slices.Contains(m.classify(e), t) })) {
				d = max(d, e.at.Day())
			}
		}
		return d
	}
	d := taxonomy.Day(0)
	if p := n.positive(true); len(p) > 0 {
		d = newest(p)
	}
	if d == 0 {
		d = newest(nil)
	}
	if d == 0 {
		return 0
	}
	if d = min(d+taxonomy.RetentionDays, v.consent+30); d <= today {
		return 0
	}
	return d
}

// held is what a destination must hold: by row, the day on which it ends.
func (m *model) held(id taxonomy.DestinationID, today taxonomy.Day, pseudonym func(taxonomy.VisitorKey) string) map[row]taxonomy.Day {
	d := m.dests[id]
	out := map[row]taxonomy.Day{}
	for _, a := range d.audiences {
		n := m.audiences[a]
		part := map[row]taxonomy.Day{}
		for _, v := range m.members(n, today) {
			if v.consent+30 <= today || v.limited != nil && !slices.Contains(v.limited, id) {
				continue
			}
			if u := m.until(n, v, today); u != 0 {
				part[row{pseudonym(v.key), a}] = u
			}
		}
		if len(part) < d.floor {
			continue
		}
		for r, u := range part {
			out[r] = u
		}
	}
	return out
}

// compareHeld compares a partner's copy with what it must hold: all of it, nothing
// else, and each row until a day within the 7 before ours ends (P8, R31).
func compareHeld(holds map[row]taxonomy.Millis, want map[row]taxonomy.Day) error {
	for r, u := range want {
		ends, ok := holds[r]
		if !ok {
			return fmt.Errorf("P8: it lacks a member of %s, %d held, %d wanted", r.audience, len(holds), len(want))
		}
		if ends > u.Start() || ends < (u-7).Start() {
			return fmt.Errorf("R31: it holds a member of %s until %s, ours ends %s", r.audience, ends, u.Start())
		}
	}
	for r := range holds {
		if _, ok := want[r]; !ok {
			return fmt.Errorf("P8: it holds someone in %s who is not in ours; %d held, %d wanted", r.audience, len(holds), len(want))
		}
	}
	return nil
}

// node is an audience rule, as the model reads it.
type node struct {
	op    string // and, or, not, trait
	kids  []*node
	trait string
	days  int // window
	min   int
	unit  string
}

func (n *node) json() string {
	switch n.op {
	case "and", "or":
		var parts []string
		for _, k := range n.kids {
			parts = append(parts, k.json())
		}
		return fmt.Sprintf(`{%q:[%s]}`, n.op, strings.Join(parts, ","))
	case "not":
		return `{"not":` + n.kids[0].json() + `}`
	}
	s := fmt.Sprintf(`{"trait":%q,"window":"%dd"`, n.trait, n.days)
	if n.min > 1 {
		s += fmt.Sprintf(`,"min":%d`, n.min)
	}
	if n.unit == "days" {
		s += `,"unit":"days"`
	}
	return s + "}"
}

func (n *node) holds(m *model, v *visitor, today taxonomy.Day) bool {
	switch n.op {
	case "and":
		return !slices.ContainsFunc(n.kids, func(k *node) bool { return !k.holds(m, v, today) })
	case "or":
		return slices.ContainsFunc(n.kids, func(k *node) bool { return k.holds(m, v, today) })
	case "not":
		return !n.kids[0].holds(m, v, today)
	}
	count, days := m.has(v, n.trait, today-taxonomy.Day(n.days)+1, today)
	if n.unit == "days" {
		count = len(days)
	}
	return count >= max(n.min, 1)
}

// positive are the traits that the rule uses positively.
func (n *node) positive(yes bool) (out []string) {
	if n.op == "trait" {
		if yes {
			out = append(out, n.trait)
		}
		return out
	}
	for _, k := range n.kids {
		out = append(out, k.positive(yes != (n.op == "not"))...)
	}
	return out
}

func randomRule(rng *rand.Rand, depth int) *node {
	switch op := rng.IntN(6); {
	case depth > 0 && op == 0:
		return &node{op: "and", kids: []*node{randomRule(rng, depth-1), randomRule(rng, depth-1)}}
	case depth > 0 && op == 1:
		return &node{op: "or", kids: []*node{randomRule(rng, depth-1), randomRule(rng, depth-1)}}
	case depth > 0 && op == 2:
		return &node{op: "not", kids: []*node{randomRule(rng, depth-1)}}
	}
	n := &node{op: "trait", trait: "c:sim/" + pick(rng, categories), days: pick(rng, []int{1, 2, 7, 30, 90}), min: 1 + rng.IntN(2)}
	if rng.IntN(3) == 0 {
		n.unit = "days"
		n.min = min(n.min, n.days)
	}
	return n
}
