package app

import (
	"testing"

	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/tagserver"
)

// Each setting of limits is a limit of the edge; what is not set is the edge's own
// default.
func TestLimitsReachTheEdge(t *testing.T) {
	for _, c := range []struct {
		flags map[string]string
		want  tagserver.Limits
	}{
		{nil, tagserver.Limits{NewIDs: 20, NewIDBurst: 1200, Cadence: 300, InFlight: 4096, Connections: 16384}},
		{map[string]string{"new_ids_per_minute": "60", "limits.events_per_minute": "0", "limits.requests_per_minute": "600", "limits.requests_at_once": "32", "limits.connections": "64"},
			tagserver.Limits{NewIDs: 1, NewIDBurst: 60, Cadence: -1, Requests: 10, RequestBurst: 100, InFlight: 32, Connections: 64}},
	} {
		r, err := config.Load(config.Input{Flags: c.flags})
		if err != nil {
			t.Fatal(err)
		}
		if got := limitsOf(&r.Config); got != c.want {
			t.Errorf("%v: %+v, want %+v", c.flags, got, c.want)
		}
	}
}
