package query

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Resolver tells what the words of an expression mean in one view: which
// columns a trait has, which sources are in use, what another audience is. It is
// safe for concurrent use, and the caller does not change what it returns.
type Resolver interface {
	// Columns returns the columns of a trait from the sources that are in use
	// for profiling (not withdrawn), sorted; none if the trait is unknown.
	Columns(t taxonomy.Trait) []taxonomy.Column
	// AllSources returns the sources in use, sorted.
	AllSources() []taxonomy.SourceID
	// StatementColumns returns every column, from sources in use, of the key
	// under which the newest statement wins ("a:age", "l:crm"), sorted.
	StatementColumns(key string) []taxonomy.Column
	// Audience returns the rule of an audience; or nil and true for one that has
	// members but no rule (a lookalike); or false if there is none.
	Audience(id taxonomy.AudienceID) (Expr, bool)
}

// Sizer is a Resolver that also knows how many visitor-days a column has. The
// planner asks the rare columns of a conjunction first.
type Sizer interface {
	Size(c taxonomy.Column) uint64
}

// IndexResolver is the Resolver of a view: its columns are those that have a
// visitor in the 90 days to a day.
type IndexResolver struct {
	sources    []taxonomy.SourceID
	columns    map[taxonomy.Trait][]taxonomy.Column
	statements map[string][]taxonomy.Column
	sizes      map[taxonomy.Column]uint64
	audience   func(taxonomy.AudienceID) (Expr, bool)
	now        func(taxonomy.Trait) taxonomy.Trait
}

// NewIndexResolver reads the columns of leaves once. Sources are those in use
// for profiling, in any order; audience may be nil if there are none.
func NewIndexResolver(leaves index.Leaves, today taxonomy.Day, sources []taxonomy.SourceID, audience func(taxonomy.AudienceID) (Expr, bool)) (*IndexResolver, error) {
	r := &IndexResolver{
		sources:    slices.Compact(slices.Sorted(slices.Values(sources))),
		columns:    map[taxonomy.Trait][]taxonomy.Column{},
		statements: map[string][]taxonomy.Column{},
		sizes:      map[taxonomy.Column]uint64{},
		audience:   audience,
		now:        func(t taxonomy.Trait) taxonomy.Trait { return t },
	}
	if x, ok := leaves.(index.Renamed); ok {
		r.now = x.Now
	}
	err := leaves.Columns(today.Oldest(), today, func(c taxonomy.Column, visitorDays uint64) {
		if !InUse(r, c.Source) {
			return
		}
		// The strings may lie in a file that is unmapped with the view.
		c = taxonomy.Column{Source: taxonomy.SourceID(strings.Clone(string(c.Source))), Trait: taxonomy.Trait(strings.Clone(string(c.Trait)))}
		r.sizes[c] += visitorDays
		if key, ok := c.Trait.Statement(); ok {
			r.statements[key] = append(r.statements[key], c)
		}
		r.columns[c.Trait] = append(r.columns[c.Trait], c)
	})
	if err != nil {
		return nil, fmt.Errorf("read the columns to %s: %w", today, err)
	}
	for _, m := range r.columns {
		slices.SortFunc(m, taxonomy.Column.Compare)
	}
	for _, m := range r.statements {
		slices.SortFunc(m, taxonomy.Column.Compare)
	}
	return r, nil
}

// Columns is that of Resolver.
func (r *IndexResolver) Columns(t taxonomy.Trait) []taxonomy.Column {
	return r.columns[r.now(t)]
}

// Now is what a trait is called in the view: see index.Renamed.
func (r *IndexResolver) Now(t taxonomy.Trait) taxonomy.Trait { return r.now(t) }

func nowOf(r Resolver, t taxonomy.Trait) taxonomy.Trait {
	if x, ok := r.(index.Renamed); ok {
		return x.Now(t)
	}
	return t
}

// AllSources is that of Resolver.
func (r *IndexResolver) AllSources() []taxonomy.SourceID { return r.sources }

// StatementColumns is that of Resolver.
func (r *IndexResolver) StatementColumns(key string) []taxonomy.Column { return r.statements[key] }

