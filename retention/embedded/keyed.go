package embedded

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// The value of an item:
//
//	0      version, 1
//	1      flags: bit 0, the item was deleted and only its version is kept
//	2–9    over, int64, big-endian; 0: never
//	10–17  version of a swapped item, uint64, big-endian; 0 in a plain space
//	18–    the value
const (
	itemVersion = 1
	itemHeader  = 18
	flagDeleted = 1
)

const (
	maxKey   = 512
	maxValue = 1 << 20

	// One reading of a scan: its function is not called while an iterator is
	// open.
	keyedBatch      = 256
	keyedBatchBytes = 1 << 20
)

type keyed struct {
	s *Store
	// swapping makes comparing and swapping one step. One mutex is enough: what
	// is swapped are definitions, written by people.
	swapping sync.Mutex
}

var _ retention.Keyed = (*keyed)(nil)

type storedItem struct {
	value   []byte // shares the bytes it was decoded from
	over    taxonomy.Millis
	version uint64
	deleted bool
}

func (i *storedItem) readable(now taxonomy.Millis) bool {
	return !i.deleted && (i.over == 0 || now < i.over)
}

func appendItem(b []byte, i *storedItem) []byte {
	var flags byte
	if i.deleted {
		flags |= flagDeleted
	}
	b = append(b, itemVersion, flags)
	b = binary.BigEndian.AppendUint64(b, uint64(i.over))
	b = binary.BigEndian.AppendUint64(b, i.version)
	return append(b, i.value...)
}

func decodeItem(b []byte) (i storedItem, err error) {
	if len(b) < itemHeader || b[0] != itemVersion || b[1]&^flagDeleted != 0 {
		return i, fmt.Errorf("%w: an item of an unknown form", retention.ErrCorrupt)
	}
	return storedItem{
		value:   b[itemHeader:],
		over:    taxonomy.Millis(binary.BigEndian.Uint64(b[2:])),
		version: binary.BigEndian.Uint64(b[10:]),
		deleted: b[1]&flagDeleted != 0,
	}, nil
}

func (i *storedItem) item(k retention.Key) retention.Item {
	return retention.Item{Key: k, Value: append([]byte{}, i.value...), Version: i.version, Over: i.over}
}

func checkSpace(s retention.KeyedSpace, swapped bool) error {
	if err := taxonomy.CheckSlug("space", s.Name); err != nil {
		return err
	}
	switch {
	case s.Swapped == swapped:
		return nil
	case swapped:
		return fmt.Errorf("space %s is plain: use Put", s.Name)
	}
	return fmt.Errorf("space %s is swapped: use Swap", s.Name)
}

func checkItem(k retention.Key, value []byte) error {
	if n := len(k.Partition) + len(k.Item); n > maxKey {
		return fmt.Errorf("a key of %d bytes, at most %d", n, maxKey)
	}
	if len(value) > maxValue {
		return fmt.Errorf("a value of %d bytes, at most %d", len(value), maxValue)
	}
	return nil
}

// Get implements retention.Keyed.
func (k *keyed) Get(ctx context.Context, s retention.KeyedSpace, key retention.Key) (retention.Item, error) {
	release, err := k.s.acquire(ctx)
	if err != nil {
		return retention.Item{}, fmt.Errorf("get from space %s: %w", s.Name, err)
	}
	defer release()
	it, found, err := k.get(s, key)
	if err == nil && (!found || !it.readable(k.s.o.Now())) {
		err = retention.ErrNotFound
	}
	if err != nil {
		return retention.Item{}, fmt.Errorf("get from space %s: %w", s.Name, err)
	}
	return it.item(key), nil
}

// get returns what is stored under the key, readable or not, and whether there
// is anything. The caller holds the gate.
func (k *keyed) get(s retention.KeyedSpace, key retention.Key) (storedItem, bool, error) {
	b, closer, err := k.s.db.Get(keyedKey(s, key))
	if errors.Is(err, pebble.ErrNotFound) {
		return storedItem{}, false, nil
	}
	if err != nil {
		return storedItem{}, false, k.s.wrap(err)
	}
	it, err := decodeItem(append([]byte(nil), b...))
	return it, err == nil, errors.Join(err, closer.Close())
}

