package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
	"github.com/ebb-dmp/ebb/cmd/ebb/folder"
)

type draftsCommand struct {
	List    draftsList    `cmd:"" help:"List the drafts."`
	Show    draftsShow    `cmd:"" help:"Show a draft: whose it is, and what is wrong with it."`
	Diff    draftsDiff    `cmd:"" help:"Say what differs between a draft and what is published."`
	Plan    draftsPlan    `cmd:"" help:"Say exactly what publishing a draft would change."`
	Save    draftsSave    `cmd:"" help:"Save drafts from a file."`
	Publish draftsPublish `cmd:"" help:"Make a draft what is published."`
	Discard draftsDiscard `cmd:"" help:"Throw a draft away."`
}

func (draftsCommand) Help() string {
	return `A draft is a rule or a taxonomy on its way: kept beside what is published, in nobody's counts, until it is published or discarded. There is one for each ID, and it need not be right yet. It is named by its kind and its ID: rule/bought, taxonomy/products.

Examples:

    ebb drafts save bought.yaml
    ebb drafts list
    ebb drafts diff rule/bought
    ebb drafts plan rule/bought
    ebb drafts publish rule/bought`
}

// draftAnswer is what the API says of a draft.
type draftAnswer struct {
	ID        string    `json:"id"`
	Kind      string    `json:"kind"`
	Version   uint64    `json:"version"`
	Base      uint64    `json:"base"`
	Published uint64    `json:"published"`
	Stands    string    `json:"stands"`
	Changed   time.Time `json:"changed"`
	Authors   []string  `json:"authors"`
	Faults    []struct {
		Location string `json:"location"`
		Message  string `json:"message"`
	} `json:"faults"`
	Definition json.RawMessage `json:"definition"`
}

// draftArg names a draft.
type draftArg struct {
	Draft string `arg:"" placeholder:"KIND/ID" help:"The draft, such as rule/bought or taxonomy/products."`
}

// path is where the API has it.
func (d *draftArg) path() (string, error) {
	path, err := definitionPath(d.Draft)
	if kind, _, _ := strings.Cut(d.Draft, "/"); err == nil && kind != "rule" && kind != "taxonomy" {
		err = cli.Usage(fmt.Errorf("%q: of rules and taxonomies there are drafts, of the other kinds there are none", d.Draft))
	}
	return path + "/draft", err
}

// with runs fn with the draft's path.
func (d *draftArg) with(c *cli.Context, fn func(cl *client.Client, path string) error) error {
	path, err := d.path()
	if err != nil {
		return err
	}
	return reach(c, func(cl *client.Client) error { return fn(cl, path) })
}

type draftsList struct{}

func (draftsList) Help() string {
	return `Examples:

    ebb drafts list
    ebb drafts list -o json`
}

// Run lists drafts.
func (draftsList) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		rows := cli.Rows{Head: []string{"DRAFT", "STANDS", "SAVED BY", "SAVED"}}
		all, err := client.ListOf[json.RawMessage](c, cl, "/api/v1/drafts")
		for i := 0; err == nil && i < len(all); i++ {
			var d draftAnswer
			if err = json.Unmarshal(all[i], &d); err == nil {
				rows.Add(oneOf(d.Kind)+"/"+d.ID, d.Stands, strings.Join(d.Authors, ", "), when(d.Changed))
			}
		}
		if err != nil {
			return fmt.Errorf("list the drafts: %w", err)
		}
		return c.Print(all, rows)
	})
}

// oneOf is the kind whose definitions stand in a list.
func oneOf(list string) string {
	for _, k := range folder.Kinds {
		if k.Folder == list {
			return k.Kind
		}
	}
	return list
}

type draftsShow struct{ draftArg }

func (draftsShow) Help() string {
	return `The definition is printed with -o json.

Examples:

    ebb drafts show rule/bought
    ebb drafts show rule/bought -o json`
}

// Run shows a draft.
func (x draftsShow) Run(c *cli.Context) error {
	return x.with(c, func(cl *client.Client, path string) error {
		var d draftAnswer
		raw, err := cl.Get(c, path, &d)
		if err != nil {
			return fmt.Errorf("show the draft of %s: %w", x.Draft, err)
		}
		var rows cli.Rows
		rows.Add("draft", x.Draft)
		rows.Add("stands", d.Stands)
		rows.Add("saved", when(d.Changed))
		rows.Add("saved by", strings.Join(d.Authors, ", "))
		for _, f := range d.Faults {
			rows.Add("wrong", f.Location, f.Message)
		}
		if len(d.Faults) == 0 {
			rows.Add("wrong", "nothing: it can be published")
		}
		return c.Print(raw, rows)
	})
}

type draftsDiff struct{ draftArg }

func (draftsDiff) Help() string {
	return `In plain English; with -o json every field that differs too.

Example:

    ebb drafts diff taxonomy/products`
}

// Run compares a draft.
func (x draftsDiff) Run(c *cli.Context) error {
	return x.with(c, func(cl *client.Client, path string) error {
		var d struct {
			Says []string `json:"says"`
		}
		raw, err := cl.Get(c, path+"/diff", &d)
		if err != nil {
			return fmt.Errorf("compare the draft of %s: %w", x.Draft, err)
		}
		var rows cli.Rows
		for _, s := range d.Says {
			rows.Add(s)
		}
		if len(d.Says) == 0 {
			rows.Add("It says what is published.")
		}
		return c.Print(raw, rows)
	})
}

type draftsPlan struct{ draftArg }

