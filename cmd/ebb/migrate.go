package main

import (
	"errors"
	"fmt"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/retention/cassandra"
)

type migrateCommand struct {
	Status migrateStatus `cmd:"" help:"Show which steps of the schema the keyspace has."`
	Up     migrateUp     `cmd:"" help:"Make the keyspace and apply the steps that it lacks."`
}

func (migrateCommand) Help() string {
	return `The tables in Cassandra are made in numbered steps, which only add. Run ` + "`ebb migrate up`" + ` once from any node before the first start, and after an upgrade that asks for it; running it again, or on two nodes at once, is fine. Nodes refuse a schema that is newer than they are.

Examples:

    ebb migrate status --config ebb.yaml
    ebb migrate up --config ebb.yaml`
}

// cassandraOptions are the settings of the cluster's store.
func cassandraOptions(c *cli.Context) (cassandra.Options, error) {
	r, err := c.Config()
	if err != nil {
		return cassandra.Options{}, err
	}
	if !r.Cluster() {
		return cassandra.Options{}, cli.Usage(errors.New("the setting store is embedded: there is no schema in Cassandra; set store: cassandra"))
	}
	return app.CassandraOptions(&r.Config, app.System(), newLogger(c.Stderr, r.Messages))
}

type migrateStatus struct{}

func (migrateStatus) Help() string {
	return `Ends with 1 if a step is not applied, or the keyspace has one that this program does not know.

Examples:

    ebb migrate status
    ebb migrate status -o json`
}

// migrationStep is a step as it is printed.
type migrationStep struct {
	N       int    `json:"n"`
	Name    string `json:"name"`
	State   string `json:"state"`
	Applied string `json:"applied,omitempty"`
}

func migrationSteps(steps []cassandra.Step) (out []migrationStep, ok bool) {
	out, ok = []migrationStep{}, true
	for _, s := range steps {
		m := migrationStep{N: s.N, Name: s.Name, State: "applied"}
		if s.Applied != 0 {
			m.Applied = s.Applied.Time().UTC().Format("2006-01-02 15:04:05")
		}
		switch {
		case s.Newer:
			m.State, ok = "of a newer ebb: run that version", false
		case s.Changed:
			m.State, ok = "applied with another text: run the version that applied it", false
		case s.Applied == 0:
			m.State, ok = "not applied: run `ebb migrate up`", false
		}
		out = append(out, m)
	}
	return out, ok
}

// Run prints the steps.
func (migrateStatus) Run(c *cli.Context) error {
	o, err := cassandraOptions(c)
	if err != nil {
		return err
	}
	steps, err := cassandra.Status(c, o)
	if err != nil {
		return err
	}
	doc := struct {
		Keyspace string          `json:"keyspace"`
		OK       bool            `json:"ok"`
		Steps    []migrationStep `json:"steps"`
	}{Keyspace: o.Keyspace}
	doc.Steps, doc.OK = migrationSteps(steps)
	rows := cli.Rows{Head: []string{"STEP", "STATE", "APPLIED"}}
	for _, s := range doc.Steps {
		rows.Add(s.Name, s.State, s.Applied)
	}
	if err := c.Print(doc, rows); err != nil {
		return err
	}
	if !doc.OK {
		return cli.ErrSilent
	}
	return nil
}

type migrateUp struct{}

func (migrateUp) Help() string {
	return `The keyspace is made with the setting cassandra.replication (3 copies in cassandra.data_center unless it says otherwise) and cassandra.buckets, which is fixed from then on; see the help on running with Cassandra for how many are needed.

Examples:

    ebb migrate up
    ebb migrate up --cassandra.replication dc1:3,dc2:3`
}

// Run applies the steps that are missing.
func (migrateUp) Run(c *cli.Context) error {
	o, err := cassandraOptions(c)
	if err != nil {
		return err
	}
	done, err := cassandra.Up(c, o)
	if err != nil {
		return err
	}
	doc := struct {
		Keyspace string          `json:"keyspace"`
		Applied  []migrationStep `json:"applied"`
	}{Keyspace: o.Keyspace}
	doc.Applied, _ = migrationSteps(done)
	var rows cli.Rows
	for _, s := range doc.Applied {
		rows.Add("applied", s.Name)
	}
	if len(done) == 0 {
		rows.Add(fmt.Sprintf("nothing to do: keyspace %s has every step", o.Keyspace))
	} else {
		rows.Add("next", "for a new cluster: `ebb keys new` once, the file on every node, then `ebb init` once")
	}
	return c.Print(doc, rows)
}
