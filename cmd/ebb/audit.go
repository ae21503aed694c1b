package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
)

type auditCommand struct {
	List   auditList   `cmd:"" help:"List who changed what, the newest first."`
	Verify auditVerify `cmd:"" help:"Check that no entry was altered, dropped or moved."`
}

func (auditCommand) Help() string {
	return `Every write through the API, the console and these commands is in the audit log before it is done: which key asked, what, which object, from which version to which, when. It holds nothing of a visitor, and outlives the 90 days. Each entry's hash covers the one before.

What lies where of visitors' data, and how old it is, says ebb retention audit.

Examples:

    ebb audit list
    ebb audit verify`
}

const auditPath = "/api/v1/audit"

// auditEntry is an entry as the API shows it.
type auditEntry struct {
	Seq    uint64    `json:"seq"`
	At     time.Time `json:"at"`
	Who    string    `json:"who"`
	What   string    `json:"what"`
	Kind   string    `json:"kind"`
	Object string    `json:"object"`
	Before uint64    `json:"before"`
	After  uint64    `json:"after"`
	Detail string    `json:"detail"`
	Of     uint64    `json:"of"`
}

func (e *auditEntry) versions() string {
	switch {
	case e.Before == 0 && e.After == 0:
		return ""
	case e.Before == 0:
		return fmt.Sprintf("→ %d", e.After)
	case e.After == 0:
		return fmt.Sprintf("%d →", e.Before)
	}
	return fmt.Sprintf("%d → %d", e.Before, e.After)
}

type auditList struct {
	Limit int `default:"50" help:"How many."`
}

func (auditList) Help() string {
	return `An entry is written before what it tells of is done. If that failed, or its outcome is not known, another entry says so, with the number of the first.

Examples:

    ebb audit list
    ebb audit list --limit 1000 -o json`
}

// Run lists entries.
func (a auditList) Run(c *cli.Context) error {
	if a.Limit < 1 {
		return cli.Usage(errors.New("--limit must be at least 1"))
	}
	return reach(c, func(cl *client.Client) error {
		doc := []json.RawMessage{}
		rows := cli.Rows{Head: []string{"ENTRY", "AT", "WHO", "WHAT", "OBJECT", "VERSION", ""}}
		for cursor := ""; len(doc) < a.Limit; {
			var page struct {
				Items []json.RawMessage `json:"items"`
				Next  string            `json:"next"`
			}
			if _, err := cl.Get(c, fmt.Sprintf("%s?limit=%d&cursor=%s", auditPath, min(a.Limit-len(doc), 1000), url.QueryEscape(cursor)), &page); err != nil {
				return fmt.Errorf("list the audit log: %w", err)
			}
			for _, raw := range page.Items {
				var e auditEntry
				if err := json.Unmarshal(raw, &e); err != nil {
					return fmt.Errorf("list the audit log: %w", err)
				}
				doc = append(doc, raw)
				note := e.Detail
				if e.Of > 0 {
					note = fmt.Sprintf("of entry %d", e.Of)
				}
				rows.Add(e.Seq, when(e.At), e.Who, e.What, strings.TrimSpace(e.Kind+" "+e.Object), e.versions(), note)
			}
			if cursor = page.Next; cursor == "" {
				break
			}
		}
		return c.Print(doc, rows)
	})
}

type auditVerify struct {
	Noted string `placeholder:"SEQ:HASH" help:"An end that was noted before: the log must still have it."`
}

func (auditVerify) Help() string {
	return `Reads the whole log and says of every entry that was altered, dropped or moved which one it is. Who can write to the store could make the whole chain anew; note the end that this prints where they cannot, and give it to a later run.

Ends with 1 if the log was touched.

Examples:

    ebb audit verify
    ebb audit verify --noted 1204:9f0c…`
}

// Run verifies the log.
func (a auditVerify) Run(c *cli.Context) error {
	path := auditPath + "/verification"
	if a.Noted != "" {
		seq, hash, ok := strings.Cut(a.Noted, ":")
		if _, err := strconv.ParseUint(seq, 10, 64); err != nil || !ok || hash == "" {
			return cli.Usage(fmt.Errorf("--noted %q is not SEQ:HASH, as an earlier run printed it", a.Noted))
		}
		path += "?seq=" + seq + "&hash=" + url.QueryEscape(hash)
	}
	return reach(c, func(cl *client.Client) error {
		var r struct {
			Entries uint64 `json:"entries"`
			Last    uint64 `json:"last"`
			Hash    string `json:"hash"`
			Faults  []struct {
				Seq   uint64 `json:"seq"`
				Fault string `json:"fault"`
			} `json:"faults"`
		}
		doc, err := cl.Get(c, path, &r)
		if err != nil {
			return fmt.Errorf("verify the audit log: %w", err)
		}
		var rows cli.Rows
		rows.Add("entries", r.Entries)
		rows.Add("end", fmt.Sprintf("%d:%s", r.Last, r.Hash))
		for _, f := range r.Faults {
			rows.Add(fmt.Sprintf("entry %d", f.Seq), f.Fault)
		}
		if err := c.Print(doc, rows); err != nil {
			return err
		}
		if len(r.Faults) > 0 {
			return errors.New("the audit log was touched; the entries named are not as they were written")
		}
		return nil
	})
}
