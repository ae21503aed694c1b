package api

import (
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/consent"
)

func inspected(taxonomy.SiteID) tagserver.Inspection {
	yes := tagserver.SignalSeen{Signal: taxonomy.SignalTCF, Verdict: "yes"}
	return tagserver.Inspection{At: now,
		Sightings: []tagserver.Sighting{
			{At: now, Route: "/v1/e", Cookie: "new", May: taxonomy.MayAll, N: 2, Signals: []tagserver.SignalSeen{yes},
				Reasons: []consent.Reason{{Signal: taxonomy.SignalTCF, Code: "string_yes", Why: "the visitor's TCF string says yes"}},
				Events: []tagserver.EventSeen{
					{Outcome: "stored", Event: taxonomy.Event{Kind: taxonomy.EventTrack, Name: "add", URL: "https://shop.example/", Props: []taxonomy.Prop{{Key: "sku", Value: "a-1"}}}},
					{Outcome: "rejected", Refusal: tagserver.Refusal{Code: "pii", Where: "props.mail", Why: "looks personal", Sample: "aa@aa.aa"}}}},
			{At: now, Route: "/v1/e", Cookie: "not read", N: 1, Refused: &tagserver.Refusal{At: now, Code: "wrong_origin", Where: "header.Origin", Why: "not listed"}},
		},
		Sights:   [][]tagserver.Sight{{{Rules: []string{"r"}, Traits: []taxonomy.Trait{"k:a=b"}, Near: []tagserver.NearMiss{{Rule: "n", Wants: "path eq /A", Case: true}}, Unused: []string{"prop.sku"}}, {}}, nil},
		Findings: []tagserver.Finding{{Code: "pii", N: 1, Last: now, Where: "props.mail", Why: "looks personal"}},
		Signals:  []tagserver.SignalCount{{SignalSeen: yes, N: 1}}, Unused: []tagserver.KeyCount{{Key: "prop.sku", N: 1}}}
}

func TestASiteIsInspected(t *testing.T) {
	s := newStage(t)
	s.furnish()
	const want = `{"at":"2024-10-04T12:00:00Z","requests":[` +
		`{"at":"2024-10-04T12:00:00Z","route":"/v1/e","cookie":"new","allowed":"store+profile+insight+training+export","signals":[{"signal":"tcf","verdict":"yes"}],` +
		`"reasons":[{"signal":"tcf","code":"string_yes","why":"the visitor's TCF string says yes"}],"n":2,"events":[` +
		`{"outcome":"stored","kind":"track","name":"add","url":"https://shop.example/","props":{"sku":"a-1"},"rules":["r"],"traits":["k:a=b"],"near":[{"rule":"n","wants":"path eq /A","case":true}],"unused":["prop.sku"]},` +
		`{"outcome":"rejected","refused":{"at":"2024-10-04T12:00:00Z","code":"pii","where":"props.mail","why":"looks personal","sample":"aa@aa.aa"}}]},` +
		`{"at":"2024-10-04T12:00:00Z","route":"/v1/e","cookie":"not read","allowed":"","signals":[],"reasons":[],"refused":{"at":"2024-10-04T12:00:00Z","code":"wrong_origin","where":"header.Origin","why":"not listed"},"n":1,"events":[]}],` +
		`"findings":[{"code":"pii","n":1,"last":"2024-10-04T12:00:00Z","where":"props.mail","why":"looks personal"}],"signals":[{"signal":"tcf","verdict":"yes","n":1}],"unused":[{"key":"prop.sku","n":1}]}`
	if a := s.must(200, "GET", "/sites/shop/inspector", ""); strings.TrimSpace(string(a.body)) != want {
		t.Errorf("%s\nwant %s", a.body, want)
	}
	s.must(404, "GET", "/sites/nowhere/inspector", "")
}
