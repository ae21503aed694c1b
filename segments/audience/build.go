package audience

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Input is everything that a build depends on. Build has no other input: no
// clock and no store.
type Input struct {
	View    View
	Catalog *Catalog
	// Sources are those in use for profiling: not withdrawn, with a use for it.
	Sources []taxonomy.SourceID
	Epoch   uint64
	Number  uint64 // of the generation to build
	Term    uint64 // of the builder's lease
	Built   taxonomy.Millis
	// Previous is the generation before, nil if there is none or it cannot be
	// read. Of another epoch or number of shards only its members by name count:
	// nothing of it is used again.
	Previous *Generation
	// Members reads the members in Previous.
	Members func(context.Context, Entry) (index.Set, error)
	Scorer  Scorer // may be nil: then lookalikes are faults
	Workers int    // blocks at a time; 0 means GOMAXPROCS
}

// Built is a generation that is not published yet.
type Built struct {
	// Generation is complete but for the names and hashes of new files.
	Generation *Generation
	// Sets are the members of every audience, by ID.
	Sets map[taxonomy.AudienceID]index.Set
	// Changed are those that need a new file.
	Changed map[taxonomy.AudienceID]bool
	// Faults are the audiences that could not be built and are empty. Damaged
	// are those whose members in Previous could not be read, so that all count
	// as added.
	Faults, Damaged map[taxonomy.AudienceID]error
	Eligible        uint64 // who may be in an audience at all
}

// fileLife is how many days a member file may be used, keepDays how long a
// generation is kept: a file that is carried over must outlive the generation.
const (
	fileLife = taxonomy.RetentionDays
	keepDays = 14
)

// Build makes the next generation: all rules in one pass over the view, then the
// lookalikes.
//
// An audience that cannot be built, for it names another that was deleted, say,
// is empty and named in Faults. It does not stop the others, and it does not
// keep old members: those whose time is over could not be told from the rest.
// Any other error, such as bytes that cannot be read, ends the build.
func Build(ctx context.Context, in Input) (*Built, error) {
	b := builder{Input: &in, prev: in.Previous, evidence: map[taxonomy.AudienceID]*Evidence{}, out: &Built{
		Sets: map[taxonomy.AudienceID]index.Set{}, Changed: map[taxonomy.AudienceID]bool{},
		Faults: map[taxonomy.AudienceID]error{}, Damaged: map[taxonomy.AudienceID]error{},
	}}
	if p := b.prev; p != nil && (p.Epoch != in.Epoch || p.Shards != in.View.Shards()) {
		b.prev = nil // its ordinals mean other visitors
	}
	if err := b.run(ctx); err != nil {
		return nil, fmt.Errorf("build generation %d.%d: %w", in.Epoch, in.Number, err)
	}
	return b.out, nil
}

type builder struct {
	*Input
	prev     *Generation
	out      *Built
	today    taxonomy.Day
	eligible index.Set
	resolver query.Resolver
	evidence map[taxonomy.AudienceID]*Evidence
}

func (b *builder) run(ctx context.Context) error {
	b.today = b.View.Clock().Day()
	b.out.Generation = &Generation{
		Epoch: b.Epoch, Number: b.Number, Term: b.Term, Built: b.Built, Clock: b.View.Clock(),
		Position: b.View.Position().Clone(), RuleVersion: b.View.RuleVersion(), Shards: b.View.Shards(),
		Sources: slices.Compact(slices.Sorted(slices.Values(b.Sources))), Audiences: []Entry{},
	}
	if err := b.rules(ctx); err != nil {
		return err
	}
	if err := b.lookalikes(ctx); err != nil {
		return err
	}
	for i := range b.Catalog.All() {
		if err := b.entry(ctx, &b.Catalog.All()[i]); err != nil {
			return err
		}
	}
	return nil
}

// rules evaluates all rules and uploads at once.
func (b *builder) rules(ctx context.Context) error {
	leaves, err := withLookalikes(ctx, b.View, b.Catalog, func(ctx context.Context, id taxonomy.AudienceID) (index.Set, error) {
		if b.prev != nil {
			if e, ok := b.prev.Entry(id); ok {
				return b.members(ctx, e)
			}
		}
		return nil, nil
	})
	if err != nil {
		return err
	}
	if b.resolver, err = query.NewIndexResolver(b.View, b.today, b.Sources, b.Catalog.Audience); err != nil {
		return err
	}
	plan := query.NewPlan(b.today, b.resolver)
	roots := map[taxonomy.AudienceID]int{}
	for i := range b.Catalog.All() {
		d := &b.Catalog.All()[i]
		if err := b.Catalog.check(d); err != nil {
			b.out.Faults[d.ID] = err
			continue
		}
		if e, ok := b.Catalog.Audience(d.ID); ok && e != nil {
			if roots[d.ID], err = plan.Add(e); err != nil {
				delete(roots, d.ID)
				b.out.Faults[d.ID] = err
			}
		}
	}
	everyone := plan.AddEligible()
	res, err := plan.Run(ctx, leaves, query.RunOptions{Workers: b.Workers})
	if err != nil {
		return err
	}
	for id, n := range roots {
		b.out.Sets[id] = res.Sets[n]
	}
	b.eligible, b.out.Eligible = res.Sets[everyone], res.Eligible
	return nil
}

