// Package simtest tests Ebb as a whole: one App, from the edge's handlers to a
// partner's copy, in a world whose clock, randomness, disk and power the test
// holds, and the real binary under kill −9. See README.md.
package simtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/retention/defs"
	wal "github.com/ebb-dmp/ebb/retention/log"
	"github.com/ebb-dmp/ebb/retention/log/crashfs"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

var ctx = context.Background()

// start is noon of a day whose 90 days before it cross a quarter, so visitor
// keys of two store keys meet, and whose 90 days after it cross the year.
var start = taxonomy.MillisOf(time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC))

const dataDir = "data"

// world is what an App finds outside itself. The App in it may be killed and
// started again; the keys lie outside the data directory and survive.
type world struct {
	t     testing.TB
	clock atomic.Int64 // ms since 1970
	ring  atomic.Pointer[keys.Ring]
	log   *lines
	flags map[string]string
	seed  uint64
	rand  io.Reader
	fail  func(format string, args ...any) // ends the test, and says what led to it

	fs       wal.FS
	power    *crashfs.FS // fs, if its power can fail
	server   *app.Server
	timers   *timers // of the App that runs
	adminKey string
}

func (w *world) now() taxonomy.Millis { return taxonomy.Millis(w.clock.Load()) }

// newWorld makes a world at the start of time with an App that was never
// started. Schedules never come: what is done is done when the test says so.
func newWorld(t testing.TB, fs wal.FS, seed uint64, flags map[string]string) *world {
	t.Helper()
	w := &world{t: t, fs: fs, seed: seed, log: &lines{}, rand: &lockedRand{r: rand.NewChaCha8(chachaSeed(seed))}}
	w.power, _ = fs.(*crashfs.FS)
	w.fail = func(format string, args ...any) {
		t.Helper()
		t.Fatalf("seed %d: "+format, append([]any{seed}, args...)...)
	}
	w.clock.Store(int64(start))
	w.flags = map[string]string{
		"data": dataDir, "listen.public": "127.0.0.1:0", "listen.partner": "127.0.0.1:0", "listen.private": "127.0.0.1:0",
		"build.schedule": "0 0 29 2 *", "deliver.schedule": "0 0 29 2 *", "retention.schedule": "0 0 29 2 *",
		"new_ids_per_minute": "10000000", "export_floor": "1",
	}
	for k, v := range flags {
		w.flags[k] = v
	}
	ring, err := keys.Generate(w.rand, start.Day())
	if err != nil {
		t.Fatal(err)
	}
	w.ring.Store(ring)
	return w
}

func chachaSeed(seed uint64) (b [32]byte) {
	for i := range 8 {
		b[i] = byte(seed >> (8 * i))
	}
	return b
}

// lockedRand is a source that repeats and may be shared.
type lockedRand struct {
	mu sync.Mutex
	r  io.Reader
}

func (l *lockedRand) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(p)
}

// options are those of an App on the disk as it is, with some settings. Its loops
// wait for timers that the test fires; its listeners accept nobody, since the test
// calls the handlers.
func (w *world) options(flags map[string]string, tm *timers) (app.Options, error) {
	r, err := config.Load(config.Input{CheckSchedule: app.CheckSchedule, Flags: flags})
	if err != nil {
		return app.Options{}, err
	}
	env := app.Env{
		Now: func() time.Time { return w.now().Time() }, After: tm.after, Rand: w.rand, FS: w.fs,
		Listen: func(string, string) (net.Listener, error) { return &deafListener{closed: make(chan struct{})}, nil },
		Dial:   func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("nobody is there") },
	}
	return app.Options{Config: r.Config, Env: env, Keys: w.ring.Load(),
		Logger: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		SaveKeys: func(change func(*keys.Ring) (*keys.Ring, error)) (*keys.Ring, error) {
			ring, err := change(w.ring.Load())
			if err == nil {
				w.ring.Store(ring)
			}
			return ring, err
		}}, nil
}

func newTimers() *timers {
	tm := &timers{}
	tm.cond.L = &tm.mu
	return tm
}

