package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Cluster is a model of what Ebb keeps in Cassandra, in memory: the logs of
// several nodes with the rows that they have copied, their writers' leases, marks
// and ends, and Events, Keyed, Blobs and Leases whose outcomes may be unknown. It
// does what the engine promises and nothing of how; who uses it decides when
// something is copied, and what fails.
type Cluster struct {
	mu   sync.Mutex
	now  func() taxonomy.Millis
	rand *rand.Rand
	life taxonomy.Millis // of a writer's lease
	// Trouble is how often, of 100, a write to the cluster ends in an unknown
	// outcome; half of those have happened.
	trouble int
	model   *Model
	rows    map[writerGroup]map[uint64]*clusterRow // by first number
	writers map[taxonomy.WriterID]*clusterWriter
	order   []taxonomy.WriterID
	back    map[taxonomy.Ref][]taxonomy.Ref // where a record stands since it came back
}

// clusterRow is a row of event_log. One that is not acknowledged is on some
// replica, and comes and goes between reads.
type clusterRow struct {
	modelFrame
	acked bool
}

type clusterWriter struct {
	beat            taxonomy.Millis
	marks, ends     map[taxonomy.Group]uint64
	closing, closed bool
}

// NewCluster returns an empty cluster. Writers whose last beat is older than life
// may be closed by others. The seed decides what is unknown, and IDs.
func NewCluster(seed uint64, now func() taxonomy.Millis, life time.Duration) *Cluster {
	return &Cluster{now: now, rand: rand.New(rand.NewPCG(seed, 0xca55a)), life: taxonomy.Millis(life.Milliseconds()), model: NewModel(now),
		rows: map[writerGroup]map[uint64]*clusterRow{}, writers: map[taxonomy.WriterID]*clusterWriter{}, back: map[taxonomy.Ref][]taxonomy.Ref{}}
}

// CameBack returns the places at which a record stood after its first.
func (c *Cluster) CameBack(first taxonomy.Ref) []taxonomy.Ref {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.back[first])
}

// Trouble sets how many of 100 writes end in an unknown outcome.
func (c *Cluster) Trouble(percent int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trouble = percent
}

// outcome decides of a write whether it happens and whether that is told.
func (c *Cluster) outcome() (happens bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rand.IntN(100) >= c.trouble {
		return true, nil
	}
	return c.rand.IntN(2) == 0, fmt.Errorf("the model's cluster did not answer: %w", retention.ErrUnknown)
}

// ClusterNode is a node of Ebb as far as the log goes: its own log on a disk that
// outlives it, and what it copies to the cluster. It is a retention.Log.
type ClusterNode struct {
	c     *Cluster
	local *ModelLog
	// eager: everything is copied at once and the lease is always fresh, as if the
	// uploader never rested.
	eager bool
	down  bool
	dead  []taxonomy.WriterID // earlier writers of this disk
	gone  map[taxonomy.WriterID]bool
	sent  map[writerGroup]uint64 // up to here all rows are at quorum
	// covered is as far as Trim said, given as far as who followed last has read.
	covered, given map[writerGroup]uint64
	acked          map[writerGroup]map[uint64]bool
}

var _ retention.Log = (*ClusterNode)(nil)

// NewNode returns a node with an empty disk.
func (c *Cluster) NewNode(eager bool) *ClusterNode {
	n := &ClusterNode{c: c, eager: eager, local: NewLog(c.rand.Uint64(), c.now), gone: map[taxonomy.WriterID]bool{}, sent: map[writerGroup]uint64{}, covered: map[writerGroup]uint64{}, given: map[writerGroup]uint64{}, acked: map[writerGroup]map[uint64]bool{}}
	n.register()
	return n
}

func (n *ClusterNode) register() {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	id := n.local.Writer()
	n.c.writers[id] = &clusterWriter{beat: n.c.now(), marks: map[taxonomy.Group]uint64{}, ends: map[taxonomy.Group]uint64{}}
	n.c.order = append(n.c.order, id)
}

