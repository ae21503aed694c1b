package simtest

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/fold"
	"github.com/ebb-dmp/ebb/taxonomy"
)

var clusterSeeds = flag.Uint64("cluster-seeds", 60, "seeds of the simulator over the model of a cluster")

const (
	simWriterLife = 10 * time.Second
	simLeaseLife  = 15 * time.Second
)

// clusterSim is several nodes over one model of Cassandra: every node is an edge,
// and any may hold the builder's lease. Nothing happens by itself: copying,
// beating, folding, committing and publishing are steps, in any order, each of
// which may end in an unknown outcome.
type clusterSim struct {
	t     testing.TB
	seed  uint64
	rng   *rand.Rand
	clock *storetest.Clock
	c     *storetest.Cluster
	nodes []*simNode

	// What must come out. A record is told by its first place in the log.
	durable map[taxonomy.Ref]taxonomy.Record // acknowledged
	maybe   map[taxonomy.Ref]taxonomy.Record // asked for with AckNone: perhaps gone
	quorum  map[taxonomy.Ref]bool
	erased  map[taxonomy.VisitorKey]bool
	serial  int
	claims  map[uint64]bool // terms whose builder has claimed both heads
	begun   uint64          // the highest term whose builder has begun to
	trace   []string
	did     map[string]int
}

type simNode struct {
	*storetest.ClusterNode
	name  string
	build *simBuilder // while it believes that it has the lease
}

type simBuilder struct {
	lease   retention.Lease
	renewed taxonomy.Millis
	fold    *fold.Fold
	gens    *audience.Generations
}

func newClusterSim(t testing.TB, seed uint64) *clusterSim {
	s := &clusterSim{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 4)), clock: storetest.NewClock(start), durable: map[taxonomy.Ref]taxonomy.Record{},
		maybe: map[taxonomy.Ref]taxonomy.Record{}, quorum: map[taxonomy.Ref]bool{}, erased: map[taxonomy.VisitorKey]bool{}, claims: map[uint64]bool{}, did: map[string]int{}}
	s.c = storetest.NewCluster(seed, s.clock.Now, simWriterLife)
	for i := range 2 + s.rng.IntN(3) {
		s.nodes = append(s.nodes, &simNode{ClusterNode: s.c.NewNode(false), name: fmt.Sprintf("n%d", i)})
	}
	s.c.Trouble(10)
	return s
}

func (s *clusterSim) note(format string, args ...any) {
	s.trace = append(s.trace, fmt.Sprintf("%s ", s.clock.Now())+fmt.Sprintf(format, args...))
}

func (s *clusterSim) fatalf(format string, args ...any) {
	s.t.Helper()
	last := s.trace[max(0, len(s.trace)-60):]
	s.t.Fatalf("cluster seed %d (EBB_SEED=%d repeats it), step %d: %s\nlast steps:\n  %s", s.seed, s.seed, len(s.trace), fmt.Sprintf(format, args...), strings.Join(last, "\n  "))
}

// transient are the outcomes after which one tries again; over those after which
// a builder is none any more.
func transient(err error) bool { return errors.Is(err, retention.ErrUnknown) }

func builderIsOver(err error) bool {
	return errors.Is(err, retention.ErrConflict) || errors.Is(err, retention.ErrHeld) || errors.Is(err, audience.ErrStale)
}

