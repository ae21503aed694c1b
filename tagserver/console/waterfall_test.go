package console

import (
	"context"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

func (w *world) fallen(context.Context, taxonomy.SiteID) (tagserver.Waterfall, error) {
	return tagserver.Waterfall{Source: "own", AsOf: w.now, Seen: 12345, NotBot: 11111, Adopted: 9876, Permitted: 777, Matched: 49,
		Layers: []tagserver.BotLayer{{Layer: "agent", Visitors: 1000}, {Layer: "cadence", Visitors: 222}, {Layer: "honeypot", Visitors: 3}}, NeverReturned: 4321}, w.fail
}

// The site's page shows the waterfall, with the floor (P7).
func TestASitesPageShowsTheWaterfall(t *testing.T) {
	w := normal()
	s := serve(t, w)
	_, body := s.get(t, "/console/sites/"+string(w.sites[0].ID))
	text := strings.ReplaceAll(body, " ", " ")
	for _, want := range []string{"From seen to reached", shown(12345), shown(11111), shown(9876), "777", "&lt;50", "cadence", shown(1000), "222", "4321 events"} {
		if !strings.Contains(text, strings.ReplaceAll(want, " ", " ")) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(text, ">49<") || strings.Contains(text, ">3<") {
		t.Error("a number below the floor is shown")
	}
}
