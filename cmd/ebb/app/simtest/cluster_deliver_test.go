package simtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/deliverytest"
	"github.com/ebb-dmp/ebb/segments/delivery/format/tsv"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/pull"
	"github.com/ebb-dmp/ebb/segments/fold"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// What stands here is the part of a simulated cluster that delivers: whoever holds
// the deliverer's lease, to a partner that pulls and to one that is pushed to, each
// by the last checkpoint and generation that its node has read; and the builder's
// eraser, which takes out of what was delivered who must be forgotten.

// simDestinations are the two receivers.
func simDestinations(audiences []string) map[taxonomy.DestinationID]delivery.Destination {
	var list []taxonomy.AudienceID
	for _, a := range audiences {
		list = append(list, taxonomy.AudienceID(a))
	}
	pulled := delivery.Destination{ID: "pulled", Title: "Pulled", Audiences: list, Floor: 1}
	pushed := delivery.Destination{ID: "pushed", Title: "Pushed", Audiences: list, Floor: 2, Transport: "push", Format: "few"}
	return map[taxonomy.DestinationID]delivery.Destination{"pulled": pulled.WithDefaults(), "pushed": pushed.WithDefaults()}
}

// simDeliverer is a node's part in delivering.
type simDeliverer struct {
	*delivery.Deliverer
	gens *audience.Generations

	// What the node has read last. Behind it others go on.
	follows *fold.Fold
	current *audience.Generation

	lease   *retention.Lease // while it believes that it has the deliverer's
	renewed taxonomy.Millis
	run     *simRun // that is under way
}

// simRun is a delivery that is under way.
type simRun struct {
	term  uint64
	dest  taxonomy.DestinationID
	fault string
	// forgotten are those whom the first pass of their erasure had dealt with when
	// the head was swapped last.
	forgotten map[string]bool
}

// boot is a process that starts: it knows what it reads.
func (s *clusterSim) boot(n *simNode) {
	n.store = &nodeStore{of: s.c}
	n.build = nil
	n.deliver = &simDeliverer{gens: audience.NewGenerations(n.store.Blobs(), n.store.Keyed(), audience.Options{Now: s.clock.Now})}
	var err error
	n.deliver.Deliverer, err = delivery.New(delivery.Options{
		Keyed: n.store.Keyed(), Blobs: n.store.Blobs(), Pseudonym: simPseudonym,
		View:       func(context.Context) (audience.View, error) { return s.newest(n) },
		Formats:    map[string]delivery.Format{"tsv": tsv.Format{}, "few": deliverytest.Chunked{Format: tsv.Format{}, MaxRows: 3}},
		Transports: map[string]delivery.Transport{"pull": pull.Transport{}, "push": simSend{s.pushed, s, n}},
		Now:        s.clock.Now, Rand: s.names,
	})
	if err != nil {
		s.fatalf("new deliverer: %v", err)
	}
	n.store.swapped = func(space retention.KeyedSpace) {
		if r := n.deliver.run; r != nil && space.Name == delivery.Space.Name {
			if r.forgotten = maps.Clone(s.forgotten); r.term < s.claimed {
				r.fault = fmt.Sprintf("a deliverer of term %d swapped the head of %s after one of term %d had claimed it", r.term, r.dest, s.claimed)
			}
		}
	}
}

func simPseudonym(d taxonomy.DestinationID, epoch uint32, k taxonomy.VisitorKey) string {
	h := sha256.Sum256(fmt.Appendf(nil, "%s %d %x", d, epoch, k))
	return hex.EncodeToString(h[:16])
}

// simSend is the way from a node to the partner that is pushed to.
type simSend struct {
	*deliverytest.Partner
	s *clusterSim
	n *simNode
}

func (t simSend) Send(ctx context.Context, d *delivery.Destination, c *delivery.Chunk) error {
	stood, err := t.n.store.step()
	if err != nil {
		return err
	}
	r := t.n.deliver.run
	if !stood { // what it was just sending may arrive late
		if r.term < t.s.claimed {
			r.fault = fmt.Sprintf("a deliverer of term %d began to send to %s after one of term %d had claimed it", r.term, d.ID, t.s.claimed)
		}
		rows, err := deliverytest.Rows(c)
		if err != nil {
			r.fault = err.Error()
		}
		r.comesBack(rows, t.s.forgotten)
	}
	return t.Partner.Send(ctx, d, c)
}

