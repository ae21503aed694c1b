// Package insight is what is told of audiences together: how far they overlap, and
// what sets the members of one apart from everybody. Everything is counted exactly,
// of those who agreed to be counted in insights, and then told so that nobody can be
// singled out.
package insight

import (
	"context"
	"fmt"
	"slices"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Group is whom a report is about: the members of an audience, or who had a trait
// in the 90 days. Exactly one of the two is set.
type Group struct {
	Audience taxonomy.AudienceID `json:"audience,omitempty"`
	Trait    taxonomy.Trait      `json:"trait,omitempty"`
}

// String is how a rule says it.
func (g Group) String() string {
	if g.Audience != "" {
		return "audience " + string(g.Audience)
	}
	return string(g.Trait)
}

// expr is the group as a rule.
func (g Group) expr() query.Expr {
	if g.Audience != "" {
		return query.Audience{ID: g.Audience}
	}
	return query.Had(g.Trait)
}

// check returns what is wrong with a group, with the field below at.
func (g Group) check(at string, c *audience.Catalog) error {
	switch {
	case g.Audience != "" && g.Trait != "":
		return taxonomy.Invalid(at+".trait", "give either audience or trait, not both")
	case g.Audience == "" && g.Trait == "":
		return taxonomy.Invalid(at+".audience", "is missing: give audience or trait")
	case g.Audience != "":
		if err := c.Check(g.Audience); err != nil {
			return taxonomy.Invalid(at+".audience", "%v", err)
		}
	}
	return nil
}

// At is what a report is exact for.
type At struct {
	AsOf     taxonomy.Millis // the fold's clock
	Position retention.Position
	// Day is at whose end the rules were true. Consent, erasures and bots are always
	// of now.
	Day taxonomy.Day
}

// asked is a report under way.
type asked struct {
	At
	b      audience.Basis
	leaves index.Leaves
	r      query.Resolver
	today  taxonomy.Day
}

// ask reads what the words of a report mean. Day 0 is today.
func ask(ctx context.Context, b audience.Basis, day taxonomy.Day, exprs ...query.Expr) (*asked, error) {
	leaves, r, err := b.Insights(ctx, exprs...)
	if err != nil {
		return nil, err
	}
	a := &asked{At{b.View.Clock(), b.View.Position().Clone(), day}, b, leaves, r, b.View.Clock().Day()}
	if a.Day == 0 {
		a.Day = a.today
	}
	return a, nil
}

// checkDay returns why there is no report of a day.
func checkDay(day, today taxonomy.Day) error {
	if day != 0 && (day > today || day < today.Oldest()) {
		return taxonomy.Invalid("day", "%s is none of the days that are known, %s to %s", day, today.Oldest(), today)
	}
	return nil
}

// plan begins a plan for the report.
func (a *asked) plan() *query.Plan { return query.NewPlan(a.today, a.r) }

// add adds an expression as of the report's day. Its faults are of the field at.
func (a *asked) add(p *query.Plan, at string, e query.Expr) (int, error) {
	if a.Day != a.today {
		e = query.AsOf{Day: a.Day, Of: e}
	}
	n, err := p.Add(e)
	if err != nil {
		return 0, taxonomy.Invalid(at, "%v", err)
	}
	return n, nil
}

// count runs a plan. Only counts come out: the visitors of a report are in no
// memory beyond the block that is being counted.
func (a *asked) count(ctx context.Context, p *query.Plan) (*query.Result, error) {
	return p.Run(ctx, a.leaves, query.RunOptions{Workers: a.b.Workers, CountsOnly: true})
}

// MaxGroups is how many groups an overlap may have; up to MaxExclusive each
// combination of them is counted too.
const (
	MaxGroups    = 10
	MaxExclusive = 5
)

// OverlapQuery asks how far 2 to MaxGroups different groups overlap.
type OverlapQuery struct {
	Of  []Group      `json:"of"`
	Day taxonomy.Day `json:"day,omitempty"` // one of the 90 to today; 0: today
}

// Overlap is how far groups overlap, exactly. It holds small numbers too: what
// people may see is what Tell makes of it.
type Overlap struct {
	At
	Groups []Group
	// Base is everybody who may be profiled and counted in insights, less bots, the
	// erased and the holdout. No group has anybody else.
	Base uint64
	// together is, by the set of groups, how many are in all of them: of up to
	// MaxExclusive groups for every set, else for sets of up to viewOf.
	together map[Combination]uint64
}

// Combination is a set of groups: bit i is the i-th.
type Combination uint16

// Of returns the combination of groups.
func Of(groups ...int) (c Combination) {
	for _, i := range groups {
		c |= 1 << i
	}
	return c
}

// Has reports whether a group is in the combination.
func (c Combination) Has(i int) bool { return c>>i&1 == 1 }

// Together returns how many are in all groups of a combination: of any if there are
// at most MaxExclusive groups, else of one with at most four.
func (o *Overlap) Together(c Combination) uint64 {
	if c == 0 {
		return o.Base
	}
	return o.together[c]
}

// Exclusive returns how many are in all groups of a combination and in no other, by
// combination; of 0 those in none. It is nil for more than MaxExclusive groups.
func (o *Overlap) Exclusive() []uint64 {
	if len(o.Groups) > MaxExclusive {
		return nil
	}
	all := make([]int, len(o.Groups))
	for i := range all {
		all[i] = i
	}
	return o.exclusive(all)
}

// exclusive is Exclusive as if there were these groups only.
func (o *Overlap) exclusive(of []int) []uint64 {
	n := make([]uint64, 1<<len(of))
	for cell := range n {
		var c Combination
		for i, g := range of {
			if Combination(cell).Has(i) {
				c |= Of(g)
			}
		}
		n[cell] = o.Together(c)
	}
	// Who is in the groups of a cell and in no other is who is in those, less who is
	// in another too: taken away one group after the other.
	for i := range of {
		for cell := range n {
			if !Combination(cell).Has(i) {
				n[cell] -= n[cell|1<<i]
			}
		}
	}
	return n
}

// NewOverlap counts an overlap in one pass over the index. Faults of the query are
// taxonomy.FieldErrors.
func NewOverlap(ctx context.Context, b audience.Basis, q OverlapQuery) (*Overlap, error) {
	if err := q.check(b); err != nil {
		return nil, err
	}
	exprs := make([]query.Expr, len(q.Of))
	for i, g := range q.Of {
		exprs[i] = g.expr()
	}
	a, err := ask(ctx, b, q.Day, exprs...)
	if err != nil {
		return nil, fmt.Errorf("count an overlap: %w", err)
	}
	p := a.plan()
	for i, e := range exprs {
		if _, err := a.add(p, fmt.Sprintf("of[%d]", i), e); err != nil {
			return nil, err
		}
	}
	var crossed []Combination
	for c := Combination(1); c < 1<<len(exprs); c++ {
		var in []int
		for i := range exprs {
			if c.Has(i) {
				in = append(in, i)
			}
		}
		if len(in) > 1 && (len(in) <= viewOf || len(exprs) <= MaxExclusive) {
			p.AddAll(in...)
			crossed = append(crossed, c)
		}
	}
	res, err := a.count(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("count an overlap: %w", err)
	}
	o := &Overlap{At: a.At, Groups: slices.Clone(q.Of), Base: res.Eligible, together: map[Combination]uint64{}}
	for i := range exprs {
		o.together[Of(i)] = res.Counts[i]
	}
	for i, c := range crossed {
		o.together[c] = res.Counts[len(exprs)+i]
	}
	return o, nil
}

func (q *OverlapQuery) check(b audience.Basis) error {
	if n := len(q.Of); n < 2 || n > MaxGroups {
		return taxonomy.Invalid("of", "names %d groups, want 2 to %d", n, MaxGroups)
	}
	for i, g := range q.Of {
		at := fmt.Sprintf("of[%d]", i)
		if err := g.check(at, b.Catalog); err != nil {
			return err
		}
		if j := slices.Index(q.Of[:i], g); j >= 0 {
			return taxonomy.Invalid(at, "is of[%d] again", j)
		}
	}
	return checkDay(q.Day, b.View.Clock().Day())
}