// Audience is that of Resolver.
func (r *IndexResolver) Audience(id taxonomy.AudienceID) (Expr, bool) {
	if r.audience == nil {
		return nil, false
	}
	return r.audience(id)
}

// Size is that of Sizer.
func (r *IndexResolver) Size(c taxonomy.Column) uint64 { return r.sizes[c] }

// InUse reports whether a source is one of the resolver's.
func InUse(r Resolver, s taxonomy.SourceID) bool {
	_, ok := slices.BinarySearch(r.AllSources(), s)
	return ok
}

// columnsOf returns the columns that a Trait counts.
func columnsOf(r Resolver, t *Trait) []taxonomy.Column { return columnsFrom(r, t.Trait, t.Sources) }

func columnsFrom(r Resolver, t taxonomy.Trait, sources []taxonomy.SourceID) []taxonomy.Column {
	all := r.Columns(t)
	if sources == nil {
		return all
	}
	var some []taxonomy.Column
	for _, c := range all {
		if _, ok := slices.BinarySearch(sources, c.Source); ok {
			some = append(some, c)
		}
	}
	return some
}

// stating is an expression that goes by the newest statement of a key (R16).
type stating interface {
	// key is the statement key: "a:age", "l:crm".
	key() string
	// says reports whether a statement with that value makes it true.
	says(value string) bool
}

func (a *Attribute) key() string { return "a:" + a.Key }

func (a *Attribute) says(value string) bool {
	if a.Range == nil {
		return slices.Contains(a.In, value)
	}
	v, ok := taxonomy.Number(value)
	return ok && a.Range.Has(v)
}

func (l *List) key() string { return "l:" + string(l.List) }

func (l *List) says(value string) bool { return value == "in" }

// holds reports whether a statement, if it is the newest one at the end of a
// day, makes s true: it says so, and its own end has not come (R16).
func holds(s stating, key string, t taxonomy.Trait, day taxonomy.Day) bool {
	t, until, ends := t.Ends()
	if ends && until <= day {
		return false
	}
	return s.says(string(t[len(key)+1:]))
}

// statementsOf returns the key's columns, and of those the ones that say yes at
// the end of a day.
func statementsOf(r Resolver, s stating, day taxonomy.Day) (all, say []taxonomy.Column) {
	key := s.key()
	all = r.StatementColumns(key)
	for _, c := range all {
		if holds(s, key, c.Trait, day) {
			say = append(say, c)
		}
	}
	return all, say
}

// Positive returns the columns that an expression uses positively, sorted: the
// newest day in one of them decides a member's remaining life (R31). There are
// none for a pure "not", for Any, and for audiences without a rule. Nested
// rules count; a column below two "not"s is used positively.
func Positive(e Expr, r Resolver) []taxonomy.Column {
	var cs []taxonomy.Column
	var visit func(e Expr, yes bool, depth int)
	visit = func(e Expr, yes bool, depth int) {
		if depth > MaxDepth {
			return // such an expression is refused where it is planned
		}
		take := func(of []taxonomy.Column, yes bool) {
			if yes {
				cs = append(cs, of...)
			}
		}
		state := func(s stating) {
			// A statement whose end has come is no member's: it may stay.
			_, say := statementsOf(r, s, ever)
			take(say, yes)
		}
		switch e := e.(type) {
		case And:
			for _, k := range e.Of {
				visit(k, yes, depth+1)
			}
		case Or:
			for _, k := range e.Of {
				visit(k, yes, depth+1)
			}
		case Not:
			visit(e.Of, !yes, depth+1)
		case Trait:
			if e.Min == 0 {
				// "At most" is a "not" in disguise.
				take(columnsOf(r, &e), !yes || e.LastSeen != nil && yes)
				return
			}
			take(columnsOf(r, &e), yes)
		case Sequence:
			for _, st := range e.Steps {
				take(columnsFrom(r, st.Trait, st.Sources), yes)
			}
		case AsOf:
			visit(e.Of, yes, depth+1)
		case Attribute:
			state(&e)
		case List:
			state(&e)
		case Audience:
			if rule, ok := r.Audience(e.ID); ok && rule != nil {
				visit(rule, yes, depth+1)
			}
		}
	}
	visit(e, true, 1)
	return compact(cs)
}

