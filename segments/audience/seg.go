package audience

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Overlay is what happened since the generation, by visitor: the fold's.
type Overlay interface {
	// Touched returns, if anything of the visitor changed since the view that
	// the published pages were built from, the columns in which it did and what
	// is known of the visitor now. Columns is nil if what decides whether it may
	// be in an audience at all changed (permits, gone, holdout), or if the
	// visitor is new: then every rule is asked.
	//
	// The facts need not know audiences: Seg does.
	Touched(v taxonomy.VisitorKey) (columns []taxonomy.Column, facts query.Facts, ok bool)
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

	rules   []pageRule
	visitor query.Resolver // for rules of one visitor
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
	withdrawn := slices.ContainsFunc(s.Pages.gen.Sources, func(id taxonomy.SourceID) bool { return !query.InUse(s.Resolver, id) })
	s.rules, s.shown = nil, make([]bool, len(s.Pages.audiences))
	var mentions []string
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
			r := pageRule{d.ID, e, query.Mentions(e, s.Resolver), withdrawn}
			s.rules = append(s.rules, r)
			mentions = append(mentions, r.mentions...)
		}
	}
	s.visitor = query.ForVisitor(s.Resolver, mentions)
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
	columns, facts, touched := s.overlay.Touched(v)
	if touched && !query.Eligible(st.visitor, facts, today) {
		return dst, nil
	}
	first := len(dst)
	shard, ordinal, known := st.Ordinals.Ordinal(v)
	if known {
		for _, n := range st.Pages.Of(shard, ordinal) {
			if st.shown[n] {
				dst = append(dst, st.Pages.ID(n))
			}
		}
	}
	if !touched {
		return dst, nil
	}
	facts = &withAudiences{facts, st.Pages, shard, ordinal, known}
	for i := range st.rules {
		r := &st.rules[i]
		if columns != nil && !r.always && !slices.ContainsFunc(columns, r.uses) {
			continue
		}
		in, err := query.EvalVisitor(r.expr, st.visitor, facts, today)
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

// withAudiences is facts that know who was in which lookalike.
type withAudiences struct {
	query.Facts
	pages   *Pages
	shard   int
	ordinal uint32
	known   bool
}

func (w *withAudiences) In(set string) bool {
	if id, ok := strings.CutPrefix(set, index.SetAudience); ok {
		return w.known && w.pages.nested[taxonomy.AudienceID(id)].Contains(w.shard, w.ordinal)
	}
	return w.Facts.In(set)
}
