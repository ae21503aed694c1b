package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
	"github.com/ebb-dmp/ebb/lookalike"
)

type lookalikeCommand struct {
	List lookalikeList `cmd:"" help:"List lookalikes, and how good each is."`
	Show lookalikeShow `cmd:"" help:"Show what speaks for a lookalike."`
}

// lookalikeSpec is what of a definition is told.
type lookalikeSpec struct {
	Title     string `json:"title"`
	Lookalike struct {
		Seed  string  `json:"seed"`
		Size  uint64  `json:"size"`
		Share float64 `json:"share"`
	} `json:"lookalike"`
}

func (s *lookalikeSpec) asked() string {
	if s.Lookalike.Size > 0 {
		return fmt.Sprint(s.Lookalike.Size)
	}
	return fmt.Sprintf("%.4g %%", 100*s.Lookalike.Share)
}

// evidence is what a lookalike's entry says of its quality; nil if it says
// nothing.
type evidence struct {
	Seed   uint64            `json:"seed"`
	AUC    float64           `json:"auc"`
	Detail *lookalike.Detail `json:"detail"`
}

func evidenceOf(e *apiEntry) (*evidence, error) {
	if e == nil || len(e.Evidence) == 0 {
		return nil, nil
	}
	ev := new(evidence)
	if err := json.Unmarshal(e.Evidence, ev); err != nil {
		return nil, fmt.Errorf("read the evidence of %s: %w", e.ID, err)
	}
	return ev, nil
}

type lookalikeList struct{}

func (lookalikeList) Help() string {
	return `AUC is held out: of members of the seed that the model was not shown. 0.5 is chance, 1 perfect.

Examples:

    ebb lookalike list
    ebb lookalike list -o json`
}

// Run lists the lookalikes.
func (lookalikeList) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		list, err := audiencesAt(c, cl, "/api/v1/lookalikes")
		if err != nil {
			return fmt.Errorf("list lookalikes: %w", err)
		}
		rows := cli.Rows{Head: []string{"LOOKALIKE", "SEED", "ASKED", "VISITORS", "AUC", "VERDICT"}}
		for _, a := range list {
			var d lookalikeSpec
			if err := json.Unmarshal(a.Definition, &d); err != nil {
				return fmt.Errorf("read lookalike %s: %w", a.ID, err)
			}
			ev, err := evidenceOf(a.newest)
			if err != nil {
				return err
			}
			visitors, auc, verdict := "not built yet", "", ""
			if a.newest != nil {
				visitors, verdict = a.newest.Shown, a.newest.Fault
			}
			if ev != nil {
				auc = fmt.Sprintf("%.3f", ev.AUC)
				if ev.Detail != nil {
					verdict = ev.Detail.Verdict
				}
			}
			rows.Add(a.ID, d.Lookalike.Seed, d.asked(), visitors, auc, verdict)
		}
		return c.Print(struct {
			Lookalikes []audienceRow `json:"lookalikes"`
		}{list}, rows)
	})
}

type lookalikeShow struct {
	ID string `arg:"" help:"The lookalike."`
}

func (lookalikeShow) Help() string {
	return `Examples:

    ebb lookalike show like-regulars
    ebb lookalike show like-regulars -o json`
}

// Run shows one lookalike and its evidence.
func (l lookalikeShow) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		var d lookalikeSpec
		definition, err := cl.Get(c, "/api/v1/lookalikes/"+url.PathEscape(l.ID), &d)
		if err != nil {
			return fmt.Errorf("show lookalike %s: %w", l.ID, err)
		}
		entries, raw, err := generationsOf(c, cl, l.ID)
		if err != nil {
			return fmt.Errorf("show lookalike %s: %w", l.ID, err)
		}
		var rows cli.Rows
		rows.Add("lookalike", l.ID)
		rows.Add("title", d.Title)
		rows.Add("seed", d.Lookalike.Seed)
		rows.Add("asked", d.asked())
		if err := explainLookalike(&rows, entries); err != nil {
			return err
		}
		return c.Print(struct {
			Definition  json.RawMessage `json:"definition"`
			Generations json.RawMessage `json:"generations"`
		}{definition, raw}, rows)
	})
}

func explainLookalike(rows *cli.Rows, entries []apiEntry) error {
	if len(entries) == 0 {
		rows.Add("visitors", "not built yet; `ebb audience build` does it")
		return nil
	}
	e := &entries[0]
	rows.Add("visitors", e.Shown, when(e.AsOf))
	if e.Fault != "" {
		rows.Add("why none", e.Fault)
	}
	ev, err := evidenceOf(e)
	if err != nil || ev == nil {
		return err
	}
	rows.Add("AUC, held out", fmt.Sprintf("%.3f", ev.AUC))
	t := ev.Detail
	if t == nil {
		return nil
	}
	rows.Add("interval", fmt.Sprintf("%.3f to %.3f", t.AUCLow, t.AUCHigh))
	rows.Add("most active alone", fmt.Sprintf("%.3f", t.ActivityAUC))
	rows.Add("verdict", t.Verdict+": "+t.Says)
	rows.Add("lift at that size", fmt.Sprintf("%.2f (%.2f to %.2f)", t.Asked.Lift, t.Asked.LiftLow, t.Asked.LiftHigh))
	name := func(list []lookalike.Driver) string {
		var names []string
		for _, x := range list {
			names = append(names, string(x.Trait))
		}
		return strings.Join(names, ", ")
	}
	if len(t.For) > 0 {
		rows.Add("speaks for", name(t.For))
	}
	if len(t.Against) > 0 {
		rows.Add("speaks against", name(t.Against))
	}
	return nil
}
