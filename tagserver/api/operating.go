package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

type (
	accountView struct {
		Site taxonomy.SiteID `json:"site" doc:"A site; import.SOURCE for a source's imports; empty for what named no site."`
		Account
	}
	retentionView struct {
		At     time.Time      `json:"at"`
		OK     bool           `json:"ok"`
		Places []forget.Place `json:"places"`
	}
	erasureBody struct {
		Space taxonomy.Space `json:"space"`
		ID    string         `json:"id"`
	}
	erasureOut struct {
		Location string `header:"Location"`
		Body     erasureView
	}
	erasureView struct {
		Receipt string `json:"receipt"`
	}
	receiptIn struct {
		Receipt string `path:"receipt" maxLength:"64"`
	}
	receiptView struct {
		ID     string         `json:"id"`
		Space  taxonomy.Space `json:"space"`
		At     time.Time      `json:"at"`
		Soon   *time.Time     `json:"soon,omitempty" doc:"From when on nobody was told of it."`
		Nights []time.Time    `json:"nights" doc:"When each nightly pass over all places was complete."`
		Done   bool           `json:"done"`
		Places []string       `json:"places"`
		Bound  taxonomy.Day   `json:"bound" doc:"The last day on which a byte of it may lie on disk."`
	}
	refusalView struct {
		At     time.Time `json:"at"`
		Code   string    `json:"code"`
		Where  string    `json:"where,omitempty"`
		Why    string    `json:"why"`
		Sample string    `json:"sample,omitempty" doc:"The shape of the value: letters as a, digits as 0."`
	}
)

// maxID is the longest ID of a visitor, as in files.
const maxID = 256

// operating registers what operators ask.
func (a *API) operating() {
	operate(a, op{method: http.MethodGet, path: "/accounts", tag: "operation", right: tagserver.May("operation:read", tagserver.OfOwn), ok: 200, errors: []int{400, 503}, summary: "What became of the events of each site: received = stored + duplicate + rejected + dropped + queued"},
		func(ctx context.Context, in *listIn) (*listOut[accountView], error) {
			all, err := a.o.Accounts(ctx)
			if err != nil {
				return nil, a.fail("read the accounts", err)
			}
			w, views := a.here(ctx), []accountView{}
			for site, acc := range all {
				if w.ownAccount(site) {
					views = append(views, accountView{site, acc})
				}
			}
			slices.SortFunc(views, func(x, y accountView) int { return cmp.Compare(x.Site, y.Site) })
			return paged("/accounts", in, views, func(v *accountView) string { return string(v.Site) })
		})
	operate(a, op{method: http.MethodGet, path: "/retention", tag: "operation", right: tagserver.May("operation:read", tagserver.OfAll), ok: 200, errors: []int{503}, slow: true, summary: "The oldest thing in every place that keeps visitors' data"},
		func(ctx context.Context, _ *struct{}) (*bodyOut[retentionView], error) {
			return &bodyOut[retentionView]{a.retention(ctx)}, nil
		})
	operate(a, op{method: http.MethodPost, path: "/erasures", tag: "erasures", right: tagserver.May("erasures:write", tagserver.OfAll), ok: 202, errors: []int{413, 415, 422, 503}, body: erasureBody{}, slow: true, summary: "Erase whom an ID names"}, a.erase)
	operate(a, op{method: http.MethodGet, path: "/erasures/{receipt}", tag: "erasures", right: tagserver.May("erasures:read", tagserver.OfAll), ok: 200, errors: []int{404}, summary: "What was done of an erasure"},
		func(ctx context.Context, in *receiptIn) (*bodyOut[receiptView], error) {
			r, err := a.o.Receipt(ctx, in.Receipt)
			if err != nil {
				return nil, a.fail("read the receipt", err)
			}
			v := receiptView{ID: r.ID, Space: r.Space, At: r.At.Time(), Nights: []time.Time{}, Done: r.Done, Places: append([]string{}, r.Places...), Bound: r.Bound}
			if r.Soon > 0 {
				soon := r.Soon.Time()
				v.Soon = &soon
			}
			for _, n := range r.Nights {
				v.Nights = append(v.Nights, n.Time())
			}
			return &bodyOut[receiptView]{v}, nil
		})
	operate(a, op{method: http.MethodGet, path: "/sites/{id}/refusals", tag: "sites", right: tagserver.May("sites:read", tagserver.OfOwn), ok: 200, errors: []int{400, 404}, summary: "The last things that were refused for a site, and why"},
		func(ctx context.Context, in *listOfIn) (*listOut[refusalView], error) {
			if err := meets(ctx, a, sites(), in.ID); err != nil {
				return nil, err
			}
			all := []refusalView{}
			for _, r := range a.o.Refusals(taxonomy.SiteID(in.ID)) {
				all = append(all, refusalView{r.At.Time(), r.Code, r.Where, r.Why, r.Sample})
			}
			return newestFirst("/sites/"+in.ID+"/refusals", in.Limit, in.Cursor, all, func(r *refusalView) int64 { return r.At.UnixMilli() })
		})
}

// retention looks at every place.
func (a *API) retention(ctx context.Context) retentionView {
	r := a.o.Audit(ctx)
	v := retentionView{At: r.At.Time(), OK: r.OK, Places: append([]forget.Place{}, r.Places...)}
	for i := range v.Places {
		if p := &v.Places[i]; p.Error != "" {
			a.log.Error("audit", "place", p.Name, "error", p.Error)
		}
	}
	return v
}

// erase passes an ID on, and keeps it out of every answer and message.
func (a *API) erase(ctx context.Context, in *postIn) (*erasureOut, error) {
	var b erasureBody
	faults := decode("body", in.RawBody, &b, nil)
	if len(faults) == 0 {
		if err := taxonomy.CheckSpace(b.Space); err != nil {
			faults = append(faults, fault("body.space", "%s", err))
		} else if b.Space == taxonomy.SpaceCookie {
			faults = append(faults, fault("body.space", "cookie IDs are known to browsers only: the visitor's own browser erases itself with POST /v1/optout"))
		}
		if b.ID == "" || len(b.ID) > maxID {
			faults = append(faults, fault("body.id", "want 1 to %d bytes, got %d", maxID, len(b.ID)))
		}
	}
	if len(faults) > 0 {
		return nil, invalid("the erasure", hideValues(faults))
	}
	var receipt string
	// The log says that somebody was erased, never whom.
	err := a.audited(ctx, defs.Entry{What: "erase", Kind: "visitor", Detail: string(b.Space)}, func() (err error) {
		receipt, err = a.o.Erase(ctx, b.Space, b.ID)
		return err
	})
	if errors.Is(err, keys.ErrNoKey) {
		return nil, invalid("the erasure", []tagserver.ProblemError{fault("body.space", "no ID of this space was ever taken in, so there is nobody to erase")})
	}
	if err != nil {
		return nil, a.fail("erase", err)
	}
	return &erasureOut{Location: base + "/erasures/" + receipt, Body: erasureView{receipt}}, nil
}

// hideValues takes what was sent as an ID out of the faults: a number in the
// place of text, say, would be repeated.
func hideValues(faults []tagserver.ProblemError) []tagserver.ProblemError {
	for i := range faults {
		if f := &faults[i]; f.Location == "body.id" && len(f.Message) > 4 && f.Message[:4] == "want" && f.Message[:6] != "want 1" {
			f.Message = "want a string"
		}
	}
	return faults
}
