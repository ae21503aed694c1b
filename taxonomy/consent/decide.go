// Package consent is the one decision: what may be done with a visitor's data,
// given everything that speaks about it.
//
// Decide is pure. Whoever sets a cookie, keeps an event, builds an audience or
// sends one asks it, or reads the summary that it left in the record.
package consent

import (
	"cmp"
	"slices"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Signals is everything that speaks about a request. The zero value is silence,
// which means no.
type Signals struct {
	// OptOutCookie: the request carries the opt-out cookie.
	OptOutCookie bool
	// GPC: a line of the header Sec-GPC is exactly "1".
	GPC bool
	// DNT: a line of the header DNT is exactly "1". It is obeyed as GPC is.
	DNT bool
	// ShareOnly: on this site GPC and DNT keep visitors from being sent anywhere,
	// and nothing else.
	ShareOnly bool
	// Child: the site is made for children, or the request says that the visitor is
	// one.
	Child bool
	// NoGDPR: the request says that the GDPR does not apply, and the site trusts
	// that more than the country of an address. It is no ground where a string asks
	// for a yes.
	NoGDPR bool
	// OptOutCountries are countries that go by opt-out on this site, beside those
	// that RegimeOf has. One that asks for a yes by law does not count.
	OptOutCountries []string
	// Explicit is what the page said of the visitor's own answer, nil if it said
	// nothing.
	Explicit *bool
	// Statements are the verdicts of strings that were parsed (TCF, GPP, US
	// Privacy), in any order.
	Statements []Statement
	// Mode is the site's; a mode that does not exist is opt-in.
	Mode taxonomy.ConsentMode
	// Country is the visitor's, two capital letters of ISO 3166-1; "" is
	// unknown, which is strict.
	Country string
	// Day on which this is decided.
	Day taxonomy.Day
	// Asserted is the agreement of the source of an authenticated caller (R13);
	// nil for browsers. With it, mode and country grant nothing: the agreement
	// is the only ground, and its uses are the most that is granted.
	Asserted *taxonomy.Agreement
}

// Statement is what a parsed string says for us.
type Statement struct {
	Signal taxonomy.Signal // SignalTCF, SignalGPP or SignalUSP
	// Regime is RegimeOptIn if the string is a visitor's yes to Purposes, which
	// is a ground by itself; any other is only a limit: "has not opted out"
	// permits nothing that is not permitted anyway.
	Regime taxonomy.Regime
	// Purposes that it allows; what is not here it refuses.
	Purposes taxonomy.Purposes
	// Destinations that it lets MayExport reach; nil means every one. In any
	// order.
	Destinations []taxonomy.DestinationID
	// Stale: the string says nothing reliable (malformed, cut, expired, of
	// another site). Then nothing is allowed, but no cookie is expired either:
	// a broken consent banner must not erase a publisher's visitors.
	Stale bool
	// Reason is the parser's account of why less than everything is allowed.
	// Signal is filled in by Decide.
	Reason Reason
}

// Decision is what may be done.
type Decision struct {
	// Consent is the summary that the records of the request carry (R22). Its
	// purposes are closed: without MayStore there are none, without MayProfile
	// there is at most MayStore.
	Consent taxonomy.Consent
	// Expire: somebody said no, so a cookie with an ID must be expired, and if
	// the request carries one, that is an erasure of its visitor (R23). Reading
	// the cookie for this is allowed whatever else is not.
	Expire bool
	// Reasons says why, the one that decided first; there is always one. It is
	// shared: callers must not change it.
	Reasons []Reason
}

// SetCookie reports whether a cookie with an ID may be set. A cookie without a
// purpose is not set, so storing alone is not enough.
func (d *Decision) SetCookie() bool { return d.Consent.Purposes.Has(storing) }

// ReadCookie reports whether a cookie's ID may be used.
func (d *Decision) ReadCookie() bool { return d.Consent.Purposes.Has(storing) }

// Store reports whether events may be kept. Without profiling there is nothing
// to keep them for.
func (d *Decision) Store() bool { return d.Consent.Purposes.Has(storing) }

// Profile reports whether audiences may be built from what is kept.
func (d *Decision) Profile() bool { return d.Consent.Purposes.Has(storing) }

// Export reports whether audiences may be sent to any destination.
func (d *Decision) Export() bool { return d.Consent.Purposes.Has(taxonomy.MayExport) }

// ExportTo reports whether audiences may be sent to x, and so whether an ID may
// be synced with it.
func (d *Decision) ExportTo(x taxonomy.DestinationID) bool { return d.Consent.Allows(x) }

const storing = taxonomy.MayStore | taxonomy.MayProfile

// Decide returns what the signals allow. It is total: any Signals get an
// answer. It is monotone: an opt-out that is added, a purpose or destination
// that is removed from a statement or an agreement, a stricter mode or country
// never grant anything.
//
// Something must grant, and nothing must refuse. What grants: the agreement of
// the caller's source; else an explicit yes, or a visitor's string that says
// yes, or the law of the country if the site goes by it. What was granted is
// then cut down to what every other signal lets pass.
//
// It does not allocate unless several signals speak or a list of destinations
// must be cut.
func Decide(s Signals) Decision { return DecideWith(nil, s) }

// DecideWith is Decide with room for the reasons, which a hot path has at hand:
// what fits in the capacity of room is not allocated. Decision.Reasons may then
// share its memory, so room is used again only when the decision is not.
func DecideWith(room []Reason, s Signals) Decision {
	d := Decision{Consent: taxonomy.Consent{Day: s.Day}}
	why := reasons(room[:0])

	ground := s.ground(&why)
	d.Consent.Regime, d.Consent.Signal = ground.Regime, ground.Signal
	d.Consent.Purposes, d.Consent.Destinations = ground.Purposes, ground.Destinations

	d.limit(s.Statements, &ground, &why)
	if s.Explicit != nil && !*s.Explicit {
		d.refuse(&explicitNo, &why)
	}
	if s.Child {
		d.refuse(&child, &why)
	}
	switch {
	case s.GPC:
		d.signalled(&gpc, &gpcShare, s.ShareOnly, &why)
	case s.DNT:
		d.signalled(&dnt, &dntShare, s.ShareOnly, &why)
	}
	if s.OptOutCookie {
		d.refuse(&optOut, &why)
	}
	d.close()
	d.Reasons = why
	return d
}

// ground returns what is granted before anything refuses.
func (s *Signals) ground(why *reasons) (c taxonomy.Consent) {
	if s.Asserted != nil {
		return asserted(s.Asserted, s.Day, why)
	}
	byCountry := s.Mode == taxonomy.ModeByCountry
	c.Regime = taxonomy.RegimeOptIn
	if byCountry {
		c.Regime = s.regime()
	}
	for i := range s.Statements {
		if s.Statements[i].Regime == taxonomy.RegimeOptIn {
			c.Regime = taxonomy.RegimeOptIn // whoever asks for a yes is bound by it
		}
	}
	switch {
	case s.Explicit != nil && *s.Explicit:
		c.Signal, c.Purposes = taxonomy.SignalExplicit, taxonomy.MayAll
		why.add(&explicitYes)
		return c
	case byCountry && c.Regime == taxonomy.RegimeOptOut:
		c.Signal, c.Purposes = taxonomy.SignalMode, taxonomy.MayAll
		why.add(&optOutCountry)
		return c
	}
	for i := range s.Statements {
		// Each statement is a limit as well, so beginning with everything gives
		// what all of them allow.
		if t := &s.Statements[i]; t.Regime == taxonomy.RegimeOptIn && !t.Stale {
			c.Signal, c.Purposes = max(c.Signal, t.Signal), taxonomy.MayAll
		}
	}
	switch {
	case c.Purposes != 0 && c.Signal == taxonomy.SignalGPP:
		why.add(&gppYes)
	case c.Purposes != 0 && c.Signal == taxonomy.SignalTCF:
		why.add(&tcfYes)
	case c.Purposes != 0:
		why.add(&[1]Reason{{Signal: c.Signal, Code: "string_yes", Why: "the visitor's consent string says yes"}})
	case !byCountry:
		why.add(&noConsent)
	case c.Regime == taxonomy.RegimeUnknown:
		why.add(&countryUnknown)
	default:
		why.add(&countryStrict)
	}
	return c
}

// regime is that of the country, as the site takes it.
func (s *Signals) regime() taxonomy.Regime {
	r := RegimeOf(s.Country)
	open := s.NoGDPR || r == taxonomy.RegimeOptIn && !taxonomy.StrictCountry(s.Country) && slices.Contains(s.OptOutCountries, s.Country)
	if open {
		return taxonomy.RegimeOptOut
	}
	return r
}

func asserted(a *taxonomy.Agreement, day taxonomy.Day, why *reasons) taxonomy.Consent {
	c := taxonomy.Consent{Regime: taxonomy.RegimeContract, Signal: taxonomy.SignalAsserted}
	uses, err := taxonomy.ParsePurposes(a.Uses)
	switch {
	case err != nil:
		why.add(&agreementBad)
	case a.Ends != nil && day >= *a.Ends:
		why.add(&agreementEnded)
	case !uses.Has(storing):
		why.add(&agreementNoUse)
		c.Purposes = uses & taxonomy.MayStore
	default:
		why.add(&agreement)
		c.Purposes, c.Destinations = uses, sorted(a.Destinations)
	}
	return c
}

// limit cuts the decision down to what each statement lets pass. What a
// statement takes is measured against the ground, not against what the ones
// before it left, so that their order does not matter.
func (d *Decision) limit(statements []Statement, ground *taxonomy.Consent, why *reasons) {
	cuts := 0 // they stand before the ground's reason
	for i := range statements {
		t := &statements[i]
		c := &d.Consent
		cut := t.Stale || !t.Purposes.Has(storing) || ground.Purposes&^t.Purposes != 0
		switch {
		case t.Stale:
			c.Purposes = 0
		default:
			c.Purposes &= t.Purposes
			d.Expire = d.Expire || !t.Purposes.Has(storing)
			if t.Destinations != nil {
				to := sorted(t.Destinations)
				c.Destinations = both(c.Destinations, to)
				cut = cut || ground.Destinations == nil || len(both(ground.Destinations, to)) < len(ground.Destinations)
			}
		}
		if cut {
			*why = slices.Insert(*why, cuts, t.reason())
			cuts++
		}
	}
	if cuts == 0 {
		return
	}
	if cuts > 1 {
		slices.SortStableFunc((*why)[:cuts], func(a, b Reason) int {
			return cmp.Or(cmp.Compare(b.Signal, a.Signal), cmp.Compare(a.Code, b.Code))
		})
	}
	d.Consent.Signal = (*why)[0].Signal
}

// both is the destinations that two lists let be reached, where nil is all.
func both(a, b []taxonomy.DestinationID) []taxonomy.DestinationID {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return taxonomy.Consent{Destinations: a}.Meet(taxonomy.Consent{Destinations: b}).Destinations
}

func (t *Statement) reason() Reason {
	r := t.Reason
	if r.Code == "" {
		r = stringNarrows
		if t.Stale {
			r = stringInvalid
		}
	}
	r.Signal = t.Signal
	return r
}

// refuse lets nothing pass.
func (d *Decision) refuse(r *[1]Reason, why *reasons) {
	d.Consent.Purposes = 0
	d.Consent.Signal = r[0].Signal
	d.Expire = true
	why.first(r)
}

// signalled obeys a signal of the browser: in full, or where the site has it so
// only in that nobody is sent anywhere.
func (d *Decision) signalled(full, share *[1]Reason, shareOnly bool, why *reasons) {
	if !shareOnly {
		d.refuse(full, why)
		return
	}
	if c := &d.Consent; c.Purposes.Has(taxonomy.MayExport) {
		c.Purposes &^= taxonomy.MayExport
		c.Signal = share[0].Signal
		why.first(share)
	}
}

// close takes away what has no meaning without what was refused.
func (d *Decision) close() {
	c := &d.Consent
	switch {
	case !c.Purposes.Has(taxonomy.MayStore):
		c.Purposes = 0
	case !c.Purposes.Has(taxonomy.MayProfile):
		c.Purposes = taxonomy.MayStore
	}
	if c.Destinations != nil && len(c.Destinations) == 0 {
		c.Purposes &^= taxonomy.MayExport
	}
	if !c.Purposes.Has(taxonomy.MayExport) {
		c.Destinations = nil
	}
}

// sorted returns the destinations sorted and without repeats, and nil only for
// nil: an empty list is nobody, nil is everyone.
func sorted(ds []taxonomy.DestinationID) []taxonomy.DestinationID {
	if ds == nil {
		return nil
	}
	for i := 1; i < len(ds); i++ {
		if ds[i-1] >= ds[i] {
			c := slices.Clone(ds)
			slices.Sort(c)
			return slices.Compact(c)
		}
	}
	return ds
}

// optOutCountries are those whose law allows until a no. Every other country is
// strict: a country comes in here with the law that says so, not by default.
var optOutCountries = [...]string{
	"US", // the states' privacy acts (California's first): opt-out of sale, sharing and targeted advertising
}

// RegimeOf returns the regime of a country, two capital letters of ISO 3166-1.
// What is not two capital letters is RegimeUnknown.
func RegimeOf(country string) taxonomy.Regime {
	if len(country) != 2 || country[0] < 'A' || country[0] > 'Z' || country[1] < 'A' || country[1] > 'Z' {
		return taxonomy.RegimeUnknown
	}
	if slices.Contains(optOutCountries[:], country) {
		return taxonomy.RegimeOptOut
	}
	return taxonomy.RegimeOptIn
}
