package consent

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

const today = taxonomy.Day(20782)

var (
	yes, no = true, false
	answers = []*bool{nil, &yes, &no}
	modes   = []taxonomy.ConsentMode{taxonomy.ModeOptIn, taxonomy.ModeByCountry, "", "opt-out"}
	lands   = []string{"", "US", "DE", "us", "USA", "XX", "\x00\x00"}
	uses    = []string{"store", "profile", "insight", "training", "export"}
	dests   = [][]taxonomy.DestinationID{nil, {}, {"a"}, {"b", "a", "b"}, {"c"}}
	all     = []taxonomy.DestinationID{"a", "b", "c", "other"}
)

// verdict is what the oracle says, one question at a time.
type verdict struct {
	may    map[taxonomy.Purposes]bool
	to     map[taxonomy.DestinationID]bool
	expire bool
}

// oracle answers from the table in the README, a question at a time and without
// any set arithmetic: it is slow, and shares nothing with Decide.
func oracle(s Signals) verdict {
	grants := func(p taxonomy.Purposes, d taxonomy.DestinationID) bool { // d "" asks of no destination
		// Block A: who says no, is obeyed.
		signalled := s.GPC || s.DNT
		if s.OptOutCookie || s.Child || s.Explicit != nil && *s.Explicit == false {
			return false
		}
		if signalled && (!s.ShareOnly || p == taxonomy.MayExport) {
			return false
		}
		// Block B: every string must agree.
		optIn := false
		stringYes := false
		for _, t := range s.Statements {
			if t.Stale || t.Purposes&p == 0 {
				return false
			}
			if p == taxonomy.MayExport && d != "" && t.Destinations != nil && !slices.Contains(t.Destinations, d) {
				return false
			}
			if t.Regime == taxonomy.RegimeOptIn {
				optIn, stringYes = true, true
			}
		}
		// Block C: somebody must say yes.
		if a := s.Asserted; a != nil {
			if a.Ends != nil && *a.Ends <= s.Day {
				return false
			}
			for _, u := range a.Uses {
				if !slices.Contains(uses, u) {
					return false
				}
			}
			word := map[taxonomy.Purposes]string{taxonomy.MayStore: "store", taxonomy.MayProfile: "profile",
				taxonomy.MayInsight: "insight", taxonomy.MayTrain: "training", taxonomy.MayExport: "export"}[p]
			if !slices.Contains(a.Uses, word) {
				return false
			}
			return p != taxonomy.MayExport || d == "" || a.Destinations == nil || slices.Contains(a.Destinations, d)
		}
		if s.Explicit != nil && *s.Explicit {
			return true
		}
		if stringYes {
			return true
		}
		europe := strings.Contains("AT BE BG HR CY CZ DK EE FI FR DE GR HU IS IE IT LV LI LT LU MT NL NO PL PT RO SK SI ES SE GB CH", s.Country)
		opened := !europe && slices.Contains(s.OptOutCountries, s.Country) && len(s.Country) == 2 && s.Country == strings.ToUpper(s.Country)
		return s.Mode == "by-country" && (s.Country == "US" || s.NoGDPR || opened) && !optIn
	}
	v := verdict{may: map[taxonomy.Purposes]bool{}, to: map[taxonomy.DestinationID]bool{}}
	store := grants(taxonomy.MayStore, "")
	profile := store && grants(taxonomy.MayProfile, "")
	v.may[taxonomy.MayStore] = store
	v.may[taxonomy.MayProfile] = profile
	v.may[taxonomy.MayInsight] = profile && grants(taxonomy.MayInsight, "")
	v.may[taxonomy.MayTrain] = profile && grants(taxonomy.MayTrain, "")
	for _, d := range all {
		v.to[d] = profile && grants(taxonomy.MayExport, d)
		v.may[taxonomy.MayExport] = v.may[taxonomy.MayExport] || v.to[d]
	}
	v.expire = s.OptOutCookie || s.Child || (s.GPC || s.DNT) && !s.ShareOnly || s.Explicit != nil && !*s.Explicit
	for _, t := range s.Statements {
		if !t.Stale && (t.Purposes&taxonomy.MayStore == 0 || t.Purposes&taxonomy.MayProfile == 0) {
			v.expire = true
		}
	}
	return v
}

