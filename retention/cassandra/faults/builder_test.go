package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/cassandra"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/fold"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// seen classifies every event as the same.
type seen struct{}

func (seen) Version() uint32 { return 1 }
func (seen) Classify(_ taxonomy.SiteID, _ *taxonomy.Event, dst []taxonomy.Trait) []taxonomy.Trait {
	return append(dst, taxonomy.CategoryTrait("t", "seen"))
}

var audiences = audience.NewCatalog([]audience.Versioned{{Version: 1, Definition: audience.Definition{
	ID: "seen", Title: "Seen", Kind: audience.KindRule, Rule: []byte(`{"trait":"c:t/seen"}`)}}})

func shards() fold.Config {
	return fold.Config{Shards: 2, Groups: 1, Erasure: func(k taxonomy.VisitorKey) (h [16]byte) {
		for i := range h {
			h[i] = k[15-i]
		}
		return h
	}}
}

// builder takes the builder's lease whenever it is free, and says:
//
//	L term     it has the lease
//	K term number   it has claimed both heads; the newest generation then
//	Z space    it stops itself just before a swap of the space
//	P number term count   it published a generation
//	X term why it gives up the term
//	! what     met trouble, and tries again
//	A received stored duplicate dropped   the fold's account, with each generation
//	M a1 b2…  these events were acknowledged by the store
func builder(ctx context.Context) error {
	name := os.Getenv(envName)
	st, err := cassandra.Open(ctx, options(os.Getenv(envKeyspace)))
	if err != nil {
		return err
	}
	l, err := openLog(st, filepath.Join(os.Getenv(envDir), "log"), name)
	if err != nil {
		return err
	}
	b := &building{st: st, log: l, keyed: &freezing{Keyed: st.Keyed(), space: os.Getenv(envFreeze)}}
	ended := make(chan struct{})
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1)) // to the end of the input
		close(ended)
	}()
	for {
		select {
		case <-ended:
			return errors.Join(l.Close(ctx), st.Close())
		case <-time.After(300 * time.Millisecond):
		}
		lease, err := st.Leases().Take(ctx, "builder", name, leaseLife)
		if err != nil {
			continue
		}
		say("L %d", lease.Term)
		err = b.hold(ctx, lease, ended)
		say("X %d %v", lease.Term, err)
		if err == nil {
			_ = st.Leases().Release(ctx, lease)
		}
	}
}

type building struct {
	st    *cassandra.Store
	log   *cassandra.Log
	keyed retention.Keyed
}

var errLease = errors.New("the lease was not renewed for half its life")

// over reports an error after which a builder must not go on.
func over(err error) bool {
	return errors.Is(err, retention.ErrConflict) || errors.Is(err, retention.ErrHeld) || errors.Is(err, audience.ErrStale)
}

