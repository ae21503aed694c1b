package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
	"github.com/ebb-dmp/ebb/retention/forget"
)

type retentionCommand struct {
	Audit   retentionAudit   `cmd:"" help:"Show the oldest thing in every place; end with 1 if one is too old."`
	Run     retentionRun     `cmd:"" help:"Run the nightly pass now, and audit."`
	Erase   retentionErase   `cmd:"" help:"Erase whom an ID of yours names, everywhere."`
	Receipt retentionReceipt `cmd:"" help:"Show what was done of an erasure."`
}

// auditRows prints places, and reports the names of those that are not well.
func auditRows(places []forget.Place) (rows cli.Rows, bad []string) {
	rows.Head = []string{"PLACE", "OLDEST DAY", "DAYS AGO", "AT MOST", "OK"}
	for _, p := range places {
		oldest, age, ok := "nothing", "", "yes"
		if p.Oldest != nil {
			oldest, age = p.Oldest.String(), fmt.Sprint(p.Age)
		}
		if !p.OK {
			ok = "NO"
			what := fmt.Sprintf("%s (%d days old, at most %d)", p.Name, p.Age, p.Bound)
			if p.Error != "" {
				ok, what = "NO: "+p.Error, p.Name+" (could not be looked at)"
			} else if p.Fault != "" {
				ok, what = "NO: "+p.Fault, p.Name+": "+p.Fault
			}
			bad = append(bad, what)
		}
		rows.Add(p.Name, oldest, age, p.Bound, ok)
	}
	return rows, bad
}

func tooOld(bad []string) error {
	if len(bad) == 0 {
		return nil
	}
	return fmt.Errorf("not as it must be: %s; for what is too old run `ebb retention run`, and look at why the nightly pass did not", strings.Join(bad, ", "))
}

type retentionAudit struct {
	Data  []string `name:"cassandra-data" placeholder:"DIR" help:"A data directory of Cassandra on this machine. With it every file of the keyspace is looked at too, by Cassandra's own tools."`
	Tools string   `name:"cassandra-tools" placeholder:"DIR" help:"Where sstablemetadata and sstableexpiredblockers are. Default: where the shell finds them."`
}

func (retentionAudit) Help() string {
	return `Looks at every place where data of visitors lies, and at the bytes on disk rather than at what is still readable. Ends with 1, and names the place, if something is older than it may be.

With data in Cassandra it looks at every table: that rows have an end, and that none was written with another time than now, since such a row keeps files from being dropped. The files themselves are on the machines of Cassandra: run it on each of them with --cassandra-data. It then asks the cluster itself, with the settings of a node of Ebb.

Examples:

    ebb retention audit
    ebb retention audit -o json
    ebb retention audit --config ebb.yaml --cassandra-data /var/lib/cassandra/data`
}

// Run audits.
func (r retentionAudit) Run(c *cli.Context) error {
	if len(r.Data) > 0 {
		return r.files(c)
	}
	return reach(c, func(cl *client.Client) error {
		var r struct {
			Places []forget.Place `json:"places"`
		}
		doc, err := cl.Get(c, "/api/v1/retention", &r)
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		rows, bad := auditRows(r.Places)
		return errors.Join(c.Print(doc, rows), tooOld(bad))
	})
}

type retentionRun struct{}

func (retentionRun) Help() string {
	return `Erases what is due, removes what is over, builds, delivers, and audits. A server does so each night, as retention.schedule says; twice in a night does no harm.

Examples:

    ebb retention run
    ebb retention run -o json`
}

// Run runs the nightly pass.
func (retentionRun) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		var n app.Night
		doc, err := cl.Post(c, app.PathNights, nil, &n)
		if err != nil {
			return fmt.Errorf("run the nightly pass: %w", err)
		}
		rows, bad := auditRows(n.Audit.Places)
		c.Note("erased: %d", n.Erased)
		return errors.Join(c.Print(doc, rows), tooOld(bad))
	})
}

type retentionErase struct {
	Space string `required:"" placeholder:"SPACE" help:"The kind of the ID, such as own:crm."`
	ID    string `arg:"" optional:"" help:"The ID. Without it, it is read from standard input, where other users of this machine do not see it."`
}

func (retentionErase) Help() string {
	return `Erases a visitor: nobody is told of it any more within seconds, its bytes go in the nightly passes that follow, and destinations are told to remove it. The receipt says how far that is; keep its name, since the ID is kept nowhere. Visitors with a cookie erase themselves, by opting out.

Examples:

    ebb retention erase --space own:crm 5b1f2c
    echo 5b1f2c | ebb retention erase --space own:crm -o json`
}

// Run erases a visitor.
func (e retentionErase) Run(c *cli.Context) error {
	id := e.ID
	if id == "" {
		line, err := bufio.NewReader(io.LimitReader(c.Stdin, 1024)).ReadString('\n')
		if err != nil && err != io.EOF {
			return fmt.Errorf("read the ID: %w", err)
		}
		if id = strings.TrimRight(line, "\r\n"); id == "" {
			return cli.Usage(errors.New("name the ID, or write it to standard input"))
		}
	}
	return reach(c, func(cl *client.Client) error {
		var r struct {
			Receipt string `json:"receipt"`
		}
		doc, err := cl.Post(c, "/api/v1/erasures", map[string]string{"space": e.Space, "id": id}, &r)
		if err != nil {
			return fmt.Errorf("erase: %w", err)
		}
		var rows cli.Rows
		rows.Add("receipt", r.Receipt)
		rows.Add("next", "`ebb retention receipt "+r.Receipt+"` says how far it is")
		return c.Print(doc, rows)
	})
}

type retentionReceipt struct {
	Receipt string `arg:"" help:"The name of the receipt."`
}

func (retentionReceipt) Help() string {
	return `Examples:

    ebb retention receipt 0f1e2d3c4b5a69788796a5b4c3d2e1f0
    ebb retention receipt 0f1e2d3c4b5a69788796a5b4c3d2e1f0 -o json`
}

// Run shows a receipt.
func (r retentionReceipt) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		var v struct {
			Space  string      `json:"space"`
			At     time.Time   `json:"at"`
			Soon   *time.Time  `json:"soon"`
			Nights []time.Time `json:"nights"`
			Done   bool        `json:"done"`
			Places []string    `json:"places"`
			Bound  string      `json:"bound"`
		}
		var doc json.RawMessage
		doc, err := cl.Get(c, "/api/v1/erasures/"+url.PathEscape(r.Receipt), &v)
		if err != nil {
			return fmt.Errorf("receipt: %w", err)
		}
		var rows cli.Rows
		rows.Add("receipt", r.Receipt)
		rows.Add("space", v.Space)
		rows.Add("asked for", when(v.At))
		if v.Soon != nil {
			rows.Add("told to nobody since", when(*v.Soon))
		}
		for i, n := range v.Nights {
			rows.Add(fmt.Sprintf("nightly pass %d of %d", i+1, forget.Nights), when(n))
		}
		rows.Add("places", strings.Join(v.Places, ", "))
		rows.Add("done", v.Done)
		rows.Add("no byte after", v.Bound)
		return c.Print(doc, rows)
	})
}
