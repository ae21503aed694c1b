package simtest

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/deliverytest"
	"github.com/ebb-dmp/ebb/segments/fold"
	"github.com/ebb-dmp/ebb/taxonomy"
)

var clusterSeeds = flag.Uint64("cluster-seeds", 20, "seeds of the simulator over the model of a cluster")

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
	m       *model // its audiences, destinations and what is withdrawn; its visitors come at the end
	serial  int
	claims  map[uint64]bool // terms whose builder has claimed both heads
	begun   uint64          // the highest term whose builder has begun to

	// Deliveries.
	dests          map[taxonomy.DestinationID]delivery.Destination
	pulled         *dsp
	pushed         *deliverytest.Partner
	names          io.Reader       // by which files are named
	claimed, tried uint64          // the highest term that has claimed all destinations, and that has begun to
	forgotten      map[string]bool // IDs of those whom the eraser has taken out of all deliveries
	standing       bool            // a node stands still, and others go on
	calm           bool            // nothing goes wrong any more

	trace []string
	did   map[string]int
}

type simNode struct {
	*storetest.ClusterNode
	name    string
	store   *nodeStore  // of the process that runs
	build   *simBuilder // while it believes that it has the builder's lease
	deliver *simDeliverer
}

type simBuilder struct {
	lease   retention.Lease
	renewed taxonomy.Millis
	fold    *fold.Fold
	eraser  *forget.Eraser
}

