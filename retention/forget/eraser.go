package forget

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

func sortedEntries(m map[[16]byte]Entry) []Entry {
	return slices.SortedFunc(maps.Values(m), func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.At, b.At), bytes.Compare(a.Hash[:], b.Hash[:]))
	})
}

// Nights is how many nightly passes an erasure gets: one that removes every
// byte, and three that find what was on its way then (R25).
const Nights = 4

// QueueBound is how many days a plain key may lie in the eraser's queue (R24).
const QueueBound = Nights

// receiptLife is how long a receipt can be read: as long as the erasure of a
// cookie's key is kept.
const receiptLife = 100 * taxonomy.OneDay

var (
	queueSpace   = retention.KeyedSpace{Name: "erasure_queue"}
	receiptSpace = retention.KeyedSpace{Name: "erasure_receipt"}
)

// QueueSpace is the space of the queue: what is in it is about visitors.
var QueueSpace = queueSpace

const queuePartition = "due"

// Erasure is a visitor to be forgotten.
type Erasure struct {
	Visitor taxonomy.VisitorKey
	Space   taxonomy.Space
	At      taxonomy.Millis // when it was asked for
}

// queued is an erasure in the queue, under its plain key, which Erase needs.
type queued struct {
	Space  taxonomy.Space    `json:"space"`
	At     taxonomy.Millis   `json:"at"`
	Soon   taxonomy.Millis   `json:"soon,omitempty"`
	Nights []taxonomy.Millis `json:"nights"`
}

// Receipt says what was done of an erasure. It names the visitor by hash only.
type Receipt struct {
	ID     string            `json:"id"` // 32 hex digits: HMAC(erasure key, visitor key)
	Space  taxonomy.Space    `json:"space"`
	At     taxonomy.Millis   `json:"at"`             // asked for
	Soon   taxonomy.Millis   `json:"soon,omitempty"` // nobody was told of it any more
	Nights []taxonomy.Millis `json:"nights"`         // when each nightly pass was complete
	// Done: the last night is complete, and the queue has forgotten the key.
	Done bool `json:"done"`
	// Places are where it was erased, in order.
	Places []string `json:"places"`
	// Bound is the last day on which a byte of it may lie on disk.
	Bound taxonomy.Day `json:"bound"`
}

// Eraser erases who asked to be forgotten from every Holder, in their order,
// and again on the nights that follow. It may be stopped between any two
// steps: a pass that was not completed is done again.
type Eraser struct {
	Keyed   retention.Keyed
	Holders []Holder
	// Hash is HMAC(erasure key, visitor key), cut to 16 bytes.
	Hash func(taxonomy.VisitorKey) [16]byte
	Now  func() taxonomy.Millis
	// Before, if set, is called before a pass with those whom it is for: what
	// holders look up of them must be there when it returns. It returns those of
	// whom that cannot be so yet; they are left to a later pass.
	Before func(context.Context, []Erasure) (notYet []taxonomy.VisitorKey, err error)

	passing sync.Mutex // one pass at a time
	// notes is held by whoever changes an entry, and never while a holder is
	// called: a holder may fold the log, whose erasures come back to Queue.
	notes sync.Mutex
}

// Queue takes erasures. One that is in the queue, or was done for the same
// wish, changes nothing; a later wish begins its nights anew.
func (e *Eraser) Queue(ctx context.Context, erasures []Erasure) error {
	e.notes.Lock()
	defer e.notes.Unlock()
	for _, x := range erasures {
		key := retention.Key{Partition: queuePartition, Item: string(x.Visitor[:])}
		if have, ok, err := e.entry(ctx, key); err != nil {
			return err
		} else if ok && have.At >= x.At {
			continue
		}
		id := e.id(x.Visitor)
		if r, err := e.Receipt(ctx, id); err == nil && r.Done && r.At >= x.At {
			continue
		} else if err != nil && !errors.Is(err, retention.ErrNotFound) {
			return fmt.Errorf("queue an erasure: %w", err)
		}
		q := queued{Space: x.Space, At: x.At}
		// The receipt comes first: a wish that is in the queue always has one.
		if err := e.putReceipt(ctx, id, &q, false); err != nil {
			return err
		}
		if err := e.put(ctx, key, &q); err != nil {
			return err
		}
	}
	return nil
}

