package tagserver

import (
	"os"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/consent"
)

// A bidder is told of the audiences that it gets, under its own names, if the
// visitor's consent reaches it; nobody else is told anything.
func TestBiddersAreToldWhatTheyMayKnow(t *testing.T) {
	var allow []taxonomy.DestinationID
	e := newEdge(t, func(o *Options) {
		o.Strings = func(_ []consent.Statement, s Strings, _ taxonomy.Day) []consent.Statement {
			return []consent.Statement{{Signal: taxonomy.SignalTCF, Regime: taxonomy.RegimeOptIn, Purposes: taxonomy.MayAll, Destinations: allow}}
		}
		o.Bidders = func() []Bidder {
			return []Bidder{
				{Code: "one", Destination: "dsp", Segments: map[taxonomy.AudienceID]string{"wine": "W", "shoes": "S", "none": "N"}},
				{Code: "two", Destination: "other", Segments: map[taxonomy.AudienceID]string{"wine": "wine"}},
				{Code: "three", Destination: "dsp", Segments: map[taxonomy.AudienceID]string{"none": "N"}},
			}
		}
	})
	e.page = func(taxonomy.VisitorKey) (PageAnswer, error) {
		return PageAnswer{AsOf: 42, Audiences: []PageAudience{{ID: "shoes"}, {ID: "wine", Segtax: 4}, {ID: "secret"}}}, nil
	}
	b := e.browser()
	b.yes()
	const (
		one = `"one":{"user":{"data":[{"name":"edge.example","segment":[{"id":"S"}]},{"name":"edge.example","segment":[{"id":"W"}],"ext":{"segtax":4}}]}}`
		two = `"two":{"user":{"data":[{"name":"edge.example","segment":[{"id":"wine"}],"ext":{"segtax":4}}]}}`
	)
	for _, c := range []struct {
		allow []taxonomy.DestinationID
		want  string
	}{{nil, one + "," + two}, {[]taxonomy.DestinationID{"dsp"}, one}, {[]taxonomy.DestinationID{"other"}, two}, {[]taxonomy.DestinationID{}, ""}} {
		allow = c.allow
		w := b.do("GET", "/v1/seg?site=shop&as=ortb2&gdpr_consent=CP", "", "Origin", shop)
		if got, want := w.Body.String(), `{"bidder":{`+c.want+`},"as_of":42,"stale":false}`; got != want {
			t.Errorf("allowed %v: %s\nwant %s", c.allow, got, want)
		}
	}
	// deploy/compat reads this answer with the types of github.com/prebid/openrtb.
	allow = nil
	golden, err := os.ReadFile("testdata/ortb2.json")
	if got := b.do("GET", "/v1/seg?site=shop&as=ortb2&gdpr_consent=CP", "", "Origin", shop).Body.String(); err != nil || got != strings.TrimSpace(string(golden)) {
		t.Errorf("testdata/ortb2.json is not the answer: %v\n%s", err, got)
	}
	if w := b.do("GET", "/v1/seg?site=shop&as=vast&consent=1", ""); w.Code != 400 {
		t.Errorf("%d", w.Code)
	}
	w := b.do("GET", "/v1/seg?site=shop&as=ortb2&gdpr_consent=CP", "", "Cookie", "x=y")
	if got := w.Body.String(); got[:13] != `{"bidder":{},` {
		t.Errorf("a stranger: %s", got)
	}
}
