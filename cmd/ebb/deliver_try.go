package main

import (
	"fmt"
	"strings"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
)

type deliverTry struct {
	Destination string `arg:"" help:"The destination."`
}

func (deliverTry) Help() string {
	return `Says to the byte what a delivery of the current generation would send now, and sends nothing. Three visitors are shown as the receiver would get them; their IDs are nobody's. Files that are no text are shown with -o json, in base64.

Examples:

    ebb deliver try big-dsp
    ebb deliver try big-dsp -o json`
}

// Run tries.
func (d deliverTry) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		var t struct {
			apiDelivery
			Bytes  int64 `json:"bytes"`
			Chunks int   `json:"chunks"`
			Hold   *struct {
				Changed uint64 `json:"changed"`
				Of      uint64 `json:"of"`
			} `json:"hold"`
			MadeUp bool `json:"made_up"`
			Files  []struct {
				Name      string `json:"name"`
				MediaType string `json:"media_type"`
				Text      string `json:"text"`
			} `json:"files"`
		}
		doc, err := cl.Post(c, destinationPath(d.Destination)+"/deliveries/dry-run", nil, &t)
		if err != nil {
			return fmt.Errorf("try a delivery to %s: %w", d.Destination, err)
		}
		rows := cli.Rows{Head: []string{"", ""}}
		rows.Add("destination", t.Destination)
		rows.Add("generation", fmt.Sprintf("%d.%d", t.Epoch, t.Generation))
		result := t.Result
		if t.Why != "" {
			result += ": " + t.Why
		}
		rows.Add("would be", result)
		rows.Add("rows", fmt.Sprintf("%d: %d come, %d leave", t.Rows, t.Adds, t.Removes))
		size := fmt.Sprintf("%d bytes", t.Bytes)
		if t.Chunks > 0 {
			size += fmt.Sprintf(" in %d chunks", t.Chunks)
		}
		rows.Add("size", size)
		rows.Add("held after it", t.Held)
		if t.Hold != nil {
			rows.Add("would wait", fmt.Sprintf("%d memberships would come or leave, of %d", t.Hold.Changed, t.Hold.Of))
		}
		for _, w := range t.Withheld {
			rows.Add("not sent", w.Audience+": "+w.Why)
		}
		if len(t.Floored) > 0 {
			rows.Add("below the floor", strings.Join(t.Floored, ", "))
		}
		who := "three visitors"
		if t.MadeUp {
			who = "made-up visitors"
		}
		for _, f := range t.Files {
			name := f.MediaType
			if f.Name != "" {
				name = f.Name
			}
			if f.Text == "" {
				rows.Add(who, name+", which is no text")
			}
			for line := range strings.Lines(f.Text) {
				rows.Add(who, strings.ReplaceAll(strings.TrimRight(line, "\n"), "\t", "    "))
				who = ""
			}
		}
		return c.Print(doc, rows)
	})
}