// Writer returns the ID under which the node appends at present.
func (n *ClusterNode) Writer() taxonomy.WriterID { return n.local.Writer() }

// Kill ends the node as kill -9 does: what was not durable on its disk is gone.
func (n *ClusterNode) Kill() { n.local.Crash(); n.down = true }

// Down reports whether it was killed and not started again.
func (n *ClusterNode) Down() bool { return n.down }

// Start starts the node again on its disk, as a new writer (R1). What an earlier
// writer had beyond an end that others stored comes back as records of the new
// one, each with its first place (R4).
func (n *ClusterNode) Start() {
	n.dead = append(n.dead, n.local.Writer())
	n.local = n.local.NewWriter()
	n.down = false
	n.register()
	for _, id := range n.dead {
		n.comeBack(id)
	}
	if n.eager {
		n.Settle()
	}
}

// comeBack does so for one earlier writer, if it was closed by others.
func (n *ClusterNode) comeBack(id taxonomy.WriterID) {
	n.c.mu.Lock()
	w := n.c.writers[id]
	closed, ends := w.closed, maps.Clone(w.ends)
	n.c.mu.Unlock()
	if !closed || n.gone[id] {
		return
	}
	n.gone[id] = true
	s := n.local.shared
	for _, k := range slices.Clone(s.order) {
		if k.writer != id {
			continue
		}
		s.mu.Lock()
		rest := slices.Clone(s.writers[k].frames[:s.writers[k].durable])
		s.mu.Unlock()
		for _, f := range rest {
			if f.head.First <= ends[k.group] {
				continue
			}
			records, err := f.records()
			if err != nil {
				panic(err)
			}
			for i := range records {
				if records[i].First.IsZero() {
					records[i].First = taxonomy.Ref{Writer: id, Seq: f.head.First + uint64(i)}
				}
			}
			if len(records) > 0 {
				ref, _, err := n.local.Append(context.Background(), k.group, records, retention.AckLocal)
				if err != nil {
					panic(err)
				}
				n.c.mu.Lock()
				for i := range records {
					n.c.back[records[i].First] = append(n.c.back[records[i].First], taxonomy.Ref{Writer: ref.Writer, Seq: ref.Seq + uint64(i)})
				}
				n.c.mu.Unlock()
			}
		}
		if err := n.local.Trim(context.Background(), k.group, retention.Position{id: math.MaxUint64}); err != nil {
			panic(err)
		}
	}
}

// Settle copies all that earlier writers of the disk had and closes them, unless
// others were faster: then the rest comes back.
func (n *ClusterNode) Settle() {
	for _, id := range n.dead {
		if n.gone[id] {
			continue
		}
		for range 100 {
			n.uploadAll(id)
			if len(n.pending(id, math.MaxInt)) == 0 {
				break
			}
		}
		n.c.mu.Lock()
		w := n.c.writers[id]
		if !w.closed && len(n.pendingLocked(id, 1)) == 0 {
			w.closing, w.closed = true, true
			for k, lw := range n.local.shared.writers {
				if k.writer == id {
					w.ends[k.group] = lw.last
				}
			}
		}
		n.c.mu.Unlock()
		if n.closedBelow(id) {
			n.comeBack(id)
		}
	}
}

// closedBelow reports whether others closed an earlier writer before its last.
func (n *ClusterNode) closedBelow(id taxonomy.WriterID) bool {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	w := n.c.writers[id]
	if !w.closed {
		return false
	}
	for k, lw := range n.local.shared.writers {
		if k.writer == id && w.ends[k.group] < lw.last {
			return true
		}
	}
	return false
}

