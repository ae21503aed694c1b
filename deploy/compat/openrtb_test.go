package compat

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"github.com/prebid/openrtb/v20/openrtb2"
)

// The answer of /v1/seg?as=ortb2, which a test of tagserver holds to be the one
// served, is OpenRTB's user.data in the types of Prebid Server, without a key that
// these do not know; encoded by them it says the same.
func TestOpenRTBTypesReadWhatBiddersAreTold(t *testing.T) {
	raw, err := os.ReadFile("../../tagserver/testdata/ortb2.json")
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Bidder map[string]json.RawMessage `json:"bidder"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		t.Fatal(err)
	}
	segments, taxonomies := 0, 0
	for code, b := range answer.Bidder {
		var q openrtb2.BidRequest
		d := json.NewDecoder(bytes.NewReader(b))
		d.DisallowUnknownFields()
		if err := d.Decode(&q); err != nil {
			t.Fatalf("%s: %v", code, err)
		}
		if q.User == nil || len(q.User.Data) == 0 {
			t.Fatalf("%s is told nothing: %s", code, b)
		}
		for _, data := range q.User.Data {
			if data.Name == "" || len(data.Segment) == 0 {
				t.Errorf("%s: %+v", code, data)
			}
			for _, s := range data.Segment {
				if s.ID == "" {
					t.Errorf("%s: a segment without an ID", code)
				}
				segments++
			}
			if data.Ext != nil {
				var ext struct {
					Segtax int `json:"segtax"`
				}
				if err := json.Unmarshal(data.Ext, &ext); err != nil || ext.Segtax != 4 {
					t.Errorf("%s: ext %s: %v", code, data.Ext, err)
				}
				taxonomies++
			}
		}
		again, err := json.Marshal(q.User)
		if err != nil {
			t.Fatal(err)
		}
		var ours, theirs any
		if json.Unmarshal(b, &ours) != nil || json.Unmarshal(again, &theirs) != nil {
			t.Fatal("not JSON")
		}
		want, _ := json.Marshal(ours.(map[string]any)["user"])
		got, _ := json.Marshal(theirs)
		if !bytes.Equal(got, want) {
			t.Errorf("%s: encoded by their types %s\nwant %s", code, got, want)
		}
	}
	if segments != 3 || taxonomies != 2 {
		t.Errorf("%d segments, %d taxonomies were read", segments, taxonomies)
	}
}