// append records what some visitors do; sometimes it is what a browser sends
// again, to another edge.
func (s *clusterSim) append(n *simNode) {
	ack := pick(s.rng, []retention.Ack{retention.AckNone, retention.AckLocal, retention.AckLocal, retention.AckQuorum})
	var records []taxonomy.Record
	now := s.clock.Now()
	for range 1 + s.rng.IntN(4) {
		s.serial++
		which := s.serial
		if s.serial > 10 && s.rng.IntN(6) == 0 {
			which = s.serial - s.rng.IntN(10)
		}
		e := &taxonomy.Event{Time: now, Kind: taxonomy.EventPage}
		binary.BigEndian.PutUint64(e.ID[:], uint64(which))
		records = append(records, taxonomy.Record{Kind: taxonomy.RecordEvent, Received: now, Site: "shop", Source: "web", Space: taxonomy.SpaceCookie,
			Visitor: storetest.Visitor(which % 40), Returning: true, Event: e,
			Consent: taxonomy.Consent{Day: now.Day(), Regime: taxonomy.RegimeOptIn, Signal: taxonomy.SignalExplicit, Purposes: taxonomy.MayAll}})
	}
	ref, reached, err := n.Append(ctx, 0, records, ack)
	if err != nil {
		s.fatalf("append: %v", err)
	}
	s.note("%s appends %d at %x… %d, asked for %s, reached %s", n.name, len(records), ref.Writer[:2], ref.Seq, ack, reached)
	for i := range records {
		at := taxonomy.Ref{Writer: ref.Writer, Seq: ref.Seq + uint64(i)}
		if reached >= retention.AckLocal {
			s.durable[at] = records[i]
		} else {
			s.maybe[at] = records[i]
		}
		if reached == retention.AckQuorum {
			s.quorum[at] = true
		}
	}
	if reached >= retention.AckLocal { // and all of the writer's before it
		for at, r := range s.maybe {
			if at.Writer == ref.Writer {
				s.durable[at] = r
				delete(s.maybe, at)
			}
		}
	}
}

func (s *clusterSim) tick(n *simNode) {
	if _, _, err := n.Append(ctx, 0, []taxonomy.Record{{Kind: taxonomy.RecordTick}}, retention.AckLocal); err != nil {
		s.fatalf("tick: %v", err)
	}
}

func (s *clusterSim) erase(n *simNode) {
	v := storetest.Visitor(s.rng.IntN(40))
	r := taxonomy.Record{Kind: taxonomy.RecordErasure, Received: s.clock.Now(), Space: taxonomy.SpaceCookie, Visitor: v}
	if _, _, err := n.Append(ctx, 0, []taxonomy.Record{r}, retention.AckLocal); err != nil {
		s.fatalf("erase: %v", err)
	}
	s.erased[v] = true
	s.note("%s erases a visitor", n.name)
}

var simAudiences = audience.NewCatalog([]audience.Versioned{{Version: 1, Definition: audience.Definition{
	ID: "seen", Title: "Seen", Kind: audience.KindRule, Rule: []byte(`{"trait":"c:t/seen"}`)}}})

type simRules struct{}

func (simRules) Version() uint32 { return 1 }
func (simRules) Classify(_ taxonomy.SiteID, _ *taxonomy.Event, dst []taxonomy.Trait) []taxonomy.Trait {
	return append(dst, taxonomy.CategoryTrait("t", "seen"))
}

// take tries to become the builder.
func (s *clusterSim) take(n *simNode) {
	lease, err := s.c.Leases().Take(ctx, "builder", n.name, simLeaseLife)
	if err != nil {
		return
	}
	if err := n.Confirm(); err != nil {
		s.note("%s takes the lease of term %d and cannot confirm its log", n.name, lease.Term)
		return
	}
	s.begun = max(s.begun, lease.Term)
	b := &simBuilder{lease: lease, renewed: s.clock.Now(), gens: audience.NewGenerations(s.c.Blobs(), s.c.Keyed(), audience.Options{Now: s.clock.Now})}
	if err = b.gens.Claim(ctx, lease.Term); err == nil {
		b.fold, err = fold.Open(ctx, fold.Options{Config: fold.Config{Shards: 2, Groups: 1, Erasure: func(k taxonomy.VisitorKey) (h [16]byte) {
			copy(h[:], k[:])
			slices.Reverse(h[:])
			return h
		}}, Log: n, Events: s.c.Events(), Keyed: s.c.Keyed(), Blobs: s.c.Blobs(), Rules: func() fold.Classifier { return simRules{} }, Term: lease.Term, BatchBytes: 4000,
			OnErased: func(_ context.Context, list []fold.Erased) error {
				keys := make([]taxonomy.VisitorKey, len(list))
				for i := range list {
					keys[i] = list[i].Visitor
				}
				return s.c.Events().Erase(ctx, keys)
			}})
	}
	s.note("%s takes the lease of term %d: %v", n.name, lease.Term, err)
	if err != nil {
		if !transient(err) && !builderIsOver(err) {
			s.fatalf("begin to build: %v", err)
		}
		return // the lease runs out
	}
	s.claims[lease.Term] = true
	n.build = b
	s.did["builders"]++
}