// Mentions returns the traits and statement keys ("a:age", "l:crm") on which the
// answer of an expression depends, sorted, also those that no visitor has had
// yet. MentionOf gives a column's.
func Mentions(e Expr, r Resolver) []string {
	var out []string
	var visit func(e Expr, depth int)
	visit = func(e Expr, depth int) {
		if depth > MaxDepth {
			return
		}
		walk("", e, func(_ string, e Expr) {
			switch e := e.(type) {
			case Not, Any:
				out = append(out, string(taxonomy.TraitAny))
			case Trait:
				if out = append(out, string(nowOf(r, e.Trait))); e.Min == 0 {
					out = append(out, string(taxonomy.TraitAny))
				}
			case Sequence:
				for _, st := range e.Steps {
					out = append(out, string(nowOf(r, st.Trait)))
				}
			case Attribute:
				out = append(out, e.key())
			case List:
				out = append(out, e.key())
			case Audience:
				if rule, ok := r.Audience(e.ID); ok && rule != nil {
					visit(rule, depth+1)
				}
			}
		})
	}
	visit(e, 1)
	slices.Sort(out)
	return slices.Compact(out)
}

// MentionOf is how Mentions names a column.
func MentionOf(c taxonomy.Column) string {
	if key, ok := c.Trait.Statement(); ok {
		return key
	}
	return string(c.Trait)
}

// ForVisitor returns r with columns that r may not know yet, since a visitor may
// be the first to have a trait, or to state a value, after r's view was made: a
// trait has a column in every source in use, and a key at least one. It is for
// EvalVisitor, to which a column that nobody has costs a question and no leaf.
// Those mentions (see Mentions) that are given are answered without allocating.
func ForVisitor(r Resolver, mentions []string) Resolver {
	v := &visitorResolver{Resolver: r, columns: map[taxonomy.Trait][]taxonomy.Column{}, keys: map[string][]taxonomy.Column{}}
	for _, m := range append([]string{string(taxonomy.TraitAny), string(taxonomy.TraitBot)}, mentions...) {
		if _, done := v.columns[taxonomy.Trait(m)]; !done {
			v.columns[taxonomy.Trait(m)] = v.everywhere(taxonomy.Trait(m))
			v.keys[m] = v.statements(m)
		}
	}
	return v
}

type visitorResolver struct {
	Resolver
	columns map[taxonomy.Trait][]taxonomy.Column
	keys    map[string][]taxonomy.Column
}

func (v *visitorResolver) everywhere(t taxonomy.Trait) []taxonomy.Column {
	t = nowOf(v.Resolver, t)
	out := make([]taxonomy.Column, 0, len(v.AllSources()))
	for _, s := range v.AllSources() { // sorted, so the columns are
		out = append(out, taxonomy.Column{Source: s, Trait: t})
	}
	return out
}

func (v *visitorResolver) statements(key string) []taxonomy.Column {
	return compact(append(v.everywhere(taxonomy.Trait(key+"=")), v.Resolver.StatementColumns(key)...))
}

func (v *visitorResolver) Columns(t taxonomy.Trait) []taxonomy.Column {
	if cs, ok := v.columns[t]; ok {
		return cs
	}
	return v.everywhere(t)
}

func (v *visitorResolver) StatementColumns(key string) []taxonomy.Column {
	if cs, ok := v.keys[key]; ok {
		return cs
	}
	return v.statements(key)
}

func compact(cs []taxonomy.Column) []taxonomy.Column {
	slices.SortFunc(cs, taxonomy.Column.Compare)
	return slices.Compact(cs)
}

// ever is before any statement's end.
const ever = taxonomy.Day(math.MinInt32)

// sizeOf estimates how many visitors are in columns.
func sizeOf(r Resolver, cs []taxonomy.Column) (n uint64) {
	s, ok := r.(Sizer)
	if !ok {
		return uint64(cmp.Compare(len(cs), 0))
	}
	for _, c := range cs {
		n += s.Size(c)
	}
	return n
}
