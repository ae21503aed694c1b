package cassandra

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// table is a table of plain items with its statements.
type table struct {
	get, put, putFor, del, scan, all string
	mortal                           bool
}

var (
	lasting = table{
		get:    `SELECT value, over FROM keyed_lasting WHERE space = ? AND partition = ? AND item = ?`,
		put:    `INSERT INTO keyed_lasting (space, partition, item, value, over) VALUES (?, ?, ?, ?, ?)`,
		putFor: `INSERT INTO keyed_lasting (space, partition, item, value, over) VALUES (?, ?, ?, ?, ?) USING TTL ?`,
		del:    `DELETE FROM keyed_lasting WHERE space = ? AND partition = ? AND item = ?`,
		scan:   `SELECT partition, item, value, over FROM keyed_lasting WHERE space = ? AND partition = ?`,
		all:    `SELECT space, partition, item, value, over FROM keyed_lasting`,
	}
	mortal = table{
		get:    `SELECT value, over FROM keyed_mortal WHERE space = ? AND partition = ? AND item = ?`,
		put:    `INSERT INTO keyed_mortal (space, partition, item, value, over) VALUES (?, ?, ?, ?, ?)`,
		putFor: `INSERT INTO keyed_mortal (space, partition, item, value, over) VALUES (?, ?, ?, ?, ?) USING TTL ?`,
		del:    `DELETE FROM keyed_mortal WHERE space = ? AND partition = ? AND item = ?`,
		scan:   `SELECT partition, item, value, over FROM keyed_mortal WHERE space = ? AND partition = ?`,
		all:    `SELECT space, partition, item, value, over FROM keyed_mortal`,
		mortal: true,
	}
)

const (
	getSwapped    = `SELECT version, value, over, marks FROM keyed_swapped WHERE space = ? AND partition = ? AND item = ?`
	insertSwapped = `INSERT INTO keyed_swapped (space, partition, item, version, value, over, marks) VALUES (?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS`
	updateSwapped = `UPDATE keyed_swapped SET version = ?, value = ?, over = ?, marks = ? WHERE space = ? AND partition = ? AND item = ? IF version = ?`
	scanSwapped   = `SELECT partition, item, version, value, over FROM keyed_swapped WHERE space = ? AND partition = ?`
	allSwapped    = `SELECT space, partition, item, version, value, over FROM keyed_swapped`
)

const (
	maxKey   = 512
	maxValue = 1 << 20

	// A row of a swapped space names the last keepMarks swaps, so that whoever
	// does not know whether his went through can still tell when others have
	// followed it.
	markSize  = 8
	keepMarks = 16

	// settles is how often a transaction of unknown outcome is looked up and, if
	// it did not happen, tried again.
	settles = 12
)

type keyed struct {
	st     *Store
	mortal map[string]bool
}

var _ retention.Keyed = (*keyed)(nil)

func newKeyed(st *Store) *keyed {
	k := &keyed{st: st, mortal: map[string]bool{}}
	for _, name := range st.o.Mortal {
		k.mortal[name] = true
	}
	return k
}

func (k *keyed) table(s retention.KeyedSpace) *table {
	if k.mortal[s.Name] {
		return &mortal
	}
	return &lasting
}

func checkItem(s retention.KeyedSpace, k retention.Key, value []byte, swapped bool) error {
	switch {
	case !s.Swapped && swapped:
		return fmt.Errorf("space %s is plain: it cannot be swapped in", s.Name)
	case s.Swapped && !swapped:
		return fmt.Errorf("space %s is swapped: use Swap", s.Name)
	case len(k.Partition)+len(k.Item) > maxKey:
		return fmt.Errorf("space %s: key of %d bytes, at most %d", s.Name, len(k.Partition)+len(k.Item), maxKey)
	case len(value) > maxValue:
		return fmt.Errorf("space %s: value of %d bytes, at most %d", s.Name, len(value), maxValue)
	}
	return nil
}

