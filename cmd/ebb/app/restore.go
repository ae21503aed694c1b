package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ebb-dmp/ebb/cmd/ebb/app/backup"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/embedded"
	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/retention/log"
	"github.com/ebb-dmp/ebb/segments/fold"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// restoringName is the folder within the data directory in which a restore works
// until all of it is done. An App does not open a data directory that has it.
const restoringName = "restoring"

const journalName = "erasures.journal"

// RestoreOptions say what to bring back, and where.
type RestoreOptions struct {
	Options
	Archive io.Reader
	// Journal is a journal of erasures beside the one that the setting
	// erasures_journal names; "" for none.
	Journal string
	// WithoutJournal restores although there is no journal: who was erased after
	// the backup comes back.
	WithoutJournal bool
}

// Restored says what a restore did.
type Restored struct {
	Created    time.Time          `json:"created"` // of the backup
	Checkpoint uint64             `json:"checkpoint"`
	Position   retention.Position `json:"position"`
	Epoch      uint64             `json:"epoch"` // the new one
	// Journal is how many erasures the journal has; Erased, how many visitors of
	// the backup were erased by it or stood in its queue.
	Journal    int    `json:"journal"`
	Erased     int    `json:"erased"`
	Generation uint64 `json:"generation"` // built of what was restored
	Files      int    `json:"files"`
	Bytes      int64  `json:"bytes"`
}

// Restore brings a backup back into an empty data directory (R29). Before
// anything is served from it, everyone whom the journal names is erased again,
// what is over is removed, and a generation of a new epoch is built and
// delivered, so that every destination gets a full.
//
// All of that happens in a folder of its own, which takes its place at the end:
// after a crash in between, the directory does not open, and nobody comes back.
func Restore(ctx context.Context, o RestoreOptions) (res Restored, err error) {
	fs, dir := o.Env.FS, o.Config.Data
	if o.Config.Cluster() {
		return res, errors.New("restore: backups are of the embedded store; a cluster is restored from Cassandra's snapshots, and who was erased since is erased again from erasures.journal when a node starts")
	}
	journals, err := o.journals()
	if err != nil {
		return res, err
	}
	at := fs.PathJoin(dir, restoringName)
	if err := emptyFor(fs, dir, at); err != nil {
		return res, err
	}
	if err := fs.MkdirAll(at, 0o700); err != nil {
		return res, fmt.Errorf("restore: %w", err)
	}
	moving := false
	defer func() {
		// What was not finished goes; what was begun to be moved is left for the
		// operator, and does not open.
		if err != nil && !moving {
			err = errors.Join(err, fs.RemoveAll(at))
		}
	}()
	m, err := unpack(o, at)
	if err != nil {
		return res, fmt.Errorf("restore: %w", err)
	}
	res.Created, res.Checkpoint, res.Position, res.Files, res.Bytes = m.Created, m.Checkpoint, m.Position, len(m.Files), m.Bytes()
	if len(journals) > 0 {
		// Opening the journal brings all paths to the union of their entries.
		if err := copyFile(fs, journals[0], fs.PathJoin(at, journalName)); err != nil {
			return res, fmt.Errorf("restore: copy the journal of erasures: %w", err)
		}
	}
	work := o.Options
	work.Config.Data = at
	work.newEpoch = true
	a, _, err := Open(ctx, work)
	if err != nil {
		return res, fmt.Errorf("restore: %w", err)
	}
	err = a.settle(ctx, &res)
	if err = errors.Join(err, a.Close(context.WithoutCancel(ctx))); err != nil {
		return res, fmt.Errorf("restore: %w", err)
	}
	moving = true
	if err := moveUp(fs, at, dir); err != nil {
		return res, fmt.Errorf("restore: put the data in its place: %w; empty %s and restore again", err, dir)
	}
	return res, nil
}

// journals returns the journals that are there, and an error if there is none
// and one is needed.
func (o *RestoreOptions) journals() (paths []string, err error) {
	fs := o.Env.FS
	if o.Journal != "" {
		if _, err := fs.Stat(o.Journal); err != nil {
			return nil, fmt.Errorf("restore: the journal of erasures: %w", err)
		}
		paths = append(paths, o.Journal)
	}
	if p := o.Config.ErasuresJournal; p != "" {
		if _, err := fs.Stat(p); err == nil {
			paths = append(paths, p)
		}
	}
	for _, p := range paths {
		if _, err := forget.ReadJournal(fs, p); err != nil {
			return nil, fmt.Errorf("restore: %w", err)
		}
	}
	if len(paths) == 0 && !o.WithoutJournal {
		return nil, errors.New("restore: there is no journal of erasures, and without it whoever was erased after the backup would come back; name it with --journal (erasures.journal of the lost data directory, or the file of the setting erasures_journal), or add --without-journal if nobody was erased since")
	}
	return paths, nil
}

// emptyFor returns an error unless the data directory is empty or holds nothing
// but what an earlier restore left, which is removed.
func emptyFor(fs log.FS, dir, at string) error {
	if _, err := fs.Stat(dir); err != nil {
		return nil
	}
	names, err := fs.List(dir)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if len(names) == 1 && names[0] == restoringName {
		if err := fs.RemoveAll(at); err != nil {
			return fmt.Errorf("restore: remove what an earlier one left: %w", err)
		}
		return nil
	}
	if len(names) > 0 {
		return fmt.Errorf("restore: %s is not empty; name an empty folder with --data, or move what is there away", dir)
	}
	return nil
}

