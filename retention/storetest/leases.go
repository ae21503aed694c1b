package storetest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

// Leases tests an engine of retention.Leases. What an engine does with leases
// that are held while it is reopened is its own affair (a process's leases may
// die with it); their terms grow in any case.
func Leases(t *testing.T, open Opener[retention.Leases]) {
	t.Run("RandomOperationsAnswerAsTheModelDoes", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) { randomLeases(t, open) })
	})
	type B = *bench[retention.Leases]

	statement(t, open, "ALeaseHasOneHolder", func(b B) {
		l := take(b, "builder", "a")
		if l.Name != "builder" || l.Owner != "a" || l.Term == 0 {
			b.t.Fatalf("got %+v", l)
		}
		wantHeld(b, "builder", "b")
		wantHeld(b, "builder", "a") // to take is not to renew
		take(b, "eraser", "b")      // another lease
	})
	statement(t, open, "ALeaseEndsWithItsLife", func(b B) {
		l := take(b, "builder", "a")
		b.clock.Advance(10*taxonomy.Second - 1)
		wantHeld(b, "builder", "b")
		b.clock.Advance(1)
		next := take(b, "builder", "b")
		if next.Term <= l.Term {
			b.t.Fatalf("got term %d after %d", next.Term, l.Term)
		}
		if err := b.got.Renew(b.ctx, l); !errors.Is(err, retention.ErrHeld) {
			b.t.Fatalf("renewing a lost lease gave %v, want held", err)
		}
		b.check(b.got.Release(b.ctx, l)) // of a lost lease: fine, and no harm to the new holder
		wantHeld(b, "builder", "c")
		b.check(b.got.Renew(b.ctx, next))
	})
	statement(t, open, "RenewingExtendsByTheLife", func(b B) {
		l := take(b, "builder", "a")
		for range 5 {
			b.clock.Advance(9 * taxonomy.Second)
			b.check(b.got.Renew(b.ctx, l))
		}
		b.clock.Advance(10*taxonomy.Second - 1)
		wantHeld(b, "builder", "b")
		b.clock.Advance(taxonomy.Minute)
		b.check(b.got.Renew(b.ctx, l)) // late, but nobody took it
		wantHeld(b, "builder", "b")
	})
	statement(t, open, "ReleasingFreesAtOnceAndTermsGrow", func(b B) {
		var last uint64
		for range 5 {
			l := take(b, "builder", "a")
			if l.Term <= last {
				b.t.Fatalf("got term %d after %d", l.Term, last)
			}
			last = l.Term
			b.check(b.got.Release(b.ctx, l))
			b.check(b.got.Release(b.ctx, l))
			if err := b.got.Renew(b.ctx, l); err == nil {
				b.t.Fatal("a lease that was given up was renewed")
			}
			b.reopen()
		}
	})
	statement(t, open, "TermsGrowAcrossRestarts", func(b B) {
		l := take(b, "builder", "a")
		b.reopen()
		b.clock.Advance(taxonomy.Minute)
		if next := take(b, "builder", "a"); next.Term <= l.Term {
			b.t.Fatalf("got term %d after %d", next.Term, l.Term)
		}
	})
	statement(t, open, "OfManyTakersOneWins", func(b B) {
		var wg sync.WaitGroup
		won := make([]bool, 8)
		errs := make([]error, len(won))
		for g := range won {
			wg.Go(func() {
				_, err := b.got.Take(b.ctx, "builder", string(rune('a'+g)), 10*time.Second)
				won[g] = err == nil
				if err != nil && !errors.Is(err, retention.ErrHeld) {
					errs[g] = err
				}
			})
		}
		wg.Wait()
		b.check(errors.Join(errs...))
		n := 0
		for _, w := range won {
			if w {
				n++
			}
		}
		if n != 1 {
			b.t.Fatalf("%d takers won", n)
		}
	})
	statement(t, open, "NonsenseIsRefused", func(b B) {
		if _, err := b.got.Take(b.ctx, "builder", "a", 0); err == nil || errors.Is(err, retention.ErrHeld) {
			b.t.Fatalf("a life of nothing gave %v, want an error that says so", err)
		}
		ctx, cancel := context.WithCancel(b.ctx)
		cancel()
		if _, err := b.got.Take(ctx, "builder", "a", time.Second); !errors.Is(err, context.Canceled) {
			b.t.Fatalf("got %v, want context.Canceled", err)
		}
		take(b, "builder", "a")
	})
}

func take(b *bench[retention.Leases], name, owner string) retention.Lease {
	b.t.Helper()
	l, err := b.got.Take(b.ctx, name, owner, 10*time.Second)
	b.check(err)
	return l
}

func wantHeld(b *bench[retention.Leases], name, owner string) {
	b.t.Helper()
	if _, err := b.got.Take(b.ctx, name, owner, 10*time.Second); !errors.Is(err, retention.ErrHeld) {
		b.t.Fatalf("taking a lease that is held gave %v, want held", err)
	}
}

func randomLeases(t *rapid.T, open Opener[retention.Leases]) {
	b := open.open(t)
	defer b.close()
	want := b.want.Leases()
	// pairs are the same leases as the engine and the model gave them: their
	// terms may differ, since an engine may skip some.
	type pair struct{ got, want retention.Lease }
	var pairs []pair
	last := map[string]uint64{}
	for range rapid.IntRange(1, 40).Draw(t, "steps") {
		switch rapid.SampledFrom([]string{"take", "take", "renew", "release", "time"}).Draw(t, "op") {
		case "take":
			name := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "name")
			life := time.Duration(rapid.IntRange(1, 20).Draw(t, "life")) * time.Millisecond
			g, gerr := b.got.Take(b.ctx, name, "me", life)
			w, werr := want.Take(b.ctx, name, "me", life)
			if err := sameErr(gerr, werr, retention.ErrHeld); err != nil {
				t.Fatalf("take %s: %v", name, err)
			}
			if gerr == nil {
				if g.Term <= last[name] {
					t.Fatalf("got term %d after %d", g.Term, last[name])
				}
				last[name] = g.Term
				pairs = append(pairs, pair{g, w})
			}
		case "renew", "release":
			if len(pairs) == 0 {
				break
			}
			p := rapid.SampledFrom(pairs).Draw(t, "lease")
			if rapid.Bool().Draw(t, "renew") {
				if err := sameErr(b.got.Renew(b.ctx, p.got), want.Renew(b.ctx, p.want)); err != nil {
					t.Fatalf("renew: %v", err)
				}
			} else if err := sameErr(b.got.Release(b.ctx, p.got), want.Release(b.ctx, p.want)); err != nil {
				t.Fatalf("release: %v", err)
			}
		case "time":
			b.clock.Advance(taxonomy.Millis(rapid.Int64Range(0, 25).Draw(t, "ms")))
		}
	}
}