// there returns bytes that are never nil: nil would be a tombstone.
func there(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func readable(over, now taxonomy.Millis) bool { return over == 0 || now < over }

// Get implements retention.Keyed.
func (k *keyed) Get(ctx context.Context, s retention.KeyedSpace, key retention.Key) (retention.Item, error) {
	it, err := k.get(ctx, s, key)
	if err != nil {
		return retention.Item{}, fmt.Errorf("get from space %s: %w", s.Name, err)
	}
	return it, nil
}

func (k *keyed) get(ctx context.Context, s retention.KeyedSpace, key retention.Key) (retention.Item, error) {
	if err := ctx.Err(); err != nil {
		return retention.Item{}, err
	}
	it := retention.Item{Key: key}
	args := []any{s.Name, []byte(key.Partition), []byte(key.Item)}
	if s.Swapped {
		row, err := k.row(ctx, args)
		if err != nil {
			return it, err
		}
		if row.value == nil || !readable(row.over, k.st.o.Now()) {
			return it, retention.ErrNotFound
		}
		it.Value, it.Version, it.Over = row.value, row.version, row.over
		return it, nil
	}
	if err := k.st.s.one(ctx, k.table(s).get, args, &it.Value, (*int64)(&it.Over)); err != nil {
		return it, err
	}
	if !readable(it.Over, k.st.o.Now()) {
		return it, retention.ErrNotFound
	}
	it.Value = there(it.Value)
	return it, nil
}

// The value of a swapped row has a byte before it, since the driver does not
// tell an empty value from none.
const valueVersion = 1

// swappedRow is a row of a swapped space. Without a value (nil) the item was
// deleted.
type swappedRow struct {
	version uint64
	value   []byte
	over    taxonomy.Millis
	marks   []byte
}

// swappedValue takes the byte off.
func swappedValue(b []byte) ([]byte, error) {
	switch {
	case len(b) == 0:
		return nil, nil
	case b[0] != valueVersion:
		return nil, fmt.Errorf("%w: a value of version %d; run the version of Ebb that wrote it", retention.ErrCorrupt, b[0])
	}
	return b[1:], nil
}

// row reads a row after every transaction that is under way.
func (k *keyed) row(ctx context.Context, args []any) (r swappedRow, err error) {
	var version int64
	err = k.st.s.serial(ctx, getSwapped, args, &version, &r.value, (*int64)(&r.over), &r.marks)
	if err == nil {
		r.value, err = swappedValue(r.value)
	}
	r.version = uint64(version)
	return r, err
}

// Put implements retention.Keyed.
func (k *keyed) Put(ctx context.Context, s retention.KeyedSpace, items []retention.Item) error {
	for i := range items {
		if err := checkItem(s, items[i].Key, items[i].Value, false); err != nil {
			return fmt.Errorf("put item %d: %w", i, err)
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("put into space %s: %w", s.Name, err)
	}
	t, now := k.table(s), k.st.o.Now()
	// Of one key the last counts; several at once would meet in any order.
	last := make(map[retention.Key]int, len(items))
	for i := range items {
		if over := items[i].Over; over == 0 || over > now { // what is over is not written at all
			last[items[i].Key] = i
		}
	}
	list := make([]int, 0, len(last))
	for i := range items {
		if j, ok := last[items[i].Key]; ok && j == i {
			list = append(list, i)
		}
	}
	if len(list) == 0 {
		return nil
	}
	err := k.st.each(ctx, len(list), func(ctx context.Context, i int) error {
		it := &items[list[i]]
		over := it.Over
		if end := now + taxonomy.RetentionDays*taxonomy.OneDay; t.mortal && (over == 0 || over > end) {
			over = end
		}
		args := []any{s.Name, []byte(it.Key.Partition), []byte(it.Key.Item), there(it.Value), int64(over)}
		if over == 0 {
			return k.st.s.rewrite(ctx, t.put, args...)
		}
		return k.st.s.rewrite(ctx, t.putFor, append(args, k.st.ttl(over, now))...)
	})
	if err != nil {
		return fmt.Errorf("put %d items into space %s: %w", len(items), s.Name, err)
	}
	return nil
}

// Swap implements retention.Keyed.
func (k *keyed) Swap(ctx context.Context, s retention.KeyedSpace, it retention.Item) (uint64, error) {
	if err := checkItem(s, it.Key, it.Value, true); err != nil {
		return 0, fmt.Errorf("swap: %w", err)
	}
	v, err := k.swap(ctx, s, it)
	if err != nil {
		return 0, fmt.Errorf("swap in space %s: %w", s.Name, err)
	}
	return v, nil
}

func (k *keyed) swap(ctx context.Context, s retention.KeyedSpace, it retention.Item) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	mark := make([]byte, markSize)
	if err := k.st.draw(mark); err != nil {
		return 0, err
	}
	key := []any{s.Name, []byte(it.Key.Partition), []byte(it.Key.Item)}
	tried, pause := uint64(0), 10*time.Millisecond
	for range settles {
		now := k.st.o.Now()
		old, err := k.row(ctx, key)
		missing := errors.Is(err, retention.ErrNotFound)
		if err != nil && !missing {
			if tried > 0 {
				return 0, fmt.Errorf("%w: %w", retention.ErrUnknown, err)
			}
			return 0, err
		}
		if tried > 0 {
			if hasMark(old.marks, mark) {
				return tried, nil // it did happen, whoever came after it
			}
			if old.version >= tried+keepMarks {
				return 0, fmt.Errorf("%w: %d others followed", retention.ErrUnknown, old.version-tried)
			}
			// It did not, and the read has seen to it that it will not.
		}
		var kept uint64
		if !missing && old.value != nil && readable(old.over, now) {
			kept = old.version
		}
		switch {
		case kept != it.Version:
			return 0, fmt.Errorf("version %d is kept, not %d: %w", kept, it.Version, retention.ErrConflict)
		case it.Value != nil && !readable(it.Over, now):
			return it.Version, nil // over: not written at all
		case it.Value == nil && kept == 0:
			return 0, nil // nothing to delete
		}
		next := old.version + 1
		marks := append(append(make([]byte, 0, keepMarks*markSize), mark...), old.marks[:min(len(old.marks), (keepMarks-1)*markSize)]...)
		var value any // nil: none
		if it.Value != nil {
			value = append([]byte{valueVersion}, it.Value...)
		}
		var ok bool
		if missing {
			ok, err = k.st.s.swap(ctx, insertSwapped, s.Name, key[1], key[2], int64(next), value, int64(it.Over), marks)
		} else {
			ok, err = k.st.s.swap(ctx, updateSwapped, int64(next), value, int64(it.Over), marks, s.Name, key[1], key[2], int64(old.version))
		}
		switch {
		case err == nil && ok:
			return next, nil
		case err == nil && tried == 0:
			// Somebody was faster. Look again: it may have been a swap that made
			// what we ask for, or ours is stale.
		case err == nil: // an earlier try may be what stands in the way: look
		case errors.Is(err, retention.ErrUnknown):
			tried = next
		default:
			return 0, err
		}
		select {
		case <-k.st.s.after(k.st.jitter(pause)):
		case <-ctx.Done():
		}
		pause = min(2*pause, 500*time.Millisecond)
	}
	if tried > 0 {
		return 0, fmt.Errorf("%w: too many others swap it", retention.ErrUnknown)
	}
	return 0, fmt.Errorf("too many others swap it: %w", retention.ErrConflict)
}

func hasMark(marks, m []byte) bool {
	for ; len(marks) >= markSize; marks = marks[markSize:] {
		if bytes.Equal(marks[:markSize], m) {
			return true
		}
	}
	return false
}

// jitter returns between half and all of d, so that those who met do not meet
// again.
func (st *Store) jitter(d time.Duration) time.Duration {
	var b [1]byte
	if err := st.draw(b[:]); err != nil {
		return d
	}
	return d/2 + d*time.Duration(b[0])/512
}

// Delete implements retention.Keyed.
func (k *keyed) Delete(ctx context.Context, s retention.KeyedSpace, keys []retention.Key) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("delete from space %s: %w", s.Name, err)
	}
	if s.Swapped {
		return fmt.Errorf("delete: space %s is swapped: use Swap with a nil value", s.Name)
	}
	if len(keys) == 0 {
		return nil
	}
	err := k.st.each(ctx, len(keys), func(ctx context.Context, i int) error {
		return k.st.s.rewrite(ctx, k.table(s).del, s.Name, []byte(keys[i].Partition), []byte(keys[i].Item))
	})
	if err != nil {
		return fmt.Errorf("delete %d keys from space %s: %w", len(keys), s.Name, err)
	}
	return nil
}

