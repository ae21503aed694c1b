package consent

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	decide "github.com/ebb-dmp/ebb/taxonomy/consent"
)

var (
	anyText = rapid.OneOf(rapid.Just(""), rapid.String(), rapid.StringMatching(`[A-Za-z0-9_.~-]{0,80}`), rapid.Custom(func(t *rapid.T) string {
		v := vectors[rapid.IntRange(0, len(vectors)-1).Draw(t, "vector")].s
		if rapid.Bool().Draw(t, "spoil") {
			i := rapid.IntRange(0, len(v)-1).Draw(t, "at")
			v = v[:i] + rapid.StringMatching(`[A-Za-z0-9_.-]?`).Draw(t, "with") + v[i+1:]
		}
		return v
	}))
	anyGPP = rapid.OneOf(anyText, rapid.Custom(func(t *rapid.T) string {
		heads := []string{"DBABLA", "DBABBg", "DBABTA", "DBABMA", "DBACNY", "DBABEYA", "DBABUYA"}
		s := rapid.SampledFrom(heads).Draw(t, "head")
		for range rapid.IntRange(1, 2).Draw(t, "sections") {
			s += "~" + rapid.OneOf(anyText, rapid.SampledFrom([]string{"CAAqAAAAAACA.QA", "CEAVAAAAAACA.QA", "CAAqAAAAAACA.YA", "BAQAAACA.QA", "1YNN", "1YYN", "BQBA.QA", "BQBA.AAA"})).Draw(t, "section")
		}
		return s
	}))
	anyStrings = rapid.Custom(func(t *rapid.T) tagserver.Strings {
		return tagserver.Strings{TCF: anyText.Draw(t, "tcf"), GPP: anyGPP.Draw(t, "gpp"), GPPSID: rapid.OneOf(rapid.SampledFrom([]string{"", "2", "7", "6", "2,6", "-1"}), rapid.String()).Draw(t, "sid"),
			USP: rapid.OneOf(rapid.SampledFrom([]string{"", "1YNN", "1YYN", "1---"}), rapid.String()).Draw(t, "usp"), GDPR: rapid.SampledFrom([]string{"", "1"}).Draw(t, "gdpr")}
	})
)

// checkTotal reads strings of any kind and holds what is true of every answer.
func checkTotal(t interface {
	Helper()
	Fatalf(string, ...any)
}, r *Reader, s tagserver.Strings,
) decide.Decision {
	t.Helper()
	st := r.Read(nil, s, now)
	for _, x := range st {
		if x.Purposes&^taxonomy.MayAll != 0 || x.Stale && (x.Purposes != 0 || x.Reason.Mend == "") || x.Purposes != taxonomy.MayAll && (x.Reason.Code == "" || x.Reason.Why == "") {
			t.Fatalf("%+v: statement %+v", s, x)
		}
		if x.Regime == taxonomy.RegimeOptIn && x.Purposes.Has(taxonomy.MayExport) && x.Destinations == nil {
			t.Fatalf("%+v: reaches whom nobody was asked about", s)
		}
	}
	if s != (tagserver.Strings{}) && s != (tagserver.Strings{GDPR: "0"}) && len(st) == 0 {
		t.Fatalf("%+v: no statement", s)
	}
	d := decide.Decide(decide.Signals{Mode: taxonomy.ModeByCountry, Country: "US", Day: now, Statements: st})
	if len(d.Reasons) == 0 || d.Expire && d.Store() {
		t.Fatalf("%+v: %+v", s, d)
	}
	return d
}

// P3: every string gets an answer, and what it is alone it is among others: a
// string that is added never grants what was refused without it, in a country
// whose law needs no yes.
func TestReadingIsTotalAndMonotone(t *testing.T) {
	r := asVendor(t, 1111, 1111, 1112)
	rapid.Check(t, func(t *rapid.T) {
		s := anyStrings.Draw(t, "strings")
		d := checkTotal(t, r, s)
		for _, less := range []func(*tagserver.Strings){func(x *tagserver.Strings) { x.TCF = "" }, func(x *tagserver.Strings) { x.USP = "" }, func(x *tagserver.Strings) { x.GPP, x.GPPSID = "", "" }} {
			fewer := s
			less(&fewer)
			fewer.GDPR = "" // with it, the absence of a string is a signal itself
			f := checkTotal(t, r, fewer)
			if extra := d.Consent.Purposes &^ f.Consent.Purposes; extra != 0 {
				t.Fatalf("%+v grants %v more than %+v", s, extra, fewer)
			}
			for _, x := range r.all {
				if d.ExportTo(x) && !f.ExportTo(x) {
					t.Fatalf("%+v reaches %s, %+v does not", s, x, fewer)
				}
			}
		}
		r.Explain(s.TCF, now)
		r.Explain(s.GPP, now)
	})
}

