package cassandra

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// LocalLog is the log on this machine that a Log copies to the cluster:
// retention/log.
type LocalLog interface {
	retention.Log
	// Grown returns a channel that is closed when the next frame of the group is
	// durable.
	Grown(taxonomy.Group) (<-chan struct{}, error)
	Close(context.Context) error
}

// LogOptions of a log of the cluster. OpenLocal must be given.
type LogOptions struct {
	// OpenLocal opens the log in this node's folder for a new writer. It is
	// called again, after the log was closed, when another node has closed our
	// writer: who was frozen for too long goes on as another.
	OpenLocal func(taxonomy.WriterID) (LocalLog, error)
	Node      string // for people to read
	Groups    int    // 1 by default
	// Life is how long a writer may be silent before others may close it (10 s).
	Life time.Duration
	// UploadBytes bounds how many bytes a second go to the cluster (16 MiB), so
	// that what has piled up in an outage does not drown what is new.
	UploadBytes int
}

const (
	quorumWait  = 500 * time.Millisecond // R3
	uploadBatch = 512 << 10              // bytes of frames that are read at once: more would let the cluster rest
	pacedFrom   = 256 << 10
	renewAfter  = 5 * taxonomy.OneDay // of the 7 that a row lives (R5)
)

// Log is retention.Log in a cluster: records go to the local log, and from there
// an uploader copies each frame to event_log. The local log is the spool: it
// keeps a record until it is both at quorum and trimmed. Following gives the
// records of all writers: this node's from its own files, all others from
// event_log.
type Log struct {
	st     *Store
	o      LogOptions
	logger *slog.Logger
	stop   context.CancelFunc
	ctx    context.Context // until Close
	wg     sync.WaitGroup

	// turn is held for reading by whoever uses the local log, and for writing
	// while it is replaced.
	turn sync.RWMutex
	era  *era

	mu      sync.Mutex
	beats   map[taxonomy.WriterID]seenBeat
	borders map[writerGroup]uint64 // ends of frames that were given out
	tails   map[writerGroup]*tail
	covered map[writerGroup]uint64 // as far as Trim said
	given   map[writerGroup]uint64 // as far as who followed last has read, of other nodes
}

type writerGroup struct {
	writer taxonomy.WriterID
	group  taxonomy.Group
}

// tail is what End knows of a writer of another node: the frames from start on,
// without their records.
type tail struct {
	start, next uint64
	heads       []retention.Frame
	last        uint64 // of all that was seen
	time        taxonomy.Millis
}

// era is the time of one writer of ours.
type era struct {
	writer taxonomy.WriterID
	local  LocalLog
	cancel context.CancelFunc
	wg     sync.WaitGroup

	// recovered is closed when it is known what other nodes did with the earlier
	// writers of this folder.
	recovered chan struct{}
	// lost is closed when another node has closed the writer.
	lost chan struct{}

	mu      sync.Mutex
	dead    map[taxonomy.WriterID]*deadWriter
	marks   []uint64 // by group: up to here all rows are at quorum
	moved   chan struct{}
	beat    taxonomy.Millis // when the last beat that went through was sent
	beatN   int64
	failing bool
	// broke: there was an outage, after which not all rows were written again that
	// the cluster may have forgotten; renewing: that is under way.
	broke, renewing bool
}

// deadWriter is an earlier writer of this folder.
type deadWriter struct {
	closing sync.Mutex // held while it is closed
	last    []uint64   // by group
	marks   []uint64   // by group: up to here all rows were at quorum at its last beat
	ours    bool       // read from local files: nobody else closed it below its end
	closed  bool
	ends    map[int]int64
}

var _ retention.Log = (*Log)(nil)

// OpenLog opens the local log for a new writer and begins to copy it. The
// cluster need not be there: records are taken all the same, and answered as
// local. Close it before the store.
func OpenLog(st *Store, o LogOptions) (*Log, error) {
	if o.OpenLocal == nil {
		return nil, errors.New("open log: OpenLocal must be given")
	}
	if o.Groups == 0 {
		o.Groups = 1
	}
	if o.Life == 0 {
		o.Life = 10 * time.Second
	}
	if o.UploadBytes == 0 {
		o.UploadBytes = 16 << 20
	}
	l := &Log{st: st, o: o, logger: st.o.Logger.With("component", "upload"), beats: map[taxonomy.WriterID]seenBeat{}, borders: map[writerGroup]uint64{}, tails: map[writerGroup]*tail{}, covered: map[writerGroup]uint64{}, given: map[writerGroup]uint64{}}
	l.ctx, l.stop = context.WithCancel(context.Background())
	if err := l.begin(); err != nil {
		l.stop()
		return nil, fmt.Errorf("open log: %w", err)
	}
	l.wg.Go(l.supervise)
	return l, nil
}

