package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

type consentCommand struct {
	Explain consentExplain `cmd:"" help:"Decode a consent string into words, and decide on it for each destination."`
	Permits consentPermits `cmd:"" help:"Count what visitors allow, and who would be lost without each purpose."`
	Signals consentSignals `cmd:"" help:"Count what the consent signals of requests said."`
}

type consentExplain struct {
	String string `arg:"" help:"A TCF, GPP or US Privacy string."`
}

func (consentExplain) Help() string {
	return `Reads the string by the settings consent.role, consent.gvl_id and consent.gvl, as the server does, and asks for each destination of the data directory, if there is one, whether the string reaches it. An American string is explained for a visitor of the United States; by itself it grants nothing.

Nothing is sent anywhere but to the server that holds the data directory.

Examples:

    ebb consent explain 1YNN
    ebb consent explain --config ebb.yaml CQg2bYAQg2bYAAfAHBENCWFgAP_gAEPgAAYgIrwAQIrgivABAiuAAAAA.IIrwAQIrgAAA.YAAAAAAAAAAA`
}

// Run explains one string.
func (x consentExplain) Run(c *cli.Context) error {
	settings, err := c.Config()
	if err != nil {
		return err
	}
	env := app.System()
	var destinations []delivery.Destination
	used, err := app.Used(env, settings.Data)
	if err != nil {
		return err
	}
	if used || settings.AdminKey != "" {
		err := reach(c, func(cl *client.Client) error {
			items, err := cl.List(c, "/api/v1/destinations")
			if err != nil {
				return fmt.Errorf("list destinations: %w", err)
			}
			for _, item := range items {
				var d delivery.Destination
				if err := json.Unmarshal(item.Definition, &d); err != nil {
					return fmt.Errorf("read the list of destinations: %w", err)
				}
				destinations = append(destinations, d)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	reader, err := app.NewConsentReader(env.FS, &settings.Consent, destinations)
	if err != nil {
		return err
	}
	e := reader.Explain(x.String, taxonomy.DayOf(c.Now()))
	rows := cli.Rows{Head: []string{"WHAT", "SAYS"}}
	rows.Add("kind", e.Kind)
	for _, f := range e.Fields {
		rows.Add(f.Name, f.Value)
	}
	rows.Add("allowed", orNone(strings.Join(e.Allowed, ", ")))
	if e.Erases {
		rows.Add("erases", "yes: it is a no, so a known visitor who sends it is forgotten")
	}
	for _, r := range e.Reasons {
		rows.Add("because ("+r.Code+")", r.Why)
		if r.Mend != "" {
			rows.Add("to mend it", r.Mend)
		}
	}
	for _, d := range e.Destinations {
		rows.Add("destination "+string(d.Destination), d.Why)
	}
	return c.Print(e, rows)
}

type consentPermits struct {
	Audience string `arg:"" optional:"" help:"An audience of the current generation; all visitors if none is named."`
}

func (consentPermits) Help() string {
	return `Counts visitors by their newest consent, as of the last checkpoint. "Lost" says how many would leave the audiences, destinations, insights or training if nobody agreed to that purpose. Below 50 visitors no exact number is shown.

Examples:

    ebb consent permits
    ebb consent permits grocery-regulars
    ebb consent permits -o json`
}

type shownCount struct {
	Shown string `json:"shown"`
}

// Run counts.
func (x consentPermits) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		var p struct {
			AsOf         time.Time  `json:"as_of"`
			Visitors     shownCount `json:"visitors"`
			Destinations []struct {
				Destination string     `json:"destination"`
				Allowed     shownCount `json:"allowed"`
			} `json:"destinations"`
			Signals []struct {
				Signal   string     `json:"signal"`
				Visitors shownCount `json:"visitors"`
			} `json:"signals"`
			Without []struct {
				Purpose int        `json:"purpose"`
				Name    string     `json:"name"`
				Lost    shownCount `json:"lost"`
				From    string     `json:"from"`
			} `json:"without"`
		}
		path := "/api/v1/consent/permits"
		if x.Audience != "" {
			path += "?audience=" + url.QueryEscape(x.Audience)
		}
		doc, err := cl.Get(c, path, &p)
		if err != nil {
			return fmt.Errorf("count what visitors allow: %w", err)
		}
		rows := cli.Rows{Head: []string{"OF", "VISITORS", "MEANS"}}
		rows.Add("all", p.Visitors.Shown, "as of "+when(p.AsOf))
		for _, w := range p.Without {
			rows.Add(fmt.Sprintf("without purpose %d", w.Purpose), "-"+w.Lost.Shown, "lost to "+w.From+": "+w.Name)
		}
		for _, d := range p.Destinations {
			rows.Add("destination "+d.Destination, d.Allowed.Shown, "may be sent now")
		}
		for _, g := range p.Signals {
			rows.Add("signal "+g.Signal, g.Visitors.Shown, "decided by it")
		}
		return c.Print(doc, rows)
	})
}

type consentSignals struct {
	Site string `arg:"" optional:"" help:"Of requests to this site; of all requests if none is named."`
	Days int    `help:"The last days, today included, 1 to 90." default:"30"`
}

func (consentSignals) Help() string {
	return `Counts requests by what each of their consent signals says by itself, whatever was decided in the end: yes, no, or unreadable, which is taken for a no. A request counts once for each signal that it carries. Of who carries the opt-out cookie only that is counted, and of children nothing. Below 50 no exact number is shown. Counts are kept by day for 90 days; -o json has each day.

Examples:

    ebb consent signals
    ebb consent signals shop --days 7`
}

// Run counts.
func (x consentSignals) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		var s struct {
			Signals []struct {
				Signal   string     `json:"signal"`
				Verdict  string     `json:"verdict"`
				Requests shownCount `json:"requests"`
			} `json:"signals"`
		}
		q := url.Values{"days": {strconv.Itoa(x.Days)}}
		if x.Site != "" {
			q.Set("site", x.Site)
		}
		doc, err := cl.Get(c, "/api/v1/consent/signals?"+q.Encode(), &s)
		if err != nil {
			return fmt.Errorf("count what consent signals said: %w", err)
		}
		rows := cli.Rows{Head: []string{"SIGNAL", "SAYS", "REQUESTS"}}
		for _, l := range s.Signals {
			rows.Add(l.Signal, l.Verdict, l.Requests.Shown)
		}
		return c.Print(doc, rows)
	})
}

func orNone(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}
