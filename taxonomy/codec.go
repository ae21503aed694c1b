package taxonomy

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The bytes of a record, little endian, in this order:
//
//	kind u8 · mask uvarint · received varint
//	and for each bit of the mask that is set, in order of the bits, its field
//
// A string is a uvarint length and its bytes. The version of this layout is
// that of the file that holds the record; a mask bit that this program does not
// know is an error, so an old program never reads half of a new record.
const (
	hasSite = 1 << iota
	hasSource
	hasSpace
	hasVisitor
	isReturning
	isBot
	hasConsent
	hasFirst
	hasImport
	hasEvent
	hasMatch
	hasStatement
	hasSucceeds
	hasCounts
	hasOff
	hasHeard
	knownMask = 1<<iota - 1
)

// Limits of what a record may hold, so that bytes from a broken file cannot ask
// for memory without end.
const (
	maxString = 1 << 16
	maxList   = 1 << 16
)

// ErrMalformed is returned for bytes that are not a record of this format.
var ErrMalformed = errors.New("malformed record")

// AppendRecord appends r's bytes to b. Equal records give equal bytes.
func AppendRecord(b []byte, r *Record) []byte {
	var mask uint64
	set := func(bit uint64, on bool) {
		if on {
			mask |= bit
		}
	}
	set(hasSite, r.Site != "")
	set(hasSource, r.Source != "")
	set(hasSpace, r.Space != "")
	set(hasVisitor, !r.Visitor.IsZero())
	set(isReturning, r.Returning)
	set(isBot, r.Bot)
	set(hasConsent, !r.Consent.Equal(Consent{}))
	set(hasFirst, !r.First.IsZero())
	set(hasImport, !r.Import.IsZero())
	set(hasEvent, r.Event != nil)
	set(hasMatch, r.Match != nil)
	set(hasStatement, r.Statement != nil)
	set(hasSucceeds, !r.Succeeds.IsZero())
	set(hasCounts, r.Counts != nil)
	set(hasOff, len(r.Off) > 0)
	set(hasHeard, len(r.Heard) > 0)

	b = append(b, byte(r.Kind))
	b = binary.AppendUvarint(b, mask)
	b = binary.AppendVarint(b, int64(r.Received))
	if mask&hasSite != 0 {
		b = appendString(b, string(r.Site))
	}
	if mask&hasSource != 0 {
		b = appendString(b, string(r.Source))
	}
	if mask&hasSpace != 0 {
		b = appendString(b, string(r.Space))
	}
	if mask&hasVisitor != 0 {
		b = append(b, r.Visitor[:]...)
	}
	if mask&hasConsent != 0 {
		b = AppendConsent(b, &r.Consent)
	}
	if mask&hasFirst != 0 {
		b = append(b, r.First.Writer[:]...)
		b = binary.AppendUvarint(b, r.First.Seq)
	}
	if mask&hasImport != 0 {
		b = append(b, r.Import.File[:]...)
		b = binary.AppendUvarint(b, uint64(r.Import.Row))
	}
	if e := r.Event; e != nil {
		b = append(b, e.ID[:]...)
		b = binary.AppendVarint(b, int64(e.Time))
		b = append(b, byte(e.Kind))
		b = appendString(b, e.Name)
		b = appendString(b, e.URL)
		b = appendString(b, e.Ref)
		b = binary.AppendUvarint(b, uint64(len(e.Props)))
		for i := range e.Props {
			b = appendString(b, e.Props[i].Key)
			b = appendString(b, e.Props[i].Value)
		}
		b = binary.AppendUvarint(b, uint64(len(e.Traits)))
		for _, t := range e.Traits {
			b = appendString(b, string(t))
		}
	}
	if m := r.Match; m != nil {
		b = appendString(b, string(m.Destination))
		b = appendString(b, m.ID)
	}
	if s := r.Statement; s != nil {
		b = append(b, s.ID[:]...)
		b = binary.AppendVarint(b, int64(s.Time))
		b = appendString(b, string(s.Trait))
		b = binary.AppendVarint(b, int64(s.Until))
	}
	if mask&hasSucceeds != 0 {
		b = append(b, r.Succeeds[:]...)
	}
	if mask&hasCounts != 0 {
		b = binary.AppendUvarint(b, uint64(len(r.Counts)))
		for i := range r.Counts {
			c := &r.Counts[i]
			b = appendString(b, string(c.Site))
			b = append(b, byte(c.Outcome))
			b = appendString(b, string(c.Reason))
			b = binary.AppendUvarint(b, c.N)
		}
	}
	if mask&hasOff != 0 {
		b = binary.AppendUvarint(b, uint64(len(r.Off)))
		for _, t := range r.Off {
			b = appendString(b, string(t))
		}
	}
	if mask&hasHeard != 0 {
		b = binary.AppendUvarint(b, uint64(len(r.Heard)))
		for i := range r.Heard {
			h := &r.Heard[i]
			b = binary.AppendVarint(b, int64(h.Day))
			b = appendString(b, string(h.Site))
			b = append(b, byte(h.Signal), byte(h.Verdict))
			b = binary.AppendUvarint(b, h.N)
		}
	}
	return b
}

