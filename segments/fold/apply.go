package fold

import (
	"bytes"
	"cmp"
	"strings"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// apply folds a record of a known visitor.
func (s *State) apply(sh *shard, o uint32, r *taxonomy.Record, ref taxonomy.Ref, rules Classifier, eff *Effects) {
	if r.Kind != taxonomy.RecordChoice && !fromFile(r) { // which say nothing of consent
		s.consent(sh, o, r.Received, r.Consent)
	}
	switch r.Kind {
	case taxonomy.RecordChoice:
		s.choose(r.Visitor, r.Received, r.Off)
	case taxonomy.RecordEvent:
		s.tally(r.Site).Stored++
		day := r.Event.Time.Day()
		if day.Expired(s.clock) {
			return // R17: it counts as stored and writes nothing
		}
		version := rules.Version()
		if s.refold != nil {
			version = s.refold.version // so that the scan leaves it alone
			s.foldNext(sh, o, day, r)
		}
		eff.Events = append(eff.Events, retention.StoredEvent{Record: *r, Ref: ref, RuleVersion: version})
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
			for _, t := range r.Event.Traits { // which layer flagged it
				if strings.HasPrefix(string(t), taxonomy.BotLayerPrefix) {
					cols = append(cols, sh.add(day, s.columns.intern(r.Source, t), o))
				}
			}
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
	return addTo(sh.pending, dayColumn{day, c}, o)
}

func addTo(m map[dayColumn]*[]uint32, dc dayColumn, o uint32) dayColumn {
	list := m[dc]
	if list == nil {
		list = new([]uint32)
		m[dc] = list
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
			if p, ok := old.find(suc.old); ok && old.visitors.at(p).flags&isGone == 0 {
				s.consent(old, p, received, c)
			}
		}
	}
}

// statement keeps a day's newest value of a key: by time, then by ID (R16, R8).
// One that ends before its 90 days is kept as such (taxonomy.Trait.Ending), so
// that the day's column says so too.
func (s *State) statement(sh *shard, o uint32, r *taxonomy.Record) {
	st := r.Statement
	key, ok := st.Trait.Statement()
	day := st.Time.Day()
	if !ok || day.Expired(s.clock) {
		return
	}
	trait := st.Trait
	if st.Until != 0 && st.Until < day+taxonomy.RetentionDays {
		trait = trait.Ending(max(st.Until, day))
	}
	place := statementPlace{r.Visitor, day, r.Source, key}
	if have, ok := s.newest.get(place); ok {
		if c := cmp.Compare(st.Time, have.at); c < 0 || c == 0 && bytes.Compare(st.ID[:], have.id[:]) <= 0 {
			return
		}
	}
	s.newest.put(place, statement{st.Time, st.ID, trait})
	col := s.columns.intern(r.Source, trait)
	sh.said[saidKey{day, o, r.Source, key}] = col
	in := &sh.touched[len(sh.touched)-1]
	in.visitors[o] = append(in.visitors[o], dayColumn{day, col})
	s.lives(sh, o, day)
}

// fromFile reports whether a match was a row of a file. The visitor was not there:
// so it carries no consent, adopts nobody and lengthens no life. What the visitor
// allows stays as it is, and its match goes when the visitor does.
func fromFile(r *taxonomy.Record) bool {
	return r.Kind == taxonomy.RecordMatch && !r.Import.IsZero()
}

// match learns that a destination knows the visitor by an ID (R32).
func (s *State) match(sh *shard, o uint32, r *taxonomy.Record, eff *Effects) {
	m := r.Match
	if r.Received.Day().Expired(s.clock) || fromFile(r) && s.rowSeen(r.Import, r.Received) {
		return // R13: a file that is given again makes no match newer
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
	if !fromFile(r) {
		s.lives(sh, o, r.Received.Day())
	}
}