// Confirm returns nil when no other node can close a writer of this one at an end
// below what is read of it here: all earlier ones are closed, and the own has
// beaten since the call.
func (n *ClusterNode) Confirm() error {
	n.Settle()
	n.c.mu.Lock()
	for _, id := range n.dead {
		if !n.c.writers[id].closed {
			n.c.mu.Unlock()
			return fmt.Errorf("confirm: writer %s could not be closed: %w", id, retention.ErrUnknown)
		}
	}
	n.c.mu.Unlock()
	return n.Beat()
}

// Beat renews the lease of the node's writer and tells its marks. A node whose
// writer was closed meanwhile goes on as another (R4).
func (n *ClusterNode) Beat() error {
	if n.down {
		return fmt.Errorf("beat: %w", retention.ErrClosed)
	}
	happens, err := n.c.outcome()
	if !happens {
		return err
	}
	n.c.mu.Lock()
	w := n.c.writers[n.Writer()]
	lost := w.closing
	if !lost {
		w.beat = n.c.now()
		for k, seq := range n.sent {
			if k.writer == n.Writer() {
				w.marks[k.group] = seq
			}
		}
	}
	n.c.mu.Unlock()
	if lost && err == nil {
		n.local.Sync()
		n.local.Crash()
		n.Start()
	}
	return err
}

// pending are the durable frames of a writer that are not known to be at quorum,
// the first max of them.
func (n *ClusterNode) pending(id taxonomy.WriterID, max int) []modelFrame {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	return n.pendingLocked(id, max)
}

func (n *ClusterNode) pendingLocked(id taxonomy.WriterID, max int) (list []modelFrame) {
	s := n.local.shared
	s.mu.Lock()
	defer s.mu.Unlock()
	s.age()
	for _, k := range s.order {
		if k.writer != id {
			continue
		}
		for _, f := range s.writers[k].frames[:s.writers[k].durable] {
			if f.head.First > n.sent[k] && !n.acked[k][f.head.First] && len(list) < max {
				list = append(list, f)
			}
		}
	}
	return list
}

// Upload copies up to k frames of the node's writer, in any order among the next
// 32, each until the cluster has answered or not (R3).
func (n *ClusterNode) Upload(k int) {
	if n.down {
		return
	}
	for range k {
		list := n.pending(n.Writer(), 32)
		if len(list) == 0 {
			return
		}
		n.c.mu.Lock()
		f := list[n.c.rand.IntN(len(list))]
		n.c.mu.Unlock()
		n.put(f)
	}
}

func (n *ClusterNode) uploadAll(id taxonomy.WriterID) {
	for _, f := range n.pending(id, math.MaxInt) {
		n.put(f)
	}
}

// put writes a row: the same bytes each time.
func (n *ClusterNode) put(f modelFrame) {
	happens, err := n.c.outcome()
	k := writerGroup{f.head.Writer, f.head.Group}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	if happens {
		if n.c.rows[k] == nil {
			n.c.rows[k] = map[uint64]*clusterRow{}
		}
		row := n.c.rows[k][f.head.First]
		if row == nil {
			row = &clusterRow{modelFrame: f}
			n.c.rows[k][f.head.First] = row
		}
		row.acked = row.acked || err == nil
	}
	if err != nil {
		return
	}
	if n.acked[k] == nil {
		n.acked[k] = map[uint64]bool{}
	}
	n.acked[k][f.head.First] = true
	for { // the mark follows where none is missing
		row := n.c.rows[k][n.sent[k]+1]
		if row == nil || !n.acked[k][row.head.First] {
			return
		}
		delete(n.acked[k], row.head.First)
		n.sent[k] = row.head.Last()
	}
}

