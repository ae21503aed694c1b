// Package lookalike is who else might be in: it learns from the members of an
// audience which traits make them different, scores every visitor by that, and
// returns the most similar ones with evidence of how well it worked.
package lookalike

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Tree is what the scorer asks of the categories. A *tree.Forest is one.
type Tree interface {
	Ancestors(taxonomy.Trait) []taxonomy.Trait
	Children(taxonomy.Trait) []taxonomy.Trait
	Sensitive(taxonomy.Trait) bool
}

// Options are what a build knows beside its view. They are taken as of one
// moment: make a Scorer for each build, from the same catalog and sources as
// the build's own.
type Options struct {
	// Profiling are the sources in use for profiling, as the build has them:
	// what they flagged as a bot is neither learnt from nor returned.
	Profiling []taxonomy.SourceID
	// Training are those whose agreement also permits training. Columns of
	// other sources are never read. With none every seed is unfit.
	Training []taxonomy.SourceID
	// Audience returns the rule of an audience, as audience.Catalog.Audience
	// does: what the seed's rule mentions is not learnt from. Required.
	Audience func(taxonomy.AudienceID) (query.Expr, bool)
	// Tree, if not nil, adds the ancestors and descendants of what the seed's
	// rule mentions, and keeps sensitive categories out.
	Tree Tree
	// Workers is how many blocks are read at a time; 0 means GOMAXPROCS. The
	// result does not depend on it.
	Workers int
	// Sample is about how many visitors are learnt from beside the seed, and
	// at most how many of the seed: at least 1,000, 0 means 100,000. Columns is at most how many
	// traits are learnt from, the most common first, 0 means 2,048, at most 8,192.
	Sample, Columns int
}

// Limits of what can be learnt from.
const (
	// MinSeed is the least number of members who permit training: below it the
	// held-out figure is noise.
	MinSeed = 100
	// minSupport is in how many of the training population a trait must be.
	minSupport = 20
	// The label that a held-out member gets is that of a stranger, so it takes
	// several folds for the model to have seen most of the seed.
	folds = 5

	defaultSample  = 100_000
	leastSample    = 1000
	defaultColumns = 2048
	maxColumns     = 8192
	// counted · maxColumns numbers must fit into a uint16.
	counted = 4
)

// Scorer extends seeds: it is an audience.Scorer. It is immutable and safe for
// concurrent use.
type Scorer struct {
	Options
}

var _ audience.Scorer = (*Scorer)(nil)

// New returns a scorer.
func New(o Options) *Scorer {
	if o.Sample <= 0 {
		o.Sample = defaultSample
	}
	if o.Columns <= 0 {
		o.Columns = defaultColumns
	}
	o.Sample, o.Columns = max(o.Sample, leastSample), min(o.Columns, maxColumns)
	return &Scorer{o}
}

// Extend is that of audience.Scorer. Of those who may be in an audience and are
// not in the seed it returns the highest scores, exactly as many as asked for
// unless fewer have any trait that was learnt from: a visitor of whom nothing is
// known is not similar to anybody. The same view, seed and spec give the same
// set. While it runs it holds 4 bytes for each ordinal, the sampled rows (2 bytes
// for each trait of each) and two square matrices of float64 over the columns.
//
// The evidence's Detail is a Detail.
func (s *Scorer) Extend(ctx context.Context, view audience.View, seed index.Set, spec audience.LookalikeSpec) (index.Set, audience.Evidence, error) {
	set, ev, err := s.extend(ctx, view, seed, spec)
	if err == nil || errors.Is(err, audience.ErrUnfit) {
		return set, ev, err
	}
	return nil, audience.Evidence{}, fmt.Errorf("lookalike: %w", err)
}

func (s *Scorer) extend(ctx context.Context, view audience.View, seed index.Set, spec audience.LookalikeSpec) (index.Set, audience.Evidence, error) {
	r, err := s.run(ctx, view, seed, spec)
	if err != nil {
		return nil, audience.Evidence{}, err
	}
	d := r.report()
	detail, err := json.Marshal(d)
	if err != nil {
		return nil, audience.Evidence{}, fmt.Errorf("encode the evidence: %w", err)
	}
	return r.set, audience.Evidence{Seed: r.seedTraining, AUC: d.AUC, Detail: detail}, nil
}

// run is one extension: what each step gave the next.
type run struct {
	*population
	*columns
	*rows
	*model
	*scores
	set index.Set
}

func (s *Scorer) run(ctx context.Context, view audience.View, seed index.Set, spec audience.LookalikeSpec) (r run, err error) {
	if r.columns, err = s.candidates(view, spec); err != nil {
		return r, err
	}
	if r.population, err = s.population(ctx, view, seed); err != nil {
		return r, err
	}
	if err := r.fit(); err != nil {
		return r, err
	}
	if r.rows, err = r.gather(ctx, r.features); err != nil {
		return r, err
	}
	chosen := r.choose(r.rows, s.Columns)
	if len(chosen) == 0 {
		return r, unfit("no trait is left to learn from: those from sources that permit training are too rare, or define the seed; record more traits, or exclude fewer")
	}
	r.keep(chosen)
	if r.model, err = learn(ctx, r.rows, chosen, r.features, r.workers); err != nil {
		return r, err
	}
	r.set, r.scores, err = r.scan(ctx, r.model, spec)
	return r, err
}

// unfit says why a seed cannot be extended, and what helps.
func unfit(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), audience.ErrUnfit)
}

// shown is a count as people may see it.
func shown(n uint64) string {
	if n < audience.ShownFloor {
		return fmt.Sprintf("fewer than %d", audience.ShownFloor)
	}
	return fmt.Sprint(n)
}