// work is one step of a node that believes that it has the lease: it looks at
// its clock before, unless it is frozen right behind that look.
func (s *clusterSim) work(n *simNode, frozen bool) {
	b := n.build
	if !frozen && s.clock.Now()-b.renewed >= taxonomy.Millis(simLeaseLife.Milliseconds())/2 {
		s.note("%s has not renewed its lease for half its life", n.name)
		n.build = nil
		return
	}
	var err error
	what := pick(s.rng, []string{"fold", "fold", "fold", "checkpoint", "publish", "close the dead"})
	if frozen {
		what = pick(s.rng, []string{"checkpoint", "publish"})
	}
	before := b.fold.View().Number()
	switch what {
	case "fold":
		_, err = b.fold.Poll(ctx)
	case "checkpoint":
		_, err = b.fold.Checkpoint(ctx)
	case "publish":
		build := audience.Builder{Generations: b.gens, Now: s.clock.Now}
		_, err = build.Run(ctx, audience.Job{View: b.fold.View(), Catalog: simAudiences, Sources: []taxonomy.SourceID{"web"}, Term: b.lease.Term})
	default:
		var ends []retention.WriterEnd
		if ends, err = n.End(ctx, 0, b.fold.Position()); err == nil {
			for _, e := range ends {
				if e.Open && e.Writer != n.Writer() {
					if end, cerr := n.CloseWriter(ctx, 0, e.Writer); cerr == nil {
						s.note("%s closes writer %s at %d", n.name, e.Writer, end)
						s.did["closed"]++
					} else if !errors.Is(cerr, retention.ErrHeld) && !strings.Contains(cerr.Error(), "could be copied") {
						s.fatalf("close a writer: %v", cerr)
					}
				}
			}
		}
	}
	s.note("%s does: %s (frozen %t): %v", n.name, what, frozen, err)
	s.did[what]++
	later := false
	for term := range s.claims {
		later = later || term > b.lease.Term
	}
	switch {
	case err == nil && later && (what == "publish" || what == "checkpoint" && b.fold.View().Number() > before):
		s.fatalf("a builder of term %d did %s after a later one had begun", b.lease.Term, what)
	case err == nil || transient(err):
	case builderIsOver(err):
		n.build = nil
		s.did["fenced"]++
	case s.begun > b.lease.Term: // its files were taken by its successor
		n.build = nil
		s.did["fenced"]++
	default:
		s.fatalf("%s: %v", what, err)
	}
}

func (s *clusterSim) renew(n *simNode) {
	asked := s.clock.Now()
	err := s.c.Leases().Renew(ctx, n.build.lease)
	switch {
	case err == nil:
		n.build.renewed = asked
	case errors.Is(err, retention.ErrHeld):
		s.note("%s finds that its lease is lost", n.name)
		n.build = nil
	}
}

func (s *clusterSim) step() {
	n := pick(s.rng, s.nodes)
	op := s.rng.IntN(100)
	switch {
	case op < 12:
		s.clock.Advance(taxonomy.Millis(s.rng.IntN(3000)))
	case op < 14: // everyone but the clock stands still
		s.clock.Advance(taxonomy.Millis(5000 + s.rng.IntN(30_000)))
	case n.Down():
		if op < 40 {
			n.Start()
			s.note("%s starts again", n.name)
		}
	case op < 36:
		s.append(n)
	case op < 37:
		s.erase(n)
	case op < 52:
		n.Upload(1 + s.rng.IntN(8))
	case op < 60:
		s.tick(n)
		_ = n.Beat() // what is unknown is said again
	case op < 62:
		n.Settle()
	case op < 65:
		n.Kill()
		n.build = nil
		s.did["kills"]++
		s.note("%s is killed", n.name)
	case n.build == nil:
		s.take(n)
	case op < 72:
		s.renew(n)
	case op < 76: // frozen after its last look at the clock, past its lease; others go on
		s.clock.Advance(taxonomy.Millis(simLeaseLife.Milliseconds()) + taxonomy.Millis(s.rng.IntN(5000)))
		others := slices.DeleteFunc(slices.Clone(s.nodes), func(o *simNode) bool { return o == n || o.Down() })
		for range s.rng.IntN(12) {
			if len(others) == 0 {
				break
			}
			o := pick(s.rng, others)
			if o.build == nil {
				s.take(o)
			} else {
				s.work(o, false)
			}
		}
		if n.build != nil {
			s.work(n, true)
			s.did["frozen"]++
		}
	default:
		s.work(n, false)
	}
}

