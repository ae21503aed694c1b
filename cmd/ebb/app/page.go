package app

import (
	"context"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// pages answers /v1/seg (R33).
type pages struct{ a *App }

// Page is tagserver.Audiences.
func (p pages) Page(_ context.Context, v taxonomy.VisitorKey, _ taxonomy.SiteID) (tagserver.PageAnswer, error) {
	ids, err := p.a.seg.Visitor(nil, v, p.a.fold.Clock().Day())
	if err != nil {
		return tagserver.PageAnswer{}, err
	}
	ans := tagserver.PageAnswer{AsOf: p.a.fold.Clock(), Audiences: make([]tagserver.PageAudience, 0, len(ids))}
	c := p.a.catalog.Load().audiences
	for _, id := range ids {
		if d, ok := c.Get(id); ok && d.Page {
			ans.Audiences = append(ans.Audiences, tagserver.PageAudience{ID: id, Slug: d.PublicSlug()})
		}
	}
	return ans, nil
}