func (l *Log) life() taxonomy.Millis { return taxonomy.Millis(l.o.Life / time.Millisecond) }

// wait waits for d, or for the end of ctx.
func (l *Log) wait(ctx context.Context, d time.Duration) {
	select {
	case <-l.st.o.After(d):
	case <-ctx.Done():
	}
}

// begin opens the local log as a new writer and starts what goes with it. The
// caller holds turn, or nobody else is there yet.
func (l *Log) begin() error {
	var id taxonomy.WriterID
	if err := l.st.draw(id[:]); err != nil {
		return err
	}
	local, err := l.o.OpenLocal(id)
	if err != nil {
		return err
	}
	e := &era{writer: id, local: local, recovered: make(chan struct{}), lost: make(chan struct{}), dead: map[taxonomy.WriterID]*deadWriter{}, marks: make([]uint64, l.o.Groups), moved: make(chan struct{})}
	for g := range l.o.Groups {
		ends, err := local.End(l.ctx, taxonomy.Group(g), nil)
		if err != nil {
			return errors.Join(err, local.Close(l.ctx))
		}
		for _, end := range ends {
			if end.Writer == id {
				continue
			}
			d := e.dead[end.Writer]
			if d == nil {
				d = &deadWriter{last: make([]uint64, l.o.Groups), marks: make([]uint64, l.o.Groups)}
				e.dead[end.Writer] = d
			}
			d.last[g] = end.Last
		}
	}
	ctx, cancel := context.WithCancel(l.ctx)
	e.cancel = cancel
	l.era = e
	e.wg.Go(func() { l.keep(ctx, e) })
	return nil
}

// end stops what goes with an era and closes its local log.
func (e *era) end(ctx context.Context) error {
	e.cancel()
	e.wg.Wait()
	return e.local.Close(ctx)
}

// Close stops copying and closes the local log. What is not at quorum yet is
// uploaded after the next start.
func (l *Log) Close(ctx context.Context) error {
	l.stop()
	l.wg.Wait()
	l.turn.Lock()
	defer l.turn.Unlock()
	if err := l.era.end(ctx); err != nil {
		return fmt.Errorf("close log: %w", err)
	}
	return nil
}

// Writer returns the ID under which the log appends at present.
func (l *Log) Writer() taxonomy.WriterID {
	l.turn.RLock()
	defer l.turn.RUnlock()
	return l.era.writer
}

// Grown is the local log's: it tells of this node's records only. Others are
// polled.
func (l *Log) Grown(g taxonomy.Group) (<-chan struct{}, error) {
	l.turn.RLock()
	defer l.turn.RUnlock()
	return l.era.local.Grown(g)
}

// Mark returns up to which number all of the own writer's records of the group
// are at quorum.
func (l *Log) Mark(g taxonomy.Group) taxonomy.Ref {
	l.turn.RLock()
	defer l.turn.RUnlock()
	l.era.mu.Lock()
	defer l.era.mu.Unlock()
	return taxonomy.Ref{Writer: l.era.writer, Seq: l.era.marks[g]}
}

// Append is retention.Log's. With AckQuorum it waits at most 500 ms for the
// batch, and everything before it, to be at quorum, and else says AckLocal.
func (l *Log) Append(ctx context.Context, g taxonomy.Group, records []taxonomy.Record, ack retention.Ack) (taxonomy.Ref, retention.Ack, error) {
	l.turn.RLock()
	e := l.era
	ref, reached, err := e.local.Append(ctx, g, records, min(ack, retention.AckLocal))
	l.turn.RUnlock()
	if err != nil || ack < retention.AckQuorum {
		return ref, reached, err
	}
	last := ref.Seq + uint64(len(records)) - 1
	var late <-chan time.Time
	for {
		e.mu.Lock()
		done, moved := e.marks[g] >= last, e.moved
		e.mu.Unlock()
		if done {
			if l.trusted(e) {
				reached = retention.AckQuorum
			}
			return ref, reached, nil
		}
		if late == nil {
			late = l.st.o.After(quorumWait)
		}
		select {
		case <-moved:
		case <-late:
			return ref, reached, nil
		case <-ctx.Done():
			return ref, reached, nil // it is durable here, which is what we say
		}
	}
}