// Put implements retention.Keyed. One call is one commit: all or none.
func (k *keyed) Put(ctx context.Context, s retention.KeyedSpace, items []retention.Item) error {
	if err := checkSpace(s, false); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	for i := range items {
		if err := checkItem(items[i].Key, items[i].Value); err != nil {
			return fmt.Errorf("put item %d into space %s: %w", i, s.Name, err)
		}
	}
	release, err := k.s.acquire(ctx)
	if err != nil {
		return fmt.Errorf("put into space %s: %w", s.Name, err)
	}
	defer release()
	now := k.s.o.Now()
	b := k.s.db.NewBatch()
	var value []byte
	for i := range items {
		it := storedItem{value: items[i].Value, over: items[i].Over}
		if !it.readable(now) {
			continue
		}
		value = appendItem(value[:0], &it)
		if err := b.Set(keyedKey(s, items[i].Key), value, nil); err != nil {
			return fmt.Errorf("put into space %s: %w", s.Name, k.s.wrap(errors.Join(err, b.Close())))
		}
	}
	if err := k.s.commit(b); err != nil {
		return fmt.Errorf("put %d items into space %s: %w", len(items), s.Name, err)
	}
	return nil
}

// Swap implements retention.Keyed.
func (k *keyed) Swap(ctx context.Context, s retention.KeyedSpace, item retention.Item) (uint64, error) {
	err := checkSpace(s, true)
	if err == nil {
		err = checkItem(item.Key, item.Value)
	}
	if err != nil {
		return 0, fmt.Errorf("swap in space %s: %w", s.Name, err)
	}
	release, err := k.s.acquire(ctx)
	if err != nil {
		return 0, fmt.Errorf("swap in space %s: %w", s.Name, err)
	}
	defer release()
	k.swapping.Lock()
	defer k.swapping.Unlock()
	version, err := k.swap(s, &item)
	if err != nil {
		return 0, fmt.Errorf("swap in space %s: %w", s.Name, err)
	}
	return version, nil
}

func (k *keyed) swap(s retention.KeyedSpace, item *retention.Item) (uint64, error) {
	old, found, err := k.get(s, item.Key)
	if err != nil {
		return 0, err
	}
	now := k.s.o.Now()
	var kept uint64
	if found && old.readable(now) {
		kept = old.version
	}
	if kept != item.Version {
		return 0, fmt.Errorf("version %d is kept, not %d: %w", kept, item.Version, retention.ErrConflict)
	}
	next := storedItem{value: item.Value, over: item.Over, version: old.version + 1}
	switch {
	case item.Value == nil && kept == 0:
		return 0, nil // there is nothing to delete
	case item.Value == nil:
		next.deleted, next.over = true, 0
	case !next.readable(now):
		return item.Version, nil // over: not written at all
	}
	b := k.s.db.NewBatch()
	if err := b.Set(keyedKey(s, item.Key), appendItem(nil, &next), nil); err != nil {
		return 0, k.s.wrap(errors.Join(err, b.Close()))
	}
	return next.version, k.s.commit(b)
}

// Delete implements retention.Keyed.
func (k *keyed) Delete(ctx context.Context, s retention.KeyedSpace, keys []retention.Key) error {
	if err := checkSpace(s, false); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	release, err := k.s.acquire(ctx)
	if err != nil {
		return fmt.Errorf("delete from space %s: %w", s.Name, err)
	}
	defer release()
	b := k.s.db.NewBatch()
	for _, key := range keys {
		if err := b.Delete(keyedKey(s, key), nil); err != nil {
			return fmt.Errorf("delete from space %s: %w", s.Name, k.s.wrap(errors.Join(err, b.Close())))
		}
	}
	if err := k.s.commit(b); err != nil {
		return fmt.Errorf("delete %d keys from space %s: %w", len(keys), s.Name, err)
	}
	return nil
}

