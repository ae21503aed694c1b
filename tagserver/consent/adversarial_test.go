package consent

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	decide "github.com/ebb-dmp/ebb/taxonomy/consent"
)

// The named cases of what people and machines send. Each is one test.

func code(r *Reader, s string) string {
	st := r.readTCF(taxonomy.SignalTCF, s, now)
	if !st.Stale {
		return "valid"
	}
	return st.Reason.Code
}

func wantNothing(t *testing.T, r *Reader, s tagserver.Strings, name string) {
	t.Helper()
	d := inUS(r, s, now)
	yes := true
	e := decide.Decide(decide.Signals{Explicit: &yes, Mode: taxonomy.ModeOptIn, Day: now, Statements: r.Read(nil, s, now)})
	if d.Store() || e.Store() || d.Expire || d.Reasons[0].Mend == "" {
		t.Errorf("%s: stores %v and %v, erases %v, %+v", name, d.Store(), e.Store(), d.Expire, d.Reasons[0])
	}
}

func TestTheStringThatPanicsElsewhere(t *testing.T) { // case 1
	s := "C" + strings.Repeat("0", 34) + "AHFA" + strings.Repeat("0", 153)
	if got := code(asVendor(t, 5), s); got == "valid" {
		t.Error("counts")
	}
}

func TestTheHeaderThatHangsElsewhere(t *testing.T) { // case 2
	r := mustReader(t, Options{})
	const s = "DBAB6AlBY~x"
	wantNothing(t, r, tagserver.Strings{GPP: s}, s)
	buf := make([]decide.Statement, 0, 4)
	if n := testing.AllocsPerRun(50, func() { r.Read(buf, tagserver.Strings{GPP: s}, now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestRestrictionsOfAKindAddUp(t *testing.T) { // case 3
	m := good()
	m.restrictions = []restriction{{3, 0, 5, 5}, {3, 0, 7, 7}}
	for _, v := range []uint16{5, 7} {
		if allowed(asVendor(t, v), m.String()).Has(taxonomy.MayProfile) {
			t.Errorf("vendor %d profiles", v)
		}
	}
}

func TestAnUndefinedRestrictionForbids(t *testing.T) {
	m := good()
	m.restrictions = []restriction{{3, 3, 1, 9}}
	if allowed(asVendor(t, 5), m.String()).Has(taxonomy.MayProfile) {
		t.Error("vendor 5 profiles")
	}
}

func TestGlobalScopeAndOldPoliciesDoNotCount(t *testing.T) { // case 4
	for want, spoil := range map[string]func(*made){
		"tcf_global": func(m *made) { m.global = true }, "tcf_policy": func(m *made) { m.policy = 3 }, "tcf_version": func(m *made) { m.version = 3 },
		"tcf_dates": func(m *made) { m.updated = m.created.Add(-time.Hour * 24) }, "valid": func(*made) {},
	} {
		m := good()
		spoil(&m)
		if got := code(asVendor(t, 5), m.String()); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestRangesBackwardZeroOrTooHighAreRefused(t *testing.T) { // case 5
	core := func(first, last, most uint64) string {
		m := good()
		m.vendors, m.interests = nil, nil
		s, _, _ := strings.Cut(m.String(), ".")
		b := &writer{}
		for i := range 213 {
			b.num(uint64(sextet[s[i/6]]>>uint(5-i%6)&1), 1)
		}
		b.num(most, 16).num(1, 1).num(1, 12).num(1, 1).num(first, 16).num(last, 16) // vendors
		b.num(0, 17).num(0, 12)                                                     // interests, restrictions
		return b.String() + "." + (&writer{}).num(1, 3).num(9, 16).num(0, 1).num(0x1ff, 9).String()
	}
	for _, c := range []struct {
		first, last, most uint64
		want              string
	}{{5, 5, 9, "valid"}, {4, 9, 9, "valid"}, {9, 5, 9, "tcf_malformed"}, {0, 5, 9, "tcf_malformed"}, {5, 10, 9, "tcf_malformed"}} {
		if got := code(asVendor(t, 5), core(c.first, c.last, c.most)); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

// bomb has n ranges of every vendor, without the bits that would end it well.
func bomb(n int) string {
	m := good()
	m.vendors = nil
	s, _, _ := strings.Cut(m.String(), ".")
	b := &writer{}
	for i := range 213 {
		b.num(uint64(sextet[s[i/6]]>>uint(5-i%6)&1), 1)
	}
	b.num(0xffff, 16).num(1, 1).num(uint64(n), 12)
	for range n {
		b.num(1, 1).num(1, 16).num(0xffff, 16)
	}
	return b.num(0, 17+12).String() + ".IAKP__8A"
}

func TestARangeBombCostsWhatItIsLong(t *testing.T) { // case 6
	r := asVendor(t, 5)
	buf := make([]decide.Statement, 0, 4)
	for _, n := range []int{50, 1400} {
		s := bomb(n)
		if got := code(r, s); got != "valid" {
			t.Errorf("%d ranges, %d bytes: %s", n, len(s), got)
		}
		if a := testing.AllocsPerRun(20, func() { r.Read(buf, tagserver.Strings{TCF: s}, now) }); a != 0 {
			t.Errorf("%d ranges: %v allocations", n, a)
		}
	}
	if got := code(r, bomb(4000)); got != "string_too_long" {
		t.Errorf("4,000 ranges: %s", got)
	}
}

func TestDisclosedVendorsAreDemandedByDate(t *testing.T) { // case 7
	for _, c := range []struct {
		created time.Time
		want    string
	}{{at(2025, 6, 1), "valid"}, {at(2026, 2, 28).Add(24*time.Hour - time.Second), "valid"}, {at(2026, 3, 1), "tcf_no_disclosure"}, {at(2026, 3, 10), "tcf_no_disclosure"}} {
		m := good()
		m.created, m.disclosed = c.created, nil
		if got := code(asVendor(t, 5), m.String()); got != c.want {
			t.Errorf("%v: %s, want %s", c.created, got, c.want)
		}
	}
}

func TestWhoWasNotDisclosedGetsNothing(t *testing.T) { // case 8
	for _, created := range []time.Time{at(2025, 6, 1), at(2026, 3, 10)} {
		m := good()
		m.created, m.disclosed = created, []int{7}
		if p := allowed(asVendor(t, 5), m.String()); p != 0 {
			t.Errorf("%v: %v", created, p)
		}
	}
}

func TestSegmentsInAnyOrderAndOfKindsUnknown(t *testing.T) { // case 9
	r := asVendor(t, 5)
	m := good()
	core, rest, _ := strings.Cut(m.String(), ".")
	dv, pub, _ := strings.Cut(rest, ".")
	kind7, kind2 := (&writer{}).num(7, 3).num(99, 20).String(), (&writer{}).num(2, 3).num(0, 17).String()
	for s, want := range map[string]string{
		core + "." + pub + "." + dv: "valid", core + "." + dv: "valid", core + "." + kind2 + "." + dv: "valid", core + "." + kind7 + "." + dv: "valid",
		core + "." + pub: "tcf_no_disclosure", core + ".." + dv: "tcf_malformed", core + "." + dv + ".": "tcf_malformed", "." + dv: "tcf_malformed",
		core + "." + dv + "." + dv: "tcf_malformed", core + "." + dv + "." + core: "tcf_malformed", core + "." + dv + "." + pub + "." + pub: "tcf_malformed",
	} {
		if got := code(r, s); got != want {
			t.Errorf("%s: %s, want %s", s, got, want)
		}
	}
}

func TestRestrictionsTakeThePurposeTheyName(t *testing.T) { // case 10
	for p, want := range map[int]taxonomy.Purposes{1: taxonomy.MayAll &^ taxonomy.MayStore, 3: taxonomy.MayAll &^ taxonomy.MayProfile, 4: taxonomy.MayAll &^ taxonomy.MayExport, 2: taxonomy.MayAll, 11: taxonomy.MayAll, 24: taxonomy.MayAll} {
		m := good()
		m.restrictions = []restriction{{p, 0, 5, 5}}
		if got := allowed(asVendor(t, 5), m.String()); got != want {
			t.Errorf("purpose %d: %v", p, got)
		}
	}
}

func TestLegitimateInterestOnlyAsDeclared(t *testing.T) { // case 11
	read := func(v Vendor, m made) bool {
		v.ID = 5
		return allowed(mustReader(t, Options{Role: AsVendor, Vendor: 5, List: listOf(&v)}), m.String()).Has(taxonomy.MayInsight)
	}
	byConsent, byInterest := Vendor{consent: purposesOf(1, 3, 9)}, Vendor{consent: purposesOf(1, 3), interest: purposesOf(9)}
	flexible := byInterest
	flexible.flexible = purposesOf(9)
	flexibleConsent := byConsent
	flexibleConsent.flexible = purposesOf(9)
	with := func(consent, interest []int, rs ...restriction) made {
		m := good()
		m.consent, m.interest, m.restrictions = consent, interest, rs
		return m
	}
	needsC, needsI := restriction{9, 1, 5, 5}, restriction{9, 2, 5, 5}
	c, i, both := []int{1, 3, 9}, []int{9}, []int{1, 3, 9}
	none := []int{1, 3}
	for n, x := range []struct {
		v    Vendor
		m    made
		want bool
	}{
		{byInterest, with(none, i), true}, {byInterest, with(c, nil), false}, {byInterest, with(both, i, needsC), false},
		{byConsent, with(none, i), false}, {byConsent, with(c, nil), true}, {byConsent, with(c, i, needsI), false},
		{flexible, with(c, nil, needsC), true}, {flexible, with(none, i, needsC), false},
		{flexibleConsent, with(none, i, needsI), true}, {flexibleConsent, with(c, nil, needsI), false},
		{flexible, with(both, i, needsC, needsI), false}, {Vendor{consent: purposesOf(1, 3)}, with(both, i), false},
	} {
		if got := read(x.v, x.m); got != x.want {
			t.Errorf("case %d: %v, want %v", n, got, x.want)
		}
	}
}

func TestPurposeOneTreatmentOnlyWhereListed(t *testing.T) { // case 12
	m := good()
	m.one = true
	for _, role := range []Role{AsVendor, AsPublisher} {
		for _, countries := range [][]string{nil, {"FR"}, {"FR", "DE"}} {
			self := *ebb
			self.ID = 5
			r := mustReader(t, Options{Role: role, Vendor: 5, List: listOf(&self), PurposeOne: countries})
			if got := allowed(r, m.String()).Has(taxonomy.MayStore); got != (len(countries) == 2) {
				t.Errorf("%s, %v: %v", role, countries, got)
			}
		}
	}
}

func TestTheFutureAndThePastDoNotCount(t *testing.T) { // case 13
	for d, want := range map[int]string{0: "valid", 2: "valid", 3: "tcf_future", -396: "valid", -397: "tcf_expired", 3000: "tcf_future"} {
		m := good()
		m.created = at(2026, 3, 15).AddDate(0, 0, d)
		if got := code(asVendor(t, 5), m.String()); got != want {
			t.Errorf("%d days: %s, want %s", d, got, want)
		}
	}
}

func TestInterestIsNoGroundForProfiles(t *testing.T) { // case 14
	m := good()
	m.consent, m.interest = nil, []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}
	list, err := ParseVendorList(strings.NewReader(`{"gvlSpecificationVersion":3,"vendorListVersion":1,"vendors":{"5":{"id":5,"purposes":[],"legIntPurposes":[1,3,4,5,6,9],"flexiblePurposes":[1,3,4]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	r := mustReader(t, Options{Role: AsVendor, Vendor: 5, List: list})
	if got := allowed(r, m.String()); got != taxonomy.MayInsight {
		t.Errorf("allowed %v", got)
	}
}

func TestTCFVersionOneDoesNotCount(t *testing.T) { // case 15
	if got := code(asVendor(t, 5), "BONciguONcjGKADACHENAOLS1rAHDAFAAEAASABQAMwAeACEAFw"); got != "tcf_version" {
		t.Error(got)
	}
}

func TestNothingIsRepaired(t *testing.T) { // case 16
	r := asVendor(t, 1111)
	s := vectors[0].s
	std := strings.NewReplacer("-", "+", "_", "/").Replace(s)
	for name, bad := range map[string]string{
		"padded": s + "=", "space": s + " ", "leading space": " " + s, "newline": s + "\n", "within": s[:40] + "\r\n" + s[40:], "plus and slash": std,
		"lower case": strings.ToLower(s), "encoded twice": url.QueryEscape(url.QueryEscape(s + "/")), "percent": s + "%0A", "NUL": s + "\x00", "quoted": `"` + s + `"`, "doubled": s + s,
	} {
		if bad == s {
			t.Fatalf("%s is the same", name)
		}
		if got := code(r, bad); got == "valid" {
			t.Errorf("%s counts", name)
		}
	}
}

// grants are the bits that a string sets, read without our bit reader.
func TestAFlippedBitGrantsNoPurposeWhoseBitIsZero(t *testing.T) { // case 17
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for _, v := range vectors {
		r := asVendor(t, v.vendor, v.vendor)
		for i := range len(v.s) * 6 {
			c := strings.IndexByte(alphabet, v.s[i/6])
			if c < 0 {
				continue
			}
			b := []byte(v.s)
			b[i/6] = alphabet[c^1<<uint(5-i%6)]
			got := allowed(r, string(b))
			for _, n := range need {
				at := 151 + n.tcf // purposes begin at bit 152
				if got.Has(n.ours) && strings.IndexByte(alphabet, b[at/6])>>uint(5-at%6)&1 == 0 {
					t.Fatalf("%s, bit %d: %v without its bit", v.name, i, n.name)
				}
			}
		}
	}
}

func TestAPrefixNeverAllowsMore(t *testing.T) { // case 18
	for _, v := range vectors {
		r := asVendor(t, v.vendor, v.vendor)
		whole := allowed(r, v.s)
		for i := range v.s {
			if got := allowed(r, v.s[:i]); got&^whole != 0 {
				t.Errorf("%s, %d bytes: %v, the whole %v", v.name, i, got, whole)
			}
		}
	}
	us := mustReader(t, Options{})
	for _, v := range usVectors {
		whole := inUS(us, v.s, now).Consent.Purposes
		for i := 1; i < len(v.s.GPP); i++ {
			s := v.s
			if s.GPP[i] == '.' {
				continue // a whole string: the subsection with GPC may be left out
			}
			s.GPP = s.GPP[:i]
			if got := inUS(us, s, now).Consent.Purposes; got&^whole != 0 {
				t.Errorf("%s, %d bytes: %v", v.name, i, got)
			}
		}
	}
}

func TestLongStringsAreRefusedUnread(t *testing.T) { // case 19
	for _, n := range []int{8<<10 + 1, 64 << 10, 1 << 20} {
		for _, s := range []tagserver.Strings{{TCF: "C" + strings.Repeat("A", n)}, {GPP: "D" + strings.Repeat("A", n)}} {
			if st := asVendor(t, 5).Read(nil, s, now); len(st) != 1 || st[0].Reason.Code != "string_too_long" {
				t.Errorf("%d bytes: %+v", n, st)
			}
		}
	}
}

func TestMacrosAndWordsAreNotStrings(t *testing.T) { // case 21
	r := asVendor(t, 5)
	for _, s := range []string{"${GDPR_CONSENT_1111}", "%24%7BGDPR_CONSENT_5%7D", "GDPR_CONSENT_0123", "null", "undefined", "{{gdpr_consent}}", "[GDPR]", "-1", "2", "true", "x"} {
		wantNothing(t, r, tagserver.Strings{TCF: s}, "TCF "+s)
		wantNothing(t, r, tagserver.Strings{GPP: s}, "GPP "+s)
		if s != "x" { // which is no placeholder, so it is an opt-out
			wantNothing(t, r, tagserver.Strings{USP: s}, "USP "+s)
		}
	}
}

func TestWhoSaysGDPRMustBringAString(t *testing.T) { // case 21, 22
	r := asVendor(t, 1111)
	wantNothing(t, r, tagserver.Strings{GDPR: "1"}, "gdpr=1 alone")
	wantNothing(t, r, tagserver.Strings{GDPR: "1", GPP: "DBABTA~1YNN"}, "gdpr=1 with an American GPP")
	wantNothing(t, r, tagserver.Strings{GPPSID: "2"}, "gpp_sid=2 alone")
	if d := in(r, tagserver.Strings{GDPR: "1", GPP: "DBABMA~" + vectors[0].s}, now); !d.Store() {
		t.Errorf("a TCF section is not taken: %+v", d.Reasons)
	}
}

func TestTheVendorAndNotItsNeighbour(t *testing.T) { // case 23
	m := good()
	m.vendors, m.disclosed = []int{6}, []int{5, 6, 7}
	for v, want := range map[uint16]taxonomy.Purposes{5: 0, 6: taxonomy.MayAll, 7: 0, 1: 0, 65535: 0} {
		if got := allowed(asVendor(t, v), m.String()); got != want {
			t.Errorf("vendor %d: %v", v, got)
		}
	}
	if _, err := NewReader(Options{Role: AsVendor, Vendor: 0, List: listOf(ebb)}); err == nil {
		t.Error("vendor 0 reads")
	}
}

func TestADeletedPlatformOrVendorDoesNotCount(t *testing.T) { // case 24
	cmps, err := ParseCMPList(strings.NewReader(`{"cmps":{"7":{"id":7,"deletedDate":"2026-03-15T00:00:00Z"},"8":{"id":8},"9":{"id":9,"deletedDate":"2026-03-17T00:00:00Z"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	self := *ebb
	self.ID = 5
	for cmp, want := range map[uint64]string{7: "tcf_cmp_deleted", 8: "valid", 9: "valid", 10: "valid"} {
		m := good()
		m.cmp = cmp
		if got := code(mustReader(t, Options{Role: AsVendor, Vendor: 5, List: listOf(&self), CMPs: cmps}), m.String()); got != want {
			t.Errorf("platform %d: %s", cmp, got)
		}
	}
	self.Deleted = at(2026, 3, 1)
	r := mustReader(t, Options{Role: AsVendor, Vendor: 5, List: listOf(&self)})
	if p := allowed(r, good().String()); p != 0 {
		t.Errorf("a deleted vendor may %v", p)
	}
}

func TestGPCInGPPIsAnOptOut(t *testing.T) { // case 25
	d := inUS(mustReader(t, Options{}), tagserver.Strings{GPP: "DBABLA~CAAqAAAAAACA.YA"}, now)
	if d.Store() || !d.Expire || d.Reasons[0].Code != "us_gpc" {
		t.Errorf("%+v", d.Reasons)
	}
}

func TestNationalVersionsOneAndTwoAndNoThird(t *testing.T) { // case 26
	r := mustReader(t, Options{})
	for _, s := range []string{"DBABLA~CEAVAAAAAACA.QA", "DBABLA~BVQVAAAAAmA.QA"} {
		if d := inUS(r, tagserver.Strings{GPP: s}, now); d.Store() || !d.Expire {
			t.Errorf("%s: %+v", s, d.Reasons)
		}
	}
	wantNothing(t, r, tagserver.Strings{GPP: "DBABLA~DAAqAAAAAACA.QA"}, "version 3")
}

func TestTheNewestSectionsAreNotReadAsTheOldOnes(t *testing.T) { // case 27
	// Maryland, sale opted out, in both forms; then read as any older state.
	short := (&writer{}).num(1, 6).num(1, 2).num(0, 2).num(0, 6).num(1, 2).num(0, 2).num(0, 2).String()
	long := (&writer{}).num(24, 6).num(1, 6).num(1, 6).num(1, 2).num(0, 2).num(0, 6).num(1, 2).num(0, 2).num(0, 2).String()
	for _, s := range []string{short, long} {
		if optOut, bad := readUS(24, s); optOut != &usOptedOut || bad != nil {
			t.Errorf("Maryland %s: %v %v", s, optOut, bad)
		}
	}
	for id := firstUS; id <= 23; id++ {
		if optOut, bad := readUS(id, long); optOut == nil && bad == nil {
			t.Errorf("section %d reads Maryland's as no objection", id)
		}
		if _, bad := readUS(id, short); bad == nil {
			t.Errorf("section %d reads Maryland's short form", id)
		}
	}
}

func TestSectionsThatApplyMustBeThere(t *testing.T) { // case 28
	r := mustReader(t, Options{})
	const fine = "DBABLA~CAAqAAAAAACA.QA"
	for _, sid := range []string{"8", "7,8", "7,8,9", "-1", "x", "2;7", "999999999999", "7,", ",7", "07", "7,7", " 7", "0", "7 "} {
		wantNothing(t, r, tagserver.Strings{GPP: fine, GPPSID: sid}, "gpp_sid "+sid)
	}
	if d := inUS(r, tagserver.Strings{GPP: fine, GPPSID: "7"}, now); !d.Store() {
		t.Errorf("gpp_sid 7: %+v", d.Reasons)
	}
	for _, s := range []string{"DBACNY~1YNN", "DBABTA~1YNN~1YNN", "DBACNY~a~b~c", "DBACNY", "DBABTA", "DBABTA~", "~1YNN"} {
		wantNothing(t, r, tagserver.Strings{GPP: s}, s)
	}
}

func TestUSPrivacyIsReadStrictly(t *testing.T) { // case 29, C3: malformed is an opt-out
	r := mustReader(t, Options{})
	for _, s := range []string{"1YN", "2YYN", "1yyn", "1YYNN", "1YҮN", "1YYn", "1 YN", "----", "1", "Y", "1Y\x00N", "x"} {
		d := inUS(r, tagserver.Strings{USP: s}, now)
		if d.Store() || !d.Expire || d.Reasons[0].Code != "usp_malformed" || d.Reasons[0].Mend == "" {
			t.Errorf("%s: stores %v, erases %v, %+v", s, d.Store(), d.Expire, d.Reasons[0])
		}
		wantNothing(t, r, tagserver.Strings{GPP: "DBABTA~" + s, GPPSID: "6"}, "in GPP: "+s) // C2
	}
}

func TestTheStricterOfTwoSignalsHolds(t *testing.T) { // case 30, C4
	r := mustReader(t, Options{})
	for _, s := range []tagserver.Strings{{USP: "1YNN", GPP: "DBABLA~CEAVAAAAAACA.QA", GPPSID: "7"}, {USP: "1YYN", GPP: "DBABLA~CAAqAAAAAACA.QA", GPPSID: "7"}} {
		if d := inUS(r, s, now); d.Store() || !d.Expire {
			t.Errorf("%+v: %+v", s, d.Reasons)
		}
	}
}

// An opt-out counts in a section that gpp_sid does not name; a yes does not.
func TestAnOptOutCountsWhereverItStands(t *testing.T) {
	r := asVendor(t, 1111)
	if d := inUS(r, tagserver.Strings{GPP: "DBACNY~" + vectors[0].s + "~1YYN", GPPSID: "2"}, now); d.Store() || !d.Expire {
		t.Errorf("%+v", d.Reasons)
	}
	if d := in(r, tagserver.Strings{GPP: "DBACNY~" + vectors[0].s + "~1YNN", GPPSID: "6"}, now); d.Store() {
		t.Error("a TCF section that does not apply grants")
	}
}

func TestADestinationNeedsItsOwnGround(t *testing.T) { // B4, B5
	self := *ebb
	self.ID = 5
	list := listOf(&self, &Vendor{ID: 7, consent: purposesOf(1, 4)}, &Vendor{ID: 8, consent: purposesOf(1, 4)}, &Vendor{ID: 9, consent: purposesOf(1, 2)}, &Vendor{ID: 10, consent: purposesOf(1, 4), Deleted: at(2026, 1, 1)})
	m := good()
	m.vendors, m.disclosed = []int{5, 7, 9, 10}, []int{5, 7, 8, 9, 10}
	m.restrictions = []restriction{{1, 0, 7, 7}}
	for _, role := range []Role{AsVendor, AsPublisher} {
		r := mustReader(t, Options{Role: role, Vendor: 5, List: list, Destinations: []Destination{
			{ID: "agreed", Vendor: 7}, {ID: "agreed-but-syncs", Vendor: 7, Syncs: true}, {ID: "refused", Vendor: 8}, {ID: "undeclared", Vendor: 9},
			{ID: "deleted", Vendor: 10}, {ID: "unlisted", Vendor: 11}, {ID: "no-vendor"}, {ID: "us", Vendor: 5}}})
		st := r.readTCF(taxonomy.SignalTCF, m.String(), now)
		var got []string
		for _, d := range st.Destinations {
			got = append(got, string(d))
		}
		if strings.Join(got, " ") != "agreed us" || st.Reason.Code != "tcf_destinations" {
			t.Errorf("%s: reaches %v, %+v", role, got, st.Reason)
		}
	}
}

func TestThePublisherGoesByItsOwnSegment(t *testing.T) {
	r := mustReader(t, Options{Role: AsPublisher})
	m := good()
	if got := allowed(r, m.String()); got != taxonomy.MayAll {
		t.Errorf("allowed %v", got)
	}
	m.publisher = []int{1, 3}
	if got := allowed(r, m.String()); got != taxonomy.MayStore|taxonomy.MayProfile {
		t.Errorf("narrowed to %v", got)
	}
	m.publisher = nil
	if got := code(r, m.String()); got != "tcf_no_publisher" {
		t.Errorf("without: %s", got)
	}
	if got := code(mustReader(t, Options{}), m.String()); got != "tcf_no_role" {
		t.Errorf("without a role: %s", got)
	}
}