// Append implements retention.Log.
func (n *ClusterNode) Append(ctx context.Context, g taxonomy.Group, records []taxonomy.Record, ack retention.Ack) (taxonomy.Ref, retention.Ack, error) {
	ref, reached, err := n.local.Append(ctx, g, records, min(ack, retention.AckLocal))
	if err != nil {
		return ref, reached, err
	}
	if n.eager || ack == retention.AckQuorum {
		n.uploadAll(n.Writer())
	}
	if ack < retention.AckQuorum {
		return ref, reached, nil
	}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	if n.eager {
		n.c.writers[n.Writer()].beat = n.c.now()
	}
	// A writer claims quorum only while its lease is younger than half its life,
	// and what it claims its next beat tells.
	w := n.c.writers[n.Writer()]
	if n.sent[writerGroup{ref.Writer, g}] >= ref.Seq+uint64(len(records))-1 && n.c.now()-w.beat < n.c.life/2 && !w.closing {
		reached = retention.AckQuorum
	}
	return ref, reached, nil
}

// ownLocal returns from with all that is not read from this node's disk taken
// out, and the writers that are.
func (n *ClusterNode) ownLocal(from retention.Position) (at retention.Position, local map[taxonomy.WriterID]bool) {
	at, local = from.Clone(), map[taxonomy.WriterID]bool{n.Writer(): true}
	for _, id := range n.dead {
		if n.closedBelow(id) || n.gone[id] {
			at[id] = math.MaxUint64
		} else {
			local[id] = true
		}
	}
	return at, local
}

// read calls fn with the rows of a writer beyond a number, to the first hole or
// its end. Whether a row that is not acknowledged is seen, no two reads agree.
func (c *Cluster) read(k writerGroup, beyond uint64, fn func(row *clusterRow) bool) {
	w, rows := c.writers[k.writer], c.rows[k]
	next := beyond + 1
	for first, row := range rows { // the position may lie within a frame
		if first <= beyond && beyond < row.head.Last() {
			next = first
		}
	}
	for {
		row := rows[next]
		if row == nil || !row.acked && c.rand.IntN(2) == 0 || w.closed && row.head.First > w.ends[k.group] {
			return
		}
		if !fn(row) {
			return
		}
		next = row.head.Last() + 1
	}
}