// A purpose, a vendor or a disclosure that is taken from a string, or a
// restriction that is added, never grants anything.
func TestATCStringThatAllowsLessIsReadAsLess(t *testing.T) {
	list := listOf(&Vendor{ID: 5, consent: purposesOf(1, 3, 4, 9), interest: purposesOf(10), flexible: purposesOf(9)}, &Vendor{ID: 7, consent: purposesOf(1, 4)})
	o := Options{Role: AsVendor, Vendor: 5, List: list, Destinations: []Destination{{ID: "seven", Vendor: 7}, {ID: "syncs", Vendor: 7, Syncs: true}}}
	vendor := mustReader(t, o)
	o.Role = AsPublisher
	publisher := mustReader(t, o)
	ids := func(most int) *rapid.Generator[[]int] {
		return rapid.SliceOfNDistinct(rapid.IntRange(1, most), 0, most, rapid.ID[int])
	}
	rapid.Check(t, func(t *rapid.T) {
		m := good()
		m.consent, m.interest, m.publisher = ids(11).Draw(t, "consent"), ids(11).Draw(t, "interest"), ids(11).Draw(t, "publisher")
		m.vendors, m.interests, m.disclosed = ids(9).Draw(t, "vendors"), ids(9).Draw(t, "interests"), ids(9).Draw(t, "disclosed")
		m.one = rapid.Bool().Draw(t, "one")
		for range rapid.IntRange(0, 3).Draw(t, "restrictions") {
			first := rapid.IntRange(1, 9).Draw(t, "first")
			m.restrictions = append(m.restrictions, restriction{rapid.IntRange(1, 12).Draw(t, "p"), rapid.IntRange(0, 3).Draw(t, "kind"), first, rapid.IntRange(first, 9).Draw(t, "last")})
		}
		less := m
		switch f := rapid.SampledFrom([]*[]int{&less.consent, &less.vendors, &less.interest, &less.interests, &less.disclosed, &less.publisher}).Draw(t, "field"); {
		case len(*f) > 0 && rapid.Bool().Draw(t, "take"):
			*f = (*f)[1:]
		default:
			less.restrictions = append(append([]restriction{}, m.restrictions...), restriction{rapid.IntRange(1, 11).Draw(t, "more"), 0, 1, 9})
		}
		for _, r := range []*Reader{vendor, publisher} {
			a, b := r.readTCF(taxonomy.SignalTCF, m.String(), now), r.readTCF(taxonomy.SignalTCF, less.String(), now)
			if extra := b.Purposes &^ a.Purposes; extra != 0 || a.Stale || b.Stale {
				t.Fatalf("%+v: %v more (%v, %v)", less, extra, a.Reason, b.Reason)
			}
			da, db := decide.Decide(decide.Signals{Statements: []decide.Statement{a}}), decide.Decide(decide.Signals{Statements: []decide.Statement{b}})
			for _, x := range r.all {
				if db.ExportTo(x) && !da.ExportTo(x) {
					t.Fatalf("%+v: reaches %s", less, x)
				}
			}
		}
	})
}

func FuzzRead(f *testing.F) {
	for _, v := range vectors {
		f.Add(v.s, "DBABMA~"+v.s, "2", "1YNN")
	}
	for _, v := range usVectors {
		f.Add(v.s.TCF, v.s.GPP, v.s.GPPSID, v.s.USP)
	}
	f.Add("C"+strings.Repeat("0", 34)+"AHFA"+strings.Repeat("0", 153), "DBAB6AlBY~x", "7,8,9", "1YYNN")
	f.Add(bomb(50), "DBACNY~"+bomb(50)+"~1YYN", "2,6", "----")
	r := asVendor(f, 5, 5, 7, 1111)
	publisher := mustReader(f, Options{Role: AsPublisher, PurposeOne: []string{"DE"}})
	f.Fuzz(func(t *testing.T, tcf, gpp, sid, usp string) {
		s := tagserver.Strings{TCF: tcf, GPP: gpp, GPPSID: sid, USP: usp}
		checkTotal(t, r, s)
		checkTotal(t, publisher, s)
		r.Explain(tcf, now)
		r.Explain(gpp, now)
		r.Explain(usp, now)
	})
}

func FuzzParseVendorList(f *testing.F) {
	f.Add(`{"gvlSpecificationVersion":3,"vendorListVersion":3,"lastUpdated":"2026-01-01T00:00:00Z","vendors":{"1111":{"id":1111,"name":"A DMP","purposes":[1,3],"legIntPurposes":[1,7],"flexiblePurposes":[7],"deletedDate":"2026-01-01T00:00:00Z"}}}`)
	f.Add(`{"cmps":{"1":{"id":1,"deletedDate":"2026-01-01T00:00:00Z"}}}`)
	f.Add(`{"vendors":{"1":null}}`)
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseVendorList(strings.NewReader(s))
		if (l == nil) == (err == nil) || l != nil && l.Len() == 0 {
			t.Fatalf("list %v, error %v", l, err)
		}
		if c, err := ParseCMPList(strings.NewReader(s)); (c == nil) == (err == nil) {
			t.Fatalf("list %v, error %v", c, err)
		}
	})
}
