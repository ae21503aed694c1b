package audience

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Carry makes a build of another installation, whose visitors are numbered anew,
// the newest generation here, under its epoch and number; the older generations of
// that installation stay for their counts, without members. What stood here before
// goes. The view is that of what was carried. Terms begin anew, since leases are
// this installation's own. Carrying again gives the same.
func (g *Generations) Carry(ctx context.Context, from *Generations, b *Built, n *index.Numbering, view View) (*Generation, error) {
	gen := *b.Generation
	fail := func(err error) (*Generation, error) {
		return nil, fmt.Errorf("carry generation %d.%d: %w", gen.Epoch, gen.Number, err)
	}
	gen.Term, gen.Shards, gen.Position = 0, n.Shards(), view.Position().Clone()
	gen.Audiences = slices.Clone(gen.Audiences)
	for i := range gen.Audiences {
		e := &gen.Audiences[i]
		content, err := encodeMembers(gen.Epoch, gen.Number, n.Set(b.Sets[e.ID]))
		if err != nil {
			return fail(err)
		}
		e.Blob, e.SHA256 = name(&gen, string(e.ID), content, membersExt)
		e.Over = gen.Built.Day().Over()
		if _, err := g.blobs.Put(ctx, e.Blob, e.Over, bytes.NewReader(content)); err != nil {
			return fail(err)
		}
	}
	content, err := seal(manifestMagic, &gen)
	if err != nil {
		return fail(err)
	}
	ref := Ref{Epoch: gen.Epoch, Number: gen.Number, Built: gen.Built}
	ref.Manifest, ref.SHA256 = name(&gen, "", content, "manifest")
	if _, err := g.blobs.Put(ctx, ref.Manifest, gen.Built.Day().Over(), bytes.NewReader(content)); err != nil {
		return fail(err)
	}
	refs, err := g.carryRefs(ctx, from, ref)
	if err != nil {
		return fail(err)
	}
	h, err := g.head(ctx)
	if err != nil {
		return fail(err)
	}
	h.Generations = g.kept(append([]Ref{ref}, refs...), gen.Built)
	if err := g.swap(ctx, h); err != nil {
		return fail(err)
	}
	return &gen, g.Sweep(ctx)
}

// carryRefs copies the manifests of the generations before one.
func (g *Generations) carryRefs(ctx context.Context, from *Generations, ref Ref) (refs []Ref, err error) {
	old, err := from.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range old {
		if !r.before(ref) {
			continue
		}
		b, err := from.read(ctx, r.Manifest, r.SHA256)
		if isLost(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if _, err := g.blobs.Put(ctx, r.Manifest, r.Built.Day().Over(), bytes.NewReader(b)); err != nil {
			return nil, err
		}
		r.Term, r.Withdrawn = 0, true
		refs = append(refs, r)
	}
	return refs, nil
}

// Tell sums who is in a set, by visitor keys, so that the sets of two installations
// can be compared. Members without a key are an error: none may be in an audience.
func Tell(set index.Set, key func(shard int, ordinal uint32) (taxonomy.VisitorKey, bool)) (sum index.Sum, err error) {
	for shard, b := range set {
		if b == nil {
			continue
		}
		for it := b.Iterator(); it.HasNext(); {
			k, ok := key(shard, it.Next())
			if !ok {
				return sum, errors.Join(errors.New("a member of an audience is no visitor"), retention.ErrCorrupt)
			}
			sum.Add(k[:])
		}
	}
	return sum, nil
}

// Learnt reports whether an audience is a lookalike, or its rule names one at any
// depth: what it holds depends on ordinals too, by which lookalikes choose whom
// they learn from.
func (c *Catalog) Learnt(id taxonomy.AudienceID) bool {
	seen := map[taxonomy.AudienceID]bool{}
	var visit func(taxonomy.AudienceID) bool
	visit = func(id taxonomy.AudienceID) bool {
		if seen[id] {
			return false
		}
		seen[id] = true
		if d, ok := c.Get(id); ok && d.Kind == KindLookalike {
			return true
		}
		return c.exprs[id] != nil && slices.ContainsFunc(query.References(c.exprs[id]), visit)
	}
	return visit(id)
}
