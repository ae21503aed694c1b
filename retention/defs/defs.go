// Package defs keeps what ad ops define (sites, sources, taxonomies, rules,
// audiences, destinations): small JSON documents with versions and history.
package defs

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Kind is what a document defines.
type Kind string

// The kinds. The words stand in keys.
const (
	Site        Kind = "site"
	Source      Kind = "source"
	Taxonomy    Kind = "taxonomy"
	Rule        Kind = "rule"
	Audience    Kind = "audience"
	Lookalike   Kind = "lookalike"
	Destination Kind = "destination"
	Import      Kind = "import"
	Setting     Kind = "setting" // of the installation itself
)

// Doc is one document in one version.
type Doc struct {
	Kind    Kind            `json:"kind"`
	ID      string          `json:"id"`
	Version uint64          `json:"version"` // 1, 2, 3, …; an ETag
	Changed taxonomy.Millis `json:"changed"`
	Body    json.RawMessage `json:"body"`
}

var (
	current = retention.KeyedSpace{Name: "defs", Swapped: true}
	history = retention.KeyedSpace{Name: "defs_history"}
)

// value is what is kept under a key; its format has a number of its own.
type value struct {
	Format  int             `json:"format"` // 1
	Changed taxonomy.Millis `json:"changed"`
	Body    json.RawMessage `json:"body"`
}

// Store reads and writes documents, and has all of them in memory as an
// immutable Snapshot. It is safe for concurrent use; several processes may
// share a Keyed, and see each other's changes at Refresh.
type Store struct {
	keyed retention.Keyed
	now   func() taxonomy.Millis

	mu   sync.Mutex // held by whoever makes the next snapshot
	snap atomic.Pointer[Snapshot]
}

// Open reads all documents.
func Open(ctx context.Context, keyed retention.Keyed, now func() taxonomy.Millis) (*Store, error) {
	s := &Store{keyed: keyed, now: now}
	s.snap.Store(&Snapshot{})
	return s, s.Refresh(ctx)
}

// Snapshot returns all documents as of the last change known here.
func (s *Store) Snapshot() *Snapshot { return s.snap.Load() }

// Refresh reads all documents anew and replaces the snapshot if any differs.
func (s *Store) Refresh(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var docs []Doc
	err := s.keyed.Scan(ctx, current, nil, func(it retention.Item) error {
		d, err := decode(it)
		if err == nil {
			docs = append(docs, d)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("read definitions: %w", err)
	}
	slices.SortFunc(docs, compare)
	old := s.snap.Load()
	same := slices.EqualFunc(old.docs, docs, func(a, b Doc) bool {
		return a.Kind == b.Kind && a.ID == b.ID && a.Version == b.Version
	})
	if !same {
		s.snap.Store(&Snapshot{Number: old.Number + 1, docs: docs})
	}
	return nil
}

func decode(it retention.Item) (Doc, error) {
	var v value
	if err := json.Unmarshal(it.Value, &v); err != nil || v.Format != 1 {
		return Doc{}, fmt.Errorf("%w: definition %s/%s is not of this format", retention.ErrCorrupt, it.Key.Partition, it.Key.Item)
	}
	return Doc{Kind: Kind(it.Key.Partition), ID: it.Key.Item, Version: it.Version, Changed: v.Changed, Body: v.Body}, nil
}

func compare(a, b Doc) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID))
}

// Put stores a document if its version is still expect (0: there is none yet)
// and returns it with its new version; else retention.ErrConflict. The body must
// be JSON; what it says is the caller's to check.
func (s *Store) Put(ctx context.Context, kind Kind, id string, body []byte, expect uint64) (Doc, error) {
	if !json.Valid(body) {
		return Doc{}, fmt.Errorf("define %s %q: its body is no JSON", kind, id)
	}
	d := Doc{Kind: kind, ID: id, Changed: s.now(), Body: slices.Clone(body)}
	v, err := json.Marshal(value{Format: 1, Changed: d.Changed, Body: d.Body})
	if err != nil {
		return Doc{}, fmt.Errorf("define %s %q: %w", kind, id, err)
	}
	d.Version, err = s.swap(ctx, kind, id, v, expect)
	if err != nil {
		return Doc{}, fmt.Errorf("define %s %q: %w", kind, id, err)
	}
	// The history follows: it may lack the newest version after a crash, which
	// then is the current one.
	at := retention.Item{Key: historyKey(kind, id, d.Version), Value: v}
	if err := s.keyed.Put(ctx, history, []retention.Item{at}); err != nil {
		return d, fmt.Errorf("keep the history of %s %q: %w", kind, id, err)
	}
	return d, nil
}

