package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
	"github.com/ebb-dmp/ebb/cmd/ebb/folder"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/tagserver/api"
)

// planOptions are what plan and apply have in common.
type planOptions struct {
	Folder string `arg:"" help:"The folder with the definitions, in YAML."`
	Prune  bool   `help:"Delete what is defined and not in the folder."`
}

// planRequest is what the API takes.
type planRequest struct {
	Definitions []folder.Definition `json:"definitions"`
	Prune       bool                `json:"prune,omitempty"`
	Hash        string              `json:"hash,omitempty"`
}

type planCount struct {
	Shown string `json:"shown"`
}

type planReach struct {
	ID      string     `json:"id"`
	Before  *planCount `json:"before"`
	After   *planCount `json:"after"`
	Added   planCount  `json:"added"`
	Removed planCount  `json:"removed"`
	Fault   string     `json:"fault"`
	Refold  bool       `json:"refold"`
}

type planChange struct {
	Kind   string   `json:"kind"`
	ID     string   `json:"id"`
	What   string   `json:"what"`
	Fields []string `json:"fields"`
}

// planAnswer is what the API says of a plan.
type planAnswer struct {
	Hash    string       `json:"hash"`
	Changes []planChange `json:"changes"`
	Same    int          `json:"same"`
	Reach   struct {
		AsOf         time.Time   `json:"as_of"`
		Audiences    []planReach `json:"audiences"`
		Unchanged    int         `json:"unchanged"`
		Destinations []struct {
			ID        string      `json:"id"`
			Audiences []planReach `json:"audiences"`
		} `json:"destinations"`
	} `json:"reach"`
}

func (o *planOptions) read() (*folder.Set, planRequest, error) {
	info, err := os.Stat(o.Folder)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no folder", o.Folder)
	}
	if err != nil {
		return nil, planRequest{}, cli.Usage(err)
	}
	set, err := folder.Read(os.DirFS(o.Folder))
	if err != nil {
		return nil, planRequest{}, cli.Usage(err)
	}
	req := planRequest{Definitions: set.Definitions, Prune: o.Prune}
	if req.Definitions == nil {
		req.Definitions = []folder.Definition{}
	}
	return set, req, nil
}

// located says where in the files the API's faults are.
func located(set *folder.Set, err error) error {
	var refused *client.Refused
	if !errors.As(err, &refused) {
		return err
	}
	for i := range refused.Errors {
		if at, ok := set.Place(refused.Errors[i].Location); ok {
			refused.Errors[i].Location = at
		}
	}
	return err
}

func plan(c *cli.Context, cl *client.Client, set *folder.Set, req planRequest) (p planAnswer, raw json.RawMessage, err error) {
	if raw, err = counted(c, cl, "/api/v1/plan", req, &p); err != nil {
		err = fmt.Errorf("plan: %w", located(set, err))
	}
	return p, raw, err
}

// noteEvery is how often somebody who waits is told how far it is.
const noteEvery = 2 * time.Second

// counted asks for a plan and waits for it. One that takes long tells how far it is;
// who interrupts the command cancels it.
func counted(c *cli.Context, cl *client.Client, path string, in any, p *planAnswer) (json.RawMessage, error) {
	raw, at, err := cl.PostAsync(c, path, in)
	if err != nil {
		return nil, err
	}
	if at != "" {
		if err = follow(c, cl, at); err != nil {
			return nil, err
		}
		return cl.Get(c, at+"/result", p)
	}
	if err := json.Unmarshal(raw, p); err != nil {
		return nil, fmt.Errorf("read the API's answer: %w; is the server of another version?", err)
	}
	return raw, nil
}

// follow waits until an operation is over.
func follow(c *cli.Context, cl *client.Client, at string) error {
	after := app.System().After
	for told := c.Now(); ; {
		var o api.Operation
		if _, err := cl.Get(c, at, &o); err != nil && c.Err() == nil {
			return err
		}
		if c.Err() == nil && o.State != api.OperationRunning && o.State != api.OperationWaiting {
			return nil // of its result the API says what there is, or why there is none
		}
		if now := c.Now(); now.Sub(told) >= noteEvery && o.Total > 0 {
			told = now
			c.Note("%s: %.0f%% of about %d stored events are read; to stop it, interrupt this command", o.ID, 100*o.Progress, o.Total)
		}
		select {
		case <-c.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(c), stopWithin)
			defer cancel()
			_, err := cl.Post(ctx, at+"/cancel", nil, &o)
			return errors.Join(c.Err(), err)
		case <-after(waitBetween):
		}
	}
}

