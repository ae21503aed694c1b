package fold

import (
	"github.com/ebb-dmp/ebb/taxonomy"
)

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
		for o := range sh.visitors.n {
			if v := sh.visitors.at(o); !v.key.IsZero() && v.newest.Expired(s.clock) {
				sh.ids.remove(o, &sh.visitors)
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
		for dc := range sh.next {
			if dc.day.Expired(s.clock) {
				delete(sh.next, dc)
			}
		}
		for k := range sh.said {
			if k.day.Expired(s.clock) {
				delete(sh.said, k)
			}
		}
	}
	s.dropChoices(func(k taxonomy.VisitorKey) bool { return !s.known(k) })
	removeIf(s, s.heard, func(k heardKey, _ uint64) bool { return k.day.Expired(s.clock) })
	removeIf(s, s.newest, func(k statementPlace, _ statement) bool { return k.day.Expired(s.clock) })
	// R16: a match lives no longer than its visitor, whom a file's does not keep.
	if s.matches.drop(func(v taxonomy.VisitorKey, at taxonomy.Millis) bool { return at.Day().Expired(s.clock) || !s.known(v) }) {
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
