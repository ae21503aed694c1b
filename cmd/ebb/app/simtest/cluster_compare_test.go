package simtest

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

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
				if r.Kind != taxonomy.RecordEvent && r.Kind != taxonomy.RecordConsent {
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
	distinct, events := map[copyOf]bool{}, 0
	for ref, r := range log {
		if _, ok := s.durable[ref]; !ok {
			if _, ok := s.maybe[ref]; !ok {
				s.fatalf("record %d of writer %s was never appended", ref.Seq, ref.Writer)
			}
		}
		if r.Kind != taxonomy.RecordEvent {
			continue
		}
		events++
		if !s.erased[r.Visitor] {
			distinct[copyOf{r.Visitor, r.Event.ID}] = true
		}
	}
	f := b.build.fold
	t := f.Tallies()["shop"]
	dropped := uint64(0)
	for _, n := range t.Dropped {
		dropped += n
	}
	if t.Received != uint64(events) || t.Received != t.Stored+t.Duplicate+dropped {
		s.fatalf("P2: the log has %d events; received %d = stored %d + duplicate %d + dropped %d", events, t.Received, t.Stored, t.Duplicate, dropped)
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
	s.remember(log)
	s.did["events"] += events
	s.did["brought back"] += broughtBack(log)
}

func broughtBack(log map[taxonomy.Ref]taxonomy.Record) (n int) {
	for _, r := range log {
		if !r.First.IsZero() {
			n++
		}
	}
	return n
}

// remember tells the model all that the log has.
func (s *clusterSim) remember(log map[taxonomy.Ref]taxonomy.Record) {
	for v := range s.erased {
		s.m.visitor(v).erased = true
	}
	order := slices.SortedFunc(maps.Values(log), func(a, b taxonomy.Record) int { return cmp.Compare(a.Received, b.Received) })
	for i := range order {
		r := &order[i]
		v := s.m.visitor(r.Visitor)
		if r.Kind == taxonomy.RecordEvent {
			s.m.add(v, event{site: r.Site, source: r.Source, id: string(r.Event.ID[:]), at: r.Event.Time, received: r.Received, cat: r.Event.Name})
		}
		limited := r.Consent.Destinations
		if !r.Consent.Purposes.Has(taxonomy.MayExport) {
			limited = []taxonomy.DestinationID{}
		}
		s.m.came(v, r.Received, true, limited)
	}
}

// cycle lets four nights pass, in which nothing goes wrong, and compares on the
// last: the audiences, what the partners hold, and what the ledgers say.
func (s *clusterSim) cycle(b *simNode) {
	s.pushed.CatchUp()
	for night := range forget.Nights {
		s.days((s.clock.Now().Day() + 1).Start() + 12*taxonomy.Hour - s.clock.Now())
		s.foldAll(b)
		if err := s.night(b); err != nil {
			s.fatalf("night at the end: %v", err)
		}
		if err := s.publish(b); err != nil {
			s.fatalf("build at the end: %v", err)
		}
		if night == 0 || night == forget.Nights-1 {
			s.deliverAll()
		}
	}
	today := b.build.fold.View().Clock().Day()
	if today != s.clock.Now().Day() {
		s.fatalf("R7: the fold's day is %s, today %s", today, s.clock.Now().Day())
	}
	for name, rule := range s.m.audiences {
		e, _ := b.deliver.current.Entry(taxonomy.AudienceID(name))
		if want := len(s.m.members(rule, today)); e.Count != uint64(want) {
			s.fatalf("P7: audience %s %s counts %d visitors, the model %d", name, rule.json(), e.Count, want)
		}
	}
	s.pull(b)
	for id := range s.dests {
		want := s.m.held(id, today, func(k taxonomy.VisitorKey) string { return simPseudonym(id, 0, k) })
		holds := s.pulled.holds
		if id == "pushed" {
			holds = s.pushedHolds(want)
		}
		if err := compareHeld(holds, want); err != nil {
			s.fatalf("partner %s: %v", id, err)
		}
		st, err := b.deliver.Standing(ctx, id)
		if err != nil || st.Held != uint64(len(want)) || st.Owes || st.Backlog > 0 {
			s.fatalf("the ledger of %s says %+v, %d are held; %v", id, st, len(want), err)
		}
		s.did["rows held"] += len(want)
	}
	refs, err := b.deliver.gens.List(ctx)
	if err != nil {
		s.fatalf("%v", err)
	}
	for i := 1; i < len(refs); i++ {
		if refs[i].Term > refs[i-1].Term {
			s.fatalf("P8: generation %v of term %d stands behind %v of term %d", refs[i], refs[i].Term, refs[i-1], refs[i-1].Term)
		}
	}
	err = s.c.Events().Scan(ctx, 0, 1, 0, s.clock.Now().Day()+1, func(e *retention.StoredEvent) error {
		if s.erased[e.Record.Visitor] {
			return errors.New("after four nights an event of an erased visitor is stored")
		}
		return nil
	})
	if err != nil {
		s.fatalf("P6: %v", err)
	}
}

// pushedHolds is what the partner that is pushed to holds. If it told of a removal
// what was not so, and the visitor was erased, nobody can tell it again (R25): such
// a row ends by its life.
func (s *clusterSim) pushedHolds(want map[row]taxonomy.Day) map[row]taxonomy.Millis {
	gone := map[string]bool{}
	for v := range s.erased {
		gone[simPseudonym("pushed", 0, v)] = true
	}
	holds := map[row]taxonomy.Millis{}
	for key := range s.pushed.Holds(s.clock.Now()) {
		id, a, _ := strings.Cut(key, "\t")
		if !gone[id] || !s.pushed.Lied[key] {
			holds[row{id, a}] = s.pushed.Ends[key]
		}
	}
	return holds
}

// deliverAll delivers to both from any node, until nobody waits for anything.
func (s *clusterSim) deliverAll() {
	n := pick(s.rng, s.nodes)
	n.deliver.lease = nil
	for n.deliver.lease == nil {
		s.clock.Advance(taxonomy.Millis(simLeaseLife.Milliseconds()) + 1)
		s.tendDeliveries(n)
	}
	for _, id := range slices.Sorted(maps.Keys(s.dests)) {
		for tries := 0; ; tries++ {
			refs, err := n.deliver.gens.List(ctx)
			if err == nil {
				n.deliver.current, err = n.deliver.gens.Open(ctx, refs[0])
			}
			v, verr := s.newest(n)
			if err := errors.Join(err, verr); err != nil {
				s.fatalf("look at the end: %v", err)
			}
			src := delivery.Source{Term: n.deliver.lease.Term, Generation: n.deliver.current, View: v, Members: n.deliver.gens.Members}
			done := s.deliverTo(n, s.dests[id], src, src.Term)
			if done.Result != "" && done.Result != delivery.ResultWaiting {
				break
			}
			if tries == 15 {
				s.fatalf("it is still waiting: %+v", done)
			}
			s.clock.Advance(20 * taxonomy.Minute)
		}
	}
}
