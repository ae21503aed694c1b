package fold

import (
	"github.com/ebb-dmp/ebb/taxonomy"
)

// ErasureLife is how long the erasure of a cookie's key is kept: longer than
// anything that could bring the key back (R24).
const ErasureLife = 100 * taxonomy.OneDay

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
		if o, ok := sh.find(k); ok && sh.visitors.at(o).flags&isGone == 0 {
			sh.visitors.edit(o).flags |= isGone
			sh.gone.Add(o)
			sh.dirty[o] = struct{}{}
		}
	}
	s.matches.forget(k)
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
	if c, ok := s.choices.get(r.Visitor); ok {
		s.choose(r.Succeeds, c.at, c.off)
	}
	sh := s.shards[r.Visitor.Shard(s.cfg.Shards)]
	old := s.shards[r.Succeeds.Shard(s.cfg.Shards)]
	if sh == nil || old == nil {
		return
	}
	o, ok := sh.find(r.Visitor)
	p, okOld := old.find(r.Succeeds)
	if ok && okOld && old.visitors.at(p).flags&isGone == 0 {
		v := sh.visitors.at(o)
		if v.consentAt != 0 {
			s.consent(old, p, v.consentAt, s.consents.all[v.consent])
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
		if o, ok := sh.find(k); ok {
			if sh.visitors.at(o).flags&isGone == 0 {
				continue
			}
			s.forget(sh, o)
		}
		forget[k] = true
		s.succeeds.remove(k)
	}
	removeIf(s, s.newest, func(k statementPlace, _ statement) bool { return forget[k.visitor] })
	s.dropChoices(func(k taxonomy.VisitorKey) bool { return forget[k] })
	removeIf(s, s.succeeds, func(_ taxonomy.VisitorKey, c succession) bool { return forget[c.old] })
}

// forget cuts the tie between a gone visitor's ordinal and its key.
func (s *State) forget(sh *shard, o uint32) {
	sh.ids.remove(o, &sh.visitors)
	v := sh.visitors.edit(o)
	*v = visitor{newest: v.newest, flags: isGone, consent: s.consents.intern(taxonomy.Consent{})}
	sh.dirty[o] = struct{}{}
	s.changed = true
}
