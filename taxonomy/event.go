package taxonomy

import "strings"

// EventKind is what sort of thing a visitor did.
type EventKind uint8

// The kinds of events. Impression, click and conversion are accepted from the
// start, for measurement.
const (
	EventPage EventKind = iota + 1
	EventTrack
	EventImpression
	EventClick
	EventConversion
	EventFact // an imported fact
)

var eventKinds = [...]string{EventPage: "page", EventTrack: "track", EventImpression: "impression",
	EventClick: "click", EventConversion: "conversion", EventFact: "fact"}

func (k EventKind) String() string {
	if int(k) < len(eventKinds) && k > 0 {
		return eventKinds[k]
	}
	return "unknown"
}

// ParseEventKind returns the kind of that name, and whether there is one.
func ParseEventKind(s string) (EventKind, bool) {
	for k, name := range eventKinds {
		if name == s && s != "" {
			return EventKind(k), true
		}
	}
	return 0, false
}

// privatePrefix begins the keys of properties that are evaluated and never stored:
// Audience Manager's own for them.
const privatePrefix = "p_"

// NeverStored reports whether a property of that key is only evaluated, by the
// edge, and goes before the event is recorded.
func NeverStored(key string) bool { return strings.HasPrefix(key, privatePrefix) }

// Prop is one property of an event. Properties are a sorted list, not a map:
// the same event always has the same bytes.
type Prop struct {
	Key, Value string
}

// Event is one thing a visitor did, cleaned: nothing in it identifies a person,
// and what was refused is not here.
type Event struct {
	ID   EventID
	Time Millis // when it happened, bounded by R20
	Kind EventKind
	Name string // of a track event; empty for a page view
	URL  string // scheme, host and path, with the allow-listed query keys
	Ref  string // origin of the referrer
	// Props are sorted by key, without repeats.
	Props []Prop
	// Traits were decided at the edge from keys that are evaluated but never
	// stored; the fold adds them to those its own rules give.
	Traits []Trait
}

// Prop returns the value of a property, and whether the event has it.
func (e *Event) Prop(key string) (string, bool) {
	for i := range e.Props {
		if e.Props[i].Key == key {
			return e.Props[i].Value, true
		}
	}
	return "", false
}
