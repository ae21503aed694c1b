package audience

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Space is the keyed space of the head: which generations there are.
var Space = retention.KeyedSpace{Name: "generation", Swapped: true}

var headKey = retention.Key{Partition: "head"}

const (
	folder        = "generations"
	headMagic     = "ebb-generations"
	manifestMagic = "ebb-generation"
	membersExt    = "members"
)

// ErrStale: a generation was refused, because one of a later term, epoch or
// number stands already. Whoever built it reads the head and builds anew, or
// has lost its lease and stops.
var ErrStale = errors.New("a later generation is published")

// Ref is a generation as the head names it.
type Ref struct {
	Epoch    uint64          `json:"epoch"`
	Number   uint64          `json:"number"`
	Term     uint64          `json:"term"`
	Built    taxonomy.Millis `json:"built"`
	Manifest string          `json:"manifest"` // blob
	SHA256   string          `json:"sha256"`   // of the manifest
	// Withdrawn: its member files are gone, though the manifest, which holds
	// counts only, is still there.
	Withdrawn bool `json:"withdrawn,omitempty"`
}

func (r Ref) String() string { return fmt.Sprintf("%d.%d", r.Epoch, r.Number) }

func (r Ref) before(o Ref) bool {
	return r.Epoch < o.Epoch || r.Epoch == o.Epoch && r.Number < o.Number
}

// head is what one swap replaces: the newest generation and those still kept.
type head struct {
	Generations []Ref `json:"generations"` // newest first
	// Term is that of the lease whose holder claimed the head last.
	Term uint64 `json:"term,omitempty"`

	version uint64 // of the keyed item; 0: there is none yet
}

// Options of Generations. The zero value of each but Now works.
type Options struct {
	// Keep is how many generations are kept, the newest included; none is kept
	// longer than 14 days, but the newest. 0 means 10.
	Keep int
	Now  func() taxonomy.Millis
}

// Generations keeps published generations: member files and manifests in Blobs,
// and one head in Keyed that names them. Publishing is the swap of the head, so
// a reader sees the old generation or the new one (P8).
//
// It is safe for concurrent use, also by several processes: the head's version
// and terms decide among them.
type Generations struct {
	blobs retention.Blobs
	keyed retention.Keyed
	o     Options

	mu        sync.Mutex
	manifests map[string]*Generation // by SHA-256: they never change
}

// NewGenerations returns the generations that are kept in the two stores.
func NewGenerations(blobs retention.Blobs, keyed retention.Keyed, o Options) *Generations {
	if o.Keep <= 0 {
		o.Keep = 10
	}
	return &Generations{blobs: blobs, keyed: keyed, o: o, manifests: map[string]*Generation{}}
}

func (g *Generations) head(ctx context.Context) (head, error) {
	it, err := g.keyed.Get(ctx, Space, headKey)
	if errors.Is(err, retention.ErrNotFound) {
		return head{}, nil
	}
	if err != nil {
		return head{}, fmt.Errorf("read the head of generations: %w", err)
	}
	var h head
	if err := unseal(headMagic, it.Value, &h); err != nil {
		return head{}, fmt.Errorf("read the head of generations: %w", err)
	}
	h.version = it.Version
	return h, nil
}

func (g *Generations) swap(ctx context.Context, h head) error {
	b, err := seal(headMagic, h)
	if err != nil {
		return err
	}
	_, err = g.keyed.Swap(ctx, Space, retention.Item{Key: headKey, Value: b, Version: h.version})
	return err
}

// Claim says that the holder of the builder's lease of a term publishes from now
// on: whoever held an earlier term publishes nothing more, also if it was frozen
// between its last look at the lease and the swap. Whoever takes the lease calls
// it before anything else. ErrStale: a later term has claimed.
func (g *Generations) Claim(ctx context.Context, term uint64) error {
	for {
		h, err := g.head(ctx)
		switch {
		case err != nil:
			return fmt.Errorf("claim generations for term %d: %w", term, err)
		case h.Term > term || len(h.Generations) > 0 && h.Generations[0].Term > term:
			return fmt.Errorf("claim generations for term %d: %w", term, ErrStale)
		case h.Term == term:
			return nil
		}
		h.Term = term
		err = g.swap(ctx, h)
		// What is unknown, or met another's swap, is looked at again.
		if err != nil && !errors.Is(err, retention.ErrUnknown) && !errors.Is(err, retention.ErrConflict) {
			return fmt.Errorf("claim generations for term %d: %w", term, err)
		}
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("claim generations for term %d: %w", term, ctx.Err())
		}
	}
}