// comesBack notes if a row adds somebody who was forgotten.
func (r *simRun) comesBack(rows []deliverytest.Row, forgotten map[string]bool) {
	for _, row := range rows {
		if !row.Remove && forgotten[row.ID] {
			r.fault = fmt.Sprintf("P6: a delivery to %s adds somebody to %s whom the eraser had taken out of all deliveries", r.dest, row.Audience)
		}
	}
}

// newest is the last checkpoint that was committed, by whomever.
func (s *clusterSim) newest(n *simNode) (audience.View, error) {
	number, err := fold.Latest(ctx, n.store.Keyed(), 0)
	switch {
	case err != nil:
		return nil, err
	case n.build != nil && number > n.build.fold.View().Number():
		return nil, errBehind
	case n.build != nil:
		return n.build.fold.View(), nil
	}
	if f := n.deliver.follows; f == nil || number > f.View().Number() {
		if err := s.follow(n); err != nil {
			return nil, err
		}
	}
	return n.deliver.follows.View(), nil
}

var errBehind = errors.New("another node builds")

// follow reads the last checkpoint.
func (s *clusterSim) follow(n *simNode) error {
	f, err := fold.Follow(ctx, s.foldOptions(n), n.deliver.follows)
	if err == nil {
		n.deliver.follows = f
	}
	return err
}

// look reads what others have published, or a part of it.
func (s *clusterSim) look(n *simNode) {
	if n.build == nil && s.rng.IntN(2) == 0 {
		if err := s.follow(n); err != nil {
			s.fatalf("%s follows: %v", n.name, err)
		}
	}
	if s.rng.IntN(3) == 0 {
		return
	}
	refs, err := n.deliver.gens.List(ctx)
	if err == nil && len(refs) > 0 {
		n.deliver.current, err = n.deliver.gens.Open(ctx, refs[0])
	}
	if err != nil {
		s.fatalf("%s looks for generations: %v", n.name, err)
	}
}

// tendDeliveries takes the deliverer's lease, or renews it.
func (s *clusterSim) tendDeliveries(n *simNode) {
	d, asked := n.deliver, s.clock.Now()
	if d.lease != nil {
		switch err := n.store.Leases().Renew(ctx, *d.lease); {
		case err == nil:
			d.renewed = asked
		case errors.Is(err, retention.ErrHeld):
			d.lease = nil
		}
		return
	}
	lease, err := n.store.Leases().Take(ctx, "deliverer", n.name, simLeaseLife)
	if err != nil {
		return
	}
	s.tried = max(s.tried, lease.Term)
	s.risk(n)
	err = d.Claim(ctx, lease.Term, slices.Sorted(maps.Keys(s.dests)))
	s.note("%s takes the deliverer's lease of term %d: %v", n.name, lease.Term, err)
	if s.over(n) || transient(err) || errors.Is(err, delivery.ErrStale) {
		return // the lease runs out
	}
	if err != nil {
		s.fatalf("claim: %v", err)
	}
	s.claimed = max(s.claimed, lease.Term)
	d.lease, d.renewed = &lease, asked
	s.did["deliverers"]++
}

// deliver is a step of whoever believes that it has the deliverer's lease, or of a
// command on any node. Now and then the node stands still in the middle of it for
// longer than the lease lives, and the others go on.
func (s *clusterSim) deliver(n *simNode, command bool) {
	d := n.deliver
	src := delivery.Source{Members: d.gens.Members}
	term := s.claimed
	if !command {
		if s.clock.Now()-d.renewed >= taxonomy.Millis(simLeaseLife.Milliseconds())/2 {
			s.note("%s has not renewed the deliverer's lease for half its life", n.name)
			d.lease = nil
			return
		}
		src.Term, term = d.lease.Term, d.lease.Term
	}
	if src.Generation = d.current; src.Generation == nil {
		return
	}
	var err error
	if src.View, err = s.newest(n); errors.Is(err, errBehind) {
		return
	} else if err != nil {
		s.fatalf("%s follows: %v", n.name, err)
	}
	dest := s.dests[pick(s.rng, slices.Sorted(maps.Keys(s.dests)))]
	stands := false
	if s.risk(n); s.rng.IntN(4) == 0 && !s.standing {
		at := 1 + s.rng.IntN(16)
		n.store.still, n.store.stand = at, func() {
			stands = true
			s.did["frozen deliverers"]++
			if s.meanwhile(n); command && at == 1 {
				d.run.term = s.claimed // it goes under the term that it reads now
			}
		}
	}
	done := s.deliverTo(n, dest, src, term)
	s.did["delivered "+done.Result]++
	if stands && done.Result != "" {
		s.did["thawed"]++
	}
}

