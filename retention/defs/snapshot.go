package defs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/retention"
)

// Snapshot is all documents as this node last saw them. It never changes: whoever
// needs several documents that fit together takes one snapshot.
type Snapshot struct {
	version uint64
	docs    map[key]Doc
}

// Snapshot returns the present snapshot: one atomic load. This node's writes are
// in it when they return; other nodes' when Refresh has seen them.
func (s *Store) Snapshot() *Snapshot { return s.snap.Load() }

// Version returns the present snapshot's number, for who wants to know whether
// anything changed.
func (s *Store) Version() uint64 { return s.snap.Load().version }

// List returns the documents of a kind in the present snapshot, by ID.
func (s *Store) List(kind Kind) []Doc { return s.snap.Load().List(kind) }

// Version returns the snapshot's number: it grows with every change that this
// process sees, and begins anew with the process.
func (s *Snapshot) Version() uint64 { return s.version }

// Get returns a document, and whether there is one.
func (s *Snapshot) Get(kind Kind, id string) (Doc, bool) {
	d, ok := s.docs[key{kind, id}]
	return d, ok
}

// List returns the documents of a kind, by ID. The caller owns the slice.
func (s *Snapshot) List(kind Kind) []Doc {
	var docs []Doc
	for k, d := range s.docs {
		if k.kind == kind {
			docs = append(docs, d)
		}
	}
	slices.SortFunc(docs, func(a, b Doc) int { return strings.Compare(a.ID, b.ID) })
	return docs
}

// SnapshotSource is what can be asked for a document in memory: a *Store, which answers
// from its present snapshot, or a *Snapshot.
type SnapshotSource interface{ Snapshot() *Snapshot }

// Snapshot returns s.
func (s *Snapshot) Snapshot() *Snapshot { return s }

// Load returns a document, decoded, and its version, or retention.ErrNotFound.
// Unknown fields are an error: they were written by a newer program, and to
// write the document back would lose them.
func Load[T any](s SnapshotSource, kind Kind, id string) (v T, version uint64, err error) {
	d, ok := s.Snapshot().Get(kind, id)
	if !ok {
		return v, 0, fmt.Errorf("%s %s: %w", kind, id, retention.ErrNotFound)
	}
	v, err = Decode[T](d)
	return v, d.Version, err
}

// LoadAll returns all documents of a kind, decoded, by ID.
func LoadAll[T any](s SnapshotSource, kind Kind) ([]T, error) {
	docs := s.Snapshot().List(kind)
	all := make([]T, 0, len(docs))
	for _, d := range docs {
		v, err := Decode[T](d)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// Decode returns the document's body as a T. Unknown fields are an error.
func Decode[T any](d Doc) (v T, err error) {
	dec := json.NewDecoder(bytes.NewReader(d.Body))
	dec.DisallowUnknownFields()
	if err = dec.Decode(&v); err == nil {
		if _, end := dec.Token(); end != io.EOF {
			err = fmt.Errorf("something follows the document")
		}
	}
	if err != nil {
		return v, fmt.Errorf("%s %s of version %d: %w", d.Kind, d.ID, d.Version, err)
	}
	return v, nil
}
