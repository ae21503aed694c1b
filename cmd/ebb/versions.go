package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
	"github.com/ebb-dmp/ebb/cmd/ebb/folder"
)

type versionsCommand struct {
	List     versionsList     `cmd:"" help:"List the versions of a definition."`
	Diff     versionsDiff     `cmd:"" help:"Say what differs between two versions."`
	Rollback versionsRollback `cmd:"" help:"Make a former version the present one."`
	Usage    versionsUsage    `cmd:"" help:"Say what names a definition."`
}

func (versionsCommand) Help() string {
	return `Every change of a definition is a new version; the former ones stay. A definition is named by its kind and its ID: source/crm, site/shop, taxonomy/products, rule/bought, audience/lapsing, destination/dsp.

Examples:

    ebb versions list audience/lapsing
    ebb versions diff audience/lapsing
    ebb versions rollback audience/lapsing 3
    ebb versions usage taxonomy/products`
}

// definitionPath is where the API has what a command calls kind/ID.
func definitionPath(name string) (string, error) {
	kind, id, ok := strings.Cut(name, "/")
	k := slices.IndexFunc(folder.Kinds, func(k struct{ Kind, Folder string }) bool { return k.Kind == kind })
	if !ok || k < 0 || id == "" {
		return "", cli.Usage(fmt.Errorf("%q is not kind/ID, such as audience/lapsing; the kinds are source, site, taxonomy, rule, audience and destination", name))
	}
	return "/api/v1/" + folder.Kinds[k].Folder + "/" + url.PathEscape(id), nil
}

type definitionArg struct {
	Definition string `arg:"" placeholder:"KIND/ID" help:"The definition, such as audience/lapsing."`
}

// ask gets what is at a path below a definition.
func (d *definitionArg) ask(c *cli.Context, below string, out any, answer func(raw json.RawMessage) error) error {
	path, err := definitionPath(d.Definition)
	if err != nil {
		return err
	}
	return reach(c, func(cl *client.Client) error {
		raw, err := cl.Get(c, path+below, out)
		if err != nil {
			return fmt.Errorf("%s: %w", d.Definition, err)
		}
		return answer(raw)
	})
}

type versionsList struct{ definitionArg }

func (versionsList) Help() string {
	return `The newest first. Who made each, says ebb audit list.

Example:

    ebb versions list audience/lapsing`
}

// Run lists versions.
func (v versionsList) Run(c *cli.Context) error {
	var doc struct {
		Items []struct {
			Version    uint64          `json:"version"`
			Changed    time.Time       `json:"changed"`
			Definition json.RawMessage `json:"definition"`
		} `json:"items"`
	}
	return v.ask(c, "/versions?limit=1000", &doc, func(raw json.RawMessage) error {
		rows := cli.Rows{Head: []string{"VERSION", "CHANGED"}}
		for _, it := range doc.Items {
			rows.Add(it.Version, when(it.Changed))
		}
		return c.Print(raw, rows)
	})
}

type versionsDiff struct {
	definitionArg
	From uint64 `placeholder:"VERSION" help:"The one before TO if it is not given."`
	To   uint64 `placeholder:"VERSION" help:"The present one if it is not given."`
}

func (versionsDiff) Help() string {
	return `Examples:

    ebb versions diff audience/lapsing
    ebb versions diff audience/lapsing --from 2 --to 5`
}

// Run compares versions.
func (v versionsDiff) Run(c *cli.Context) error {
	query := url.Values{}
	if v.From > 0 {
		query.Set("from", fmt.Sprint(v.From))
	}
	if v.To > 0 {
		query.Set("to", fmt.Sprint(v.To))
	}
	var doc struct {
		From   uint64 `json:"from"`
		To     uint64 `json:"to"`
		Fields []struct {
			Field  string          `json:"field"`
			Before json.RawMessage `json:"before"`
			After  json.RawMessage `json:"after"`
		} `json:"fields"`
	}
	return v.ask(c, "/diff?"+query.Encode(), &doc, func(raw json.RawMessage) error {
		rows := cli.Rows{Head: []string{"FIELD", fmt.Sprint("VERSION ", doc.From), fmt.Sprint("VERSION ", doc.To)}}
		for _, f := range doc.Fields {
			rows.Add(f.Field, string(f.Before), string(f.After))
		}
		return c.Print(raw, rows)
	})
}

type versionsRollback struct {
	definitionArg
	Version uint64 `arg:"" help:"The version whose definition shall be the present one."`
}

func (versionsRollback) Help() string {
	return `Makes a new version that says what the former one said. It is checked as any change is: what it names may be gone by now.

Example:

    ebb versions rollback audience/lapsing 3`
}

// Run rolls back.
func (v versionsRollback) Run(c *cli.Context) error {
	path, err := definitionPath(v.Definition)
	if err != nil {
		return err
	}
	return reach(c, func(cl *client.Client) error {
		var d struct {
			ID string `json:"id"`
		}
		raw, err := cl.PostAny(c, path+"/rollback", map[string]uint64{"version": v.Version}, &d)
		if err != nil {
			return fmt.Errorf("roll %s back to version %d: %w", v.Definition, v.Version, err)
		}
		var rows cli.Rows
		rows.Add(v.Definition, fmt.Sprintf("says again what version %d said", v.Version))
		return c.Print(raw, rows)
	})
}

type versionsUsage struct{ definitionArg }

func (versionsUsage) Help() string {
	return `What names a definition keeps it from being deleted.

Examples:

    ebb versions usage audience/lapsing
    ebb versions usage taxonomy/products/categories/tea`
}

// Run says what names a definition.
func (v versionsUsage) Run(c *cli.Context) error {
	path, err := definitionPath(v.Definition)
	if err != nil {
		return err
	}
	path = strings.ReplaceAll(path, "%2F", "/")
	return reach(c, func(cl *client.Client) error {
		var doc struct {
			Users []struct {
				Kind string `json:"kind"`
				ID   string `json:"id"`
				Why  string `json:"why"`
			} `json:"users"`
		}
		raw, err := cl.Get(c, path+"/usage", &doc)
		if err != nil {
			return fmt.Errorf("%s: %w", v.Definition, err)
		}
		rows := cli.Rows{}
		for _, u := range doc.Users {
			rows.Add(u.Kind+"/"+u.ID, u.Why)
		}
		if len(doc.Users) == 0 {
			rows.Add("nothing names it")
		}
		return c.Print(raw, rows)
	})
}
