// Package query is the language in which audiences are asked for: one syntax
// tree, a planner that answers many rules in one pass over the index, and a
// second implementation that answers for one visitor. Both must always agree.
package query

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Limits of an expression. Depth and nodes count what nested audiences bring
// in, so that a rule cannot be made large by hiding its parts.
const (
	MaxDepth = 16
	MaxNodes = 500
	// MaxMin is the greatest lower bound of a frequency, MaxMax the greatest
	// upper one: counts saturate at 255, so "at most 255" could not be told from
	// "any number" (R14).
	MaxMin = 255
	MaxMax = 254
	// MaxSteps is the longest sequence; each of its steps counts as stepNodes
	// nodes, for it asks every day of the window.
	MaxSteps  = 8
	stepNodes = 10
	// MaxWithin is the longest way between two steps of a sequence, in days.
	MaxWithin = taxonomy.RetentionDays - 1
)

// Expr is a question that each visitor answers with yes or no: one of And, Or,
// Not, Trait, Sequence, Attribute, List, Audience, AsOf and Any. Expressions are values; whoever
// is handed one must not change its slices.
type Expr interface {
	// kind is the key that names the node in JSON.
	kind() string
}

// And is true where all of Of are. Of has at least one.
type And struct{ Of []Expr }

// Or is true where one of Of is. Of has at least one.
type Or struct{ Of []Expr }

// Not is true of the visitors with an event in the 90 days to today of whom Of
// is not true (R15): "not" is never against people of whom nothing is known.
type Not struct{ Of Expr }

// Any is true of the visitors with an event in the 90 days to today.
type Any struct{}

// Trait is true of the visitors that had a trait often enough in a window. If
// LastSeen is set, it must hold too.
type Trait struct {
	Trait taxonomy.Trait
	// Sources that count, sorted, without repeats; nil for all that are in use.
	Sources []taxonomy.SourceID
	Window  Window
	// Min and Max bound the number of events, or of days with an event, summed
	// over the sources: Min 0..255, Max 1..254 or 0 for none. Min 0 needs a Max
	// and is true also of those (of Any) who never had the trait.
	Min, Max int
	Unit     index.Unit
	// LastSeen bounds the age of the newest event of the 90 days to today,
	// whatever the window.
	LastSeen *Recency
}

// Recency bounds an age in days, both ends included: 0 is today, 89 the oldest
// day that is kept. 0 ≤ Min ≤ Max ≤ 89.
type Recency struct{ Min, Max int }

// Sequence is true of the visitors that had the traits of its steps in that
// order, each on a later day than the one before. What happened within one day
// has no order: it is not kept.
type Sequence struct {
	Steps  []Step // 2..MaxSteps
	Window Window // in which all steps lie
}

// Step is one thing of a sequence.
type Step struct {
	Trait   taxonomy.Trait
	Sources []taxonomy.SourceID // as in Trait
	// Within is how many days after the step before it lies at most: 1 is the
	// day after. 1..MaxWithin; 0 for the first step.
	Within int
}

// Attribute is true of the visitors whose newest statement of a key is one of
// In (sorted, at least one), or a number within Range. It has no window (R16).
type Attribute struct {
	Key   string
	In    []string
	Range *Range // nil: In decides
}

// Range is the numbers between two bounds, of which at least one is set.
type Range struct{ Low, High Bound }

// Bound is one end of a Range. The zero value is none.
type Bound struct {
	Set   bool
	Value float64 // within ±1e15
	Open  bool    // Value itself is outside
}

// Has reports whether a number lies in the range.
func (r *Range) Has(v float64) bool {
	if l := r.Low; l.Set && (v < l.Value || l.Open && v == l.Value) {
		return false
	}
	h := r.High
	return !h.Set || v < h.Value || !h.Open && v == h.Value
}

// AsOf is true of the visitors of whom Of was true at the end of an earlier day:
// windows end on it, statements and events after it are not yet known. Nothing
// older than the 90 days to today is seen, and who may be in an audience at all
// is always asked as of today. Within another AsOf it goes further back.
type AsOf struct {
	Ago int          // days before today, 1..89; 0 if Day is set
	Day taxonomy.Day // 0: Ago decides; a day still to come is today
	Of  Expr
}

// from returns the day that is meant where at is today.
func (e *AsOf) from(at taxonomy.Day) taxonomy.Day {
	if e.Day != 0 {
		return min(e.Day, at)
	}
	return at - taxonomy.Day(e.Ago)
}

// List is true of the members of a static list (R16).
type List struct{ List taxonomy.ListID }

// Audience is true of the members of another audience: by its rule if it has
// one, as of this evaluation; else by its members in the last generation.
type Audience struct{ ID taxonomy.AudienceID }