// Scan implements retention.Keyed, a page at a time. A scan of a whole space
// goes through the whole table that it shares with others.
func (k *keyed) Scan(ctx context.Context, s retention.KeyedSpace, partition *string, fn func(retention.Item) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("scan space %s: %w", s.Name, err)
	}
	t := k.table(s)
	cql, args := t.all, []any(nil)
	switch {
	case partition != nil && s.Swapped:
		cql, args = scanSwapped, []any{s.Name, []byte(*partition)}
	case partition != nil:
		cql, args = t.scan, []any{s.Name, []byte(*partition)}
	case s.Swapped:
		cql = allSwapped
	}
	var items []retention.Item
	row := func(scan func(...any) error) error {
		var it retention.Item
		var p, i []byte
		var version int64
		name := s.Name
		dest := make([]any, 0, 6)
		if partition == nil {
			dest = append(dest, &name)
		}
		dest = append(dest, &p, &i)
		if s.Swapped {
			dest = append(dest, &version)
		}
		if err := scan(append(dest, &it.Value, (*int64)(&it.Over))...); err != nil {
			return err
		}
		if s.Swapped {
			var err error
			if it.Value, err = swappedValue(it.Value); err != nil || it.Value == nil {
				return err
			}
		}
		if name != s.Name || !readable(it.Over, k.st.o.Now()) {
			return nil
		}
		it.Key, it.Value, it.Version = retention.Key{Partition: string(p), Item: string(i)}, there(it.Value), uint64(version)
		items = append(items, it)
		return nil
	}
	for state := []byte(nil); ; {
		next, err := k.st.s.page(ctx, state, pageRows, row, func() { items = nil }, cql, args...)
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
		if next == nil {
			return nil
		}
		state = next
	}
}
