package audience

import (
	"context"
	"errors"
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Builder is the shell around Build: it reads the generation before, builds,
// publishes, sweeps. Only the holder of the builder's lease runs it.
type Builder struct {
	Generations *Generations
	Scorer      Scorer // may be nil
	Now         func() taxonomy.Millis
	Workers     int // blocks at a time; 0 means GOMAXPROCS
}

// Job is one build to do.
type Job struct {
	View    View // as of a committed checkpoint (R6)
	Catalog *Catalog
	Sources []taxonomy.SourceID // in use for profiling
	Epoch   uint64
	Term    uint64
}

// Run builds and publishes the next generation and returns it as published.
// ErrStale: another builder is ahead. If an error came after publication (the
// sweep's), the result is returned beside it.
func (b *Builder) Run(ctx context.Context, j Job) (*Built, error) {
	out, err := b.Draft(ctx, j)
	if err != nil {
		return nil, err
	}
	gen, err := b.Generations.Publish(ctx, out)
	if err != nil {
		return nil, err
	}
	out.Generation = gen
	return out, b.Generations.Sweep(ctx)
}

// Draft builds the next generation and publishes nothing.
func (b *Builder) Draft(ctx context.Context, j Job) (*Built, error) {
	refs, err := b.Generations.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("build: %w", err)
	}
	in := Input{View: j.View, Catalog: j.Catalog, Sources: j.Sources, Epoch: j.Epoch, Term: j.Term, Number: 1,
		Built: b.Now(), Members: b.Generations.Members, Scorer: b.Scorer, Workers: b.Workers}
	if len(refs) > 0 && refs[0].Epoch >= j.Epoch {
		in.Number = refs[0].Number + 1
		// One that cannot be read is as good as none: all files are written new.
		in.Previous, err = b.Generations.Open(ctx, refs[0])
		if err != nil && !isLost(err) {
			return nil, fmt.Errorf("build: %w", err)
		}
	}
	return Build(ctx, in)
}

// isLost reports whether an error says that bytes are damaged or not there,
// rather than that they could not be asked for now.
func isLost(err error) bool {
	return errors.Is(err, retention.ErrCorrupt) || errors.Is(err, retention.ErrNotFound)
}
