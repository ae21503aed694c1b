package defs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Change is one document of a set that changes together.
type Change struct {
	Kind Kind
	ID   string
	// Body is the document as it shall be; nil deletes it.
	Body json.RawMessage
	// Expect is the version that is kept, 0 for none.
	Expect uint64
}

// With returns the snapshot as it would be after changes.
func (s *Snapshot) With(changes []Change, at taxonomy.Millis) *Snapshot {
	next := &Snapshot{version: s.version, docs: make(map[key]Doc, len(s.docs)+len(changes))}
	for k, d := range s.docs {
		next.docs[k] = d
	}
	for _, c := range changes {
		k := key{c.Kind, c.ID}
		if c.Body == nil {
			delete(next.docs, k)
		} else {
			next.docs[k] = Doc{Kind: c.Kind, ID: c.ID, Version: c.Expect + 1, Changed: at, Body: c.Body}
		}
	}
	return next
}

// A set of changes is first written aside, then named by one swap of the head,
// and only then made, document by document. From the swap on every reader sees
// all of it: what is not made yet is laid over what is read. A crash leaves
// either no set, or one that whoever opens or writes next brings to its end.
var (
	// staged holds the changes of a set: partition the set's ID, item the place,
	// as uint32, big-endian.
	staged = retention.KeyedSpace{Name: "defs-set"}
	// headKey is beside the documents, in a partition that is no kind.
	headKey = retention.Key{Partition: "set", Item: "head"}
)

// stagedLife is how long what was written aside stays: much longer than a set
// takes.
const stagedLife = taxonomy.OneDay

// setHead is the last set that was named. It is never deleted, so that its
// version tells a reader whether a set came while it read.
type setHead struct {
	ID     string          `json:"id"`
	N      int             `json:"n"`
	SHA256 string          `json:"sha256"` // over the changes, in order
	At     taxonomy.Millis `json:"at"`
	Done   bool            `json:"done"`
}

type stagedChange struct {
	Kind   Kind            `json:"kind"`
	ID     string          `json:"id"`
	Delete bool            `json:"delete,omitempty"`
	Expect uint64          `json:"expect"`
	Body   json.RawMessage `json:"body,omitempty"`
}

// Apply makes changes together: all of them, or none. If a document is not of the
// version that its change expects it is retention.ErrConflict. name is an ID of
// the set that was never used. If the outcome is unknown, the set is made or not,
// and never in part.
//
// A single Put on another node that began before the set was named and ends after
// it is the one thing that can meet it: the set then wins, and the other's
// document is a former version.
func (s *Store) Apply(ctx context.Context, name string, changes []Change) error {
	for _, c := range changes {
		if err := check(c.Kind, c.ID); err != nil {
			return fmt.Errorf("apply definitions: %w", err)
		}
		if c.Body != nil && !json.Valid(c.Body) {
			return fmt.Errorf("apply %s %s: the body is not JSON", c.Kind, c.ID)
		}
		if c.Body == nil && c.Expect == 0 {
			return fmt.Errorf("apply %s %s: it is not there to be deleted: %w", c.Kind, c.ID, retention.ErrConflict)
		}
	}
	if len(changes) == 0 {
		return nil
	}
	s.mu.Lock()
	err := s.apply(ctx, name, changes)
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("apply %d definitions: %w", len(changes), err)
	}
	_, err = s.Refresh(ctx)
	return err
}

func (s *Store) apply(ctx context.Context, name string, changes []Change) error {
	version, err := s.finish(ctx)
	if err != nil {
		return err
	}
	for _, c := range changes {
		it, err := s.keyed.Get(ctx, space, key{c.Kind, c.ID}.keyed())
		if err != nil && !errors.Is(err, retention.ErrNotFound) {
			return err
		}
		kept := it.Version
		if err != nil {
			kept = 0
		}
		if kept != c.Expect {
			return fmt.Errorf("%s %s is of version %d, not %d: %w", c.Kind, c.ID, kept, c.Expect, retention.ErrConflict)
		}
	}
	head := setHead{ID: name, N: len(changes), At: s.now()}
	sum := sha256.New()
	for i, c := range changes {
		b, err := json.Marshal(stagedChange{c.Kind, c.ID, c.Body == nil, c.Expect, c.Body})
		if err != nil {
			return err
		}
		sum.Write(b)
		if err := s.keyed.Put(ctx, staged, []retention.Item{{Key: stagedKey(name, i), Value: b, Over: head.At + stagedLife}}); err != nil {
			return err
		}
	}
	head.SHA256 = hex.EncodeToString(sum.Sum(nil))
	if _, err := s.swapHead(ctx, head, version); err != nil {
		return err
	}
	_, err = s.finish(ctx)
	return err
}