// check compares Decide with the oracle and with itself.
func check(s Signals) error {
	d, v := Decide(s), oracle(s)
	for p, want := range v.may {
		if got := d.Consent.Purposes.Has(p); got != want {
			return fmt.Errorf("%v: got %v, want %v", p, got, want)
		}
	}
	for x, want := range v.to {
		if got := d.ExportTo(x); got != want {
			return fmt.Errorf("export to %s: got %v, want %v", x, got, want)
		}
	}
	if d.Expire != v.expire {
		return fmt.Errorf("expire: got %v, want %v", d.Expire, v.expire)
	}
	keep := v.may[taxonomy.MayProfile]
	if d.SetCookie() != keep || d.ReadCookie() != keep || d.Store() != keep || d.Profile() != keep {
		return fmt.Errorf("cookie %v %v, store %v, profile %v; want all %v", d.SetCookie(), d.ReadCookie(), d.Store(), d.Profile(), keep)
	}
	if d.Export() != v.may[taxonomy.MayExport] {
		return fmt.Errorf("export: got %v", d.Export())
	}
	if d.Expire && keep {
		return fmt.Errorf("a cookie is set and expired at once")
	}
	if d.Consent.Day != s.Day || d.Consent.Purposes&^taxonomy.MayAll != 0 {
		return fmt.Errorf("summary %+v", d.Consent)
	}
	if !slices.IsSorted(d.Consent.Destinations) || !d.Export() && d.Consent.Destinations != nil {
		return fmt.Errorf("destinations %v", d.Consent.Destinations)
	}
	if len(d.Reasons) == 0 || d.Reasons[0].Signal != d.Consent.Signal {
		return fmt.Errorf("reasons %+v, signal %v", d.Reasons, d.Consent.Signal)
	}
	for _, r := range d.Reasons {
		if r.Code == "" || r.Why == "" {
			return fmt.Errorf("an empty reason: %+v", d.Reasons)
		}
	}
	return nil
}

// The whole finite space: every answer, opt-out, mode and country, with every
// agreement, and with every statement, alone.
func TestDecideEqualsTheTableForEverySignal(t *testing.T) {
	ends := []*taxonomy.Day{nil, ptr(today), ptr(today + 1)}
	var agreements []*taxonomy.Agreement
	agreements = append(agreements, nil, &taxonomy.Agreement{Uses: []string{"store", "profile", "sell"}})
	for set := range 1 << len(uses) {
		a := taxonomy.Agreement{}
		for i, u := range uses {
			if set>>i&1 == 1 {
				a.Uses = append(a.Uses, u)
			}
		}
		for _, d := range dests {
			for _, e := range ends {
				b := a
				b.Destinations, b.Ends = d, e
				agreements = append(agreements, &b)
			}
		}
	}
	statements := [][]Statement{nil}
	for set := range taxonomy.MayAll + 1 {
		for _, regime := range []taxonomy.Regime{taxonomy.RegimeOptIn, taxonomy.RegimeOptOut} {
			for _, d := range dests {
				for _, how := range []Statement{{}, {Stale: true}} {
					how.Signal, how.Regime, how.Purposes, how.Destinations = taxonomy.SignalTCF, regime, set, d
					statements = append(statements, []Statement{how})
				}
			}
		}
	}
	n, bad := 0, 0
	try := func(s Signals) {
		n++
		if err := check(s); err != nil && bad < 10 {
			bad++
			t.Errorf("%s: %v", show(s), err)
		}
	}
	for _, out := range []bool{false, true} {
		for _, gpc := range []bool{false, true} {
			for _, answer := range answers {
				for _, mode := range modes {
					for _, land := range lands {
						s := Signals{OptOutCookie: out, GPC: gpc, Explicit: answer, Mode: mode, Country: land, Day: today}
						for _, a := range agreements {
							s.Asserted = a
							try(s)
						}
						s.Asserted = nil
						for _, st := range statements {
							s.Statements = st
							try(s)
						}
					}
				}
			}
		}
	}
	t.Logf("%d combinations", n)
}

func ptr(d taxonomy.Day) *taxonomy.Day { return &d }

func show(s Signals) string {
	var b strings.Builder
	fmt.Fprintf(&b, "optout %v gpc %v dnt %v share only %v child %v mode %q country %q no gdpr %v open %q", s.OptOutCookie, s.GPC, s.DNT, s.ShareOnly, s.Child, s.Mode, s.Country, s.NoGDPR, s.OptOutCountries)
	if s.Explicit != nil {
		fmt.Fprintf(&b, " granted %v", *s.Explicit)
	}
	if s.Asserted != nil {
		fmt.Fprintf(&b, " agreement %v %v %v", s.Asserted.Uses, s.Asserted.Destinations, s.Asserted.Ends)
	}
	for _, t := range s.Statements {
		fmt.Fprintf(&b, " [%v %d %v %v stale %v]", t.Signal, t.Regime, t.Purposes, t.Destinations, t.Stale)
	}
	return b.String()
}

