package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/cmd/ebb/demo"
)

type demoCommand struct{}

func (demoCommand) Help() string {
	return fmt.Sprintf(`Shows all of Ebb on real behaviour, in a temporary folder that goes with it: 75,000 rows of a year of purchases (of which those of the last 90 days count), two sites, eight audiences and a lookalike, two fake DSPs that pull their segment files, a page with the tag, and a small live stream. It serves on free ports of this machine until it is stopped with Ctrl-C.

Two settings differ from an installation's: the export floor is %d instead of 1,000, and new visitors are hardly limited.

With -o json it prints one line when it is ready: addresses, keys and counts.

With store: cassandra it runs on that cluster, in a keyspace of its own that goes with it.

Examples:

    ebb demo
    ebb demo -o json
    ebb demo --store cassandra --cassandra.hosts 127.0.0.1 --cassandra.data_center dc1`, demo.Floor)
}

// Run shows the demo until the context ends.
func (demoCommand) Run(c *cli.Context) error {
	dir, err := os.MkdirTemp("", "ebb-demo-")
	if err != nil {
		return fmt.Errorf("make a temporary folder: %w", err)
	}
	defer os.RemoveAll(dir)
	o := demo.Options{Env: app.System(), Dir: dir, Logger: newLogger(c.Stderr, config.Messages{Level: "warn", Format: "text"})}
	r, err := c.Config()
	if err != nil {
		return err
	}
	if r.Cluster() {
		o.Cluster = &r.Config
	}
	d, err := demo.Start(c, o)
	if err != nil {
		return err
	}
	rows := cli.Rows{Head: []string{"look at", ""}}
	rows.Add("a page with the tag", d.Info.Page)
	rows.Add("the console", d.Info.Private+"/console")
	rows.Add("its admin key", d.Info.AdminKey)
	rows.Add("segment files", fmt.Sprintf("curl -H 'Authorization: Bearer %s' %s/v1/destinations/%s/files", d.Info.PartnerKey, d.Info.Partner, d.Info.Destination))
	rows.Add("commands", fmt.Sprintf("EBB_DATA=%s EBB_LISTEN_PRIVATE=%s EBB_ADMIN_KEY=%s ebb audience list", d.Info.Data, strings.TrimPrefix(d.Info.Private, "http://"), d.Info.AdminKey))
	rows.Add("events go to", d.Info.Public+"/v1/e")
	rows.Add("the data", d.Info.Data)
	rows.Add("imported", fmt.Sprintf("%d of %d rows, %d visitors; %d rows are older than 90 days", d.Receipt.Stored, d.Receipt.Rows, d.Receipt.Visitors, d.Receipt.Rejected["too_old"]))
	for _, e := range d.Generation().Audiences {
		rows.Add("audience "+string(e.ID), e.Count)
	}
	rows.Add("export floor", fmt.Sprintf("%d (an installation's is 1000)", demo.Floor))
	if err := c.Print(d.Info, rows); err == nil && c.Output == cli.Table {
		fmt.Fprintln(c.Stderr, "ebb: serving; stop with Ctrl-C")
	}
	err = d.Wait(c)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c), 15*time.Second)
	defer cancel()
	return errors.Join(err, d.Close(ctx))
}
