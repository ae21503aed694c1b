package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
)

type deliverCommand struct {
	Now     deliverNow     `cmd:"" default:"withargs" help:"Deliver the current generation now, to one destination or to all."`
	List    deliverList    `cmd:"" help:"List destinations, or the last deliveries to one."`
	Try     deliverTry     `cmd:"" help:"Say what a delivery would send now, and send nothing."`
	Sent    deliverSent    `cmd:"" help:"Show or write exactly what a delivery sent."`
	Status  deliverStatus  `cmd:"" help:"Say how a destination stands: what waits, and for what."`
	Approve deliverApprove `cmd:"" help:"Let a change go out that is too large to go by itself."`
	Replay  deliverReplay  `cmd:"" help:"Ask a receiver again at once, and forget its dead letters."`
	Key     deliverKey     `cmd:"" help:"Make a new key for a destination; the one before it is void."`
}

// apiDelivery is a delivery as the API shows it.
type apiDelivery struct {
	Destination string    `json:"destination"`
	Epoch       uint64    `json:"epoch"`
	Generation  uint64    `json:"generation"`
	At          time.Time `json:"at"`
	Result      string    `json:"result"`
	Why         string    `json:"why"`
	File        string    `json:"file"`
	Rows        uint64    `json:"rows"`
	Adds        uint64    `json:"adds"`
	Removes     uint64    `json:"removes"`
	Held        uint64    `json:"held"`
	Floored     []string  `json:"floored"`
	Withheld    []struct {
		Audience string `json:"audience"`
		Why      string `json:"why"`
	} `json:"withheld"`
	Unsuppressed string `json:"unsuppressed"`
}

var deliveryHead = []string{"DESTINATION", "AT", "GENERATION", "RESULT", "ADDS", "REMOVES", "HELD", "FILE"}

func (d *apiDelivery) add(rows *cli.Rows) {
	result := d.Result
	if d.Why != "" {
		result += ": " + d.Why
	}
	for _, w := range d.Withheld {
		result += fmt.Sprintf("; %s not sent: %s", w.Audience, w.Why)
	}
	if d.Unsuppressed != "" {
		result += "; nobody new, since whom to suppress could not be found: " + d.Unsuppressed
	}
	rows.Add(d.Destination, when(d.At), fmt.Sprintf("%d.%d", d.Epoch, d.Generation), result, d.Adds, d.Removes, d.Held, d.File)
}

func destinationPath(id string) string { return "/api/v1/destinations/" + url.PathEscape(id) }

type deliverNow struct {
	Destination string `arg:"" optional:"" help:"The destination; all if none is named."`
}

func (deliverNow) Help() string {
	return `Writes what changed since the last delivery into a segment file that the partner pulls. A server does so by itself, as deliver.schedule says. Ends with 1 if a destination could not be delivered to; the others are, all the same.

Examples:

    ebb deliver now
    ebb deliver now big-dsp
    ebb deliver big-dsp -o json`
}

// Run delivers.
func (d deliverNow) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		ids := []string{d.Destination}
		if d.Destination == "" {
			items, err := cl.List(c, "/api/v1/destinations")
			if err != nil {
				return fmt.Errorf("deliver: %w", err)
			}
			ids = ids[:0]
			for _, it := range items {
				ids = append(ids, it.ID)
			}
		}
		docs := []json.RawMessage{}
		rows := cli.Rows{Head: deliveryHead}
		var errs []error
		for _, id := range ids {
			var done apiDelivery
			doc, err := cl.Post(c, destinationPath(id)+"/deliveries", nil, &done)
			if err != nil {
				errs = append(errs, fmt.Errorf("deliver to %s: %w", id, err))
				continue
			}
			docs = append(docs, doc)
			done.add(&rows)
		}
		if len(docs) == 0 && len(errs) > 0 {
			return errors.Join(errs...)
		}
		err := c.Print(struct {
			Deliveries []json.RawMessage `json:"deliveries"`
		}{docs}, rows)
		return errors.Join(append(errs, err)...)
	})
}

type deliverList struct {
	Destination string `arg:"" optional:"" help:"The destination."`
}

func (deliverList) Help() string {
	return `Examples:

    ebb deliver list
    ebb deliver list big-dsp -o json`
}

// Run lists.
func (d deliverList) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		if d.Destination != "" {
			return d.one(c, cl)
		}
		items, err := cl.List(c, "/api/v1/destinations")
		if err != nil {
			return fmt.Errorf("list destinations: %w", err)
		}
		docs := []client.Item{}
		rows := cli.Rows{Head: []string{"DESTINATION", "TITLE", "AUDIENCES", "LAST DELIVERY", "RESULT", "HELD"}}
		for _, it := range items {
			var def struct {
				Title     string   `json:"title"`
				Audiences []string `json:"audiences"`
			}
			if err := json.Unmarshal(it.Definition, &def); err != nil {
				return fmt.Errorf("read destination %s: %w", it.ID, err)
			}
			list, _, err := deliveriesTo(c, cl, it.ID)
			if err != nil {
				return err
			}
			last := apiDelivery{Result: "never"}
			if len(list) > 0 {
				last = list[0]
			}
			rows.Add(it.ID, def.Title, len(def.Audiences), when(last.At), last.Result, last.Held)
			docs = append(docs, it)
		}
		return c.Print(struct {
			Destinations []client.Item `json:"destinations"`
		}{docs}, rows)
	})
}

func (d deliverList) one(c *cli.Context, cl *client.Client) error {
	list, doc, err := deliveriesTo(c, cl, d.Destination)
	if err != nil {
		return err
	}
	rows := cli.Rows{Head: deliveryHead}
	for i := range list {
		list[i].add(&rows)
	}
	return c.Print(doc, rows)
}

func deliveriesTo(c *cli.Context, cl *client.Client, id string) ([]apiDelivery, json.RawMessage, error) {
	var doc struct {
		Items []apiDelivery `json:"items"`
	}
	raw, err := cl.Get(c, destinationPath(id)+"/deliveries", &doc)
	if err != nil {
		return nil, nil, fmt.Errorf("list deliveries to %s: %w", id, err)
	}
	return doc.Items, raw, nil
}

type deliverKey struct {
	Destination string `arg:"" help:"The destination."`
}

func (deliverKey) Help() string {
	return `The key is printed this once; only its hash is kept. Give it to the partner by a way that others do not read.

Examples:

    ebb deliver key big-dsp
    ebb deliver key big-dsp -o json`
}

// Run makes a new key.
func (d deliverKey) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		var k struct {
			Key string `json:"key"`
		}
		doc, err := cl.Post(c, destinationPath(d.Destination)+"/key", nil, &k)
		if err != nil {
			return fmt.Errorf("make a key for %s: %w", d.Destination, err)
		}
		var rows cli.Rows
		rows.Add("destination", d.Destination)
		rows.Add("key", k.Key)
		return c.Print(doc, rows)
	})
}