func (And) kind() string       { return "and" }
func (Or) kind() string        { return "or" }
func (Not) kind() string       { return "not" }
func (Any) kind() string       { return "any" }
func (Trait) kind() string     { return "trait" }
func (Sequence) kind() string  { return "sequence" }
func (Attribute) kind() string { return "attribute" }
func (AsOf) kind() string      { return "as_of" }
func (List) kind() string      { return "list" }
func (Audience) kind() string  { return "audience" }

// Window is the last Days days, today included (1..90); or, if Days is 0, the
// days From to To, both included, at most 90 of them.
type Window struct {
	Days     int
	From, To taxonomy.Day
}

// LastDays is the window of the last n days, today included.
func LastDays(n int) Window { return Window{Days: n} }

// Range returns the days of the window that can be read when it is today:
// never more than the 90 days to today. ok is false if there are none.
func (w Window) Range(today taxonomy.Day) (from, to taxonomy.Day, ok bool) {
	return w.asOf(today, today.Oldest())
}

// asOf is Range where today is at, and nothing before oldest is kept.
func (w Window) asOf(at, oldest taxonomy.Day) (from, to taxonomy.Day, ok bool) {
	from, to = max(w.From, oldest), min(w.To, at)
	if w.Days > 0 {
		from, to = max(at-taxonomy.Day(w.Days-1), oldest), at
	}
	return from, to, from <= to
}

func (w Window) String() string {
	if w.Days > 0 {
		return strconv.Itoa(w.Days) + "d"
	}
	return w.From.String() + " to " + w.To.String()
}

// Had returns a Trait with the defaults of the language: at least one event
// from any source in use within the 90 days.
func Had(t taxonomy.Trait) Trait {
	return Trait{Trait: t, Window: LastDays(taxonomy.RetentionDays), Min: 1}
}

// Check returns every fault of an expression, each a taxonomy.FieldError whose
// field is the path in the JSON form, joined. Both faces of the language and
// whoever builds trees in code use it.
func Check(e Expr) error {
	c := checker{}
	c.expr("", e, 1)
	return c.faults.err()
}

type checker struct {
	faults faults
	nodes  int
}

func (c *checker) expr(path string, e Expr, depth int) {
	fits := c.nodes <= MaxNodes
	if c.nodes += weight(e); c.nodes > MaxNodes {
		if fits {
			c.faults.add(path, "the expression has more than %d nodes; split it into audiences of its own", MaxNodes)
		}
		return
	}
	if depth > MaxDepth {
		c.faults.add(path, "nested deeper than %d", MaxDepth)
		return
	}
	switch e := e.(type) {
	case And:
		c.list(join(path, "and"), e.Of, depth)
	case Or:
		c.list(join(path, "or"), e.Of, depth)
	case Not:
		c.expr(join(path, "not"), e.Of, depth+1)
	case Any:
	case Trait:
		c.trait(path, &e)
	case Sequence:
		c.sequence(path, &e)
	case AsOf:
		switch {
		case e.Day != 0 && e.Ago != 0:
			c.faults.add(join(path, "as_of"), "has both a day and a number of days")
		case e.Day == 0 && (e.Ago < 1 || e.Ago >= taxonomy.RetentionDays):
			c.faults.add(join(path, "as_of"), "%d days ago is not within 1 to %d", e.Ago, taxonomy.RetentionDays-1)
		}
		c.expr(join(path, "of"), e.Of, depth+1)
	case Attribute:
		c.attribute(path, &e)
	case List:
		if err := taxonomy.CheckSlug("list", string(e.List)); err != nil {
			c.faults.add(join(path, "list"), "%v", err)
		}
	case Audience:
		if err := taxonomy.CheckSlug("audience", string(e.ID)); err != nil {
			c.faults.add(join(path, "audience"), "%v", err)
		}
	default:
		c.faults.add(path, "no expression")
	}
}

func (c *checker) list(path string, of []Expr, depth int) {
	if len(of) == 0 {
		c.faults.add(path, "name at least one expression")
	}
	for i, k := range of {
		c.expr(path+"["+strconv.Itoa(i)+"]", k, depth+1)
	}
}

