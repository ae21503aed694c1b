package config

import (
	"strings"
	"testing"
)

// What limits may be: each fault comes with its place, and all at once.
func TestLimitsAreChecked(t *testing.T) {
	for key, bad := range map[string][]string{
		"limits.events_per_minute": {"9", "-1", "1000001", "many"}, "limits.requests_per_minute": {"59", "-1"},
		"limits.requests_at_once": {"0", "15"}, "limits.connections": {"0", "15", "2000000"},
	} {
		for _, v := range bad {
			_, err := Load(Input{Flags: map[string]string{key: v}})
			if err == nil || !strings.Contains(err.Error(), "--"+key) {
				t.Errorf("%s=%s: %v", key, v, err)
			}
		}
	}
	if _, err := Load(Input{Flags: map[string]string{"limits.connections": "100"}}); err == nil || !strings.Contains(err.Error(), "more than limits.connections, 100") {
		t.Errorf("more requests than connections: %v", err)
	}
	r, err := Load(Input{Flags: map[string]string{"limits.events_per_minute": "0", "limits.requests_per_minute": "60", "limits.requests_at_once": "16", "limits.connections": "16"}})
	if err != nil || r.Limits != (Limits{0, 60, 16, 16}) {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err = Load(Input{}); err != nil || r.Limits != (Limits{300, 0, 4096, 16384}) {
		t.Errorf("defaults: %+v, %v", r.Limits, err)
	}
}
