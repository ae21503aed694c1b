package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
	"github.com/ebb-dmp/ebb/cmd/ebb/config"
)

// reach runs fn with what answers the API for the data directory: the server
// that holds it, or, if none does, an App of this command's own. What fn gets
// back is the same either way.
func reach(c *cli.Context, fn func(*client.Client) error) error {
	r, err := c.Config()
	if err != nil {
		return err
	}
	used, err := app.Used(app.System(), r.Data)
	if err != nil {
		return err
	}
	if !used {
		if r.AdminKey != "" { // the data is elsewhere: in a container, say
			return overNetwork(c, r, fn)
		}
		return fmt.Errorf("there is no data in %s; name the data directory with --data, or make one with `ebb init`", r.Data)
	}
	quiet := *r
	if quiet.Messages.Level == "info" {
		quiet.Messages.Level = "warn" // the answer says what was done
	}
	if _, err := os.Stat(r.KeysFile()); errors.Is(err, fs.ErrNotExist) && r.AdminKey != "" {
		return overNetwork(c, r, fn) // who has the data and not its keys needs a server
	}
	a, _, err := openApp(c, &quiet, false)
	if app.InUse(err) {
		return overNetwork(c, r, fn)
	}
	if err != nil {
		return err
	}
	defer func() { _ = a.Close(context.WithoutCancel(c)) }() // closed below; a second time does nothing
	h, err := a.Local(c)
	if err != nil {
		return err
	}
	cl := client.Within(h)
	err = errors.Join(fn(cl), cl.Close())
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c), stopWithin)
	defer cancel()
	return errors.Join(err, a.Close(ctx))
}

func overNetwork(c *cli.Context, r *config.Resolved, fn func(*client.Client) error) error {
	if r.AdminKey == "" {
		return fmt.Errorf("a server holds %s, and to go through it this command needs the admin key, which was printed when the installation was made; give it as EBB_ADMIN_KEY, or stop the server", r.Data)
	}
	base, h, err := healthCommand{}.client(c)
	if err != nil {
		return err
	}
	return fn(client.New(base, r.AdminKey, h))
}

// when prints an instant for people.
func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}
