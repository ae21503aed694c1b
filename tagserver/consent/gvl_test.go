package consent

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/gziptest"
)

// published is a Global Vendor List that the IAB published: version 7 of 29 June
// 2023, from the test data of its iabtcf-es (Apache-2.0).
func published(t testing.TB) []byte {
	t.Helper()
	return gziptest.File(t, os.DirFS("testdata"), "vendor-list-v2.2.json.gz")
}

// Every vendor of a published list is read as its own JSON says.
func TestThePublishedVendorListIsReadWhole(t *testing.T) {
	raw := published(t)
	l, err := ParseVendorList(strings.NewReader(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Vendors map[string]struct {
			Name                                       string
			Purposes, LegIntPurposes, FlexiblePurposes []int
		}
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	if l.Version != 7 || l.Len() != 376 || l.Len() != len(doc.Vendors) || l.Updated.Year() != 2023 {
		t.Errorf("version %d of %v with %d vendors", l.Version, l.Updated, l.Len())
	}
	for id := range 0x10000 {
		v, want := l.Vendor(uint16(id)), doc.Vendors[fmt.Sprint(id)]
		if (v != nil) != (want.Name != "") {
			t.Fatalf("vendor %d: %v", id, v)
		}
		if v == nil {
			continue
		}
		if v.Name != want.Name || !v.Deleted.IsZero() || v.consent != purposesOf(want.Purposes...) || v.interest != purposesOf(want.LegIntPurposes...)&onInterest || v.flexible != purposesOf(want.FlexiblePurposes...)&onInterest {
			t.Errorf("vendor %d: %+v", id, v)
		}
	}
}

// With the published list, real vendors as destinations: The Trade Desk (21)
// declares purpose 4, Adobe Audience Manager (565) does not, and 10 is none.
func TestDestinationsOfThePublishedListHaveTheRightsThatTheyDeclare(t *testing.T) {
	l, err := ParseVendorList(strings.NewReader(string(published(t))))
	if err != nil {
		t.Fatal(err)
	}
	r := mustReader(t, Options{Role: AsVendor, Vendor: 755, List: l, Destinations: []Destination{
		{ID: "adobe", Vendor: 565}, {ID: "none", Vendor: 10}, {ID: "nobodys"}, {ID: "ttd", Vendor: 21}, {ID: "ttd-syncs", Vendor: 21, Syncs: true}}})
	m := good()
	m.vendors, m.disclosed = []int{10, 21, 565, 755}, []int{10, 21, 565, 755}
	st := r.Read(nil, tagserver.Strings{TCF: m.String()}, now)
	if len(st) != 1 || fmt.Sprint(st[0].Destinations) != "[ttd ttd-syncs]" || !st[0].Purposes.Has(taxonomy.MayStore|taxonomy.MayProfile) {
		t.Errorf("%+v", st)
	}
	for id, want := range map[taxonomy.DestinationID]string{"ttd": "", "ttd-syncs": "", "nobodys": "", "unknown": "", "adobe": "does not declare purpose 4", "none": "is missing in version 7"} {
		if got := r.Blocked(id, now); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s is blocked: %q", id, got)
		}
	}
}

// A list that was deleted from, of another form, or cut is refused with what to
// do, and one whose vendors contradict themselves is not read in part.
func TestAVendorListThatIsNoneSaysWhatIsWrong(t *testing.T) {
	raw := string(published(t))
	for want, s := range map[string]string{
		"read the vendor list: unexpected EOF": raw[:len(raw)/2],
		"want specification 3, from https://":  strings.Replace(raw, `"gvlSpecificationVersion": 3`, `"gvlSpecificationVersion": 2`, 1),
		`vendor "1" has the id 2`:              `{"gvlSpecificationVersion":3,"vendorListVersion":1,"vendors":{"1":{"id":2}}}`,
		`vendor "1": purpose 99`:               `{"gvlSpecificationVersion":3,"vendorListVersion":1,"vendors":{"1":{"id":1,"purposes":[99]}}}`,
	} {
		if l, err := ParseVendorList(strings.NewReader(s)); l != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for want, o := range map[string]Options{
		"set consent.gvl_id":                              {Role: AsVendor},
		"set consent.gvl to":                              {Role: AsVendor, Vendor: 5},
		"vendor 9 is not in version 1 of the vendor list": {Role: AsVendor, Vendor: 9, List: listOf(ebb)},
		`"dsp" is no role`:                                {Role: "dsp"},
		`consent.purpose_one: "de" is no country`:         {PurposeOne: []string{"de"}},
	} {
		if _, err := NewReader(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", o, err, want)
		}
	}
}