// entry returns what is in the queue under a key.
func (e *Eraser) entry(ctx context.Context, key retention.Key) (q queued, ok bool, err error) {
	it, err := e.Keyed.Get(ctx, queueSpace, key)
	if errors.Is(err, retention.ErrNotFound) {
		return q, false, nil
	}
	if err == nil && json.Unmarshal(it.Value, &q) != nil {
		err = fmt.Errorf("%w: an entry of the eraser's queue", retention.ErrCorrupt)
	}
	if err != nil {
		return q, false, fmt.Errorf("read the eraser's queue: %w", err)
	}
	return q, true, nil
}

func (e *Eraser) id(v taxonomy.VisitorKey) string { h := e.Hash(v); return hex.EncodeToString(h[:]) }

func (e *Eraser) put(ctx context.Context, key retention.Key, q *queued) error {
	v, err := json.Marshal(q)
	if err == nil {
		err = e.Keyed.Put(ctx, queueSpace, []retention.Item{{Key: key, Value: v}})
	}
	if err != nil {
		return fmt.Errorf("queue an erasure: %w", err)
	}
	return nil
}

func (e *Eraser) putReceipt(ctx context.Context, id string, q *queued, done bool) error {
	r := Receipt{ID: id, Space: q.Space, At: q.At, Soon: q.Soon, Nights: append([]taxonomy.Millis{}, q.Nights...), Done: done, Places: []string{}}
	most := QueueBound
	for i := range e.Holders {
		r.Places = append(r.Places, e.Holders[i].Name)
		if e.Holders[i].EraseBound > 0 {
			most = max(most, e.Holders[i].EraseBound)
		}
	}
	r.Bound = q.At.Day() + taxonomy.Day(most)
	v, err := json.Marshal(r)
	if err == nil {
		err = e.Keyed.Put(ctx, receiptSpace, []retention.Item{{Key: retention.Key{Partition: id}, Value: v, Over: q.At + receiptLife}})
	}
	if err != nil {
		return fmt.Errorf("write the receipt of an erasure: %w", err)
	}
	return nil
}

// Receipt returns what was done of an erasure, or retention.ErrNotFound.
func (e *Eraser) Receipt(ctx context.Context, id string) (Receipt, error) {
	it, err := e.Keyed.Get(ctx, receiptSpace, retention.Key{Partition: id})
	if err != nil {
		return Receipt{}, err
	}
	var r Receipt
	if err := json.Unmarshal(it.Value, &r); err != nil {
		return Receipt{}, fmt.Errorf("%w: the receipt of an erasure: %v", retention.ErrCorrupt, err)
	}
	return r, nil
}

// ID is the name of a visitor's receipt.
func (e *Eraser) ID(v taxonomy.VisitorKey) string { return e.id(v) }

// Soon does the first pass of what was queued since the last call, and returns
// how many visitors that were.
func (e *Eraser) Soon(ctx context.Context) (int, error) {
	return e.pass(ctx, true, func(q *queued) bool { return q.Soon == 0 && len(q.Nights) == 0 })
}

// Night does the pass of this night: every byte of what was queued since the
// last one, and once more what had its last pass on an earlier day. Running it
// twice in a night does nothing the second time.
func (e *Eraser) Night(ctx context.Context) (int, error) {
	today := e.Now().Day()
	return e.pass(ctx, false, func(q *queued) bool {
		return len(q.Nights) == 0 || q.Nights[len(q.Nights)-1].Day() < today
	})
}