// run lives for some steps, lets all trouble end, and compares.
func (s *clusterSim) run(steps int) {
	for range steps {
		s.step()
	}
	s.c.Trouble(0)
	s.note("all trouble ends")
	for _, n := range s.nodes {
		if n.Down() {
			n.Start()
		}
		if err := n.Beat(); err != nil { // who was closed begins anew
			s.fatalf("beat at the end: %v", err)
		}
	}
	var b *simNode
	for try := 0; b == nil; try++ {
		if try > 20 {
			s.fatalf("nobody can build any more")
		}
		s.clock.Advance(taxonomy.Millis(simLeaseLife.Milliseconds()) + 1)
		for _, n := range s.nodes {
			if err := n.Beat(); err != nil {
				s.fatalf("beat at the end: %v", err)
			}
			n.build = nil
		}
		n := pick(s.rng, s.nodes)
		if s.take(n); n.build != nil {
			b = n
		}
	}
	for _, n := range s.nodes {
		n.Settle()
		s.tick(n) // the clock of the fold waits for every writer that is open (R7)
		n.Upload(1 << 20)
		if err := n.Beat(); err != nil {
			s.fatalf("beat at the end: %v", err)
		}
	}
	for range 3 { // to the end of what is open and closed
		for {
			n, err := b.build.fold.Poll(ctx)
			if err != nil {
				s.fatalf("fold at the end: %v", err)
			}
			if n == 0 {
				break
			}
		}
		if _, err := b.build.fold.Checkpoint(ctx); err != nil {
			s.fatalf("checkpoint at the end: %v", err)
		}
	}
	s.compare(b)
}