var anyDestinations = rapid.Custom(func(t *rapid.T) []taxonomy.DestinationID {
	if rapid.Bool().Draw(t, "every") {
		return nil
	}
	return rapid.SliceOfN(rapid.SampledFrom(all), 0, 4).Draw(t, "destinations")
})

var anyStatement = rapid.Custom(func(t *rapid.T) Statement {
	return Statement{
		Signal:       taxonomy.Signal(rapid.IntRange(0, 9).Draw(t, "signal")),
		Regime:       taxonomy.Regime(rapid.IntRange(0, 4).Draw(t, "regime")),
		Purposes:     taxonomy.Purposes(rapid.Uint16().Draw(t, "purposes")) | rapid.SampledFrom([]taxonomy.Purposes{0, taxonomy.MayAll}).Draw(t, "or"),
		Destinations: anyDestinations.Draw(t, "to"),
		Stale:        rapid.IntRange(0, 4).Draw(t, "stale") == 0,
	}
})

var anySignals = rapid.Custom(func(t *rapid.T) Signals {
	s := Signals{
		OptOutCookie: rapid.IntRange(0, 5).Draw(t, "optout") == 0,
		GPC:          rapid.IntRange(0, 5).Draw(t, "gpc") == 0,
		Explicit:     rapid.SampledFrom(answers).Draw(t, "answer"),
		Mode:         rapid.SampledFrom(modes).Draw(t, "mode"),
		Country:      rapid.SampledFrom(append([]string{"CA", "GB"}, lands...)).Draw(t, "country"),
		DNT:          rapid.IntRange(0, 5).Draw(t, "dnt") == 0,
		ShareOnly:    rapid.Bool().Draw(t, "share only"),
		Child:        rapid.IntRange(0, 9).Draw(t, "child") == 0,
		NoGDPR:       rapid.IntRange(0, 5).Draw(t, "no gdpr") == 0,
		Day:          taxonomy.Day(rapid.Int32().Draw(t, "day")),
		Statements:   rapid.SliceOfN(anyStatement, 0, 4).Draw(t, "statements"),
	}
	if rapid.Bool().Draw(t, "opt-out countries") {
		s.OptOutCountries = rapid.SliceOfN(rapid.SampledFrom([]string{"CA", "DE", "GB", "us", ""}), 0, 3).Draw(t, "countries")
	}
	if rapid.Bool().Draw(t, "asserted") {
		s.Asserted = &taxonomy.Agreement{
			Uses:         rapid.SliceOfN(rapid.SampledFrom(append([]string{"sell"}, append(uses, uses...)...)), 0, 8).Draw(t, "uses"),
			Destinations: anyDestinations.Draw(t, "agreed destinations"),
		}
		if rapid.Bool().Draw(t, "ends") {
			s.Asserted.Ends = ptr(s.Day + taxonomy.Day(rapid.IntRange(-2, 2).Draw(t, "in")))
		}
	}
	return s
})

func TestDecideEqualsTheTableForSeveralStrings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anySignals.Draw(t, "signals")
		if err := check(s); err != nil {
			t.Fatalf("%s: %v", show(s), err)
		}
	})
}

// within says what a grants beyond b, or "".
func within(a, b Decision) string {
	if more := a.Consent.Purposes &^ b.Consent.Purposes; more != 0 {
		return "it grants " + more.String()
	}
	for _, d := range append(slices.Clone(all), "never-named") {
		if a.ExportTo(d) && !b.ExportTo(d) {
			return "it grants export to " + string(d)
		}
	}
	if b.Expire && !a.Expire {
		return "it keeps a cookie that was expired"
	}
	return ""
}

