package consent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	decide "github.com/ebb-dmp/ebb/taxonomy/consent"
)

// now is the day of the vectors.
var now = taxonomy.DayOf(time.Date(2026, 3, 15, 12, 0, 0, 0, time.UTC))

// purposesOf is a set of purposes by their numbers.
func purposesOf(ps ...int) (out purposes) {
	for _, p := range ps {
		out |= 1 << uint(p)
	}
	return out
}

// all that Ebb declares as a vendor.
var ebb = &Vendor{ID: 1111, Name: "Ebb", consent: purposesOf(1, 3, 4, 7, 9, 10)}

func listOf(vs ...*Vendor) *VendorList {
	l := &VendorList{Version: 1, vendors: map[uint16]*Vendor{}}
	for _, v := range vs {
		l.vendors[v.ID] = v
	}
	return l
}

func mustReader(t testing.TB, o Options) *Reader {
	t.Helper()
	r, err := NewReader(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// asVendor reads as vendor v with what Ebb declares; dsp-V is a destination of
// that same vendor and of others who declare purposes 1 and 4.
func asVendor(t testing.TB, v uint16, destinations ...uint16) *Reader {
	self := *ebb
	self.ID = v
	vs := []*Vendor{&self}
	o := Options{Role: AsVendor, Vendor: v}
	for _, d := range destinations {
		if d != v {
			vs = append(vs, &Vendor{ID: d, consent: purposesOf(1, 4)})
		}
		o.Destinations = append(o.Destinations, Destination{ID: taxonomy.DestinationID(fmt.Sprintf("dsp-%d", d)), Vendor: d})
	}
	o.List = listOf(vs...)
	return mustReader(t, o)
}

// in decides for a visitor of a country that asks for a yes.
func in(r *Reader, s tagserver.Strings, day taxonomy.Day) decide.Decision {
	return decide.Decide(decide.Signals{Mode: taxonomy.ModeByCountry, Country: "DE", Day: day, Statements: r.Read(nil, s, day)})
}

// inUS decides for one of a country that allows until a no.
func inUS(r *Reader, s tagserver.Strings, day taxonomy.Day) decide.Decision {
	return decide.Decide(decide.Signals{Mode: taxonomy.ModeByCountry, Country: "US", Day: day, Statements: r.Read(nil, s, day)})
}

// vectors are strings of the IAB's reference encoder, and some by hand, for
// vendor 1111 (12 and 5 where another is named) on 15 March 2026.
var vectors = []struct {
	name, s string
	vendor  uint16
	allowed string // Ebb's purposes; "" nothing
	expire  bool
	code    string // of the first reason
}{
	{"full_consent", "CQg2bYAQg2bYAAfAHBENCWFgAP_gAEPgAAYgIrwAQIrgivABAiuAAAAA.IIrwAQIrgAAA.YAAAAAAAAAAA", 1111, "store+profile+insight+training+export", false, ""},
	{"no_p1", "CQg2bYAQg2bYAAfAHBENCWFgADLAAAAAAAYgIrwAQIrgAAAA.IIrwAQIrgAAA.YAAAAAAAAAAA", 1111, "", true, "tcf_purposes"},
	{"p1_only", "CQg2bYAQg2bYAAfAHBENCWFgAIAAAAAAAAYgIrwAQIrgAAAA.IIrwAQIrgAAA.YAAAAAAAAAAA", 1111, "store", true, "tcf_purposes"},
	{"vendor_missing", "CQg2bYAQg2bYAAfAHBENCWFgALAAAAAAAAYgIsQAoAAgAEBFgAAAAAAA.IIrwAoAAgAEBFcAA.YAAAAAAAAAAA", 1111, "", true, "tcf_vendor"},
	{"not_disclosed", "CQg2bYAQg2bYAAfAHBENCWFgALAAAAAAAAYgIrwAQIrgAAAA.IABM.YAAAAAAAAAAA", 1111, "", true, "tcf_not_disclosed"},
	{"pubrestr_p3_notallowed", "CQg2bYAQg2bYAAfAHBENCWFgALAAAAAAAAYgIrwAQIrgAAABDAAQIrgA.IIrwAQIrgAAA.YAAAAAAAAAAA", 1111, "store", true, "tcf_restricted"},
	{"reject_all", "CQg2bYAQg2bYAAfAHBENCWFgAAAAAAAAAAYgAAAAAAAA.IIrwAQIrgAAA.YAAAAAAAAAAA", 1111, "", true, "tcf_purposes"},
	{"range_vendors", "CQg2bYAQg2bYAAfAHBENCWFgALAAAAAAAAYgJYQAYH0AlgAAAAAA.IIrwAQIrgAAA.YAAAAAAAAAAA", 1111, "store+profile+export", false, "tcf_purposes"},
	{"pre_deadline_policy4", "CQSU_AAQSU_AAAfAHBENCWEgAPLAAELAAAYgIrwAQIrgivABAiuAAAAA.IIrwAQIrgAAA.YAAAAAAAAAAA", 1111, "store+profile+insight+training+export", false, ""},
	{"post_deadline_policy5", "CQg2bYAQg2bYAAfAHBENCWFgAPLAAELAAAYgIrwAQIrgivABAiuAAAAA.IIrwAQIrgAAA.YAAAAAAAAAAA", 1111, "store+profile+insight+training+export", false, ""},
	{"p1_not_allowed", "CQg2bYAQg2bYAAfAHBENCWFgAPLAAELAAAYgIrwAQIrgivABAiuACCAAgRXA.IIrwAQIrgAAA.YAAAAAAAAAAA", 1111, "", true, "tcf_restricted"},
	{"p9_require_consent", "CQg2bYAQg2bYAAfAHBENCWFgALAAAACAAAYgIrwAQIrgivABAiuACSgAgRXA.IIrwAQIrgAAA.YAAAAAAAAAAA", 1111, "store+profile+export", false, "tcf_purposes"},
	{"special_feature1", "CQg2bYAQg2bYAAfAHBENCWFoAPLAAELAAAYgIrwAQIrgivABAiuAAAAA.IIrwAQIrgAAA.YAAAAAAAAAAA", 1111, "store+profile+insight+training+export", false, ""},
	{"purpose_one_treatment", "CQg2bYAQg2bYAAfAHBENCWFgADAAAAAAAIYgIrwAQIrgAAAA.IIrwAQIrgAAA.YAAAAAAAAAAA", 1111, "", true, "tcf_purposes"},
	{"future_created", "CTGn7MATGn7MAAfAHBENCWFgAPLAAELAAAYgIrwAQIrgivABAiuAAAAA.IIrwAQIrgAAA.YAAAAAAAAAAA", 1111, "", false, "tcf_future"},
	{"old_13months", "CQKjTcAQKjTcAAfAHBENCWFgAPLAAELAAAYgIrwAQIrgivABAiuAAAAA.IIrwAQIrgAAA.YAAAAAAAAAAA", 1111, "", false, "tcf_expired"},
	{"dv_stripped", "CQg2bYAQg2bYAAfAHBENCWFgAPLAAELAAAYgIrwAQIrgivABAiuAAAAA", 1111, "", false, "tcf_no_disclosure"},
	{"segments_swapped", "CQg2bYAQg2bYAAfAHBENCWFgAPLAAELAAAYgIrwAQIrgivABAiuAAAAA.YAAAAAAAAAAA.IIrwAQIrgAAA", 1111, "store+profile+insight+training+export", false, ""},
	{"global_scope_policy2", "CQgYw8AQgYw8AAKABBENCWCAAP___wAAAAYgAKP__8AAAAAA.IAKP__8A", 5, "", false, "tcf_global"},
	{"dup_restrictions/12", "CQgYw8AQgYw8AAKABBENCWEgAP___wAAAAYgAKP__8AAAAQIACAAwEABAAaA.IAKP__8A", 12, "", true, "tcf_restricted"},
	{"dup_restrictions/13", "CQgYw8AQgYw8AAKABBENCWEgAP___wAAAAYgAKP__8AAAAQIACAAwEABAAaA.IAKP__8A", 13, "", true, "tcf_restricted"},
	{"dup_restrictions/5", "CQgYw8AQgYw8AAKABBENCWEgAP___wAAAAYgAKP__8AAAAQIACAAwEABAAaA.IAKP__8A", 5, "store+profile+insight+training+export", false, ""},
	{"range_5_5/5", "CQgYw8AQgYw8AAKABBENCWEgAP___wAAAAYgAKQAYACgAKAAAAAA.IAKP__8A", 5, "store+profile+insight+training+export", false, ""},
	{"range_5_5/4", "CQgYw8AQgYw8AAKABBENCWEgAP___wAAAAYgAKQAYACgAKAAAAAA.IAKP__8A", 4, "", true, "tcf_vendor"},
	{"range_5_5/6", "CQgYw8AQgYw8AAKABBENCWEgAP___wAAAAYgAKQAYACgAKAAAAAA.IAKP__8A", 6, "", true, "tcf_vendor"},
	{"range_9_5", "CQgYw8AQgYw8AAKABBENCWEgAP___wAAAAYgAKQAYAEgAKAAAAAA.IAKP__8A", 5, "", false, "tcf_malformed"},
	{"trunc_bitfield", "CQgYw8AQgYw8AAKABBENCWEgAP___wAAAAYn__oA.IAKP__8A", 5, "", false, "tcf_malformed"},
	{"specification's example, policy 2", "CQSbk4AQSbk4ANwAAAENAwCgAAAAAAAAAAYgACPAAAAA.IDKQA4AAgAKAGQAygAAA.YAAAAAAAAAAA", 5, "", false, "tcf_policy"},
	{"TCF v1", "BONciguONcjGKADACHENAOLS1rAHDAFAAEAASABQAMwAeACEAFw", 5, "", false, "tcf_version"},
}

// P3: every vector of the reference is decided as it says there.
func TestVectorsAreDecidedAsListed(t *testing.T) {
	for _, v := range vectors {
		d := in(asVendor(t, v.vendor, v.vendor), tagserver.Strings{TCF: v.s}, now)
		allowed := d.Consent.Purposes.String()
		if allowed != v.allowed || d.Expire != v.expire || v.code != "" && d.Reasons[0].Code != v.code {
			t.Errorf("%s: allowed %q, erases %v, %+v; want %q, %v, %s", v.name, allowed, d.Expire, d.Reasons, v.allowed, v.expire, v.code)
		}
		if v.allowed == "" && !d.Expire && d.Reasons[0].Mend == "" {
			t.Errorf("%s: nothing says how to mend it: %+v", v.name, d.Reasons[0])
		}
		// The same within GPP.
		g := in(asVendor(t, v.vendor, v.vendor), tagserver.Strings{GPP: "DBABMA~" + v.s}, now)
		if g.Consent.Purposes != d.Consent.Purposes || g.Expire != d.Expire {
			t.Errorf("%s: otherwise in GPP: %+v", v.name, g)
		}
	}
}

// usVectors are of the IAB's encoder.
var usVectors = []struct {
	name   string
	s      tagserver.Strings
	stores bool
	expire bool
	code   string
}{
	{"usnat v2, opted out", tagserver.Strings{GPP: "DBABLA~CEAVAAAAAACA.QA", GPPSID: "7"}, false, true, "us_opted_out"},
	{"usnat v2, not", tagserver.Strings{GPP: "DBABLA~CAAqAAAAAACA.QA", GPPSID: "7"}, true, false, ""},
	{"usnat v2, GPC", tagserver.Strings{GPP: "DBABLA~CAAqAAAAAACA.YA", GPPSID: "7"}, false, true, "us_gpc"},
	{"usnat v1, opted out", tagserver.Strings{GPP: "DBABLA~BVQVAAAAAmA.QA"}, false, true, "us_opted_out"},
	{"usca, sale", tagserver.Strings{GPP: "DBABBg~BAQAAACA.QA"}, false, true, "us_opted_out"},
	{"usp in GPP", tagserver.Strings{GPP: "DBABTA~1YYN"}, false, true, "usp_opted_out"},
	{"usp in GPP, not", tagserver.Strings{GPP: "DBABTA~1YNN", GPPSID: "6"}, true, false, ""},
	{"empty section", tagserver.Strings{GPP: "DBABM~"}, false, false, "gpp_malformed"},
	{"no section", tagserver.Strings{GPP: "DBAA"}, false, false, "gpp_empty"},
	{"usp", tagserver.Strings{USP: "1YYN"}, false, true, "usp_opted_out"},
	{"usp, not", tagserver.Strings{USP: "1YNN"}, true, false, ""},
	{"usp, nothing applies", tagserver.Strings{USP: "1---"}, true, false, ""},
}

func TestAmericanVectorsAreDecidedAsListed(t *testing.T) {
	r := mustReader(t, Options{})
	for _, v := range usVectors {
		d := inUS(r, v.s, now)
		if d.Store() != v.stores || d.Expire != v.expire || v.code != "" && d.Reasons[0].Code != v.code {
			t.Errorf("%s: stores %v, erases %v, %+v", v.name, d.Store(), d.Expire, d.Reasons)
		}
		// No American string opens a site that asks for a yes.
		if d := in(r, v.s, now); d.Store() {
			t.Errorf("%s: grants in Germany", v.name)
		}
	}
}

// The headers of the specification's examples.
func TestGPPHeaders(t *testing.T) {
	for s, want := range map[string]string{
		"DBABMA": "[2]", "DBABM": "[2]", "DBACNY": "[2 6]", "DBACNYA": "[2 6]", "DBABjw": "[5 6]", "DBABLA": "[7]", "DBABTA": "[6]", "DBABBg": "[8]", "DBAA": "[]",
		"DBAB6AlBY": "bad", "D": "bad", "DBA": "bad", "DCABMA": "bad", "CBABMA": "bad", "DBACMA": "bad", "DBABMB": "bad",
	} {
		var ids [maxSections]uint16
		n, ok := gppHeader(s, &ids)
		got := "bad"
		if ok {
			got = fmt.Sprint(ids[:n])
		}
		if got != want {
			t.Errorf("%s: sections %s, want %s", s, got, want)
		}
	}
}

func TestExplainSaysWhatAStringIs(t *testing.T) {
	r := asVendor(t, 1111, 1111, 1112)
	for _, c := range []struct {
		s    string
		want []string
	}{
		{vectors[0].s, []string{"TCF", "purposes agreed to: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11", "vendor 1111 (Ebb), which is us: agreed to", "store profile insight training export", "dsp-1111 true allowed", "dsp-1112 false the vendor was not disclosed to the visitor"}},
		{vectors[5].s, []string{"purpose 3 not allowed by the publisher", "dsp-1111 false the TCF string has a publisher's restriction"}},
		{"DBACNY~" + vectors[0].s + "~1YYN", []string{"GPP", "section 2 (TCF): counts: yes", "section 6 (US Privacy): no: ", "usp_opted_out"}},
		{"DBABBg~BAQAAACA.QA", []string{"section 8 (United States, California): no: the visitor opted out"}},
		{"1YNN", []string{"US Privacy", "says: no objection", "store profile insight training export"}},
		{"${GDPR_CONSENT_1}", []string{"unknown", "string_macro"}},
		{"", []string{"unknown"}},
		{"D", []string{"GPP", "counts: no: "}},
	} {
		e := r.Explain(c.s, now)
		var b strings.Builder
		fmt.Fprintln(&b, e.Kind)
		for _, f := range e.Fields {
			fmt.Fprintf(&b, "%s: %s\n", f.Name, f.Value)
		}
		fmt.Fprintln(&b, strings.Join(e.Allowed, " "))
		for _, d := range e.Destinations {
			fmt.Fprintln(&b, d.Destination, d.Allowed, d.Why)
		}
		fmt.Fprintln(&b, e.Reasons)
		for _, w := range c.want {
			if !strings.Contains(b.String(), w) {
				t.Errorf("%.30q: no %q in\n%s", c.s, w, &b)
			}
		}
	}
}
