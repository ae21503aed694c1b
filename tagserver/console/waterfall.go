package console

import (
	"context"
	"fmt"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// waterfallView is a waterfall as the site's page shows it.
type waterfallView struct {
	Steps         []waterfallStep
	Layers        []waterfallStep
	NeverReturned uint64
	Source        taxonomy.SourceID
}

type waterfallStep struct{ Name, Shown, What string }

// waterfall is nil for what is no defined site.
func (c *Console) waterfall(ctx context.Context, site *taxonomy.Site) (*waterfallView, error) {
	if c.o.Waterfall == nil || site == nil {
		return nil, nil
	}
	w, err := c.o.Waterfall(ctx, site.ID)
	if err != nil {
		return nil, fmt.Errorf("count the waterfall: %w", err)
	}
	return newWaterfallView(&w), nil
}

func newWaterfallView(w *tagserver.Waterfall) *waterfallView {
	v := &waterfallView{NeverReturned: w.NeverReturned, Source: w.Source, Steps: []waterfallStep{
		{"seen", shown(w.Seen), "had an event in the last 90 days"},
		{"not a bot", shown(w.NotBot), "no event was flagged"},
		{"adopted", shown(w.Adopted), "the cookie came back, so it is a browser that keeps one"},
		{"permitted", shown(w.Permitted), "consent lets audiences be made"},
		{"matched", shown(w.Matched), "at least one destination may have the visitor, and knows it"},
	}}
	what := map[string]string{"agent": "says itself what it is", "cadence": "did more in a minute than a person can", "honeypot": "took the bait: a link that people do not see"}
	for _, l := range w.Layers {
		v.Layers = append(v.Layers, waterfallStep{l.Layer, shown(l.Visitors), what[l.Layer]})
	}
	return v
}
