package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/tagserver"
)

type privacyCommand struct {
	Verify privacyVerify `cmd:"" help:"Check a visitor's receipt and print what it says."`
}

type privacyVerify struct {
	Receipt string `arg:"" help:"The receipt, or - to read it."`
	Key     string `required:"" placeholder:"FILE" help:"The key set, as https://YOUR-HOST/.well-known/ebb-receipts.json gives it."`
}

func (privacyVerify) Help() string {
	return `A receipt is what /privacy gives a visitor for each choice: a JSON Web Token signed with Ed25519. Nothing is sent anywhere, and no data directory is needed.

Ends with 1 if the receipt is not of that installation, or was changed.

Examples:

    curl -o key.json https://data.shop.example/.well-known/ebb-receipts.json
    ebb privacy verify --key key.json eyJhbGciOiJFZERTQSIs…`
}

// Run checks one receipt.
func (x privacyVerify) Run(c *cli.Context) error {
	f, err := app.System().FS.Open(x.Key)
	if err != nil {
		return fmt.Errorf("read the key set: %w", err)
	}
	defer f.Close()
	var set tagserver.ReceiptKeys
	if err := json.NewDecoder(io.LimitReader(f, 1<<20)).Decode(&set); err != nil {
		return fmt.Errorf("%s is no key set: %w; fetch /.well-known/ebb-receipts.json again", x.Key, err)
	}
	pub, err := set.Public()
	if err != nil {
		return fmt.Errorf("%s: %w; fetch /.well-known/ebb-receipts.json again", x.Key, err)
	}
	token := x.Receipt
	if token == "-" {
		b, err := io.ReadAll(io.LimitReader(c.Stdin, 1<<20))
		if err != nil {
			return fmt.Errorf("read the receipt: %w", err)
		}
		token = string(b)
	}
	r, err := tagserver.VerifyReceipt(pub, token)
	if err != nil {
		return err
	}
	rows := cli.Rows{Head: []string{"WHAT", "SAYS"}}
	rows.Add("taken", r.What)
	rows.Add("at", time.Unix(r.At, 0).UTC().Format(time.RFC3339))
	rows.Add("durable", r.Durable)
	for _, id := range r.Of {
		rows.Add("erasure", id)
	}
	if r.What == "choice" {
		rows.Add("off", orNone(strings.Join(r.Off, ", ")))
	}
	return c.Print(r, rows)
}
