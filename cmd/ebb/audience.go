package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
)

type audienceCommand struct {
	List     audienceList     `cmd:"" help:"List audiences with their counts."`
	Show     audienceShow     `cmd:"" help:"Show an audience and its counts by generation."`
	Estimate audienceEstimate `cmd:"" help:"Count a rule, and say what each part of it keeps."`
	Build    audienceBuild    `cmd:"" help:"Build and publish a generation now."`
}

// apiEntry is an audience in a generation, as the API shows it.
type apiEntry struct {
	ID       string          `json:"id"`
	Number   uint64          `json:"number"`
	Epoch    uint64          `json:"epoch"`
	Built    time.Time       `json:"built"`
	AsOf     time.Time       `json:"as_of"`
	Shown    string          `json:"shown"`
	Added    *uint64         `json:"added"`
	Removed  *uint64         `json:"removed"`
	Fault    string          `json:"fault"`
	Evidence json.RawMessage `json:"evidence"`
}

// changes prints what came and went since the generation before.
func (e *apiEntry) changes() string {
	if e.Added == nil || e.Removed == nil {
		return ""
	}
	return fmt.Sprintf("+%d -%d", *e.Added, *e.Removed)
}

// generationsOf returns an audience's counts, the newest first.
func generationsOf(c *cli.Context, cl *client.Client, id string) ([]apiEntry, json.RawMessage, error) {
	var doc struct {
		Items []apiEntry `json:"items"`
	}
	raw, err := cl.Get(c, "/api/v1/audiences/"+url.PathEscape(id)+"/generations", &doc)
	if err != nil {
		return nil, nil, err
	}
	var items struct {
		Items json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(raw, &items); err != nil {
		return nil, nil, err
	}
	return doc.Items, items.Items, nil
}

// audienceRow is an audience in a list.
type audienceRow struct {
	ID         string          `json:"id"`
	Version    uint64          `json:"version"`
	Definition json.RawMessage `json:"definition"`
	// Current is its entry in the newest generation that has it; absent if none
	// does.
	Current json.RawMessage `json:"current,omitempty"`

	newest *apiEntry
}

// audiencesAt lists the audiences below a path of the API, with their counts.
func audiencesAt(c *cli.Context, cl *client.Client, path string) ([]audienceRow, error) {
	items, err := cl.List(c, path)
	if err != nil {
		return nil, err
	}
	list := make([]audienceRow, 0, len(items))
	for _, it := range items {
		row := audienceRow{ID: it.ID, Version: it.Version, Definition: it.Definition}
		entries, raw, err := generationsOf(c, cl, it.ID)
		if err != nil {
			return nil, err
		}
		if len(entries) > 0 {
			var all []json.RawMessage
			if err := json.Unmarshal(raw, &all); err != nil {
				return nil, err
			}
			row.newest, row.Current = &entries[0], all[0]
		}
		list = append(list, row)
	}
	return list, nil
}

type audienceList struct{}

func (audienceList) Help() string {
	return `Counts are exact, as of the last generation; below 50 they are shown as <50.

Examples:

    ebb audience list
    ebb audience list -o json`
}

// Run lists the audiences.
func (audienceList) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		list, err := audiencesAt(c, cl, "/api/v1/audiences")
		if err != nil {
			return fmt.Errorf("list audiences: %w", err)
		}
		rows := cli.Rows{Head: []string{"AUDIENCE", "TITLE", "KIND", "VISITORS", "CHANGED", "AS OF"}}
		for _, a := range list {
			var d struct {
				Title string `json:"title"`
				Kind  string `json:"kind"`
			}
			if err := json.Unmarshal(a.Definition, &d); err != nil {
				return fmt.Errorf("read audience %s: %w", a.ID, err)
			}
			n := a.newest
			switch {
			case n == nil:
				rows.Add(a.ID, d.Title, d.Kind, "not built yet", "", "")
			case n.Fault != "":
				rows.Add(a.ID, d.Title, d.Kind, "none: "+n.Fault, "", when(n.AsOf))
			default:
				rows.Add(a.ID, d.Title, d.Kind, n.Shown, n.changes(), when(n.AsOf))
			}
		}
		return c.Print(struct {
			Audiences []audienceRow `json:"audiences"`
		}{list}, rows)
	})
}

type audienceShow struct {
	ID string `arg:"" help:"The audience."`
}

func (audienceShow) Help() string {
	return `Examples:

    ebb audience show lapsing
    ebb audience show lapsing -o json`
}

