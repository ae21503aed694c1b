package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/cmd/ebb/keyfile"
	"github.com/ebb-dmp/ebb/segments/audience"
)

type moveCommand struct {
	To     string `required:"" enum:"cassandra,embedded" placeholder:"STORE" help:"The store that the data goes to: cassandra or embedded."`
	Target string `required:"" placeholder:"FILE" help:"The settings of where it goes, as a YAML file. Of the environment only EBB_CASSANDRA_PASSWORD counts for it, of flags none."`
}

func (moveCommand) Help() string {
	return `Carries an installation into another one, which has its own store, data directory, shards and groups: from the embedded store to Cassandra when one machine is too small, and back. The settings in force (--config, environment, flags) are those of what is moved.

Nothing is lost or said twice: events with their remaining life, visitors and audiences, erasures and their nights, matches, definitions with their versions, API keys, the audit log, and what each DSP holds, so that its next delivery is what changed and no full. At the end both sides are counted and compared, visitor by visitor.

Before it: copy the file of keys to the place that the new settings name; ` + "`ebb migrate up`" + ` for Cassandra; ` + "`ebb init`" + ` with the new settings; stop ` + "`ebb serve`" + `, in order, on all nodes of what is moved. If it is ended in the middle, run it again: until its end nothing else opens where it goes. What is moved stays as it is; remove it when the new one serves, for it forgets nobody any more.

Examples:

    ebb move --to cassandra --target cluster.yaml --data /var/lib/ebb
    ebb move --to embedded --target single.yaml --config cluster.yaml -o json`
}

// Run moves.
func (m moveCommand) Run(c *cli.Context) error {
	from, err := c.Config()
	if err != nil {
		return err
	}
	to, err := m.target(c)
	if err != nil {
		return err
	}
	if to.Store != m.To {
		return cli.Usage(fmt.Errorf("--to says %s, and %s says store: %s", m.To, m.Target, to.Store))
	}
	o := app.MoveOptions{Tell: func(step string) { c.Note("%s", step) }}
	if o.From, err = standing(c, from); err != nil {
		return err
	}
	if o.To, err = standing(c, to); err != nil {
		return fmt.Errorf("%w; it is the file of keys of what is moved: copy %s there before `ebb init`", err, from.KeysFile())
	}
	res, err := app.Move(c, o)
	if err != nil {
		return err
	}
	if err := c.Print(movedDoc(&res), movedRows(&res)); err != nil {
		return err
	}
	if !res.Same {
		return errors.New("the two sides are not the same, so where it went stays closed; run `ebb move` again, and tell us if they differ again")
	}
	c.Note("start `ebb serve` with the new settings; when it serves, remove %s and what else the old store holds", from.Data)
	return nil
}

// target resolves the settings of where it goes.
func (m moveCommand) target(c *cli.Context) (*config.Resolved, error) {
	b, err := os.ReadFile(m.Target)
	if err != nil {
		return nil, cli.Usage(fmt.Errorf("read the settings of where it goes: %w", err))
	}
	var environ []string
	for _, pair := range c.Environ {
		if strings.HasPrefix(pair, "EBB_CASSANDRA_PASSWORD=") {
			environ = append(environ, pair)
		}
	}
	to, err := config.Load(config.Input{File: m.Target, Content: b, Environ: environ, CheckSchedule: app.CheckSchedule})
	return to, cli.Usage(err)
}

// standing are the options of an installation whose keys are not changed.
func standing(c *cli.Context, r *config.Resolved) (o app.Options, err error) {
	o = app.Options{Config: r.Config, Env: app.System()}
	quiet := r.Messages
	if quiet.Level == "info" {
		quiet.Level = "warn"
	}
	o.Logger = newLogger(c.Stderr, quiet)
	o.Keys, err = keyfile.Read(r.KeysFile())
	return o, err
}

// shownMembers is a count as people see it: none below the floor.
func shownMembers(n uint64) string {
	if n < audience.ShownFloor {
		return "<" + strconv.Itoa(audience.ShownFloor)
	}
	return strconv.FormatUint(n, 10)
}

type movedAudience struct {
	ID   string `json:"id"`
	From string `json:"from"` // <50 if it is less
	To   string `json:"to"`
	Same bool   `json:"same"`
}

// movedDoc is the result with counts of audiences as they may be shown.
func movedDoc(m *app.Moved) any {
	list := []movedAudience{}
	for _, a := range m.Audiences {
		list = append(list, movedAudience{string(a.ID), shownMembers(a.From), shownMembers(a.To), a.Same})
	}
	return struct {
		*app.Moved
		Audiences []movedAudience `json:"audiences"`
	}{m, list}
}

func movedRows(m *app.Moved) cli.Rows {
	rows := cli.Rows{Head: []string{"", strings.ToUpper(m.From.Store), strings.ToUpper(m.To.Store), "SAME"}}
	same := func(yes bool) string {
		if yes {
			return "yes"
		}
		return "NO"
	}
	rows.Add("where", m.From.Where, m.To.Where, "")
	rows.Add("shards", m.From.Shards, m.To.Shards, "")
	rows.Add("groups", m.From.Groups, m.To.Groups, "")
	for _, n := range m.Counts {
		rows.Add(n.What, n.From, n.To, same(n.From == n.To))
	}
	for _, a := range m.Audiences {
		rows.Add("audience "+string(a.ID), shownMembers(a.From), shownMembers(a.To), same(a.Same))
	}
	for _, d := range m.Destinations {
		rows.Add("held by "+string(d.Destination), d.Held, d.To, same(d.Same))
	}
	rows.Add("all of it, visitor by visitor", "", "", same(m.Same))
	return rows
}