// Scan implements retention.Keyed.
func (k *keyed) Scan(ctx context.Context, s retention.KeyedSpace, partition *string, fn func(retention.Item) error) error {
	prefix := spacePrefix(s)
	if partition != nil {
		prefix = partitionPrefix(s, *partition)
	}
	for from := prefix; from != nil; {
		items, next, err := k.scanSome(ctx, from, after(prefix))
		if err != nil {
			return fmt.Errorf("scan space %s: %w", s.Name, err)
		}
		for _, it := range items {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(it); err != nil {
				return err
			}
		}
		from = next
	}
	return nil
}

// scanSome returns some readable items and the key to go on from, or nil.
func (k *keyed) scanSome(ctx context.Context, from, to []byte) (items []retention.Item, next []byte, err error) {
	release, err := k.s.acquire(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer release()
	it, err := k.s.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return nil, nil, k.s.wrap(err)
	}
	defer func() { err = errors.Join(err, k.s.wrap(it.Close())) }()
	now := k.s.o.Now()
	size := 0
	for ok := it.First(); ok; ok = it.Next() {
		if len(items) >= keyedBatch || size >= keyedBatchBytes {
			return items, append([]byte(nil), it.Key()...), nil
		}
		_, key, err := parseKeyedKey(it.Key())
		if err != nil {
			return nil, nil, err
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return nil, nil, k.s.wrap(err)
		}
		stored, err := decodeItem(value)
		if err != nil {
			return nil, nil, err
		}
		if stored.readable(now) {
			items = append(items, stored.item(key))
			size += len(value)
		}
	}
	return items, nil, k.s.wrap(it.Error())
}

// deleteOver deletes what is over. Of swapped items the version stays.
func (k *keyed) deleteOver(ctx context.Context) error {
	for _, table := range []byte{tablePlain, tableSwapped} {
		for from := []byte{table}; from != nil; {
			next, err := k.deleteSomeOver(ctx, from, []byte{table + 1})
			if err != nil {
				return err
			}
			from = next
		}
	}
	return nil
}

// deleteSomeOver looks at some items with everyone, and again at those that are
// over with nobody beside it: an item may be put anew between reading and
// deleting it, and its new life must not end with the old.
func (k *keyed) deleteSomeOver(ctx context.Context, from, to []byte) (next []byte, err error) {
	release, err := k.s.acquire(ctx)
	if err != nil {
		return nil, err
	}
	over, next, err := k.someOver(ctx, from, to)
	release()
	if err != nil || len(over) == 0 {
		return next, err
	}
	if release, err = k.s.acquireAll(ctx); err != nil {
		return nil, err
	}
	defer release()
	now := k.s.o.Now()
	b := k.s.db.NewBatch()
	for _, key := range over {
		value, closer, err := k.s.db.Get(key)
		if errors.Is(err, pebble.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, errors.Join(k.s.wrap(err), b.Close())
		}
		it, err := decodeItem(value)
		version := it.version
		gone := err == nil && !it.deleted && !it.readable(now)
		if err := errors.Join(err, closer.Close()); err != nil {
			return nil, errors.Join(err, b.Close())
		}
		switch {
		case !gone:
		case key[0] == tableSwapped:
			err = b.Set(key, appendItem(nil, &storedItem{version: version, deleted: true}), nil)
		default:
			err = b.Delete(key, nil)
		}
		if err != nil {
			return nil, errors.Join(k.s.wrap(err), b.Close())
		}
	}
	return next, k.s.commit(b)
}

// someOver returns the keys of items that are over, up to a number, and the key
// to go on from, or nil.
func (k *keyed) someOver(ctx context.Context, from, to []byte) (over [][]byte, next []byte, err error) {
	it, err := k.s.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return nil, nil, k.s.wrap(err)
	}
	defer func() { err = errors.Join(err, k.s.wrap(it.Close())) }()
	now := k.s.o.Now()
	for ok, n := it.First(), 0; ok; ok, n = it.Next(), n+1 {
		if len(over) >= keyedBatch || n >= 1<<14 {
			return over, append([]byte(nil), it.Key()...), nil
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return nil, nil, k.s.wrap(err)
		}
		stored, err := decodeItem(value)
		if err != nil {
			return nil, nil, err
		}
		if !stored.deleted && !stored.readable(now) {
			over = append(over, append([]byte(nil), it.Key()...))
		}
	}
	return over, nil, k.s.wrap(it.Error())
}
