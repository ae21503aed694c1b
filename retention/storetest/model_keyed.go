package storetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const (
	maxKey   = 512
	maxValue = 1 << 20
)

type modelItem struct {
	value   []byte
	over    taxonomy.Millis
	version uint64 // of the last swap; stays when the value goes
	there   bool
}

func (i *modelItem) readable(now taxonomy.Millis) bool {
	return i != nil && i.there && (i.over == 0 || now < i.over)
}

type modelKeyed struct {
	mu     sync.Mutex
	now    func() taxonomy.Millis
	spaces map[retention.KeyedSpace]map[retention.Key]*modelItem
}

func checkItem(s retention.KeyedSpace, k retention.Key, value []byte, swapped bool) error {
	switch {
	case s.Swapped != swapped && swapped:
		return fmt.Errorf("space %s is plain: it cannot be swapped in", s.Name)
	case s.Swapped != swapped:
		return fmt.Errorf("space %s is swapped: use Swap", s.Name)
	case len(k.Partition)+len(k.Item) > maxKey:
		return fmt.Errorf("space %s: key of %d bytes, at most %d", s.Name, len(k.Partition)+len(k.Item), maxKey)
	case len(value) > maxValue:
		return fmt.Errorf("space %s: value of %d bytes, at most %d", s.Name, len(value), maxValue)
	}
	return nil
}

func (m *modelKeyed) space(s retention.KeyedSpace) map[retention.Key]*modelItem {
	if m.spaces[s] == nil {
		m.spaces[s] = map[retention.Key]*modelItem{}
	}
	return m.spaces[s]
}

func (m *modelKeyed) Get(ctx context.Context, s retention.KeyedSpace, k retention.Key) (retention.Item, error) {
	if err := ctx.Err(); err != nil {
		return retention.Item{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.space(s)[k]
	if !i.readable(m.now()) {
		return retention.Item{}, fmt.Errorf("get from space %s: %w", s.Name, retention.ErrNotFound)
	}
	return item(s, k, i), nil
}

func item(s retention.KeyedSpace, k retention.Key, i *modelItem) retention.Item {
	it := retention.Item{Key: k, Value: append([]byte{}, i.value...), Over: i.over}
	if s.Swapped {
		it.Version = i.version
	}
	return it
}

func (m *modelKeyed) Put(ctx context.Context, s retention.KeyedSpace, items []retention.Item) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for i := range items {
		if err := checkItem(s, items[i].Key, items[i].Value, false); err != nil {
			return fmt.Errorf("put item %d: %w", i, err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for _, it := range items {
		if it.Over != 0 && it.Over <= now {
			continue
		}
		m.space(s)[it.Key] = &modelItem{value: slices.Clone(it.Value), over: it.Over, there: true}
	}
	return nil
}

func (m *modelKeyed) Swap(ctx context.Context, s retention.KeyedSpace, it retention.Item) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := checkItem(s, it.Key, it.Value, true); err != nil {
		return 0, fmt.Errorf("swap: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	old := m.space(s)[it.Key]
	var kept uint64
	if old.readable(now) {
		kept = old.version
	}
	if kept != it.Version {
		return 0, fmt.Errorf("swap in space %s: version %d is kept, not %d: %w", s.Name, kept, it.Version, retention.ErrConflict)
	}
	switch {
	case it.Value != nil && it.Over != 0 && it.Over <= now:
		return it.Version, nil // over: not written at all
	case it.Value == nil && kept == 0:
		return 0, nil // nothing to delete
	}
	next := uint64(1)
	if old != nil {
		next = old.version + 1
	}
	m.space(s)[it.Key] = &modelItem{value: slices.Clone(it.Value), over: it.Over, version: next, there: it.Value != nil}
	return next, nil
}

func (m *modelKeyed) Delete(ctx context.Context, s retention.KeyedSpace, keys []retention.Key) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.Swapped {
		return fmt.Errorf("delete: space %s is swapped: use Swap with a nil value", s.Name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range keys {
		delete(m.space(s), k)
	}
	return nil
}

func (m *modelKeyed) Scan(ctx context.Context, s retention.KeyedSpace, partition *string, fn func(retention.Item) error) error {
	m.mu.Lock()
	now := m.now()
	var items []retention.Item
	for k, i := range m.space(s) {
		if i.readable(now) && (partition == nil || *partition == k.Partition) {
			items = append(items, item(s, k, i))
		}
	}
	m.mu.Unlock()
	slices.SortFunc(items, func(a, b retention.Item) int {
		if c := strings.Compare(a.Key.Item, b.Key.Item); c != 0 {
			return c // first by item, so that nobody relies on the order of partitions
		}
		return strings.Compare(a.Key.Partition, b.Key.Partition)
	})
	for _, it := range items {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(it); err != nil {
			return err
		}
	}
	return nil
}
