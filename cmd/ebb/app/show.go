package app

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/tagserver/console"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Version is the program's, set when a release is built.
var Version = "dev"

// sorted returns the values of a map in order of their keys.
func sorted[K cmp.Ordered, V any](m map[K]V) []V {
	out := make([]V, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k])
	}
	return out
}

// keptNights is how many nightly passes the console can show.
const keptNights = 14

// noteNight remembers a nightly pass, in memory only: the receipts and the audit
// are what proves it.
func (a *App) noteNight(n console.Night) {
	a.nightsMu.Lock()
	defer a.nightsMu.Unlock()
	a.nights = append([]console.Night{n}, a.nights...)
	a.nights = a.nights[:min(len(a.nights), keptNights)]
}

func (a *App) lastNights(context.Context) []console.Night {
	a.nightsMu.Lock()
	defer a.nightsMu.Unlock()
	return slices.Clone(a.nights)
}

// titleOf says a trait in people's words: the title of its category.
func (a *App) titleOf(t taxonomy.Trait) string {
	_, c, ok := a.catalog.Load().classifier.Forest().Category(t)
	if !ok {
		return ""
	}
	return strings.TrimSpace(c.Title)
}
