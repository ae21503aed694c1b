package app

import (
	"cmp"
	"context"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// pages answers /v1/seg (R33).
type pages struct{ a *App }

// Page is tagserver.Audiences. An answer is stale when the next generation is
// overdue, whoever should have built it: lists of visitors who did nothing since
// are as old as the last one. One of the day before yesterday or older tells
// nothing any more, since it may tell of what is over (P5).
func (p pages) Page(ctx context.Context, v taxonomy.VisitorKey, _ taxonomy.SiteID) (ans tagserver.PageAnswer, err error) {
	if p.a.cluster != nil && !p.a.fold.of(v, p.a.install.Shards).builds() {
		ans, err = p.clusterPage(ctx, v)
	} else {
		ans, err = p.ownPage(v)
	}
	st := p.a.seg.State()
	if err != nil || st == nil {
		return ans, err
	}
	now, gen := p.a.env.millis(), st.Pages.Generation()
	if now > taxonomy.Millis(p.a.nextDue.Load())+lagLimit {
		ans.Stale = true
	}
	if now.Day() > gen.Clock.Day()+1 {
		ans.Audiences, ans.AsOf = ans.Audiences[:0], gen.Clock
	}
	return ans, nil
}

// ownPage is Page on the node that builds the visitor's group.
func (p pages) ownPage(v taxonomy.VisitorKey) (tagserver.PageAnswer, error) {
	ids, err := p.a.seg.Visitor(nil, v, p.a.fold.Clock().Day())
	if err != nil {
		return tagserver.PageAnswer{}, err
	}
	return p.answer(ids, p.a.fold.Clock()), nil
}

// answer says audiences in a page's words, those that pages may still read:
// nothing of what tells of something sensitive, whoever wrote the list, and when.
func (p pages) answer(ids []taxonomy.AudienceID, asOf taxonomy.Millis) tagserver.PageAnswer {
	ans := tagserver.PageAnswer{AsOf: asOf, Audiences: make([]tagserver.PageAudience, 0, len(ids))}
	c := p.a.catalog.Load()
	for _, id := range ids {
		if d, ok := c.audiences.Get(id); ok && d.Page && c.sensitive(id) == "" {
			ans.Audiences = append(ans.Audiences, tagserver.PageAudience{ID: id, Slug: d.PublicSlug(), Segtax: d.Segtax})
		}
	}
	return ans
}

// Bidders are the destinations that are bidders on pages, and the audiences that
// they get, by the definitions in force: a new day, a new vendor list or a change
// makes them anew.
func (p pages) Bidders() (out []tagserver.Bidder) {
	c := p.a.catalog.Load()
	if made := c.bidders.Load(); made != nil {
		return *made
	}
	defer func() { c.bidders.Store(&out) }()
	for _, d := range sorted(c.destinations) {
		if d.Bidder == "" {
			continue
		}
		b := tagserver.Bidder{Code: d.Bidder, Destination: d.ID, Segments: map[taxonomy.AudienceID]string{}}
		withheld := c.withhold(&d, p.a.env.millis().Day())
		for _, id := range d.Audiences {
			if x, ok := c.audiences.Get(id); ok && withheld(id) == "" {
				b.Segments[id] = cmp.Or(d.Segments[id], x.PublicSlug())
			}
		}
		out = append(out, b)
	}
	return out
}

// Known tells a visitor what is known of it: what it did, as it is kept, and the
// audiences that it is in, whether or not pages are told.
func (p pages) Known(ctx context.Context, v taxonomy.VisitorKey) (k tagserver.Known, err error) {
	today := p.a.env.millis().Day()
	ids, err := p.a.seg.Visitor(nil, v, today)
	if err != nil {
		return k, err
	}
	c := p.a.catalog.Load()
	for _, id := range ids {
		if d, ok := c.audiences.Get(id); ok {
			k.Audiences = append(k.Audiences, cmp.Or(d.Title, string(id)))
		}
	}
	said := newKnownCategories(c.classifier, p.Off(v))
	err = p.a.store.Events().Visitor(ctx, v, today.Oldest(), today, func(e *retention.StoredEvent) error {
		said.add(e)
		ev := e.Record.Event
		part := tagserver.KnownPart{Day: e.Day(), Site: string(e.Record.Site), What: ev.Kind.String(), Page: ev.URL, Till: e.Day() + taxonomy.RetentionDays - 1}
		if ev.Name != "" {
			part.What += " " + ev.Name
		}
		for _, q := range ev.Props {
			part.Also = append(part.Also, q.Key+"="+q.Value)
		}
		if k.Events = append(k.Events, part); len(k.Events) > maxKnown {
			k.Events = k.Events[1:]
		}
		return nil
	})
	k.Categories = said.list()
	return k, err
}

// maxKnown bounds the page of a visitor that did very much: the last so many.
const maxKnown = 10_000
