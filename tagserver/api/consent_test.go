package api

import (
	"context"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/tagserver/consent"
	"github.com/ebb-dmp/ebb/taxonomy"
)

func explained(s string) consent.Explanation {
	r, err := consent.NewReader(consent.Options{Destinations: []consent.Destination{{ID: "dsp"}}})
	if err != nil {
		panic(err)
	}
	return r.Explain(s, now.Day())
}

func permitted(_ context.Context, id taxonomy.AudienceID) (consent.Permits, error) {
	n := uint64(31_022)
	switch id {
	case "":
	case "tiny":
		n = 49
	default:
		return consent.Permits{}, retention.ErrNotFound
	}
	t := consent.NewTally(now, []taxonomy.DestinationID{"dsp", "other"})
	t.Add(&taxonomy.Consent{Day: now.Day(), Signal: taxonomy.SignalTCF, Purposes: taxonomy.MayAll, Destinations: []taxonomy.DestinationID{"dsp"}}, n)
	if id == "" {
		t.Add(&taxonomy.Consent{Day: now.Day() - 30, Signal: taxonomy.SignalGPP, Purposes: taxonomy.MayAll &^ taxonomy.MayInsight}, 100)
		t.Add(&taxonomy.Consent{Day: now.Day(), Signal: taxonomy.SignalTCF}, 60)
	}
	return t.Permits(), nil
}

func signalled(site taxonomy.SiteID, days int) (consent.Signals, error) {
	if site == "nowhere" {
		return consent.Signals{}, retention.ErrNotFound
	}
	heard := []taxonomy.Heard{
		{Day: now.Day(), Site: "shop", Signal: taxonomy.SignalTCF, Verdict: taxonomy.SaysYes, N: 400},
		{Day: now.Day() - 6, Site: "shop", Signal: taxonomy.SignalTCF, Verdict: taxonomy.SaysYes, N: 49},
		{Day: now.Day() - 7, Site: "shop", Signal: taxonomy.SignalTCF, Verdict: taxonomy.SaysYes, N: 7000},
		{Day: now.Day(), Site: "news", Signal: taxonomy.SignalDNT, Verdict: taxonomy.SaysNo, N: 60},
		{Day: now.Day(), Signal: taxonomy.SignalTCF, Verdict: taxonomy.SaysUnreadable, N: 49},
	}
	var of *taxonomy.SiteID
	if site != "" {
		of = &site
	}
	return consent.SumSignals(heard, of, now, days), nil
}

// What signals said, by site, over the days that are asked for, and below 50
// nothing exact (P7).
func TestSignalsAreCountedByDay(t *testing.T) {
	s := newStage(t)
	a := string(s.must(200, "GET", "/consent/signals?days=7", "").body)
	for _, want := range []string{
		`{"signal":"tcf","verdict":"yes","requests":{"shown":"449","count":449},"days":[{"day":"` + (now.Day() - 6).String() + `","requests":{"shown":"<50"}},{"day":"` + now.Day().String() + `","requests":{"shown":"400","count":400}}]}`,
		`{"signal":"tcf","verdict":"unreadable","requests":{"shown":"<50"}`,
		`{"signal":"dnt","verdict":"no","requests":{"shown":"60","count":60}`,
	} {
		if !strings.Contains(a, want) {
			t.Errorf("no %s in %s", want, a)
		}
	}
	if a := string(s.must(200, "GET", "/consent/signals?site=shop", "").body); !strings.Contains(a, `"count":7449`) || strings.Contains(a, "dnt") {
		t.Error(a)
	}
	s.must(404, "GET", "/consent/signals?site=nowhere", "")
	s.must(422, "GET", "/consent/signals?days=91", "")
	s.must(422, "GET", "/consent/signals?days=0", "")
}

func TestAConsentStringIsExplained(t *testing.T) {
	s := newStage(t)
	a := string(s.must(200, "POST", "/consent/explanations", `{"string":"1YYN"}`).body)
	for _, want := range []string{`"kind":"US Privacy"`, `"erases":true`, `"code":"usp_opted_out"`, `"destination":"dsp","allowed":false`} {
		if !strings.Contains(a, want) {
			t.Errorf("no %s in %s", want, a)
		}
	}
	if a := string(s.must(200, "POST", "/consent/explanations", `{"string":""}`).body); !strings.Contains(a, `"kind":"unknown"`) {
		t.Error(a)
	}
	s.must(422, "POST", "/consent/explanations", `{"text":"1YYN"}`)
}

// The what-if: whom each purpose holds, now. A summary of 30 days ago lets nobody
// be sent, and one without purposes holds nobody.
func TestPermitsSayWhoWouldBeLostWithoutAPurpose(t *testing.T) {
	s := newStage(t)
	a := string(s.must(200, "GET", "/consent/permits", "").body)
	for _, want := range []string{
		`"visitors":{"shown":"31182","count":31182}`, `"profile":{"shown":"31122","count":31122}`,
		`{"purpose":4,"name":"send audiences to destinations","lost":{"shown":"31022","count":31022},"from":"destinations"}`,
		`{"purpose":9,"name":"count in the reach of categories","lost":{"shown":"31022","count":31022},"from":"insights"}`,
		`{"purpose":10,"name":"learn lookalikes","lost":{"shown":"31122","count":31122},"from":"training"}`,
		`{"destination":"dsp","allowed":{"shown":"31022","count":31022}},{"destination":"other","allowed":{"shown":"<50"}}`,
		`"signals":[{"signal":"tcf","visitors":{"shown":"31082","count":31082},"profile":{"shown":"31022","count":31022}},{"signal":"gpp"`,
	} {
		if !strings.Contains(a, want) {
			t.Errorf("no %s in %s", want, a)
		}
	}
	// P7
	if a := string(s.must(200, "GET", "/consent/permits?audience=tiny", "").body); strings.Contains(a, `"count"`) {
		t.Error(a)
	}
	s.must(404, "GET", "/consent/permits?audience=nobody", "")
}