// unpack checks the archive while it writes its files.
func unpack(o RestoreOptions, at string) (*backup.Manifest, error) {
	fs := o.Env.FS
	accept := func(m *backup.Manifest) error {
		today := o.Env.millis().Day()
		if age := int(today - taxonomy.DayOf(m.Created)); age > taxonomy.RetentionDays {
			return fmt.Errorf("the backup was made %d days ago: nothing older than %d days may come back; start empty with `ebb init`", age, taxonomy.RetentionDays)
		}
		if m.DataFormat > embedded.Format {
			return fmt.Errorf("the backup holds data of format %d, this program reads up to %d: run the newer ebb that wrote it", m.DataFormat, embedded.Format)
		}
		if missing := o.Keys.Missing(m.Keys, today); len(missing) > 0 {
			return fmt.Errorf("the backup needs keys that %s does not have: %s; put back the copy of the keys that was in use when the backup was made", o.Config.KeysFile(), missing)
		}
		return nil
	}
	made := map[string]bool{at: true}
	m, err := backup.Read(o.Archive, accept, func(f *backup.File) (io.WriteCloser, error) {
		path := fs.PathJoin(at, f.Name)
		if up := fs.PathDir(path); !made[up] {
			if err := fs.MkdirAll(up, 0o700); err != nil {
				return nil, err
			}
			made[up] = true
		}
		w, err := fs.Create(path, vfs.WriteCategoryUnspecified)
		if err != nil {
			return nil, err
		}
		return synced{w}, nil
	})
	if err != nil {
		return nil, err
	}
	for d := range made {
		if err := syncFolder(fs, d); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// synced is a file that is durable when it is closed.
type synced struct{ vfs.File }

func (f synced) Close() error { return errors.Join(f.File.Sync(), f.File.Close()) }

func syncFolder(fs log.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func copyFile(fs log.FS, from, to string) error {
	r, err := fs.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := fs.Create(to, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, synced{w}.Close())
}

// settle makes what was unpacked fit to be served.
func (a *App) settle(ctx context.Context, res *Restored) error {
	res.Epoch = a.install.Epoch
	// The log's clock stands where the backup was made. What follows tells what is
	// over by it, so it moves to today first.
	if err := a.catchUp(ctx); err != nil {
		return err
	}
	gone, err := a.namedInJournal(ctx, res)
	if err != nil {
		return err
	}
	// Holders look up who is gone in the view of a checkpoint.
	if _, err := a.fold.Checkpoint(ctx); err != nil {
		return err
	}
	if res.Erased, err = a.eraser.EraseAll(ctx, gone); err != nil {
		return err
	}
	if err := a.sweeper.Sweep(ctx, a.env.millis().Day()); err != nil {
		return err
	}
	built, err := a.Build(ctx)
	if err != nil {
		return err
	}
	res.Generation = built.Generation.Number
	if err := a.DeliverAll(ctx); err != nil {
		a.log.Warn("a destination got no full file yet; it does with the next delivery", "error", err)
	}
	return nil
}

// namedInJournal tells the fold of the journal's erasures and returns those of
// visitors of whom anything is kept. The journal has hashes only, so every key
// that is kept is hashed and looked up.
func (a *App) namedInJournal(ctx context.Context, res *Restored) ([]forget.Erasure, error) {
	entries := a.journal.Entries()
	res.Journal = len(entries)
	byHash := make(map[[16]byte]forget.Entry, len(entries))
	list := make([]fold.Erasure, len(entries))
	for i, e := range entries {
		byHash[e.Hash] = e
		list[i] = fold.Erasure{Hash: e.Hash, Space: e.Space, At: e.At}
	}
	gone := map[taxonomy.VisitorKey]bool{}
	for _, k := range a.fold.Restore(list) {
		gone[k] = true
	}
	now := a.env.millis()
	// An event may have been stored whose visitor the fold has forgotten, or does
	// not know yet.
	err := a.store.Events().Scan(ctx, 0, 1, now.Day().Oldest(), now.Day()+1, func(e *retention.StoredEvent) error {
		if k := e.Record.Visitor; !gone[k] && a.fold.Erased(k, now) {
			gone[k] = true
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for erased visitors among events: %w", err)
	}
	out := make([]forget.Erasure, 0, len(gone))
	for k := range gone {
		x := forget.Erasure{Visitor: k, At: now}
		if e, ok := byHash[a.keys.Load().Erasure(k)]; ok {
			x.Space, x.At = e.Space, e.At
		}
		out = append(out, x)
	}
	return out, nil
}

// moveUp puts what a restore made in its place. The folder that keeps the data
// directory from being opened goes last.
func moveUp(fs log.FS, at, dir string) error {
	names, err := fs.List(at)
	if err != nil {
		return err
	}
	for _, n := range names {
		if n == "LOCK" {
			continue
		}
		if err := fs.Rename(fs.PathJoin(at, n), fs.PathJoin(dir, n)); err != nil {
			return err
		}
	}
	if err := errors.Join(syncFolder(fs, at), syncFolder(fs, dir)); err != nil {
		return err
	}
	if err := fs.RemoveAll(at); err != nil {
		return err
	}
	return syncFolder(fs, dir)
}

// finished returns an error if a restore into the data directory has not ended.
func finished(fs log.FS, dir string) error {
	if _, err := fs.Stat(fs.PathJoin(dir, restoringName)); err == nil {
		return fmt.Errorf("a restore into %s has not ended, and who was erased might come back from what it left; empty the folder and run `ebb restore` again", dir)
	}
	return nil
}
