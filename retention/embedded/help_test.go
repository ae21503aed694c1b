package embedded_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/embedded"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// allFaults asks for every place of a fault, not one in some.
var allFaults = os.Getenv("EBB_TEST_FAULTS") == "all"

func stride(n int) int {
	if allFaults {
		return 1
	}
	return n
}

var (
	plain   = retention.KeyedSpace{Name: "plain"}
	swapped = retention.KeyedSpace{Name: "swapped", Swapped: true}
)

func at0() taxonomy.Millis { return storetest.Start }

// event returns an event of a visitor, daysAgo before now, that is like no other.
func event(v taxonomy.VisitorKey, daysAgo, seq int) retention.StoredEvent {
	e := retention.StoredEvent{
		Record: taxonomy.Record{Kind: taxonomy.RecordEvent, Received: storetest.Start, Site: "shop", Source: "web", Space: taxonomy.SpaceCookie, Visitor: v,
			Event: &taxonomy.Event{Time: storetest.Start - taxonomy.Millis(daysAgo)*taxonomy.OneDay, Kind: taxonomy.EventPage, URL: fmt.Sprintf("https://shop.example/canary-%d-end", seq)}},
		Ref: taxonomy.Ref{Writer: taxonomy.WriterID{1, 2, 3}, Seq: uint64(seq)},
	}
	e.Record.Event.ID = taxonomy.EventID{byte(seq), byte(seq >> 8), 7}
	return e
}

// random is a visitor key with bytes that nothing else on disk will have.
func random(n int) (v taxonomy.VisitorKey) {
	x := uint64(n)*0x9e3779b97f4a7c15 + 0x1234567
	for i := range v {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		v[i] = byte(x >> 11)
	}
	return v
}

// eachFile calls fn with the bytes of each file below dir.
func eachFile(t testing.TB, fs vfs.FS, dir string, fn func(path string, b []byte)) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		path := fs.PathJoin(dir, n)
		info, err := fs.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if info.IsDir() {
			eachFile(t, fs, path, fn)
			continue
		}
		f, err := fs.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		fn(path, b)
	}
}

// onDisk returns the files that hold the bytes.
func onDisk(t testing.TB, fs vfs.FS, what []byte) (in []string) {
	t.Helper()
	eachFile(t, fs, "/data", func(path string, b []byte) {
		if bytes.Contains(b, what) {
			in = append(in, path)
		}
	})
	return in
}

// step is one thing that is done to a store under faults: do, and check, which
// says what must hold if it was acknowledged, if it may have happened, or if it
// was never begun.
type step struct {
	name  string
	do    func(s *embedded.Store) error
	check func(s *embedded.Store, o outcome) error
}

type outcome int

const (
	never outcome = iota
	maybe
	acked
)

// progress is how far the steps have come, for a hook that runs beside them.
type progress struct {
	mu  sync.Mutex
	out []outcome
}

func (p *progress) set(i int, o outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out[i] = o
}

func (p *progress) snapshot() []outcome {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]outcome(nil), p.out...)
}

