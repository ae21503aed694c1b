package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"net/url"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
)

type matchesCommand struct {
	Import matchesImport `cmd:"" help:"Take ID-sync files of a destination in."`
	Export matchesExport `cmd:"" help:"Write the ID-sync file of a destination."`
}

type matchesImport struct {
	Destination string   `arg:"" help:"The destination."`
	Files       []string `arg:"" name:"file" help:"Files of one match a line, plain or gzip."`
}

func (matchesImport) Help() string {
	return `A line is Ebb's ID of the visitor at this destination, as the sync gave it, a tab, and the destination's own ID. A name in Audience Manager's form, MASTERDPID_DPID_TIMESTAMP.sync[.SPLIT][.gz], must begin with 0, which is Ebb, and have the destination's account.DPID if it has one.

A file changes nobody's consent: matches of visitors whose consent does not reach the destination are not taken, nor are those beyond the caps of sync. Lines that are no matches are named by number and keep the others back from nothing. A file that is given again changes nothing.

Examples:

    ebb matches import acme 0_12345_1793612152.sync.gz
    ebb matches import acme *.sync -o json`
}

type matchReceipt struct {
	Import      string `json:"import"`
	Destination string `json:"destination"`
	Rows        uint64 `json:"rows"`
	Stored      uint64 `json:"stored"`
	Unchanged   uint64 `json:"unchanged"`
	Duplicate   uint64 `json:"duplicate"`
	Unmatched   uint64 `json:"unmatched"`
	Consent     uint64 `json:"consent"`
	Capped      uint64 `json:"capped"`
	Malformed   uint64 `json:"malformed"`
	Faults      []struct {
		Line   uint32 `json:"line"`
		Column int    `json:"column"`
		Why    string `json:"why"`
	} `json:"faults"`
}

// Run takes the files in, one after the other.
func (m matchesImport) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		docs := []json.RawMessage{}
		var rows cli.Rows
		for _, name := range m.Files {
			doc, err := m.one(c, cl, name)
			if err != nil {
				return err
			}
			var r matchReceipt
			if err := json.Unmarshal(doc, &r); err != nil {
				return fmt.Errorf("read the receipt: %w", err)
			}
			docs = append(docs, doc)
			rows.Add("file", name)
			for _, n := range []struct {
				what string
				n    uint64
			}{{"rows", r.Rows}, {"stored", r.Stored}, {"unchanged", r.Unchanged}, {"duplicate", r.Duplicate}, {"nobody's ID", r.Unmatched},
				{"consent does not reach it", r.Consent}, {"beyond a cap", r.Capped}, {"malformed", r.Malformed}} {
				rows.Add(n.what, n.n)
			}
			for i, f := range r.Faults {
				if i == shownFaults {
					rows.Add("…", "-o json names more")
					break
				}
				at := fmt.Sprintf("line %d", f.Line)
				if f.Column > 0 {
					at += fmt.Sprintf(", column %d", f.Column)
				}
				rows.Add(at, f.Why)
			}
		}
		return c.Print(struct {
			Imports []json.RawMessage `json:"imports"`
		}{docs}, rows)
	})
}

func (m matchesImport) one(c *cli.Context, cl *client.Client, name string) (json.RawMessage, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, cli.Usage(err)
	}
	defer f.Close()
	res, err := cl.Do(c, "POST", destinationPath(m.Destination)+"/matches?name="+url.QueryEscape(filepath.Base(name)), "application/octet-stream", f)
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", name, err)
	}
	defer res.Body.Close()
	doc, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("read the receipt: %w", err)
	}
	return doc, nil
}

type matchesExport struct {
	Destination string `arg:"" help:"The destination."`
}

func (matchesExport) Help() string {
	return `Writes a line for each visitor whom the destination knows by an ID of its own and whose consent reaches it: Ebb's ID there, a tab, the destination's. The order is that of Ebb's IDs, so two destinations' files cannot be joined, neither by IDs nor by place.

Examples:

    ebb matches export acme > 0_12345_$(date +%s).sync
    ebb matches export acme | gzip > matches.gz`
}

// Run writes the file.
func (m matchesExport) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		res, err := cl.Do(c, "GET", destinationPath(m.Destination)+"/matches", "", nil)
		if err != nil {
			return fmt.Errorf("export the matches of %s: %w", m.Destination, err)
		}
		defer res.Body.Close()
		if _, err := io.Copy(c.Stdout, res.Body); err != nil {
			return fmt.Errorf("export the matches of %s: %w", m.Destination, err)
		}
		return nil
	})
}
