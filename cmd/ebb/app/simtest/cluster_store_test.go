package simtest

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// nodeStore is the cluster's store as one process sees it: it may die between any
// two of its writes, and stand still before any of its steps while others go on.
type nodeStore struct {
	of *storetest.Cluster

	mu    sync.Mutex
	dies  int  // with this write, counted down; 0: with none
	late  bool // the write with which it dies happens all the same
	dead  bool
	still int    // before this step, counted down; 0: before none
	stand func() // what happens meanwhile
	// swapped is told of every swap that happened and was told.
	swapped func(retention.KeyedSpace)
}

var errDied = errors.New("the node has died")

// step is before whatever it does outside itself, and reports whether it stood
// still there.
func (n *nodeStore) step() (stood bool, err error) {
	n.mu.Lock()
	n.still--
	stood = n.still == 0
	n.mu.Unlock()
	if stood {
		n.stand()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dead {
		err = errDied
	}
	return stood, err
}

func (n *nodeStore) write(do func() error) error {
	if _, err := n.step(); err != nil {
		return err
	}
	n.mu.Lock()
	n.dies--
	n.dead = n.dies == 0
	dead, happens := n.dead, !n.dead || n.late
	n.mu.Unlock()
	var err error
	if happens {
		err = do()
	}
	if dead {
		return errDied
	}
	return err
}

// fine lets it neither die nor stand still, and reports whether it is dead.
func (n *nodeStore) fine() (dead bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dies, n.still = 0, 0
	return n.dead
}

func (n *nodeStore) Events() retention.Events { return nodeEvents{n.of.Events(), n} }
func (n *nodeStore) Keyed() retention.Keyed   { return nodeKeyed{n.of.Keyed(), n} }
func (n *nodeStore) Blobs() retention.Blobs   { return nodeBlobs{n.of.Blobs(), n} }
func (n *nodeStore) Leases() retention.Leases { return nodeLeases{n.of.Leases(), n} }

type nodeEvents struct {
	retention.Events
	n *nodeStore
}

func (e nodeEvents) Put(ctx context.Context, list []retention.StoredEvent) error {
	return e.n.write(func() error { return e.Events.Put(ctx, list) })
}

func (e nodeEvents) Erase(ctx context.Context, visitors []taxonomy.VisitorKey) error {
	return e.n.write(func() error { return e.Events.Erase(ctx, visitors) })
}

type nodeKeyed struct {
	retention.Keyed
	n *nodeStore
}

func (k nodeKeyed) Get(ctx context.Context, s retention.KeyedSpace, key retention.Key) (retention.Item, error) {
	if _, err := k.n.step(); err != nil {
		return retention.Item{}, err
	}
	return k.Keyed.Get(ctx, s, key)
}

func (k nodeKeyed) Put(ctx context.Context, s retention.KeyedSpace, items []retention.Item) error {
	return k.n.write(func() error { return k.Keyed.Put(ctx, s, items) })
}

func (k nodeKeyed) Swap(ctx context.Context, s retention.KeyedSpace, it retention.Item) (version uint64, err error) {
	err = k.n.write(func() (err error) { version, err = k.Keyed.Swap(ctx, s, it); return err })
	if err != nil {
		return 0, err
	}
	if k.n.swapped != nil {
		k.n.swapped(s)
	}
	return version, nil
}

func (k nodeKeyed) Delete(ctx context.Context, s retention.KeyedSpace, keys []retention.Key) error {
	return k.n.write(func() error { return k.Keyed.Delete(ctx, s, keys) })
}

func (k nodeKeyed) Scan(ctx context.Context, s retention.KeyedSpace, partition *string, fn func(retention.Item) error) error {
	if _, err := k.n.step(); err != nil {
		return err
	}
	return k.Keyed.Scan(ctx, s, partition, fn)
}

type nodeBlobs struct {
	retention.Blobs
	n *nodeStore
}

func (b nodeBlobs) Open(ctx context.Context, name string) (retention.BlobReader, error) {
	if _, err := b.n.step(); err != nil {
		return nil, err
	}
	return b.Blobs.Open(ctx, name)
}

func (b nodeBlobs) List(ctx context.Context, under string) ([]retention.Blob, error) {
	if _, err := b.n.step(); err != nil {
		return nil, err
	}
	return b.Blobs.List(ctx, under)
}

func (b nodeBlobs) Put(ctx context.Context, name string, over taxonomy.Millis, content io.Reader) (blob retention.Blob, err error) {
	err = b.n.write(func() (err error) { blob, err = b.Blobs.Put(ctx, name, over, content); return err })
	if err != nil {
		blob = retention.Blob{}
	}
	return blob, err
}

func (b nodeBlobs) Delete(ctx context.Context, names []string) error {
	return b.n.write(func() error { return b.Blobs.Delete(ctx, names) })
}

type nodeLeases struct {
	retention.Leases
	n *nodeStore
}

func (l nodeLeases) Take(ctx context.Context, name, owner string, life time.Duration) (lease retention.Lease, err error) {
	err = l.n.write(func() (err error) { lease, err = l.Leases.Take(ctx, name, owner, life); return err })
	if err != nil {
		lease = retention.Lease{}
	}
	return lease, err
}

func (l nodeLeases) Renew(ctx context.Context, h retention.Lease) error {
	return l.n.write(func() error { return l.Leases.Renew(ctx, h) })
}
