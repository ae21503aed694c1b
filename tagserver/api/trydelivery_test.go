package api

import (
	"encoding/json"
	"strings"
	"testing"
)

// A dry run of a delivery answers what the deliverer says of the destination as it is
// defined, or as a definition has it that is not kept; text is shown as text.
func TestADryRunOfADeliveryShowsASample(t *testing.T) {
	s := newStage(t)
	s.furnish()
	s.must(404, "POST", "/destinations/nobody/deliveries/dry-run", "")
	if b := string(s.must(409, "POST", "/destinations/dsp/deliveries/dry-run", "").body); !strings.Contains(b, "no generation") {
		t.Error(b)
	}
	s.must(201, "POST", "/generations", "")
	before := len(s.trail())
	check := func(v *tryView, id string) {
		t.Helper()
		if v == nil || string(v.Destination) != id || v.Rows != 90 || v.Removes != 10 || len(v.Visitors) != 1 || v.Visitors[0].ID != "1111111111" || len(v.Files) != 2 ||
			v.Files[0].Text != "1111111111\t7\n" || v.Files[1].Text != "" || v.Files[1].Base64 != "AP8=" {
			t.Errorf("%s: %+v", id, v)
		}
	}
	var v tryView
	s.must(200, "POST", "/destinations/dsp/deliveries/dry-run", "").into(t, &v)
	check(&v, "dsp")
	var p planView
	s.must(200, "POST", "/destinations/another/dry-run", `{"title":"Another","audiences":["bees"]}`).into(t, &p)
	check(p.Delivery, "another")
	var raw map[string]json.RawMessage
	s.must(200, "POST", "/sources/own/dry-run", `{"party":1,"withdrawn":true}`).into(t, &raw)
	if _, has := raw["delivery"]; has {
		t.Error("the dry run of a source has a delivery")
	}
	if len(s.trail()) != before {
		t.Error("a dry run is in the audit log")
	}
	eyes := s.key(`{"id":"eyes","role":"viewer"}`)
	s.must(403, "POST", "/destinations/dsp/deliveries/dry-run", "", eyes)
}