func (e *Eraser) pass(ctx context.Context, soon bool, due func(*queued) bool) (int, error) {
	e.passing.Lock()
	defer e.passing.Unlock()
	type work struct {
		key taxonomy.VisitorKey
		q   queued
	}
	var list []work
	partition := queuePartition
	err := e.Keyed.Scan(ctx, queueSpace, &partition, func(it retention.Item) error {
		var w work
		if len(it.Key.Item) != len(w.key) || json.Unmarshal(it.Value, &w.q) != nil {
			return fmt.Errorf("%w: an entry of the eraser's queue", retention.ErrCorrupt)
		}
		copy(w.key[:], it.Key.Item)
		if due(&w.q) {
			list = append(list, w)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("read the eraser's queue: %w", err)
	}
	if len(list) == 0 {
		return 0, nil
	}
	if e.Before != nil {
		wishes := make([]Erasure, len(list))
		for i, w := range list {
			wishes[i] = Erasure{w.key, w.q.Space, w.q.At}
		}
		notYet, err := e.Before(ctx, wishes)
		if err != nil {
			return 0, fmt.Errorf("before erasing: %w", err)
		}
		list = slices.DeleteFunc(list, func(w work) bool { return slices.Contains(notYet, w.key) })
		if len(list) == 0 {
			return 0, nil
		}
	}
	visitors := make([]taxonomy.VisitorKey, len(list))
	for i := range list {
		visitors[i] = list[i].key
	}
	for i := range e.Holders {
		erase := e.Holders[i].Erase
		if soon && e.Holders[i].Soon != nil {
			erase = e.Holders[i].Soon
		}
		if erase == nil {
			continue
		}
		if err := erase(ctx, visitors); err != nil {
			return 0, fmt.Errorf("erase %d visitors from %s: %w", len(visitors), e.Holders[i].Name, err)
		}
	}
	now := e.Now()
	e.notes.Lock()
	defer e.notes.Unlock()
	for i := range list {
		w := &list[i]
		key := retention.Key{Partition: queuePartition, Item: string(w.key[:])}
		if have, ok, err := e.entry(ctx, key); err != nil {
			return 0, err
		} else if !ok || have.At != w.q.At {
			continue // a later wish came in meanwhile, and has its passes before it
		}
		if soon {
			w.q.Soon = now
		} else {
			w.q.Nights = append(w.q.Nights, now)
		}
		last := len(w.q.Nights) >= Nights
		if err := e.putReceipt(ctx, e.id(w.key), &w.q, last); err != nil {
			return 0, err
		}
		if last {
			err = e.Keyed.Delete(ctx, queueSpace, []retention.Key{key})
		} else {
			err = e.put(ctx, key, &w.q)
		}
		if err != nil {
			return 0, fmt.Errorf("note a pass of the eraser: %w", err)
		}
	}
	return len(list), nil
}

// Passed returns the visitors in the queue whose first night is complete: whoever
// keeps something of them on another node, and needs their keys, may forget them.
func (e *Eraser) Passed(ctx context.Context) (visitors []taxonomy.VisitorKey, err error) {
	partition := queuePartition
	err = e.Keyed.Scan(ctx, queueSpace, &partition, func(it retention.Item) error {
		var q queued
		var k taxonomy.VisitorKey
		if len(it.Key.Item) != len(k) || json.Unmarshal(it.Value, &q) != nil {
			return fmt.Errorf("%w: an entry of the eraser's queue", retention.ErrCorrupt)
		}
		if len(q.Nights) > 0 {
			copy(k[:], it.Key.Item)
			visitors = append(visitors, k)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the eraser's queue: %w", err)
	}
	return visitors, nil
}

// Holder is the queue itself, which keeps plain keys for QueueBound days.
func (e *Eraser) Holder() Holder {
	return Holder{
		Name:  "eraser's queue",
		Bound: QueueBound,
		Oldest: func(ctx context.Context) (day taxonomy.Day, any bool, err error) {
			partition := queuePartition
			err = e.Keyed.Scan(ctx, queueSpace, &partition, func(it retention.Item) error {
				var q queued
				if err := json.Unmarshal(it.Value, &q); err != nil {
					return fmt.Errorf("%w: an entry of the eraser's queue", retention.ErrCorrupt)
				}
				if d := q.At.Day(); !any || d < day {
					day, any = d, true
				}
				return nil
			})
			return day, any, err
		},
	}
}