func (c *checker) trait(path string, t *Trait) {
	at := func(key string) string { return join(path, key) }
	if why := badTrait(t.Trait); why != "" {
		c.faults.add(at("trait"), "%.80q %s", string(t.Trait), why)
	}
	c.sources(at("sources"), t.Sources)
	c.window(at("window"), t.Window)
	if t.Min < 0 || t.Min > MaxMin {
		c.faults.add(at("min"), "%d is not within 0 to %d", t.Min, MaxMin)
	}
	switch {
	case t.Max < 0 || t.Max > MaxMax:
		c.faults.add(at("max"), "%d is not within 1 to %d: counts end at 255", t.Max, MaxMax)
	case t.Max > 0 && t.Max < t.Min:
		c.faults.add(at("max"), "%d is less than min, %d", t.Max, t.Min)
	case t.Max == 0 && t.Min == 0:
		c.faults.add(at("min"), `0 without a max is true of all; for those who never had it use {"not": {"trait": …}}`)
	}
	if t.Unit != index.Events && t.Unit != index.DistinctDays {
		c.faults.add(at("unit"), "is not one of events, days")
	}
	if l := t.LastSeen; l != nil {
		if l.Min < 0 || l.Min > taxonomy.RetentionDays-1 {
			c.faults.add(at("last_seen.min_days"), "%d is not within 0 (today) to %d", l.Min, taxonomy.RetentionDays-1)
		}
		if l.Max < 0 || l.Max > taxonomy.RetentionDays-1 {
			c.faults.add(at("last_seen.max_days"), "%d is not within 0 (today) to %d", l.Max, taxonomy.RetentionDays-1)
		} else if l.Max < l.Min {
			c.faults.add(at("last_seen.max_days"), "%d is less than min_days, %d", l.Max, l.Min)
		}
	}
}

func (c *checker) sources(at string, ids []taxonomy.SourceID) {
	if ids != nil && len(ids) == 0 {
		c.faults.add(at, "name at least one, or leave it out for all in use")
	}
	for i, s := range ids {
		if err := taxonomy.CheckSlug("source", string(s)); err != nil {
			c.faults.add(at+"["+strconv.Itoa(i)+"]", "%v", err)
		}
		if i > 0 && ids[i-1] >= s {
			c.faults.add(at+"["+strconv.Itoa(i)+"]", "%q is repeated or out of order", s)
		}
	}
}

func (c *checker) window(at string, w Window) {
	switch {
	case w.Days < 0 || w.Days > taxonomy.RetentionDays:
		c.faults.add(at, "%dd is not within 1d to %dd", w.Days, taxonomy.RetentionDays)
	case w.Days > 0 && (w.From != 0 || w.To != 0):
		c.faults.add(at, "has both a number of days and a range")
	case w.Days == 0 && w.From > w.To:
		c.faults.add(at, "ends (%s) before it begins (%s)", w.To, w.From)
	case w.Days == 0 && w.To-w.From >= taxonomy.RetentionDays:
		c.faults.add(at, "is %d days long; at most %d are kept", w.To-w.From+1, taxonomy.RetentionDays)
	}
}

func (c *checker) sequence(path string, s *Sequence) {
	at := join(path, "sequence")
	if n := len(s.Steps); n < 2 || n > MaxSteps {
		c.faults.add(at, "has %d steps; want 2 to %d", n, MaxSteps)
		return
	}
	for i, st := range s.Steps {
		step := at + "[" + strconv.Itoa(i) + "]"
		if why := badTrait(st.Trait); why != "" {
			c.faults.add(join(step, "trait"), "%.80q %s", string(st.Trait), why)
		}
		c.sources(join(step, "sources"), st.Sources)
		switch {
		case i == 0 && st.Within != 0:
			c.faults.add(join(step, "within_days"), "the first step has none before it")
		case i > 0 && (st.Within < 1 || st.Within > MaxWithin):
			c.faults.add(join(step, "within_days"), "%d is not within 1 (the day after) to %d", st.Within, MaxWithin)
		}
	}
	c.window(join(path, "window"), s.Window)
}

// weight is how many nodes an expression counts as, without what lies below it.
func weight(e Expr) int {
	if s, ok := e.(Sequence); ok {
		return stepNodes * max(len(s.Steps), 1)
	}
	return 1
}

// maxNumber bounds the numbers of a Range, so that they are written without an
// exponent.
const maxNumber = 1e15

func (c *checker) between(path string, a *Attribute) {
	r := a.Range
	if a.In != nil {
		c.faults.add(join(path, "in"), "has both values and a range of numbers; join two with or")
	}
	if !r.Low.Set && !r.High.Set {
		c.faults.add(path, "a range needs one of min, above, max, below")
	}
	for _, b := range []struct {
		Bound
		shut, open string
	}{{r.Low, "min", "above"}, {r.High, "max", "below"}} {
		key := b.shut
		if b.Open {
			key = b.open
		}
		if !b.Set && b.Bound != (Bound{}) || b.Value != b.Value || b.Value > maxNumber || b.Value < -maxNumber {
			c.faults.add(join(path, key), "is not a number within ±1e15")
		}
	}
	if l, h := r.Low, r.High; l.Set && h.Set && (l.Value > h.Value || l.Value == h.Value && (l.Open || h.Open)) {
		key := "max"
		if h.Open {
			key = "below"
		}
		c.faults.add(join(path, key), "no number lies between the two bounds")
	}
}