// Run shows one audience.
func (a audienceShow) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		var d struct {
			Title string          `json:"title"`
			Kind  string          `json:"kind"`
			Rule  json.RawMessage `json:"rule"`
		}
		definition, err := cl.Get(c, "/api/v1/audiences/"+url.PathEscape(a.ID), &d)
		if err != nil {
			return fmt.Errorf("show audience %s: %w", a.ID, err)
		}
		entries, raw, err := generationsOf(c, cl, a.ID)
		if err != nil {
			return fmt.Errorf("show audience %s: %w", a.ID, err)
		}
		var rows cli.Rows
		rows.Add("audience", a.ID)
		rows.Add("title", d.Title)
		rows.Add("kind", d.Kind)
		if len(d.Rule) > 0 {
			rows.Add("rule", string(d.Rule))
		}
		for _, e := range entries {
			line := e.Shown + " " + e.changes()
			if e.Fault != "" {
				line = "none: " + e.Fault
			}
			rows.Add(fmt.Sprintf("generation %d.%d", e.Epoch, e.Number), strings.TrimSpace(line), when(e.AsOf))
		}
		if len(entries) == 0 {
			rows.Add("generations", "none yet; `ebb audience build` makes one")
		}
		return c.Print(struct {
			Definition  json.RawMessage `json:"definition"`
			Generations json.RawMessage `json:"generations"`
		}{definition, raw}, rows)
	})
}

type audienceEstimate struct {
	Rule string `arg:"" help:"A file with the rule, as text or in JSON, or - for standard input."`
}

func (audienceEstimate) Help() string {
	return `Counts the visitors whom a rule would have now, exactly, and says what each part of it keeps and why nothing is left.

A rule, as text and in JSON:

    c:products/grocery in 30d 3+ times and not c:products/meat

    {"and": [{"trait": "c:products/grocery", "window": "30d", "min": 3},
             {"not": {"trait": "c:products/meat"}}]}

Examples:

    ebb audience estimate rule.json
    echo '{"audience":"lapsing"}' | ebb audience estimate -`
}

// Run counts a rule.
func (a audienceEstimate) Run(c *cli.Context) error {
	rule, err := readInput(c, a.Rule)
	if err != nil {
		return err
	}
	body := map[string]any{"rule_text": string(rule)}
	if isJSON(rule) {
		if rule, err = checkJSON(a.Rule, rule); err != nil {
			return err
		}
		body = map[string]any{"rule": json.RawMessage(rule)}
	}
	return reach(c, func(cl *client.Client) error {
		type counted struct {
			Path  string `json:"path"`
			What  string `json:"what"`
			Shown string `json:"shown"`
			Kept  *struct {
				Shown string `json:"shown"`
			} `json:"kept"`
		}
		var e struct {
			Shown    string    `json:"shown"`
			AsOf     time.Time `json:"as_of"`
			Eligible counted   `json:"eligible"`
			Clauses  []counted `json:"clauses"`
			WhyEmpty []struct {
				Path string `json:"path"`
				Why  string `json:"why"`
			} `json:"why_empty"`
		}
		doc, err := cl.Post(c, "/api/v1/estimates", body, &e)
		if err != nil {
			return fmt.Errorf("estimate: %w", err)
		}
		var rows cli.Rows
		rows.Add("visitors", e.Shown)
		rows.Add("of", e.Eligible.Shown+" who may be in an audience")
		rows.Add("as of", when(e.AsOf))
		for _, k := range e.Clauses {
			kept := ""
			if k.Kept != nil {
				kept = "keeps " + k.Kept.Shown
			}
			rows.Add(k.Path, k.What, k.Shown, kept)
		}
		for _, w := range e.WhyEmpty {
			rows.Add("why none: "+w.Path, w.Why)
		}
		return c.Print(doc, rows)
	})
}

func checkJSON(from string, b []byte) (json.RawMessage, error) {
	if !json.Valid(b) {
		var at any
		return nil, cli.Usage(fmt.Errorf("%s is no JSON: %w", from, json.Unmarshal(b, &at)))
	}
	return b, nil
}

// readInput reads a file, or standard input.
func readInput(c *cli.Context, from string) ([]byte, error) {
	in := c.Stdin
	if from != "-" {
		f, err := os.Open(from)
		if err != nil {
			return nil, cli.Usage(err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", from, err)
	}
	return b, nil
}

type audienceBuild struct{}

func (audienceBuild) Help() string {
	return `Builds all audiences on what is known now and publishes the generation. A server does so by itself, as build.schedule says.

Examples:

    ebb audience build
    ebb audience build -o json`
}

// Run builds a generation.
func (audienceBuild) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		var g struct {
			Number    uint64     `json:"number"`
			Epoch     uint64     `json:"epoch"`
			AsOf      time.Time  `json:"as_of"`
			Audiences []apiEntry `json:"audiences"`
		}
		doc, err := cl.Post(c, "/api/v1/generations", nil, &g)
		if err != nil {
			return fmt.Errorf("build: %w", err)
		}
		rows := cli.Rows{Head: []string{fmt.Sprintf("GENERATION %d.%d", g.Epoch, g.Number), "VISITORS", "CHANGED"}}
		for _, e := range g.Audiences {
			if e.Fault != "" {
				rows.Add(e.ID, "none: "+e.Fault, "")
				continue
			}
			rows.Add(e.ID, e.Shown, e.changes())
		}
		return c.Print(doc, rows)
	})
}
