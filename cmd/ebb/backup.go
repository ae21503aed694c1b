package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/app/backup"
	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
)

type backupCommand struct {
	Create backupCreate `cmd:"" help:"Write a backup of the data."`
	Verify backupVerify `cmd:"" help:"Check every byte of a backup."`
}

type backupCreate struct {
	To string `arg:"" placeholder:"FILE|FOLDER" help:"The file to write, or a folder in which a file with today's date is made."`
}

func (backupCreate) Help() string {
	return `Writes one tar file of the data as of one moment, of a running server too. It is checked before the command ends with 0.

Neither the keys nor the journal of erasures is in it: copy the keys once, to another place, and let the setting erasures_journal name a second place for the journal. A restore needs both. A backup can be restored for 90 days; delete it then.

Examples:

    ebb backup create /var/backups/ebb/
    ebb backup create ebb.tar -o json`
}

// Run writes and checks a backup.
func (b backupCreate) Run(c *cli.Context) error {
	to := b.To
	if info, err := os.Stat(to); err == nil && info.IsDir() {
		to = filepath.Join(to, "ebb-"+c.Now().UTC().Format("20060102T150405Z")+".tar")
	} else if strings.HasSuffix(to, "/") {
		return cli.Usage(fmt.Errorf("there is no folder %s", to))
	}
	if _, err := os.Stat(to); err == nil {
		return fmt.Errorf("%s is there already; nothing was changed", to)
	}
	var m *backup.Manifest
	err := reach(c, func(cl *client.Client) error {
		res, err := cl.Do(c, "POST", app.PathBackups, "application/json", nil)
		if err != nil {
			return fmt.Errorf("make a backup: %w", err)
		}
		defer res.Body.Close()
		m, err = keepBackup(to, res.Body)
		return err
	})
	if err != nil {
		return err
	}
	return printBackup(c, to, m)
}

// keepBackup writes a backup beside its place, reads it back, and puts it there.
func keepBackup(to string, r io.Reader) (m *backup.Manifest, err error) {
	part := to + ".part"
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make a backup: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make a backup: %w", err), f.Close(), os.Remove(part))
		}
	}()
	if _, err := io.Copy(f, r); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if m, err = backup.Verify(f); err != nil {
		return nil, err
	}
	if err := os.Rename(part, to); err != nil {
		return nil, err
	}
	d, err := os.Open(filepath.Dir(to))
	if err != nil {
		return nil, err
	}
	return m, errors.Join(d.Sync(), d.Close(), f.Close())
}

type backupDoc struct {
	File       string         `json:"file"`
	OK         bool           `json:"ok"`
	Created    string         `json:"created,omitempty"`
	Checkpoint uint64         `json:"checkpoint,omitempty"`
	Epoch      uint64         `json:"epoch"`
	Files      int            `json:"files,omitempty"`
	Bytes      int64          `json:"bytes,omitempty"`
	Keys       []string       `json:"keys,omitempty"`
	Faults     []backup.Fault `json:"faults,omitempty"`
}

func describeBackup(file string, m *backup.Manifest) (backupDoc, cli.Rows) {
	doc := backupDoc{File: file, OK: true}
	var rows cli.Rows
	rows.Add("backup", file)
	if m != nil {
		doc.Created, doc.Checkpoint, doc.Epoch, doc.Files, doc.Bytes, doc.Keys = m.Created.UTC().Format("2006-01-02T15:04:05Z"), m.Checkpoint, m.Epoch, len(m.Files), m.Bytes(), m.Keys
		rows.Add("of", when(m.Created))
		rows.Add("files", len(m.Files))
		rows.Add("bytes", m.Bytes())
		rows.Add("checkpoint", m.Checkpoint)
		rows.Add("epoch", m.Epoch)
		rows.Add("needs keys", strings.Join(m.Keys, " "))
	}
	return doc, rows
}

func printBackup(c *cli.Context, file string, m *backup.Manifest) error {
	doc, rows := describeBackup(file, m)
	rows.Add("checked", "every byte")
	return c.Print(doc, rows)
}

type backupVerify struct {
	File string `arg:"" help:"The backup."`
}

func (backupVerify) Help() string {
	return `Reads a backup to its end and compares every file with its SHA-256. Ends with 1 and names the files that are bad, if one is. It needs neither keys nor a data directory.

Examples:

    ebb backup verify ebb.tar
    ebb backup verify ebb.tar -o json`
}

// Run checks a backup.
func (b backupVerify) Run(c *cli.Context) error {
	f, err := os.Open(b.File)
	if err != nil {
		return cli.Usage(err)
	}
	defer f.Close()
	m, err := backup.Verify(f)
	var damage *backup.Damage
	if err != nil && !errors.As(err, &damage) {
		return fmt.Errorf("verify %s: %w", b.File, err)
	}
	if damage == nil {
		return printBackup(c, b.File, m)
	}
	doc, rows := describeBackup(b.File, m)
	doc.OK, doc.Faults = false, damage.Faults
	for _, x := range damage.Faults {
		rows.Add("BAD: "+x.File, x.What)
	}
	return errors.Join(c.Print(doc, rows), fmt.Errorf("%w; restore another one, and find out what became of this disk", damage))
}
