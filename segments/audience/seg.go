package audience

import (
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Overlay is what happened since the generation, by visitor: the fold's.
type Overlay interface {
	// Touched returns what changed about a visitor since the view that the
	// published pages were built from, and false if nothing did.
	Touched(v taxonomy.VisitorKey) (Touched, bool)
}

// Touched is what changed about a visitor.
type Touched struct {
	// Columns are those in which something changed, be they known to the
	// published view or not.
	Columns []taxonomy.Column
	// Standing says that what decides whether the visitor may be in an audience
	// at all changed (permits, gone, holdout): then every rule is asked.
	Standing bool
	Facts    query.Facts // what is known of it now
}

// Ordinals is the part of a view that finds a visitor.
type Ordinals interface {
	Ordinal(k taxonomy.VisitorKey) (shard int, ordinal uint32, ok bool)
}

// PageState is everything that answers which audiences of a visitor its page
// may read. It is immutable; Seg swaps it whole, so that an answer never mixes
// two generations.
type PageState struct {
	Pages    *Pages
	Ordinals Ordinals // of the view that the pages were built from
	// Sources are those that were in use when the pages were built.
	Sources  []taxonomy.SourceID
	Catalog  *Catalog       // of now: what is not for pages any more is left out
	Resolver query.Resolver // of now: a withdrawn source is left out at once (R19)

	rules []pageRule
	// shown says of each audience of Pages, by number, whether its published
	// members may be given out.
	shown []bool
}

type pageRule struct {
	id       taxonomy.AudienceID
	expr     query.Expr
	mentions []string // that its answer depends on, sorted
	always   bool     // asked about every touched visitor
}

// Prepare compiles what an answer needs. Call it once, before Swap.
//
// A source that is withdrawn leaves the answers at once, though the lists were
// built with it (R19): until the next generation, an audience that uses it
// positively is given only to visitors whose events since then let us ask its
// rule anew, and of those visitors every rule is asked.
func (s *PageState) Prepare() {
	withdrawn := slices.ContainsFunc(s.Sources, func(id taxonomy.SourceID) bool { return !query.InUse(s.Resolver, id) })
	s.rules, s.shown = nil, make([]bool, len(s.Pages.audiences))
	for i := range s.Catalog.All() {
		d := &s.Catalog.All()[i]
		if !d.Page {
			continue
		}
		stale := false
		if e, ok := s.Pages.gen.Entry(d.ID); ok {
			stale = slices.ContainsFunc(e.Positive, func(c taxonomy.Column) bool { return !query.InUse(s.Resolver, c.Source) })
		}
		if n, ok := s.Pages.number(d.ID); ok {
			s.shown[n] = !stale
		}
		if e, _ := s.Catalog.Audience(d.ID); e != nil && s.Catalog.check(d) == nil {
			s.rules = append(s.rules, pageRule{d.ID, e, query.Mentions(e, s.Resolver), withdrawn})
		}
	}
}

// Seg answers which audiences a visitor is in (R33): those of the published
// lists, corrected by evaluating, for this visitor alone, the rules that use a
// column touched since. It is safe for concurrent use.
type Seg struct {
	overlay Overlay
	state   atomic.Pointer[PageState]
}

// NewSeg returns one without any state: it answers with none until Swap.
func NewSeg(overlay Overlay) *Seg { return &Seg{overlay: overlay} }

// Swap puts a prepared state in the place of the one before.
func (s *Seg) Swap(st *PageState) { s.state.Store(st) }

// State returns the state in force, nil before the first Swap.
func (s *Seg) State() *PageState { return s.state.Load() }

// Visitor appends to dst the audiences of a visitor that its page may read, by
// ID, as of today.
func (s *Seg) Visitor(dst []taxonomy.AudienceID, v taxonomy.VisitorKey, today taxonomy.Day) ([]taxonomy.AudienceID, error) {
	st := s.state.Load()
	if st == nil {
		return dst, nil
	}
	now, touched := s.overlay.Touched(v)
	resolver := st.Resolver
	if touched {
		resolver = query.WithColumns(st.Resolver, now.Columns)
		if !query.Eligible(resolver, now.Facts, today) {
			return dst, nil
		}
	}
	first := len(dst)
	if shard, ordinal, ok := st.Ordinals.Ordinal(v); ok {
		for _, n := range st.Pages.Of(shard, ordinal) {
			if st.shown[n] {
				dst = append(dst, st.Pages.ID(n))
			}
		}
	}
	if !touched {
		return dst, nil
	}
	for i := range st.rules {
		r := &st.rules[i]
		if !now.Standing && !r.always && !slices.ContainsFunc(now.Columns, r.uses) {
			continue
		}
		in, err := query.EvalVisitor(r.expr, resolver, now.Facts, today)
		if err != nil {
			return dst[:first], fmt.Errorf("evaluate audience %q for a visitor: %w", r.id, err)
		}
		at, was := slices.BinarySearch(dst[first:], r.id)
		switch {
		case in && !was:
			dst = slices.Insert(dst, first+at, r.id)
		case !in && was:
			dst = slices.Delete(dst, first+at, first+at+1)
		}
	}
	return dst, nil
}

func (r *pageRule) uses(c taxonomy.Column) bool {
	_, ok := slices.BinarySearch(r.mentions, query.MentionOf(c))
	return ok
}
