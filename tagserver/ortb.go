package tagserver

import (
	"maps"
	"slices"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Bidder is who may be told in bid requests of which audiences.
type Bidder struct {
	// Code is its name in Prebid.
	Code string
	// Destination: the visitor's consent must reach it.
	Destination taxonomy.DestinationID
	// Segments are the audiences that it may be told of, and what it calls them.
	Segments map[taxonomy.AudienceID]string
}

// What follows is OpenRTB 2.6's user.data, with the community extension segtax,
// and the form of Prebid.js's ortb2Fragments: global, and by bidder.

type ortbFragments struct {
	// Bidder has what each bidder may be told, and only bidders that may be told
	// something. There is nothing for all: whom nobody named is told nothing.
	Bidder map[string]ortb2 `json:"bidder"`
	AsOf   taxonomy.Millis  `json:"as_of"`
	Stale  bool             `json:"stale"`
}

type ortb2 struct {
	User ortbUser `json:"user"`
}

type ortbUser struct {
	Data []ortbData `json:"data"`
}

type ortbData struct {
	Name    string        `json:"name"`
	Segment []ortbSegment `json:"segment"`
	Ext     *ortbExt      `json:"ext,omitempty"`
}

type ortbSegment struct {
	ID string `json:"id"`
}

type ortbExt struct {
	Segtax int `json:"segtax"`
}

// mostSegments is how many audiences of a visitor a bidder is told of: a bid
// request is small.
const mostSegments = 100

// fragments says a visitor's audiences to the bidders who may be told of them.
// name is the provider of the data. One data object has one taxonomy.
func fragments(name string, a []PageAudience, bidders []Bidder, may func(taxonomy.DestinationID) bool) map[string]ortb2 {
	out := map[string]ortb2{}
	for i := range bidders {
		b := &bidders[i]
		if b.Code == "" || !may(b.Destination) {
			continue
		}
		byTax := map[int][]ortbSegment{}
		n := 0
		for _, x := range a {
			if as := b.Segments[x.ID]; as != "" && n < mostSegments {
				byTax[x.Segtax] = append(byTax[x.Segtax], ortbSegment{as})
				n++
			}
		}
		data := out[b.Code].User.Data // of another destination of the same bidder
		for _, tax := range slices.Sorted(maps.Keys(byTax)) {
			d := ortbData{Name: name, Segment: byTax[tax]}
			if tax > 0 {
				d.Ext = &ortbExt{tax}
			}
			data = append(data, d)
		}
		if len(data) > 0 {
			out[b.Code] = ortb2{ortbUser{data}}
		}
	}
	return out
}
