package fold

import (
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Effects are what a step asks the world to do. All of it may be done twice.
type Effects struct {
	// Events to store.
	Events []retention.StoredEvent
	// Erased are visitors to be erased (R24): the eraser's queue takes them.
	Erased []Erased
	// Unmatched are IDs that a destination must no longer hold (R32).
	Unmatched []Unmatched
}

// Erased is a visitor that asked to be forgotten.
type Erased struct {
	Visitor taxonomy.VisitorKey
	Space   taxonomy.Space
	At      taxonomy.Millis
}

// Unmatched is an ID that no longer belongs to the visitor.
type Unmatched struct {
	Destination taxonomy.DestinationID
	ID          string
	Visitor     taxonomy.VisitorKey
}

// Step folds one frame: the records that the position does not cover yet. A
// frame that leaves a hole is an error, and so is a Seen that cannot answer;
// then the state must be thrown away.
func (s *State) Step(f *retention.Frame, rules Classifier, seen Seen, eff *Effects) error {
	have := s.position[f.Writer]
	if f.First > have+1 {
		return fmt.Errorf("fold: writer %s: record %d follows %d: a hole", f.Writer, f.First, have)
	}
	if f.Last() <= have {
		return nil
	}
	s.ruleVersion = rules.Version()
	if f.Lost {
		s.changed = true
		why := taxonomy.ReasonCorrupt
		if f.Skipped {
			why = taxonomy.ReasonLogExpired
		}
		for _, c := range f.Counts {
			t := s.tally(c.Site)
			t.Received += c.N
			t.Dropped[why] += c.N
		}
	} else {
		if len(f.Records) != f.N {
			return fmt.Errorf("fold: writer %s: frame at %d has %d records, its header says %d", f.Writer, f.First, len(f.Records), f.N)
		}
		for i := range f.Records {
			seq := f.First + uint64(i)
			if seq <= have {
				continue
			}
			ref := taxonomy.Ref{Writer: f.Writer, Seq: seq}
			if !f.Records[i].First.IsZero() {
				ref = f.Records[i].First
			}
			if err := s.record(&f.Records[i], ref, rules, seen, eff); err != nil {
				return fmt.Errorf("fold: writer %s record %d: %w", f.Writer, seq, err)
			}
		}
	}
	s.position[f.Writer] = f.Last()
	s.frameTime[f.Writer] = max(s.frameTime[f.Writer], f.Time)
	return nil
}

func (s *State) record(r *taxonomy.Record, ref taxonomy.Ref, rules Classifier, seen Seen, eff *Effects) error {
	switch r.Kind {
	case taxonomy.RecordTick:
		return nil
	case taxonomy.RecordCounts:
		s.changed = true
		s.counts(r)
		return nil
	}
	s.changed = true
	if r.Kind == taxonomy.RecordEvent {
		s.tally(r.Site).Received++
	}
	sh, err := s.shardOf(r.Visitor)
	if err != nil {
		return err
	}
	switch r.Kind {
	case taxonomy.RecordErasure:
		s.erase(r.Visitor, r.Space, r.Received, eff)
		return nil
	case taxonomy.RecordOptIn:
		s.optIn(r)
		return nil
	case taxonomy.RecordSucceeds:
		s.succeed(r, eff)
	}

	o, known := sh.find(r.Visitor)
	if s.isErased(sh, o, known, r) {
		if r.Kind == taxonomy.RecordEvent {
			s.tally(r.Site).Dropped[taxonomy.ReasonErased]++
		}
		return nil
	}
	if r.Returning {
		o = s.adopt(sh, r, o, known, rules, eff)
		known = true
	}

	what := r
	if r.Kind == taxonomy.RecordEvent {
		dup, err := s.duplicate(r, seen)
		if err != nil {
			return err
		}
		if dup {
			s.tally(r.Site).Duplicate++
			// An event counts if any copy of it would, whichever was folded first
			// (R8, R11): a later copy takes the place of the one that waits. Else
			// only its consent counts: which copy is the duplicate is chance, what
			// the visitor allows is not.
			if !s.waiting.takeOlder(r) {
				what = &taxonomy.Record{Kind: taxonomy.RecordConsent, Received: r.Received, Site: r.Site,
					Source: r.Source, Space: r.Space, Visitor: r.Visitor, Consent: r.Consent}
			}
		}
	}
	if !known || sh.visitors.at(o).adopted > r.Received+adoptWindow {
		s.wait(what, ref)
		return nil
	}
	s.apply(sh, o, what, ref, rules, eff)
	return nil
}

// isErased reports whether a record's visitor is erased as of the record.
func (s *State) isErased(sh *shard, o uint32, known bool, r *taxonomy.Record) bool {
	if len(s.erased.m) == 0 {
		return false
	}
	// A cookie's key is never opted in again, so a known one is not erased. Other
	// spaces may have records from before an erasure that was lifted since.
	if known && r.Space == taxonomy.SpaceCookie && sh.visitors.at(o).flags&isGone == 0 {
		return false
	}
	e, ok := s.erased.get(s.cfg.Erasure(r.Visitor))
	return ok && e.covers(r.Received)
}

// adopt makes the visitor known, as of its earliest returning receipt, and
// releases what waits for it (R9, R11).
func (s *State) adopt(sh *shard, r *taxonomy.Record, o uint32, known bool, rules Classifier, eff *Effects) uint32 {
	if known {
		v := sh.visitors.at(o)
		if v.flags&isGone != 0 {
			// The erasure was lifted by an opt-in (R24): what comes now begins
			// anew, under a new ordinal.
			s.forget(sh, o)
			known = false
		} else if v.adopted <= r.Received {
			return o
		}
	}
	if !known {
		o = sh.visitors.n
		sh.visitors.grow(o + 1)
		none := s.consents.intern(taxonomy.Consent{})
		*sh.visitors.edit(o) = visitor{key: r.Visitor, adopted: r.Received, newest: r.Received.Day(), consent: none}
		sh.ids.add(o, &sh.visitors)
	} else {
		sh.visitors.edit(o).adopted = r.Received
	}
	sh.dirty[o] = struct{}{}
	for _, k := range append([]waitKey(nil), s.waiting.of[r.Visitor]...) {
		w, _ := s.waiting.get(k)
		if r.Received <= w.Received+adoptWindow {
			s.waiting.take(k)
			s.apply(sh, o, w, k.ref, rules, eff)
		}
	}
	return o
}

// duplicate reports whether an event was received before, and remembers it.
func (s *State) duplicate(r *taxonomy.Record, seen Seen) (bool, error) {
	if !r.Import.IsZero() && s.rowSeen(r.Import, r.Received) {
		return true, nil
	}
	// A file that gives one ID to two rows has one event twice, too: so readers of
	// Events see it.
	h := hashOf(r.Site, r.Visitor, r.Event.ID)
	for _, m := range [...]map[Hash]taxonomy.Millis{s.recent, s.flushing} {
		if at, ok := m[h]; ok && near(at, r.Received) {
			return true, nil
		}
	}
	if ok, err := seen.Has(h, r.Received); ok || err != nil {
		return ok, err
	}
	s.recent[h] = r.Received
	return false, nil
}

// wait keeps a record until its visitor returns, or its time is over.
func (s *State) wait(r *taxonomy.Record, ref taxonomy.Ref) {
	if r.Kind == taxonomy.RecordSucceeds {
		return // was acted on already; it makes nobody known
	}
	kept := *r
	s.waiting.add(waitKey{r.Visitor, ref}, &kept)
	for {
		k, ok := s.waiting.overfull()
		if !ok {
			return
		}
		s.lose(k, taxonomy.ReasonProvisionalFull)
	}
}

// lose drops what waits.
func (s *State) lose(k waitKey, why taxonomy.Reason) {
	if r := s.waiting.take(k); r != nil && r.Kind == taxonomy.RecordEvent {
		s.tally(r.Site).Dropped[why]++
	}
}

// counts takes what was refused before the log (R12).
func (s *State) counts(r *taxonomy.Record) {
	again := !r.Import.IsZero() && s.rowSeen(r.Import, r.Received)
	for _, c := range r.Counts {
		t := s.tally(c.Site)
		t.Received += c.N
		switch {
		case again, c.Outcome == taxonomy.Duplicate:
			t.Duplicate += c.N
		case c.Outcome == taxonomy.Dropped:
			t.Dropped[c.Reason] += c.N
		default:
			t.Rejected[c.Reason] += c.N
		}
	}
	s.hear(r.Heard)
}
