package app

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver/api"
)

// spoolFile is a file for one request or delivery: written first, then read.
type spoolFile interface {
	io.Writer
	io.ReaderAt
	io.Closer
}

// spool makes one. It has no name from the start, so that nobody finds what is in it
// and nothing of it is left after a crash.
func (a *App) spool() (spoolFile, error) {
	dir := a.spoolDir()
	if err := a.env.FS.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a file in %s: %w", dir, err)
	}
	name := filepath.Join(dir, fmt.Sprintf("%d.part", a.spooled.Add(1)))
	f, err := a.env.FS.OpenReadWrite(name, "")
	if err != nil {
		return nil, fmt.Errorf("make a file in %s: %w", dir, err)
	}
	if err := a.env.FS.Remove(name); err != nil {
		return nil, errors.Join(fmt.Errorf("make a file in %s: %w", dir, err), f.Close())
	}
	return f, nil
}

func (a *App) spoolDir() string { return filepath.Join(a.cfg.Data, "spool") }

// emptySpool removes what a crash left between the making of a file and the removal
// of its name.
func (a *App) emptySpool() error {
	if err := a.env.FS.RemoveAll(a.spoolDir()); err != nil {
		return fmt.Errorf("empty the folder of files for one request: %w", err)
	}
	return nil
}

func (a *App) uploadSpool() (api.Spool, error)        { return a.spool() }
func (a *App) deliverySpool() (delivery.Spool, error) { return a.spool() }
