package audience

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/ebb-dmp/ebb/segments/index"
)

// Scorer extends seeds. The build calls it once for each lookalike, after all
// rules, with the seed's new members.
type Scorer interface {
	// Extend returns the visitors most like the seed, as many as spec asks for,
	// and how well that worked. The seed must not be changed; the result is the
	// caller's, who takes out of it whoever may not be in an audience. Learning
	// uses those only who permit training. ErrUnfit (wrapped) says that this
	// seed cannot be extended: the lookalike is then empty; any other error ends
	// the build.
	Extend(ctx context.Context, view View, seed index.Set, spec LookalikeSpec) (index.Set, Evidence, error)
}

// ErrUnfit: a seed cannot be extended, because it is too small, say.
var ErrUnfit = errors.New("seed cannot be extended")

// Evidence is how well an extension does on members of the seed that it was not
// shown.
type Evidence struct {
	Seed uint64  `json:"seed"` // members it learnt from
	AUC  float64 `json:"auc"`  // held out: 0.5 is chance, 1 perfect
	// Detail is the scorer's own, an object.
	Detail json.RawMessage `json:"detail,omitempty"`
}