// deliverTo makes one delivery and looks at what it said.
func (s *clusterSim) deliverTo(n *simNode, dest delivery.Destination, src delivery.Source, term uint64) delivery.Delivery {
	d := n.deliver
	run := &simRun{term: term, dest: dest.ID}
	d.run = run
	done, err := d.Run(ctx, dest, src)
	d.run = nil
	s.note("%s delivers generation %d to %s under term %d: %s, %d rows: %v", n.name, src.Generation.Number, dest.ID, term, done.Result, done.Rows, err)
	died := s.over(n)
	if err == nil && done.File != "" && dest.ID == "pulled" && done.Result != delivery.ResultDelivered {
		body, _, state, err := d.Open(ctx, dest.ID, done.File)
		if err != nil {
			s.fatalf("open what was published: %v", err)
		}
		if state == delivery.FileServed {
			rows, err := deliverytest.ReadRows(io.NewSectionReader(body, 0, body.Blob().Bytes))
			if err != nil {
				s.fatalf("%s: %v", done.File, err)
			}
			run.comesBack(rows, run.forgotten)
		}
	}
	if run.fault != "" {
		s.fatalf("%s", run.fault)
	}
	if s.pushed.Fault != nil {
		s.fatalf("the partner that is pushed to: %v", s.pushed.Fault)
	}
	switch {
	case err == nil || died || transient(err):
	case errors.Is(err, delivery.ErrStale):
		if term >= s.claimed && term > 0 && !s.unsureClaim(term) {
			s.fatalf("%s was told that a later term than %d had claimed, and none had", n.name, term)
		}
		d.lease = nil
		s.did["stale"]++
	case errors.Is(err, retention.ErrNotFound) || errors.Is(err, retention.ErrConflict) || errors.Is(err, errBehind):
		// What it read has been replaced from under it.
		s.did["from under it"]++
	default:
		s.fatalf("deliver: %v", err)
	}
	return done
}

// unsureClaim reports whether a later term may have claimed without being told so.
func (s *clusterSim) unsureClaim(term uint64) bool { return s.tried > term }

// risk lets a node die during what it does next, now and then.
func (s *clusterSim) risk(n *simNode) {
	if s.rng.IntN(10) == 0 && !s.calm {
		n.store.dies, n.store.late = 1+s.rng.IntN(20), s.rng.IntN(2) == 0
	}
}

// over ends a risk, and reports whether the node died of it.
func (s *clusterSim) over(n *simNode) bool {
	if !n.store.fine() {
		return false
	}
	s.did["died at work"]++
	s.kill(n)
	return true
}

// meanwhile lets the others go on until a lease that a node has is long over.
func (s *clusterSim) meanwhile(n *simNode) {
	s.note("%s stands still", n.name)
	s.standing = true
	s.clock.Advance(taxonomy.Millis(simLeaseLife.Milliseconds()) + taxonomy.Millis(s.rng.IntN(5000)))
	others := slices.DeleteFunc(slices.Clone(s.nodes), func(o *simNode) bool { return o == n || o.Down() })
	for range s.rng.IntN(20) {
		if len(others) == 0 {
			break
		}
		o := pick(s.rng, others)
		switch op := s.rng.IntN(10); {
		case o.Down():
		case op < 1:
			s.erase(o)
		case op < 2:
			s.look(o)
		case op < 5 && o.deliver.lease == nil:
			s.tendDeliveries(o)
		case op < 5:
			s.deliver(o, false)
		case o.build == nil:
			s.take(o)
		default:
			s.work(o, false)
		}
	}
	s.standing = false
	s.note("%s goes on", n.name)
}

