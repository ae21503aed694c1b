package config

import (
	"strings"
	"testing"
)

func TestSettingsOfConsentSayWhatIsWrong(t *testing.T) {
	load := func(flags map[string]string) (*Consent, error) {
		r, err := Load(Input{Flags: flags, CheckSchedule: func(string) error { return nil }})
		if err != nil {
			return nil, err
		}
		return &r.Consent, nil
	}
	for _, c := range []struct {
		flags map[string]string
		want  string
	}{
		{map[string]string{"consent.role": "dsp"}, `consent.role: "dsp" is no role; set vendor or publisher`},
		{map[string]string{"consent.role": "vendor", "consent.gvl": "gvl.json"}, "set consent.gvl_id"},
		{map[string]string{"consent.role": "vendor", "consent.gvl_id": "5"}, "set consent.gvl to a copy of https://"},
		{map[string]string{"consent.gvl_id": "65536"}, "consent.gvl_id: 65536 is out of range; want 1 to 65535"},
		{map[string]string{"consent.gvl_id": "five"}, `"five" is no`},
		{map[string]string{"consent.purpose_one": "DE,de"}, `consent.purpose_one: "de" is no country`},
		{map[string]string{"consent.purpose_one": "DE, AT"}, `is no country`},
		{map[string]string{"consent.dnt": "maybe"}, `consent.dnt: "maybe" is neither true nor false`},
	} {
		if _, err := load(c.flags); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.flags, err, c.want)
		}
	}
	c, err := load(map[string]string{"consent.role": "publisher", "consent.purpose_one": "DE,AT"})
	if err != nil || !c.DNT || strings.Join(c.Countries(), " ") != "DE AT" {
		t.Errorf("%+v %v", c, err)
	}
}
