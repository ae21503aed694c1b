package api

import (
	"context"
	"net/http"
	"time"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// What a site's waterfall answers: visitors of 90 days, below the floor only that
// they are below it (P7).
type (
	waterfallView struct {
		Source        taxonomy.SourceID `json:"source" doc:"Whose visitors are counted: sites that share a source share its waterfall."`
		AsOf          time.Time         `json:"as_of"`
		Seen          ShownCount        `json:"seen" doc:"Had an event in the 90 days, and is not erased."`
		NotBot        ShownCount        `json:"not_bot" doc:"Of these: no event was flagged as a bot's."`
		Adopted       ShownCount        `json:"adopted" doc:"Of these: the cookie came back."`
		Permitted     ShownCount        `json:"permitted" doc:"Of these: may be profiled."`
		Matched       ShownCount        `json:"matched" doc:"Of these: at least one destination may be sent the visitor and knows it."`
		Bots          []botLayerView    `json:"bots" doc:"Visitors that each layer flagged; one that two flagged counts in both."`
		NeverReturned uint64            `json:"never_returned_events" doc:"Events of this site whose visitor's cookie never came back. Nothing of such visitors is kept, so they are not counted themselves."`
	}
	botLayerView struct {
		Layer string `json:"layer" enum:"agent,cadence,honeypot"`
		ShownCount
	}
)

// falling registers a site's waterfall.
func (a *API) falling() {
	operate(a, op{method: http.MethodGet, path: "/sites/{id}/waterfall", tag: "sites", right: tagserver.May("sites:read", tagserver.OfOwn), ok: 200, errors: []int{404, 503}, summary: "How many visitors are left from being seen to being reached: not a bot, adopted, permitted, matched"},
		func(ctx context.Context, in *idIn) (*bodyOut[waterfallView], error) {
			if err := meets(ctx, a, sites(), in.ID); err != nil {
				return nil, err
			}
			w, err := a.o.Waterfall(ctx, taxonomy.SiteID(in.ID))
			if err != nil {
				return nil, a.fail("count the waterfall", err)
			}
			return &bodyOut[waterfallView]{viewWaterfall(&w)}, nil
		})
}

func viewWaterfall(w *tagserver.Waterfall) waterfallView {
	v := waterfallView{Source: w.Source, AsOf: w.AsOf.Time(), Seen: show(w.Seen), NotBot: show(w.NotBot), Adopted: show(w.Adopted),
		Permitted: show(w.Permitted), Matched: show(w.Matched), Bots: []botLayerView{}, NeverReturned: w.NeverReturned}
	for _, l := range w.Layers {
		v.Bots = append(v.Bots, botLayerView{l.Layer, show(l.Visitors)})
	}
	return v
}
