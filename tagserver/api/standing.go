package api

import (
	"context"
	"net/http"
	"time"

	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

type (
	// standingView is how a destination stands, with times as the API writes them.
	standingView struct {
		Destination  taxonomy.DestinationID `json:"destination"`
		Hold         *holdView              `json:"hold,omitempty" doc:"A change that is too large to go out by itself. POST to the destination's approval lets it; what consent and erasures demand has gone out."`
		Held         uint64                 `json:"held" doc:"Memberships that the receiver held after the last delivery."`
		Allowed      uint64                 `json:"allowed" doc:"How many consent would let go to it; held of allowed is the match rate."`
		Backlog      int                    `json:"backlog" doc:"Chunks that the receiver has not answered."`
		Owes         bool                   `json:"owes" doc:"Whether something of the last delivery was not acknowledged, and is said again."`
		Owed         uint64                 `json:"owed" doc:"Removals that wait for the eraser."`
		Removals     int                    `json:"removals" doc:"Removals that the receiver has not acknowledged."`
		RemovalsOver *time.Time             `json:"removals_over,omitempty" doc:"When the first of those copies ends by itself."`
		Next         *time.Time             `json:"next,omitempty" doc:"Not asked again before."`
		Attempts     int                    `json:"attempts" doc:"Failures in a row."`
		Jobs         int                    `json:"jobs" doc:"Chunks that the receiver has taken and still works on."`
		At           *time.Time             `json:"at,omitempty" doc:"When it was delivered to last."`
		Kept         []string               `json:"kept" doc:"Files of deliveries whose bytes can be downloaded as they were sent."`
		Letters      []letterView           `json:"letters" doc:"Dead letters: chunks that the receiver refused for good, newest first. Their rows are planned again, at once after POST to the destination's replay."`
	}
	holdView struct {
		At         time.Time `json:"at"`
		Generation uint64    `json:"generation"`
		Changed    uint64    `json:"changed" doc:"Memberships that would come or leave."`
		Of         uint64    `json:"of" doc:"Those of the last full."`
	}
	letterView struct {
		At    time.Time `json:"at"`
		Name  string    `json:"name"`
		Rows  uint64    `json:"rows"`
		Fault string    `json:"fault"`
	}
)

func timeOf(m taxonomy.Millis) *time.Time {
	if m == 0 {
		return nil
	}
	t := m.Time()
	return &t
}

func showStanding(id taxonomy.DestinationID, s *delivery.Standing) standingView {
	v := standingView{Destination: id, Held: s.Held, Allowed: s.Allowed, Backlog: s.Backlog, Owes: s.Owes, Owed: s.Owed, Removals: s.Removals,
		RemovalsOver: timeOf(s.RemovalsOver), Next: timeOf(s.Next), Attempts: s.Attempts, Jobs: s.Jobs, At: timeOf(s.At), Letters: []letterView{}, Kept: append([]string{}, s.Kept...)}
	if h := s.Hold; h != nil {
		v.Hold = &holdView{h.At.Time(), h.Generation, h.Changed, h.Of}
	}
	for _, l := range s.Letters {
		v.Letters = append(v.Letters, letterView{l.At.Time(), l.Name, l.Rows, l.Fault})
	}
	return v
}

// standings registers how destinations stand, and what somebody has to say so
// that they go on.
func (a *API) standings() {
	show := func(ctx context.Context, id string) (*bodyOut[standingView], error) {
		s, err := a.o.Deliveries.Standing(ctx, taxonomy.DestinationID(id))
		if err != nil {
			return nil, a.fail("read how "+id+" stands", err)
		}
		return &bodyOut[standingView]{showStanding(taxonomy.DestinationID(id), &s)}, nil
	}
	operate(a, op{method: http.MethodGet, path: "/destinations/{id}/standing", tag: "destinations", right: tagserver.May("deliveries:read", tagserver.OfOwn), ok: 200, errors: []int{404}, summary: "How a destination stands: match rate, backlog, removals, what waits for approval, dead letters"},
		func(ctx context.Context, in *idIn) (*bodyOut[standingView], error) {
			if err := meets(ctx, a, a.destinations(), in.ID); err != nil {
				return nil, err
			}
			return show(ctx, in.ID)
		})
	for _, x := range []struct {
		path, what, summary string
		do                  func(context.Context, taxonomy.DestinationID) error
	}{
		{"approval", "approve the change of", "Let a change go out that is too large to go by itself, with the next generation, within a day", func(ctx context.Context, id taxonomy.DestinationID) error {
			return a.o.Deliveries.Approve(ctx, id)
		}},
		{"replay", "replay to", "Ask a receiver again at once: forgets the wait after failures and the dead letters, whose rows are planned anew", func(ctx context.Context, id taxonomy.DestinationID) error {
			return a.o.Deliveries.Replay(ctx, id)
		}},
	} {
		operate(a, op{method: http.MethodPost, path: "/destinations/{id}/" + x.path, tag: "destinations", right: tagserver.May("deliveries:write", tagserver.OfOwn), ok: 200, errors: []int{404, 503}, summary: x.summary},
			func(ctx context.Context, in *idIn) (*bodyOut[standingView], error) {
				if err := meets(ctx, a, a.destinations(), in.ID); err != nil {
					return nil, err
				}
				err := a.audited(ctx, defs.Entry{What: x.path, Kind: string(defs.Destination), Object: in.ID}, func() error {
					return x.do(ctx, taxonomy.DestinationID(in.ID))
				})
				if err != nil {
					return nil, a.fail(x.what+" "+in.ID, err)
				}
				return show(ctx, in.ID)
			})
	}
}
