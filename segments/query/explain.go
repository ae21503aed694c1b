package query

import (
	"context"
	"fmt"
	"sort"
	"strings"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Explanation is what an expression finds and how it comes to that. All counts
// are exact, and of eligible visitors.
type Explanation struct {
	Count uint64 `json:"count"`
	// Eligible is how many visitors may be in an audience at all.
	Eligible uint64 `json:"eligible"`
	// Clauses are all parts of the expression, each before those within it.
	Clauses []Clause `json:"clauses"`
	// WhyEmpty says why Count is 0; none otherwise.
	WhyEmpty []Reason `json:"why_empty,omitempty"`
}

// Clause is one part of an expression.
type Clause struct {
	Path  string `json:"path"` // as in faults; "." is the whole
	What  string `json:"what"`
	Count uint64 `json:"count"` // of this part alone
	// Kept is, for the parts of an "and", how many are in this one and in all
	// parts before it.
	Kept *uint64 `json:"kept,omitempty"`
}

// Reason is one cause of an empty result.
type Reason struct {
	Path string     `json:"path"`
	Code ReasonCode `json:"code"`
	Why  string     `json:"why"` // a sentence for people
}

// ReasonCode is one of a closed list.
type ReasonCode string

// The reasons for an empty result.
const (
	NobodyEligible  ReasonCode = "nobody_eligible"   // nobody may be profiled
	NoOverlap       ReasonCode = "no_overlap"        // shares nobody with the parts before
	AllExcluded     ReasonCode = "all_excluded"      // "not" of everybody
	NoEvents        ReasonCode = "no_events"         // no event at all in 90 days
	SourceNotInUse  ReasonCode = "source_not_in_use" // withdrawn, or not for profiling
	UnknownTrait    ReasonCode = "unknown_trait"     // on no day of the 90
	UnknownKey      ReasonCode = "unknown_attribute" // no statement of the attribute or list
	UnknownValue    ReasonCode = "unknown_value"     // statements, but of other values
	OutsideLife     ReasonCode = "outside_retention" // the window has no day that is kept
	BeforeFirstData ReasonCode = "before_first_data" // it ends before the first day with an event
	NotInWindow     ReasonCode = "not_in_window"     // the trait is there on other days
	OutOfBounds     ReasonCode = "out_of_bounds"     // nobody has it so often, or so recently
	NotEligible     ReasonCode = "not_eligible"      // only of visitors who may not be profiled
	EmptyAudience   ReasonCode = "empty_audience"    // the nested audience has no members
)

// Explain evaluates one expression with everything that explains its count, in
// one pass. Faults are those of Plan.Add.
func Explain(ctx context.Context, leaves index.Leaves, today taxonomy.Day, r Resolver, e Expr, o RunOptions) (*Explanation, error) {
	x := explainer{leaves: leaves, today: today, r: r, p: NewPlan(today, r), at: map[string]int{}, prefix: map[string]int{}}
	if _, err := x.p.Add(e); err != nil {
		return nil, err
	}
	// Once more with every part tapped: hash-consing gives the same nodes.
	c := compiler{Plan: x.p}
	nodes := map[string]int32{}
	c.seen = func(path string, e Expr, n int32) { nodes[path] = n }
	c.expr("", e, 1)
	x.visit("", e, func(path string, e Expr) {
		x.at[path] = len(x.parts)
		x.parts = append(x.parts, part{path, e, x.tap(nodes[path])})
		if a, ok := e.(And); ok {
			x.prefixes(path, a, nodes)
		}
	})
	o.CountsOnly = true
	res, err := x.p.Run(ctx, leaves, o)
	if err != nil {
		return nil, err
	}
	x.res = res
	out := &Explanation{Count: res.Counts[0], Eligible: res.Eligible}
	for i := range x.parts {
		p := &x.parts[i]
		cl := Clause{Path: dot(p.path), What: Describe(p.e), Count: res.kept[p.tap]}
		if tap, ok := x.prefix[p.path]; ok {
			cl.Kept = &res.kept[tap]
		}
		out.Clauses = append(out.Clauses, cl)
	}
	if out.Count > 0 {
		return out, nil
	}
	if out.Eligible == 0 {
		out.WhyEmpty = []Reason{{".", NobodyEligible, "no visitor may be profiled: none has given consent for it, or those who have are flagged as bots, gone or held out"}}
		return out, nil
	}
	if err := x.learn(); err != nil {
		return nil, err
	}
	x.why("", e)
	out.WhyEmpty = x.reasons
	return out, nil
}

func dot(path string) string {
	if path == "" {
		return "."
	}
	return path
}

type explainer struct {
	leaves index.Leaves
	today  taxonomy.Day
	r      Resolver
	p      *Plan
	res    *Result

	parts  []part
	at     map[string]int // path → index of its part
	prefix map[string]int // path → tap of the conjunction up to it

	columns map[taxonomy.Trait][]taxonomy.SourceID // of the 90 days, in use or not
	first   taxonomy.Day                           // with any column; today+1 if there is none
	reasons []Reason
}

type part struct {
	path string
	e    Expr
	tap  int
}

// visit walks an expression and the rules of the audiences nested in it.
func (x *explainer) visit(path string, e Expr, fn func(string, Expr)) {
	walk(path, e, func(path string, e Expr) {
		fn(path, e)
		if a, ok := e.(Audience); ok {
			if rule, _ := x.r.Audience(a.ID); rule != nil {
				x.visit(join(path, "audience"), rule, fn)
			}
		}
	})
}

func (x *explainer) tap(n int32) int {
	x.p.taps = append(x.p.taps, n)
	return len(x.p.taps) - 1
}

// prefixes taps the conjunction up to each part of an "and".
func (x *explainer) prefixes(path string, a And, nodes map[string]int32) {
	for i := range a.Of {
		var upTo []int32
		for j := range i + 1 {
			upTo = append(upTo, nodes[nth(path, "and", j)])
		}
		x.prefix[nth(path, "and", i)] = x.tap(x.p.and(upTo, nil))
	}
}

func nth(path, key string, i int) string { return fmt.Sprintf("%s[%d]", join(path, key), i) }

// learn reads what only an empty result needs: which traits there are at all,
// and when the data begins.
func (x *explainer) learn() error {
	x.columns = map[taxonomy.Trait][]taxonomy.SourceID{}
	err := x.leaves.Columns(x.today.Oldest(), x.today, func(c taxonomy.Column, _ uint64) {
		x.columns[c.Trait] = append(x.columns[c.Trait], c.Source)
	})
	// Having a column by day d is monotone in d.
	x.first = x.today.Oldest() + taxonomy.Day(sort.Search(taxonomy.RetentionDays, func(i int) bool {
		some := false
		if e := x.leaves.Columns(x.today.Oldest(), x.today.Oldest()+taxonomy.Day(i), func(taxonomy.Column, uint64) { some = true }); e != nil {
			err = e
		}
		return some
	}))
	if err != nil {
		return fmt.Errorf("read the columns to %s: %w", x.today, err)
	}
	return nil
}

func (x *explainer) count(path string) uint64 { return x.res.kept[x.parts[x.at[path]].tap] }
func (x *explainer) raw(path string) uint64   { return x.res.raw[x.parts[x.at[path]].tap] }

func (x *explainer) say(path string, code ReasonCode, format string, args ...any) {
	x.reasons = append(x.reasons, Reason{dot(path), code, fmt.Sprintf(format, args...)})
}

// why explains a part that is empty.
func (x *explainer) why(path string, e Expr) {
	if _, or := e.(Or); !or && x.raw(path) > 0 { // an "or" says it of each part
		x.say(path, NotEligible, "%d visitors match, but none of them may be profiled (consent, bots, gone, held out)", x.raw(path))
		return
	}
	switch e := e.(type) {
	case And:
		x.whyAnd(path, e)
	case Or:
		for i, k := range e.Of {
			x.why(nth(path, "or", i), k)
		}
	case Not:
		if !x.anyEvents(path) {
			return
		}
		x.say(path, AllExcluded, "everyone with an event in the 90 days matches what is excluded")
	case Any:
		x.anyEvents(path)
	case Trait:
		x.whyTrait(path, &e)
	case Sequence:
		x.whySequence(path, &e)
	case AsOf:
		defer func(today taxonomy.Day) { x.today = today }(x.today)
		x.today = e.from(x.today)
		if x.today < x.p.today.Oldest() {
			x.say(path, OutsideLife, "%s is before the days that are kept, %s to %s", x.today, x.p.today.Oldest(), x.p.today)
			return
		}
		x.why(join(path, "of"), e.Of)
	case Attribute:
		x.whyStatement(path, "attribute "+e.Key, e.key())
	case List:
		x.whyStatement(path, "list "+string(e.List), e.key())
	case Audience:
		if rule, _ := x.r.Audience(e.ID); rule != nil {
			x.why(join(path, "audience"), rule)
			return
		}
		x.say(path, EmptyAudience, "audience %q has no members in the last generation", e.ID)
	}
}

func (x *explainer) whyAnd(path string, a And) {
	for i, k := range a.Of {
		if at := nth(path, "and", i); x.count(at) == 0 {
			x.why(at, k)
			return
		}
	}
	for i := range a.Of {
		if at := nth(path, "and", i); x.res.kept[x.prefix[at]] == 0 {
			x.say(at, NoOverlap, "%d visitors match this part, but none of the %d that match the parts before it", x.count(at), x.res.kept[x.prefix[nth(path, "and", i-1)]])
			return
		}
	}
}

// anyEvents says so if there is no event at all, and reports whether there is.
func (x *explainer) anyEvents(path string) bool {
	if any := x.r.Columns(taxonomy.TraitAny); len(any) > 0 && x.within(any, x.p.today.Oldest(), x.today) {
		return true
	}
	x.say(path, NoEvents, "no visitor has an event in the 90 days to %s from a source in use", x.today)
	return false
}

func (x *explainer) whyTrait(path string, t *Trait) {
	var withdrawn []string
	for _, s := range t.Sources {
		if !InUse(x.r, s) {
			withdrawn = append(withdrawn, string(s))
		}
	}
	if t.Sources != nil && len(withdrawn) == len(t.Sources) {
		x.say(path, SourceNotInUse, "no source that it names is in use for profiling: %s", strings.Join(withdrawn, ", "))
		return
	}
	cols := columnsOf(x.r, t)
	if len(cols) == 0 && t.Min > 0 {
		if from := x.columns[t.Trait]; len(from) > 0 {
			x.say(path, SourceNotInUse, "%s is known only from sources that are not counted here: %s", t.Trait, names(from))
			return
		}
		x.say(path, UnknownTrait, "no visitor had %s on any of the 90 days to %s: check its spelling, or the rules that give it", t.Trait, x.today)
		return
	}
	from, to, ok := t.Window.asOf(x.today, x.p.today.Oldest())
	switch {
	case !ok && t.Min > 0:
		x.say(path, OutsideLife, "the window %s has no day of those that are kept, %s to %s", t.Window, x.today.Oldest(), x.today)
	case to < x.first && t.Min > 0:
		x.say(path, BeforeFirstData, "the window ends on %s, but the first data is of %s", to, x.first)
	case t.Min > 0 && !x.within(cols, from, to):
		x.say(path, NotInWindow, "%s is there, but on no day from %s to %s", t.Trait, from, to)
	default:
		x.say(path, OutOfBounds, "visitors had %s, but none within the bounds: %s", t.Trait, describeTrait(t))
	}
}

// whySequence says which step alone has nobody; else it is their order.
func (x *explainer) whySequence(path string, s *Sequence) {
	for i, st := range s.Steps {
		t := Had(st.Trait)
		t.Sources, t.Window = st.Sources, s.Window
		cols := columnsOf(x.r, &t)
		from, to, ok := s.Window.asOf(x.today, x.p.today.Oldest())
		if !ok || to < x.first || !x.within(cols, from, to) {
			x.whyTrait(nth(path, "sequence", i), &t)
			return
		}
	}
	x.say(path, OutOfBounds, "there are visitors with each step, but none with all of them in this order, each on a later day than the one before: %s", Text(*s))
}

func names(ids []taxonomy.SourceID) string {
	s := make([]string, len(ids))
	for i, id := range ids {
		s[i] = string(id)
	}
	return strings.Join(s, ", ")
}

// within reports whether one of the columns has a visitor on one of the days.
// The columns could be read before, so an error here only makes the answer less
// exact.
func (x *explainer) within(cols []taxonomy.Column, from, to taxonomy.Day) bool {
	found := false
	err := x.leaves.Columns(from, to, func(c taxonomy.Column, _ uint64) {
		for _, o := range cols {
			found = found || o == c
		}
	})
	return found || err != nil
}

func (x *explainer) whyStatement(path, what, key string) {
	if len(x.r.StatementColumns(key)) == 0 {
		x.say(path, UnknownKey, "no statement about %s in the 90 days to %s from a source in use", what, x.today)
		return
	}
	x.say(path, UnknownValue, "there are statements about %s, but nobody's newest one says this", what)
}
