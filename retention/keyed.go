package retention

import (
	"context"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// KeyedSpace is a named set of keys and values, declared once, in code. It is
// either plain (Put) or swapped (Swap), never both: the two do not mix in
// Cassandra.
type KeyedSpace struct {
	Name    string // a slug; part of the format on disk
	Swapped bool
}

// Key is a partition and an item within it. A partition is what is read
// together. Either may be any bytes, up to 512 together; an empty item is fine.
type Key struct {
	Partition string
	Item      string
}

// Item is a key with what is kept under it.
type Item struct {
	Key   Key
	Value []byte
	// Version of a swapped item: 1 when made, one more at each Swap. 0 in a
	// plain space.
	Version uint64
	// Over is the instant from which it is not readable, 0 for never. An item
	// whose Over has come is not written at all.
	Over taxonomy.Millis
}

// Keyed keeps small values (up to 1 MiB) under keys.
type Keyed interface {
	// Get returns an item, or ErrNotFound. The caller owns the value.
	Get(ctx context.Context, s KeyedSpace, k Key) (Item, error)

	// Put stores items in a plain space, durably, each as of now or with its
	// Over; an older value under the key is replaced. All or some may be stored
	// when an error is returned.
	Put(ctx context.Context, s KeyedSpace, items []Item) error

	// Swap stores item in a swapped space if the version kept there is
	// item.Version (0: there is none) and returns the new version; else
	// ErrConflict. A nil Value deletes. Versions of a deleted key go on.
	Swap(ctx context.Context, s KeyedSpace, item Item) (uint64, error)

	// Delete removes keys of a plain space. Removing what is not there is fine.
	Delete(ctx context.Context, s KeyedSpace, keys []Key) error

	// Scan calls fn with the items of one partition, in item order; or, if
	// partition is nil, with all items of the space, in no order. fn owns the
	// item. An error of fn ends the walk and is returned.
	Scan(ctx context.Context, s KeyedSpace, partition *string, fn func(Item) error) error
}