// rows prints a plan.
func (p *planAnswer) rows() (rows cli.Rows) {
	for _, c := range p.Changes {
		rows.Add(c.What, c.Kind+" "+c.ID, strings.Join(c.Fields, ", "))
	}
	if len(p.Changes) == 0 {
		rows.Add("nothing to do", fmt.Sprintf("%d definitions are as in the files", p.Same))
		return rows
	}
	count := func(n *planCount) string {
		if n == nil {
			return "-"
		}
		return n.Shown
	}
	add := func(where string, list []planReach) {
		for _, a := range list {
			note := a.Fault
			if a.Refold && note == "" {
				note = "once its rules are folded again"
			}
			rows.Add(where, a.ID, count(a.Before)+" → "+count(a.After), "+"+a.Added.Shown, "-"+a.Removed.Shown, note)
		}
	}
	add("audience", p.Reach.Audiences)
	rows.Add("audiences", fmt.Sprintf("%d keep their members", p.Reach.Unchanged), "as of "+when(p.Reach.AsOf))
	for _, d := range p.Reach.Destinations {
		add("to "+d.ID, d.Audiences)
	}
	return rows
}

type planCommand struct{ planOptions }

func (planCommand) Help() string {
	return `Says what the definitions in a folder would change, and changes nothing: which definitions, the members of every audience, and what every destination holds, exactly as of now. Faults come with file and line. The hash at the end names the plan.

Changed rules and taxonomies are counted over the stored 90 days, which can take minutes: meanwhile it says how far it is, "ebb operations list" shows it, and interrupting the command cancels it.

A file has documents with one key, the kind:

    audience:
      id: lapsing
      title: Bought before, and not lately
      kind: rule
      rule_text: c:products/grocery in 90d and not c:products/grocery in 30d

The kinds are source, site, taxonomy, rule, audience and destination. Nothing is deleted without --prune.

Ends with 0 if nothing would change, and with 3 if something would.

Examples:

    ebb export definitions
    ebb plan definitions
    ebb plan definitions --prune -o json`
}

// Run plans.
func (p planCommand) Run(c *cli.Context) error {
	set, req, err := p.read()
	if err != nil {
		return err
	}
	return reach(c, func(cl *client.Client) error {
		answer, raw, err := plan(c, cl, set, req)
		if err != nil {
			return err
		}
		rows := answer.rows()
		if len(answer.Changes) > 0 {
			rows.Add("hash", answer.Hash)
		}
		if err := c.Print(raw, rows); err != nil {
			return err
		}
		if len(answer.Changes) > 0 {
			return cli.ErrDrift
		}
		return nil
	})
}

type applyCommand struct {
	planOptions
	Hash string `help:"Apply only if this is the hash of the plan: what was looked at, or nothing." placeholder:"HASH"`
}

func (applyCommand) Help() string {
	return `Plans, prints the plan, and makes all of its changes at once or none. If a definition is changed meanwhile, nothing is done. Destinations that are made get a key, which is shown once.

Examples:

    ebb apply definitions
    ebb apply definitions --hash 5e8c…    # as ebb plan said
    ebb apply definitions --prune`
}

// Run applies.
func (a applyCommand) Run(c *cli.Context) error {
	set, req, err := a.read()
	if err != nil {
		return err
	}
	return reach(c, func(cl *client.Client) error {
		planned, _, err := plan(c, cl, set, req)
		if err != nil {
			return err
		}
		if a.Hash != "" && a.Hash != planned.Hash {
			return fmt.Errorf("apply: the plan is now %s, not %s: the files or the definitions changed since; run `ebb plan %s` again", planned.Hash, a.Hash, a.Folder)
		}
		req.Hash = planned.Hash
		var done struct {
			Keys []struct {
				Destination string `json:"destination"`
				Key         string `json:"key"`
			} `json:"keys"`
			Operation string `json:"operation"`
		}
		raw, err := cl.Post(c, "/api/v1/apply", req, &done)
		if err != nil {
			return fmt.Errorf("apply: %w", located(set, err))
		}
		rows := planned.rows()
		for _, k := range done.Keys {
			rows.Add("key of "+k.Destination, k.Key, "shown this once")
		}
		if done.Operation != "" {
			rows.Add("in the background", done.Operation, "folds the changed rules again")
		}
		return c.Print(raw, rows)
	})
}

