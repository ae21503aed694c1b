package app

import (
	"fmt"
	"slices"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/tagserver/consent"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Signals says what the consent signals of requests said on the last days, today
// included, at all sites or at one. retention.ErrNotFound: there is no such site,
// and was none in the 90 days.
func (a *App) Signals(site taxonomy.SiteID, days int) (consent.Signals, error) {
	var heard []taxonomy.Heard
	for _, g := range a.fold.list {
		heard = append(heard, g.fold.Load().Heard()...)
	}
	var of *taxonomy.SiteID
	if site != "" {
		_, known := a.catalog.Load().Site(site)
		if !known && !slices.ContainsFunc(heard, func(h taxonomy.Heard) bool { return h.Site == site }) {
			return consent.Signals{}, fmt.Errorf("site %q: %w", site, retention.ErrNotFound)
		}
		of = &site
	}
	return consent.SumSignals(heard, of, a.env.millis(), days), nil
}
