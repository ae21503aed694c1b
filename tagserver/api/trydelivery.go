package api

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"unicode/utf8"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

type (
	// tryView is what a delivery would do, kept nowhere.
	tryView struct {
		deliveryView
		MadeUp   bool            `json:"made_up" doc:"The delivery is of too few visitors for a sample, or of none: the three are made up."`
		Visitors []sampleRowView `json:"visitors" doc:"The rows of three visitors. Their IDs are stand-ins that nobody has."`
		Files    []sampleView    `json:"files" doc:"What the receiver would get if the delivery were of these three alone."`
	}
	sampleRowView struct {
		ID       string              `json:"id"`
		Audience taxonomy.AudienceID `json:"audience"`
		Segment  string              `json:"segment" doc:"The receiver's name of the audience."`
		Remove   bool                `json:"remove"`
		Minutes  int                 `json:"minutes" doc:"Remaining life; 0 for removals."`
	}
	sampleView struct {
		Name      string `json:"name,omitempty" doc:"Absent if the receiver does not read names."`
		MediaType string `json:"media_type"`
		Rows      uint64 `json:"rows"`
		Control   bool   `json:"control,omitempty" doc:"It lists the others."`
		Text      string `json:"text,omitempty" doc:"The bytes, or what they are when gunzipped, if that is text."`
		Base64    string `json:"base64" doc:"The bytes."`
	}
)

// mostText is how much of a sample is gunzipped.
const mostText = 1 << 20

func showTry(d *delivery.DryRun) tryView {
	v := tryView{deliveryView: showDelivery(d.Delivery), MadeUp: d.MadeUp, Visitors: []sampleRowView{}, Files: []sampleView{}}
	for _, r := range d.Visitors {
		v.Visitors = append(v.Visitors, sampleRowView{r.ID, r.Audience, r.Segment, r.Remove, r.Minutes})
	}
	for _, f := range d.Files {
		s := sampleView{Name: f.Name, MediaType: f.MediaType, Rows: f.Rows, Control: f.Control, Base64: base64.StdEncoding.EncodeToString(f.Body)}
		text := f.Body
		if z, err := gzip.NewReader(bytes.NewReader(text)); err == nil {
			if b, err := io.ReadAll(io.LimitReader(z, mostText)); err == nil {
				text = b
			}
		}
		if utf8.Valid(text) && !bytes.ContainsRune(text, 0) {
			s.Text = string(text)
		}
		v.Files = append(v.Files, s)
	}
	return v
}

// tryDeliveries registers dry runs of deliveries.
func (a *API) tryDeliveries() {
	operate(a, op{method: http.MethodPost, path: "/destinations/{id}/deliveries/dry-run", tag: "destinations", right: tagserver.May("deliveries:write", tagserver.OfOwn), ok: 200, errors: []int{404, 409, 422, 503}, slow: true,
		summary: "Say to the byte what a delivery would send now, without sending it, and show it on three visitors in the destination's format"},
		func(ctx context.Context, in *idIn) (*bodyOut[tryView], error) {
			r := a.destinations()
			d, _, err := r.find(a.here(ctx), in.ID)
			if err != nil {
				return nil, a.fail("find destination "+in.ID, err)
			}
			if err := a.mustHaveBuilt(ctx, "try a delivery to "+in.ID); err != nil {
				return nil, err
			}
			v, err := a.tryDelivery(ctx, d)
			if err != nil {
				return nil, err
			}
			return &bodyOut[tryView]{*v}, nil
		})
}

func (a *API) tryDelivery(ctx context.Context, d *delivery.Destination) (*tryView, error) {
	dry, err := a.o.Deliveries.DryRun(ctx, *d)
	if err != nil {
		return nil, a.fail("try a delivery to "+string(d.ID), err)
	}
	v := showTry(&dry)
	return &v, nil
}

// mustHaveBuilt returns a problem if there is no generation.
func (a *API) mustHaveBuilt(ctx context.Context, what string) error {
	refs, err := a.o.Generations.List(ctx)
	if err != nil {
		return a.fail(what, err)
	}
	if len(refs) == 0 {
		return newProblem(http.StatusConflict, codeConflict, "there is no generation to deliver yet; POST to %s/generations builds one", base)
	}
	return nil
}

// tryDraft tries a destination as a definition has it that is not kept, if there
// is anything that could be delivered.
func (a *API) tryDraft(ctx context.Context, d *draft) (*tryView, error) {
	refs, err := a.o.Generations.List(ctx)
	if err != nil || len(refs) == 0 {
		return nil, err
	}
	b, err := d.body()
	if err != nil {
		return nil, err
	}
	var dest delivery.Destination
	if err := json.Unmarshal(b, &dest); err != nil {
		return nil, err
	}
	return a.tryDelivery(ctx, &dest)
}