func newClusterSim(t testing.TB, seed uint64) *clusterSim {
	s := &clusterSim{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 4)), clock: storetest.NewClock(start), durable: map[taxonomy.Ref]taxonomy.Record{},
		maybe: map[taxonomy.Ref]taxonomy.Record{}, quorum: map[taxonomy.Ref]bool{}, erased: map[taxonomy.VisitorKey]bool{}, m: newModel(), claims: map[uint64]bool{}, did: map[string]int{}}
	s.c = storetest.NewCluster(seed, s.clock.Now, simWriterLife)
	s.m.audiences = map[string]*node{"a": {op: "trait", trait: "c:sim/sport", days: 30}, "b": randomRule(s.rng, 2), "c": randomRule(s.rng, 1)}
	names := slices.Sorted(maps.Keys(s.m.audiences))
	s.dests = simDestinations(names)
	for id, d := range s.dests {
		s.m.dests[id] = &destModel{audiences: names, floor: int(d.Floor)}
	}
	s.newPartners()
	for i := range 2 + s.rng.IntN(3) {
		n := &simNode{ClusterNode: s.c.NewNode(false), name: fmt.Sprintf("n%d", i)}
		s.boot(n)
		s.nodes = append(s.nodes, n)
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

// append records what some visitors do, or whom they let have what; sometimes it is
// what a browser sends again, to another edge. No two are received at one time.
func (s *clusterSim) append(n *simNode) {
	ack := pick(s.rng, []retention.Ack{retention.AckNone, retention.AckLocal, retention.AckLocal, retention.AckQuorum})
	var records []taxonomy.Record
	for range 1 + s.rng.IntN(4) {
		s.clock.Advance(1)
		now := s.clock.Now()
		s.serial++
		which := s.serial
		if s.serial > 10 && s.rng.IntN(6) == 0 {
			which = s.serial - s.rng.IntN(10)
		}
		r := taxonomy.Record{Kind: taxonomy.RecordEvent, Received: now, Site: "shop", Source: "web", Space: taxonomy.SpaceCookie,
			Visitor: storetest.Visitor(which % 40), Returning: true,
			Consent: taxonomy.Consent{Day: now.Day(), Regime: taxonomy.RegimeOptIn, Signal: taxonomy.SignalExplicit, Purposes: taxonomy.MayAll}}
		switch s.rng.IntN(12) {
		case 0:
			r.Consent.Destinations = []taxonomy.DestinationID{pick(s.rng, slices.Sorted(maps.Keys(s.dests)))}
		case 1:
			r.Consent.Purposes &^= taxonomy.MayExport
		}
		if s.rng.IntN(8) == 0 {
			r.Kind = taxonomy.RecordConsent
		} else {
			r.Event = &taxonomy.Event{Time: now, Kind: taxonomy.EventPage, Name: categories[which%len(categories)]}
			binary.BigEndian.PutUint64(r.Event.ID[:], uint64(which))
			if which%5 == 0 {
				r.Source = "ally"
			}
		}
		records = append(records, r)
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

type simRules struct{}

func (simRules) Version() uint32 { return 1 }
func (simRules) Classify(_ taxonomy.SiteID, e *taxonomy.Event, dst []taxonomy.Trait) []taxonomy.Trait {
	for _, t := range parents(e.Name) {
		dst = append(dst, taxonomy.Trait(t))
	}
	return dst
}

func simErasure(k taxonomy.VisitorKey) (h [16]byte) {
	copy(h[:], k[:])
	slices.Reverse(h[:])
	return h
}

func (s *clusterSim) foldOptions(n *simNode) fold.Options {
	return fold.Options{Config: fold.Config{Shards: 2, Groups: 1, Erasure: simErasure}, Events: n.store.Events(), Keyed: n.store.Keyed(), Blobs: n.store.Blobs(),
		Rules: func() fold.Classifier { return simRules{} }, BatchBytes: 4000}
}

// take tries to become the builder.
func (s *clusterSim) take(n *simNode) {
	lease, err := n.store.Leases().Take(ctx, "builder", n.name, simLeaseLife)
	if err != nil {
		return
	}
	if err := n.Confirm(); err != nil {
		s.note("%s takes the lease of term %d and cannot confirm its log", n.name, lease.Term)
		return
	}
	s.begun = max(s.begun, lease.Term)
	b := &simBuilder{lease: lease, renewed: s.clock.Now(), eraser: s.newEraser(n)}
	s.risk(n)
	if err = n.deliver.gens.Claim(ctx, lease.Term); err == nil {
		o := s.foldOptions(n)
		o.Log, o.Term = n, lease.Term
		o.OnErased = func(ctx context.Context, list []fold.Erased) error {
			queue := make([]forget.Erasure, len(list))
			for i, e := range list {
				queue[i] = forget.Erasure{Visitor: e.Visitor, Space: e.Space, At: e.At}
			}
			return b.eraser.Queue(ctx, queue)
		}
		b.fold, err = fold.Open(ctx, o)
	}
	s.note("%s takes the lease of term %d: %v", n.name, lease.Term, err)
	if s.over(n) {
		return
	}
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

// publish builds a generation of the last checkpoint.
func (s *clusterSim) publish(n *simNode) error {
	var defined []audience.Versioned
	for _, name := range slices.Sorted(maps.Keys(s.m.audiences)) {
		defined = append(defined, audience.Versioned{Version: 1, Definition: audience.Definition{
			ID: taxonomy.AudienceID(name), Title: name, Kind: audience.KindRule, Rule: []byte(s.m.audiences[name].json())}})
	}
	sources := []taxonomy.SourceID{"ally", "web"}
	if s.m.withdrawn["ally"] {
		sources = sources[1:]
	}
	build := audience.Builder{Generations: n.deliver.gens, Now: s.clock.Now}
	built, err := build.Run(ctx, audience.Job{View: n.build.fold.View(), Catalog: audience.NewCatalog(defined), Sources: sources, Term: n.build.lease.Term})
	if err == nil {
		n.deliver.current = built.Generation
	}
	return err
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
	what := pick(s.rng, []string{"fold", "fold", "fold", "fold", "checkpoint", "checkpoint", "publish", "publish", "close the dead", "erase soon", "night"})
	if frozen {
		what = pick(s.rng, []string{"checkpoint", "publish", "erase soon"})
	}
	before := b.fold.View().Number()
	s.risk(n)
	switch what {
	case "fold":
		_, err = b.fold.Poll(ctx)
	case "checkpoint":
		_, err = b.fold.Checkpoint(ctx)
	case "publish":
		err = s.publish(n)
	case "erase soon":
		var k int
		if k, err = b.eraser.Soon(ctx); k > 0 {
			s.did["erased soon"]++
		}
	case "night":
		err = s.night(n)
	default:
		err = s.closeDead(n)
	}
	s.note("%s does: %s (frozen %t): %v", n.name, what, frozen, err)
	s.did[what]++
	if s.over(n) {
		return
	}
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

// closeDead closes the writers of nodes that are silent.
func (s *clusterSim) closeDead(n *simNode) error {
	ends, err := n.End(ctx, 0, n.build.fold.Position())
	if err != nil {
		return err
	}
	for _, e := range ends {
		if !e.Open || e.Writer == n.Writer() {
			continue
		}
		if end, err := n.CloseWriter(ctx, 0, e.Writer); err == nil {
			s.note("%s closes writer %s at %d", n.name, e.Writer, end)
			s.did["closed"]++
		} else if !errors.Is(err, retention.ErrHeld) && !strings.Contains(err.Error(), "could be copied") {
			s.fatalf("close a writer: %v", err)
		}
	}
	return nil
}

func (s *clusterSim) renew(n *simNode) {
	asked := s.clock.Now()
	err := n.store.Leases().Renew(ctx, n.build.lease)
	switch {
	case err == nil:
		n.build.renewed = asked
	case errors.Is(err, retention.ErrHeld):
		s.note("%s finds that its lease is lost", n.name)
		n.build = nil
	}
}

func (s *clusterSim) kill(n *simNode) {
	n.Kill()
	n.build, n.deliver.lease = nil, nil
	s.did["kills"]++
	s.note("%s is killed", n.name)
}

func (s *clusterSim) start(n *simNode) {
	n.Start()
	s.boot(n)
	s.note("%s starts again", n.name)
}

// days lets hours or days pass. What is sent again comes within the same day.
func (s *clusterSim) days(d taxonomy.Millis) {
	s.clock.Advance(d)
	s.serial += 10
	s.note("hours pass")
}

func (s *clusterSim) step() {
	n := pick(s.rng, s.nodes)
	op := s.rng.IntN(100)
	if s.rng.IntN(4) > 0 { // most is done by those who hold the leases
		if i := slices.IndexFunc(s.nodes, func(n *simNode) bool {
			return op >= 57 && (op < 73 && n.deliver.lease != nil || op >= 73 && n.build != nil)
		}); i >= 0 {
			n = s.nodes[i]
		}
	}
	switch {
	case op < 10:
		s.clock.Advance(taxonomy.Millis(s.rng.IntN(3000)))
	case op < 11: // everyone but the clock stands still
		s.clock.Advance(taxonomy.Millis(5000 + s.rng.IntN(30_000)))
	case op < 12:
		if d := pick(s.rng, []taxonomy.Millis{taxonomy.Hour, 7 * taxonomy.Hour, taxonomy.OneDay, 9 * taxonomy.OneDay}); s.clock.Now()-start < 60*taxonomy.OneDay {
			s.days(d)
		}
	case n.Down():
		if op < 50 {
			s.start(n)
		}
	case op < 27:
		s.append(n)
	case op < 29:
		s.erase(n)
	case op < 38:
		n.Upload(1 + s.rng.IntN(8))
	case op < 44:
		s.tick(n)
		_ = n.Beat() // what is unknown is said again
	case op < 46:
		n.Settle()
	case op < 47:
		s.kill(n)
	case op < 48:
		s.m.withdrawn["ally"] = !s.m.withdrawn["ally"]
	case op < 53:
		s.look(n)
	case op < 56:
		s.partnersAct(n)
	case op < 57:
		s.deliver(n, true)
	case op < 73 && (n.deliver.lease == nil || s.due(n.deliver.renewed)):
		s.tendDeliveries(n)
	case op < 73:
		s.deliver(n, false)
	case n.build == nil:
		s.take(n)
	case op < 75: // frozen after its last look at the clock, past its lease; others go on
		if s.meanwhile(n); n.build != nil {
			s.work(n, true)
			s.did["frozen"]++
		}
	case s.due(n.build.renewed):
		s.renew(n)
	default:
		s.work(n, false)
	}
}

// due reports whether a lease is to be renewed; now and then that is forgotten.
func (s *clusterSim) due(renewed taxonomy.Millis) bool {
	return s.clock.Now()-renewed >= taxonomy.Millis(simLeaseLife.Milliseconds())/4 && s.rng.IntN(5) > 0
}

// run lives for some steps, lets all trouble end, and compares.
func (s *clusterSim) run(steps int) {
	for range steps {
		s.step()
	}
	s.c.Trouble(0)
	s.calm = true
	s.note("all trouble ends")
	for _, n := range s.nodes {
		if n.Down() {
			s.start(n)
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
	s.foldAll(b)
	s.compare(b)
	s.cycle(b)
}

// foldAll folds all that there is, and makes it a checkpoint.
func (s *clusterSim) foldAll(b *simNode) {
	for _, n := range s.nodes {
		n.Settle()
		s.tick(n) // the clock of the fold waits for every writer that is open (R7)
		n.Upload(1 << 20)
		if err := n.Beat(); err != nil {
			s.fatalf("beat at the end: %v", err)
		}
	}
	for range 3 { // to the end of what is open and closed
		if err := s.closeDead(b); err != nil {
			s.fatalf("close the dead at the end: %v", err)
		}
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
}

// Several edges, one builder at a time, over a model of Cassandra that answers
// late, not at all, or twice: R1 to R6, R8; and one deliverer at a time, to a partner
// that pulls and one that is pushed to: P6, P8, R25, R26, R31.
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
		for _, k := range []string{"builders", "kills", "closed", "fenced", "frozen", "brought back", "publish", "checkpoint", "night",
			"erased soon", "died at work", "deliverers", "frozen deliverers", "thawed", "stale", "delivered full", "delivered delta"} {
			if did[k] == 0 {
				t.Errorf("in %d seeds there was never: %s", len(list), k)
			}
		}
	}
}