func TestAnOptOutOrALostGrantNeverGrants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anySignals.Draw(t, "signals")
		less := s
		less.Statements = slices.Clone(s.Statements)
		if s.Asserted != nil {
			a := *s.Asserted
			less.Asserted = &a
		}
		expires := true // whether what was expired must still be
		steps := rapid.IntRange(1, 4).Draw(t, "steps")
		for range steps {
			switch rapid.IntRange(0, 15).Draw(t, "step") {
			case 0:
				less.OptOutCookie = true
			case 1:
				less.GPC = true
			case 2:
				less.Explicit = &no
			case 3:
				if less.Explicit != nil && *less.Explicit {
					less.Explicit = nil
				}
			case 4:
				less.Mode = taxonomy.ModeOptIn
			case 5:
				less.Country = rapid.SampledFrom([]string{"", "DE"}).Draw(t, "stricter country")
			case 6: // a limit more
				st := anyStatement.Draw(t, "statement")
				if st.Regime == taxonomy.RegimeOptIn && !st.Stale {
					st.Regime = taxonomy.RegimeOptOut
				}
				less.Statements = append(less.Statements, st)
			case 7: // a purpose less
				if n := len(less.Statements); n > 0 {
					i := rapid.IntRange(0, n-1).Draw(t, "which")
					less.Statements[i].Purposes &= taxonomy.Purposes(rapid.Uint16().Draw(t, "mask"))
				}
			case 8: // fewer destinations
				if n := len(less.Statements); n > 0 {
					i := rapid.IntRange(0, n-1).Draw(t, "which")
					d := anyDestinations.Draw(t, "to")
					if d == nil {
						d = []taxonomy.DestinationID{}
					}
					d = slices.DeleteFunc(slices.Clone(d), func(x taxonomy.DestinationID) bool {
						return less.Statements[i].Destinations != nil && !slices.Contains(less.Statements[i].Destinations, x)
					})
					less.Statements[i].Destinations = d
				}
			case 9: // a string goes bad: nothing is granted, but nothing erased
				if n := len(less.Statements); n > 0 {
					less.Statements[rapid.IntRange(0, n-1).Draw(t, "which")].Stale = true
					expires = false
				}
			case 11:
				less.DNT = true
			case 12:
				less.Child = true
			case 13: // the site no longer keeps them to itself, but refuses
				less.ShareOnly = false
			case 14:
				less.NoGDPR = false
			case 15:
				less.OptOutCountries = nil
			case 10:
				if a := less.Asserted; a != nil {
					if rapid.Bool().Draw(t, "end it") {
						a.Ends = ptr(s.Day)
					} else if len(a.Uses) > 0 && !slices.Contains(a.Uses, "sell") {
						a.Uses = a.Uses[1:]
					}
				}
			}
		}
		before, after := Decide(s), Decide(less)
		if !expires {
			before.Expire = false
		}
		if msg := within(after, before); msg != "" {
			t.Fatalf("from %s\nto %s:\n%s", show(s), show(less), msg)
		}
	})
}

func TestTheOrderOfStringsDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anySignals.Draw(t, "signals")
		o := s
		o.Statements = rapid.Permutation(s.Statements).Draw(t, "order")
		a, b := Decide(s), Decide(o)
		if !a.Consent.Equal(b.Consent) || a.Expire != b.Expire || !slices.Equal(a.Reasons, b.Reasons) {
			t.Fatalf("%s: %+v, in another order %+v", show(s), a, b)
		}
	})
}

func TestDecideChangesNothingOfItsInput(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anySignals.Draw(t, "signals")
		before := show(s)
		a := Decide(s)
		reasons := slices.Clone(a.Reasons)
		Decide(anySignals.Draw(t, "others")) // nor of what it returned before
		if show(s) != before || !slices.Equal(reasons, a.Reasons) {
			t.Fatalf("%s became %s", before, show(s))
		}
	})
}

// R23: who says no, is forgotten; who says nothing, is not.
func TestOnlyANoExpiresTheCookie(t *testing.T) {
	valid := func(p taxonomy.Purposes) []Statement {
		return []Statement{{Signal: taxonomy.SignalTCF, Regime: taxonomy.RegimeOptIn, Purposes: p}}
	}
	for name, c := range map[string]struct {
		s    Signals
		want bool
	}{
		"silence":                  {Signals{}, false},
		"silence in the US":        {Signals{Mode: taxonomy.ModeByCountry, Country: "US"}, false},
		"opt-out":                  {Signals{OptOutCookie: true, Explicit: &yes}, true},
		"GPC":                      {Signals{GPC: true, Explicit: &yes}, true},
		"GPC, kept to the site":    {Signals{GPC: true, ShareOnly: true, Explicit: &yes}, false},
		"DNT":                      {Signals{DNT: true, Explicit: &yes}, true},
		"a child":                  {Signals{Child: true, Explicit: &yes}, true},
		"granted: false":           {Signals{Explicit: &no}, true},
		"no storage":               {Signals{Statements: valid(taxonomy.MayAll &^ taxonomy.MayStore)}, true},
		"no profiling":             {Signals{Statements: valid(taxonomy.MayAll &^ taxonomy.MayProfile)}, true},
		"no export":                {Signals{Statements: valid(taxonomy.MayAll &^ taxonomy.MayExport)}, false},
		"no training":              {Signals{Statements: valid(taxonomy.MayAll &^ taxonomy.MayTrain)}, false},
		"a broken string":          {Signals{Explicit: &yes, Statements: []Statement{{Stale: true}}}, false},
		"a broken string and a no": {Signals{Explicit: &no, Statements: []Statement{{Stale: true}}}, true},
		"an agreement's end":       {Signals{Asserted: &taxonomy.Agreement{}}, false},
	} {
		if d := Decide(c.s); d.Expire != c.want {
			t.Errorf("%s: expire = %v, want %v", name, d.Expire, c.want)
		}
	}
}