func (c *checker) attribute(path string, a *Attribute) {
	if a.Key == "" || len(a.Key) > 64 || strings.ContainsRune(a.Key, '=') || !plain(a.Key) {
		c.faults.add(join(path, "attribute"), "%.80q is not a key of 1 to 64 bytes without '='", a.Key)
	}
	if a.Range != nil {
		c.between(path, a)
		return
	}
	if len(a.In) == 0 {
		c.faults.add(join(path, "in"), "name at least one value")
	}
	for i, v := range a.In {
		at := join(path, "in") + "[" + strconv.Itoa(i) + "]"
		if v == "" || len(v) > 256 || !plain(v) {
			c.faults.add(at, "%.80q is not a value of 1 to 256 bytes", v)
		}
		if i > 0 && a.In[i-1] >= v {
			c.faults.add(at, "%.80q is repeated or out of order", v)
		}
	}
}

// badTrait says what is wrong with a trait as a question; "" if nothing.
func badTrait(t taxonomy.Trait) string {
	s := string(t)
	switch {
	case t == taxonomy.TraitAny:
		return ""
	case t == taxonomy.TraitBot:
		return "cannot be asked for: bots are never in an audience"
	case len(s) > 512 || !plain(s):
		return "is not a trait: more than 512 bytes, or with control characters"
	case strings.HasPrefix(s, "c:"):
		if i := strings.IndexByte(s, '/'); i > 2 && i < len(s)-1 {
			return ""
		}
		return `is not a category: want "c:taxonomy/category"`
	case strings.HasPrefix(s, "k:"):
		if i := strings.IndexByte(s, '='); i > 2 && i < len(s)-1 {
			return ""
		}
		return `is not a key and value: want "k:key=value"`
	case strings.HasPrefix(s, "a:"):
		return `is an attribute: use {"attribute": "key", "in": ["value"]}`
	case strings.HasPrefix(s, "l:"):
		return `is a list: use {"list": "name"}`
	}
	return `is not a trait: want "c:taxonomy/category", "k:key=value" or "any"`
}

func plain(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// Describe says in a few words what a node asks, without what lies below it.
func Describe(e Expr) string {
	switch e := e.(type) {
	case And:
		return fmt.Sprintf("all of %d", len(e.Of))
	case Or:
		return fmt.Sprintf("one of %d", len(e.Of))
	case Not:
		return "not"
	case Any:
		return "any event"
	case Trait:
		return describeTrait(&e)
	case Sequence:
		return Text(e)
	case AsOf:
		return "as of " + e.when()
	case Attribute:
		if e.Range != nil {
			return Text(e)
		}
		return e.Key + " is " + strings.Join(e.In, " or ")
	case List:
		return "in list " + string(e.List)
	case Audience:
		return "in audience " + string(e.ID)
	}
	return "nothing"
}

func describeTrait(t *Trait) string {
	var b strings.Builder
	b.WriteString(string(t.Trait))
	if t.Sources != nil {
		b.WriteString(" from " + names(t.Sources))
	}
	b.WriteString(", " + t.Window.String())
	if t.Min != 1 || t.Max != 0 || t.Unit != index.Events {
		switch {
		case t.Max == 0:
			fmt.Fprintf(&b, ", at least %d %s", t.Min, t.Unit)
		case t.Min == t.Max:
			fmt.Fprintf(&b, ", exactly %d %s", t.Min, t.Unit)
		default:
			fmt.Fprintf(&b, ", %d to %d %s", t.Min, t.Max, t.Unit)
		}
	}
	if l := t.LastSeen; l != nil {
		fmt.Fprintf(&b, ", last seen %d to %d days ago", l.Min, l.Max)
	}
	return b.String()
}

// walk calls fn with every node and its path, parents first, without entering
// nested audiences.
func walk(path string, e Expr, fn func(path string, e Expr)) {
	fn(path, e)
	switch e := e.(type) {
	case And:
		for i, k := range e.Of {
			walk(join(path, "and")+"["+strconv.Itoa(i)+"]", k, fn)
		}
	case Or:
		for i, k := range e.Of {
			walk(join(path, "or")+"["+strconv.Itoa(i)+"]", k, fn)
		}
	case Not:
		walk(join(path, "not"), e.Of, fn)
	case AsOf:
		walk(join(path, "of"), e.Of, fn)
	}
}

// References returns the audiences that an expression names itself, sorted.
func References(e Expr) []taxonomy.AudienceID {
	var ids []taxonomy.AudienceID
	walk("", e, func(_ string, e Expr) {
		if a, ok := e.(Audience); ok {
			ids = append(ids, a.ID)
		}
	})
	slices.Sort(ids)
	return slices.Compact(ids)
}
