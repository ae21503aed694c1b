package console

import (
	"context"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/tagserver/consent"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// fullConsent is a string of the IAB's encoder that agrees to everything.
const fullConsent = "CQg2bYAQg2bYAAfAHBENCWFgAP_gAEPgAAYgIrwAQIrgivABAiuAAAAA.IIrwAQIrgAAA.YAAAAAAAAAAA"

// explain reads strings as a publisher, with the world's destinations.
func (w *world) explain(s string) consent.Explanation {
	o := consent.Options{Role: consent.AsPublisher}
	for _, d := range w.destinations {
		o.Destinations = append(o.Destinations, consent.Destination{ID: d.ID})
	}
	r, err := consent.NewReader(o)
	if err != nil {
		panic(err)
	}
	return r.Explain(s, taxonomy.Day(20527))
}

// permits are those of the world's visitors, or of an audience of 20.
func (w *world) permits(_ context.Context, id taxonomy.AudienceID) (consent.Permits, error) {
	var ids []taxonomy.DestinationID
	for _, d := range w.destinations {
		ids = append(ids, d.ID)
	}
	t := consent.NewTally(w.now, ids)
	n := w.visitors
	switch id {
	case "":
	case "unbuilt":
		return consent.Permits{}, retention.ErrNotFound
	default:
		n = 20
	}
	t.Add(&taxonomy.Consent{Day: w.now.Day(), Signal: taxonomy.SignalTCF, Purposes: taxonomy.MayAll}, n/2)
	t.Add(&taxonomy.Consent{Day: w.now.Day(), Signal: taxonomy.SignalMode, Purposes: taxonomy.MayStore | taxonomy.MayProfile}, n-n/2)
	return t.Permits(), w.fail
}

// signalled is what signals of requests said, the same at each site of the world.
func (w *world) signalled(site taxonomy.SiteID, days int) (consent.Signals, error) {
	heard := []taxonomy.Heard{
		{Day: w.now.Day(), Signal: taxonomy.SignalTCF, Verdict: taxonomy.SaysYes, N: 81_234},
		{Day: w.now.Day() - 3, Signal: taxonomy.SignalTCF, Verdict: taxonomy.SaysUnreadable, N: 321},
		{Day: w.now.Day() - 89, Signal: taxonomy.SignalDNT, Verdict: taxonomy.SaysNo, N: 17},
	}
	return consent.SumSignals(heard, nil, w.now, days), w.fail
}

func TestTheConsentPageShowsALineForEachSignal(t *testing.T) {
	s := serve(t, normal())
	_, body := s.get(t, base+"/consent?site=shop")
	for _, want := range []string{"81,234", "unreadable", "321", "DNT, which is obeyed", "90 days: from"} {
		contains(t, body, want, "the page")
	}
	if strings.Contains(body, ">17<") {
		t.Error("a count below the floor is shown") // P7
	}
}

func TestTheConsentPageExplainsAndCounts(t *testing.T) {
	s := serve(t, normal())
	_, body := s.get(t, base+"/consent")
	for _, want := range []string{"182,340 visitors", "−91,170", "send audiences to destinations", "a TCF string", "the law of the country"} {
		contains(t, body, want, "the page")
	}
	if strings.Contains(body, "May get the visitor") {
		t.Error("a decision on nothing")
	}
	_, body = s.get(t, base+"/consent?string="+fullConsent)
	for _, want := range []string{"<dd>TCF</dd>", "purposes agreed to", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11", "only the visitor can change that", "The decision for each destination"} {
		contains(t, body, want, "a TC string")
	}
	contains(t, body, "is forgotten", "a TC string that refuses the publisher")
	_, body = s.get(t, base+"/consent?string=1YN")
	contains(t, body, "usp_malformed", "a malformed string")
	contains(t, body, "is forgotten", "a malformed US Privacy string, which is an opt-out")
	_, body = s.get(t, base+"/consent?string=CPXx")
	contains(t, body, "is not touched", "a TC string that cannot be read")
	_, body = s.get(t, base+"/consent?string="+strings.Repeat("C", 9000))
	contains(t, body, "more than 8 KiB", "a long string")
	// P7: of a small audience nothing exact.
	_, body = s.get(t, base+"/consent?audience=regulars")
	contains(t, body, "&lt;50 visitors", "a small audience")
	contains(t, body, "−&lt;50", "a small audience")
	_, body = s.get(t, base+"/consent?audience=unbuilt")
	contains(t, body, "not in the current generation", "an audience that was not built")
}