func stagedKey(name string, i int) retention.Key {
	return retention.Key{Partition: name, Item: string(binary.BigEndian.AppendUint32(nil, uint32(i)))}
}

func (s *Store) swapHead(ctx context.Context, h setHead, version uint64) (uint64, error) {
	b, err := json.Marshal(h)
	if err != nil {
		return 0, err
	}
	return s.keyed.Swap(ctx, space, retention.Item{Key: headKey, Value: b, Version: version})
}

// head returns the last set and the version of the head, 0 if there never was
// one.
func (s *Store) head(ctx context.Context) (h setHead, version uint64, err error) {
	it, err := s.keyed.Get(ctx, space, headKey)
	switch {
	case errors.Is(err, retention.ErrNotFound):
		return setHead{Done: true}, 0, nil
	case err != nil:
		return h, 0, fmt.Errorf("read the set of definitions that is being made: %w", err)
	}
	if err := json.Unmarshal(it.Value, &h); err != nil {
		return h, 0, fmt.Errorf("the set of definitions that is being made: %w", retention.ErrCorrupt)
	}
	return h, it.Version, nil
}

// pending reads the changes of a set that is not done.
func (s *Store) pending(ctx context.Context, h setHead) ([]Change, error) {
	changes, sum := make([]Change, 0, h.N), sha256.New()
	err := s.keyed.Scan(ctx, staged, &h.ID, func(it retention.Item) error {
		var c stagedChange
		if err := json.Unmarshal(it.Value, &c); err != nil {
			return retention.ErrCorrupt
		}
		sum.Write(it.Value)
		if c.Delete {
			c.Body = nil
		}
		changes = append(changes, Change{c.Kind, c.ID, c.Body, c.Expect})
		return nil
	})
	if err == nil && (len(changes) != h.N || hex.EncodeToString(sum.Sum(nil)) != h.SHA256) {
		err = retention.ErrCorrupt
	}
	if err != nil {
		return nil, fmt.Errorf("the set of definitions %s: %w", h.ID, err)
	}
	return changes, nil
}

// finish makes what is left of a set that was named, and returns the version of
// the head. It may run on several nodes at once, and again after a crash.
func (s *Store) finish(ctx context.Context) (uint64, error) {
	h, version, err := s.head(ctx)
	if err != nil || h.Done {
		return version, err
	}
	changes, err := s.pending(ctx, h)
	if err != nil {
		return 0, err
	}
	for _, c := range changes {
		if err := s.make(ctx, c, h.At); err != nil {
			return 0, err
		}
	}
	done := h
	done.Done = true
	if version, err = s.swapHead(ctx, done, version); errors.Is(err, retention.ErrConflict) {
		// Another node ended it.
		h, version, err = s.head(ctx)
		if err == nil && !h.Done {
			err = fmt.Errorf("another set came first: %w", retention.ErrConflict)
		}
	}
	return version, err
}

// made reports whether what is kept is what a change makes.
func (c *Change) made(it retention.Item, found bool) bool {
	if c.Body == nil {
		return !found
	}
	return found && it.Version > c.Expect && len(it.Value) >= docHeader && bytes.Equal(it.Value[docHeader:], c.Body)
}

func (s *Store) make(ctx context.Context, c Change, at taxonomy.Millis) error {
	for {
		k := key{c.Kind, c.ID}
		it, err := s.keyed.Get(ctx, space, k.keyed())
		if err != nil && !errors.Is(err, retention.ErrNotFound) {
			return err
		}
		if c.made(it, err == nil) {
			return nil
		}
		expect := it.Version
		if err != nil {
			expect = 0
		}
		var value []byte
		if c.Body != nil {
			value = encode(at, c.Body)
		}
		if _, err := s.swap(ctx, k, value, expect); !errors.Is(err, retention.ErrConflict) {
			return err
		}
	}
}
