package delivery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Options are what a Deliverer works with. All are needed but After and Spool.
type Options struct {
	Keyed retention.Keyed
	Blobs retention.Blobs
	// Pseudonym returns the ID of a visitor at a destination by pseudonym. It is
	// called for every row, mostly with the same destination and epoch as before,
	// so what depends on these two is best kept between calls.
	Pseudonym func(d taxonomy.DestinationID, epoch uint32, k taxonomy.VisitorKey) string
	// View returns a view no older than the newest that was committed when it was
	// called, by whatever node: the eraser finds ordinals in it, sweeper and planner
	// who may still be held. A node that only follows has to look; of an older view a
	// plan would send whom the eraser has dealt with already. Ordinal and MatchID
	// must answer for visitors that are gone until the fold has been told to erase
	// them, which comes after delivery in the order of holders (R25).
	View       func(context.Context) (audience.View, error)
	Formats    map[string]Format
	Transports map[string]Transport
	Now        func() taxonomy.Millis
	// After is a timer, by which pushes keep to a destination's rate. Nil: a
	// destination with a rate is refused.
	After func(time.Duration) <-chan time.Time
	Rand  io.Reader // safe for concurrent use
	// Spool makes an empty file, for the IDs of those who are known to a partner by
	// match. Nothing of it may be left after a crash that tells them. Nil: they are
	// held in memory.
	Spool func() (Spool, error)
}

// Deliverer makes deliveries, serves what they left, and takes out who must be
// forgotten. It is safe for concurrent use, also by several nodes: what changes
// a destination is one compare-and-swap of its head.
type Deliverer struct {
	o  Options
	mu sync.Mutex
	// at makes one change of a destination's head at a time, run one delivery:
	// a push may take long, and an erasure must not wait for it.
	at, run map[taxonomy.DestinationID]*sync.Mutex
}

// New returns a deliverer over o. It starts nothing.
func New(o Options) (*Deliverer, error) {
	switch {
	case o.Keyed == nil || o.Blobs == nil:
		return nil, errors.New("new deliverer: needs Keyed and Blobs")
	case o.Pseudonym == nil || o.View == nil || o.Now == nil || o.Rand == nil:
		return nil, errors.New("new deliverer: needs Pseudonym, View, Now and Rand")
	}
	return &Deliverer{o: o, at: map[taxonomy.DestinationID]*sync.Mutex{}, run: map[taxonomy.DestinationID]*sync.Mutex{}}, nil
}

// lock makes this process work on a destination once at a time, so that it does
// not race itself; other nodes meet at the head.
func (d *Deliverer) lock(dest taxonomy.DestinationID) (unlock func()) { return d.lockIn(d.at, dest) }

func (d *Deliverer) lockIn(in map[taxonomy.DestinationID]*sync.Mutex, dest taxonomy.DestinationID) (unlock func()) {
	m := d.mutex(in, dest)
	m.Lock()
	return m.Unlock
}

func (d *Deliverer) mutex(in map[taxonomy.DestinationID]*sync.Mutex, dest taxonomy.DestinationID) *sync.Mutex {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := in[dest]
	if m == nil {
		m = new(sync.Mutex)
		in[dest] = m
	}
	return m
}

// attempts is how often something is tried anew that met another node's head.
const attempts = 5

// again runs fn until it does not end in a conflict of heads.
func again(fn func() error) (err error) {
	for range attempts {
		if err = fn(); !errors.Is(err, retention.ErrConflict) {
			return err
		}
	}
	return err
}

// Check tells whether a destination names a format and a transport that this
// program has; faults are taxonomy.FieldErrors. Validate looks at all else.
func (d *Deliverer) Check(dest *Destination) error {
	d2 := dest.WithDefaults()
	var errs []error
	if d.o.Formats[d2.Format] == nil {
		errs = append(errs, taxonomy.Invalid("format", "there is no format %q", d2.Format))
	}
	t := d.o.Transports[d2.Transport]
	if t == nil {
		errs = append(errs, taxonomy.Invalid("transport", "there is no transport %q", d2.Transport))
	} else {
		errs = append(errs, t.Check(&d2))
	}
	if c, ok := d.o.Formats[d2.Format].(Checker); ok {
		errs = append(errs, c.Check(&d2))
	}
	if t != nil && !t.Facts().Served && d.o.Formats[d2.Format] != nil && !d.o.Formats[d2.Format].Facts().Removes {
		errs = append(errs, taxonomy.Invalid("format", "%q cannot say that someone leaves, so it cannot be pushed", d2.Format))
	}
	if d2.Push.PerMinute > 0 && d.o.After == nil {
		errs = append(errs, taxonomy.Invalid("push.per_minute", "this program has no timer to keep to a rate"))
	}
	return errors.Join(errs...)
}

// destinations returns every destination that has a head.
func (d *Deliverer) destinations(ctx context.Context) (ids []taxonomy.DestinationID, err error) {
	err = d.o.Keyed.Scan(ctx, Space, nil, func(it retention.Item) error {
		if it.Key.Item == headItem {
			ids = append(ids, taxonomy.DestinationID(it.Key.Partition))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list destinations: %w", err)
	}
	return ids, nil
}
