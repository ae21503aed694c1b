package app

import (
	"context"
	"fmt"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Waterfall counts the visitors of a site's source from being seen to being
// reached, as of the last committed checkpoint; who still waits for its cookie to
// come back is counted as of now. retention.ErrNotFound: there is no such site.
func (a *App) Waterfall(ctx context.Context, id taxonomy.SiteID) (w tagserver.Waterfall, err error) {
	c := a.catalog.Load()
	site, ok := c.sites[id]
	if !ok {
		return w, fmt.Errorf("waterfall of site %q: %w", id, retention.ErrNotFound)
	}
	waiting := a.fold.Provisional()[site.Source]
	if w, err = countWaterfall(ctx, a.fold.View(), site.Source, sorted(c.destinations)); err != nil {
		return w, fmt.Errorf("waterfall of site %q: %w", id, err)
	}
	w.Seen += waiting.Visitors
	w.NotBot += waiting.Visitors - waiting.Bots
	for i, t := range tagserver.BotLayers {
		w.Layers[i].Visitors += waiting.Layers[t]
	}
	t := a.fold.Tallies()[id]
	w.NeverReturned = t.Dropped[taxonomy.ReasonNotAdopted] + t.Dropped[taxonomy.ReasonProvisionalFull]
	return w, nil
}

// countWaterfall counts who has an ordinal.
func countWaterfall(ctx context.Context, v audience.View, source taxonomy.SourceID, dests []delivery.Destination) (w tagserver.Waterfall, err error) {
	w = tagserver.Waterfall{Source: source, AsOf: v.Clock(), Layers: make([]tagserver.BotLayer, len(tagserver.BotLayers))}
	today := v.Clock().Day()
	had := func(t taxonomy.Trait) *index.Operand {
		return &index.Operand{Kind: index.OpCount, Columns: []taxonomy.Column{{Source: source, Trait: t}}, From: today.Oldest(), To: today, Unit: index.Events, Min: 1}
	}
	any, bot := had(taxonomy.TraitAny), had(taxonomy.TraitBot)
	gone, profile := &index.Operand{Kind: index.OpSet, Set: index.SetGone}, &index.Operand{Kind: index.OpSet, Set: index.SetProfile}
	var x, y index.Words
	for shard := range v.Shards() {
		reached := roaring.New()
		for i := range dests {
			r, err := delivery.Reachable(v, &dests[i], shard)
			if err != nil {
				return w, err
			}
			reached.Or(r)
		}
		dense := reached.ToDense()
		for block := range v.Blocks(shard) {
			if err := ctx.Err(); err != nil {
				return w, err
			}
			// less and only leave in x who is not in op, or who is.
			less := func(op *index.Operand) error {
				_, err := v.Leaf(shard, block, op, &y)
				for i := range x {
					x[i] &^= y[i]
				}
				return err
			}
			only := func(op *index.Operand) error {
				_, err := v.Leaf(shard, block, op, &y)
				for i := range x {
					x[i] &= y[i]
				}
				return err
			}
			if _, err := v.Leaf(shard, block, any, &x); err != nil {
				return w, err
			}
			if err := less(gone); err != nil {
				return w, err
			}
			w.Seen += uint64(x.Count())
			seen := x
			for i, t := range tagserver.BotLayers {
				if err := only(had(t)); err != nil {
					return w, err
				}
				w.Layers[i].Visitors += uint64(x.Count())
				x = seen
			}
			if err := less(bot); err != nil {
				return w, err
			}
			w.NotBot += uint64(x.Count())
			w.Adopted += uint64(x.Count())
			if err := only(profile); err != nil {
				return w, err
			}
			w.Permitted += uint64(x.Count())
			for i := range x {
				if at := block*len(x) + i; at < len(dense) {
					x[i] &= dense[at]
				} else {
					x[i] = 0
				}
			}
			w.Matched += uint64(x.Count())
		}
	}
	for i, t := range tagserver.BotLayers {
		w.Layers[i].Layer = strings.TrimPrefix(string(t), taxonomy.BotLayerPrefix)
	}
	return w, nil
}
