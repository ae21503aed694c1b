package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
)

type accessCommand struct {
	List   accessList   `cmd:"" help:"List the API keys and what they may do."`
	Create accessCreate `cmd:"" help:"Make an API key, and show it once."`
	Revoke accessRevoke `cmd:"" help:"Revoke an API key, at once."`
}

func (accessCommand) Help() string {
	return `API keys are what people and programs show to the API and the console. Each has a role, and may have less: some of the role's scopes, or some sources and destinations only. Beside the data directory no key is needed: whoever may open that is the operator.

These are not the secret keys of the data, which are ebb keys, nor the keys by which partners pull, which belong to destinations.

Examples:

    ebb access list
    ebb access create ci --role operator --scope audiences:read --scope deliveries:write
    ebb access create agency --role operator --source agency --destination agency-dsp --ends 2027-01-01
    ebb access revoke ci`
}

const keysPath = "/api/v1/keys"

// accessKey is an API key as the API shows it.
type accessKey struct {
	ID           string   `json:"id"`
	Title        string   `json:"title,omitempty"`
	Role         string   `json:"role"`
	Scopes       []string `json:"scopes,omitempty"`
	Sources      []string `json:"sources,omitempty"`
	Destinations []string `json:"destinations,omitempty"`
	Ends         string   `json:"ends,omitempty"`
	Used         string   `json:"used,omitempty"`
	Key          string   `json:"key,omitempty"`
}

// only says what a key is restricted to.
func (k *accessKey) only() string {
	var parts []string
	for _, p := range []struct {
		what string
		ids  []string
	}{{"", k.Scopes}, {"sources ", k.Sources}, {"destinations ", k.Destinations}} {
		if len(p.ids) > 0 {
			parts = append(parts, p.what+strings.Join(p.ids, ", "))
		}
	}
	return strings.Join(parts, "; ")
}

type accessList struct{}

func (accessList) Help() string {
	return `Examples:

    ebb access list
    ebb access list -o json`
}

// Run lists the keys.
func (accessList) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		items, err := cl.List(c, keysPath)
		if err != nil {
			return fmt.Errorf("list API keys: %w", err)
		}
		doc := []json.RawMessage{}
		rows := cli.Rows{Head: []string{"KEY", "TITLE", "ROLE", "ONLY", "ENDS", "LAST USED"}}
		for _, it := range items {
			var k accessKey
			if err := json.Unmarshal(it.Definition, &k); err != nil {
				return fmt.Errorf("list API keys: %w", err)
			}
			doc = append(doc, it.Definition)
			used := k.Used
			if used == "" {
				used = "never"
			}
			rows.Add(k.ID, k.Title, k.Role, k.only(), k.Ends, used)
		}
		return c.Print(doc, rows)
	})
}

type accessCreate struct {
	ID          string   `arg:"" help:"What the audit log calls it."`
	Role        string   `required:"" enum:"viewer,analyst,operator,admin" placeholder:"ROLE" help:"viewer looks; analyst defines categories, rules and audiences; operator the rest, takes in, delivers and erases; admin gives keys too."`
	Title       string   `help:"Whose it is."`
	Scope       []string `placeholder:"SCOPE" help:"Of the role's scopes only this, such as audiences:read; again for each."`
	Source      []string `placeholder:"SOURCE" help:"Only what is of this source; again for each."`
	Destination []string `placeholder:"DEST" help:"Only this destination and what it gets; again for each."`
	Ends        string   `placeholder:"DAY" help:"The first day on which it is refused."`
}

func (accessCreate) Help() string {
	return `The key is shown this once; only its hash is kept. Give it as EBB_ADMIN_KEY to commands, and as Authorization: Bearer to the API.

Examples:

    ebb access create ci --role operator
    ebb access create agency --role operator --source agency --destination agency-dsp`
}

// Run makes a key.
func (a accessCreate) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		var k accessKey
		doc, err := cl.Post(c, keysPath, accessKey{ID: a.ID, Title: a.Title, Role: a.Role, Scopes: a.Scope, Sources: a.Source, Destinations: a.Destination, Ends: a.Ends}, &k)
		if err != nil {
			return fmt.Errorf("make API key %s: %w", a.ID, err)
		}
		var rows cli.Rows
		rows.Add("key", k.Key)
		rows.Add("id", k.ID)
		rows.Add("role", k.Role)
		if only := k.only(); only != "" {
			rows.Add("only", only)
		}
		if err := c.Print(doc, rows); err != nil {
			return err
		}
		c.Note("the key is shown this once; keep it in a safe place")
		return nil
	})
}

type accessRevoke struct {
	ID string `arg:"" help:"The key's ID."`
}

func (accessRevoke) Help() string {
	return `The key, and every session of the console that was opened with it, opens nothing from now on. The last key that may give keys stays.

Example:

    ebb access revoke ci`
}

// Run revokes a key.
func (a accessRevoke) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		if err := cl.Delete(c, keysPath+"/"+url.PathEscape(a.ID)); err != nil {
			return fmt.Errorf("revoke API key %s: %w", a.ID, err)
		}
		var rows cli.Rows
		rows.Add(a.ID, "opens nothing any more")
		return c.Print(struct {
			Revoked string `json:"revoked"`
		}{a.ID}, rows)
	})
}
