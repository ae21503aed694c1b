package app

import (
	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/tagserver"
)

// limitsOf is the settings in the edge's words, in which 0 is the default and less
// no limit.
func limitsOf(c *config.Config) tagserver.Limits {
	l := tagserver.Limits{NewIDs: -1, Cadence: c.Limits.EventsPerMinute, InFlight: c.Limits.RequestsAtOnce, Connections: c.Limits.Connections}
	if n := c.NewIDsPerMinute; n > 0 {
		l.NewIDs, l.NewIDBurst = float64(n)/60, n
	}
	if l.Cadence == 0 {
		l.Cadence = -1
	}
	if n := c.Limits.RequestsPerMinute; n > 0 {
		l.Requests, l.RequestBurst = float64(n)/60, max(n/6, 1)
	}
	return l
}
