package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
	"github.com/ebb-dmp/ebb/tagserver/api"
)

type operationsCommand struct {
	List   operationsList   `cmd:"" help:"List what runs, and what ran last."`
	Show   operationsShow   `cmd:"" help:"Show how far an operation is."`
	Cancel operationsCancel `cmd:"" help:"Stop an operation; what is in force stays."`
	Resume operationsResume `cmd:"" help:"Begin a cancelled operation again."`
	Wait   operationsWait   `cmd:"" help:"Wait until an operation, or all of them, are over."`
}

const operationsPath = "/api/v1/operations"

// listOperations returns them, and the same as the API says it.
func listOperations(c *cli.Context, cl *client.Client) (list []api.Operation, raw json.RawMessage, err error) {
	var doc struct {
		Items []api.Operation `json:"items"`
	}
	whole, err := cl.Get(c, operationsPath, &doc)
	if err != nil {
		return nil, nil, err
	}
	err = json.Unmarshal(whole, &struct {
		Items *json.RawMessage `json:"items"`
	}{&raw})
	return doc.Items, raw, err
}

func operationRows(list ...api.Operation) cli.Rows {
	rows := cli.Rows{Head: []string{"OPERATION", "STATE", "DONE", "EVENTS READ", "OF ABOUT", "COLUMNS", "STARTED", "ENDED"}}
	for _, o := range list {
		var started, ended string
		if o.Started != nil {
			started = when(*o.Started)
		}
		if o.Ended != nil {
			ended = when(*o.Ended)
		}
		rows.Add(o.ID, o.State, fmt.Sprintf("%.0f%%", 100*o.Progress), fmt.Sprint(o.Read), fmt.Sprint(o.Total), fmt.Sprint(o.Columns), started, ended)
	}
	return rows
}

type operationsList struct{}

func (operationsList) Help() string {
	return `When a rule or a category changes, the stored 90 days are read again, so that it counts as if it had always been so. Until that is done, every answer is by the rules before.

Examples:

    ebb operations list
    ebb operations list -o json`
}

// Run lists operations.
func (operationsList) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		list, raw, err := listOperations(c, cl)
		if err != nil {
			return fmt.Errorf("list operations: %w", err)
		}
		return c.Print(raw, operationRows(list...))
	})
}

type operationsShow struct {
	ID string `arg:"" help:"The operation."`
}

func (operationsShow) Help() string {
	return `Examples:

    ebb operations show refold-12`
}

// Run shows one.
func (x operationsShow) Run(c *cli.Context) error {
	return reach(c, func(cl *client.Client) error {
		var o api.Operation
		doc, err := cl.Get(c, operationsPath+"/"+url.PathEscape(x.ID), &o)
		if err != nil {
			return fmt.Errorf("show operation %s: %w", x.ID, err)
		}
		return c.Print(doc, operationRows(o))
	})
}

type operationsCancel struct {
	ID string `arg:"" help:"The operation."`
}

func (operationsCancel) Help() string {
	return `The definitions stay changed and do not come into force, until "ebb operations resume" or the next change of a rule or category, which brings all of them.

Examples:

    ebb operations cancel refold-12`
}

// Run cancels one.
func (x operationsCancel) Run(c *cli.Context) error { return turn(c, x.ID, "cancel") }

type operationsResume struct {
	ID string `arg:"" help:"The operation."`
}

func (operationsResume) Help() string {
	return `Examples:

    ebb operations resume refold-12`
}

// Run begins one again.
func (x operationsResume) Run(c *cli.Context) error { return turn(c, x.ID, "resume") }

func turn(c *cli.Context, id, verb string) error {
	return reach(c, func(cl *client.Client) error {
		var o api.Operation
		doc, err := cl.Post(c, operationsPath+"/"+url.PathEscape(id)+"/"+verb, nil, &o)
		if err != nil {
			return fmt.Errorf("%s operation %s: %w", verb, id, err)
		}
		return c.Print(doc, operationRows(o))
	})
}

type operationsWait struct {
	ID string `arg:"" optional:"" help:"The operation; none: all that wait or run."`
}

func (operationsWait) Help() string {
	return `Ends with 0 when nothing waits or runs any more, and with 1 if the operation that was named was cancelled or failed.

Examples:

    ebb operations wait
    ebb operations wait refold-12`
}

// waitBetween is how often ebb operations wait asks.
const waitBetween = 500 * time.Millisecond

// Run waits.
func (x operationsWait) Run(c *cli.Context) error {
	after := app.System().After
	return reach(c, func(cl *client.Client) error {
		for {
			list, raw, err := listOperations(c, cl)
			if err != nil {
				return fmt.Errorf("wait for operations: %w", err)
			}
			busy, found := false, x.ID == ""
			for _, o := range list {
				if x.ID != "" && o.ID != x.ID {
					continue
				}
				found = true
				busy = busy || o.State == api.OperationRunning || o.State == api.OperationWaiting
				if x.ID != "" && o.State == api.OperationFailed {
					return fmt.Errorf("wait for operation %s: it failed; repeat what began it, the server's log says why it failed", x.ID)
				}
				if x.ID != "" && o.State == api.OperationCancelled && o.Kind == api.KindPlan {
					return fmt.Errorf("wait for operation %s: it was cancelled; plan again", x.ID)
				}
				if x.ID != "" && o.State == api.OperationCancelled {
					return fmt.Errorf("wait for operation %s: it was cancelled; `ebb operations resume %s` begins it again", x.ID, x.ID)
				}
			}
			if !found {
				return fmt.Errorf("wait for operation %s: there is none of that name; `ebb operations list` shows those there are", x.ID)
			}
			if !busy {
				return c.Print(raw, operationRows(list...))
			}
			select {
			case <-c.Done():
				return c.Err()
			case <-after(waitBetween):
			}
		}
	})
}