// List returns the generations that are kept, newest first.
func (g *Generations) List(ctx context.Context) ([]Ref, error) {
	h, err := g.head(ctx)
	return h.Generations, err
}

// Current returns the newest generation, or retention.ErrNotFound if none was
// ever published, or retention.ErrCorrupt with the name of the manifest. It must
// not be changed.
func (g *Generations) Current(ctx context.Context) (*Generation, error) {
	refs, err := g.List(ctx)
	if err != nil {
		return nil, err
	}
	if len(refs) == 0 {
		return nil, fmt.Errorf("no generation is published: %w", retention.ErrNotFound)
	}
	return g.Open(ctx, refs[0])
}

// Open returns the generation of a ref. It must not be changed.
func (g *Generations) Open(ctx context.Context, r Ref) (*Generation, error) {
	g.mu.Lock()
	gen := g.manifests[r.SHA256]
	g.mu.Unlock()
	if gen != nil {
		return gen, nil
	}
	b, err := g.read(ctx, r.Manifest, r.SHA256)
	if err != nil {
		return nil, fmt.Errorf("open generation %s: %w", r, err)
	}
	gen = new(Generation)
	if err := unseal(manifestMagic, b, gen); err != nil {
		return nil, fmt.Errorf("open generation %s: %s: %w", r, r.Manifest, err)
	}
	if gen.Epoch != r.Epoch || gen.Number != r.Number {
		return nil, fmt.Errorf("open generation %s: %s is of %d.%d: %w", r, r.Manifest, gen.Epoch, gen.Number, retention.ErrCorrupt)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.manifests) > 4*g.o.Keep {
		clear(g.manifests)
	}
	g.manifests[r.SHA256] = gen
	return gen, nil
}

// Members returns who is in an audience of a generation; the caller owns the
// set. Errors: retention.ErrNotFound if the file is not kept any more,
// retention.ErrCorrupt, with the file's name, if its bytes are not those that
// were published.
func (g *Generations) Members(ctx context.Context, e Entry) (index.Set, error) {
	b, err := g.read(ctx, e.Blob, e.SHA256)
	if err != nil {
		return nil, fmt.Errorf("members of %q: %w", e.ID, err)
	}
	set, err := decodeMembers(b)
	if err == nil && set.Count() != e.Count {
		err = fmt.Errorf("%d members, the manifest says %d: %w", set.Count(), e.Count, retention.ErrCorrupt)
	}
	if err != nil {
		return nil, fmt.Errorf("members of %q: %s: %w", e.ID, e.Blob, err)
	}
	return set, nil
}

// Load is Members by ID: retention.ErrNotFound if the generation has no such
// audience.
func (g *Generations) Load(ctx context.Context, gen *Generation, id taxonomy.AudienceID) (index.Set, error) {
	e, ok := gen.Entry(id)
	if !ok {
		return nil, fmt.Errorf("generation %d.%d has no audience %q: %w", gen.Epoch, gen.Number, id, retention.ErrNotFound)
	}
	return g.Members(ctx, e)
}