// DecodeRecord reads one record from the front of b and returns what follows
// it. The record shares no memory with b. Malformed bytes give ErrMalformed.
func DecodeRecord(b []byte) (r Record, rest []byte, err error) {
	d := reader{b: b}
	r.Kind = RecordKind(d.byte())
	mask := d.uvarint()
	if mask&^knownMask != 0 {
		return Record{}, nil, fmt.Errorf("%w: fields 0x%x are of a newer format", ErrMalformed, mask&^knownMask)
	}
	r.Received = Millis(d.varint())
	r.Returning = mask&isReturning != 0
	r.Bot = mask&isBot != 0
	if mask&hasSite != 0 {
		r.Site = SiteID(d.string())
	}
	if mask&hasSource != 0 {
		r.Source = SourceID(d.string())
	}
	if mask&hasSpace != 0 {
		r.Space = Space(d.string())
	}
	if mask&hasVisitor != 0 {
		d.copy(r.Visitor[:])
	}
	if mask&hasConsent != 0 {
		r.Consent = d.consent()
	}
	if mask&hasFirst != 0 {
		d.copy(r.First.Writer[:])
		r.First.Seq = d.uvarint()
	}
	if mask&hasImport != 0 {
		d.copy(r.Import.File[:])
		r.Import.Row = uint32(d.uvarint())
	}
	if mask&hasEvent != 0 {
		e := new(Event)
		d.copy(e.ID[:])
		e.Time = Millis(d.varint())
		e.Kind = EventKind(d.byte())
		e.Name, e.URL, e.Ref = d.string(), d.string(), d.string()
		if n := d.length(); n > 0 {
			e.Props = make([]Prop, n)
			for i := range e.Props {
				e.Props[i] = Prop{Key: d.string(), Value: d.string()}
			}
		}
		if n := d.length(); n > 0 {
			e.Traits = make([]Trait, n)
			for i := range e.Traits {
				e.Traits[i] = Trait(d.string())
			}
		}
		r.Event = e
	}
	if mask&hasMatch != 0 {
		r.Match = &Match{Destination: DestinationID(d.string()), ID: d.string()}
	}
	if mask&hasStatement != 0 {
		s := new(Statement)
		d.copy(s.ID[:])
		s.Time = Millis(d.varint())
		s.Trait = Trait(d.string())
		s.Until = Day(d.varint())
		r.Statement = s
	}
	if mask&hasSucceeds != 0 {
		d.copy(r.Succeeds[:])
	}
	if mask&hasCounts != 0 {
		r.Counts = make([]Count, d.length())
		for i := range r.Counts {
			r.Counts[i] = Count{Site: SiteID(d.string()), Outcome: Outcome(d.byte()), Reason: Reason(d.string()), N: d.uvarint()}
		}
	}
	if mask&hasOff != 0 {
		r.Off = make([]Trait, d.length())
		for i := range r.Off {
			r.Off[i] = Trait(d.string())
		}
	}
	if mask&hasHeard != 0 {
		r.Heard = make([]Heard, d.length())
		for i := range r.Heard {
			r.Heard[i] = Heard{Day: Day(d.varint()), Site: SiteID(d.string()), Signal: Signal(d.byte()), Verdict: Verdict(d.byte()), N: d.uvarint()}
		}
	}
	if d.err != nil {
		return Record{}, nil, d.err
	}
	return r, d.b, nil
}

// AppendConsent appends c's bytes to b: day varint · regime, signal u8 ·
// purposes uvarint · 0 for every destination, else 1 + their number and names.
func AppendConsent(b []byte, c *Consent) []byte {
	b = binary.AppendVarint(b, int64(c.Day))
	b = append(b, byte(c.Regime), byte(c.Signal))
	b = binary.AppendUvarint(b, uint64(c.Purposes))
	if c.Destinations == nil {
		return append(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(len(c.Destinations))+1)
	for _, d := range c.Destinations {
		b = appendString(b, string(d))
	}
	return b
}

// DecodeConsent reads a summary from the front of b and returns what follows.
func DecodeConsent(b []byte) (Consent, []byte, error) {
	d := reader{b: b}
	c := d.consent()
	return c, d.b, d.err
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// reader takes fields off the front of b. After the first fault every field is
// zero and err says what was wrong, so callers check once, at the end.
type reader struct {
	b   []byte
	err error
}

func (d *reader) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrMalformed, what)
	}
	d.b = nil
}

func (d *reader) byte() byte {
	if len(d.b) == 0 {
		d.fail("cut short")
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *reader) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("bad number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *reader) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail("bad number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// length reads the length of a list. Every element has at least one byte, so a
// length beyond what is left is a lie.
func (d *reader) length() int {
	n := d.uvarint()
	if n > maxList || n > uint64(len(d.b)) {
		d.fail("list too long")
		return 0
	}
	return int(n)
}

func (d *reader) string() string {
	n := d.uvarint()
	if n > maxString || n > uint64(len(d.b)) {
		d.fail("string too long")
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *reader) copy(dst []byte) {
	if len(d.b) < len(dst) {
		d.fail("cut short")
		return
	}
	copy(dst, d.b)
	d.b = d.b[len(dst):]
}

func (d *reader) consent() (c Consent) {
	c.Day = Day(d.varint())
	c.Regime = Regime(d.byte())
	c.Signal = Signal(d.byte())
	c.Purposes = Purposes(d.uvarint())
	// One more than their number, so not a length: nobody at all, at the end of
	// the bytes, is 1 with nothing behind it.
	switch n := d.uvarint(); {
	case n == 0:
	case n-1 > maxList || n-1 > uint64(len(d.b)):
		d.fail("list too long")
	default:
		c.Destinations = make([]DestinationID, n-1)
		for i := range c.Destinations {
			c.Destinations[i] = DestinationID(d.string())
		}
	}
	return c
}
