package tagserver

import "fmt"

// The limits of what one event may carry, in bytes unless said otherwise. The
// tag keeps them too.
const (
	maxEvents    = 100 // in a batch
	maxEventID   = 64
	maxName      = 64
	maxURL       = 2048
	maxProps     = 32 // properties
	maxPropKey   = 64
	maxPropValue = 256
	maxSignal    = 4096 // a consent string
	maxDepth     = 16   // of what is skipped
)

// wireBatch is the body of POST /v1/e. Its strings share memory with the body.
type wireBatch struct {
	Site    string
	Sent    int64 // ms since 1970; 0: not given
	Consent wireConsent
	Events  []wireEvent // the first maxEvents of them
	N       int         // how many there were
}

// wireConsent is what the page says of consent.
type wireConsent struct {
	Granted               *bool
	TCF, GPP, GPPSID, USP string
	// GDPR is gdpr=1|0; empty if not given.
	GDPR string
	// Child: coppa=1.
	Child bool
	// Conflict: a signal was given twice with different values, or is longer
	// than any such signal; it counts as one that nobody can read.
	Conflict bool
}

// wireEvent is one event as it was sent.
type wireEvent struct {
	ID, Kind, Name, URL, Ref string
	T                        int64 // ms since 1970; 0: not given
	Props                    []wireProp
	// Fault, if not empty, says why this event is malformed; the others of the
	// batch are not touched by it.
	Fault string
}

type wireProp struct{ Key, Value string }

// wireError is a fault of a whole body, with its place.
type wireError struct {
	Site         string // as far as it was read
	Line, Column int    // from 1
	Path         string // "events[2].props", "" at the top
	Why          string
}

func (e *wireError) Error() string {
	at := fmt.Sprintf("line %d, column %d", e.Line, e.Column)
	if e.Path != "" {
		at += " (" + e.Path + ")"
	}
	return at + ": " + e.Why
}

// parseBatch reads a body of POST /v1/e. It is our own small reader of JSON and
// not encoding/json for three reasons: a key given twice is a fault here and
// not "the last wins" (else {"granted":false,"GRANTED":true} is a yes), a fault
// has a place, and one malformed event does not cost its neighbours. Keys it
// does not know are skipped, so that an older server takes a newer tag.
//
// It appends to b.Events, so a batch can be used again. Bytes that are not JSON
// give a *wireError; events that are JSON but no events have their Fault set.
func parseBatch(body string, b *wireBatch) error {
	p := jsonReader{s: body, event: -1}
	var seen uint
	p.whole(func(key string) {
		switch key {
		case "site":
			p.once(&seen, 0, key)
			b.Site = p.str(key)
		case "sent":
			p.once(&seen, 1, key)
			b.Sent = p.millis(key)
		case "consent":
			p.once(&seen, 2, key)
			p.consent(&b.Consent)
		case "events":
			p.once(&seen, 3, key)
			p.events(b)
		default:
			p.skip(0)
		}
	})
	if p.err == nil && seen&1 == 0 {
		p.fail("site", "is missing")
	}
	if p.err != nil {
		p.err.Site = b.Site
		return p.err
	}
	return nil
}

func (p *jsonReader) consent(c *wireConsent) {
	var seen uint
	if p.null() {
		return
	}
	p.object("consent", func(key string) {
		switch key {
		case "granted":
			p.once(&seen, 0, "consent.granted")
			if p.null() {
				return
			}
			v := p.boolean("consent.granted")
			c.Granted = &v
		case "tcf":
			p.once(&seen, 1, "consent.tcf")
			c.TCF = p.signal("consent.tcf", c)
		case "gpp":
			p.once(&seen, 2, "consent.gpp")
			c.GPP = p.signal("consent.gpp", c)
		case "gpp_sid":
			p.once(&seen, 3, "consent.gpp_sid")
			c.GPPSID = p.signal("consent.gpp_sid", c)
		case "usp":
			p.once(&seen, 4, "consent.usp")
			c.USP = p.signal("consent.usp", c)
		case "gdpr":
			p.once(&seen, 5, "consent.gdpr")
			c.GDPR = p.digit()
		case "coppa":
			p.once(&seen, 6, "consent.coppa")
			c.child(p.digit())
		default:
			p.skip(0)
		}
	})
}