func (draftsPlan) Help() string {
	return `Counts the members of every audience, and what every destination would hold, as they are and as they would be, and changes nothing. What takes long can be followed and cancelled as of "ebb plan".

Ends with 0 if nothing would change, and with 3 if something would.

Example:

    ebb drafts plan rule/bought`
}

// Run plans.
func (x draftsPlan) Run(c *cli.Context) error {
	return x.with(c, func(cl *client.Client, path string) error {
		var p planAnswer
		raw, err := counted(c, cl, path+"/publish/dry-run", nil, &p)
		if err != nil {
			return fmt.Errorf("plan the draft of %s: %w", x.Draft, err)
		}
		if len(p.Changes) == 0 {
			var rows cli.Rows
			rows.Add("nothing to do", "it says what is published")
			return c.Print(raw, rows)
		}
		if err := c.Print(raw, p.rows()); err != nil {
			return err
		}
		return cli.ErrDrift
	})
}

type draftsSave struct {
	File string `arg:"" help:"A YAML file with rules and taxonomies, as ebb plan reads them."`
}

func (draftsSave) Help() string {
	return `Saves every rule and taxonomy of the file as a draft, in the place of the draft that there is. A fault of a definition is no hindrance: "ebb drafts show" tells it.

    rule:
      id: bought
      when:
        - {field: kind, op: eq, value: fact}
      then: ["c:shop/{what}"]

Example:

    ebb drafts save bought.yaml`
}

// Run saves drafts.
func (x draftsSave) Run(c *cli.Context) error {
	set, err := readOne(x.File)
	if err != nil {
		return cli.Usage(err)
	}
	type named struct {
		draft string
		path  string
	}
	var all []named
	for _, d := range set.Definitions {
		var of struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal(d.Definition, &of); err != nil || of.ID == "" {
			return cli.Usage(fmt.Errorf("%s: a %s has no id", x.File, d.Kind))
		}
		at := draftArg{d.Kind + "/" + of.ID}
		path, err := at.path()
		if err != nil {
			return err
		}
		all = append(all, named{at.Draft, path})
	}
	return reach(c, func(cl *client.Client) error {
		docs := []json.RawMessage{}
		rows := cli.Rows{Head: []string{"DRAFT", "STANDS", "FAULTS"}}
		for i, n := range all {
			var d draftAnswer
			// If there is one already, it is changed; if not, begun.
			raw, _, err := cl.Send(c, http.MethodPut, n.path, "If-None-Match", "*", set.Definitions[i].Definition, &d)
			var no *client.Refused
			if errors.As(err, &no) && no.Status == http.StatusPreconditionFailed {
				raw, _, err = cl.Send(c, http.MethodPut, n.path, "If-Match", "*", set.Definitions[i].Definition, &d)
			}
			if err != nil {
				return fmt.Errorf("save the draft of %s: %w", n.draft, err)
			}
			docs = append(docs, raw)
			rows.Add(n.draft, d.Stands, len(d.Faults))
		}
		return c.Print(docs, rows)
	})
}

// readOne reads the definitions of one file.
func readOne(name string) (*folder.Set, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return folder.ReadFile(filepath.Base(name), b)
}

type draftsPublish struct {
	draftArg
	Over *uint64 `placeholder:"VERSION" help:"Publish in the place of this version, which somebody else published since the draft was begun."`
}

func (draftsPublish) Help() string {
	return `Publishing checks the draft as any change is checked; the draft is gone with it. If somebody else published meanwhile it is refused, and says what to look at: --over then says which version it replaces.

Examples:

    ebb drafts publish rule/bought
    ebb drafts publish rule/bought --over 5`
}

// Run publishes.
func (x draftsPublish) Run(c *cli.Context) error {
	return x.with(c, func(cl *client.Client, path string) error {
		what := "publish the draft of " + x.Draft
		var d draftAnswer
		if _, err := cl.Get(c, path, &d); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		over := d.Base
		if x.Over != nil {
			over = *x.Over
		}
		if d.Published != over {
			if d.Published == 0 {
				return fmt.Errorf("%s: somebody deleted version %d, of which it was begun; to make it anew, use --over 0", what, d.Base)
			}
			return fmt.Errorf("%s: somebody published version %d since it was begun; see what differs with `ebb drafts diff %s`, and replace that version with --over %d", what, d.Published, x.Draft, d.Published)
		}
		condition, value := "If-Match", fmt.Sprintf("%q", fmt.Sprint(d.Published))
		if d.Published == 0 {
			condition, value = "If-None-Match", "*"
		}
		raw, tag, err := cl.Send(c, http.MethodPost, fmt.Sprintf("%s/publish?draft=%d", path, d.Version), condition, value, nil, &struct{}{})
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		var rows cli.Rows
		rows.Add(x.Draft, "is published as version "+strings.Trim(tag, `"`), "`ebb operations list` says when it is in force")
		return c.Print(raw, rows)
	})
}

type draftsDiscard struct{ draftArg }

func (draftsDiscard) Help() string {
	return `What is published stays as it is. What the draft said is gone.

Example:

    ebb drafts discard rule/bought`
}

// Run discards.
func (x draftsDiscard) Run(c *cli.Context) error {
	return x.with(c, func(cl *client.Client, path string) error {
		if err := cl.Delete(c, path); err != nil {
			return fmt.Errorf("discard the draft of %s: %w", x.Draft, err)
		}
		var rows cli.Rows
		rows.Add(x.Draft, "has no draft any more")
		return c.Print(struct {
			Discarded string `json:"discarded"`
		}{x.Draft}, rows)
	})
}
