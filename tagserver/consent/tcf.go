package consent

import (
	bit "math/bits"
	"strings"
	"sync"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// The TCF's dates and bounds.
const (
	// disclosureDay is 1 March 2026: strings made from then on must have the
	// segment of disclosed vendors. Not by the policy's version: 5 is older.
	disclosureDay = taxonomy.Day(20513)
	// A consent lasts 13 months, after which visitors must be asked again.
	maxAgeDays = 396
	// A string from further ahead than clocks go wrong is no string.
	maxAheadDays = 2
	minPolicy    = 4
	lastPurpose  = 11
)

// The kinds of publisher restrictions.
const (
	notAllowed = iota
	needsConsent
	needsInterest
	restrictions
)

// tcf is a TC string, as far as the asked vendors go.
type tcf struct {
	created, updated  taxonomy.Day
	reversed          bool // updated before it was made, be it by a second
	cmp, list         uint16
	policy            uint8
	consent           uint32 // 24 bits, the first for purpose 1
	interest          uint32
	agreed, unopposed purposes // the same in our order
	special           uint16
	// oneTreatment: purpose 1 was not put to the visitor, by the law of country.
	oneTreatment bool
	country      [2]byte

	vendors, vendorInterest set
	// restricted is nil if the string restricts nobody, as nearly all do: it is large,
	// and what is not there need not be cleared. See release.
	restricted *restricted

	hasDisclosed bool
	disclosed    set

	hasPublisher                         bool
	publisherConsent, publisherInterests uint32
}

// restricted are the vendors that a publisher's restrictions name, by purpose and
// kind.
type restricted [lastPurpose + 1][restrictions]set

var (
	nobody restricted // never changed
	tables = sync.Pool{New: func() any { return new(restricted) }}
)

// release gives the table of restrictions back, if there is one. Nothing may be
// asked of t then. Who does not call it leaves it to the collector.
func (t *tcf) release() {
	if t.restricted != nil {
		*t.restricted = restricted{}
		tables.Put(t.restricted)
		t.restricted = nil
	}
}

func purposeIn(field uint32, p int) bool { return field>>uint(24-p)&1 == 1 }

// parse reads a TC string and checks that it is one that counts on a day. It
// returns why not, or nil. What it has read until then stays in t, for Explain.
func (t *tcf) parse(s string, asked []uint16, cmps *CMPList, day taxonomy.Day) *fault {
	if f := suspect(s, 'C'); f != nil {
		return f
	}
	core, rest, more := s, "", false
	if i := strings.IndexByte(s, '.'); i >= 0 { // strings.Cut takes twice as long
		core, rest, more = s[:i], s[i+1:], true
	}
	b := bits{s: core}
	if !wellFormed(core) {
		return &tcfMalformed
	}
	if f := t.core(&b, asked); f != nil {
		return f
	}
	for more {
		var segment string
		segment, rest, more = strings.Cut(rest, ".")
		if !wellFormed(segment) {
			return &tcfMalformed
		}
		if !t.segment(&bits{s: segment}, asked) {
			return &tcfMalformed
		}
	}
	return t.valid(cmps, day)
}

func (t *tcf) core(b *bits, asked []uint16) *fault {
	s := b.s
	if sextet[s[0]] != 2 {
		return &tcfVersion
	}
	// Up to the vendors every field stands at a fixed place, nearly all at the
	// beginning of a character, so they are taken from where they stand: this is
	// what every string costs.
	const fixed = 213 // bits
	if 6*len(s) < fixed {
		return &tcfMalformed
	}
	made, updated := six(s[1:]), six(s[7:])
	t.created, t.updated, t.reversed = dayOf(made), dayOf(updated), updated < made
	t.cmp = uint16(sextet[s[13]])<<6 | uint16(sextet[s[14]])
	// 15 to 19: the platform's version, its screen, the language
	t.list = uint16(sextet[s[20]])<<6 | uint16(sextet[s[21]])
	t.policy = sextet[s[22]]
	flags, purposes := six(s[23:]), six(s[29:]) // bits 138 to 173 and 174 to 209
	service := flags>>35 == 1
	t.special = uint16(flags >> 22 & 0xfff) // behind a bit for non-standard texts
	t.consent = uint32(flags&(1<<22-1))<<2 | uint32(purposes>>34)
	t.interest = uint32(purposes >> 10 & 0xffffff)
	t.agreed, t.unopposed = inOrder(t.consent), inOrder(t.interest)
	t.oneTreatment = purposes>>9&1 == 1
	t.country = [2]byte{'A' + byte(purposes>>3&0x3f), 'A' + byte(purposes&7<<3) + sextet[s[35]]>>3}
	if t.country[0] > 'Z' || t.country[1] > 'Z' {
		return &tcfMalformed
	}
	b.at = fixed
	if !b.vendors(asked, &t.vendors) || !b.vendors(asked, &t.vendorInterest) {
		return &tcfMalformed
	}
	for n := b.num(12); n > 0; n-- {
		p, kind := int(b.num(6)), int(b.num(2))
		if b.short || p < 1 || p > 24 {
			return &tcfMalformed
		}
		if kind == restrictions { // "undefined": what it means is not known
			kind = notAllowed
		}
		var ignored set
		to := &ignored
		if p <= lastPurpose {
			if t.restricted == nil {
				t.restricted = tables.Get().(*restricted)
			}
			to = &t.restricted[p][kind] // records of a kind add up
		}
		if !b.ranges(asked, 0xffff, to) {
			return &tcfMalformed
		}
	}
	switch {
	case b.short || !b.padded():
		return &tcfMalformed
	case !service:
		return &tcfGlobal
	case t.policy < minPolicy:
		return &tcfPolicy
	}
	return nil
}

// segment reads what follows the core, in any order, and reports whether it is
// sound. Kinds that it does not know are passed over; the core, again, is not.
func (t *tcf) segment(b *bits, asked []uint16) bool {
	switch kind := b.num(3); kind {
	case 0:
		return false
	case 1:
		if t.hasDisclosed {
			return false
		}
		t.hasDisclosed = true
		return b.vendors(asked, &t.disclosed) && b.padded()
	case 2: // of global scope, which is over; still to be sound
		var ignored set
		return b.vendors(asked, &ignored) && b.padded()
	case 3:
		if t.hasPublisher {
			return false
		}
		t.hasPublisher = true
		t.publisherConsent, t.publisherInterests = uint32(b.num(24)), uint32(b.num(24))
		b.skip(2 * int(b.num(6))) // the publisher's own purposes, of which we know none
		return !b.short && b.padded()
	}
	return true
}

func (t *tcf) valid(cmps *CMPList, day taxonomy.Day) *fault {
	switch {
	case t.reversed:
		return &tcfDates
	case t.cmp < 2: // 0 and 1 are nobody's
		return &tcfCMPDeleted
	case t.updated > day+maxAheadDays:
		return &tcfFuture
	case day-t.created > maxAgeDays:
		return &tcfExpired
	case !t.hasDisclosed && t.created >= disclosureDay:
		return &tcfNoDisclosure
	}
	if cmps != nil {
		if at, ok := cmps.deleted[t.cmp]; ok && taxonomy.DayOf(at) <= day {
			return &tcfCMPDeleted
		}
	}
	return nil
}

// dayOf returns the UTC day of a time in tenths of seconds since 1970.
func dayOf(deciseconds uint64) taxonomy.Day { return taxonomy.Day(deciseconds / (10 * 24 * 3600)) }

// ground says whether and why a vendor may act for a purpose.
type ground uint8

const (
	grounded ground = iota
	notDeclared
	vendorDeleted
	notDisclosed
	isRestricted
	purposeRefused
	vendorRefused
	oneTreatment
)

var groundWords = [...]string{
	grounded: "allowed", notDeclared: "the vendor does not declare this purpose in the vendor list",
	vendorDeleted: "the vendor was deleted from the vendor list, or is not in it", notDisclosed: "the vendor was not disclosed to the visitor",
	isRestricted: "the publisher restricts the vendor", purposeRefused: "the visitor did not agree to the purpose",
	vendorRefused: "the visitor did not agree to the vendor", oneTreatment: "purpose 1 was not put to the visitor, and its country is not one of consent.purpose_one",
}

// plainly returns purposes for which vendor says grounded, of the i-th of those asked
// about, in one go: all of them in nearly every string, none where restrictions,
// purpose 1 or the vendor itself need a closer look.
func (t *tcf) plainly(i int, v *Vendor) purposes {
	if v == nil || !v.Deleted.IsZero() || t.restricted != nil || t.oneTreatment || (t.hasDisclosed || t.created >= disclosureDay) && !t.disclosed.has(i) {
		return 0
	}
	var may purposes
	if t.vendors.has(i) {
		may = v.consent & t.agreed
	}
	if t.vendorInterest.has(i) {
		may |= v.interest &^ v.consent & t.unopposed
	}
	return may
}

// inOrder is a field of purposes, the first of which is its highest bit.
func inOrder(field uint32) purposes { return purposes(bit.Reverse32(field<<8) << 1) }

// vendor says whether vendor v, the i-th of those asked about, may act for
// purpose p: nothing may restrict it, it must have declared the purpose, it must
// have been disclosed, and the visitor must have agreed to both purpose and
// vendor, or, where it goes by legitimate interest, not objected.
func (t *tcf) vendor(p, i int, v *Vendor, day taxonomy.Day, listed bool) ground {
	r := &nobody[p]
	if t.restricted != nil {
		r = &t.restricted[p]
	}
	byConsent, byInterest := v != nil && v.consent.has(p), v != nil && v.interest.has(p)
	switch {
	case v == nil || !v.Deleted.IsZero() && taxonomy.DayOf(v.Deleted) <= day:
		return vendorDeleted
	case r[notAllowed].has(i):
		return isRestricted
	case !byConsent && !byInterest:
		return notDeclared
	case (t.hasDisclosed || t.created >= disclosureDay) && !t.disclosed.has(i):
		return notDisclosed
	case r[needsConsent].has(i) && r[needsInterest].has(i):
		return isRestricted // by both, so by neither
	}
	if r[needsConsent].has(i) && !byConsent {
		if !v.flexible.has(p) {
			return isRestricted
		}
		byConsent = true
	}
	if r[needsInterest].has(i) && byConsent {
		if !v.flexible.has(p) {
			return isRestricted
		}
		byConsent = false
	}
	switch {
	case byConsent && p == 1 && t.oneTreatment && !listed:
		return oneTreatment
	case byConsent && !(p == 1 && t.oneTreatment) && !purposeIn(t.consent, p):
		return purposeRefused
	case byConsent && !t.vendors.has(i):
		return vendorRefused
	case !byConsent && !purposeIn(t.interest, p):
		return purposeRefused
	case !byConsent && !t.vendorInterest.has(i):
		return vendorRefused
	}
	return grounded
}

// publisher says whether the publisher itself may act for purpose p.
func (t *tcf) publisher(p int, listed bool) ground {
	switch {
	case p == 1 && t.oneTreatment:
		if !listed {
			return oneTreatment
		}
		return grounded
	case !purposeIn(t.publisherConsent, p):
		return purposeRefused
	}
	return grounded
}
