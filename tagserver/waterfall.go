package tagserver

import "github.com/ebb-dmp/ebb/taxonomy"

// Waterfall is how many visitors of a source are left after each step from being
// seen to being reached, in the 90 days to AsOf. Each number is of the one
// before:
//
//	Seen       had an event, and is not erased
//	NotBot     none of its events was flagged
//	Adopted    its cookie came back, or an authenticated caller named it
//	Permitted  it may be profiled
//	Matched    at least one destination may be sent it and knows it
//
// Sites that share a source share its waterfall: what is kept of a visitor says
// which source it came from.
type Waterfall struct {
	Source                                    taxonomy.SourceID
	AsOf                                      taxonomy.Millis
	Seen, NotBot, Adopted, Permitted, Matched uint64
	// Layers are how many visitors each layer flagged, in the order of BotLayers;
	// one that two layers flagged counts in both.
	Layers []BotLayer
	// NeverReturned are events of visitors whose cookie never came back, of the
	// site itself and since its account began: the fourth layer. Their visitors
	// are not counted, for nothing of them is kept.
	NeverReturned uint64
}

// BotLayer is a layer's share.
type BotLayer struct {
	Layer    string // agent, cadence, honeypot
	Visitors uint64
}
