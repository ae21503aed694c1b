package api

import (
	"context"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

func fallen(context.Context, taxonomy.SiteID) (tagserver.Waterfall, error) {
	return tagserver.Waterfall{Source: "own", AsOf: now, Seen: 1000, NotBot: 900, Adopted: 600, Permitted: 50, Matched: 49,
		Layers: []tagserver.BotLayer{{Layer: "agent", Visitors: 90}, {Layer: "cadence", Visitors: 10}, {Layer: "honeypot"}}, NeverReturned: 321}, nil
}

// P7: a number below the floor is shown as being below it.
func TestASitesWaterfall(t *testing.T) {
	s := newStage(t)
	s.furnish()
	const want = `{"source":"own","as_of":"2024-10-04T12:00:00Z","seen":{"shown":"1000","count":1000},"not_bot":{"shown":"900","count":900},` +
		`"adopted":{"shown":"600","count":600},"permitted":{"shown":"50","count":50},"matched":{"shown":"<50"},` +
		`"bots":[{"layer":"agent","shown":"90","count":90},{"layer":"cadence","shown":"<50"},{"layer":"honeypot","shown":"<50"}],"never_returned_events":321}`
	if a := s.must(200, "GET", "/sites/shop/waterfall", ""); strings.TrimSpace(string(a.body)) != want {
		t.Errorf("%s\nwant %s", a.body, want)
	}
	s.must(404, "GET", "/sites/nowhere/waterfall", "")
}
