package fold

import (
	"maps"
	"slices"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Erasure is an erasure as the journal keeps it: under HMAC(erasure key, visitor
// key), so that only who has the key of a visitor can tell that it is meant.
type Erasure struct {
	Hash  [16]byte
	Space taxonomy.Space
	At    taxonomy.Millis
}

// Restore tells a state that was brought back from a backup of the erasures that
// came after it: whoever they mean is gone, and no record of them counts from
// then on, also of those whom the state has never seen (R29). It returns those
// whom it knows, sorted, for the eraser. What the state knew already changes
// nothing.
//
// It is no step, since the records of these erasures went with the log that was
// lost. Whoever calls it makes a checkpoint next.
func (s *State) Restore(erasures []Erasure) []taxonomy.VisitorKey {
	fresh := map[[16]byte]Erasure{}
	for _, e := range erasures {
		if have, _ := s.erased.get(e.Hash); have.at < e.At && fresh[e.Hash].At < e.At {
			fresh[e.Hash] = e
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	s.changed = true
	var eff Effects
	for k := range s.keys() {
		if e, ok := fresh[s.cfg.Erasure(k)]; ok {
			s.erase(k, e.Space, e.At, &eff) // and those that it succeeded
		}
	}
	for h, e := range fresh {
		if have, _ := s.erased.get(h); have.at < e.At {
			have.space, have.at = e.Space, e.At
			s.erased.put(h, have)
		}
	}
	known := map[taxonomy.VisitorKey]bool{}
	for _, e := range eff.Erased {
		known[e.Visitor] = true
	}
	return slices.SortedFunc(maps.Keys(known), func(a, b taxonomy.VisitorKey) int { return slices.Compare(a[:], b[:]) })
}

// keys returns every visitor key that stands anywhere in the state.
func (s *State) keys() map[taxonomy.VisitorKey]struct{} {
	all := map[taxonomy.VisitorKey]struct{}{}
	for _, sh := range s.shards {
		if sh == nil {
			continue
		}
		for o := range sh.visitors.n {
			if k := sh.visitors.at(o).key; !k.IsZero() {
				all[k] = struct{}{}
			}
		}
	}
	for k := range s.waiting.of {
		all[k] = struct{}{}
	}
	for k, c := range s.succeeds.m {
		all[k], all[c.old] = struct{}{}, struct{}{}
	}
	for c := range s.matches.all() {
		all[c.visitor] = struct{}{}
	}
	for k := range s.choices.m {
		all[k] = struct{}{}
	}
	for p := range s.newest.m {
		all[p.visitor] = struct{}{}
	}
	return all
}

// Restore is State.Restore. It stands beside Poll and Checkpoint.
func (f *Fold) Restore(erasures []Erasure) []taxonomy.VisitorKey {
	f.polling.Lock()
	defer f.polling.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state.Restore(erasures)
}

// Still calls fn while nothing is folded and no checkpoint is made: what the fold
// has stored, its last checkpoint and what the log still holds then fit each
// other. fn must not call Poll, Checkpoint, Rewrite or Restore, and should be
// short, since /v1/seg falls behind.
func (f *Fold) Still(fn func() error) error {
	f.saving.Lock()
	defer f.saving.Unlock()
	f.polling.Lock()
	defer f.polling.Unlock()
	return fn()
}
