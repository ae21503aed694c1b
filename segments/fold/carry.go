package fold

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// A move carries what folds know into those of another installation, which has
// other shards, other groups and another log. Everything goes by visitor key: an
// ordinal means nothing there. The alternative, to classify the stored 90 days
// again, would be slower and would lose what is in no event: traits of keys that
// are never stored, and events of whom the store has forgotten and the counts not.

// Renumber returns where the visitors of all groups of an installation, in their
// order, stand in a division into shards. With as many shards as before everybody
// keeps the ordinal; else those whose life is over are left out. Whoever was erased
// and forgotten has no key any more, and still has a place: the files of deliveries
// name it.
func Renumber(from []*Fold, shards int) (*index.Numbering, error) {
	if len(from) == 0 {
		return nil, errors.New("renumber: of no group")
	}
	n := index.NewNumbering(from[0].opt.Shards, shards)
	for _, f := range from {
		err := f.resting(func(s *State) error {
			for _, sh := range s.shards {
				switch {
				case sh == nil:
				case len(s.shards) == shards:
					n.Keep(sh.n, sh.visitors.n)
				default:
					for o := range sh.visitors.n {
						v := sh.visitors.at(o)
						switch {
						case !v.key.IsZero():
							n.Add(sh.n, o, v.key.Shard(shards))
						case v.flags&isGone != 0:
							n.Add(sh.n, o, int(o)%shards)
						}
					}
				}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("renumber group %d: %w", f.opt.Group, err)
		}
	}
	return n, nil
}

// resting calls fn with the state, which it must not change, unless there is
// something that is not in a checkpoint.
func (f *Fold) resting(fn func(*State) error) error {
	if err := f.ready(); err != nil {
		return err
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	s := f.state
	switch {
	case f.stopped != nil:
		return f.stopped
	case s.refold != nil || f.starting != nil:
		return ErrRefolding
	case f.inflight != nil || len(s.flushing) > 0 || len(s.recent) > 0:
		return errors.New("not all that is folded is in a checkpoint")
	}
	for _, sh := range s.shards {
		if sh != nil && (len(sh.pending) > 0 || len(sh.said) > 0 || len(sh.next) > 0) {
			return errors.New("not all that is folded is in a checkpoint")
		}
	}
	return fn(s)
}

// Carry replaces all that the fold knows by its part of what others know, all
// groups of another installation, in their order, and makes a checkpoint of it. It
// is committed whole or not at all; carrying again, after a crash too, gives the
// same. The position stays, since the logs are different ones; the fold's rules
// become those that are in force there. The others must rest: all that they folded
// is in checkpoints.
func (f *Fold) Carry(ctx context.Context, from []*Fold, n *index.Numbering) (*View, error) {
	if f.following {
		return nil, errFollowing
	}
	if n.Shards() != f.opt.Shards {
		return nil, fmt.Errorf("carry into group %d: numbered for %d shards, it has %d", f.opt.Group, n.Shards(), f.opt.Shards)
	}
	err := f.ready()
	if err == nil {
		err = f.take(ctx, from, n)
	}
	if err != nil {
		return nil, fmt.Errorf("carry into group %d: %w", f.opt.Group, err)
	}
	return f.Checkpoint(ctx)
}

// take makes the new state and puts it in the place of the old.
func (f *Fold) take(ctx context.Context, from []*Fold, n *index.Numbering) error {
	f.saving.Lock()
	defer f.saving.Unlock()
	f.polling.Lock()
	defer f.polling.Unlock()
	s := NewState(f.opt.Config)
	var days dayLists = make([]map[taxonomy.Day][]*index.Layer, f.opt.Shards)
	next := stored{number: f.stored.number, version: f.stored.version, name: f.stored.name,
		layers: map[*index.Layer]fileRef{}, seen: map[int64][]fileRef{}, rules: map[uint32]rulesRef{}}
	hours := map[int64][]*seenFile{}
	fail := func(err error) error {
		closeUnused(hours, nil)
		return err
	}
	for _, of := range from {
		err := of.resting(func(src *State) error {
			if err := s.takeRules(src); err != nil {
				return err
			}
			s.takeTables(src)
			s.takeVisitors(src, n)
			return days.take(src, s, n)
		})
		if err == nil {
			err = f.takeSeen(ctx, of, next.seen, hours)
		}
		if err != nil {
			return fail(err)
		}
	}
	for i, byDay := range days {
		for day, layers := range byDay {
			l, err := index.Merge(layers, nil)
			if err != nil {
				return fail(fmt.Errorf("the layer of %s: %w", day, err))
			}
			if l != nil {
				s.shards[i].days[day] = []*index.Layer{l}
			}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped != nil {
		return fail(f.stopped)
	}
	s.position, s.frameTime = f.state.position, f.state.frameTime
	for _, sh := range s.shards {
		if sh != nil {
			sh.touched[0].number = next.number + 1
		}
	}
	s.Advance(f.state.clock) // what is over meanwhile
	s.changed = true
	old := f.seen
	f.state, f.stored, f.seen, f.inflight, f.starting, f.built = s, next, &seenFiles{hours}, nil, nil, nil
	closeUnused(old.hours, hours)
	return nil
}

// takeRules takes the rules in force, and the clock. All groups must have the same
// rules: a re-fold that has switched in some only is not at its end.
func (s *State) takeRules(src *State) error {
	if s.rules != nil && src.rules != nil && s.rules.Version() != src.rules.Version() {
		return fmt.Errorf("groups have rules of versions %d and %d in force: %w", s.rules.Version(), src.rules.Version(), ErrRefolding)
	}
	if src.rules != nil {
		s.rules = src.rules
	}
	s.ruleVersion = max(s.ruleVersion, src.ruleVersion)
	s.clock = max(s.clock, src.clock)
	return nil
}

// takeTables adds what another state has in its tables: of visitors, what belongs
// to the own group; of what names nobody, counters stand in the first group, and
// erasures and imported rows, of which a hash or number does not tell whose they
// are, in all of them.
func (s *State) takeTables(src *State) {
	own := func(k taxonomy.VisitorKey) bool { return s.shards[k.Shard(s.cfg.Shards)] != nil }
	for h, e := range src.erased.m {
		have, _ := s.erased.get(h)
		s.erased.put(h, have.join(e))
	}
	for k, bits := range src.imports.m {
		sum := new([512]byte)
		if have, ok := s.imports.get(k); !ok {
			*sum = *bits
		} else if k.chunk == importBorn {
			sum = dayBits(max(bitsDay(have), bitsDay(bits)))
		} else {
			for i := range sum {
				sum[i] = have[i] | bits[i]
			}
		}
		s.imports.put(k, sum)
	}
	for k, v := range src.succeeds.m {
		if own(k) {
			s.succeeds.put(k, v)
		}
	}
	for c := range src.matches.all() {
		if own(c.visitor) {
			s.matches.claim(claimKey{src.matches.destination(c), c.visitor, src.matches.partnerID(c)}, c.at)
		}
	}
	for k, v := range src.newest.m {
		if own(k.visitor) {
			s.newest.put(k, v)
		}
	}
	for k, v := range src.choices.m {
		if own(k) {
			s.choices.put(k, v)
		}
	}
	for k, r := range src.waiting.m {
		if own(k.visitor) {
			s.waiting.add(k, r)
		}
	}
	if s.cfg.Group != 0 {
		return
	}
	for site, t := range src.counters.m {
		sum := s.tally(site)
		sum.Received += t.Received
		sum.Stored += t.Stored
		sum.Duplicate += t.Duplicate
		for why, k := range t.Rejected {
			sum.Rejected[why] += k
		}
		for why, k := range t.Dropped {
			sum.Dropped[why] += k
		}
	}
	for k, m := range src.heard.m {
		have, _ := s.heard.get(k)
		s.heard.put(k, have+m)
	}
}

// join is both of what two groups know of a key.
func (e erasure) join(o erasure) erasure {
	if o.at > e.at || e.space == "" {
		e.space, e.at = o.space, max(e.at, o.at)
	}
	e.optin = slices.Concat(e.optin, o.optin)
	slices.Sort(e.optin)
	e.optin = slices.Compact(e.optin)
	return e
}

// takeVisitors gives the visitors their places in the own shards.
func (s *State) takeVisitors(src *State, n *index.Numbering) {
	for _, sh := range src.shards {
		if sh == nil {
			continue
		}
		for o := range sh.visitors.n {
			p, ok := n.Of(sh.n, o)
			if !ok || s.shards[p.Shard] == nil {
				continue
			}
			to, v := s.shards[p.Shard], *sh.visitors.at(o)
			v.consent = s.consents.intern(src.consents.all[v.consent])
			to.visitors.grow(p.Ordinal + 1)
			*to.visitors.edit(p.Ordinal) = v
			if !v.key.IsZero() {
				to.ids.add(p.Ordinal, &to.visitors)
			}
			if v.flags&isGone != 0 {
				to.gone.Add(p.Ordinal)
			}
			to.dirty[p.Ordinal] = struct{}{}
		}
	}
}

// dayLists collects layers, by shard and day, the oldest of a visitor first.
type dayLists []map[taxonomy.Day][]*index.Layer

func (d dayLists) take(src, s *State, n *index.Numbering) error {
	for _, sh := range src.shards {
		if sh == nil {
			continue
		}
		for day, layers := range sh.days {
			for _, l := range layers {
				list, err := n.Layers(l)
				if err != nil {
					return err
				}
				for i, x := range list {
					if x == nil || s.shards[i] == nil {
						continue
					}
					if d[i] == nil {
						d[i] = map[taxonomy.Day][]*index.Layer{}
					}
					d[i][day] = append(d[i][day], x)
				}
			}
		}
	}
	return nil
}

// takeSeen copies the event IDs of the last two days. A hash does not tell to which
// group it belongs, so each has all.
func (f *Fold) takeSeen(ctx context.Context, of *Fold, refs map[int64][]fileRef, hours map[int64][]*seenFile) error {
	of.mu.RLock()
	files := maps.Clone(of.seen.hours)
	of.mu.RUnlock()
	for _, hour := range slices.Sorted(maps.Keys(files)) {
		for _, from := range files[hour] {
			blob := from.r.Blob()
			b := make([]byte, blob.Bytes)
			if _, err := from.r.ReadAt(b, 0); err != nil && err != io.EOF {
				return fmt.Errorf("read event IDs %s: %w", blob.Name, err)
			}
			ref, err := f.files.write(ctx, "seen", blob.Over, b)
			if err != nil {
				return err
			}
			file, err := f.openSeen(ctx, ref)
			if errors.Is(err, retention.ErrNotFound) {
				continue // its life is over
			}
			if err != nil {
				return err
			}
			hours[hour] = append(hours[hour], file)
			refs[hour] = append(refs[hour], ref)
		}
	}
	return nil
}

// Keeps reports whether a stored event is of a visitor that is known and was not
// erased since: all others are on their way out, and are not carried.
func (f *Fold) Keeps(r *taxonomy.Record) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	sh := f.state.shards[r.Visitor.Shard(f.state.cfg.Shards)]
	if sh == nil {
		return false
	}
	o, known := sh.find(r.Visitor)
	return known && sh.visitors.at(o).flags == 0 && !f.state.isErased(sh, o, known, r)
}

// Whose returns whose an ordinal is, also of who is gone; it is zero of who is
// forgotten, or was never there.
func (v *View) Whose(shard int, o uint32) taxonomy.VisitorKey {
	if shard >= len(v.shards) || o >= v.shards[shard].visitors.n {
		return taxonomy.VisitorKey{}
	}
	return v.shards[shard].visitors.at(o).key
}

// Erasures returns every erasure that the state has, in no order.
func (f *Fold) Erasures() []Erasure {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var list []Erasure
	for h, e := range f.state.erased.m {
		if e.at != 0 {
			list = append(list, Erasure{Hash: h, Space: e.space, At: e.at})
		}
	}
	return list
}
