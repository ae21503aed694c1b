package fold

import (
	"bytes"
	"cmp"
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

// ErasureLife is how long the erasure of a cookie's key is kept: longer than
// anything that could bring the key back (R24).
const ErasureLife = 100 * taxonomy.OneDay

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
		for _, c := range f.Counts {
			t := s.tally(c.Site)
			t.Received += c.N
			t.Dropped[taxonomy.ReasonCorrupt] += c.N
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

	o, known := sh.ids[r.Visitor]
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
		sh.ids[r.Visitor] = o
		none := s.consents.intern(taxonomy.Consent{})
		*sh.visitors.edit(o) = visitor{key: r.Visitor, adopted: r.Received, newest: r.Received.Day(), consent: none}
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
	if !r.Import.IsZero() {
		return s.rowSeen(r.Import, r.Received), nil
	}
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

// rowSeen reports whether a row of an import came before, and remembers it
// (R13).
func (s *State) rowSeen(row taxonomy.ImportRow, received taxonomy.Millis) bool {
	k := importChunk{row.File, row.Row >> 12}
	bits, ok := s.imports.get(k)
	if !ok {
		bits = new([512]byte)
		first := importChunk{row.File, importBorn}
		if _, ok := s.imports.get(first); !ok {
			s.imports.put(first, dayBits(received.Day()))
		}
	}
	i := row.Row & 4095
	if bits[i/8]&(1<<(i%8)) != 0 {
		return true
	}
	bits[i/8] |= 1 << (i % 8)
	s.imports.put(k, bits)
	return false
}

// importBorn is the chunk that holds the day of an import's first receipt.
const importBorn = 1<<32 - 1

func dayBits(d taxonomy.Day) *[512]byte {
	b := new([512]byte)
	for i := range 4 {
		b[i] = byte(uint32(d) >> (8 * i))
	}
	return b
}

func bitsDay(b *[512]byte) taxonomy.Day {
	return taxonomy.Day(int32(uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24))
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

// apply folds a record of a known visitor.
func (s *State) apply(sh *shard, o uint32, r *taxonomy.Record, ref taxonomy.Ref, rules Classifier, eff *Effects) {
	s.consent(sh, o, r.Received, r.Consent)
	switch r.Kind {
	case taxonomy.RecordEvent:
		s.tally(r.Site).Stored++
		day := r.Event.Time.Day()
		if day.Expired(s.clock) {
			return // R17: it counts as stored and writes nothing
		}
		eff.Events = append(eff.Events, retention.StoredEvent{Record: *r, Ref: ref, RuleVersion: rules.Version()})
		s.scratch = rules.Classify(r.Site, r.Event, s.scratch[:0])
		var cols []dayColumn
		in := &sh.touched[len(sh.touched)-1]
		cols = in.visitors[o]
		for _, t := range s.scratch {
			cols = append(cols, sh.add(day, s.columns.intern(r.Source, t), o))
		}
		cols = append(cols, sh.add(day, s.columns.intern(r.Source, taxonomy.TraitAny), o))
		if r.Bot {
			cols = append(cols, sh.add(day, s.columns.intern(r.Source, taxonomy.TraitBot), o))
		}
		in.visitors[o] = cols
		s.lives(sh, o, day)
	case taxonomy.RecordMembership, taxonomy.RecordAttribute:
		s.statement(sh, o, r)
	case taxonomy.RecordMatch:
		s.match(sh, o, r, eff)
	}
}

// add counts an event of an ordinal in a column of a day.
func (sh *shard) add(day taxonomy.Day, c column, o uint32) dayColumn {
	dc := dayColumn{day, c}
	list := sh.pending[dc]
	if list == nil {
		list = new([]uint32)
		sh.pending[dc] = list
	}
	*list = append(*list, o)
	return dc
}

// lives extends the visitor's life to that of a day.
func (s *State) lives(sh *shard, o uint32, day taxonomy.Day) {
	if v := sh.visitors.at(o); day > v.newest {
		sh.visitors.edit(o).newest = day
		sh.dirty[o] = struct{}{}
	}
}

// consent keeps the newest summary; of two with one receipt time, what both
// allow (R8, R22). It acts on the IDs that this one succeeded, too (R27).
func (s *State) consent(sh *shard, o uint32, received taxonomy.Millis, c taxonomy.Consent) {
	v := sh.visitors.at(o)
	if received < v.consentAt {
		return
	}
	have := s.consents.all[v.consent]
	next := c
	if received == v.consentAt {
		next = have.Meet(c)
	}
	if received == v.consentAt && next.Equal(have) {
		return
	}
	v = sh.visitors.edit(o)
	v.consentAt, v.consent = received, s.consents.intern(next)
	sh.dirty[o] = struct{}{}
	if suc, ok := s.succeeds.get(v.key); ok {
		if old := s.shards[suc.old.Shard(s.cfg.Shards)]; old != nil {
			if p, ok := old.ids[suc.old]; ok && old.visitors.at(p).flags&isGone == 0 {
				s.consent(old, p, received, c)
			}
		}
	}
}

// statement keeps a day's newest value of a key: by time, then by ID (R16, R8).
func (s *State) statement(sh *shard, o uint32, r *taxonomy.Record) {
	st := r.Statement
	key, ok := st.Trait.Statement()
	day := st.Time.Day()
	if !ok || day.Expired(s.clock) {
		return
	}
	place := statementPlace{r.Visitor, day, r.Source, key}
	if have, ok := s.newest.get(place); ok {
		if c := cmp.Compare(st.Time, have.at); c < 0 || c == 0 && bytes.Compare(st.ID[:], have.id[:]) <= 0 {
			return
		}
	}
	s.newest.put(place, statement{st.Time, st.ID, st.Trait})
	col := s.columns.intern(r.Source, st.Trait)
	sh.said[saidKey{day, o, r.Source, key}] = col
	in := &sh.touched[len(sh.touched)-1]
	in.visitors[o] = append(in.visitors[o], dayColumn{day, col})
	s.lives(sh, o, day)
}

// match learns that a destination knows the visitor by an ID (R32).
func (s *State) match(sh *shard, o uint32, r *taxonomy.Record, eff *Effects) {
	m := r.Match
	if r.Received.Day().Expired(s.clock) {
		return
	}
	before, _, had := s.matches.of(m.Destination, r.Visitor)
	other, hadOther := s.matches.holder(m.Destination, m.ID)
	if hadOther {
		id, _, ok := s.matches.of(m.Destination, other)
		hadOther = ok && id == m.ID && other != r.Visitor
	}
	s.matches.claim(claimKey{m.Destination, r.Visitor, m.ID}, r.Received)
	if after, _, ok := s.matches.of(m.Destination, r.Visitor); had && (!ok || after != before) {
		eff.Unmatched = append(eff.Unmatched, Unmatched{m.Destination, before, r.Visitor})
	}
	if _, _, ok := s.matches.of(m.Destination, other); hadOther && !ok {
		eff.Unmatched = append(eff.Unmatched, Unmatched{m.Destination, m.ID, other})
	}
	s.lives(sh, o, r.Received.Day())
}

// erase marks a visitor, and those it succeeded, as gone. What it left is
// removed by the eraser, which comes back with Forget.
func (s *State) erase(k taxonomy.VisitorKey, space taxonomy.Space, at taxonomy.Millis, eff *Effects) {
	h := s.cfg.Erasure(k)
	e, _ := s.erased.get(h)
	if e.at >= at && e.at != 0 {
		eff.Erased = append(eff.Erased, Erased{k, space, e.at})
		return
	}
	e.space, e.at = space, at
	s.erased.put(h, e)
	eff.Erased = append(eff.Erased, Erased{k, space, at})
	for _, w := range append([]waitKey(nil), s.waiting.of[k]...) {
		if r, _ := s.waiting.get(w); e.covers(r.Received) {
			s.lose(w, taxonomy.ReasonErased)
		}
	}
	if sh := s.shards[k.Shard(s.cfg.Shards)]; sh != nil {
		if o, ok := sh.ids[k]; ok && sh.visitors.at(o).flags&isGone == 0 {
			sh.visitors.edit(o).flags |= isGone
			sh.gone.Add(o)
			sh.dirty[o] = struct{}{}
		}
	}
	s.matches.drop(func(c claimKey, _ taxonomy.Millis) bool { return c.visitor == k })
	if suc, ok := s.succeeds.get(k); ok {
		s.erase(suc.old, space, at, eff)
	}
}

func (s *State) optIn(r *taxonomy.Record) {
	h := s.cfg.Erasure(r.Visitor)
	e, _ := s.erased.get(h)
	if e.space == "" {
		e.space = r.Space
	}
	at := r.Received
	i := 0
	for i < len(e.optin) && e.optin[i] < at {
		i++
	}
	if i < len(e.optin) && e.optin[i] == at {
		return
	}
	optin := append([]taxonomy.Millis(nil), e.optin[:i]...)
	e.optin = append(append(optin, at), e.optin[i:]...)
	s.erased.put(h, e)
}

// succeed links a new ID to the one before (R27): an erasure or a consent that
// came first acts on the old one now.
func (s *State) succeed(r *taxonomy.Record, eff *Effects) {
	if _, ok := s.succeeds.get(r.Visitor); ok || r.Succeeds == r.Visitor {
		return
	}
	s.succeeds.put(r.Visitor, succession{r.Succeeds, r.Received})
	if e, ok := s.erased.get(s.cfg.Erasure(r.Visitor)); ok && e.at != 0 {
		s.erase(r.Succeeds, e.space, e.at, eff)
		return
	}
	sh := s.shards[r.Visitor.Shard(s.cfg.Shards)]
	old := s.shards[r.Succeeds.Shard(s.cfg.Shards)]
	if sh == nil || old == nil {
		return
	}
	o, ok := sh.ids[r.Visitor]
	p, okOld := old.ids[r.Succeeds]
	if ok && okOld && old.visitors.at(p).flags&isGone == 0 {
		v := sh.visitors.at(o)
		if v.consentAt != 0 {
			s.consent(old, p, v.consentAt, s.consents.all[v.consent])
		}
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
}

// Advance moves the fold's clock, which never goes back (R7): what waited too
// long is dropped, and on a change of day everything whose life is over goes.
func (s *State) Advance(clock taxonomy.Millis) {
	if clock <= s.clock {
		return
	}
	before := s.clock.Day()
	s.clock = clock
	for {
		k, ok := s.waiting.expired(clock)
		if !ok {
			break
		}
		s.changed = true
		s.lose(k, taxonomy.ReasonNotAdopted)
	}
	if clock.Day() > before {
		s.expire()
	}
}

// expire removes what is over at the clock's day.
func (s *State) expire() {
	for _, sh := range s.shards {
		if sh == nil {
			continue
		}
		for k, o := range sh.ids {
			if sh.visitors.at(o).newest.Expired(s.clock) {
				delete(sh.ids, k)
				*sh.visitors.edit(o) = visitor{flags: isDropped}
				sh.gone.Remove(o)
				sh.dirty[o] = struct{}{}
				s.changed = true
			}
		}
		for _, o := range sh.gone.ToArray() { // those whose key is forgotten already
			if sh.visitors.at(o).newest.Expired(s.clock) {
				*sh.visitors.edit(o) = visitor{flags: isDropped}
				sh.gone.Remove(o)
				sh.dirty[o] = struct{}{}
				s.changed = true
			}
		}
		for dc := range sh.pending {
			if dc.day.Expired(s.clock) {
				delete(sh.pending, dc)
			}
		}
		for k := range sh.said {
			if k.day.Expired(s.clock) {
				delete(sh.said, k)
			}
		}
	}
	removeIf(s, s.newest, func(k statementPlace, _ statement) bool { return k.day.Expired(s.clock) })
	if s.matches.drop(func(_ claimKey, at taxonomy.Millis) bool { return at.Day().Expired(s.clock) }) {
		s.changed = true
	}
	removeIf(s, s.succeeds, func(_ taxonomy.VisitorKey, c succession) bool { return c.at.Day().Expired(s.clock) })
	removeIf(s, s.erased, func(_ [16]byte, e erasure) bool {
		return e.space == taxonomy.SpaceCookie && e.at+ErasureLife < s.clock
	})
	born := map[[16]byte]bool{}
	for k, v := range s.imports.m {
		if k.chunk == importBorn && bitsDay(v).Expired(s.clock) {
			born[k.file] = true
		}
	}
	removeIf(s, s.imports, func(k importChunk, _ *[512]byte) bool { return born[k.file] })
}

func removeIf[K comparable, V any](s *State, t *table[K, V], over func(K, V) bool) {
	for k, v := range t.m {
		if over(k, v) {
			t.remove(k)
			s.changed = true
		}
	}
}

// Forget removes all that is left of erased visitors: their keys, matches and
// statements. Their ordinals stay gone until their days are over. Visitors that
// are not erased are left alone.
func (s *State) Forget(visitors []taxonomy.VisitorKey) {
	forget := map[taxonomy.VisitorKey]bool{}
	for _, k := range visitors {
		sh := s.shards[k.Shard(s.cfg.Shards)]
		if sh == nil {
			continue
		}
		if o, ok := sh.ids[k]; ok {
			if sh.visitors.at(o).flags&isGone == 0 {
				continue
			}
			s.forget(sh, o)
		}
		forget[k] = true
		s.succeeds.remove(k)
	}
	removeIf(s, s.newest, func(k statementPlace, _ statement) bool { return forget[k.visitor] })
	removeIf(s, s.succeeds, func(_ taxonomy.VisitorKey, c succession) bool { return forget[c.old] })
}

// forget cuts the tie between a gone visitor's ordinal and its key.
func (s *State) forget(sh *shard, o uint32) {
	v := sh.visitors.edit(o)
	delete(sh.ids, v.key)
	*v = visitor{newest: v.newest, flags: isGone, consent: s.consents.intern(taxonomy.Consent{})}
	sh.dirty[o] = struct{}{}
	s.changed = true
}
