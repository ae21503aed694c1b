package storetest

import (
	"context"
	"io"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// What stands here gives the model's stores the outcomes of a cluster: a write
// happens or does not, and in trouble nobody says which.

// unsure runs a write under the cluster's outcome: an error of its own is told.
func (c *Cluster) unsure(do func() error) error {
	happens, err := c.outcome()
	if happens {
		if e := do(); e != nil {
			return e
		}
	}
	return err
}

type clusterEvents struct {
	retention.Events
	c *Cluster
}

func (e clusterEvents) Put(ctx context.Context, list []retention.StoredEvent) error {
	return e.c.unsure(func() error { return e.Events.Put(ctx, list) })
}

func (e clusterEvents) Erase(ctx context.Context, visitors []taxonomy.VisitorKey) error {
	return e.c.unsure(func() error { return e.Events.Erase(ctx, visitors) })
}

type clusterKeyed struct {
	retention.Keyed
	c *Cluster
}

func (k clusterKeyed) Put(ctx context.Context, s retention.KeyedSpace, items []retention.Item) error {
	return k.c.unsure(func() error { return k.Keyed.Put(ctx, s, items) })
}

func (k clusterKeyed) Swap(ctx context.Context, s retention.KeyedSpace, it retention.Item) (version uint64, err error) {
	err = k.c.unsure(func() (err error) { version, err = k.Keyed.Swap(ctx, s, it); return err })
	if err != nil {
		version = 0
	}
	return version, err
}

type clusterBlobs struct {
	retention.Blobs
	c *Cluster
}

func (b clusterBlobs) Put(ctx context.Context, name string, over taxonomy.Millis, content io.Reader) (blob retention.Blob, err error) {
	err = b.c.unsure(func() (err error) { blob, err = b.Blobs.Put(ctx, name, over, content); return err })
	if err != nil {
		blob = retention.Blob{}
	}
	return blob, err
}

func (b clusterBlobs) Delete(ctx context.Context, names []string) error {
	return b.c.unsure(func() error { return b.Blobs.Delete(ctx, names) })
}

type clusterLeases struct {
	retention.Leases
	c *Cluster
}

func (l clusterLeases) Take(ctx context.Context, name, owner string, life time.Duration) (lease retention.Lease, err error) {
	err = l.c.unsure(func() (err error) { lease, err = l.Leases.Take(ctx, name, owner, life); return err })
	if err != nil {
		lease = retention.Lease{}
	}
	return lease, err
}

func (l clusterLeases) Renew(ctx context.Context, h retention.Lease) error {
	return l.c.unsure(func() error { return l.Leases.Renew(ctx, h) })
}
