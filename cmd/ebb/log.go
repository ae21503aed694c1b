package main

import (
	"fmt"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
)

type logCommand struct {
	Holes logHoles `cmd:"" help:"Show where followers of the log stand still."`
	Skip  logSkip  `cmd:"" help:"Give up records that will not come."`
}

func (logCommand) Help() string {
	return `In a cluster the nodes copy their logs to Cassandra, and the builder follows them without leaving anything out: where a record is missing it waits. Most such holes are seconds old and fill by themselves. One that is older than 7 days cannot: the rows behind it have ended. Then the group stands still, /readyz says so, and only ` + "`ebb log skip`" + ` goes on.

Examples:

    ebb log holes
    ebb log skip 6f1c… --group 0`
}

type logHoles struct{}

func (logHoles) Help() string {
	return `Examples:

    ebb log holes
    ebb log holes -o json`
}

// Run prints the holes behind the last checkpoint of each group.
func (logHoles) Run(c *cli.Context) error {
	r, err := c.Config()
	if err != nil {
		return err
	}
	holes, err := app.LogHoles(c, &r.Config, app.System(), newLogger(c.Stderr, r.Messages))
	if err != nil {
		return err
	}
	type hole struct {
		Writer string `json:"writer"`
		Group  int    `json:"group"`
		First  uint64 `json:"first"`
		Last   uint64 `json:"last"`
		Lost   bool   `json:"lost"`
	}
	doc := struct {
		Holes []hole `json:"holes"`
	}{[]hole{}}
	rows := cli.Rows{Head: []string{"WRITER", "GROUP", "RECORDS", "STATE"}}
	for _, h := range holes {
		doc.Holes = append(doc.Holes, hole{h.Writer.String(), int(h.Group), h.Next, h.Behind - 1, h.Lost})
		state := "may still fill"
		if h.Lost {
			state = "will not fill: `ebb log skip`"
		}
		rows.Add(h.Writer, h.Group, fmt.Sprintf("%d to %d", h.Next, h.Behind-1), state)
	}
	return c.Print(doc, rows)
}

type logSkip struct {
	Writer string `arg:"" help:"The writer, as ebb log holes shows it."`
	Group  int    `default:"0" help:"The group."`
	Force  bool   `help:"Also if the rows are young and might still come: the node that has them is gone for good."`
}

func (logSkip) Help() string {
	return `What was in the records is lost: they count as received and as dropped{log_expired}, of no site, since nobody knows of which.

Examples:

    ebb log skip 6f1c… --group 0
    ebb log skip 6f1c… --force`
}

// Run skips the first hole of a writer.
func (s logSkip) Run(c *cli.Context) error {
	r, err := c.Config()
	if err != nil {
		return err
	}
	h, err := app.SkipHole(c, &r.Config, app.System(), newLogger(c.Stderr, r.Messages), s.Writer, s.Group, s.Force)
	if err != nil {
		return err
	}
	n := h.Behind - h.Next
	var rows cli.Rows
	rows.Add("skipped", fmt.Sprintf("%d records (%d to %d) of writer %s", n, h.Next, h.Behind-1, h.Writer))
	return c.Print(struct {
		Writer  string `json:"writer"`
		Group   int    `json:"group"`
		First   uint64 `json:"first"`
		Last    uint64 `json:"last"`
		Records uint64 `json:"records"`
	}{h.Writer.String(), int(h.Group), h.Next, h.Behind - 1, n}, rows)
}