// hold builds under a lease until it is lost. Errors of the cluster are met by
// trying again.
func (b *building) hold(ctx context.Context, lease retention.Lease, ended <-chan struct{}) error {
	gens := audience.NewGenerations(b.st.Blobs(), b.keyed, audience.Options{Now: now})
	if err := gens.Claim(ctx, lease.Term); err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	if err := b.log.Confirm(ctx); err != nil {
		return err
	}
	f, err := fold.Open(ctx, fold.Options{Config: shards(), Log: b.log, Events: telling{b.st.Events()}, Keyed: b.keyed, Blobs: b.st.Blobs(),
		Rules: func() fold.Classifier { return seen{} }, Term: lease.Term,
		OnErased: func(ctx context.Context, list []fold.Erased) error {
			keys := make([]taxonomy.VisitorKey, len(list))
			for i := range list {
				keys[i] = list[i].Visitor
			}
			return b.st.Events().Erase(ctx, keys)
		}})
	if err != nil {
		return fmt.Errorf("open the fold: %w", err)
	}
	defer f.Close()
	refs, err := gens.List(ctx)
	if err != nil {
		return fmt.Errorf("list generations: %w", err)
	}
	newest := uint64(0)
	if len(refs) > 0 {
		newest = refs[0].Number
	}
	say("K %d %d", lease.Term, newest)

	// Publishing goes on with a context that ends with the process alone: what is
	// tried late must be refused by the heads, not by our own knowing.
	whole := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var renewed atomic.Int64
	renewed.Store(time.Now().UnixNano())
	go func() {
		for ctx.Err() == nil {
			begun := time.Now()
			err := b.st.Leases().Renew(ctx, lease)
			switch {
			case errors.Is(err, retention.ErrHeld):
				cancel(err)
				return
			case err == nil:
				renewed.Store(begun.UnixNano())
			}
			<-time.After(leaseLife / 8)
		}
	}()
	build := audience.Builder{Generations: gens, Now: now}
	next := time.Now()
	for {
		select {
		case <-ended:
			// All that is in the log, once more.
			return b.publish(whole, f, &build, lease.Term)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
		if time.Since(time.Unix(0, renewed.Load())) > leaseLife/2 {
			return errLease
		}
		if _, err := f.Poll(ctx); err != nil {
			if over(err) {
				return err
			}
			say("! fold: %v", err)
		}
		if time.Now().Before(next) {
			continue
		}
		next = time.Now().Add(2 * time.Second)
		b.closeDead(ctx)
		err := b.publish(whole, f, &build, lease.Term)
		if err != nil && over(err) {
			return err
		}
		if err != nil {
			say("! publish: %v", err)
		}
	}
}

func (b *building) publish(ctx context.Context, f *fold.Fold, build *audience.Builder, term uint64) error {
	v, err := f.Checkpoint(ctx)
	if err != nil {
		return err
	}
	built, err := build.Run(ctx, audience.Job{View: v, Catalog: audiences, Sources: []taxonomy.SourceID{"web"}, Term: term})
	if built == nil {
		return err
	}
	e, _ := built.Generation.Entry("seen")
	say("P %d %d %d", built.Generation.Number, term, e.Count)
	t := f.Tallies()["shop"]
	dropped := uint64(0)
	for _, n := range t.Dropped {
		dropped += n
	}
	say("A %d %d %d %d", t.Received, t.Stored, t.Duplicate, dropped)
	return err
}

// closeDead closes writers that are not heard of any more.
func (b *building) closeDead(ctx context.Context) {
	ends, err := b.log.End(ctx, 0, nil)
	if err != nil {
		return
	}
	for _, e := range ends {
		if e.Open && e.Writer != b.log.Writer() {
			if end, err := b.log.CloseWriter(ctx, 0, e.Writer); err == nil {
				say("C %s %d", e.Writer, end)
			}
		}
	}
}

// telling is Events that says which were acknowledged.
type telling struct{ retention.Events }

func (t telling) Put(ctx context.Context, list []retention.StoredEvent) error {
	err := t.Events.Put(ctx, list)
	if err == nil {
		var b strings.Builder
		for i := range list {
			edge, n := idOf(list[i].Record.Event.ID)
			fmt.Fprintf(&b, " %s%d", edge[:1], n)
		}
		say("M%s", b.String())
	}
	return err
}

// freezing is a Keyed in a process that is frozen just before the fifth swap of
// a space, when all checks were made.
type freezing struct {
	retention.Keyed
	space string
	n     int
}

func (k *freezing) Swap(ctx context.Context, s retention.KeyedSpace, it retention.Item) (uint64, error) {
	if s.Name == k.space {
		if k.n++; k.n == 5 {
			say("Z %s", s.Name)
			if err := syscall.Kill(syscall.Getpid(), syscall.SIGSTOP); err != nil {
				return 0, err
			}
			<-time.After(50 * time.Millisecond) // the stop may come a moment after the call
		}
	}
	return k.Keyed.Swap(ctx, s, it)
}
