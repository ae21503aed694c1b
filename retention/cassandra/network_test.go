package cassandra

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
)

var swappedSpace = retention.KeyedSpace{Name: "network", Swapped: true}

// swaps is one chain of swaps for each of some keys, and what was told of each.
type swaps struct {
	done, unknown, failed int
	wrong                 []string
}

// chain swaps one key, again and again, through a network that fails, and holds
// what it is told against what is there by another way. The value is its own
// number, so that both a swap that was said to have failed and happened, and one
// that was said to have happened and did not, are seen.
func (s *swaps) chain(ctx context.Context, mu *sync.Mutex, broken, sound *Store, key string, stop *atomic.Bool) {
	wrong := func(format string, args ...any) {
		mu.Lock()
		s.wrong = append(s.wrong, key+": "+fmt.Sprintf(format, args...))
		mu.Unlock()
	}
	k := retention.Key{Partition: key, Item: "i"}
	version, there := uint64(0), 0 // as the last look by the sound way said
	// Of these it was said that the outcome is unknown, and a node may still have
	// them in hand.
	maybe := map[int]bool{}
	for i := 1; !stop.Load(); i++ {
		v, err := broken.Keyed().Swap(ctx, swappedSpace, retention.Item{Key: k, Value: []byte(strconv.Itoa(i)), Version: version})
		it, gerr := sound.Keyed().Get(ctx, swappedSpace, k)
		for gerr != nil && !errors.Is(gerr, retention.ErrNotFound) { // it met a swap that is under way
			wait(20 * time.Millisecond)
			it, gerr = sound.Keyed().Get(ctx, swappedSpace, k)
		}
		got, _ := strconv.Atoi(string(it.Value))
		mu.Lock()
		switch {
		case err == nil:
			s.done++
		case errors.Is(err, retention.ErrUnknown):
			s.unknown++
		default:
			s.failed++
		}
		mu.Unlock()
		unknown := errors.Is(err, retention.ErrUnknown)
		switch {
		case err == nil && (got != i || it.Version != v):
			wrong("swap %d was said to be version %d; there is %d of version %d", i, v, got, it.Version)
		case err != nil && !unknown && got == i:
			wrong("swap %d was said to have failed (%v), and is there", i, err)
		case got != i && got != there && !maybe[got]:
			wrong("after swap %d there is %d, before it %d", i, got, there)
		}
		if maybe[i] = unknown; got != there {
			clear(maybe) // they were of a version that is over
			maybe[i] = unknown && got != i
		}
		version, there = it.Version, got
	}
}

// C1: a connection that ends after the request was done, before the answer, leaves
// the outcome unknown: it is never said to have failed. Sometimes it is one node's,
// and another attempt finds out; sometimes all nodes', for longer than anybody tries.
// Events and swaps are under way, and what was told of them is held against what is
// there by another way.
func TestLongFaultACutAnswerIsUnknownAndNeverAFailure(t *testing.T) {
	needThree(t)
	st, r := through(t)
	sound, err := Open(t.Context(), testOptions(realNow))
	if err != nil {
		t.Fatal(err)
	}
	defer sound.Close()
	empty(t, st, "visitor_events", "keyed_swapped")
	h := newHistory()
	var stop atomic.Bool
	var mu sync.Mutex
	var s swaps
	var wg sync.WaitGroup
	end := h.begin(st)
	for i := range 4 {
		wg.Go(func() {
			s.chain(context.Background(), &mu, st, sound, strconv.Itoa(i), &stop)
		})
	}
	nodes := r.nodes()
	rng := rand.New(rand.NewPCG(1, 1))
	for range 6 {
		for range 5 {
			r.set(cut, nodes[:1+rng.IntN(len(nodes))]...)
			wait(short(rng))
			r.set(open, nodes...)
			wait(short(rng))
		}
		r.set(cut, nodes...)
		wait(3 * time.Second)
		r.set(open, nodes...)
		wait(time.Second)
	}
	h.more(t, 100, "after all was well") // it goes on without a restart
	stop.Store(true)
	wg.Wait()
	end()
	h.check(t, sound)
	t.Logf("swaps: %d done, %d unknown, %d failed", s.done, s.unknown, s.failed)
	for i, what := range s.wrong {
		if i < 10 {
			t.Error(what)
		}
	}
	t.Logf("%d answers were lost", r.lost.Load())
	if n := r.lost.Load(); n < 20 || len(h.unknown) == 0 {
		t.Errorf("%d answers were lost and %d events are unknown, so little was broken", n, len(h.unknown))
	}
	if s.done == 0 {
		t.Error("no swap went through")
	}
}

func short(rng *rand.Rand) time.Duration { return time.Duration(20+rng.IntN(200)) * time.Millisecond }

// C2: where answers, or all packets, of one node are lost and nothing is closed,
// the others go on, and what was on its way there is unknown.
func TestLongFaultABlackHoleStallsNobody(t *testing.T) {
	for _, w := range []way{hole, deaf} {
		t.Run(strconv.Itoa(int(w)), func(t *testing.T) {
			needThree(t)
			st, r := through(t)
			empty(t, st, "visitor_events")
			h := newHistory()
			end := h.begin(st)
			h.more(t, 200, "before")
			for _, n := range r.nodes() {
				r.set(w, n)
				h.more(t, 300, "with a black hole")
				r.set(open, n)
				h.more(t, 100, "after it")
			}
			end()
			h.check(t, st)
		})
	}
}

// C3: a node whose answers come 300 ms late takes no part of the cluster with it:
// nothing fails.
func TestLongFaultASlowNodeFailsNothing(t *testing.T) {
	needThree(t)
	st, r := through(t)
	empty(t, st, "visitor_events")
	h := newHistory()
	end := h.begin(st)
	nodes := r.nodes()
	r.set(slow, nodes[0])
	wait(10 * time.Second)
	r.set(open, nodes...)
	end()
	h.check(t, st)
	if n := len(h.failed) + len(h.unknown); n > 0 {
		t.Errorf("%d writes did not go through a slow network", n)
	}
}

