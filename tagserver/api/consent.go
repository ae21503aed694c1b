package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/tagserver/consent"
	"github.com/ebb-dmp/ebb/taxonomy"
)

type (
	explainBody struct {
		String string `json:"string" doc:"A TCF, GPP or US Privacy string."`
	}
	explanationView struct {
		Kind         string          `json:"kind" doc:"TCF, GPP, US Privacy or unknown."`
		Allowed      []string        `json:"allowed" doc:"Purposes."`
		Erases       bool            `json:"erases" doc:"A visitor who sends it is forgotten."`
		Reasons      []reasonView    `json:"reasons" doc:"The one that decided first."`
		Destinations []consent.Reach `json:"destinations"`
		Fields       []consent.Field `json:"fields" doc:"What the string says."`
	}
	permitsIn struct {
		Audience string `query:"audience" maxLength:"64" doc:"Of the members of an audience of the current generation; absent: of all visitors."`
	}
	// permitsView is what visitors allow, and what would be lost without each
	// purpose. Below the floor it says only on which side of it a count is.
	permitsView struct {
		AsOf         time.Time               `json:"as_of"`
		Visitors     ShownCount              `json:"visitors"`
		Profile      ShownCount              `json:"profile" doc:"Who may be in audiences."`
		Insight      ShownCount              `json:"insight"`
		Training     ShownCount              `json:"training"`
		Export       ShownCount              `json:"export" doc:"Who may be sent to at least one destination now."`
		Destinations []destinationPermitView `json:"destinations"`
		Signals      []signalPermitView      `json:"signals" doc:"By what decided, the most frequent first."`
		Without      []withoutView           `json:"without" doc:"What would be lost if nobody agreed to a purpose."`
	}
	destinationPermitView struct {
		Destination taxonomy.DestinationID `json:"destination"`
		Allowed     ShownCount             `json:"allowed"`
	}
	signalPermitView struct {
		Signal   string     `json:"signal"`
		Visitors ShownCount `json:"visitors"`
		Profile  ShownCount `json:"profile"`
	}
	withoutView struct {
		Purpose int        `json:"purpose" doc:"Its number in the TCF."`
		Name    string     `json:"name"`
		Lost    ShownCount `json:"lost"`
		From    string     `json:"from" doc:"What the visitors would be lost to: audiences, destinations, insights or training."`
	}
	signalsIn struct {
		Site string `query:"site" maxLength:"64" doc:"Of requests to this site; absent: of all, those that name no site included."`
		Days int    `query:"days" minimum:"1" maximum:"90" default:"30" doc:"The last days, today included."`
	}
	signalsView struct {
		AsOf    time.Time        `json:"as_of"`
		From    taxonomy.Day     `json:"from"`
		To      taxonomy.Day     `json:"to"`
		Signals []signalLineView `json:"signals"`
	}
	signalLineView struct {
		Signal   string          `json:"signal" doc:"none, explicit, tcf, gpp, usp, gpc, dnt or optout."`
		Verdict  string          `json:"verdict" doc:"What it says by itself: yes, no, unreadable; of none: nothing said."`
		Requests ShownCount      `json:"requests" doc:"A request counts once for each signal that it carried. Of who carries the opt-out cookie only that is counted, and of children nothing."`
		Days     []signalDayView `json:"days" doc:"The days that had any."`
	}
	signalDayView struct {
		Day      taxonomy.Day `json:"day"`
		Requests ShownCount   `json:"requests"`
	}
)

// consents registers what consent strings mean and what visitors allow.
func (a *API) consents() {
	operate(a, op{method: http.MethodPost, path: "/consent/explanations", tag: "consent", right: tagserver.May("destinations:read", tagserver.OfAll), ok: 200, errors: []int{413, 415, 422}, body: explainBody{}, summary: "Decode a consent string into words, and decide on it for each destination"},
		func(_ context.Context, in *postIn) (*bodyOut[explanationView], error) {
			var b explainBody
			if faults := decode("body", in.RawBody, &b, nil); len(faults) > 0 {
				return nil, invalid("the string", faults)
			}
			x := a.o.Explain(b.String)
			v := explanationView{x.Kind, x.Allowed, x.Erases, []reasonView{}, x.Destinations, x.Fields}
			for _, r := range x.Reasons {
				v.Reasons = append(v.Reasons, reasonView{r.Signal.String(), r.Code, r.Why, r.Mend})
			}
			if v.Fields == nil {
				v.Fields = []consent.Field{}
			}
			return &bodyOut[explanationView]{v}, nil
		})
	operate(a, op{method: http.MethodGet, path: "/consent/permits", tag: "consent", right: tagserver.May("audiences:read", tagserver.OfAll), ok: 200, errors: []int{404, 503}, slow: true, summary: "What visitors allow by their newest consent, and who would be lost without each purpose"},
		func(ctx context.Context, in *permitsIn) (*bodyOut[permitsView], error) {
			p, err := a.o.Permits(ctx, taxonomy.AudienceID(in.Audience))
			if err != nil {
				return nil, a.fail(fmt.Sprintf("count what the visitors of audience %q allow", cut(in.Audience)), err)
			}
			return &bodyOut[permitsView]{viewPermits(&p)}, nil
		})
	operate(a, op{method: http.MethodGet, path: "/consent/signals", tag: "consent", right: tagserver.May("audiences:read", tagserver.OfAll), ok: 200, errors: []int{404, 422}, summary: "What the consent signals of requests said, by day"},
		func(_ context.Context, in *signalsIn) (*bodyOut[signalsView], error) {
			s, err := a.o.Signals(taxonomy.SiteID(in.Site), in.Days)
			if err != nil {
				return nil, a.fail(fmt.Sprintf("count what consent signals said at site %q", cut(in.Site)), err)
			}
			v := signalsView{AsOf: s.AsOf.Time(), From: s.From, To: s.To, Signals: []signalLineView{}}
			for _, l := range s.Lines {
				line := signalLineView{Signal: l.Signal.String(), Verdict: l.Verdict.String(), Requests: show(l.N), Days: []signalDayView{}}
				for i, n := range l.Days {
					if n > 0 {
						line.Days = append(line.Days, signalDayView{s.From + taxonomy.Day(i), show(n)})
					}
				}
				v.Signals = append(v.Signals, line)
			}
			return &bodyOut[signalsView]{v}, nil
		})
}

func viewPermits(p *consent.Permits) permitsView {
	shown := show
	if p.Visitors < audience.ShownFloor {
		shown = showPart
	}
	v := permitsView{AsOf: p.AsOf.Time(), Visitors: shown(p.Visitors), Profile: shown(p.Profile), Insight: shown(p.Insight), Training: shown(p.Training), Export: shown(p.Export),
		Destinations: []destinationPermitView{}, Signals: []signalPermitView{}, Without: []withoutView{}}
	for _, d := range p.Destinations {
		v.Destinations = append(v.Destinations, destinationPermitView{d.Destination, shown(d.Allowed)})
	}
	for _, s := range p.Signals {
		v.Signals = append(v.Signals, signalPermitView{s.Signal.String(), shown(s.Visitors), shown(s.Profile)})
	}
	for _, w := range p.Without {
		v.Without = append(v.Without, withoutView{w.Purpose, w.Name, shown(w.Lost), w.From})
	}
	return v
}
