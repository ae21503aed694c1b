package fold

import (
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Provisional counts visitors whose cookie has not come back yet (R11): they have
// no ordinal, so no column counts them.
type Provisional struct {
	Visitors uint64
	// Bots are those of them who have a flagged event, and Layers by which trait.
	Bots   uint64
	Layers map[taxonomy.Trait]uint64
}

// Provisional returns who waits, by source. A visitor that waits with events of
// two sources counts for both. The caller owns the map.
func (f *Fold) Provisional() map[taxonomy.SourceID]Provisional {
	f.mu.RLock()
	defer f.mu.RUnlock()
	out := map[taxonomy.SourceID]Provisional{}
	w := f.state.waiting
	type part struct {
		source taxonomy.SourceID
		bot    bool
		layers []taxonomy.Trait
	}
	var parts []part
	for _, keys := range w.of {
		parts = parts[:0]
		for _, k := range keys {
			r, ok := w.get(k)
			if !ok || r.Kind != taxonomy.RecordEvent {
				continue
			}
			i := 0
			for i < len(parts) && parts[i].source != r.Source {
				i++
			}
			if i == len(parts) {
				parts = append(parts, part{source: r.Source})
			}
			p := &parts[i]
			p.bot = p.bot || r.Bot
			for _, t := range r.Event.Traits {
				if strings.HasPrefix(string(t), taxonomy.BotLayerPrefix) && !slices.Contains(p.layers, t) {
					p.layers = append(p.layers, t)
				}
			}
		}
		for i := range parts {
			p := out[parts[i].source]
			p.Visitors++
			if parts[i].bot {
				p.Bots++
			}
			for _, t := range parts[i].layers {
				if p.Layers == nil {
					p.Layers = map[taxonomy.Trait]uint64{}
				}
				p.Layers[t]++
			}
			out[parts[i].source] = p
		}
	}
	return out
}
