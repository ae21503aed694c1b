// Package log is the segment-file log: retention.Log on this machine's disk.
//
// What happens to visitors is appended to segment files, one folder for each
// writer and group. A frame in a file holds whole batches; requests that wait
// at the same time share one frame and one fsync. See README.md for the shape
// and the reasons, format.go for the bytes.
package log

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// FS is the file system that everything on disk goes through, so that tests can
// put one that fails in its place.
type FS = vfs.FS

const (
	flushEvery   = 100 * time.Millisecond // AckNone (P1)
	tickEvery    = time.Second            // R7
	quarantine   = "quarantine"
	reserveName  = "reserve"
	suffix       = ".log"
	tmpSuffix    = ".tmp"
	writerPrefix = "w-"
)

// Options of a log. FS, Dir, Writer, Now and After must be given; every other
// field has a default at zero.
type Options struct {
	FS  FS
	Dir string
	// Writer is this start of this process: random, never used again (R1).
	Writer taxonomy.WriterID
	Now    func() taxonomy.Millis
	After  func(time.Duration) <-chan time.Time
	// Groups is how many groups there are, 1 by default.
	Groups int
	// MaxBytes bounds the log on disk, all writers and groups together (4 GiB):
	// beyond it Append returns ErrFull. Ticks and erasures may go ReserveBytes
	// further: without the former the fold's clock stands still, and a person's
	// wish must not wait for space.
	MaxBytes int64
	// SegmentBytes is the size at which a file is sealed and a new one begun
	// (16 MiB).
	SegmentBytes int64
	// ReserveBytes is the size of a file that is given up when the disk is full,
	// so that what makes room still can be written (256 KiB).
	ReserveBytes int64
	// QueueBytes bounds what waits in memory for a disk that is slow, for each
	// group (32 MiB): beyond it Append returns ErrFull.
	QueueBytes int64
	// NoCompression stores payloads as they are, for the tests that search the
	// disk for what must not be there.
	NoCompression bool
	// Ticks makes the log append a tick a second by itself, until it is closed.
	Ticks  bool
	Logger *slog.Logger
}

// Log is a retention.Log in segment files. A second process must be kept out of
// Dir by the caller (the data directory's lock).
type Log struct {
	o      Options
	logger *slog.Logger
	groups []*group
	stop   chan struct{}
	wg     sync.WaitGroup

	reserve sync.Mutex // held by whoever makes or removes the reserve

	mu       sync.Mutex
	bytes    int64 // of all segment files
	queued   int64 // what waits for the disk, at most
	full     bool  // the disk was full; the reserve is gone
	failed   error // why the log takes no more
	closed   bool
	problems []Problem
}

// group is what is known of one group's files.
type group struct {
	l  *Log
	id taxonomy.Group

	// io is held by whoever writes or seals files; files, for reading by whoever
	// reads them and for writing by whoever removes them. Order: files, io, mu.
	io    sync.Mutex
	files sync.RWMutex

	mu      sync.Mutex
	writers []*writer // closed ones by the time of their first frame, then own
	own     *writer
	queue   []*commit
	queued  int64
	next    uint64 // number of the next record to be queued
	grown   chan struct{}

	wake, lazy chan struct{}

	// Of the file that is being written; guarded by io.
	active *segment
	file   vfs.File
	dirs   bool // the writer's folder exists and is durable
	frame  []byte
	packed []byte
}

// writer is one start of one process, and its files in order.
type writer struct {
	id   taxonomy.WriterID
	dir  string
	open bool
	segs []*segment
	last uint64 // number of the last durable record
	time taxonomy.Millis
	// Records up to floor are gone. Those up to unknown were gone when the log
	// was opened; those between were trimmed by this process.
	unknown, floor uint64
}

var _ retention.Log = (*Log)(nil)

// Open opens the log in o.Dir, which it makes if need be, for a new writer. All
// other writers found there no longer run: each ends with its last good record.
// What a crash left half-written is cut, and that is logged once.
func Open(o Options) (*Log, error) {
	l, err := load(o)
	if err != nil {
		return nil, err
	}
	if err := l.fillReserve(); err != nil {
		if !isFull(err) {
			return nil, fmt.Errorf("open log %s: %w", o.Dir, err)
		}
		l.full = true
		l.logger.Warn("the disk is full; events are refused until there is space", "dir", o.Dir)
	}
	for _, g := range l.groups {
		l.wg.Go(g.run)
	}
	if o.Ticks {
		l.wg.Go(l.tick)
	}
	return l, nil
}

// load returns the log as it is on disk, with nothing running yet.
func load(o Options) (*Log, error) {
	if o.FS == nil || o.Now == nil || o.After == nil || o.Writer.IsZero() || o.Dir == "" {
		return nil, errors.New("open log: FS, Dir, Writer, Now and After must be given")
	}
	setDefault(&o.Groups, 1)
	setDefault(&o.MaxBytes, 4<<30)
	setDefault(&o.SegmentBytes, 16<<20)
	setDefault(&o.ReserveBytes, 256<<10)
	setDefault(&o.QueueBytes, 32<<20)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Log{o: o, logger: o.Logger.With("component", "log"), stop: make(chan struct{})}
	for i := range o.Groups {
		g := &group{l: l, id: taxonomy.Group(i), next: 1, wake: make(chan struct{}, 1), lazy: make(chan struct{}, 1)}
		g.own = &writer{id: o.Writer, open: true, dir: o.FS.PathJoin(o.Dir, folder(o.Writer, g.id))}
		l.groups = append(l.groups, g)
	}
	if err := l.load(); err != nil {
		return nil, fmt.Errorf("open log %s: %w", o.Dir, err)
	}
	for _, g := range l.groups {
		g.writers = append(g.writers, g.own)
	}
	return l, nil
}

