package retention

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// copyBatch is how many items or events are put at once.
const copyBatch = 2048

// CopySpace makes a space of one store hold what that of another holds, with the
// same lives, and nothing else, and returns how many items that are. Versions of a
// swapped space are not carried: see Raise. Copying again, after a crash too, is
// fine; nobody else may write meanwhile.
func CopySpace(ctx context.Context, from, to Keyed, s KeyedSpace) (n int, err error) {
	there := map[Key]bool{}
	var batch []Item
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := to.Put(ctx, s, batch)
		batch = batch[:0]
		return err
	}
	err = from.Scan(ctx, s, nil, func(it Item) error {
		n++
		there[it.Key] = true
		if s.Swapped {
			return Raise(ctx, to, s, it, 0)
		}
		if batch = append(batch, it); len(batch) < copyBatch {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if err == nil {
		err = keepOnly(ctx, to, s, there)
	}
	if err != nil {
		return n, fmt.Errorf("copy space %s: %w", s.Name, err)
	}
	return n, nil
}

// keepOnly removes the items of a space whose keys are not among some.
func keepOnly(ctx context.Context, k Keyed, s KeyedSpace, keys map[Key]bool) error {
	var over []Key
	err := k.Scan(ctx, s, nil, func(it Item) error {
		if !keys[it.Key] {
			over = append(over, it.Key)
		}
		return nil
	})
	if err != nil || len(over) == 0 {
		return err
	}
	if !s.Swapped {
		return k.Delete(ctx, s, over)
	}
	for _, key := range over {
		if err := Lower(ctx, k, s, key); err != nil {
			return err
		}
	}
	return nil
}

// Raise makes an item of a swapped space have a value and life, and a version of at
// least that given: it is swapped as often as that takes, each time with the value
// itself, so that it is never seen with another.
func Raise(ctx context.Context, k Keyed, s KeyedSpace, it Item, version uint64) error {
	for {
		have, err := k.Get(ctx, s, it.Key)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if err == nil && have.Version >= version && have.Over == it.Over && bytes.Equal(have.Value, it.Value) {
			return nil
		}
		it.Version = have.Version
		at, err := k.Swap(ctx, s, it)
		switch {
		case err == nil && at == it.Version:
			return nil // its life is over
		case err == nil, errors.Is(err, ErrUnknown) && ctx.Err() == nil, errors.Is(err, ErrConflict):
			// Look again: an outcome that was unknown is known then.
		default:
			return err
		}
	}
}

// Lower removes an item of a swapped space, if it is there.
func Lower(ctx context.Context, k Keyed, s KeyedSpace, key Key) error {
	for {
		have, err := k.Get(ctx, s, key)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		_, err = k.Swap(ctx, s, Item{Key: key, Version: have.Version})
		if err != nil && !(errors.Is(err, ErrUnknown) && ctx.Err() == nil) && !errors.Is(err, ErrConflict) {
			return err
		}
	}
}

// lastDay is later than the day of any event.
const lastDay taxonomy.Day = 1 << 30

// EachEvent calls fn with every stored event from a day on, in so many parts, so
// that no reader holds one position for long. fn must not keep it.
func EachEvent(ctx context.Context, from Events, parts int, oldest taxonomy.Day, fn func(*StoredEvent) error) error {
	for part := range parts {
		if err := from.Scan(ctx, part, parts, oldest, lastDay, fn); err != nil {
			return fmt.Errorf("read part %d of %d of the stored events: %w", part+1, parts, err)
		}
	}
	return nil
}

// CopyEvents puts the stored events that keep is true of into another store, each
// with its place, and calls tell with each. What is there already stays.
func CopyEvents(ctx context.Context, from, to Events, parts int, oldest taxonomy.Day, keep func(*StoredEvent) bool, tell func(*StoredEvent)) error {
	var batch []StoredEvent
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		if err := to.Put(ctx, batch); err != nil {
			return fmt.Errorf("put %d events: %w", len(batch), err)
		}
		batch = batch[:0]
		return nil
	}
	err := EachEvent(ctx, from, parts, oldest, func(e *StoredEvent) error {
		if !keep(e) {
			return nil
		}
		tell(e)
		own, err := cloneEvent(e)
		if err != nil {
			return err
		}
		if batch = append(batch, own); len(batch) < copyBatch {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	return err
}

// cloneEvent returns a copy that shares nothing with what a scan lends.
func cloneEvent(e *StoredEvent) (StoredEvent, error) {
	r, _, err := taxonomy.DecodeRecord(taxonomy.AppendRecord(nil, &e.Record))
	return StoredEvent{Record: r, Ref: e.Ref, RuleVersion: e.RuleVersion}, err
}
