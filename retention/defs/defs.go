// Package defs keeps what ad ops define: sites, sources, taxonomies, rules,
// audiences and so on, each a JSON document with a version, its former versions
// beside it. Whoever reads them often reads a snapshot in memory.
package defs

import (
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

// Kind is what sort of thing a document defines. The names stand on disk.
type Kind string

// The kinds.
const (
	Site        Kind = "site"
	Source      Kind = "source"
	Taxonomy    Kind = "taxonomy"
	Categories  Kind = "categories" // the category set of a taxonomy
	Rule        Kind = "rule"
	Audience    Kind = "audience"
	Lookalike   Kind = "lookalike"
	Destination Kind = "destination"
	Import      Kind = "import"
	APIKey      Kind = "apikey"
	Setting     Kind = "setting"
	// What may come to be a taxonomy or a rule, and is not yet.
	DraftTaxonomy Kind = "draft-taxonomy"
	DraftRule     Kind = "draft-rule"
)

// Kinds lists all kinds.
var Kinds = []Kind{Site, Source, Taxonomy, Categories, Rule, Audience, Lookalike, Destination, Import, APIKey, Setting, DraftTaxonomy, DraftRule}

var (
	// space holds the documents: partition kind, item ID.
	space = retention.KeyedSpace{Name: "defs", Swapped: true}
	// history holds the former versions: partition kind/ID, item version as
	// uint64, big-endian. Each is written once, so the space is plain.
	history = retention.KeyedSpace{Name: "defs-history"}
)

// Doc is a document.
type Doc struct {
	Kind Kind
	ID   string // a slug, unique within the kind
	// Version is 1 when the document is made and one more at each change; it is
	// the ETag. Versions of a deleted document go on if it is made again.
	Version uint64
	Changed taxonomy.Millis // when this version was written
	Body    json.RawMessage // shared: not to be changed
}

// Store keeps documents in Keyed. It is safe for concurrent use.
type Store struct {
	keyed retention.Keyed
	now   func() taxonomy.Millis

	mu   sync.Mutex // held while documents and snapshot are written
	snap atomic.Pointer[Snapshot]
}

// Open reads all documents into the first snapshot.
func Open(ctx context.Context, keyed retention.Keyed, now func() taxonomy.Millis) (*Store, error) {
	s := &Store{keyed: keyed, now: now}
	s.snap.Store(&Snapshot{docs: map[key]Doc{}})
	if _, err := s.finish(ctx); err != nil {
		return nil, fmt.Errorf("open definitions: %w", err)
	}
	if _, err := s.Refresh(ctx); err != nil {
		return nil, fmt.Errorf("open definitions: %w", err)
	}
	return s, nil
}

type key struct {
	kind Kind
	id   string
}

func (k key) keyed() retention.Key { return retention.Key{Partition: string(k.kind), Item: k.id} }

func check(kind Kind, id string) error {
	if !slices.Contains(Kinds, kind) {
		return fmt.Errorf("kind %q is not one of %s", kind, Kinds)
	}
	return taxonomy.CheckSlug(string(kind)+" id", id)
}

// The value under a key: version of the form, 1; changed, int64, big-endian;
// the body.
const (
	docVersion = 1
	docHeader  = 9
)

func encode(changed taxonomy.Millis, body []byte) []byte {
	b := binary.BigEndian.AppendUint64([]byte{docVersion}, uint64(changed))
	return append(b, body...)
}

func decode(kind Kind, id string, it retention.Item) (Doc, error) {
	if len(it.Value) < docHeader || it.Value[0] != docVersion || !json.Valid(it.Value[docHeader:]) {
		return Doc{}, fmt.Errorf("%s %s of version %d is no document of this format: %w", kind, id, it.Version, retention.ErrCorrupt)
	}
	return Doc{
		Kind: kind, ID: id, Version: it.Version,
		Changed: taxonomy.Millis(binary.BigEndian.Uint64(it.Value[1:])),
		Body:    it.Value[docHeader:],
	}, nil
}

// Get returns the document as it is kept now, or retention.ErrNotFound. Who can
// do with what this node last saw asks the snapshot.
func (s *Store) Get(ctx context.Context, kind Kind, id string) (Doc, error) {
	if err := check(kind, id); err != nil {
		return Doc{}, fmt.Errorf("get definition: %w", err)
	}
	it, err := s.keyed.Get(ctx, space, key{kind, id}.keyed())
	if err != nil {
		return Doc{}, fmt.Errorf("get %s %s: %w", kind, id, err)
	}
	return decode(kind, id, it)
}

// Put writes a document if the version kept is expect (0: there is none), and
// returns its new version; else retention.ErrConflict. The body must be JSON.
// Repeating a Put whose outcome is unknown is fine: if the first did happen, the
// second returns its version (unless the document had been deleted before: then
// it is a conflict, and Get tells).
func (s *Store) Put(ctx context.Context, kind Kind, id string, body []byte, expect uint64) (uint64, error) {
	if err := check(kind, id); err != nil {
		return 0, fmt.Errorf("put definition: %w", err)
	}
	if !json.Valid(body) {
		return 0, fmt.Errorf("put %s %s: the body is not JSON", kind, id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.finish(ctx); err != nil {
		return 0, fmt.Errorf("put %s %s: %w", kind, id, err)
	}
	doc := Doc{Kind: kind, ID: id, Changed: s.now(), Body: slices.Clone(body)}
	version, err := s.swap(ctx, key{kind, id}, encode(doc.Changed, body), expect)
	if errors.Is(err, retention.ErrConflict) {
		if kept, gerr := s.Get(ctx, kind, id); gerr == nil && kept.Version == expect+1 && string(kept.Body) == string(body) {
			s.publish(key{kind, id}, &kept)
			return kept.Version, nil
		}
	}
	if err != nil {
		return 0, fmt.Errorf("put %s %s: %w", kind, id, err)
	}
	doc.Version = version
	s.publish(key{kind, id}, &doc)
	return version, nil
}

// Delete removes a document if the version kept is expect, else
// retention.ErrConflict; of one that is not there, retention.ErrNotFound. Its
// versions stay in the history.
func (s *Store) Delete(ctx context.Context, kind Kind, id string, expect uint64) error {
	if err := check(kind, id); err != nil {
		return fmt.Errorf("delete definition: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.finish(ctx); err != nil {
		return fmt.Errorf("delete %s %s: %w", kind, id, err)
	}
	if _, err := s.Get(ctx, kind, id); err != nil {
		if errors.Is(err, retention.ErrNotFound) {
			s.publish(key{kind, id}, nil)
		}
		return fmt.Errorf("delete: %w", err)
	}
	if _, err := s.swap(ctx, key{kind, id}, nil, expect); err != nil {
		return fmt.Errorf("delete %s %s: %w", kind, id, err)
	}
	s.publish(key{kind, id}, nil)
	return nil
}

// swap first keeps the version that is about to go, then writes the new one. A
// crash between the two leaves a former version that is the present one too,
// which History does not show twice.
func (s *Store) swap(ctx context.Context, k key, value []byte, expect uint64) (uint64, error) {
	old, err := s.keyed.Get(ctx, space, k.keyed())
	if err != nil && !errors.Is(err, retention.ErrNotFound) {
		return 0, err
	}
	if old.Version != expect {
		return 0, fmt.Errorf("version %d is kept, not %d: %w", old.Version, expect, retention.ErrConflict)
	}
	if old.Version > 0 {
		if err := s.keyed.Put(ctx, history, []retention.Item{{Key: historyKey(k, old.Version), Value: old.Value}}); err != nil {
			return 0, fmt.Errorf("keep version %d: %w", old.Version, err)
		}
	}
	return s.keyed.Swap(ctx, space, retention.Item{Key: k.keyed(), Value: value, Version: expect})
}

func historyKey(k key, version uint64) retention.Key {
	return retention.Key{Partition: string(k.kind) + "/" + k.id, Item: string(binary.BigEndian.AppendUint64(nil, version))}
}

// History returns the former versions of a document, the oldest first, and the
// present one last if there is one. Putting a former body again is going back.
func (s *Store) History(ctx context.Context, kind Kind, id string) ([]Doc, error) {
	if err := check(kind, id); err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	var docs []Doc
	partition := historyKey(key{kind, id}, 0).Partition
	err := s.keyed.Scan(ctx, history, &partition, func(it retention.Item) error {
		if len(it.Key.Item) != 8 {
			return fmt.Errorf("a former version without a number: %w", retention.ErrCorrupt)
		}
		it.Version = binary.BigEndian.Uint64([]byte(it.Key.Item))
		d, err := decode(kind, id, it)
		docs = append(docs, d)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("history of %s %s: %w", kind, id, err)
	}
	switch now, err := s.Get(ctx, kind, id); {
	case errors.Is(err, retention.ErrNotFound):
	case err != nil:
		return nil, fmt.Errorf("history: %w", err)
	default:
		docs = slices.DeleteFunc(docs, func(d Doc) bool { return d.Version >= now.Version })
		docs = append(docs, now)
	}
	return docs, nil
}

// Refresh reads all documents again, since other nodes write too, and reports
// whether the snapshot changed. They are few and small: reading them all is
// simpler than telling others what changed, and cannot miss anything. Of a set
// that changes together (Apply) the snapshot has all or nothing.
func (s *Store) Refresh(ctx context.Context) (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	docs, err := s.readAll(ctx)
	if err != nil {
		return false, fmt.Errorf("read definitions: %w", err)
	}
	old := s.snap.Load()
	same := len(old.docs) == len(docs)
	for k, d := range docs {
		same = same && old.docs[k].Version == d.Version
	}
	if !same {
		s.snap.Store(&Snapshot{version: old.version + 1, docs: docs})
	}
	return !same, nil
}

// maxReads bounds how often sets that come meanwhile make a reader begin again.
const maxReads = 10

// readAll reads all documents, with a set that is being made laid over them.
func (s *Store) readAll(ctx context.Context) (map[key]Doc, error) {
	for range maxReads {
		set, version, err := s.head(ctx)
		if err != nil {
			return nil, err
		}
		docs := map[key]Doc{}
		for _, kind := range Kinds {
			partition := string(kind)
			err := s.keyed.Scan(ctx, space, &partition, func(it retention.Item) error {
				d, err := decode(kind, it.Key.Item, it)
				docs[key{kind, it.Key.Item}] = d
				return err
			})
			if err != nil {
				return nil, err
			}
		}
		if !set.Done {
			changes, err := s.pending(ctx, set)
			if err != nil {
				return nil, err
			}
			for _, c := range changes {
				k := key{c.Kind, c.ID}
				d, found := docs[k]
				switch {
				case c.Body == nil:
					delete(docs, k)
				case !found || d.Version <= c.Expect:
					docs[k] = Doc{Kind: c.Kind, ID: c.ID, Version: c.Expect + 1, Changed: set.At, Body: c.Body}
				}
			}
		}
		if _, after, err := s.head(ctx); err != nil {
			return nil, err
		} else if after == version {
			return docs, nil
		}
	}
	return nil, fmt.Errorf("sets of definitions came %d times meanwhile: %w", maxReads, retention.ErrUnknown)
}

// publish puts one change into the snapshot. The caller holds mu.
func (s *Store) publish(k key, doc *Doc) {
	old := s.snap.Load()
	if d, ok := old.docs[k]; doc == nil && !ok || doc != nil && ok && d.Version == doc.Version {
		return
	}
	docs := make(map[key]Doc, len(old.docs)+1)
	for k, d := range old.docs {
		docs[k] = d
	}
	if doc == nil {
		delete(docs, k)
	} else {
		docs[k] = *doc
	}
	s.snap.Store(&Snapshot{version: old.version + 1, docs: docs})
}