// open starts the App on the disk as it is and lets it come to rest.
func (w *world) open() error {
	tm := newTimers()
	o, err := w.options(w.flags, tm)
	if err != nil {
		return err
	}
	a, key, err := app.Open(ctx, o)
	if err != nil {
		return err
	}
	if key != "" {
		w.adminKey = key
	}
	s, err := a.Serve(ctx)
	if err != nil {
		return errors.Join(err, a.Close(ctx))
	}
	w.server, w.timers = s, tm
	tm.waitFor(pollEvery, 1) // the fold has looked at all that is there
	return nil
}

// mustOpen is open for a disk that is well.
func (w *world) mustOpen() {
	w.t.Helper()
	if err := w.open(); err != nil {
		w.fail("open: %v", err)
	}
}

// stop ends the App in order, as SIGTERM does.
func (w *world) stop() error {
	if w.server == nil {
		return nil
	}
	s := w.server
	w.server = nil
	stopping, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return s.Close(stopping)
}

// crash lets the power fail at a moment of the disk's history and starts again
// with what keep left. The App that ran goes on in a world that nobody sees any
// more, and is ended there.
func (w *world) crash(at int, keep crashfs.Keep) {
	w.t.Helper()
	next := w.power.Crash(at, keep)
	if err := w.stop(); err != nil {
		w.t.Fatalf("seed %d: stop what crashed: %v", w.seed, err)
	}
	w.fs, w.power = next, next
	w.mustOpen()
}

// define defines something, and again after a crash.
func (w *world) define(kind defs.Kind, id string, body any) {
	w.t.Helper()
	if err := w.server.Define(ctx, kind, id, body); err != nil {
		w.t.Fatalf("seed %d: %v", w.seed, err)
	}
}

// The distances of loops in the App, by which their timers are known.
const (
	pollEvery  = 50 * time.Millisecond // the fold's
	eraseEvery = 10 * time.Second      // the eraser's, and the lease's
)

// erasesSoon lets the loops run that come every 10 s, once: the first pass over
// new erasures, and the lease. The fold, whose loop comes every 50 ms, has been
// there before.
func (w *world) erasesSoon() {
	w.t.Helper()
	if err := w.server.Fold(ctx); err != nil {
		w.t.Fatalf("seed %d: fold: %v", w.seed, err)
	}
	w.timers.fire(eraseEvery, 2)
}

// timers are an App's: none fires unless the test says so.
type timers struct {
	mu   sync.Mutex
	cond sync.Cond
	set  map[time.Duration][]chan time.Time
}

func (tm *timers) after(d time.Duration) <-chan time.Time {
	c := make(chan time.Time, 1)
	tm.mu.Lock()
	defer tm.mu.Unlock()
	if tm.set == nil {
		tm.set = map[time.Duration][]chan time.Time{}
	}
	tm.set[d] = append(tm.set[d], c)
	tm.cond.Broadcast()
	return c
}

// waitFor waits until n loops rest on a timer of this distance.
func (tm *timers) waitFor(d time.Duration, n int) {
	tm.mu.Lock()
	defer tm.mu.Unlock()
	for len(tm.set[d]) < n {
		tm.cond.Wait()
	}
}

// fire fires the timers of n loops and waits until all rest again.
func (tm *timers) fire(d time.Duration, n int) {
	tm.waitFor(d, n)
	tm.mu.Lock()
	for _, c := range tm.set[d] {
		c <- time.Time{}
	}
	tm.set[d] = nil
	tm.mu.Unlock()
	tm.waitFor(d, n)
}

// deafListener accepts nobody.
type deafListener struct {
	once   sync.Once
	closed chan struct{}
}

func (l *deafListener) Accept() (net.Conn, error) { <-l.closed; return nil, net.ErrClosed }
func (l *deafListener) Close() error              { l.once.Do(func() { close(l.closed) }); return nil }
func (l *deafListener) Addr() net.Addr            { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// lines keeps all messages of the program.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