// read returns the bytes of a blob, checked against the hash that names it.
func (g *Generations) read(ctx context.Context, name, hash string) ([]byte, error) {
	r, err := g.blobs.Open(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer r.Close()
	b := make([]byte, r.Blob().Bytes)
	if _, err := io.ReadFull(io.NewSectionReader(r, 0, int64(len(b))), b); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != hash {
		return nil, fmt.Errorf("%s: its SHA-256 is not the published one: %w", name, retention.ErrCorrupt)
	}
	return b, nil
}

// Publish writes the files of a build, its manifest, and last the head, and
// returns the generation as published. Until the head is swapped nothing is
// seen, and what was written is swept later. Publishing the same build again is
// fine, and is what to do after retention.ErrUnknown. ErrStale refuses it.
func (g *Generations) Publish(ctx context.Context, b *Built) (*Generation, error) {
	gen := *b.Generation
	gen.Audiences = slices.Clone(gen.Audiences)
	fail := func(err error) (*Generation, error) {
		return nil, fmt.Errorf("publish generation %d.%d: %w", gen.Epoch, gen.Number, err)
	}
	ref := Ref{Epoch: gen.Epoch, Number: gen.Number, Term: gen.Term, Built: gen.Built}
	h, err := g.head(ctx)
	if err != nil {
		return fail(err)
	}
	if ref.Term < h.Term {
		return fail(fmt.Errorf("%w: a builder of term %d has taken over; this one is of term %d", ErrStale, h.Term, ref.Term))
	}
	again := false // perhaps we were here before
	if len(h.Generations) > 0 {
		top := h.Generations[0]
		again = top.Epoch == ref.Epoch && top.Number == ref.Number && top.Term == ref.Term
		if !again && (ref.Term < top.Term || !top.before(ref)) {
			return fail(stale(top, ref))
		}
	}
	for i := range gen.Audiences {
		e := &gen.Audiences[i]
		if !b.Changed[e.ID] {
			continue
		}
		content, err := encodeMembers(gen.Epoch, gen.Number, b.Sets[e.ID])
		if err != nil {
			return fail(err)
		}
		e.Blob, e.SHA256 = name(&gen, string(e.ID), content, membersExt)
		if again {
			continue
		}
		if _, err := g.blobs.Put(ctx, e.Blob, e.Over, bytes.NewReader(content)); err != nil {
			return fail(err)
		}
	}
	content, err := seal(manifestMagic, &gen)
	if err != nil {
		return fail(err)
	}
	ref.Manifest, ref.SHA256 = name(&gen, "", content, "manifest")
	if again {
		if top := h.Generations[0]; top.SHA256 != ref.SHA256 {
			return fail(stale(top, ref))
		}
		return &gen, nil
	}
	if _, err := g.blobs.Put(ctx, ref.Manifest, gen.Built.Day().Over(), bytes.NewReader(content)); err != nil {
		return fail(err)
	}
	h.Generations = g.kept(append([]Ref{ref}, h.Generations...), gen.Built)
	err = g.swap(ctx, h)
	if errors.Is(err, retention.ErrConflict) {
		err = fmt.Errorf("%w: another was published meanwhile", ErrStale)
	}
	if err != nil {
		return fail(err)
	}
	return &gen, nil
}

func stale(top, ref Ref) error {
	return fmt.Errorf("%w: %s of term %d; this one is of term %d", ErrStale, top, top.Term, ref.Term)
}

// kept drops what is too many or too old, never the newest.
func (g *Generations) kept(refs []Ref, now taxonomy.Millis) []Ref {
	refs = refs[:min(len(refs), g.o.Keep)]
	return slices.DeleteFunc(refs, func(r Ref) bool {
		return r != refs[0] && r.Built+keepDays*taxonomy.OneDay < now
	})
}

// name is where a file lies: by generation, so that what was never published
// can be told from what is being written; and by content, so that a build that
// is repeated after a crash, with another result, writes other files.
func name(gen *Generation, audience string, content []byte, ext string) (blob, hash string) {
	sum := sha256.Sum256(content)
	hash = hex.EncodeToString(sum[:])
	parts := []string{folder, fmt.Sprint(gen.Epoch), fmt.Sprint(gen.Number)}
	if audience != "" {
		parts = append(parts, audience)
	}
	return strings.Join(append(parts, hash[:16]+"."+ext), "/"), hash
}

// Sweep deletes the files that no kept generation names. Files of a number above
// the head's are left alone: they are being written. It is fine to call it at any
// time, and needless after a crash: the next one finds the same files.
func (g *Generations) Sweep(ctx context.Context) error {
	h, err := g.head(ctx)
	if err != nil || len(h.Generations) == 0 {
		return err
	}
	used := map[string]bool{}
	for _, r := range h.Generations {
		used[r.Manifest] = true
		if r.Withdrawn {
			continue
		}
		gen, err := g.Open(ctx, r)
		if isLost(err) {
			continue // nobody can find its files by it either
		}
		if err != nil {
			return fmt.Errorf("sweep generations: %w", err)
		}
		for i := range gen.Audiences {
			used[gen.Audiences[i].Blob] = true
		}
	}
	all, err := g.blobs.List(ctx, folder)
	if err != nil {
		return fmt.Errorf("sweep generations: %w", err)
	}
	var gone []string
	for _, b := range all {
		var r Ref
		if n, _ := fmt.Sscanf(b.Name, folder+"/%d/%d/", &r.Epoch, &r.Number); n == 2 && !used[b.Name] && !h.Generations[0].before(r) {
			gone = append(gone, b.Name)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	if err := g.blobs.Delete(ctx, gone); err != nil {
		return fmt.Errorf("sweep generations: %w", err)
	}
	return nil
}
