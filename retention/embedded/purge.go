package embedded

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// purge makes the bytes of everything deleted go. Deleting in Pebble only hides:
// the bytes stay in tables until those are compacted to the lowest level, in log
// files until those are removed, and the keys at the bounds of tables in
// manifests. So, in this order:
//
//  1. flush, and compact everything above the lowest level down to it, while all
//     goes on;
//  2. with nobody beside it: the same again for what came meanwhile, and, where
//     tombstones came to rest in the lowest level without meeting anything (they
//     hold keys too), touch their table so that it is written again;
//  3. open Pebble anew, three times. The first opening leaves the old log files
//     and begins a manifest with what is there now; Pebble keeps the manifest
//     before the current, so the old one goes with the second; and what an
//     opening removes is surely gone when it has been closed again.
//
// Old days lie in tables of their own at the lowest level and are not read; what
// a night rewrites is the recent days and the tables that hold erased visitors.
func (s *Store) purge(ctx context.Context) error {
	release, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	err = s.compact(ctx)
	release()
	if err != nil {
		return fmt.Errorf("purge: %w", err)
	}
	if release, err = s.acquireAll(ctx); err != nil {
		return err
	}
	defer release()
	if err := s.compact(ctx); err != nil {
		return fmt.Errorf("purge: %w", err)
	}
	if err := s.rewriteTombstones(ctx); err != nil {
		return fmt.Errorf("purge: %w", err)
	}
	for range 3 {
		if err := s.reopen(); err != nil {
			return fmt.Errorf("purge: %w", err)
		}
	}
	return nil
}

// everything bounds all tables: the first bytes of keys are letters.
var everything = [2][]byte{{0}, {0xff}}

func (s *Store) compact(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	db := s.db // fn may outlive our hold on the gate
	return s.guard(func() error {
		flushed, err := db.AsyncFlush()
		if err != nil {
			return err
		}
		select {
		case <-flushed:
		case <-ctx.Done():
			return ctx.Err()
		}
		return db.Compact(ctx, everything[0], everything[1], false)
	})
}

// guard runs what waits for Pebble's background work. It does not return nil if
// the store has failed, and it does not wait for a store that has, nor for work
// that ends in an error: Pebble would repeat that until it succeeds, perhaps for
// ever. What fn still waits for then is left to end by itself.
func (s *Store) guard(fn func() error) error {
	select {
	case <-s.background: // an old one
	default:
	}
	done := make(chan error, 1)
	go func() {
		defer func() {
			if r := recover(); r != nil {
				s.fail(redacted("%v", r))
				done <- s.failure()
			}
		}()
		done <- fn()
	}()
	var err error
	select {
	case err = <-done:
	case err = <-s.background:
		err = fmt.Errorf("background work failed: %w", s.wrap(err))
	case <-s.failed:
	}
	if s.isFailed() {
		return s.failure()
	}
	return s.wrap(err)
}

// rewriteTombstones compacts until no table holds a tombstone. The caller holds
// the whole gate.
func (s *Store) rewriteTombstones(ctx context.Context) error {
	for range 1000 { // each round empties at least one table
		levels, err := s.db.SSTables(pebble.WithProperties())
		if err != nil {
			return s.wrap(err)
		}
		touched := 0
		for _, tables := range levels {
			for _, t := range tables {
				if t.Properties.NumDeletions == 0 && t.Properties.NumRangeDeletions == 0 {
					continue
				}
				touched++
				if err := s.touch(t.Smallest.UserKey); err != nil {
					return err
				}
			}
		}
		if touched == 0 {
			return nil
		}
		if err := s.compact(ctx); err != nil {
			return err
		}
	}
	return errors.New("tombstones remain after 1000 compactions")
}

// touch writes what is kept under a key once more, or that there is nothing, so
// that the table that holds it takes part in the next compaction.
func (s *Store) touch(key []byte) error {
	b := s.db.NewBatch()
	value, closer, err := s.db.Get(key)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		err = b.Delete(key, nil)
	case err == nil:
		err = errors.Join(b.Set(key, value, nil), closer.Close())
	}
	if err != nil {
		return errors.Join(s.wrap(err), b.Close())
	}
	return s.commit(b)
}

// reopen closes Pebble and opens it again. The caller holds the whole gate. If it
// does not open, the store has failed.
func (s *Store) reopen() error {
	if err := s.guard(s.db.Close); err != nil {
		s.fail("closing the database failed")
		return err
	}
	db, err := s.openPebble()
	if err != nil {
		s.fail("the database does not open again")
		return err
	}
	s.db = db
	return nil
}

// Sweep removes all that is over: events of days before the given one, keyed
// items and blobs whose Over has come. The bytes are gone when it returns. It is
// the nightly pass of the whole store, at the price of one purge.
func (s *Store) Sweep(ctx context.Context, before taxonomy.Day) error {
	if err := s.deleteDays(ctx, before); err != nil {
		return fmt.Errorf("sweep events before %s: %w", before, err)
	}
	if err := s.keyed.deleteOver(ctx); err != nil {
		return fmt.Errorf("sweep keyed items: %w", err)
	}
	if err := s.blobs.deleteOver(ctx); err != nil {
		return fmt.Errorf("sweep blobs: %w", err)
	}
	if err := s.purge(ctx); err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	return nil
}
