package forget

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// EraseAll erases visitors from every Holder, whole and at once, and with them
// all that stands in the queue, which is empty afterwards: after a restore, when
// nobody is served yet and nothing is on its way, there is nothing to wait for
// (R29). Their keys go into no queue; their receipts say that it is done. It
// returns how many visitors that were. The bytes of the queue itself go with the
// next sweep.
func (e *Eraser) EraseAll(ctx context.Context, erasures []Erasure) (int, error) {
	e.passing.Lock()
	defer e.passing.Unlock()
	all := map[taxonomy.VisitorKey]queued{}
	var keys []retention.Key
	partition := queuePartition
	err := e.Keyed.Scan(ctx, queueSpace, &partition, func(it retention.Item) error {
		var k taxonomy.VisitorKey
		var q queued
		if len(it.Key.Item) != len(k) || json.Unmarshal(it.Value, &q) != nil {
			return fmt.Errorf("%w: an entry of the eraser's queue", retention.ErrCorrupt)
		}
		copy(k[:], it.Key.Item)
		all[k] = q
		keys = append(keys, it.Key)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("read the eraser's queue: %w", err)
	}
	for _, x := range erasures {
		if q, ok := all[x.Visitor]; !ok || q.At < x.At {
			all[x.Visitor] = queued{Space: x.Space, At: x.At}
		}
	}
	if len(all) == 0 {
		return 0, nil
	}
	visitors := make([]taxonomy.VisitorKey, 0, len(all))
	for k := range all {
		visitors = append(visitors, k)
	}
	for i := range e.Holders {
		if e.Holders[i].Erase == nil {
			continue
		}
		if err := e.Holders[i].Erase(ctx, visitors); err != nil {
			return 0, fmt.Errorf("erase %d visitors from %s: %w", len(visitors), e.Holders[i].Name, err)
		}
	}
	now := e.Now()
	for k, q := range all {
		q.Soon, q.Nights = max(q.Soon, now), append(q.Nights, now)
		if err := e.putReceipt(ctx, e.id(k), &q, true); err != nil {
			return 0, err
		}
	}
	if err := e.Keyed.Delete(ctx, queueSpace, keys); err != nil {
		return 0, fmt.Errorf("empty the eraser's queue: %w", err)
	}
	return len(visitors), nil
}