func (b *builder) lookalikes(ctx context.Context) error {
	for i := range b.Catalog.All() {
		d := &b.Catalog.All()[i]
		if d.Kind != KindLookalike || b.out.Faults[d.ID] != nil {
			continue
		}
		seed, ok := b.out.Sets[d.Lookalike.Seed]
		switch {
		case b.out.Faults[d.Lookalike.Seed] != nil || !ok:
			b.out.Faults[d.ID] = fmt.Errorf("its seed %q could not be built", d.Lookalike.Seed)
			continue
		case b.Scorer == nil:
			b.out.Faults[d.ID] = errors.New("this installation has no scorer")
			continue
		}
		set, evidence, err := b.Scorer.Extend(ctx, b.View, seed, *d.Lookalike)
		if err != nil && (!errors.Is(err, ErrUnfit) || ctx.Err() != nil) {
			return fmt.Errorf("extend %q to %q: %w", d.Lookalike.Seed, d.ID, err)
		}
		if err != nil {
			b.out.Faults[d.ID] = err
			continue
		}
		if len(set) != len(b.eligible) {
			return fmt.Errorf("extend %q to %q: the scorer returned %d shards of %d", d.Lookalike.Seed, d.ID, len(set), len(b.eligible))
		}
		for s := range set {
			if set[s] != nil {
				set[s].And(b.eligible[s])
			}
		}
		b.out.Sets[d.ID] = set
		b.evidence[d.ID] = &evidence
	}
	return nil
}

// entry compares an audience with the generation before.
func (b *builder) entry(ctx context.Context, d *Versioned) error {
	set := b.out.Sets[d.ID]
	if set == nil {
		set = index.NewSet(b.View.Shards())
		b.out.Sets[d.ID] = set
	}
	e := Entry{ID: d.ID, Version: d.Version, Count: set.Count(), Evidence: b.evidence[d.ID]}
	if err := b.out.Faults[d.ID]; err != nil {
		e.Fault = err.Error()
	} else if x, _ := b.Catalog.Audience(d.ID); x != nil {
		e.Positive = query.Positive(x, b.resolver)
	}
	e.Added = e.Count
	if b.prev != nil {
		if old, ok := b.prev.Entry(d.ID); ok {
			was, err := b.members(ctx, old)
			if err != nil {
				return err
			}
			if was != nil {
				e.Added, e.Removed = difference(set, was)
				if e.Added == 0 && e.Removed == 0 && old.Over >= b.Built+keepDays*taxonomy.OneDay {
					e.Blob, e.SHA256, e.Over = old.Blob, old.SHA256, old.Over
				}
			}
		}
	}
	if e.Blob == "" {
		b.out.Changed[d.ID] = true
		e.Over = b.Built.Day().Over()
	}
	b.out.Generation.Audiences = append(b.out.Generation.Audiences, e)
	return nil
}

// members reads those of the generation before. Files that are damaged or gone
// are named, and then nil: the build mends them by writing new ones.
func (b *builder) members(ctx context.Context, e Entry) (index.Set, error) {
	set, err := b.Members(ctx, e)
	if err == nil && len(set) != b.View.Shards() {
		err = fmt.Errorf("%d shards, want %d: %w", len(set), b.View.Shards(), retention.ErrCorrupt)
	}
	if isLost(err) {
		b.out.Damaged[e.ID] = err
		return nil, nil
	}
	return set, err
}

// difference returns how many are only in a, and how many only in b.
func difference(a, b index.Set) (onlyA, onlyB uint64) {
	for s := range a {
		var x, y, both uint64
		if a[s] != nil {
			x = a[s].GetCardinality()
		}
		if b[s] != nil {
			y = b[s].GetCardinality()
		}
		if x > 0 && y > 0 {
			both = a[s].AndCardinality(b[s])
		}
		onlyA, onlyB = onlyA+x-both, onlyB+y-both
	}
	return onlyA, onlyB
}