type exportCommand struct {
	Folder string `arg:"" help:"The folder to write to; it is made."`
}

func (exportCommand) Help() string {
	return `Writes every definition into a file of its own, as ebb plan and ebb apply read them: source, site, taxonomy, rule, audience, destination. Files that are there are written anew. Keys and their hashes are not among them.

Example:

    ebb export definitions`
}

// Run exports.
func (e exportCommand) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		type file struct {
			File   string `json:"file"`
			SHA256 string `json:"sha256"`
		}
		doc := []file{}
		rows := cli.Rows{}
		written := map[string]bool{}
		for _, k := range folder.Kinds {
			list := "/api/v1/" + k.Folder
			items, err := cl.List(c, list)
			if err != nil {
				return fmt.Errorf("export %s: %w", k.Folder, err)
			}
			for _, it := range items {
				if it.Version == 0 {
					continue // built in
				}
				var body json.RawMessage
				if _, err := cl.Get(c, list+"/"+it.ID, &body); err != nil {
					return fmt.Errorf("export %s %s: %w", k.Kind, it.ID, err)
				}
				if body, err = asWritten(k.Kind, body); err != nil {
					return fmt.Errorf("export %s %s: %w", k.Kind, it.ID, err)
				}
				name, content, err := folder.Write(k.Kind, it.ID, body)
				if err != nil {
					return err
				}
				full := filepath.Join(e.Folder, filepath.FromSlash(name))
				if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
					return fmt.Errorf("export: %w", err)
				}
				if err := os.WriteFile(full, content, 0o644); err != nil {
					return fmt.Errorf("export: %w", err)
				}
				written[name] = true
				sum := sha256.Sum256(content)
				doc = append(doc, file{name, hex.EncodeToString(sum[:])})
				rows.Add(name)
			}
		}
		if err := c.Print(doc, rows); err != nil {
			return err
		}
		if other := others(os.DirFS(e.Folder), written); len(other) > 0 {
			c.Note("not written, and still there: %s", strings.Join(other, ", "))
		}
		return nil
	})
}

// others are the YAML files of the folder that this export did not write.
func others(dir fs.FS, written map[string]bool) (names []string) {
	_ = fs.WalkDir(dir, ".", func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && (filepath.Ext(name) == ".yaml" || filepath.Ext(name) == ".yml") && !written[name] {
			names = append(names, name)
		}
		return nil // a note leaves out what it cannot see
	})
	slices.Sort(names)
	return names
}

// asWritten brings a definition into the form that people write: an audience's
// rule as text, and nothing that changes by command only.
func asWritten(kind string, body json.RawMessage) (json.RawMessage, error) {
	var fields []member
	if err := json.Unmarshal(body, (*ordered)(&fields)); err != nil {
		return nil, err
	}
	out := fields[:0]
	for _, f := range fields {
		switch {
		case kind == "audience" && f.name == "rule":
			e, err := query.Parse(f.value)
			if err != nil {
				break // as it is
			}
			text, err := json.Marshal(query.Text(e))
			if err != nil {
				return nil, err
			}
			f = member{"rule_text", text}
		case kind == "destination" && f.name == "pseudonym_epoch", string(f.value) == `""`, string(f.value) == `"0s"`:
			continue // what is empty is left out
		}
		out = append(out, f)
	}
	return json.Marshal(ordered(out))
}

// ordered is a JSON object whose fields keep their order.
type (
	ordered []member
	member  struct {
		name  string
		value json.RawMessage
	}
)

// UnmarshalJSON is json.Unmarshaler.
func (o *ordered) UnmarshalJSON(b []byte) error {
	dec := json.NewDecoder(strings.NewReader(string(b)))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("want an object")
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		f := member{name: fmt.Sprint(t)}
		if err := dec.Decode(&f.value); err != nil {
			return err
		}
		*o = append(*o, f)
	}
	return nil
}

// MarshalJSON is json.Marshaler.
func (o ordered) MarshalJSON() ([]byte, error) {
	var b strings.Builder
	b.WriteByte('{')
	for i, f := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(f.name)
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(f.value)
	}
	b.WriteByte('}')
	return []byte(b.String()), nil
}
