package app

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ebb-dmp/ebb/cmd/ebb/app/backup"
	"github.com/ebb-dmp/ebb/retention/embedded"
)

var errBackingUp = errors.New("a backup is under way; wait for its end")

// Backup writes a backup of the data directory as of one moment, while all goes
// on: the store and what the log holds beyond its last checkpoint, without keys
// and without the journal of erasures. What is deleted while it runs keeps its
// bytes in the snapshot until it ends.
func (a *App) Backup(ctx context.Context, w io.Writer) (m *backup.Manifest, err error) {
	if !a.backing.TryLock() {
		return nil, errBackingUp
	}
	defer a.backing.Unlock()
	fail := func(err error) (*backup.Manifest, error) { return nil, fmt.Errorf("make a backup: %w", err) }
	if err := a.needEmbedded("make a backup", "take snapshots of the keyspace on its nodes with `nodetool snapshot`, and keep erasures.journal of one node beside them"); err != nil {
		return nil, err
	}
	if err := a.covered(ctx); err != nil {
		return fail(err)
	}
	head := backup.Manifest{DataFormat: embedded.Format, Epoch: a.install.Epoch}
	dir := ""
	// While the fold stands still, the database, its checkpoint and the log fit
	// each other: no event is stored that is neither counted nor in the log.
	err = a.fold.Still(func() (err error) {
		if dir, err = a.embedded.Snapshot(ctx); err != nil {
			return err
		}
		// The keys are read after the data, so that none that it needs is missing.
		head.Created, head.Keys = a.env.Now().UTC(), a.keys.Load().KeyIDs()
		v := a.fold.View()
		head.Checkpoint, head.Position = v.Number(), v.Position().Clone()
		return a.local().Snapshot(ctx, a.env.FS.PathJoin(dir, "log"))
	})
	if dir != "" {
		defer func() { err = errors.Join(err, a.embedded.DropSnapshot()) }()
	}
	if err != nil {
		return fail(err)
	}
	return backup.Write(ctx, w, a.env.FS, dir, head)
}