// holders are what the eraser and the night's pass of a builder call, in order; the
// last notes who is surely in no delivery from then on.
func (s *clusterSim) holders(n *simNode) []forget.Holder {
	nothing := func(context.Context, []taxonomy.VisitorKey) error { return nil }
	deliveries := n.deliver.Holder()
	deliveries.Soon = n.deliver.Forget
	generations := n.deliver.gens.Holder(func() (audience.View, error) { return n.build.fold.View(), nil }, func() uint64 { return n.build.lease.Term })
	generations.Soon = nothing
	events := n.store.Events()
	witness := func(_ context.Context, visitors []taxonomy.VisitorKey) error {
		for _, v := range visitors {
			for id := range s.dests {
				s.forgotten[simPseudonym(id, 0, v)] = true
			}
		}
		return nil
	}
	return []forget.Holder{deliveries, generations,
		{Name: "fold", Soon: nothing,
			ExpireBefore: func(ctx context.Context, _ taxonomy.Day) error { _, err := n.build.fold.Rewrite(ctx); return err },
			Erase: func(ctx context.Context, visitors []taxonomy.VisitorKey) error {
				n.build.fold.Forget(visitors)
				_, err := n.build.fold.Rewrite(ctx)
				return err
			}},
		{Name: "events", Erase: events.Erase},
		{Name: "witness", Erase: witness},
	}
}

// newEraser is that of a node that begins to build.
func (s *clusterSim) newEraser(n *simNode) *forget.Eraser {
	return &forget.Eraser{Keyed: n.store.Keyed(), Holders: s.holders(n), Now: s.clock.Now, Hash: simErasure,
		Before: func(ctx context.Context, list []forget.Erasure) ([]taxonomy.VisitorKey, error) {
			f := n.build.fold
			for {
				if k, err := f.Poll(ctx); err != nil {
					return nil, err
				} else if k == 0 {
					break
				}
			}
			var lost []fold.Erasure
			for _, e := range list {
				if h := simErasure(e.Visitor); !f.Knows(h, e.At) {
					lost = append(lost, fold.Erasure{Hash: h, Space: e.Space, At: e.At})
					s.did["known by the queue alone"]++
				}
			}
			f.Restore(lost)
			_, err := f.Checkpoint(ctx)
			return nil, err
		}}
}

// night is the nightly pass of the builder.
func (s *clusterSim) night(n *simNode) error {
	if _, err := n.build.eraser.Night(ctx); err != nil {
		return err
	}
	sweeper := forget.Sweeper{Holders: n.build.eraser.Holders}
	return sweeper.Sweep(ctx, s.clock.Now().Day())
}

// partnersAct lets the partners do what they do by themselves.
func (s *clusterSim) partnersAct(n *simNode) {
	switch s.rng.IntN(4) {
	case 0:
		s.pushed.CatchUp()
	case 1: // its clock is ahead, or it loses some
		for _, r := range slices.Sorted(maps.Keys(s.pushed.Ends)) {
			if s.rng.IntN(4) == 0 {
				delete(s.pushed.Ends, r)
			}
		}
	default:
		s.pull(n)
	}
}

// pull lets the partner that pulls do so, at any node.
func (s *clusterSim) pull(n *simNode) {
	files := delivery.FilesPath(s.pulled.id)
	err := s.pulled.pull(s.clock.Now(), func(path string) ([]byte, error) {
		if path == files {
			m, err := n.deliver.Manifest(ctx, s.pulled.id)
			if err != nil {
				return nil, err
			}
			return m.JSON()
		}
		r, _, state, err := n.deliver.Open(ctx, s.pulled.id, strings.TrimPrefix(path, files+"/"))
		if err != nil || state != delivery.FileServed {
			return nil, fmt.Errorf("%s: %w", state, err)
		}
		defer r.Close()
		return io.ReadAll(io.NewSectionReader(r, 0, r.Blob().Bytes))
	})
	s.note("the partner pulls at %s and holds %d", n.name, len(s.pulled.holds))
	if err != nil {
		s.fatalf("the partner pulls: %v", err)
	}
}

// newPartners makes both, of which every other seed's tells the truth.
func (s *clusterSim) newPartners() {
	s.pulled, s.pushed = newDSP("pulled"), deliverytest.NewPartner()
	fates := deliverytest.Honest
	if s.seed%2 == 0 {
		fates = deliverytest.AllFates
	}
	drawn := deliverytest.Seeded(s.seed, fates)
	s.pushed.Fate = func(c *delivery.Chunk) deliverytest.Fate {
		if s.calm {
			return deliverytest.Takes
		}
		return drawn(c)
	}
	s.names = &lockedRand{r: rand.NewChaCha8(chachaSeed(s.seed))}
	s.forgotten = map[string]bool{}
}
