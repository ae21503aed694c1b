package main

import (
	"errors"
	"fmt"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/config"
)

type initCommand struct {
	IfMissing bool `help:"If there is an installation already, end well and change nothing."`
}

func (initCommand) Help() string {
	return `Makes an empty data directory, its keys beside it, and the admin key, which is shown this once. ` + "`ebb serve`" + ` does the same with a directory that is empty; this is for who wants to see it done first.

With store: cassandra it makes the installation in the keyspace, once for all nodes: how many shards (64) and groups (1) there are, and the admin key. Before it come ` + "`ebb keys new`" + ` and ` + "`ebb migrate up`" + `.

LOST KEYS ORPHAN THE DATA. Copy the file of keys to a safe place, and not into the backups of the data.

Examples:

    ebb init
    ebb init --data /var/lib/ebb -o json`
}

// Run makes the installation.
func (i initCommand) Run(c *cli.Context) error {
	r, err := c.Config()
	if err != nil {
		return err
	}
	if r.Cluster() {
		err := initCluster(c, r)
		if errors.Is(err, app.ErrInstalled) && i.IfMissing {
			c.Note("%v", err)
			return nil
		}
		return err
	}
	if used, err := app.Used(app.System(), r.Data); err != nil {
		return err
	} else if used && i.IfMissing {
		c.Note("%s is in use already; nothing was changed", r.Data)
		return nil
	} else if used {
		return fmt.Errorf("%s is in use already; nothing was changed", r.Data)
	}
	a, key, err := openApp(c, r, true)
	if err != nil {
		return err
	}
	if err := a.Close(c); err != nil {
		return err
	}
	doc := struct {
		Data     string `json:"data"`
		Keys     string `json:"keys"`
		AdminKey string `json:"admin_key"`
	}{r.Data, r.KeysFile(), key}
	rows := cli.Rows{}
	rows.Add("data", doc.Data)
	rows.Add("keys", doc.Keys)
	rows.Add("admin key", doc.AdminKey)
	rows.Add("next", "copy the keys to a safe place, then run `ebb serve`")
	return c.Print(doc, rows)
}

// initCluster makes the installation of a cluster.
func initCluster(c *cli.Context, r *config.Resolved) error {
	a, key, err := openWith(c, r, false, true)
	if err != nil {
		return err
	}
	if err := a.Close(c); err != nil {
		return err
	}
	doc := struct {
		Keyspace string `json:"keyspace"`
		Shards   int    `json:"shards"`
		Groups   int    `json:"groups"`
		Keys     string `json:"keys"`
		AdminKey string `json:"admin_key"`
	}{r.Cassandra.Keyspace, r.Parts(), r.Groups, r.KeysFile(), key}
	rows := cli.Rows{}
	rows.Add("keyspace", doc.Keyspace)
	rows.Add("shards", doc.Shards)
	rows.Add("groups", doc.Groups)
	rows.Add("keys", doc.Keys)
	rows.Add("admin key", doc.AdminKey)
	rows.Add("next", "copy the keys to every node, then run `ebb serve` on each")
	return c.Print(doc, rows)
}