func TestTheFirstReasonNamesTheSignalAndHowToMendIt(t *testing.T) {
	us := Signals{Mode: taxonomy.ModeByCountry, Country: "US"}
	for _, c := range []struct {
		s    Signals
		code string
		sig  taxonomy.Signal
		mend bool
	}{
		{Signals{}, "no_consent", taxonomy.SignalNone, true},
		{Signals{Mode: taxonomy.ModeByCountry}, "country_unknown", taxonomy.SignalNone, true},
		{Signals{Mode: taxonomy.ModeByCountry, Country: "DE"}, "country_strict", taxonomy.SignalNone, true},
		{us, "optout_country", taxonomy.SignalMode, false},
		{Signals{Explicit: &yes}, "explicit_yes", taxonomy.SignalExplicit, false},
		{Signals{Explicit: &no}, "explicit_no", taxonomy.SignalExplicit, true},
		{Signals{Explicit: &yes, GPC: true}, "gpc", taxonomy.SignalGPC, true},
		{Signals{Explicit: &no, GPC: true, OptOutCookie: true}, "optout_cookie", taxonomy.SignalOptOut, true},
		{Signals{Asserted: &taxonomy.Agreement{Uses: uses}}, "agreement", taxonomy.SignalAsserted, false},
		{Signals{Asserted: &taxonomy.Agreement{Uses: uses}, Explicit: &no}, "explicit_no", taxonomy.SignalExplicit, true},
		{Signals{Asserted: &taxonomy.Agreement{Uses: uses, Ends: ptr(0)}}, "agreement_ended", taxonomy.SignalAsserted, true},
		{Signals{Asserted: &taxonomy.Agreement{Uses: []string{"x"}}}, "agreement_invalid", taxonomy.SignalAsserted, true},
		{Signals{Asserted: &taxonomy.Agreement{Uses: []string{"store"}}}, "agreement_too_narrow", taxonomy.SignalAsserted, true},
		{Signals{Explicit: &yes, Statements: []Statement{{Signal: taxonomy.SignalUSP, Stale: true}}}, "string_invalid", taxonomy.SignalUSP, true},
		{Signals{Explicit: &yes, Statements: []Statement{{Signal: taxonomy.SignalUSP, Reason: Reason{Code: "usp_sale", Why: "w", Mend: "m"}}}}, "usp_sale", taxonomy.SignalUSP, true},
		{Signals{Statements: []Statement{{Signal: taxonomy.SignalGPP, Regime: taxonomy.RegimeOptIn, Purposes: taxonomy.MayAll}}}, "string_yes", taxonomy.SignalGPP, false},
	} {
		d := Decide(c.s)
		if r := d.Reasons[0]; r.Code != c.code || r.Signal != c.sig || d.Consent.Signal != c.sig || (r.Mend != "") != c.mend {
			t.Errorf("%s: got %+v, signal %v; want %s of %v", show(c.s), r, d.Consent.Signal, c.code, c.sig)
		}
	}
}

func TestDecideDoesNotAllocateForOneSignal(t *testing.T) {
	tcf := []Statement{{Signal: taxonomy.SignalTCF, Regime: taxonomy.RegimeOptIn, Purposes: taxonomy.MayAll}}
	for name, s := range map[string]Signals{
		"silence": {}, "yes": {Explicit: &yes}, "country": {Mode: taxonomy.ModeByCountry, Country: "US"},
		"string":    {Statements: tcf},
		"agreement": {Asserted: &taxonomy.Agreement{Uses: uses, Destinations: []taxonomy.DestinationID{"a"}}},
	} {
		if n := testing.AllocsPerRun(100, func() { Decide(s) }); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	s := Signals{Explicit: &yes, Mode: taxonomy.ModeByCountry, Country: "DE", Day: today}
	b.ReportAllocs()
	for b.Loop() {
		Decide(s)
	}
}
