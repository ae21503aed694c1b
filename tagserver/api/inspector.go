package api

import (
	"context"
	"net/http"
	"time"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// What the inspector of a site answers. It holds no visitor.
type (
	inspectionView struct {
		At       time.Time      `json:"at"`
		Requests []sightingView `json:"requests" doc:"Of the last ten minutes at this node, newest first; of a busy site ten a second."`
		Findings []findingView  `json:"findings" doc:"What keeps events out, most frequent first."`
		Signals  []signalView   `json:"signals" doc:"Consent signals by kind and verdict."`
		Unused   []unusedView   `json:"unused" doc:"Keys of stored events that no rule asks for."`
	}
	sightingView struct {
		At      time.Time    `json:"at"`
		Route   string       `json:"route"`
		Test    bool         `json:"test,omitempty" doc:"From the console's test page."`
		Cookie  string       `json:"cookie" doc:"none, new, returning, renewed, taken away, not read"`
		Allowed string       `json:"allowed" doc:"What the visitor's consent allows, such as store+profile; empty: nothing."`
		Signals []signalView `json:"signals"`
		Reasons []reasonView `json:"reasons"`
		Refused *refusalView `json:"refused,omitempty" doc:"Why the request was refused as a whole."`
		N       int          `json:"n" doc:"Events that it carried."`
		Events  []eventView  `json:"events" doc:"The first of them; none without consent."`
	}
	signalView struct {
		Signal  string `json:"signal"`
		Verdict string `json:"verdict" doc:"yes, no, not asked, unreadable, nothing said"`
		N       int    `json:"n,omitempty"`
	}
	reasonView struct {
		Signal string `json:"signal"`
		Code   string `json:"code"`
		Why    string `json:"why"`
		Mend   string `json:"mend,omitempty"`
	}
	eventView struct {
		Outcome string            `json:"outcome"`
		Refused *refusalView      `json:"refused,omitempty"`
		Kind    string            `json:"kind,omitempty"`
		Name    string            `json:"name,omitempty"`
		URL     string            `json:"url,omitempty"`
		Props   map[string]string `json:"props,omitempty" doc:"As they are kept."`
		Rules   []string          `json:"rules,omitempty"`
		Traits  []string          `json:"traits,omitempty"`
		Near    []nearView        `json:"near,omitempty" doc:"Rules that do not hold for one condition alone."`
		Unused  []string          `json:"unused,omitempty"`
	}
	nearView struct {
		Rule  string `json:"rule"`
		Wants string `json:"wants" doc:"The condition that does not hold."`
		Case  bool   `json:"case,omitempty" doc:"It would hold if capital letters and spaces at the ends did not count."`
	}
	findingView struct {
		Code  string    `json:"code"`
		N     int       `json:"n"`
		Last  time.Time `json:"last"`
		Where string    `json:"where,omitempty"`
		Why   string    `json:"why"`
		Mend  string    `json:"mend,omitempty"`
	}
	unusedView struct {
		Key string `json:"key"`
		N   int    `json:"n"`
	}
)

// inspecting registers the tag doctor's view of a site.
func (a *API) inspecting() {
	operate(a, op{method: http.MethodGet, path: "/sites/{id}/inspector", tag: "sites", right: tagserver.May("sites:read", tagserver.OfOwn), ok: 200, errors: []int{404}, summary: "What became of a site's last requests, by which signal, and what the rules make of the events"},
		func(ctx context.Context, in *idIn) (*bodyOut[inspectionView], error) {
			if err := meets(ctx, a, sites(), in.ID); err != nil {
				return nil, err
			}
			return &bodyOut[inspectionView]{viewInspection(a.o.Inspect(taxonomy.SiteID(in.ID)))}, nil
		})
}

func viewInspection(in tagserver.Inspection) inspectionView {
	v := inspectionView{At: in.At.Time(), Requests: []sightingView{}, Findings: []findingView{}, Signals: []signalView{}, Unused: []unusedView{}}
	for i := range in.Sightings {
		v.Requests = append(v.Requests, viewSighting(&in.Sightings[i], in.Sights[i]))
	}
	for _, f := range in.Findings {
		v.Findings = append(v.Findings, findingView{f.Code, f.N, f.Last.Time(), f.Where, f.Why, f.Mend})
	}
	for _, s := range in.Signals {
		v.Signals = append(v.Signals, signalView{s.Signal.String(), s.Verdict, s.N})
	}
	for _, k := range in.Unused {
		v.Unused = append(v.Unused, unusedView(k))
	}
	return v
}

func viewSighting(x *tagserver.Sighting, sights []tagserver.Sight) sightingView {
	v := sightingView{At: x.At.Time(), Route: x.Route, Test: x.Test, Cookie: x.Cookie, Allowed: x.May.String(), N: x.N,
		Signals: []signalView{}, Reasons: []reasonView{}, Refused: viewRefused(x.Refused), Events: []eventView{}}
	for _, s := range x.Signals {
		v.Signals = append(v.Signals, signalView{Signal: s.Signal.String(), Verdict: s.Verdict})
	}
	for _, r := range x.Reasons {
		v.Reasons = append(v.Reasons, reasonView{r.Signal.String(), r.Code, r.Why, r.Mend})
	}
	for i := range x.Events {
		e := &x.Events[i]
		ev := eventView{Outcome: e.Outcome, Rules: sights[i].Rules, Unused: sights[i].Unused}
		if e.Refusal.Code != "" {
			ev.Refused = viewRefused(&e.Refusal)
			ev.Refused.At = x.At.Time()
		} else if e.Event.Kind != 0 {
			ev.Kind, ev.Name, ev.URL = e.Event.Kind.String(), e.Event.Name, e.Event.URL
			for _, p := range e.Event.Props {
				if ev.Props == nil {
					ev.Props = map[string]string{}
				}
				ev.Props[p.Key] = p.Value
			}
		}
		for _, t := range sights[i].Traits {
			ev.Traits = append(ev.Traits, string(t))
		}
		for _, m := range sights[i].Near {
			ev.Near = append(ev.Near, nearView(m))
		}
		v.Events = append(v.Events, ev)
	}
	return v
}

func viewRefused(r *tagserver.Refusal) *refusalView {
	if r == nil {
		return nil
	}
	return &refusalView{r.At.Time(), r.Code, r.Where, r.Why, r.Sample}
}
