package defs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// answersSpace holds the answers to requests that may be repeated: partition the
// hash of who asked, what and under which idempotency key. They end by
// themselves.
var answersSpace = retention.KeyedSpace{Name: "answers", Swapped: true}

// Answer is what is kept of a request: first that it is under way, then its
// answer. Whoever keeps it encrypts what may be secret.
type Answer struct {
	Since taxonomy.Millis `json:"since"`
	// Run names the process that answers.
	Run string `json:"run"`
	// Body tells another body under the same key apart.
	Body []byte `json:"body,omitempty"`
	// Sealed is the answer; nil: it is under way.
	Sealed []byte `json:"sealed,omitempty"`
}

// Answers keeps answers for a time. It is safe for concurrent use, and by several
// processes.
type Answers struct{ Keyed retention.Keyed }

// Get returns an answer and its version, or retention.ErrNotFound.
func (s Answers) Get(ctx context.Context, name string) (a Answer, version uint64, err error) {
	it, err := s.Keyed.Get(ctx, answersSpace, retention.Key{Partition: name})
	if err == nil {
		if uerr := json.Unmarshal(it.Value, &a); uerr != nil {
			err = retention.ErrCorrupt
		}
	}
	if err != nil {
		return a, it.Version, fmt.Errorf("read a kept answer: %w", err)
	}
	return a, it.Version, nil
}

// Swap keeps an answer until over in the place of a version, 0 for none, else
// retention.ErrConflict; nil removes it.
func (s Answers) Swap(ctx context.Context, name string, a *Answer, over taxonomy.Millis, version uint64) (uint64, error) {
	it := retention.Item{Key: retention.Key{Partition: name}, Version: version, Over: over}
	if a != nil {
		var err error
		if it.Value, err = json.Marshal(a); err != nil {
			return 0, fmt.Errorf("keep an answer: %w", err)
		}
	}
	version, err := s.Keyed.Swap(ctx, answersSpace, it)
	if err != nil && !errors.Is(err, retention.ErrConflict) {
		err = fmt.Errorf("keep an answer: %w", err)
	}
	return version, err
}
