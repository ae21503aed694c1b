package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
)

// apiStanding is how a destination stands, as the API shows it.
type apiStanding struct {
	Destination string `json:"destination"`
	Hold        *struct {
		Changed uint64 `json:"changed"`
		Of      uint64 `json:"of"`
	} `json:"hold"`
	Held         uint64    `json:"held"`
	Allowed      uint64    `json:"allowed"`
	Backlog      int       `json:"backlog"`
	Owed         uint64    `json:"owed"`
	Removals     int       `json:"removals"`
	RemovalsOver time.Time `json:"removals_over"`
	Next         time.Time `json:"next"`
	Attempts     int       `json:"attempts"`
	Jobs         int       `json:"jobs"`
	At           time.Time `json:"at"`
	Letters      []struct {
		At    time.Time `json:"at"`
		Name  string    `json:"name"`
		Rows  uint64    `json:"rows"`
		Fault string    `json:"fault"`
	} `json:"letters"`
}

func (s *apiStanding) print(c *cli.Context, doc json.RawMessage) error {
	rows := cli.Rows{Head: []string{"", ""}}
	rows.Add("destination", s.Destination)
	rows.Add("last delivery", when(s.At))
	rows.Add("held", s.Held)
	match := "-"
	if s.Allowed > 0 {
		match = fmt.Sprintf("%.1f %% of %d allowed", 100*float64(s.Held)/float64(s.Allowed), s.Allowed)
	}
	rows.Add("match rate", match)
	if h := s.Hold; h != nil {
		rows.Add("waits for approval", fmt.Sprintf("%d memberships would come or leave, of %d", h.Changed, h.Of))
	}
	rows.Add("chunks without an answer", s.Backlog)
	removals := fmt.Sprint(s.Removals)
	if !s.RemovalsOver.IsZero() {
		removals += ", the first of these copies ends by itself at " + when(s.RemovalsOver)
	}
	rows.Add("removals not acknowledged", removals)
	rows.Add("removals that wait for the eraser", s.Owed)
	rows.Add("jobs of the receiver", s.Jobs)
	if !s.Next.IsZero() {
		rows.Add("asked again", fmt.Sprintf("%s, after %d failures", when(s.Next), s.Attempts))
	}
	for _, l := range s.Letters {
		rows.Add("dead letter", fmt.Sprintf("%s %s, %d rows: %s", when(l.At), l.Name, l.Rows, l.Fault))
	}
	return c.Print(doc, rows)
}

type deliverStatus struct {
	Destination string `arg:"" help:"The destination."`
}

func (deliverStatus) Help() string {
	return `Examples:

    ebb deliver status big-dsp
    ebb deliver status big-dsp -o json`
}

// Run says how a destination stands.
func (d deliverStatus) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		var s apiStanding
		doc, err := cl.Get(c, destinationPath(d.Destination)+"/standing", &s)
		if err != nil {
			return fmt.Errorf("read how %s stands: %w", d.Destination, err)
		}
		return s.print(c, doc)
	})
}

type deliverApprove struct {
	Destination string `arg:"" help:"The destination."`
}

func (deliverApprove) Help() string {
	return `A change of more than 30 % of the last full (hold_above of the destination) does not go out by itself. This lets it, with the next generation, within a day. Who was erased or no longer allows it was taken out all the same.

Examples:

    ebb deliver approve big-dsp`
}

// Run approves.
func (d deliverApprove) Run(c *cli.Context) error {
	return postStanding(c, d.Destination, "approval", "approve the change of")
}

type deliverReplay struct {
	Destination string `arg:"" help:"The destination."`
}

func (deliverReplay) Help() string {
	return `After failures a receiver is asked more and more rarely. This has it asked at once, with the next delivery. What dead letters would have said is planned anew, since a letter itself may be wrong by now.

Examples:

    ebb deliver replay big-dsp`
}

// Run replays.
func (d deliverReplay) Run(c *cli.Context) error {
	return postStanding(c, d.Destination, "replay", "replay to")
}

func postStanding(c *cli.Context, destination, what, words string) error {
	return reach(c, func(cl *client.Client) error {
		var s apiStanding
		doc, err := cl.Post(c, destinationPath(destination)+"/"+what, nil, &s)
		if err != nil {
			return fmt.Errorf("%s %s: %w", words, destination, err)
		}
		return s.print(c, doc)
	})
}
