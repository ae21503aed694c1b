package app

import (
	"context"
	"slices"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/tagserver/consent"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Permits says what visitors allow as of the last committed checkpoint, and what
// would be lost without each purpose: of all visitors, or of an audience of the
// published generation. retention.ErrNotFound: there is no such audience in it.
func (a *App) Permits(ctx context.Context, id taxonomy.AudienceID) (consent.Permits, error) {
	var of index.Set
	if id != "" {
		var err error
		if of, err = a.Members(ctx, id); err != nil {
			return consent.Permits{}, err
		}
		if of == nil {
			of = index.Set{}
		}
	}
	v := a.fold.View()
	c := a.catalog.Load()
	tally := consent.NewTally(v.Clock(), sortedIDs(c.destinations))
	v.Consents(of, tally.Add)
	return tally.Permits(), nil
}

func sortedIDs[K taxonomy.DestinationID, V any](m map[K]V) []K {
	ids := make([]K, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}