// steps is a short life of a store. Each step touches things of its own, or
// checks allow for the steps behind it.
func steps(t testing.TB) []step {
	ctx := t.Context()
	count := func(s *embedded.Store, v taxonomy.VisitorKey) (n int, err error) {
		err = s.Events().Visitor(ctx, v, -1<<20, 1<<20, func(*retention.StoredEvent) error { n++; return nil })
		return n, err
	}
	wantCount := func(v taxonomy.VisitorKey, full int) func(s *embedded.Store, o outcome) error {
		return func(s *embedded.Store, o outcome) error {
			n, err := count(s, v)
			if err != nil {
				return err
			}
			if o == acked && n != full || o == never && n != 0 || n != 0 && n != full {
				return fmt.Errorf("%d of %d events", n, full)
			}
			return nil
		}
	}
	var list []step
	for i := range 4 {
		v := random(i)
		list = append(list, step{
			name: fmt.Sprintf("put events %d", i),
			do: func(s *embedded.Store) error {
				var batch []retention.StoredEvent
				for j := range 5 {
					batch = append(batch, event(v, j*20, i*10+j+1))
				}
				return s.Events().Put(ctx, batch)
			},
			check: wantCount(v, 5),
		}, step{
			name: fmt.Sprintf("put keyed %d", i),
			do: func(s *embedded.Store) error {
				return s.Keyed().Put(ctx, plain, []retention.Item{
					{Key: retention.Key{Partition: fmt.Sprint(i), Item: "a"}, Value: bytes.Repeat([]byte{byte(i)}, 3000)},
					{Key: retention.Key{Partition: fmt.Sprint(i), Item: "b"}, Value: bytes.Repeat([]byte{byte(i)}, 3000)}})
			},
			check: func(s *embedded.Store, o outcome) error {
				n, p := 0, fmt.Sprint(i)
				err := s.Keyed().Scan(ctx, plain, &p, func(it retention.Item) error {
					n++
					if !bytes.Equal(it.Value, bytes.Repeat([]byte{byte(i)}, 3000)) {
						return errors.New("another value")
					}
					return nil
				})
				if err == nil && (o == acked && n != 2 || o == never && n != 0) {
					err = fmt.Errorf("%d items of 2", n)
				}
				return err
			},
		}, step{
			name: fmt.Sprintf("swap %d", i),
			do: func(s *embedded.Store) error {
				k := retention.Key{Partition: "p", Item: fmt.Sprint(i)}
				_, err := s.Keyed().Swap(ctx, swapped, retention.Item{Key: k, Value: []byte("one")})
				if err == nil {
					_, err = s.Keyed().Swap(ctx, swapped, retention.Item{Key: k, Value: []byte("two"), Version: 1})
				}
				return err
			},
			check: func(s *embedded.Store, o outcome) error {
				it, err := s.Keyed().Get(ctx, swapped, retention.Key{Partition: "p", Item: fmt.Sprint(i)})
				none := errors.Is(err, retention.ErrNotFound)
				switch {
				case err != nil && !none:
					return err
				case o == acked && string(it.Value) != "two", o == never && !none, !none && it.Version == 1 && string(it.Value) != "one", it.Version == 2 && string(it.Value) != "two", it.Version > 2:
					return fmt.Errorf("got %q of version %d", it.Value, it.Version)
				}
				return nil
			},
		}, step{
			name: fmt.Sprintf("put blob %d", i),
			do: func(s *embedded.Store) error {
				_, err := s.Blobs().Put(ctx, fmt.Sprintf("day/%d/x", i), 0, strings.NewReader(strings.Repeat(fmt.Sprint(i), 20_000)))
				return err
			},
			check: func(s *embedded.Store, o outcome) error {
				r, err := s.Blobs().Open(ctx, fmt.Sprintf("day/%d/x", i))
				if errors.Is(err, retention.ErrNotFound) && o != acked {
					return nil
				}
				if err != nil {
					return err
				}
				defer r.Close()
				b, err := io.ReadAll(io.NewSectionReader(r, 0, r.Blob().Bytes))
				if err == nil && (string(b) != strings.Repeat(fmt.Sprint(i), 20_000) || o == never) {
					err = errors.New("another content, or too early")
				}
				return err
			},
		})
	}
	// Visitor 10 is put, then erased: its two steps share a check.
	list = append(list, step{
		name: "put what is erased later",
		do: func(s *embedded.Store) error {
			return s.Events().Put(ctx, []retention.StoredEvent{event(random(10), 3, 900)})
		},
		check: func(*embedded.Store, outcome) error { return nil },
	}, step{
		name: "erase",
		do:   func(s *embedded.Store) error { return s.Events().Erase(ctx, []taxonomy.VisitorKey{random(10)}) },
		check: func(s *embedded.Store, o outcome) error {
			if n, err := count(s, random(10)); err != nil || o == acked && n != 0 {
				return fmt.Errorf("%d events of an erased visitor, %w", n, err)
			}
			return nil
		},
	}, step{
		name: "sweep",
		do:   func(s *embedded.Store) error { return s.Sweep(ctx, storetest.Start.Day().Oldest()) },
		check: func(s *embedded.Store, o outcome) error {
			n := 0
			return s.Events().Scan(ctx, 0, 1, -1<<20, 1<<20, func(*retention.StoredEvent) error { n++; return nil })
		},
	}, step{
		name: "put after the sweep",
		do: func(s *embedded.Store) error {
			return s.Events().Put(ctx, []retention.StoredEvent{event(random(20), 1, 901)})
		},
		check: wantCount(random(20), 1),
	}, step{
		name: "lease",
		do: func(s *embedded.Store) error {
			l, err := s.Leases().Take(ctx, "builder", "me", time.Second)
			if err == nil && l.Term != 1 {
				err = fmt.Errorf("term %d", l.Term)
			}
			return err
		},
		check: func(s *embedded.Store, o outcome) error {
			l, err := s.Leases().Take(ctx, "builder", "me", time.Second)
			if err == nil && o == acked && l.Term < 2 {
				err = fmt.Errorf("term %d again", l.Term)
			}
			return err
		},
	})
	return list
}

// run does the steps until one fails, and says in p what became of each.
func run(s *embedded.Store, list []step, p *progress) error {
	for i, st := range list {
		p.set(i, maybe)
		if err := st.do(s); err != nil {
			return fmt.Errorf("%s: %w", st.name, err)
		}
		p.set(i, acked)
	}
	return nil
}

// checkAll opens what a fault has left and checks every step.
func checkAll(fs vfs.FS, list []step, out []outcome) error {
	s, err := embedded.Open(options(fs, at0))
	if err != nil {
		return err
	}
	for i, st := range list {
		if err := st.check(s, out[i]); err != nil {
			return errors.Join(fmt.Errorf("%s: outcome %d: %w", st.name, out[i], err), s.Close())
		}
	}
	return s.Close()
}
