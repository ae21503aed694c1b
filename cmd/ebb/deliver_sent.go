package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
)

type deliverSent struct {
	Destination string `arg:"" help:"The destination."`
	File        string `arg:"" help:"The delivery's file, as deliver list names it."`
	To          string `placeholder:"FILE" help:"Write the bytes into this file: as they were sent if they were one body, else a tar of all bodies."`
}

func (deliverSent) Help() string {
	return `Lists the bodies that a delivery sent, and what came of each; with --to, writes them, byte for byte. That somebody had them is in the audit log. They are kept for 7 days (push.keep_sent of the destination), and no longer than until the night after somebody in them was erased or no longer allows this.

Examples:

    ebb deliver sent big-dsp e0-g17-h40-1f0c22aa-delta.json
    ebb deliver sent big-dsp e0-g17-h40-1f0c22aa-delta.json --to sent.tar`
}

// Run lists or writes what was sent.
func (d deliverSent) Run(c *cli.Context) error {
	path := destinationPath(d.Destination) + "/deliveries/" + url.PathEscape(d.File)
	return reach(c, func(cl *client.Client) (err error) {
		var v struct {
			Chunks []struct {
				Chunk   int    `json:"chunk"`
				Name    string `json:"name"`
				Rows    uint64 `json:"rows"`
				Bytes   int64  `json:"bytes"`
				SHA256  string `json:"sha256"`
				Outcome string `json:"outcome"`
			} `json:"chunks"`
		}
		if d.To != "" {
			// Before anybody is told that somebody has it.
			if _, err := os.Stat(d.To); err == nil {
				return fmt.Errorf("%s is there already; nothing was written", d.To)
			}
		}
		doc, err := cl.Get(c, path, &v)
		if err == nil && d.To != "" {
			err = d.write(c, cl, path+"/content")
		}
		if err != nil {
			return fmt.Errorf("what %s was sent: %w", d.Destination, err)
		}
		rows := cli.Rows{Head: []string{"CHUNK", "NAME", "ROWS", "BYTES", "OUTCOME", "SHA-256"}}
		for _, x := range v.Chunks {
			rows.Add(x.Chunk, x.Name, x.Rows, x.Bytes, x.Outcome, x.SHA256)
		}
		return c.Print(doc, rows)
	})
}

func (d deliverSent) write(c *cli.Context, cl *client.Client, path string) (err error) {
	res, err := cl.Do(c, "GET", path, "", nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	part := d.To + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = io.Copy(f, res.Body); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return os.Rename(part, d.To)
}
