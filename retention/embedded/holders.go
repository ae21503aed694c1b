package embedded

import (
	"context"
	"fmt"
	"strings"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Holders returns the store's three places, for sweeper, eraser and audit. They
// are the last in order: what they hold for others (a space, a folder of blobs)
// those have erased before, and here its bytes go.
func (s *Store) Holders() []forget.Holder {
	return []forget.Holder{
		{
			Name: "events", Bound: taxonomy.RetentionDays,
			Oldest:       s.OldestEvent,
			ExpireBefore: s.events.Expire,
			Erase: func(ctx context.Context, visitors []taxonomy.VisitorKey) error {
				if err := s.events.Erase(ctx, visitors); err != nil {
					return err
				}
				return s.purge(ctx)
			},
		},
		{
			Name: "keyed", Bound: taxonomy.RetentionDays,
			Oldest: s.OldestItem,
			ExpireBefore: func(ctx context.Context, _ taxonomy.Day) error { // items know their own end
				if err := s.keyed.deleteOver(ctx); err != nil {
					return err
				}
				return s.purge(ctx)
			},
			// Which items are a visitor's, only the owner of a space knows; what
			// owners have deleted went from the disk with the events, just before,
			// and what they delete later goes with ExpireBefore.
			Erase: func(ctx context.Context, _ []taxonomy.VisitorKey) error { return ctx.Err() },
		},
		{
			Name: "blobs", Bound: taxonomy.RetentionDays,
			Oldest:       s.OldestBlob,
			ExpireBefore: func(ctx context.Context, _ taxonomy.Day) error { return s.blobs.deleteOver(ctx) },
			// A blob is immutable: who wrote it replaces and deletes it.
			Erase: func(ctx context.Context, _ []taxonomy.VisitorKey) error { return ctx.Err() },
		},
	}
}

// OldestEvent returns the oldest day of which an event has bytes on disk, in any
// table or log file of Pebble, deleted or not.
func (s *Store) OldestEvent(ctx context.Context) (oldest taxonomy.Day, found bool, err error) {
	release, err := s.acquire(ctx)
	if err != nil {
		return 0, false, fmt.Errorf("oldest event: %w", err)
	}
	defer release()
	see := func(key []byte) {
		if len(key) != eventKeySize || key[0] != tableEvents {
			return // another table, or the bound of a deleted range
		}
		if d := dayOf(key[1:]); !found || d < oldest {
			oldest, found = d, true
		}
	}
	err = walkTables(ctx, s.fs, s.dbDir(), []byte{tableEvents}, func(_ string, e entry) error {
		see(e.key)
		return errNextFile // they are in order of days
	}, s.oddTable())
	if err == nil {
		err = walkLogs(ctx, s.fs, s.dbDir(), func(_ string, e entry) error { see(e.key); return nil })
	}
	if err != nil {
		return 0, false, fmt.Errorf("oldest event: %w", s.wrap(err))
	}
	return oldest, found, nil
}

// oddTable returns what to do about a file that is no whole table: it is an error
// if the database refers to it; else it is being written, from files that are
// there still, and nothing is older in it.
func (s *Store) oddTable() func(path string, err error) error {
	levels, lerr := s.db.SSTables()
	return func(path string, err error) error {
		if lerr != nil {
			return lerr
		}
		for _, tables := range levels {
			for _, t := range tables {
				if strings.HasSuffix(path, fmt.Sprintf("%06d.sst", uint64(t.BackingSSTNum))) {
					return fmt.Errorf("%w: %s: %s", retention.ErrCorrupt, path, redacted("%s", err))
				}
			}
		}
		return nil
	}
}

// OldestItem returns the day of the keyed item that is the longest over, or the
// nearest to it, and still has bytes on disk: its Over less the 90 days of a
// life, so that an item is as old as an event that ends with it. Items without
// an end do not count.
func (s *Store) OldestItem(ctx context.Context) (oldest taxonomy.Day, found bool, err error) {
	release, err := s.acquire(ctx)
	if err != nil {
		return 0, false, fmt.Errorf("oldest item: %w", err)
	}
	defer release()
	see := func(_ string, e entry) error {
		if len(e.key) == 0 || e.key[0] != tablePlain && e.key[0] != tableSwapped || len(e.value) == 0 {
			return nil // of a tombstone there is no value
		}
		it, err := decodeItem(e.value)
		if err != nil {
			return err
		}
		if it.over == 0 {
			return nil
		}
		if d := endedLife(it.over); !found || d < oldest {
			oldest, found = d, true
		}
		return nil
	}
	err = walkTables(ctx, s.fs, s.dbDir(), []byte{tablePlain}, see, s.oddTable())
	if err == nil {
		err = walkLogs(ctx, s.fs, s.dbDir(), see)
	}
	if err != nil {
		return 0, false, fmt.Errorf("oldest item: %w", s.wrap(err))
	}
	return oldest, found, nil
}

// OldestBlob is OldestItem for blobs.
func (s *Store) OldestBlob(ctx context.Context) (oldest taxonomy.Day, found bool, err error) {
	var list []retention.Blob
	if list, err = s.blobs.List(ctx, ""); err != nil {
		return 0, false, fmt.Errorf("oldest blob: %w", err)
	}
	for i := range list {
		if over := list[i].Over; over != 0 {
			if d := endedLife(over); !found || d < oldest {
				oldest, found = d, true
			}
		}
	}
	return oldest, found, nil
}

// endedLife returns the day whose life of 90 days is over when over comes; a part
// of a day counts as the whole.
func endedLife(over taxonomy.Millis) taxonomy.Day {
	d := over.Day()
	if d.Start() < over {
		d++
	}
	return d - taxonomy.RetentionDays
}
