package fold

import (
	"bytes"
	"container/heap"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// adoptWindow is how long an event without a returning cookie may wait (R11).
const adoptWindow = 24 * taxonomy.Hour

// waitSlack lets the clock run a little past the window before what waits is
// dropped: a frame's time may be later than the receipt of what is in it.
const waitSlack = taxonomy.Minute

// waitingTable holds the records of visitors that have not returned yet. Its
// bytes are bounded; the bound is shared equally among the sites that have
// something in it, and a site over its share loses its own oldest (R11).
type waitingTable struct {
	*table[waitKey, *taxonomy.Record]
	limit  int
	bytes  int
	of     map[taxonomy.VisitorKey][]waitKey
	bySite map[taxonomy.SiteID]*siteQueue
	events map[taxonomy.SiteID]uint64 // waiting events by site
	byAge  ageHeap
}

// waitKey is the visitor and the record's place in the log.
type waitKey struct {
	visitor taxonomy.VisitorKey
	ref     taxonomy.Ref
}

type siteQueue struct {
	bytes int
	byAge ageHeap // the site's own, oldest receipt first; may hold what is gone
}

// waitCost is what a record is counted as: its bytes and what the table adds.
func waitCost(r *taxonomy.Record) int { return len(taxonomy.AppendRecord(nil, r)) + 200 }

var waitCodec = codec[waitKey, *taxonomy.Record]{
	key: func(b []byte, k waitKey) []byte {
		b = append(b, k.visitor[:]...)
		b = append(b, k.ref.Writer[:]...)
		return binary.BigEndian.AppendUint64(b, k.ref.Seq)
	},
	unkey: func(b []byte) (k waitKey, err error) {
		if len(b) != 40 {
			return k, fmt.Errorf("%w: key of a waiting record has %d bytes", retention.ErrCorrupt, len(b))
		}
		copy(k.visitor[:], b)
		copy(k.ref.Writer[:], b[16:])
		k.ref.Seq = binary.BigEndian.Uint64(b[32:])
		return k, nil
	},
	val: func(b []byte, r *taxonomy.Record) []byte { return taxonomy.AppendRecord(b, r) },
	unval: func(b []byte) (*taxonomy.Record, error) {
		r, rest, err := taxonomy.DecodeRecord(b)
		if err == nil && len(rest) != 0 {
			err = fmt.Errorf("%w: bytes behind a waiting record", retention.ErrCorrupt)
		}
		return &r, err
	},
}

func newWaiting(limit int) *waitingTable {
	return &waitingTable{
		table:  newTable('w', waitCodec),
		limit:  limit,
		of:     map[taxonomy.VisitorKey][]waitKey{},
		bySite: map[taxonomy.SiteID]*siteQueue{},
		events: map[taxonomy.SiteID]uint64{},
	}
}

// add puts a record into the table. The table keeps r.
func (w *waitingTable) add(k waitKey, r *taxonomy.Record) {
	if _, ok := w.get(k); ok {
		return
	}
	w.put(k, r)
	w.index(k, r)
}

func (w *waitingTable) index(k waitKey, r *taxonomy.Record) {
	cost := waitCost(r)
	w.bytes += cost
	w.of[k.visitor] = append(w.of[k.visitor], k)
	q := w.bySite[r.Site]
	if q == nil {
		q = &siteQueue{}
		w.bySite[r.Site] = q
	}
	q.bytes += cost
	heap.Push(&q.byAge, aged{r.Received, k})
	heap.Push(&w.byAge, aged{r.Received, k})
	w.events[r.Site] += r.EventCount()
	w.byAge.prune(w)
	q.byAge.prune(w)
}

// take removes a record and returns it, or nil if it is not there.
func (w *waitingTable) take(k waitKey) *taxonomy.Record {
	r, ok := w.get(k)
	if !ok {
		return nil
	}
	w.remove(k)
	cost := waitCost(r)
	w.bytes -= cost
	if q := w.bySite[r.Site]; q.bytes == cost {
		delete(w.bySite, r.Site)
	} else {
		q.bytes -= cost
	}
	if w.events[r.Site] -= r.EventCount(); w.events[r.Site] == 0 {
		delete(w.events, r.Site)
	}
	if ks := slices.DeleteFunc(w.of[k.visitor], func(o waitKey) bool { return o == k }); len(ks) == 0 {
		delete(w.of, k.visitor)
	} else {
		w.of[k.visitor] = ks
	}
	return r
}

// takeOlder removes the copy of an event that waits, if it was received before
// this one, and reports whether it did.
func (w *waitingTable) takeOlder(r *taxonomy.Record) bool {
	for _, k := range w.of[r.Visitor] {
		have, _ := w.get(k)
		if have.Kind == taxonomy.RecordEvent && have.Site == r.Site && have.Event.ID == r.Event.ID {
			if r.Received <= have.Received {
				return false
			}
			w.take(k)
			return true
		}
	}
	return false
}

// overfull returns the key of the next record to lose, if the table is over its
// bound: the oldest of the site that is most over its share.
func (w *waitingTable) overfull() (waitKey, bool) {
	if w.bytes <= w.limit {
		return waitKey{}, false
	}
	var worst *siteQueue
	var name taxonomy.SiteID
	for site, q := range w.bySite {
		if worst == nil || q.bytes > worst.bytes || q.bytes == worst.bytes && site < name {
			worst, name = q, site
		}
	}
	return w.oldest(&worst.byAge)
}

// expired returns the key of a record whose time to be adopted is over.
func (w *waitingTable) expired(clock taxonomy.Millis) (waitKey, bool) {
	for len(w.byAge) > 0 && w.byAge[0].received+adoptWindow+waitSlack < clock {
		a := heap.Pop(&w.byAge).(aged)
		if _, ok := w.get(a.key); ok {
			return a.key, true
		}
	}
	return waitKey{}, false
}

// oldest pops until it meets a record that is still there.
func (w *waitingTable) oldest(h *ageHeap) (waitKey, bool) {
	for len(*h) > 0 {
		a := heap.Pop(h).(aged)
		if _, ok := w.get(a.key); ok {
			return a.key, true
		}
	}
	return waitKey{}, false
}

type aged struct {
	received taxonomy.Millis
	key      waitKey
}

// ageHeap is a heap of records, the oldest receipt first.
type ageHeap []aged

func (h ageHeap) Len() int { return len(h) }
func (h ageHeap) Less(i, j int) bool {
	if h[i].received != h[j].received {
		return h[i].received < h[j].received
	}
	if c := bytes.Compare(h[i].key.visitor[:], h[j].key.visitor[:]); c != 0 {
		return c < 0
	}
	return h[i].key.ref.Compare(h[j].key.ref) < 0
}
func (h ageHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *ageHeap) Push(x any)   { *h = append(*h, x.(aged)) }
func (h *ageHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// prune drops entries of records that are gone once they are the greater part,
// so that the heaps are bounded by the table.
func (h *ageHeap) prune(w *waitingTable) {
	if len(*h) < 1024 || len(*h) < 2*len(w.m) {
		return
	}
	*h = slices.DeleteFunc(*h, func(a aged) bool { _, ok := w.get(a.key); return !ok })
	heap.Init(h)
}
