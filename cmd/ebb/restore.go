package main

import (
	"fmt"
	"os"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/keyfile"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

type restoreCommand struct {
	File           string `arg:"" help:"The backup."`
	Journal        string `placeholder:"FILE" help:"The journal of erasures: erasures.journal of the data directory that was lost, or a copy. Default: the file of the setting erasures_journal."`
	WithoutJournal bool   `help:"Restore although there is no journal. Whoever was erased after the backup comes back."`
}

func (restoreCommand) Help() string {
	return `Brings a backup back into an empty data directory. Whoever was erased after the backup is erased again before anything is served; what is over is removed; and every destination gets a full file, of a new epoch.

It refuses a folder that is not empty, a backup older than 90 days, one that the keys do not fit, and to run without the journal of erasures.

Examples:

    ebb restore ebb.tar --journal /mnt/other-disk/erasures.journal
    ebb restore ebb.tar --data /var/lib/ebb -o json`
}

// Run restores.
func (r restoreCommand) Run(c *cli.Context) error {
	s, err := c.Config()
	if err != nil {
		return err
	}
	f, err := os.Open(r.File)
	if err != nil {
		return cli.Usage(err)
	}
	defer f.Close()
	ring, err := keyfile.Read(s.KeysFile())
	if err != nil {
		return err
	}
	quiet := s.Messages
	if quiet.Level == "info" {
		quiet.Level = "warn"
	}
	res, err := app.Restore(c, app.RestoreOptions{
		Options: app.Options{Config: s.Config, Env: app.System(), Keys: ring, Logger: newLogger(c.Stderr, quiet),
			SaveKeys: func(change func(*keys.Ring) (*keys.Ring, error)) (*keys.Ring, error) {
				return nil, fmt.Errorf("a restore changes no keys")
			}},
		Archive: f, Journal: r.Journal, WithoutJournal: r.WithoutJournal,
	})
	if err != nil {
		return err
	}
	var rows cli.Rows
	rows.Add("restored", s.Data)
	rows.Add("of", when(res.Created))
	rows.Add("files", res.Files)
	rows.Add("bytes", res.Bytes)
	rows.Add("erasures in the journal", res.Journal)
	rows.Add("visitors erased again", res.Erased)
	rows.Add("epoch", res.Epoch)
	rows.Add("generation", fmt.Sprintf("%d.%d", res.Epoch, res.Generation))
	rows.Add("next", "run `ebb serve`")
	return c.Print(res, rows)
}
