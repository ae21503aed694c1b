package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/cmd/ebb/keyfile"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

// newLogger writes messages as the settings say. Everything that a command
// answers goes to standard output; messages go to standard error.
func newLogger(w io.Writer, m config.Messages) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(m.Level)); err != nil {
		level = slog.LevelInfo // the settings were checked
	}
	o := &slog.HandlerOptions{Level: level}
	if m.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// openApp opens the data directory of the settings for this process alone. If
// make is set an empty one is made, with keys of its own. A node of a cluster
// never makes keys: they are the same on all nodes.
func openApp(c *cli.Context, r *config.Resolved, makeNew bool) (a *app.App, firstKey string, err error) {
	return openWith(c, r, makeNew, false)
}

func openWith(c *cli.Context, r *config.Resolved, makeNew, initCluster bool) (a *app.App, firstKey string, err error) {
	path := r.KeysFile()
	ring, err := keyfile.Read(path)
	if errors.Is(err, fs.ErrNotExist) && r.Cluster() {
		return nil, "", fmt.Errorf("there is no %s: the keys are the same on all nodes of a cluster, so no node makes them by itself; copy the file from another node, or for a new cluster make it once, with `ebb keys new`", path)
	}
	if errors.Is(err, fs.ErrNotExist) && makeNew {
		if used, uerr := app.Used(app.System(), r.Data); uerr != nil {
			return nil, "", uerr
		} else if used {
			return nil, "", fmt.Errorf("%s holds data, and its keys are not at %s: without them nobody can tell to whom the data belongs; put back your copy of the keys", r.Data, path)
		}
		if ring, err = keys.Generate(c.Rand, taxonomy.DayOf(c.Now())); err == nil {
			err = keyfile.Create(path, ring)
		}
	}
	if err != nil {
		return nil, "", err
	}
	o := app.Options{
		Config: r.Config, Env: app.System(), Keys: ring, Logger: newLogger(c.Stderr, r.Messages), Init: initCluster,
		SaveKeys: func(change func(*keys.Ring) (*keys.Ring, error)) (*keys.Ring, error) {
			if err := keyfile.Update(path, change); err != nil {
				return nil, err
			}
			return keyfile.Read(path)
		},
	}
	if r.Cluster() {
		o.SaveKeys = nil // a change on one node would be missing on the others
	}
	return app.Open(c, o)
}