// Delete removes a document if its version is still expect; else
// retention.ErrConflict. Its history stays.
func (s *Store) Delete(ctx context.Context, kind Kind, id string, expect uint64) error {
	if _, err := s.swap(ctx, kind, id, nil, expect); err != nil {
		return fmt.Errorf("delete %s %q: %w", kind, id, err)
	}
	return nil
}

// swap changes the stored document and then the snapshot.
func (s *Store) swap(ctx context.Context, kind Kind, id string, v []byte, expect uint64) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := retention.Key{Partition: string(kind), Item: id}
	version, err := s.keyed.Swap(ctx, current, retention.Item{Key: key, Value: v, Version: expect})
	if errors.Is(err, retention.ErrUnknown) {
		// Repeating it would conflict with itself; what stands there tells.
		it, gerr := s.keyed.Get(ctx, current, key)
		if gerr == nil && v != nil && it.Version > expect && slices.Equal(it.Value, v) {
			version, err = it.Version, nil
		} else if errors.Is(gerr, retention.ErrNotFound) && v == nil {
			err = nil
		}
	}
	if err != nil {
		return 0, err
	}
	old := s.snap.Load()
	next := &Snapshot{Number: old.Number + 1, docs: slices.Clone(old.docs)}
	i, found := slices.BinarySearchFunc(next.docs, Doc{Kind: kind, ID: id}, compare)
	if found {
		next.docs = slices.Delete(next.docs, i, i+1)
	}
	if v != nil {
		d, err := decode(retention.Item{Key: key, Value: v, Version: version})
		if err != nil {
			return 0, err
		}
		next.docs = slices.Insert(next.docs, i, d)
	}
	s.snap.Store(next)
	return version, nil
}

func historyKey(kind Kind, id string, version uint64) retention.Key {
	return retention.Key{Partition: string(kind) + "/" + id, Item: string(binary.BigEndian.AppendUint64(nil, version))}
}

// History returns the versions of a document, the oldest first, also of one that
// was deleted.
func (s *Store) History(ctx context.Context, kind Kind, id string) ([]Doc, error) {
	var docs []Doc
	partition := historyKey(kind, id, 0).Partition
	err := s.keyed.Scan(ctx, history, &partition, func(it retention.Item) error {
		if len(it.Key.Item) != 8 {
			return fmt.Errorf("%w: key in the history of %s %q", retention.ErrCorrupt, kind, id)
		}
		d, err := decode(it)
		d.Kind, d.ID, d.Version = kind, id, binary.BigEndian.Uint64([]byte(it.Key.Item))
		docs = append(docs, d)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the history of %s %q: %w", kind, id, err)
	}
	if d, ok := s.Snapshot().Get(kind, id); ok && (len(docs) == 0 || docs[len(docs)-1].Version < d.Version) {
		docs = append(docs, d)
	}
	return docs, nil
}

// Snapshot is all documents as of one change. It is immutable.
type Snapshot struct {
	// Number rises with every change that this process sees.
	Number uint64
	docs   []Doc // by kind, then ID
}

// Get returns a document. Its body must not be changed.
func (s *Snapshot) Get(kind Kind, id string) (Doc, bool) {
	i, ok := slices.BinarySearchFunc(s.docs, Doc{Kind: kind, ID: id}, compare)
	if !ok {
		return Doc{}, false
	}
	return s.docs[i], true
}

// List returns the documents of a kind, by ID. They must not be changed.
func (s *Snapshot) List(kind Kind) []Doc {
	from, _ := slices.BinarySearchFunc(s.docs, Doc{Kind: kind}, compare)
	to := from
	for to < len(s.docs) && s.docs[to].Kind == kind {
		to++
	}
	return s.docs[from:to:to]
}

// Load decodes every document of a kind. A body that is not a T is an error
// that names it.
func Load[T any](s *Snapshot, kind Kind) ([]T, error) {
	docs := s.List(kind)
	list := make([]T, len(docs))
	for i := range docs {
		if err := json.Unmarshal(docs[i].Body, &list[i]); err != nil {
			return nil, fmt.Errorf("read %s %q: %w", kind, docs[i].ID, err)
		}
	}
	return list, nil
}