// tenures is who held a lease, when, by one clock.
type tenures struct {
	mu      sync.Mutex
	by      map[uint64]string    // term: who was told that it has it
	holding map[string]time.Time // until when a holder relies on it
	wrong   []string
	took    int
	unknown int
}

func (l *tenures) fault(format string, args ...any) {
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

// contend takes a lease as often as it can, relies on it for half of its life after
// each renewal, and gives it up, or goes away without a word.
func (l *tenures) contend(ctx context.Context, of retention.Leases, name, who string, life time.Duration, rng *rand.Rand, stop *atomic.Bool) {
	pause := func() { <-time.After(time.Duration(5+rng.IntN(40)) * time.Millisecond) }
	for !stop.Load() {
		asked := time.Now()
		lease, err := of.Take(ctx, name, who, life)
		l.mu.Lock()
		switch {
		case err == nil:
			l.took++
			if other, twice := l.by[lease.Term]; twice {
				l.fault("term %d was given to %s and to %s", lease.Term, other, who)
			}
			l.by[lease.Term] = who
			l.rely(who, asked, life)
		case errors.Is(err, retention.ErrUnknown):
			l.unknown++
		case !errors.Is(err, retention.ErrHeld):
			l.unknown++ // it could not be asked for
		}
		l.mu.Unlock()
		if err != nil {
			pause()
			continue
		}
		for range rng.IntN(6) {
			pause()
			asked := time.Now()
			if err := of.Renew(ctx, lease); err != nil {
				break // whether lost or unknown: it relies on it until its time is over
			}
			l.mu.Lock()
			l.rely(who, asked, life)
			l.mu.Unlock()
		}
		l.mu.Lock()
		delete(l.holding, who)
		l.mu.Unlock()
		if rng.IntN(8) > 0 {
			_ = of.Release(ctx, lease) // unknown: it runs out
		}
	}
}

// rely notes that somebody relies on the lease from now on, and that nobody else
// does.
func (l *tenures) rely(who string, asked time.Time, life time.Duration) {
	now, until := time.Now(), asked.Add(life/2)
	if !now.Before(until) {
		delete(l.holding, who)
		return // told too late to be of use
	}
	for other, end := range l.holding {
		if other != who && now.Before(end) {
			l.fault("%s and %s both rely on the lease", who, other)
		}
	}
	l.holding[who] = until
}

func (l *tenures) report(t *testing.T, least int) {
	t.Helper()
	t.Logf("the lease was taken %d times, %d attempts had no outcome", l.took, l.unknown)
	for i, what := range l.wrong {
		if i < 10 {
			t.Error(what)
		}
	}
	if l.took < least {
		t.Errorf("the lease was taken %d times, want at least %d", l.took, least)
	}
}

const contendedLife = 2 * time.Second

// leasesOf is what another node has: what it has seen of leases is its own.
func leasesOf(st *Store) retention.Leases { return &leases{st: st, seen: map[string]*seenLease{}} }

// L3: twenty contenders for one lease: each term has one holder at most, nobody
// relies on it while another does, and somebody always gets it.
func TestLongFaultTwentyContendersHaveOneHolderATerm(t *testing.T) {
	needThree(t)
	st, err := Open(t.Context(), testOptions(realNow))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	contest(t, 20, 15*time.Second, func(int) retention.Leases { return leasesOf(st) }, nil)
}

// L2: the same while answers to transactions are cut off or lost, at random: what
// was taken is read back, and never has two holders.
func TestLongFaultALeaseWhoseAnswersAreLostHasOneHolder(t *testing.T) {
	needThree(t)
	sound, err := Open(t.Context(), testOptions(realNow))
	if err != nil {
		t.Fatal(err)
	}
	defer sound.Close()
	var broken []*Store
	var nets []*relays
	for range 3 {
		st, r := through(t)
		broken, nets = append(broken, st), append(nets, r)
	}
	contest(t, 6, 40*time.Second, func(i int) retention.Leases {
		if i < len(broken) {
			return leasesOf(broken[i])
		}
		return leasesOf(sound)
	}, func(rng *rand.Rand) {
		r := nets[rng.IntN(len(nets))]
		nodes := r.nodes()
		if len(nodes) == 0 {
			return
		}
		r.set(cut, nodes...)
		wait(short(rng))
		r.set(open, nodes...)
	})
}

func contest(t *testing.T, contenders int, long time.Duration, of func(i int) retention.Leases, meddle func(*rand.Rand)) {
	t.Helper()
	l := &tenures{by: map[uint64]string{}, holding: map[string]time.Time{}}
	var stop atomic.Bool
	var wg sync.WaitGroup
	name := "contended"
	if meddle != nil {
		name = "contended-unheard"
	}
	for i := range contenders {
		leases := of(i)
		wg.Go(func() {
			l.contend(context.Background(), leases, name, fmt.Sprint("node", i), contendedLife, rand.New(rand.NewPCG(7, uint64(i))), &stop)
		})
	}
	rng := rand.New(rand.NewPCG(8, 8))
	for end := time.Now().Add(long); time.Now().Before(end); wait(100 * time.Millisecond) {
		if meddle != nil {
			meddle(rng)
		}
	}
	for end := time.Now().Add(patience); ; wait(100 * time.Millisecond) {
		l.mu.Lock()
		took := l.took
		l.mu.Unlock()
		if took >= 5 || time.Now().After(end) {
			break
		}
	}
	stop.Store(true)
	wg.Wait()
	l.report(t, 5)
}
