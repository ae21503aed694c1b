package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/tagserver"
)

type serveCommand struct{}

func (serveCommand) Help() string {
	return `Runs Ebb on the data directory: the public listener for browsers, the partner listener for DSPs, the private one for ad ops and operators. An empty directory is made, with its keys beside it; the admin key is printed then, once.

SIGTERM or Ctrl-C stops it: requests under way are answered, nothing that was acknowledged is lost, and it ends with 0.

Examples:

    ebb serve
    ebb serve --config /etc/ebb/ebb.yaml
    EBB_LISTEN_PUBLIC=0.0.0.0:443 EBB_TLS_CERT=cert.pem EBB_TLS_KEY=key.pem ebb serve`
}

// stopWithin bounds an ordered stop. Cutting it short is safe: what was
// acknowledged is in the log.
const stopWithin = 30 * time.Second

// Run serves until the context ends.
func (serveCommand) Run(c *cli.Context) error {
	r, err := c.Config()
	if err != nil {
		return err
	}
	for _, w := range r.Warnings() {
		fmt.Fprintf(c.Stderr, "ebb: warning: %s\n", w)
	}
	a, firstKey, err := openApp(c, r, true)
	if err != nil {
		return err
	}
	if firstKey != "" {
		fmt.Fprintf(c.Stderr, "ebb: made %s and its keys at %s; copy the keys to a safe place\nebb: the admin key, shown this once: %s\n", r.Data, r.KeysFile(), firstKey)
	}
	s, err := a.Serve(c)
	if err == nil {
		fmt.Fprintf(c.Stderr, "ebb: serving; console at http://%s/console\n", s.Address(tagserver.Private))
		err = s.Wait(c)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c), stopWithin)
	defer cancel()
	return errors.Join(err, a.Close(ctx))
}
