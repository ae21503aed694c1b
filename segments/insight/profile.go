package insight

import (
	"context"
	"fmt"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// ProfileQuery asks what the members of an audience are like.
type ProfileQuery struct {
	Audience taxonomy.AudienceID `json:"audience"`
	// Taxonomy is whose categories are counted; empty: those of all.
	Taxonomy string `json:"taxonomy,omitempty"`
	// Sensitive has sensitive categories counted too.
	Sensitive bool         `json:"sensitive,omitempty"`
	Day       taxonomy.Day `json:"day,omitempty"` // one of the 90 to today; 0: today
}

// Profile is what the members of an audience are like beside everybody, exactly. It
// holds small numbers too: what people may see is what Tell makes of it.
type Profile struct {
	At
	Audience taxonomy.AudienceID
	Members  uint64 // of the base
	Base     uint64 // as in Overlap
	// Categories are those that anybody had in the 90 days, in order of their traits.
	Categories []Category
	// Nobody is how many more categories nobody had; LeftOut, how many that somebody
	// had were left out as sensitive.
	Nobody, LeftOut int
	// Seen and SeenBase are how many had their newest event so many days before the
	// day, by the bands of LastSeen; the last is of who had none in the 90 days.
	Seen, SeenBase [len(LastSeen) + 1]uint64
}

// Category is how many had a category in the 90 days to the day.
type Category struct {
	Trait     taxonomy.Trait
	Members   uint64 // of the audience
	Base      uint64
	Sensitive bool // or below a category that is
	Archived  bool // nothing comes in any more
}

// LastSeen are the bands of the days since the newest event: to which day each
// reaches, 0 being the day itself.
var LastSeen = [...]int{0, 6, 13, 29, 59, 89}

// atOnce is how many categories are counted in one pass: it bounds what a pass keeps
// for each, and how long one goes on after its context has ended.
const atOnce = 512

// NewProfile counts a profile. Faults of the query are taxonomy.FieldErrors.
func NewProfile(ctx context.Context, b audience.Basis, f *tree.Forest, q ProfileQuery) (*Profile, error) {
	if err := b.Catalog.Check(q.Audience); err != nil {
		return nil, taxonomy.Invalid("audience", "%v", err)
	}
	if err := checkDay(q.Day, b.View.Clock().Day()); err != nil {
		return nil, err
	}
	members := Group{Audience: q.Audience}.expr()
	a, err := ask(ctx, b, q.Day, members)
	if err != nil {
		return nil, fmt.Errorf("profile %q: %w", q.Audience, err)
	}
	p := &Profile{At: a.At, Audience: q.Audience}
	if err := p.choose(a, f, &q); err != nil {
		return nil, err
	}
	if err := p.seen(ctx, a, members); err != nil {
		return nil, err
	}
	for from := 0; from < len(p.Categories); from += atOnce {
		if err := p.count(ctx, a, members, p.Categories[from:min(from+atOnce, len(p.Categories))]); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// choose finds the categories that are worth counting.
func (p *Profile) choose(a *asked, f *tree.Forest, q *ProfileQuery) error {
	found := q.Taxonomy == ""
	for i := range f.Taxonomies() {
		found = found || f.Taxonomies()[i].ID == q.Taxonomy
	}
	if !found {
		return taxonomy.Invalid("taxonomy", "there is no taxonomy %q", q.Taxonomy)
	}
	for i, t := range f.Traits() {
		if tax, _, _ := f.Category(t); q.Taxonomy != "" && tax.ID != q.Taxonomy {
			continue
		}
		k := Category{Trait: t, Sensitive: f.Sensitive(t), Archived: f.Archived(uint32(i)) != 0}
		switch {
		case len(a.r.Columns(t)) == 0:
			p.Nobody++
		case k.Sensitive && !q.Sensitive:
			p.LeftOut++
		default:
			p.Categories = append(p.Categories, k)
		}
	}
	return nil
}

// seen counts the members, the base, and when they were seen last. To be seen last
// at most so many days ago is to have any event on them, so the bands are
// differences.
func (p *Profile) seen(ctx context.Context, a *asked, members query.Expr) error {
	plan := a.plan()
	of, err := a.add(plan, "audience", members)
	if err != nil {
		return err
	}
	for _, days := range LastSeen {
		e := query.Had(taxonomy.TraitAny)
		e.Window = query.LastDays(days + 1)
		since, err := a.add(plan, "audience", e)
		if err != nil {
			return err
		}
		plan.AddAll(of, since)
	}
	res, err := a.count(ctx, plan)
	if err != nil {
		return fmt.Errorf("profile %q: %w", p.Audience, err)
	}
	p.Members, p.Base = res.Counts[0], res.Eligible
	var before, beforeBase uint64
	for i := range LastSeen {
		since, sinceBase := res.Counts[2+2*i], res.Counts[1+2*i]
		p.Seen[i], p.SeenBase[i] = since-before, sinceBase-beforeBase
		before, beforeBase = since, sinceBase
	}
	p.Seen[len(LastSeen)], p.SeenBase[len(LastSeen)] = p.Members-before, p.Base-beforeBase
	return nil
}

// count counts some categories in one pass, in which the audience is evaluated once
// a block and each category's words are given back before the next is read.
func (p *Profile) count(ctx context.Context, a *asked, members query.Expr, some []Category) error {
	plan := a.plan()
	of, err := a.add(plan, "audience", members)
	if err != nil {
		return err
	}
	for i := range some {
		had, err := a.add(plan, "audience", query.Had(some[i].Trait))
		if err != nil {
			return err
		}
		plan.AddAll(of, had)
	}
	res, err := a.count(ctx, plan)
	if err != nil {
		return fmt.Errorf("profile %q: %w", p.Audience, err)
	}
	for i := range some {
		some[i].Base, some[i].Members = res.Counts[1+2*i], res.Counts[2+2*i]
	}
	return nil
}