func (s *clusterSim) compare(b *simNode) {
	// What is in the log, as a new node without a disk of its own sees it.
	reader := s.c.NewNode(false)
	log := map[taxonomy.Ref]taxonomy.Record{}
	at := retention.Position{}
	for {
		frames, err := reader.Follow(ctx, 0, at, 1<<20)
		if err != nil {
			s.fatalf("follow: %v", err)
		}
		if len(frames) == 0 {
			break
		}
		for i := range frames {
			f := &frames[i]
			if f.First != at[f.Writer]+1 {
				s.fatalf("a frame from %d came after %d", f.First, at[f.Writer])
			}
			at[f.Writer] = f.Last()
			for j := range f.Records {
				r := f.Records[j]
				if r.Kind != taxonomy.RecordEvent {
					continue
				}
				ref := taxonomy.Ref{Writer: f.Writer, Seq: f.First + uint64(j)}
				if !r.First.IsZero() {
					ref = r.First
				}
				if _, twice := log[ref]; twice {
					s.fatalf("R4: record %d of writer %s came twice", ref.Seq, ref.Writer)
				}
				log[ref] = r
			}
		}
	}
	// A builder folds its own node's records before they are copied. Those that no
	// row has, since the node was ended meanwhile, its checkpoint has.
	position := b.build.fold.Position()
	folded := func(first taxonomy.Ref) bool {
		return slices.ContainsFunc(append(s.c.CameBack(first), first), func(at taxonomy.Ref) bool { return at.Seq <= position[at.Writer] })
	}
	for _, known := range []map[taxonomy.Ref]taxonomy.Record{s.durable, s.maybe} {
		for ref, r := range known {
			if _, ok := log[ref]; !ok && folded(ref) {
				log[ref] = r
				s.did["only in a checkpoint"]++
			}
		}
	}
	for ref := range s.durable {
		if _, ok := log[ref]; !ok {
			s.fatalf("P1: record %d of writer %s was acknowledged (at quorum: %t) and is lost", ref.Seq, ref.Writer, s.quorum[ref])
		}
	}
	type copyOf struct {
		v  taxonomy.VisitorKey
		id taxonomy.EventID
	}
	distinct, visitors := map[copyOf]bool{}, map[taxonomy.VisitorKey]bool{}
	for ref, r := range log {
		if _, ok := s.durable[ref]; !ok {
			if _, ok := s.maybe[ref]; !ok {
				s.fatalf("record %d of writer %s was never appended", ref.Seq, ref.Writer)
			}
		}
		if !s.erased[r.Visitor] {
			distinct[copyOf{r.Visitor, r.Event.ID}] = true
			visitors[r.Visitor] = true
		}
	}
	f := b.build.fold
	t := f.Tallies()["shop"]
	dropped := uint64(0)
	for _, n := range t.Dropped {
		dropped += n
	}
	if t.Received != uint64(len(log)) || t.Received != t.Stored+t.Duplicate+dropped {
		s.fatalf("P2: the log has %d events; received %d = stored %d + duplicate %d + dropped %d", len(log), t.Received, t.Stored, t.Duplicate, dropped)
	}
	stored := map[copyOf]bool{}
	err := s.c.Events().Scan(ctx, 0, 1, 0, s.clock.Now().Day()+1, func(e *retention.StoredEvent) error {
		k := copyOf{e.Record.Visitor, e.Record.Event.ID}
		if stored[k] {
			return errors.New("an event is read twice")
		}
		stored[k] = true
		return nil
	})
	if err != nil {
		s.fatalf("R10: %v", err)
	}
	for k := range distinct {
		if !stored[k] {
			s.fatalf("P1: an event of the log is not stored")
		}
	}
	for k := range stored {
		if !distinct[k] && !s.erased[k.v] {
			s.fatalf("an event is stored that is not in the log")
		}
	}
	build := audience.Builder{Generations: b.build.gens, Now: s.clock.Now}
	built, err := build.Run(ctx, audience.Job{View: f.View(), Catalog: simAudiences, Sources: []taxonomy.SourceID{"web"}, Term: b.build.lease.Term})
	if err != nil {
		s.fatalf("build at the end: %v", err)
	}
	if e, _ := built.Generation.Entry("seen"); e.Count != uint64(len(visitors)) {
		s.fatalf("P7: the audience counts %d visitors, the log has %d", e.Count, len(visitors))
	}
	refs, err := b.build.gens.List(ctx)
	if err != nil {
		s.fatalf("%v", err)
	}
	for i := 1; i < len(refs); i++ {
		if refs[i].Term > refs[i-1].Term {
			s.fatalf("P8: generation %v of term %d stands behind %v of term %d", refs[i], refs[i].Term, refs[i-1], refs[i-1].Term)
		}
	}
	s.did["events"] += len(log)
	s.did["brought back"] += broughtBack(log, at)
}

func broughtBack(log map[taxonomy.Ref]taxonomy.Record, _ retention.Position) (n int) {
	for _, r := range log {
		if !r.First.IsZero() {
			n++
		}
	}
	return n
}

// Several edges, one builder at a time, over a model of Cassandra that answers
// late, not at all, or twice: R1 to R6, R8.
func TestSimulatorOverAModelOfTheCluster(t *testing.T) {
	did := map[string]int{}
	list := seeds(t, *clusterSeeds)
	for _, seed := range list {
		s := newClusterSim(t, seed)
		s.run(400)
		for k, n := range s.did {
			did[k] += n
		}
	}
	t.Logf("%d seeds from %d: %v", len(list), list[0], sortedNames(did))
	if len(list) >= 20 {
		for _, k := range []string{"builders", "kills", "closed", "fenced", "frozen", "brought back", "publish", "checkpoint"} {
			if did[k] == 0 {
				t.Errorf("in %d seeds there was never: %s", len(list), k)
			}
		}
	}
}
