package app

import (
	"cmp"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
)

// Off is tagserver.Visitors: what a visitor has switched off, as folded so far.
func (p pages) Off(v taxonomy.VisitorKey) []taxonomy.Trait {
	return p.a.fold.of(v, p.a.install.Shards).fold.Load().Off(v)
}

// above returns all names under which a category is switched off with: those of
// its ancestors, and what became one of them or the category itself.
func (a *App) above(t taxonomy.Trait) []taxonomy.Trait {
	return a.catalog.Load().classifier.Forest().Above(t)
}

// knownCategories gathers what a visitor's events say of it, by the rules in
// force.
type knownCategories struct {
	rules   *rules.Classifier
	off     []taxonomy.Trait
	of      map[taxonomy.Trait]*tagserver.KnownCategory
	scratch []taxonomy.Trait
}

func newKnownCategories(r *rules.Classifier, off []taxonomy.Trait) *knownCategories {
	off = slices.Clone(off)
	for i := range off {
		off[i] = r.Forest().Now(off[i]) // it may have become another
	}
	return &knownCategories{rules: r, off: off, of: map[taxonomy.Trait]*tagserver.KnownCategory{}}
}

func (k *knownCategories) add(e *retention.StoredEvent) {
	k.scratch = k.rules.Classify(e.Record.Site, e.Record.Event, k.scratch[:0])
	for _, t := range k.scratch {
		c := k.of[t]
		if c == nil {
			if c = k.describe(t); c == nil {
				continue
			}
			k.of[t] = c
		}
		c.N++
		if d := e.Day(); c.Last == nil || d > *c.Last {
			c.Last = &d
		}
	}
}

// describe says a category in people's words, nil if t is none.
func (k *knownCategories) describe(t taxonomy.Trait) *tagserver.KnownCategory {
	tax, c, ok := k.rules.Forest().Category(t)
	if !ok {
		return nil
	}
	id := strings.TrimPrefix(string(t), "c:")
	known := &tagserver.KnownCategory{ID: id, Title: cmp.Or(strings.TrimSpace(c.Title), id), Of: tax.Title, Off: slices.Contains(k.off, t)}
	for _, a := range k.rules.Forest().Ancestors(t) {
		if _, above, ok := k.rules.Forest().Category(a); ok && !known.Off && slices.Contains(k.off, a) {
			known.Off, known.With = true, cmp.Or(strings.TrimSpace(above.Title), string(a))
		}
	}
	return known
}

// list returns them by title, and what is off though no event is in it.
func (k *knownCategories) list() []tagserver.KnownCategory {
	out := []tagserver.KnownCategory{}
	for _, t := range k.off {
		if k.of[t] != nil {
			continue
		}
		if c := k.describe(t); c != nil {
			k.of[t] = c
		}
	}
	for _, c := range k.of {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(x, y tagserver.KnownCategory) int {
		return cmp.Or(cmp.Compare(strings.ToLower(x.Title), strings.ToLower(y.Title)), cmp.Compare(x.ID, y.ID))
	})
	return out
}