// trusted reports whether the writer's lease is younger than half its life: an
// older one may be about to be closed, at an end below what we have just
// written (R4).
func (l *Log) trusted(e *era) bool {
	now := l.st.o.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.beat != 0 && now-e.beat < l.life()/2 && now >= e.beat
}

// ready waits until it is known what became of the earlier writers of this
// node, and returns the era, with turn held for reading.
func (l *Log) ready(ctx context.Context) (*era, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		l.turn.RLock()
		e := l.era
		select {
		case <-e.recovered:
			return e, nil
		default:
		}
		l.turn.RUnlock()
		select {
		case <-e.recovered:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-l.ctx.Done():
			return nil, retention.ErrClosed
		}
	}
}

// Trim is retention.Log's. Of this node's files only what is at quorum goes;
// rows of event_log end by themselves, after 7 days.
func (l *Log) Trim(ctx context.Context, g taxonomy.Group, to retention.Position) error {
	e, err := l.ready(ctx)
	if err != nil {
		return fmt.Errorf("trim log: %w", err)
	}
	defer l.turn.RUnlock()
	at := retention.Position{}
	e.mu.Lock()
	for w, seq := range to {
		switch d := e.dead[w]; {
		case w == e.writer:
			at[w] = min(seq, e.marks[g])
		case d != nil && d.closed:
			at[w] = seq
		}
	}
	e.mu.Unlock()
	l.mu.Lock()
	for k, t := range l.tails {
		if k.group == g {
			t.cut(to[k.writer])
		}
	}
	for w, seq := range to {
		k := writerGroup{w, g}
		l.covered[k] = max(l.covered[k], seq)
	}
	l.mu.Unlock()
	return e.local.Trim(ctx, g, at)
}

// CloseWriter is retention.Log's (R4). A writer that still beats gives ErrHeld.
func (l *Log) CloseWriter(ctx context.Context, g taxonomy.Group, id taxonomy.WriterID) (uint64, error) {
	e, err := l.ready(ctx)
	if err != nil {
		return 0, fmt.Errorf("close writer %s: %w", id, err)
	}
	defer l.turn.RUnlock()
	if int(g) >= l.o.Groups {
		return 0, fmt.Errorf("close writer %s: group %d: there are %d", id, g, l.o.Groups)
	}
	if id == e.writer {
		return 0, errors.New("close writer: it is this log's own, which is running")
	}
	if d := e.deadWriter(id); d != nil {
		if err := l.closeDead(ctx, e, id, d); err != nil {
			return 0, fmt.Errorf("close writer %s: %w", id, err)
		}
		return uint64(d.ends[int(g)]), nil
	}
	w, err := l.closeForeign(ctx, id)
	if err != nil {
		return 0, fmt.Errorf("close writer %s: %w", id, err)
	}
	return w.end(g), nil
}

// Confirm returns when no other node can close a writer of this one at an end
// below what is read of it here: all earlier ones are closed, and the own has
// beaten since the call. Whoever takes the builder's lease calls it before it
// folds: what it folded of its own files beyond an end that another stored would
// come back under another name and be counted again. A writer that turns out to
// be closed gives ErrHeld; the next begins by itself.
func (l *Log) Confirm(ctx context.Context) error {
	e, err := l.ready(ctx)
	if err != nil {
		return fmt.Errorf("confirm the log: %w", err)
	}
	defer l.turn.RUnlock()
	for id, d := range e.dead {
		if err := l.closeDead(ctx, e, id, d); err != nil {
			return fmt.Errorf("confirm the log: close earlier writer %s: %w", id, err)
		}
	}
	closed, err := l.beatOnce(ctx, e)
	if err != nil {
		return fmt.Errorf("confirm the log: %w", err)
	}
	if closed {
		return fmt.Errorf("confirm the log: another node has closed writer %s: %w", e.writer, retention.ErrHeld)
	}
	return nil
}

func (e *era) deadWriter(id taxonomy.WriterID) *deadWriter {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.dead[id]
}