// digit reads 0 or 1, as OpenRTB writes them, or as a string. What is neither, but
// was said, is "-": it is not the same as nothing.
func (p *jsonReader) digit() string {
	if p.null() {
		return ""
	}
	p.space()
	v := ""
	if p.peek() == '"' {
		v = p.str("consent")
	} else {
		v = p.scalar()
	}
	if v != "0" && v != "1" {
		return "-"
	}
	return v
}

// child notes coppa=1; what is neither 0 nor 1 is something nobody understands.
func (c *wireConsent) child(v string) {
	switch v {
	case "1":
		c.Child = true
	case "0", "":
	default:
		c.Conflict = true
	}
}

// signal reads a consent string. Its own parser judges it; here only its length
// is bounded.
func (p *jsonReader) signal(path string, c *wireConsent) string {
	if p.null() {
		return ""
	}
	s := p.str(path)
	if len(s) > maxSignal {
		c.Conflict = true
		return ""
	}
	return s
}

func (p *jsonReader) events(b *wireBatch) {
	if !p.expect('[', "events", "want a list") {
		return
	}
	for first := true; p.err == nil; first = false {
		p.space()
		if p.peek() == ']' {
			if !first {
				p.fail("events", "a comma before the end of the list")
				return
			}
			p.i++
			return
		}
		p.event = b.N
		b.N++
		n := len(b.Events)
		if n == maxEvents {
			p.skip(0) // counted, so that the refusal can say how many
		} else if n < cap(b.Events) {
			b.Events = b.Events[:n+1]
			b.Events[n] = wireEvent{Props: b.Events[n].Props[:0]}
		} else {
			b.Events = append(b.Events, wireEvent{})
		}
		if n < maxEvents {
			p.readEvent(&b.Events[n])
		}
		p.event = -1
		p.space()
		switch p.peek() {
		case ',':
			p.i++
		case ']':
			p.i++
			return
		default:
			p.fail("events", "want a comma or the end of the list")
			return
		}
	}
}

// readEvent reads one event. A value of the wrong type is the event's fault, bytes
// that are not JSON are the body's.
func (p *jsonReader) readEvent(e *wireEvent) {
	p.space()
	if p.peek() != '{' {
		e.Fault = "want an object"
		p.skip(0)
		return
	}
	var seen uint
	fault := func(key, why string) {
		if e.Fault == "" {
			e.Fault = key + ": " + why
		}
	}
	text := func(bit uint, key string, dst *string) {
		if seen&(1<<bit) != 0 {
			fault(key, "is given twice")
		}
		seen |= 1 << bit
		p.space()
		switch p.peek() {
		case '"':
			*dst = p.str(key)
		case 'n':
			p.skip(0)
		default:
			fault(key, "want a string")
			p.skip(0)
		}
	}
	p.object("", func(key string) {
		switch key {
		case "id":
			text(0, key, &e.ID)
		case "kind":
			text(1, key, &e.Kind)
		case "name":
			text(2, key, &e.Name)
		case "url":
			text(3, key, &e.URL)
		case "ref":
			text(4, key, &e.Ref)
		case "t":
			if seen&(1<<5) != 0 {
				fault(key, "is given twice")
			}
			seen |= 1 << 5
			p.space()
			if p.null() {
				return
			}
			v, ok := parseMillis(p.scalar())
			if !ok {
				fault(key, "want whole milliseconds since 1970")
			}
			e.T = v
		case "props":
			if seen&(1<<6) != 0 {
				fault(key, "is given twice")
			}
			seen |= 1 << 6
			p.props(e, fault)
		default:
			p.skip(0)
		}
	})
}

func (p *jsonReader) props(e *wireEvent, fault func(key, why string)) {
	p.space()
	if p.null() {
		return
	}
	if p.peek() != '{' {
		fault("props", "want an object")
		p.skip(0)
		return
	}
	p.object("", func(key string) {
		p.space()
		var v string
		switch p.peek() {
		case '"':
			v = p.str("props")
		case '{', '[':
			fault("props", "values are strings, numbers, true or false")
			p.skip(0)
			return
		case 'n':
			p.skip(0)
			return // null says that there is none
		default:
			v = p.scalar()
		}
		if len(e.Props) > maxProps {
			return // one too many is kept, so that the count can be refused
		}
		e.Props = append(e.Props, wireProp{key, v})
	})
}