// Follow implements retention.Log.
func (n *ClusterNode) Follow(ctx context.Context, g taxonomy.Group, from retention.Position, maxBytes int) ([]retention.Frame, error) {
	if n.down {
		return nil, fmt.Errorf("follow: %w", retention.ErrClosed)
	}
	at, local := n.ownLocal(from)
	out, err := n.local.Follow(ctx, g, at, maxBytes)
	if err != nil {
		return nil, err
	}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	for _, id := range n.c.order {
		if local[id] {
			continue
		}
		size := 0
		n.given[writerGroup{id, g}] = from[id]
		n.c.read(writerGroup{id, g}, from[id], func(row *clusterRow) bool {
			f := row.head
			f.Counts = slices.Clone(f.Counts)
			if f.Records, err = row.records(); err != nil {
				return false
			}
			if f.First <= from[id] {
				cut := int(from[id] + 1 - f.First)
				f.First, f.N, f.Records = from[id]+1, f.N-cut, f.Records[cut:]
				f.Counts = retention.CountSites(f.Records)
			}
			out = append(out, f)
			n.given[writerGroup{id, g}] = f.Last()
			size += f.Bytes
			return size < maxBytes
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// End implements retention.Log.
func (n *ClusterNode) End(ctx context.Context, g taxonomy.Group, from retention.Position) ([]retention.WriterEnd, error) {
	if n.down {
		return nil, fmt.Errorf("end: %w", retention.ErrClosed)
	}
	at, local := n.ownLocal(from)
	own, err := n.local.End(ctx, g, at)
	if err != nil {
		return nil, err
	}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	var ends []retention.WriterEnd
	here := map[taxonomy.WriterID]bool{}
	for _, e := range own {
		if local[e.Writer] {
			e.Open = !n.c.writers[e.Writer].closed
			ends, here[e.Writer] = append(ends, e), true
		}
	}
	for _, id := range n.c.order {
		w := n.c.writers[id]
		if here[id] || id == n.Writer() || w.closed && w.ends[g] == 0 || local[id] && !w.closed {
			continue
		}
		e := retention.WriterEnd{Writer: id, Last: from[id], Open: !w.closed}
		n.c.read(writerGroup{id, g}, from[id], func(row *clusterRow) bool {
			e.Last, e.Time = row.head.Last(), row.head.Time
			e.Bytes += int64(row.head.Bytes)
			if e.Oldest == 0 {
				e.Oldest = row.head.Time
			}
			for _, c := range row.head.Counts {
				e.Unfolded = addCount(e.Unfolded, c)
			}
			return true
		})
		if e.Last > 0 || e.Open {
			ends = append(ends, e)
		}
	}
	return ends, nil
}

// Trim implements retention.Log: of the own disk goes what is at quorum.
func (n *ClusterNode) Trim(ctx context.Context, g taxonomy.Group, to retention.Position) error {
	at := retention.Position{}
	n.c.mu.Lock()
	for id, seq := range to {
		w := n.c.writers[id]
		n.covered[writerGroup{id, g}] = max(n.covered[writerGroup{id, g}], seq)
		switch {
		case w == nil:
		case id == n.Writer():
			at[id] = min(seq, n.sent[writerGroup{id, g}])
		case w.closed:
			at[id] = seq
		}
	}
	n.c.mu.Unlock()
	return n.local.Trim(ctx, g, at)
}

// CloseWriter implements retention.Log (R4).
func (n *ClusterNode) CloseWriter(ctx context.Context, g taxonomy.Group, id taxonomy.WriterID) (uint64, error) {
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case n.down:
		return 0, fmt.Errorf("close writer: %w", retention.ErrClosed)
	case id == n.Writer():
		return 0, fmt.Errorf("close writer %s: it is this log's own", id)
	case slices.Contains(n.dead, id):
		n.Settle()
	}
	c := n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.writers[id]
	switch {
	case w == nil:
		return 0, fmt.Errorf("close writer %s: %w", id, retention.ErrNotFound)
	case w.closed:
		return w.ends[g], nil
	case slices.Contains(n.dead, id):
		return 0, errors.New("close writer: not all of it could be copied")
	case c.now()-w.beat < c.life:
		return 0, fmt.Errorf("close writer %s: it still runs: %w", id, retention.ErrHeld)
	}
	w.closing = true
	ends := map[taxonomy.Group]uint64{}
	for _, k := range c.groupsOf(id, g) {
		end := w.marks[k.group]
		c.read(k, end, func(row *clusterRow) bool {
			row.acked = true // written once more at quorum before the end is stored
			end = row.head.Last()
			return true
		})
		// Never below what a checkpoint covers, and not before one covers what was
		// read.
		if end = max(end, n.covered[k]); n.given[k] > end {
			return 0, fmt.Errorf("close writer %s: what was read of it is in no checkpoint yet: %w", id, retention.ErrHeld)
		}
		ends[k.group] = end
	}
	w.closed, w.ends = true, ends
	return w.ends[g], nil
}

// groupsOf are the groups to which a writer has written rows, and one more.
func (c *Cluster) groupsOf(id taxonomy.WriterID, g taxonomy.Group) []writerGroup {
	list := []writerGroup{{id, g}}
	for k := range c.rows {
		if k.writer == id && k.group != g {
			list = append(list, k)
		}
	}
	return list
}

// Events, Keyed, Blobs and Leases of the cluster, whose writes may end in an
// unknown outcome.
func (c *Cluster) Events() retention.Events { return clusterEvents{c.model.Events(), c} }
func (c *Cluster) Keyed() retention.Keyed   { return clusterKeyed{c.model.Keyed(), c} }
func (c *Cluster) Blobs() retention.Blobs   { return clusterBlobs{c.model.Blobs(), c} }
func (c *Cluster) Leases() retention.Leases { return clusterLeases{c.model.Leases(), c} }