func setDefault[T int | int64](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Close writes what waits, seals the files, so that a flipped bit in their last
// frame is told from a torn one, and ends. It waits no longer than ctx. Closing
// again is fine.
func (l *Log) Close(ctx context.Context) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	close(l.stop)

	done := make(chan error, 1)
	go func() {
		l.wg.Wait() // each group's run ends with a last commit
		var errs []error
		for _, g := range l.groups {
			g.io.Lock()
			errs = append(errs, g.seal(true))
			g.io.Unlock()
		}
		done <- errors.Join(errs...)
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("close log: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close log: %w", ctx.Err())
	}
}

// Err returns why the log takes no more (a write or an fsync failed), or nil.
// It never recovers: the process is to be restarted, which reads what is truly
// on disk.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// Usage is what the log occupies and may occupy, and whether it takes records.
type Usage struct {
	Bytes, MaxBytes int64
	// Full: the disk had no space at the last attempt.
	Full bool
}

// Usage returns what the log occupies.
func (l *Log) Usage() Usage {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Usage{Bytes: l.bytes, MaxBytes: l.o.MaxBytes, Full: l.full}
}

// usable returns why nothing can be appended, or nil.
func (l *Log) usable() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return fmt.Errorf("the log is %w", retention.ErrClosed)
	case l.failed != nil:
		return fmt.Errorf("the log is %w since %w; restart ebb", retention.ErrClosed, l.failed)
	}
	return nil
}

// fail stops the log for good. After a failed fsync the kernel may have dropped
// the pages and call the next fsync a success, so there is no second try.
func (l *Log) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil {
		l.failed = err
		l.logger.Error("the log takes no more records; restart ebb when the disk is well", "err", err)
	}
}

// group returns the group with the given number.
func (l *Log) group(id taxonomy.Group) (*group, error) {
	if int(id) >= len(l.groups) {
		return nil, fmt.Errorf("group %d: there are %d", id, len(l.groups))
	}
	return l.groups[id], nil
}

// Tick appends a tick to each group to which nothing was appended in the last
// half second, so that the time of an idle writer moves on (R7). It returns at
// once; what it appended is durable within 100 ms.
func (l *Log) Tick(ctx context.Context) error {
	now := l.o.Now()
	for _, g := range l.groups {
		if g.recent(now - taxonomy.Second/2) {
			continue
		}
		r := []taxonomy.Record{{Kind: taxonomy.RecordTick, Received: now}}
		if _, _, err := l.Append(ctx, g.id, r, retention.AckNone); err != nil {
			return fmt.Errorf("tick: %w", err)
		}
	}
	return nil
}

func (l *Log) tick() {
	for {
		select {
		case <-l.stop:
			return
		case <-l.o.After(tickEvery):
			if err := l.Tick(context.Background()); err != nil && !errors.Is(err, retention.ErrFull) {
				return // stopped or closed: there is no time to tell any more
			}
		}
	}
}

// Grown returns a channel that is closed when the next frame of the group is
// durable. A follower takes it before it calls Follow, and waits for it if
// Follow had nothing.
func (l *Log) Grown(id taxonomy.Group) (<-chan struct{}, error) {
	g, err := l.group(id)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.grown == nil {
		g.grown = make(chan struct{})
	}
	return g.grown, nil
}

// folder is the name of a writer's folder for a group.
func folder(w taxonomy.WriterID, g taxonomy.Group) string {
	return fmt.Sprintf("%s%s-%04x", writerPrefix, w, uint16(g))
}

// parseFolder is the reverse of folder.
func parseFolder(name string) (w taxonomy.WriterID, g taxonomy.Group, ok bool) {
	id, rest, found := strings.Cut(strings.TrimPrefix(name, writerPrefix), "-")
	if !found || !strings.HasPrefix(name, writerPrefix) || len(rest) != 4 {
		return w, 0, false
	}
	w, err := taxonomy.ParseWriterID(id)
	n, err2 := strconv.ParseUint(rest, 16, 16)
	return w, taxonomy.Group(n), err == nil && err2 == nil
}

func segmentName(first uint64) string { return fmt.Sprintf("%016x%s", first, suffix) }

// segmentFirsts returns the numbers that name the segment files of a folder, in
// order, and the names of what a crash left beside them.
func segmentFirsts(fs FS, dir string) (firsts []uint64, leftover []string, err error) {
	names, err := fs.List(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, n := range names {
		hex, ok := strings.CutSuffix(n, suffix)
		first, err := strconv.ParseUint(hex, 16, 64)
		switch {
		case ok && err == nil && len(hex) == 16 && first > 0:
			firsts = append(firsts, first)
		case strings.HasSuffix(n, tmpSuffix):
			leftover = append(leftover, n)
		}
	}
	slices.Sort(firsts)
	return firsts, leftover, nil
}

// errNoDir: a folder could not be opened, so nothing was tried that may not be
// tried again.
var errNoDir = errors.New("cannot open the folder")

// syncDir makes the names in a folder durable.
func syncDir(fs FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("sync folder %s: %w: %w", dir, errNoDir, err)
	}
	err = d.Sync()
	if err2 := d.Close(); err == nil {
		err = err2
	}
	if err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	return nil
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
